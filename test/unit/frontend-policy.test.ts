/** Relay and recipient policy as tables: no open relay in any combination of listener, domain and identity. */
import { describe, expect, it } from 'vitest';
import type { MailboxDatabaseConfig, TopologyDocument } from '../../common/config.ts';
import type { Envelope } from '../../common/message.ts';
import { inNetworks } from '../../common/networks.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { type Labels, type Metrics, silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { ClientLimits } from '../../common/smtp/client-limits.ts';
import type { EdgeSession, MailFrom } from '../../common/smtp/edge-api.ts';
import { hashPassword, parseUsers } from '../../common/smtp/users.ts';
import { FrontendEdge } from '../../frontend/edge.ts';
import { RecipientPolicy, relayNetworks } from '../../frontend/policy.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { simTopology } from '../sim/topology.ts';
import { sampleEnvelope } from './peer-samples.ts';

const base = simTopology({ sites: [1], dag: true, frontends: 1 });
const [alpha, beta] = base.databases as [MailboxDatabaseConfig, MailboxDatabaseConfig];

const topology: TopologyDocument = {
  ...base,
  acceptedDomains: [
    { name: 'listed.example', type: 'Authoritative' },
    { name: 'whole.example', type: 'Authoritative' },
    { name: 'empty.example', type: 'Authoritative' },
    { name: 'bücher.example', type: 'Authoritative' },
    { name: 'partner.example', type: 'ExternalRelay' },
    { name: 'branch.example', type: 'InternalRelay' },
  ],
  databases: [
    { ...alpha, domains: ['whole.example', 'bücher.example'], addresses: ['bob@listed.example', 'vip@branch.example'] },
    { ...beta, domains: [], addresses: ['Case@listed.example', 'odd@whole.example'], caseSensitiveLocalParts: true },
  ],
};
const policy = new RecipientPolicy(topology);

/** What a stranger hears; those who may relay hear the same for our own domains. */
const ownDomains: [address: string, expected: string][] = [
  ['bob@listed.example', 'accept'],
  ['BOB@LISTED.example', 'accept'],
  ['nobody@listed.example', '5.1.1'],
  ['Case@listed.example', 'accept'],
  ['case@listed.example', '5.1.1'],
  ['anyone@whole.example', 'accept'],
  ['"a b@c"@whole.example', 'accept'],
  ['anyone@empty.example', '5.1.1'],
  ['anyone@bücher.example', 'accept'],
  ['anyone@xn--bcher-kva.example', 'accept'],
  ['anyone@partner.example', 'accept'],
  ['anyone@branch.example', 'accept'],
  ['vip@branch.example', 'accept'],
  ['postmaster', 'accept'],
  ['PostMaster', 'accept'],
  ['postmaster@listed.example', '5.1.1'],
];

const foreignDomains = [
  'victim@foreign.example',
  'victim@sub.partner.example',
  'victim@notpartner.example',
  'victim@partner.example.foreign.example',
  'victim@listed.example.',
  'victim@[127.0.0.1]',
  'victim@[IPv6:::1]',
  'victim@localhost',
  'victim@bücher.example/partner.example',
  'bob@listed.example@foreign.example',
  '@listed.example:victim@foreign.example',
];

/** Addresses in a relay domain that carry a route for the host behind us. */
const routed = [
  'victim%foreign.example@partner.example',
  'foreign.example!victim@partner.example',
  '"victim@foreign.example"@partner.example',
  'victim@foreign.example@branch.example',
];

const strangers = { client: { user: null }, trusted: false };
const relayers = [
  { client: { user: 'printer' }, trusted: false },
  { client: { user: null }, trusted: true },
  { client: { user: 'printer' }, trusted: true },
];

const verdict = (address: string, who: { client: { user: string | null }; trusted: boolean }): string =>
  policy.check(address, who.client, who.trusted)?.enhanced ?? 'accept';

describe('recipient policy', () => {
  it.each(ownDomains)('%s: %s, whoever asks', (address, expected) => {
    for (const who of [strangers, ...relayers]) expect(verdict(address, who)).toBe(expected);
  });

  it.each(foreignDomains)('%s: only for those who may relay', (address) => {
    expect(policy.check(address, { user: null }, false)).toMatchObject({ code: 550, enhanced: '5.7.1' });
    for (const who of relayers) expect(verdict(address, who)).toBe('accept');
  });

  it.each(routed)('%s: a route through us, only for those who may relay', (address) => {
    expect(verdict(address, strangers)).toBe('5.7.1');
    for (const who of relayers) expect(verdict(address, who)).toBe('accept');
  });

  it.each(['', '@', 'nodomain', '@foreign.example', 'local@'])('%j is no address', (address) => {
    for (const who of [strangers, ...relayers]) expect(verdict(address, who)).toBe('5.1.3');
  });

  it('without accepted domains nobody is postmaster', () => {
    const none = new RecipientPolicy({ ...topology, acceptedDomains: [] });
    expect(none.check('postmaster', { user: null }, true)?.code).toBe(550);
  });
});

