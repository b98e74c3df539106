/**
 * A MailCluster of which both halves are real: objects in the API server, and transports as processes (`mailcluster run`) behind the pods of the
 * same names. Owns: the processes, a fake node whose kubelet port leads to them, the operator (paused: it looks and signs, and makes
 * nothing), people with the roles of docs/kubectl-roles.yaml. The plugin is started by kubectl, as a person does.
 */
import { type ChildProcess, execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { readTopology } from '../../common/config-files.ts';
import { topologyConfigMap } from '../../operator/resources/documents.ts';
import { LABEL, named, PORT } from '../../operator/resources/names.ts';
import { type ApiAccess, type ApiUser, type KubectlResult, nodePool } from '../cluster/api-access.ts';
import { FakeKubelet } from '../cluster/fake-kubelet.ts';
import { FakeNodes } from '../cluster/fake-nodes.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { type Cluster, startCluster, twoSites } from '../process/harness.ts';
import { type OperatorHandle, ownOperator, PATIENCE } from './operator-rig.ts';
import { installRoles, type Person, personWith } from './people.ts';
import { compileCache, ownNamespace, POOL } from './rig.ts';

export const NAME = 'test';
const PLUGIN_MS = 60_000;

export class PluginRig {
  readonly access: ApiAccess;
  readonly namespace: string;
  readonly mail: Cluster;
  readonly kubelet: FakeKubelet;
  readonly operator: OperatorHandle;
  readonly members: readonly string[];
  readonly #directory: string;

  constructor(
    parts: Pick<PluginRig, 'access' | 'namespace' | 'mail' | 'kubelet' | 'operator' | 'members'>,
    directory: string,
  ) {
    this.access = parts.access;
    this.namespace = parts.namespace;
    this.mail = parts.mail;
    this.kubelet = parts.kubelet;
    this.operator = parts.operator;
    this.members = parts.members;
    this.#directory = directory;
  }

  /** A ServiceAccount with these roles here. */
  async person(name: string, ...roles: readonly string[]): Promise<Person> {
    return await personWith(this.access, this.namespace, name, ...roles);
  }

  /** `kubectl mailcluster WORDS` with the real kubectl, which finds the plugin on PATH. */
  async plugin(person: Pick<ApiUser, 'kubeconfig'>, ...words: readonly string[]): Promise<KubectlResult> {
    return await this.kubectl(['mailcluster', ...words, '-n', this.namespace, '--kubeconfig', person.kubeconfig]);
  }

  /** `act` when it has said so much: kubectl becomes the plugin, it is the same process. */
  async watched(
    person: Pick<ApiUser, 'kubeconfig'>,
    words: readonly string[],
    said: RegExp,
    act: (plugin: ChildProcess) => void,
  ): Promise<KubectlResult> {
    const options = ['-n', this.namespace, '--kubeconfig', person.kubeconfig];
    return await this.kubectl(['mailcluster', ...words, ...options], (text, plugin) => {
      if (said.test(text)) act(plugin);
    });
  }

  kubectl(
    words: readonly string[],
    heard: (text: string, plugin: ChildProcess) => void = () => undefined,
  ): Promise<KubectlResult> {
    const [PATH, HOME] = [`${this.#directory}:/usr/bin:/bin`, this.#directory];
    const env = { PATH, HOME, NODE_COMPILE_CACHE: compileCache() };
    return new Promise((resolve) => {
      let said = '';
      const started = execFile(
        this.access.parts.kubectlProgram,
        [...words],
        { timeout: PLUGIN_MS, maxBuffer: 64 << 20, env, cwd: this.#directory },
        (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code ?? 99), stdout, stderr }),
      );
      started.stdout?.on('data', (chunk: string) => {
        said += chunk;
        heard(said, started);
      });
    });
  }

  file(name: string): string {
    return join(this.#directory, name);
  }

  path(plural: string, name: string): string {
    return `/apis/mailcluster.dev/v1alpha1/namespaces/${this.namespace}/${plural}/${name}`;
  }
}

/** The authority of the processes becomes that of the MailCluster, as the operator would have made it. */
async function publish(access: ApiAccess, namespace: string, mail: Cluster, annotations: KubeObject): Promise<void> {
  const [certificate, key] = await Promise.all(
    ['ca.crt', 'ca.key'].map((name) => readFile(join(mail.state, 'pki', name), 'base64')),
  );
  for (const document of parseAllDocuments(await readFile(mail.resourceFile, 'utf8'))) {
    const object = document.toJS() as KubeObject;
    const paused = object.kind === 'MailCluster' ? { 'mailcluster.dev/paused': 'true', ...annotations } : {};
    await access.client.mustApply({ ...object, metadata: { ...object.metadata, namespace, annotations: paused } });
  }
  const { metadata } = await access.client.get(
    `/apis/mailcluster.dev/v1alpha1/namespaces/${namespace}/mailclusters/${NAME}`,
  );
  const owner = { name: NAME, namespace, uid: String(metadata.uid) };
  const topology = await readTopology((await mail.runFile()).topologyFile);
  await access.client.mustApply(topologyConfigMap(owner, named.topology(NAME), topology, undefined));
  await access.client.mustApply({
    ...{ apiVersion: 'v1', kind: 'Secret', type: 'kubernetes.io/tls' },
    metadata: { name: named.authority(NAME), namespace, labels: { [LABEL.cluster]: NAME } },
    data: { 'tls.crt': certificate, 'tls.key': key },
  });
}

async function pods(access: ApiAccess, namespace: string, mail: Cluster, node: string, kubelet: FakeKubelet) {
  const { transports } = await mail.runFile();
  for (const { name, dag, site, adminUrl, metricsUrl } of transports) {
    const labels = { [LABEL.cluster]: NAME, [LABEL.role]: 'transport', [LABEL.dag]: dag, [LABEL.site]: site };
    kubelet.pods.set(`${namespace}/${name}`, {
      ports: { [PORT.admin]: Number(new URL(adminUrl).port), [PORT.metrics]: Number(new URL(metricsUrl).port) },
      log: () => readFile(join(mail.state, 'logs', `${name}.log`), 'utf8'),
    });
    const spec = { nodeName: node, containers: [{ name: 'transport', image: 'localhost/mailcluster:test' }] };
    await access.client.mustApply({ apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace, labels }, spec });
  }
  return transports.map(({ name }) => name);
}

/** For one file of tests: `context` ends with all of them. */
export async function pluginRig(
  access: ApiAccess,
  context: Pick<TestContext, 'onTestFinished'>,
  annotations: KubeObject = {},
): Promise<PluginRig> {
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-plugin-'));
  context.onTestFinished(() => rm(directory, { recursive: true, force: true }));
  await symlink(join(ROOT, 'operator/cli/kubectl-mailcluster'), join(directory, 'kubectl-mailcluster'));
  const namespace = await ownNamespace(access, context as TestContext);
  // Nobody listens there: every message waits.
  // The namespace is part of the names of transports.
  const mail = await startCluster((at) =>
    twoSites(at, { perSite: [2, 1], frontends: 1, lmtp: '127.0.0.1:1' }).replaceAll(
      /^metadata: \{ name: (\w+) \}$/gm,
      `metadata: { name: $1, namespace: ${namespace} }`,
    ),
  );
  context.onTestFinished(() => mail[Symbol.asyncDispose]());
  const kubelet = await FakeKubelet.start();
  context.onTestFinished(() => kubelet[Symbol.asyncDispose]());
  const node = `plugin-${POOL}-${randomBytes(3).toString('hex')}`;
  const nodes = await FakeNodes.start(access.client, [{ name: node, zone: node }], { pool: nodePool(POOL) });
  context.onTestFinished(async () => {
    await access.client.call('DELETE', `/api/v1/namespaces/${namespace}/pods?gracePeriodSeconds=0`);
    await nodes.remove();
  });
  await kubelet.serve(access.client, node);
  await installRoles(access);
  await publish(access, namespace, mail, annotations);
  const members = await pods(access, namespace, mail, node, kubelet);
  const operator = await ownOperator(access, context as TestContext, namespace);
  await until(
    'the pods to run',
    async () => {
      const { items } = await access.client.get(`/api/v1/namespaces/${namespace}/pods`);
      const running = (items as KubeObject[]).filter(({ status }) => status?.phase === 'Running');
      return running.length === members.length;
    },
    PATIENCE,
  );
  return new PluginRig({ access, namespace, mail, kubelet, operator, members }, directory);
}
