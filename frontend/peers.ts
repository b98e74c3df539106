/**
 * The connections of a front end to the transports of the topology. Owns: one peer session per member, dialled with backoff and jitter
 * for as long as the document names it; what each member last said about its load; the answers to RESOLVE. Promise: `candidates` lists
 * only members whose handshake is complete; callbacks never run after `stop`. Refuses streams opened by a transport: a front end takes
 * no mail from inside. Fails by having no candidates.
 */
import type { MemberConfig, TopologyDocument } from '../common/config.ts';
import type { CopyId } from '../common/message.ts';
import type { ControlFrame, Hello, Load, Resolve, Resolved } from '../common/peer/messages.ts';
import { runPeerSession } from '../common/peer/session.ts';
import type { PeerSession } from '../common/peer/session-api.ts';
import type { Clock, Timer } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import type { Network } from '../common/platform/net.ts';
import { type Random, randomFraction } from '../common/platform/random.ts';
import type { Candidate } from './picker.ts';

export interface TransportPeersDeps {
  readonly name: string;
  /** Unique per process incarnation. */
  readonly uid: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly log: Logger;
  readonly metrics: Metrics;
}

const CONNECT_TIMEOUT_MS = 2_000;
const HANDSHAKE_TIMEOUT_MS = 5_000;
const KEEP_ALIVE_MS = 2_000;
/** A silent transport is given up before the client's patience is, and before the shortest takeover (protocol.md 5). */
const DEAD_AFTER_MS = 6_000;
const FIRST_RETRY_MS = 50;
/** Who is back is asked for its first message within a second. */
const LAST_RETRY_MS = 1_000;
/** While somebody waits for a RESOLVE (2 s): not slower than this. */
const HURRIED_RETRY_MS = 250;

interface Link {
  member: MemberConfig;
  session: PeerSession | null;
  load: Load | null;
  failures: number;
  retry: Timer | null;
  dialling: boolean;
  gone: boolean;
  problem: string | null;
}

interface Ask {
  readonly member: string;
  readonly resolve: Resolve;
  readonly onAnswer: (resolved: Resolved, session: PeerSession) => void;
}

export class TransportPeers {
  readonly #deps: TransportPeersDeps;
  readonly #links = new Map<string, Link>();
  readonly #asks = new Map<CopyId, Set<Ask>>();
  readonly #streams = new Map<string, number>();
  #document: TopologyDocument;
  #running = false;

  constructor(deps: TransportPeersDeps, document: TopologyDocument) {
    this.#deps = deps;
    this.#document = document;
  }

