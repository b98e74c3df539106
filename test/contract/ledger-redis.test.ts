/** Redis that is absent, killed, stopped, wiped, refusing or lying, over real sockets: nothing worse than an answer `unknown` or `absent`, in time. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { MAX_STATEMENT_BYTES, Statements } from '../../transport/runtime/ledger-statement.ts';
import { until } from '../house/until.ts';
import { freePort } from '../rigs/dovecot.ts';
import { bulk, RealRedis, type RedisAnswer, ScriptedRedis } from '../rigs/redis.ts';
import { ask, entry, key, LedgerCluster, opened } from './ledger-rig.ts';

/** The command time-out and what a busy machine adds to it. */
const BOUND_MS = 500 + 1_000;
/** No command was sent. */
const AT_ONCE_MS = 250;

let cluster: LedgerCluster;
let cleanups: (() => Promise<unknown>)[] = [];
beforeEach(async () => {
  cluster = await LedgerCluster.create();
  cleanups = [];
});
afterEach(async () => {
  await cluster.close();
  for (const cleanup of cleanups.reverse()) await cleanup();
});

async function timed<T>(work: Promise<T>): Promise<{ readonly value: T; readonly ms: number }> {
  const startMs = performance.now();
  return { value: await work, ms: performance.now() - startMs };
}

async function scripted(): Promise<ScriptedRedis> {
  const redis = await ScriptedRedis.start();
  cleanups.push(() => redis[Symbol.asyncDispose]());
  return redis;
}

/** A test with a real server; skipped where it cannot be had. */
function real(what: string, body: (redis: RealRedis) => Promise<void>, password: string | null = null): void {
  test(what, async (context) => {
    const redis = await RealRedis.start(password);
    if ('missing' in redis) return context.skip(redis.missing);
    cleanups.push(() => redis[Symbol.asyncDispose]());
    await body(redis);
  });
}

