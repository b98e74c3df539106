/** What strangers send on through us is sealed (RFC 8617) with what was found out when it came in, and somebody else's validator agrees; when it is not, and what happens without a key. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createSeal } from 'mailauth/lib/arc/index.js';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { ArcConfig, DkimConfig } from '../../common/config.ts';
import type { ClientInfo, CopyId, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import type { Labels } from '../../common/platform/metrics.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { createDeliveryAgent } from '../../transport/runtime/delivery.ts';
import type { RecipientResult } from '../../transport/runtime/delivery-api.ts';
import { dkimpy } from '../rigs/dkimpy.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { newSigningKey } from '../rigs/signing-key.ts';
import { sampleEnvelope } from './peer-samples.ts';

// Each starts a thread, which on a machine that is busy with other things takes its time.
vi.setConfig({ testTimeout: 120_000 });

const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
});
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

const { pem: PRIVATE, record: RECORD } = newSigningKey();
const RECORDS = Object.fromEntries(
  ['s._domainkey.before.example', 'a1._domainkey.us.example', 'd1._domainkey.us.example'].map((one) => [one, RECORD]),
);
const ARC: ArcConfig = {
  ...{ failurePolicy: 'Defer', domain: 'us.example', selector: 'a1', secret: 'keys', key: 'arc.key' },
};
const DKIM: DkimConfig = {
  ...{ failurePolicy: 'Defer', relayFrom: [{ listener: 'smtp', networks: ['10.0.0.0/8'] }] },
  keys: [{ domain: 'far.example', selector: 'd1', secret: 'keys', key: 'arc.key', signsFromMs: 0 }],
};
const STRANGER: Partial<ClientInfo> = { address: '192.0.2.9' };
const MESSAGE =
  'From: "Ann, of Far" <ann@far.example>\r\nTo: team@us.example\r\nSubject: folded\r\n line\r\n\r\nhello\r\n';
const found = (arc: string): readonly string[] => [
  `mx.us.example; arc=${arc} smtp.remote-ip=192.0.2.9; spf=pass (mx.us.example: domain of ann@far.example designates 192.0.2.9 as permitted sender) smtp.mailfrom=far.example; dkim=none`,
  'mx2.us.example',
];

let secrets = '';
let counted: string[] = [];
beforeEach(async () => {
  secrets = await mkdtemp(join(tmpdir(), 'mailcluster-arc-'));
  kept({ [Symbol.asyncDispose]: () => rm(secrets, { recursive: true, force: true }) });
  await mkdir(join(secrets, 'keys'));
  await writeFile(join(secrets, 'keys', 'arc.key'), PRIVATE);
  counted = [];
});

interface How {
  readonly message?: string;
  readonly chunks?: readonly Buffer[];
  readonly results?: readonly string[];
  readonly arc?: ArcConfig | null;
  readonly dkim?: DkimConfig | null;
  readonly client?: Partial<ClientInfo>;
  readonly isMailbox?: boolean;
}

const metrics = {
  ...silentMetrics,
  increment: (name: string, labels: Labels = {}) =>
    void (name === 'arc_seals_total' && counted.push(`${labels.outcome}`)),
};

function agentFor({ message = MESSAGE, chunks = [Buffer.from(message, 'latin1')], arc = ARC, dkim = DKIM }: How) {
  const agent = createDeliveryAgent({
    ...{ clock: systemClock, log: silentLogger, metrics, random: systemRandom },
    ...{ hostname: 'us.test', member: 'transport-0', dns: (servers) => nodeDns(systemClock, servers) },
    readBody: async function* () {
      yield* chunks;
    },
    onDamaged: (id) => expect.fail(`damaged: ${id}`),
    dkim: { config: () => dkim, arc: () => arc, directory: secrets },
  });
  kept({ [Symbol.asyncDispose]: () => agent.close() });
  return agent;
}

function deliver(agent: ReturnType<typeof agentFor>, port: number, how: How): Promise<readonly RecipientResult[]> {
  const { promise, resolve } = Promise.withResolvers<readonly RecipientResult[]>();
  const place = { host: '127.0.0.1', port };
  agent.start(
    {
      ...{ requestId: 1, copyId: 'COPY' as CopyId, deliveryId: 'COPY', contentKey: null, mayBeRepeat: false },
      epoch: { try: 1, term: 0, owner: 'ME' as Identity },
      envelope: {
        ...{ ...sampleEnvelope, body: '7BIT' },
        client: { ...sampleEnvelope.client, user: null, ...STRANGER, ...how.client },
      },
      sizeBytes: 30,
      route:
        how.isMailbox === true
          ? { kind: 'mailbox', database: 'db', copy: 'c', ...place }
          : { kind: 'smartHost', connector: 'out', hosts: [place], tls: 'None' },
      recipients: [{ index: 3, recipient: { address: 'bob@away.example' } }],
      mayBegin: () => true,
      results: how.results ?? found('none'),
    },
    resolve,
  );
  return promise;
}

/** What a next hop got, dots removed. */
const received = (peer: ScriptedPeer): readonly Buffer[] =>
  peer.messages.map(({ wire }) => Buffer.from(wire.replace(/(?<=^|\r\n)\./g, ''), 'latin1'));

