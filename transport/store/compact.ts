/**
 * Facts and states in little memory: what many copies have in common is held once, what is rarely asked for is held deflated. Owns: which
 * parts those are, and bounds on what is remembered. Promise: the result equals what came in, also when it is spread or made JSON of;
 * nothing of what came in is kept. Decoded JSON is many small objects: facts and state of a message with one recipient are 2.3 KB of
 * them, a sixth of that here. Whoever keeps many copies passes them through one of these first; the queue database does so with what
 * it recovers, the core with what comes to be (it packs facts later: most copies are gone before that pays).
 *
 * Envelope, events and digest become one text; the texts of some neighbours are deflated together, outside the heap (`Block`): alike as
 * they are, 300 bytes become 60. The blocks of the last readers are remembered as text, so that who goes through many copies in their
 * order inflates each block once (50 microseconds).
 */
import type { Envelope, EnvelopeRecipient, Epoch, RecipientState } from '../../common/message.ts';
import type { TrackingEvent } from '../../common/peer/messages.ts';
import type { CopyFacts, CopyState, Placement } from './database.ts';
import { deflated, inflated } from './raw-deflate.ts';

/** Of each kind; then it starts afresh: what is still used is remembered again soon. */
const REMEMBERED = 10_000;
const NONE: readonly never[] = Object.freeze([]);
/** Copies of one block: more would deflate a little better, and keep more alive for the last one. */
export const TOGETHER = 32;
/** Blocks of which is remembered what was read: as many as a slice of a takeover, or the searches for a shadow under way, touch. */
const INFLATED = 12;

/** Detail and time after `receivedAtMs` of what the front end itself told; rows of everything else. */
type EventItems = readonly (string | number | EventRow)[];
type EventRow = readonly [event: string, afterMs: number, detail: string | null, source: string | null];

/** What packed facts do not show themselves. */
type Rest = Pick<CopyFacts, 'envelope' | 'events' | 'digest'>;

type Row = readonly [
  digest: string,
  reversePath: string,
  recipients: readonly (string | EnvelopeRecipient)[],
  body: Envelope['body'],
  smtputf8: boolean,
  declaredSizeBytes: number | null,
  receivedAtMs: number,
  client: Envelope['client'],
  frontend: string,
  listener: string,
  events: EventItems,
  more: Partial<Envelope> | 0,
];

/** Texts, deflated together. Never changed. */
export class Block {
  readonly bytes: Buffer;
  readonly #reader: BlockReader;

  constructor(bytes: Buffer, reader: BlockReader) {
    this.bytes = bytes;
    this.#reader = reader;
  }

  text(at: number): string {
    return this.#reader.text(this, at);
  }

  rest(at: number): Rest {
    return this.#reader.rest(this, at);
  }
}

interface Inflated {
  readonly texts: readonly string[];
  /** As far as they were asked for. */
  readonly rests: (Rest | undefined)[];
}

/** What was read lately, so that neighbours and repeated questions cost little. */
class BlockReader {
  /** The last one at the end. */
  readonly #inflated = new Map<Block, Inflated>();

  text(block: Block, at: number): string {
    const { texts } = this.#read(block);
    const text = texts[at];
    if (text === undefined) throw new Error(`a block of ${texts.length} texts has none at ${at}`);
    return text;
  }

  rest(block: Block, at: number): Rest {
    const { rests } = this.#read(block);
    const known = rests[at];
    if (known !== undefined) return known;
    const rest = restOf(this.text(block, at));
    rests[at] = rest;
    return rest;
  }

  #read(block: Block): Inflated {
    const known = this.#inflated.get(block);
    if (known !== undefined) return known;
    const read = { texts: inflated(block.bytes).split('\n'), rests: [] };
    for (const oldest of this.#inflated.keys()) if (this.#inflated.size >= INFLATED) this.#inflated.delete(oldest);
    this.#inflated.set(block, read);
    return read;
  }
}

/** Which text of which block: all there is to say about the rest of packed facts. */
export interface Packed {
  readonly block: Block;
  readonly at: number;
  readonly recipients: number;
}

export type BriefFacts = Omit<CopyFacts, keyof Rest>;

/** Two small numbers in one: a property of its own costs eight bytes. */
const SLOTS = 256;

