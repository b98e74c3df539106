/**
 * TransportOrders as people see them: what became of each, and the end of those that are long over. Owns: their status. Promise: an order is
 * answered once, after the document that has it is stored; one that still stands in the document keeps its object. PURE.
 */
import type { ObservedOrder, OrderVerdict } from '../transport-orders.ts';
import { isOpen } from '../transport-orders.ts';
import { act, type Finding } from './finding.ts';
import type { View } from './view.ts';

/** For who looks what was ordered; transports keep what they did as long as their tracking files. */
const KEPT_MS = 7 * 86_400_000;

export function ordersStep({ situation, topology }: View): readonly Finding[] {
  const { orders, nowMs } = situation.gathered;
  const { messageOrders = [], queueOrders = [] } = situation.previous.document ?? {};
  const standing = new Set([...messageOrders, ...queueOrders].map(({ id }) => id));
  const generation = situation.previous.document?.generation ?? 0;
  const isOld = ({ metadata, status }: ObservedOrder): boolean =>
    !standing.has(metadata.uid ?? '') && nowMs - Date.parse(status?.decidedTime ?? '') > KEPT_MS;
  return orders.flatMap((one): readonly Finding[] => {
    const { name, uid = '' } = one.metadata;
    const verdict = topology.verdicts.get(uid);
    if (!isOpen(one))
      return isOld(one) ? [act('AsExpected', '', { actions: [{ kind: 'deleteOrder', name, uid }] })] : [];
    if (verdict === undefined) return [];
    const status = statusOf(verdict, generation, nowMs);
    return [act('AsExpected', '', { actions: [{ kind: 'writeOrderStatus', name, uid, status }] })];
  });
}

const statusOf = ({ state, message }: OrderVerdict, generation: number, nowMs: number) => ({
  ...{ state, message: message.slice(0, 32_000), decidedTime: new Date(nowMs).toISOString() },
  ...(state === 'InForce' ? { generation } : {}),
});
