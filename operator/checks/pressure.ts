/**
 * What members run out of (semantics.md R10): said before mail is refused for want of space, and while it is refused. Owns: the words, with what to do.
 * Promise: whoever is only nearly full is told from who refuses already; it goes by itself when there is room again. PURE.
 */
import { type Finding, refuse } from './finding.ts';
import type { Member, Situation } from './situation.ts';

/** Twice of what a transport keeps free (transport/runtime/pressure.ts); the alert StoreNearlyFull has the same mark. */
const NEARLY_FULL_BYTES = 512 * 1024 * 1024;

const REMEDY: Readonly<Record<string, string>> = {
  disk: 'raise transport.storage.size or lower safetyNet.quota',
  memory: 'raise transport.resources.limits.memory or add members',
  queue: 'see where its mail waits (kubectl mailcluster queue), or add members',
};

const remedies = (resources: string): string =>
  [...new Set(resources.split(', ').map((resource) => REMEDY[resource] ?? 'add members'))].join('; ');

function pressureOf({ name, report }: Member): readonly Finding[] {
  const condition = 'StorageHealthy';
  if (report === null) return [];
  const { backPressure, pressedBy, space } = report;
  if (backPressure !== 'Normal') {
    const why = pressedBy === '' ? 'resources' : pressedBy;
    const message = `${name} refuses mail for want of ${why} (${backPressure}) and goes on delivering; ${remedies(why)}`;
    return [refuse('BackPressure', message, { condition })];
  }
  if (space.freeBytes >= NEARLY_FULL_BYTES) return [];
  const message = `${name} has less than 512 MiB free, and refuses mail below 256 MiB; ${remedies('disk')}`;
  return [refuse('NearlyFull', message, { condition })];
}

export const pressure = ({ members }: Situation): readonly Finding[] => members.flatMap(pressureOf);
