/**
 * The whole operator while the API server, or the way to it, fails: what it makes in the end is what it makes without faults, and nothing twice
 * (kubernetes.md K1, K2, K9). The faults are those of a proxy between it and the real API server.
 */
import { isDeepStrictEqual } from 'node:util';
import { expect, inject, it, type TestContext } from 'vitest';
import type { ApiAccess } from '../cluster/api-access.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { installCrds } from '../cluster/shared-cluster.ts';
import { kubeconfigText } from '../contract/kube-rig.ts';
import { until } from '../house/until.ts';
import { type Fault, FaultProxy, type Match } from '../rigs/fake-kube/fault-proxy.ts';
import { testCertificate } from '../rigs/test-certificate.ts';
import {
  applyAll,
  awaitCondition,
  awaitQuiet,
  list,
  type OperatorHandle,
  ownOperator,
  PATIENCE,
  type Plural,
  pathOf,
  twoSites,
  writesOf,
} from './operator-rig.ts';
import { ownApiServer, ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();
const TIMEOUT_MS = 120_000;

/** What is compared with a run without faults. */
const MADE = [
  ...(['statefulsets', 'deployments', 'services', 'serviceaccounts'] as const),
  ...(['configmaps', 'secrets', 'poddisruptionbudgets', 'networkpolicies'] as const),
] satisfies readonly Plural[];

interface Proxied {
  readonly proxy: FaultProxy;
  readonly operator: OperatorHandle;
}

/** An operator that sees the API server through a proxy of its own. */
async function proxied(access: ApiAccess, context: TestContext, namespace: string, armed: Armed[] = []) {
  const certificate = await testCertificate('127.0.0.1');
  const { url, caPem: ca, adminCertPem: cert, adminKeyPem: key } = access;
  const proxy = new FaultProxy({ url, ca, cert, key }, certificate);
  await proxy.up();
  // Handlers of a test run in reverse order: the operator ends while its way is open.
  context.onTestFinished(() => proxy.stop());
  for (const { match, fault, times } of armed) proxy.inject(match, fault, times);
  const text = kubeconfigText({ server: proxy.url, ca: certificate.ca, user: {} });
  const operator = await ownOperator(access, context, namespace, 'operator', { reach: { text } });
  context.onTestFinished(() => proxy.heal());
  return { proxy, operator } satisfies Proxied;
}

interface Armed {
  readonly match: Match;
  readonly fault: Fault;
  readonly times: number;
}

/** Names and specs of all it made, the name of the namespace left out. */
async function madeIn(access: ApiAccess, namespace: string): Promise<Record<string, unknown>> {
  const all: Record<string, unknown> = {};
  for (const plural of MADE)
    for (const object of await list(access, namespace, plural)) {
      const [owner] = (object.metadata.ownerReferences ?? []) as KubeObject[];
      if (owner?.kind !== 'MailCluster') continue;
      const { name, labels } = object.metadata;
      const text = JSON.stringify({ spec: comparable(object.spec), labels });
      all[elsewhere(`${plural}/${name}`, namespace)] = JSON.parse(elsewhere(text, namespace)) as unknown;
    }
  return all;
}

/** The same words for every namespace: its name, and what was hashed with it. */
const elsewhere = (text: string, namespace: string): string =>
  text
    .replaceAll(namespace, 'NAMESPACE')
    .replace(/-[0-9a-f]{6}\b/g, '-HASH')
    .replace(/\b[0-9a-f]{32}\b/g, 'HASH');

/** Without what the API server gave out by itself. */
function comparable(spec: KubeObject | undefined): KubeObject | undefined {
  if (spec === undefined) return undefined;
  const { clusterIP: _, clusterIPs: __, healthCheckNodePort: ___, ports, ...rest } = spec;
  if (!Array.isArray(ports)) return rest;
  return { ...rest, ports: (ports as KubeObject[]).map(({ nodePort: _node, ...port }) => port) };
}

/** Applied, made, and nothing left to write. */
async function settled(access: ApiAccess, namespace: string, operator: OperatorHandle) {
  await until(
    'both StatefulSets to be there',
    async () => (await list(access, namespace, 'statefulsets')).length === 2,
    PATIENCE,
  );
  await awaitQuiet(access, namespace, operator.userAgent);
  return await madeIn(access, namespace);
}

let plain: Promise<Record<string, unknown>> | null = null;
/** Once per file: what comes of it when nothing fails. */
function withoutFaults(access: ApiAccess, context: TestContext): Promise<Record<string, unknown>> {
  plain ??= (async () => {
    const namespace = await ownNamespace(access, context);
    const operator = await ownOperator(access, context, namespace);
    await applyAll(access, twoSites(namespace));
    return await settled(access, namespace, operator);
  })();
  return plain;
}

const answer = (code: number, headers?: Record<string, string>): Fault => ({
  ...{ kind: 'answer', code },
  ...(headers === undefined ? {} : { headers }),
});
const every = (fault: Fault, times: number, match: Match = { isWatch: false }): Armed[] => [{ match, fault, times }];

it.concurrent.for<[string, Armed[]]>([
  ['429 with Retry-After', every(answer(429, { 'retry-after': '1' }), 12)],
  ['500', every(answer(500), 25)],
  ['resets', every({ kind: 'reset' }, 25)],
  [
    'writes that are done while their answers are lost',
    [
      ...every({ kind: 'dropAnswer' }, 15, { method: 'PATCH' }),
      ...every({ kind: 'dropAnswer' }, 10, { method: 'POST' }),
    ],
  ],
  ['every answer 400 ms late', every({ kind: 'delay', delayMs: 400 }, 60)],
  ['403, as in a namespace that ends', every(answer(403), 10, { method: 'PATCH' })],
  ['watches that say 410', every({ kind: 'watchGone', afterLines: 1 }, 30, { isWatch: true })],
])(
  '%s: everything is made as without it, nothing twice, and an edit is put back',
  { timeout: TIMEOUT_MS },
  async ([, armed], context) => {
    const access = api(context);
    const expected = await withoutFaults(access, context);
    const namespace = await ownNamespace(access, context);
    const { proxy, operator } = await proxied(access, context, namespace, armed);
    await applyAll(access, twoSites(namespace));
    // Between two tries of a look that failed the operator is quiet, too: the comparison below says what is missing.
    const isMade = async (): Promise<boolean> => isDeepStrictEqual(await madeIn(access, namespace), expected);
    await until('everything to be made', isMade, { ...PATIENCE, everyMs: 500 }).catch(() => undefined);
    expect(await settled(access, namespace, operator)).toEqual(expected);
    const creates = (await writesOf(access, namespace, operator.userAgent)).filter((one) => one.code === 201);
    const names = creates.filter((one) => one.resource !== 'events').map((one) => `${one.resource}/${one.name}`);
    expect(names).toEqual([...new Set(names)]);
    expect(proxy.seen.filter((one) => one.fault !== null).length).toBeGreaterThan(3);
    proxy.heal();
    const [set] = await list(access, namespace, 'statefulsets');
    const path = pathOf(namespace, 'statefulsets', String(set?.metadata.name));
    await access.client.mergePatch(path, { spec: { replicas: 7 } });
    await until('the size to be put back', async () => (await access.client.get(path)).spec.replicas === 2, PATIENCE);
  },
);

it('away while things change: afterwards they are as the resource says, and one that went is gone', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const access = api(context);
  const [namespace, other] = [await ownNamespace(access, context), await ownNamespace(access, context)];
  const { proxy, operator } = await proxied(access, context, namespace);
  await applyAll(access, twoSites(namespace));
  const before = await settled(access, namespace, operator);
  await proxy.down();
  for (const object of await list(access, namespace, 'services'))
    await access.client.must('DELETE', pathOf(namespace, 'services', String(object.metadata.name)));
  await access.client.mergePatch(pathOf(namespace, 'mailclusters', 'contoso'), { spec: { logLevel: 'debug' } });
  const sawBefore = proxy.seen.length;
  await proxy.up();
  await until(
    'all to be made again',
    async () => Object.keys(await madeIn(access, namespace)).length === Object.keys(before).length,
    PATIENCE,
  );
  expect(proxy.seen.length).toBeGreaterThan(sawBefore);
  expect(await list(access, other, 'services')).toEqual([]);
});

