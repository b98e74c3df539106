/**
 * `message remove`: one message, or all that match. Owns: that nobody removes more than they have seen - several matches are only
 * listed until `--yes` says otherwise, everything there is needs `--all` as well - and the account of it: each copy that was there is named, with
 * what became of it or that it was not reached (protocol.md 11). Decides nothing: the owner of each message carries its order out. Exit 1 when an
 * order was refused, or a copy is still there at the end.
 */
import type { MessageOrder } from '../../common/config.ts';
import type { CopyId } from '../../common/message.ts';
import type { KnownAnswer } from './answers.ts';
import {
  type CommandContext,
  openMembers,
  openOrders,
  type Parsed,
  parse,
  query,
  UsageError,
  warnUnreachable,
} from './command.ts';
import {
  type FilterParameters,
  filterOf,
  isEverything,
  MESSAGE_FILTERS,
  type Message,
  messagesOf,
  type Unreachable,
} from './message-filter.ts';
import { idOf, idsToOrder, meantBy, messageId, nobodyHas } from './message-id.ts';
import { messageTable } from './message-table.ts';
import { count, json, table } from './output.ts';
import type { Members, OrderDesk } from './place.ts';

/** Of one command: as many as the document keeps are 500. */
const MOST = 200;
const PAGE = 1_000;

export const REMOVE_HELP = `"remove" gives up what is not delivered of a message: by its id, wherever it crossed to, or of every message that matches. It says of each copy whether it is gone.
Several matches are only listed (--dry-run) until --yes; a filter that matches every message there is needs --all as well; at most ${MOST} at
once, the first by id.

  --with-ndr             "remove": the sender gets a report, 550 5.7.1; without it nobody does
  --dry-run, --yes, --all
                         "remove": only list; remove several; also when nothing would be left`;

interface Wish {
  readonly filter: FilterParameters;
  readonly action: MessageOrder['action'];
  readonly isDryRun: boolean;
  readonly isSure: boolean;
  readonly isAll: boolean;
  /** By its id: not by the filter. */
  readonly only: CopyId | null;
}

function wishOf(parsed: Parsed): Wish {
  const [id] = parsed.positionals;
  const filter = filterOf(parsed);
  const { yes, all, 'dry-run': dryRun, 'with-ndr': withNdr } = parsed.values;
  const only = id === undefined ? null : messageId(id);
  if (id !== undefined && !isEverything(filter)) throw new UsageError('an ID, or filters, not both');
  if (id === undefined && isEverything(filter) && all !== true)
    throw new UsageError('neither an ID nor a filter: that means every message there is; say --all if you mean it');
  if (filter.queue === 'shadow')
    throw new UsageError(
      '--queue: a shadow is a copy of a message that waits elsewhere, and goes with it only; say which message',
    );
  if (dryRun === true && yes === true) throw new UsageError('--dry-run and --yes contradict each other');
  return {
    filter,
    only,
    action: withNdr === true ? 'removeWithNdr' : 'remove',
    ...{ isDryRun: dryRun === true, isSure: yes === true, isAll: all === true },
  };
}

interface Found {
  readonly messages: readonly Message[];
  readonly isMore: boolean;
}

async function find(cluster: Members, { filter }: Wish, unreachable: Unreachable): Promise<Found> {
  const messages: Message[] = [];
  for await (const message of messagesOf(cluster, { filter, after: null, pageSize: MOST + 1, unreachable })) {
    if (messages.length === MOST) return { messages, isMore: true };
    messages.push(message);
  }
  return { messages, isMore: false };
}

/** Nothing would be left: the first message that does not match decides. What comes or goes meanwhile is asked about once more. */
async function isAllThereIs(cluster: Members, filter: FilterParameters): Promise<boolean> {
  const walk = (one: FilterParameters): AsyncGenerator<Message> =>
    messagesOf(cluster, { filter: one, after: null, pageSize: PAGE, unreachable: [] });
  const isAmong = async (one: FilterParameters, id: CopyId): Promise<boolean> => {
    for await (const message of walk(one)) if (idOf(message) === id) return true;
    return false;
  };
  const matching = walk(filter);
  let match = await matching.next();
  for await (const message of walk({})) {
    const id = idOf(message);
    while (match.done !== true && idOf(match.value) < id) match = await matching.next();
    if (match.done !== true && idOf(match.value) === id) continue;
    const matches = await isAmong(filter.attempt == null ? { ...filter, attempt: id } : filter, id);
    if (!matches && (await isAmong({ attempt: id }, id))) return false;
  }
  return true;
}

export async function removeMessages(args: readonly string[], context: CommandContext): Promise<number> {
  const flags = { type: 'boolean' } as const;
  const options = { ...MESSAGE_FILTERS, 'with-ndr': flags, 'dry-run': flags, yes: flags, all: flags };
  const parsed = parse(args, context, options, [0, 1]);
  const wish = wishOf(parsed);
  const cluster = await openMembers(parsed, context);
  if (wish.only !== null) return await removeById(cluster, wish.only, wish, parsed, context);
  const { out, err } = context.output;
  const unreachable: Unreachable = [];
  const { messages, isMore } = await find(cluster, wish, unreachable);
  const isJson = parsed.common.format === 'json';
  warnUnreachable(context.output, unreachable);
  if (messages.length === 0) {
    if (isJson) out(json({ removed: false, messages: [], unreachable }));
    err('No messages match.\n');
    return 1;
  }
  const isMany = messages.length > 1 || isMore;
  if (isMany && wish.isSure && !wish.isAll && (await isAllThereIs(cluster, wish.filter))) {
    const which = isMore
      ? `all messages there are match, more than ${MOST}`
      : `these ${messages.length} are all messages there are`;
    err(`Refused: ${which}; say --all as well if you mean it.\n`);
    return 1;
  }
  if (wish.isDryRun || (isMany && !wish.isSure)) {
    if (isJson) out(json({ removed: false, messages, more: isMore, unreachable }));
    else {
      out(messageTable(messages, context.nowMs()));
      out(
        `Nothing was removed: ${isMore ? 'the first ' : ''}${count(messages.length, 'message')} would be; --yes does it.\n`,
      );
    }
    return unreachable.length === 0 ? 0 : 1;
  }
  const desk = await openOrders(parsed, context);
  return await carryOut({ cluster, desk }, wish, { ids: messages.map(idOf), isMore }, isJson, context);
}

