/**
 * Nodes and kubelets that are not there: makes Node objects with zones, keeps their Leases fresh, and plays kubelet for pods bound to them
 * (Running and Ready at once, a pod address, a polite end on deletion), so that the real scheduler and controllers make progress. Owns:
 * its watch, its timer, the status of the pods on its nodes. Hooks (`behave`) let a test keep a pod pending, crash, lack its image or
 * refuse to be ready; `lose` is a machine without power: no Lease, no status, nothing honours a deletion. Real processes may play the pods
 * (`test/rigs/pods/`): they are asked by `behaviour`, say by `look` that it changed, and hear by `gone` that a pod is no more. Fails by
 * `failure` when the API server refuses something it should not; an API server that is away is waited for.
 */
import { until } from '../house/until.ts';
import { type PodBehaviour, podStatus } from './fake-pod-status.ts';
import type { KubeAnswer, KubeClient, KubeObject, WatchEvent } from './kube-client.ts';

export interface FakeNode {
  readonly name: string;
  readonly zone: string;
}

export interface FakeNodesOptions {
  /** Decides about every pod; default: all run. */
  readonly behaviour?: (pod: KubeObject) => PodBehaviour;
  /** They have these labels, and only pods that ask for them: any other one is a failure. */
  readonly pool?: Readonly<Record<string, string>>;
  /** The object is not there any more, whatever became of its process. */
  readonly gone?: (pod: KubeObject) => void;
}

const LEASE_RENEW_MS = 3_000;
const RETRY_MS = 200;
const TAKES_PODS_MS = 60_000;
const USER_AGENT = 'fake-kubelet';

export class FakeNodes {
  readonly #client: KubeClient;
  readonly #nodes: ReadonlyMap<string, FakeNode>;
  readonly #lost = new Set<string>();
  readonly #pods = new Map<string, KubeObject>();
  readonly #addresses = new Map<string, string>();
  readonly #busy = new Map<string, Promise<void>>();
  readonly #stopping = new AbortController();
  readonly #gone: (pod: KubeObject) => void;
  readonly #pool: Readonly<Record<string, string>>;
  #behaviour: (pod: KubeObject) => PodBehaviour;
  #loops: Promise<unknown> = Promise.resolve();
  #failure: string | null = null;
  #nextAddress = 1;

  private constructor(client: KubeClient, nodes: readonly FakeNode[], { behaviour, gone, pool }: FakeNodesOptions) {
    this.#client = client;
    this.#nodes = new Map(nodes.map((node) => [node.name, node]));
    this.#behaviour = behaviour ?? (() => ({ state: 'running' }));
    this.#gone = gone ?? (() => undefined);
    this.#pool = pool ?? {};
  }

  static async start(
    client: KubeClient,
    nodes: readonly FakeNode[],
    options: FakeNodesOptions = {},
  ): Promise<FakeNodes> {
    const fake = new FakeNodes(client, nodes, options);
    for (const node of nodes) await fake.#register(node);
    for (const { name } of nodes) await fake.#takesPods(name);
    fake.#loops = Promise.all([fake.#watchPods(), fake.#renewLeases()]);
    return fake;
  }

  get failure(): string | null {
    return this.#failure;
  }

