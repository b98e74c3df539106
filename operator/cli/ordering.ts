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
export async function give(order: Order, cluster: Cluster, context: CommandContext): Promise<boolean> {
  const paths = statePaths(cluster.run.state);
  const { err } = context.output;
  const book = new OrderBook(paths, (line) => err(`${line}\n`));
  await book.write(order);
  for (let waitedMs = 0; waitedMs < PATIENCE_MS; waitedMs += LOOK_MS) {
    const answer = await book.answerTo(order.id);
    if (answer !== null) {
      if (!answer.ok) {
        await book.forgetAnswer(order.id);
        err(`Refused: ${answer.text}.\n`);
      }
      return answer.ok;
    }
    await context.pause(LOOK_MS);
  }
  err(
    `"mailcluster run" (process ${cluster.run.pid}) has not answered in ${PATIENCE_MS / 1_000} s. The order is kept in ${join(paths.orders, orderFile(order))} and comes into force as soon as it runs; remove that file to take it back.\n`,
  );
  return false;
}
