/** How often and how fast a dying child is started again; and the ports children get. Real processes, a clock that does not make us wait. */
import { openSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { devNull } from 'node:os';
import { afterEach, expect, test } from 'vitest';
import type { Clock } from '../../common/platform/clock.ts';
import { passwordsOf } from '../../operator/local/credentials.ts';
import { bindListeners } from '../../operator/local/plan.ts';
import { LOOPBACK, Ports, parsePortTable } from '../../operator/local/ports.ts';
import { type ChildEvents, SupervisedChild } from '../../operator/local/supervisor.ts';
import { until } from '../house/until.ts';
import { SeededRandom } from '../sim/scheduler.ts';

const DEADLINE = { deadlineMs: 20_000 };

/** Time passes only when told to; timers of a restart run at once. */
class EagerClock implements Clock {
  nowMs = 0;
  readonly delays: number[] = [];
  monotonicMs = (): number => this.nowMs;
  wallMs = (): number => this.nowMs;
  setTimer = (delayMs: number, callback: () => void) => {
    this.delays.push(delayMs);
    let cancelled = false;
    setImmediate(() => {
      if (!cancelled) callback();
    });
    return {
      cancel: () => {
        cancelled = true;
      },
    };
  };
}

interface Death {
  readonly reason: string;
  readonly delayMs: number;
}

const children: SupervisedChild[] = [];
const servers: Server[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) server.close();
  await Promise.all(children.splice(0).map((child) => child.stop()));
});

/** A child that runs `script`; it is given no file of its own. */
function supervised(script: string, clock: Clock, more: Partial<ChildEvents> = {}) {
  const deaths: Death[] = [];
  const ready: number[] = [];
  const events: ChildEvents = {
    prepare: async () => null,
    onReady: () => ready.push(ready.length),
    onDeath: (_name, reason, delayMs) => deaths.push({ reason, delayMs }),
    openLog: () => openSync(devNull, 'w'),
    ...more,
  };
  const spec = { name: 'one', kind: 'transport' as const, entry: '--eval', args: () => [script], env: {} };
  const child = new SupervisedChild(spec, events, clock);
  children.push(child);
  return { child, deaths, ready };
}

test('a child that cannot be started waits 0.2 s, doubling to 10 s', async () => {
  const clock = new EagerClock();
  const { child, deaths } = supervised('', clock, { prepare: async () => 'its port is taken' });
  child.start();
  await until('nine attempts', () => deaths.length >= 9, DEADLINE);
  await child.stop();
  const wanted = [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000];
  expect(deaths.slice(0, 9)).toEqual(wanted.map((delayMs) => ({ reason: 'its port is taken', delayMs })));
  expect(child.state).toEqual({ kind: 'stopped' });
});

test('the reason of a death is what the child said, its exit code or its signal', async () => {
  const clock = new EagerClock();
  const scripts = [
    [
      "process.send({ kind: 'fatal', reason: 'disk gone', remedy: 'mount it' }, () => process.exit(70))",
      'exited with code 70: disk gone (mount it)',
    ],
    ['process.exit(3)', 'exited with code 3'],
    ["process.kill(process.pid, 'SIGKILL')", 'killed by SIGKILL'],
  ] as const;
  for (const [script, reason] of scripts) {
    const { child, deaths } = supervised(script, clock);
    child.start();
    await until(reason, () => deaths.length > 0, DEADLINE);
    await child.stop();
    expect(deaths[0]).toEqual({ reason, delayMs: 200 });
  }
});

test('thirty healthy seconds forgive what was before; less does not', async () => {
  const clock = new EagerClock();
  const { child, deaths, ready } = supervised(
    "process.send({ kind: 'ready' }); setInterval(() => undefined, 1000)",
    clock,
  );
  child.start();
  const kill = async (healthyMs: number): Promise<number | undefined> => {
    const [starts, ends] = [ready.length, deaths.length];
    await until('it is ready', () => child.state.kind === 'ready', DEADLINE);
    clock.nowMs += healthyMs;
    process.kill(child.pid ?? 0, 'SIGKILL');
    await until('it is ready again', () => ready.length > starts + (starts === 0 ? 1 : 0), DEADLINE);
    return deaths[ends]?.delayMs;
  };
  expect([await kill(0), await kill(29_000), await kill(1_000), await kill(30_000), await kill(0)]).toEqual([
    200, 400, 800, 200, 400,
  ]);
});

