/** The delivery agent over real sockets: what every behaviour of a next hop means for each recipient, connection reuse, bounds, close. */
import dns from 'node:dns';
import { afterEach, describe, expect, test } from 'vitest';
import type { CopyId, Envelope, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { credentialsIn } from '../../transport/runtime/connector-credentials.ts';
import { createDeliveryAgent, type DeliverySettings } from '../../transport/runtime/delivery.ts';
import type {
  DeliveryAgent,
  DeliveryRequest,
  DeliveryRoute,
  RecipientResult,
} from '../../transport/runtime/delivery-api.ts';
import { DeliveryPool, MOST_IDLE } from '../../transport/runtime/delivery-pool.ts';
import { type PeerScript, ScriptedPeer } from '../rigs/scripted-peer.ts';

const FAST = {
  connectMs: 300,
  greetingMs: 300,
  commandMs: 300,
  dataInitiationMs: 300,
  dataBlockMs: 300,
  dataTerminationMs: 300,
};
const BODY = 'Subject: x\r\nX-MAILCLUSTER-delivery: forged\r\n forged\r\n\r\n.hello\r\n';

const ENVELOPE: Envelope = {
  reversePath: 'alice@example.org',
  recipients: [],
  body: '7BIT',
  smtputf8: false,
  declaredSizeBytes: null,
  client: { address: '192.0.2.7', port: 1, helo: 'client.test', protocol: 'ESMTP', tls: null, user: null },
  frontend: 'fe-1',
  listener: 'smtp',
  receivedAtMs: 0,
};

let cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  const all = cleanups.reverse();
  cleanups = [];
  for (const cleanup of all) await cleanup();
});

async function startPeer(script: PeerScript = {}): Promise<ScriptedPeer> {
  const peer = await ScriptedPeer.start(script);
  cleanups.push(() => peer[Symbol.asyncDispose]());
  return peer;
}

interface Agent {
  readonly agent: DeliveryAgent;
  readonly damaged: CopyId[];
  deliver(
    route: DeliveryRoute,
    addresses?: readonly string[],
    contentKey?: string | null,
    mayBegin?: () => boolean,
  ): Promise<readonly RecipientResult[]>;
}

function startAgent(settings: Partial<DeliverySettings> = {}, readBody?: (id: CopyId) => AsyncIterable<Buffer>): Agent {
  const damaged: CopyId[] = [];
  const agent = createDeliveryAgent({
    clock: systemClock,
    log: silentLogger,
    metrics: silentMetrics,
    random: systemRandom,
    dns: (servers) => nodeDns(systemClock, servers),
    hostname: 'mx.test',
    member: 'transport-0',
    readBody:
      readBody ??
      async function* () {
        for (let at = 0; at < BODY.length; at += 7) yield Buffer.from(BODY.slice(at, at + 7));
      },
    onDamaged: (id) => damaged.push(id),
    settings: { timeouts: FAST, ...settings },
  });
  cleanups.push(() => agent.close());
  let requestId = 0;
  const deliver: Agent['deliver'] = (route, addresses = ['bob@x'], contentKey = null, mayBegin = () => true) => {
    const request: DeliveryRequest = {
      requestId: requestId++,
      copyId: 'COPY' as CopyId,
      deliveryId: 'ELDEST',
      contentKey,
      epoch: { try: 1, term: 0, owner: 'ME' as Identity },
      mayBeRepeat: false,
      envelope: ENVELOPE,
      sizeBytes: BODY.length,
      route,
      recipients: addresses.map((address, at) => ({ index: at * 10, recipient: { address } })),
      mayBegin,
    };
    return new Promise((resolve) => agent.start(request, resolve));
  };
  return { agent, damaged, deliver };
}

const mailbox = ({ port }: { port: number }): DeliveryRoute => ({
  kind: 'mailbox',
  database: 'DB01',
  copy: 'c1',
  host: '127.0.0.1',
  port,
});
const smartHost = (...peers: { port: number }[]): DeliveryRoute => ({
  kind: 'smartHost',
  connector: 'out',
  hosts: peers.map(({ port }) => ({ host: '127.0.0.1', port })),
  tls: 'None',
});

async function deadPort(): Promise<{ port: number }> {
  const peer = await ScriptedPeer.start();
  const { port } = peer;
  await peer[Symbol.asyncDispose]();
  return { port };
}

