/**
 * A MailCluster on real kubelets with mail through it, as a person would have it: examples/two-site-dag.yaml in a namespace of its own under Pod Security restricted,
 * mail from outside through its Service. Owns: that namespace, two mailbox stores on this machine, and the ledger of everything it sent.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  applyAll,
  awaitCondition,
  awaitSettled,
  list,
  namesOf,
  type Plural,
  pathOf,
  statusOf,
} from '../api/operator-rig.ts';
import { twoSitesExample } from '../cluster/example.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { deliveredIn, type InspectedCopy, inspected, transportsAvailable } from '../process/cluster-view.ts';
import { type Balance, balance, type LedgerEntry, makeMessage } from '../process/ledger.ts';
import { MailboxStore } from '../rigs/mailbox-store.ts';
import { Load, type LoadReport, summary } from './mail-transfer-agent.ts';
import { LONG, type NodeCluster } from './node-cluster.ts';

const PORTS = { sea: 2_424, pdx: 2_425 } as const;
export type StoreName = keyof typeof PORTS;
const METRICS_PORT = 9_090;
const BYTES = 4_000;
/** A store that was away is asked again soon: tests do not wait for a quarter of an hour. */
const RETRIES = { mailboxRetryInterval: '1s', retryIntervals: ['1s'] };

export interface StartTime {
  readonly pod: string;
  readonly seconds: number;
}

export class MailOnNodes {
  readonly cluster: NodeCluster;
  readonly namespace: string;
  readonly stores: Readonly<Record<StoreName, MailboxStore>>;
  readonly ledger: LedgerEntry[] = [];
  readonly #maildirs: string;
  #loads = 0;

  private constructor(cluster: NodeCluster, namespace: string) {
    [this.cluster, this.namespace] = [cluster, namespace];
    const { directory } = cluster.parts;
    const maildirs = join(directory, `mailboxes-${namespace}`);
    this.#maildirs = maildirs;
    const store = (name: StoreName): MailboxStore =>
      new MailboxStore({
        ...{ name, maildirs, host: cluster.hostAddress, port: PORTS[name] },
        compileCache: join(directory, 'compile-cache'),
      });
    this.stores = { sea: store('sea'), pdx: store('pdx') };
  }

  /** Its mailbox servers and its namespace; nothing is applied yet. */
  static async prepare(cluster: NodeCluster, namespace = 'mail'): Promise<MailOnNodes> {
    const made = new MailOnNodes(cluster, namespace);
    await mkdir(made.#maildirs, { recursive: true });
    await Promise.all(Object.values(made.stores).map((one) => one.start()));
    await cluster.restrictedNamespace(namespace);
    return made;
  }

  /** Applied, not waited for; `ports`: where other mailbox servers of this machine are. */
  async apply(spec: KubeObject = {}, ports: Readonly<Record<StoreName, number>> = PORTS): Promise<void> {
    const lmtp = (copy: string): string => this.lmtp(copy as StoreName, ports);
    const objects = twoSitesExample({ lmtp, spec: { queues: RETRIES, ...spec } });
    for (const object of objects) object.metadata.namespace = this.namespace;
    await applyAll(this.cluster.access, objects);
  }

  /** Where pods reach a mailbox server. */
  lmtp = (name: StoreName, ports = PORTS as Readonly<Record<StoreName, number>>): string =>
    `${this.cluster.hostAddress}:${ports[name]}`;

  /** Everything of it, as `kubectl delete namespace` does; volumes are offered again. */
  async close(): Promise<void> {
    const { access } = this.cluster;
    const path = `/api/v1/namespaces/${this.namespace}`;
    await access.client.call('DELETE', path);
    const isGone = async (): Promise<boolean> => (await access.client.call('GET', path)).status === 404;
    await until(`namespace ${this.namespace} to be gone`, isGone, LONG);
    await Promise.all(Object.values(this.stores).map(({ stop }) => stop()));
    await this.cluster.fault('recycle');
    await rm(this.#maildirs, { recursive: true, force: true });
  }

  list = (plural: Plural): Promise<readonly KubeObject[]> => list(this.cluster.access, this.namespace, plural);
  names = async (plural: Plural): Promise<readonly string[]> => namesOf(await this.list(plural));
  status = (): Promise<KubeObject> => statusOf(this.cluster.access, this.namespace);
  settled = (): Promise<KubeObject> => awaitSettled(this.cluster.access, this.namespace, LONG);
  condition = (type: string, wanted: { readonly status?: string; readonly reason?: string }): Promise<KubeObject> =>
    awaitCondition(this.cluster.access, this.namespace, type, wanted, LONG);

  async patch(spec: KubeObject, plural: Plural = 'mailclusters', name = 'contoso'): Promise<void> {
    const path = pathOf(this.namespace, plural, name);
    const { status, body } = await this.cluster.access.client.mergePatch(path, { spec });
    if (status !== 200) throw new Error(`${status} ${body.message}`);
  }

  async event(reason: string): Promise<KubeObject> {
    const find = async (): Promise<KubeObject | null> =>
      (await this.list('events')).find((one) => one.reason === reason) ?? null;
    return await until(`an event ${reason}`, find, LONG);
  }

  pods = async (role: 'transport' | 'frontend'): Promise<readonly KubeObject[]> =>
    (await this.list('pods'))
      .filter(({ metadata }) => metadata.labels?.['mailcluster.dev/role'] === role)
      .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));

