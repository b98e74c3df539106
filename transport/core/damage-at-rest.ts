/**
 * Copies at rest whose bytes are damaged (rows 38, 39; protocol.md 29): they count as lost and are fetched again from whoever else has them, in the
 * background. Owns: that such a copy comes back as what it was - its place in time, its owner, its homes - and that a disk that is dying does not fill the
 * memory: what is beyond the bound is found by the next pass of the scrub.
 */
import type { CopyId, Reply } from '../../common/message.ts';
import type { TrackingEvent } from '../../common/peer/messages.ts';
import { reply } from '../../common/smtp/replies.ts';
import type { CopyFacts, CopyState, StoredCopy } from '../store/database.ts';
import { freshState, roleOf } from './copy.ts';
import { ANY_DIGEST, askFor } from './damage.ts';
import type { ShadowOpening } from './intake.ts';
import { finalAt } from './resting.ts';
import { cameToRest } from './resubmission.ts';
import { commit, early, type IncomingShadow, late, type Turn, trustedNow, wrong } from './state.ts';
import { transition } from './transitions.ts';

const MAX_RESTING = 1_000;

/** Asked for at once; found again by every pass until it is mended. */
export function restingDamaged(turn: Turn, id: CopyId, stored: StoredCopy | null): void {
  const { server } = turn;
  const known = server.damaged.get(id);
  if (server.copies.has(id) || wrong(turn, 'damage-at-rest-ignored')) return;
  if (known !== undefined) {
    server.damaged.set(id, { ...known, seenMs: turn.nowMs });
    return;
  }
  let resting = 0;
  for (const { seenMs } of server.damaged.values()) if (seenMs !== undefined) resting += 1;
  if (resting >= MAX_RESTING) return;
  const digest = stored?.facts.digest ?? ANY_DIGEST;
  server.damaged.set(id, { sinceMs: turn.nowMs, digest, seenMs: turn.nowMs });
  const queue = stored?.state.queue ?? 'shadowSafetyNet';
  transition(
    server.coverage,
    'Quarantined',
    queue,
    stored === null ? 'shadow' : roleOf(stored.state, server.me),
    queue,
  );
  late(turn, { copy: null, kind: 'Count', what: 'quarantined' });
  late(turn, { copy: id, kind: 'Track', event: 'QUARANTINE', facts: stored?.facts ?? null, id, detail: 'at rest' });
  askFor(turn, id, digest);
}

/** What the pass did not meet again has expired, was handed over, or was written anew. */
export function scrubPassed(turn: Turn, sinceMs: number): void {
  const { damaged } = turn.server;
  for (const [id, { seenMs }] of damaged) if (seenMs !== undefined && seenMs < sinceMs) damaged.delete(id);
}

/** True when the stream is about a damaged copy at rest. `stored` was looked up just now. */
export function refetchAtRestOpened(turn: Turn, opening: ShadowOpening, refuse: (said: Reply) => void): boolean {
  const { server } = turn;
  const damage = server.damaged.get(opening.id);
  if (damage?.seenMs === undefined || server.copies.has(opening.id)) return false;
  const { digest } = opening.state;
  const isWanted = opening.purpose !== 'shadow' && (opening.state.final || opening.stored !== null);
  if (!isWanted || (damage.digest !== ANY_DIGEST && damage.digest !== digest)) return false;
  for (const other of server.incoming.values())
    if (other.id === opening.id) {
      refuse(reply('backPressure', { resource: 'busy' }));
      return true;
    }
  const rests = opening.stored?.facts.digest === digest ? opening.stored : null;
  server.incoming.set(opening.stream, { ...opening, isRefetch: true, rests });
  early(turn, { kind: 'AcceptStream', stream: opening.stream });
  return true;
}

/** Row 39: the same bytes again, at rest again; the state stays what it is as far as that can be read. */
export function refetchedAtRest(
  turn: Turn,
  opening: IncomingShadow,
  digest: string,
  sizeBytes: number,
  events: readonly TrackingEvent[],
  stream: number,
): boolean {
  const { server } = turn;
  const { id, rests } = opening;
  const damage = server.damaged.get(id);
  if (rests === undefined || damage?.seenMs === undefined || server.copies.has(id)) return false;
  if (digest !== opening.state.digest) return false;
  server.damaged.delete(id);
  const facts =
    rests !== null && rests.damaged === undefined
      ? rests.facts
      : factsOf(turn, opening, rests, digest, sizeBytes, events);
  const state = rests?.state ?? stateOf(turn, opening);
  const queue = state.queue === 'primarySafetyNet' ? 'submission' : 'shadow';
  transition(server.coverage, 'Refetched', state.queue, roleOf(state, server.me), state.queue);
  // Who has it at rest does not hold it in transit (protocol.md 8): should only this record reach the disk, it counts on nobody (seed 4893).
  commit(turn, { kind: 'commit', facts, state: { ...state, queue, placements: [] }, stream });
  commit(turn, { kind: 'move', id, state });
  cameToRest(turn, { facts, state });
  late(turn, { copy: null, kind: 'Count', what: 'refetched' });
  late(turn, { copy: id, kind: 'Track', event: 'REFETCH', facts, id, peer: opening.member, detail: 'at rest' });
  return true;
}

/** The COMMIT record is what was damaged: the sender's word, with what the last record still says. */
function factsOf(
  turn: Turn,
  opening: IncomingShadow,
  rests: StoredCopy | null,
  digest: string,
  sizeBytes: number,
  events: readonly TrackingEvent[],
): CopyFacts {
  const { identity, openCounter, nonce, state } = opening;
  return {
    id: opening.id,
    ancestor: rests?.facts.ancestor ?? state.ancestor,
    kind: rests?.facts.kind ?? state.kind,
    envelope: opening.envelope,
    digest,
    sizeBytes,
    acceptedAtMs: trustedNow(turn),
    takenFrom: { identity, openCounter, nonce },
    events,
  };
}

/** The last record is what was damaged. */
function stateOf(turn: Turn, opening: IncomingShadow): CopyState {
  const { epoch, recipients, abortedThrough } = opening.state;
  return freshState({
    queue: epoch.owner === turn.server.me ? 'primarySafetyNet' : 'shadowSafetyNet',
    epoch,
    standing: 'released',
    abortedThrough,
    recipients,
    finalAtMs: finalAt(turn, opening.member, recipients ?? []),
  });
}