describe('a real server', () => {
  test('that is not there costs no time, and what this transport relayed it still knows', async () => {
    const ledger = await cluster.member('t0', await freePort());
    ledger.record([entry('A')]);
    const { value, ms } = await timed(ledger.known([key('A'), key('B')]));
    expect(value.map(({ kind }) => kind)).toEqual(['relayed', 'unknown']);
    expect(ms).toBeLessThan(AT_ONCE_MS);
    expect(cluster.metrics.of('ledger_writes_total dropped')).toBe(1);
    expect((await timed(ledger.close())).ms).toBeLessThan(AT_ONCE_MS);
  });

  real('killed and started again, empty: unknown, then absent, then in use again', async (redis) => {
    const [writer, reader] = [await cluster.connected('t0', redis.port), await cluster.connected('t1', redis.port)];
    writer.record([entry('A')]);
    await cluster.written(1);
    expect(await ask(reader, 'A')).toBe('relayed');
    await redis.kill();
    await opened(reader, false);
    const away = await timed(ask(reader, 'A'));
    expect(away.value).toBe('unknown');
    expect(away.ms).toBeLessThan(AT_ONCE_MS);
    await redis.launch();
    await Promise.all([opened(reader), opened(writer)]);
    expect(await ask(reader, 'A')).toBe('absent');
    writer.record([entry('B')]);
    await cluster.written(2);
    expect(await ask(reader, 'B')).toBe('relayed');
  });

  real('wiped: absent', async (redis) => {
    const [writer, reader] = [await cluster.connected('t0', redis.port), await cluster.connected('t1', redis.port)];
    writer.record([entry('A')]);
    await cluster.written(1);
    await redis.command('FLUSHALL');
    expect([await ask(reader, 'A'), await ask(writer, 'A')]).toEqual(['absent', 'relayed']);
  });

  real('stopped: one question takes the time-out, the next ones none; goes on when it goes on', async (redis) => {
    const ledger = await cluster.connected('t0', redis.port);
    redis.signal('SIGSTOP');
    const first = await timed(ledger.known(Array.from({ length: 50 }, (_, at) => key(`A${at}`))));
    expect(new Set(first.value.map(({ kind }) => kind))).toEqual(new Set(['unknown']));
    expect(first.ms).toBeLessThan(BOUND_MS);
    for (let i = 0; i < 20; i++) expect((await timed(ask(ledger, 'A'))).ms).toBeLessThan(AT_ONCE_MS);
    // The kernel still accepts connections for it: without the PING each of them would look fine.
    expect(ledger.open).toBe(false);
    redis.signal('SIGCONT');
    await opened(ledger);
    expect(await ask(ledger, 'A')).toBe('absent');
  });

  real('stopped while thousands of entries are written: bounded, and no time at all', async (redis) => {
    const ledger = await cluster.connected('t0', redis.port);
    redis.signal('SIGSTOP');
    const many = Array.from({ length: 5_000 }, (_, at) => entry(`A${at}`));
    const startMs = performance.now();
    ledger.record(many);
    const ms = performance.now() - startMs;
    expect(ms).toBeLessThan(1_000);
    expect(cluster.metrics.of('ledger_writes_total dropped')).toBe(3_000);
    const failed = (): boolean => cluster.metrics.of('ledger_writes_total failed') === 2_000;
    await until('the others to fail', failed, { deadlineMs: 10_000 });
    redis.signal('SIGCONT');
    await opened(ledger);
  });

  real(
    'with a password: refused without it, in use after it was changed in the file',
    async (redis) => {
      const ledger = await cluster.member('t0', redis.port, { password: 'wrong' });
      await until('a refusal', () => cluster.lines.some(({ fields }) => /WRONGPASS/.test(String(fields.error))), {
        deadlineMs: 5_000,
      });
      expect(await ask(ledger, 'A')).toBe('unknown');
      ledger.renew(await cluster.identity('t0'), 'secret');
      await opened(ledger);
      ledger.record([entry('A')]);
      await cluster.written(1);
      const other = await cluster.member('t1', redis.port);
      expect(await ask(other, 'A')).toBe('unknown');
      const third = await cluster.connected('t2', redis.port, { username: 'default', password: 'secret' });
      expect(await ask(third, 'A')).toBe('relayed');
    },
    'secret',
  );

  real('entries have names without addresses, and an end', async (redis) => {
    const ledger = await cluster.connected('t0', redis.port, { ttlMs: 45_000 });
    ledger.record([entry('A', 'bob@example.net')]);
    await cluster.written(1);
    const [name = ''] = await redis.keys();
    expect(name).toMatch(/^mailcluster:mail:relayed:[\w-]{43}$/);
    const left = Number((await redis.command('PTTL', name)).slice(1).split('\r\n')[0]);
    expect(left).toBeGreaterThan(30_000);
    expect(left).toBeLessThanOrEqual(45_000);
  });

  real('holding other things under our names: as if nothing were there', async (redis) => {
    const [writer, reader] = [await cluster.connected('t0', redis.port), await cluster.connected('t1', redis.port)];
    writer.record([entry('A'), entry('B')]);
    await cluster.written(2);
    const keys = await redis.keys();
    const [first = '', second = ''] = keys;
    const set = async (name: string, ...command: readonly string[]): Promise<void> => {
      await redis.command('DEL', name);
      await redis.command(...command);
    };
    await set(first, 'LPUSH', first, 'x');
    expect([await ask(reader, 'A'), await ask(reader, 'B')].sort()).toEqual(['absent', 'relayed']);
    await redis.command('RENAME', second, first);
    expect([await ask(reader, 'A'), await ask(reader, 'B')]).toContain('absent');
    await set(first, 'SET', first, 'x'.repeat(3_000_000));
    await set(second, 'SETRANGE', second, '200000000', 'x');
    const huge = await timed(Promise.all([ask(reader, 'A'), ask(reader, 'B')]));
    expect(huge.value).toEqual(['absent', 'absent']);
    expect(reader.open).toBe(true);
    expect(cluster.metrics.of('ledger_entries_rejected_total')).toBeGreaterThanOrEqual(3);
  });

  real('out of memory, read-only: entries are lost, answers go on', async (redis) => {
    const ledger = await cluster.connected('t0', redis.port);
    await redis.command('CONFIG', 'SET', 'maxmemory', '1');
    ledger.record([entry('A')]);
    await until('a failed write', () => cluster.metrics.of('ledger_writes_total failed') === 1, { deadlineMs: 5_000 });
    expect(ledger.open).toBe(true);
    expect(await ask(ledger, 'B')).toBe('absent');
  });
});

