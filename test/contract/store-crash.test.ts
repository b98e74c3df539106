/** Power cuts and kills at any moment: what was confirmed is there, the rest is all or nothing, in order (protocol.md section 8). */
import { expect, test } from 'vitest';
import type { QueueDatabase } from '../../transport/store/database.ts';
import { SeededRandom } from '../sim/scheduler.ts';
import { SimBench } from './bench.ts';
import { bodyOf, collect, commitOf, copyId, moveOf, stateOf } from './samples.ts';
import { pictureOf, StoreModel, Workload } from './store-model.ts';

// STORE_SEED=N runs one history, STORE_SEEDS=N that many.
const ONE = Number(process.env.STORE_SEED ?? 0);
const SEEDS = Number(process.env.STORE_SEEDS ?? 300);

interface History {
  /** Pictures after each call, in order; index 0 is the beginning. */
  readonly pictures: string[];
  confirmed: number;
}

async function crashOnce(
  bench: SimBench,
  random: SeededRandom,
  store: QueueDatabase,
  work: Workload,
): Promise<History> {
  const history: History = { pictures: [work.model.picture()], confirmed: 0 };
  const calls = random.integer(1, 40);
  for (let n = 1; n <= calls; n++) {
    const writes = work.call(store);
    history.pictures.push(work.model.picture());
    if (random.chance(0.15)) store.note(writes);
    else
      void store.commit(writes).then(() => {
        history.confirmed = Math.max(history.confirmed, n);
      });
    if (random.chance(0.5)) await bench.pass(random.next() * 0.8);
  }
  if (random.chance(0.3)) await bench.pass(random.next() * 3000);
  else await bench.pass(random.next() * 2);
  return history;
}

async function openThroughCrashes(bench: SimBench, random: SeededRandom): Promise<QueueDatabase> {
  while (random.chance(0.4)) {
    void bench.opening().catch(() => undefined);
    await bench.pass(random.next() * 4);
    random.chance(0.7) ? bench.powerCut() : bench.kill();
  }
  return bench.open();
}

/** The model again, replayed through its picture: the workload goes on from what survived. */
function modelFrom(picture: string): StoreModel {
  const [live, resting, tombstones, facts] = JSON.parse(picture);
  const model = new StoreModel();
  for (const [id, sizeBytes, state] of live) model.live.set(id, { sizeBytes, state });
  for (const [id, sizeBytes, state] of resting) model.resting.set(id, { sizeBytes, state });
  for (const [id, through] of tombstones) model.tombstones.set(id, through);
  for (const [key, value] of facts) model.facts.set(key, value);
  return model;
}

async function seedRun(seed: number): Promise<number> {
  const random = new SeededRandom(seed * 7919);
  const bench = new SimBench(seed);
  let store = await bench.open();
  let work = new Workload(random, new StoreModel(), 100, random.chance(0.3) ? 150_000 : 20_000);
  let cuts = 0;
  for (let round = 0; round < 4; round++) {
    const history = await crashOnce(bench, random, store, work);
    const kind = random.integer(0, 5);
    if (kind === 0) {
      await bench.run(store.close());
      history.confirmed = history.pictures.length - 1;
    } else if (kind === 1) {
      bench.kill();
    } else {
      bench.powerCut();
      cuts += 1;
    }
    store = await openThroughCrashes(bench, random);
    const found = await bench.run(pictureOf(store));
    const legal = history.pictures.slice(history.confirmed);
    if (!legal.includes(found))
      throw new Error(
        `seed ${seed} round ${round}: recovered to call ${history.pictures.indexOf(found)}, ${history.confirmed} were confirmed\n${found}\n${legal[0]}`,
      );
    expect(store.recovered.quarantined, `seed ${seed} round ${round}`).toEqual([]);
    work = new Workload(random, modelFrom(found), work.nextId, 20_000);
  }
  expect(bench.fatal, `seed ${seed}`).toEqual([]);
  return cuts;
}

