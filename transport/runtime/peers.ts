/**
 * The sessions of one transport: to the members of its boundary (the lower name dials) and from front ends. Owns: dialling with backoff, one session
 * per member (a newer one closes the older before its HELLO is answered, protocol.md 6), the check of identity and nonce chain (protocol.md 1), and CONTACT.
 */
import type { MemberConfig, TopologyDocument } from '../../common/config.ts';
import type { Identity } from '../../common/message.ts';
import { encodeControl } from '../../common/peer/frames.ts';
import type { Contact, ControlFrame, Hello } from '../../common/peer/messages.ts';
import { runPeerSession } from '../../common/peer/session.ts';
import { type IncomingStream, type PeerSession, REFUSED_BY_PEER } from '../../common/peer/session-api.ts';
import { assert } from '../../common/platform/assert.ts';
import type { Timer } from '../../common/platform/clock.ts';
import type { Connection, Listener, PeerName } from '../../common/platform/net.ts';
import { randomFraction } from '../../common/platform/random.ts';
import type { Seen } from '../store/database.ts';
import type { TransportDeps } from './deps.ts';
import { brokenChain, ownBrokenChain } from './nonce-chain.ts';

export interface PeersHandlers {
  onMember(member: string, identity: Identity, openCounter: number, nonce: string): void;
  onMemberGone(member: string): void;
  onControl(session: PeerSession, frame: ControlFrame): void;
  onStream(session: PeerSession, stream: IncomingStream): void;
  contact(): Omit<Contact, 'hears'>;
  /** What was seen of a peer's database is persisted with the next group. */
  onSeen(seen: Seen): void;
}

/** protocol.md 1: this queue database is not what the others knew it to be (an older copy, a clone). It must not be used. */
export class FencedError extends Error {
  readonly code = 'FENCED';
  constructor(detail: string) {
    super(`this queue database is fenced: ${detail}`);
    this.name = 'FencedError';
  }
}

const BROKEN_CHAIN = 'broken nonce chain';
const CONNECT_TIMEOUT_MS = 2_000;
/** Half as much again at most: whoever comes back is reached well within the wait of a doubtful copy (protocol.md 14: 5 s). */
const MAX_BACKOFF_MS = 1_000;
const MAX_STREAMS = 2_000;
/** What is said beyond this waits here until the other side has read up to it: bodies and their answers then stand behind no more than this. */
const WINDOW_BYTES = 262_144;
const DRAIN_MS = 10;

const relayName = (name: string): string => `${name} (relay)`;
const sessionName = ({ role, name }: PeerName, { database }: Hello): string =>
  role === 'transport' && database === null ? relayName(name) : name;

export class Peers {
  readonly #deps: TransportDeps;
  readonly #handlers: PeersHandlers;
  #document: TopologyDocument;
  #listener: Listener | null = null;
  readonly #members = new Map<string, PeerSession>();
  readonly #frontends = new Map<string, PeerSession>();
  /** Sessions that are still shaking hands or open, by name, so that a newer connection can close the older. */
  readonly #connections = new Map<string, Connection>();
  /** The queue database each member was last met on. */
  readonly #seen = new Map<string, Seen>();
  /** Every queue database ever met (protocol.md 1: also of one that was left long ago an older copy is refused). */
  readonly #seenDatabases = new Map<string, Seen>();
  readonly #dials = new Map<string, { failures: number; timer: Timer | null; busy: boolean }>();
  readonly #problems = new Map<string, string>();
  readonly #lastContactMs = new Map<string, number>();
  /** The last CONTACT of the round, and when. */
  readonly #said = new WeakMap<PeerSession, { readonly said: string; readonly atMs: number }>();
  readonly #backlogs = new Map<PeerSession, Uint8Array[]>();
  #onMet: (() => void) | null = null;
  #contactTimer: Timer | null = null;
  #stopped = false;
  #fenced = false;

  constructor(deps: TransportDeps, handlers: PeersHandlers) {
    this.#deps = deps;
    this.#handlers = handlers;
    this.#document = deps.document;
    for (const seen of deps.database.recovered.seen) this.#remember(seen);
  }

