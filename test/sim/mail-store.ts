/**
 * The world outside: mailbox stores and the relay, behind the delivery port. Owns: what was offered by whom, what a user sees (duplicate suppression by
 * delivery id and recipient, protocol.md 23), and the moods of a store: slow, refusing, dying after the dot.
 */
import { createHash } from 'node:crypto';
import type { CopyId } from '../../common/message.ts';
import type { DeliveryAgent, DeliveryRequest, RecipientResult } from '../../transport/runtime/delivery-api.ts';
import type { QueueDatabase } from '../../transport/store/database.ts';
import type { Incarnation } from './incarnation.ts';
import type { Scheduler, SeededRandom } from './scheduler.ts';

export interface Offer {
  readonly copyId: CopyId;
  readonly deliveryId: string;
  readonly address: string;
  readonly digest: string;
  readonly by: string;
  readonly atMs: number;
  readonly visible: boolean;
  /** The store took it but its reply never reached the agent. */
  readonly replyLost: boolean;
}

export class MailStore {
  readonly offers: Offer[] = [];
  readonly #seen = new Set<string>();
  readonly #scheduler: Scheduler;
  readonly #random: SeededRandom;
  /** Turned off in the healing phase. */
  moody = true;
  /** Databases and connectors that refuse every connection. */
  readonly down = new Set<string>();

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
    this.#random = scheduler.random.fork();
  }

  /** The delivery port of one life of a transport. */
  agent(member: string, incarnation: Incarnation, database: QueueDatabase): DeliveryAgent {
    return {
      start: (request, done) => {
        this.#scheduler.schedule(this.#random.integer(1, this.moody && this.#random.chance(0.1) ? 2_000 : 30), () => {
          if (incarnation.alive) void this.#deliver(member, incarnation, database, request, done);
        });
      },
      close: () => Promise.resolve(),
    };
  }

  async #deliver(
    member: string,
    incarnation: Incarnation,
    database: QueueDatabase,
    request: DeliveryRequest,
    done: (results: readonly RecipientResult[]) => void,
  ): Promise<void> {
    const place = request.route.kind === 'mailbox' ? request.route.database : request.route.connector;
    if (this.down.has(place) || (this.moody && this.#random.chance(0.1)))
      return done(
        request.recipients.map(({ index }) => ({
          index,
          kind: 'deferred',
          reply: 'connection refused',
          scope: 'host',
        })),
      );
    const hash = createHash('sha256');
    for await (const chunk of database.readBody(request.copyId)) hash.update(chunk);
    if (!incarnation.alive) return;
    const digest = hash.digest('hex');
    const replyLost = this.moody && this.#random.chance(0.08);
    const results = request.recipients.map(({ index, recipient }): RecipientResult => {
      if (recipient.address.includes('refused'))
        return { index, kind: 'failed', reply: { code: 550, enhanced: '5.2.1', text: 'mailbox disabled' } };
      if (this.moody && this.#random.chance(0.1))
        return { index, kind: 'deferred', reply: '452 4.2.2 mailbox full', scope: 'recipient' };
      this.#take(member, request, recipient.address, digest, replyLost);
      if (replyLost) return { index, kind: 'unknown', reason: 'connection lost after the final dot' };
      const kind = request.route.kind === 'mailbox' ? 'delivered' : 'relayed';
      return { index, kind, reply: '250 2.0.0 ok', dsnPassedOn: false };
    });
    done(results);
  }

  #take(by: string, request: DeliveryRequest, address: string, digest: string, replyLost: boolean): void {
    const key = `${request.deliveryId} ${address}`;
    const visible = !this.#seen.has(key);
    this.#seen.add(key);
    this.offers.push({
      copyId: request.copyId,
      deliveryId: request.deliveryId,
      address,
      digest,
      by,
      atMs: this.#scheduler.nowMs,
      visible,
      replyLost,
    });
  }
}
