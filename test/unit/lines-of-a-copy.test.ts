/** Which lines a copy stands in: it leaves those, and nobody looks through the ones of ten thousand other domains. */
import { expect, test } from 'vitest';
import type { MessageOrder } from '../../common/config.ts';
import { byDomain } from './by-domain.ts';
import { type CoreBench, copyId } from './core-bench.ts';

const DEFERRED = { index: 0, kind: 'deferred', reply: '450 later', host: true } as const;

/** Later orders of the document include the earlier ones. */
function order(bench: CoreBench, action: MessageOrder['action'], message: string): void {
  bench.topology((document) => {
    const known = document.messageOrders ?? [];
    const one: MessageOrder = { id: `order-${known.length}`, message: copyId(message), action, by: 'ann' };
    return { ...document, messageOrders: [...known, one] };
  });
  bench.pass(1_100);
}

const waiting = (bench: CoreBench): Record<string, readonly string[]> =>
  Object.fromEntries(
    [...bench.server.hops.values()].map(({ route, ready }) => [
      'domain' in route ? route.domain : route.kind,
      [...ready],
    ]),
  );

test('a message to several domains waits in each of their lines, and leaves all of them at once', () => {
  const bench = byDomain(1);
  for (const domain of ['a', 'b', 'c']) bench.accept(`FIRST-${domain}`, [`x@${domain}.example`]);
  bench.accept('M1', ['x@a.example', 'x@b.example']);
  bench.accept('M2', ['x@a.example']);
  bench.accept('M3', ['x@c.example']);
  expect(waiting(bench)).toEqual({ 'a.example': ['M1', 'M2'], 'b.example': ['M1'], 'c.example': ['M3'] });
  order(bench, 'suspend', 'M1');
  expect(waiting(bench)).toEqual({ 'a.example': ['M2'], 'b.example': [], 'c.example': ['M3'] });
  order(bench, 'resume', 'M1');
  order(bench, 'remove', 'M3');
  expect(waiting(bench)).toEqual({ 'a.example': ['M2', 'M1'], 'b.example': ['M1'], 'c.example': [] });
});

test('who was put back after a failed connection leaves as well', () => {
  const bench = byDomain(1);
  bench.accept('M1', ['x@a.example']);
  bench.delivered(bench.lastSeen('Deliver'), [DEFERRED]);
  bench.pass(1_300);
  bench.delivered(bench.lastSeen('Deliver'), [DEFERRED]);
  expect(waiting(bench)).toEqual({ 'a.example': ['M1'] });
  order(bench, 'suspend', 'M1');
  expect(waiting(bench)).toEqual({ 'a.example': [] });
});

test('who left while it was being delivered stands in the line again when that fails', () => {
  const bench = byDomain(1);
  bench.accept('M1', ['x@a.example']);
  bench.delivered(bench.lastSeen('Deliver'), [DEFERRED]);
  bench.pass(1_300);
  const deliver = bench.lastSeen('Deliver');
  order(bench, 'suspend', 'M1');
  order(bench, 'resume', 'M1');
  bench.delivered(deliver, [DEFERRED]);
  expect(waiting(bench)).toEqual({ 'a.example': ['M1'] });
  bench.event({ kind: 'BodyDamaged', id: copyId('M1') });
  expect(waiting(bench)).toEqual({ 'a.example': [] });
});
