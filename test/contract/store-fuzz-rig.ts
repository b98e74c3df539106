/**
 * Whole queue databases for a fuzzer: what is done to their files, as text, and what must hold afterwards. Owns: three databases that were killed in the middle of their
 * work (one; the same one later; a stranger), the damage, the verdict. Promise: the same line makes the same bytes.
 */
import { createHash } from 'node:crypto';
import type { CopyId, Identity } from '../../common/message.ts';
import { silentLogger } from '../../common/platform/log.ts';
import type {
  QueueDatabase,
  SafetyNetPage,
  SafetyNetPosition,
  ScrubPosition,
  ScrubStep,
} from '../../transport/store/database.ts';
import { StoreError } from '../../transport/store/live-index.ts';
import { ReadOnlyDatabase } from '../../transport/store/read-only.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { SEGMENT_BYTES, SimBench } from './bench.ts';
import { bodyOf, commitOf, copyId, moveOf, OWNER, pending, readAll, stateOf, tombstoneOf } from './samples.ts';

export type Volume = ReadonlyMap<string, Buffer>;

export interface Bases {
  readonly one: Volume;
  /** The same database after more of its life. */
  readonly later: Volume;
  /** Another one of the same member, with the same messages in part. */
  readonly stranger: Volume;
}

const DIRECTORY = '/q/';
/** Instants, so that a case takes no longer than its reading does. */
const DISK = { writeMs: [0, 0], syncMs: [0, 0] } as const;
/** Ids below this are ever used in a base. */
const IDS = 64;

const sizeOf = (n: number): number => 300 + ((n * 7_919) % 9_000) + (n % 9 === 0 ? 70_000 : 0);
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const RIGHT: ReadonlyMap<CopyId, string> = new Map(
  Array.from({ length: IDS + 1 }, (_, n) => [copyId(n), sha256(bodyOf(copyId(n), sizeOf(n)))] as const),
);

/** Its files as they are. */
export function volumeOf(bench: SimBench): Volume {
  const files = bench.disk.entries().filter(({ path }) => path.startsWith(DIRECTORY) && !path.endsWith('/lock'));
  return new Map(files.map(({ path }) => [path.slice(DIRECTORY.length), bench.disk.bytesOf(path)]));
}

/** Copies in transit and at rest in both nets, tombstones, what was seen of a peer; `stride` of them end, some are recalled or removed. */
async function live(bench: SimBench, store: QueueDatabase, from: number, to: number): Promise<void> {
  for (let n = from; n < to; n++) {
    const id = copyId(n);
    const state = stateOf('delivery', { recipients: [pending('user0@example.org')] });
    await bench.run(store.commit([commitOf(store, id, bodyOf(id, sizeOf(n)), state)]));
    if (n % 3 !== 0) await bench.run(store.commit([moveOf(id, n % 2 === 0 ? 'primary' : 'shadow', 'mbx1', n)]));
    if (n % 3 !== 0 && n % 7 === 1)
      await bench.run(
        store.commit([{ kind: 'recall', id, state: stateOf('submission') }, moveOf(id, 'shadow', 'mbx1', n)]),
      );
    if (n % 11 === 5)
      await bench.run(
        store.commit([
          { kind: 'remove', id },
          { kind: 'tombstone', tombstone: tombstoneOf(id) },
        ]),
      );
  }
  const seen = { member: 'hub-1', identity: OWNER as Identity, openCounter: 1, nonce: 'n', syncedSequence: from };
  await bench.run(
    store.commit([
      { kind: 'seen', seen },
      { kind: 'fact', key: 'at', value: to },
    ]),
  );
  // Another group says that what came before it is synced.
  await bench.pass(2_500);
}

export async function makeBases(): Promise<Bases> {
  const grown = async (seed: number, steps: readonly number[]): Promise<Volume[]> => {
    const bench = new SimBench(seed, DISK);
    const volumes: Volume[] = [];
    for (const [index, from] of steps.slice(0, -1).entries()) {
      const store = await bench.open();
      await live(bench, store, from, steps[index + 1] ?? from);
      // The first lives end in order, so that there are checkpoints and footers; the last one is killed.
      if (index < steps.length - 2) await bench.run(store.close());
      volumes.push(volumeOf(bench));
      bench.kill();
    }
    return volumes;
  };
  const [, , one, later] = await grown(11, [0, 12, 24, 34, 44]);
  const stranger = (await grown(12, [20, 40, 56])).at(-1);
  if (one === undefined || later === undefined || stranger === undefined) throw new Error('no bases');
  return { one, later, stranger };
}

