/**
 * One look at one MailCluster: gather -> plan -> carry out -> status (kubernetes.md K1). Owns: that order, what a failure means for the next look, and what is
 * said about it in events, log and metrics. Promise: nothing is planned from a snapshot older than our own last writes; a failed action
 * ends the look, its text stands in `Progressing`, and it is tried again with a growing pause; no cluster waits for another one's: a look that has
 * written for a while (`carry-out.ts`) ends, and the next one goes on.
 */
import type { Clock } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import { type Plan, type PlannedEvent, reliesOnAnswers } from './actions.ts';
import { type CarryOut, type Failed, failureText } from './carry-out.ts';
import type { Gatherer } from './gather.ts';
import type { Gathered } from './gathered.ts';
import type { Events } from './kube/events.ts';
import { MAIL_CLUSTER } from './kube/kinds.ts';
import { nameOf } from './kube/kube-object.ts';
import type { WorkOutcome } from './kube/work-queue.ts';
import type { MemberPoll } from './member-poll.ts';
import { plan } from './plan.ts';
import { CONDITIONS } from './reasons.ts';
import type { MailClusterStatus } from './resource/generated.ts';
import type { Owner } from './resources/names.ts';
import { UnsaidEvents } from './unsaid-events.ts';
import type { Unseen } from './unseen.ts';

export interface ReconcileSide {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly gatherer: Pick<Gatherer, 'gather'>;
  readonly carryOut: CarryOut;
  readonly poll: Pick<MemberPoll, 'follow' | 'forget' | 'hasAsked' | 'hasten' | 'isFresh' | 'askEverybody'>;
  readonly unseen: Unseen;
  readonly events: Pick<Events, 'say'>;
  /** The cluster is gone: what was kept for it goes too. */
  forgotten(key: string): void;
}

/** The caches are a few milliseconds behind. */
const UNSEEN_MS = 50;
/** Members answer in a moment; one that does not costs the deadline of the poll. */
const UNASKED_MS = 50;
/** The answers make the cluster due themselves; should they not come. */
const UNANSWERED_MS = 10_000;
/** After a failure that time alone may heal. */
const CONFLICT_MS = 100;

export class Reconciler {
  readonly #side: ReconcileSide;
  readonly #statusAtMs = new Map<string, number>();
  /** What failed last, by key, so that the status says it until it is done. */
  readonly #failures = new Map<string, string>();
  readonly #unsaid = new UnsaidEvents();

  constructor(side: ReconcileSide) {
    this.#side = side;
  }

  statusWrittenAtMs(key: string): number | null {
    return this.#statusAtMs.get(key) ?? null;
  }

  async reconcile(key: string): Promise<WorkOutcome> {
    const { clock, metrics, unseen, poll } = this.#side;
    if (unseen.isWaiting(key)) return { kind: 'again', afterMs: UNSEEN_MS };
    const startMs = clock.monotonicMs();
    const gathered = await this.#side.gatherer.gather(key);
    if (gathered === null) {
      poll.forget(key);
      this.#statusAtMs.delete(key);
      this.#failures.delete(key);
      this.#unsaid.forget(key);
      this.#side.forgotten(key);
      this.#showConditions(key, null);
      return { kind: 'done' };
    }
    poll.follow(key);
    // A leader that has just begun would take everybody for silent: not ready, budgets closed.
    if (!poll.hasAsked(key)) return { kind: 'again', afterMs: UNASKED_MS };
    const planned = plan(gathered);
    if (planned.actions.some(reliesOnAnswers) && !poll.isFresh(key)) {
      poll.askEverybody(key);
      return { kind: 'again', afterMs: UNANSWERED_MS };
    }
    if (planned.actions.length > 0 || planned.status !== null) poll.hasten(key);
    const outcome = await this.#carryOut(key, gathered, planned);
    metrics.observe('reconcile_duration_seconds', (clock.monotonicMs() - startMs) / 1000);
    metrics.increment('reconcile_total', { result: outcome.kind });
    return outcome;
  }

