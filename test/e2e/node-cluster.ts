/**
 * The cluster of this run as its tests see it: API server, kubectl, Helm, nodes and what can happen to them. Owns: the connection of one file, closed with the file.
 * Nodes: n1 in west-1 (seattle), n2 in west-2 (portland), n3 in central-1 (the operator, and the way of this machine to Services).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, inject, type TestContext } from 'vitest';
import { parse } from 'yaml';
import { ApiAccess, type KubectlResult } from '../cluster/api-access.ts';
import { clusterScript, decisions, type HeldParts } from '../cluster/held-cluster.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { Helm, OPERATOR_CHART } from '../rigs/helm.ts';

export type NodeName = 'n1' | 'n2' | 'n3';
export const RELEASE = 'mailcluster-operator';
export const SYSTEM = 'mailcluster-system';
export const IMAGE_TAG = 'e2e';
/** Three helpers may be at work on two cores. */
export const LONG = { deadlineMs: 240_000, everyMs: 250 };
const OUT_OF_SERVICE = 'node.kubernetes.io/out-of-service';

export class NodeCluster {
  readonly parts: HeldParts;
  readonly access: ApiAccess;
  /** This machine as pods see it. */
  readonly hostAddress: string;
  readonly #helm: Helm;

  private constructor(parts: HeldParts, access: ApiAccess, hostAddress: string, helm: Helm) {
    [this.parts, this.access, this.hostAddress, this.#helm] = [parts, access, hostAddress, helm];
  }

  static async open(parts: HeldParts): Promise<NodeCluster> {
    const { directory } = parts;
    const decided = decisions(directory);
    const read = (name: string): string => readFileSync(join(directory, 'pki', name), 'utf8');
    const admin = adminOf(join(directory, 'admin.conf'));
    const access = new ApiAccess({
      url: `https://${decided.get('SERVER')}:${decided.get('SERVER_PORT')}`,
      ...{ caPem: read('ca.crt'), adminCertPem: admin.cert, adminKeyPem: admin.key, directory },
      kubectlProgram: join(decided.get('BIN') ?? '', 'kubectl'),
    });
    const helm = await Helm.open();
    if (typeof helm === 'string') throw new Error(helm);
    return new NodeCluster(parts, access, `172.30.${decided.get('CLUSTER_INDEX')}.1`, helm);
  }

  async close(): Promise<void> {
    this.access.client.close();
    await this.#helm.close();
  }

  /** Of `kubectl`, which must succeed. */
  async kubectl(...args: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.access.kubectl(args);
    if (code !== 0) throw new Error(`kubectl ${args.join(' ')}: ${code} ${stderr}`);
    return stdout;
  }

  tryKubectl = (args: readonly string[], input = ''): Promise<KubectlResult> => this.access.kubectl(args, { input });

  helm(...args: readonly string[]) {
    return this.#helm.run(...args, '--kubeconfig', this.access.kubeconfig);
  }

  values = (name: string, values: object): Promise<string> => this.#helm.values(name, values);

  async mustHelm(...args: readonly string[]): Promise<string> {
    return await this.#helm.must(...args, '--kubeconfig', this.access.kubeconfig);
  }

  /** Installed, or upgraded to these values; Ready. */
  async operator(...values: readonly string[]): Promise<void> {
    const { body } = await this.access.client.call('GET', `/api/v1/namespaces/${SYSTEM}`);
    if (body.kind !== 'Namespace') await this.restrictedNamespace(SYSTEM);
    await this.mustHelm(
      ...['upgrade', '--install', RELEASE, OPERATOR_CHART, '--namespace', SYSTEM, '--wait', '--timeout', '180s'],
      ...['--set', `image.tag=${IMAGE_TAG}`, '--set', 'image.pullPolicy=Never'],
      ...['--set', 'nodeSelector.topology\\.kubernetes\\.io/zone=central-1'],
      ...values,
    );
  }

  async restrictedNamespace(name: string): Promise<void> {
    const level = 'restricted';
    const labels = { 'pod-security.kubernetes.io/enforce': level, 'pod-security.kubernetes.io/warn': level };
    await this.access.client.mustApply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } });
  }

  /** What the API server refused to the operator for want of rights since then (audit log). */
  async refusedToOperator(sinceMs: number): Promise<readonly string[]> {
    const text = await readFile(join(this.parts.directory, 'log/audit.log'), 'utf8');
    return text
      .split('\n')
      .filter((line) => line.includes(`"system:serviceaccount:${SYSTEM}:`) && line.includes('"code":403'))
      .map((line) => JSON.parse(line))
      .filter(({ requestReceivedTimestamp }) => Date.parse(requestReceivedTimestamp) >= sinceMs)
      .map(({ verb, requestURI }) => `${verb} ${requestURI}`);
  }

  fault = (...args: readonly string[]): Promise<string> => clusterScript(this.parts.name, 'faults.sh', args);

  heal = (): Promise<string> => this.fault('heal');

  async node(name: NodeName): Promise<KubeObject> {
    return await this.access.client.get(`/api/v1/nodes/${name}`);
  }

  /** Every process of it ends without a word; resolves when the API server has noticed. */
  async killNode(name: NodeName): Promise<void> {
    await this.fault('kill', name);
    await this.#nodeReady(name, false);
  }

  /** What a person or their platform does when the machine will not come back by itself. */
  async outOfService(name: NodeName): Promise<void> {
    await this.kubectl('taint', 'node', name, `${OUT_OF_SERVICE}=nodeshutdown:NoExecute`);
  }

  async bootNode(name: NodeName): Promise<void> {
    await this.fault('boot', name);
    const { spec } = await this.node(name);
    if ((spec.taints ?? []).some(({ key }: KubeObject) => key === OUT_OF_SERVICE))
      await this.kubectl('taint', 'node', name, `${OUT_OF_SERVICE}-`);
    await this.#nodeReady(name, true);
  }

  /** Where the volume behind a claim is on this machine. */
  async volumeOf(namespace: string, claim: string): Promise<string> {
    const { spec } = await this.access.client.get(`/api/v1/namespaces/${namespace}/persistentvolumeclaims/${claim}`);
    const [node = '', volume = ''] = String(spec.volumeName).split('-');
    return join(this.parts.directory, node, 'disks', volume);
  }

  /** The first process of a pod's container, as this machine knows it. */
  processOf(pod: KubeObject): number {
    const uid = String(pod.metadata.uid);
    const isIts = (pid: string): boolean => {
      const cgroups = readOrEmpty(`/proc/${pid}/cgroup`);
      return cgroups.includes(`/pod${uid}/`) && readOrEmpty(`/proc/${pid}/cmdline`).includes('--pod');
    };
    const found = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && isIts(name));
    if (found.length !== 1) throw new Error(`${found.length} processes in pod ${pod.metadata.name}`);
    return Number(found[0]);
  }

  async #nodeReady(name: NodeName, isReady: boolean): Promise<void> {
    await until(
      `node ${name} to be ${isReady ? 'Ready' : 'not Ready'}`,
      async () => {
        const { status } = await this.node(name);
        const ready = (status.conditions as KubeObject[]).find(({ type }) => type === 'Ready');
        return (ready?.status === 'True') === isReady;
      },
      LONG,
    );
  }
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Out of a kubeconfig with the data in it. */
function adminOf(path: string): { readonly cert: string; readonly key: string } {
  const { user } = parse(readFileSync(path, 'utf8')).users[0];
  const decoded = (field: string): string => Buffer.from(String(user[field]), 'base64').toString();
  return { cert: decoded('client-certificate-data'), key: decoded('client-key-data') };
}

/** Once per file, at its top; a test that asks for it is skipped, with the reason, when there is none. */
export function nodeCluster(): (context: TestContext) => Promise<NodeCluster> {
  const shared = inject('nodeCluster');
  let opened: Promise<NodeCluster> | null = null;
  afterAll(async () => await (await opened)?.close());
  return async (context) => {
    if ('missing' in shared) return context.skip(shared.missing);
    opened ??= NodeCluster.open(shared);
    return await opened;
  };
}
