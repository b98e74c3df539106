/** Orders to a running `mailcluster run`: written durably, then its answer is awaited. A runner that is away finds the order later. */
import { join } from 'node:path';
import { systemRandom } from '../../common/platform/random.ts';
import type { Cluster } from '../local/cluster.ts';
import { OrderBook } from '../local/order-book.ts';
import { type Order, orderFile } from '../local/orders.ts';
import { newOrderId } from '../local/overseer.ts';
import { statePaths } from '../local/state-directory.ts';
import type { CommandContext } from './command.ts';

const LOOK_MS = 100;
/** A runner looks every half second; what it does then may take the stop of a process. */
const PATIENCE_MS = 30_000;

export const newId = (): string => newOrderId(systemRandom);

/** True when it is in force; else what is wrong was said. */
export const give = (order: Order, cluster: Cluster, context: CommandContext): Promise<boolean> =>
  giveAll([order], cluster, context);

/** All of them are written before the first answer is awaited: they come into force together, or nearly so. True when each is. */
export async function giveAll(orders: readonly Order[], cluster: Cluster, context: CommandContext): Promise<boolean> {
  const paths = statePaths(cluster.run.state);
  const { err } = context.output;
  const book = new OrderBook(paths, (line) => err(`${line}\n`));
  for (const order of orders) await book.write(order);
  let isFine = true;
  let waitedMs = 0;
  for (const order of orders) {
    let answer = await book.answerTo(order.id);
    while (answer === null && waitedMs < PATIENCE_MS) {
      await context.pause(LOOK_MS);
      waitedMs += LOOK_MS;
      answer = await book.answerTo(order.id);
    }
    if (answer === null) {
      err(
        `"mailcluster run" (process ${cluster.run.pid}) has not answered in ${PATIENCE_MS / 1_000} s. The order is kept in ${join(paths.orders, orderFile(order))} and comes into force as soon as it runs; remove that file to take it back.\n`,
      );
      return false;
    }
    if (answer.ok) continue;
    isFine = false;
    await book.forgetAnswer(order.id);
    err(`Refused: ${answer.text}.\n`);
  }
  return isFine;
}
