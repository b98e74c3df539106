/**
 * protocol.md 6e: a front end asks for a try of which nothing is known here. Before a restart we may have sent its END to anybody, so all members must have
 * durably refused before "aborted" may be said. Owns: these questions; the tombstone is durable before they leave.
 */
import type { CopyId } from '../../common/message.ts';
import { answerWaiters } from './answers.ts';
import { late, setTimer, type Turn } from './state.ts';

/** Longer than any front end waits (protocol.md 5: 55 s, reply bound 60 s). */
const INQUIRY_MS = 60_000;

export function askEverybody(turn: Turn, id: CopyId, through: number): void {
  const { server } = turn;
  const waiting = new Set(server.boundary.map((member) => member.name));
  if (waiting.size === 0) return;
  server.inquiries.set(id, { through, waiting });
  for (const member of waiting) if (server.peers.has(member)) ask(turn, id, through, member);
  setTimer(turn, INQUIRY_MS, 'inquiry', id);
}

function ask(turn: Turn, id: CopyId, through: number, member: string): void {
  const resolve = { id, through, deadlineMs: INQUIRY_MS };
  late(turn, { copy: id, kind: 'Send', to: member, frame: { kind: 'RESOLVE', resolve } });
}

/** A member is back: it is asked again. */
export function repeatInquiries(turn: Turn, member: string): void {
  for (const [id, inquiry] of turn.server.inquiries)
    if (inquiry.waiting.has(member)) ask(turn, id, inquiry.through, member);
}

export function inquiryAnswered(turn: Turn, member: string, id: CopyId, refused: boolean): void {
  const inquiry = turn.server.inquiries.get(id);
  // Who holds it stays in `waiting`: then the front end closes without a reply.
  if (inquiry === undefined || !refused || !inquiry.waiting.delete(member) || inquiry.waiting.size > 0) return;
  turn.server.inquiries.delete(id);
  answerWaiters(turn, id);
}
