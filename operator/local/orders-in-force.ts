/**
 * What people decided, as the runner brings it into force. Owns: the orders that were admitted, and the answers to those who gave them.
 * Promise: every order is answered once it is in a document, or refused with the reason and removed. Touches only `orders/`.
 */
import type { TopologyDocument } from '../../common/config.ts';
import type { ResubmitRequest } from '../resource/generated.ts';
import type { WantedRequest } from '../resubmit-requests.ts';
import { type Decisions, NO_DECISIONS } from '../topology.ts';
import type { OrderBook } from './order-book.ts';
import { acceptance, admit, decisionsOf, type LostOrder, type Order, requestsOf } from './orders.ts';
import { readResubmit } from './overseer.ts';
import type { StatePaths } from './state-directory.ts';
import type { Wanted } from './wanted.ts';

export class OrdersInForce {
  readonly #book: OrderBook;
  readonly #paths: StatePaths;
  readonly #say: (line: string) => void;
  #orders: readonly Order[] = [];
  #decisions: Decisions = NO_DECISIONS;

  constructor(book: OrderBook, paths: StatePaths, say: (line: string) => void) {
    this.#book = book;
    this.#paths = paths;
    this.#say = say;
  }

  get decisions(): Decisions {
    return this.#decisions;
  }

  /** Answers with the orders about lost members that are in no document yet. */
  async read(document: TopologyDocument | null): Promise<readonly LostOrder[]> {
    const { accepted, refused } = admit(document, await this.#book.read());
    for (const { order, reason } of refused) {
      await this.#book.answer({ id: order.id, ok: false, text: reason });
      await this.#book.remove(order);
      this.#say(`refused: ${reason}`);
    }
    this.#orders = accepted;
    this.#decisions = decisionsOf(accepted);
    const retired = document?.retired ?? [];
    return accepted.filter(
      (one): one is LostOrder => one.kind === 'lost' && !retired.some(({ identity }) => identity === one.identity),
    );
  }

  /** They are in the document of this generation. */
  async answer(generation: number): Promise<void> {
    for (const order of this.#orders) {
      if (order.kind === 'gone' || (await this.#book.answerTo(order.id)) !== null) continue;
      await this.#book.answer({ id: order.id, ok: true, text: acceptance(order, generation) });
    }
  }

  /** Of orders and of files; those of files count from when they were first seen. */
  async requests({ cluster, loaded }: Wanted, nowMs: number): Promise<readonly WantedRequest[]> {
    const { name, namespace } = cluster.metadata;
    const seen = async (request: ResubmitRequest): Promise<WantedRequest> => {
      const former = await readResubmit(this.#paths, request.metadata.name);
      return { request, createdAtMs: former === null ? nowMs : Date.parse(former.metadata.creationTimestamp) };
    };
    const own = loaded.resubmitRequests.filter(
      ({ metadata, spec }) => metadata.namespace === namespace && spec.clusterRef.name === name,
    );
    return [...(await Promise.all(own.map(seen))), ...requestsOf(this.#orders)];
  }
}
