/**
 * A MailCluster on a real API server whose pods are real processes (`test/rigs/pods/`), with mail through it: plan and data plane meet for real. Owns: its
 * namespace, nodes, volumes, mailbox stores, the operator; all of it gone with the test. No pod of another test comes to its nodes and none of
 * its own goes elsewhere.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, type TestContext } from 'vitest';
import { type ApiAccess, nodePool } from '../cluster/api-access.ts';
import { FakeNodes } from '../cluster/fake-nodes.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { deliveredIn, type InspectedCopy, inspected, transportsAvailable } from '../process/cluster-view.ts';
import { balance, type LedgerEntry, makeMessage, notAccepted, verdict } from '../process/ledger.ts';
import { sendAll, type Target } from '../process/smtp-sender.ts';
import { MailboxStore } from '../rigs/mailbox-store.ts';
import { type BuildOf, PodProcesses } from '../rigs/pods/pod-processes.ts';
import {
  applyAll,
  awaitCondition,
  awaitSettled,
  list,
  type OperatorHandle,
  type OperatorPlace,
  ownOperator,
  ownVolumes,
  pathOf,
  statusOf,
  twoSites,
} from './operator-rig.ts';
import { compileCache } from './rig.ts';

export interface PodsOptions {
  /** Transports in seattle and in portland. */
  readonly replicas?: readonly [seattle: number, portland: number];
  readonly frontends?: number;
  readonly nodesPerSite?: number;
  readonly spec?: KubeObject;
  readonly build?: BuildOf;
  /** Merged into `spec.transport.storage`. */
  readonly storage?: KubeObject;
}

const SIGNER = { host: 1, port: 8_443 };
const STORES = { sea: 201, pdx: 202 } as const;
export type StoreName = keyof typeof STORES;
const LMTP_PORT = 2_424;
const SMTP_PORT = 10_025;
const METRICS_PORT = 9_090;
/** What is left then is preallocated. */
const FULL_BYTES = 64 << 20;
/** What a machine with two cores needs for six processes, and some more. */
export const LONG = { deadlineMs: 90_000, everyMs: 100 };

interface Parts {
  readonly access: ApiAccess;
  readonly context: TestContext;
  readonly namespace: string;
  readonly nodes: FakeNodes;
  readonly nodeNames: readonly string[];
  readonly zones: readonly string[];
  readonly pods: PodProcesses;
  readonly stores: Readonly<Record<StoreName, MailboxStore>>;
  readonly maildirs: string;
}

export class MailClusterInPods {
  readonly access: ApiAccess;
  readonly namespace: string;
  readonly nodes: FakeNodes;
  readonly nodeNames: readonly string[];
  readonly pods: PodProcesses;
  readonly stores: Readonly<Record<StoreName, MailboxStore>>;
  readonly ledger: LedgerEntry[] = [];
  readonly #parts: Parts;
  #operators = 0;
  #operator: OperatorHandle | null = null;

  constructor(parts: Parts) {
    this.#parts = parts;
    const { access, namespace, nodes, nodeNames, pods, stores } = parts;
    [this.access, this.namespace, this.nodes, this.nodeNames] = [access, namespace, nodes, nodeNames];
    [this.pods, this.stores] = [pods, stores];
  }

  /** Where pods get certificates: the same place for every operator that comes. */
  get operatorPlace(): OperatorPlace {
    return { signer: { host: this.pods.address(SIGNER.host), port: SIGNER.port } };
  }

  async startOperator(place: OperatorPlace = {}): Promise<OperatorHandle> {
    const { access, context, namespace } = this.#parts;
    const name = `operator-${++this.#operators}`;
    this.#operator = await ownOperator(access, context, namespace, name, { ...this.operatorPlace, ...place });
    return this.#operator;
  }

  async stopOperator(): Promise<void> {
    await this.#operator?.stop();
  }

  async patch(spec: KubeObject, annotations: KubeObject = {}): Promise<void> {
    const path = pathOf(this.namespace, 'mailclusters', 'contoso');
    const { status, body } = await this.access.client.mergePatch(path, { spec, metadata: { annotations } });
    if (status !== 200) throw new Error(`${status} ${body.message}`);
  }

  scale(seattle: number, portland: number, annotations: KubeObject = {}): Promise<void> {
    const members = [
      { site: 'seattle', replicas: seattle },
      { site: 'portland', replicas: portland },
    ];
    return this.patch({ dags: [{ name: 'dag1', members }] }, annotations);
  }

  status = (): Promise<KubeObject> => statusOf(this.access, this.namespace);

  condition = (type: string, wanted: Parameters<typeof awaitCondition>[3]): Promise<KubeObject> =>
    awaitCondition(this.access, this.namespace, type, wanted, LONG);

  settled = (): Promise<KubeObject> =>
    awaitSettled(this.access, this.namespace, { ...LONG, failure: () => this.pods.failure ?? this.nodes.failure });

