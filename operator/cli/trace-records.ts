/**
 * All that the tracking of all members has of a message and of what was made of it. Owns: the rounds of questions - each name that is learnt is asked for - and the words for what cannot be had.
 * Promise: every member is asked for every name, one of a former version too; who did not answer, has given records up or had too many is named, so that a part never passes for the whole.
 */
import { gather } from '../local/cluster.ts';
import type { TraceAnswer, TraceReply } from './answers.ts';
import { query } from './command.ts';
import type { Unreachable } from './message-filter.ts';
import { time } from './output.ts';
import type { Members } from './place.ts';
import type { TraceNode } from './trace-tree.ts';

/** A mailing of one Message-ID to everybody is not followed to its last copy. */
const MOST_IDS = 200;

interface Told {
  readonly member: string;
  readonly value: TraceReply;
}

export interface Records {
  readonly traces: readonly (readonly TraceAnswer[])[];
  /** All names that were asked for. */
  readonly names: readonly string[];
  /** There are more names than were asked for. */
  readonly more: boolean;
  readonly told: readonly Told[];
  /** Each member that did not answer one of the questions. */
  readonly unreachable: Unreachable;
}

const pathFor = (names: readonly string[]): string =>
  `/v1/trace?${names.map((one) => query({ id: one }).slice(1)).join('&')}`;

export async function recordsOf(cluster: Members, name: string): Promise<Records> {
  const silent = new Map<string, Unreachable[number]>();
  const told: Told[] = [];
  const asked = new Set([name]);
  let more = false;
  for (let next: readonly string[] = [name]; next.length > 0; ) {
    const answered = await ask(cluster, next, silent);
    told.push(...answered);
    // Who knows a part of the family by another name - a shadow reads no headers, a report has a name of its own - is asked again.
    const named = answered.flatMap(({ value }) =>
      value.records.flatMap(({ attemptId, root, parent }) => [attemptId, root, parent]),
    );
    const fresh = new Set(named.filter((one) => one !== undefined).filter((one) => !asked.has(one)));
    next = [...fresh].slice(0, MOST_IDS - asked.size);
    more ||= next.length < fresh.size;
    for (const one of next) asked.add(one);
  }
  const traces = told.map(({ value }) => value.records);
  return { traces, names: [...asked], more, told, unreachable: [...silent.values()] };
}

async function ask(
  cluster: Members,
  names: readonly string[],
  silent: Map<string, Unreachable[number]>,
): Promise<readonly Told[]> {
  const { answers, unreachable } = gather(await cluster.askAll<TraceReply>(pathFor(names)));
  for (const one of unreachable) silent.set(one.member, one);
  const rest = answers.map(async ({ member, value }) => {
    const found: Told[] = [];
    // A member of a former version looks for one at a time. Its tracking is read for each: one after the other.
    for (const name of names.slice(value.asked ?? 1)) {
      const again = gather([await cluster.ask<TraceReply>({ name: member }, pathFor([name]))]);
      found.push(...again.answers);
      const [failed] = again.unreachable;
      if (failed === undefined) continue;
      silent.set(member, failed);
      break;
    }
    return found;
  });
  return [...answers, ...(await Promise.all(rest)).flat()];
}

export interface Missing {
  /** Null: nobody who answered has it. */
  readonly member: string | null;
  readonly reason: string;
}

/** Why parts of it may not be there. `startMs`: when the message came; null: nothing is known of it. */
export function missingOf(
  { told, unreachable, more }: Pick<Records, 'told' | 'unreachable' | 'more'>,
  tree: readonly TraceNode[],
  startMs: number | null,
): readonly Missing[] {
  const lacking = [...Map.groupBy(told, ({ member }) => member)].flatMap(([member, answers]) =>
    lackOf(answers, startMs).map((reason) => ({ member, reason })),
  );
  return [
    ...unreachable.map(({ member, reason }) => ({ member, reason: `does not answer: ${reason}` })),
    ...lacking,
    ...unrecorded(tree).map((id) => ({ member: null, reason: `nobody who answered has a record of ${id} any more` })),
    ...(more ? [{ member: null, reason: `only ${MOST_IDS} messages of this name were followed` }] : []),
  ];
}

function lackOf(answers: readonly Told[], startMs: number | null): readonly string[] {
  const { beforeMs = null, dropped = null } = answers.at(-1)?.value.gaps ?? {};
  const isOlderThan = (ms: number): boolean => startMs === null || startMs < ms;
  return [
    ...(beforeMs !== null && isOlderThan(beforeMs) ? [`keeps no records from before ${time(beforeMs)}`] : []),
    ...(dropped !== null && isOlderThan(dropped.toMs)
      ? [`could not write down all records from ${time(dropped.fromMs)} to ${time(dropped.toMs)}`]
      : []),
    ...(answers.some(({ value }) => value.cut === true) ? ['has more records of it than it tells at once'] : []),
  ];
}

const unrecorded = (nodes: readonly TraceNode[]): readonly string[] =>
  nodes.flatMap(({ id, kind, children }) => [...(kind === 'unrecorded' ? [id] : []), ...unrecorded(children)]);

/** For people, times are UTC. Empty: it is all there. */
export const renderMissing = (missing: readonly Missing[]): string =>
  missing.length === 0
    ? ''
    : `This may not be all of it:\n${missing.map(({ member, reason }) => `  ${member === null ? '' : `${member} `}${reason}\n`).join('')}`;