describe('members of mailing lists', () => {
  test('go out in a transaction of their own, from the list, without what the sender asked for; results keep their order', async () => {
    const peer = await startPeer({ capabilities: ['DSN'] });
    const { agent } = startAgent();
    const envelope: Envelope = {
      ...ENVELOPE,
      ...{ ret: 'FULL', envid: 'e1' },
      returnPaths: [{ address: 'owner@lists.example' }],
    };
    const recipients = [0, undefined, 0].map((returnPath, at) => ({
      index: at,
      recipient: { address: `r${at}@x.example`, ...(returnPath === undefined ? {} : { returnPath }) },
    }));
    const results = await new Promise<readonly RecipientResult[]>((resolve) =>
      agent.start(
        {
          ...{ requestId: 1, copyId: 'COPY' as CopyId, deliveryId: 'ELDEST', contentKey: null },
          epoch: { try: 1, term: 0, owner: 'ME' as Identity },
          ...{ mayBeRepeat: false, envelope, sizeBytes: BODY.length, route: smartHost(peer), recipients },
          mayBegin: () => true,
        },
        resolve,
      ),
    );
    expect(results.map(({ index, kind }) => [index, kind])).toEqual([0, 1, 2].map((at) => [at, 'relayed']));
    expect(
      peer.messages.map(({ mail, rcpts }) => [/<(.*?)>/.exec(mail)?.[1], rcpts.length, /ENVID/.test(mail)]),
    ).toEqual([
      ['owner@lists.example', 2, false],
      ['alice@example.org', 1, true],
    ]);
  });
});

describe('a mailbox store', () => {
  test('gets the message with our trace fields and without a forged delivery id', async () => {
    const peer = await startPeer({ protocol: 'LMTP' });
    const results = await startAgent().deliver(mailbox(peer), ['bob@x', 'carol@x']);
    expect(results).toEqual([
      { index: 0, kind: 'delivered', reply: '250 2.0.0 stored', dsnPassedOn: false },
      { index: 10, kind: 'delivered', reply: '250 2.0.0 stored', dsnPassedOn: false },
    ]);
    expect(peer.lines[0]).toBe('LHLO mx.test');
    expect(peer.messages[0]?.wire).toMatch(
      /^Received: from client\.test [\s\S]*\r\nX-MailCluster-Delivery: ELDEST\r\nSubject: x\r\n\r\n\.\.hello\r\n$/,
    );
    const size = Number(/SIZE=(\d+)/.exec(peer.lines[1] ?? '')?.[1]);
    expect(size).toBeGreaterThanOrEqual((peer.messages[0]?.wire.length ?? 0) - 1);
  });

  test('gets the key of a retry when there is one, and never one that came with the message', async () => {
    const peer = await startPeer({ protocol: 'LMTP' });
    const forged = 'x-mailcluster-content: forged\r\n folded\r\nSubject: x\r\n\r\nX-MailCluster-Content: text\r\n';
    const { deliver } = startAgent({}, async function* () {
      for (let at = 0; at < forged.length; at += 5) yield Buffer.from(forged.slice(at, at + 5));
    });
    for (const contentKey of ['KEY', null]) await deliver(mailbox(peer), ['bob@x'], contentKey);
    expect(peer.messages.map(({ wire }) => wire.slice(wire.indexOf('X-MailCluster-Delivery')))).toEqual([
      'X-MailCluster-Delivery: ELDEST\r\nX-MailCluster-Content: KEY\r\nSubject: x\r\n\r\nX-MailCluster-Content: text\r\n',
      'X-MailCluster-Delivery: ELDEST\r\nSubject: x\r\n\r\nX-MailCluster-Content: text\r\n',
    ]);
  });

  test('answers each recipient for itself', async () => {
    const peer = await startPeer({
      protocol: 'LMTP',
      onCommand: (verb, line) =>
        verb !== 'RCPT'
          ? null
          : line.includes('nobody')
            ? '550 5.1.1 no'
            : line.includes('busy')
              ? '450 4.2.0 busy'
              : null,
      onEnd: () => ['250 2.0.0 ok', '452 4.2.2 full', '552 5.2.2 full for ever'],
    });
    const results = await startAgent().deliver(mailbox(peer), ['nobody@x', 'a@x', 'busy@x', 'b@x', 'c@x']);
    expect(results).toEqual([
      { index: 0, kind: 'failed', reply: { code: 550, enhanced: '5.1.1', text: 'no' } },
      { index: 10, kind: 'delivered', reply: '250 2.0.0 ok', dsnPassedOn: false },
      { index: 20, kind: 'deferred', reply: '450 4.2.0 busy', scope: 'recipient' },
      { index: 30, kind: 'deferred', reply: '452 4.2.2 full', scope: 'recipient' },
      { index: 40, kind: 'failed', reply: { code: 552, enhanced: '5.2.2', text: 'full for ever' } },
    ]);
  });

  test('that answers once and dies leaves the others unknown', async () => {
    const peer = await startPeer({ protocol: 'LMTP', onEnd: () => [{ raw: '250 2.0.0 ok\r\n', thenDrop: true }] });
    const results = await startAgent().deliver(mailbox(peer), ['a@x', 'b@x']);
    expect(results).toMatchObject([
      { kind: 'delivered' },
      { kind: 'unknown', reason: expect.stringContaining('closed') },
    ]);
  });

  const down: [string, PeerScript][] = [
    ['hangs at the greeting', { onConnect: () => 'hang' }],
    ['answers garbage', { onConnect: () => ({ raw: 'HTTP/1.1 400\r\n' }) }],
    ['refuses the session for good', { onConnect: () => '554 5.3.2 no service' }],
    ['drops at MAIL', { onCommand: (verb) => (verb === 'MAIL' ? 'drop' : null) }],
    ['says 421 to MAIL', { onCommand: (verb) => (verb === 'MAIL' ? '421 4.3.2 going down' : null) }],
  ];
  test.each(down)('%s: everything deferred, with scope host', async (_, script) => {
    const peer = await startPeer({ protocol: 'LMTP', ...script });
    const results = await startAgent().deliver(mailbox(peer), ['a@x', 'b@x']);
    expect(results).toMatchObject([
      { index: 0, kind: 'deferred', scope: 'host' },
      { index: 10, kind: 'deferred', scope: 'host' },
    ]);
  });

  test('connection refused', async () => {
    expect(await startAgent().deliver(mailbox(await deadPort()))).toMatchObject([
      { kind: 'deferred', scope: 'host', reply: expect.stringMatching(/^4\.4\.1 127\.0\.0\.1:\d+: .*ECONNREFUSED/) },
    ]);
  });
});