  /** By the API server, of a site, in the order of their ordinals. */
  async members(site?: string): Promise<readonly string[]> {
    const status = await this.status();
    return ((status.members ?? []) as KubeObject[])
      .filter((one) => site === undefined || one.site === site)
      .map(({ name }) => name as string);
  }

  async events(reason: string): Promise<readonly KubeObject[]> {
    return (await list(this.access, this.namespace, 'events')).filter((one) => one.reason === reason);
  }

  /** The machine of a pod ends without a word. */
  async losePower(member: string): Promise<string> {
    const node = this.pods.find(member).pod.spec.nodeName as string;
    this.nodes.lose(node);
    await this.pods.losePower(node);
    return node;
  }

  /** `maxUnavailable` of the budget of a member's StatefulSet. */
  async budgetOf(member: string): Promise<number> {
    const name = member.replace(/-\d+$/, '');
    return (await this.access.client.get(pathOf(this.namespace, 'poddisruptionbudgets', name))).spec.maxUnavailable;
  }

  async awaitBudget(member: string, maxUnavailable: 0 | 1): Promise<void> {
    await until(
      `the budget of ${member} to be ${maxUnavailable === 0 ? 'closed' : 'open'}`,
      async () => (await this.budgetOf(member)) === maxUnavailable,
      LONG,
    );
  }

  async event(reason: string): Promise<KubeObject> {
    return await until(`an event ${reason}`, async () => (await this.events(reason))[0] ?? null, LONG);
  }

  /** Front ends that run now. */
  targets(): readonly Target[] {
    return this.pods.running
      .filter(({ pod }) => pod.metadata.labels['mailcluster.dev/role'] === 'frontend')
      .map(({ machine }) => ({ host: machine.address, port: SMTP_PORT }));
  }

  async somewhereToGo(deadlineMs: number, least = 2): Promise<void> {
    await until(
      'transports to choose from',
      async () => {
        const urls = this.targets().map(({ host }) => `http://${host}:${METRICS_PORT}/metrics`);
        const known = await Promise.all(urls.map(transportsAvailable));
        return known.length > 0 && known.every((count) => count >= least);
      },
      { deadlineMs, everyMs: 100 },
    );
  }

  /** That many messages, each of which must be accepted. */
  async send(count: number, name: string): Promise<readonly LedgerEntry[]> {
    const messages = Array.from({ length: count }, (_, at) =>
      makeMessage(`${name}${at}`, `user${at % 5}@contoso.com`, 1_000 + 997 * at),
    );
    const sent = await sendAll({ targets: () => this.targets(), messages, sessions: 2, patienceMs: 20_000 });
    expect(notAccepted(sent)).toEqual([]);
    this.ledger.push(...sent);
    return sent;
  }

