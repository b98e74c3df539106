/** Processes and their children from /proc: CPU time, for "CPU per message by process", and who is below whom. Linux only, like the bench itself. */
import { readdirSync, readFileSync } from 'node:fs';

const TICKS_PER_SECOND = 100; // USER_HZ, what /proc/PID/stat counts in on every Linux
const MS_PER_TICK = 1000 / TICKS_PER_SECOND;

interface Stat {
  readonly pid: number;
  readonly parent: number;
  readonly name: string;
  /** It has ended, and its parent has not asked how. */
  readonly isZombie: boolean;
  readonly ownMs: number;
  /** Of children that ended and were waited for. */
  readonly endedMs: number;
}

function stat(pid: number): Stat | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const close = text.lastIndexOf(')');
    const fields = text.slice(close + 2).split(' ');
    const field = (n: number): number => Number(fields[n - 3] ?? 0);
    return {
      pid,
      parent: field(4),
      name: text.slice(text.indexOf('(') + 1, close),
      isZombie: fields[0] === 'Z',
      ownMs: (field(14) + field(15)) * MS_PER_TICK,
      endedMs: (field(16) + field(17)) * MS_PER_TICK,
    };
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return null;
    throw error;
  }
}

export const isRunning = (pid: number): boolean => stat(pid)?.isZombie === false;

/** CPU ms of children of `pid` that ended and were waited for: what the load generator has cost. */
export const endedChildrenMs = (pid: number): number => stat(pid)?.endedMs ?? 0;

export function peakResidentMiB(pid: number): number {
  const found = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(found?.[1] ?? 0) / 1024;
}

/** `root` and everything below it, parents before their children. */
function tree(root: number): readonly Stat[] {
  const all = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => stat(Number(name)) ?? []);
  const found = all.filter(({ pid }) => pid === root);
  for (const { pid } of found) found.push(...all.filter(({ parent }) => parent === pid));
  return found;
}

/** Everything below `root` that runs, parents before their children. */
export const below = (root: number): readonly number[] =>
  tree(root).flatMap(({ pid, isZombie }) => (pid === root || isZombie ? [] : [pid]));

/** CPU ms so far by label, over `root` and everything below it. What already ended counts as `name (ended)` of its parent. */
export function cpuByProcess(root: number, label: (pid: number, name: string) => string): ReadonlyMap<string, number> {
  const sums = new Map<string, number>();
  const add = (name: string, ms: number): void => void sums.set(name, (sums.get(name) ?? 0) + ms);
  for (const one of tree(root)) {
    add(label(one.pid, one.name), one.ownMs);
    add(`${label(one.pid, one.name)} (ended)`, one.endedMs);
  }
  return sums;
}

/** What was spent between two readings; what did not move is left out. */
export function cpuSpent(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
): ReadonlyMap<string, number> {
  const spent = [...after].map(([name, ms]) => [name, ms - (before.get(name) ?? 0)] as const);
  return new Map(spent.filter(([, ms]) => ms > 0));
}