describe('connections', () => {
  test('are reused, and a stale one is replaced without a word', async () => {
    const peer = await startPeer({
      protocol: 'LMTP',
      // The second transaction on a connection finds it dead.
      onCommand: (verb, _, session) =>
        verb === 'MAIL' && session.connection === 0 && peerMessages() === 2 ? 'drop' : null,
    });
    const peerMessages = (): number => peer.messages.length;
    const { deliver } = startAgent();
    for (let i = 0; i < 4; i++) expect(await deliver(mailbox(peer))).toMatchObject([{ kind: 'delivered' }]);
    expect(peer.connections).toBe(2);
    expect(peer.messages).toHaveLength(4);
  });

  test('are not retried when the dot may have arrived', async () => {
    const peer = await startPeer({
      protocol: 'LMTP',
      onEnd: (_, session) => (session.connection === 0 && peer.messages.length > 1 ? ['drop'] : null),
    });
    const { deliver } = startAgent();
    expect(await deliver(mailbox(peer))).toMatchObject([{ kind: 'delivered' }]);
    expect(await deliver(mailbox(peer))).toMatchObject([{ kind: 'unknown' }]);
    expect(peer.messages).toHaveLength(2);
  });

  test('are bounded per destination; those who wait get theirs', async () => {
    const peer = await startPeer({ protocol: 'LMTP' });
    const { deliver } = startAgent({ maxConnectionsPerDestination: 2 });
    const all = await Promise.all(Array.from({ length: 20 }, (_, n) => deliver(mailbox(peer), [`bob${n}@x`])));
    expect(all.flat().every(({ kind }) => kind === 'delivered')).toBe(true);
    expect(peer.connections).toBe(2);
  });

  test('a dead destination answers all who wait at once, and holds up nobody else', async () => {
    const hanging = await startPeer({ onConnect: () => 'hang' });
    const good = await startPeer({ protocol: 'LMTP' });
    const { deliver } = startAgent({ maxConnectionsPerDestination: 1 });
    let answered = 0;
    const slow = Array.from({ length: 10 }, (_, n) =>
      deliver(mailbox(hanging), [`carol${n}@x`]).then((results) => {
        answered++;
        return results;
      }),
    );
    expect(await deliver(mailbox(good))).toMatchObject([{ kind: 'delivered' }]);
    expect(answered).toBe(0);
    expect((await Promise.all(slow)).flat().every(({ kind }) => kind === 'deferred')).toBe(true);
    expect(hanging.connections).toBe(1);
  });

  test('what may not begin any more when it gets its connection is withheld (protocol.md 14); the next one uses that connection', async () => {
    const peer = await startPeer({ protocol: 'LMTP' });
    const { deliver } = startAgent({ maxConnectionsPerDestination: 1 });
    let isAsked = false;
    const mayNot = (): boolean => {
      isAsked = peer.connections === 1;
      return false;
    };
    const [first, second, third] = await Promise.all([
      deliver(mailbox(peer), ['a@x']),
      deliver(mailbox(peer), ['b@x', 'c@x'], null, mayNot),
      deliver(mailbox(peer), ['d@x']),
    ]);
    expect(isAsked).toBe(true);
    expect(second).toEqual([
      { index: 0, kind: 'withheld' },
      { index: 10, kind: 'withheld' },
    ]);
    expect([first, third]).toMatchObject([[{ kind: 'delivered' }], [{ kind: 'delivered' }]]);
    expect(peer.messages.map(({ rcpts }) => rcpts.length)).toEqual([1, 1]);
    expect(peer.connections).toBe(1);
  });

  test('what may not go on after some of its transactions is withheld in part', async () => {
    const peer = await startPeer();
    const addresses = Array.from({ length: 25 }, (_, at) => `r${at}@x`);
    const { deliver } = startAgent({ maxRecipientsPerTransaction: 10 });
    const results = await deliver(smartHost(peer), addresses, null, () => peer.messages.length < 1);
    expect(results.map(({ kind }) => kind)).toEqual([...Array(10).fill('relayed'), ...Array(15).fill('withheld')]);
    expect(peer.messages).toHaveLength(1);
  });

  test('serve a limited number of messages and idle for a limited time', async () => {
    const peer = await startPeer({ protocol: 'LMTP' });
    const { deliver } = startAgent({ maxMessagesPerConnection: 2 });
    for (let i = 0; i < 4; i++) await deliver(mailbox(peer));
    expect(peer.connections).toBe(2);
    const other = await startPeer({ protocol: 'LMTP' });
    await startAgent({ idleMs: 1 }).deliver(mailbox(other));
    await expect.poll(() => other.lines.at(-1), { timeout: 5000 }).toBe('QUIT');
  });

  test('large recipient lists go in several transactions', async () => {
    const peer = await startPeer();
    const addresses = Array.from({ length: 25 }, (_, at) => `r${at}@x`);
    const results = await startAgent({ maxRecipientsPerTransaction: 10 }).deliver(smartHost(peer), addresses);
    expect(results.map(({ index }) => index)).toEqual(addresses.map((_, at) => at * 10));
    expect(peer.messages.map(({ rcpts }) => rcpts.length)).toEqual([10, 10, 5]);
  });
});

