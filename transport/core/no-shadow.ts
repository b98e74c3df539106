/**
 * What the client hears when no shadow could be had (semantics.md R4, R10): 452 4.3.1 with the resource where members have no room for it and nothing else is wrong,
 * so that whoever reads it looks at the right volume; else 451 4.4.0. Both mean "try again", and nobody holds the message.
 */
import type { Reply } from '../../common/message.ts';
import { lackedByAll } from '../../common/peer/lacking.ts';
import { reply } from '../../common/smtp/replies.ts';
import type { Attempt, Turn } from './state.ts';

const NO_ROOM = reply('backPressure', { resource: '' });
const isNoRoom = (said: Reply): boolean => said.code === NO_ROOM.code && said.enhanced === NO_ROOM.enhanced;

export function noShadowReply({ server }: Turn, attempts: readonly Attempt[]): Reply {
  const said = attempts.map(({ refusal }) => refusal ?? null);
  if (said.some((one) => one === null || !isNoRoom(one))) return reply('shadowFailure');
  const last = said.at(-1);
  if (last != null) return last;
  const members = server.boundary.filter(({ state }) => state === 'active');
  const lacking = lackedByAll(members.flatMap(({ name }) => server.peers.get(name)?.load ?? []));
  return lacking === null ? reply('shadowFailure') : reply('backPressure', { resource: lacking });
}
