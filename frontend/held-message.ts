/**
 * One message held between its client and a transport. Owns: the buffers, the streams and the timers of this message; executes what the
 * pure machine (`session.ts`) decides and tells it what happened. Promise: memory bounded by the body buffer; everything is freed with the
 * answer. Fails only as the machine says: a reply, or a close without one.
 */
import { createHash } from 'node:crypto';
import { AUTHENTICATION } from '../common/authentication-results.ts';
import { CONTENT_FILTER, detailOf } from '../common/content-filter.ts';
import type { AttemptId, CopyId, Envelope } from '../common/message.ts';
import type { Resolved, Result, TrackingEvent } from '../common/peer/messages.ts';
import type { OutgoingStream, OutgoingStreamHandlers, PeerSession } from '../common/peer/session-api.ts';
import { unreachable } from '../common/platform/assert.ts';
import type { Clock, Timer } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import type { DataAnswer, DataDecision, DataEnd, DataSink } from '../common/smtp/edge-api.ts';
import { TrackedFields } from '../common/smtp/tracked-fields.ts';
import { MESSAGE_ID, SUBJECT_HASH } from '../common/tracked-events.ts';
import { BodyBuffer, type ReplayBudget } from './body-buffer.ts';
import type { FilteredMessage, FilterVerdict } from './content-filters.ts';
import type { TransportPeers } from './peers.ts';
import type { Candidate } from './picker.ts';
import type { ReceiptCheck } from './receipt-checks.ts';
import {
  type HeldAction,
  type HeldEvent,
  type HeldState,
  INITIAL_STATE,
  type Step,
  type TimerName,
  type Try,
} from './session-model.ts';

export interface HeldMessageDeps {
  readonly frontend: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly peers: TransportPeers;
  readonly budget: ReplayBudget;
  readonly replayBufferBytes: number;
  readonly step: (state: HeldState, event: HeldEvent) => Step;
  readonly choose: (excluded: readonly string[]) => Candidate | null;
  readonly onReleased: () => void;
  /** Whether anything is to be found out about the sender; absent: nothing ever is. */
  readonly check?: (drain: () => void) => ReceiptCheck | null;
  /** Whoever has a word in whether the message is taken; absent: nobody ever has. */
  readonly filter?: (id: AttemptId, drain: () => void) => FilteredMessage | null;
}

/** Above this much unsent the client has to wait. */
const UNSENT_LIMIT_BYTES = 128 * 1024;
const MAX_EVENTS = 64;

export class HeldMessage implements DataSink {
  readonly id: AttemptId;
  readonly #deps: HeldMessageDeps;
  readonly #envelope: Envelope;
  readonly #drain: () => void;
  #ownLog: Logger | null = null;
  readonly #buffer: BodyBuffer;
  readonly #hash = createHash('sha256');
  readonly #decision = Promise.withResolvers<DataDecision>();
  readonly #answer = Promise.withResolvers<DataAnswer>();
  readonly #events: TrackingEvent[];
  readonly #streams = new Map<number, OutgoingStream>();
  readonly #timers = new Map<string, Timer>();
  readonly #asks = new Map<number, { cancel(): void }>();
  readonly #queue: HeldEvent[] = [];
  readonly #tracked = new TrackedFields();
  readonly #check: ReceiptCheck | null;
  #checkIsFull = false;
  readonly #filter: FilteredMessage | null;
  #filterIsFull = false;
  #stepping = false;
  #state: HeldState = INITIAL_STATE;
  /** The stream that gets the body now. */
  #pumped: number | null = null;
  #congested = false;
  #discarding = false;
  #digest: string | null = null;
  #endOfDataMs: number | null = null;
  #replays = 0;

  constructor(
    deps: HeldMessageDeps,
    id: AttemptId,
    envelope: Envelope,
    drain: () => void,
    history: readonly TrackingEvent[],
  ) {
    this.#deps = deps;
    this.id = id;
    this.#envelope = envelope;
    this.#drain = drain;
    this.#events = [...history];
    this.#buffer = new BodyBuffer(deps.replayBufferBytes, deps.budget);
    this.#check = deps.check?.(() => this.#checkDrained()) ?? null;
    this.#filter = deps.filter?.(id, () => this.#filterDrained()) ?? null;
  }

  open(): Promise<DataDecision> {
    this.#dispatch({ kind: 'Start' });
    return this.#decision.promise;
  }

  // DataSink

