/**
 * The worker's side of `stream-thread.ts`. Owns: what came of each job and was not used yet. Promise: every job is answered once, unless it was abandoned; a chunk is
 * acknowledged when the next one is asked for, so that the other side sends no faster than the work goes.
 */
import type { MessagePort } from 'node:worker_threads';
import type { FromThread, ToThread } from './stream-thread.ts';

/** May answer before the content is over; the rest of it is then left out. */
export type Work<Job, Answer> = (job: Job, content: AsyncIterable<Buffer>) => Promise<Answer>;

export function workOn<Job, Answer>(port: MessagePort, work: Work<Job, Answer>): void {
  const jobs = new Map<number, Arriving>();
  const post = (message: FromThread): void => port.postMessage(message);
  port.on('message', (message: ToThread) => {
    const { job } = message;
    if (message.kind === 'open') {
      const content = new Arriving((bytes) => post({ job, kind: 'took', bytes }));
      jobs.set(job, content);
      work(message.value as Job, content)
        .then(
          (value) => (jobs.has(job) ? post({ job, kind: 'answer', value }) : undefined),
          (error: unknown) => {
            const reason = error instanceof Error ? error.message : String(error);
            if (jobs.has(job)) post({ job, kind: 'failed', reason });
          },
        )
        .finally(() => jobs.delete(job));
    } else if (message.kind === 'chunk') jobs.get(job)?.push(Buffer.from(message.bytes.buffer));
    else if (message.kind === 'end') jobs.get(job)?.end(null);
    else {
      const content = jobs.get(job);
      jobs.delete(job);
      content?.end(new Error('abandoned'));
    }
  });
}

class Arriving implements AsyncIterable<Buffer> {
  readonly #took: (bytes: number) => void;
  readonly #chunks: Buffer[] = [];
  #ended: { readonly error: Error | null } | null = null;
  #wake: (() => void) | null = null;

  constructor(took: (bytes: number) => void) {
    this.#took = took;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#wake?.();
  }

  end(error: Error | null): void {
    this.#ended = { error };
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        yield chunk;
        this.#took(chunk.length);
      } else if (this.#ended !== null) {
        if (this.#ended.error !== null) throw this.#ended.error;
        return;
      } else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}
