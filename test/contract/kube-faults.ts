/** What the operator's runtime does when the API server or the way to it fails: injected by a proxy in front of our server and of the real one. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { CONFIG_MAP } from '../../operator/kube/kinds.ts';
import { configMap, failureKind, type KubeRig, must, type TestClient } from './kube-rig.ts';

export function kubeFaultContract(server: string, start: () => Promise<KubeRig>): void {
  describe(`faults: ${server}`, () => {
    let rig: KubeRig;
    let client: TestClient;
    let namespace: string;
    beforeAll(async () => {
      rig = await start();
      client = await rig.client();
      namespace = await rig.namespace();
      must(await client.api.create(CONFIG_MAP, configMap(namespace, 'there', { a: '1' })));
    }, 120_000);
    afterEach(async () => {
      rig.proxy.heal();
      await rig.proxy.up();
    });
    afterAll(async () => await rig?.stop());

    const name = (): { namespace: string; name: string } => ({ namespace, name: 'there' });
    const read = () => client.api.get(CONFIG_MAP, name());
    const requests = (from: number, method: string): number =>
      rig.proxy.seen.slice(from).filter((one) => one.method === method).length;

    it.each([
      ['a reset', { kind: 'reset' } as const],
      ['an answer that breaks off', { kind: 'cutAnswer', bytes: 20 } as const],
      ['half a JSON', { kind: 'answer', code: 200, body: '{"kind":"Conf' } as const],
      ['an HTML page with 200', { kind: 'answer', code: 200, body: '<html>log in</html>' } as const],
      ['a JSON that is no object of Kubernetes', { kind: 'answer', code: 200, body: '{"hello":1}' } as const],
      ['500', { kind: 'answer', code: 500 } as const],
      ['503', { kind: 'answer', code: 503 } as const],
      ['504', { kind: 'answer', code: 504, body: 'gateway' } as const],
    ])('a read lives through %s', async (_, fault) => {
      const from = rig.proxy.seen.length;
      rig.proxy.inject({ method: 'GET' }, fault, 2);
      expect(failureKind(await read())).toBe('ok');
      expect(requests(from, 'GET')).toBe(3);
    });

    it('gives up after its retries, and says that nothing usable came', async () => {
      const from = rig.proxy.seen.length;
      rig.proxy.inject({ method: 'GET' }, { kind: 'answer', code: 500 }, 100);
      const result = await client.api.get(CONFIG_MAP, name(), { retries: 2 });
      expect(failureKind(result)).toBe('unavailable');
      expect(requests(from, 'GET')).toBe(3);
    });

    it.each([429, 503])('%i with Retry-After: not before it, also for a write', async (code) => {
      const answer = { kind: 'answer', code, headers: { 'retry-after': '1' } } as const;
      rig.proxy.inject({ method: 'POST' }, answer, 1);
      const startMs = systemClock.monotonicMs();
      must(await client.api.create(CONFIG_MAP, configMap(namespace, `late-${code}`, {})));
      expect(systemClock.monotonicMs() - startMs).toBeGreaterThanOrEqual(990);
    });

    it('a Retry-After beyond the deadline is told at once', async () => {
      rig.proxy.inject({ method: 'GET' }, { kind: 'answer', code: 429, headers: { 'retry-after': '300' } }, 1);
      const startMs = systemClock.monotonicMs();
      const result = await client.api.get(CONFIG_MAP, name(), { deadlineMs: 10_000 });
      if (result.ok || result.failure.kind !== 'tooManyRequests') throw new Error(failureKind(result));
      expect(result.failure.retryAfterMs).toBe(300_000);
      expect(systemClock.monotonicMs() - startMs).toBeLessThan(5_000);
    });

    it('a create whose answer is lost is not sent again: it may have been done', async () => {
      const from = rig.proxy.seen.length;
      rig.proxy.inject({ method: 'POST' }, { kind: 'dropAnswer' }, 1);
      const result = await client.api.create(CONFIG_MAP, configMap(namespace, 'once', {}));
      if (result.ok || result.failure.kind !== 'unavailable') throw new Error(failureKind(result));
      expect(result.failure.perhapsDone).toBe(true);
      expect(requests(from, 'POST')).toBe(1);
      expect(failureKind(await client.api.get(CONFIG_MAP, { namespace, name: 'once' }))).toBe('ok');
    });

    it('an apply whose answer is lost is sent again, and the second changes nothing', async () => {
      const from = rig.proxy.seen.length;
      rig.proxy.inject({ method: 'PATCH' }, { kind: 'dropAnswer' }, 1);
      const wanted = configMap(namespace, 'again', { a: '1' });
      const { object, isCreated } = must(await client.api.apply(CONFIG_MAP, wanted));
      expect([isCreated, requests(from, 'PATCH')]).toEqual([false, 2]);
      const live = must(await client.api.get(CONFIG_MAP, { namespace, name: 'again' }));
      expect(live.metadata.resourceVersion).toBe(object.metadata.resourceVersion);
    });

    it('a delete whose answer is lost ends as gone', async () => {
      must(await client.api.create(CONFIG_MAP, configMap(namespace, 'leaving', {})));
      rig.proxy.inject({ method: 'DELETE' }, { kind: 'dropAnswer' }, 1);
      expect(must(await client.api.delete(CONFIG_MAP, { namespace, name: 'leaving' }))).toBe('gone');
    });

    it('a silent server costs the deadline and not more', async () => {
      rig.proxy.inject({ method: 'GET' }, { kind: 'swallow' }, 100);
      const startMs = systemClock.monotonicMs();
      expect(failureKind(await client.api.get(CONFIG_MAP, name(), { deadlineMs: 500 }))).toBe('deadline');
      expect(systemClock.monotonicMs() - startMs).toBeLessThan(5_000);
    });

    it('a slow server is waited for within the deadline', async () => {
      rig.proxy.inject({ method: 'GET' }, { kind: 'delay', delayMs: 300 }, 1);
      expect(failureKind(await read())).toBe('ok');
    });

    it('a caller that stops is not kept waiting', async () => {
      rig.proxy.inject({ method: 'GET' }, { kind: 'swallow' }, 100);
      const stop = new AbortController();
      const result = client.api.get(CONFIG_MAP, name(), { signal: stop.signal });
      stop.abort();
      expect(failureKind(await result)).toBe('stopped');
    });

    it('a write is not sent after its last moment, and given up when that comes', async () => {
      const from = rig.proxy.seen.length;
      const wanted = configMap(namespace, 'fenced', {});
      const past = { notAfterMs: systemClock.monotonicMs() - 1 };
      expect(failureKind(await client.api.apply(CONFIG_MAP, wanted, past))).toBe('fenced');
      expect(requests(from, 'PATCH')).toBe(0);
      rig.proxy.inject({ method: 'PATCH' }, { kind: 'swallow' }, 1);
      const soon = { notAfterMs: systemClock.monotonicMs() + 400 };
      expect(failureKind(await client.api.apply(CONFIG_MAP, wanted, soon))).toBe('fenced');
      expect(failureKind(await client.api.get(CONFIG_MAP, { namespace, name: 'fenced' }))).toBe('notFound');
    });

    it('401 once: fresh credentials and one more attempt; 401 again: said', async () => {
      rig.proxy.inject({ method: 'GET' }, { kind: 'answer', code: 401 }, 1);
      expect(failureKind(await read())).toBe('ok');
      rig.proxy.inject({ method: 'GET' }, { kind: 'answer', code: 401 }, 2);
      expect(failureKind(await read())).toBe('unauthorized');
      expect(failureKind(await read())).toBe('ok');
    });

    it('a server that is away for a moment: reads and writes go through when it is back', async () => {
      await rig.proxy.down();
      const pending = [read(), client.api.apply(CONFIG_MAP, configMap(namespace, 'away', { a: '1' }))];
      const created = client.api.create(CONFIG_MAP, configMap(namespace, 'away-created', {}));
      await rig.proxy.up();
      expect((await Promise.all(pending)).map(failureKind)).toEqual(['ok', 'ok']);
      // Refused connections prove that nothing was done, so even a create is sent again.
      expect(failureKind(await created)).toBe('ok');
    });

    it('no more requests a second than the client allows itself', async () => {
      const slow = await rig.client({ perSecond: 20 });
      const startMs = systemClock.monotonicMs();
      const results = await Promise.all(Array.from({ length: 40 }, () => slow.api.get(CONFIG_MAP, name())));
      expect(results.every((one) => one.ok)).toBe(true);
      expect(systemClock.monotonicMs() - startMs).toBeGreaterThanOrEqual(900);
      // What is urgent does not stand in that line.
      const crowd = Array.from({ length: 20 }, () => slow.api.get(CONFIG_MAP, name()));
      const urgentMs = systemClock.monotonicMs();
      must(await slow.api.get(CONFIG_MAP, name(), { isUrgent: true }));
      const tookMs = systemClock.monotonicMs() - urgentMs;
      await Promise.all(crowd);
      expect(tookMs).toBeLessThan(systemClock.monotonicMs() - urgentMs);
    });
  });
}
