/**
 * At most one operator writes. Owns: our candidacy for one Lease, and the fence every write goes through. Promises: `write` hands out the
 * moment after which the call must not be sent and is given up, or refuses; two operators never both have a moment in the future (the
 * argument is in `lease-record.ts`); `stop` lets writes under way end, then releases the lease, so that the next takes over at once.
 * Candidacy never ends by itself: whoever loses the lease runs for it again. Fails closed: no API server, no renewals, no writes.
 *
 * What remains: a process that is stopped (SIGSTOP, a paused machine) between asking the clock and handing bytes to the kernel may send them
 * when it wakes. That is the time between two instructions; the API server has no fencing tokens to close it.
 */
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { type Random, randomFraction } from '../../common/platform/random.ts';
import type { CallOptions, KubeApi } from './api.ts';
import { describeFailure, fail, type KubeResult } from './failures.ts';
import { LEASE } from './kinds.ts';
import type { ObjectName } from './kube-object.ts';
import {
  heldLease,
  LEASE_TIMES,
  type Lease,
  type LeaseMove,
  type LeaseTimes,
  nextMove,
  type Observed,
  observe,
  releasedLease,
} from './lease-record.ts';
import { pause } from './pause.ts';

export interface LeaderOptions {
  readonly api: KubeApi;
  readonly lease: ObjectName;
  /** Unique per process, not per pod: a restarted container is somebody else. */
  readonly identity: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly times?: LeaseTimes;
  /** Called at every change, in order. */
  readonly changed?: (mayWrite: boolean) => void;
}

/** Nothing may be written. */
const NEVER = Number.NEGATIVE_INFINITY;

export class Leader {
  readonly #options: LeaderOptions;
  readonly #times: LeaseTimes;
  readonly #stop = new AbortController();
  #loop: Promise<void> | null = null;
  #observed: Observed | null = null;
  /** Writes may be sent from and until then. */
  #fromMs = NEVER;
  #untilMs = NEVER;
  /** Until then a holder of a record that vanished may still write. */
  #settledAtMs = NEVER;
  /** We sent a create and do not know what became of it. */
  #isCreatePending = false;
  #wasWriting = false;
  #writes = 0;
  #quiet: (() => void) | null = null;

  constructor(options: LeaderOptions) {
    this.#options = options;
    this.#times = options.times ?? LEASE_TIMES;
  }

  /** By our own clock now, whatever timers have run. */
  get mayWrite(): boolean {
    const nowMs = this.#options.clock.monotonicMs();
    return nowMs >= this.#fromMs && nowMs < this.#untilMs;
  }

