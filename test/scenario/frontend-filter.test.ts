/** What a content filter says and when, before the proxy over the simulated network: no END without its word, and it is let go when nobody needs it. */
import { describe, expect, it } from 'vitest';
import type { FilteredMessage, FilterVerdict } from '../../frontend/content-filters.ts';
import { BARE_LF, bodyOf, Client, world } from './proxy-world.ts';

describe('a content filter', () => {
  /** A filter that says what it is told to, when it is told to. */
  function filter() {
    const verdict = Promise.withResolvers<FilterVerdict>();
    const seen = { bytes: 0, isEnded: false, isAbandoned: false };
    const filtered: FilteredMessage = {
      write: ({ length }) => Object.assign(seen, { bytes: seen.bytes + length }).bytes > 0,
      end: () => Object.assign(seen, { isEnded: true }) && verdict.promise,
      abandon: () => void Object.assign(seen, { isAbandoned: true }),
    };
    return { filtered, seen, verdict };
  }
  const REFUSED: FilterVerdict = { kind: 'refuse', reply: { code: 550, enhanced: '5.7.1', text: 'spam' } };

  it('no END before the verdict of the content filter; what it added goes with END, to whoever has the body by then', async () => {
    const { filtered, seen, verdict } = filter();
    const w = await world();
    const client = new Client(w, bodyOf(50_000), { filter: filtered });
    await w.run(() => seen.isEnded);
    expect([w.a.ends, w.a.opens.length, seen.bytes]).toEqual([0, 1, 50_000]);
    w.a.kill();
    await w.run(() => w.b.opens.length === 1);
    expect([client.code, w.b.ends]).toEqual([null, 0]);
    verdict.resolve({ kind: 'accept', fields: [{ name: 'X-Spam', value: ' no\n\tnever' }], note: 'a note' });
    expect(await client.over()).toBe(250);
    const events = [...w.b.held.values()].flatMap(({ end }) => end.events);
    expect(events.slice(-2)).toMatchObject([
      { event: 'FRONTEND', detail: 'a note' },
      { event: 'CONTENT-FILTER', detail: '["X-Spam"," no\\n\\tnever"]', source: 'f-0' },
    ]);
  });

  it('what the content filter refuses was never a copy, anywhere; the client hears its words', async () => {
    const { filtered, verdict } = filter();
    verdict.resolve(REFUSED);
    const w = await world();
    const client = new Client(w, bodyOf(50_000), { filter: filtered });
    expect(await client.over()).toBe(550);
    expect(client.answer).toEqual({ kind: 'reply', reply: { code: 550, enhanced: '5.7.1', text: 'spam' } });
    await w.run(() => w.a.drops.length === 1);
    expect([w.a.ends, w.b.ends, w.a.held.size, w.b.held.size, w.proxy.replayBufferBytes, w.proxy.inFlight]).toEqual([
      ...[0, 0, 0, 0],
      ...[0, 0],
    ]);
  });

  it('a client that is gone, a body that is malformed, a transport that refuses: the filter is let go', async () => {
    const w = await world();
    const gone = filter();
    void new Client(w, bodyOf(50_000), { filter: gone.filtered, abortAt: 20_000 });
    await w.run(() => gone.seen.isAbandoned);
    const malformed = filter();
    expect(await new Client(w, bodyOf(10), { filter: malformed.filtered, rejected: BARE_LF }).over()).toBe(554);
    expect(malformed.seen).toMatchObject({ isEnded: false, isAbandoned: true });
    const refused = filter();
    refused.verdict.resolve(REFUSED);
    w.a.script.atBytes = { bytes: 30_000, what: 'never' };
    w.b.script.atBytes = { bytes: 30_000, what: 'never' };
    expect(await new Client(w, bodyOf(200_000), { filter: refused.filtered }).over()).toBeGreaterThanOrEqual(550);
    expect(refused.seen.isAbandoned).toBe(true);
  });

  it.each(['filter', 'check'] as const)(
    'a client that is gone while the %s is waited for leaves no copy: it comes again',
    async (kind) => {
      const { filtered, seen, verdict } = filter();
      const results = Promise.withResolvers<readonly string[]>();
      const check = { ...filtered, end: () => filtered.end().then(() => results.promise) };
      const gone = Promise.withResolvers<void>();
      const w = await world();
      const how = { ...(kind === 'filter' ? { filter: filtered } : { check }), goneAfterEnd: gone.promise };
      const client = new Client(w, bodyOf(50_000), how);
      await w.run(() => seen.isEnded);
      gone.resolve();
      expect(await client.over()).toBe('close');
      expect(seen.isAbandoned).toBe(true);
      // What it would have said comes too late to make an END.
      verdict.resolve({ kind: 'accept', fields: [], note: null });
      results.resolve(['mx.example.org; spf=pass']);
      await w.run(() => w.a.drops.length === 1);
      expect([w.a.ends, w.b.opens.length, w.a.held.size, w.proxy.replayBufferBytes, w.proxy.inFlight]).toEqual([
        ...[0, 0, 0],
        ...[0, 0],
      ]);
    },
  );

  it('a client that is gone after the verdict changes nothing any more: the transport keeps the message', async () => {
    const { filtered, seen, verdict } = filter();
    const gone = Promise.withResolvers<void>();
    const w = await world();
    const client = new Client(w, bodyOf(50_000), { filter: filtered, goneAfterEnd: gone.promise });
    await w.run(() => seen.isEnded);
    verdict.resolve({ kind: 'accept', fields: [], note: null });
    await w.run(() => w.a.ends === 1);
    gone.resolve();
    expect(await client.over()).toBe(250);
    expect([w.a.held.size, w.a.drops.length]).toEqual([1, 0]);
  });
});