test(`every crash of ${SEEDS} random histories recovers to a legal prefix`, { timeout: 600_000 }, async () => {
  let cuts = 0;
  if (ONE > 0) {
    await seedRun(ONE);
    return;
  }
  for (let seed = 1; seed <= SEEDS; seed++)
    try {
      cuts += await seedRun(seed);
    } catch (error) {
      throw new Error(`seed ${seed} (STORE_SEED=${seed} repeats it)`, { cause: error });
    }
  expect(cuts).toBeGreaterThan(SEEDS);
});

test('a crash while Safety Net expires: what is young stays, what is in transit is copied out whole', {
  timeout: 60_000,
}, async () => {
  let expired = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const random = new SeededRandom(seed * 104_729);
    const bench = new SimBench(seed);
    let store = await bench.open();
    const live = new Set<number>();
    for (let n = 0; n < 50; n++) {
      await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 4000), stateOf('delivery'))]));
      if (n % 7 === 0) live.add(n);
      else await bench.run(store.commit([moveOf(copyId(n), 'shadow', 'mbx1', n)]));
    }
    const before = random.integer(10, 60);
    void store.expireSafetyNet(before);
    await bench.pass(random.next() * 12);
    // Segments that were given back are written again at once.
    for (let n = 100; n < 130; n++) {
      live.add(n);
      void store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 4000), stateOf('delivery'))]);
    }
    await bench.pass(random.next() * 4);
    bench.powerCut();
    store = await openThroughCrashes(bench, random);
    await bench.run(pictureOf(store));
    const found = new Set(store.recovered.copies.map((copy) => copy.facts.id));
    for (const n of live) if (n < 100) expect(found.has(copyId(n)), `seed ${seed} copy ${n}`).toBe(true);
    const listed = new Set((await bench.run(collect(store.safetyNet({})))).map((entry) => entry.id));
    for (let n = before; n < 50; n++)
      if (n % 7 !== 0) expect(listed.has(copyId(n)), `seed ${seed} entry ${n}`).toBe(true);
    if (listed.size < 42) expired += 1;
    expect(store.recovered.quarantined, `seed ${seed}`).toEqual([]);
  }
  expect(expired).toBeGreaterThan(20);
});

test('a crash while the Safety Nets are shed: all of it or nothing, and what is missing is said', {
  timeout: 60_000,
}, async () => {
  const outcomes = new Set<string>();
  for (let seed = 1; seed <= 60; seed++) {
    const random = new SeededRandom(seed * 15_485_863);
    const bench = new SimBench(seed);
    let store = await bench.open();
    const base = store.safetyNetCounts().completeSinceMs + 1000;
    for (let n = 0; n < 50; n++) {
      await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 4000), stateOf('delivery'))]));
      if (n % 7 !== 0) await bench.run(store.commit([moveOf(copyId(n), 'shadow', 'mbx1', base + n)]));
    }
    const quota = random.integer(0, 160_000);
    let answered = -1;
    void store.shedSafetyNet(quota).then((shed) => {
      answered = shed.completeSinceMs;
    });
    await bench.pass(random.next() * 12);
    bench.powerCut();
    store = await openThroughCrashes(bench, random);
    await bench.run(pictureOf(store));
    const { completeSinceMs } = store.safetyNetCounts();
    if (answered !== -1) expect(completeSinceMs, `seed ${seed}`).toBe(answered);
    const listed = new Set((await bench.run(collect(store.safetyNet({})))).map((entry) => entry.id));
    for (let n = 0; n < 50; n++)
      if (n % 7 !== 0) expect(listed.has(copyId(n)), `seed ${seed} entry ${n}`).toBe(base + n >= completeSinceMs);
    expect(store.recovered.copies.length, `seed ${seed}`).toBe(8);
    outcomes.add(listed.size === 42 ? 'nothing shed' : answered === -1 ? 'shed, not answered' : 'shed');
    expect(store.recovered.quarantined, `seed ${seed}`).toEqual([]);
  }
  expect(outcomes.size).toBe(3);
});
