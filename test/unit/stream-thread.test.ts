/** Work in a thread: bounded, answered in time or ended, and what becomes of the thread is not what becomes of the process. */
import { afterEach, expect, test } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { StreamThread, type ThreadSettings } from '../../common/platform/stream-thread.ts';

const JOBS = new URL('../../common/platform/thread-jobs.ts', import.meta.url).href;
/** `value` says what to do with the content. */
const ENTRY = new URL(
  `data:text/javascript,${encodeURIComponent(`
    import { parentPort } from 'node:worker_threads';
    import { workOn } from '${JOBS}';
    workOn(parentPort, async (value, content) => {
      if (value === 'die') process.exit(3);
      if (value === 'hang') return new Promise(() => undefined);
      if (value === 'refuse') throw new Error('no');
      if (value === 'early') return 'at once';
      if (value === 'fill') { const all = []; for (;;) all.push(new Array(1000).fill({})); }
      let bytes = 0;
      for await (const chunk of content) bytes += chunk.length;
      return bytes;
    });
  `)}`,
);

const threads: StreamThread<string, number | string>[] = [];
afterEach(async () => {
  for (const one of threads.splice(0)) await one.close();
});
function thread(settings: Partial<ThreadSettings> = {}): StreamThread<string, number | string> {
  const made = new StreamThread<string, number | string>({ clock: systemClock, entry: ENTRY, name: 'work', settings });
  threads.push(made);
  return made;
}

function content(chunks: number, bytes = 1_000) {
  const pulled = { chunks: 0, isClosed: false };
  const stream = (async function* () {
    try {
      while (pulled.chunks < chunks) {
        pulled.chunks++;
        yield Buffer.alloc(bytes);
      }
    } finally {
      pulled.isClosed = true;
    }
  })();
  return { pulled, stream };
}

test('all of it arrives, of many jobs at once', async () => {
  const work = thread({ maxJobs: 3, windowBytes: 5_000 });
  const sizes = [0, 1, 7, 300, 12, 90, 41];
  expect(await Promise.all(sizes.map((size) => work.run('count', content(size).stream)))).toEqual(
    sizes.map((size) => size * 1_000),
  );
});

test('what is not taken is not read: a window, then silence, then the end of the thread', async () => {
  const { stream, pulled } = content(1_000);
  await expect(thread({ windowBytes: 5_000, answerWithinMs: 300 }).run('hang', stream)).rejects.toThrow(
    'work: no answer for 0.3 s',
  );
  expect(pulled).toEqual({ chunks: 5, isClosed: true });
});

test('an answer before the end leaves the rest unread', async () => {
  const { stream, pulled } = content(100_000);
  expect(await thread({ windowBytes: 5_000 }).run('early', stream)).toBe('at once');
  expect(pulled.chunks).toBeLessThan(100);
  expect(pulled.isClosed).toBe(true);
});

test.each(['die', 'fill'])('%s: its jobs fail, later ones get another thread', async (how) => {
  const work = thread({ maxHeapMiB: 16 });
  await expect(work.run(how, content(2).stream)).rejects.toMatchObject({ code: 'THREAD' });
  expect(await work.run('count', content(2).stream)).toBe(2_000);
});

test('one refusal is of one job', async () => {
  const work = thread();
  const good = work.run('count', content(500).stream);
  await expect(work.run('refuse', content(2).stream)).rejects.toThrow('work: no');
  expect(await good).toBe(500_000);
});

test('what the content throws is thrown, and the thread goes on', async () => {
  const work = thread();
  const damaged = (async function* () {
    yield Buffer.alloc(10);
    throw new Error('damaged');
  })();
  await expect(work.run('count', damaged)).rejects.toThrow('damaged');
  expect(await work.run('count', content(2).stream)).toBe(2_000);
});

test('closing ends what is under way and what waits, and what comes later', async () => {
  const work = thread({ maxJobs: 1 });
  const both = [work.run('hang', content(1).stream), work.run('count', content(1).stream)];
  const ends = Promise.allSettled(both);
  await work.close();
  expect((await ends).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  await expect(work.run('count', content(1).stream)).rejects.toThrow('work: stopped');
});
