/**
 * Delivery with DANE (RFC 7672): what TLSA records make of a host, against name servers and mail servers of its own; with a real Postfix and a real resolver that validates. The
 * verdicts themselves: `dane.test.ts`; the resolver's client: `validating-dns.test.ts`.
 */
import { createHash } from 'node:crypto';
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { CopyId, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { validatingDns } from '../../common/platform/validating-dns.ts';
import type { TlsaRecord } from '../../common/smtp/dane.ts';
import { credentialsIn } from '../../transport/runtime/connector-credentials.ts';
import { createDeliveryAgent, DEFAULT_DELIVERY_SETTINGS } from '../../transport/runtime/delivery.ts';
import type { RecipientResult, RouteHosts } from '../../transport/runtime/delivery-api.ts';
import { DeliveryPool } from '../../transport/runtime/delivery-pool.ts';
import { type ChainCertificate, certificate } from '../rigs/certificate-chain.ts';
import { DnsServer, type ZoneEntry, type ZoneRecords } from '../rigs/dns-server.ts';
import { PolicyServer } from '../rigs/policy-server.ts';
import { Postfix } from '../rigs/postfix.ts';
import { type PeerScript, ScriptedPeer } from '../rigs/scripted-peer.ts';
import { Unbound } from '../rigs/unbound.ts';
import { sampleEnvelope } from './peer-samples.ts';

const BOUNDS = { tryMs: 300, questionMs: 2_000 };
const LOOPBACK = ['127.0.0.0/8'];

const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
});
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

interface Chain {
  readonly root: ChainCertificate;
  readonly own: ChainCertificate;
}
let chain: Chain;
/** Of a name that nobody asks for, and expired: what is good by DANE-EE all the same. */
let odd: ChainCertificate;
/** Of an authority with an extension that is none, and without a subject. */
let strange: Chain;
beforeAll(async () => {
  const root = await certificate({ subject: 'Root' });
  const middle = await certificate({ subject: 'Middle', issuer: root });
  const own = await certificate({ subject: 'own', issuer: middle, names: ['mx.far.test'] });
  chain = { root, own: { ...own, pem: own.pem + middle.pem + root.pem } };
  odd = await certificate({ subject: 'odd', names: ['odd.test'], notAfterMs: Date.now() - 60_000 });
  const broken = await certificate({ subject: 'Odd', extra: { type: '2.5.29.32', content: Buffer.from([5, 0]) } });
  const nameless = await certificate({ subject: '', issuer: broken, names: ['mx.far.test'] });
  strange = { root: broken, own: { ...nameless, pem: nameless.pem + broken.pem } };
});

const sha256 = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest();
const ofKey = (usage: number, { spki }: ChainCertificate): TlsaRecord => ({
  ...{ usage, selector: 1, matchingType: 1, certificate: sha256(spki) },
});
const signed = (entry: ZoneRecords): ZoneRecords => ({ ...entry, isSigned: true });
const tlsa = (...records: TlsaRecord[]): ZoneRecords => signed({ tlsa: records });

interface World {
  readonly dns: DnsServer;
  readonly counted: string[];
  deliver(): Promise<readonly RecipientResult[]>;
  hosts(): Promise<RouteHosts>;
  unvalidated(): readonly string[];
}

interface Wishes {
  readonly tls?: 'Opportunistic' | 'Required';
  readonly isUnproven?: boolean;
  readonly dane?: boolean;
  readonly policy?: PolicyServer;
  readonly servers?: readonly string[];
}

