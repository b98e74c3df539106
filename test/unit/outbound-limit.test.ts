/** How much goes out of a transport at once (Exchange: MaxOutboundConnections), and who comes next. */
import { expect, test } from 'vitest';
import { MOST_OUTBOUND } from '../../transport/core/open-deliveries.ts';
import { byDomain } from './by-domain.ts';
import type { EffectOf } from './core-bench.ts';

const domains = (delivers: readonly EffectOf<'Deliver'>[]): string[] =>
  delivers.flatMap(({ route }) => (route.kind === 'mx' ? [route.domain] : []));

test('a thousand at once, over however many destinations; the longest waiting destination is next, and a mailbox waits for none of them', () => {
  const bench = byDomain();
  for (let n = 0; n < MOST_OUTBOUND + 20; n++) bench.accept(`M${n}`, [`x@d${n}.example`]);
  bench.accept('MD', ['x@d0.example']);
  expect(domains(bench.seen('Deliver'))).toHaveLength(MOST_OUTBOUND);
  bench.accept('MB', ['alpha-0@sim.example']);
  expect(bench.lastSeen('Deliver')).toMatchObject({ facts: { id: 'MB' }, route: { kind: 'mailbox' } });
  const [first, second, ...others] = bench.seen('Deliver').filter(({ route }) => route.kind === 'mx');
  const relayed = { index: 0, kind: 'relayed', reply: '250 ok' } as const;
  bench.delivered(first as EffectOf<'Deliver'>, [relayed]);
  bench.delivered(second as EffectOf<'Deliver'>, [relayed]);
  expect(domains(bench.seen('Deliver')).slice(MOST_OUTBOUND)).toEqual([
    `d${MOST_OUTBOUND}.example`,
    `d${MOST_OUTBOUND + 1}.example`,
  ]);
  for (const one of others) bench.delivered(one, [relayed]);
  for (let round = 0; round < 3; round++)
    for (const one of bench.seen('Deliver').filter(({ requestId }) => bench.server.deliveries.has(requestId)))
      bench.delivered(one, [relayed]);
  expect(domains(bench.seen('Deliver'))).toHaveLength(MOST_OUTBOUND + 21);
  expect(bench.server.deliveries.size).toBe(0);
});

test('what was not begun, or is gone meanwhile, makes room as well', () => {
  const bench = byDomain();
  for (let n = 0; n < MOST_OUTBOUND + 2; n++) bench.accept(`M${n}`, [`x@d${n}.example`]);
  const [first] = bench.seen('Deliver');
  const { requestId, facts } = first as EffectOf<'Deliver'>;
  bench.server.copies.delete(facts.id);
  bench.event({ kind: 'DeliveryWithheld', requestId, results: [] });
  expect(domains(bench.seen('Deliver')).slice(MOST_OUTBOUND)).toEqual([`d${MOST_OUTBOUND}.example`]);
});
