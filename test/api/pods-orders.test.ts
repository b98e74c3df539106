/**
 * Orders about queues and messages, and mail itself, over `kubectl mailcluster`: the real API server with its RBAC and admission, the real
 * operator, transports as processes with real mail (docs/decisions/0034-orders-on-kubernetes.md).
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, inject, type TestContext, test } from 'vitest';
import { PORT } from '../../operator/resources/names.ts';
import { ApiAccess } from '../cluster/api-access.ts';
import { FakeKubelet } from '../cluster/fake-kubelet.ts';
import { KubeClient, type KubeObject } from '../cluster/kube-client.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { type CommandResult, program } from '../process/harness.ts';
import type { LedgerEntry } from '../process/ledger.ts';
import { list, pathOf } from './operator-rig.ts';
import { installOrderPolicy, installRoles, type Person, personWith } from './people.ts';
import { LONG, type MailClusterInPods, mailClusterInPods } from './pods-rig.ts';

const TIMEOUT_MS = 240_000;
const PLUGIN = join(ROOT, 'operator/cli/kubectl-main.ts');
const VIEWER = ['mailcluster-certificate-requester', 'mailcluster-viewer'] as const;
const QUEUE = 'mailbox:db01/sea';
const shared = inject('sharedCluster');
const closers: (() => unknown)[] = [];

interface Rig {
  readonly cluster: MailClusterInPods;
  readonly members: readonly string[];
  readonly viewer: Person;
  readonly postmaster: Person;
  readonly exporter: Person;
}
let made: Rig | null = null;

function own(context: TestContext): Rig {
  if ('missing' in shared) return context.skip(shared.missing);
  if (made === null) throw new Error('the rig did not come up');
  return made;
}

/** The way of port-forward to the pods. */
async function kubeletFor({ access, namespace, nodeNames, pods }: MailClusterInPods, members: readonly string[]) {
  const kubelet = await FakeKubelet.start();
  closers.push(() => kubelet[Symbol.asyncDispose]());
  for (const node of nodeNames) await kubelet.serve(access.client, node);
  for (const member of members) {
    const { address } = pods.find(member).machine;
    const ports = { [PORT.admin]: PORT.admin, [PORT.metrics]: PORT.metrics };
    kubelet.pods.set(`${namespace}/${member}`, { host: address, ports, log: async () => pods.find(member).log() });
  }
}

beforeAll(async () => {
  if ('missing' in shared) return;
  const access = new ApiAccess(shared);
  closers.push(() => access.client.close());
  const context = { onTestFinished: (close: () => unknown) => void closers.push(close), task: {} };
  const cluster = await mailClusterInPods(access, context as unknown as TestContext, { replicas: [2, 1] });
  const { namespace } = cluster;
  await installRoles(access);
  closers.push(await installOrderPolicy(access, namespace));
  await cluster.settled();
  await cluster.somewhereToGo(20_000);
  // What is sent waits until somebody lets it go.
  await cluster.stores.sea.stop();
  const members = await cluster.members();
  await kubeletFor(cluster, members);
  const viewer = await personWith(access, namespace, 'viewer', ...VIEWER);
  const postmaster = await personWith(access, namespace, 'postmaster', ...VIEWER, 'mailcluster-postmaster');
  const exporter = await personWith(access, namespace, 'exporter', ...VIEWER, 'mailcluster-exporter');
  made = { cluster, members, viewer, postmaster, exporter };
}, TIMEOUT_MS);

afterAll(async () => {
  for (const close of closers.reverse()) await close();
}, TIMEOUT_MS);

const as = ({ cluster }: Rig, { kubeconfig }: Person, ...words: readonly string[]): Promise<CommandResult> =>
  program(PLUGIN, ...words, '-n', cluster.namespace, '--kubeconfig', kubeconfig);

const idOf = ({ answer }: LedgerEntry): string =>
  answer.kind === 'accepted' ? (/[0-9A-HJKMNP-TV-Z]{26}/.exec(answer.text)?.[0] ?? '') : '';

async function sent({ cluster }: Rig, name: string): Promise<readonly [LedgerEntry, string]> {
  const [entry] = await cluster.send(1, name);
  if (entry === undefined) throw new Error('nothing was sent');
  return [entry, idOf(entry)];
}

const ordersOf = ({ cluster: { access, namespace } }: Rig): Promise<readonly KubeObject[]> =>
  list(access, namespace, 'transportorders');

/** Each member has done it, and says for whom. */
async function tracedBy(rig: Rig, id: string, words: string, times: number): Promise<void> {
  await until(
    `${times} records of ${words}`,
    async () => {
      const { stdout } = await as(rig, rig.viewer, 'trace', id);
      const found = stdout.split('\n').filter((line) => line.includes(words));
      if (found.length !== times) throw new Error(stdout);
      return true;
    },
    LONG,
  );
}