  write(chunk: Buffer): boolean {
    if (this.#discarding || this.#state.phase === 'done') return true;
    this.#hash.update(chunk);
    this.#tracked.push(chunk);
    this.#buffer.push(chunk);
    this.#pump();
    this.#trim();
    this.#checkIsFull = this.#check !== null && !this.#check.write(chunk);
    this.#filterIsFull = this.#filter !== null && !this.#filter.write(chunk);
    this.#congested = this.#checkIsFull || this.#filterIsFull || this.#buffer.unsentBytes > UNSENT_LIMIT_BYTES;
    return !this.#congested;
  }

  end(end: DataEnd): Promise<DataAnswer> {
    this.#endOfDataMs = this.#deps.clock.monotonicMs();
    if (end.rejected !== null) {
      this.#abandonChecks();
      this.#dispatch({ kind: 'BodyRejected', reply: end.rejected });
      return this.#answer.promise;
    }
    this.#note(`end of data, ${this.#buffer.sizeBytes} bytes`);
    const { messageId, subjectHash } = this.#tracked;
    if (messageId !== null) this.#note(messageId, MESSAGE_ID);
    if (subjectHash !== null) this.#note(subjectHash, SUBJECT_HASH);
    this.#digest = this.#hash.digest('hex');
    if (this.#filter !== null) void this.#judged(this.#filter);
    else if (this.#check === null) this.#bodyEnded();
    else void this.#check.end().then((results) => this.#checked(results));
    return this.#answer.promise;
  }

  /** No END before the verdict: what is refused was never a copy. */
  async #judged(filter: FilteredMessage): Promise<void> {
    const [verdict, results] = await Promise.all([filter.end(), this.#check?.end() ?? []]);
    if (verdict.kind === 'refuse') return this.#dispatch({ kind: 'BodyRejected', reply: verdict.reply });
    this.#noteFiltered(verdict);
    this.#checked(results);
  }

  #noteFiltered({ fields, note }: Extract<FilterVerdict, { readonly kind: 'accept' }>): void {
    if (note !== null) this.#note(note);
    for (const field of fields) this.#note(detailOf(field), CONTENT_FILTER);
  }

  /** They go with END: both copies have them before the client hears 250. */
  #checked(results: readonly string[]): void {
    for (const one of results) this.#note(one, AUTHENTICATION);
    this.#bodyEnded();
  }

  #bodyEnded(): void {
    this.#dispatch({ kind: 'BodyEnded' });
    this.#pump();
  }

  #checkDrained(): void {
    this.#checkIsFull = false;
    this.#relax();
  }