/** One line: operations separated by `; `. Numbers are taken modulo what there is, so that any line can be carried out. */
export function damaged(bases: Bases, line: string): Volume {
  const volume = new Map([...bases.one].map(([name, bytes]) => [name, Buffer.from(bytes)]));
  for (const words of line.split('; ').map((text) => text.split(' '))) damageOnce(bases, volume, words);
  return volume;
}

function damageOnce(
  bases: Bases,
  volume: Map<string, Buffer>,
  [what = '', name = '', ...more]: readonly string[],
): void {
  const bytes = volume.get(name) ?? Buffer.alloc(0);
  const [a = 0, b = 0, c = 0] = more.map(Number);
  const at = bytes.length === 0 ? 0 : a % bytes.length;
  switch (what) {
    case 'flip':
      if (bytes.length > 0) bytes[at] = (bytes[at] ?? 0) ^ (1 << (b % 8));
      return;
    case 'fill':
      return void bytes.fill(c % 256, at, Math.min(bytes.length, at + b));
    case 'cut':
      return void volume.set(name, bytes.subarray(0, at));
    case 'grow':
      return void volume.set(name, Buffer.concat([bytes, Buffer.alloc(a % 200_000, b % 256)]));
    case 'blocks':
      // Sectors that the disk wrote at another place.
      return void bytes.copy(bytes, at, bytes.length === 0 ? 0 : b % bytes.length, (b % bytes.length) + c);
    case 'drop':
      return void volume.delete(name);
    case 'swap':
    case 'copy': {
      const [other = ''] = more;
      const there = volume.get(other);
      if (what === 'copy' || there === undefined) volume.set(other, Buffer.from(bytes));
      else volume.set(name, there).set(other, bytes);
      return;
    }
    case 'later':
    case 'stranger': {
      const theirs = bases[what].get(name);
      if (theirs !== undefined) volume.set(name, Buffer.from(theirs));
      return;
    }
    case 'splice': {
      const theirs = bases[a % 2 === 0 ? 'later' : 'stranger'].get(name);
      theirs?.copy(bytes, bytes.length === 0 ? 0 : b % bytes.length, b % theirs.length, (b % theirs.length) + c);
      return;
    }
    default:
      throw new Error(`no such damage: ${what}`);
  }
}

/** Files came from elsewhere or are gone: what the log does not know of it cannot miss. */
const changesFiles = (line: string): boolean => /\b(?:drop|swap|copy|later|stranger|cut|blocks|splice)\b/.test(line);

export interface Outcome {
  /** Null: as it must be. */
  readonly problem: string | null;
  readonly openMs: number;
  readonly refused: boolean;
}

interface Opened {
  readonly bench: SimBench;
  readonly store: QueueDatabase;
  readonly warnings: string[];
}

async function benchOf(volume: Volume): Promise<SimBench> {
  const bench = new SimBench(1, DISK);
  const files = bench.files();
  await bench.run(files.makeDirectory('/q'));
  for (const [name, bytes] of volume) {
    const handle = await bench.run(files.open(`${DIRECTORY}${name}`, 'create'));
    await bench.run(handle.writev([bytes], 0));
    await bench.run(handle.datasync());
  }
  await bench.run(files.syncDirectory('/q'));
  return bench;
}

async function open(bench: SimBench): Promise<Opened> {
  const warnings: string[] = [];
  const log = { ...silentLogger, warn: (_: unknown, message: string) => void warnings.push(message) };
  const store = await bench.run(
    openSegmentLog({
      ...{
        directory: '/q',
        files: bench.files(),
        clock: bench.scheduler.clock(),
        random: bench.scheduler.random.fork(),
        log,
      },
      ...{ segmentBytes: SEGMENT_BYTES, reserveBytes: 2 * SEGMENT_BYTES, member: 'hub-0' },
      onFatal: (reason) => bench.fatal.push(reason),
    }),
  );
  return { bench, store, warnings };
}

const CODES: readonly string[] = ['DAMAGED', 'FOREIGN', 'VERSION'];

/** What an error of the store says, or what is wrong about it. */
function complaint(error: unknown, allowed: readonly string[]): string | null {
  if (!(error instanceof StoreError)) return error instanceof Error ? (error.stack ?? error.message) : String(error);
  return allowed.includes(error.code) && error.message.length > 20 ? null : `code ${error.code}: ${error.message}`;
}

/** Null when it is right, or honestly said to be damaged or absent; then `there` is false. */
async function bodyIs(
  { bench, store }: Opened,
  id: CopyId,
): Promise<{ readonly there: boolean; readonly problem: string | null }> {
  try {
    const digest = sha256(await bench.run(readAll(store, id)));
    return { there: true, problem: digest === RIGHT.get(id) ? null : `the body of ${id} is another one` };
  } catch (error) {
    const problem = complaint(error, ['DAMAGED', 'NOTFOUND']);
    return { there: false, problem: problem === null ? null : `reading ${id}: ${problem}` };
  }
}

