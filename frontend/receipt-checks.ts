/**
 * SPF, DKIM, DMARC and ARC of mail from strangers, while it comes in (RFC 8601). Owns: who is looked at, the thread that does it, and how long a message waits for that. Promises: mail is
 * never refused, and never waits longer than `timeoutMs` - what is not known by then is `temperror`; memory is `QUEUE_BYTES` for each message and what is on its way to the thread; where no
 * listener has it on, nothing is done at all.
 * What the thread keeps is a header for each message; where the sum over all messages is too much, the next ones go without.
 */
import { AUTHENTICATION, type Check, MAX_RESULTS_LENGTH } from '../common/authentication-results.ts';
import type { AuthenticationResultsConfig, ListenerConfig } from '../common/config.ts';
import type { Envelope } from '../common/message.ts';
import type { Clock, Timer } from '../common/platform/clock.ts';
import { describeError } from '../common/platform/lifecycle.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import { StreamThread } from '../common/platform/stream-thread.ts';
import { ReplayBudget } from './body-buffer.ts';
import { type AuthenticationJob, type Finding, MAX_HEADER_BYTES, readsContent } from './sender-authentication.ts';

export interface ReceiptChecksDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly listeners: readonly ListenerConfig[];
  /** A message under way each, at most. */
  readonly maxConnections: number;
}

/** What is found out about one message. */
export interface ReceiptCheck {
  /** False: wait until the drain that was given. */
  write(chunk: Buffer): boolean;
  /** The details of its events; never fails, never takes long. */
  end(): Promise<readonly string[]>;
  /** Nobody wants to know any more. */
  abandon(): void;
}

const QUEUE_BYTES = 256 * 1024;
/** Of one message: its header, which is all that is kept of it. What is longer without an empty line is not looked at and not kept. */
const KEPT_BYTES = MAX_HEADER_BYTES;
const TOTAL_KEPT_BYTES = 64 * 1024 * 1024;
/** A thread that is silent for so long is given up, with all it has. */
const THREAD_SILENCE_MS = 30_000;

const METHODS = { ARC: 'arc', SPF: 'spf', DKIM: 'dkim', DMARC: 'dmarc' } as const satisfies Record<Check, string>;

export class ReceiptChecks {
  readonly #deps: ReceiptChecksDeps;
  readonly #settings: ReadonlyMap<string, AuthenticationResultsConfig>;
  /** All hosts that write results here: nobody else may claim to be one. */
  readonly #ids: readonly string[];
  readonly #thread: StreamThread<AuthenticationJob, readonly Finding[]>;
  readonly #budget = new ReplayBudget(TOTAL_KEPT_BYTES);