async function world(
  port: number,
  more: (at: string) => Record<string, ZoneEntry>,
  wishes: Wishes = {},
): Promise<World> {
  const { tls = 'Opportunistic', dane = true, policy, isUnproven } = wishes;
  const dns = kept(
    await DnsServer.start({
      '.': signed({ ns: ['ns.test'] }),
      'far.test': signed({ mx: [[10, 'mx.far.test']] }),
      'mx.far.test': signed({ a: ['127.0.0.1'] }),
      ...more(`_${port}._tcp.mx.far.test`),
    }),
  );
  const counted: string[] = [];
  const agent = createDeliveryAgent({
    ...{ clock: systemClock, log: silentLogger, random: systemRandom, hostname: 'us.test', member: 'transport-0' },
    metrics: {
      ...silentMetrics,
      increment: (name: string, labels?: Readonly<Record<string, string>>) => {
        if (name.startsWith('dane_')) counted.push(`${name} ${Object.values(labels ?? {}).join(' ')}`);
      },
    },
    dns: (servers) => nodeDns(systemClock, servers, BOUNDS),
    validatingDns: (servers) =>
      validatingDns(servers, { clock: systemClock, log: silentLogger, random: systemRandom }, BOUNDS),
    readBody: async function* () {
      yield Buffer.from('Subject: out\r\n\r\nhello\r\n');
    },
    onDamaged: (id) => {
      throw new Error(`damaged: ${id}`);
    },
    settings: { idleMs: 1, ...(policy === undefined ? {} : { ca: policy.ca, policyPort: policy.port }) },
  });
  kept({ [Symbol.asyncDispose]: () => agent.close() });
  const { servers = [dns.server] } = wishes;
  const mx = { port, dnsServers: servers, allowNetworks: LOOPBACK, ownNames: [], mtaSts: policy !== undefined, dane };
  const session = isUnproven === undefined ? null : { isUnproven, credentials: null, sourceAddress: null };
  const route = { kind: 'mx', connector: 'out', domain: 'far.test', mx, tls, session } as const;
  return {
    ...{ dns, counted },
    hosts: () => agent.hostsOf(route),
    unvalidated: () => agent.unvalidatedResolvers(),
    deliver: () =>
      new Promise((resolve) =>
        agent.start(
          {
            ...{ requestId: 1, copyId: 'COPY' as CopyId, deliveryId: 'COPY', contentKey: null, mayBeRepeat: false },
            epoch: { try: 1, term: 0, owner: 'ME' as Identity },
            envelope: { ...sampleEnvelope, recipients: [], body: '7BIT', declaredSizeBytes: null },
            ...{ sizeBytes: 30, route, mayBegin: () => true },
            recipients: [{ index: 3, recipient: { address: 'bob@far.test' } }],
          },
          resolve,
        ),
      ),
  };
}

/** A mail server with this certificate; the names that clients asked for in SNI. */
async function host(
  { pem, key }: ChainCertificate,
  script: PeerScript = {},
): Promise<{ readonly server: ScriptedPeer; readonly asked: string[] }> {
  const asked: string[] = [];
  const tls = {
    ...{ cert: pem, key },
    SNICallback: (name: string, done: (error: null) => void) => {
      asked.push(name);
      done(null);
    },
  };
  return { server: kept(await ScriptedPeer.start({ tls, capabilities: ['STARTTLS'], ...script })), asked };
}

const relayed = (reply = /^250 /) => [{ index: 3, kind: 'relayed', reply: expect.stringMatching(reply) }];
const waits = (reply: RegExp) => [{ index: 3, kind: 'deferred', scope: 'host', reply: expect.stringMatching(reply) }];