it('the API server restarts, and has forgotten what the watches knew: nothing is made twice, and work goes on; K12: when the CRD becomes newer than the operator it says so and stops', {
  timeout: 240_000,
}, async (context) => {
  if ('missing' in inject('sharedCluster')) return context.skip();
  const access = await ownApiServer(context);
  await installCrds(access);
  const namespace = await ownNamespace(access, context);
  const operator = await ownOperator(access, context, namespace);
  await applyAll(access, twoSites(namespace));
  const pods = async (): Promise<boolean> => (await list(access, namespace, 'pods')).length >= 6;
  await until('the controllers to have made four transports and two front ends', pods, PATIENCE);
  const before = await settled(access, namespace, operator);
  const writes = await writesOf(access, namespace, operator.userAgent);
  await access.apiServer.kill();
  await access.startAgain(access.apiServer);
  await access.compact();
  await awaitQuiet(access, namespace, operator.userAgent);
  expect(await madeIn(access, namespace)).toEqual(before);
  // Its status may be up to ten seconds behind what the controllers did, events are counted together for half a minute.
  const since = (await writesOf(access, namespace, operator.userAgent)).slice(writes.length);
  expect(since.filter(isNoWord)).toEqual([]);
  const [service] = await list(access, namespace, 'services');
  const path = pathOf(namespace, 'services', String(service?.metadata.name));
  await access.client.must('DELETE', path);
  const isThere = async (): Promise<boolean> => (await access.client.call('GET', path)).status === 200;
  await until('the Service to be put back', isThere, PATIENCE);
  await newerCrd(access, namespace, operator, path);
  await until('the Service to be put back again', isThere, PATIENCE);
});

