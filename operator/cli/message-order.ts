/**
 * `message suspend|resume`: what a person decides about one message (protocol.md 18, rows 23 and 25), as an order. Decides nothing: the
 * transport that owns the message carries it out, and records who ordered it. Exit 1 when it was refused or not answered.
 */
import type { CopyId } from '../../common/message.ts';
import { isIdentity } from '../local/orders.ts';
import { type CommandContext, openOrders, parse, UsageError } from './command.ts';

export async function orderMessage(
  action: 'suspend' | 'resume',
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  const parsed = parse(args, context, {}, [1, 1]);
  const message: unknown = parsed.positionals[0];
  // Both are 26 characters of one alphabet.
  if (!isIdentity(message))
    throw new UsageError(`${String(message)} is not the id of a message: it stands in the 250 reply`);
  const desk = await openOrders(parsed, context);
  if ((await desk.give([{ kind: 'message', message: `${message}` as CopyId, action }])) === null) return 1;
  const { program } = context.place;
  const does = {
    suspend: `The owner of ${message} delivers nothing more of it until "${program} message resume ${message}"`,
    resume: `If ${message} is suspended, or in the queue poison, its owner delivers it again`,
  } as const;
  context.output.out(`${does[action]}; "${program} trace ${message}" shows it.\n`);
  return 0;
}