async function sent(how: How = {}): Promise<Buffer> {
  const peer = kept(await ScriptedPeer.start(how.isMailbox === true ? { protocol: 'LMTP' } : {}));
  const [result] = await deliver(agentFor(how), peer.port, how);
  expect(result?.kind).toBe(how.isMailbox === true ? 'delivered' : 'relayed');
  return received(peer)[0] ?? Buffer.alloc(0);
}

/** As it comes from somebody before us: with that many sets. */
async function withSets(count: number, cv = 'pass'): Promise<string> {
  let message = MESSAGE;
  for (let at = 1; at <= count; at++) {
    const how = {
      signingDomain: 'before.example',
      selector: 's',
      privateKey: PRIVATE,
      authResults: 'before.example; none',
    };
    const status = at === 1 ? 'none' : at === count ? cv : 'pass';
    const { headers, errors } = await createSeal(Buffer.from(message), { strict: true, seal: { ...how, cv: status } });
    expect(errors).toEqual([]);
    message = `${headers.join('\r\n')}\r\n${message}`;
  }
  return message;
}

const isSealed = (message: Buffer): boolean => /^ARC-Seal: .*\bd=us\.example/m.test(unfolded(message));
const unfolded = (message: Buffer): string => message.toString('latin1').replace(/\r\n(?=[ \t])/g, '');

describe('a seal', () => {
  test('of mail without a chain begins one, with our results, and dkimpy agrees', async (context) => {
    const signature = 'DKIM-Signature: v=1; a=rsa-sha256; d=far.example; s=x; h=from; bh=AA==; b=AA==\r\n';
    const message = await sent({ message: signature + MESSAGE });
    const text = message.toString('latin1');
    expect(text).toMatch(/^Authentication-Results: mx\.us\.example;\r\n arc=none (?:.|\r\n[ \t])*\r\nReceived: /);
    expect(text).toMatch(
      /\r\nX-MailCluster-Delivery: COPY\r\nARC-Seal: i=1; a=rsa-sha256; t=\d+; cv=none; d=us\.example;/,
    );
    expect(text.endsWith(`\r\n${signature}${MESSAGE}`)).toBe(true);
    expect(unfolded(message)).toMatch(/^ARC-Message-Signature: .* h=[^;]*DKIM-Signature/m);
    for (const line of text.split('\r\n')) expect(line.length).toBeLessThanOrEqual(100);
    expect(counted).toEqual(['sealed']);
    const independent = await dkimpy();
    if ('missing' in independent) return context.skip(independent.missing);
    const { status, sets } = await independent.verifyChain(message, RECORDS);
    expect(status).toBe('pass');
    expect(sets).toMatchObject([
      { instance: 1, cv: 'none', domain: 'us.example', messageIsSigned: true, isSealed: true },
    ]);
    expect(sets[0]?.results.replace(/\s+/g, ' ')).toBe(`i=1; ${found('none')[0]}`);
    for (const [from, to] of [
      ['hello', 'hullo'],
      ['folded', 'forged'],
      ['spf=pass', 'spf=none'],
      ['DKIM-Signature: v=1', 'X-Signature: v=1'],
    ] as const) {
      const at = text.lastIndexOf('ARC-Authentication-Results');
      const forged = text.slice(0, at) + text.slice(at).replace(from, to);
      expect(forged).not.toBe(text);
      expect((await independent.verifyChain(Buffer.from(forged, 'latin1'), RECORDS)).status).toBe('fail');
    }
  });

  test.for([1, 2, 49])('goes on with a chain of %i, and dkimpy agrees about all of it', async (count, context) => {
    const message = await sent({
      message: await withSets(count),
      results: found('pass (i=1 sealed by before.example)'),
    });
    const independent = await dkimpy();
    if ('missing' in independent) return context.skip(independent.missing);
    const { status, sets } = await independent.verifyChain(message, RECORDS);
    expect(status).toBe('pass');
    expect(sets[0]).toMatchObject({ instance: count + 1, cv: 'pass', domain: 'us.example' });
    expect(sets).toHaveLength(count + 1);
    // Somebody takes our word for who was there before.
    const other = unfolded(message).replace('i=1; before.example; none', 'i=1; before.example; spf=pass');
    expect((await independent.verifyChain(Buffer.from(other, 'latin1'), RECORDS)).status).toBe('fail');
  });

  test('of a chain that failed says so, covers nothing but itself, and ends the chain', async (context) => {
    const broken = (await withSets(2)).replace('i=1; before.example; none', 'i=1; forged.example; none');
    const message = await sent({ message: broken, results: found('fail (i=2 seal signature validation failed)') });
    expect(unfolded(message)).toMatch(/^ARC-Seal: i=3; .* cv=fail; d=us\.example;/m);
    const independent = await dkimpy();
    if ('missing' in independent) return context.skip(independent.missing);
    const { status, sets } = await independent.verifyChain(message, RECORDS);
    expect(status).toBe(null);
    expect(sets[0]).toMatchObject({ instance: 3, cv: 'fail', domain: 'us.example', messageIsSigned: true });
    // Who comes next leaves it alone (5.1 2).
    expect(
      isSealed(await sent({ message: (await withSets(3, 'fail')) as string, results: found('fail (i=3 cv=fail)') })),
    ).toBe(false);
    expect(counted).toEqual(['sealed', 'unsealable']);
  });

  test('of 40 MB is made while 256 KiB of it are on their way', async (context) => {
    const body = Array.from({ length: 640 }, (_, at) => Buffer.alloc(65_536, `${at} ${'x'.repeat(60)}\r\n`));
    const message = await sent({ chunks: [Buffer.from(MESSAGE), ...body] });
    const independent = await dkimpy();
    if ('missing' in independent) return context.skip(independent.missing);
    expect(await independent.verifyChain(message, RECORDS)).toMatchObject({ status: 'pass' });
  });
});

