/**
 * The new copy a resubmission makes (protocol.md 19, 20; semantics.md N3, N5). Owns: that one id is made once, that it has only the selected recipients, as they
 * were resolved, and that it goes its way like any message: delivered at once, given a shadow, never reported about.
 */
import type { CopyId, RecipientState } from '../../common/message.ts';
import type { CopyFacts, CopyState } from '../store/database.ts';
import { deliveryIdOf, newCopy } from './copy.ts';
import { beginDoubt } from './doubt.ts';
import { settle } from './ownership.ts';
import { createPrimary, reshadow } from './placing.ts';
import type { Selected } from './resubmit-match.ts';
import { addError, type CopyingBody, type Item, type Run, unreadable } from './resubmit-run.ts';
import { early, late, needsShadow, type Turn, trustedNow, wrong } from './state.ts';
import { transition } from './transitions.ts';

/** What is live here under this id, or was finished, needs no other copy. */
const isKnown = ({ server }: Turn, id: CopyId): boolean =>
  server.copies.has(id) || server.tombstones.get(id)?.kind === 'final' || server.resubmissions.copying.has(id);

export function make(turn: Turn, run: Run, item: Item): void {
  const { stored, selected } = item;
  if (run.again === null) run.counts.selected += 1;
  if (run.request.dryRun) return;
  for (const one of selected) {
    if (isKnown(turn, one.id)) present(run, run.again);
    else copyBody(turn, run, item, one);
  }
  const { queue } = stored.state;
  transition(turn.server.coverage, 'ResubmitRequested', queue, item.role, queue);
}

function copyBody(turn: Turn, run: Run, { stored, role }: Item, { id, indexes }: Selected): void {
  const from = stored.facts;
  const recipients = indexes.map((index) => stored.state.recipients?.[index]?.address ?? '');
  const facts: CopyFacts = {
    id,
    ancestor: wrong(turn, 'ancestor-forgotten') ? null : deliveryIdOf(from),
    kind: wrong(turn, 'dsn-from-resubmission') ? 'message' : 'resubmission',
    envelope: {
      ...from.envelope,
      recipients: indexes.map(
        (index, place) => from.envelope.recipients[index] ?? { address: recipients[place] ?? '' },
      ),
    },
    digest: from.digest,
    sizeBytes: from.sizeBytes,
    acceptedAtMs: trustedNow(turn),
    takenFrom: null,
    events: from.events,
  };
  run.copying += 1;
  turn.server.resubmissions.copying.set(id, { run, from: from.id, role, again: run.again, facts, recipients });
  early(turn, { kind: 'CopyBody', id, from: from.id });
}

/** What an earlier walk of this life counted is not counted again. */
function present(run: Run, again: Run['again']): void {
  if (again === null) run.counts.present += 1;
}

function take(turn: Turn, id: CopyId): CopyingBody | null {
  const { copying } = turn.server.resubmissions;
  const body = copying.get(id);
  if (body === undefined) return null;
  copying.delete(id);
  body.run.copying -= 1;
  return body;
}

export interface CopiedBody {
  readonly stream: number;
  readonly id: CopyId;
  readonly digest: string;
  readonly sizeBytes: number;
}

export function bodyArrived(turn: Turn, { stream, id, digest, sizeBytes }: CopiedBody): void {
  const body = take(turn, id);
  const isWanted = body !== null && body.run.stage !== 'stopped';
  // Another maker's came while ours was being copied.
  if (!isWanted || isKnown(turn, id) || digest !== body.facts.digest) {
    early(turn, { kind: 'DiscardBody', stream });
    if (isWanted && digest !== body.facts.digest) unreadable(body.run, body.from);
    else if (isWanted) present(body.run, body.again);
    return;
  }
  create(turn, body, { ...body.facts, sizeBytes }, stream);
}

export function bodyMissing(turn: Turn, id: CopyId, reason: 'atRest' | 'unreadable'): void {
  const body = take(turn, id);
  if (body === null) return;
  if (reason === 'atRest') present(body.run, body.again);
  else unreadable(body.run, body.from);
}

function create(turn: Turn, body: CopyingBody, facts: CopyFacts, stream: number): void {
  const { server } = turn;
  const { run, role } = body;
  const { id } = facts;
  const copy = newCopy(facts, stateFor(turn, body.recipients));
  createPrimary(turn, copy, stream);
  run.made.add(id);
  needsShadow(server, id);
  count(run, body);
  late(turn, { copy: null, kind: 'Count', what: 'resubmitted', label: role });
  const detail = `of ${body.from} for ${run.request.name}`;
  late(turn, { copy: id, kind: 'Track', event: 'RESUBMIT', facts, id, detail, parent: body.from });
  reshadow(turn);
  // Another member may have made it too: one of the two owns it (protocol.md section 1).
  beginDoubt(turn, copy, 'reachable');
  // Nobody waits for a 250, and what it is made from rests on two databases: it need not wait for its shadow.
  settle(turn, copy);
}

function count({ counts }: Run, { role, again }: CopyingBody): void {
  if (role === 'primary') counts.byPrimary += 1;
  else counts.byShadow += 1;
  if (again === 'arrivals') counts.selected += 1;
  // Its owner answered for it, and is gone now.
  else if (again === 'orphans') counts.covered = Math.max(0, counts.covered - 1);
}

const stateFor = (turn: Turn, recipients: readonly string[]): CopyState => ({
  queue: 'submission',
  epoch: { try: 1, term: 0, owner: turn.server.me },
  standing: 'released',
  abortedThrough: 0,
  // protocol.md 18: who has them never expands again.
  recipients: recipients.map((address): RecipientState => ({ address, outcome: 'pending' })),
  placements: [],
  ageMs: 0,
  finalAtMs: null,
  unprotected: 'not yet placed',
  suspended: false,
  crashCount: 0,
  delayed: false,
  dsns: [],
  attempts: 0,
});

/** Entries of a page that the store could not give. */
export function unreadableEntries(run: Run, count: number): void {
  if (count === 0) return;
  run.counts.failed += count;
  addError(run, 'entries of the Safety Net cannot be read');
}