  pod = (name: string): Promise<KubeObject> => this.cluster.access.client.get(pathOf(this.namespace, 'pods', name));

  /** Names of transports, of a site or of all. */
  members = async (site?: string): Promise<readonly string[]> =>
    (await this.pods('transport'))
      .filter(({ metadata }) => site === undefined || metadata.labels['mailcluster.dev/site'] === site)
      .map(({ metadata }) => String(metadata.name));

  /** From the start of its container to Ready, of every pod of ours; to the second, as the API server says it. */
  async startTimes(): Promise<readonly StartTime[]> {
    const pods = [...(await this.pods('transport')), ...(await this.pods('frontend'))];
    return pods.map(({ metadata, status }) => {
      const startedAt = status.containerStatuses?.[0]?.state?.running?.startedAt;
      const ready = (status.conditions as KubeObject[]).find(({ type }) => type === 'Ready')?.lastTransitionTime;
      return { pod: String(metadata.name), seconds: (Date.parse(ready) - Date.parse(startedAt)) / 1000 };
    });
  }

  /** Front ends can reach so many transports. */
  async somewhereToGo(least: number): Promise<void> {
    await until(
      `${least} transports for every front end`,
      async () => {
        const addresses = (await this.pods('frontend')).map(({ status }) => status.podIP as string | undefined);
        const known = addresses.map((address) => transportsAvailable(`http://${address}:${METRICS_PORT}/metrics`));
        return known.length > 0 && (await Promise.all(known)).every((count) => count >= least);
      },
      LONG,
    );
  }

