/** The rig itself: what its promises are worth. Each test breaks a control plane of its own. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, it } from 'vitest';
import { missingForApiServer, startApiServer } from '../cluster/api-server.ts';
import { freePort } from '../cluster/control-plane.ts';
import type { WatchEvent } from '../cluster/kube-client.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { ownApiServer, ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();

/** A zombie of a slow reaper does not run. */
function runs(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

const configMap = (namespace: string, name: string, data: Record<string, string>) => ({
  ...{ apiVersion: 'v1', kind: 'ConfigMap', metadata: { namespace, name }, data },
});

it('comes up with the kubeconfig of an administrator that works', async (context) => {
  const access = api(context);
  const { stdout, code } = await access.kubectl(['get', '--raw', '/readyz']);
  expect({ stdout, code }).toEqual({ stdout: 'ok', code: 0 });
  expect((await access.client.get('/version')).gitVersion).toMatch(/^v1\.34\./);
});

it('a ServiceAccount may do what its role says and nothing else', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const account = await access.serviceAccount(namespace, 'reader');
  const verdict = () => access.kubectl(['-n', namespace, 'get', 'configmaps'], { as: account });
  expect((await verdict()).stderr).toContain(`User "system:serviceaccount:${namespace}:reader" cannot list`);
  const name = { namespace, name: 'reader' };
  await access.client.mustApply({
    ...{ apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'Role', metadata: name },
    rules: [{ apiGroups: [''], resources: ['configmaps'], verbs: ['list'] }],
  });
  await access.client.mustApply({
    ...{ apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'RoleBinding', metadata: name },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'reader' },
    subjects: [{ kind: 'ServiceAccount', ...name }],
  });
  await until('the role to count', async () => (await verdict()).code === 0, { deadlineMs: 10_000 });
  const secrets = await access.kubectl(['-n', namespace, 'get', 'secrets'], { as: account });
  expect(secrets.stderr).toContain('Forbidden');
});

it('the audit log shows who wrote what, through which field manager, and no dry run as a write', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const object = configMap(namespace, 'counted', { a: '1' });
  await access.client.mustApply(object, { fieldManager: 'counting' });
  await access.client.mustApply(object, { fieldManager: 'counting' });
  await access.client.mustApply(object, { fieldManager: 'counting', dryRun: true });
  await access.client.get(`/api/v1/namespaces/${namespace}/configmaps/counted`);
  const writes = await access.audit.writes(
    (entry) => entry.namespace === namespace && entry.fieldManager === 'counting',
  );
  const one = {
    verb: 'patch',
    resource: 'configmaps',
    name: 'counted',
    user: 'test-admin',
    userAgent: 'mailcluster-test',
  };
  expect(writes).toMatchObject([
    { ...one, code: 201 },
    { ...one, code: 200 },
  ]);
  const reads = (await access.audit.entries()).filter((entry) => entry.namespace === namespace && entry.verb === 'get');
  expect(reads).toHaveLength(1);
});

it('keeps what was written when the API server is killed and started again, at the same address', async (context) => {
  const cluster = await ownApiServer(context, { controllers: false });
  await cluster.client.mustApply(configMap('default', 'kept', { a: '1' }));
  await cluster.apiServer.kill();
  await expect(cluster.client.call('GET', '/readyz')).rejects.toThrow(/ECONNREFUSED|socket hang up|ECONNRESET/);
  await cluster.startAgain(cluster.apiServer);
  expect((await cluster.client.get('/api/v1/namespaces/default/configmaps/kept')).data).toEqual({ a: '1' });
  await cluster.apiServer.stop();
  expect(cluster.apiServer.failure).toBeNull();
  await cluster.startAgain(cluster.apiServer);
});

it('does not answer while paused, and answers what was asked after resume', async (context) => {
  const cluster = await ownApiServer(context, { controllers: false });
  cluster.apiServer.pause();
  await expect(cluster.client.call('GET', '/version', { deadlineMs: 500 })).rejects.toThrow('no answer');
  const asked = cluster.client.call('GET', '/version');
  cluster.apiServer.resume();
  expect((await asked).status).toBe(200);
});

