/**
 * Whole queue databases whose files were changed: bits, sectors, ends, files exchanged, taken from an older or another database. Opening never fails but by a reason with its
 * remedy, takes no longer than reading does, gives no body that is not the one that was put in, and what cannot be given any more is said. `store-fuzz-corpus.txt` has
 * what once was trouble, one damage a line, tried first. More of it: FUZZ_SECONDS=120 FUZZ_SEED=7 vitest run test/contract/store-fuzz.test.ts
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import { SeededRandom } from '../sim/scheduler.ts';
import { SimBench } from './bench.ts';
import { commitOf, copyId } from './samples.ts';
import { type Bases, damaged, makeBases, type Outcome, readable, tried, volumeOf } from './store-fuzz-rig.ts';

const SECONDS = Number(process.env.FUZZ_SECONDS ?? 2);
const SEED = Number(process.env.FUZZ_SEED ?? 1);
const TIMEOUT_MS = SECONDS * 1_000 + 120_000;
/** Beyond what opening the whole one takes. */
const MAX_EXTRA_CPU_MS = 50;

const CORPUS = readFileSync(join(import.meta.dirname, 'store-fuzz-corpus.txt'), 'utf8')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'));

let bases: Bases;
let whole: ReadonlySet<CopyId>;
let wholeMs = 0;

beforeAll(async () => {
  bases = await makeBases();
  whole = await readable(bases.one);
  const times: number[] = [];
  for (let n = 0; n < 5; n++) times.push((await tried(bases, whole, 'grow identity 0 0')).openMs);
  wholeMs = Math.max(...times);
}, TIMEOUT_MS);

/** A collection of garbage may fall into one measurement, not into three. */
async function problemWith(line: string): Promise<string | null> {
  let outcome: Outcome = await tried(bases, whole, line);
  for (let more = 0; more < 3 && outcome.problem === null && isSlow(outcome); more++)
    outcome = await tried(bases, whole, line);
  if (outcome.problem === null && isSlow(outcome)) return `takes ${outcome.openMs.toFixed(0)} ms: ${line}`;
  return outcome.problem === null ? null : `${outcome.problem}: ${line}`;
}

const isSlow = ({ openMs }: Outcome): boolean => openMs > 2 * wholeMs + MAX_EXTRA_CPU_MS;

class Damager {
  readonly #random: SeededRandom;
  readonly #names: readonly string[];

  constructor(random: SeededRandom) {
    this.#random = random;
    this.#names = [...new Set([...bases.one.keys(), ...bases.later.keys(), ...bases.stranger.keys()])].sort();
  }

  line(): string {
    const count = this.#random.chance(0.6) ? 1 : this.#random.integer(2, 5);
    return Array.from({ length: count }, () => this.#one()).join('; ');
  }

  #one(): string {
    const random = this.#random;
    const [name, other] = [random.pick(this.#names), random.pick(this.#names)];
    const at = this.#somewhere(name);
    switch (random.integer(0, 11)) {
      case 0:
      case 1:
      case 2:
        return `flip ${name} ${at} ${random.integer(0, 7)}`;
      case 3:
        return `fill ${name} ${at} ${random.pick([1, 16, 64, 512, 4_096, 30_000])} ${random.pick([0, 255, 34])}`;
      case 4:
        return `cut ${name} ${at}`;
      case 5:
        return `grow ${name} ${random.integer(0, 199_999)} ${random.pick([0, 7])}`;
      case 6:
        return `blocks ${name} ${at - (at % 512)} ${512 * random.integer(0, 200)} ${random.pick([512, 4_096, 16_384])}`;
      case 7:
        return `drop ${name}`;
      case 8:
        return `${random.pick(['swap', 'copy'])} ${name} ${other}`;
      case 9:
        return `later ${name}`;
      case 10:
        return `stranger ${name}`;
      default:
        return `splice ${name} ${random.integer(0, 1)} ${at} ${at} ${random.pick([64, 4_096, 65_536])}`;
    }
  }

  /** Where something stands, mostly. */
  #somewhere(name: string): number {
    const bytes = bases.one.get(name);
    if (bytes === undefined || bytes.length === 0) return 0;
    for (let look = 0; look < 50; look++) {
      const at = this.#random.integer(0, bytes.length - 1);
      if (bytes[at] !== 0) return at;
    }
    return this.#random.integer(0, bytes.length - 1);
  }
}

test('the databases are worth damaging: several segments, two checkpoints, most messages in them', () => {
  for (const volume of Object.values(bases)) {
    const names = [...volume.keys()];
    expect(names.filter((name) => name.startsWith('segment-')).length).toBeGreaterThan(4);
    expect(names).toEqual(expect.arrayContaining(['identity', 'checkpoint-0', 'checkpoint-1']));
  }
  expect(whole.size).toBeGreaterThan(25);
  expect(damaged(bases, 'flip identity 9 1').get('identity')).not.toEqual(bases.one.get('identity'));
});

test('what was found before is harmless now', { timeout: TIMEOUT_MS }, async () => {
  expect(CORPUS.length).toBeGreaterThan(0);
  for (const line of CORPUS) expect(await problemWith(line)).toBe(null);
});

test('whatever is done to the files: no crash, no hang, no wrong body, nothing missing in silence', {
  timeout: TIMEOUT_MS,
}, async () => {
  const damager = new Damager(new SeededRandom(SEED));
  const end = performance.now() + SECONDS * 1_000;
  const seen = { tried: 0, refused: 0 };
  while (performance.now() < end || seen.tried < 40) {
    const line = damager.line();
    const problem = await problemWith(line);
    if (problem !== null)
      throw new Error(
        `${problem}\nput this line into test/contract/store-fuzz-corpus.txt (FUZZ_SEED=${SEED}, input ${seen.tried})`,
      );
    seen.tried += 1;
  }
  if (SECONDS > 2) console.log(`queue databases: ${seen.tried} damaged ones`);
});

test('the fuzzer would find a body that is another one, and silence about a missing one', async () => {
  const unharmed = 'grow identity 0 0';
  expect(await tried(bases, new Set([...whole, copyId(60)]), unharmed)).toMatchObject({
    problem: `${copyId(60)} gone, and nobody says so`,
  });
  const bench = new SimBench(13);
  const store = await bench.open();
  await bench.run(store.commit([commitOf(store, copyId(3), Buffer.from('not its body'))]));
  await bench.run(store.close());
  const exchanged = await tried({ ...bases, one: volumeOf(bench) }, new Set(), unharmed);
  expect(exchanged.problem).toBe(`the body of ${copyId(3)} is another one`);
});