  constructor(deps: ReceiptChecksDeps) {
    this.#deps = deps;
    this.#settings = new Map(
      deps.listeners.flatMap(({ name, authenticationResults: settings }) =>
        settings === undefined ? [] : [[name, settings] as const],
      ),
    );
    this.#ids = [...new Set([...this.#settings.values()].map(({ authservId }) => authservId))];
    this.#thread = new StreamThread({
      clock: deps.clock,
      entry: new URL('./authentication-worker.ts', import.meta.url),
      name: AUTHENTICATION,
      settings: { maxJobs: deps.maxConnections, answerWithinMs: THREAD_SILENCE_MS },
    });
  }

  /** The thread reads its modules: the first message need not wait for that. */
  async start(): Promise<void> {
    if (this.#ids.length === 0) return;
    const settings = { authservId: '', checks: [], timeoutMs: THREAD_SILENCE_MS, dnsServers: [] };
    const nothing = { address: '', helo: '', reversePath: '', settings };
    const { clock } = this.#deps;
    const content = new BoundedContent(clock, THREAD_SILENCE_MS, this.#budget, () => undefined);
    content.end();
    await this.#thread.run(nothing, content).catch((error: unknown) => {
      this.#deps.log.error({ error: describeError(error) }, 'thread that looks at senders did not start');
    });
  }

  /** `isTrusted`: a client in `relayFrom`. It may be a mail server of ours that has written results itself (RFC 8601 5). */
  begin(envelope: Envelope, isTrusted: boolean, drain: () => void): ReceiptCheck | null {
    if (this.#ids.length === 0 || isTrusted) return null;
    const settings = envelope.client.user === null ? this.#settings.get(envelope.listener) : undefined;
    const others = this.#ids.filter((id) => id !== settings?.authservId);
    if (settings === undefined) return new Unchecked(others);
    const { address, helo } = envelope.client;
    const job = { settings, address, helo, reversePath: envelope.reversePath };
    const content = new BoundedContent(this.#deps.clock, settings.timeoutMs, this.#budget, drain);
    const found = this.#thread.run(job, content).catch(describeError);
    return new Checking(this.#deps, job, content, found, others);
  }

  close(): Promise<void> {
    return this.#thread.close();
  }
}

/** Of our own users, or on a listener without results: what somebody wrote in our name is taken out at delivery, nothing is put in. */
class Unchecked implements ReceiptCheck {
  readonly #ids: readonly string[];

  constructor(ids: readonly string[]) {
    this.#ids = ids;
  }

  write(): boolean {
    return true;
  }

  end(): Promise<readonly string[]> {
    return Promise.resolve(this.#ids);
  }

  abandon(): void {
    // Nothing was begun.
  }
}

class Checking implements ReceiptCheck {
  readonly #deps: ReceiptChecksDeps;
  readonly #job: AuthenticationJob;
  readonly #others: readonly string[];
  readonly #content: BoundedContent;
  readonly #found: Promise<readonly Finding[] | string>;
  #isWanted = true;

  /** `found`: a text says why nothing was. */
  constructor(
    deps: ReceiptChecksDeps,
    job: AuthenticationJob,
    content: BoundedContent,
    found: Promise<readonly Finding[] | string>,
    others: readonly string[],
  ) {
    this.#deps = deps;
    this.#job = job;
    this.#content = content;
    this.#found = found;
    this.#others = others;
    if (!readsContent(job.settings.checks)) content.end();
    void found.then(() => content.over());
  }

  write(chunk: Buffer): boolean {
    return this.#content.push(chunk);
  }

  async end(): Promise<readonly string[]> {
    const { clock, log } = this.#deps;
    const { timeoutMs } = this.#job.settings;
    this.#content.end();
    const late = Promise.withResolvers<string>();
    const timer = clock.setTimer(timeoutMs, () => late.resolve(`nothing found out in ${timeoutMs / 1000} s`));
    const found = await Promise.race([this.#found, late.promise]);
    timer.cancel();
    if (!this.#isWanted) return [];
    if (typeof found === 'string') {
      log.warn({ reason: found, client: this.#job.address }, 'sender not authenticated');
      this.#content.abandon(found);
    }
    return [this.#detailOf(typeof found === 'string' ? this.#nothing() : found), ...this.#others];
  }

  abandon(): void {
    this.#isWanted = false;
    this.#content.abandon('nobody wants to know');
  }

  #nothing(): readonly Finding[] {
    return this.#job.settings.checks.map((check) => {
      const result = 'temperror';
      return { check, result, text: `${METHODS[check]}=${result} (not looked at in time)` };
    });
  }

  /** DMARC rests upon the others and is one: signatures are left out where there are too many. */
  #detailOf(findings: readonly Finding[]): string {
    const { metrics } = this.#deps;
    const { authservId } = this.#job.settings;
    const fixed = findings.filter(({ check }) => check !== 'DKIM').map(({ text }) => text);
    let length = [authservId, ...fixed].reduce((sum, text) => sum + text.length + 2, 0);
    const shown: string[] = [];
    for (const { check, result, text } of findings) {
      metrics.increment('authentication_results_total', { method: METHODS[check], result });
      if (check === 'DKIM') length += text.length + 2;
      if (check !== 'DKIM' || length <= MAX_RESULTS_LENGTH) shown.push(text);
    }
    return [authservId, ...shown].join('; ');
  }
}

class GivenUp extends Error {}

/** What came of a body and the thread has not asked for. A thread that does not go on holds up nobody for longer than `patienceMs`. */
class BoundedContent implements AsyncIterable<Buffer> {
  readonly #clock: Clock;
  readonly #patienceMs: number;
  readonly #budget: ReplayBudget;
  readonly #drain: () => void;
  #keptBytes = 0;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #isFull = false;
  #ended: { readonly error: GivenUp | null } | null = null;
  #patience: Timer | null = null;
  #wake: (() => void) | null = null;

  constructor(clock: Clock, patienceMs: number, budget: ReplayBudget, drain: () => void) {
    this.#clock = clock;
    this.#patienceMs = patienceMs;
    this.#budget = budget;
    this.#drain = drain;
  }

  /** False: full. */
  push(chunk: Buffer): boolean {
    if (this.#ended !== null) return true;
    this.#keep(Math.min(chunk.length, KEPT_BYTES - this.#keptBytes));
    if (this.#budget.usedBytes > this.#budget.limitBytes) {
      this.abandon('too many messages at once');
      return true;
    }
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    this.#wake?.();
    this.#isFull = this.#bytes >= QUEUE_BYTES;
    if (this.#isFull && this.#patience === null)
      this.#patience = this.#clock.setTimer(this.#patienceMs, () =>
        this.abandon(`behind the body for ${this.#patienceMs / 1000} s`),
      );
    return !this.#isFull;
  }

  end(): void {
    this.#ended ??= { error: null };
    this.#wake?.();
  }

  abandon(why: string): void {
    if (this.#ended?.error) return;
    this.#ended = { error: new GivenUp(why) };
    this.#chunks = [];
    this.#bytes = 0;
    this.#relax();
    this.#wake?.();
  }

  /** Nothing of it is kept any more. */
  over(): void {
    this.abandon('over');
    this.#keep(-this.#keptBytes);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    for (;;) {
      if (this.#ended?.error) throw this.#ended.error;
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#bytes -= chunk.length;
        if (this.#bytes < QUEUE_BYTES / 2) this.#relax();
        yield chunk;
      } else if (this.#ended !== null) return;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }

  #keep(bytes: number): void {
    this.#keptBytes += bytes;
    this.#budget.usedBytes += bytes;
  }

  #relax(): void {
    this.#patience?.cancel();
    this.#patience = null;
    if (!this.#isFull) return;
    this.#isFull = false;
    this.#drain();
  }
}
