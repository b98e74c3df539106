/** The copies of one message in full, as its holders tell of them. Owns: that question to all members, under every id that the message has in transit. */
import { gather } from '../local/cluster.ts';
import { isIdentity } from '../local/orders.ts';
import type { MessageDetailAnswer } from './answers.ts';
import { idOf, meantBy } from './message-id.ts';
import type { Members } from './place.ts';

export async function findCopies(
  cluster: Members,
  id: string,
): Promise<ReturnType<typeof gather<MessageDetailAnswer>>> {
  return gather(await cluster.askAll<MessageDetailAnswer>(`/v1/messages/${encodeURIComponent(id)}`));
}

/** Also in transit under another id, where it crossed to. */
export async function findAllCopies(
  cluster: Members,
  id: string,
): Promise<ReturnType<typeof gather<MessageDetailAnswer>>> {
  const own = await findCopies(cluster, id);
  const meant = isIdentity(id) ? (await meantBy(cluster, id)).messages.map(idOf) : [];
  const crossed = meant.filter((one) => `${one}` !== `${id}`);
  const found = [own, ...(await Promise.all(crossed.map((one) => findCopies(cluster, one))))];
  const silent = new Map(found.flatMap(({ unreachable }) => unreachable).map((one) => [one.member, one]));
  return { answers: found.flatMap(({ answers }) => answers), unreachable: [...silent.values()] };
}
