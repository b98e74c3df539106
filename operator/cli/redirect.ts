/**
 * `message redirect` and `queue redirect`: what waits at one member goes to another of its boundary (semantics.md row 18). Owns: which
 * messages those are, and the account of each. Decides nothing: whoever owns a message hands it over once that member has it durably, so
 * nothing is on fewer copies meanwhile. Exit 1 when an order was refused, or a message has not moved in time.
 */
import type { CopyId } from '../../common/message.ts';
import {
  type CommandContext,
  openMembers,
  openOrders,
  type Parsed,
  parse,
  text,
  UsageError,
  warnUnreachable,
} from './command.ts';
import { type FilterParameters, type Message, messagesOf, type Unreachable } from './message-filter.ts';
import { meantBy, messageId } from './message-id.ts';
import { count, json, table } from './output.ts';
import type { Members } from './place.ts';

/** Of one command: as many as the document keeps are 500. */
const MOST = 200;
const LOOK_MS = 500;
const PATIENCE_MS = 30_000;

export const REDIRECT_HELP = `"redirect" hands over what waits to another member of the same DAG, or site without one: that member gets a copy first if it has none, then it delivers. What is
being delivered comes to its end. At most ${MOST} messages at once; what cannot move now stays where it is, and moves as soon as it can.

  --to MEMBER            "redirect": the member that shall have it
  --from MEMBER          "queue redirect": only what waits there (default: at every other member of the boundary)`;

interface Moving {
  readonly id: string;
  readonly from: string;
  readonly isThere: boolean;
}

/** Who lists a primary copy of it. */
const ownersIn = (messages: readonly Message[]): ReadonlyMap<string, string> =>
  new Map(messages.flat().flatMap(({ id, role, member }) => (role === 'primary' ? [[id, member]] : [])));

async function ownersOf(
  cluster: Members,
  filter: FilterParameters,
  unreachable: Unreachable,
): Promise<ReadonlyMap<string, string>> {
  const messages: Message[] = [];
  const walk = { filter, after: null, pageSize: MOST + 1, unreachable };
  for await (const message of messagesOf(cluster, walk)) messages.push(message);
  return ownersIn(messages);
}

function targetOf(parsed: Parsed, { members }: Members, name: 'to' | 'from'): string | null {
  const member = text(parsed, name);
  if (member === null || members.some((one) => one.name === member)) return member;
  throw new UsageError(
    `--${name} ${member}: there is no such member; there is ${members.map((one) => one.name).join(', ')}`,
  );
}

const isNear = ({ members }: Members, a: string, b: string): boolean => {
  const [one, other] = [a, b].map((name) => members.find((each) => each.name === name));
  return one?.dag === other?.dag && (one?.dag !== null || one.site === other?.site);
};

export async function redirectMessages(
  what: 'message' | 'queue',
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  const one = { type: 'string' } as const;
  const options = what === 'queue' ? { to: one, from: one } : { to: one };
  const parsed = parse(args, context, options, [1, 1]);
  const [name = ''] = parsed.positionals;
  if (what === 'message') messageId(name);
  // A filter without a value would be every queue there is.
  else if (name === '') throw new UsageError('a delivery queue as "queue list" names it, not an empty name');
  if (text(parsed, 'to') === null) throw new UsageError('--to MEMBER is missing');
  const cluster = await openMembers(parsed, context);
  const to = targetOf(parsed, cluster, 'to') ?? '';
  const from = targetOf(parsed, cluster, 'from');
  const { err } = context.output;
  const { found, unreachable } = await waitingFor(cluster, what, name);
  warnUnreachable(context.output, unreachable);
  const elsewhere = found.filter(([, owner]) => owner !== to && (from === null || owner === from));
  const near = elsewhere.filter(([, owner]) => isNear(cluster, owner, to));
  // Of a queue what is in other boundaries is not meant, unless it was named; of a message what crossed is, where it can be.
  const isAnywhere = what === 'queue' ? from !== null : found.length === 1;
  const meant = isAnywhere ? elsewhere : near;
  if (meant.length === 0) {
    const [own] = found;
    if (what === 'message' && elsewhere.length > 0)
      err(`${name} is in transit in other boundaries only: at ${elsewhere.map(([, owner]) => owner).join(', ')}.\n`);
    else if (what === 'message' && own !== undefined) err(`${name} is at ${to} already.\n`);
    else if (what === 'message')
      err(
        `No transport that answered has ${name} in transit: it is delivered, at rest, or with one that did not answer.\n`,
      );
    else err(`Nothing waits for ${name} at ${from ?? `another member of the boundary of ${to}`}.\n`);
    return 1;
  }
  const chosen = meant.slice(0, MOST);
  const desk = await openOrders(parsed, context);
  const wishes = chosen.map(([id, owner]) => {
    return { kind: 'message', message: id as CopyId, action: 'redirect', from: owner, to } as const;
  });
  if ((await desk.give(wishes)) === null) return 1;
  return await account({ cluster, to, chosen, isMore: meant.length > MOST }, parsed, context);
}

async function waitingFor(
  cluster: Members,
  what: 'message' | 'queue',
  name: string,
): Promise<{ readonly found: readonly (readonly [id: string, owner: string])[]; readonly unreachable: Unreachable }> {
  if (what === 'message') {
    const { messages, unreachable } = await meantBy(cluster, name);
    return { found: [...ownersIn(messages)], unreachable };
  }
  const unreachable: Unreachable = [];
  return { found: [...(await ownersOf(cluster, { nextHop: name }, unreachable))], unreachable };
}

interface Given {
  readonly cluster: Members;
  readonly to: string;
  readonly chosen: readonly (readonly [id: string, from: string])[];
  readonly isMore: boolean;
}

async function account(
  { cluster, to, chosen, isMore }: Given,
  parsed: Parsed,
  context: CommandContext,
): Promise<number> {
  const { out, err } = context.output;
  let rows: readonly Moving[] = [];
  for (let waitedMs = 0; waitedMs <= PATIENCE_MS; waitedMs += LOOK_MS) {
    const filter = chosen.length === 1 ? { attempt: chosen[0]?.[0] ?? '' } : {};
    const owners = await ownersOf(cluster, filter, []);
    // What nobody has in transit any more was delivered, by whom ever.
    rows = chosen.map(([id, from]) => ({ id, from, isThere: (owners.get(id) ?? to) !== from }));
    if (rows.every(({ isThere }) => isThere)) break;
    await context.pause(LOOK_MS);
  }
  const open = rows.filter(({ isThere }) => !isThere);
  if (parsed.common.format === 'json') out(json({ to, messages: rows, more: isMore }));
  else {
    out(
      table<Moving>(
        [
          { title: 'ID', value: (row) => row.id },
          { title: 'FROM', value: (row) => row.from },
          { title: 'TO', value: () => to },
          { title: 'MOVED', value: ({ isThere }) => (isThere ? 'yes' : 'not yet') },
        ],
        rows,
      ),
    );
    if (isMore) out(`More wait: these were the first ${MOST}; say it again for those behind.\n`);
  }
  if (open.length > 0)
    err(
      `${count(open.length, 'message')} not moved yet: being delivered, or ${to} takes nothing now; the order stands, "${context.place.program} message show ID" looks again.\n`,
    );
  return open.length === 0 ? 0 : 1;
}