  get port(): number {
    return this.#listener?.port ?? 0;
  }

  async start(): Promise<void> {
    this.#listener = await this.#deps.network.listen(this.#deps.listen, (connection) => this.#run(connection, false));
    this.setTopology(this.#document);
    this.#contactLater();
  }

  setTopology(document: TopologyDocument): void {
    this.#document = document;
    for (const member of this.#boundary()) if (this.#deps.name < member.name) this.#dial(member.name, 0);
    for (const [name, session] of this.#members)
      if (this.#member(name) === undefined) session.close('no longer a member of the boundary');
    for (const session of this.#frontends.values())
      if (session.remote.role === 'transport' && !this.#isRelay(session.hello, session.remote.name))
        session.close('no longer brings mail');
  }

  /** Resolves when every active member of the boundary is connected, or after `withinMs`: mail taken earlier would find no shadow. */
  met(withinMs: number): Promise<void> {
    if (this.#hasMetAll()) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = this.#deps.clock.setTimer(withinMs, resolve);
      this.#onMet = () => {
        if (!this.#hasMetAll()) return;
        timer.cancel();
        this.#onMet = null;
        resolve();
      };
    });
  }

  #hasMetAll(): boolean {
    return this.#boundary().every((member) => member.state !== 'active' || this.#members.has(member.name));
  }

  get hearsFrontend(): boolean {
    return [...this.#frontends.values()].some(({ remote }) => remote.role === 'frontend');
  }

  session(name: string): PeerSession | null {
    return this.#members.get(name) ?? this.#frontends.get(name) ?? null;
  }

  /** Sends in order; what a slow peer has not taken waits here, not in the bounded buffer of the session (protocol.md 9: paged). */
  send(name: string, frame: ControlFrame): void {
    const session = this.session(name);
    if (session === null) return;
    const backlog = this.#backlogs.get(session);
    if (backlog === undefined && session.unheardBytes < WINDOW_BYTES) return session.send(frame);
    // As bytes: a hundred thousand items waiting as objects are twice as large, and make the heap grow.
    const bytes = encodeControl(frame);
    if (bytes === null) return session.send(frame);
    if (backlog !== undefined) return void backlog.push(bytes);
    this.#backlogs.set(session, [bytes]);
    this.#drainLater(session);
  }

  #drainLater(session: PeerSession): void {
    this.#deps.clock.setTimer(DRAIN_MS, () => {
      const backlog = this.#backlogs.get(session);
      if (backlog === undefined) return;
      if (session.closed || this.#stopped) {
        this.#backlogs.delete(session);
        return;
      }
      let sent = 0;
      for (const bytes of backlog) {
        if (session.unheardBytes >= WINDOW_BYTES) break;
        session.sendEncoded(bytes);
        sent += 1;
      }
      if (sent === backlog.length) {
        this.#backlogs.delete(session);
        return;
      }
      backlog.splice(0, sent);
      this.#drainLater(session);
    });
  }

  member(name: string): PeerSession | null {
    return this.#members.get(name) ?? null;
  }

  view(): {
    readonly member: string;
    readonly connected: boolean;
    readonly lastContactMs: number | null;
    readonly identity: string | null;
    readonly problem: string | null;
  }[] {
    return this.#boundary().map((member) => ({
      member: member.name,
      connected: this.#members.has(member.name),
      lastContactMs: this.#lastContactMs.get(member.name) ?? null,
      identity:
        this.#members.get(member.name)?.hello.database?.identity ?? this.#seen.get(member.name)?.identity ?? null,
      problem: this.#members.has(member.name) ? null : (this.#problems.get(member.name) ?? 'not yet connected'),
    }));
  }

  #boundary(): readonly MemberConfig[] {
    const self = this.#document.members.find((member) => member.name === this.#deps.name);
    const anywhere = this.#deps.mutants?.has('shadow-outside-boundary') === true;
    return this.#document.members.filter(
      (member) =>
        (anywhere || member.boundary === self?.boundary) && member.name !== self?.name && member.state !== 'gone',
    );
  }

  #member(name: string): MemberConfig | undefined {
    return this.#boundary().find((member) => member.name === name);
  }

  #dial(name: string, delayMs: number): void {
    const dial = this.#dials.get(name) ?? { failures: 0, timer: null, busy: false };
    this.#dials.set(name, dial);
    if (dial.busy || dial.timer !== null || this.#members.has(name) || this.#stopped) return;
    dial.timer = this.#deps.clock.setTimer(delayMs, () => {
      dial.timer = null;
      const member = this.#member(name);
      if (member === undefined || this.#members.has(name) || this.#stopped) return;
      dial.busy = true;
      this.#deps.network.connect(member.address, { role: 'transport', name }, CONNECT_TIMEOUT_MS).then(
        (connection) => {
          dial.busy = false;
          this.#run(connection, true);
        },
        (error: unknown) => {
          dial.busy = false;
          this.#redial(name, `connect failed: ${error instanceof Error ? error.message : String(error)}`);
        },
      );
    });
  }

  #redial(name: string, problem: string): void {
    this.#problems.set(name, problem);
    const dial = this.#dials.get(name);
    if (dial === undefined || this.#stopped) return;
    dial.failures += 1;
    const backoffMs =
      Math.min(MAX_BACKOFF_MS, 100 * 2 ** Math.min(dial.failures, 6)) * (0.5 + randomFraction(this.#deps.random));
    this.#dial(name, backoffMs);
  }

  #run(connection: Connection, dialled: boolean): void {
    if (this.#stopped) return connection.destroy('stopping');
    const { remote } = connection;
    runPeerSession({
      connection,
      dialled,
      hello: () => this.#hello(remote),
      check: (hello, from) => {
        const verdict = this.#check(hello, from);
        if (verdict.kind === 'accept') this.#replace(connection, sessionName(from, hello));
        return verdict;
      },
      clock: this.#deps.clock,
      log: this.#deps.log,
      keepAliveMs: this.#deps.keepAliveMs ?? 4_000,
      deadAfterMs: this.#deps.deadAfterMs ?? 10_000,
      handshakeTimeoutMs: 5_000,
      maxIncomingStreams: MAX_STREAMS,
      handlers: {
        onReady: (session) => this.#ready(session),
        onControl: (session, frame) => {
          if (!this.bringsMail(session)) this.#heard(session);
          this.#handlers.onControl(session, frame);
        },
        onStream: (session, stream) => this.#handlers.onStream(session, stream),
        onClose: (session, reason) => this.#closed(connection, session, reason, dialled),
      },
    });
  }

  /** A newer connection from a peer closes its older one, streams and all, before its HELLO is answered. */
  #replace(connection: Connection, name: string): void {
    const older = this.#connections.get(name);
    this.#connections.set(name, connection);
    if (older !== undefined && older !== connection) older.destroy('replaced by a newer connection');
  }

  #ready(session: PeerSession): void {
    const { name, role } = session.remote;
    this.#deps.log.info({ peer: name, role }, 'peer session ready');
    if (this.bringsMail(session)) {
      this.#frontends.set(this.nameOf(session), session);
    } else if (session.hello.database !== null) {
      this.#members.set(name, session);
      this.#problems.delete(name);
      const dial = this.#dials.get(name);
      if (dial !== undefined) dial.failures = 0;
      const { identity, chain, syncedSequence } = session.hello.database;
      const last = chain.at(-1) ?? { openCounter: 0, nonce: '' };
      this.#saw({ member: name, identity, ...last, syncedSequence });
      this.#handlers.onMember(name, identity, last.openCounter, last.nonce);
      this.#deps.metrics.set('peer_up', 1, { peer: name });
      this.#onMet?.();
    }
    if (!this.bringsMail(session) || role === 'frontend') this.#heard(session);
    this.#sendContact(session);
    // Whom we know decides whether we take mail: front ends need not wait for the next round to hear of it.
    if (!this.bringsMail(session)) for (const frontend of this.#frontends.values()) this.#sendContact(frontend);
  }

  #closed(connection: Connection, session: PeerSession | null, reason: string, dialled: boolean): void {
    const { name, role } = connection.remote;
    for (const known of [name, relayName(name)])
      if (this.#connections.get(known) === connection) this.#connections.delete(known);
    if (reason.startsWith('protocol error'))
      this.#deps.metrics.increment('peer_protocol_errors_total', {
        reason: session === null ? 'handshake' : 'session',
      });
    if (role === 'frontend' || (session !== null && this.bringsMail(session))) {
      const known = session === null ? name : this.nameOf(session);
      if (this.#frontends.get(known) === session) this.#frontends.delete(known);
      return;
    }
    if (session !== null && this.#members.get(name) === session) {
      this.#members.delete(name);
      this.#deps.metrics.set('peer_up', 0, { peer: name });
      this.#deps.log.warn({ peer: name, reason }, 'peer session ended');
      this.#handlers.onMemberGone(name);
    }
    const fenced = `${REFUSED_BY_PEER}${BROKEN_CHAIN}: `;
    const isUnfenced = this.#deps.mutants?.has('snapshot-unfenced') === true;
    if (reason.startsWith(fenced) && this.#member(name) !== undefined && !this.#stopped && !isUnfenced)
      this.#fence(`${name} says ${reason.slice(fenced.length)}`);
    this.#problems.set(name, reason);
    if (dialled) this.#redial(name, reason);
  }

  #hello(remote: PeerName): Hello {
    const { database, name, uid } = this.#deps;
    const self = this.#document.members.find((member) => member.name === name);
    const seen = this.#seen.get(remote.name);
    return {
      versions: [1],
      role: 'transport',
      name,
      cluster: this.#document.cluster,
      boundary: self?.boundary ?? null,
      database: {
        identity: database.identity,
        chain: database.chain.slice(-64),
        syncedSequence: database.syncedSequence,
      },
      seen:
        seen === undefined
          ? null
          : {
              identity: seen.identity,
              openCounter: seen.openCounter,
              nonce: seen.nonce,
              syncedSequence: seen.syncedSequence,
            },
      uid,
      generation: this.#document.generation,
    };
  }

  #check(hello: Hello, from: PeerName): { kind: 'accept' } | { kind: 'refuse'; reason: string; detail: string } {
    const refuse = (reason: string, detail: string) => ({ kind: 'refuse' as const, reason, detail });
    if (hello.cluster !== this.#document.cluster)
      return refuse('wrong cluster', `${hello.cluster} is not ${this.#document.cluster}`);
    if (from.role === 'frontend') return { kind: 'accept' };
    if (from.role !== 'transport') return refuse('wrong role', `${from.role} has no business on the peer port`);
    if (this.#isRelay(hello, from.name)) return { kind: 'accept' };
    // protocol.md section 1: a receiver refuses when its own document does not list the sender in the same boundary.
    if (this.#member(from.name) === undefined)
      return refuse(
        'not a member of this boundary',
        `generation ${this.#document.generation} does not list ${from.name}`,
      );
    if (hello.database === null) return refuse('no queue database', 'a transport must name its queue database');
    const twin = this.#twinOf(hello);
    if (twin !== null)
      return refuse('identity in use', `${twin} has queue database ${hello.database.identity} already`);
    if (this.#isStale(hello)) return refuse('stale HELLO', 'a later one of this process was heard already');
    const { database } = hello;
    const broken = brokenChain(database, this.#seenDatabases.get(database.identity));
    if (broken !== null && this.#deps.mutants?.has('older-incarnation-accepted') !== true)
      return refuse(BROKEN_CHAIN, broken);
    const mine = ownBrokenChain(this.#deps.database, hello.seen);
    if (mine === null || this.#deps.mutants?.has('snapshot-unfenced') === true) return { kind: 'accept' };
    this.#fence(`${from.name} saw ${mine}`);
    return refuse('fenced', mine);
  }

  /** A transport that brings mail from another boundary, or site: it speaks of no copy, so it has no queue database here (semantics.md D3, S14). */
  #isRelay({ database }: Hello, name: string): boolean {
    const { siteLinks, members } = this.#document;
    if (database !== null || siteLinks === undefined) return false;
    return name !== this.#deps.name && members.some((one) => one.name === name && one.state !== 'gone');
  }

  /** Who brings mail: front ends, and transports of other boundaries. */
  bringsMail(session: PeerSession): boolean {
    return session.remote.role === 'frontend' || session.hello.database === null;
  }

  /** By which `send` finds it: one member may have a session as a member, and one by which it brings mail. */
  nameOf(session: PeerSession): string {
    return sessionName(session.remote, session.hello);
  }

  /** Two members cannot have one queue database (semantics.md S6). */
  #twinOf(hello: Hello): string | null {
    const identity = hello.database?.identity;
    if (identity === this.#deps.database.identity) return this.#deps.name;
    const seen = identity === undefined ? undefined : this.#seenDatabases.get(identity);
    return seen === undefined || seen.member === hello.name ? null : seen.member;
  }

  /** Said once; the process ends, and its volume is set aside before it opens again (transport/fence.ts). */
  #fence(detail: string): void {
    if (this.#fenced) return;
    this.#fenced = true;
    this.#deps.metrics.set('fenced', 1);
    this.#deps.onFatal(new FencedError(detail));
  }

  /** Said before what was heard last of the same open of its queue database. */
  #isStale({ database }: Hello): boolean {
    const seen = database === null ? undefined : this.#seenDatabases.get(database.identity);
    const last = database?.chain.at(-1);
    if (database === null || seen === undefined || last === undefined) return false;
    const isSameOpen = last.openCounter === seen.openCounter && last.nonce === seen.nonce;
    return isSameOpen && database.syncedSequence < seen.syncedSequence;
  }

  #remember(seen: Seen): void {
    this.#seen.set(seen.member, seen);
    this.#seenDatabases.set(seen.identity, seen);
  }

  #saw(seen: Seen): void {
    this.#remember(seen);
    this.#handlers.onSeen(seen);
  }

  #heard(session: PeerSession): void {
    if (session.remote.role === 'transport') this.#lastContactMs.set(session.remote.name, this.#deps.clock.wallMs());
  }

  /** A CONTACT moved the peer's synced sequence on. */
  sawSequence(member: string, syncedSequence: number): void {
    const seen = this.#seen.get(member);
    if (seen !== undefined && syncedSequence > seen.syncedSequence) this.#saw({ ...seen, syncedSequence });
  }

  #contact(): Contact {
    return { ...this.#handlers.contact(), hears: [...this.#members.keys()] };
  }

  #sendContact(session: PeerSession): void {
    session.send({ kind: 'CONTACT', contact: this.#contact() });
  }

  #contactLater(): void {
    const { heartbeatFrequencyMs } = this.#document.policies.shadowRedundancy;
    const everyMs = Math.min(1_000, heartbeatFrequencyMs);
    this.#contactTimer = this.#deps.clock.setTimer(everyMs, () => {
      const contact = this.#contact();
      const { trustedMs: _elapsed, ...news } = contact;
      const said = JSON.stringify(news);
      const encoded = encodeControl({ kind: 'CONTACT', contact });
      assert(encoded !== null, 'CONTACT too large', { hears: contact.hears.length });
      const nowMs = this.#deps.clock.monotonicMs();
      for (const session of this.#members.values()) {
        const last = this.#said.get(session);
        // Fifty peers that have nothing new to say say so once a heartbeat; that they are there the session itself tells (PING).
        if (last?.said === said && nowMs - last.atMs < heartbeatFrequencyMs - everyMs / 2) continue;
        this.#said.set(session, { said, atMs: nowMs });
        session.sendEncoded(encoded);
      }
      for (const session of this.#frontends.values()) session.sendEncoded(encoded);
      this.#contactLater();
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#contactTimer?.cancel();
    for (const dial of this.#dials.values()) dial.timer?.cancel();
    for (const session of [...this.#members.values(), ...this.#frontends.values()]) session.close('stopping');
    await this.#listener?.close();
  }
}
