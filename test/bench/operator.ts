/**
 * What the operator takes: memory, a look, and nothing to do, with one MailCluster and with many, against a real API server with its controllers
 * (kubernetes.md K13). Pods are played (answering-pods.ts), with --no-answers nobody is there to be asked; the operator is the real program with
 * the identity of a pod. A measurement, not a test. As root: it gives the operator a mount namespace, for the files of its ServiceAccount. Goals of issue 5: 128 MiB at one cluster, 256 MiB
 * and p99 of a look within 1 s at 100 of 50 members, idle 0 writes and 1 % of a core, everything written 2 s after the apply.
 *
 *   node test/bench/operator.ts [--clusters 100] [--sites 5] [--per-site 10] [--at-once 100] [--seconds 60] [--controller-rate 500] [--no-answers] [--no-changes]
 *
 * `--at-once N`: so many clusters come up at a time; the next is applied when one is ready. Then a domain is added to each in the same way, which asks a write for every member.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { OPERATOR_ENVIRONMENT } from '../../operator/operator-process.ts';
import { operatorSettings, type Plural, pathOf } from '../api/operator-rig.ts';
import { type ApiCluster, startApiServer } from '../cluster/api-server.ts';
import { isWrite } from '../cluster/audit-log.ts';
import { Daemon } from '../cluster/daemon.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { installCrds } from '../cluster/shared-cluster.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { AnsweringPods, STORAGE_CLASS } from './answering-pods.ts';
import { cpuMs, line, peakMiB, residentMiB } from './queue-rig.ts';

const { values } = parseArgs({
  allowNegative: true,
  options: {
    clusters: { type: 'string', default: '100' },
    sites: { type: 'string', default: '5' },
    'per-site': { type: 'string', default: '10' },
    'at-once': { type: 'string', default: '100' },
    seconds: { type: 'string', default: '60' },
    'controller-rate': { type: 'string', default: '500' },
    answers: { type: 'boolean', default: true },
    changes: { type: 'boolean', default: true },
  },
});
const [clusters, sites, perSite, seconds] = [values.clusters, values.sites, values['per-site'], values.seconds].map(
  Number,
) as [number, number, number, number];
const atOnce = Number(values['at-once']);
const NAMESPACE = 'mail';
const METRICS_PORT = 19_090;
/** As a deployment has it. */
const LEASE = { durationMs: 15_000, renewDeadlineMs: 10_000, retryMs: 2_000 };
/** The controllers make some ten thousand objects. */
const PATIENCE = { deadlineMs: 3_600_000, everyMs: 1_000 };
/** A cluster is at rest a minute after its last new answer (operator/member-poll.ts). */
const TO_REST_MS = 75_000;

/** Faster than by themselves, and without what no cluster of today needs: Endpoints beside EndpointSlices are a tenth of all writes. */
await using cluster = await startApiServer({
  // Of a hundred clusters it becomes larger than the 100 MB after which the API server would begin another file.
  apiServerFlags: ['--audit-log-maxsize=8192'],
  controllerFlags: [`--kube-api-qps=${values['controller-rate']}`, `--kube-api-burst=${values['controller-rate']}`],
  managerFlags: [
    '--controllers=*,-endpoints-controller,-endpointslice-mirroring-controller',
    '--endpointslice-updates-batch-period=1s',
    // The played machines say that they live when this process comes to it: whether the operator stands that is not what is measured.
    '--node-monitor-grace-period=1h',
  ],
});
await installCrds(cluster);
const { client } = cluster;
await client.must('POST', '/api/v1/namespaces', {
  body: { apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE } },
});

/** The files that a pod has, and the right to everything. */
async function serviceAccount(api: ApiCluster): Promise<string> {
  await client.mustApply({
    ...{ apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRoleBinding', metadata: { name: 'bench-operator' } },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'cluster-admin' },
    subjects: [{ kind: 'ServiceAccount', name: 'default', namespace: NAMESPACE }],
  });
  const path = `/api/v1/namespaces/${NAMESPACE}/serviceaccounts/default`;
  await until('the ServiceAccount', async () => (await client.call('GET', path)).status === 200, PATIENCE);
  const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 86_400 } };
  const { status } = await client.must('POST', `${path}/token`, { body });
  const files = { token: status.token, namespace: NAMESPACE, 'ca.crt': api.caPem };
  for (const [name, text] of Object.entries(files)) await writeFile(join(api.directory, name), String(text));
  return api.directory;
}

