/**
 * LOAD in message tracking (Exchange: a message was loaded at start): what a transport found on its disk. Owns: the pace - a hundred thousand at once would push
 * everything else out of its buffer, and hold up mail. Promise: each copy that was there at the start and is still there when its turn comes, once.
 */
import { late, type Turn } from './state.ts';

const A_SECOND = 500;

export function tellLoaded(turn: Turn): void {
  const { loaded, copies } = turn.server;
  for (const id of loaded.splice(0, A_SECOND)) {
    const copy = copies.get(id);
    if (copy === undefined) continue;
    const { facts, state } = copy;
    // Whom it is for stands in other records: ten thousand recipients are not told again at each start.
    late(turn, { copy: null, kind: 'Track', event: 'LOAD', facts, id, detail: state.queue, addresses: [] });
  }
}
