/** MTA-STS (RFC 8461): the grammar as tables; delivery against a name server, a web server and mail servers of its own, with real certificates. */
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { CopyId, Identity } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { isInPolicy, parsePolicy, policyId } from '../../common/smtp/mta-sts.ts';
import { createDeliveryAgent } from '../../transport/runtime/delivery.ts';
import type { RecipientResult } from '../../transport/runtime/delivery-api.ts';
import { DnsServer, type ZoneEntry } from '../rigs/dns-server.ts';
import { PolicyServer } from '../rigs/policy-server.ts';
import { Postfix } from '../rigs/postfix.ts';
import { type PeerScript, ScriptedPeer } from '../rigs/scripted-peer.ts';
import { testCertificate } from '../rigs/test-certificate.ts';
import { sampleEnvelope } from './peer-samples.ts';

const policy = (mode: string, mx = 'mx.far.test', maxAge = '86400'): string =>
  `version: STSv1\r\nmode: ${mode}\r\nmx: ${mx}\r\nmax_age: ${maxAge}\r\n`;

describe('grammar', () => {
  test.each([
    [['v=STSv1; id=20160831085700Z;'], '20160831085700Z'],
    [['v=STSv1;id=a', 'v=spf1 -all'], 'a'],
    [['v=STSv1; id=a;', 'v=STSv1; id=b;'], null],
    [['v=STSv1; id=;'], null],
    [['v=STSv2; id=a;'], null],
    [['v=spf1 -all'], null],
  ])('record %j has the id %s', (records, id) => expect(policyId(records)).toBe(id));

  test('a policy, with unknown keys and the first of two modes', () => {
    const text =
      'version: STSv1\nmode: enforce\nmode: none\nfuture: x\nmx: MX1.far.test\nmx: *.far.test\nmax_age: 99999999999\n';
    expect(parsePolicy(text)).toEqual({ problem: 'its max_age is not a number of seconds' });
    expect(parsePolicy(text.replace('99999999999', '9999999999'))).toEqual({
      ...{ mode: 'enforce', mx: ['mx1.far.test', '*.far.test'], maxAgeMs: 31_557_600_000 },
    });
  });

  test.each([
    ['<html>', 'its version is not STSv1'],
    [policy('sometimes'), 'its mode is none of'],
    ['version: STSv1\nmode: enforce\nmax_age: 1\n', 'it names no mx'],
    [policy('enforce', 'mx far'), 'is not a host name'],
    [`${policy('enforce')}${'mx: a.test\n'.repeat(100)}`, 'more than 100 mx'],
  ])('%j is none: %s', (text, problem) =>
    expect(parsePolicy(text)).toEqual({ problem: expect.stringContaining(problem) }),
  );

  test('blanks without end take no time', () => {
    const from = performance.now();
    expect(parsePolicy(`version: STSv1\nmode: ${' '.repeat(65_000)}x\n`)).toHaveProperty('problem');
    expect(policyId([`v=STSv1;${' '.repeat(65_000)}`])).toBeNull();
    expect(performance.now() - from).toBeLessThan(1_000);
  });

  test.each([
    ['mx.far.test', 'MX.far.test.', true],
    ['mx.far.test', 'a.mx.far.test', false],
    ['*.far.test', 'mx.far.test', true],
    ['*.far.test', 'a.mx.far.test', false],
    ['*.far.test', 'far.test', false],
    ['*.test', 'test', false],
  ])('%s means %s: %s', (pattern, host, expected) =>
    expect(isInPolicy({ mode: 'enforce', mx: [pattern], maxAgeMs: 1 }, host)).toBe(expected),
  );
});

const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
});
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

interface World {
  readonly web: PolicyServer;
  readonly dns: DnsServer;
  /** Moves the clock of the transport. */
  pass(ms: number): void;
  deliver(): Promise<readonly RecipientResult[]>;
}

