/**
 * Computation over streams in a worker thread, so that it does not hold up the event loop. Owns: the thread (started at the first job, and anew after it died), the jobs in it.
 * Promises: at most `windowBytes` of a job are on their way and unused, at most `maxJobs` are under way, others wait their turn; a job that is not answered in time ends the
 * thread; whatever ends the thread ends its jobs with a `ThreadError`, never the process. What `content` throws is thrown on. The other side: `thread-jobs.ts`.
 */
import { Worker } from 'node:worker_threads';
import type { Clock, Timer } from './clock.ts';

export type ToThread =
  | { readonly job: number; readonly kind: 'open'; readonly value: unknown }
  | { readonly job: number; readonly kind: 'chunk'; readonly bytes: Uint8Array }
  | { readonly job: number; readonly kind: 'end' | 'abandon' };

export type FromThread =
  /** It wants more after these. */
  | { readonly job: number; readonly kind: 'took'; readonly bytes: number }
  | { readonly job: number; readonly kind: 'answer'; readonly value: unknown }
  | { readonly job: number; readonly kind: 'failed'; readonly reason: string };

export class ThreadError extends Error {
  readonly code = 'THREAD';
}

export interface StreamThreadOptions {
  readonly clock: Clock;
  /** The module that the thread runs. */
  readonly entry: URL;
  /** For error messages. */
  readonly name: string;
  readonly settings?: Partial<ThreadSettings>;
}

export interface ThreadSettings {
  readonly maxJobs: number;
  readonly windowBytes: number;
  /** Silence of the thread about a job for which it has something to do. */
  readonly answerWithinMs: number;
  /** Beyond it the thread ends, not the process. */
  readonly maxHeapMiB: number;
}

const DEFAULTS: ThreadSettings = { maxJobs: 32, windowBytes: 262_144, answerWithinMs: 60_000, maxHeapMiB: 256 };

export class StreamThread<Job, Answer> {
  readonly #options: StreamThreadOptions;
  readonly #settings: ThreadSettings;
  readonly #jobs = new Map<number, OpenJob>();
  readonly #waiting: (() => void)[] = [];
  #thread: Worker | null = null;
  #underWay = 0;
  #last = 0;
  #isClosed = false;

  constructor(options: StreamThreadOptions) {
    this.#options = options;
    this.#settings = { ...DEFAULTS, ...options.settings };
  }

  /** The content is read as far as the thread needs it. */
  async run(value: Job, content: AsyncIterable<Buffer>): Promise<Answer> {
    if (this.#underWay >= this.#settings.maxJobs) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#underWay++;
    try {
      return (await this.#pass(value, content)) as Answer;
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#underWay--;
      else next();
    }
  }

  /** Jobs under way end with an error, and so does every later one. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const thread = this.#thread;
    this.#end(thread, 'stopped');
    await thread?.terminate();
  }

  async #pass(value: Job, content: AsyncIterable<Buffer>): Promise<unknown> {
    if (this.#isClosed) throw new ThreadError(`${this.#options.name}: stopped`);
    const thread = this.#started();
    const id = ++this.#last;
    const job = new OpenJob(this.#options.clock, this.#settings, () =>
      this.#end(thread, `no answer for ${this.#settings.answerWithinMs / 1000} s`),
    );
    this.#jobs.set(id, job);
    const post = (message: ToThread, moved: ArrayBuffer[] = []): void => thread.postMessage(message, moved);
    try {
      post({ job: id, kind: 'open', value });
      for await (const chunk of content) {
        if (job.isOver) break;
        // A copy that is the thread's: the chunk may be a piece of something larger.
        const bytes = new Uint8Array(chunk);
        job.sent(bytes.length);
        post({ job: id, kind: 'chunk', bytes }, [bytes.buffer]);
        await job.room();
        if (job.isOver) break;
      }
      post({ job: id, kind: 'end' });
      job.ended();
      return await job.answer;
    } catch (error) {
      post({ job: id, kind: 'abandon' });
      throw error;
    } finally {
      job.over();
      this.#jobs.delete(id);
    }
  }

  #started(): Worker {
    if (this.#thread !== null) return this.#thread;
    const { entry, name } = this.#options;
    const thread = new Worker(entry, { name, resourceLimits: { maxOldGenerationSizeMb: this.#settings.maxHeapMiB } });
    thread.on('message', (message: FromThread) => this.#heard(message));
    thread.on('error', (error) => this.#end(thread, error instanceof Error ? error.message : String(error)));
    thread.on('exit', () => this.#end(thread, 'the thread ended'));
    thread.unref();
    this.#thread = thread;
    return thread;
  }

  #heard(message: FromThread): void {
    const job = this.#jobs.get(message.job);
    if (message.kind === 'took') job?.took(message.bytes);
    else if (message.kind === 'answer') job?.resolve(message.value);
    else job?.reject(new ThreadError(`${this.#options.name}: ${message.reason}`));
  }

  /** All jobs are of this thread: another one is started only when it is gone. */
  #end(thread: Worker | null, why: string): void {
    if (thread === null || this.#thread !== thread) return;
    this.#thread = null;
    for (const job of this.#jobs.values()) job.reject(new ThreadError(`${this.#options.name}: ${why}`));
    void thread.terminate();
  }
}

/** One job: what the thread still has to do for it, and how long it has been silent. */
class OpenJob {
  readonly answer: Promise<unknown>;
  isOver = false;
  readonly #clock: Clock;
  readonly #settings: ThreadSettings;
  readonly #onSilence: () => void;
  #inFlight = 0;
  #isEnded = false;
  #resolve: (value: unknown) => void = () => undefined;
  #reject: (error: Error) => void = () => undefined;
  #wake: (() => void) | null = null;
  #silence: Timer | null = null;

  constructor(clock: Clock, settings: ThreadSettings, onSilence: () => void) {
    this.#clock = clock;
    this.#settings = settings;
    this.#onSilence = onSilence;
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // It may come while the content is still read; whoever runs the job looks then.
    this.answer.catch(() => undefined);
  }

  sent(bytes: number): void {
    this.#inFlight += bytes;
    if (this.#silence === null) this.#listen();
  }

  took(bytes: number): void {
    this.#inFlight -= bytes;
    this.#listen();
    this.#goOn();
  }

  ended(): void {
    this.#isEnded = true;
    this.#listen();
  }

  resolve(value: unknown): void {
    this.over();
    this.#resolve(value);
  }

  reject(error: Error): void {
    this.over();
    this.#reject(error);
  }

  over(): void {
    this.isOver = true;
    this.#silence?.cancel();
    this.#silence = null;
    this.#goOn();
  }

  async room(): Promise<void> {
    while (!this.isOver && this.#inFlight >= this.#settings.windowBytes)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
  }

  #goOn(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  #listen(): void {
    this.#silence?.cancel();
    this.#silence = null;
    if (this.isOver || (this.#inFlight === 0 && !this.#isEnded)) return;
    this.#silence = this.#clock.setTimer(this.#settings.answerWithinMs, this.#onSilence);
  }
}
