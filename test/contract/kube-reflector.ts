/** Reflector and leader over an API server, whichever, with the faults of the proxy in between. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { Events } from '../../operator/kube/events.ts';
import { fencedApi } from '../../operator/kube/fence.ts';
import { EVENT, LEASE } from '../../operator/kube/kinds.ts';
import { type KubeObject, keyOf } from '../../operator/kube/kube-object.ts';
import { Leader } from '../../operator/kube/leader.ts';
import type { CacheChange } from '../../operator/kube/object-cache.ts';
import { Reflector } from '../../operator/kube/reflector.ts';
import { until } from '../house/until.ts';
import {
  type CountedMetrics,
  failureKind,
  type KubeRig,
  must,
  type TestClient,
  WIDGET,
  type Widget,
  widget,
} from './kube-rig.ts';

const PATIENCE = { deadlineMs: 20_000 };

interface Watched {
  readonly reflector: Reflector<Widget>;
  readonly metrics: CountedMetrics;
  readonly said: string[];
}

export function kubeReflectorContract(server: string, start: () => Promise<KubeRig>): void {
  describe(`reflector: ${server}`, () => {
    let rig: KubeRig;
    let client: TestClient;
    const running: { stop(): Promise<void> }[] = [];
    beforeAll(async () => {
      rig = await start();
      client = await rig.client();
    }, 120_000);
    afterEach(async () => {
      rig.proxy.heal();
      await rig.proxy.up();
      await Promise.all(running.splice(0).map((one) => one.stop()));
    });
    afterAll(async () => await rig?.stop());

    const sayChange = ({ type, object }: CacheChange<Widget>): string =>
      `${type} ${object.metadata.name} ${object.spec?.size}`;

    async function watched(
      namespace: string,
      options: { pageSize?: number; stallMs?: number; watchSeconds?: number } = {},
    ): Promise<Watched> {
      const { api, metrics } = await rig.client();
      const said: string[] = [];
      const reflector = new Reflector<Widget>({
        api,
        kind: WIDGET,
        scope: { namespace },
        clock: systemClock,
        random: systemRandom,
        log: silentLogger,
        metrics,
        indexes: { size: (object) => [String(object.spec?.size)] },
        backoff: { firstMs: 50, maxMs: 200 },
        ...options,
      });
      reflector.onChange((change) => said.push(sayChange(change)));
      reflector.start();
      running.push(reflector);
      return { reflector, metrics, said };
    }

    const put = async (namespace: string, name: string, size: number): Promise<void> => {
      must(await client.api.apply(WIDGET, widget(namespace, name, { size })));
    };
    const remove = async (namespace: string, name: string): Promise<void> => {
      must(await client.api.delete(WIDGET, { namespace, name }));
    };
    const contents = ({ reflector }: Watched): string[] =>
      [...reflector.objects.all()].map((one) => `${one.metadata.name} ${one.spec?.size}`).sort();
    const whenSaid = (one: Watched, what: string): Promise<unknown> =>
      until(what, () => one.said.includes(what), PATIENCE);

    it('has what is there, page by page, then what happens; finds by key and by index', async () => {
      const namespace = await rig.namespace();
      for (let at = 0; at < 5; at += 1) await put(namespace, `w${at}`, at % 2);
      const one = await watched(namespace, { pageSize: 2 });
      expect(await one.reflector.whenSynced()).toBe(true);
      expect(one.said).toHaveLength(5);
      expect(one.reflector.objects.under('size', '1').map(keyOf)).toEqual([`${namespace}/w1`, `${namespace}/w3`]);
      await put(namespace, 'w1', 7);
      await whenSaid(one, 'updated w1 7');
      await remove(namespace, 'w0');
      await whenSaid(one, 'deleted w0 0');
      expect(one.reflector.objects.get(`${namespace}/w0`)).toBeUndefined();
      expect(one.reflector.objects.under('size', '1').map(keyOf)).toEqual([`${namespace}/w3`]);
      expect(one.metrics.sum('api_requests_total list widgets')).toBe(3);
    });

    it('after a reset goes on where it was, without a list', async () => {
      const namespace = await rig.namespace();
      const one = await watched(namespace);
      await one.reflector.whenSynced();
      rig.proxy.inject({ isWatch: true }, { kind: 'watchReset', afterLines: 1 }, 3);
      // The watch of now ends with the connection, the next ones by the fault.
      await rig.proxy.down();
      await rig.proxy.up();
      for (let at = 0; at < 6; at += 1) await put(namespace, 'w', at);
      await whenSaid(one, 'updated w 5');
      expect(one.said).toEqual(['added w 0', ...[1, 2, 3, 4, 5].map((at) => `updated w ${at}`)]);
      expect(one.metrics.sum('relists_total')).toBe(1);
      expect(one.metrics.sum('watch_ends_total widgets reset')).toBeGreaterThanOrEqual(3);
    });

    it('a watch that goes silent is given up, and nothing is missed', async () => {
      const namespace = await rig.namespace();
      rig.proxy.inject({ isWatch: true }, { kind: 'watchStall', afterLines: 1 }, 1);
      const one = await watched(namespace, { stallMs: 700 });
      await one.reflector.whenSynced();
      await put(namespace, 'heard', 1);
      await whenSaid(one, 'added heard 1');
      await put(namespace, 'unheard', 1);
      await whenSaid(one, 'added unheard 1');
      expect(one.metrics.sum('watch_ends_total widgets stalled')).toBeGreaterThanOrEqual(1);
      expect(one.metrics.sum('relists_total')).toBe(1);
    });

    it('after compaction lists again and tells only what differs: no death and rebirth', async () => {
      const namespace = await rig.namespace();
      for (const name of ['stays', 'changes', 'goes', 'reborn']) await put(namespace, name, 1);
      const one = await watched(namespace);
      await one.reflector.whenSynced();
      one.said.length = 0;
      // While it is away three things happen, and the server forgets how.
      rig.proxy.inject({ isWatch: true }, { kind: 'watchGone', afterLines: 0 }, 1);
      await rig.proxy.down();
      const beside = await rig.beside();
      must(await beside.apply(WIDGET, widget(namespace, 'changes', { size: 2 })));
      for (const name of ['goes', 'reborn']) must(await beside.delete(WIDGET, { namespace, name }));
      must(await beside.apply(WIDGET, widget(namespace, 'reborn', { size: 1 })));
      must(await beside.apply(WIDGET, widget(namespace, 'new', { size: 1 })));
      await rig.compact?.();
      await rig.proxy.up();
      await whenSaid(one, 'added new 1');
      await until('the list is taken in', () => one.said.length >= 5, PATIENCE);
      expect([...one.said].sort()).toEqual(
        ['added new 1', 'added reborn 1', 'deleted goes 1', 'deleted reborn 1', 'updated changes 2'].sort(),
      );
      expect(one.said.indexOf('deleted reborn 1')).toBeLessThan(one.said.indexOf('added reborn 1'));
      expect(one.metrics.counts.get('relists_total widgets gone')).toBe(1);
      await put(namespace, 'after', 1);
      await whenSaid(one, 'added after 1');
    });

    it('a continue token that expired leads to a list in one piece', async () => {
      const namespace = await rig.namespace();
      for (let at = 0; at < 4; at += 1) await put(namespace, `w${at}`, at);
      const gone = { kind: 'Status', code: 410, reason: 'Expired', message: 'too old' };
      rig.proxy.inject({ path: /continue=/ }, { kind: 'answer', code: 410, body: JSON.stringify(gone) }, 1);
      const one = await watched(namespace, { pageSize: 2 });
      expect(await one.reflector.whenSynced()).toBe(true);
      expect(contents(one)).toEqual(['w0 0', 'w1 1', 'w2 2', 'w3 3']);
    });

    it('never stops: lists refused, watches refused, nonsense, an hour in small; then it is true again', async () => {
      const namespace = await rig.namespace();
      await put(namespace, 'w', 1);
      rig.proxy.inject({ method: 'GET', isWatch: false, path: /widgets/ }, { kind: 'answer', code: 403 }, 2);
      rig.proxy.inject({ isWatch: true }, { kind: 'answer', code: 500 }, 2);
      rig.proxy.inject({ isWatch: true }, { kind: 'answer', code: 429, headers: { 'retry-after': '0' } }, 1);
      rig.proxy.inject({ isWatch: true }, { kind: 'answer', code: 401 }, 1);
      rig.proxy.inject({ isWatch: true }, { kind: 'watchGarbage', afterLines: 0 }, 2);
      rig.proxy.inject({ isWatch: true }, { kind: 'reset' }, 2);
      const one = await watched(namespace);
      await until(
        'the faults are used up',
        () => rig.proxy.seen.filter((seen) => seen.fault !== null).length >= 10,
        PATIENCE,
      );
      await put(namespace, 'w', 2);
      await whenSaid(one, 'updated w 2');
      expect(contents(one)).toEqual(['w 2']);
    });

    it('bookmarks move it on: after a quiet time it watches from there, not from its last event', async () => {
      const namespace = await rig.namespace();
      await put(namespace, 'w', 1);
      const from = rig.proxy.seen.length;
      const one = await watched(namespace, { watchSeconds: 5 });
      await one.reflector.whenSynced();
      const elsewhere = await rig.namespace();
      for (let at = 0; at < 3; at += 1) await put(elsewhere, 'noise', at);
      const versions = (): number[] =>
        rig.proxy.seen
          .slice(from)
          .filter((seen) => seen.isWatch)
          .map((seen) => Number(new URLSearchParams(seen.path.split('?')[1]).get('resourceVersion')));
      await until('the second watch', () => versions().length >= 2, PATIENCE);
      const [first = 0, second = 0] = versions();
      expect(second).toBeGreaterThan(first);
      expect(one.metrics.sum('relists_total')).toBe(1);
    });

    it('under resets, stalls, nonsense and compaction ends up with exactly what is there', {
      timeout: 120_000,
    }, async () => {
      const namespace = await rig.namespace();
      const one = await watched(namespace, { stallMs: 500, pageSize: 3 });
      const balance = new Map<string, number>();
      one.reflector.onChange(({ type, object }) => {
        const by = type === 'added' ? 1 : type === 'deleted' ? -1 : 0;
        balance.set(object.metadata.name, (balance.get(object.metadata.name) ?? 0) + by);
      });
      const faults = ['watchReset', 'watchStall', 'watchGarbage', 'watchGone'] as const;
      for (let step = 0; step < 60; step += 1) {
        const kind = faults[step % faults.length] ?? 'watchReset';
        if (step % 3 === 0) rig.proxy.inject({ isWatch: true }, { kind, afterLines: step % 4 }, 1);
        const name = `w${(step * 7) % 9}`;
        if (step % 4 === 3) await remove(namespace, name);
        else await put(namespace, name, step);
      }
      rig.proxy.heal();
      const wanted = must(await client.api.list<Widget>(WIDGET, { namespace })).items;
      const text = wanted.map((item) => `${item.metadata.name} ${item.spec?.size}`).sort();
      await until('the cache is what is there', () => JSON.stringify(contents(one)) === JSON.stringify(text), PATIENCE);
      const alive = [...balance].filter(([, count]) => count === 1).map(([name]) => name);
      expect(alive.sort()).toEqual(wanted.map((item) => item.metadata.name).sort());
      expect([...balance.values()].every((count) => count === 0 || count === 1)).toBe(true);
    });

    describe('leader', () => {
      const leader = async (
        namespace: string,
        identity: string,
      ): Promise<{ leader: Leader; api: TestClient['api'] }> => {
        const { api } = await rig.client();
        const made = new Leader({
          api,
          lease: { namespace, name: 'operator' },
          identity,
          clock: systemClock,
          random: systemRandom,
          log: silentLogger,
          metrics: silentMetrics,
          times: { leaseDurationMs: 2_000, renewDeadlineMs: 1_200, retryMs: 200 },
        });
        made.start();
        running.push(made);
        return { leader: made, api };
      };

      it('one of two leads, the fence holds the other back, a clean stop hands over', async () => {
        const namespace = await rig.namespace();
        const two = [await leader(namespace, 'a'), await leader(namespace, 'b')];
        const writing = (): typeof two => two.filter((one) => one.leader.mayWrite);
        await until('one leads', () => writing().length === 1, PATIENCE);
        const [first] = writing();
        const second = two.find((one) => one !== first);
        if (first === undefined || second === undefined) throw new Error('no two');
        const wanted = widget(namespace, 'led', { size: 1 });
        expect(failureKind(await fencedApi(second.api, second.leader).apply(WIDGET, wanted))).toBe('fenced');
        expect(failureKind(await fencedApi(first.api, first.leader).apply(WIDGET, wanted))).toBe('ok');
        await first.leader.stop();
        const startMs = systemClock.monotonicMs();
        await until('the other leads', () => second.leader.mayWrite, PATIENCE);
        // Well below the duration of the lease: it was released.
        expect(systemClock.monotonicMs() - startMs).toBeLessThan(1_500);
      });

      it('without the server it stops writing in time', async () => {
        const namespace = await rig.namespace();
        const { leader: one } = await leader(namespace, 'a');
        await until('it leads', () => one.mayWrite, PATIENCE);
        await rig.proxy.down();
        const startMs = systemClock.monotonicMs();
        await until('it does not', () => !one.mayWrite, PATIENCE);
        expect(systemClock.monotonicMs() - startMs).toBeLessThan(1_600);
        await rig.proxy.up();
        await until('it leads again', () => one.mayWrite, PATIENCE);
        const record = must(await client.api.get(LEASE, { namespace, name: 'operator' }));
        expect(record.spec).toMatchObject({ holderIdentity: 'a', leaseTransitions: 0 });
      });
    });

    it('events: one is written, the same again is a count', async () => {
      const namespace = await rig.namespace();
      const about = must(await client.api.create<Widget>(WIDGET, widget(namespace, 'told', {})));
      const events = new Events({
        api: client.api,
        clock: systemClock,
        random: systemRandom,
        log: silentLogger,
        metrics: silentMetrics,
        controller: 'mailcluster.dev/operator',
        instance: 'operator-0',
      });
      events.start();
      const said = { type: 'Warning', reason: 'DrainRefused', action: 'Drain', note: 'é'.repeat(2_000) } as const;
      events.say(about, said);
      type Written = KubeObject & {
        reason: string;
        note: string;
        series?: { count: number };
        regarding: { uid: string };
      };
      const written = async (): Promise<readonly Written[]> =>
        must(await client.api.list<Written>(EVENT, { namespace })).items.filter((one) => one.reason === 'DrainRefused');
      await until('it is there', async () => (await written()).length === 1, PATIENCE);
      for (let at = 0; at < 4; at += 1) events.say(about, said);
      await events.stop();
      const [one, ...more] = await written();
      expect(more).toEqual([]);
      expect(one).toMatchObject({ series: { count: 5 }, regarding: { uid: about.metadata.uid, name: 'told' } });
      expect(Buffer.byteLength(one?.note ?? '')).toBeLessThanOrEqual(1_024);
    });
  });
}