  /** Makes the call with its last moment, or fails with `fenced`. */
  async write<T>(call: (options: Pick<CallOptions, 'notAfterMs'>) => Promise<KubeResult<T>>): Promise<KubeResult<T>> {
    if (!this.mayWrite || this.#stop.signal.aborted)
      return fail({ kind: 'fenced', code: 0, message: 'this operator does not hold the lease' });
    this.#writes += 1;
    try {
      return await call({ notAfterMs: this.#untilMs });
    } finally {
      this.#writes -= 1;
      if (this.#writes === 0) this.#quiet?.();
    }
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  async stop(): Promise<void> {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    await this.#loop;
    // Every write ends by its last moment, so this does, too.
    if (this.#writes > 0) await new Promise<void>((resolve) => (this.#quiet = resolve));
    const wasHeld = this.#untilMs !== NEVER;
    this.#close();
    if (wasHeld) await this.#release();
  }

  async #run(): Promise<void> {
    const { clock, random } = this.#options;
    while (!this.#stop.signal.aborted) {
      await this.#tryOnce();
      this.#report();
      // A fifth of it chance: two candidates do not stay in step.
      await this.#pauseAndReport(clock, this.#times.retryMs * (0.9 + randomFraction(random) / 5));
    }
  }

  /** The moments at which writing begins and ends fall between two tries. */
  async #pauseAndReport(clock: Clock, delayMs: number): Promise<void> {
    const endMs = clock.monotonicMs() + delayMs;
    for (const atMs of [this.#fromMs, this.#untilMs]) {
      const leftMs = atMs - clock.monotonicMs();
      if (leftMs <= 0 || clock.monotonicMs() + leftMs > endMs) continue;
      await pause(clock, leftMs, this.#stop.signal);
      this.#report();
    }
    await pause(clock, endMs - clock.monotonicMs(), this.#stop.signal);
  }

  async #tryOnce(): Promise<void> {
    const { api, clock, identity, lease: name } = this.#options;
    const read = await api.get<Lease>(LEASE, name, this.#callOptions());
    if (this.#stop.signal.aborted) return;
    if (!read.ok && read.failure.kind !== 'notFound') {
      this.#note('lease not read', describeFailure(read.failure));
      return;
    }
    const lease = read.ok ? read.value : null;
    const nowMs = clock.monotonicMs();
    this.#observed = lease === null ? null : observe(this.#observed, lease, nowMs);
    const move = nextMove(lease, this.#observed, identity, this.#times, nowMs);
    // Whatever is there instead of our record: we do not lead by it.
    if (move.kind !== 'renew') this.#close();
    if (move.kind !== 'wait') await this.#put(move, lease);
  }

  async #put(move: LeaseMove, lease: Lease | null): Promise<void> {
    const { api, clock, identity, lease: name } = this.#options;
    const sentMs = clock.monotonicMs();
    const record = heldLease(lease, { ...name, me: identity, times: this.#times, wallMs: clock.wallMs() });
    if (move.kind === 'create') this.#isCreatePending = true;
    const written =
      move.kind === 'create'
        ? await api.create<Lease>(LEASE, record, this.#callOptions())
        : await api.replace<Lease>(LEASE, record, this.#callOptions());
    if (!written.ok) {
      const { failure } = written;
      // Somebody changed the record between our two calls; the next try sees who.
      if (failure.kind === 'conflict' || failure.kind === 'notFound') this.#close();
      if (!('perhapsDone' in failure && failure.perhapsDone)) this.#isCreatePending = false;
      this.#note('lease not written', describeFailure(failure));
      return;
    }
    const answeredMs = clock.monotonicMs();
    this.#observed = observe(this.#observed, written.value, answeredMs);
    if (this.#isCreatePending) {
      // Perhaps there was a holder whose record vanished: it may write for a while yet. Nobody can tell, so we wait.
      this.#settledAtMs = answeredMs + this.#times.leaseDurationMs;
      this.#isCreatePending = false;
    }
    // A closed fence and a record that is ours by its version: nobody else led since we took it.
    if (this.#untilMs === NEVER) this.#fromMs = Math.max(sentMs, this.#settledAtMs);
    this.#untilMs = sentMs + this.#times.renewDeadlineMs;
  }

  async #release(): Promise<void> {
    const { api, identity, clock, lease: name } = this.#options;
    const options: CallOptions = { deadlineMs: this.#times.retryMs, retries: 0, isUrgent: true };
    const read = await api.get<Lease>(LEASE, name, options);
    if (!read.ok || read.value.spec?.holderIdentity !== identity) return;
    const released = await api.replace(LEASE, releasedLease(read.value, identity, clock.wallMs()), options);
    if (!released.ok) this.#note('lease not released', describeFailure(released.failure));
  }

  /** Short, without the client's own retries: trying again is this loop's business. */
  #callOptions(): CallOptions {
    const deadlineMs = Math.max(this.#times.retryMs, this.#times.renewDeadlineMs / 2);
    // Not cut short by `stop`: an answer we did not wait for would leave a record we could not release.
    return { deadlineMs, retries: 0, isUrgent: true };
  }

  #close(): void {
    this.#fromMs = NEVER;
    this.#untilMs = NEVER;
    this.#report();
  }

  #report(): void {
    const { metrics, changed, log, identity } = this.#options;
    const { mayWrite } = this;
    if (mayWrite === this.#wasWriting) return;
    this.#wasWriting = mayWrite;
    metrics.set('leader', mayWrite ? 1 : 0);
    log.info({ identity, mayWrite }, 'lease');
    changed?.(mayWrite);
  }

  #note(what: string, why: string): void {
    this.#options.log.info({ what, why, lease: this.#options.lease.name }, 'leader election');
  }
}
