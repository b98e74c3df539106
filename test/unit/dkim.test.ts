/** What leaves is signed, in a thread, and somebody else's verifier agrees; who is signed for, with which key, and what happens without one. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dkimVerify } from 'mailauth/lib/dkim/verify.js';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { DkimConfig } from '../../common/config.ts';
import type { ClientInfo, CopyId, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { DkimPolicy } from '../../transport/core/dkim.ts';
import { createDeliveryAgent } from '../../transport/runtime/delivery.ts';
import type { RecipientResult } from '../../transport/runtime/delivery-api.ts';
import { dkimpy } from '../rigs/dkimpy.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { newSigningKey } from '../rigs/signing-key.ts';
import { sampleEnvelope } from './peer-samples.ts';

// Each starts a thread, which on a machine that is busy with other things takes its time.
vi.setConfig({ testTimeout: 120_000 });

const DAY_MS = 86_400_000;
const NOW_MS = Date.UTC(2026, 0, 10);
const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
});
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

let secrets = '';
/** TXT records of every key made here. */
let records: Record<string, string> = {};
beforeEach(async () => {
  secrets = await mkdtemp(join(tmpdir(), 'mailcluster-dkim-'));
  records = {};
  kept({ [Symbol.asyncDispose]: () => rm(secrets, { recursive: true, force: true }) });
  await mkdir(join(secrets, 'dkim'));
});

async function makeKey(selector: string, type: 'rsa' | 'ed25519' = 'rsa', domain = 'contoso.com', bits = 2_048) {
  const { pem, record } = newSigningKey(type, bits);
  records[`${selector}._domainkey.${domain}`] = record;
  await writeFile(join(secrets, 'dkim', `${selector}.key`), pem);
}

const key = (selector: string, signsFromMs = 0, domain = 'contoso.com'): DkimConfig['keys'][number] => ({
  ...{ domain, selector, secret: 'dkim', key: `${selector}.key`, signsFromMs },
});
const config = (...keys: DkimConfig['keys']): DkimConfig => ({
  ...{ failurePolicy: 'Defer', keys, relayFrom: [{ listener: 'smtp', networks: ['10.0.0.0/8', 'fd00::/8'] }] },
});
const OURS: Partial<ClientInfo> = { address: '::ffff:10.1.2.3' };
const MESSAGE = 'From: "Ann, of Contoso" <ann@Contoso.com>\r\nTo: bob@far.test\r\nSubject: folded\r\n line\r\n\r\n';

interface How {
  readonly config: () => DkimConfig | null;
  readonly message?: string | readonly Buffer[] | Error;
  readonly client?: Partial<ClientInfo>;
  readonly nowMs?: number;
  readonly onDamaged?: (id: CopyId) => void;
}

function agentFor({ config: current, message = `${MESSAGE}hello\r\n`, nowMs = NOW_MS, onDamaged }: How) {
  const chunks = typeof message === 'string' ? [Buffer.from(message, 'latin1')] : message;
  const agent = createDeliveryAgent({
    ...{
      clock: { ...systemClock, wallMs: () => nowMs },
      log: silentLogger,
      metrics: silentMetrics,
      random: systemRandom,
    },
    ...{ hostname: 'us.test', member: 'transport-0', dns: (servers) => nodeDns(systemClock, servers) },
    readBody: async function* () {
      if (chunks instanceof Error) throw chunks;
      yield* chunks;
    },
    onDamaged: onDamaged ?? ((id) => expect.fail(`damaged: ${id}`)),
    dkim: { config: current, directory: secrets },
  });
  kept({ [Symbol.asyncDispose]: () => agent.close() });
  return agent;
}

