/**
 * `mailcluster queue suspend|resume|retry`: what a person decides about a delivery queue of every transport, as an order document. Decides nothing: the runner refuses
 * a queue that cannot be, every transport carries it out and records who ordered it. Exit 1 when it was refused or not answered.
 */
import { userInfo } from 'node:os';
import type { QueueOrder } from '../../common/config.ts';
import { openCluster } from '../local/cluster.ts';
import { type CommandContext, parse, UsageError } from './command.ts';
import { give, newId } from './ordering.ts';

/** It becomes the name of a file. */
const MOST_CHARACTERS = 200;

export async function orderQueue(
  action: QueueOrder['action'],
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  const { common, positionals } = parse(args, context, {}, [1, 1]);
  const [queue = ''] = positionals;
  if (queue === '' || encodeURIComponent(queue).length > MOST_CHARACTERS)
    throw new UsageError(
      `a delivery queue as "queue list" names it, of at most ${MOST_CHARACTERS} characters, not ${queue}`,
    );
  const cluster = await openCluster(common.state);
  const id = newId();
  const order = { kind: 'queue', id, atMs: context.nowMs(), queue, action, by: userInfo().username } as const;
  if (!(await give(order, cluster, context))) return 1;
  const does = {
    suspend: `Nothing leaves queue ${queue} of any transport until "mailcluster queue resume ${queue}"; what is being delivered comes to its end`,
    resume: `Queue ${queue} goes on at every transport`,
    retry: `Every transport tries queue ${queue} now, and each message that was put off there`,
  } as const;
  context.output.out(`${does[action]}; "mailcluster trace ${id}" shows who has done it.\n`);
  return 0;
}
