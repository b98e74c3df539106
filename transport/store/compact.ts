/**
 * Facts and states in little memory: what many copies have in common is held once, what is rarely asked for is held as text. Owns: which
 * parts those are, and bounds on what is remembered. Promise: the result equals what came in, also when it is spread or made JSON of;
 * nothing of what came in is kept. Decoded JSON is many small objects: facts and state of a message with one recipient are 2.3 KB of
 * them, a third of that here. Whoever keeps many copies passes them through one of these first; the queue database does so with what
 * it recovers, the core with what comes to be (it packs facts later: most copies are gone before that pays).
 *
 * Envelope and events become one text, taken apart again when they are asked for (a few microseconds; the last one is remembered).
 */
import type { ClientInfo, Envelope, EnvelopeRecipient, Epoch, RecipientState } from '../../common/message.ts';
import type { TrackingEvent } from '../../common/peer/messages.ts';
import type { CopyFacts, CopyState, Placement, StoredCopy } from './database.ts';

/** Of each kind; then it starts afresh: what is still used is remembered again soon. */
const REMEMBERED = 10_000;
const NONE: readonly never[] = Object.freeze([]);

/** What few values of are seen by one server. */
export interface Profile {
  readonly body: Envelope['body'];
  readonly smtputf8: boolean;
  readonly protocol: string;
  readonly tls: ClientInfo['tls'];
  readonly frontend: string;
  readonly listener: string;
}

/** Detail and time after `receivedAtMs` of what the front end itself told; rows of everything else. */
type EventItems = readonly (string | number | EventRow)[];
type EventRow = readonly [event: string, afterMs: number, detail: string | null, source: string | null];

/** Everything else of an envelope, and the events. */
type Row = readonly [
  reversePath: string,
  recipients: readonly (string | EnvelopeRecipient)[],
  declaredSizeBytes: number | null,
  receivedAtMs: number,
  address: string,
  port: number,
  helo: string,
  user: string | null,
  events: EventItems,
  more: Partial<Envelope> | 0,
];

interface Unpacked {
  readonly envelope: Envelope;
  readonly events: readonly TrackingEvent[];
}

const TEXT = Symbol('text');
const PROFILE = Symbol('profile');
const OPEN = Symbol('open');

/** As text, or still open as it came. */
interface Packed {
  [TEXT]: string;
  [PROFILE]: Profile | null;
  [OPEN]: Unpacked | null;
}

export type BriefFacts = Omit<CopyFacts, 'envelope' | 'events'>;

/** Own properties that are shown, computed by functions that all packed facts share; and two that are not shown. */
class PackedFacts implements Packed {
  readonly id: CopyFacts['id'];
  readonly ancestor: CopyFacts['ancestor'];
  readonly kind: CopyFacts['kind'];
  readonly digest: string;
  readonly sizeBytes: number;
  readonly acceptedAtMs: number;
  readonly takenFrom: CopyFacts['takenFrom'];
  declare [TEXT]: string;
  declare [PROFILE]: Profile | null;
  declare [OPEN]: Unpacked | null;

  constructor(facts: BriefFacts, takenFrom: CopyFacts['takenFrom']) {
    this.id = facts.id;
    this.ancestor = facts.ancestor;
    this.kind = facts.kind;
    this.digest = facts.digest;
    this.sizeBytes = facts.sizeBytes;
    this.acceptedAtMs = facts.acceptedAtMs;
    this.takenFrom = takenFrom;
  }
}

export class Compactor {
  readonly #texts = new Map<string, string>();
  readonly #profiles = new Map<string, Profile>();
  readonly #epochs = new Map<string, Epoch>();
  readonly #placements = new Map<string, readonly Placement[]>();
  readonly #taken = new Map<string, CopyFacts['takenFrom']>();
  readonly #shown: PropertyDescriptorMap;
  #last: { readonly text: string; readonly profile: Profile; readonly unpacked: Unpacked } | null = null;

