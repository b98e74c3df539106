/** How a plan is carried out (operator/carry-out.ts), and what holds back the next look (operator/unseen.ts): what goes side by side, what waits, for whom. */
import { expect, test } from 'vitest';
import type { Clock } from '../../common/platform/clock.ts';
import { systemRandom } from '../../common/platform/random.ts';
import type { Action } from '../../operator/actions.ts';
import { CarryOut } from '../../operator/carry-out.ts';
import type { KubeApi } from '../../operator/kube/api.ts';
import { fail, type KubeResult, succeed } from '../../operator/kube/failures.ts';
import { CONFIG_MAP, POD } from '../../operator/kube/kinds.ts';
import type { KubeObject, ObjectName, ResourceKind } from '../../operator/kube/kube-object.ts';
import { PATIENCE_MS, Unseen } from '../../operator/unseen.ts';
import type { Watched } from '../../operator/world.ts';
import { Scheduler } from '../sim/scheduler.ts';

const OWNER = { name: 'contoso', namespace: 'mail', uid: 'u1' };
const KEY = 'mail/contoso';

const versioned = (name: string, resourceVersion: string): KubeObject => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'mail', uid: `uid-${name}`, resourceVersion },
});

/** A cache that knows what it is told, and the writes of nobody. */
function caches() {
  const known = new Map<string, Watched>();
  const get = (kind: ResourceKind, _namespace: string, name: string) => known.get(`${kind.kind} ${name}`);
  const scheduler = new Scheduler(1);
  return { known, scheduler, unseen: new Unseen({ get }, scheduler.clock()) };
}

/** The port to the API server: every write waits until the test answers it. */
function slowApi(unseen: Unseen, clock: Clock = new Scheduler(1).clock()) {
  const begun: string[] = [];
  const open: ((result: KubeResult<never>) => void)[] = [];
  const said = <T>(name: string, object: T): Promise<KubeResult<T>> => {
    begun.push(name);
    return new Promise((resolve) => {
      open.push((failure) => resolve(failure.ok ? succeed(object) : failure));
    });
  };
  const api = {
    apply: (kind: ResourceKind, object: KubeObject) =>
      said(`${kind.kind} ${object.metadata.name}`, { object: versioned(object.metadata.name, '2'), isCreated: true }),
    patch: (kind: ResourceKind, { name }: ObjectName) => said(`${kind.kind} ${name}`, versioned(name, '2')),
    delete: (kind: ResourceKind, { name }: ObjectName) => said(`delete ${kind.kind} ${name}`, 'terminating'),
  } as unknown as KubeApi;
  const pki = { clock, random: systemRandom };
  const carryOut = new CarryOut({ api, clock, random: systemRandom, pki, unseen });
  const turn = async (): Promise<void> => {
    for (let n = 0; n < 20; n += 1) await Promise.resolve();
  };
  const answer = async (result: KubeResult<never> = succeed(undefined as never)): Promise<void> => {
    for (const resolve of open.splice(0)) resolve(result);
    await turn();
  };
  return { begun, answer, turn, carryOut };
}

const apply = (kind: string, name: string): Action => {
  const apiVersion = kind === 'StatefulSet' ? 'apps/v1' : 'v1';
  return { kind: 'apply', object: { apiVersion, kind, metadata: { name, namespace: 'mail' } }, why: 'create' };
};

const annotate = (name: string): Action => ({
  kind: 'annotate',
  target: { apiVersion: 'v1', kind: 'Pod', name },
  uid: `uid-${name}`,
  annotations: { generation: '2' },
});

test('what needs nothing of each other is said side by side, no workload before all that it mounts is there, pods hear of it last', async () => {
  const { begun, answer, turn, carryOut } = slowApi(caches().unseen);
  const actions = [
    ...[apply('ConfigMap', 'one'), apply('Service', 'two'), apply('StatefulSet', 'three')],
    ...[annotate('four'), annotate('five')],
  ];
  const carried = carryOut.all(OWNER, actions);
  await turn();
  expect(begun).toEqual(['ConfigMap one', 'Service two']);
  await answer();
  expect(begun.slice(2)).toEqual(['StatefulSet three']);
  await answer();
  expect(begun.slice(3)).toEqual(['Pod four', 'Pod five']);
  await answer();
  expect(await carried).toBe('done');
});

test('fifty pods: four at a time, all of them', async () => {
  const { begun, answer, turn, carryOut } = slowApi(caches().unseen);
  const names = Array.from({ length: 50 }, (_, at) => `pod-${at}`);
  const carried = carryOut.all(OWNER, names.map(annotate));
  await turn();
  expect(begun).toHaveLength(4);
  while (begun.length < 50) await answer();
  await answer();
  expect(begun).toEqual(names.map((name) => `Pod ${name}`));
  expect(await carried).toBe('done');
});

test('of many clusters at once: eight writes, and one for each that comes later', async () => {
  const { begun, answer, turn, carryOut } = slowApi(caches().unseen);
  const actions = Array.from({ length: 6 }, (_, at) => annotate(`pod-${at}`));
  const all = ['one', 'two', 'three', 'four'].map((name) => carryOut.all({ ...OWNER, name }, actions));
  await turn();
  expect(begun).toHaveLength(4 + 4 + 1 + 1);
  while (begun.length < 24) await answer();
  await answer();
  expect(await Promise.all(all)).toEqual(['done', 'done', 'done', 'done']);
  const alone = carryOut.all(OWNER, actions);
  await turn();
  expect(begun).toHaveLength(24 + 4);
  await answer();
  await answer();
  expect(await alone).toBe('done');
});