it('says that it is not ready while etcd hangs', async (context) => {
  const cluster = await ownApiServer(context, { controllers: false });
  cluster.etcd.pause();
  await until(
    'a write to fail',
    async () => {
      const answer = await cluster.client.call('GET', '/readyz', { deadlineMs: 10_000 }).catch(() => null);
      return answer === null || answer.status === 500;
    },
    { deadlineMs: 40_000 },
  );
  cluster.etcd.resume();
  await until('readiness', async () => (await cluster.client.call('GET', '/readyz')).status === 200, {
    deadlineMs: 40_000,
  });
});

it('after compaction and a restart an old resourceVersion is 410, for a watch and for the next page', async (context) => {
  const cluster = await ownApiServer(context, { controllers: false });
  const path = '/api/v1/namespaces/default/configmaps';
  for (const name of ['a', 'b', 'c']) await cluster.client.mustApply(configMap('default', name, { v: '1' }));
  const page = await cluster.client.get(`${path}?limit=1`);
  for (const name of ['a', 'b', 'c']) await cluster.client.mustApply(configMap('default', name, { v: '2' }));
  await cluster.compact();
  await cluster.apiServer.stop();
  await cluster.startAgain(cluster.apiServer);
  const next = await cluster.client.call(
    'GET',
    `${path}?limit=1&continue=${encodeURIComponent(page.metadata.continue)}`,
  );
  expect({ status: next.status, reason: next.body.reason }).toEqual({ status: 410, reason: 'Expired' });
  const events: WatchEvent[] = [];
  await cluster.client.watch(
    `${path}?resourceVersion=${page.metadata.resourceVersion}`,
    (event) => events.push(event),
    AbortSignal.timeout(20_000),
  );
  expect(events.map(({ type, object }) => [type, object.code])).toEqual([['ERROR', 410]]);
});

it('tries another port when somebody is faster', async (context) => {
  const missing = await missingForApiServer();
  if (missing !== null) return context.skip(missing);
  const taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
  context.onTestFinished(() => void taken.close());
  const { port } = taken.address() as { readonly port: number };
  const ports = [port];
  await using cluster = await startApiServer({
    controllers: false,
    choosePort: async () => ports.shift() ?? freePort(),
  });
  expect(ports).toEqual([]);
  expect(new URL(cluster.url).port).not.toBe(String(port));
});

it('tells the end of the log when a program does not come up, and leaves nothing', async (context) => {
  const missing = await missingForApiServer();
  if (missing !== null) return context.skip(missing);
  await expect(startApiServer({ apiServerFlags: ['--no-such-flag'] })).rejects.toThrow(
    /kube-apiserver ended with 1:[\s\S]*unknown flag: --no-such-flag/,
  );
});

it('two stand side by side, and a stopped one leaves no process and no directory', async (context) => {
  const one = await ownApiServer(context, { controllers: false });
  const pids = [one.etcd.pid, one.apiServer.pid, api(context).url === one.url ? 0 : null].filter((pid) => pid !== null);
  expect(pids.map(runs)).toEqual([true, true]);
  await one.stop();
  expect(pids.map(runs)).toEqual([false, false]);
  expect(existsSync(one.directory)).toBe(false);
});

it('dies with the process that started it, even when that is killed', async (context) => {
  const missing = await missingForApiServer();
  if (missing !== null) return context.skip(missing);
  const holder = spawn(process.execPath, [join(ROOT, 'test/api/cluster-holder.ts')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  context.onTestFinished(() => void holder.kill('SIGKILL'));
  const [line] = await new Promise<[string]>((resolve) =>
    createInterface({ input: holder.stdout }).once('line', (text) => resolve([text])),
  );
  const { directory, pids } = JSON.parse(line) as { readonly directory: string; readonly pids: readonly number[] };
  context.onTestFinished(() => rm(directory, { recursive: true, force: true }));
  expect(pids.map(runs)).toEqual([true, true]);
  expect(await readFile(join(directory, 'etcd.log'), 'utf8')).not.toBe('');
  holder.kill('SIGKILL');
  await until('the control plane to die', () => pids.every((pid) => !runs(pid)), { deadlineMs: 5_000 });
  await until('its maker to be gone', () => holder.signalCode !== null, { deadlineMs: 5_000 });
  await using next = await startApiServer({ controllers: false });
  expect({ orphan: existsSync(directory), own: existsSync(next.directory) }).toEqual({ orphan: false, own: true });
});