/** All that it is: where it crossed to under another id as well. */
async function removeById(
  cluster: Members,
  id: CopyId,
  wish: Wish,
  parsed: Parsed,
  context: CommandContext,
): Promise<number> {
  const { out, err } = context.output;
  const { program } = context.place;
  const isJson = parsed.common.format === 'json';
  const meant = await meantBy(cluster, id);
  const { messages, unreachable } = meant;
  warnUnreachable(context.output, unreachable);
  const ids = idsToOrder(id, meant);
  if (ids.length === 0 || wish.isDryRun) {
    if (isJson) out(json({ removed: false, messages, ...(wish.isDryRun ? { more: false } : {}), unreachable }));
    else if (messages.length > 0) {
      out(messageTable(messages, context.nowMs()));
      out(`Nothing was removed: ${count(messages.length, 'message')} would be.\n`);
    }
    if (ids.length === 0) err(nobodyHas(id, meant, program));
    return messages.length > 0 && unreachable.length === 0 ? 0 : 1;
  }
  const desk = await openOrders(parsed, context);
  const code = await carryOut({ cluster, desk }, wish, { ids, isMore: false }, isJson, context);
  if (messages.length === 0) err(nobodyHas(id, meant, program));
  const later = (await meantBy(cluster, id)).messages.map(idOf).filter((one) => !ids.includes(one));
  if (later.length > 0) err(`${id} crossed meanwhile as ${later.join(', ')}, which is not removed: say it again.\n`);
  return later.length > 0 ? 1 : code;
}

// --- the orders, and what became of each copy ------------------------------------------------------------------------

const LOOK_MS = 500;
const PATIENCE_MS = 30_000;

interface Fate {
  readonly id: string;
  readonly member: string;
  readonly fate: 'removed' | 'in Safety Net' | 'still there' | 'not reached';
  readonly why: string | null;
}

const isOpen = ({ fate }: Fate): boolean => fate === 'still there' || fate === 'not reached';

async function carryOut(
  { cluster, desk }: { readonly cluster: Members; readonly desk: OrderDesk },
  { action }: Wish,
  { ids, isMore }: { readonly ids: readonly CopyId[]; readonly isMore: boolean },
  isJson: boolean,
  context: CommandContext,
): Promise<number> {
  // A filter sees the copies that match; all that there are shall go.
  const before = await look(cluster, ids, null);
  const wishes = ids.map((id) => ({ kind: 'message', message: id, action }) as const);
  const isGiven = (await desk.give(wishes)) !== null;
  let fates: readonly Fate[] = [];
  for (let waitedMs = 0; isGiven && waitedMs < PATIENCE_MS; waitedMs += LOOK_MS) {
    fates = await look(cluster, ids, before);
    // Who does not answer may for long; the others are worth waiting for.
    if (!fates.some(({ fate }) => fate === 'still there')) break;
    await context.pause(LOOK_MS);
  }
  const { out, err } = context.output;
  const open = fates.filter(isOpen);
  if (isJson) out(json({ removed: isGiven, copies: fates, more: isMore }));
  else if (isGiven) {
    out(
      table<Fate>(
        [
          { title: 'ID', value: (row) => row.id },
          { title: 'TRANSPORT', value: (row) => row.member },
          { title: 'COPY', value: (row) => row.fate },
          { title: 'WHY', value: (row) => row.why },
        ],
        fates,
      ),
    );
    if (isMore) out(`More match: these were the first ${MOST}; say it again for those behind.\n`);
  }
  if (open.length > 0)
    err(
      `${count(open.length, 'copy').replace('copys', 'copies')} not gone yet: the order stands, and is carried out as soon as it can be; "${context.place.program} message show ID" looks again.\n`,
    );
  return isGiven && open.length === 0 ? 0 : 1;
}

/** Every copy that was there (`before`; null: that is there), and where it is now. A message that a store has in hand is removed afterwards. */
async function look(
  cluster: Members,
  ids: readonly string[],
  before: readonly Fate[] | null,
): Promise<readonly Fate[]> {
  const asked = await cluster.askAll<KnownAnswer>(`/v1/known${query({ ids: ids.join(',') })}`);
  return asked.flatMap((one): readonly Fate[] => {
    const { member } = one;
    const mine = before === null ? ids : before.flatMap((former) => (former.member === member ? [former.id] : []));
    if (one.kind !== 'answer') {
      const why = one.kind === 'absent' ? 'it cannot say' : one.reason;
      return mine.map((id) => ({ id, member, fate: 'not reached' as const, why }));
    }
    const where = new Map(one.value.known.map((known) => [known.id, known.where]));
    return mine.flatMap((id): readonly Fate[] => {
      const place = where.get(id);
      if (place === 'transit' || place === 'damaged') {
        const why =
          place === 'damaged' ? 'its bytes are damaged' : 'being delivered, in doubt, or waiting for its report';
        return [{ id, member, fate: 'still there', why }];
      }
      if (before === null) return [];
      return place === 'safetyNet'
        ? [{ id, member, fate: 'in Safety Net', why: 'delivered to some before' }]
        : [{ id, member, fate: 'removed', why: null }];
    });
  });
}
