/**
 * Copies in transit as rows of a checkpoint. Owns: that what many copies share is written once per frame and that envelope and events
 * are written as the one text they are held as (`compact.ts`), so that a start with a hundred thousand queued copies reads little and
 * takes nothing apart. Both directions.
 */
import type { CopyId, CopyKind, Epoch, RecipientState } from '../../common/message.ts';
import { type BodyPlace, numbersOf, packPlace } from './body-place.ts';
import { type Compactor, type Profile, packedParts } from './compact.ts';
import type { CopyFacts, CopyState, Placement } from './database.ts';

export interface CheckpointCopy {
  readonly facts: CopyFacts;
  readonly state: CopyState;
  readonly body: BodyPlace;
}

type Shared = Profile | Epoch | readonly Placement[] | NonNullable<CopyFacts['takenFrom']> | StateRest;
/** What is the same for most copies of a queue. */
type StateRest = Omit<CopyState, 'epoch' | 'recipients' | 'placements' | 'ageMs' | 'finalAtMs'>;

/** Numbers of shared values where the name says so; null stays null. */
type CopyRow = readonly [
  id: CopyId,
  ancestor: CopyId | null,
  kind: CopyKind,
  digest: string,
  sizeBytes: number,
  acceptedAtMs: number,
  sharedTakenFrom: number | null,
  sharedProfile: number,
  text: string,
  sharedState: number,
  sharedEpoch: number,
  recipients: readonly (string | RecipientState)[] | null,
  sharedPlacements: number,
  ageMs: number,
  finalAtMs: number | null,
  body: readonly number[],
];

export interface CopyRows {
  readonly shared: readonly Shared[];
  readonly rows: readonly CopyRow[];
}

/** Values of one frame, each once. */
class SharedList {
  readonly values: Shared[] = [];
  readonly #numbers = new Map<Shared, number>();
  readonly #texts = new Map<string, number>();

  /** The very same object again is the usual case. */
  number(value: Shared): number {
    const known = this.#numbers.get(value);
    if (known !== undefined) return known;
    const number = this.numberOfText(JSON.stringify(value), value);
    this.#numbers.set(value, number);
    return number;
  }

  numberOfText(text: string, value: Shared): number {
    const known = this.#texts.get(text);
    if (known !== undefined) return known;
    this.#texts.set(text, this.values.length);
    return this.values.push(value) - 1;
  }
}

export function encodeRows(copies: readonly CheckpointCopy[], compactor: Compactor): CopyRows {
  const shared = new SharedList();
  const rows = copies.map(({ facts, state, body }): CopyRow => {
    const { text, profile } = packedParts(compactor.facts(facts));
    const { epoch, recipients, placements, ageMs, finalAtMs, ...rest } = state;
    return [
      facts.id,
      facts.ancestor,
      facts.kind,
      facts.digest,
      facts.sizeBytes,
      facts.acceptedAtMs,
      facts.takenFrom === null ? null : shared.number(facts.takenFrom),
      shared.number(profile),
      text,
      shared.numberOfText(JSON.stringify(rest), rest),
      shared.number(epoch),
      recipients?.map((recipient) => (isPlain(recipient) ? recipient.address : recipient)) ?? null,
      shared.number(placements),
      ageMs,
      finalAtMs,
      numbersOf(body),
    ];
  });
  return { shared: shared.values, rows };
}

function isPlain(recipient: RecipientState): boolean {
  if (recipient.outcome !== 'pending') return false;
  for (const key in recipient) if (key !== 'address' && key !== 'outcome') return false;
  return true;
}

export function* decodeRows({ shared, rows }: CopyRows, compactor: Compactor): Iterable<CheckpointCopy> {
  const at = <T extends Shared>(index: number): T => shared[index] as T;
  for (const row of rows) {
    const [id, ancestor, kind, digest, sizeBytes, acceptedAtMs, taken, profile, text, rest, epoch, recipients] = row;
    const [, , , , , , , , , , , , placements, ageMs, finalAtMs, body] = row;
    const takenFrom = taken === null ? null : at<NonNullable<CopyFacts['takenFrom']>>(taken);
    const brief = { id, ancestor, kind, digest, sizeBytes, acceptedAtMs, takenFrom };
    const facts = compactor.unpacked(brief, text, at<Profile>(profile));
    const state = compactor.state({
      ...at<StateRest>(rest),
      epoch: at<Epoch>(epoch),
      recipients:
        recipients?.map((entry) => (typeof entry === 'string' ? { address: entry, outcome: 'pending' } : entry)) ??
        null,
      placements: at<readonly Placement[]>(placements),
      ageMs,
      finalAtMs,
    });
    yield { facts, state, body: packPlace(body) };
  }
}
