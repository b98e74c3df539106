/**
 * Connections to next hops. Owns: every SMTP and LMTP client connection of this transport, idle or in use.
 * Promise: at most `maxPerDestination` connections to one destination, in order of asking; an idle one is reused until it has been idle
 * for `idleMs`, served `maxMessages`, or is the oldest of more than `MOST_IDLE`; a destination that cannot be reached answers all who wait for it at once. After `close` nothing
 * is open and nobody waits.
 */
import { createHash } from 'node:crypto';
import type { ConnectorSession } from '../../common/config.ts';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import {
  ClientError,
  type ClientOptions,
  type ClientTimeouts,
  connectClient,
  type MailClient,
} from '../../common/smtp/client.ts';
import { type DaneProof, shownTlsa } from '../../common/smtp/dane.ts';
import type { ReadCredentials } from './connector-credentials.ts';

type SessionOptions = Pick<ClientOptions, 'isUnproven' | 'sourceAddress' | 'credentials'>;

export interface Destination {
  readonly protocol: 'SMTP' | 'LMTP';
  readonly host: string;
  readonly port: number;
  readonly tls: 'None' | 'Opportunistic' | 'Required';
  /** `host` is an address, and this the name it was found by. */
  readonly tlsName?: string;
  readonly session?: ConnectorSession | null;
  /** What the host must prove, whatever authorities say; with `Required`. */
  readonly dane?: DaneProof;
  /** Why there is no proof by DANE, where it was looked for; for people. */
  readonly noDane?: string;
}

export interface PoolOptions {
  readonly clock: Clock;
  readonly hostname: string;
  readonly timeouts: ClientTimeouts;
  readonly idleMs: number;
  readonly maxPerDestination: number;
  readonly maxMessages: number;
  readonly credentials: ReadCredentials;
  /** PEM of authorities for `Required`; the system's when absent. */
  readonly ca?: string;
}

export interface Lease {
  readonly client: MailClient;
  /** It has served before: it may have gone stale in between. */
  readonly reused: boolean;
}

/** Over all destinations: of ten thousand each would keep one for ten seconds. */
export const MOST_IDLE = 256;

interface Idle {
  readonly client: MailClient;
  readonly timer: Timer;
}

interface Place {
  readonly destination: Destination;
  /** Open, opening or idle. */
  count: number;
  readonly idle: Idle[];
  readonly waiting: ((answer: 'free' | Lease | ClientError) => void)[];
}