/** Everything a transport does with a database after it has opened it; then it is written to, closed, and opened again. */
async function used(opened: Opened): Promise<string | null> {
  const { bench, store } = opened;
  const ids: CopyId[] = [];
  try {
    let at: SafetyNetPosition | null = null;
    do {
      const page: SafetyNetPage = await bench.run(store.safetyNetPage(at === null ? {} : { after: at }, 7));
      ids.push(...page.entries.map(({ id }) => id));
      at = page.next;
    } while (at !== null && ids.length < 1_000);
    for (const id of RIGHT.keys()) await bench.run(store.lookup(id)).catch((error: unknown) => honest(error));
    let from: ScrubPosition | null = null;
    do {
      const step: ScrubStep = await bench.run(store.scrub(from, 65_536));
      from = step.next;
    } while (from !== null);
    const id = copyId(IDS);
    await bench.run(store.commit([commitOf(store, id, bodyOf(id, sizeOf(IDS)))]));
    await bench.run(store.close());
  } catch (error) {
    return `while it was used: ${complaint(error, [])}`;
  }
  return null;
}

function honest(error: unknown): null {
  const problem = complaint(error, ['DAMAGED']);
  if (problem !== null) throw error;
  return null;
}

/** Without a lock, as `mailcluster store verify` does: what is wrong is listed or refused. */
async function verified(bench: SimBench): Promise<{ readonly listed: number; readonly problem: string | null }> {
  try {
    const database = await bench.run(ReadOnlyDatabase.open(bench.files(), '/q'));
    const reports = await bench.run(database.verify());
    await bench.run(database.close());
    return { listed: reports.length, problem: null };
  } catch (error) {
    const problem = complaint(error, [...CODES, 'NOTFOUND']);
    return { listed: 1, problem: problem === null ? null : `store verify: ${problem}` };
  }
}

const cpuMs = ({ user, system }: NodeJS.CpuUsage): number => (user + system) / 1_000;

/** Ids whose bodies a healthy database gives. */
export async function readable(volume: Volume): Promise<ReadonlySet<CopyId>> {
  const opened = await open(await benchOf(volume));
  const found = new Set<CopyId>();
  for (const id of RIGHT.keys()) if ((await bodyIs(opened, id)).there) found.add(id);
  return found;
}

export async function tried(bases: Bases, whole: ReadonlySet<CopyId>, line: string): Promise<Outcome> {
  const bench = await benchOf(damaged(bases, line));
  const verify = await verified(bench);
  const before = process.threadCpuUsage();
  const opened = await open(bench).catch((error: unknown) => complaint(error, CODES));
  const openMs = cpuMs(process.threadCpuUsage(before));
  const outcome = (problem: string | null): Outcome => ({ problem, openMs, refused: false });
  if (verify.problem !== null) return outcome(verify.problem);
  if (opened === null) return { problem: null, openMs, refused: true };
  if (typeof opened === 'string') return outcome(`opening: ${opened}`);
  const missing: CopyId[] = [];
  for (const id of RIGHT.keys()) {
    const { there, problem } = await bodyIs(opened, id);
    if (problem !== null) return outcome(problem);
    if (!there && whole.has(id)) missing.push(id);
  }
  const { quarantined } = opened.store.recovered;
  const named = new Set(quarantined.map(({ id }) => id));
  const silent = missing.filter((id) => !named.has(id) && !named.has(null));
  if (silent.length > 0 && opened.warnings.length === 0 && !changesFiles(line))
    return outcome(`${silent.join(', ')} gone, and nobody says so`);
  if (missing.length > 0 && verify.listed === 0 && opened.warnings.length === 0 && !changesFiles(line))
    return outcome(`store verify finds nothing; ${missing.join(', ')} cannot be read`);
  const problem = await used(opened);
  if (problem !== null) return outcome(problem);
  if (bench.fatal.length > 0) return outcome(`fatal: ${bench.fatal[0]?.stack}`);
  return outcome(await again(bench));
}

/** What was written after the damage is there with the next start. */
async function again(bench: SimBench): Promise<string | null> {
  const opened = await open(bench).catch((error: unknown) => `opening again: ${complaint(error, []) ?? 'refused'}`);
  if (typeof opened === 'string') return opened;
  const { there, problem } = await bodyIs(opened, copyId(IDS));
  return there && problem === null ? null : `what was written afterwards is not there: ${problem ?? 'not found'}`;
}
