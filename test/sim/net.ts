/**
 * The simulated network: the `Network` port on the event heap. Owns: every simulated connection, its bytes in flight and the faults
 * between named hosts. Promises: bytes of one direction arrive in order, once, in arbitrary pieces, or the connection ends; nothing
 * calls back into, or settles a promise of, a dead incarnation; equal seeds give equal histories. Refuses to model: lost or altered
 * bytes inside a living connection (TCP and TLS exclude them). Fails like sockets do: ECONNREFUSED, ETIMEDOUT, ERR_PEER_IDENTITY.
 *
 * Cost: at most one event in the heap per direction; everything due is delivered by one event.
 */
import type { Connection, Listener, Network, PeerAddress, PeerName } from '../../common/platform/net.ts';
import { deliverTo, type Incarnation } from './incarnation.ts';
import type { Scheduler, SeededRandom } from './scheduler.ts';
import { SimConnection, type SimLink } from './sim-connection.ts';

export type Direction = 'both' | 'a-to-b';

/** What the network does without being told; all of it may be changed while it runs. */
export interface SimNetworkOptions {
  minLatencyMs: number;
  maxLatencyMs: number;
  /** Chance that a write arrives in several pieces. */
  fragmentChance: number;
  /** Chance that a write is cut at a random byte and the connection reset there. */
  resetChance: number;
  /** Bytes in flight above which `write` answers false. */
  highWaterBytes: number;
}

const DEFAULTS: SimNetworkOptions = {
  minLatencyMs: 0.1,
  maxLatencyMs: 1,
  fragmentChance: 0.2,
  resetChance: 0,
  highWaterBytes: 262_144,
};

interface Host {
  readonly peer: PeerName;
  readonly incarnation: Incarnation;
  readonly listeners: Map<number, (connection: Connection) => void>;
  reaped: boolean;
}

interface Attempt {
  readonly from: Host;
  readonly address: PeerAddress;
  readonly expected: PeerName;
  settled: boolean;
  readonly resolve: (connection: Connection) => void;
  readonly fail: (code: string) => void;
}

const pathKey = (from: string, to: string): string => `${from}>${to}`;
const pairKey = (a: string, b: string): string => (a < b ? `${a}|${b}` : `${b}|${a}`);

const codedError = (code: string, detail: string): Error => Object.assign(new Error(`${code}: ${detail}`), { code });

export class SimNetwork implements SimLink {
  readonly scheduler: Scheduler;
  readonly random: SeededRandom;
  readonly options: SimNetworkOptions;
  #hosts = new Map<string, Host>();
  /** Living hosts whose name another one answers to. */
  #besides = new Set<Host>();
  #cuts = new Set<string>();
  #clogs = new Map<string, number>();
  #connections = new Set<SimConnection>();
  #waiting = new Set<Attempt>();
  #nextPort = 20_000;

  constructor(scheduler: Scheduler, options: Partial<SimNetworkOptions> = {}) {
    this.scheduler = scheduler;
    this.random = scheduler.random.fork();
    this.options = { ...DEFAULTS, ...options };
  }

  /**
   * The network port of one life of a process; addresses name hosts by `peer.name`. An earlier life of that name is reaped, unless two at once are
   * what is wanted (`beside`): then who came last is called by that name, and both may call others.
   */
  host(peer: PeerName, incarnation: Incarnation, beside = false): Network {
    const earlier = this.#hosts.get(peer.name);
    if (earlier !== undefined && earlier.incarnation !== incarnation) {
      if (!earlier.incarnation.alive) this.#reapHost(earlier, false);
      else if (beside) this.#besides.add(earlier);
      else throw new Error(`two living incarnations of ${peer.name}`);
    }
    const host: Host = { peer, incarnation, listeners: new Map(), reaped: false };
    this.#hosts.set(peer.name, host);
    for (const connection of this.#connections) {
      if (connection.remote.name === peer.name) connection.wake();
    }
    return {
      connect: (address, expected, timeoutMs) => this.#connect(host, address, expected, timeoutMs),
      listen: (address, onConnection) => this.#listen(host, address, onConnection),
    };
  }

