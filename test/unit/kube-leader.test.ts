/**
 * Leader election in simulated time: two or three operators, an API server that loses requests and answers, processes that are stopped, leases
 * that are deleted or edited. At no moment may two of them write, and no write may land while another may write.
 */
import { describe, expect, it } from 'vitest';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { CONFIG_MAP, LEASE, NAMESPACE } from '../../operator/kube/kinds.ts';
import { Leader } from '../../operator/kube/leader.ts';
import { LEASE_TIMES, type Lease } from '../../operator/kube/lease-record.ts';
import { type Journey, MemoryKube } from '../rigs/fake-kube/memory-api.ts';
import { Scheduler, type SeededRandom } from '../sim/scheduler.ts';

const NAME = { namespace: 'mail', name: 'mailcluster-operator' };

/** One operator: its clock runs a little wrong, it can be stopped, its way to the API server can be bad. */
class Operator {
  readonly leader: Leader;
  readonly id: string;
  writes = 0;
  isStopped = false;
  isCutOff = false;
  #isFrozen = false;
  readonly #backlog: (() => void)[] = [];

  constructor(world: World, id: string, drift: number) {
    this.id = id;
    const inner = world.scheduler.clock(world.random.integer(0, 1_000_000), drift);
    const clock: Clock = {
      monotonicMs: () => inner.monotonicMs(),
      wallMs: () => inner.wallMs(),
      setTimer: (delayMs, callback) => this.#timer(inner, delayMs, callback),
    };
    const caller = { clock, journey: () => world.journey(this), deliver: (run: () => void) => this.deliver(run) };
    const api = world.kube.api(caller);
    const marked = world.kube.api(caller, () => world.committed(this));
    const random = world.random.fork();
    const options = { clock, random, log: silentLogger, metrics: silentMetrics };
    this.leader = new Leader({ api, lease: NAME, identity: id, ...options });
    this.leader.start();
    // What a reconciler does all day.
    const write = (): void => {
      if (this.isStopped) return;
      void this.leader.write((fence) =>
        marked.patch(CONFIG_MAP, { ...NAME, name: 'work' }, { data: { by: id } }, fence),
      );
      clock.setTimer(random.integer(20, 300), write);
    };
    write();
  }

  freeze(): void {
    this.#isFrozen = true;
  }

  thaw(): void {
    this.#isFrozen = false;
    for (const run of this.#backlog.splice(0)) run();
  }

  deliver(run: () => void): void {
    if (this.#isFrozen) this.#backlog.push(run);
    else run();
  }

  async stop(): Promise<void> {
    this.isStopped = true;
    await this.leader.stop();
  }

  #timer(inner: Clock, delayMs: number, callback: () => void): Timer {
    let isCancelled = false;
    const run = (): void => {
      if (!isCancelled) callback();
    };
    const timer = inner.setTimer(delayMs, () => this.deliver(run));
    return {
      cancel: () => {
        isCancelled = true;
        timer.cancel();
      },
    };
  }
}

class World {
  readonly scheduler: Scheduler;
  readonly random: SeededRandom;
  readonly kube: MemoryKube;
  operators: Operator[] = [];
  isAway = false;
  /** Chance of a lost request or answer. */
  loss = 0;
  maxLatencyMs = 30;
  readonly broken: string[] = [];

  constructor(seed: number) {
    this.scheduler = new Scheduler(seed);
    this.random = this.scheduler.random;
    this.kube = new MemoryKube(this.scheduler);
    const hand = this.kube.by('test');
    hand.create(NAMESPACE, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'mail' } });
    hand.create(CONFIG_MAP, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { ...NAME, name: 'work' },
      data: { by: '' },
    });
  }

  journey(operator: Operator): Journey {
    const way = (): number | null => (this.random.chance(this.loss) ? null : this.random.integer(0, this.maxLatencyMs));
    return this.isAway || operator.isCutOff ? { thereMs: null, backMs: null } : { thereMs: way(), backMs: way() };
  }

  committed(by: Operator): void {
    by.writes += 1;
    const others = this.operators.filter((one) => one !== by && one.leader.mayWrite);
    if (others.length > 0) this.#blame(`${by.id} wrote while ${others.map((one) => one.id)} may`);
  }

  get writers(): string[] {
    return this.operators.filter((one) => one.leader.mayWrite).map((one) => one.id);
  }

  /** Runs on, looking at every event. */
  async run(until: () => boolean, forMs: number): Promise<boolean> {
    return await this.scheduler.run(() => {
      if (this.writers.length > 1) this.#blame(`${this.writers} may write`);
      return until();
    }, this.scheduler.nowMs + forMs);
  }

  pass(forMs: number): Promise<boolean> {
    return this.run(() => false, forMs);
  }

  lease(): Lease {
    return this.kube.by('test').get<Lease>(LEASE, NAME);
  }

  #blame(what: string): void {
    this.broken.push(`${this.scheduler.nowMs} ms: ${what}`);
  }
}

/** Operators on a fresh cluster, up to the moment one of them leads. */
async function start(seed: number, ids: readonly string[]): Promise<World> {
  const world = new World(seed);
  world.operators = ids.map((id) => new Operator(world, id, 1));
  await world.run(() => world.writers.length === 1, 60_000);
  return world;
}

const leaderOf = (world: World): Operator => {
  const found = world.operators.find((one) => one.leader.mayWrite);
  if (found === undefined) throw new Error('nobody leads');
  return found;
};
const otherThan = (world: World, operator: Operator): Operator =>
  world.operators.find((one) => one !== operator) as Operator;

