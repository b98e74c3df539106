/**
 * Facts and states in little memory: what many copies have in common is held once. Owns: which parts those are, and bounds on what is
 * remembered. Promise: the result equals what came in; nothing of what came in is kept. The strings of decoded JSON are objects of
 * their own, so a hundred thousand queued messages hold the name of their front end, of the other holder, of the client's HELO a
 * hundred thousand times each; this takes them out. Whoever keeps many copies passes them through one of these first. PURE.
 */
import type { ClientInfo, Envelope, EnvelopeRecipient, Epoch, RecipientState } from '../../common/message.ts';
import type { TrackingEvent } from '../../common/peer/messages.ts';
import type { CopyFacts, CopyState, Placement, StoredCopy } from './database.ts';

/** Of each kind; then it starts afresh: what is still used is remembered again soon. */
const REMEMBERED = 10_000;
const NONE: readonly never[] = Object.freeze([]);

export class Compactor {
  readonly #texts = new Map<string, string>();
  readonly #clients = new Map<string, ClientInfo>();
  readonly #tls = new Map<string, ClientInfo['tls']>();
  readonly #epochs = new Map<string, Epoch>();
  readonly #placements = new Map<string, readonly Placement[]>();
  readonly #taken = new Map<string, CopyFacts['takenFrom']>();

  copy({ facts, state }: StoredCopy): StoredCopy {
    const compact = this.facts(facts);
    return { facts: compact, state: this.state(state, compact) };
  }

  facts(facts: CopyFacts): CopyFacts {
    const { id, ancestor, kind, digest, sizeBytes, acceptedAtMs, takenFrom } = facts;
    return {
      id,
      ancestor,
      kind: this.text(kind),
      envelope: this.#envelope(facts.envelope),
      digest,
      sizeBytes,
      acceptedAtMs,
      takenFrom: this.#takenFrom(takenFrom),
      events: facts.events.length === 0 ? NONE : facts.events.map((event) => this.#event(event)),
    };
  }

  /** With `facts`: an address that stands in both is held once. */
  state(state: CopyState, facts?: CopyFacts): CopyState {
    return {
      queue: this.text(state.queue),
      epoch: this.epoch(state.epoch),
      standing: this.text(state.standing),
      abortedThrough: state.abortedThrough,
      recipients: state.recipients?.map((recipient, index) => this.#recipient(recipient, facts, index)) ?? null,
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

  /** The same text, held once. */
  text<T extends string>(value: T): T {
    return this.#known(this.#texts, value, () => value) as T;
  }

  epoch(epoch: Epoch): Epoch {
    const { owner, term } = epoch;
    return this.#known(this.#epochs, `${owner}/${epoch.try}/${term}`, () => ({ try: epoch.try, term, owner: this.text(owner) }));
  }

  #known<T>(all: Map<string, T>, key: string, make: () => T): T {
    const known = all.get(key);
    if (known !== undefined) return known;
    if (all.size >= REMEMBERED) all.clear();
    const made = make();
    all.set(key, made);
    return made;
  }

  #envelope(envelope: Envelope): Envelope {
    const { client, recipients, reversePath, body, frontend, listener, ...rest } = envelope;
    return {
      reversePath: this.text(reversePath),
      recipients: recipients.map((recipient) => this.#forwardPath(recipient)),
      body: this.text(body),
      ...rest,
      client: this.#client(client),
      frontend: this.text(frontend),
      listener: this.text(listener),
    };
  }

  #forwardPath({ address, notify, orcpt }: EnvelopeRecipient): EnvelopeRecipient {
    if (notify === undefined && orcpt === undefined) return { address };
    return {
      address,
      ...(notify === undefined ? {} : { notify: this.text(notify) }),
      ...(orcpt === undefined ? {} : { orcpt }),
    };
  }

  #client(client: ClientInfo): ClientInfo {
    const { address, port, helo, protocol, tls, user } = client;
    return this.#known(this.#clients, `${address}\n${port}\n${helo}\n${protocol}\n${user}\n${tls?.version}\n${tls?.cipher}`, () => ({
      address: this.text(address),
      port,
      helo: this.text(helo),
      protocol: this.text(protocol),
      tls: tls === null ? null : this.#known(this.#tls, `${tls.version}/${tls.cipher}`, () => tls),
      user: user === null ? null : this.text(user),
    }));
  }

  #takenFrom(from: CopyFacts['takenFrom']): CopyFacts['takenFrom'] {
    if (from === null) return null;
    return this.#known(this.#taken, `${from.identity}/${from.openCounter}/${from.nonce}`, () => from);
  }

  #event({ event, atMs, source, detail }: TrackingEvent): TrackingEvent {
    const shared = { event: this.text(event), atMs, source: this.text(source) };
    return detail === undefined ? shared : { ...shared, detail };
  }

  #recipient(recipient: RecipientState, facts: CopyFacts | undefined, index: number): RecipientState {
    const other = facts?.envelope.recipients[index]?.address;
    const address = other === recipient.address ? other : recipient.address;
    const outcome = this.text(recipient.outcome);
    if (outcome === 'pending' && Object.keys(recipient).length === 2) return { address, outcome };
    const compact: { -readonly [K in keyof RecipientState]: RecipientState[K] } = { ...recipient, address, outcome };
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
