/**
 * `mailcluster resubmit`: processed messages again from Safety Net. Owns: the words and the checks before an order is given: exactly one
 * selector, a window that is one, what of it the Safety Nets still hold. The request is an object with status: of the runner, or of Kubernetes.
 */
import type { MemberConfig, TopologyDocument } from '../../common/config.ts';
import { systemRandom } from '../../common/platform/random.ts';
import type { Asked } from '../admin-client.ts';
import { API_VERSION } from '../resource/api-version.ts';
import type { ResubmitRequestSpec } from '../resource/generated.ts';
import { coverage, isOver, type MemberStatus, type ResubmitResource } from '../resubmit-status.ts';
import type { StatusAnswer } from './answers.ts';
import {
  COMMON_HELP,
  type Command,
  type CommandContext,
  openResubmits,
  parse,
  text,
  timeOption,
  UsageError,
} from './command.ts';
import { duration, json, printable, table, time } from './output.ts';
import type { ResubmitDesk } from './place.ts';

const LOOK_MS = 500;
const SELECTORS = {
  database: 'database',
  sender: 'sender',
  recipient: 'recipient',
  'message-id': 'messageId',
} as const;

interface Window {
  readonly fromMs: number;
  readonly toMs: number | null;
}

const iso = (ms: number): string => new Date(ms).toISOString();

/**
 * What of the window can still be there: nothing is older than the hold time, and each member says since when its Safety Net is whole. A
 * text in `nothing`: not even a part.
 */
export function coverageOf(
  window: Window,
  holdTimeMs: number,
  members: readonly MemberStatus[],
  boundaryOf: (name: string) => string,
  nowMs: number,
): { readonly nothing: string | null; readonly notes: readonly string[] } {
  const horizonMs = nowMs - holdTimeMs;
  const held = `Safety Net keeps a message for ${duration(holdTimeMs)} after its delivery`;
  if (window.toMs !== null && window.toMs < horizonMs)
    return {
      nothing: `the whole window is older than the hold time: ${held}, so nothing from before ${iso(horizonMs)} is left`,
      notes: [],
    };
  const notes: string[] = [];
  if (window.fromMs < horizonMs)
    notes.push(
      `Covered: from ${iso(horizonMs)} on. Not covered: ${iso(window.fromMs)} to ${iso(horizonMs)}, because ${held}.`,
    );
  const since = coverage(Math.max(window.fromMs, horizonMs), members, boundaryOf);
  if (since.short.length > 0) {
    const whose = since.short.map(({ name, completeSince }) => `${name} (${completeSince ?? 'lost'})`).join(', ');
    const until = Number.isFinite(since.fromMs) ? `before ${iso(since.fromMs)}` : 'so far';
    notes.push(
      `Not covered for certain: what was delivered ${until}, because the Safety Nets of two or more members do not reach back: ${whose}.`,
    );
  }
  return { nothing: null, notes };
}

async function reach(
  desk: ResubmitDesk,
  members: readonly MemberConfig[],
  asked: readonly Asked<StatusAnswer>[],
): Promise<readonly MemberStatus[]> {
  return await Promise.all(
    members.map(async ({ name }): Promise<MemberStatus> => {
      const answer = asked.find((one) => one.member === name);
      if (answer?.kind !== 'answer') return { name, state: 'Pending' };
      const since = answer.value.safetyNet.completeSinceMs ?? 0;
      const onlySinceMs = await desk.onlySinceMs(name);
      const always = onlySinceMs !== null && since <= onlySinceMs;
      return { name, ...(always ? {} : { completeSince: iso(since) }) };
    }),
  );
}

function selectorOf(parsed: ReturnType<typeof parse>): ResubmitRequestSpec['selector'] {
  const given = Object.entries(SELECTORS).flatMap(([option, field]) => {
    const value = text(parsed, option);
    return value === null ? [] : [[field, value] as const];
  });
  const [only] = given;
  if (only === undefined || given.length > 1)
    throw new UsageError('say exactly one of --database, --sender, --recipient and --message-id');
  const [field, value] = only;
  return { [field]: field === 'messageId' && !value.startsWith('<') ? `<${value}>` : value };
}

function windowOf(parsed: ReturnType<typeof parse>): Window {
  const fromMs = timeOption(parsed, 'from');
  const toMs = timeOption(parsed, 'to');
  if (fromMs === null) throw new UsageError('--from TIME is missing');
  if (toMs !== null && toMs <= fromMs)
    throw new UsageError(`--to ${iso(toMs)} is not after --from ${iso(fromMs)}; swap them or correct one`);
  return { fromMs, toMs };
}