function deliver(
  agent: ReturnType<typeof agentFor>,
  port: number,
  client: Partial<ClientInfo> = OURS,
  isMailbox = false,
) {
  const { promise, resolve } = Promise.withResolvers<readonly RecipientResult[]>();
  const place = { host: '127.0.0.1', port };
  agent.start(
    {
      ...{ requestId: 1, copyId: 'COPY' as CopyId, deliveryId: 'COPY', contentKey: null, mayBeRepeat: false },
      epoch: { try: 1, term: 0, owner: 'ME' as Identity },
      envelope: { ...sampleEnvelope, client: { ...sampleEnvelope.client, ...client }, body: '7BIT' },
      sizeBytes: 30,
      route: isMailbox
        ? { kind: 'mailbox', database: 'db', copy: 'c', ...place }
        : { kind: 'smartHost', connector: 'out', hosts: [place], tls: 'None' },
      recipients: [{ index: 3, recipient: { address: 'bob@far.test' } }],
      mayBegin: () => true,
    },
    resolve,
  );
  return promise;
}

/** What a next hop got, dots removed. */
const received = (peer: ScriptedPeer): readonly Buffer[] =>
  peer.messages.map(({ wire }) => Buffer.from(wire.replace(/(?<=^|\r\n)\./g, ''), 'latin1'));

async function sent(how: How): Promise<string> {
  const peer = kept(await ScriptedPeer.start());
  expect(await deliver(agentFor(how), peer.port, how.client)).toMatchObject([{ index: 3, kind: 'relayed' }]);
  return received(peer)[0]?.toString('latin1') ?? '';
}

describe('a signature', () => {
  test.for([
    ['rsa', 'hello\r\n'],
    ['ed25519', 'hello\r\n'],
    ['rsa', '.\r\n..\r\n. a  \t b \r\n\r\n \r\n\r\n\r\n'],
    ['rsa', 'no line end'],
    ['rsa', ''],
    ['ed25519', 'caf\xe9 \x80\xff in 8 bits\r\n'],
  ] as const)('by %s of %j is good for dkimpy and for mailauth', async ([type, body], context) => {
    await makeKey('s1', type);
    const text = await sent({ config: () => config(key('s1')), message: MESSAGE + body });
    const message = Buffer.from(text, 'latin1');
    const { results } = await dkimVerify(message, {
      resolver: async (name) => [[records[name] ?? '']],
      ...{ strict: true, curTime: new Date(NOW_MS) },
    });
    expect(results).toMatchObject([{ signingDomain: 'contoso.com', selector: 's1', status: { result: 'pass' } }]);
    const independent = await dkimpy();
    // The verdict of mailauth alone would be that of the code that signed.
    if ('missing' in independent) return context.skip(independent.missing);
    expect(await independent.verify(message, records)).toEqual([{ domain: 'contoso.com', selector: 's1', good: true }]);
    const other = Buffer.from(text.replace('folded', 'forged'), 'latin1');
    expect(await independent.verify(other, records)).not.toMatchObject([{ good: true }]);
  });

  test('stands below our trace fields, and the signature that came along stays', async () => {
    await makeKey('s1');
    const message = `DKIM-Signature: v=1; d=other.test; s=x; h=From; bh=x; b=y\r\n${MESSAGE}hello\r\n`;
    const text = await sent({ config: () => config(key('s1')), message });
    expect(text).toMatch(
      /^Received: (.|\r\n[ \t])+\r\nX-MailCluster-Delivery: COPY\r\nDKIM-Signature: v=1; a=rsa-sha256; /,
    );
    expect(text.endsWith(message)).toBe(true);
  });

  test('of every attempt is new; a key that is put right in its Secret is used for the next', async () => {
    let answer = '451 4.7.1 come back';
    const peer = kept(await ScriptedPeer.start({ onEnd: () => [answer] }));
    const agent = agentFor({ config: () => config(key('s1')) });
    expect(await deliver(agent, peer.port)).toEqual([
      {
        ...{ index: 3, kind: 'deferred', scope: 'message' },
        reply: '4.7.5 DKIM: s1._domainkey.contoso.com: key s1.key of Secret dkim is not there',
      },
    ]);
    expect(peer.connections).toBe(0);
    await makeKey('s1');
    expect(await deliver(agent, peer.port)).toMatchObject([{ kind: 'deferred', reply: '451 4.7.1 come back' }]);
    answer = '250 2.0.0 ok';
    await makeKey('s1', 'ed25519');
    expect(await deliver(agent, peer.port)).toMatchObject([{ kind: 'relayed' }]);
    const [first, second] = received(peer).map((one) => /DKIM-Signature: v=1; a=(\S+);/.exec(String(one))?.[1]);
    expect([first, second]).toEqual(['rsa-sha256', 'ed25519-sha256']);
  });

  test('of 40 MB is made while 256 KiB of it are on their way', async (context) => {
    await makeKey('s1');
    const body = Array.from({ length: 640 }, (_, at) => Buffer.alloc(65_536, `${at} ${'x'.repeat(60)}\r\n`));
    const text = await sent({ config: () => config(key('s1')), message: [Buffer.from(MESSAGE), ...body] });
    const independent = await dkimpy();
    if ('missing' in independent) return context.skip(independent.missing);
    expect(await independent.verify(Buffer.from(text, 'latin1'), records)).toMatchObject([{ good: true }]);
  });
});

