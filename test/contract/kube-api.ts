/** What `KubeApi` promises over an API server, whichever: the same cases for ours and for the real one. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FIELD_MANAGER, type WatchEvent } from '../../operator/kube/api.ts';
import { CONFIG_MAP, EVENT, LEASE, NAMESPACE } from '../../operator/kube/kinds.ts';
import type { KubeObject } from '../../operator/kube/kube-object.ts';
import { until } from '../house/until.ts';
import {
  configMap,
  failureKind,
  type KubeRig,
  must,
  type TestClient,
  WIDGET,
  type Widget,
  widget,
} from './kube-rig.ts';

export function kubeApiContract(server: string, start: () => Promise<KubeRig>): void {
  describe(`API: ${server}`, () => {
    let rig: KubeRig;
    let client: TestClient;
    let namespace: string;
    beforeAll(async () => {
      rig = await start();
      client = await rig.client();
      namespace = await rig.namespace();
    }, 120_000);
    afterAll(async () => await rig?.stop());

    /** Somebody else who writes: a merge patch under another manager. */
    const other = async (patch: Record<string, unknown>, name: string): Promise<void> => {
      const { api } = await rig.client({ manager: 'somebody-else' });
      must(await api.patch(WIDGET, { namespace, name }, patch));
    };

    describe('server-side apply', () => {
      it('creates, and the second time changes nothing, not even the version', async () => {
        const wanted = widget(namespace, 'twice', { size: 1, tags: ['a'], members: [{ name: 'x', size: 1 }] });
        const first = must(await client.api.apply(WIDGET, wanted));
        const second = must(await client.api.apply(WIDGET, wanted));
        expect([first.isCreated, second.isCreated]).toEqual([true, false]);
        expect(second.object.metadata.resourceVersion).toBe(first.object.metadata.resourceVersion);
        expect(second.object.metadata.managedFields?.map((one) => [one.manager, one.operation])).toEqual([
          [FIELD_MANAGER, 'Apply'],
        ]);
      });

      it('removes what it applied before and leaves out now', async () => {
        must(
          await client.api.apply(
            WIDGET,
            widget(namespace, 'less', {
              size: 1,
              color: 'red',
              tags: ['a', 'b'],
              members: [{ name: 'x' }, { name: 'y' }],
            }),
          ),
        );
        const { object } = must(
          await client.api.apply(WIDGET, widget(namespace, 'less', { size: 1, tags: ['b'], members: [{ name: 'y' }] })),
        );
        expect(object.spec).toEqual({ size: 1, tags: ['b'], members: [{ name: 'y' }] });
      });

      it('keeps what others own', async () => {
        must(
          await client.api.apply(WIDGET, widget(namespace, 'shared', { size: 1, members: [{ name: 'x', size: 1 }] })),
        );
        await other({ metadata: { labels: { theirs: 'yes' } }, spec: { color: 'blue' } }, 'shared');
        const { object } = must(
          await client.api.apply(WIDGET, widget(namespace, 'shared', { members: [{ name: 'x', size: 2 }] })),
        );
        expect(object.metadata.labels).toEqual({ theirs: 'yes' });
        expect(object.spec).toEqual({ color: 'blue', members: [{ name: 'x', size: 2 }] });
      });

      it('a field that somebody else changed is a conflict that names field and manager, unless forced', async () => {
        must(await client.api.apply(WIDGET, widget(namespace, 'fought', { size: 1 })));
        const { api } = await rig.client({ manager: 'somebody-else' });
        const live = must(await api.get<Widget>(WIDGET, { namespace, name: 'fought' }));
        must(await api.replace(WIDGET, { ...live, spec: { size: 7 } }));
        const refused = await client.api.apply(WIDGET, widget(namespace, 'fought', { size: 1 }));
        if (refused.ok || refused.failure.kind !== 'conflict') throw new Error(failureKind(refused));
        expect(refused.failure.causes).toEqual([
          expect.objectContaining({ reason: 'FieldManagerConflict', field: '.spec.size' }),
        ]);
        expect(refused.failure.causes[0]?.message).toContain('somebody-else');
        const forced = must(await client.api.apply(WIDGET, widget(namespace, 'fought', { size: 1 }), { force: true }));
        expect((forced.object as Widget).spec).toEqual({ size: 1 });
      });

      it('of an object that must be there does not make one', async () => {
        const result = await client.api.apply(WIDGET, widget(namespace, 'absent', { size: 1 }), {
          mustExist: { uid: '11111111-1111-1111-1111-111111111111' },
        });
        expect(failureKind(result)).toBe('conflict');
        expect(failureKind(await client.api.get(WIDGET, { namespace, name: 'absent' }))).toBe('notFound');
      });

      it('status and spec do not touch each other; only the spec counts generations', async () => {
        const made = must(await client.api.apply(WIDGET, widget(namespace, 'state', { size: 1 })));
        const said: Widget = { ...widget(namespace, 'state', { size: 99 }), status: { phase: 'Ready' } };
        const status = must(await client.api.apply(WIDGET, said, { subresource: 'status' })).object;
        expect([status.spec, status.status, status.metadata.generation]).toEqual([{ size: 1 }, { phase: 'Ready' }, 1]);
        const again = must(await client.api.apply(WIDGET, said, { subresource: 'status' })).object;
        expect(again.metadata.resourceVersion).toBe(status.metadata.resourceVersion);
        const changed = must(await client.api.apply(WIDGET, widget(namespace, 'state', { size: 2 }))).object;
        expect([changed.spec, changed.status, changed.metadata.generation]).toEqual([
          { size: 2 },
          { phase: 'Ready' },
          2,
        ]);
        expect(changed.metadata.uid).toBe(made.object.metadata.uid);
      });
    });

    describe('reading and deleting', () => {
      it('pages give every object once, of one moment', async () => {
        for (let at = 0; at < 7; at += 1)
          must(
            await client.api.create(CONFIG_MAP, {
              ...configMap(namespace, `page-${at}`, {}),
              metadata: { namespace, name: `page-${at}`, labels: { pages: 'yes' } },
            }),
          );
        const names: string[] = [];
        const versions = new Set<string>();
        let continueToken = '';
        do {
          const scope = { namespace, labelSelector: 'pages=yes' };
          const page = must(await client.api.list(CONFIG_MAP, scope, { limit: 3, continueToken }));
          names.push(...page.items.map((one) => `${one.kind} ${one.metadata.name}`));
          versions.add(page.resourceVersion);
          continueToken = page.continueToken;
          // What comes in between belongs to no page.
          must(await client.api.apply(CONFIG_MAP, configMap(namespace, 'page-9', { at: String(names.length) })));
        } while (continueToken !== '');
        expect(names).toEqual([0, 1, 2, 3, 4, 5, 6].map((at) => `ConfigMap page-${at}`));
        expect(versions.size).toBe(1);
      });

      it('says precisely what is wrong', async () => {
        const nobody = await rig.client({ as: 'nobody' });
        const kinds = {
          absent: failureKind(await client.api.get(CONFIG_MAP, { namespace, name: 'absent' })),
          noSuchKind: failureKind(await client.api.list({ ...WIDGET, plural: 'gadgets' }, { namespace })),
          noSuchNamespace: failureKind(await client.api.create(CONFIG_MAP, configMap('no-such', 'a', {}))),
          there: failureKind(await client.api.create(CONFIG_MAP, configMap(namespace, 'page-1', {}))),
          nobody: failureKind(await nobody.api.list(CONFIG_MAP, { namespace })),
        };
        expect(kinds).toEqual({
          absent: 'notFound',
          noSuchKind: 'notFound',
          noSuchNamespace: 'notFound',
          there: 'alreadyExists',
          nobody: 'forbidden',
        });
      });

      it('a refused object says which field', async () => {
        const refused = await client.api.apply(CONFIG_MAP, configMap(namespace, 'Not_A_Name', {}));
        if (refused.ok || refused.failure.kind !== 'invalid') throw new Error(failureKind(refused));
        expect(refused.failure.causes[0]).toMatchObject({ reason: 'FieldValueInvalid', field: 'metadata.name' });
      });

      it('deletes only what was meant', async () => {
        const name = { namespace, name: 'victim' };
        const made = must(await client.api.create(CONFIG_MAP, configMap(namespace, 'victim', {})));
        const wrong = await client.api.delete(CONFIG_MAP, name, { uid: '11111111-1111-1111-1111-111111111111' });
        expect(failureKind(wrong)).toBe('conflict');
        expect(failureKind(await client.api.delete(CONFIG_MAP, name, { resourceVersion: '1' }))).toBe('conflict');
        expect(must(await client.api.delete(CONFIG_MAP, name, { uid: made.metadata.uid ?? '' }))).toBe('gone');
        expect(must(await client.api.delete(CONFIG_MAP, name))).toBe('gone');
      });

      it('a finalizer holds an object until it is taken away', async () => {
        const name = { namespace, name: 'held' };
        const held = { ...widget(namespace, 'held'), metadata: { ...name, finalizers: ['mailcluster.dev/test'] } };
        must(await client.api.create(WIDGET, held));
        expect(must(await client.api.delete(WIDGET, name))).toBe('terminating');
        expect(must(await client.api.get(WIDGET, name)).metadata.deletionTimestamp).toBeDefined();
        must(await client.api.patch(WIDGET, name, { metadata: { finalizers: [] } }));
        expect(failureKind(await client.api.get(WIDGET, name))).toBe('notFound');
      });

      it('nothing can be made in a namespace that is being deleted, and that is its own failure', async () => {
        const doomed = await rig.namespace();
        const held = {
          ...configMap(doomed, 'held', {}),
          metadata: { namespace: doomed, name: 'held', finalizers: ['mailcluster.dev/test'] },
        };
        must(await client.api.create(CONFIG_MAP, held));
        must(await client.api.delete(NAMESPACE, { namespace: '', name: doomed }));
        const refused = await client.api.apply(CONFIG_MAP, configMap(doomed, 'late', {}));
        expect(failureKind(refused)).toBe('namespaceTerminating');
        must(await client.api.patch(CONFIG_MAP, { namespace: doomed, name: 'held' }, { metadata: { finalizers: [] } }));
      });

      it('a write with an old version is a conflict', async () => {
        const name = { namespace, name: 'raced' };
        const made = must(await client.api.create<Widget>(WIDGET, widget(namespace, 'raced', { size: 1 })));
        must(await client.api.patch(WIDGET, name, { spec: { size: 2 } }));
        expect(failureKind(await client.api.replace(WIDGET, made))).toBe('conflict');
        const { resourceVersion } = made.metadata;
        expect(
          failureKind(await client.api.patch(WIDGET, name, { metadata: { resourceVersion }, spec: { size: 3 } })),
        ).toBe('conflict');
        expect(must(await client.api.get<Widget>(WIDGET, name)).spec).toEqual({ size: 2 });
      });
    });

    describe('watching', () => {
      it('tells every change in order, from the version on, only of what is selected; then a bookmark and the end', async () => {
        const start = must(await client.api.list(WIDGET, { namespace }));
        const labelled = (name: string, size: number, watched: string): Widget => ({
          ...widget(namespace, name, { size }),
          metadata: { namespace, name, labels: { watched } },
        });
        const events: WatchEvent<Widget>[] = [];
        const watch = must(
          await client.api.watch<Widget>(
            WIDGET,
            { namespace, labelSelector: 'watched=yes' },
            {
              resourceVersion: start.resourceVersion,
              timeoutSeconds: 5,
              stallMs: 30_000,
              signal: new AbortController().signal,
            },
          ),
        );
        const over = watch.run((event) => events.push(event));
        must(await client.api.apply(WIDGET, labelled('seen', 1, 'yes')));
        must(await client.api.apply(WIDGET, labelled('unseen', 1, 'no')));
        must(await client.api.apply(WIDGET, labelled('seen', 2, 'yes')));
        must(await client.api.apply(WIDGET, labelled('unseen', 2, 'yes')));
        must(await client.api.apply(WIDGET, labelled('unseen', 3, 'no')));
        must(await client.api.delete(WIDGET, { namespace, name: 'seen' }));
        expect(await over).toMatchObject({ kind: 'end' });
        const said = events.flatMap((event) =>
          event.type === 'BOOKMARK' ? [] : [`${event.type} ${event.object.metadata.name} ${event.object.kind}`],
        );
        expect(said).toEqual([
          'ADDED seen Widget',
          'MODIFIED seen Widget',
          'ADDED unseen Widget',
          'DELETED unseen Widget',
          'DELETED seen Widget',
        ]);
        const versions = events.map((event) =>
          Number(event.type === 'BOOKMARK' ? event.resourceVersion : event.object.metadata.resourceVersion),
        );
        expect(versions).toEqual([...versions].sort((a, b) => a - b));
        expect(events.at(-1)?.type).toBe('BOOKMARK');
      });

      it('from a version before the memory of the server is gone, not empty', async () => {
        await rig.compact?.();
        const options = { timeoutSeconds: 5, stallMs: 10_000, signal: new AbortController().signal };
        // The kind of the test is younger than version 1, so no server remembers it at that version.
        const result = await client.api.watch(WIDGET, { namespace }, { ...options, resourceVersion: '1' });
        const end = result.ok ? await result.value.run(() => undefined) : result.failure;
        expect(end.kind).toBe('gone');
      });

      it('ends at once when told to', async () => {
        const stop = new AbortController();
        const { resourceVersion } = must(await client.api.list(WIDGET, { namespace }));
        const options = { resourceVersion, timeoutSeconds: 60, stallMs: 60_000, signal: stop.signal };
        const watch = must(await client.api.watch(WIDGET, { namespace }, options));
        const over = watch.run(() => undefined);
        stop.abort();
        expect((await over).kind).toBe('stopped');
      });
    });

    describe('connections', () => {
      it('20 reads use 1 connection', async () => {
        const fresh = await rig.client();
        const before = rig.proxy.connectionsAccepted;
        for (let at = 0; at < 20; at += 1) must(await fresh.api.list(CONFIG_MAP, { namespace }, { limit: 1 }));
        expect(fresh.metrics.counts.get('api_connections_total')).toBe(1);
        expect(rig.proxy.connectionsAccepted - before).toBe(1);
        expect(fresh.metrics.counts.get('api_requests_total list configmaps 200')).toBe(20);
      });

      it('more calls at once than there may be connections: those that wait for one get it, and all are answered', async () => {
        const fresh = await rig.client();
        const one = () => fresh.api.list(CONFIG_MAP, { namespace }, { limit: 1, deadlineMs: 15_000, retries: 0 });
        const answers = await Promise.all(Array.from({ length: 200 }, one));
        expect(answers.filter(({ ok }) => !ok)).toEqual([]);
        expect(fresh.metrics.counts.get('api_connections_total')).toBeLessThanOrEqual(64);
      });
    });

    it('leases and events are objects like others', async () => {
      const lease: KubeObject = {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: { namespace, name: 'plain' },
        spec: { holderIdentity: 'a', leaseDurationSeconds: 15, renewTime: '2026-01-02T03:04:05.000006Z' },
      };
      const made = must(await client.api.create(LEASE, lease));
      expect(made.spec).toMatchObject({ holderIdentity: 'a', renewTime: '2026-01-02T03:04:05.000006Z' });
      const bad = { apiVersion: 'events.k8s.io/v1', kind: 'Event', metadata: { namespace, name: 'bad' } };
      expect(failureKind(await client.api.create(EVENT, bad))).toBe('invalid');
    });

    it('what is not in the schema is refused, not dropped', async () => {
      const strange = { ...widget(namespace, 'strange'), spec: { sise: 1 } } as unknown as Widget;
      const result = await client.api.create(WIDGET, strange);
      expect(failureKind(result)).toBe('invalid');
    });

    it('a fresh watch hears what happens after it was opened', async () => {
      const stop = new AbortController();
      const { resourceVersion } = must(await client.api.list(CONFIG_MAP, { namespace }));
      const heard: string[] = [];
      const options = { resourceVersion, timeoutSeconds: 60, stallMs: 60_000, signal: stop.signal };
      const watch = must(await client.api.watch(CONFIG_MAP, { namespace }, options));
      const over = watch.run((event) => {
        if (event.type !== 'BOOKMARK') heard.push(event.object.metadata.name);
      });
      must(await client.api.apply(CONFIG_MAP, configMap(namespace, 'heard', {})));
      await until('the event', () => heard.includes('heard'), { deadlineMs: 10_000 });
      stop.abort();
      await over;
    });
  });
}