  /** From now on pods behave like this; those that are there are looked at again. */
  behave(behaviour: (pod: KubeObject) => PodBehaviour): void {
    this.#behaviour = behaviour;
    for (const pod of this.#pods.values()) this.#handle(pod);
  }

  /** What plays this pod has something new to say of it. */
  look(uid: string): void {
    const pod = this.#pods.get(uid);
    if (pod !== undefined) this.#handle(pod);
  }

  /** The machine is without power. The API server finds out by its Lease. */
  lose(name: string): void {
    this.#lost.add(name);
  }

  /** Boots it again: its pods start anew, deletions are honoured. */
  async restore(name: string): Promise<void> {
    const node = this.#nodes.get(name);
    if (node === undefined) throw new Error(`no fake node ${name}`);
    this.#lost.delete(name);
    await this.#register(node);
    for (const pod of this.#pods.values()) if (pod.spec.nodeName === name) this.#handle(pod);
  }

  /** The taint by which a person says that a lost node will not come back by itself (KEP-2268). */
  outOfService(name: string): Promise<KubeObject> {
    const taints = [{ key: 'node.kubernetes.io/out-of-service', value: 'nodeshutdown', effect: 'NoExecute' }];
    return this.#client.mustApply({ apiVersion: 'v1', kind: 'Node', metadata: { name }, spec: { taints } });
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#loops;
    await Promise.all(this.#busy.values());
  }

  /** Stops, and takes the machines away: silent ones that are left count against their whole zone, where others then are not tainted any more. */
  async remove(): Promise<void> {
    await this.stop();
    for (const name of this.#nodes.keys()) await this.#client.call('DELETE', `/api/v1/nodes/${name}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }

  async #register({ name, zone }: FakeNode): Promise<void> {
    const labels = {
      'kubernetes.io/hostname': name,
      'kubernetes.io/os': 'linux',
      'topology.kubernetes.io/zone': zone,
      'topology.kubernetes.io/region': 'test',
      ...this.#pool,
    };
    await this.#client.mustApply(
      { apiVersion: 'v1', kind: 'Node', metadata: { name, labels } },
      { fieldManager: USER_AGENT },
    );
    await this.#renew(name);
    await this.#nodeStatus(name);
  }

  /** Born tainted; the controller sees a moment later that it is ready. Until then pods would go to those that were seen first. */
  async #takesPods(name: string): Promise<void> {
    const isFree = async (): Promise<boolean> => {
      const { spec } = await this.#client.get(`/api/v1/nodes/${name}`);
      return ((spec.taints ?? []) as KubeObject[]).length === 0;
    };
    await until(`node ${name} to take pods`, isFree, { deadlineMs: TAKES_PODS_MS });
  }

  async #nodeStatus(name: string): Promise<void> {
    const now = new Date().toISOString();
    const condition = {
      type: 'Ready',
      status: 'True',
      reason: 'KubeletReady',
      message: 'fake',
      lastHeartbeatTime: now,
      lastTransitionTime: now,
    };
    const resources = { cpu: '64', memory: '256Gi', pods: '1000', 'ephemeral-storage': '1Ti' };
    const status = { capacity: resources, allocatable: resources, conditions: [condition] };
    await this.#client.mustApply(
      { apiVersion: 'v1', kind: 'Node', metadata: { name }, status },
      { fieldManager: USER_AGENT, subresource: 'status' },
    );
  }