describe('no signature', () => {
  const hello = (from: string): string => `${from}Subject: x\r\n\r\nhello\r\n`;
  test.each([
    ['for a stranger', hello('From: ann@contoso.com\r\n'), { address: '192.0.2.9' }],
    ['for a domain below', hello('From: ann@sub.contoso.com\r\n'), OURS],
    ['for a name that only looks like it', hello('From: "ann@contoso.com" <mallory@evil.test>\r\n'), OURS],
    ['without an author', hello(''), OURS],
    ['with two From fields', hello('From: ann@contoso.com\r\nFrom: eve@contoso.com\r\n'), OURS],
    ['with From in the body', '\r\nFrom: ann@contoso.com\r\n\r\nhello\r\n', OURS],
  ])('%s', async (_title, message, client) => {
    await makeKey('s1');
    expect(await sent({ config: () => config(key('s1')), message, client })).not.toContain('DKIM-Signature');
  });

  test.each([
    ['who has authenticated', { address: '192.0.2.9', user: 'ann' }],
    ['made here', { address: '' }],
    ['from a network that may relay', { address: 'fd00::7' }],
  ])('is not for those %s', async (_title, client) => {
    await makeKey('s1');
    expect(await sent({ config: () => config(key('s1')), client })).toContain('DKIM-Signature');
  });

  test('in a mailbox: the Secret is not even looked for', async () => {
    const peer = kept(await ScriptedPeer.start({ protocol: 'LMTP' }));
    const agent = agentFor({ config: () => config(key('absent')) });
    expect(await deliver(agent, peer.port, OURS, true)).toMatchObject([{ kind: 'delivered' }]);
    expect(String(received(peer)[0])).not.toContain('DKIM-Signature');
  });
});

