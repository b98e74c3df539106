/**
 * Copies in transit as rows of a checkpoint. Owns: that what many copies share is written once per frame and that envelope, events and
 * digest are written as the blocks they are held in (`compact.ts`), so that a start with a hundred thousand queued copies reads little
 * and takes nothing apart. Both directions.
 */
import type { CopyId, CopyKind, Epoch, RecipientState } from '../../common/message.ts';
import { type BodyPlace, numbersOf, packPlace } from './body-place.ts';
import { type Block, type Compactor, packedOf, TOGETHER } from './compact.ts';
import type { CopyFacts, CopyState, Placement } from './database.ts';

export interface CheckpointCopy {
  readonly facts: CopyFacts;
  readonly state: CopyState;
  readonly body: BodyPlace;
}

type Shared = Epoch | readonly Placement[] | NonNullable<CopyFacts['takenFrom']> | StateRest;
/** What is the same for most copies of a queue. */
type StateRest = Omit<CopyState, 'epoch' | 'recipients' | 'placements' | 'ageMs' | 'finalAtMs'>;

/** Numbers of shared values where the name says so; null stays null. */
type CopyRow = readonly [
  id: CopyId,
  ancestor: CopyId | null,
  kind: CopyKind,
  sizeBytes: number,
  acceptedAtMs: number,
  sharedTakenFrom: number | null,
  block: number,
  place: number,
  recipientCount: number,
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
  /** Base64. */
  readonly blocks: readonly string[];
  readonly rows: readonly CopyRow[];
}

type Keyed = Pick<
  CopyState,
  'queue' | 'standing' | 'abortedThrough' | 'unprotected' | 'suspended' | 'crashCount' | 'delayed' | 'dsns' | 'attempts'
>;

/** The same text for the same rest; null where it would be as long as the JSON. `Keyed`: a field of the rest that is not in it does not compile. */
function restKey(state: Keyed extends StateRest ? Keyed : never): string | null {
  const { queue, standing, abortedThrough, unprotected, suspended, crashCount, delayed, dsns, attempts } = state;
  if (dsns.length > 0 || unprotected !== null) return null;
  return `${queue}/${standing}/${abortedThrough}/${suspended}/${crashCount}/${delayed}/${attempts}`;
}

/** Values of one frame, each once. */
class SharedList {
  readonly values: Shared[] = [];
  readonly #numbers = new Map<Shared, number>();
  readonly #texts = new Map<string, number>();
  readonly #rests = new Map<string, number>();

  /** The very same object again is the usual case. */
  number(value: Shared): number {
    const known = this.#numbers.get(value);
    if (known !== undefined) return known;
    const number = this.#numberOfText(JSON.stringify(value), value);
    this.#numbers.set(value, number);
    return number;
  }

  /** Rows are many, and most have one of a few rests: no object and no JSON for each. */
  numberOfRest(state: CopyState): number {
    const key = restKey(state);
    const known = key === null ? undefined : this.#rests.get(key);
    if (known !== undefined) return known;
    const { epoch: _epoch, recipients: _all, placements: _held, ageMs: _age, finalAtMs: _final, ...rest } = state;
    const number = this.#numberOfText(JSON.stringify(rest), rest);
    if (key !== null) this.#rests.set(key, number);
    return number;
  }

  #numberOfText(text: string, value: Shared): number {
    const known = this.#texts.get(text);
    if (known !== undefined) return known;
    this.#texts.set(text, this.values.length);
    return this.values.push(value) - 1;
  }
}

/** Facts whose block is not full of others of this frame are packed anew, so that blocks of which little is left do not live on. */
function packSparse(all: readonly CopyFacts[], compactor: Compactor): void {
  const used = new Map<Block, number>();
  for (const facts of all) {
    const block = packedOf(facts)?.block;
    if (block !== undefined) used.set(block, (used.get(block) ?? 0) + 1);
  }
  const isSparse = (facts: CopyFacts): boolean => {
    const block = packedOf(facts)?.block;
    return block === undefined || (used.get(block) ?? 0) < TOGETHER / 2;
  };
  compactor.pack(all.filter(isSparse));
}

export function encodeRows(copies: readonly CheckpointCopy[], compactor: Compactor): CopyRows {
  const shared = new SharedList();
  const blocks = new Map<Block, number>();
  const all = copies.map(({ facts }) => compactor.hold(facts));
  packSparse(all, compactor);
  const rows = copies.map(({ state, body }, index): CopyRow => {
    const facts = all[index] as CopyFacts;
    const packed = packedOf(facts);
    if (packed === null) throw new Error('facts that were packed are open');
    const block = blocks.get(packed.block) ?? blocks.size;
    blocks.set(packed.block, block);
    const { epoch, recipients, placements, ageMs, finalAtMs } = state;
    return [
      facts.id,
      facts.ancestor,
      facts.kind,
      facts.sizeBytes,
      facts.acceptedAtMs,
      facts.takenFrom === null ? null : shared.number(facts.takenFrom),
      block,
      packed.at,
      packed.recipients,
      shared.numberOfRest(state),
      shared.number(epoch),
      recipients?.map((recipient) => (isPlain(recipient) ? recipient.address : recipient)) ?? null,
      shared.number(placements),
      ageMs,
      finalAtMs,
      numbersOf(body),
    ];
  });
  return { shared: shared.values, blocks: [...blocks.keys()].map(({ bytes }) => bytes.toString('base64')), rows };
}

function isPlain(recipient: RecipientState): boolean {
  if (recipient.outcome !== 'pending') return false;
  for (const key in recipient) if (key !== 'address' && key !== 'outcome') return false;
  return true;
}

export function* decodeRows({ shared, blocks, rows }: CopyRows, compactor: Compactor): Iterable<CheckpointCopy> {
  const at = <T extends Shared>(index: number): T => shared[index] as T;
  const held = blocks.map((text) => {
    const bytes = Buffer.allocUnsafeSlow(Buffer.byteLength(text, 'base64'));
    bytes.write(text, 'base64');
    return compactor.block(bytes);
  });
  for (const row of rows) {
    const [id, ancestor, kind, sizeBytes, acceptedAtMs, taken, block, place, count, rest, epoch, recipients] = row;
    const [, , , , , , , , , , , , placements, ageMs, finalAtMs, body] = row;
    const takenFrom = taken === null ? null : at<NonNullable<CopyFacts['takenFrom']>>(taken);
    const packed = { block: held[block] as Block, at: place, recipients: count };
    const facts = compactor.fromBlock({ id, ancestor, kind, sizeBytes, acceptedAtMs, takenFrom }, packed);
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