async function world(
  text: string,
  port: number,
  ca: string,
  tls: 'Opportunistic' | 'None' = 'Opportunistic',
  webName = 'mta-sts.far.test',
): Promise<World> {
  const web = kept(await PolicyServer.start(webName, text));
  const zone: Record<string, ZoneEntry> = {
    'far.test': { mx: [[10, 'mx.far.test']] },
    'mx.far.test': { a: ['127.0.0.1'] },
    '_mta-sts.far.test': { txt: ['v=STSv1; id=1;'] },
    'mta-sts.far.test': { a: ['127.0.0.1'] },
  };
  const dns = kept(await DnsServer.start(zone));
  let aheadMs = 0;
  const clock: Clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() + aheadMs };
  const agent = createDeliveryAgent({
    ...{ clock, log: silentLogger, metrics: silentMetrics, random: systemRandom },
    ...{ hostname: 'us.test', member: 'transport-0' },
    dns: (servers) => nodeDns(systemClock, servers, { tryMs: 200, questionMs: 1_000 }),
    readBody: async function* () {
      yield Buffer.from('Subject: out\r\n\r\nhello\r\n');
    },
    onDamaged: (id) => {
      throw new Error(`damaged: ${id}`);
    },
    settings: { ca: `${ca}\n${web.ca}`, policyPort: web.port, idleMs: 1 },
  });
  kept({ [Symbol.asyncDispose]: () => agent.close() });
  const mx = { port, dnsServers: [dns.server], allowNetworks: ['127.0.0.0/8'], ownNames: [], mtaSts: tls !== 'None' };
  let requestId = 0;
  return {
    ...{ web, dns },
    pass: (ms) => {
      aheadMs += ms;
    },
    deliver: () =>
      new Promise((resolve) =>
        agent.start(
          {
            ...{ copyId: 'COPY' as CopyId, deliveryId: 'COPY', contentKey: null, mayBeRepeat: false },
            requestId: requestId++,
            epoch: { try: 1, term: 0, owner: 'ME' as Identity },
            envelope: { ...sampleEnvelope, recipients: [], body: '7BIT', declaredSizeBytes: null },
            sizeBytes: 30,
            route: { kind: 'mx', connector: 'out', domain: 'far.test', mx, tls },
            recipients: [{ index: 3, recipient: { address: 'bob@far.test' } }],
            mayBegin: () => true,
          },
          resolve,
        ),
      ),
  };
}

async function host(
  name: string,
  script: PeerScript = {},
): Promise<{ readonly server: ScriptedPeer; readonly ca: string }> {
  const { ca, ...tls } = await testCertificate(name);
  return { server: kept(await ScriptedPeer.start({ tls, capabilities: ['STARTTLS'], ...script })), ca };
}
const RELAYED = [{ index: 3, kind: 'relayed' }];
const waits = (reason: RegExp) => [{ kind: 'deferred', scope: 'host', reply: expect.stringMatching(reason) }];