describe('smart hosts', () => {
  test('are tried in order; the one that failed comes last for a while', async () => {
    const busy = await startPeer({ onCommand: (verb) => (verb === 'MAIL' ? '451 4.3.2 busy' : null) });
    const good = await startPeer({ capabilities: ['PIPELINING', 'DSN'] });
    const { deliver } = startAgent();
    const route = smartHost(await deadPort(), busy, good);
    expect(await deliver(route)).toEqual([{ index: 0, kind: 'relayed', reply: '250 2.0.0 stored', dsnPassedOn: true }]);
    expect(await deliver(route)).toMatchObject([{ kind: 'relayed' }]);
    expect(busy.connections).toBe(1);
    expect(good.messages).toHaveLength(2);
  });

  test('after a final word, or when the message may have been taken, no other one is asked', async () => {
    const other = await startPeer();
    const refusing = await startPeer({ onCommand: (verb) => (verb === 'RCPT' ? '550 5.7.1 no' : null) });
    const vanishing = await startPeer({ onEnd: () => ['drop'] });
    expect(await startAgent().deliver(smartHost(refusing, other))).toMatchObject([{ kind: 'failed' }]);
    expect(await startAgent().deliver(smartHost(vanishing, other))).toMatchObject([{ kind: 'unknown' }]);
    expect(other.connections).toBe(0);
  });

  test('none can be used', async () => {
    const results = await startAgent().deliver(smartHost(await deadPort(), await deadPort()), ['a@x', 'b@x']);
    expect(results).toMatchObject([
      { kind: 'deferred', scope: 'host' },
      { kind: 'deferred', scope: 'host' },
    ]);
    expect(await startAgent().deliver(smartHost())).toMatchObject([{ kind: 'deferred', scope: 'host' }]);
  });

  test('TLS required and not offered defers', async () => {
    const peer = await startPeer();
    const route: DeliveryRoute = { ...smartHost(peer), tls: 'Required' } as DeliveryRoute;
    expect(await startAgent().deliver(route)).toMatchObject([
      { kind: 'deferred', reply: expect.stringMatching(/^4\.7\.5 /) },
    ]);
    expect(peer.messages).toHaveLength(0);
  });
});