test('stop ends a child that ignores SIGTERM, and starts nothing afterwards', async () => {
  const clock = new EagerClock();
  const script =
    "process.on('SIGTERM', () => undefined); process.send({ kind: 'ready' }); setInterval(() => undefined, 1000)";
  const { child, deaths } = supervised(script, clock);
  child.start();
  await until('it is ready', () => child.state.kind === 'ready', DEADLINE);
  await child.stop();
  expect(child.state).toEqual({ kind: 'stopped' });
  expect(deaths).toEqual([]);
});

test('a store says it is ready with a line; other lines are not taken for it', async () => {
  const clock = new EagerClock();
  const facts: unknown[] = [];
  const script =
    'console.log("{not json"); console.log(JSON.stringify({ ready: true, port: 4711 })); setInterval(() => undefined, 1000)';
  const events: ChildEvents = {
    prepare: async () => null,
    onReady: (_name, said) => facts.push(said),
    onDeath: () => undefined,
    openLog: () => openSync(devNull, 'w'),
  };
  const child = new SupervisedChild(
    { name: 'store', kind: 'store', entry: '--eval', args: () => [script], env: {} },
    events,
    clock,
  );
  children.push(child);
  child.start();
  await until('it is ready', () => child.state.kind === 'ready', DEADLINE);
  expect(facts).toEqual([{ ready: true, port: 4711 }]);
});

test('a purpose keeps its port; a taken one is found and replaced', async () => {
  const ports = new Ports({}, new SeededRandom(7));
  const port = await ports.of('transport/a/peer');
  expect(await ports.of('transport/a/peer')).toBe(port);
  expect(port).toBeLessThan(32_768);
  const again = new Ports(parsePortTable(JSON.parse(JSON.stringify(ports.table()))), new SeededRandom(7));
  expect(await again.of('transport/a/peer')).toBe(port);
  expect(await again.of('transport/b/peer')).not.toBe(port);
  expect(await again.taken(['transport/a/peer', 'transport/b/peer'])).toEqual([]);
  await new Promise<void>((resolve) => servers.push(createServer().listen(port, LOOPBACK, resolve)));
  expect(await again.taken(['transport/a/peer', 'transport/b/peer'])).toEqual(['transport/a/peer']);
  expect(await again.renew('transport/a/peer')).not.toBe(port);
  expect(parsePortTable({ a: 1, b: '2', c: 0, d: 70_000, e: 1.5 })).toEqual({ a: 1 });
});

const listener = (name: string) => ({ name, port: 25, tls: 'None' as const, relayFrom: [] });
const FRONTENDS = ['f0', 'f1'].map((name) => ({
  name,
  site: 's',
  listeners: [listener('smtp'), listener('submission')],
}));
const option = (name: string, port: number, frontend: string | null = null) => ({
  frontend,
  name,
  host: '127.0.0.1',
  port,
});

test('--listen goes to the front ends in turn, or to the one that is named', () => {
  const bound = bindListeners(FRONTENDS, [option('smtp', 2_525, 'f1'), option('smtp', 2_526), option('submission', 0)]);
  if (typeof bound === 'string') throw new Error(bound);
  expect(bound.map(({ frontend, listener: name, fixed }) => [frontend, name, fixed?.port ?? null])).toEqual([
    ['f0', 'smtp', 2_526],
    ['f0', 'submission', null],
    ['f1', 'smtp', 2_525],
    ['f1', 'submission', null],
  ]);
  const tooMany = [1, 2, 3].map((port) => option('smtp', port));
  expect(bindListeners(FRONTENDS, tooMany)).toBe(
    '--listen smtp=127.0.0.1:3: every front end has been given one already',
  );
  expect(bindListeners(FRONTENDS, [option('smtp', 1, 'f9')])).toContain('there is no such listener; there are f0/smtp');
});

test('a users Secret is one user:password per line, or one key per user', () => {
  const metadata = { name: 'relay-users', namespace: 'mail', labels: {}, annotations: {} };
  const secret = (data: Record<string, string>) => ({ kind: 'Secret' as const, metadata, data });
  expect(passwordsOf(secret({ users: '# people\nann:a:b\n\nbob: x \n' }))).toEqual({ ann: 'a:b', bob: 'x' });
  expect(passwordsOf(secret({ ann: 'a' }))).toEqual({ ann: 'a' });
  expect(() => passwordsOf(secret({ users: 'ann:a\nann:b' }))).toThrow('line 2: this user was given before');
});
