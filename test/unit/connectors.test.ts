/** Which send connector takes what, and how fast (semantics.md D4, D6). */
import { describe, expect, test } from 'vitest';
import type { SendConnectorConfig } from '../../common/config.ts';
import { chooseConnector } from '../../transport/core/connectors.ts';
import { explainRoute } from '../../transport/core/route-explanation.ts';
import { simTopology } from '../sim/topology.ts';
import { CoreBench, PEER } from './core-bench.ts';

const MINUTE = 60_000;
const MiB = 1 << 20;
const base = simTopology({ sites: [1], dag: true, frontends: 1 });

function connector(
  name: string,
  domain: string,
  cost: number,
  more: Partial<SendConnectorConfig> & { readonly maxMessageBytes?: number } = {},
): SendConnectorConfig {
  const { maxMessageBytes, ...rest } = more;
  const sendLimits = {
    maxMessageBytes: maxMessageBytes ?? null,
    maxConcurrentDeliveries: null,
    messagesPerMinute: null,
  };
  return {
    ...{ name, addressSpaces: [{ domain, cost }], smartHosts: [{ host: name, port: 25 }], mx: null },
    ...{ tls: 'None', sites: [], sendLimits, ...rest },
  };
}

const document = {
  ...base,
  policies: { ...base.policies, limits: { ...base.policies.limits, maxMessageBytes: 35 * MiB } },
  sendConnectors: [
    connector('world-b', '*', 5),
    connector('world-a', '*', 5),
    connector('east', '*', 1, { sites: ['east'] }),
    connector('small', '*.partner.example', 1, { maxMessageBytes: MiB }),
    connector('large', '*.partner.example', 9, { maxMessageBytes: 4 * MiB }),
    connector('only-west', 'partner.example', 1, { sites: ['west'] }),
  ],
};
const choose = (domain: string, site: string, sizeBytes = 1, sendConnectors = document.sendConnectors) => {
  const choice = chooseConnector({ ...document, sendConnectors }, domain, { site, sizeBytes });
  return choice.kind === 'connector' ? choice.connector.name : choice;
};

describe('D4: which connector', () => {
  test.each([
    ['the lowest cost in its site', 'a.example', 'east', 1, 'east'],
    ['equal cost: the lowest name', 'a.example', 'west', 1, 'world-a'],
    ['the exact domain, in its site', 'partner.example', 'west', 1, 'only-west'],
    ['elsewhere the next best match', 'partner.example', 'east', 1, 'small'],
    ['the longer match beats the cheaper connector', 'eu.partner.example', 'east', 1, 'small'],
    ['too large for the one, the other of the same match', 'eu.partner.example', 'east', 2 * MiB, 'large'],
    ['too large for both, a wider match', 'eu.partner.example', 'east', 5 * MiB, 'east'],
  ])('%s', (_title, domain, site, size, expected) => expect(choose(domain, site, size)).toBe(expected));

  test('too large for all that serve the domain: refused for good, with the limit', () => {
    const few = document.sendConnectors.filter(({ name }) => name === 'small' || name === 'large');
    expect(choose('partner.example', 'east', 5 * MiB, few)).toEqual({
      kind: 'tooLarge',
      reply: '552 5.3.4 Message of 5242880 bytes exceeds the limit of 4194304 bytes on the way to partner.example',
    });
  });

  test('none for this site: kept, and the reason names who has one', () => {
    const few = document.sendConnectors.filter(({ name }) => name === 'east');
    expect(choose('a.example', 'west', 1, few)).toEqual({
      kind: 'none',
      reason: 'no send connector for a.example in site west: east (only east)',
    });
  });
});

