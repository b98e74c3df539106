/**
 * A sending mail server outside the cluster, as real ones behave: told 421 or cut off it connects again and offers the message again, until it is accepted or its
 * patience ends. Owns: its connections and a ledger with one entry per message. Promise: every message gets exactly one entry; what was refused on a new connection
 * is counted apart from what a session that was about to end refused.
 */
import { until } from '../house/until.ts';
import type { LedgerEntry, TestMessage } from '../process/ledger.ts';
import { SmtpConnection, sendMessage, type Target } from '../process/smtp-sender.ts';

export interface LoadReport {
  readonly entries: readonly LedgerEntry[];
  /** Accepted, after how many tries more than one. */
  readonly repeated: number;
  /** Refusals in a session that had taken mail before, or had been silent for long: 421 and the like. */
  readonly refusedInSession: readonly string[];
  /** Refusals of the first message of a new session, or of the session itself. */
  readonly refusedAnew: readonly string[];
  /** Connections that did not come to be. */
  readonly unreachable: readonly string[];
  /** The end of a message was sent and no reply came: whether it was accepted nobody knows, and it was offered again. */
  readonly unanswered: readonly string[];
}

export interface LoadOptions {
  readonly target: Target;
  readonly sessions: number;
  readonly perSecond: number;
  readonly message: (index: number) => TestMessage;
  /** How many; without it until it is stopped. */
  readonly count?: number;
  readonly patienceMs?: number;
}

/** Of one reply, and of the first word of a server that may not be there. */
const REPLY_MS = 15_000;
const PATIENCE_MS = 180_000;

export class Load {
  readonly #options: LoadOptions;
  readonly #entries: LedgerEntry[] = [];
  readonly #seen = { refusedInSession: [], refusedAnew: [], unreachable: [], unanswered: [] } as Record<
    'refusedInSession' | 'refusedAnew' | 'unreachable' | 'unanswered',
    string[]
  >;
  readonly #running: Promise<unknown>;
  readonly #startMs = performance.now();
  #next = 0;
  #repeated = 0;
  #isStopped = false;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#running = Promise.all(Array.from({ length: options.sessions }, () => this.#session()));
    // Who waits for it is told; nobody else need be.
    this.#running.catch(() => undefined);
  }

  get accepted(): number {
    return this.#entries.filter(({ answer }) => answer.kind === 'accepted').length;
  }

  /** No new messages; what has begun is finished. */
  async stop(): Promise<LoadReport> {
    this.#isStopped = true;
    return await this.finished();
  }

  async finished(): Promise<LoadReport> {
    await this.#running;
    return { entries: this.#entries, repeated: this.#repeated, ...this.#seen };
  }

  /** So many more are accepted from now on. */
  async goesOn(count: number, deadlineMs: number): Promise<void> {
    const wanted = this.accepted + count;
    await until(`${count} more messages to be accepted`, () => this.accepted >= wanted, { deadlineMs, everyMs: 50 });
  }

  async #session(): Promise<void> {
    const { count = Number.POSITIVE_INFINITY, perSecond, message } = this.#options;
    let connection: SmtpConnection | null = null;
    while (!this.#isStopped && this.#next < count) {
      const index = this.#next;
      this.#next += 1;
      const dueMs = this.#startMs + (index * 1000) / perSecond;
      await until('its turn', () => this.#isStopped || performance.now() >= dueMs, { deadlineMs: 600_000, everyMs: 5 });
      connection = await this.#offered(message(index), connection);
    }
    connection?.close();
  }

  /** Resolves with the session that may take the next one. */
  async #offered(message: TestMessage, former: SmtpConnection | null): Promise<SmtpConnection | null> {
    const { patienceMs = PATIENCE_MS } = this.#options;
    const endMs = performance.now() + patienceMs;
    let connection = former !== null && former.ended === null ? former : null;
    let isNew = connection === null;
    for (let tries = 1; ; tries += 1) {
      connection ??= await this.#opened(endMs);
      const entry: LedgerEntry =
        connection === null
          ? { message, answer: { kind: 'none', endSent: false, reason: 'no server in time' }, latencyMs: null }
          : await sendMessage(connection, message);
      const { answer } = entry;
      if (answer.kind === 'accepted' || connection === null || performance.now() >= endMs) {
        this.#entries.push(entry);
        if (tries > 1) this.#repeated += 1;
        return connection;
      }
      this.#note(entry, isNew);
      connection.close();
      connection = null;
      isNew = true;
    }
  }

  #note({ message, answer }: LedgerEntry, isNew: boolean): void {
    const at = `${((performance.now() - this.#startMs) / 1000).toFixed(1)} s`;
    if (answer.kind === 'refused') {
      const where = isNew ? this.#seen.refusedAnew : this.#seen.refusedInSession;
      where.push(`${at} ${message.id}: ${answer.code} ${answer.text}`);
    }
    if (answer.kind === 'none' && answer.endSent) this.#seen.unanswered.push(message.id);
  }

  async #opened(endMs: number): Promise<SmtpConnection | null> {
    const { target } = this.#options;
    const open = async (): Promise<SmtpConnection | null> =>
      await SmtpConnection.open(target, REPLY_MS).catch((error: Error) => {
        const isRefusal = /\b[45]\d\d\b/.test(error.message);
        (isRefusal ? this.#seen.refusedAnew : this.#seen.unreachable).push(error.message);
        return null;
      });
    const deadlineMs = Math.max(1, endMs - performance.now());
    return await until('a server', open, { deadlineMs, everyMs: 200 }).catch(() => null);
  }
}

/** For a log: what happened on the way. */
export const summary = ({ entries, ...seen }: LoadReport): string => {
  const accepted = entries.filter(({ answer }) => answer.kind === 'accepted').length;
  const { repeated, refusedInSession, refusedAnew, unreachable, unanswered } = seen;
  return `${accepted} of ${entries.length} accepted, ${repeated} of them offered again; refused in a session ${refusedInSession.length}, refused on a new one ${refusedAnew.length}, connections that failed ${unreachable.length}, ends without a reply ${unanswered.length}`;
};