/** More than a word about what is there. */
const isNoWord = ({ resource }: { readonly resource: string }): boolean =>
  !['mailclusters/status', 'mailboxdatabases/status', 'events'].includes(resource);

/** It is told of a schema that it does not know, until the former one is back; meanwhile the object at `path` is deleted. */
async function newerCrd(access: ApiAccess, namespace: string, operator: OperatorHandle, path: string): Promise<void> {
  const crd = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mailclusters.mailcluster.dev';
  const schema = async (version: string): Promise<void> => {
    const annotations = { 'mailcluster.dev/schema-version': version };
    expect((await access.client.mergePatch(crd, { metadata: { annotations } })).status).toBe(200);
  };
  await schema('99');
  const { message } = await awaitCondition(access, namespace, 'Progressing', { reason: 'OperatorTooOld' });
  expect(message).toContain(
    'the CRD has schema 99, this operator (0.0.0-test) knows 1: it changes nothing; upgrade the operator',
  );
  const before = await writesOf(access, namespace, operator.userAgent);
  await access.client.must('DELETE', path);
  await access.client.mergePatch(pathOf(namespace, 'mailclusters', 'contoso'), { spec: { logLevel: 'debug' } });
  await until(
    'the operator to have looked at the change',
    async () => {
      const { status, metadata } = await access.client.get(pathOf(namespace, 'mailclusters', 'contoso'));
      return status.observedGeneration === metadata.generation;
    },
    PATIENCE,
  );
  const since = (await writesOf(access, namespace, operator.userAgent)).slice(before.length);
  expect(since.filter(isNoWord)).toEqual([]);
  expect((await access.client.call('GET', path)).status).toBe(404);
  await schema('1');
}
