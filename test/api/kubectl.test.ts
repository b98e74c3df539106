/** What a person sees of our kinds through kubectl: columns, short names, the category, explain, the words of a refusal. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, type TestContext } from 'vitest';
import { parseAllDocuments } from 'yaml';
import type { ApiAccess } from '../cluster/api-access.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { ROOT } from '../house/sources.ts';
import { ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();

async function withExample(context: TestContext): Promise<{ readonly access: ApiAccess; readonly namespace: string }> {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const text = readFileSync(join(ROOT, 'examples/two-site-dag.yaml'), 'utf8');
  for (const document of parseAllDocuments(text)) {
    const object = document.toJS() as KubeObject;
    if (object.kind === 'MailCluster' || object.kind === 'MailboxDatabase') {
      await access.client.mustApply({ ...object, metadata: { ...object.metadata, namespace } });
    }
  }
  return { access, namespace };
}

/** Cells of a table of kubectl, by column. */
function table(text: string): readonly Readonly<Record<string, string>>[] {
  const [head = '', ...rows] = text.trimEnd().split('\n');
  const columns = [...head.matchAll(/\S+\s*/g)].map((found) => ({ name: found[0].trim(), from: found.index }));
  return rows.map((row) =>
    Object.fromEntries(columns.map(({ name, from }, at) => [name, row.slice(from, columns[at + 1]?.from).trim()])),
  );
}

it('`kubectl get mc` shows readiness, members, unprotected, the oldest message and the age', async (context) => {
  const { access, namespace } = await withExample(context);
  const status = {
    membersReady: '3/4',
    counts: { unprotected: 7 },
    oldestMessageTime: new Date(Date.now() - 600_000).toISOString(),
    conditions: [
      {
        type: 'Ready',
        status: 'False',
        reason: 'MembersNotReady',
        message: '',
        lastTransitionTime: new Date().toISOString(),
      },
    ],
  };
  await access.client.mustApply(
    { apiVersion: 'mailcluster.dev/v1alpha1', kind: 'MailCluster', metadata: { name: 'contoso', namespace }, status },
    { subresource: 'status' },
  );
  const { stdout } = await access.kubectl(['-n', namespace, 'get', 'mc', '-o', 'wide']);
  const [row] = table(stdout);
  expect(row).toMatchObject({
    NAME: 'contoso',
    READY: 'False',
    MEMBERS: '3/4',
    UNPROTECTED: '7',
    REASON: 'MembersNotReady',
  });
  expect(row?.['OLDEST-MESSAGE']).toMatch(/^10m/);
  expect(row?.AGE).toMatch(/^\d+s$/);
});

it('`kubectl wait --for=condition=Ready` waits for it', async (context) => {
  const { access, namespace } = await withExample(context);
  const waiting = access.kubectl(['-n', namespace, 'wait', '--for=condition=Ready', 'mc/contoso', '--timeout=50s']);
  const status = {
    conditions: [
      { type: 'Ready', status: 'True', reason: 'AllReady', message: '', lastTransitionTime: new Date().toISOString() },
    ],
  };
  await access.client.mustApply(
    { apiVersion: 'mailcluster.dev/v1alpha1', kind: 'MailCluster', metadata: { name: 'contoso', namespace }, status },
    { subresource: 'status' },
  );
  expect(await waiting).toMatchObject({ code: 0, stdout: expect.stringContaining('condition met') });
});

it('`kubectl wait` does not take a condition about an older spec', async (context) => {
  const { access, namespace } = await withExample(context);
  const resource = { apiVersion: 'mailcluster.dev/v1alpha1', kind: 'MailCluster' };
  const say = (observedGeneration: number) => {
    const at = { lastTransitionTime: new Date().toISOString(), observedGeneration };
    const conditions = [{ type: 'Ready', status: 'True', reason: 'AsExpected', message: '', ...at }];
    // That of the whole status is newer: the operator has looked, and could not say anything about this.
    const status = { observedGeneration: 2, conditions };
    return access.client.mustApply(
      { ...resource, metadata: { name: 'contoso', namespace }, status },
      { subresource: 'status' },
    );
  };
  const { status } = await access.client.mergePatch(
    `/apis/mailcluster.dev/v1alpha1/namespaces/${namespace}/mailclusters/contoso`,
    { spec: { frontend: { replicas: 4 } } },
  );
  expect(status).toBe(200);
  await say(1);
  const wait = (timeout: string) =>
    access.kubectl(['-n', namespace, 'wait', '--for=condition=Ready', 'mc/contoso', `--timeout=${timeout}`]);
  expect(await wait('2s')).toMatchObject({ code: 1, stderr: expect.stringContaining('timed out waiting') });
  const waiting = wait('50s');
  await say(2);
  expect(await waiting).toMatchObject({ code: 0 });
});

it.for<readonly [short: string, name: string]>([
  ['mc', 'mailcluster.mailcluster.dev/contoso'],
  ['mbdb', 'mailboxdatabase.mailcluster.dev/db01'],
  ['rsr', 'resubmitrequest.mailcluster.dev/by-sender'],
  ['torder', 'transportorder.mailcluster.dev/hold'],
])('`kubectl get %s` shows %s', async ([short, name], context) => {
  const { access, namespace } = await withExample(context);
  await access.client.mustApply({
    apiVersion: 'mailcluster.dev/v1alpha1',
    kind: 'ResubmitRequest',
    metadata: { name: 'by-sender', namespace },
    spec: {
      clusterRef: { name: 'contoso' },
      selector: { sender: 'alice@contoso.com' },
      window: { from: '2026-01-01T00:00:00Z', to: '2026-01-02T00:00:00Z' },
    },
  });
  await access.client.mustApply({
    ...{ apiVersion: 'mailcluster.dev/v1alpha1', kind: 'TransportOrder', metadata: { name: 'hold', namespace } },
    spec: {
      ...{ clusterRef: { name: 'contoso' }, by: 'system:admin' },
      queue: { name: 'mailbox:db01/sea', action: 'Suspend' },
    },
  });
  const { stdout, stderr } = await access.kubectl(['-n', namespace, 'get', short, '-o', 'name']);
  expect(stderr).toBe('');
  expect(stdout.trim().split('\n')).toContain(name);
});

it('`kubectl get mail` lists clusters and databases', async (context) => {
  const { access, namespace } = await withExample(context);
  const { stdout } = await access.kubectl(['-n', namespace, 'get', 'mail', '-o', 'name']);
  expect(stdout.trim().split('\n').sort()).toEqual([
    'mailboxdatabase.mailcluster.dev/db01',
    'mailcluster.mailcluster.dev/contoso',
  ]);
});

it('`kubectl explain` has words for every field of every kind', async (context) => {
  const access = api(context);
  const { stdout } = await access.kubectl(['explain', 'mc.spec.safetyNet.holdTime']);
  expect(stdout).toMatch(/FIELD: holdTime/);
  for (const kind of ['mc', 'mbdb', 'rsr']) {
    const { stdout: all, code } = await access.kubectl(['explain', kind, '--recursive']);
    expect(code).toBe(0);
    expect(all).toMatch(/spec\s+<Object>/);
  }
});

it('a refusal by `kubectl apply` says field and fix in one line', async (context) => {
  const access = api(context);
  const file = join(ROOT, 'examples/invalid/no-transports.yaml');
  const { code, stderr } = await access.kubectl(['apply', '--dry-run=server', '-f', file]);
  expect(code).toBe(1);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(stderr).toContain(
    'spec.dags: Required value: the cluster has no transports; add a dag with members to spec.dags',
  );
});
