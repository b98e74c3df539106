/** The faults of the simulated network: cuts, half-open ends, dead incarnations, resets, clogs; and that a seed is one history. */
import { describe, expect, test } from 'vitest';
import type { Connection, Network, PeerName } from '../../common/platform/net.ts';
import type { Incarnation } from '../sim/incarnation.ts';
import { SimNetwork, type SimNetworkOptions } from '../sim/net.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { hear } from './network-rigs.ts';

const A: PeerName = { role: 'frontend', name: 'a' };
const B: PeerName = { role: 'transport', name: 'b' };

class World {
  readonly scheduler: Scheduler;
  readonly network: SimNetwork;
  readonly lifeA: Incarnation = { alive: true };
  lifeB: Incarnation = { alive: true };
  readonly a: Network;
  b: Network;
  readonly accepted: Connection[] = [];

  constructor(seed = 1, options: Partial<SimNetworkOptions> = {}) {
    this.scheduler = new Scheduler(seed);
    this.network = new SimNetwork(this.scheduler, options);
    this.a = this.network.host(A, this.lifeA);
    this.b = this.network.host(B, this.lifeB);
  }

  listen(): void {
    void this.b.listen({ host: 'b', port: 25 }, (connection) => this.accepted.push(connection));
  }

  /** Starts dialling; what came of it is in the result. */
  dial(timeoutMs = 1_000): { connection: Connection | null; code: string | null } {
    const result: { connection: Connection | null; code: string | null } = { connection: null, code: null };
    this.a.connect({ host: 'b', port: 25 }, B, timeoutMs).then(
      (connection) => {
        result.connection = connection;
      },
      (error: NodeJS.ErrnoException) => {
        result.code = error.code ?? 'none';
      },
    );
    return result;
  }

  async connected(): Promise<{ near: Connection; far: Connection }> {
    this.listen();
    const result = this.dial();
    await this.pass(100);
    const far = this.accepted[0];
    if (result.connection === null || far === undefined) throw new Error(`no connection: ${result.code}`);
    return { near: result.connection, far };
  }

  async pass(spanMs: number): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    await this.scheduler.run(() => false, this.scheduler.nowMs + spanMs);
  }

  killB(silent = false): void {
    this.lifeB.alive = false;
    this.network.reap(silent);
  }

  restartB(): void {
    this.lifeB = { alive: true };
    this.b = this.network.host(B, this.lifeB);
  }
}

describe('cuts', () => {
  test('one way: bytes that way wait, the other way flows; healing lets them through in order', async () => {
    const world = new World();
    const { near, far } = await world.connected();
    const [atA, atB] = [hear(near), hear(far)];
    world.network.cut('a', 'b', 'a-to-b');
    near.write([Buffer.from('one ')]);
    near.write([Buffer.from('two')]);
    far.write([Buffer.from('back')]);
    await world.pass(10_000);
    expect([atA.bytes.toString(), atB.bytes.toString()]).toEqual(['back', '']);
    world.network.heal('a', 'b', 'a-to-b');
    await world.pass(100);
    expect(atB.bytes.toString()).toBe('one two');
  });

  test('connecting across a cut in either direction times out; healed in time it succeeds', async () => {
    for (const [from, to] of [
      ['a', 'b'],
      ['b', 'a'],
    ] as const) {
      const world = new World();
      world.listen();
      world.network.cut(from, to, 'a-to-b');
      const lost = world.dial(1_000);
      const lucky = world.dial(5_000);
      await world.pass(2_000);
      expect(lost.code).toBe('ETIMEDOUT');
      world.network.healAll();
      await world.pass(100);
      expect(lucky.connection).not.toBeNull();
      expect(world.accepted).toHaveLength(1);
    }
  });

  test('a close behind a cut is not seen before it heals', async () => {
    const world = new World();
    const { near, far } = await world.connected();
    const [atA, atB] = [hear(near), hear(far)];
    world.network.cut('a', 'b');
    near.write([Buffer.from('last words')]);
    near.end();
    await world.pass(5_000);
    expect([atA.closes, atB.closes]).toEqual([[], []]);
    world.network.heal('a', 'b');
    await world.pass(100);
    expect(atB.bytes.toString()).toBe('last words');
    expect([atA.closes.length, atB.closes.length]).toEqual([1, 1]);
  });
});

