/**
 * `mailcluster message lost`: which acknowledged messages are nowhere. Owns: the comparison of what the front ends wrote down for each 250
 * with what every transport knows. Promise: an id is called lost only when every member answered, twice, that it knows nothing of it; what
 * could not be checked is said, never left out. Reads only; memory is one batch and what is found missing.
 */
import { readTopology } from '../../common/config-files.ts';
import { type Acceptance, AcceptedLog } from '../local/accepted-log.ts';
import { type Cluster, gather, openCluster } from '../local/cluster.ts';
import { statePaths } from '../local/state-directory.ts';
import type { KnownAnswer, OutcomesAnswer } from './answers.ts';
import { type CommandContext, momentOption, parse, query } from './command.ts';
import { allSetAside, whatToDoAbout } from './member.ts';
import { count, json, printable, table, time } from './output.ts';

/** Of the admin API. */
const BATCH = 200;
/** Between the two looks at what nobody knows: it may just be on its way from one to another. */
const SECOND_LOOK_MS = 2_000;

type Unreachable = readonly { readonly member: string; readonly reason: string }[];

interface Missing extends Acceptance {
  readonly note: string;
}

interface Findings {
  checked: number;
  readonly lost: Missing[];
  /** Not found, but somebody did not answer. */
  readonly undecided: Missing[];
  /** Acknowledged longer ago than anything is kept. */
  tooOld: number;
  readonly unreachable: Map<string, string>;
}

interface Knowledge {
  readonly there: ReadonlySet<string>;
  /** Id to members on which its bytes are damaged. */
  readonly damaged: ReadonlyMap<string, readonly string[]>;
  readonly unreachable: Unreachable;
}

async function ask(cluster: Cluster, batch: readonly Acceptance[]): Promise<Knowledge> {
  const path = `/v1/known${query({ ids: batch.map(({ id }) => id).join(',') })}`;
  const { answers, unreachable } = gather(await cluster.askAll<KnownAnswer>(path));
  const there = new Set<string>();
  const damaged = new Map<string, string[]>();
  for (const { member, value } of answers)
    for (const { id, where } of value.known) {
      if (where === 'damaged') damaged.set(id, [...(damaged.get(id) ?? []), member]);
      // Given up in an earlier try: no trace of the message itself.
      else if (where !== 'aborted') there.add(id);
    }
  return { there, damaged, unreachable };
}

/** Ids with a final outcome, and for the others who had it by then. */
async function finished(cluster: Cluster, batch: readonly Acceptance[]) {
  const path = `/v1/outcomes${query({ ids: batch.map(({ id }) => id).join(',') })}`;
  const { answers } = gather(await cluster.askAll<OutcomesAnswer>(path));
  const outcomes = answers.flatMap(({ value }) => value.outcomes);
  const final = new Set(outcomes.flatMap(({ id, final: isFinal }) => (isFinal ? [id] : [])));
  const recipients = Map.groupBy(outcomes, ({ id }) => id);
  for (const { id, recipients: all } of batch) {
    const done = new Set(recipients.get(id)?.flatMap((one) => one.recipients));
    if (all > 0 && done.size >= all) final.add(id);
  }
  const partly = (id: string): readonly string[] => [...new Set(recipients.get(id)?.flatMap((one) => one.recipients))];
  return { final, partly };
}

async function check(
  cluster: Cluster,
  batch: readonly Acceptance[],
  horizonMs: number,
  findings: Findings,
  context: CommandContext,
): Promise<void> {
  findings.checked += batch.length;
  const first = await ask(cluster, batch);
  let open = batch.filter(({ id }) => !first.there.has(id));
  if (open.length === 0) return;
  const { final, partly } = await finished(cluster, open);
  open = open.filter(({ id }) => !final.has(id));
  if (open.length === 0) return;
  await context.pause(SECOND_LOOK_MS);
  const second = await ask(cluster, open);
  const late = await finished(cluster, open);
  for (const { member, reason } of [...first.unreachable, ...second.unreachable])
    findings.unreachable.set(member, reason);
  for (const one of open) {
    if (second.there.has(one.id) || late.final.has(one.id)) continue;
    const damaged = second.damaged.get(one.id) ?? [];
    const to = partly(one.id);
    const notes = [
      ...(damaged.length === 0 ? [] : [`its bytes are damaged on ${damaged.join(', ')}`]),
      ...(to.length === 0 ? [] : [`delivered to ${to.join(', ')} before`]),
    ];
    const missing = { ...one, note: notes.join('; ') };
    if (second.unreachable.length > 0) findings.undecided.push(missing);
    else if (one.atMs < horizonMs && damaged.length === 0) findings.tooOld += 1;
    else findings.lost.push(missing);
  }
}

