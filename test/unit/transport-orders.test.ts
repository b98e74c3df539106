/** Orders of people on Kubernetes: which come into the next topology document, what stays there, and what is said of each. */
import { describe, expect, test } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import { ordersStep } from '../../operator/checks/orders-step.ts';
import type { View } from '../../operator/checks/view.ts';
import type { TransportOrderSpec, TransportOrderStatus } from '../../operator/resource/generated.ts';
import { type ObservedOrder, ordersInDocument } from '../../operator/transport-orders.ts';
import { document } from './topology-shapes.ts';

const MESSAGE = '01JABCDEFGHJKMNPQRSTVWXYZ0';
const QUEUE = 'mailbox:db01/sea';
const DAY_MS = 86_400_000;
const second = (at: number): string => new Date(Date.UTC(2026, 0, 1) + at * 1_000).toISOString();

type About = Pick<TransportOrderSpec, 'queue' | 'message'>;
const queue = (action: 'Suspend' | 'Resume' | 'Retry', name = QUEUE): About => ({ queue: { name, action } });
const message = (action: 'Suspend' | 'Resume' | 'Remove'): About => ({ message: { id: MESSAGE, action } });

function order(uid: string, at: number, about: About, status: TransportOrderStatus | null = null): ObservedOrder {
  const metadata = { name: `n-${uid}`, namespace: 'mail', labels: {}, annotations: {} };
  const spec = { clusterRef: { name: 'contoso' }, by: `person-${uid}`, ...about };
  return {
    metadata: { ...metadata, uid, creationTimestamp: second(at) },
    resource: { kind: 'TransportOrder', metadata, spec },
    problems: [],
    status,
  };
}

const before = document(null);
/** As the operator stores it after this look. */
const written = (previous: TopologyDocument, orders: readonly ObservedOrder[]): TopologyDocument =>
  document(previous, { decisions: ordersInDocument(previous, orders).decisions });
const verdict = (previous: TopologyDocument, orders: readonly ObservedOrder[], uid: string) =>
  ordersInDocument(previous, orders).verdicts.get(uid);
const decided = (state: NonNullable<TransportOrderStatus['state']>, at = 0): TransportOrderStatus => ({
  ...{ state, decidedTime: second(at) },
});