/**
 * Own properties that are shown: some held, some computed. The functions that compute are the same for all: with others of the same names
 * V8 would keep the properties of every object in a table of its own (850 bytes).
 */
class PackedFacts {
  readonly id: CopyFacts['id'];
  readonly ancestor: CopyFacts['ancestor'];
  readonly kind: CopyFacts['kind'];
  readonly sizeBytes: number;
  readonly acceptedAtMs: number;
  readonly takenFrom: CopyFacts['takenFrom'];
  /** Open as it came, or packed. */
  #rest: Rest | Block;
  /** Place in the block, and number of recipients. */
  #slot: number;

  constructor(facts: BriefFacts, takenFrom: CopyFacts['takenFrom'], rest: Rest | Block, slot: number) {
    this.id = facts.id;
    this.ancestor = facts.ancestor;
    this.kind = facts.kind;
    this.sizeBytes = facts.sizeBytes;
    this.acceptedAtMs = facts.acceptedAtMs;
    this.takenFrom = takenFrom;
    this.#rest = rest;
    this.#slot = slot;
    Object.defineProperties(this, SHOWN);
  }

  static rest(facts: PackedFacts): Rest {
    return facts.#rest instanceof Block ? facts.#rest.rest(facts.#slot % SLOTS) : facts.#rest;
  }

  /** What a block has of these facts, or would have. */
  static text(facts: PackedFacts): string {
    return facts.#rest instanceof Block ? facts.#rest.text(facts.#slot % SLOTS) : textOf(facts as unknown as CopyFacts);
  }

  static packed(facts: PackedFacts): Packed | null {
    if (!(facts.#rest instanceof Block)) return null;
    return { block: facts.#rest, at: facts.#slot % SLOTS, recipients: Math.floor(facts.#slot / SLOTS) };
  }

  static recipients(facts: PackedFacts): number {
    return facts.#rest instanceof Block ? Math.floor(facts.#slot / SLOTS) : facts.#rest.envelope.recipients.length;
  }

  static pack(facts: PackedFacts, block: Block, at: number): void {
    facts.#slot = at + SLOTS * PackedFacts.recipients(facts);
    facts.#rest = block;
  }
}

/** The same as a plain object: JSON of one with computed properties takes three times as long. */
export function plainFacts(facts: CopyFacts): CopyFacts {
  if (!(facts instanceof PackedFacts)) return facts;
  const { id, ancestor, kind, sizeBytes, acceptedAtMs, takenFrom } = facts;
  const { envelope, events, digest } = PackedFacts.rest(facts);
  return { id, ancestor, kind, envelope, digest, sizeBytes, acceptedAtMs, takenFrom, events };
}

const SHOWN: PropertyDescriptorMap = {
  envelope: {
    enumerable: true,
    get(this: PackedFacts) {
      return PackedFacts.rest(this).envelope;
    },
  },
  events: {
    enumerable: true,
    get(this: PackedFacts) {
      return PackedFacts.rest(this).events;
    },
  },
  digest: {
    enumerable: true,
    get(this: PackedFacts) {
      return PackedFacts.rest(this).digest;
    },
  },
};

export class Compactor {
  readonly #texts = new Map<string, string>();
  readonly #epochs = new Map<string, Epoch>();
  readonly #placements = new Map<string, readonly Placement[]>();
  readonly #taken = new Map<string, CopyFacts['takenFrom']>();
  readonly #reader = new BlockReader();

  /** The same facts, open: they can be packed later, by whoever holds them, for everybody who does. */
  hold(facts: CopyFacts): CopyFacts {
    if (facts instanceof PackedFacts) return facts as unknown as CopyFacts;
    const { envelope, events, digest } = facts;
    return this.#shown(facts, { envelope, events, digest }, 0);
  }

  /** In place and together, those that are packed elsewhere already as well. */
  pack(all: readonly CopyFacts[]): void {
    for (let from = 0; from < all.length; from += TOGETHER) {
      const some = all.slice(from, from + TOGETHER).filter((facts) => facts instanceof PackedFacts);
      if (some.length === 0) continue;
      const block = this.block(together(some.map((facts) => PackedFacts.text(facts))));
      for (const [at, facts] of some.entries()) PackedFacts.pack(facts, block, at);
    }
  }

  /** Facts of which only the brief part is at hand: the rest is in a block. */
  fromBlock(brief: BriefFacts, { block, at, recipients }: Packed): CopyFacts {
    return this.#shown(brief, block, at + SLOTS * recipients);
  }

  block(bytes: Buffer): Block {
    return new Block(bytes, this.#reader);
  }

  #shown(brief: BriefFacts, rest: Rest | Block, slot: number): CopyFacts {
    return new PackedFacts(brief, this.#takenFrom(brief.takenFrom), rest, slot) as unknown as CopyFacts;
  }

  state(state: CopyState): CopyState {
    return {
      queue: this.text(state.queue),
      epoch: this.epoch(state.epoch),
      standing: this.text(state.standing),
      abortedThrough: state.abortedThrough,
      recipients: state.recipients?.map((recipient) => this.#recipient(recipient)) ?? null,
      placements: this.#placed(state.placements),
      ageMs: state.ageMs,
      finalAtMs: state.finalAtMs,
      unprotected: state.unprotected === null ? null : this.text(state.unprotected),
      suspended: state.suspended,
      crashCount: state.crashCount,
      delayed: state.delayed,
      dsns: state.dsns.length === 0 ? NONE : state.dsns,
      attempts: state.attempts,
    };
  }

  /** The same state where what a change brought anew is held once; `before`: the state it came from. */
  thin(state: CopyState, before: CopyState | null): CopyState {
    const epoch = state.epoch === before?.epoch ? state.epoch : this.epoch(state.epoch);
    const placements = state.placements === before?.placements ? state.placements : this.#placed(state.placements);
    return epoch === state.epoch && placements === state.placements ? state : { ...state, epoch, placements };
  }

  /** The same text, held once. */
  text<T extends string>(value: T): T {
    return this.#known(this.#texts, value, () => value) as T;
  }

  epoch(epoch: Epoch): Epoch {
    const { owner, term } = epoch;
    return this.#known(this.#epochs, `${owner}/${epoch.try}/${term}`, () => ({
      try: epoch.try,
      term,
      owner: this.text(owner),
    }));
  }

  #known<T>(all: Map<string, T>, key: string, make: () => T): T {
    const known = all.get(key);
    if (known !== undefined) return known;
    if (all.size >= REMEMBERED) all.clear();
    const made = make();
    all.set(key, made);
    return made;
  }

  #takenFrom(from: CopyFacts['takenFrom']): CopyFacts['takenFrom'] {
    if (from === null) return null;
    return this.#known(this.#taken, `${from.identity}/${from.openCounter}/${from.nonce}`, () => from);
  }