const COLUMNS = [
  { title: '  ID', value: (row: Missing) => `  ${row.id}` },
  { title: 'ACKNOWLEDGED (UTC)', value: (row: Missing) => time(row.atMs) },
  { title: 'BY', value: (row: Missing) => row.frontend },
  { title: 'FROM', value: (row: Missing) => row.from || '<>' },
  { title: 'RECIPIENTS', value: (row: Missing) => row.recipients, right: true },
  { title: 'NOTE', value: (row: Missing) => row.note },
];

/** Lists also what transports report themselves: bytes that nobody can give back. */
async function reported(cluster: Cluster): Promise<ReadonlyMap<string, readonly string[]>> {
  const { answers } = gather(await cluster.askAll<{ readonly messages: readonly string[] }>('/v1/lost'));
  const found = new Map<string, string[]>();
  for (const { member, value } of answers)
    for (const id of value.messages) found.set(id, [...(found.get(id) ?? []), member]);
  return found;
}

export async function lostMessages(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, { since: { type: 'string' } }, [0, 0]);
  const sinceMs = momentOption(parsed, 'since', context.nowMs()) ?? 0;
  const cluster = await openCluster(parsed.common.state);
  const document = await readTopology(cluster.run.topologyFile);
  const log = new AcceptedLog(
    statePaths(cluster.run.state),
    cluster.run.frontends.map(({ name }) => name),
  );
  const findings: Findings = { checked: 0, lost: [], undecided: [], tooOld: 0, unreachable: new Map() };
  // Longer than this nothing is kept but tracking: in transit until it expires, then in Safety Net.
  const keptMs = document.policies.safetyNet.holdTimeMs + document.policies.queues.messageExpirationMs;
  const horizonMs = context.nowMs() - keptMs;
  let batch: Acceptance[] = [];
  for await (const one of log.read(sinceMs)) {
    if (batch.push(one) < BATCH) continue;
    await check(cluster, batch, horizonMs, findings, context);
    batch = [];
  }
  if (batch.length > 0) await check(cluster, batch, horizonMs, findings, context);
  const damaged = await reported(cluster);
  const listed = new Set([...findings.lost, ...findings.undecided].map(({ id }) => id));
  const others = [...damaged].filter(([id]) => !listed.has(id)).map(([id, members]) => ({ id, members }));
  const gaps = gapsOf(log, findings);
  const isFine = findings.lost.length + findings.undecided.length + others.length === 0 && findings.checked > 0;
  if (parsed.common.format === 'json') {
    const { checked, lost, undecided, tooOld } = findings;
    context.output.out(json({ checked, lost, undecided, tooOld, unreadable: others, notChecked: gaps }));
    return isFine ? 0 : 1;
  }
  const volumes = listed.size + others.length === 0 ? [] : await allSetAside(cluster, document);
  context.output.out(render(findings, others, gaps, volumes.map(whatToDoAbout)));
  return isFine ? 0 : 1;
}

function gapsOf(log: AcceptedLog, { checked, tooOld, unreachable }: Findings): readonly string[] {
  return [
    ...new Set(log.gaps),
    ...[...unreachable].map(
      ([member, reason]) => `${member} does not answer (${reason}): what only it has is not known`,
    ),
    ...(tooOld === 0
      ? []
      : [
          `${count(tooOld, 'message')} acknowledged longer ago than messages are kept: nobody remembers what became of them`,
        ]),
    ...(checked > 0 ? [] : ['the front ends wrote down no acknowledged message: nothing could be compared']),
  ];
}

function render(
  { checked, lost, undecided }: Findings,
  others: readonly { readonly id: string; readonly members: readonly string[] }[],
  gaps: readonly string[],
  volumes: readonly string[],
): string {
  const section = (title: string, lines: readonly string[]): string =>
    lines.length === 0 ? '' : `\n${title}\n${lines.map((line) => `  ${printable(line)}\n`).join('')}`;
  const list = (title: string, rows: readonly Missing[]): string =>
    rows.length === 0 ? '' : `\n${title}\n${table(COLUMNS, rows)}`;
  return [
    `${count(checked, 'acknowledged message')} compared with what every transport knows: ${lost.length} lost, ${undecided.length} not decided.\n`,
    list(`Lost: no transport has anything of ${lost.length === 1 ? 'it' : 'them'}:`, lost),
    list('Not decided: nobody who answers has anything of them, but not everybody answers:', undecided),
    section(
      'Damaged, and every member was asked for the bytes:',
      others.map(({ id, members }) => `${id} on ${members.join(', ')}`),
    ),
    section('Set-aside queue directories in which some may still be:', volumes),
    section('Not checked:', gaps),
  ].join('');
}