  start(): void {
    this.#running = true;
    this.setTopology(this.#document);
  }

  stop(reason: string): void {
    this.#running = false;
    for (const link of this.#links.values()) this.#remove(link, reason);
    this.#links.clear();
    this.#asks.clear();
  }

  setTopology(document: TopologyDocument): void {
    this.#document = document;
    if (!this.#running) return;
    const wanted = new Map(document.members.filter((m) => m.state !== 'gone').map((m) => [m.name, m]));
    for (const [name, link] of this.#links) {
      const member = wanted.get(name);
      if (member !== undefined && sameAddress(member, link.member)) {
        link.member = member;
        wanted.delete(name);
        continue;
      }
      this.#remove(link, member === undefined ? 'no longer in the topology' : 'address changed');
      this.#links.delete(name);
    }
    for (const member of wanted.values()) {
      const link: Link = {
        member,
        session: null,
        load: null,
        failures: 0,
        retry: null,
        dialling: false,
        gone: false,
        problem: 'not yet connected',
      };
      this.#links.set(member.name, link);
      this.#dial(link);
    }
  }

  candidates(): readonly Candidate[] {
    const found: Candidate[] = [];
    for (const { member, session, load } of this.#links.values()) {
      const identity = session === null || session.closed ? undefined : session.hello.database?.identity;
      if (identity === undefined) continue;
      found.push({ member, identity, load, ownStreams: this.#streams.get(member.name) ?? 0 });
    }
    return found;
  }

  /** Why members are not connected, for logs and readiness. */
  problems(): readonly { readonly member: string; readonly problem: string }[] {
    return [...this.#links.values()].flatMap(({ member, session, problem }) =>
      session === null ? [{ member: member.name, problem: problem ?? 'not connected' }] : [],
    );
  }

  session(member: string): PeerSession | null {
    const session = this.#links.get(member)?.session ?? null;
    return session?.closed === true ? null : session;
  }

  countStream(member: string, change: 1 | -1): void {
    this.#streams.set(member, Math.max(0, (this.#streams.get(member) ?? 0) + change));
  }

  /** Sends RESOLVE now or as soon as the member is back; again after each reconnection, until cancelled. */
  resolve(
    member: string,
    resolve: Resolve,
    onAnswer: (resolved: Resolved, session: PeerSession) => void,
  ): { cancel(): void } {
    const ask: Ask = { member, resolve, onAnswer };
    const asks = this.#asks.get(resolve.id) ?? new Set();
    this.#asks.set(resolve.id, asks.add(ask));
    const session = this.session(member);
    if (session !== null) session.send({ kind: 'RESOLVE', resolve });
    else this.#hurry(member);
    return {
      cancel: () => {
        asks.delete(ask);
        if (asks.size === 0 && this.#asks.get(resolve.id) === asks) this.#asks.delete(resolve.id);
      },
    };
  }

  #hurry(member: string): void {
    const link = this.#links.get(member);
    if (link === undefined || link.dialling || link.session !== null) return;
    link.failures = Math.min(link.failures, 2);
    link.retry?.cancel();
    this.#deps.metrics.set('peer_up', 0, { peer: link.member.name });
    this.#dial(link);
  }

  #remove(link: Link, reason: string): void {
    link.gone = true;
    this.#deps.metrics.set('peer_up', Number.NaN, { peer: link.member.name });
    link.retry?.cancel();
    link.session?.close(reason);
  }

  #dial(link: Link): void {
    const { network, log } = this.#deps;
    const { member } = link;
    link.retry = null;
    link.dialling = true;
    network.connect(member.address, { role: 'transport', name: member.name }, CONNECT_TIMEOUT_MS).then(
      (connection) => {
        if (link.gone) return connection.destroy('front end no longer wants it');
        runPeerSession({
          connection,
          dialled: true,
          hello: () => this.#hello(),
          check: (hello) =>
            hello.cluster !== this.#document.cluster
              ? { kind: 'refuse', reason: 'OtherCluster', detail: `this is ${this.#document.cluster}` }
              : hello.database === null
                ? { kind: 'refuse', reason: 'NoDatabase', detail: 'a transport needs a queue database' }
                : { kind: 'accept' },
          clock: this.#deps.clock,
          log,
          keepAliveMs: KEEP_ALIVE_MS,
          deadAfterMs: DEAD_AFTER_MS,
          handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS,
          maxIncomingStreams: 0,
          handlers: {
            onReady: (session) => this.#onReady(link, session),
            onControl: (session, frame) => this.#onControl(link, session, frame),
            onStream: (_session, stream) =>
              stream.refuse({
                reply: { code: 554, enhanced: '5.7.1', text: 'a front end takes no mail from inside' },
                tryOther: false,
              }),
            onClose: (session, reason) => this.#onClose(link, session, reason),
          },
        });
      },
      (error: unknown) => this.#onClose(link, null, error instanceof Error ? error.message : String(error)),
    );
  }

  #hello(): Hello {
    return {
      versions: [1],
      role: 'frontend',
      name: this.#deps.name,
      cluster: this.#document.cluster,
      boundary: null,
      database: null,
      seen: null,
      uid: this.#deps.uid,
      generation: this.#document.generation,
    };
  }

  #onReady(link: Link, session: PeerSession): void {
    link.dialling = false;
    if (link.gone) return session.close('front end no longer wants it');
    link.session = session;
    link.load = null;
    link.failures = 0;
    link.problem = null;
    this.#deps.log.info({ peer: link.member.name, identity: session.hello.database?.identity }, 'transport connected');
    this.#deps.metrics.set('peer_up', 1, { peer: link.member.name });
    for (const asks of this.#asks.values())
      for (const { member, resolve } of asks)
        if (member === link.member.name) session.send({ kind: 'RESOLVE', resolve });
  }

  #onControl(link: Link, session: PeerSession, frame: ControlFrame): void {
    if (link.gone) return;
    if (frame.kind === 'CONTACT') link.load = frame.contact.load;
    else if (frame.kind === 'RESOLVED') this.#onResolved(link, session, frame.resolved);
  }

  #onResolved(link: Link, session: PeerSession, resolved: Resolved): void {
    for (const ask of [...(this.#asks.get(resolved.id) ?? [])])
      if (ask.member === link.member.name && ask.resolve.through === resolved.through) ask.onAnswer(resolved, session);
  }

  #onClose(link: Link, session: PeerSession | null, reason: string): void {
    const { clock, random, log, metrics } = this.#deps;
    if (session !== null && link.session !== session) return;
    link.session = null;
    link.load = null;
    link.dialling = false;
    link.problem = reason;
    metrics.set('peer_up', link.gone ? Number.NaN : 0, { peer: link.member.name });
    if (link.gone || !this.#running) return;
    const wanted = [...this.#asks.values()].some((asks) => [...asks].some((ask) => ask.member === link.member.name));
    const limitMs = wanted ? HURRIED_RETRY_MS : LAST_RETRY_MS;
    // Full jitter above a half: a restarted transport is not met by all front ends at once.
    const waitMs =
      Math.min(limitMs, FIRST_RETRY_MS * 2 ** Math.min(link.failures, 10)) * (0.5 + randomFraction(random) / 2);
    // A transport that is down for long is not news at every attempt.
    if (session !== null || link.failures === 0)
      log.warn({ peer: link.member.name, reason }, 'transport not connected');
    link.failures += 1;
    link.retry = clock.setTimer(waitMs, () => this.#dial(link));
  }
}

const sameAddress = (a: MemberConfig, b: MemberConfig): boolean =>
  a.address.host === b.address.host && a.address.port === b.address.port;
