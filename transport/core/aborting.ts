/**
 * The end of a search that found nobody (protocol.md 6): the abort is durable first, then everybody who was sent an END is asked, and the client hears 451 only
 * when each has durably refused. Owns: that nobody delivers what was refused.
 */
import type { CopyId } from '../../common/message.ts';
import type { Placement } from '../store/database.ts';
import { answerWaiters } from './answers.ts';
import type { Copy } from './copy.ts';
import { sendResolve } from './inquiry.ts';
import { noShadowReply } from './no-shadow.ts';
import { placementAnswered } from './ownership.ts';
import { commit, DEADLINES, dropCopy, late, note, type Placing, setTimer, type Turn, wrong } from './state.ts';
import { putTombstone } from './tombstones.ts';
import { transition } from './transitions.ts';

/** protocol.md 6b: sync the abort, then RESOLVE to everyone who was sent an END; 451 when each has durably refused. */
export function abortIntake(turn: Turn, placing: Placing, copy: Copy): void {
  const { server } = turn;
  const former = formerOwner(turn, copy);
  const asked = placing.attempts.filter(
    ({ inDoubt, status, identity }) =>
      (inDoubt || status === 'sentEnd') && !former.some((owner) => owner.identity === identity),
  );
  transition(server.coverage, 'IntakeAborted', copy.state.queue, 'primary', 'aborted');
  const placements = asked.map(
    (attempt): Placement => ({
      identity: attempt.identity,
      member: attempt.member,
      epoch: placing.epoch,
      status: 'sentEnd',
    }),
  );
  dropCopy(turn, copy);
  const durable = wrong(turn, 'abort-not-durable') ? note : commit;
  putTombstone(
    turn,
    {
      id: placing.id,
      kind: 'aborted',
      epoch: placing.epoch,
      abortedThrough: placing.epoch.try,
      recipients: null,
      digest: copy.facts.digest,
      placements: [...placements, ...former],
    },
    durable,
  );
  durable(turn, { kind: 'remove', id: placing.id });
  late(turn, {
    copy: placing.id,
    kind: 'Track',
    event: 'ABORT',
    facts: copy.facts,
    id: placing.id,
    detail: 'no shadow could be had',
  });
  placing.phase = 'aborting';
  server.placings.set(placing.id, placing);
  for (const { member, identity } of [...asked, ...former]) {
    placing.waiting.set(member, identity);
    sendResolve(turn, placing, member);
  }
  setTimer(turn, DEADLINES.resolveCapMs, 'cap', placing.id);
  if (placing.waiting.size === 0 || wrong(turn, 'late-shadow-resurrects')) abortSettled(turn, placing, 'refused');
  else answerWaiters(turn, placing.id);
}

/**
 * A lower try was held here as a shadow, and goes with this one, ours or somebody else's: its owner may count on it, go on and deliver (seed 8247). It hears so by being asked, and is
 * asked until it has said what became of its own try.
 */
export function formerOwner({ server }: Turn, { raisedFrom: identity, state: { epoch } }: Copy): Placement[] {
  const member = identity === undefined ? undefined : server.memberOf.get(identity);
  if (identity === undefined || member === undefined) return [];
  return [{ identity, member, epoch, status: 'unasked' }];
}

/** A candidate's answer to RESOLVE. */
export function resolveAnswered(turn: Turn, member: string, id: CopyId, refused: boolean): void {
  const { server } = turn;
  const identity = server.peers.get(member)?.identity;
  if (identity === undefined) return;
  const tombstone = server.tombstones.get(id);
  if (refused && tombstone?.kind === 'aborted') placementAnswered(turn, id, identity);
  const placing = server.placings.get(id);
  if (placing === undefined || placing.phase !== 'aborting' || placing.waiting.get(member) !== identity) return;
  placing.waiting.delete(member);
  if (!refused) abortSettled(turn, placing, 'silent');
  else if (placing.waiting.size === 0) abortSettled(turn, placing, 'refused');
}

/** protocol.md 6c: at the cap the connection is closed without a reply, the abort stays. */
export function resolveCapReached(turn: Turn, id: CopyId): void {
  const placing = turn.server.placings.get(id);
  if (placing?.phase === 'aborting') abortSettled(turn, placing, 'silent');
}

export function abortSettled(turn: Turn, placing: Placing, outcome: 'refused' | 'silent'): void {
  const { server } = turn;
  server.placings.delete(placing.id);
  const stream = server.intakeOf.get(placing.id);
  const intake = stream === undefined ? undefined : server.intakes.get(stream);
  if (stream !== undefined) {
    server.intakeOf.delete(placing.id);
    server.intakes.delete(stream);
  }
  if (outcome === 'refused') late(turn, { copy: null, kind: 'Count', what: 'refused', label: 'shadow' });
  if (intake?.waiting === true)
    late(turn, {
      copy: placing.id,
      kind: 'AnswerStream',
      stream: intake.stream,
      result: {
        id: placing.id,
        epoch: placing.epoch,
        outcome,
        digest: null,
        reply: outcome === 'refused' ? noShadowReply(turn, placing.attempts) : null,
      },
    });
  answerWaiters(turn, placing.id);
}
