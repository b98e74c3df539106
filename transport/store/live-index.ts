/**
 * What a queue database keeps in memory: copies in transit and shadow copies, tombstones, what was seen of peers, facts. Owns: how a
 * write changes it and which writes are allowed; both engines use it. Entries are replaced, never changed, so a checkpoint can
 * walk a plain list of them while writes go on. Fails with InvariantError on a write the caller must never make.
 */
import type { CopyId, RecipientState } from '../../common/message.ts';
import { InvariantError } from '../../common/platform/assert.ts';
import type {
  CopyFacts,
  CopyState,
  Quarantined,
  Queue,
  SafetyNetEntry,
  SafetyNetFilter,
  Seen,
  Tombstone,
  Write,
} from './database.ts';

export interface Live<Body> {
  readonly facts: CopyFacts;
  readonly state: CopyState;
  readonly body: Body;
}

export class StoreError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.name = 'StoreError';
    this.code = code;
  }
}

export const notFound = (id: CopyId): StoreError => new StoreError('NOTFOUND', `no copy ${id} in this database`);

export const inSafetyNet = (queue: Queue): boolean => queue === 'primarySafetyNet' || queue === 'shadowSafetyNet';

export type Outcomes = readonly (readonly [number, RecipientState])[];

/** A state record over the state before it; with `outcomes` only the listed recipients change. */
export function nextState(before: CopyState, state: CopyState, outcomes: Outcomes | undefined): CopyState {
  if (outcomes === undefined) return state;
  const recipients = before.recipients === null ? [] : [...before.recipients];
  for (const [index, recipient] of outcomes) recipients[index] = recipient;
  // The very object the caller keeps, when it says the same: held once.
  const { recipients: given } = state;
  if (given?.length === recipients.length && recipients.every((recipient, index) => recipient === given[index]))
    return state;
  return { ...state, recipients: before.recipients === null && outcomes.length === 0 ? null : recipients };
}

/** How a copy is listed in a Safety Net. */
export function safetyNetEntry(facts: Pick<CopyFacts, 'id' | 'sizeBytes'>, state: CopyState): SafetyNetEntry {
  const databases = new Set<string>();
  for (const recipient of state.recipients ?? [])
    if (recipient.database !== undefined) databases.add(recipient.database);
  return {
    id: facts.id,
    role: state.queue === 'shadowSafetyNet' ? 'shadow' : 'primary',
    databases: [...databases],
    finalAtMs: state.finalAtMs ?? 0,
    sizeBytes: facts.sizeBytes,
  };
}

export function matches(entry: SafetyNetEntry, filter: SafetyNetFilter): boolean {
  return (
    (filter.role === undefined || entry.role === filter.role) &&
    (filter.database === undefined || entry.databases.includes(filter.database)) &&
    entry.finalAtMs >= (filter.fromMs ?? Number.NEGATIVE_INFINITY) &&
    entry.finalAtMs <= (filter.toMs ?? Number.POSITIVE_INFINITY)
  );
}

export class LiveIndex<Body> {
  /** In commit order. */
  readonly copies = new Map<CopyId, Live<Body>>();
  readonly tombstones = new Map<CopyId, Tombstone>();
  /** By identity of the peer's database. */
  readonly seen = new Map<string, Seen>();
  readonly facts = new Map<string, unknown>();
  /** Copies whose bytes are damaged, until they are written again or removed. */
  readonly quarantined = new Map<CopyId, Quarantined>();

  /** Throws when one of the writes of a call cannot be made; nothing is applied. `rests`: the id is in a Safety Net. */
  check(writes: readonly Write[], rests: (id: CopyId) => boolean): void {
    // One write depends on none before it.
    const changed = writes.length > 1 ? new Map<CopyId, 'live' | 'resting' | 'gone'>() : null;
    const where = (id: CopyId): 'live' | 'resting' | 'gone' =>
      changed?.get(id) ?? (this.copies.has(id) ? 'live' : rests(id) ? 'resting' : 'gone');
    for (const write of writes) {
      switch (write.kind) {
        case 'commit':
          if (inSafetyNet(write.state.queue))
            throw refused('a copy is committed into transit, then moved', write.facts.id);
          if (write.body.id !== write.facts.id) throw refused('a body is committed under its own id', write.facts.id);
          changed?.set(write.facts.id, 'live');
          break;
        case 'state':
          if (inSafetyNet(write.state.queue)) throw refused('a state write cannot enter a Safety Net', write.id);
          if (where(write.id) !== 'live') throw refused('state of a copy that is not in transit', write.id);
          break;
        case 'move':
          if (!inSafetyNet(write.state.queue)) throw refused('a move goes to a Safety Net', write.id);
          if (where(write.id) !== 'live') throw refused('move of a copy that is not in transit', write.id);
          changed?.set(write.id, 'resting');
          break;
        case 'recall':
          if (inSafetyNet(write.state.queue)) throw refused('a recall goes into transit', write.id);
          if (where(write.id) !== 'resting') throw notFound(write.id);
          changed?.set(write.id, 'live');
          break;
        case 'remove':
          changed?.set(write.id, 'gone');
          break;
        default:
          break;
      }
    }
  }

  put(copy: Live<Body>): void {
    this.copies.set(copy.facts.id, copy);
  }

  setState(id: CopyId, state: CopyState, outcomes: Outcomes | undefined): void {
    const before = this.copies.get(id);
    if (before === undefined) return;
    this.copies.set(id, { facts: before.facts, state: nextState(before.state, state, outcomes), body: before.body });
  }

  remove(id: CopyId): void {
    this.copies.delete(id);
  }

  /** The kinds that touch no body. */
  applySmall(write: Extract<Write, { kind: 'tombstone' | 'forget' | 'seen' | 'fact' }>): void {
    if (write.kind === 'tombstone') this.tombstones.set(write.tombstone.id, write.tombstone);
    else if (write.kind === 'forget') this.tombstones.delete(write.id);
    else if (write.kind === 'seen') this.seen.set(write.seen.identity, write.seen);
    else if (write.value === null) this.facts.delete(write.key);
    else this.facts.set(write.key, write.value);
  }
}

function refused(rule: string, id: CopyId): InvariantError {
  return new InvariantError(`queue database: ${rule}`, { id });
}
