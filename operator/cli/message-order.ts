/**
 * `mailcluster message suspend|resume`: what a person decides about one message (protocol.md 18, rows 23 and 25), as an order document. Decides nothing: the
 * transport that owns the message carries it out, and records who ordered it. Exit 1 when it was refused or not answered.
 */
import { userInfo } from 'node:os';
import type { CopyId } from '../../common/message.ts';
import { openCluster } from '../local/cluster.ts';
import { isIdentity } from '../local/orders.ts';
import { type CommandContext, parse, UsageError } from './command.ts';
import { give, newId } from './ordering.ts';

export async function orderMessage(
  action: 'suspend' | 'resume',
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  const { common, positionals } = parse(args, context, {}, [1, 1]);
  const message: unknown = positionals[0];
  // Both are 26 characters of one alphabet.
  if (!isIdentity(message))
    throw new UsageError(`${String(message)} is not the id of a message: it stands in the 250 reply`);
  const cluster = await openCluster(common.state);
  const by = userInfo().username;
  const order = {
    kind: 'message',
    id: newId(),
    atMs: context.nowMs(),
    message: `${message}` as CopyId,
    action,
    by,
  } as const;
  if (!(await give(order, cluster, context))) return 1;
  const does = {
    suspend: `The owner of ${message} delivers nothing more of it until "mailcluster message resume ${message}"`,
    resume: `If ${message} is suspended, or in the queue poison, its owner delivers it again`,
  } as const;
  context.output.out(`${does[action]}; "mailcluster trace ${message}" shows it.\n`);
  return 0;
}
