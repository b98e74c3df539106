/**
 * The sessions of this transport to transports of other boundaries, to which it brings mail as a front end does (semantics.md D3). Owns: dialling when something
 * is to be brought, one session for each member, closed when nobody used it for a while; the answers to RESOLVE. Takes nothing from the other side but answers.
 */
import type { MemberConfig, TopologyDocument } from '../../common/config.ts';
import type { CopyId } from '../../common/message.ts';
import type { Load, Resolve, Resolved } from '../../common/peer/messages.ts';
import { runPeerSession } from '../../common/peer/session.ts';
import { type PeerSession, REFUSED_BY_PEER } from '../../common/peer/session-api.ts';
import type { Timer } from '../../common/platform/clock.ts';
import type { Connection } from '../../common/platform/net.ts';
import { reply } from '../../common/smtp/replies.ts';
import type { TransportDeps } from './deps.ts';

const CONNECT_TIMEOUT_MS = 2_000;
const HANDSHAKE_TIMEOUT_MS = 5_000;
const IDLE_MS = 60_000;
/** What a person who reads of a refusal should look at: mail waits meanwhile. */
const MAY_BE_OLDER = 'its version is older than this one, or its topology document has no site links yet';

/** A session, or why there is none. */
export type Reached = PeerSession | string;

interface Link {
  readonly reached: Promise<Reached>;
  idle: Timer | null;
  users: number;
  /** What it last said about itself; null before its first CONTACT. */
  load: Load | null;
}

interface Ends {
  readonly ready: (session: PeerSession) => void;
  readonly gone: (reason: string) => void;
}

export class RelaySessions {
  readonly #deps: TransportDeps;
  readonly #document: () => TopologyDocument;
  readonly #links = new Map<string, Link>();
  readonly #waiting = new Map<string, (resolved: Resolved | null) => void>();
  #stopped = false;

  constructor(deps: TransportDeps, document: () => TopologyDocument) {
    this.#deps = deps;
    this.#document = document;
  }

  /** Runs `use` with a session that is not closed for being idle meanwhile. */
  async with<T>(member: MemberConfig, use: (reached: Reached) => Promise<T>): Promise<T> {
    const link = this.#links.get(member.name) ?? this.#connect(member);
    link.users += 1;
    link.idle?.cancel();
    link.idle = null;
    try {
      return await use(await link.reached);
    } finally {
      link.users -= 1;
      if (link.users === 0 && !this.#stopped)
        link.idle = this.#deps.clock.setTimer(IDLE_MS, () => void this.#close(member.name, link));
    }
  }

  /** Of a member with which there is a session. */
  loadOf(name: string): { readonly load: Load | null; readonly users: number } {
    const { load = null, users = 0 } = this.#links.get(name) ?? {};
    return { load, users };
  }

  async #close(name: string, link: Link): Promise<void> {
    if (this.#links.get(name) === link) this.#links.delete(name);
    const reached = await link.reached;
    if (typeof reached !== 'string') reached.close('nothing to bring');
  }

  #connect(member: MemberConfig): Link {
    const { promise, resolve } = Promise.withResolvers<Reached>();
    const link: Link = { reached: promise, idle: null, users: 0, load: null };
    this.#links.set(member.name, link);
    const gone = (reason: string): void => {
      link.idle?.cancel();
      if (this.#links.get(member.name) === link) this.#links.delete(member.name);
      resolve(reason);
    };
    this.#deps.network.connect(member.address, { role: 'transport', name: member.name }, CONNECT_TIMEOUT_MS).then(
      (connection) => this.#run(connection, link, { ready: resolve, gone }),
      (error: unknown) => gone(error instanceof Error ? error.message : String(error)),
    );
    return link;
  }

  #run(connection: Connection, link: Link, { ready, gone }: Ends): void {
    if (this.#stopped) {
      connection.destroy('stopping');
      return gone('stopping');
    }
    runPeerSession({
      connection,
      dialled: true,
      hello: () => {
        const { cluster, generation, members } = this.#document();
        const { name, uid } = this.#deps;
        const boundary = members.find((one) => one.name === name)?.boundary ?? null;
        // No queue database: it brings mail, and speaks of no copy (semantics.md S14).
        return {
          ...{ versions: [1], role: 'transport', name, cluster, boundary },
          database: null,
          seen: null,
          uid,
          generation,
        };
      },
      check: ({ cluster, database }) =>
        cluster === this.#document().cluster && database !== null
          ? { kind: 'accept' }
          : { kind: 'refuse', reason: 'not a transport of this cluster', detail: cluster },
      clock: this.#deps.clock,
      log: this.#deps.log,
      keepAliveMs: this.#deps.keepAliveMs ?? 4_000,
      deadAfterMs: this.#deps.deadAfterMs ?? 10_000,
      handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS,
      maxIncomingStreams: 0,
      handlers: {
        onReady: ready,
        onControl: (session, frame) => {
          if (frame.kind === 'RESOLVED') this.#waiting.get(key(session.remote.name, frame.resolved))?.(frame.resolved);
          if (frame.kind === 'CONTACT') link.load = frame.contact.load;
        },
        onStream: (_session, stream) => stream.refuse({ reply: reply('localError'), tryOther: false }),
        onClose: (session, reason) => {
          for (const [asked, answer] of this.#waiting)
            if (session !== null && asked.startsWith(`${session.remote.name} `)) answer(null);
          gone(session === null && reason.startsWith(REFUSED_BY_PEER) ? `${reason} (${MAY_BE_OLDER})` : reason);
        },
      },
    });
  }

  /** What became of it, or null: not to be known now. */
  async resolve(session: PeerSession, asked: Resolve): Promise<Resolved | null> {
    const { promise, resolve } = Promise.withResolvers<Resolved | null>();
    const id = key(session.remote.name, asked);
    this.#waiting.get(id)?.(null);
    this.#waiting.set(id, resolve);
    const timer = this.#deps.clock.setTimer(asked.deadlineMs + 1_000, () => resolve(null));
    if (session.closed) resolve(null);
    else session.send({ kind: 'RESOLVE', resolve: asked });
    const answer = await promise;
    timer.cancel();
    if (this.#waiting.get(id) === resolve) this.#waiting.delete(id);
    return answer;
  }

  stop(): void {
    this.#stopped = true;
    for (const [name, link] of this.#links) {
      link.idle?.cancel();
      void this.#close(name, link);
    }
    for (const answer of this.#waiting.values()) answer(null);
  }
}

const key = (member: string, { id, through }: { readonly id: CopyId; readonly through: number }): string =>
  `${member} ${id} ${through}`;
