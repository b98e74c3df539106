/** `mailcluster route`: where a message to an address would go, and why, as each transport would decide now. Reads only. Exit 1 when it would go nowhere. */
import { gather } from '../local/cluster.ts';
import { parseSize } from '../resource/quantity.ts';
import type { PathAnswer, RouteAnswer } from './answers.ts';
import {
  COMMON_HELP,
  type Command,
  type CommandContext,
  openMembers,
  parse,
  query,
  text,
  UsageError,
  warnUnreachable,
} from './command.ts';
import { count, duration, json, printable } from './output.ts';

async function route(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, { to: { type: 'string' }, size: { type: 'string' } }, [0, 0]);
  const to = text(parsed, 'to');
  if (to === null || !/^[^\s@]+(@[^\s@]+)?$/.test(to.replace(/^"(\\.|[^"\\])*"/, 'quoted')))
    throw new UsageError('--to: an address like bob@example.org');
  const size = text(parsed, 'size') ?? '1';
  const sizeBytes = parseSize(size);
  if (sizeBytes === null || sizeBytes < 1) throw new UsageError(`--size: bytes, or a size like 10Mi, not ${size}`);
  const members = await openMembers(parsed, context);
  const { answers, unreachable } = gather(
    await members.askAll<RouteAnswer>(`/v1/route${query({ to, size: sizeBytes })}`),
  );
  const { out, err } = context.output;
  if (parsed.common.format === 'json') {
    const routes = answers.map(({ member, value }) => ({ member, ...value }));
    out(json({ to, sizeBytes, routes, unreachable }));
  } else {
    // Transports that decide alike are told once; what waits is each one's own.
    const alike = Map.groupBy(answers, ({ value }) => rendered(value));
    out([...alike].map(([said, group]) => `${heading(group)}${said}${waiting(group, context.nowMs())}`).join('\n'));
  }
  warnUnreachable(context.output, unreachable);
  if (answers.length === 0) err('No transport answered.\n');
  const goes =
    answers.length > 0 && answers.every(({ value }) => value.nextHop !== null && value.hostsProblem === null);
  return goes && unreachable.length === 0 ? 0 : 1;
}

type Told = { readonly member: string; readonly value: RouteAnswer };

const heading = (group: readonly Told[]): string =>
  `${group.map(({ member, value }) => `${member} (site ${value.site})`).join(', ')}:\n`;

function rendered({ kind, what, why, nextHop, hosts, hostsProblem, policy, others, path }: RouteAnswer): string {
  const words = {
    mailbox: 'Goes to',
    connector: 'Goes through',
    boundary: 'Goes to',
    unreachable: 'Nowhere:',
    refused: 'Refused:',
  };
  const lines = [
    `  ${words[kind]} ${what}`,
    ...(why === '' ? [] : [`    because ${why}`]),
    ...(nextHop === null ? [] : [`  Queue ${nextHop}`]),
    ...(policy === null ? [] : [`  MTA-STS policy of the domain: ${policy}`]),
    ...(hosts.length === 0 ? [] : ['  Hosts, in this order:', ...hosts.map((host) => `    ${host}`)]),
    ...(hostsProblem === null ? [] : [`  No host now: ${hostsProblem}`]),
    ...pathLines(path ?? null),
    ...(others.length === 0
      ? []
      : ['  Otherwise:', ...others.map((one) => `    ${one.name}: ${one.why || 'not usable'}`)]),
  ];
  return lines.map((line) => `${printable(line)}\n`).join('');
}

function pathLines(path: PathAnswer | null): readonly string[] {
  if (path === null) return [];
  return [
    `  Path over site links to ${path.to}: ${path.what}`,
    `    because ${path.why}`,
    ...path.ifDown.map(({ site, what }) => `    with ${site} down: ${what}`),
  ];
}

function waiting(group: readonly Told[], nowMs: number): string {
  return group
    .filter(({ value }) => value.waiting > 0 || value.lastError !== null)
    .map(({ member, value: { waiting: number, nextRetryMs, lastError } }) => {
      const next = nextRetryMs === null ? '' : `, next attempt in ${duration(Math.max(0, nextRetryMs - nowMs))}`;
      const last = lastError === null ? '' : `, last error: ${lastError}`;
      return `${printable(`  On ${member} ${count(number, 'message')} for it${next}${last}`)}\n`;
    })
    .join('');
}

export const routeCommand: Command = {
  summary: 'where a message to an address would go, and why',
  help: `Usage: mailcluster route --to ADDRESS [--size N] [--state DIR] [-o json]

Asks every transport: which MailboxDatabase copy, or which send connector and hosts, it would use now, why, and what else there would be. DNS and policies of
MTA-STS are asked as for a message; no mail server is connected to. Of mail for another boundary it says the least-cost path over siteLinks, why it is that one,
and what would be done with each site on it down. Exits with 1 when a transport would send it nowhere, or did not answer.

  --to ADDRESS       the recipient
  --size N           of the message, in bytes or like 10Mi (default 1)
${COMMON_HELP}

Examples:
  mailcluster route --to bob@example.org
  mailcluster route --to bob@example.org --size 30Mi`,
  run: route,
};