export class DeliveryPool {
  readonly #options: PoolOptions;
  readonly #places = new Map<string, Place>();
  readonly #served = new Map<MailClient, number>();
  /** Oldest first. */
  readonly #idle = new Map<Idle, Place>();
  readonly #abort = new AbortController();

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /** `fresh`: idle connections are given up, they are likely stale as well. */
  async acquire(destination: Destination, fresh: boolean): Promise<Lease | ClientError> {
    if (this.#abort.signal.aborted) return new ClientError('ABORTED', 'stopping');
    const place = this.#place(destination);
    if (fresh) for (const one of place.idle.splice(0)) this.#retire(place, one);
    const idle = place.idle.pop();
    if (idle !== undefined) {
      this.#idle.delete(idle);
      idle.timer.cancel();
      return { client: idle.client, reused: true };
    }
    if (place.count >= this.#options.maxPerDestination) {
      const { promise, resolve } = Promise.withResolvers<'free' | Lease | ClientError>();
      place.waiting.push(resolve);
      const answer = await promise;
      if (answer !== 'free') return answer;
    } else {
      place.count++;
    }
    return this.#open(place);
  }

  /** Gives a connection back; a broken one makes room. */
  release(destination: Destination, { client }: Lease): void {
    const place = this.#place(destination);
    const served = (this.#served.get(client) ?? 0) + 1;
    this.#served.set(client, served);
    if (this.#abort.signal.aborted || !client.isUsable || served >= this.#options.maxMessages) {
      this.#forget(client);
      this.#makeRoom(place);
      return;
    }
    const next = place.waiting.shift();
    if (next !== undefined) return next({ client, reused: true });
    const entry: Idle = {
      client,
      timer: this.#options.clock.setTimer(this.#options.idleMs, () => this.#removeIdle(place, entry)),
    };
    place.idle.push(entry);
    this.#idle.set(entry, place);
    // The next hop closes idle connections, too.
    client.onClosed(() => this.#removeIdle(place, entry));
    const [oldest] = this.#idle;
    if (this.#idle.size > MOST_IDLE && oldest !== undefined) this.#removeIdle(oldest[1], oldest[0]);
  }

  /** Cuts everything off. */
  close(): void {
    this.#abort.abort();
    for (const place of this.#places.values()) {
      for (const idle of place.idle.splice(0)) this.#retire(place, idle);
      for (const wake of place.waiting.splice(0)) wake(new ClientError('ABORTED', 'stopping'));
    }
    for (const client of [...this.#served.keys()]) client.destroy('stopping');
    this.#served.clear();
  }

  async #open(place: Place): Promise<Lease | ClientError> {
    const { hostname, clock, timeouts, ca } = this.#options;
    const { session, ...destination } = place.destination;
    try {
      const client = await connectClient({
        ...destination,
        ...(await this.#sessionOptions(session ?? null)),
        hostname,
        clock,
        timeouts,
        signal: this.#abort.signal,
        ...(ca === undefined ? {} : { ca }),
      });
      if (this.#abort.signal.aborted) {
        client.destroy('stopping');
        throw new ClientError('ABORTED', 'stopping');
      }
      this.#served.set(client, 0);
      return { client, reused: false };
    } catch (error) {
      if (!(error instanceof ClientError)) {
        // Of this attempt, not of the destination: the next one may try.
        this.#makeRoom(place);
        throw error;
      }
      place.count--;
      for (const wake of place.waiting.splice(0)) wake(error);
      this.#dropEmpty(place);
      return error;
    }
  }

  async #sessionOptions(session: ConnectorSession | null): Promise<SessionOptions> {
    if (session === null) return {};
    const { isUnproven, sourceAddress, credentials: secret } = session;
    const credentials = secret === null ? null : await this.#options.credentials(secret);
    if (credentials !== null && 'problem' in credentials) throw new ClientError('AUTH', credentials.problem);
    return {
      isUnproven,
      ...(sourceAddress === null ? {} : { sourceAddress }),
      ...(credentials === null ? {} : { credentials }),
    };
  }

  #place(destination: Destination): Place {
    const key = keyOf(destination);
    let place = this.#places.get(key);
    if (place === undefined) {
      place = { destination, count: 0, idle: [], waiting: [] };
      this.#places.set(key, place);
    }
    return place;
  }

  #removeIdle(place: Place, entry: Idle): void {
    const at = place.idle.indexOf(entry);
    if (at < 0) return;
    place.idle.splice(at, 1);
    this.#retire(place, entry);
  }

  #retire(place: Place, idle: Idle): void {
    this.#idle.delete(idle);
    idle.timer.cancel();
    this.#forget(idle.client);
    this.#makeRoom(place);
  }

  #forget(client: MailClient): void {
    this.#served.delete(client);
    client.onClosed(() => undefined);
    client.quit();
  }

  #makeRoom(place: Place): void {
    const next = place.waiting.shift();
    if (next !== undefined) return next('free');
    place.count--;
    this.#dropEmpty(place);
  }

  #dropEmpty(place: Place): void {
    if (place.count === 0 && place.waiting.length === 0) this.#places.delete(keyOf(place.destination));
  }
}

function keyOf({ protocol, host, port, tls, tlsName, session, dane }: Destination): string {
  const said = session ? `${session.isUnproven} ${session.credentials ?? ''} ${session.sourceAddress ?? ''}` : '';
  // Who was proven by a record that is there no more must prove it again.
  const proof = dane === undefined ? '' : proofKey(dane);
  return `${protocol} ${host} ${port} ${tls} ${tlsName ?? ''} ${said} ${proof}`;
}

/** Name servers turn the records round. */
function proofKey({ base, names, records }: DaneProof): string {
  const said = records.map((one) => `${shownTlsa(one)} ${one.certificate.toString('base64')}`).sort();
  return `${base} ${names.join(' ')} ${createHash('sha256').update(said.join('\n')).digest('hex')}`;
}