async function operatorProcess(api: ApiCluster): Promise<Daemon> {
  const directory = await serviceAccount(api);
  const config = join(directory, 'operator.json');
  const settings = {
    ...operatorSettings(NAMESPACE, 'bench', { lease: LEASE }),
    concurrency: 8,
    metrics: { host: '127.0.0.1', port: METRICS_PORT },
  };
  await writeFile(config, JSON.stringify({ ...settings, watchNamespace: '' }));
  const place = '/run/secrets/kubernetes.io/serviceaccount';
  const steps = [
    ...['mount -t tmpfs none /run', `mkdir -p ${place}`],
    `cp ${directory}/token ${directory}/namespace ${directory}/ca.crt ${place}`,
    `exec ${process.execPath} ${join(ROOT, 'operator/main.ts')} ${config}`,
  ];
  const { hostname, port } = new URL(api.url);
  return new Daemon({
    ...{ name: 'operator', directory, logFile: join(directory, 'operator.log') },
    file: 'unshare',
    args: ['--mount', 'sh', '-ec', steps.join(' && ')],
    environment: {
      ...{ KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port },
      ...OPERATOR_ENVIRONMENT,
      // For a look at it: BENCH_NODE_OPTIONS='--import=...'.
      NODE_OPTIONS: `${OPERATOR_ENVIRONMENT.NODE_OPTIONS} ${process.env.BENCH_NODE_OPTIONS ?? ''}`,
      NODE_COMPILE_CACHE: join(directory, 'compile-cache'),
    },
  });
}

function mailCluster(name: string): KubeObject {
  const names = Array.from({ length: sites }, (_, at) => `site${at}`);
  return {
    ...{ apiVersion: 'mailcluster.dev/v1alpha1', kind: 'MailCluster', metadata: { name, namespace: NAMESPACE } },
    spec: {
      sites: names.map((site) => ({ name: site })),
      ...(values.answers ? { transport: { storage: { size: '1Gi', storageClassName: STORAGE_CLASS } } } : {}),
      dags: [{ name: 'dag1', members: names.map((site) => ({ site, replicas: perSite })) }],
      frontend: { replicas: 2, listeners: [{ name: 'smtp', port: 25, tls: 'StartTls' }] },
      acceptedDomains: [{ name: `${name}.example.com` }],
      redis: { mode: 'None' },
    },
  };
}

const counted = async (plural: Plural): Promise<number> => {
  const page = await client.get(`${pathOf(NAMESPACE, plural)}?limit=1`);
  return page.items.length + Number(page.metadata.remainingItemCount ?? 0);
};

/** Everything is there, and ready when somebody answers; the operator's writes stand still. */
async function settled(many: number): Promise<void> {
  await until(
    `${many * sites * perSite} pods`,
    async () => (await counted('pods')) >= many * sites * perSite,
    PATIENCE,
  );
  if (values.answers)
    await until(`${many} clusters to be ready`, () => allReady(many), { ...PATIENCE, everyMs: 3_000 });
  let before = -1;
  await until(
    'the operator to have nothing left to write',
    async () => {
      const now = (await writes()).length;
      const isQuiet = now === before;
      before = now;
      return isQuiet;
    },
    { ...PATIENCE, everyMs: 10_000 },
  );
}

/** A large run takes most of an hour: what is known so far is said on the way. */
async function allReady(many: number): Promise<boolean> {
  const found = await ready();
  const pid = operator.pid ?? 0;
  const looks = { p50: await lookSeconds(0.5, new Map()), p99: await lookSeconds(0.99, new Map()) };
  console.log(
    `  ${new Date().toISOString()} ${found} of ${many} ready, looks ${JSON.stringify(looks)}, ${residentMiB(pid)} MiB`,
  );
  return found >= many;
}

const conditionOf = ({ status }: KubeObject, type: string): KubeObject | undefined =>
  (status?.conditions as KubeObject[] | undefined)?.find((one) => one.type === type);

const isReady = (one: KubeObject): boolean => conditionOf(one, 'Ready')?.status === 'True';

/** Everything is as this generation says, every member's knowledge of it included. */
const isConverged = (one: KubeObject): boolean =>
  isReady(one) &&
  one.status?.observedGeneration === one.metadata.generation &&
  conditionOf(one, 'Progressing')?.reason === 'Converged';

async function ready(): Promise<number> {
  return ((await client.get(pathOf(NAMESPACE, 'mailclusters'))).items as KubeObject[]).filter(isReady).length;
}