describe('TLSA records that can be used', () => {
  test.each<[string, () => ChainCertificate, () => TlsaRecord, RegExp]>([
    ['DANE-EE of an expired certificate for another name', () => odd, () => ofKey(3, odd), /proven by TLSA 3 1 1\)$/],
    [
      'DANE-TA of the root that the server sends',
      () => chain.own,
      () => ofKey(2, chain.root),
      /proven by TLSA 2 1 1\)$/,
    ],
  ])('%s: delivered, and said to be proven', async (_title, which, record, proven) => {
    const { server, asked } = await host(which());
    const { deliver, counted, hosts } = await world(server.port, (at) => ({ [at]: tlsa(record()) }));
    expect(await deliver()).toMatchObject(relayed(proven));
    expect([asked, counted]).toEqual([['mx.far.test'], ['dane_hosts_total proof', 'dane_attempts_total proven']]);
    expect((await hosts()).hosts[0]).toMatch(
      /^mx\.far\.test \[127\.0\.0\.1\]:\d+, TLS proven by TLSA \d 1 1 \(DANE\)$/,
    );
  });

  test.each<[string, () => ChainCertificate, (zone: string) => Record<string, ZoneEntry>, PeerScript, RegExp]>([
    [
      'the key of somebody else',
      () => odd,
      (at) => ({ [at]: tlsa(ofKey(3, chain.own)) }),
      {},
      /^4\.7\.5 127\.0\.0\.1:\d+: DANE: the certificate of mx\.far\.test is none that its TLSA 3 1 1 means; SHA-256 of its key [0-9a-f]{64}$/,
    ],
    [
      'an authority of somebody else',
      () => odd,
      (at) => ({ [at]: tlsa(ofKey(2, chain.root)) }),
      {},
      /DANE: the certificate of mx\.far\.test is none that its TLSA 2 1 1 means/,
    ],
    [
      'an authority that cannot be read',
      () => strange.own,
      (at) => ({ [at]: tlsa(ofKey(2, strange.root)) }),
      {},
      /^4\.7\.5 127\.0\.0\.1:\d+: DANE: the certificate of CN=Odd is one that cannot be read$/,
    ],
    [
      'no STARTTLS',
      () => odd,
      (at) => ({ [at]: tlsa(ofKey(3, odd)) }),
      { capabilities: [] },
      /^4\.7\.5 .*TLSA records of mx\.far\.test require TLS and STARTTLS is not offered$/,
    ],
  ])('%s: nothing is sent, it waits and says why', async (_title, which, zone, script, reason) => {
    const { server } = await host(which(), script);
    const one = await world(server.port, zone);
    expect(await one.deliver()).toMatchObject(waits(reason));
    expect(server.messages).toEqual([]);
    expect(server.lines.filter((line) => /^MAIL/i.test(line))).toEqual([]);
    expect(one.counted).toEqual(['dane_hosts_total proof', 'dane_attempts_total refused']);
  });

  test('the host that is proven is used in place of the better one that is not', async () => {
    const { server } = await host(chain.own);
    // One server is both; it has the certificate of one of them.
    const { deliver, counted } = await world(server.port, (at) => ({
      'far.test': signed({
        mx: [
          [10, 'mx1.far.test'],
          [20, 'mx.far.test'],
        ],
      }),
      'mx1.far.test': signed({ a: ['127.0.0.1'] }),
      [at.replace('mx.far', 'mx1.far')]: tlsa(ofKey(3, odd)),
      [at]: tlsa(ofKey(3, chain.own)),
    }));
    expect(await deliver()).toMatchObject(relayed(/mx\.far\.test proven/));
    expect(counted.slice(-2)).toEqual(['dane_attempts_total refused', 'dane_attempts_total proven']);
    expect(server.messages).toHaveLength(1);
  });

  test('an alias: the records at its end, in SNI as well; without any there, where it begins', async () => {
    const { server, asked } = await host(odd);
    const end = `_${server.port}._tcp.host.near.test`;
    const { deliver, dns } = await world(server.port, (at) => ({
      'mx.far.test': signed({ cname: 'host.near.test' }),
      'host.near.test': signed({ a: ['127.0.0.1'] }),
      [at]: tlsa(ofKey(3, chain.own)),
      [end]: tlsa(ofKey(3, odd)),
    }));
    expect(await deliver()).toMatchObject(relayed(/host\.near\.test proven/));
    expect(asked).toEqual(['host.near.test']);
    dns.zone[end] = signed({});
    await expect
      .poll(() => deliver(), { timeout: 10_000, interval: 200 })
      .toMatchObject(waits(/certificate of mx\.far/));
  });

  test('a domain without MX that is its own host', async () => {
    const { server } = await host(odd);
    const { deliver } = await world(server.port, (at) => ({
      'far.test': signed({ a: ['127.0.0.1'] }),
      [at.replace('mx.', '')]: tlsa(ofKey(3, odd)),
    }));
    expect(await deliver()).toMatchObject(relayed(/far\.test proven/));
  });
});

test('a connection is used again under the same records, in whichever order they come', async () => {
  const { server } = await host(odd);
  const { timeouts } = DEFAULT_DELIVERY_SETTINGS;
  const pool = new DeliveryPool({
    ...{ clock: systemClock, hostname: 'us.test', timeouts, idleMs: 60_000, maxPerDestination: 1, maxMessages: 10 },
    credentials: credentialsIn(null),
  });
  kept({ [Symbol.asyncDispose]: async () => pool.close() });
  const under = async (...records: TlsaRecord[]): Promise<boolean | string> => {
    const dane = { base: 'mx.far.test', names: ['mx.far.test'], records };
    const where = { protocol: 'SMTP', host: '127.0.0.1', port: server.port, tls: 'Required', dane } as const;
    const lease = await pool.acquire(where, false);
    if (lease instanceof Error) return lease.message;
    pool.release(where, lease);
    return lease.reused;
  };
  const [own, other] = [ofKey(3, odd), ofKey(3, chain.own)];
  expect([await under(own, other), await under(other, own), await under(own)]).toEqual([false, true, false]);
});