describe('delivery', () => {
  test('a real Postfix with the certificate that the policy asks for takes it, over proven TLS', async (context) => {
    const { ca, cert, key } = await testCertificate('mx.far.test');
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-certificate-'));
    kept({ [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) });
    const files = { cert: join(directory, 'cert.pem'), key: join(directory, 'key.pem') };
    await writeFile(files.cert, cert);
    await writeFile(files.key, key, { mode: 0o600 });
    if (process.getuid?.() === 0) await chown(directory, 0, 0);
    const postfix = await Postfix.start({
      role: { kind: 'accept' },
      settings: [
        ...['smtpd_tls_security_level = may', 'smtpd_tls_loglevel = 1'],
        ...[`smtpd_tls_cert_file = ${files.cert}`, `smtpd_tls_key_file = ${files.key}`],
      ],
    });
    if ('missing' in postfix) return context.skip(postfix.missing);
    kept(postfix);
    const { deliver, web } = await world(policy('enforce'), postfix.smtpPort, ca);
    expect(await deliver()).toMatchObject(RELAYED);
    expect(web.asked).toEqual(['mta-sts.far.test /.well-known/mta-sts.txt']);
    expect(await postfix.log()).toMatch(/TLS connection established from/);
  });

  test.each<[string, string, string, PeerScript, RegExp | null]>([
    ['enforce, a certificate of another name', policy('enforce'), 'other.test', {}, /^4\.7\.5 .*TLS failed/],
    ['enforce, no STARTTLS', policy('enforce'), 'mx.far.test', { capabilities: [] }, /^4\.7\.5 .*not offered/],
    [
      'enforce, another host in DNS',
      policy('enforce', '*.near.test'),
      'mx.far.test',
      {},
      /^4\.7\.0 the MTA-STS policy of far\.test means \*\.near\.test, but DNS says mx\.far\.test/,
    ],
    ['testing, a certificate of another name', policy('testing'), 'other.test', {}, null],
    ['testing, another host in DNS', policy('testing', 'near.test'), 'mx.far.test', {}, null],
    ['none', policy('none'), 'other.test', {}, null],
  ])('%s', async (_title, text, name, script, reason) => {
    const { server, ca } = await host(name, script);
    const { deliver } = await world(text, server.port, ca);
    expect(await deliver()).toMatchObject(reason === null ? RELAYED : waits(reason));
    expect(server.messages).toHaveLength(reason === null ? 1 : 0);
  });

  test('a connector that does not keep to policies asks nobody for one', async () => {
    const { server, ca } = await host('other.test');
    const { deliver, web, dns } = await world(policy('enforce'), server.port, ca, 'None');
    expect(await deliver()).toMatchObject(RELAYED);
    expect([web.asked, dns.asked.filter((one) => one.includes('mta-sts'))]).toEqual([[], []]);
  });

  test.each<[string, (one: World) => void]>([
    ['a redirect', ({ web }) => (web.answer = { status: 301, headers: { location: 'https://far.test/' }, body: '' })],
    ['another type', ({ web }) => (web.answer = { headers: { 'content-type': 'text/html' }, body: policy('enforce') })],
    ['too long', ({ web }) => (web.answer = { body: policy('enforce') + 'x'.repeat(70_000) })],
    ['no address', ({ dns }) => delete dns.zone['mta-sts.far.test']],
    ['an address inside', ({ dns }) => (dns.zone['mta-sts.far.test'] = { a: ['10.0.0.7'] })],
    ['no record', ({ dns }) => delete dns.zone['_mta-sts.far.test']],
  ])('%s is no policy: mail goes as the connector says', async (_title, spoil) => {
    const { server, ca } = await host('other.test');
    const one = await world(policy('enforce'), server.port, ca);
    spoil(one);
    expect(await one.deliver()).toMatchObject(RELAYED);
  });

  test('a web server with a certificate of another name says nothing', async () => {
    const { server, ca } = await host('other.test');
    const { deliver, web } = await world(policy('enforce'), server.port, ca, 'Opportunistic', 'www.far.test');
    expect(await deliver()).toMatchObject(RELAYED);
    expect(web.asked).toEqual([]);
  });
});

describe('what was seen counts until its max_age is over', () => {
  const HOUR = 3_600_000;

  test('fetched once; a new id fetches again; silence of DNS or of the web server changes nothing', async () => {
    const { server, ca } = await host('other.test');
    const one = await world(policy('enforce'), server.port, ca);
    const refused = waits(/TLS failed/);
    expect(await one.deliver()).toMatchObject(refused);
    expect(await one.deliver()).toMatchObject(refused);
    expect(one.web.asked).toHaveLength(1);

    one.dns.zone['_mta-sts.far.test'] = 'SERVFAIL';
    expect(await one.deliver()).toMatchObject(refused);
    one.dns.zone['_mta-sts.far.test'] = { txt: ['v=STSv1; id=2;'] };
    one.web.answer = { status: 503, body: '' };
    expect(await one.deliver()).toMatchObject(refused);
    expect(one.web.asked).toHaveLength(2);
    // Not again within five minutes.
    one.web.answer = { body: policy('testing') };
    expect(await one.deliver()).toMatchObject(refused);
    expect(one.web.asked).toHaveLength(2);
    one.pass(5 * 60_000);
    expect(await one.deliver()).toMatchObject(RELAYED);
    expect(one.web.asked).toHaveLength(3);
  });

  test('looked at again when half of it is over, gone when all of it is', async () => {
    const { server, ca } = await host('other.test');
    const one = await world(policy('enforce', 'mx.far.test', '7200'), server.port, ca);
    expect(await one.deliver()).toMatchObject(waits(/TLS failed/));
    one.web.answer = { status: 503, body: '' };
    one.pass(HOUR + 1);
    expect(await one.deliver()).toMatchObject(waits(/TLS failed/));
    expect(one.web.asked).toHaveLength(2);
    one.pass(HOUR);
    expect(await one.deliver()).toMatchObject(RELAYED);
  });
});
