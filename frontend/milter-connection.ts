/**
 * One connection to a mail filter. Owns: the socket, the order of answers, the deadline for each. Promises: an answer, or `FilterFailure` within `timeoutMs`, unless the filter reports
 * progress; nothing is read ahead of who asks, so that an endless answer takes no memory; after `close` nothing is left, also where the filter reads no more.
 */
import { connect, type LookupFunction, type Socket } from 'node:net';
import type { Clock, Timer } from '../common/platform/clock.ts';
import { describeError } from '../common/platform/lifecycle.ts';
import { type Answer, AnswerReader } from './milter-protocol.ts';

export type FailureReason = 'connect' | 'timeout' | 'closed' | 'garbage' | 'unsupported';

/** No usable answer. */
export class FilterFailure extends Error {
  readonly reason: FailureReason;
  constructor(reason: FailureReason, message: string) {
    super(message);
    this.reason = reason;
  }
}

export interface FilterAddress {
  readonly host: string;
  readonly port: number;
  /** How the host is found; absent: as the operating system does. */
  readonly lookup?: LookupFunction;
}

/** For what was written last to leave. */
const CLOSING_MS = 2_000;

export class MilterConnection {
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #socket: Socket;
  readonly #reader = new AnswerReader();
  #answers: Answer[] = [];
  #failure: FilterFailure | null = null;
  #isConnected = false;
  #wake: (() => void) | null = null;
  #closing: Timer | null = null;
  #isClosed = false;

  constructor(clock: Clock, { host, port, lookup }: FilterAddress, timeoutMs: number) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#socket = connect({ host, port, noDelay: true, ...(lookup === undefined ? {} : { lookup }) });
    this.#socket.on('connect', () => {
      this.#isConnected = true;
      this.#wake?.();
    });
    this.#socket.on('data', (chunk) => this.#received(chunk));
    this.#socket.on('drain', () => this.#wake?.());
    this.#socket.on('error', (error) => this.#fail(this.#isConnected ? 'closed' : 'connect', describeError(error)));
    this.#socket.on('close', () => {
      this.#closing?.cancel();
      this.#fail('closed', 'it closed the connection');
    });
  }

  connected(): Promise<void> {
    return this.#until(() => this.#isConnected);
  }

  /** Resolves when there is room for more. */
  send(...packets: readonly Buffer[]): Promise<void> {
    if (this.#failure === null)
      this.#socket.write(packets.length === 1 ? (packets[0] as Buffer) : Buffer.concat(packets));
    return this.#until(() => !this.#socket.writableNeedDrain);
  }

  /** The next one that is not progress. */
  async answer(): Promise<Exclude<Answer, { readonly kind: 'progress' }>> {
    for (;;) {
      await this.#until(() => this.#answers.length > 0);
      const answer = this.#answers.shift();
      if (this.#answers.length === 0) this.#socket.resume();
      if (answer !== undefined && !isProgress(answer)) return answer;
    }
  }

  /** Whoever waits hears of it. */
  giveUp(failure: FilterFailure): void {
    this.#failure ??= failure;
    this.#wake?.();
  }

  /** `last`: said before, where anybody still reads. Idempotent. */
  close(...last: readonly Buffer[]): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.giveUp(new FilterFailure('closed', 'we closed the connection'));
    if (!this.#isConnected || this.#socket.destroyed) {
      this.#socket.destroy();
      return;
    }
    this.#closing = this.#clock.setTimer(CLOSING_MS, () => this.#socket.destroy());
    this.#socket.write(Buffer.concat(last));
    this.#socket.destroySoon();
  }

  #received(chunk: Buffer): void {
    if (this.#failure !== null) return;
    try {
      this.#answers.push(...this.#reader.push(chunk));
    } catch (error) {
      this.#fail('garbage', describeError(error));
      // Whatever else it says is of no use.
      return void this.#socket.destroy();
    }
    if (this.#answers.length > 0) this.#socket.pause();
    this.#wake?.();
  }

  #fail(reason: FailureReason, message: string): void {
    this.giveUp(new FilterFailure(reason, message));
  }

  /** Waits; what came before it failed is still an answer. */
  async #until(isSo: () => boolean): Promise<void> {
    let isLate = false;
    const timer = this.#clock.setTimer(this.#timeoutMs, () => {
      isLate = true;
      this.#wake?.();
    });
    try {
      while (!isSo()) {
        if (this.#failure !== null) throw this.#failure;
        if (isLate) throw new FilterFailure('timeout', `no answer in ${this.#timeoutMs / 1000} s`);
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      timer.cancel();
      this.#wake = null;
    }
  }
}

const isProgress = (answer: Answer): answer is Extract<Answer, { readonly kind: 'progress' }> =>
  answer.kind === 'progress';
