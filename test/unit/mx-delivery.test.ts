/** MX delivery against a real name server and real mail servers on loopback: the order of hosts, and what every answer of DNS means. */
import { afterEach, describe, expect, test } from 'vitest';
import type { MxConfig } from '../../common/config.ts';
import type { CopyId, Envelope, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { createDeliveryAgent } from '../../transport/runtime/delivery.ts';
import type { RecipientResult } from '../../transport/runtime/delivery-api.ts';
import { MxLookup } from '../../transport/runtime/mx-lookup.ts';
import { DnsServer, type ZoneEntry } from '../rigs/dns-server.ts';
import { Postfix } from '../rigs/postfix.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { testCertificate } from '../rigs/test-certificate.ts';
import { sampleEnvelope } from './peer-samples.ts';

const BOUNDS = { tryMs: 200, questionMs: 1_000 };
const LOOPBACK = ['127.0.0.0/8', '::1/128'];
const ENVELOPE: Envelope = { ...sampleEnvelope, recipients: [], body: '7BIT', declaredSizeBytes: null };

let cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  const all = cleanups.reverse();
  cleanups = [];
  for (const cleanup of all) await cleanup();
});

async function startDns(zone: Record<string, ZoneEntry>): Promise<DnsServer> {
  const dns = await DnsServer.start(zone);
  cleanups.push(() => dns[Symbol.asyncDispose]());
  return dns;
}

async function lookUp(zone: Record<string, ZoneEntry>, domain: string, mx: Partial<MxConfig> = {}) {
  const dns = await startDns(zone);
  const config = { port: 25, dnsServers: [dns.server], allowNetworks: [], ownNames: [], ...mx };
  return new MxLookup(nodeDns(systemClock, config.dnsServers, BOUNDS), systemRandom, 'us.test', config).lookUp(domain);
}

const addressesOf = (answer: Awaited<ReturnType<typeof lookUp>>): readonly string[] =>
  answer.kind === 'targets' ? answer.targets.map(({ address }) => address) : [];

describe('looking up a domain', () => {
  const zone: Record<string, ZoneEntry> = {
    'many.test': {
      mx: [
        [20, 'late.test'],
        [10, 'one.test'],
        [10, 'two.test'],
      ],
    },
    'one.test': { a: ['203.0.113.1'], aaaa: ['2001:db8::1'] },
    'two.test': { a: ['203.0.113.2'] },
    'late.test': { a: ['203.0.113.9'] },
    'backup.test': {
      mx: [
        [10, 'one.test'],
        [20, 'us.test'],
        [30, 'late.test'],
      ],
    },
    'mine.test': {
      mx: [
        [10, 'us.test'],
        [30, 'late.test'],
      ],
    },
    'gone.test': { mx: [[10, 'nowhere.test']] },
    'half.test': {
      mx: [
        [10, 'broken.test'],
        [20, 'two.test'],
      ],
    },
    'doubt.test': { mx: [[10, 'broken.test']] },
    'null.test': { mx: [[0, '.']] },
    'empty.test': {},
    'broken.test': 'SERVFAIL',
    'silent.test': 'silent',
    'local.test': { mx: [[10, 'localhost.test']] },
    'localhost.test': { a: ['127.0.0.1'], aaaa: ['::1'] },
    'inside.test': { a: ['10.0.0.7'] },
  };

  test('hosts by preference, equals in any order, IPv6 before IPv4', async () => {
    const orders = new Set<string>();
    for (let turn = 0; turn < 40; turn++) orders.add(addressesOf(await lookUp(zone, 'many.test')).join(' '));
    const one = '2001:db8::1 203.0.113.1';
    expect([...orders].sort()).toEqual([`203.0.113.2 ${one} 203.0.113.9`, `${one} 203.0.113.2 203.0.113.9`].sort());
  });

  test('a domain without MX is its own host; so is an address', async () => {
    expect(addressesOf(await lookUp(zone, 'two.test'))).toEqual(['203.0.113.2']);
    expect(addressesOf(await lookUp(zone, '[203.0.113.77]'))).toEqual(['203.0.113.77']);
  });

  test('where we are an MX ourselves, only better hosts are used', async () => {
    expect(addressesOf(await lookUp(zone, 'backup.test'))).toEqual(['2001:db8::1', '203.0.113.1']);
    expect(await lookUp(zone, 'many.test', { ownNames: ['one.test'] })).toMatchObject({ reply: { enhanced: '5.4.6' } });
  });

  test.each([
    ['null.test', 556, '5.1.10'],
    ['absent.test', 550, '5.1.2'],
    ['empty.test', 550, '5.4.4'],
    ['gone.test', 550, '5.4.4'],
    ['mine.test', 554, '5.4.6'],
    ['us.test', 554, '5.4.6'],
    ['local.test', 554, '5.4.6'],
    ['[127.0.0.1]', 554, '5.4.6'],
  ])('%s is refused for good: %i %s', async (domain, code, enhanced) => {
    expect(await lookUp(zone, domain)).toMatchObject({ kind: 'failed', reply: { code, enhanced } });
  });

  test.each([
    ['broken.test', '4.4.3 DNS: MX of broken.test: ESERVFAIL'],
    ['silent.test', '4.4.3 DNS: MX of silent.test: '],
    ['doubt.test', '4.4.3 DNS: AAAA of broken.test: ESERVFAIL'],
    [
      'inside.test',
      '4.4.4 mail for inside.test would go to a private network: inside.test [10.0.0.7]; list its network in mx.allowNetworks',
    ],
  ])('%s is tried again later: %s', async (domain, reply) => {
    expect(await lookUp(zone, domain)).toMatchObject({ kind: 'deferred', reply: expect.stringContaining(reply) });
  });

  test('one host in doubt does not keep mail from the others; what the connector allows is allowed', async () => {
    expect(addressesOf(await lookUp(zone, 'half.test'))).toEqual(['203.0.113.2']);
    expect(addressesOf(await lookUp(zone, 'inside.test', { allowNetworks: ['10.0.0.0/8'] }))).toEqual(['10.0.0.7']);
    expect(addressesOf(await lookUp(zone, 'local.test', { allowNetworks: LOOPBACK }))).toEqual(['::1', '127.0.0.1']);
  });
});