  /**
   * Call after setting `alive = false`: listeners vanish, the other ends see a reset (nothing when the way there is cut).
   * `silent`: the machine vanished; the other ends see nothing until the name has a new incarnation to answer them.
   * Without this call the other ends notice when they next send.
   */
  reap(silent = false): void {
    for (const host of this.#besides)
      if (!host.incarnation.alive) {
        this.#reapHost(host, silent);
        this.#besides.delete(host);
      }
    for (const host of this.#hosts.values()) if (!host.incarnation.alive) this.#reapHost(host, silent);
    for (const host of this.#besides) {
      if (this.#hosts.get(host.peer.name)?.incarnation.alive !== false) continue;
      this.#hosts.set(host.peer.name, host);
      this.#besides.delete(host);
    }
  }

  /** Bytes (and resets) on this way are held until healed; connecting needs both ways. */
  cut(a: string, b: string, direction: Direction = 'both'): void {
    this.#cuts.add(pathKey(a, b));
    if (direction === 'both') this.#cuts.add(pathKey(b, a));
  }

  heal(a: string, b: string, direction: Direction = 'both'): void {
    this.#cuts.delete(pathKey(a, b));
    if (direction === 'both') this.#cuts.delete(pathKey(b, a));
    this.#afterHeal();
  }

  healAll(): void {
    this.#cuts.clear();
    this.#clogs.clear();
    this.#afterHeal();
  }

  /** Resets every connection between the two at both ends, whatever is cut, at a random byte of what is in flight. */
  reset(a: string, b: string): void {
    const pair = pairKey(a, b);
    for (const connection of [...this.#connections]) {
      if (pairKey(connection.localName, connection.remote.name) !== pair) continue;
      connection.resetOther();
    }
  }

  /** From now on everything between the two takes `extraMs` longer, in both directions. */
  clog(a: string, b: string, extraMs: number): void {
    this.#clogs.set(pairKey(a, b), extraMs);
  }

  restore(a: string, b: string): void {
    this.#clogs.delete(pairKey(a, b));
  }

  /** Open ends, for checkers. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  isCut(from: string, to: string): boolean {
    return this.#cuts.size > 0 && this.#cuts.has(pathKey(from, to));
  }

  latencyMs(from: string, to: string): number {
    const { minLatencyMs, maxLatencyMs } = this.options;
    const extra = this.#clogs.size === 0 ? 0 : (this.#clogs.get(pairKey(from, to)) ?? 0);
    return minLatencyMs + this.random.next() * (maxLatencyMs - minLatencyMs) + extra;
  }

  forget(connection: SimConnection): void {
    this.#connections.delete(connection);
  }

  hasLiveHost(name: string): boolean {
    return this.#hosts.get(name)?.incarnation.alive === true;
  }

  #reapHost(host: Host, silent: boolean): void {
    if (host.reaped) return;
    host.reaped = true;
    host.listeners.clear();
    for (const connection of [...this.#connections]) {
      if (connection.incarnation === host.incarnation && connection.localName === host.peer.name)
        connection.die(silent);
    }
  }

  #afterHeal(): void {
    for (const connection of this.#connections) connection.wake();
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const attempt of waiting) this.#knock(attempt);
  }

  async #listen(host: Host, address: PeerAddress, onConnection: (c: Connection) => void): Promise<Listener> {
    const port = address.port === 0 ? this.#nextPort++ : address.port;
    if (!host.incarnation.alive) return new Promise(() => undefined);
    if (host.listeners.has(port)) throw codedError('EADDRINUSE', `${address.host}:${port}`);
    host.listeners.set(port, onConnection);
    return {
      port,
      close: async () => {
        if (host.listeners.get(port) === onConnection) host.listeners.delete(port);
      },
    };
  }

  #connect(from: Host, address: PeerAddress, expected: PeerName, timeoutMs: number): Promise<Connection> {
    return new Promise((resolve, reject) => {
      if (!from.incarnation.alive) return;
      const settle = (run: () => void): void => {
        if (attempt.settled) return;
        attempt.settled = true;
        timer.cancel();
        this.#waiting.delete(attempt);
        deliverTo(from.incarnation, this.scheduler, run);
      };
      const attempt: Attempt = {
        from,
        address,
        expected,
        settled: false,
        resolve: (connection) => settle(() => resolve(connection)),
        fail: (code) => settle(() => reject(codedError(code, `${expected.role} ${expected.name}`))),
      };
      const timer = this.scheduler.schedule(timeoutMs, () => attempt.fail('ETIMEDOUT'));
      this.#knock(attempt);
    });
  }

  #knock(attempt: Attempt): void {
    const [from, to] = [attempt.from.peer.name, attempt.address.host];
    this.scheduler.schedule(this.latencyMs(from, to), () => {
      if (attempt.settled || !attempt.from.incarnation.alive) return;
      if (this.isCut(from, to) || this.isCut(to, from)) {
        this.#waiting.add(attempt);
        return;
      }
      this.#arrive(attempt);
    });
  }

  #arrive(attempt: Attempt): void {
    const { from, address, expected } = attempt;
    const target = this.#hosts.get(address.host);
    const back = this.latencyMs(address.host, from.peer.name);
    const onConnection = target?.incarnation.alive === true ? target.listeners.get(address.port) : undefined;
    if (target === undefined || onConnection === undefined) {
      this.scheduler.schedule(back, () => attempt.fail('ECONNREFUSED'));
      return;
    }
    if (target.peer.name !== expected.name || target.peer.role !== expected.role) {
      this.scheduler.schedule(back, () => attempt.fail('ERR_PEER_IDENTITY'));
      return;
    }
    const near = new SimConnection(this, from.peer.name, from.incarnation, target.peer);
    const far = new SimConnection(this, target.peer.name, target.incarnation, from.peer);
    near.join(far);
    far.join(near);
    this.#connections.add(near).add(far);
    this.scheduler.schedule(back, () => {
      if (attempt.settled) near.destroy('connect timed out');
      else if (near.closed) attempt.fail('ECONNRESET');
      else attempt.resolve(near);
    });
    deliverTo(target.incarnation, this.scheduler, () => onConnection(far));
  }
}
