/**
 * Deliveries of one message to one recipient wait for each other (protocol.md 24): two copies of it at once - a resubmission beside what it repeats, a client's
 * retry beside the first attempt - must not meet a store that looks before it has written down. Owns: the order, per database copy. Promise: keys are taken all
 * at once, so that nobody waits in a circle; memory is what is under way.
 */
import type { DeliveryRequest } from './delivery-api.ts';

export class DeliveryTurns {
  readonly #last = new Map<string, Promise<unknown>>();

  async run<T>(request: DeliveryRequest, work: () => Promise<T>): Promise<T> {
    const keys = keysOf(request);
    const before = keys.flatMap((key) => this.#last.get(key) ?? []);
    const mine = before.length === 0 ? work() : Promise.allSettled(before).then(work);
    for (const key of keys) this.#last.set(key, mine);
    try {
      return await mine;
    } finally {
      for (const key of keys) if (this.#last.get(key) === mine) this.#last.delete(key);
    }
  }
}

function keysOf({ route, deliveryId, contentKey, recipients }: DeliveryRequest): string[] {
  if (route.kind !== 'mailbox') return [];
  const ids = contentKey === null ? [deliveryId] : [deliveryId, contentKey];
  return recipients.flatMap(({ recipient }) =>
    ids.map((id) => `${route.database}/${route.copy} ${id} ${recipient.address.toLowerCase()}`),
  );
}
