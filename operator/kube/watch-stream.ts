/**
 * One watch, from its first byte to its end. Owns: lines into events, the stall timer. Promise: `run` resolves with how it ended and never
 * rejects for what the network or the server does; an error of the callback goes through, because that is our own.
 */
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { Watch, WatchEnd, WatchEvent, WatchOptions } from './api.ts';
import type { ChannelStream } from './http-channel.ts';
import { LineCutter } from './json-lines.ts';
import { apiVersionOf, type KubeObject, type ResourceKind } from './kube-object.ts';

interface RawEvent {
  readonly type?: unknown;
  readonly object?: {
    readonly kind?: string;
    readonly code?: number;
    readonly message?: string;
    readonly metadata?: { readonly name?: string; readonly resourceVersion?: string };
  };
}

type Step<T extends KubeObject> = { readonly event: WatchEvent<T> } | { readonly end: WatchEnd };

export class WatchStream<T extends KubeObject> implements Watch<T> {
  readonly #stream: ChannelStream;
  readonly #kind: ResourceKind;
  readonly #clock: Clock;
  readonly #stallMs: number;
  readonly #signal: AbortSignal;
  #heardAtMs: number;
  #timer: Timer | null = null;
  #isStalled = false;

  constructor(stream: ChannelStream, kind: ResourceKind, options: WatchOptions, clock: Clock) {
    this.#stream = stream;
    this.#kind = kind;
    this.#clock = clock;
    this.#stallMs = options.stallMs;
    this.#signal = options.signal;
    this.#heardAtMs = clock.monotonicMs();
  }

  async run(onEvent: (event: WatchEvent<T>) => void): Promise<WatchEnd> {
    const stop = (): void => this.#stream.close();
    if (this.#signal.aborted) stop();
    this.#signal.addEventListener('abort', stop, { once: true });
    this.#watchForStall(this.#stallMs);
    try {
      return await this.#read(onEvent);
    } finally {
      this.#timer?.cancel();
      this.#signal.removeEventListener('abort', stop);
      this.#stream.close();
    }
  }

  async #read(onEvent: (event: WatchEvent<T>) => void): Promise<WatchEnd> {
    const cutter = new LineCutter();
    const chunks = this.#stream.chunks[Symbol.asyncIterator]();
    for (;;) {
      const chunk = await chunks.next().catch((error: unknown) => ({ broken: String(error) }));
      if (this.#signal.aborted) return { kind: 'stopped', message: 'stopped' };
      if (this.#isStalled) return { kind: 'stalled', message: `no byte for ${this.#stallMs} ms` };
      if ('broken' in chunk) return { kind: 'reset', message: chunk.broken };
      if (chunk.done === true) return { kind: 'end', message: 'the server ended the watch' };
      this.#heardAtMs = this.#clock.monotonicMs();
      for (const step of this.#steps(cutter, chunk.value)) {
        if ('end' in step) return step.end;
        onEvent(step.event);
      }
    }
  }

  #steps(cutter: LineCutter, chunk: Buffer): Step<T>[] {
    const steps: Step<T>[] = [];
    try {
      for (const line of cutter.push(chunk)) steps.push(this.#step(line));
    } catch (error) {
      // Lines before the bad one count: they were whole.
      steps.push({ end: { kind: 'garbage', message: String(error) } });
    }
    return steps;
  }

  #step(line: string): Step<T> {
    const { type, object } = JSON.parse(line) as RawEvent;
    const version = object?.metadata?.resourceVersion;
    if (type === 'ERROR') {
      const message = object?.message ?? 'the watch failed';
      return { end: { kind: object?.code === 410 ? 'gone' : 'error', message } };
    }
    if (type === 'BOOKMARK' && version !== undefined) return { event: { type, resourceVersion: version } };
    const isChange = type === 'ADDED' || type === 'MODIFIED' || type === 'DELETED';
    if (!isChange || version === undefined || object?.metadata?.name === undefined)
      throw new Error(`no watch event: ${line.slice(0, 200)}`);
    const whole = { apiVersion: apiVersionOf(this.#kind), kind: this.#kind.kind, ...object };
    return { event: { type, object: whole as unknown as T } };
  }

  /** One timer that looks when the last byte came, instead of one timer per byte. */
  #watchForStall(delayMs: number): void {
    this.#timer = this.#clock.setTimer(delayMs, () => {
      const quietMs = this.#clock.monotonicMs() - this.#heardAtMs;
      if (quietMs < this.#stallMs) {
        this.#watchForStall(this.#stallMs - quietMs);
        return;
      }
      this.#isStalled = true;
      this.#stream.close();
    });
  }
}