describe('no seal', () => {
  test.for<readonly [string, How]>([
    ['unless it is asked for', { arc: null }],
    ['where nobody looked at the chain', { results: ['mx.us.example; spf=pass; dkim=none', 'mx2.us.example'] }],
    ['where nothing was found out', { results: [] }],
    ['of our users, whatever they wrote', { results: ['mx.us.example'], client: { user: 'ann' } }],
    ['where a name server was silent', { results: found('temperror') }],
    ['where the chain was not looked at', { results: found('policy (header of 5000 lines, not looked at)') }],
    ['by what a stranger wrote into his address', { results: ['mx.us.example; spf=pass (domain of "; arc=pass"@x)'] }],
    ['in a mailbox', { isMailbox: true }],
  ])('%s', async ([, how]) => {
    expect(isSealed(await sent(how))).toBe(false);
    expect(counted).toEqual([]);
  });

  test('beside a signature of DKIM: what is ours now is signed', async () => {
    const message = await sent({ client: { address: '10.1.2.3' } });
    expect(isSealed(message)).toBe(false);
    expect(unfolded(message)).toMatch(/^DKIM-Signature: .*d=far\.example/m);
  });

  test.for<readonly [string, () => Promise<string>, string]>([
    ['on a chain of 50', () => withSets(50), 'pass (i=50 sealed by before.example)'],
    [
      'on fields of ARC that have no number',
      async () => `ARC-Seal: i=x; cv=none\r\n${MESSAGE}`,
      'fail (invalid as instance)',
    ],
    ['without an author', async () => 'Subject: x\r\n\r\nhello\r\n', 'none'],
    ['on a chain that is not what was found', () => withSets(2), 'none'],
    [
      'on a header of more than 1 MiB',
      async () => `not a field\r\n${`X: ${'a'.repeat(60_000)}\r\n`.repeat(20)}${MESSAGE}`,
      'none',
    ],
    ['on a header of 12,001 lines', async () => `X: y\r\n${' z\r\n'.repeat(12_001)}${MESSAGE}`, 'none'],
  ])('%s: it goes as it is', async ([, make, arc]) => {
    const message = await make();
    const text = String(await sent({ message, results: found(arc) }));
    expect(isSealed(Buffer.from(text))).toBe(false);
    expect(text.endsWith(message)).toBe(true);
    expect(counted).toEqual(['unsealable']);
  });
});

test('a key that cannot be used: the message waits or goes without; put right, it seals the next attempt', async () => {
  const peer = kept(await ScriptedPeer.start());
  const agent = agentFor({});
  for (const [change, says] of [
    [() => rm(join(secrets, 'keys', 'arc.key')), 'is not there'],
    [() => writeFile(join(secrets, 'keys', 'arc.key'), 'x'.repeat(32)), 'is no private key in PEM'],
  ] as const) {
    await change();
    const reply = `4.7.5 ARC: a1._domainkey.us.example: key arc.key of Secret keys ${says}`;
    expect(await deliver(agent, peer.port, {})).toEqual([{ index: 3, kind: 'deferred', scope: 'message', reply }]);
    expect(isSealed(await sent({ arc: { ...ARC, failurePolicy: 'SendUnsealed' } }))).toBe(false);
  }
  expect(peer.connections).toBe(0);
  // Mail that is not sealed does not wait for the key.
  expect(await deliver(agent, peer.port, { results: ['mx.us.example'] })).toMatchObject([{ kind: 'relayed' }]);
  await writeFile(join(secrets, 'keys', 'arc.key'), PRIVATE);
  expect(await deliver(agent, peer.port, {})).toMatchObject([{ kind: 'relayed' }]);
  expect(received(peer).map(isSealed)).toEqual([false, true]);
  expect(counted).toEqual(['deferred', 'unsealed', 'deferred', 'unsealed', 'sealed']);
});