describe('what cannot be learnt is not "none"', () => {
  test.each<[string, (at: string) => Record<string, ZoneEntry>, RegExp]>([
    ['TLSA', (at) => ({ [at]: 'SERVFAIL' }), /^4\.4\.3 DNS: TLSA of _\d+\._tcp\.mx\.far\.test: SERVFAIL/],
    ['silent TLSA', (at) => ({ [at]: 'silent' }), /^4\.4\.3 DNS: TLSA of .*no answer/],
    [
      'more TLSA records than are looked at',
      (at) => ({
        [at]: tlsa(...Array.from({ length: 101 }, (_, n) => ({ ...ofKey(3, odd), certificate: Buffer.alloc(32, n) }))),
      }),
      /^4\.4\.3 DNS: TLSA of mx\.far\.test: 101 records, more than 100$/,
    ],
    ['MX', () => ({ 'far.test': 'SERVFAIL' }), /^4\.4\.3 DNS: MX of far\.test: SERVFAIL/],
    ['address', () => ({ 'mx.far.test': 'SERVFAIL' }), /^4\.4\.3 DNS: AAAA of mx\.far\.test: SERVFAIL/],
  ])('%s: the host is not used, the message waits', async (_title, zone, reason) => {
    const { server } = await host(odd);
    const { deliver } = await world(server.port, zone);
    expect(await deliver()).toMatchObject(waits(reason));
    expect(server.connections).toBe(0);
  });

  test('another host, of which it can be learnt, is used', async () => {
    const { server } = await host(odd);
    const { deliver, counted } = await world(server.port, (at) => ({
      'far.test': signed({
        mx: [
          [10, 'mx1.far.test'],
          [20, 'mx.far.test'],
        ],
      }),
      'mx1.far.test': signed({ a: ['127.0.0.1'] }),
      [at.replace('mx.far', 'mx1.far')]: 'SERVFAIL',
      [at]: tlsa(ofKey(3, odd)),
    }));
    expect(await deliver()).toMatchObject(relayed(/mx\.far\.test proven/));
    expect(counted.sort()).toEqual([
      'dane_attempts_total proven',
      'dane_hosts_total proof',
      'dane_hosts_total unresolved',
    ]);
  });
});

describe('without a proof the connector decides', () => {
  test.each<[string, (at: string) => Record<string, ZoneEntry>, RegExp, string]>([
    ['no records', () => ({}), /no DANE: mx\.far\.test has no TLSA records for port \d+/, 'none'],
    ['records that are not signed', (at) => ({ [at]: { tlsa: [ofKey(3, chain.own)] } }), /has no TLSA records/, 'none'],
    [
      'MX records that are not signed',
      (at) => ({ 'far.test': { mx: [[10, 'mx.far.test']] }, [at]: tlsa(ofKey(3, chain.own)) }),
      /no DANE: MX of far\.test is not signed/,
      'none',
    ],
    [
      'a host that is not signed',
      (at) => ({ 'mx.far.test': { a: ['127.0.0.1'] }, [at]: tlsa(ofKey(3, chain.own)) }),
      /no DANE: the address of mx\.far\.test is not signed/,
      'none',
    ],
    [
      'a resolver that does not validate',
      (at) => ({
        ...{ '.': { ns: ['ns.test'] }, 'far.test': { mx: [[10, 'mx.far.test']] } },
        ...{ 'mx.far.test': { a: ['127.0.0.1'] }, [at]: { tlsa: [ofKey(3, chain.own)] } },
      }),
      /no DANE: mx\.dnsServers do not validate DNSSEC/,
      'unvalidated',
    ],
  ])('%s', async (_title, zone, why, result) => {
    const { server } = await host(odd, { capabilities: [] });
    const { deliver, hosts, counted, unvalidated, dns } = await world(server.port, zone);
    expect(unvalidated()).toEqual([]);
    expect(await deliver()).toMatchObject(relayed());
    expect(counted).toEqual([`dane_hosts_total ${result}`]);
    expect(unvalidated()).toEqual(result === 'unvalidated' ? [dns.server] : []);
    expect((await hosts()).hosts[0]).toMatch(why);
  });

  test('a connector without DANE asks nobody for TLSA records', async () => {
    const { server } = await host(odd);
    const { deliver, dns } = await world(server.port, (at) => ({ [at]: tlsa(ofKey(3, chain.own)) }), { dane: false });
    expect(await deliver()).toMatchObject(relayed());
    expect(dns.asked.filter((one) => one.startsWith('TLSA'))).toEqual([]);
  });
});