test('an API server that is slow: a look that has written for a while begins nothing more of many alike, and what it began is done', async () => {
  const { scheduler, unseen } = caches();
  const { begun, answer, turn, carryOut } = slowApi(unseen, scheduler.clock());
  const names = Array.from({ length: 20 }, (_, at) => `pod-${at}`);
  const carried = carryOut.all(OWNER, [...names.map(annotate), apply('ConfigMap', 'after')]);
  await turn();
  const passed = async (ms: number): Promise<void> => {
    scheduler.schedule(ms, () => undefined);
    await scheduler.run(() => false, scheduler.nowMs + ms);
    await answer();
  };
  await passed(200);
  await passed(200);
  expect(await carried).toBe('later');
  expect(begun).toEqual(names.slice(0, 8).map((name) => `Pod ${name}`));
});

test('however slow it is: a restart is not parted from what follows it, the status says why the pod is away', async () => {
  const { scheduler, unseen } = caches();
  const { begun, answer, turn, carryOut } = slowApi(unseen, scheduler.clock());
  const restart: Action = { kind: 'restartPod', name: 'a', uid: 'u', resourceVersion: '1', reason: 'ImageChanged' };
  const status: Action = { kind: 'writeDatabaseStatus', name: 'db01', uid: 'u', status: {} };
  const carried = carryOut.all(OWNER, [apply('ConfigMap', 'one'), restart, status]);
  for (let n = 0; n < 3; n += 1) {
    await turn();
    scheduler.schedule(5_000, () => undefined);
    await scheduler.run(() => false, scheduler.nowMs + 5_000);
    await answer();
  }
  expect(await carried).toBe('done');
  expect(begun).toEqual(['ConfigMap one', 'delete Pod a', 'MailboxDatabase db01']);
});

test('however slow it is, each look begins something', async () => {
  const { scheduler, unseen } = caches();
  const { begun, answer, turn, carryOut } = slowApi(unseen, scheduler.clock());
  const carried = carryOut.all(OWNER, [apply('ConfigMap', 'one'), apply('StatefulSet', 'two')]);
  await turn();
  scheduler.schedule(5_000, () => undefined);
  await scheduler.run(() => false, 5_000);
  await answer();
  expect(await carried).toBe('later');
  expect(begun).toEqual(['ConfigMap one']);
});

test('one fails: what is on its way ends, nothing more is begun, and it is named', async () => {
  const { begun, answer, turn, carryOut } = slowApi(caches().unseen);
  const names = Array.from({ length: 20 }, (_, at) => `pod-${at}`);
  const carried = carryOut.all(OWNER, [...names.map(annotate), apply('ConfigMap', 'after')]);
  await turn();
  const conflict = { kind: 'conflict', code: 409, message: 'changed', causes: [] } as const;
  await answer(fail(conflict));
  expect(await carried).toMatchObject({ action: 'annotate Pod pod-0', failure: conflict });
  expect(begun).toHaveLength(4);
});

test('a write that the caches have not shown holds up its own cluster, not its neighbour in the namespace, and not for ever', async () => {
  const { known, scheduler, unseen } = caches();
  unseen.written(KEY, POD, versioned('a', '2'));
  unseen.deleted('mail/fabrikam', CONFIG_MAP, { namespace: 'mail', name: 'b' }, 'uid-b');
  expect(['mail/contoso', 'mail/fabrikam', 'mail/third'].map((key) => unseen.isWaiting(key))).toEqual([
    true,
    false,
    false,
  ]);
  known.set('Pod a', versioned('a', '2') as Watched);
  expect(unseen.isWaiting(KEY)).toBe(false);
  unseen.written(KEY, POD, versioned('a', '3'));
  expect(unseen.isWaiting(KEY)).toBe(true);
  scheduler.schedule(PATIENCE_MS, () => undefined);
  await scheduler.run(() => false, PATIENCE_MS);
  expect(unseen.isWaiting(KEY)).toBe(false);
});

test('a write that the caches show together with what others wrote after it holds up nothing; one from before it does', () => {
  const { known, unseen } = caches();
  // The watch was faster than the answer, and a controller than both.
  known.set('Pod a', versioned('a', '12') as Watched);
  unseen.written(KEY, POD, versioned('a', '11'));
  expect(unseen.isWaiting(KEY)).toBe(false);
  known.set('Pod b', versioned('b', '8') as Watched);
  unseen.written(KEY, POD, versioned('b', '11'));
  // Of others, and older than ours.
  known.set('Pod b', versioned('b', '9') as Watched);
  expect(unseen.isWaiting(KEY)).toBe(true);
  known.set('Pod b', versioned('b', '11') as Watched);
  expect(unseen.isWaiting(KEY)).toBe(false);
});

test('an API server whose versions are no numbers: any other version than before is taken for ours', () => {
  const { known, unseen } = caches();
  known.set('Pod a', versioned('a', 'x') as Watched);
  unseen.written(KEY, POD, versioned('a', 'y'));
  expect(unseen.isWaiting(KEY)).toBe(true);
  known.set('Pod a', versioned('a', 'z') as Watched);
  expect(unseen.isWaiting(KEY)).toBe(false);
});