test('who may look orders nothing: each refusal is one line that names the right and the role', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const { viewer, cluster } = rig;
  const [, id] = await sent(rig, 'seen');
  const before = (await ordersOf(rig)).length;
  for (const words of [
    ['queue', 'suspend', QUEUE],
    ['queue', 'retry', QUEUE],
    ['message', 'suspend', id],
    ['message', 'remove', id],
  ]) {
    const { code, stderr } = await as(rig, viewer, ...words);
    expect([words, code]).toEqual([words, 1]);
    expect(stderr).toMatch(
      /^Refused: .*User ".*:viewer" cannot create resource "transportorders" in API group "mailcluster.dev" in the namespace .*; ask for the role mailcluster-postmaster \(docs\/cli\.md has the roles\)\.\n$/,
    );
  }
  expect((await ordersOf(rig)).length).toBe(before);
  const file = join(cluster.pods.directory, 'refused.eml');
  for (const person of [viewer, rig.postmaster]) {
    const { code, stdout, stderr } = await as(rig, person, 'message', 'export', id, '--out', file);
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(/cannot get resource "mailclusters\/content" .*; ask for the role mailcluster-exporter /);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  }
  await expect(stat(file)).rejects.toMatchObject({ code: 'ENOENT' });
  // Looking is enough for a dry run.
  const dry = await as(rig, viewer, 'message', 'remove', '--recipient', 'user0@contoso.com', '--dry-run');
  expect(dry).toMatchObject({ code: 0, stderr: '', stdout: expect.stringContaining('Nothing was removed') });
  expect(dry.stdout).toContain(id);
});

test('nobody orders in the name of somebody else', { timeout: TIMEOUT_MS }, async (context) => {
  const { cluster, postmaster } = own(context);
  const client = new KubeClient(postmaster);
  closers.push(() => client.close());
  const order = (by: string) => ({
    ...{ apiVersion: 'mailcluster.dev/v1alpha1', kind: 'TransportOrder' },
    metadata: { name: 'by-somebody-else', namespace: cluster.namespace },
    spec: { clusterRef: { name: 'contoso' }, by, queue: { name: QUEUE, action: 'Retry' } },
  });
  // A policy is in force a moment after it was made.
  const refused = await until(
    'the policy to refuse',
    async () => {
      const answer = await client.create(order('somebody-else'), { dryRun: true });
      return answer.status === 201 ? null : answer;
    },
    LONG,
  );
  expect(refused.status).toBe(403);
  expect(refused.body.message).toContain(
    `spec.by is somebody-else, but it is ${postmaster.name} who asks; write that name`,
  );
  expect((await client.create(order(postmaster.name), { dryRun: true })).status).toBe(201);
});

test('a queue is suspended at every transport and resumed, a message held back meanwhile stays', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const { cluster, members, postmaster } = rig;
  const suspended = await as(rig, postmaster, 'queue', 'suspend', QUEUE);
  expect(suspended).toMatchObject({ code: 0, stderr: '' });
  expect(suspended.stdout).toContain(`until "kubectl mailcluster queue resume ${QUEUE}"`);
  const id = /"kubectl mailcluster trace ([0-9a-f-]{36})"/.exec(suspended.stdout)?.[1] ?? '';
  await tracedBy(rig, id, `suspend of queue ${QUEUE} by ${postmaster.name}, order ${id}`, members.length);
  const [order] = (await ordersOf(rig)).filter(({ metadata }) => metadata.uid === id);
  expect(order?.spec.by).toBe(postmaster.name);
  expect(order?.status).toMatchObject({
    state: 'InForce',
    message: expect.stringContaining(`queue ${QUEUE}: suspend`),
  });

  await cluster.stores.sea.start();
  const [, held] = await sent(rig, 'held');
  expect(await as(rig, postmaster, 'message', 'suspend', held)).toMatchObject({ code: 0, stderr: '' });
  await tracedBy(rig, held, `suspend by ${postmaster.name}`, 1);
  expect((await as(rig, rig.viewer, 'message', 'list', '--next-hop', QUEUE)).stdout).toContain(held);
  expect(await cluster.countDelivered()).toBe(0);
  expect(await as(rig, postmaster, 'queue', 'resume', QUEUE)).toMatchObject({ code: 0, stderr: '' });
  await cluster.delivered(cluster.ledger.length - 1);
  expect((await as(rig, rig.viewer, 'message', 'show', held)).stdout).toContain('suspended  by a person');
  expect(await as(rig, postmaster, 'message', 'resume', held)).toMatchObject({ code: 0, stderr: '' });
  await cluster.balanced();

  const unknown = await as(rig, postmaster, 'queue', 'suspend', 'mailbox:db77/sea');
  expect(unknown).toMatchObject({ code: 1, stdout: '' });
  expect(unknown.stderr).toMatch(
    /^Refused: there can be no delivery queue mailbox:db77\/sea; there is mailbox:db01\/.*\.\n$/,
  );
});

