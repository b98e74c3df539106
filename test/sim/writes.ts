/** What the simulator reads out of the writes of a queue database. PURE. */
import type { CopyId, Identity } from '../../common/message.ts';
import type { CopyState, Write } from '../../transport/store/database.ts';

export const isResting = (state: CopyState): boolean =>
  state.queue === 'primarySafetyNet' || state.queue === 'shadowSafetyNet';

/** A state record may carry only the recipients that changed. */
export function patched(before: CopyState, write: Extract<Write, { readonly kind: 'state' }>): CopyState {
  if (write.outcomes === undefined) return write.state;
  const recipients = [...(before.recipients ?? [])];
  for (const [index, recipient] of write.outcomes) recipients[index] = recipient;
  return { ...write.state, recipients };
}

export function add(map: Map<CopyId, Set<Identity>>, id: CopyId, identity: Identity): void {
  const set = map.get(id) ?? new Set<Identity>();
  set.add(identity);
  map.set(id, set);
}

export function idOf(write: Write): CopyId | null {
  switch (write.kind) {
    case 'commit':
      return write.facts.id;
    case 'state':
    case 'move':
    case 'remove':
    case 'recall':
      return write.id;
    default:
      return null;
  }
}