describe('an order', () => {
  test('is in force when the document that has it is stored, not before', () => {
    const orders = [order('a', 1, queue('Suspend')), order('b', 2, message('Remove'))];
    expect(ordersInDocument(before, orders).verdicts).toEqual(new Map());
    const stored = written(before, orders);
    expect(stored.queueOrders).toEqual([{ id: 'a', queue: QUEUE, action: 'suspend', by: 'person-a' }]);
    expect(stored.messageOrders).toEqual([{ id: 'b', message: MESSAGE, action: 'remove', by: 'person-b' }]);
    expect(verdict(stored, orders, 'a')).toEqual({
      state: 'InForce',
      message: `queue ${QUEUE}: suspend ordered in topology generation ${stored.generation}`,
    });
    // No other generation comes of it.
    expect(written(stored, orders)).toBe(stored);
  });

  test('stays in the document when its object is gone, until a later one about the same thing', () => {
    const stored = written(before, [order('a', 1, queue('Suspend'))]);
    expect(written(stored, []).queueOrders).toEqual(stored.queueOrders);
    const resumed = written(stored, [order('b', 9, queue('Resume'))]);
    expect(resumed.queueOrders?.map(({ id, action }) => [id, action])).toEqual([['b', 'resume']]);
  });

  test('to redirect says from where and to where, also in the document, and is refused where it cannot be', () => {
    const [from = '', to = ''] = before.members.map(({ name }) => name);
    const redirect = { message: { id: MESSAGE, action: 'Redirect', from, to } } as const;
    const stored = written(before, [order('a', 1, redirect)]);
    expect(stored.messageOrders).toEqual([{ id: 'a', message: MESSAGE, action: 'redirect', from, to, by: 'person-a' }]);
    expect(written(stored, [order('a', 1, redirect)])).toBe(stored);
    const nowhere = { message: { ...redirect.message, to: 'nobody-0' } };
    expect(verdict(before, [order('b', 1, nowhere)], 'b')).toMatchObject({
      state: 'Refused',
      message: expect.stringContaining('there is no member nobody-0; there is '),
    });
  });

  test('a retry takes the place of no suspension', () => {
    const stored = written(before, [order('a', 1, queue('Suspend')), order('b', 2, queue('Retry'))]);
    expect(stored.queueOrders?.map(({ id }) => id)).toEqual(['a', 'b']);
  });

  test('of two at once the later counts, the other is said to be superseded and never comes back', () => {
    const orders = [order('b', 2, message('Resume')), order('a', 1, message('Suspend'))];
    const stored = written(before, orders);
    expect(stored.messageOrders?.map(({ id }) => id)).toEqual(['b']);
    expect(verdict(stored, orders, 'a')).toEqual({
      state: 'Superseded',
      message: 'a later order of person-b replaced it',
    });
    // Its status could not be written, that of the other was.
    const half = [order('b', 2, message('Resume'), decided('InForce')), order('a', 1, message('Suspend'))];
    expect(written(stored, half).messageOrders).toEqual(stored.messageOrders);
  });

  test('that was decided is not given again, whatever the document lost meanwhile', () => {
    const orders = [
      order('a', 1, queue('Suspend'), decided('InForce')),
      order('b', 2, message('Remove'), decided('Refused')),
    ];
    expect(ordersInDocument(before, orders).decisions).toEqual({ messages: [], queues: [] });
  });

  test('is refused in the words of mailcluster run: a queue that cannot be, what cannot be read', () => {
    const broken: ObservedOrder = { ...order('b', 2, {}), resource: null, problems: ['spec: one thing; write it'] };
    const orders = [order('a', 1, queue('Suspend', 'mailbox:nope/sea')), broken];
    expect(verdict(before, orders, 'a')).toEqual({
      state: 'Refused',
      message: expect.stringMatching(/^there can be no delivery queue mailbox:nope\/sea; there is mailbox:db01\//),
    });
    expect(verdict(before, orders, 'b')).toEqual({ state: 'Refused', message: 'spec: one thing; write it' });
    expect(ordersInDocument(before, orders).decisions.queues).toEqual([]);
  });

  test('when both copies of the document are gone, what was in force is in the next one; what was refused is not', () => {
    const orders = [
      order('a', 1, queue('Suspend'), decided('InForce')),
      order('b', 2, message('Suspend'), decided('Superseded')),
      order('c', 3, message('Resume'), decided('InForce')),
      order('d', 4, queue('Resume'), decided('Refused')),
    ];
    const { decisions, verdicts } = ordersInDocument(null, orders);
    expect([decisions.queues, decisions.messages].flat().map(({ id }) => id)).toEqual(['a', 'c']);
    expect(verdicts).toEqual(new Map());
  });
});

describe('what people see', () => {
  function actionsOf(stored: TopologyDocument, orders: readonly ObservedOrder[], nowMs: number) {
    const { verdicts } = ordersInDocument(stored, orders);
    const situation = { gathered: { orders, nowMs }, previous: { document: stored } };
    const view = { situation, topology: { verdicts } } as unknown as View;
    return ordersStep(view).flatMap(({ actions = [] }) => actions);
  }

  test('each is answered once; one that is long over goes, one that still stands does not', () => {
    const suspended = order('a', 1, queue('Suspend'));
    const stored = written(before, [suspended]);
    const nowMs = Date.parse(second(5));
    const [answer, ...more] = actionsOf(stored, [suspended], nowMs);
    expect(more).toEqual([]);
    expect(answer).toMatchObject({
      ...{ kind: 'writeOrderStatus', name: 'n-a', uid: 'a' },
      status: { state: 'InForce', generation: stored.generation, decidedTime: second(5) },
    });
    const told = order('a', 1, queue('Suspend'), decided('InForce'));
    const over = order('b', 2, message('Remove'), decided('InForce'));
    expect(actionsOf(stored, [told, over], 7 * DAY_MS + Date.parse(second(0)))).toEqual([]);
    expect(actionsOf(stored, [told, over], 7 * DAY_MS + Date.parse(second(1)))).toEqual([
      { kind: 'deleteOrder', name: 'n-b', uid: 'b' },
    ]);
  });
});
