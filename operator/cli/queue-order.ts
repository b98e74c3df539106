/**
 * `queue suspend|resume|retry`: what a person decides about a delivery queue of every transport, as an order. Decides nothing: the runner, or the operator, refuses
 * a queue that cannot be, every transport carries it out and records who ordered it. Exit 1 when it was refused or not answered.
 */
import type { QueueOrder } from '../../common/config.ts';
import { type CommandContext, openOrders, parse, UsageError } from './command.ts';
import { json } from './output.ts';

/** It becomes the name of a file. */
const MOST_CHARACTERS = 200;

export async function orderQueue(
  action: QueueOrder['action'],
  args: readonly string[],
  context: CommandContext,
): Promise<number> {
  const parsed = parse(args, context, {}, [1, 1]);
  const [queue = ''] = parsed.positionals;
  if (queue === '' || encodeURIComponent(queue).length > MOST_CHARACTERS)
    throw new UsageError(
      `a delivery queue as "queue list" names it, of at most ${MOST_CHARACTERS} characters, not ${queue}`,
    );
  const desk = await openOrders(parsed, context);
  const given = await desk.give([{ kind: 'queue', queue, action }]);
  if (given === null) return 1;
  const { program } = context.place;
  const does = {
    suspend: `Nothing leaves queue ${queue} of any transport until "${program} queue resume ${queue}"; what is being delivered comes to its end`,
    resume: `Queue ${queue} goes on at every transport`,
    retry: `Every transport tries queue ${queue} now, and each message that was put off there`,
  } as const;
  if (parsed.common.format === 'json') context.output.out(json({ queue, action, order: given[0] }));
  else context.output.out(`${does[action]}; "${program} trace ${given[0]}" shows who has done it.\n`);
  return 0;
}