const checkName = (name: string): string => {
  if (!/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name))
    throw new UsageError(`--name ${name}: at most 63 lower-case letters, digits and dashes`);
  return name;
};

async function create(args: readonly string[], context: CommandContext): Promise<number> {
  const one = { type: 'string' } as const;
  const options = { database: one, sender: one, recipient: one, 'message-id': one, from: one, to: one, name: one };
  const flags = { 'dry-run': { type: 'boolean' }, wait: { type: 'boolean' } } as const;
  const parsed = parse(args, context, { ...options, ...flags }, [0, 0]);
  const selector = selectorOf(parsed);
  const window = windowOf(parsed);
  const nowMs = context.nowMs();
  const made = `manual-${iso(nowMs).slice(0, 19).replace(/[-:]/g, '').toLowerCase()}-${systemRandom.bytes(3).toString('hex')}`;
  const name = checkName(text(parsed, 'name') ?? made);
  const desk = await openResubmits(parsed, context);
  const document = await desk.document();
  const { out, err } = context.output;
  const problem = await checkAgainst(desk, document, selector, window, context);
  if (problem !== null) {
    err(`${problem}\n`);
    return 1;
  }
  const dryRun = parsed.values['dry-run'] === true;
  const spec: ResubmitRequestSpec = {
    clusterRef: { name: document.cluster },
    selector,
    window: { from: iso(window.fromMs), ...(window.toMs === null ? {} : { to: iso(window.toMs) }) },
    reason: 'Manual',
    dryRun,
    cancel: false,
  };
  // As it would be given to Kubernetes; the runner reads it with the same schema.
  const resource = { apiVersion: API_VERSION, kind: 'ResubmitRequest', metadata: { name }, spec } as const;
  const metadata = { name, namespace: 'default', creationTimestamp: iso(nowMs) };
  if (!(await desk.submit({ ...resource, metadata }))) return 1;
  const { program } = context.place;
  out(
    `Resubmit request ${name} is there${dryRun ? ' (dry run: it only counts)' : ''}. What the mailboxes still have is not shown a second time.\nWatch it with "${program} resubmit show ${name}"; "${program} resubmit cancel ${name}" ends it.\n`,
  );
  return parsed.values.wait === true ? await waitUntilOver(desk, name, context) : 0;
}

/** A text: it cannot be. What is only partly covered is said and goes on. */
async function checkAgainst(
  desk: ResubmitDesk,
  document: TopologyDocument,
  { database }: ResubmitRequestSpec['selector'],
  window: Window,
  context: CommandContext,
): Promise<string | null> {
  const found = document.databases.find((one) => one.name === database);
  if (database !== undefined && found === undefined)
    return `There is no database ${database}; there is ${document.databases.map((one) => one.name).join(', ') || 'none'}.`;
  const asked = await desk.askAll<StatusAnswer>('/v1/status');
  const members = document.members.filter(
    ({ state, boundary }) => state !== 'gone' && (found === undefined || boundary === found.boundary),
  );
  const boundaries = new Map(members.map(({ name, boundary }) => [name, boundary]));
  const { nothing, notes } = coverageOf(
    window,
    document.policies.safetyNet.holdTimeMs,
    await reach(desk, members, asked),
    (name) => boundaries.get(name) ?? '',
    context.nowMs(),
  );
  for (const note of notes) context.output.err(`${note}\n`);
  return nothing === null ? null : `Refused: ${nothing}.`;
}

const COUNTS = ['selected', 'resubmitted', 'byPrimaries', 'byShadows', 'present', 'failed'] as const;

function selectorText({ selector }: ResubmitRequestSpec): string {
  const [field, value] = Object.entries(selector)[0] ?? ['', ''];
  return `${field} ${value}`;
}

function windowText({ window, lostActivation }: ResubmitRequestSpec): string {
  const lost = lostActivation === undefined ? '' : `, delivered under activation ${lostActivation} or earlier`;
  return `${window.from} to ${window.to ?? 'now'}${lost}`;
}