  /** Everything that was accepted is in the mailboxes, or in those of one copy, once. */
  async balanced({ within = LONG.deadlineMs, store }: { within?: number; store?: StoreName } = {}): Promise<void> {
    const directory = join(this.#parts.maildirs, store ?? '');
    await until(
      'the ledger to balance',
      async () => {
        const said = verdict(balance(this.ledger, await deliveredIn(directory), []));
        if (said !== 'balanced') throw new Error(said);
        return true;
      },
      { deadlineMs: within, everyMs: 250 },
    );
  }

  /** At least so many are in the mailboxes. */
  async delivered(count: number): Promise<void> {
    await until(`${count} messages to be delivered`, async () => (await this.countDelivered()) >= count, LONG);
  }

  countDelivered = async (): Promise<number> => (await deliveredIn(this.#parts.maildirs)).length;

  /** As old as before the first message. It must be stopped. */
  emptyStore = (store: StoreName): Promise<void> => rm(join(this.#parts.maildirs, store), { recursive: true });

  /** What the status says of a member, when it says so. */
  async member(name: string, wanted: KubeObject): Promise<KubeObject> {
    return await until(
      `${name} to be ${JSON.stringify(wanted)}`,
      async () => {
        const found = ((await this.status()).members as KubeObject[]).find((one) => one.name === name);
        if (found !== undefined && Object.entries(wanted).every(([field, value]) => found[field] === value))
          return found;
        throw new Error(JSON.stringify(found));
      },
      LONG,
    );
  }

  /** Its disk is full from now on, and it knows. */
  async fill(member: string): Promise<void> {
    await this.pods.setFreeBytes(member, 0);
    await until(
      `${member} to know that its disk is full`,
      async () => (await this.#freeBytes(member)) < FULL_BYTES,
      LONG,
    );
  }

  async #freeBytes(member: string): Promise<number> {
    const page = await (await fetch(`http://${this.pods.find(member).machine.address}:${METRICS_PORT}/metrics`)).text();
    return Number(/^mailcluster_store_free_bytes(?:\{[^}]*\})? (\S+)$/m.exec(page)?.[1] ?? Number.NaN);
  }

  /** What is durable in the queue database of a member. */
  async copiesOf(member: string): Promise<readonly InspectedCopy[]> {
    const claim = await this.access.client.get(pathOf(this.namespace, 'persistentvolumeclaims', `queue-${member}`));
    const { copies, safetyNet } = await inspected(join(this.pods.volume(claim.spec.volumeName), 'queue'));
    return [...copies, ...safetyNet];
  }

  /** The member that is primary of most of what is in these queues, and of how many; `total` must be there, a live database shows it a moment late. */
  async primaryOfMost(
    queues: readonly string[],
    total: number,
  ): Promise<{ readonly member: string; readonly copies: number }> {
    const members = await this.members();
    return await until(
      `${total} copies in ${queues.join(', ')}`,
      async () => {
        const counted = members.map(async (member) => {
          const copies = (await this.copiesOf(member)).filter(({ queue }) => queues.includes(queue)).length;
          return { member, copies };
        });
        const found = (await Promise.all(counted)).sort((a, b) => b.copies - a.copies);
        const sum = found.reduce((all, { copies }) => all + copies, 0);
        if (sum < total) throw new Error(`${sum} are there`);
        return found[0] ?? null;
      },
      LONG,
    );
  }

  async awaitGone(member: string): Promise<void> {
    await until(
      `${member} to be gone`,
      async () => {
        const pods = await list(this.access, this.namespace, 'pods');
        const listed = await this.members();
        return !pods.some(({ metadata }) => metadata.name === member) && !listed.includes(member);
      },
      LONG,
    );
  }

  /** Nothing is left on a transport that is not at rest. */
  async atRest(): Promise<void> {
    await until(
      'nothing to be on its way',
      async () => {
        const { counts } = await this.status();
        return counts.queued === 0 && counts.shadow === 0 && counts.unprotected === 0;
      },
      LONG,
    );
  }
}

/** Applied, and everything comes up; not waited for. */
export async function mailClusterInPods(
  access: ApiAccess,
  context: TestContext,
  options: PodsOptions = {},
): Promise<MailClusterInPods> {
  const { replicas = [2, 1], frontends = 1, spec = {}, storage = {}, nodesPerSite = 1 } = options;
  const suffix = randomBytes(3).toString('hex');
  const { name: namespace, remove } = await access.namespace('pods', suffix);
  const pods = await PodProcesses.start(access.client, compileCache(), options.build);
  const zones = [`seattle-${suffix}`, `portland-${suffix}`];
  const machines = zones.flatMap((zone) =>
    Array.from({ length: nodesPerSite }, (_, at) => ({ name: `fake-${zone}-${at}`, zone })),
  );
  const { behaviour, gone } = pods;
  const nodes = await FakeNodes.start(access.client, machines, { behaviour, gone, pool: nodePool(suffix) });
  pods.tell((uid) => nodes.look(uid));
  const maildirs = join(pods.directory, 'mailboxes');
  await mkdir(maildirs);
  const store = (name: StoreName): MailboxStore =>
    new MailboxStore({
      ...{ name, maildirs, host: pods.address(STORES[name]), port: LMTP_PORT, compileCache: compileCache() },
    });
  const stores = { sea: store('sea'), pdx: store('pdx') };
  context.onTestFinished(async () => {
    if (context.task.result?.state === 'fail') console.error(pods.logs());
    await Promise.all(Object.values(stores).map(({ stop }) => stop()));
    await remove();
    await pods.stop();
    await podsEnded(access, namespace);
    await nodes.remove();
  });
  const storageClassName = await ownVolumes(access, context, namespace, 10);
  const made = new MailClusterInPods({
    ...{ access, context, namespace, nodes, pods, stores, zones, maildirs },
    nodeNames: machines.map(({ name }) => name),
  });
  await Promise.all(Object.values(stores).map((one) => one.start()));
  await made.startOperator();
  const lmtp = Object.values(STORES).map((host) => `${pods.address(host)}:${LMTP_PORT}`);
  await applyAll(
    access,
    twoSites(
      namespace,
      {
        transport: { storage: { size: '1Gi', storageClassName, ...storage } },
        frontend: { replicas: frontends, listeners: [{ name: 'smtp', port: 25, tls: 'None' }] },
        shadowRedundancy: { heartbeatFrequency: '1s' },
        queues: { mailboxRetryInterval: '1s', retryIntervals: ['1s'] },
        ...spec,
      },
      { zones, replicas: [...replicas], lmtp },
    ),
  );
  return made;
}

/** What is left of the namespace ends by itself. */
async function podsEnded(access: ApiAccess, namespace: string): Promise<void> {
  await until('the pods to end', async () => (await list(access, namespace, 'pods')).length === 0, {
    deadlineMs: 20_000,
    everyMs: 100,
  }).catch(() => undefined);
}