describe('death of an incarnation', () => {
  test('the other end sees a reset, the listener is gone, the dead end hears nothing', async () => {
    const world = new World();
    const { near, far } = await world.connected();
    const [atA, atB] = [hear(near), hear(far)];
    near.write([Buffer.from('for the dead')]);
    world.killB();
    await world.pass(100);
    expect(atA.closes).toEqual(['connection reset']);
    expect([atB.length, atB.closes]).toEqual([0, []]);
    const again = world.dial();
    await world.pass(100);
    expect(again.code).toBe('ECONNREFUSED');
  });

  test('without reap the other end learns it when it next sends', async () => {
    const world = new World();
    const { near, far } = await world.connected();
    const atA = hear(near);
    hear(far);
    world.lifeB.alive = false;
    await world.pass(1_000);
    expect(atA.closes).toEqual([]);
    near.write([Buffer.from('x')]);
    await world.pass(100);
    expect(atA.closes).toEqual(['connection reset']);
  });

  test('behind a cut the connection is half-open until the heal and the next byte', async () => {
    const world = new World();
    const { near, far } = await world.connected();
    const atA = hear(near);
    hear(far);
    world.network.cut('a', 'b');
    world.killB();
    near.write([Buffer.from('held')]);
    await world.pass(5_000);
    expect(atA.closes).toEqual([]);
    world.network.healAll();
    await world.pass(100);
    expect(atA.closes).toEqual(['connection reset']);
  });

  test('a vanished machine answers nothing until its name lives again', async () => {
    const world = new World();
    const { near, far } = await world.connected();
    const atA = hear(near);
    hear(far);
    world.killB(true);
    near.write([Buffer.from('anybody?')]);
    await world.pass(5_000);
    expect(atA.closes).toEqual([]);
    world.restartB();
    await world.pass(100);
    expect(atA.closes).toEqual(['connection reset']);
  });

  test('a connect of a dead incarnation never settles; a new life of the other is reached', async () => {
    const world = new World();
    const dead = world.dial();
    world.lifeA.alive = false;
    await world.pass(5_000);
    expect(dead).toEqual({ connection: null, code: null });
    expect(() => world.network.host(B, { alive: true })).toThrow('two living incarnations');
  });

  test('drain and close callbacks of a dead end never run', async () => {
    const world = new World(1, { highWaterBytes: 10 });
    const { near, far } = await world.connected();
    const atA = hear(near);
    hear(far);
    expect(near.write([Buffer.alloc(100)])).toBe(false);
    near.destroy('now');
    world.lifeA.alive = false;
    world.network.reap();
    await new Promise<void>((resolve) => setImmediate(resolve));
    await world.pass(1_000);
    expect(atA.drains).toBe(0);
    expect(atA.closes).toEqual([]);
  });
});

test('reset: a prefix of what was on its way, then both ends are over', async () => {
  let partial = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const world = new World(seed);
    const { near, far } = await world.connected();
    const [atA, atB] = [hear(near), hear(far)];
    const bytes = Buffer.from(Array.from({ length: 200 }, (_, i) => i));
    near.write([bytes.subarray(0, 100)]);
    near.write([bytes.subarray(100)]);
    if (seed % 3 === 0) world.network.cut('a', 'b');
    world.network.reset('a', 'b');
    await world.pass(100);
    expect(atA.closes).toEqual(['connection reset']);
    expect(atB.closes).toEqual(['connection reset']);
    expect(atB.bytes).toEqual(bytes.subarray(0, atB.length));
    if (atB.length > 0 && atB.length < 200) partial += 1;
    expect(world.network.connectionCount).toBe(0);
  }
  expect(partial).toBeGreaterThan(5);
});

test('clog delays both ways in order; restore ends it', async () => {
  const world = new World();
  const { near, far } = await world.connected();
  const atB = hear(far);
  hear(near);
  world.network.clog('a', 'b', 500);
  near.write([Buffer.from('slow ')]);
  world.network.restore('a', 'b');
  near.write([Buffer.from('not overtaking')]);
  await world.pass(400);
  expect(atB.length).toBe(0);
  await world.pass(200);
  expect(atB.bytes.toString()).toBe('slow not overtaking');
});

test('a seed is one history, another seed another', async () => {
  const history = async (seed: number): Promise<string> => {
    const world = new World(seed, { fragmentChance: 0.5, maxLatencyMs: 50, resetChance: 0.02 });
    const { near, far } = await world.connected();
    const lines: string[] = [];
    for (const [who, connection] of [
      ['a', near],
      ['b', far],
    ] as const) {
      connection.start({
        onData: (chunk) => lines.push(`${world.scheduler.nowMs} ${who} ${chunk.length}`),
        onDrain: () => undefined,
        onClose: (reason) => lines.push(`${world.scheduler.nowMs} ${who} ${reason}`),
      });
    }
    for (let i = 0; i < 50; i++) {
      near.write([Buffer.alloc(100 + i)]);
      far.write([Buffer.alloc(10 + i)]);
      await world.pass(5);
    }
    return lines.join('\n');
  };
  expect(await history(5)).toBe(await history(5));
  expect(await history(5)).not.toBe(await history(6));
});

test('an event moves everything that is due: few events for many writes', async () => {
  const world = new World(1, { fragmentChance: 0 });
  const { near, far } = await world.connected();
  const atB = hear(far);
  hear(near);
  const before = world.scheduler.eventCount;
  for (let i = 0; i < 1_000; i++) near.write([Buffer.alloc(10)]);
  await world.pass(100);
  expect(atB.length).toBe(10_000);
  expect(world.scheduler.eventCount - before).toBeLessThan(200);
});