  async #carryOut(key: string, gathered: Gathered, planned: Plan): Promise<WorkOutcome> {
    const { namespace = '', name } = nameOf(key);
    const owner: Owner = { name, namespace, uid: gathered.cluster.metadata.uid ?? '' };
    this.#log(key, planned);
    const carried = await this.#side.carryOut.all(owner, planned.actions);
    this.#say(gathered, this.#unsaid.after(key, planned.events, carried === 'done'));
    // Its status would tell of what is not done yet.
    if (carried === 'later') return { kind: 'again', afterMs: UNSEEN_MS };
    const failure = carried === 'done' ? null : failureText(carried);
    const status = withFailure(planned.status ?? gathered.cluster.status, gathered.cluster.status, failure);
    this.#showConditions(key, status);
    if (status !== null && (planned.status !== null || failure !== (this.#failures.get(key) ?? null)))
      await this.#writeStatus(key, owner, status);
    if (failure === null) this.#failures.delete(key);
    else this.#failures.set(key, failure);
    return carried === 'done' ? again(planned) : this.#failed(key, gathered, carried);
  }

  /** Of a MailCluster that is gone nothing can be said. */
  #showConditions(key: string, status: MailClusterStatus | null): void {
    const { metrics } = this.#side;
    for (const type of CONDITIONS) {
      const found = status?.conditions?.find((one) => one.type === type);
      const value = found === undefined ? Number.NaN : Number(found.status === 'True');
      metrics.set('condition', value, { mailcluster: key, type });
    }
  }

  async #writeStatus(key: string, owner: Owner, status: MailClusterStatus): Promise<void> {
    const written = await this.#side.carryOut.status(MAIL_CLUSTER, owner, owner.name, owner.uid, status);
    if (written.ok) this.#statusAtMs.set(key, this.#side.clock.wallMs());
    // The next look computes it again.
    else this.#side.log.warn({ cluster: key, failure: written.failure }, 'status not written');
  }

  #failed(key: string, gathered: Gathered, failed: Failed): WorkOutcome {
    const { log } = this.#side;
    const { failure, action } = failed;
    const reason = failureText(failed);
    switch (failure.kind) {
      // Somebody was faster than our cache: what is there now decides.
      case 'conflict':
      case 'alreadyExists':
      case 'notFound':
        log.info({ cluster: key, action, failure }, 'changed meanwhile, looking again');
        return { kind: 'retry', reason, afterMs: CONFLICT_MS };
      case 'fenced':
      case 'stopped':
        return { kind: 'done' };
      case 'tooManyRequests':
        return { kind: 'retry', reason, ...(failure.retryAfterMs === null ? {} : { afterMs: failure.retryAfterMs }) };
      case 'namespaceTerminating':
        return { kind: 'retry', reason };
      default:
        log.warn({ cluster: key, action, failure }, 'action failed');
        this.#say(gathered, [{ type: 'Warning', reason: 'ActionFailed', message: reason, about: null }]);
        return { kind: 'retry', reason };
    }
  }

  #say({ cluster }: Gathered, events: readonly PlannedEvent[]): void {
    const { namespace = '', name, uid } = cluster.metadata;
    const own = { apiVersion: 'mailcluster.dev/v1alpha1', kind: 'MailCluster', name };
    for (const { type, reason, message, about } of events) {
      const { apiVersion, kind, name: itsName } = about ?? own;
      const metadata = { namespace, name: itsName, ...(about === null && uid !== undefined ? { uid } : {}) };
      this.#side.events.say({ apiVersion, kind, metadata }, { type, reason, action: 'Reconcile', note: message });
    }
  }

  #log(key: string, { actions, outcomes }: Plan): void {
    const { log, metrics } = this.#side;
    for (const action of actions)
      if (action.kind === 'restartPod') metrics.increment('restarts_total', { reason: action.reason });
    if (actions.length === 0) return;
    log.info({ cluster: key, actions: actions.map(({ kind }) => kind), outcomes }, 'carrying out');
  }
}

const again = ({ requeueAfterMs }: Plan): WorkOutcome =>
  requeueAfterMs === null ? { kind: 'done' } : { kind: 'again', afterMs: requeueAfterMs };

/**
 * The text of a failed action where people look first. What the status remembers of members stays: a new identity or volume must not be noted there before
 * the loss of the former one is in the topology document.
 */
function withFailure(
  status: MailClusterStatus | null,
  former: MailClusterStatus | null,
  failure: string | null,
): MailClusterStatus | null {
  if (status === null || failure === null) return status;
  const { members: _members, ...rest } = status;
  const conditions = (status.conditions ?? []).map((one) =>
    one.type === 'Progressing' ? { ...one, status: 'False' as const, reason: 'ActionFailed', message: failure } : one,
  );
  return { ...rest, conditions, ...(former?.members === undefined ? {} : { members: former.members }) };
}