describe('the explanation is the decision, with its reasons', () => {
  const explain = (address: string, site: string, sizeBytes = 1) =>
    explainRoute(document, address, { site, boundary: 'dag/dag1', sizeBytes });

  test('of a connector: the one that is used, then the others in their order', () => {
    expect(explain('x@eu.partner.example', 'east', 2 * MiB)).toMatchObject({
      ...{ kind: 'connector', nextHop: 'connector:large', what: 'send connector large, to its smart hosts' },
      why: 'address space *.partner.example is the best match at cost 9',
      others: [
        { name: 'east', why: 'address space * is a wider match' },
        { name: 'world-a', why: 'address space * is a wider match' },
        { name: 'world-b', why: 'address space * is a wider match' },
        { name: 'small', why: 'takes at most 1048576 bytes, this is 2097152' },
      ],
    });
    expect(explain('x@a.example', 'west')).toMatchObject({
      nextHop: 'connector:world-a',
      others: [
        { name: 'world-b', why: 'equal cost, and its name comes later' },
        { name: 'east', why: 'only for site east, this is west' },
      ],
    });
  });

  test('of a mailbox, of nobody, of what is too large for the transports', () => {
    expect(explain('alpha-0@sim.example', 'east')).toMatchObject({ kind: 'mailbox', nextHop: 'mailbox:alpha/main' });
    expect(explain('nobody@sim.example', 'east')).toMatchObject({ kind: 'refused', what: '550 5.1.1 Mailbox unknown' });
    const most = document.policies.limits.maxMessageBytes;
    expect(explain('x@a.example', 'east', most + 1)).toMatchObject({
      kind: 'refused',
      why: 'transport.limits.maxMessageSize',
    });
  });
});

function bench(more: Partial<SendConnectorConfig>): CoreBench {
  const made = new CoreBench({
    document: (one) => ({ ...one, sendConnectors: one.sendConnectors.map((out) => ({ ...out, ...more })) }),
  });
  made.join(PEER);
  return made;
}
const sent = (one: CoreBench): number => one.seen('Deliver').length;
const accept = (one: CoreBench, count: number, domain: string, from = 0): void => {
  for (let at = from; at < from + count; at++) one.accept(`M${domain}${at}`, [`x${at}@${domain}`]);
};

describe('D4: in the core', () => {
  test('a message too large for every connector comes back to its sender', () => {
    const one = bench({ sendLimits: { maxMessageBytes: 1, maxConcurrentDeliveries: null, messagesPerMinute: null } });
    one.accept('M1', ['x@far.example']);
    expect(sent(one)).toBe(0);
    expect(one.seen('ComposeDsn')).toMatchObject([{ dsn: 'failed' }]);
  });

  test('a connector of another site is not used; the message waits, and goes when the connector is for this site', () => {
    const one = bench({ sites: ['elsewhere'] });
    one.accept('M1', ['x@far.example']);
    expect(sent(one)).toBe(0);
    expect(one.stored('M1')?.queue).toBe('unreachable');
    one.topology((now) => ({ ...now, sendConnectors: now.sendConnectors.map((out) => ({ ...out, sites: [] })) }));
    expect(sent(one)).toBe(1);
  });
});

describe('D6: how much at once, how fast', () => {
  test('as many at once as the connector says', () => {
    const one = bench({ sendLimits: { maxMessageBytes: null, maxConcurrentDeliveries: 2, messagesPerMinute: null } });
    accept(one, 5, 'far.example');
    expect(sent(one)).toBe(2);
    one.delivered(one.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 ok' }]);
    expect(sent(one)).toBe(3);
  });

  test.each([
    [6, 1, 7],
    [240, 4, 244],
  ])(
    '%i a minute: %i at once, %i within the first minute, and no more for each domain by MX',
    (rate, first, minute) => {
      const mx = { port: 25, dnsServers: [], allowNetworks: [], ownNames: [] };
      const sendLimits = { maxMessageBytes: null, maxConcurrentDeliveries: 1_000, messagesPerMinute: rate };
      const one = bench({ smartHosts: [], mx, sendLimits });
      accept(one, 300, 'far.example');
      expect(sent(one)).toBe(first);
      one.accept('OTHER', ['x@other.example']);
      expect(sent(one)).toBe(first + 1);
      one.pass(MINUTE);
      expect(sent(one) - 1).toBe(minute);
    },
  );

  test('a domain that was forgotten has no second start: one after the other is as slow', () => {
    const mx = { port: 25, dnsServers: [], allowNetworks: [], ownNames: [] };
    const one = bench({
      ...{ smartHosts: [], mx },
      sendLimits: { maxMessageBytes: null, maxConcurrentDeliveries: null, messagesPerMinute: 6 },
    });
    for (let at = 0; at < 3; at++) {
      one.accept(`M${at}`, ['x@far.example']);
      if (sent(one) > at) one.delivered(one.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 ok' }]);
    }
    expect(sent(one)).toBe(1);
    one.pass(10_001);
    expect(sent(one)).toBe(2);
    one.delivered(one.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 ok' }]);
    one.pass(MINUTE);
    one.delivered(one.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 ok' }]);
    one.pass(MINUTE);
    expect([...one.server.hops.keys()].filter((key) => key.endsWith('/far.example'))).toEqual([]);
  });
});