async function deliver(
  zone: Record<string, ZoneEntry>,
  port: number,
  tls: { readonly policy: 'None' | 'Opportunistic' | 'Required'; readonly ca?: string } = { policy: 'Opportunistic' },
): Promise<readonly RecipientResult[]> {
  const dns = await startDns(zone);
  const agent = createDeliveryAgent({
    clock: systemClock,
    log: silentLogger,
    metrics: silentMetrics,
    random: systemRandom,
    dns: (servers) => nodeDns(systemClock, servers, BOUNDS),
    hostname: 'us.test',
    member: 'transport-0',
    readBody: async function* () {
      yield Buffer.from('Subject: out\r\n\r\nhello\r\n');
    },
    onDamaged: (id) => {
      throw new Error(`damaged: ${id}`);
    },
    ...(tls.ca === undefined ? {} : { settings: { ca: tls.ca } }),
  });
  cleanups.push(() => agent.close());
  const mx = { port, dnsServers: [dns.server], allowNetworks: LOOPBACK, ownNames: [] };
  return new Promise((resolve) =>
    agent.start(
      {
        requestId: 1,
        copyId: 'COPY' as CopyId,
        deliveryId: 'COPY',
        contentKey: null,
        epoch: { try: 1, term: 0, owner: 'ME' as Identity },
        mayBeRepeat: false,
        envelope: ENVELOPE,
        sizeBytes: 30,
        route: { kind: 'mx', connector: 'out', domain: 'far.test', mx, tls: tls.policy },
        recipients: [{ index: 3, recipient: { address: 'bob@far.test' } }],
        mayBegin: () => true,
      },
      resolve,
    ),
  );
}

const FAR: Record<string, ZoneEntry> = {
  'far.test': {
    mx: [
      [10, 'dead.far.test'],
      [20, 'mx.far.test'],
    ],
  },
  'dead.far.test': { a: ['127.0.0.9'] },
  'mx.far.test': { a: ['127.0.0.1'] },
};

describe('delivering to a domain', () => {
  test('a real Postfix takes it, behind an MX that is down', async (context) => {
    const postfix = await Postfix.start({ role: { kind: 'accept' } });
    if ('missing' in postfix) return context.skip(postfix.missing);
    cleanups.push(() => postfix[Symbol.asyncDispose]());
    expect(await deliver(FAR, postfix.smtpPort)).toMatchObject([{ index: 3, kind: 'relayed' }]);
  });

  test.each([
    ['550 5.1.1 no such user', 'RCPT', { kind: 'failed', reply: { code: 550, enhanced: '5.1.1' } }],
    ['450 4.2.0 greylisted', 'RCPT', { kind: 'deferred', scope: 'recipient' }],
  ])('%s is the word of the host', async (answer, at, expected) => {
    const peer = await ScriptedPeer.start({ onCommand: (verb) => (verb === at ? answer : null) });
    cleanups.push(() => peer[Symbol.asyncDispose]());
    expect(await deliver(FAR, peer.port)).toMatchObject([{ index: 3, ...expected }]);
  });

  test('a connection lost after the dot: it may have arrived', async () => {
    const peer = await ScriptedPeer.start({ onEnd: () => ['drop'] });
    cleanups.push(() => peer[Symbol.asyncDispose]());
    expect(await deliver(FAR, peer.port)).toMatchObject([{ index: 3, kind: 'unknown' }]);
  });

  test('what DNS says reaches each recipient', async () => {
    expect(await deliver({ 'far.test': { mx: [[0, '.']] } }, 25)).toMatchObject([
      { index: 3, kind: 'failed', reply: { enhanced: '5.1.10' } },
    ]);
    expect(await deliver({ 'far.test': 'SERVFAIL' }, 25)).toMatchObject([
      { index: 3, kind: 'deferred', scope: 'host' },
    ]);
  });

  test.each([
    ['mx.far.test', 'relayed'],
    ['other.test', 'deferred'],
  ])('Required: a certificate for %s is %s', async (name, kind) => {
    const { ca, ...tls } = await testCertificate(name);
    const peer = await ScriptedPeer.start({ tls, capabilities: ['STARTTLS'] });
    cleanups.push(() => peer[Symbol.asyncDispose]());
    expect(await deliver(FAR, peer.port, { policy: 'Required', ca })).toMatchObject([{ index: 3, kind }]);
  });
});