/** `begin` for clusters from..clusters-1, at most `atOnce` of them at a time until they have converged. */
async function inTurn(from: number, begin: (name: string) => Promise<unknown>): Promise<void> {
  let next = from;
  const worker = async (): Promise<void> => {
    for (let n = next++; n < clusters; n = next++) {
      await begin(`cluster${n}`);
      const path = pathOf(NAMESPACE, 'mailclusters', `cluster${n}`);
      if (values.answers)
        await until(`cluster${n} to converge`, async () => isConverged(await client.get(path)), {
          ...PATIENCE,
          everyMs: 250,
        });
      if ((n + 1) % 10 === 0) await allReady(clusters);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

const writes = () =>
  cluster.audit.writes(
    ({ userAgent, resource }) => userAgent.startsWith('mailcluster-operator/') && resource !== 'leases',
  );

/** Who did how much since: what is the bench's and not the operator's is said, too. */
async function costs(pid: number, what: string, before: Costs): Promise<void> {
  const now = await costsOf(pid);
  const since = (of: (one: Costs) => number): number => of(now) - of(before);
  const asked = new Map<string, number>();
  for (const { verb, resource } of now.asked.slice(before.asked.length))
    asked.set(`${verb} ${resource}`, (asked.get(`${verb} ${resource}`) ?? 0) + 1);
  line(`${what}: cost`, {
    operatorCpuSeconds: since(({ operator }) => operator),
    apiServerCpuSeconds: since(({ apiServer }) => apiServer),
    etcdCpuSeconds: since(({ etcd }) => etcd),
    playedPodsCpuSeconds: since(({ bench }) => bench),
    questionsToMembers: since(({ questions }) => questions),
    requestsOfOperator: since((one) => one.asked.length),
    writesOfOthers: since(({ others }) => others),
  });
  const most = [...asked].sort((a, b) => b[1] - a[1]).slice(0, 12);
  console.log(`  ${most.map(([name, many]) => `${many} ${name}`).join(', ')}`);
}

type Costs = Awaited<ReturnType<typeof costsOf>>;

async function costsOf(pid: number) {
  const entries = await cluster.audit.entries();
  const isOperator = ({ userAgent }: { readonly userAgent: string }) => userAgent.startsWith('mailcluster-operator/');
  const { user, system } = process.cpuUsage();
  return {
    operator: cpuMs(pid) / 1000,
    apiServer: cpuMs(cluster.apiServer.pid ?? 0) / 1000,
    etcd: cpuMs(cluster.etcd.pid ?? 0) / 1000,
    bench: (user + system) / 1e6,
    questions: pods?.questions ?? 0,
    asked: entries.filter((one) => isOperator(one) && one.verb !== 'watch' && one.resource !== 'leases'),
    others: entries.filter((one) => !isOperator(one) && isWrite(one)).length,
  };
}

/** Upper bound of the bucket that holds this share of all looks since `before`, s. */
async function lookSeconds(share: number, before: ReadonlyMap<number, number>): Promise<number> {
  const shares = await looksWithin(before);
  return [...shares.keys()].find((le) => (shares.get(le) ?? 0) >= share) ?? Number.NaN;
}

/** Share of all looks since `before` that took at most so many seconds, by seconds, rising. */
async function looksWithin(before: ReadonlyMap<number, number>): Promise<ReadonlyMap<number, number>> {
  const now = await buckets();
  const count = (le: number): number => (now.get(le) ?? 0) - (before.get(le) ?? 0);
  const all = count(Number.POSITIVE_INFINITY);
  const rising = [...now.keys()].sort((one, other) => one - other);
  return new Map(rising.map((le) => [le, count(le) / all]));
}

/** Words for all of them: `99.1 % within 1 s`. */
async function looksSince(before: ReadonlyMap<number, number>): Promise<string> {
  const shares = [...(await looksWithin(before))].filter(([le]) => le >= 0.1 && le <= 10);
  return shares.map(([le, share]) => `${(share * 100).toFixed(2)} % within ${le} s`).join(', ');
}

const exported = async (): Promise<string> => await (await fetch(`http://127.0.0.1:${METRICS_PORT}/metrics`)).text();

async function buckets(): Promise<ReadonlyMap<number, number>> {
  const text = await exported();
  const found = text.matchAll(/^mailcluster_reconcile_duration_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} (\d+)/gm);
  return new Map(
    [...found].map(([, le, many]) => [le === '+Inf' ? Number.POSITIVE_INFINITY : Number(le), Number(many)]),
  );
}

async function passed(ms: number): Promise<void> {
  const endMs = performance.now() + ms;
  await until('the end of the time', () => performance.now() >= endMs, { deadlineMs: ms * 2, everyMs: 500 });
}

async function idle(pid: number, what: string): Promise<void> {
  await passed(TO_REST_MS);
  const [cpuBefore, startMs, before] = [cpuMs(pid), performance.now(), await writes()];
  await passed(seconds * 1_000);
  const percentOfCore = ((cpuMs(pid) - cpuBefore) / (performance.now() - startMs)) * 100;
  const since = (await writes()).slice(before.length);
  line(what, {
    seconds: (performance.now() - startMs) / 1000,
    percentOfCore,
    writes: since.length,
    residentMiB: residentMiB(pid),
    peakMiB: peakMiB(pid),
  });
  for (const { verb, resource, name } of since.slice(0, 20)) console.log(`  while idle: ${verb} ${resource} ${name}`);
}

async function started(process: Daemon): Promise<void> {
  process.start();
  const isReady = async (): Promise<boolean> => (await fetch(`http://127.0.0.1:${METRICS_PORT}/readyz`)).ok;
  await until('the operator to be ready', isReady, { ...PATIENCE, everyMs: 100 });
  // The first of all waits for a lease: somebody may have led before.
  const leads = async (): Promise<boolean> => /^mailcluster_leader(?:\{[^}]*\})? 1$/m.test(await exported());
  await until('the operator to lead', leads, { ...PATIENCE, everyMs: 100 });
}

/** A domain more: a new topology document, which the operator shows to each member and waits for; nobody restarts. */
async function changeEach(pid: number): Promise<void> {
  const [before, costsBefore, startMs] = [await buckets(), await costsOf(pid), performance.now()];
  await inTurn(0, (name) => {
    const acceptedDomains = [{ name: `${name}.example.com` }, { name: `${name}.example.net` }];
    return client.mergePatch(pathOf(NAMESPACE, 'mailclusters', name), { spec: { acceptedDomains } });
  });
  line('a domain added to each', {
    seconds: (performance.now() - startMs) / 1000,
    p50Seconds: await lookSeconds(0.5, before),
    p99Seconds: await lookSeconds(0.99, before),
    residentMiB: residentMiB(pid),
    peakMiB: peakMiB(pid),
  });
  console.log(`  looks: ${await looksSince(before)}`);
  await costs(pid, 'a domain added to each', costsBefore);
}

const pods = values.answers ? await AnsweringPods.start(client, clusters * sites * perSite) : null;
const operator = await operatorProcess(cluster);
try {
  // The first fills the compile cache, without which the types are taken out of the sources at every start.
  await started(operator);
  await operator.stop();
  await started(operator);
  const pid = operator.pid ?? 0;
  await client.mustApply(mailCluster('cluster0'), { fieldManager: 'a-person' });
  const appliedMs = performance.now();
  const wanted = { statefulsets: sites, deployments: sites, poddisruptionbudgets: sites };
  const isThere = async (): Promise<boolean> => {
    for (const [plural, many] of Object.entries(wanted)) if ((await counted(plural as Plural)) < many) return false;
    return true;
  };
  await until('every set, front end and budget of the first', isThere, { ...PATIENCE, everyMs: 20 });
  line('one cluster: apply to all objects', { seconds: (performance.now() - appliedMs) / 1000, goal: '2 s' });
  await settled(1);
  await idle(pid, 'one cluster, idle');
  const before = await costsOf(pid);
  const startMs = performance.now();
  await inTurn(1, (name) => client.mustApply(mailCluster(name), { fieldManager: 'a-person' }));
  await settled(clusters);
  line(`${clusters} x ${sites * perSite}`, {
    seconds: (performance.now() - startMs) / 1000,
    objectsWritten: (await writes()).length,
    p50Seconds: await lookSeconds(0.5, new Map()),
    p99Seconds: await lookSeconds(0.99, new Map()),
    peakMiB: peakMiB(pid),
  });
  console.log(`  looks: ${await looksSince(new Map())}`);
  await costs(pid, `${clusters - 1} more come up`, before);
  await idle(pid, `${clusters} x ${sites * perSite}, idle`);
  if (values.changes) await changeEach(pid);
  if (operator.failure !== null) throw new Error(operator.failure);
} finally {
  await operator.kill();
  await pods?.stop();
}