  constructor() {
    const unpack = (packed: Packed): Unpacked => this.#unpack(packed);
    this.#shown = {
      envelope: {
        enumerable: true,
        get(this: Packed) {
          return unpack(this).envelope;
        },
      },
      events: {
        enumerable: true,
        get(this: Packed) {
          return unpack(this).events;
        },
      },
    };
  }

  copy({ facts, state }: StoredCopy): StoredCopy {
    return { facts: this.facts(facts), state: this.state(state) };
  }

  facts(facts: CopyFacts): CopyFacts {
    const held = this.hold(facts);
    this.pack(held);
    return held;
  }

  /** The same facts, open: they can be packed later, by whoever holds them, for everybody who does. */
  hold(facts: CopyFacts): CopyFacts {
    if (facts instanceof PackedFacts) return facts as unknown as CopyFacts;
    const { envelope, events } = facts;
    return this.#held(facts, '', null, { envelope, events });
  }

  /** In place. */
  pack(facts: CopyFacts): void {
    if (!(facts instanceof PackedFacts) || facts[OPEN] === null) return;
    const { envelope, events } = facts[OPEN];
    facts[TEXT] = textOf(envelope, events);
    facts[PROFILE] = this.#profile(profileOf(envelope));
    facts[OPEN] = null;
  }

  /** Facts of which the text is known already (`packedParts`). */
  unpacked(brief: BriefFacts, text: string, profile: Profile): CopyFacts {
    return this.#held(brief, text, this.#profile(profile), null);
  }

  #held(brief: BriefFacts, text: string, profile: Profile | null, open: Unpacked | null): CopyFacts {
    const packed = new PackedFacts(brief, this.#takenFrom(brief.takenFrom));
    Object.defineProperty(packed, TEXT, { value: text, writable: true });
    Object.defineProperty(packed, PROFILE, { value: profile, writable: true });
    Object.defineProperty(packed, OPEN, { value: open, writable: true });
    return Object.defineProperties(packed, this.#shown) as unknown as CopyFacts;
  }

  #unpack({ [TEXT]: text, [PROFILE]: profile, [OPEN]: open }: Packed): Unpacked {
    if (open !== null) return open;
    if (profile === null) throw new Error('facts that are neither open nor packed');
    if (this.#last?.text !== text || this.#last.profile !== profile)
      this.#last = { text, profile, unpacked: unpackText(text, profile) };
    return this.#last.unpacked;
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

  #profile(profile: Profile): Profile {
    const { body, smtputf8, protocol, tls, frontend, listener } = profile;
    const key = `${body}\n${smtputf8}\n${protocol}\n${tls?.version}\n${tls?.cipher}\n${frontend}\n${listener}`;
    return this.#known(this.#profiles, key, () => profile);
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

const profileOf = ({ body, smtputf8, frontend, listener, client: { protocol, tls } }: Envelope): Profile => ({
  body,
  smtputf8,
  protocol,
  tls: tls === null ? null : { ...tls },
  frontend,
  listener,
});

/** What packed facts are made of. */
export function packedParts(facts: CopyFacts): { readonly text: string; readonly profile: Profile } {
  if (!(facts instanceof PackedFacts) || facts[PROFILE] === null) throw new Error('these facts are not packed');
  return { text: facts[TEXT], profile: facts[PROFILE] };
}

/** Whether the envelope has just these recipients, in this order; without taking it apart when it is the plain case. */
export function hasRecipients(facts: CopyFacts, addresses: readonly string[]): boolean {
  if (addresses.length > 0 && facts instanceof PackedFacts && facts[OPEN] === null) {
    const text = facts[TEXT];
    // A quote inside the reverse-path is written with a backslash: it cannot be taken for this list.
    if (text.startsWith(`${JSON.stringify(addresses)},`, text.indexOf(',[') + 1)) return true;
  }
  const { recipients } = facts.envelope;
  return recipients.length === addresses.length && recipients.every(({ address }, at) => address === addresses[at]);
}

function textOf(envelope: Envelope, events: readonly TrackingEvent[]): string {
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
    reversePath,
    recipients.map((recipient) =>
      recipient.notify === undefined && recipient.orcpt === undefined ? recipient.address : recipient,
    ),
    declaredSizeBytes,
    receivedAtMs,
    client.address,
    client.port,
    client.helo,
    client.user,
    itemsOf(envelope, events),
    Object.keys(more).length === 0 ? 0 : more,
  ];
  return JSON.stringify(row);
}

function unpackText(text: string, profile: Profile): Unpacked {
  const { body, smtputf8, protocol, tls, frontend, listener } = profile;
  const [reversePath, recipients, declaredSizeBytes, receivedAtMs, address, port, helo, user, rows, more] = JSON.parse(
    text,
  ) as Row;
  const envelope: Envelope = {
    reversePath,
    recipients: recipients.map((recipient) => (typeof recipient === 'string' ? { address: recipient } : recipient)),
    body,
    smtputf8,
    declaredSizeBytes,
    ...(more === 0 ? {} : more),
    client: { address, port, helo, protocol, tls, user },
    frontend,
    listener,
    receivedAtMs,
  };
  return { envelope, events: eventsOf(envelope, rows) };
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