describe('relay networks', () => {
  const relayFrom = ['10.1.0.0/16', '192.0.2.7', '2001:db8:1::/48'];
  const networks = relayNetworks({ name: 'smtp', relayFrom });
  it.each([
    ['10.1.255.255', true],
    ['10.2.0.1', false],
    ['192.0.2.7', true],
    ['192.0.2.8', false],
    ['::ffff:10.1.2.3', true],
    ['::FFFF:10.2.2.3', false],
    ['2001:db8:1:ffff::1', true],
    ['2001:db8:2::1', false],
    ['127.0.0.1', false],
    ['::1', false],
    ['fe80::1%eth0', false],
    ['', false],
    ['not an address', false],
  ])('%s: %s', (address, expected) => expect(inNetworks(networks, address)).toBe(expected));

  it.each(['10.1.0.0/33', '10.1.0.0/', 'ten', '10.1.0.0/8/8', '2001:db8::/129', '10.1.0.0/-1', ''])(
    'refuses %j as a network',
    (entry) => expect(() => relayNetworks({ name: 'smtp', relayFrom: [entry] })).toThrow(/listener smtp: relayFrom/),
  );
});

describe('edge', () => {
  const listener = (name: string, relayFrom: string[]) =>
    ({ name, host: '127.0.0.1', port: 0, tls: 'None', relayFrom, usersFile: null }) as const;
  const mail: MailFrom = { reversePath: '', body: '7BIT', smtputf8: false, declaredSizeBytes: null };
  const session = (id: string, name: string, address: string, user: string | null): EdgeSession => ({
    id,
    listener: name,
    client: { ...sampleEnvelope.client, address, user },
  });
  const opened: { envelope: Envelope; details: string[] }[] = [];
  const proxy = {
    pressedBy: null as string | null,
    open: async (envelope: Envelope, _drain: () => void, history: readonly { detail?: string }[] = []) => {
      opened.push({ envelope, details: history.map((e) => e.detail ?? '') });
      return { kind: 'refuse', reply: { code: 451, enhanced: '4.4.0', text: 'test' } } as const;
    },
  };
  const edge = new FrontendEdge(
    {
      name: 'f-0',
      proxy,
      random: systemRandom,
      clock: new Scheduler(1).clock(),
      log: silentLogger,
      listeners: [listener('inside', ['10.0.0.0/8']), listener('outside', [])],
      clients: new ClientLimits(new Scheduler(1).clock(), null),
      limits: { maxAuthFailures: 10, maxMessageRatePerUser: 0 },
      metrics: silentMetrics,
    },
    topology,
  );

  it('members of groups count: what no frame holds is put off, the next message begins anew, and the transport gets the members', async () => {
    const counted: string[] = [];
    const metrics: Metrics = {
      ...silentMetrics,
      increment: (name: string, labels?: Labels) => counted.push(`${name} ${labels?.limit}`),
    };
    const clock = new Scheduler(1).clock();
    const many = Array.from({ length: 6_000 }, (_, at) => `m${at}@foreign.example`);
    const group = (address: string, members: readonly string[]) => ({
      ...{ address, members, membersFrom: null, envelopeSender: null },
    });
    const expansions = [
      group('big@listed.example', many),
      group('more@listed.example', [...many.slice(1), 'b@x.example']),
      group('pair@listed.example', ['bob@listed.example', 'far@foreign.example']),
    ];
    const groups = new FrontendEdge(
      {
        ...{ name: 'f-0', proxy, clock, random: systemRandom, log: silentLogger, metrics },
        ...{ listeners: [listener('outside', [])], clients: new ClientLimits(clock, null) },
        limits: { maxAuthFailures: 10, maxMessageRatePerUser: 0 },
      },
      { ...topology, recipients: { plusAddressing: false, expansions, catchAll: [], knownRecipients: [] } },
    );
    const one = session('g', 'outside', '203.0.113.5', null);
    const rcpt = async (address: string) => (await groups.onRcptTo(one, mail, { address }))?.enhanced ?? 'accept';
    groups.onConnect(one);
    await groups.onMailFrom(one, mail);
    expect([await rcpt('big@listed.example'), await rcpt('more@listed.example')]).toEqual(['accept', '4.5.3']);
    expect(counted).toEqual(['smtp_limits_total maxExpandedRecipients']);
    await groups.onMailFrom(one, mail);
    expect([await rcpt('more@listed.example')]).toEqual(['accept']);
    await groups.onMailFrom(one, mail);
    expect(await rcpt('pair@listed.example')).toBe('accept');
    await groups.onData(one, { ...sampleEnvelope, recipients: [{ address: 'pair@listed.example' }] }, () => undefined);
    const sent = opened.pop();
    expect(sent?.envelope.recipients.map(({ address }) => address)).toEqual([
      'bob@listed.example',
      'far@foreign.example',
    ]);
    expect(sent?.details[0]).toContain('1 RCPT; pair@listed.example expanded: 2 recipients');
  });

  it('no open relay in any combination of listener, address and identity', async () => {
    let combinations = 0;
    for (const name of ['inside', 'outside', 'unheard-of'])
      for (const address of ['10.1.2.3', '::ffff:10.1.2.3', '203.0.113.5', '2001:db8::1', '127.0.0.1', '::1'])
        for (const user of [null, 'printer'])
          for (const recipient of [...foreignDomains, ...routed]) {
            const one = session(`s${combinations}`, name, address, user);
            edge.onConnect(one);
            const refusal = await edge.onRcptTo(one, mail, { address: recipient });
            const mayRelay = user !== null || (name === 'inside' && address.endsWith('10.1.2.3'));
            expect(refusal?.enhanced ?? 'accept', `${name} ${address} ${user} ${recipient}`).toBe(
              mayRelay ? 'accept' : '5.7.1',
            );
            edge.onClose(one);
            expect((await edge.onRcptTo(one, mail, { address: recipient }))?.enhanced ?? 'accept').toBe(
              user === null ? '5.7.1' : 'accept',
            );
            combinations += 1;
          }
    expect(combinations).toBe(3 * 6 * 2 * (foreignDomains.length + routed.length));
  });

  it('AUTH that failed too often is not looked at, and a user sends no more than he may: said with the limit', async () => {
    const hash = await hashPassword('secret', systemRandom);
    const counted: string[] = [];
    const metrics: Metrics = {
      ...silentMetrics,
      increment: (name: string, labels?: Labels) => counted.push(`${name} ${labels?.limit}`),
    };
    const clock = new Scheduler(1).clock();
    const limited = new FrontendEdge(
      {
        ...{
          name: 'f-0',
          proxy: { ...proxy, pressedBy: null },
          clock,
          random: systemRandom,
          log: silentLogger,
          metrics,
        },
        listeners: [listener('outside', [])],
        clients: new ClientLimits(clock, null),
        limits: { maxAuthFailures: 2, maxMessageRatePerUser: 1 },
      },
      topology,
    );
    limited.setUsers('outside', parseUsers(`printer:${hash}`));
    const one = session('s', 'outside', '203.0.113.5', null);
    const elsewhere = session('t', 'outside', '203.0.113.6', null);
    expect(await limited.onAuth(one, 'printer', 'wrong')).toBe(false);
    expect(await limited.onAuth(one, 'printer', 'secret')).toBe(true);
    expect(await limited.onAuth(one, 'printer', 'wrong')).toBe(false);
    expect(await limited.onAuth(one, 'printer', 'secret')).toMatchObject({ code: 454, enhanced: '4.7.0' });
    expect(await limited.onAuth(elsewhere, 'printer', 'secret')).toBe(true);
    expect(limited.onScram(one, 'printer')).toMatchObject({ code: 454, enhanced: '4.7.0' });
    expect(limited.onScram(elsewhere, 'printer')).toMatchObject({ keys: { iterations: 100_000 } });
    for (let failed = 0; failed < 2; failed++) limited.onScramEnd(elsewhere, 'printer', false);
    expect(limited.onScram(elsewhere, 'printer')).toMatchObject({ code: 454, enhanced: '4.7.0' });
    const user = session('u', 'outside', '203.0.113.6', 'printer');
    expect(await limited.onMailFrom(user, mail)).toBe(null);
    await limited.onData(user, sampleEnvelope, () => undefined);
    expect(await limited.onMailFrom(user, mail)).toMatchObject({
      code: 450,
      text: expect.stringMatching(/ 1 per hour/),
    });
    expect(await limited.onMailFrom(elsewhere, mail)).toBe(null);
    const failures = Array(3).fill('smtp_limits_total maxAuthFailures');
    expect(counted).toEqual([...failures, 'smtp_limits_total maxMessageRatePerUser']);
  });

  it('says 452 at MAIL FROM under pressure, authenticates nobody without users, passes its history on', async () => {
    const one = session('s', 'inside', '10.1.2.3', null);
    edge.onConnect(one);
    expect(await edge.onMailFrom(one, mail)).toBeNull();
    proxy.pressedBy = 'disk';
    expect(await edge.onMailFrom(one, mail)).toEqual({
      code: 452,
      enhanced: '4.3.1',
      text: 'Insufficient system resources: disk',
    });
    expect(await edge.onAuth(one, 'printer', 'secret')).toBe(false);
    await edge.onData(one, sampleEnvelope, () => undefined);
    expect(opened[0]?.details[0]).toContain('connect from [192.0.2.7]:40000');
  });
});