test('a message is removed, each copy of it accounted for; queue retry tries the others now', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const { cluster, postmaster } = rig;
  await cluster.stores.sea.stop();
  const [entry, id] = await sent(rig, 'gone');
  const [, stays] = await sent(rig, 'stays');
  const removed = await as(rig, postmaster, 'message', 'remove', id);
  expect(removed).toMatchObject({ code: 0, stderr: '' });
  const fates = removed.stdout.split('\n').filter((line) => line.startsWith(id));
  expect(fates).toHaveLength(2);
  for (const line of fates) expect(line).toMatch(/ removed +-$/);
  cluster.ledger.splice(cluster.ledger.indexOf(entry), 1);
  expect((await as(rig, rig.viewer, 'trace', id)).stdout).toContain(`remove by ${postmaster.name}`);
  expect(await as(rig, postmaster, 'message', 'show', id)).toMatchObject({ code: 1, stdout: '' });
  expect((await as(rig, postmaster, 'message', 'show', stays)).code).toBe(0);
  await cluster.stores.sea.start();
  const retried = await as(rig, postmaster, 'queue', 'retry', QUEUE);
  expect(retried).toMatchObject({ code: 0, stderr: '', stdout: expect.stringContaining('tries queue') });
  await cluster.balanced();
});

test('who may export gets the bytes that the client sent, and the transport writes down who', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const { cluster, exporter, members } = rig;
  await cluster.stores.sea.stop();
  const [{ message }, id] = await sent(rig, 'exported');
  const file = join(cluster.pods.directory, 'exported.eml');
  const { code, stdout, stderr } = await as(rig, exporter, 'message', 'export', id, '--out', file);
  expect([code, stderr]).toEqual([0, '']);
  const content = await readFile(file);
  expect(content.equals(message.content)).toBe(true);
  const from = /SHA-256 ([0-9a-f]{64}), from (\S+)\.\n$/.exec(stdout);
  expect(from?.[1]).toBe(message.digest);
  expect(members).toContain(from?.[2]);
  const log = await readFile(cluster.pods.find(from?.[2] ?? '').machine.logFile, 'utf8');
  const line = log.split('\n').find((one) => one.includes('body of a message given out')) ?? '{}';
  expect(JSON.parse(line)).toMatchObject({ attemptId: id, by: exporter.name });
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  // To read is not to order.
  expect(await as(rig, exporter, 'message', 'remove', id)).toMatchObject({ code: 1 });
  await cluster.stores.sea.start();
  await cluster.balanced();
});

test('what waits is redirected to a member that had no copy of it, which delivers it; to nobody outside', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const { cluster, postmaster, members, viewer } = rig;
  await cluster.stores.sea.stop();
  const [, id] = await sent(rig, 'redirected');
  const { stdout } = await as(rig, viewer, 'message', 'list', '-o', 'json');
  const { messages } = JSON.parse(stdout) as { readonly messages: readonly KubeObject[] };
  const copies = (messages.find((one) => one.id === id)?.copies ?? []) as readonly KubeObject[];
  const owner = copies.find(({ role }) => role === 'primary')?.member;
  const third = members.find((name) => copies.every(({ member }) => member !== name)) ?? '';
  expect([copies.length, third]).toEqual([2, expect.stringMatching(/./)]);
  const words = ['message', 'redirect', id, '--to', third];
  expect((await as(rig, viewer, ...words)).stderr).toContain('cannot create resource "transportorders"');
  const moved = await as(rig, postmaster, ...words);
  expect(moved).toMatchObject({ code: 0, stderr: '' });
  expect(moved.stdout).toMatch(new RegExp(`^${id} +${owner} +${third} +yes$`, 'm'));
  expect((await as(rig, viewer, 'trace', id)).stdout).toContain(`redirect by ${postmaster.name}`);
  expect(await as(rig, postmaster, 'message', 'redirect', id, '--to', 'nobody-0')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining(`there is no such member; there is ${members.join(', ')}`),
  });
  await cluster.stores.sea.start();
  await cluster.balanced();
});

test('an order that no operator sees is kept, and comes into force with the next one', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const { cluster, postmaster, members } = rig;
  await cluster.stopOperator();
  const asked = await as(rig, postmaster, 'queue', 'suspend', QUEUE);
  expect(asked).toMatchObject({ code: 1, stdout: '' });
  const name = /kept as TransportOrder (\S+) /.exec(asked.stderr)?.[1] ?? '';
  expect(asked.stderr).toContain(`kubectl delete transportorder ${name} -n ${cluster.namespace}`);
  await cluster.startOperator();
  const path = pathOf(cluster.namespace, 'transportorders', name);
  const { metadata } = await until(
    'the order to be in force',
    async () => {
      const found = await cluster.access.client.get(path);
      return found.status?.state === 'InForce' ? found : null;
    },
    LONG,
  );
  await tracedBy(rig, String(metadata.uid), `by ${postmaster.name}, order ${metadata.uid}`, members.length);
  // What stands in the document stays there without its object.
  expect((await cluster.access.client.call('DELETE', path)).status).toBe(200);
  const [entry] = await sent(rig, 'behind');
  expect((await as(rig, rig.viewer, 'message', 'list', '--next-hop', QUEUE)).stdout).toContain(idOf(entry));
  expect(await as(rig, postmaster, 'queue', 'resume', QUEUE)).toMatchObject({ code: 0, stderr: '' });
  await cluster.balanced();
});