describe('a key that cannot be used', () => {
  const broken: readonly (readonly [string, () => Promise<void>, string])[] = [
    [
      'no key',
      () => writeFile(join(secrets, 'dkim', 's1.key'), 'v=DKIM1; p=x'),
      'Secret dkim is no private key in PEM',
    ],
    ['of 512 bits', () => makeKey('s1', 'rsa', 'contoso.com', 512), 'Secret dkim is an RSA key of 512 bits'],
    [
      '32 characters, which the library takes for an Ed25519 key',
      () => writeFile(join(secrets, 'dkim', 's1.key'), 'x'.repeat(32)),
      'is no private key in PEM',
    ],
    ['a directory', () => mkdir(join(secrets, 'dkim', 's1.key')), 'Secret dkim cannot be read'],
  ];
  test.each(broken)('%s: the message waits, or goes without', async (_title, make, says) => {
    await make();
    const peer = kept(await ScriptedPeer.start());
    const [result] = await deliver(agentFor({ config: () => config(key('s1')) }), peer.port);
    expect(result).toMatchObject({ kind: 'deferred', scope: 'message', reply: expect.stringContaining(says) });
    const unsigned = { ...config(key('s1')), failurePolicy: 'SendUnsigned' as const };
    expect(await sent({ config: () => unsigned })).not.toContain('DKIM-Signature');
  });

  test('a header of 40,000 lines does not take the thread for long: it is not signed, the policy decides', async () => {
    await makeKey('s1');
    const message = `X-Long: a\r\n${' b\r\n'.repeat(40_000)}${MESSAGE}hello\r\n`;
    const peer = kept(await ScriptedPeer.start());
    const [result] = await deliver(agentFor({ config: () => config(key('s1')), message }), peer.port);
    const says = 'Secret dkim signs no header of 40005 lines: 12000 at most';
    expect(result).toMatchObject({ kind: 'deferred', scope: 'message', reply: expect.stringContaining(says) });
    const unsigned = { ...config(key('s1')), failurePolicy: 'SendUnsigned' as const };
    expect(await sent({ config: () => unsigned, message })).not.toContain('DKIM-Signature');
  });

  test('a message without an empty line takes neither the thread nor its memory: it is not signed, the policy decides', async () => {
    await makeKey('s1');
    const message = `not a field\r\n${MESSAGE.replace('\r\n\r\n', '\r\n')}${`X: ${'a'.repeat(60_000)}\r\n`.repeat(600)}`;
    const peer = kept(await ScriptedPeer.start());
    const before = process.cpuUsage();
    const [result] = await deliver(agentFor({ config: () => config(key('s1')), message }), peer.port);
    const { user, system } = process.cpuUsage(before);
    const says = 'Secret dkim signs no header of more than 1048576 bytes';
    expect(result).toMatchObject({ kind: 'deferred', scope: 'message', reply: expect.stringContaining(says) });
    expect((user + system) / 1_000).toBeLessThan(5_000);
  });

  test('a stored message that cannot be read is our fault and is reported, whatever the policy', async () => {
    await makeKey('s1');
    const damaged: CopyId[] = [];
    const message = Object.assign(new Error('digest differs'), { code: 'DAMAGED' });
    const peer = kept(await ScriptedPeer.start());
    const how = { config: () => config(key('s1')), message, onDamaged: (id: CopyId) => void damaged.push(id) };
    expect(await deliver(agentFor(how), peer.port)).toMatchObject([
      { kind: 'deferred', reply: '4.3.0 stored message cannot be read: digest differs' },
    ]);
    expect([damaged, peer.connections]).toEqual([['COPY'], 0]);
  });
});

test('rotation: the key that began last signs, a later one only from its time on', async () => {
  for (const selector of ['s1', 's2', 's3']) await makeKey(selector);
  let current: DkimConfig | null = config(key('s2', NOW_MS - DAY_MS), key('s1'), key('s3', NOW_MS + DAY_MS));
  const selector = async (nowMs: number): Promise<string | undefined> =>
    /DKIM-Signature: (?:.|\r\n )*? ?s=(\w+);/.exec(await sent({ config: () => current, nowMs }))?.[1];
  expect(await selector(NOW_MS - DAY_MS - 1)).toBe('s1');
  expect(await selector(NOW_MS - DAY_MS)).toBe('s2');
  expect(await selector(NOW_MS + DAY_MS)).toBe('s3');
  current = config(key('s3', NOW_MS + DAY_MS));
  expect(await selector(NOW_MS)).toBeUndefined();
  current = null;
  expect(await selector(NOW_MS)).toBeUndefined();
});

test('keys are chosen for each domain by itself', () => {
  const policy = new DkimPolicy(config(key('a', 5), key('b', 3), key('c', 4, 'other.test'), key('d', 9, 'late.test')));
  expect(policy.keysInForce(7).map(({ selector }) => selector)).toEqual(['a', 'c']);
});