  #recipient(recipient: RecipientState): RecipientState {
    const { address } = recipient;
    const outcome = this.text(recipient.outcome);
    if (outcome === 'pending' && Object.keys(recipient).length === 2) return { address, outcome };
    const compact: { -readonly [K in keyof RecipientState]: RecipientState[K] } = { ...recipient, outcome };
    if (compact.database !== undefined) compact.database = this.text(compact.database);
    if (compact.databaseCopy !== undefined) compact.databaseCopy = this.text(compact.databaseCopy);
    if (compact.connector !== undefined) compact.connector = this.text(compact.connector);
    if (compact.reply !== undefined) compact.reply = this.text(compact.reply);
    return compact;
  }

  #placed(placements: readonly Placement[]): readonly Placement[] {
    if (placements.length === 0) return NONE;
    let key = '';
    for (const { identity, member, epoch, status } of placements)
      key += `${identity}/${member}/${epoch.try}/${epoch.term}/${epoch.owner}/${status}\n`;
    return this.#known(this.#placements, key, () =>
      placements.map(({ identity, member, epoch, status }) => ({
        identity: this.text(identity),
        member: this.text(member),
        epoch: this.epoch(epoch),
        status: this.text(status),
      })),
    );
  }
}

/** Null: the facts are open. */
export const packedOf = (facts: CopyFacts): Packed | null =>
  facts instanceof PackedFacts ? PackedFacts.packed(facts) : null;

/** How many recipients the envelope has, without taking it apart. */
export const recipientCount = (facts: CopyFacts): number =>
  facts instanceof PackedFacts ? PackedFacts.recipients(facts) : facts.envelope.recipients.length;

