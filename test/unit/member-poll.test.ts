/**
 * How often members are asked (docs/decisions/0019-questions-at-rest.md): real TLS servers under addresses of loopback, a clock that goes where it is told.
 */
import { randomInt } from 'node:crypto';
import { expect, it, type TestContext } from 'vitest';
import type { Clock } from '../../common/platform/clock.ts';
import { withContext } from '../../operator/admin-client.ts';
import { MemberPoll, type PollTarget } from '../../operator/member-poll.ts';
import { PORT } from '../../operator/resources/names.ts';
import { memberServers } from '../house/member-servers.ts';
import { until } from '../house/until.ts';

const KEY = 'mail/contoso';
const NAMES = ['m-0', 'm-1', 'm-2', 'm-3'];
const EACH_ONCE = Object.fromEntries(NAMES.map((name) => [name, 1]));
const PATIENCE = { deadlineMs: 20_000, everyMs: 2 };

/** Time stands still until it is told to go to the next timer. */
class DrivenClock implements Clock {
  nowMs = 1_000_000;
  readonly #timers = new Set<{ readonly atMs: number; readonly callback: () => void }>();
  monotonicMs = (): number => this.nowMs;
  wallMs = (): number => this.nowMs;
  setTimer = (delayMs: number, callback: () => void) => {
    const timer = { atMs: this.nowMs + delayMs, callback };
    this.#timers.add(timer);
    return { cancel: () => void this.#timers.delete(timer) };
  };

  get isWaiting(): boolean {
    return this.#timers.size > 0;
  }

  next(): void {
    const [first] = [...this.#timers].sort((a, b) => a.atMs - b.atMs);
    if (first === undefined) throw new Error('nobody waits');
    this.#timers.delete(first);
    this.nowMs = Math.max(this.nowMs, first.atMs);
    first.callback();
  }
}

const nothing = { messages: 0, bytes: 0, oldestMs: null };
const QUEUES = ['submission', 'delivery', 'unreachable', 'poison', 'shadow', 'primarySafetyNet', 'shadowSafetyNet'];
const statusOf = (name: string) => ({
  ...{ name, identity: `identity-of-${name}`, state: 'ready', generation: 1, unprotected: 0 },
  drain: { state: 'none', copies: 0, safetyNet: 0, tombstones: 0, waitingFor: [] },
  ...{ backPressure: 'Normal', queues: Object.fromEntries(QUEUES.map((queue) => [queue, nothing])) },
  ...{ discardsPending: 0, space: { liveBytes: 0, freeBytes: 1 } },
  peers: NAMES.filter((peer) => peer !== name).map((member) => ({
    ...{ member, identity: `identity-of-${member}`, connected: true },
  })),
});

async function rig(context: TestContext, memberCount: number) {
  const servers = await memberServers(context);
  const network = `127.${randomInt(1, 255)}.${randomInt(1, 255)}`;
  const asked: string[] = [];
  let connections = 0;
  const says = new Map<string, object>(NAMES.map((name) => [name, statusOf(name)]));
  const pods = NAMES.map((name, at) => ({ name, uid: `uid-of-${name}`, address: `${network}.${at + 1}` }));
  for (const { name, address } of pods) {
    const { server } = await servers.serve(name, address, PORT.admin, (response) => {
      asked.push(name);
      response.end(JSON.stringify(says.get(name)));
    });
    server.on('secureConnection', () => {
      connections += 1;
    });
  }
  const tls = withContext(servers.tls);
  let target: PollTarget = { pods, absent: [], wantsResubmits: false, tls, isBusy: false };
  const told = { changed: 0, counted: 0 };
  const clock = new DrivenClock();
  const poll = new MemberPoll({
    clock,
    target: async () => target,
    changed: () => {
      told.changed += 1;
    },
    counted: () => {
      told.counted += 1;
    },
    memberCount: () => memberCount,
  });
  context.onTestFinished(() => poll.stop());
  poll.follow(KEY);
  const round = async (): Promise<readonly string[]> => {
    const before = asked.length;
    clock.next();
    await until('the round to end', () => clock.isWaiting, PATIENCE);
    return asked.slice(before);
  };
  const rounds = async (many: number): Promise<Readonly<Record<string, number>>> => {
    const counts: Record<string, number> = {};
    for (let at = 0; at < many; at += 1) for (const name of await round()) counts[name] = (counts[name] ?? 0) + 1;
    return counts;
  };
  const toRest = async (): Promise<void> => {
    const fromMs = clock.nowMs;
    while (clock.nowMs - fromMs <= 60_000) await round();
  };
  const say = (name: string, more: object): unknown => says.set(name, { ...statusOf(name), ...more });
  const change = (more: Partial<PollTarget>): void => {
    target = { ...target, ...more };
  };
  return { poll, clock, told, round, rounds, toRest, say, change, connections: () => connections };
}

it('asks everybody in the first round, and at rest one after another, each within its time', async (context) => {
  const { clock, told, rounds, toRest } = await rig(context, 100);
  expect(await rounds(1)).toEqual(EACH_ONCE);
  await toRest();
  const [changed, fromMs] = [told.changed, clock.nowMs];
  // A hundred members, five questions a second: each once in twenty seconds.
  expect(await rounds(4)).toEqual(EACH_ONCE);
  expect(clock.nowMs - fromMs).toBe(20_000);
  expect(await rounds(4)).toEqual(EACH_ONCE);
  expect(told).toEqual({ changed, counted: 0 });
});

it('asks everybody a second after an answer that is new, and once only', async (context) => {
  const { clock, told, round, rounds, toRest, say } = await rig(context, 100);
  await toRest();
  const changed = told.changed;
  say('m-2', { unprotected: 1 });
  const found = async (): Promise<number> => ((await round()).includes('m-2') ? clock.nowMs : await found());
  const foundMs = await found();
  expect(told.changed).toBe(changed + 1);
  expect(await rounds(1)).toEqual(EACH_ONCE);
  expect(clock.nowMs - foundMs).toBe(1_000);
  await rounds(1);
  expect(clock.nowMs - foundMs).toBe(6_000);
});

it('asks more often where numbers move, and says that they did', async (context) => {
  const { clock, told, rounds, toRest, say } = await rig(context, 100);
  await toRest();
  const changed = told.changed;
  const { queues } = statusOf('m-0');
  for (const name of NAMES) say(name, { queues: { ...queues, delivery: { ...nothing, messages: 7 } } });
  await rounds(1);
  expect(told).toEqual({ changed, counted: 1 });
  expect(await rounds(1)).toEqual(EACH_ONCE);
  // What is free on a disk changes by itself.
  await toRest();
  for (const name of NAMES)
    say(name, { queues: { ...queues, delivery: { ...nothing, messages: 7 } }, space: { liveBytes: 0, freeBytes: 2 } });
  const fromMs = clock.nowMs;
  expect(await rounds(4)).toEqual(EACH_ONCE);
  expect(clock.nowMs - fromMs).toBe(20_000);
});

it('asks a new pod in the next round, and says of one that is gone that it is silent', async (context) => {
  const { poll, clock, rounds, toRest, change } = await rig(context, 100);
  await toRest();
  const pods = NAMES.map((name) => ({ name, uid: `uid-of-${name}`, address: '127.0.0.1' })).slice(0, 3);
  const absent = [{ name: 'm-3', reason: 'it has no pod' }];
  change({ pods: pods.map((pod) => ({ ...pod, uid: `${pod.uid}-again` })), absent });
  await rounds(1);
  const goneMs = clock.nowMs;
  await rounds(3);
  expect(poll.answers(KEY)).toEqual({
    ...Object.fromEntries(pods.map(({ name }) => [name, expect.objectContaining({ kind: 'unreachable' })])),
    'm-3': { kind: 'unreachable', reason: 'it has no pod', sinceMs: goneMs },
  });
});

it('asks every second while something is under way, soon when that begins between two rounds', async (context) => {
  const { poll, clock, rounds, toRest, change } = await rig(context, 100);
  await toRest();
  change({ isBusy: true });
  const fromMs = clock.nowMs;
  poll.hasten(KEY);
  expect(await rounds(3)).toEqual({ 'm-0': 3, 'm-1': 3, 'm-2': 3, 'm-3': 3 });
  expect(clock.nowMs - fromMs).toBe(3_000);
});

it('has fresh answers for a plan that waits for them', async (context) => {
  const { poll, clock, told, round, rounds, toRest } = await rig(context, 5_000);
  await rounds(1);
  expect(poll.isFresh(KEY)).toBe(true);
  await toRest();
  // A round of a thousand seconds: nobody is asked in the next ten.
  expect(await round()).toEqual([]);
  expect(poll.isFresh(KEY)).toBe(false);
  const [changed, fromMs] = [told.changed, clock.nowMs];
  poll.askEverybody(KEY);
  expect(await rounds(1)).toEqual(EACH_ONCE);
  expect(clock.nowMs).toBe(fromMs);
  expect(told.changed).toBe(changed + 1);
  expect(poll.isFresh(KEY)).toBe(true);
});

it('keeps one connection to a member; with very many members only where something is under way', async (context) => {
  const few = await rig(context, 500);
  await few.rounds(5);
  expect(few.connections()).toBe(4);
  const many = await rig(context, 501);
  await many.rounds(1);
  many.poll.askEverybody(KEY);
  await many.rounds(1);
  expect(many.connections()).toBe(8);
  many.change({ isBusy: true });
  await many.rounds(5);
  expect(many.connections()).toBe(12);
});

it('keeps once what all members know of each other', async (context) => {
  const { poll, rounds } = await rig(context, 100);
  await rounds(1);
  const known = Object.values(poll.answers(KEY)).map((one) => (one.kind === 'answered' ? one.report.identities : null));
  expect(known[0]).toEqual(Object.fromEntries(NAMES.map((name) => [name, `identity-of-${name}`])));
  expect(new Set(known).size).toBe(1);
});