function render({ metadata, spec, status }: ResubmitResource): string {
  const lines = [
    `Resubmit request ${metadata.name}: ${status.state ?? 'Pending'}${spec.dryRun ? ' (dry run)' : ''}`,
    `  ${spec.reason === 'Failover' ? 'made by the failover of its database' : 'asked for by a person'} ${metadata.creationTimestamp}`,
    `  means      ${selectorText(spec)}`,
    `  delivered  ${windowText(spec)}`,
    `  counts     ${COUNTS.map((field) => `${field} ${status.counts?.[field] ?? 0}`).join(', ')}`,
    ...(status.startTime === undefined ? [] : [`  started    ${status.startTime}`]),
    ...(status.completionTime === undefined ? [] : [`  ended      ${status.completionTime}`]),
    ...(status.message === undefined ? [] : [`  note       ${status.message}`]),
  ];
  const members = table<MemberStatus>(
    [
      { title: '  MEMBER', value: (row) => `  ${row.name}` },
      { title: 'STATE', value: (row) => row.state ?? null },
      ...COUNTS.map((field) => ({
        title: field === 'byPrimaries' ? 'PRIMARY' : field === 'byShadows' ? 'SHADOW' : field.toUpperCase(),
        value: (row: MemberStatus) => row[field] ?? 0,
        right: true,
      })),
      { title: 'NOTE', value: (row) => row.message ?? null },
    ],
    status.members ?? [],
  );
  return `${lines.map((line) => `${printable(line)}\n`).join('')}${members}`;
}

async function waitUntilOver(desk: ResubmitDesk, name: string, context: CommandContext): Promise<number> {
  for (;;) {
    const found = await desk.find(name);
    if (found !== null && isOver(found.status)) {
      context.output.out(render(found));
      return found.status.state === 'Completed' ? 0 : 1;
    }
    await context.pause(LOOK_MS);
  }
}

async function list(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, {}, [0, 0]);
  const { common } = parsed;
  const found = [...(await (await openResubmits(parsed, context)).all())];
  found.sort((a, b) => (a.metadata.creationTimestamp < b.metadata.creationTimestamp ? -1 : 1));
  const { out } = context.output;
  if (common.format === 'json') out(json({ requests: found }));
  else if (found.length === 0) out('No resubmit requests.\n');
  else
    out(
      table<ResubmitResource>(
        [
          { title: 'NAME', value: ({ metadata }) => metadata.name },
          { title: 'STATE', value: ({ status }) => status.state ?? 'Pending' },
          { title: 'MEANS', value: ({ spec }) => selectorText(spec) },
          { title: 'DELIVERED SINCE', value: ({ spec }) => time(Date.parse(spec.window.from)) },
          { title: 'SELECTED', value: ({ status }) => status.counts?.selected ?? 0, right: true },
          { title: 'RESUBMITTED', value: ({ status }) => status.counts?.resubmitted ?? 0, right: true },
          { title: 'FAILED', value: ({ status }) => status.counts?.failed ?? 0, right: true },
          { title: 'DRY RUN', value: ({ spec }) => (spec.dryRun ? 'yes' : 'no') },
        ],
        found,
      ),
    );
  return 0;
}

async function show(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, {}, [1, 1]);
  const { common, positionals } = parsed;
  const name = checkName(positionals[0] ?? '');
  const found = await (await openResubmits(parsed, context)).find(name);
  if (found === null) {
    context.output.err(`There is no resubmit request ${name}.\n`);
    return 1;
  }
  context.output.out(common.format === 'json' ? json(found) : render(found));
  return 0;
}

async function cancel(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, {}, [1, 1]);
  const request = checkName(parsed.positionals[0] ?? '');
  const desk = await openResubmits(parsed, context);
  if (!(await desk.cancel(request))) return 1;
  context.output.out(`Resubmit request ${request} is cancelled; what was resubmitted stays resubmitted.\n`);
  return 0;
}

export const resubmitCommand: Command = {
  summary: 'submit processed messages again from Safety Net',
  help: `Usage: mailcluster resubmit --database NAME|--sender ADDRESS|--recipient ADDRESS|--message-id ID --from TIME [--to TIME]
                            [--dry-run] [--wait] [--name NAME] [--state DIR]
       mailcluster resubmit list|show NAME|cancel NAME [--state DIR] [-o json]

Submits again what was delivered in the window (times, UTC where no zone is named, or milliseconds since 1970; without --to everything up to now). Mailboxes that
still have a message do not get it twice. A failover of a mailbox database makes its request by itself. Safety Net keeps messages for
safetyNet.holdTime: what of the window is covered, and what is not, is said.

  --dry-run          count only
  --wait             return when it is over, with exit code 1 unless it is Completed
  --name NAME        name of the request (default manual-TIME-...)
${COMMON_HELP}

Examples:
  mailcluster resubmit --database db01 --from 2026-01-02T03:00:00Z --to 2026-01-02T04:00:00Z --dry-run --wait
  mailcluster resubmit --recipient bob@contoso.com --from 2026-01-02T03:00:00Z
  mailcluster resubmit show db01-failover-2`,
  run: (args, context) => {
    const [what, ...rest] = args;
    if (what === 'list') return list(rest, context);
    if (what === 'show') return show(rest, context);
    if (what === 'cancel') return cancel(rest, context);
    return create(args, context);
  },
};