  #filterDrained(): void {
    this.#filterIsFull = false;
    this.#relax();
  }

  #abandonChecks(): void {
    this.#check?.abandon();
    this.#filter?.abandon();
  }

  abort(reason: string): void {
    this.#log.info({ reason }, 'client gone before the end of data');
    this.#abandonChecks();
    this.#dispatch({ kind: 'ClientGone', reason });
  }

  /** While the message is judged there is no END yet, and the client comes again: what it left would be a second copy. After that R7. */
  gone(reason: string): void {
    if (this.#state.bodyEnded || this.#state.phase === 'done') return;
    this.#log.info({ reason }, 'client gone before its message was judged');
    this.#abandonChecks();
    this.#dispatch({ kind: 'ClientGone', reason });
  }

  // Machine

  #dispatch(event: HeldEvent): void {
    this.#queue.push(event);
    if (this.#stepping) return;
    this.#stepping = true;
    try {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
        const { state, actions } = this.#deps.step(this.#state, next);
        this.#state = state;
        for (const action of actions) this.#execute(action);
      }
    } finally {
      this.#stepping = false;
    }
  }

  #execute(action: HeldAction): void {
    switch (action.kind) {
      case 'pick': {
        const chosen = this.#deps.choose(action.excluded);
        this.#dispatch(
          chosen === null
            ? { kind: 'NonePicked' }
            : { kind: 'Picked', member: chosen.member.name, identity: chosen.identity },
        );
        return;
      }
      case 'open':
        return this.#open(action.attempt);
      case 'drop':
        this.#streams.get(action.serial)?.drop(action.reason);
        return this.#forget(action.serial);
      case 'continue':
        return this.#decision.resolve({ kind: 'accept', sink: this });
      case 'pump':
        return this.#startPump(action.serial, action.replay);
      case 'end':
        return this.#end(action.serial);
      case 'resolve':
        return this.#resolve(action.attempt, action.deadlineMs);
      case 'discard-body':
        this.#discarding = true;
        this.#pumped = null;
        this.#abandonChecks();
        this.#buffer.release();
        return this.#relax();
      case 'refuse':
        this.#log.warn({ reply: action.reply }, 'no transport took the message');
        return this.#decision.resolve({ kind: 'refuse', reply: action.reply });
      case 'answer':
        return this.#say(action.answer, action.protection);
      case 'set-timer':
        return this.#setTimer(action.timer, action.delayMs);
      case 'clear-timer':
        return this.#timers.get(action.timer)?.cancel();
      case 'release':
        return this.#release();
      default:
        return unreachable(action, 'Unknown action of a held session');
    }
  }

  #setTimer(timer: TimerName, delayMs: number): void {
    this.#timers.get(timer)?.cancel();
    const fired = (): void => {
      const attempt = this.#state.tries.at(-1);
      if (timer === 'open' && attempt !== undefined) this.#failed(attempt, 'transport did not answer', `${delayMs} ms`);
      this.#dispatch({ kind: 'TimerFired', timer });
    };
    this.#timers.set(timer, this.#deps.clock.setTimer(delayMs, fired));
  }

  #failed(attempt: Try, what: string, reason: string): void {
    const stage = this.#stage(attempt.serial);
    this.#deps.metrics.increment('proxy_upstream_failures_total', { stage });
    this.#log.warn({ peer: attempt.member, try: attempt.number, stage, reason }, what);
    this.#note(`${what} at ${stage}: ${attempt.member}`);
  }

  #open(attempt: Try): void {
    const { serial, member } = attempt;
    const session = this.#deps.peers.session(member);
    if (session === null) return this.#dispatch({ kind: 'Lost', serial, reason: 'connection gone' });
    this.#note(`open to ${member}, try ${attempt.number}`);
    this.#deps.peers.countStream(member, 1);
    const stream = session.openStream(
      {
        id: this.#copyId,
        epoch: { try: attempt.number, term: 0, owner: attempt.identity },
        kind: 'intake',
        envelope: this.#envelope,
        state: null,
      },
      this.#handlers(attempt),
    );
    this.#streams.set(serial, stream);
  }

  #handlers(attempt: Try): OutgoingStreamHandlers {
    const { serial } = attempt;
    return {
      onOpenOk: () => this.#dispatch({ kind: 'OpenOk', serial }),
      onCredit: () => this.#pump(),
      onRefuse: (refuse) => {
        if (!this.#forgetOver(serial)) return;
        this.#failed(
          attempt,
          'transport refused',
          `${refuse.reply.code} ${refuse.reply.enhanced} ${refuse.reply.text}`,
        );
        this.#dispatch({ kind: 'Refused', serial, refuse });
      },
      onResult: (result) => {
        if (!this.#forgetOver(serial)) return;
        const { outcome, reply } = result;
        this.#dispatch({ kind: 'Result', serial, outcome, reply, matches: this.#isOurs(attempt, result) });
      },
      onLost: (reason) => {
        if (!this.#forgetOver(serial)) return;
        this.#failed(attempt, 'transport lost', reason);
        this.#dispatch({ kind: 'Lost', serial, reason });
      },
    };
  }

  #isOurs(attempt: Try, result: Result): boolean {
    const ours =
      result.id === this.#copyId &&
      result.epoch.try === attempt.number &&
      (result.digest === null || result.digest === this.#digest);
    if (!ours) this.#log.error({ peer: attempt.member, result }, 'transport answered for something else');
    return ours;
  }

  #stage(serial: number): string {
    const fate = this.#state.tries.find((t) => t.serial === serial)?.fate;
    return fate === 'opening' ? 'open' : fate === 'open' ? 'body' : 'end';
  }

  #forgetOver(serial: number): boolean {
    if (!this.#streams.has(serial)) return false;
    this.#forget(serial);
    return true;
  }

  #forget(serial: number): void {
    if (!this.#streams.delete(serial)) return;
    if (this.#pumped === serial) this.#pumped = null;
    const member = this.#state.tries.find((t) => t.serial === serial)?.member;
    if (member !== undefined) this.#deps.peers.countStream(member, -1);
  }

  #resolve(attempt: Try, deadlineMs: number): void {
    this.#asks.get(attempt.serial)?.cancel();
    const through = attempt.number;
    const onAnswer = (resolved: Resolved, session: PeerSession): void => {
      this.#log.info(
        { peer: attempt.member, try: through, answer: resolved.answer },
        'transport told what became of it',
      );
      this.#note(`resolved ${resolved.answer}: ${attempt.member}`);
      this.#dispatch({
        kind: 'Resolved',
        serial: attempt.serial,
        answer: resolved.answer,
        sameIdentity: session.hello.database?.identity === attempt.identity,
        matches: resolved.digest === null || resolved.digest === this.#digest,
      });
    };
    const ask = this.#deps.peers.resolve(attempt.member, { id: this.#copyId, through, deadlineMs }, onAnswer);
    this.#asks.set(attempt.serial, ask);
  }

  // Body

  #startPump(serial: number, replay: boolean): void {
    if (replay) {
      this.#replays += 1;
      this.#buffer.rewind();
    }
    this.#pumped = serial;
    this.#pump();
    this.#trim();
  }

  #pump(): void {
    const serial = this.#pumped;
    const stream = serial === null ? undefined : this.#streams.get(serial);
    if (serial === null || stream === undefined) return;
    while (this.#state.bodyEnded || this.#buffer.worthSending) {
      const bytes = this.#buffer.take(stream.credit);
      if (bytes === null) break;
      stream.chunk(bytes);
    }
    if (this.#buffer.unsentBytes === 0 && this.#state.bodyEnded) {
      this.#pumped = null;
      this.#dispatch({ kind: 'Flushed', serial });
    }
    this.#relax();
  }

  #relax(): void {
    if (
      !this.#congested ||
      this.#checkIsFull ||
      this.#filterIsFull ||
      this.#buffer.unsentBytes > UNSENT_LIMIT_BYTES / 2
    )
      return;
    this.#congested = false;
    this.#drain();
  }

  /** Over the limit the body stops being whole - but never while it is still to be given to another transport. */
  #trim(): void {
    if (!this.#buffer.whole || this.#buffer.withinLimits || this.#pumped === null) return;
    this.#buffer.giveUp();
    this.#dispatch({ kind: 'Overflowed' });
  }

  #end(serial: number): void {
    const stream = this.#streams.get(serial);
    // Lost in the same tick: its event is already on the way.
    if (stream === undefined || this.#digest === null) return;
    stream.end({ sizeBytes: this.#buffer.sizeBytes, digest: this.#digest, events: this.#events.slice(-MAX_EVENTS) });
  }

  // End

  #say(answer: DataAnswer, protection: 'shadowed' | 'unprotected' | null): void {
    const { clock, metrics } = this.#deps;
    const outcome = answer.kind === 'close' ? 'closed' : protection === null ? 'refused' : 'accepted';
    const seconds = this.#endOfDataMs === null ? 0 : (clock.monotonicMs() - this.#endOfDataMs) / 1000;
    metrics.observe('proxy_duration_seconds', seconds, { outcome });
    if (this.#replays > 0) metrics.increment('proxy_replays_total', { result: outcome }, this.#replays);
    // "message accepted" is one line per 250: `mailcluster message lost` compares these lines with what there is.
    const facts = {
      from: this.#envelope.reversePath,
      recipients: this.#envelope.recipients.length,
      sizeBytes: this.#buffer.sizeBytes,
      tries: this.#state.tries.length,
      seconds,
      ...(answer.kind === 'close'
        ? { reason: answer.reason }
        : { code: answer.reply.code, enhanced: answer.reply.enhanced }),
      ...(protection === null ? {} : { protection, peer: this.#state.tries.at(-1)?.member }),
    };
    if (outcome === 'accepted') this.#deps.log.info({ attemptId: this.id, ...facts }, 'message accepted');
    else if (outcome === 'refused') this.#log.warn(facts, 'message refused');
    else this.#log.error(facts, 'connection closed without a reply');
    this.#answer.resolve(answer);
  }

  #release(): void {
    for (const timer of this.#timers.values()) timer.cancel();
    this.#timers.clear();
    for (const ask of this.#asks.values()) ask.cancel();
    this.#asks.clear();
    this.#pumped = null;
    this.#abandonChecks();
    this.#buffer.release();
    this.#relax();
    // A client that is gone hears nothing, but nobody may wait for ever.
    this.#answer.resolve({ kind: 'close', reason: 'the client is gone' });
    this.#deps.onReleased();
  }

  #note(detail: string, event = 'FRONTEND'): void {
    if (this.#events.length >= 2 * MAX_EVENTS) return;
    this.#events.push({ event, atMs: this.#deps.clock.wallMs(), source: this.#deps.frontend, detail });
  }

  /** Made when something is to be said: most messages say one line, and a child of pino is dearer than that. */
  get #log(): Logger {
    this.#ownLog ??= this.#deps.log.child({ attemptId: this.id });
    return this.#ownLog;
  }

  /** The attempt id is the copy id of what the message leaves (protocol.md 1). */
  get #copyId(): CopyId {
    return this.id as string as CopyId;
  }
}
