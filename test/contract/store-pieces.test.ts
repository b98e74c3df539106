/** Bodies that come in tiny pieces: records, bytes of log and memory depend on the bytes, not on the pieces (transport/store/body-writer.ts). */
import { describe, expect, test } from 'vitest';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import { BACKLOG_BYTES } from '../../transport/store/body-backlog.ts';
import { extentsOf as extentsIn } from '../../transport/store/body-place.ts';
import { FLUSH_BYTES } from '../../transport/store/body-writer.ts';
import type { BodyWriter, QueueDatabase } from '../../transport/store/database.ts';
import { ReadOnlyDatabase } from '../../transport/store/read-only.ts';
import { SimBench } from './bench.ts';
import { bodyOf, copyId, factsOf, readAll, stateOf } from './samples.ts';

interface Counted {
  bytes: number;
  writes: number;
  syncs: number;
}

function counting(counted: Counted): (files: Files) => Files {
  const wrap = (handle: FileHandle): FileHandle => ({
    ...handle,
    writev: async (buffers, position) => {
      counted.writes += 1;
      counted.bytes += buffers.reduce((sum, buffer) => sum + buffer.length, 0);
      await handle.writev(buffers, position);
    },
    datasync: async () => {
      counted.syncs += 1;
      await handle.datasync();
    },
  });
  return (files) => ({
    ...files,
    open: async (path, mode) => {
      const handle = await files.open(path, mode);
      return path.includes('segment') ? wrap(handle) : handle;
    },
  });
}

async function ready(segmentBytes = 4 << 20): Promise<{ bench: SimBench; store: QueueDatabase; counted: Counted }> {
  const counted: Counted = { bytes: 0, writes: 0, syncs: 0 };
  const bench = new SimBench(1, {}, segmentBytes, counting(counted));
  const store = await bench.open();
  await bench.run(store.commit([{ kind: 'fact', key: 'begun', value: 1 }]));
  await bench.pass(5000);
  Object.assign(counted, { bytes: 0, writes: 0, syncs: 0 });
  return { bench, store, counted };
}

const commit = (store: QueueDatabase, body: BodyWriter): Promise<void> =>
  store.commit([{ kind: 'commit', facts: factsOf(body.id, body), state: stateOf('delivery'), body }]);

async function extentsOf(bench: SimBench, n: number): Promise<number> {
  const view = await bench.run(ReadOnlyDatabase.open(bench.files(), '/q'));
  const body = view.loaded.state.index.copies.get(copyId(n))?.body;
  const extents = body === undefined ? 0 : extentsIn(body).length;
  await bench.run(view.close());
  return extents;
}

describe('a body in tiny pieces', () => {
  test('2,000 bytes one by one are one write, one sync and one extent, at the commit', async () => {
    const { bench, store, counted } = await ready();
    const bytes = bodyOf(copyId(1), 2000);
    const body = store.beginBody(copyId(1));
    for (let at = 0; at < bytes.length; at++) await bench.run(body.append(bytes.subarray(at, at + 1)));
    await bench.pass(5000);
    expect(counted).toEqual({ bytes: 0, writes: 0, syncs: 0 });
    expect((await bench.run(body.read(1000, 500))).equals(bytes.subarray(1000, 1500))).toBe(true);
    await bench.run(commit(store, body));
    expect(counted).toMatchObject({ writes: 1, syncs: 1 });
    expect(counted.bytes).toBeLessThanOrEqual(8192);
    expect((await bench.run(readAll(store, copyId(1)))).equals(bytes)).toBe(true);
    await bench.run(store.close());
    expect(await extentsOf(bench, 1)).toBe(1);
  });

  test('a large one is written while it comes, in extents of 64 KiB', async () => {
    const { bench, store, counted } = await ready();
    const bytes = bodyOf(copyId(1), 400_000);
    const body = store.beginBody(copyId(1));
    for (let at = 0; at < bytes.length; at += 100) await bench.run(body.append(bytes.subarray(at, at + 100)));
    expect(counted.bytes).toBeGreaterThan(bytes.length - FLUSH_BYTES);
    expect(counted.bytes).toBeLessThan(bytes.length * 1.1);
    expect(counted.syncs).toBe(0);
    for (const at of [0, 65_000, 200_000, 399_000])
      expect((await bench.run(body.read(at, 1000))).equals(bytes.subarray(at, at + 1000))).toBe(true);
    await bench.run(commit(store, body));
    bench.powerCut();
    const again = await bench.open();
    expect((await bench.run(readAll(again, copyId(1)))).equals(bytes)).toBe(true);
    await bench.run(again.close());
    expect(await extentsOf(bench, 1)).toBe(7);
  });

  test('append holds the sender back once 64 KiB are not with the OS, and lets it go on when they are', async () => {
    const { bench, store } = await ready();
    const body = store.beginBody(copyId(1));
    let going = 0;
    const piece = Buffer.alloc(1024, 3);
    // The disk does not get a turn.
    for (let n = 0; n < 100; n++) void body.append(piece).then(() => (going += 1));
    await new Promise<void>((resolve) => setImmediate(resolve));
    expect(going).toBe(FLUSH_BYTES / 1024 - 1);
    await bench.pass(100);
    expect(going).toBe(100);
    body.discard();
  });

  test('when all bodies together hold too much, the larger ones are written and the small ones are left alone', async () => {
    const { bench, store, counted } = await ready(32 << 20);
    const large: BodyWriter[] = [];
    const size = FLUSH_BYTES - 1024;
    const tiny = store.beginBody(copyId(9999));
    await bench.run(tiny.append(Buffer.from('x')));
    for (let n = 0; n * size <= BACKLOG_BYTES; n++) {
      const body = store.beginBody(copyId(n));
      large.push(body);
      await bench.run(body.append(bodyOf(copyId(n), size)));
    }
    await bench.pass(100);
    expect(counted.bytes).toBeGreaterThan(BACKLOG_BYTES);
    expect(counted.bytes).toBeLessThan(BACKLOG_BYTES * 1.1);
    const before = counted.bytes;
    await bench.run(commit(store, tiny));
    // Its byte was still waiting for company: it comes with its COMMIT.
    expect(counted.bytes - before).toBe(4096);
    for (const body of large) await bench.run(commit(store, body));
    for (const [n] of large.entries())
      expect((await bench.run(readAll(store, copyId(n)))).equals(bodyOf(copyId(n), size))).toBe(true);
  });

  test('pieces taken after the body was discarded cost nothing', async () => {
    const { bench, store, counted } = await ready();
    const body = store.beginBody(copyId(1));
    await bench.run(body.append(Buffer.from('abc')));
    body.discard();
    await bench.run(body.append(Buffer.alloc(100_000)));
    await bench.pass(5000);
    expect(counted.bytes).toBe(0);
    expect(body.sizeBytes).toBe(0);
  });
});
