/** CPU time of processes and their children from /proc, for "CPU per message by process". Linux only, like the bench itself. */
import { readdirSync, readFileSync } from 'node:fs';

const TICKS_PER_SECOND = 100; // USER_HZ, what /proc/PID/stat counts in on every Linux
const MS_PER_TICK = 1000 / TICKS_PER_SECOND;

interface Stat {
  readonly pid: number;
  readonly parent: number;
  readonly name: string;
  readonly ownMs: number;
  /** Of children that ended and were waited for. */
  readonly endedMs: number;
}

function stat(pid: number): Stat | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const close = text.lastIndexOf(')');
    const fields = text
      .slice(close + 2)
      .split(' ')
      .map(Number);
    const field = (n: number): number => fields[n - 3] ?? 0;
    return {
      pid,
      parent: field(4),
      name: text.slice(text.indexOf('(') + 1, close),
      ownMs: (field(14) + field(15)) * MS_PER_TICK,
      endedMs: (field(16) + field(17)) * MS_PER_TICK,
    };
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return null;
    throw error;
  }
}

/** CPU ms of children of `pid` that ended and were waited for: what the load generator has cost. */
export const endedChildrenMs = (pid: number): number => stat(pid)?.endedMs ?? 0;

export function peakResidentMiB(pid: number): number {
  const found = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(found?.[1] ?? 0) / 1024;
}

/** CPU ms so far by label, over `root` and everything below it. What already ended counts as `name (ended)` of its parent. */
export function cpuByProcess(root: number, label: (pid: number, name: string) => string): ReadonlyMap<string, number> {
  const all = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => stat(Number(name)) ?? []);
  const inTree = new Set([root]);
  for (let before = 0; before !== inTree.size; ) {
    before = inTree.size;
    for (const one of all) if (inTree.has(one.parent)) inTree.add(one.pid);
  }
  const sums = new Map<string, number>();
  const add = (name: string, ms: number): void => void sums.set(name, (sums.get(name) ?? 0) + ms);
  for (const one of all.filter(({ pid }) => inTree.has(pid))) {
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