  async #renew(name: string): Promise<void> {
    const spec = {
      holderIdentity: name,
      leaseDurationSeconds: 12,
      renewTime: new Date().toISOString().replace('Z', '000Z'),
    };
    const lease = {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: { namespace: 'kube-node-lease', name },
      spec,
    };
    await this.#client.mustApply(lease, { fieldManager: USER_AGENT });
  }

  async #renewLeases(): Promise<void> {
    while (await this.#pause(LEASE_RENEW_MS)) {
      for (const name of this.#nodes.keys()) {
        if (!this.#lost.has(name)) await this.#renew(name).catch(() => undefined);
      }
    }
  }

  /** Lists and watches, for ever: an API server that goes away comes back. */
  async #watchPods(): Promise<void> {
    do {
      try {
        const list = await this.#client.get('/api/v1/pods');
        const living = new Set((list.items as KubeObject[]).map(({ metadata }) => metadata.uid));
        for (const pod of this.#pods.values())
          if (!living.has(pod.metadata.uid)) this.#see({ type: 'DELETED', object: pod });
        for (const pod of list.items as KubeObject[]) this.#see({ type: 'ADDED', object: pod });
        const path = `/api/v1/pods?resourceVersion=${list.metadata.resourceVersion}`;
        await this.#client.watch(path, (event) => this.#see(event), this.#stopping.signal);
      } catch (error) {
        if (!(error instanceof Error)) throw error;
      }
    } while (await this.#pause(RETRY_MS));
  }

  #see({ type, object }: WatchEvent): void {
    if (object.kind !== undefined && object.kind !== 'Pod') return;
    if (!this.#nodes.has(object.spec?.nodeName)) return;
    const { uid } = object.metadata;
    if (type === 'DELETED') {
      this.#pods.delete(uid);
      this.#addresses.delete(uid);
      this.#gone(object);
      return;
    }
    this.#admit(object);
    this.#pods.set(uid, object);
    this.#handle(object);
  }

  #admit({ metadata: { namespace, name }, spec }: KubeObject): void {
    const selector = (spec.nodeSelector ?? {}) as KubeObject;
    if (Object.entries(this.#pool).every(([label, value]) => selector[label] === value)) return;
    this.#failure ??= `pod ${namespace}/${name} came to node ${spec.nodeName}, which is for ${JSON.stringify(this.#pool)}`;
  }

  /** One at a time per pod, always with what is known last. */
  #handle({ metadata: { uid } }: KubeObject): void {
    const before = this.#busy.get(uid) ?? Promise.resolve();
    const next = before.then(async () => {
      const pod = this.#pods.get(uid);
      if (pod === undefined || this.#lost.has(pod.spec.nodeName) || this.#stopping.signal.aborted) return;
      // No answer: the watch ends too, and the next list shows the pod again.
      const answer = await this.#act(pod).catch(() => null);
      if (answer !== null) this.#judge(pod, answer);
    });
    this.#busy.set(uid, next);
    void next.then(() => this.#busy.get(uid) === next && this.#busy.delete(uid));
  }

  /** Null: nothing to do. */
  async #act(pod: KubeObject): Promise<KubeAnswer | null> {
    const { namespace, name, uid, deletionTimestamp } = pod.metadata;
    const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
    const behaviour = this.#behaviour(pod);
    if (deletionTimestamp !== undefined) {
      if (behaviour.ignoresDeletion === true) return null;
      const body = { apiVersion: 'v1', kind: 'DeleteOptions', gracePeriodSeconds: 0, preconditions: { uid } };
      return this.#client.call('DELETE', path, { body, userAgent: USER_AGENT });
    }
    const status = podStatus(pod, behaviour, this.#addressOf(uid));
    if (status === null) return null;
    return this.#client.call('PATCH', `${path}/status`, {
      body: { metadata: { uid }, status },
      contentType: 'application/merge-patch+json',
      userAgent: USER_AGENT,
    });
  }

  /** An address of 10.244.0.0/16, the same as long as the pod lives. */
  #addressOf(uid: string): string {
    const known = this.#addresses.get(uid);
    if (known !== undefined) return known;
    const number = this.#nextAddress++;
    const address = `10.244.${Math.floor(number / 250) % 250}.${(number % 250) + 1}`;
    this.#addresses.set(uid, address);
    return address;
  }

  /** Conflicts and pods that are gone: a newer event follows. An overloaded server: looked at again. */
  #judge(pod: KubeObject, { status, body }: KubeAnswer): void {
    if (status < 300 || status === 404 || status === 409) return;
    if (status === 429 || status >= 500) {
      void this.#pause(RETRY_MS).then((isOn) => isOn && this.#handle(pod));
      return;
    }
    this.#failure ??= `fake kubelet, pod ${pod.metadata.namespace}/${pod.metadata.name}: ${status} ${body.message}`;
  }

  /** False: stopping. */
  async #pause(lengthMs: number): Promise<boolean> {
    const { signal } = this.#stopping;
    if (signal.aborted) return false;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, lengthMs);
      function done(): void {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve();
      }
      signal.addEventListener('abort', done);
    });
    return !signal.aborted;
  }
}