describe('a lying server', () => {
  const honestWord = async (copy: string, recipient?: string): Promise<Buffer> =>
    new Statements('mail', systemClock, await cluster.identity('t9')).write(entry(copy, recipient));

  test('repeating a true word under every name convinces only about what it says', async () => {
    const redis = await scripted();
    const word = await honestWord('A', 'bob@x');
    redis.script = (name) => (name === 'GETRANGE' ? bulk(word) : null);
    const ledger = await cluster.connected('t0', redis.port);
    const answers = await ledger.known([key('A', 'bob@x'), key('A', 'eve@x'), key('B', 'bob@x')]);
    expect(answers.map(({ kind }) => kind)).toEqual(['relayed', 'absent', 'absent']);
    expect(cluster.metrics.of('ledger_entries_rejected_total')).toBe(2);
  });

  test('that answers the questions in the wrong order', async () => {
    const redis = await scripted();
    const words = [await honestWord('B'), await honestWord('A')];
    redis.script = (name) => (name === 'GETRANGE' ? bulk(words.shift() ?? Buffer.alloc(0)) : null);
    const ledger = await cluster.connected('t0', redis.port);
    expect((await ledger.known([key('A'), key('B')])).map(({ kind }) => kind)).toEqual(['absent', 'absent']);
  });

  const endless = Buffer.alloc(64 * 1024, 'x');
  const lies: readonly (readonly [string, RedisAnswer])[] = [
    ['an integer', ':5\r\n'],
    ['a simple string', '+relayed\r\n'],
    ['null', '$-1\r\n'],
    ['an error', '-ERR no\r\n'],
    ['an error of another type', '-WRONGTYPE no\r\n'],
    ['an array', '*1\r\n$1\r\nx\r\n'],
    ['an array too large for memory', '*9999999999\r\n'],
    ['arrays without end', '*1\r\n'.repeat(20_000)],
    ['a push of nothing', '>1\r\n_\r\n'],
    ['a push that subscribes to nothing', '>3\r\n$9\r\nsubscribe\r\n_\r\n:1\r\n'],
    ['a pushed message', '*3\r\n$7\r\nmessage\r\n$-1\r\n$-1\r\n'],
    ['a value of half a gigabyte', '$536870911\r\nx'],
    ['a value of negative length', '$-7\r\n'],
    ['a length that is no number', '$NaN\r\n'],
    ['a line without end', Buffer.concat([Buffer.from('+'), endless])],
    ['HTTP', 'HTTP/1.1 400 Bad Request\r\n\r\n'],
    ['zeros', Buffer.alloc(1_000)],
    ['a streamed string', '$?\r\n;4\r\nabcd\r\n'],
    ['more replies than questions', '$1\r\nx\r\n'.repeat(50)],
    ['half a reply and the end', '$9\r\nabc'],
    ['the end', 'drop'],
    ['a value of the greatest length', bulk(Buffer.alloc(MAX_STATEMENT_BYTES, '{'))],
    ['a statement cut off', bulk(Buffer.from('{"v":1,"writer":"t0"'))],
    ['JSON of other things', bulk(Buffer.from('[null]'))],
    ['__proto__', bulk(Buffer.from('{"__proto__":{"v":1},"v":1,"epoch":null}'))],
  ];
  test.each(lies)('%s instead of a value: nothing is believed, in time, and it recovers', async (_, lie) => {
    const redis = await scripted();
    let lying = true;
    redis.script = (name, _args, socket) => {
      if (!lying || name !== 'GETRANGE') return null;
      if (typeof lie === 'string' && lie.startsWith('$9')) {
        socket.end(lie);
        return 'hang';
      }
      return lie;
    };
    const ledger = await cluster.connected('t0', redis.port);
    const { value, ms } = await timed(ledger.known([key('A'), key('B'), key('C')]));
    expect(value.map(({ kind }) => kind)).not.toContain('relayed');
    expect(ms).toBeLessThan(BOUND_MS);
    ledger.record([entry('D')]);
    lying = false;
    await opened(ledger);
    const usable = async (): Promise<boolean> => (await ask(ledger, 'A')) === 'absent';
    await until('honest answers', usable, { deadlineMs: 10_000 });
    expect(await ask(ledger, 'D')).toBe('relayed');
  });

  test('that sends a flood nobody asked for', async () => {
    const redis = await scripted();
    redis.greeting = Buffer.alloc(8 << 20, '+OK\r\n');
    const ledger = await cluster.member('t0', redis.port);
    await until('three tries', () => redis.connections >= 3, { deadlineMs: 10_000 });
    expect(await ask(ledger, 'A')).toBe('unknown');
    redis.greeting = null;
    await opened(ledger);
  });

  test('that says PING is something else is not used', async () => {
    const redis = await scripted();
    redis.script = (name) => (name === 'PING' ? '+PENG\r\n' : null);
    const ledger = await cluster.member('t0', redis.port);
    await until('three tries', () => redis.count('PING') >= 3, { deadlineMs: 10_000 });
    expect(await ask(ledger, 'A')).toBe('unknown');
    expect(redis.count('GETRANGE')).toBe(0);
  });

  test('that accepts and says nothing is not used, and not asked all the time', async () => {
    const redis = await scripted();
    redis.script = () => 'hang';
    const ledger = await cluster.member('t0', redis.port);
    await until('two tries', () => redis.connections >= 2, { deadlineMs: 10_000 });
    expect((await timed(ask(ledger, 'A'))).ms).toBeLessThan(AT_ONCE_MS);
    expect(redis.connections).toBeLessThan(6);
    expect((await timed(ledger.close())).ms).toBeLessThan(AT_ONCE_MS);
  });

  test('that answers everything but what it is told to keep', async () => {
    const redis = await scripted();
    redis.script = (name) => (name === 'SET' ? 'hang' : null);
    const ledger = await cluster.connected('t0', redis.port);
    ledger.record([entry('A')]);
    await opened(ledger, false);
    expect(cluster.metrics.of('ledger_writes_total failed')).toBe(1);
    expect(await ask(ledger, 'A')).toBe('relayed');
    expect((await timed(ledger.close())).ms).toBeLessThan(BOUND_MS);
  });

  test('complaints about it do not fill the log', async () => {
    const redis = await scripted();
    redis.script = (name) => (name === 'GETRANGE' ? bulk(Buffer.from('lies')) : null);
    const ledger = await cluster.connected('t0', redis.port);
    for (let i = 0; i < 200; i++) expect(await ask(ledger, `A${i}`)).toBe('absent');
    expect(cluster.metrics.of('ledger_entries_rejected_total')).toBe(200);
    expect(cluster.lines.filter(({ message }) => /proves nothing/.test(message))).toHaveLength(1);
  });
});

test('a plain server where TLS was asked for is not used', async () => {
  const redis = await scripted();
  const ledger = await cluster.member('t0', redis.port, { tls: true });
  await until('two tries', () => redis.connections >= 2, { deadlineMs: 10_000 });
  expect(await ask(ledger, 'A')).toBe('unknown');
  expect(redis.commands).toEqual([]);
});

test('a closed ledger leaves no connection and makes none', async () => {
  const redis = await scripted();
  const ledger = await cluster.connected('t0', redis.port);
  await ledger.close();
  const socket = connect(redis.port, '127.0.0.1');
  await once(socket, 'connect');
  socket.destroy();
  // Ours is the second; the ledger made none after the first.
  expect(redis.connections).toBeLessThanOrEqual(2);
  expect(await ask(ledger, 'A')).toBe('unknown');
});