/** Whether the envelope has just these recipients, in this order; without taking it apart when it is the plain case. */
export function hasRecipients(facts: CopyFacts, addresses: readonly string[]): boolean {
  if (recipientCount(facts) !== addresses.length) return false;
  if (facts instanceof PackedFacts && PackedFacts.packed(facts) !== null) {
    const text = PackedFacts.text(facts);
    // A quote inside the reverse-path is written with a backslash: it cannot be taken for this list.
    if (text.startsWith(`${JSON.stringify(addresses)},`, text.indexOf(',[') + 1)) return true;
  }
  return facts.envelope.recipients.every(({ address }, at) => address === addresses[at]);
}

/** JSON has no line ends of its own. */
const together = (texts: readonly string[]): Buffer => {
  const bytes = deflated(texts.join('\n'));
  // What zlib gives is the beginning of a buffer of 16 KB.
  const own = Buffer.allocUnsafeSlow(bytes.length);
  bytes.copy(own);
  return own;
};

function textOf({ digest, envelope, events }: CopyFacts): string {
  const {
    reversePath,
    recipients,
    body,
    smtputf8,
    declaredSizeBytes,
    client,
    frontend,
    listener,
    receivedAtMs,
    ...more
  } = envelope;
  const row: Row = [
    digest,
    reversePath,
    recipients.map((recipient) =>
      recipient.notify === undefined && recipient.orcpt === undefined && recipient.returnPath === undefined
        ? recipient.address
        : recipient,
    ),
    body,
    smtputf8,
    declaredSizeBytes,
    receivedAtMs,
    client,
    frontend,
    listener,
    itemsOf(envelope, events),
    Object.keys(more).length === 0 ? 0 : more,
  ];
  return JSON.stringify(row);
}

function restOf(text: string): Rest {
  const row = JSON.parse(text) as Row;
  const [digest, reversePath, recipients, body, smtputf8, declaredSizeBytes, receivedAtMs] = row;
  const [, , , , , , , client, frontend, listener, items, more] = row;
  const envelope: Envelope = {
    reversePath,
    recipients: recipients.map((recipient) => (typeof recipient === 'string' ? { address: recipient } : recipient)),
    body,
    smtputf8,
    declaredSizeBytes,
    ...(more === 0 ? {} : more),
    client,
    frontend,
    listener,
    receivedAtMs,
  };
  return { digest, envelope, events: eventsOf(envelope, items) };
}

/** What an event begins with that says what the envelope says anyway; `+` stands for it. */
const connectOf = ({ client, listener }: Envelope): string =>
  `connect from [${client.address}]:${client.port} to ${listener}, ${client.protocol} ${client.helo}`;

function itemsOf(envelope: Envelope, events: readonly TrackingEvent[]): EventItems {
  const items: (string | number | EventRow)[] = [];
  const connect = connectOf(envelope);
  for (const { event, atMs, source, detail } of events) {
    const afterMs = atMs - envelope.receivedAtMs;
    const isOwn = source === envelope.frontend;
    if (event !== 'FRONTEND' || !isOwn || detail === undefined)
      items.push([event, afterMs, detail ?? null, isOwn ? null : source]);
    else if (detail.startsWith(connect)) items.push(`+${detail.slice(connect.length)}`, afterMs);
    else items.push(/^[+-]/.test(detail) ? `-${detail}` : detail, afterMs);
  }
  return items;
}

function eventsOf(envelope: Envelope, items: EventItems): TrackingEvent[] {
  const { frontend, receivedAtMs } = envelope;
  const events: TrackingEvent[] = [];
  let text = '';
  for (const item of items) {
    if (typeof item === 'string') text = item;
    else if (typeof item === 'number')
      events.push({ event: 'FRONTEND', atMs: receivedAtMs + item, source: frontend, detail: detailOf(envelope, text) });
    else {
      const [event, afterMs, detail, source] = item;
      const shared = { event, atMs: receivedAtMs + afterMs, source: source ?? frontend };
      events.push(detail === null ? shared : { ...shared, detail });
    }
  }
  return events;
}

function detailOf(envelope: Envelope, text: string): string {
  if (text.startsWith('+')) return connectOf(envelope) + text.slice(1);
  return text.startsWith('-') ? text.slice(1) : text;
}