  /** The sum of a metric over its labels, as a pod says it now. */
  async metric(pod: string, name: string): Promise<number> {
    const { status } = await this.pod(pod);
    const page = await (await fetch(`http://${status.podIP}:${METRICS_PORT}/metrics`)).text();
    const lines = [...page.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))];
    if (lines.length === 0) throw new Error(`${pod} does not say ${name}`);
    return lines.reduce((sum, [, value]) => sum + Number(value), 0);
  }

  /** Other transports that a member hears now. */
  peersUp = (member: string): Promise<number> => this.metric(member, 'mailcluster_peer_up');

  async heardByAll(): Promise<void> {
    const members = await this.members();
    const all = async (): Promise<boolean> =>
      (await Promise.all(members.map((one) => this.peersUp(one)))).every((up) => up === members.length - 1);
    await until('every transport to hear every other', all, LONG);
  }

  /** Mail from outside, through the Service, until it is stopped or so many were sent; `add` its report to the ledger. */
  async load({ perSecond = 20, sessions = 4, count = Number.POSITIVE_INFINITY } = {}): Promise<Load> {
    const { spec } = await this.cluster.access.client.get(pathOf(this.namespace, 'services', 'contoso-smtp'));
    this.#loads += 1;
    const prefix = `load${this.#loads}-`;
    const message = (index: number) => makeMessage(`${prefix}${index}`, `user${index % 5}@contoso.com`, BYTES);
    return new Load({ target: { host: spec.clusterIP, port: 25 }, sessions, perSecond, count, message });
  }

  add(report: LoadReport, what: string): LoadReport {
    this.ledger.push(...report.entries);
    console.log(`${what}: ${summary(report)}`);
    for (const line of report.refusedAnew.slice(0, 5)) console.log(`  refused on a new connection: ${line}`);
    for (const line of report.refusedInSession.slice(0, 5))
      console.log(`  refused in a session, and offered again: ${line}`);
    return report;
  }

  /** So many, as fast as they are taken. */
  async send(count: number, what: string): Promise<LoadReport> {
    const load = await this.load({ count, perSecond: 1_000 });
    return this.add(await load.finished(), what);
  }

  delivered = () => deliveredIn(this.#maildirs);

  /** Every accepted message is in a mailbox; nothing is there that was not sent, or otherwise than it was sent. What is there twice is told, not refused. */
  async balanced(what: string): Promise<Balance> {
    const found = await until(
      'the ledger to balance',
      async () => {
        const result = balance(this.ledger, await this.delivered(), []);
        const wrong = [...result.lost, ...result.unexpected, ...result.damaged];
        if (wrong.length > 0) throw new Error(`${result.lost.length} missing; ${wrong.slice(0, 5).join('; ')}`);
        return result;
      },
      LONG,
    );
    const { accepted, duplicated } = found;
    console.log(`${what}: ${accepted} accepted, all in the mailboxes, ${duplicated.length} of them more than once`);
    return found;
  }

  /** That mailbox server is away meanwhile, and back whatever happens. */
  async withoutStore<T>(name: StoreName, work: () => Promise<T>): Promise<T> {
    await this.stores[name].stop();
    try {
      return await work();
    } finally {
      await this.stores[name].start();
    }
  }

  /** What is durable in the queue database of a member. */
  async copiesOf(member: string): Promise<readonly InspectedCopy[]> {
    const volume = await this.cluster.volumeOf(this.namespace, `queue-${member}`);
    const { copies, safetyNet } = await inspected(join(volume, 'queue'));
    return [...copies, ...safetyNet];
  }

  /** For each message in transit the transports with a durable copy of it, as `ZONE NAME`; a live database shows it a moment late. */
  async placesOfMessages(): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
    const places = new Map<string, Set<string>>();
    for (const { metadata, spec } of await this.pods('transport')) {
      const node = await this.cluster.node(spec.nodeName);
      const place = `${node.metadata.labels['topology.kubernetes.io/zone']} ${metadata.name}`;
      for (const { digest, where } of await this.copiesOf(metadata.name))
        if (where === 'transit') places.set(digest, (places.get(digest) ?? new Set()).add(place));
    }
    return places;
  }

  /** Each of these messages is on two transports at least, and all of them are in `zones` zones. */
  async inZones(zones: number, { entries }: LoadReport): Promise<void> {
    await until(
      `two copies of each message in ${zones} zones`,
      async () => {
        const places = await this.placesOfMessages();
        const wrong = entries
          .map(({ message }) => [...(places.get(message.digest) ?? [])])
          .filter((found) => found.length < 2 || new Set(found.map((one) => one.split(' ')[0])).size !== zones);
        if (wrong.length === 0) return true;
        throw new Error(`${wrong.length} otherwise, one of them: ${wrong[0]?.join(', ')}`);
      },
      LONG,
    );
  }

  /** Another pod of that name, or the same with its container started anew, is Ready. */
  async cameBack(former: KubeObject): Promise<KubeObject> {
    const started = (pod: KubeObject): string =>
      `${pod.metadata.uid} ${pod.status.containerStatuses?.[0]?.containerID}`;
    return await until(
      `${former.metadata.name} to be there again`,
      async () => {
        const now = await this.pod(former.metadata.name);
        const isReady = now.status.containerStatuses?.[0]?.ready === true;
        return isReady && started(now) !== started(former) && now;
      },
      LONG,
    );
  }
}