describe('records of which none can be used', () => {
  const pkix = (at: string): Record<string, ZoneEntry> => ({ [at]: tlsa(ofKey(1, odd), ofKey(0, chain.root)) });

  test('ask for TLS, whatever the certificate', async () => {
    const [open, closed] = [await host(odd), await host(odd, { capabilities: [] })];
    const one = await world(open.server.port, pkix);
    expect(await one.deliver()).toMatchObject(relayed());
    expect(one.counted).toEqual(['dane_hosts_total unusable']);
    expect((await one.hosts()).hosts[0]).toMatch(
      /TLS, whatever the certificate \(no DANE: TLSA 1 1 1, TLSA 0 1 1 of mx\.far\.test cannot be used\)$/,
    );
    expect(await (await world(closed.server.port, pkix)).deliver()).toMatchObject(
      waits(/TLS is required and STARTTLS/),
    );
  });

  test('and leave a connector that wants more with what it wants', async () => {
    const { server } = await host(odd);
    const { deliver } = await world(server.port, pkix, { tls: 'Required' });
    expect(await deliver()).toMatchObject(waits(/^4\.7\.5 .*TLS failed/));
  });
});

describe('TLSA records before an MTA-STS policy (RFC 8461 2)', () => {
  const policy = async (mx: string): Promise<PolicyServer> =>
    kept(
      await PolicyServer.start(
        'mta-sts.far.test',
        `version: STSv1\r\nmode: enforce\r\nmx: ${mx}\r\nmax_age: 86400\r\n`,
      ),
    );
  const published = {
    '_mta-sts.far.test': { txt: ['v=STSv1; id=1;'] },
    'mta-sts.far.test': { a: ['127.0.0.1'] },
  };

  test.each<[string, string, () => TlsaRecord, RegExp | null]>([
    ['proven, and the policy means another host and another certificate', 'mx.near.test', () => ofKey(3, odd), null],
    [
      'refused, although the policy is content with the host',
      'mx.far.test',
      () => ofKey(3, chain.own),
      /DANE: the certificate/,
    ],
    ['unusable: the policy decides', 'mx.far.test', () => ofKey(1, odd), /TLS failed/],
    [
      'unusable: the policy decides which host',
      'mx.near.test',
      () => ofKey(1, odd),
      /the MTA-STS policy of far\.test means/,
    ],
  ])('%s', async (_title, meant, record, reason) => {
    const { server } = await host(odd);
    const zone = (at: string): Record<string, ZoneEntry> => ({ ...published, [at]: tlsa(record()) });
    const { deliver } = await world(server.port, zone, { policy: await policy(meant) });
    expect(await deliver()).toMatchObject(reason === null ? relayed(/proven by TLSA/) : waits(reason));
  });
});

test('a real Postfix and a real validator: TLSA that is right, that lies, that is mended; a zone that is forged', async (context) => {
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-certificate-'));
  kept({ [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) });
  const files = { cert: join(directory, 'cert.pem'), key: join(directory, 'key.pem') };
  await writeFile(files.cert, odd.pem);
  await writeFile(files.key, odd.key, { mode: 0o600 });
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
  const record = ({ spki }: ChainCertificate): string =>
    `_${postfix.smtpPort}._tcp.mx.far.test. 1 IN TLSA 3 1 1 ${sha256(spki).toString('hex')}`;
  const far = ['far.test. 1 IN MX 10 mx.far.test.', 'mx.far.test. 1 IN A 127.0.0.1'];
  const through = async (signedLines: readonly string[], isForged = false) => {
    const unbound = await Unbound.start(
      isForged ? { signed: [], forged: { 'far.test.': signedLines } } : { signed: signedLines },
    );
    return 'missing' in unbound
      ? unbound
      : (await world(postfix.smtpPort, () => ({}), { servers: [kept(unbound).server] })).deliver();
  };
  const lies = await through([...far, record(chain.own)]);
  if ('missing' in lies) return context.skip(lies.missing);
  expect(lies).toMatchObject(waits(/^4\.7\.5 .*DANE: the certificate of mx\.far\.test is none that its TLSA 3 1 1/));
  expect(await postfix.delivered()).toEqual([]);
  expect(await through([...far, record(odd)], true)).toMatchObject(waits(/^4\.4\.3 DNS: MX of far\.test: SERVFAIL/));
  expect(await through([...far, record(odd)])).toMatchObject(relayed(/mx\.far\.test proven by TLSA 3 1 1/));
  await expect.poll(() => postfix.delivered(), { timeout: 20_000 }).toHaveLength(1);
  expect(await postfix.log()).toMatch(/TLS connection established from/);
});
