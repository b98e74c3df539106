/**
 * `message suspend|resume`: what a person decides about one message (protocol.md 18, rows 23 and 25), as an order for each id that it has. Decides nothing: the
 * transport that owns a message carries it out, and records who ordered it. Exit 1 when an order was refused or not answered, nobody has the message, or a member
 * that may have it did not answer.
 */
import type { CopyId } from '../../common/message.ts';
import { type CommandContext, openMembers, openOrders, parse, warnUnreachable } from './command.ts';
import { idsToOrder, type Meant, meantBy, messageId, nobodyHas } from './message-id.ts';
import { json } from './output.ts';

/** What crosses while the order is given gets one as well, as far as somebody has it by then. */
const LOOKS = 3;
const LOOK_MS = 500;

interface Given {
  readonly message: CopyId;
  readonly order: string;
}

export async function orderMessage(
  action: 'suspend' | 'resume',
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  const parsed = parse(args, context, {}, [1, 1]);
  const id = messageId(parsed.positionals[0]);
  const cluster = await openMembers(parsed, context);
  const { out, err } = context.output;
  const { program } = context.place;
  const meant = await meantBy(cluster, id);
  warnUnreachable(context.output, meant.unreachable);
  const first = idsToOrder(id, meant);
  const isJson = parsed.common.format === 'json';
  if (first.length === 0) {
    if (isJson) out(json({ id, action, orders: [], unreachable: [] }));
    err(nobodyHas(id, meant, program));
    return 1;
  }
  const desk = await openOrders(parsed, context);
  const given: Given[] = [];
  for (let look = 1, wanted = first; wanted.length > 0; look += 1) {
    const orders = await desk.give(wanted.map((message) => ({ kind: 'message', message, action })));
    if (orders === null) return 1;
    given.push(...wanted.map((message, index) => ({ message, order: orders[index] ?? '' })));
    if (look === LOOKS) break;
    await context.pause(LOOK_MS);
    wanted = fresh(await meantBy(cluster, id), given);
  }
  if (isJson) out(json({ id, action, orders: given, unreachable: meant.unreachable }));
  else for (const { message } of given) out(sentence(action, message, id, program));
  if (meant.messages.length === 0) err(nobodyHas(id, meant, program));
  return meant.unreachable.length === 0 ? 0 : 1;
}

const fresh = ({ messages }: Meant, given: readonly Given[]): readonly CopyId[] =>
  messages.flatMap(([copy]) => {
    const id = copy?.id as CopyId | undefined;
    return id === undefined || given.some(({ message }) => message === id) ? [] : [id];
  });

function sentence(action: 'suspend' | 'resume', message: CopyId, id: CopyId, program: string): string {
  const name = message === id ? message : `${message}, as which ${id} crossed,`;
  const does = {
    suspend: `The owner of ${name} delivers nothing more of it until "${program} message resume ${id}"`,
    resume: `If ${name} is suspended, or in the queue poison, its owner delivers it again`,
  } as const;
  return `${does[action]}; "${program} trace ${message}" shows it.\n`;
}
