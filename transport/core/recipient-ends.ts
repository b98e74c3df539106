/**
 * Why a recipient waits, and that it came to an end other than by the answer of a next hop: unknown, too large, expired. Owns: the words for people; decides nothing.
 */
import type { RecipientState } from '../../common/message.ts';
import type { TrackingEventName } from '../runtime/tracking-api.ts';
import type { Copy } from './copy.ts';
import { resolve } from './delivery.ts';
import { late, type Server, type Turn } from './state.ts';

/** Null: nothing is wrong, as far as anybody knows. */
export function whyPending(server: Server, copy: Copy, { address, reply = '' }: RecipientState): string | null {
  const resolution = resolve(server, copy, address);
  // What was said when there was a way is not why it waits now.
  if (resolution.kind === 'unreachable') return resolution.reason;
  if (reply !== '') return reply;
  if (resolution.kind !== 'route') return resolution.reply;
  const hop = server.hops.get(resolution.hop);
  return hop === undefined || hop.failures === 0 ? null : hop.lastError;
}

/** It is durable with the commit of this step: the record leaves after that. */
export function trackEnd(turn: Turn, { facts }: Copy, event: TrackingEventName, address: string, detail: string): void {
  late(turn, { copy: facts.id, kind: 'Track', event, facts, id: facts.id, detail, addresses: [address] });
}