describe('our own side', () => {
  test('a damaged copy is reported and never finished', async () => {
    const peer = await startPeer({ protocol: 'LMTP' });
    const { deliver, damaged } = startAgent({}, async function* () {
      yield Buffer.from('A: b\r\n\r\nhalf');
      throw Object.assign(new Error('checksum of extent 3 does not match'), { code: 'DAMAGED' });
    });
    expect(await deliver(mailbox(peer))).toMatchObject([
      { kind: 'deferred', scope: 'message', reply: expect.stringContaining('checksum') },
    ]);
    expect(damaged).toEqual(['COPY']);
    expect(peer.messages).toEqual([]);
  });

  test('close cuts everything off and every request is answered', async () => {
    const silent = await startPeer({ protocol: 'LMTP', onEnd: () => ['hang'] });
    const stuck = await startPeer({ onConnect: () => 'hang' });
    const { agent, deliver } = startAgent({
      timeouts: { ...FAST, dataTerminationMs: 60_000, greetingMs: 60_000 },
      maxConnectionsPerDestination: 1,
    });
    const afterDot = deliver(mailbox(silent));
    const waiting = [deliver(mailbox(stuck)), deliver(mailbox(stuck))];
    await expect.poll(() => silent.messages.length, { timeout: 5000 }).toBe(1);
    await agent.close();
    expect(await afterDot).toMatchObject([{ kind: 'unknown' }]);
    for (const one of waiting) expect(await one).toMatchObject([{ kind: 'deferred', scope: 'host' }]);
    expect(await deliver(mailbox(silent))).toMatchObject([{ kind: 'deferred' }]);
  });
});

describe('a name service', () => {
  type Reply = (error: NodeJS.ErrnoException | null, address: unknown, family?: number) => void;
  /** For this one name, in place of the resolver of the machine. */
  function resolver(answer: (reply: Reply, wantsAll: boolean) => void): void {
    const real = dns.lookup;
    const lookup = (name: string, options: dns.LookupOptions, reply: Reply): void => {
      if (name === 'store.mail.test') answer(reply, options.all === true);
      else (real as typeof lookup)(name, options, reply);
    };
    dns.lookup = lookup as typeof dns.lookup;
    cleanups.push(async () => {
      dns.lookup = real;
    });
  }
  const failing = (code: string) => (reply: Reply) =>
    process.nextTick(reply, Object.assign(new Error(`getaddrinfo ${code} store.mail.test`), { code }), []);
  const named = (peer: { port: number }): DeliveryRoute =>
    ({ ...mailbox(peer), host: 'store.mail.test' }) as DeliveryRoute;

  test.each<[string, (reply: Reply) => void]>([
    ['that does not know the name', failing('ENOTFOUND')],
    ['that is away', failing('EAI_AGAIN')],
    ['that never answers', () => undefined],
  ])('%s: deferred, never failed; delivered when it is back', async (_, answer) => {
    const peer = await startPeer({ protocol: 'LMTP' });
    const agent = startAgent();
    resolver(answer);
    expect(await agent.deliver(named(peer))).toMatchObject([{ kind: 'deferred', scope: 'host' }]);
    resolver((reply, wantsAll) =>
      process.nextTick(reply, null, wantsAll ? [{ address: '127.0.0.1', family: 4 }] : '127.0.0.1', 4),
    );
    expect(await agent.deliver(named(peer))).toMatchObject([{ kind: 'delivered' }]);
  });
});

test('of many destinations few connections are kept for what may come: the oldest goes first', async () => {
  const peer = await startPeer();
  const pool = new DeliveryPool({
    ...{
      clock: systemClock,
      hostname: 'us.test',
      timeouts: FAST,
      idleMs: 60_000,
      maxPerDestination: 1,
      maxMessages: 10,
    },
    credentials: credentialsIn(null),
  });
  cleanups.push(async () => pool.close());
  const isReused = async (n: number): Promise<boolean> => {
    const where = {
      protocol: 'SMTP',
      host: '127.0.0.1',
      port: peer.port,
      tls: 'None',
      tlsName: `mx.d${n}.example`,
    } as const;
    const lease = await pool.acquire(where, false);
    if (lease instanceof Error) throw lease;
    pool.release(where, lease);
    return lease.reused;
  };
  for (let n = 0; n <= MOST_IDLE; n++) expect(await isReused(n)).toBe(false);
  expect([await isReused(MOST_IDLE), await isReused(1), await isReused(0)]).toEqual([true, true, false]);
});
