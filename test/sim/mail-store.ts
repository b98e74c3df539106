/**
 * The world outside: mailbox stores and the relay, behind the delivery port. Owns: what was offered by whom, what every copy of a mailbox database holds
 * (with its own memory of what it has, protocol.md 23), failover to a copy that lags behind, and the moods of a store: slow, refusing, dying after the dot.
 */
import { createHash } from 'node:crypto';
import type { CopyId } from '../../common/message.ts';
import type { DeliveryAgent, DeliveryRequest, RecipientResult } from '../../transport/runtime/delivery-api.ts';
import type { QueueDatabase } from '../../transport/store/database.ts';
import { deliverTo, type Incarnation } from './incarnation.ts';
import type { Scheduler, SeededRandom } from './scheduler.ts';

export interface Offer {
  readonly copyId: CopyId;
  readonly deliveryId: string;
  readonly contentKey: string | null;
  /** Of SPF, DKIM and DMARC, as the agent would write them. */
  readonly results: readonly string[];
  readonly address: string;
  readonly digest: string;
  readonly by: string;
  readonly atMs: number;
  /** Database, copy, how many failovers it had had and of how many the transport knew; or connector. */
  readonly place: string;
  readonly visible: boolean;
  /** The store took it but its reply never reached the agent. */
  readonly replyLost: boolean;
}

const keyOf = (offer: { readonly deliveryId: string; readonly address: string }): string =>
  `${offer.deliveryId} ${offer.address}`;

export class MailStore {
  readonly offers: Offer[] = [];
  /** What users find, by place: one table per copy of a database and per connector. */
  readonly #tables = new Map<string, Map<string, Offer>>();
  readonly #active = new Map<string, string>();
  readonly #failovers = new Map<string, number>();
  readonly #scheduler: Scheduler;
  readonly #random: SeededRandom;
  /** Turned off in the healing phase. */
  moody = true;
  /** Databases and connectors that refuse every connection. */
  readonly down = new Set<string>();
  /** All of them do. */
  isHeld = false;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
    this.#random = scheduler.random.fork();
  }

  /**
   * The copy becomes the active one with what it had got by replication: everything older than the lag. The former one stays reachable for who has not
   * heard of it, but nobody reads there any more.
   */
  failOver(database: string, from: string, to: string, lagMs: number): number {
    const present = this.#table(`${database}/${from}`);
    const arrived = [...present].filter(([, offer]) => offer.atMs <= this.#scheduler.nowMs - lagMs);
    this.#tables.set(`${database}/${to}`, new Map(arrived));
    this.#active.set(database, to);
    this.#failovers.set(database, (this.#failovers.get(database) ?? 0) + 1);
    return present.size - arrived.length;
  }

  /** How often a user finds these bytes now. */
  seen(address: string, digest: string): number {
    let found = 0;
    for (const [place, table] of this.#tables) {
      const [database = '', copy] = place.split('/');
      if (copy !== undefined && copy !== (this.#active.get(database) ?? 'main')) continue;
      for (const offer of table.values()) if (offer.address === address && offer.digest === digest) found += 1;
    }
    return found;
  }

  /** The delivery port of one life of a transport. */
  agent(
    member: string,
    incarnation: Incarnation,
    database: QueueDatabase,
    onDamaged: (id: CopyId) => void,
  ): DeliveryAgent {
    const run = (act: () => void): void => deliverTo(incarnation, this.#scheduler, act);
    return {
      start: (request, done) => {
        const delayMs = this.#random.integer(1, this.moody && this.#random.chance(0.1) ? 2_000 : 30);
        this.#scheduler.schedule(delayMs, () =>
          run(
            () =>
              void this.#deliver(member, incarnation, database, request, (results, isDamaged) =>
                run(() => {
                  done(results);
                  if (isDamaged === true) onDamaged(request.copyId);
                }),
              ),
          ),
        );
      },
      close: () => Promise.resolve(),
    };
  }

  async #deliver(
    member: string,
    incarnation: Incarnation,
    database: QueueDatabase,
    request: DeliveryRequest,
    done: (results: readonly RecipientResult[], isDamaged?: boolean) => void,
  ): Promise<void> {
    const { route } = request;
    const place = route.kind === 'mailbox' ? route.database : route.connector;
    if (this.isHeld || this.down.has(place) || (this.moody && this.#random.chance(0.1)))
      return done(
        request.recipients.map(({ index }) => ({
          index,
          kind: 'deferred',
          reply: 'connection refused',
          scope: 'host',
        })),
      );
    if (!request.mayBegin()) return done(request.recipients.map(({ index }) => ({ index, kind: 'withheld' })));
    const digest = await digestOf(database, request.copyId);
    if (!incarnation.alive) return;
    if (typeof digest !== 'string')
      return done(
        request.recipients.map(({ index }) => ({
          index,
          kind: 'deferred',
          reply: 'body unreadable',
          scope: 'message',
        })),
        digest.isDamaged,
      );
    const replyLost = this.moody && this.#random.chance(0.08);
    const results = request.recipients.map(({ index, recipient }): RecipientResult => {
      if (recipient.address.includes('refused'))
        return { index, kind: 'failed', reply: { code: 550, enhanced: '5.2.1', text: 'mailbox disabled' } };
      if (this.moody && this.#random.chance(0.1))
        return { index, kind: 'deferred', reply: '452 4.2.2 mailbox full', scope: 'recipient' };
      this.#take(member, request, recipient.address, digest, replyLost);
      if (replyLost) return { index, kind: 'unknown', reason: 'connection lost after the final dot' };
      const kind = route.kind === 'mailbox' ? 'delivered' : 'relayed';
      return { index, kind, reply: '250 2.0.0 ok', dsnPassedOn: false };
    });
    done(results);
  }

  #table(place: string): Map<string, Offer> {
    const table = this.#tables.get(place) ?? new Map<string, Offer>();
    this.#tables.set(place, table);
    return table;
  }

  #take(by: string, request: DeliveryRequest, address: string, digest: string, replyLost: boolean): void {
    const { copyId, deliveryId, contentKey, route, results = [] } = request;
    const place = route.kind === 'mailbox' ? `${route.database}/${route.copy}` : route.connector;
    const database = route.kind === 'mailbox' ? route.database : '';
    const table = this.#table(place);
    const key = keyOf({ deliveryId, address });
    const isRetry = [...table.values()].some(
      (one) => contentKey !== null && one.contentKey === contentKey && one.address === address,
    );
    const visible = !table.has(key) && !isRetry;
    const offer = {
      copyId,
      deliveryId,
      contentKey,
      results,
      address,
      digest,
      by,
      atMs: this.#scheduler.nowMs,
      place: `${place} ${this.#failovers.get(database) ?? 0} ${'activation' in route ? route.activation : ''}`,
      visible,
      replyLost,
    };
    if (visible) table.set(key, offer);
    this.offers.push(offer);
  }
}

/** The real agent finds out before the final dot as well, and tells of damage, not of a body that was written anew while it read. */
async function digestOf(database: QueueDatabase, id: CopyId): Promise<string | { readonly isDamaged: boolean }> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of database.readBody(id)) hash.update(chunk);
    return hash.digest('hex');
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'DAMAGED' || code === 'NOTFOUND') return { isDamaged: code === 'DAMAGED' };
    throw error;
  }
}
