/**
 * Parsers under a seeded generator: no crash, no input that takes more than 50 ms of the processor (of what people hand their own
 * command: two seconds). `test/unit/fuzz-corpus.txt` has what once was found,
 * one `parser base64` a line, and is tried first. More of it: FUZZ_SECONDS=120 FUZZ_SEED=7 vitest run test/unit/fuzz.test.ts
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { SeededRandom } from '../sim/scheduler.ts';
import { FUZZED_PARSERS, type FuzzedParser } from './fuzz-parsers.ts';

const SECONDS = Number(process.env.FUZZ_SECONDS ?? 1);
const SEED = Number(process.env.FUZZ_SEED ?? 1);
const MAX_CPU_MS = 50;
/** What a socket hands over at once. */
const MAX_BYTES = 65_536;

const CORPUS = readFileSync(join(import.meta.dirname, 'fuzz-corpus.txt'), 'utf8')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'))
  .map((line) => {
    const [name = '', base64 = ''] = line.split(' ');
    return { name, input: Buffer.from(base64, 'base64') };
  });

type Fraction = () => number;
const below = (fraction: Fraction, count: number): number => Math.floor(fraction() * count);

/** What parsers tend to trip over, whatever they parse. */
const TOKENS = [
  '\r\n',
  '\r',
  '\n',
  '\0',
  '.',
  '<',
  '>',
  '@',
  '"',
  '\\',
  ':',
  ' ',
  '[',
  ']',
  '{',
  '}',
  '%',
  '\xff',
  '\xe2\x80',
  '999999999999',
  '-1',
  'null',
  '"a":',
].map((token) => Buffer.from(token, 'latin1'));

function mutated(seeds: readonly Buffer[], fraction: Fraction): Buffer {
  const seed = (): Buffer => seeds[below(fraction, seeds.length)] ?? Buffer.alloc(0);
  let input = Buffer.from(seed());
  for (let times = 1 + below(fraction, 6); times > 0; times--) {
    const at = below(fraction, input.length + 1);
    const to = Math.min(input.length, at + below(fraction, 32));
    const part = input.subarray(at, to);
    const [before, after] = [input.subarray(0, at), input.subarray(to)];
    const token = TOKENS[below(fraction, TOKENS.length)] ?? Buffer.alloc(0);
    switch (below(fraction, 8)) {
      case 0:
        input = Buffer.concat([before, Buffer.from([below(fraction, 256)]), after]);
        break;
      case 1:
        input = Buffer.concat([before, token, input.subarray(at)]);
        break;
      case 2:
        input = Buffer.concat([before, after]);
        break;
      case 3:
        input = Buffer.concat([before, part, part, after]);
        break;
      case 4: {
        // The long run: whatever is quadratic shows itself here.
        const unit = part.length === 0 ? token : part;
        const count = below(fraction, Math.floor(MAX_BYTES / Math.max(1, unit.length)));
        if (fraction() < 0.05) input = Buffer.concat([before, Buffer.alloc(count * unit.length, unit), after]);
        break;
      }
      case 5: {
        const other = seed();
        input = Buffer.concat([before, other.subarray(below(fraction, other.length + 1))]);
        break;
      }
      case 6:
        if (at < input.length) input[at] = (input[at] ?? 0) ^ (1 << below(fraction, 8));
        break;
      default:
        input = Buffer.from(before);
    }
  }
  return input.subarray(0, MAX_BYTES);
}

function cpuMs(run: () => void): number {
  const before = process.threadCpuUsage();
  run();
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / 1_000;
}

/** Null: fine. A collection of garbage may fall into one measurement, not into three. */
function problemWith(parser: FuzzedParser, input: Buffer): string | null {
  const line = `${parser.name} ${input.toString('base64')}`;
  const { maxCpuMs = MAX_CPU_MS } = parser;
  try {
    let ms = cpuMs(() => parser.run(Buffer.from(input)));
    for (let again = 0; ms > maxCpuMs && again < 3; again++)
      ms = Math.min(
        ms,
        cpuMs(() => parser.run(Buffer.from(input))),
      );
    return ms > maxCpuMs ? `takes ${ms.toFixed(0)} ms: ${line}` : null;
  } catch (error) {
    return `${error instanceof Error ? (error.stack ?? error.message) : String(error)}: ${line}`;
  }
}

describe.each(FUZZED_PARSERS)('fuzzed: $name', (parser) => {
  it('what was found before is harmless now', () => {
    for (const { name, input } of CORPUS) if (name === parser.name) expect(problemWith(parser, input)).toBe(null);
    for (const input of parser.seeds) expect(problemWith(parser, input)).toBe(null);
  });

  it(
    'no crash, no hang',
    () => {
      const random = new SeededRandom(SEED);
      const fraction = (): number => random.next();
      const end = performance.now() + SECONDS * 1_000;
      let tried = 0;
      for (; performance.now() < end || tried < 200; tried++) {
        const problem = problemWith(parser, mutated(parser.seeds, fraction));
        if (problem !== null)
          throw new Error(
            `${problem.slice(0, 2_000)}\nput this line, whole, into test/unit/fuzz-corpus.txt (FUZZ_SEED=${SEED}, input ${tried})`,
          );
      }
      if (SECONDS > 1) console.log(`${parser.name}: ${tried} inputs`);
      expect(tried).toBeGreaterThanOrEqual(200);
    },
    SECONDS * 1_000 + 60_000,
  );
});

describe('the fuzzer', () => {
  const names = FUZZED_PARSERS.map(({ name }) => name);
  it('knows every parser of its corpus', () => {
    expect(CORPUS.map(({ name }) => name).filter((name) => !names.includes(name))).toEqual([]);
    expect(CORPUS.length).toBeGreaterThan(0);
  });

  it('would find a crash and a hang', () => {
    const parserOf = (run: () => void): FuzzedParser => ({ name: 'x', seeds: [], run });
    const crash = parserOf(() => void JSON.parse('{'));
    expect(problemWith(crash, Buffer.alloc(1))).toMatch(/SyntaxError.*: x AA==/s);
    const slow = parserOf(() => {
      const before = process.threadCpuUsage();
      while (process.threadCpuUsage(before).user < 1_500 * MAX_CPU_MS);
    });
    expect(problemWith(slow, Buffer.alloc(1))).toMatch(/takes \d+ ms: x AA==/);
  });
});