describe('leader election', () => {
  it('the first of all waits for a holder nobody can see, then leads; the other waits', async () => {
    const world = await start(1, ['a', 'b']);
    expect(world.scheduler.nowMs).toBeGreaterThanOrEqual(LEASE_TIMES.leaseDurationMs);
    expect(world.scheduler.nowMs).toBeLessThan(LEASE_TIMES.leaseDurationMs + 3_000);
    const first = leaderOf(world);
    await world.pass(120_000);
    expect(world.writers).toEqual([first.id]);
    expect(world.lease().spec).toMatchObject({
      holderIdentity: first.id,
      leaseTransitions: 0,
      leaseDurationSeconds: 15,
    });
    expect([first.writes > 500, otherThan(world, first).writes]).toEqual([true, 0]);
    expect(world.broken).toEqual([]);
  });

  it('a clean stop hands over within one retry', async () => {
    const world = await start(2, ['a', 'b']);
    const first = leaderOf(world);
    await world.scheduler.await(first.stop());
    const stoppedMs = world.scheduler.nowMs;
    expect(world.lease().spec?.holderIdentity).toBe('');
    expect(await world.run(() => world.writers.length === 1, 10_000)).toBe(true);
    expect(world.scheduler.nowMs - stoppedMs).toBeLessThanOrEqual(LEASE_TIMES.retryMs * 1.1 + 200);
    expect(world.lease().spec?.leaseTransitions).toBe(1);
    expect(world.broken).toEqual([]);
  });

  it('a stop waits for the writes under way', async () => {
    const world = await start(3, ['a']);
    const [a] = world.operators as [Operator];
    let isDone = false;
    const { promise, resolve } = Promise.withResolvers<void>();
    void a.leader.write(async () => {
      await promise;
      isDone = true;
      return { ok: true, value: null };
    });
    world.scheduler.schedule(3_000, resolve);
    await world.scheduler.await(a.stop());
    expect(isDone).toBe(true);
    expect(world.lease().spec?.holderIdentity).toBe('');
  });

  it('a leader that is stopped as a process and wakes after another took over does not write', async () => {
    const world = await start(4, ['a', 'b']);
    const first = leaderOf(world);
    const second = otherThan(world, first);
    first.freeze();
    expect(await world.run(() => second.leader.mayWrite, 30_000)).toBe(true);
    const before = first.writes;
    first.thaw();
    expect(first.leader.mayWrite).toBe(false);
    await world.pass(60_000);
    expect(world.writers).toEqual([second.id]);
    expect(first.writes).toBe(before);
    expect(world.broken).toEqual([]);
  });

  it('without an API server the leader stops writing before anybody else could begin, and goes on when it is back', async () => {
    const world = await start(5, ['a', 'b']);
    const first = leaderOf(world);
    world.isAway = true;
    const awayMs = world.scheduler.nowMs;
    expect(await world.run(() => world.writers.length === 0, 60_000)).toBe(true);
    expect(world.scheduler.nowMs - awayMs).toBeLessThanOrEqual(LEASE_TIMES.renewDeadlineMs + 100);
    await world.pass(300_000);
    expect(world.writers).toEqual([]);
    world.isAway = false;
    expect(await world.run(() => world.writers.length === 1, 30_000)).toBe(true);
    expect([first.id, otherThan(world, first).id]).toContain(world.writers[0]);
    expect(world.broken).toEqual([]);
  });

  it.each([
    ['deleted', (world: World) => void world.kube.by('kubectl').delete(LEASE, NAME)],
    [
      'emptied by hand',
      (world: World) => void world.kube.by('kubectl').patch(LEASE, NAME, { spec: { holderIdentity: '' } }),
    ],
    [
      'given to somebody who never asked',
      (world: World) => void world.kube.by('kubectl').patch(LEASE, NAME, { spec: { holderIdentity: 'x' } }),
    ],
  ])('a lease that is %s never makes two writers', async (_, break_) => {
    for (let seed = 10; seed < 22; seed += 1) {
      const world = await start(seed, ['a', 'b', 'c']);
      await world.pass(world.random.integer(0, 5_000));
      // The leader learns of it late or soon.
      if (world.random.chance(0.5)) leaderOf(world).isCutOff = true;
      break_(world);
      await world.pass(14_000);
      for (const one of world.operators) one.isCutOff = false;
      expect(await world.run(() => world.writers.length === 1, 60_000)).toBe(true);
      expect(world.broken).toEqual([]);
    }
  });

  it('whatever happens, never two writers, and one again when it is over (25 seeds)', {
    timeout: 120_000,
  }, async () => {
    let takeovers = 0;
    for (let seed = 100; seed < 125; seed += 1) {
      const world = new World(seed);
      const { random } = world;
      world.operators = ['a', 'b', 'c'].map((id) => new Operator(world, id, 0.95 + random.next() / 10));
      for (let step = 0; step < 25; step += 1) {
        world.loss = random.pick([0, 0, 0.1, 0.5]);
        world.maxLatencyMs = random.pick([5, 50, 1_500]);
        world.isAway = random.chance(0.1);
        const someone = random.pick(world.operators);
        if (random.chance(0.3)) someone.freeze();
        else someone.thaw();
        someone.isCutOff = random.chance(0.2);
        if (random.chance(0.1)) {
          try {
            world.kube.by('kubectl').delete(LEASE, NAME);
          } catch {
            // There is none yet.
          }
        }
        await world.pass(random.integer(100, 20_000));
      }
      world.loss = 0;
      world.isAway = false;
      world.maxLatencyMs = 50;
      for (const one of world.operators) {
        one.thaw();
        one.isCutOff = false;
      }
      expect(await world.run(() => world.writers.length === 1, 60_000), `seed ${seed}`).toBe(true);
      expect(world.broken, `seed ${seed}`).toEqual([]);
      takeovers += world.lease().spec?.leaseTransitions ?? 0;
    }
    expect(takeovers).toBeGreaterThan(10);
  });
});
