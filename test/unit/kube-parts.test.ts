/** The pure parts of the operator's runtime: failures, retries, lines, rates, caches, what is applied already, identities. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { FIELD_MANAGER } from '../../operator/kube/api.ts';
import { isApplied } from '../../operator/kube/applied.ts';
import { Applier } from '../../operator/kube/applier.ts';
import { readModifyWrite } from '../../operator/kube/conflict.ts';
import { describeFailure, failureOf, type KubeFailure, retryAfterMs } from '../../operator/kube/failures.ts';
import { LineCutter } from '../../operator/kube/json-lines.ts';
import { CONFIG_MAP, NAMESPACE, NODE, STATEFUL_SET } from '../../operator/kube/kinds.ts';
import { inClusterIdentity, kubeconfigIdentity, TOKEN_MAX_AGE_MS } from '../../operator/kube/kube-config.ts';
import { collectionPath, type KubeObject, keyOf, nameOf, objectPath } from '../../operator/kube/kube-object.ts';
import { microTime } from '../../operator/kube/lease-record.ts';
import { ObjectCache, takeInAll } from '../../operator/kube/object-cache.ts';
import { RateLimit } from '../../operator/kube/rate-limit.ts';
import { retryDelayMs } from '../../operator/kube/retrying.ts';
import { MemoryKube } from '../rigs/fake-kube/memory-api.ts';
import { Scheduler } from '../sim/scheduler.ts';

describe('paths', () => {
  it('are those of the API', () => {
    expect(collectionPath(CONFIG_MAP)).toBe('/api/v1/configmaps');
    expect(collectionPath(STATEFUL_SET, 'mail')).toBe('/apis/apps/v1/namespaces/mail/statefulsets');
    expect(objectPath(NODE, { namespace: '', name: 'n1' })).toBe('/api/v1/nodes/n1');
    expect(objectPath(STATEFUL_SET, { namespace: 'mail', name: 'a/../b' }, 'status')).toBe(
      '/apis/apps/v1/namespaces/mail/statefulsets/a%2F..%2Fb/status',
    );
    expect(() => objectPath(CONFIG_MAP, { namespace: '', name: 'a' })).toThrow('no namespace');
    expect(nameOf(keyOf({ metadata: { namespace: 'mail', name: 'a' } }))).toEqual({ namespace: 'mail', name: 'a' });
    expect(nameOf('n1')).toEqual({ namespace: '', name: 'n1' });
  });
});

describe('failures', () => {
  it('every code has one kind, whatever the body', () => {
    fc.assert(
      fc.property(fc.integer({ min: 300, max: 599 }), fc.jsonValue(), (code, body) => {
        const failure = failureOf(code, body, null);
        expect(failure.code).toBe(code);
        expect(describeFailure(failure)).toContain(failure.kind);
      }),
    );
  });

  it('are told apart by what to do about them', () => {
    const kind = (code: number, body: unknown = null, later: number | null = null): string =>
      failureOf(code, body, later).kind;
    expect([404, 401, 403, 410, 422, 400, 413, 429, 500, 503, 504].map((code) => kind(code))).toEqual([
      'notFound',
      'unauthorized',
      'forbidden',
      'gone',
      'invalid',
      'invalid',
      'invalid',
      'tooManyRequests',
      'unavailable',
      'unavailable',
      'unavailable',
    ]);
    expect(kind(503, null, 1_000)).toBe('tooManyRequests');
    expect(kind(409, { kind: 'Status', reason: 'AlreadyExists' })).toBe('alreadyExists');
    expect(kind(409, { kind: 'Status', reason: 'Conflict' })).toBe('conflict');
    const causes = [{ reason: 'NamespaceTerminating', message: 'x', field: 'metadata.namespace' }];
    expect(kind(403, { kind: 'Status', reason: 'Forbidden', details: { causes } })).toBe('namespaceTerminating');
  });

  it('Retry-After in seconds, as a date, as nonsense', () => {
    const nowMs = Date.parse('2026-01-01T00:00:00Z');
    expect(retryAfterMs('7', nowMs)).toBe(7_000);
    expect(retryAfterMs('Thu, 01 Jan 2026 00:00:09 GMT', nowMs)).toBe(9_000);
    expect(retryAfterMs('Thu, 01 Jan 2015 00:00:09 GMT', nowMs)).toBe(0);
    expect([retryAfterMs('soon', nowMs), retryAfterMs(undefined, nowMs)]).toEqual([null, null]);
    expect(retryAfterMs('999999999', nowMs)).toBe(3_600_000);
  });
});

describe('retries', () => {
  const facts = { isIdempotent: false, attempts: 1, maxRetries: 4, leftMs: 60_000, fraction: 0.5 };
  const unavailable = (perhapsDone: boolean): KubeFailure => ({
    kind: 'unavailable',
    perhapsDone,
    code: 0,
    message: '',
  });
  it('what may have been done is repeated only when that is harmless', () => {
    expect(retryDelayMs({ ...facts, failure: unavailable(true) })).toBeNull();
    expect(retryDelayMs({ ...facts, failure: unavailable(false) })).toBe(75);
    expect(retryDelayMs({ ...facts, isIdempotent: true, failure: unavailable(true) })).toBe(75);
  });
  it('end with their number and with the deadline, and never for what would be refused again', () => {
    expect(retryDelayMs({ ...facts, attempts: 5, failure: unavailable(false) })).toBeNull();
    expect(retryDelayMs({ ...facts, leftMs: 50, failure: unavailable(false) })).toBeNull();
    const busy: KubeFailure = { kind: 'tooManyRequests', retryAfterMs: 2_000, code: 429, message: '' };
    expect(retryDelayMs({ ...facts, failure: busy })).toBe(2_100);
    for (const kind of ['notFound', 'forbidden', 'fenced', 'stopped', 'gone'] as const)
      expect(retryDelayMs({ ...facts, isIdempotent: true, failure: { kind, code: 0, message: '' } })).toBeNull();
  });
});

describe('lines', () => {
  it('come out whole, over any borders', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: 'grapheme' })),
        fc.array(fc.integer({ min: 1, max: 9 })),
        (texts, cuts) => {
          const lines = texts.map((text) => JSON.stringify(text));
          const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(''));
          const cutter = new LineCutter();
          const seen: string[] = [];
          let at = 0;
          for (let index = 0; at < bytes.length; index += 1) {
            const size = cuts[index % Math.max(1, cuts.length)] ?? 5;
            seen.push(...cutter.push(bytes.subarray(at, at + size)));
            at += size;
          }
          expect(seen).toEqual(lines);
        },
      ),
    );
  });
  it('without an end are refused before they fill the memory', () => {
    const cutter = new LineCutter();
    const chunk = Buffer.alloc(1024 * 1024, 'x');
    expect(() => {
      for (let at = 0; at < 20; at += 1) cutter.push(chunk);
    }).toThrow('a line over');
  });
});

describe('rate limit', () => {
  it('a burst at once, then so many a second, in order; who gives up takes no place', async () => {
    const scheduler = new Scheduler(1);
    const limit = new RateLimit(scheduler.clock(), { perSecond: 10, burst: 3 });
    const granted: string[] = [];
    const quitting = new AbortController();
    for (let at = 0; at < 8; at += 1) {
      const signal = at === 4 ? quitting.signal : new AbortController().signal;
      void limit.take(signal).then((isGranted) => granted.push(`${scheduler.nowMs} ${at} ${isGranted}`));
    }
    quitting.abort();
    await scheduler.run(() => granted.length === 8, 10_000);
    expect(granted).toEqual([
      '0 0 true',
      '0 1 true',
      '0 2 true',
      '0 4 false',
      '100 3 true',
      '200 5 true',
      '300 6 true',
      '400 7 true',
    ]);
  });
});

const object = (name: string, version: string, uid = name): KubeObject => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { namespace: 'mail', name, uid, resourceVersion: version },
});

describe('cache', () => {
  it('any two lists after each other: what is said adds up to the second', () => {
    const list = fc.uniqueArray(
      fc.record({
        name: fc.constantFrom('a', 'b', 'c', 'd'),
        version: fc.constantFrom('1', '2'),
        uid: fc.constantFrom('x', 'y'),
      }),
      { selector: (one) => one.name },
    );
    fc.assert(
      fc.property(list, list, (first, second) => {
        const cache = new ObjectCache<KubeObject>({ uid: (one) => [one.metadata.uid ?? ''] });
        const objects = (some: typeof first): KubeObject[] => some.map((one) => object(one.name, one.version, one.uid));
        takeInAll(cache, objects(first));
        const known = new Map(objects(first).map((one) => [keyOf(one), one.metadata.uid]));
        for (const change of takeInAll(cache, objects(second))) {
          const key = keyOf(change.object);
          if (change.type === 'added') expect(known.has(key)).toBe(false);
          else expect(known.get(key)).toBe(change.object.metadata.uid);
          if (change.type === 'deleted') known.delete(key);
          else known.set(key, change.object.metadata.uid);
        }
        expect([...known.keys()].sort()).toEqual(objects(second).map(keyOf).sort());
        expect(takeInAll(cache, objects(second))).toEqual([]);
        for (const uid of ['x', 'y'])
          expect(cache.under('uid', uid).map(keyOf).sort()).toEqual(
            objects(second)
              .filter((one) => one.metadata.uid === uid)
              .map(keyOf)
              .sort(),
          );
      }),
    );
  });
});

describe('what is applied already', () => {
  const wanted = (spec: unknown, labels: Record<string, string> = { app: 'mail' }): KubeObject => ({
    apiVersion: 'apps/v1',
    kind: 'StatefulSet',
    metadata: {
      namespace: 'mail',
      name: 'dag1',
      labels,
      ownerReferences: [{ apiVersion: 'v1', kind: 'X', name: 'x', uid: 'u' }],
    },
    spec,
  });
  const spec = { replicas: 2, ports: [{ name: 'smtp', port: 25 }], args: ['a', 'b'], selector: {}, tags: ['x', 'y'] };
  const live: KubeObject = {
    ...wanted(
      { ...spec, revisionHistoryLimit: 10, ports: [{ name: 'smtp', port: 25, protocol: 'TCP' }] },
      { app: 'mail', theirs: '1' },
    ),
    status: { replicas: 2 },
  };
  const fields = {
    'f:metadata': { 'f:labels': { 'f:app': {} }, 'f:ownerReferences': { 'k:{"uid":"u"}': {} } },
    'f:spec': {
      'f:replicas': {},
      'f:ports': { 'k:{"name":"smtp"}': { '.': {}, 'f:name': {}, 'f:port': {} } },
      'f:args': {},
      'f:selector': {},
      'f:tags': { 'v:"x"': {}, 'v:"y"': {} },
    },
  };
  const owned = (tree: unknown, manager = FIELD_MANAGER): KubeObject => ({
    ...live,
    metadata: { ...live.metadata, managedFields: [{ manager, operation: 'Apply', fieldsV1: tree as never }] },
  });

  it('everything wanted is there and ours; what others and the server added does not matter', () => {
    expect(isApplied(wanted(spec), owned(fields), FIELD_MANAGER)).toBe(true);
  });

  it.each([
    ['a value differs', wanted({ ...spec, replicas: 3 }), owned(fields)],
    ['an item differs', wanted({ ...spec, ports: [{ name: 'smtp', port: 26 }] }), owned(fields)],
    ['an item is new', wanted({ ...spec, ports: [...spec.ports, { name: 'b', port: 1 }] }), owned(fields)],
    ['a set lost a value', wanted({ ...spec, tags: ['x'] }), owned(fields)],
    ['an atomic list is in another order', wanted({ ...spec, args: ['b', 'a'] }), owned(fields)],
    ['a field is not wanted any more', wanted({ ...spec, replicas: undefined }), owned(fields)],
    ['a label is not wanted any more', wanted(spec, {}), owned(fields)],
    ['a label is new', wanted(spec, { app: 'mail', theirs: '1' }), owned(fields)],
    ['somebody else owns it', wanted(spec), owned(fields, 'kubectl')],
    ['nobody owns anything', wanted(spec), live],
  ])('not when %s', (_, desired, there) => {
    expect(isApplied(desired, there, FIELD_MANAGER)).toBe(false);
  });

  it('agrees with the server: after an apply it is there, after another wish it is not, and one wish is one request', async () => {
    const scheduler = new Scheduler(1);
    const clock = scheduler.clock();
    const kube = new MemoryKube(scheduler);
    const hand = kube.by('test');
    hand.create(NAMESPACE, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'mail' } });
    let commits = 0;
    const journey = () => ({ thereMs: 1, backMs: 1 });
    const api = kube.api({ clock, journey, deliver: (run) => run() }, () => (commits += 1));
    const name = { namespace: 'mail', name: 'c' };
    const wish = (data: Record<string, string>): KubeObject => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: name,
      data,
    });
    const ensure = async (
      applier: Applier,
      data: Record<string, string>,
      live: KubeObject | undefined,
    ): Promise<string> => {
      const result = await scheduler.await(applier.ensure(CONFIG_MAP, wish(data), live, { force: true }));
      return result.ok ? result.value.effect : result.failure.kind;
    };
    const applier = new Applier(api);
    const there = (): KubeObject => hand.get(CONFIG_MAP, name);
    expect(await ensure(applier, { a: '1' }, undefined)).toBe('created');
    expect(await ensure(applier, { a: '1' }, there())).toBe('unchanged');
    expect(await ensure(new Applier(api), { a: '1' }, there())).toBe('unchanged');
    expect(commits).toBe(1);
    // Others may have theirs; what is ours is put back.
    hand.patch(CONFIG_MAP, name, { data: { b: 'theirs' } });
    expect(await ensure(applier, { a: '1' }, there())).toBe('unchanged');
    expect(commits).toBe(1);
    hand.patch(CONFIG_MAP, name, { data: { a: 'edited' } });
    expect(await ensure(applier, { a: '1' }, there())).toBe('configured');
    expect(there().data).toEqual({ a: '1', b: 'theirs' });
    expect(await ensure(applier, {}, there())).toBe('configured');
    expect(there().data).toEqual({ b: 'theirs' });
    expect(commits).toBe(3);
  });
});

describe('read, modify, write', () => {
  it('asks the change anew for each version, and gives up after some', async () => {
    const scheduler = new Scheduler(1);
    const kube = new MemoryKube(scheduler);
    const hand = kube.by('test');
    hand.create(NAMESPACE, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'mail' } });
    hand.create(CONFIG_MAP, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { namespace: 'mail', name: 'c' },
      data: { n: '0' },
    });
    const api = kube.api({
      clock: scheduler.clock(),
      journey: () => ({ thereMs: 1, backMs: 1 }),
      deliver: (run) => run(),
    });
    const name = { namespace: 'mail', name: 'c' };
    let rivals = 2;
    const count = (live: KubeObject): KubeObject => {
      const n = Number((live.data as { n: string }).n);
      if (rivals > 0) {
        rivals -= 1;
        hand.patch(CONFIG_MAP, name, { data: { n: String(n + 10) } });
      }
      return { ...live, data: { n: String(n + 1) } };
    };
    const result = await scheduler.await(readModifyWrite(api, CONFIG_MAP, name, count));
    expect(result.ok && result.value.data).toEqual({ n: '21' });
    rivals = 100;
    const lost = await scheduler.await(readModifyWrite(api, CONFIG_MAP, name, count));
    expect(lost.ok ? 'ok' : lost.failure.kind).toBe('conflict');
    const nothing = await scheduler.await(readModifyWrite(api, CONFIG_MAP, name, () => null));
    expect(nothing.ok).toBe(true);
  });
});

describe('identity', () => {
  it('in a pod: files of the ServiceAccount, reread in time and at once after a refusal; a moment without the file is bridged', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'kube-identity-'));
    try {
      const write = (file: string, text: string): Promise<void> => writeFile(join(directory, file), text);
      await Promise.all([write('token', 'one\n'), write('ca.crt', 'CA'), write('namespace', 'mail\n')]);
      let nowMs = 0;
      const clock = { ...systemClock, monotonicMs: () => nowMs };
      const env = { KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '443' };
      const identity = await inClusterIdentity({ clock, env, directory });
      if (identity === null) throw new Error('no identity');
      const token = async (): Promise<string | undefined> => (await identity.credentials()).headers.authorization;
      expect([identity.server, identity.namespace, await token()]).toEqual([
        'https://[fd00::1]:443',
        'mail',
        'Bearer one',
      ]);
      await write('token', 'two');
      nowMs = TOKEN_MAX_AGE_MS - 1;
      expect(await token()).toBe('Bearer one');
      nowMs = TOKEN_MAX_AGE_MS;
      expect(await token()).toBe('Bearer two');
      await write('token', 'three');
      identity.refuse();
      expect(await token()).toBe('Bearer three');
      await rm(join(directory, 'token'));
      identity.refuse();
      expect(await token()).toBe('Bearer three');
      expect(await inClusterIdentity({ clock, env: {}, directory })).toBeNull();
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  const config = (server: string, user: object): string =>
    JSON.stringify({
      'current-context': 'c',
      contexts: [{ name: 'c', context: { cluster: 'k', user: 'u', namespace: 'mail' } }],
      clusters: [{ name: 'k', cluster: { server } }],
      users: [{ name: 'u', user }],
    });

  it('from a kubeconfig: an exec plugin is asked, and again after a refusal', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'kube-exec-'));
    try {
      const count = join(directory, 'count');
      const script = `echo x >> ${count}; n=$(wc -l < ${count}); printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t%s"}}' $n`;
      const exec = {
        apiVersion: 'client.authentication.k8s.io/v1',
        command: 'sh',
        args: ['-c', script],
        interactiveMode: 'Never',
      };
      const identity = await kubeconfigIdentity({ text: config('https://127.0.0.1:1', { exec }) });
      const token = async (): Promise<string | undefined> => (await identity.credentials()).headers.authorization;
      expect([identity.namespace, await token(), await token()]).toEqual(['mail', 'Bearer t1', 'Bearer t1']);
      identity.refuse();
      expect(await token()).toBe('Bearer t2');
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it('refuses credentials in the clear and a context that is not there', async () => {
    await expect(kubeconfigIdentity({ text: config('http://10.0.0.1:80', { token: 'x' }) })).rejects.toThrow(
      'must be https',
    );
    await expect(kubeconfigIdentity({ text: config('https://a', {}), context: 'other' })).rejects.toThrow(
      'no context "other"',
    );
  });

  it('times are those of metav1.MicroTime', () => {
    expect(microTime(1_700_000_000_123)).toBe('2023-11-14T22:13:20.123000Z');
  });
});
