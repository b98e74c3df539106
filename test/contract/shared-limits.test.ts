/** Two front ends that share their limits through Redis: a real server, one that is stopped, wiped and killed, and one that lies. Mail flows in each case. */
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { ClientLimits } from '../../common/smtp/client-limits.ts';
import { ConnectionLedger } from '../../common/smtp/connection-ledger.ts';
import { RedisSums } from '../../frontend/redis-sums.ts';
import { type EdgeRig, startRig } from '../dialog/edge-rig.ts';
import { LineClient } from '../dialog/line-client.ts';
import { until } from '../house/until.ts';
import { RealRedis, ScriptedRedis } from '../rigs/redis.ts';
import { Counted } from './ledger-rig.ts';

const LIMIT = 4;
const DEADLINE = { deadlineMs: 10_000, everyMs: 5 };
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

interface Frontend {
  readonly rig: EdgeRig;
  readonly metrics: Counted;
  readonly sums: RedisSums;
}

async function frontend(port: number): Promise<Frontend> {
  const metrics = new Counted();
  const sums = new RedisSums({
    address: { host: '127.0.0.1', port, tls: false },
    ...{ username: null, password: null, cluster: 'mail' },
    ...{ clock: systemClock, random: systemRandom, log: silentLogger, metrics },
  });
  const ledger = new ConnectionLedger(new ClientLimits(systemClock, sums));
  const rig = await startRig({ ledger, limits: { maxConnectionsPerClient: LIMIT }, metrics, clock: systemClock });
  cleanups.push(
    () => sums.close(),
    () => rig.edge.close(false),
  );
  return { rig, metrics, sums };
}

const isShared = async (one: Frontend, shared: boolean): Promise<void> => {
  await until(
    `shared_limits_up ${shared ? 1 : 0}`,
    () => one.metrics.of('shared_limits_up') === (shared ? 1 : 0),
    DEADLINE,
  );
};

/** 220 or 421, and the client that got it. */
async function dial({ rig }: Frontend): Promise<{ readonly code: string; readonly client: LineClient }> {
  const client = await LineClient.connect(rig.edge.port, false);
  cleanups.push(() => client.drop());
  return { code: (await client.line()).slice(0, 3), client };
}

/** Tries until it is turned away, at most to the limit: how many it got in. */
async function admitted(one: Frontend): Promise<number> {
  for (let count = 0; ; count++) {
    const { code } = await dial(one);
    if (code !== '220') return count;
    if (count > LIMIT) throw new Error('more than the limit');
  }
}

async function sendsMail(one: Frontend): Promise<void> {
  const before = one.rig.recorder.messages.length;
  const { client } = await dial(one);
  for (const line of ['EHLO c', 'MAIL FROM:<a@example.org>', 'RCPT TO:<b@example.net>', 'DATA', 'hi\r\n.']) {
    client.send(`${line}\r\n`);
    expect(Number((await client.reply())[0]?.slice(0, 3))).toBeLessThan(400);
  }
  client.drop();
  expect(one.rig.recorder.messages).toHaveLength(before + 1);
}

describe('limits over several front ends', () => {
  it('with a real Redis: counted together, given back; absent, stopped, wiped, killed: mail flows, a metric says so', async (context) => {
    const redis = await RealRedis.start();
    if ('missing' in redis) return context.skip(redis.missing);
    cleanups.push(() => redis[Symbol.asyncDispose]());
    const [a, b] = [await frontend(redis.port), await frontend(redis.port)];
    await isShared(a, true);
    await isShared(b, true);
    await dial(a);
    const { client: second } = await dial(a);
    await until('both to be told', () => a.metrics.of('shared_limits_total added') === 4, DEADLINE);
    await dial(b);
    const { code } = await dial(b);
    expect(code).toBe('220');
    await until('b to know of a', async () => (await dial(b)).code === '421', DEADLINE);
    // Alone it would have taken four.
    expect(b.rig.edge.connections).toBeLessThan(LIMIT);
    expect(b.metrics.of('smtp_limits_total maxConnectionsPerClient')).toBeGreaterThan(0);
    // One leaves at the other front end: with the next that b tells, it knows.
    second.drop();
    await until('a to have told', () => a.metrics.of('shared_limits_total added') === 5, DEADLINE);

    expect((await redis.keys()).every((key) => /^mailcluster:mail:limit:[\w-]{43}$/.test(key))).toBe(true);
    await redis.command('FLUSHALL');
    await sendsMail(a);
    redis.signal('SIGSTOP');
    await sendsMail(a);
    await isShared(a, false);
    await sendsMail(a);
    redis.signal('SIGCONT');
    await isShared(a, true);
    await redis.kill();
    await isShared(a, false);
    await sendsMail(a);
    // Alone it counts for itself, to its own limit.
    expect(await admitted(a)).toBe(LIMIT - 1);
    await redis.launch();
    await isShared(a, true);
    await isShared(b, true);
  }, 60_000);

  it.each([
    ['says that everybody has everything', ':9007199254740991\r\n'],
    ['says less than nothing', ':-5\r\n'],
    ['answers with words', '$3\r\nabc\r\n'],
    ['refuses', '-OOM command not allowed\r\n'],
    ['answers with a list', '*1\r\n:1\r\n'],
    ['hangs', 'hang' as const],
    ['drops the connection', 'drop' as const],
  ])('a Redis that %s: a client gets its own share at least, and the limit at most', async (_what, answer) => {
    const redis = await ScriptedRedis.start();
    cleanups.push(() => redis[Symbol.asyncDispose]());
    redis.script = (name) => (name === 'INCRBY' || name === 'PEXPIRE' ? answer : null);
    const one = await frontend(redis.port);
    await isShared(one, true);
    await sendsMail(one);
    const count = await admitted(one);
    expect([count >= LIMIT / 4, count <= LIMIT]).toEqual([true, true]);
  });
});
