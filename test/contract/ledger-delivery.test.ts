/** The delivery agent with the ledger in front: what is left out, what is sent, what is written down. Real agents, next hops and servers. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { CopyId, Envelope, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { createDeliveryAgent } from '../../transport/runtime/delivery.ts';
import type {
  DeliveryAgent,
  DeliveryRequest,
  DeliveryRoute,
  RecipientResult,
} from '../../transport/runtime/delivery-api.ts';
import { withLedger } from '../../transport/runtime/delivery-ledger.ts';
import { type Ledger, MemoryLedger } from '../../transport/runtime/ledger.ts';
import { until } from '../house/until.ts';
import { RealRedis, ScriptedRedis } from '../rigs/redis.ts';
import { type PeerScript, ScriptedPeer } from '../rigs/scripted-peer.ts';
import { ask, LedgerCluster, opened } from './ledger-rig.ts';

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
const TIMEOUTS = {
  connectMs: 3_000,
  greetingMs: 3_000,
  commandMs: 3_000,
  dataInitiationMs: 3_000,
  dataBlockMs: 3_000,
  dataTerminationMs: 3_000,
};

let cluster: LedgerCluster;
let cleanups: (() => Promise<unknown>)[] = [];
beforeEach(async () => {
  cluster = await LedgerCluster.create();
  cleanups = [];
});
afterEach(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
  await cluster.close();
});

async function nextHop(script: PeerScript = {}): Promise<ScriptedPeer> {
  const peer = await ScriptedPeer.start(script);
  cleanups.push(() => peer[Symbol.asyncDispose]());
  return peer;
}

function agentOf(member: string, ledger: Ledger): DeliveryAgent {
  const side = { clock: systemClock, log: silentLogger, metrics: cluster.metrics };
  const inner = createDeliveryAgent({
    ...side,
    random: systemRandom,
    dns: (servers) => nodeDns(systemClock, servers),
    hostname: 'mx.test',
    member,
    readBody: async function* () {
      yield Buffer.from('Subject: x\r\n\r\nhello\r\n');
    },
    onDamaged: (id) => {
      throw new Error(`damaged: ${id}`);
    },
    settings: { timeouts: TIMEOUTS },
  });
  const agent = withLedger(inner, ledger, side);
  cleanups.push(() => agent.close());
  return agent;
}

const relay = (peer: ScriptedPeer): DeliveryRoute => ({
  kind: 'smartHost',
  connector: 'out',
  hosts: [{ host: '127.0.0.1', port: peer.port }],
  tls: 'None',
});

function requestFor(
  route: DeliveryRoute,
  more: Partial<DeliveryRequest> = {},
  ...addresses: string[]
): DeliveryRequest {
  const all = addresses.length === 0 ? ['bob@x'] : addresses;
  return {
    requestId: 1,
    copyId: 'COPY' as CopyId,
    deliveryId: 'ELDEST',
    contentKey: null,
    epoch: { try: 1, term: 0, owner: 'ME' as Identity },
    mayBeRepeat: false,
    envelope: ENVELOPE,
    sizeBytes: 20,
    route,
    recipients: all.map((address, at) => ({ index: at * 10, recipient: { address } })),
    mayBegin: () => true,
    ...more,
  };
}

const deliver = (agent: DeliveryAgent, request: DeliveryRequest): Promise<readonly RecipientResult[]> =>
  new Promise((resolve) => agent.start(request, resolve));

const promoted = { mayBeRepeat: true, epoch: { try: 1, term: 1, owner: 'SUCCESSOR' as Identity } };

describe('a copy relayed by a transport that is gone', () => {
  test('is not sent again by its successor, over a real server', async (context) => {
    const redis = await RealRedis.start();
    if ('missing' in redis) return context.skip(redis.missing);
    cleanups.push(() => redis[Symbol.asyncDispose]());
    const peer = await nextHop({ capabilities: ['DSN'] });
    const lost = await cluster.connected('t0', redis.port);
    await deliver(agentOf('t0', lost), requestFor(relay(peer), {}, 'bob@x', 'carol@x'));
    await cluster.written(2);
    await lost.close();
    const successor = agentOf('t1', await cluster.connected('t1', redis.port));
    expect(await deliver(successor, requestFor(relay(peer), promoted, 'bob@x', 'dave@x', 'carol@x'))).toEqual([
      {
        index: 0,
        kind: 'relayed',
        reply: '250 2.0.0 stored (suppressed: relayed before by t0)',
        dsnPassedOn: true,
        isRepeat: true,
      },
      { index: 10, kind: 'relayed', reply: '250 2.0.0 stored', dsnPassedOn: true },
      {
        index: 20,
        kind: 'relayed',
        reply: '250 2.0.0 stored (suppressed: relayed before by t0)',
        dsnPassedOn: true,
        isRepeat: true,
      },
    ]);
    expect(peer.messages.map(({ rcpts }) => rcpts.length)).toEqual([2, 1]);
    expect(cluster.metrics.of('duplicates_suppressed_total ledger')).toBe(2);
  });

  test('every recipient known: the next hop hears nothing', async () => {
    const peer = await nextHop();
    const ledger = new MemoryLedger('t0');
    const agent = agentOf('t0', ledger);
    await deliver(agent, requestFor(relay(peer)));
    const connections = peer.connections;
    const lines = peer.lines.length;
    expect(await deliver(agent, requestFor(relay(peer), promoted))).toMatchObject([{ index: 0, kind: 'relayed' }]);
    expect([peer.connections, peer.lines.length, peer.messages.length]).toEqual([connections, lines, 1]);
  });

  test('its resubmission is another copy and is sent', async () => {
    const peer = await nextHop();
    const agent = agentOf('t0', new MemoryLedger('t0'));
    await deliver(agent, requestFor(relay(peer)));
    const resubmission = { ...promoted, copyId: 'RESUBMISSION' as CopyId };
    expect(await deliver(agent, requestFor(relay(peer), resubmission))).toMatchObject([{ reply: '250 2.0.0 stored' }]);
    expect(peer.messages).toHaveLength(2);
  });
});

describe('the ledger is not asked', () => {
  test('for a copy that cannot be a repeat', async () => {
    const redis = await ScriptedRedis.start();
    cleanups.push(() => redis[Symbol.asyncDispose]());
    const peer = await nextHop();
    const agent = agentOf('t0', await cluster.connected('t0', redis.port));
    await deliver(agent, requestFor(relay(peer)));
    await cluster.written(1);
    await deliver(agent, requestFor(relay(peer)));
    expect(peer.messages).toHaveLength(2);
    expect(redis.count('GETRANGE')).toBe(0);
  });

  test('for a mailbox, and hears nothing of it: there the store decides', async () => {
    const redis = await ScriptedRedis.start();
    cleanups.push(() => redis[Symbol.asyncDispose]());
    const peer = await nextHop({ protocol: 'LMTP' });
    const route: DeliveryRoute = { kind: 'mailbox', database: 'DB', copy: 'c', host: '127.0.0.1', port: peer.port };
    const ledger = await cluster.connected('t0', redis.port);
    const agent = agentOf('t0', ledger);
    for (let i = 0; i < 2; i++)
      expect(await deliver(agent, requestFor(route, promoted))).toMatchObject([{ kind: 'delivered' }]);
    expect(peer.messages).toHaveLength(2);
    expect([redis.count('GETRANGE'), redis.count('SET'), await ask(ledger, 'COPY', 'bob@x')]).toEqual([0, 0, 'absent']);
  });
});

test('only what the next hop took is written down', async () => {
  const peer = await nextHop({
    onCommand: (verb, line) => {
      if (verb !== 'RCPT') return null;
      return line.includes('nobody') ? '550 5.1.1 no' : line.includes('busy') ? '450 4.2.0 busy' : null;
    },
    onEnd: (message) => (message.rcpts.some((one) => one.includes('vague')) ? ['drop'] : null),
  });
  const ledger = new MemoryLedger('t0');
  const agent = agentOf('t0', ledger);
  const kinds = async (...addresses: string[]): Promise<readonly string[]> =>
    (await deliver(agent, requestFor(relay(peer), promoted, ...addresses))).map(({ kind }) => kind);
  expect(await kinds('nobody@x', 'busy@x', 'good@x')).toEqual(['failed', 'deferred', 'relayed']);
  expect(await kinds('vague@x')).toEqual(['unknown']);
  for (const one of ['nobody@x', 'busy@x', 'vague@x'])
    expect([one, await ask(ledger, 'COPY', one)]).toEqual([one, 'absent']);
  expect(await ask(ledger, 'COPY', 'good@x')).toBe('relayed');
});

describe('a ledger that does not answer', () => {
  test('holds a delivery up once, for its time-out; then not at all', async () => {
    const redis = await ScriptedRedis.start();
    cleanups.push(() => redis[Symbol.asyncDispose]());
    const peer = await nextHop();
    const ledger = await cluster.connected('t0', redis.port);
    redis.script = () => 'hang';
    const agent = agentOf('t0', ledger);
    const times: number[] = [];
    for (const copyId of ['A', 'B', 'C', 'D'] as CopyId[]) {
      const startMs = performance.now();
      expect(await deliver(agent, requestFor(relay(peer), { ...promoted, copyId }))).toMatchObject([
        { kind: 'relayed', reply: '250 2.0.0 stored' },
      ]);
      times.push(performance.now() - startMs);
    }
    expect(times[0]).toBeLessThan(1_500);
    for (const ms of times.slice(1)) expect(ms).toBeLessThan(250);
    expect(peer.messages).toHaveLength(4);
  });

  test('many deliveries at once wait for the same time-out, not one after the other', async () => {
    const redis = await ScriptedRedis.start();
    cleanups.push(() => redis[Symbol.asyncDispose]());
    const peer = await nextHop();
    const ledger = await cluster.connected('t0', redis.port);
    redis.script = () => 'hang';
    const agent = agentOf('t0', ledger);
    const startMs = performance.now();
    const all = Array.from({ length: 100 }, (_, at) =>
      deliver(agent, requestFor(relay(peer), { ...promoted, copyId: `C${at}` as CopyId })),
    );
    expect((await Promise.all(all)).flat().every(({ kind }) => kind === 'relayed')).toBe(true);
    expect(performance.now() - startMs).toBeLessThan(3_000);
  });

  test('or throws against its promise: the message is sent', async () => {
    const peer = await nextHop();
    const broken: Ledger = {
      known: () => Promise.reject(new Error('broken')),
      record: () => undefined,
      close: () => Promise.resolve(),
    };
    expect(await deliver(agentOf('t0', broken), requestFor(relay(peer), promoted))).toMatchObject([
      { kind: 'relayed', reply: '250 2.0.0 stored' },
    ]);
  });

  test('a close meanwhile is waited for and answered once; nothing is sent after it', async () => {
    const redis = await ScriptedRedis.start();
    cleanups.push(() => redis[Symbol.asyncDispose]());
    const peer = await nextHop();
    const ledger = await cluster.connected('t0', redis.port);
    redis.script = (name) => (name === 'GETRANGE' ? 'hang' : null);
    const agent = agentOf('t0', ledger);
    const answers: (readonly RecipientResult[])[] = [];
    agent.start(requestFor(relay(peer), promoted, 'a@x', 'b@x'), (results) => answers.push(results));
    await until('the question', () => redis.count('GETRANGE') > 0, { deadlineMs: 5_000, everyMs: 5 });
    await agent.close();
    expect(answers).toEqual([
      [
        { index: 0, kind: 'deferred', reply: '4.3.2 stopping', scope: 'host' },
        { index: 10, kind: 'deferred', reply: '4.3.2 stopping', scope: 'host' },
      ],
    ]);
    expect(peer.connections).toBe(0);
    await opened(ledger, false);
  });
});
