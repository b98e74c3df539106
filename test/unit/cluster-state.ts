/** What `cluster-model.ts` keeps and what the operator sees of it: objects, pods, claims, queue databases, and accidents that happen to them. */
import { isDeepStrictEqual } from 'node:util';
import type { TopologyDocument } from '../../common/config.ts';
import type { Gathered, MemberAnswer, MemberReport, OperatorSettings } from '../../operator/gathered.ts';
import type {
  MailboxDatabase,
  MailCluster,
  MailClusterStatus,
  ResubmitRequestStatus,
} from '../../operator/resource/generated.ts';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import { renderProblem } from '../../operator/resource/problem.ts';
import { claimName, LABEL, named, TOPOLOGY_KEY } from '../../operator/resources/names.ts';
import type { ClaimObject, KubeObject, NodeObject, PodObject, VolumeObject } from '../../operator/resources/objects.ts';

export const START_MS = Date.UTC(2026, 0, 2, 3, 4, 5);
const NAMESPACE = 'mail';

export const OPERATOR: OperatorSettings = {
  image: 'mailcluster:1',
  imagePullPolicy: 'IfNotPresent',
  imagePullSecrets: [],
  redisImage: 'redis:7',
  version: '1.0.0',
  namespace: 'mailcluster-system',
  podLabels: { 'app.kubernetes.io/name': 'mailcluster-operator' },
  signerUrl: 'https://signer.mailcluster-system.svc:8443',
  signerPort: 8443,
  clusterDomain: 'cluster.local',
};

export const TWO_SITES = `
  sites:
    - { name: seattle, nodeLabels: { zone: a } }
    - { name: portland, nodeLabels: { zone: b } }
  dags:
    - name: dag1
      members:
        - { site: seattle, replicas: 2 }
        - { site: portland, replicas: 2 }
  acceptedDomains: [{ name: contoso.com }]
  redis: { mode: None }
`;

export const DATABASE = `
  clusterRef: { name: contoso }
  dag: dag1
  recipients: { domains: [contoso.com] }
  copies:
    - { name: sea, site: seattle, lmtp: "dovecot-sea.mail.svc:24" }
    - { name: pdx, site: portland, lmtp: "dovecot-pdx.mail.svc:24" }
  activeCopy: sea
`;

const reader = createReader();

export function resourcesOf(spec: string, databases: Readonly<Record<string, string>> = {}) {
  const cluster = `apiVersion: mailcluster.dev/v1alpha1\nkind: MailCluster\nmetadata: { name: contoso, namespace: ${NAMESPACE} }\nspec:${spec}`;
  const others = Object.entries(databases).map(
    ([name, text]) =>
      `---\napiVersion: mailcluster.dev/v1alpha1\nkind: MailboxDatabase\nmetadata: { name: ${name}, namespace: ${NAMESPACE} }\nspec:${text}`,
  );
  const read = parseResources([{ file: 'model', text: [cluster, ...others].join('\n') }], reader, {
    missingReferences: 'note',
  });
  if (!read.ok) throw new Error(read.problems.map(renderProblem).join('\n'));
  const [found] = read.clusters;
  if (found === undefined) throw new Error('no cluster');
  return { cluster: found, databases: read.databases };
}

/** A queue database: it lives on the claim, whoever runs on it. */
export interface QueueDatabase {
  identity: string;
  copies: number;
  safetyNet: number;
  tombstones: number;
  unprotected: number | null;
  generation: number;
  latched: boolean;
}

export class ClusterState {
  nowMs = START_MS;
  operator = OPERATOR;
  spec: MailCluster;
  databases: readonly MailboxDatabase[];
  readonly annotations: Record<string, string> = {};
  generation = 1;
  finalizers: readonly string[] = [];
  deletionTimestamp: string | null = null;
  namespaceTerminating = false;
  /** Of each volume, and what members want for. */
  freeBytes = 1e9;
  readonly unvalidated = new Map<string, readonly string[]>();
  readonly pressed = new Map<string, Pick<MemberReport, 'backPressure' | 'pressedBy'>>();
  schemaVersion: number | null = 1;
  removed = false;
  status: MailClusterStatus | null = null;
  databaseStatus: Record<string, unknown> = {};
  requestStatus: Record<string, ResubmitRequestStatus> = {};
  authority: Gathered['authority'] = { kind: 'absent' };
  /** Members that still have one of an authority that is being replaced. */
  formerCertificates: ReadonlySet<string> = new Set();
  secrets: { name: string; keys: string[]; tlsProblem?: string; signingKeys?: string[] }[] = [];
  configMaps: Gathered['configMaps'] = [];
  kinds = { podMonitor: false, certificate: false };
  readonly objects = new Map<string, KubeObject>();
  readonly pods = new Map<string, PodObject>();
  readonly claims = new Map<string, ClaimObject>();
  readonly volumes = new Map<string, VolumeObject>();
  readonly nodes = new Map<string, NodeObject>();
  readonly stores = new Map<string, QueueDatabase>();
  readonly lostStores = new Set<string>();
  readonly forced = new Set<string>();
  /** Members the operator cannot reach, although they run. */
  readonly cutOff = new Map<string, number>();
  /** Pods that do not say which authorities they trust. */
  readonly deaf = new Set<string>();
  /** Pods that cannot come up, with the reason of their container. */
  readonly broken = new Map<string, string>();
  expansionAllowed = true;
  /** Nobody offers volumes of these. */
  readonly absentClasses = new Set<string>();
  statusWrittenAtMs: number | null = null;
  readonly events: { reason: string; message: string; type: string }[] = [];
  protected serial = 0;

  constructor(spec = TWO_SITES, databases: Readonly<Record<string, string>> = { db01: DATABASE }) {
    const read = resourcesOf(spec, databases);
    this.spec = read.cluster;
    this.databases = read.databases;
    for (const zone of ['a', 'b'])
      for (const n of [1, 2, 3]) {
        const name = `node-${zone}${n}`;
        this.nodes.set(name, { apiVersion: 'v1', kind: 'Node', metadata: { name, uid: this.uid(), labels: { zone } } });
      }
  }

  uid(): string {
    this.serial += 1;
    return `uid-${this.serial}`;
  }

  change(spec: string, databases?: Readonly<Record<string, string>>): void {
    const read = resourcesOf(spec, databases ?? {});
    if (!isDeepStrictEqual(read.cluster.spec, this.spec.spec)) this.generation += 1;
    this.spec = read.cluster;
    if (databases !== undefined) this.databases = read.databases;
  }

  get document(): TopologyDocument | null {
    const main = this.objects.get(`ConfigMap/${named.topology('contoso')}`);
    const text = (main?.data as Record<string, string> | undefined)?.[TOPOLOGY_KEY];
    if (text === undefined) return null;
    if (this.#read?.text !== text) this.#read = { text, document: JSON.parse(text) as TopologyDocument };
    return this.#read.document;
  }

  #read: { readonly text: string; readonly document: TopologyDocument } | null = null;

  object(kind: string, name: string): KubeObject {
    const found = this.objects.get(`${kind}/${name}`);
    if (found === undefined) throw new Error(`no ${kind} ${name}: ${[...this.objects.keys()].join(', ')}`);
    return found;
  }

  member(name: string): QueueDatabase {
    const claim = this.claims.get(claimName(name));
    const store = this.stores.get(claim?.metadata.uid ?? '');
    if (store === undefined) throw new Error(`member ${name} has no queue database`);
    return store;
  }

  get memberNames(): readonly string[] {
    return [...this.pods.values()]
      .filter(({ metadata }) => metadata.labels?.[LABEL.role] === 'transport')
      .map(({ metadata }) => metadata.name)
      .sort();
  }

  // --- what the operator sees

  gather(): Gathered {
    const cluster = this.spec;
    return {
      nowMs: this.nowMs,
      operator: this.operator,
      kinds: this.kinds,
      schemaVersion: this.schemaVersion,
      namespaceTerminating: this.namespaceTerminating,
      cluster: {
        metadata: {
          name: 'contoso',
          namespace: NAMESPACE,
          uid: 'cluster-uid',
          resourceVersion: '1',
          generation: this.generation,
          annotations: { ...this.annotations },
          finalizers: this.finalizers,
          ...(this.deletionTimestamp === null ? {} : { deletionTimestamp: this.deletionTimestamp }),
        },
        resource: cluster,
        problems: [],
        status: this.status,
      },
      databases: this.databases.map((resource) => ({
        metadata: {
          name: resource.metadata.name,
          namespace: NAMESPACE,
          uid: `db-${resource.metadata.name}`,
          generation: 1,
        },
        resource,
        problems: [],
        status: (this.databaseStatus[resource.metadata.name] ?? null) as never,
      })),
      orders: [],
      requests: [...this.objects.values()]
        .filter(({ kind }) => kind === 'ResubmitRequest')
        .map((one) => ({
          metadata: one.metadata,
          resource: {
            kind: 'ResubmitRequest',
            metadata: { ...one.metadata, labels: {}, annotations: {} },
            spec: one.spec,
          } as never,
          problems: [],
          status: this.requestStatus[one.metadata.name] ?? null,
        })),
      secrets: this.secrets.map(({ tlsProblem = null, signingKeys = [], ...one }) => ({
        ...one,
        tlsProblem,
        signingKeys,
      })),
      configMaps: this.configMaps,
      authority: this.authority,
      owned: structuredClone([...this.objects.values()].filter(({ kind }) => kind !== 'ResubmitRequest')),
      pods: structuredClone([...this.pods.values()]),
      claims: structuredClone([...this.claims.values()]),
      volumes: structuredClone([...this.volumes.values()]),
      nodes: structuredClone([...this.nodes.values()]),
      storageClasses: [
        {
          apiVersion: 'storage.k8s.io/v1',
          kind: 'StorageClass',
          metadata: { name: 'fast' },
          allowVolumeExpansion: this.expansionAllowed,
        },
      ],
      members: this.#answers(),
      statusWrittenAtMs: this.statusWrittenAtMs,
    };
  }

  #answers(): Readonly<Record<string, MemberAnswer>> {
    const names = new Set([...this.memberNames, ...(this.document?.members.map(({ name }) => name) ?? [])]);
    return Object.fromEntries(
      [...names].map((name): readonly [string, MemberAnswer] => {
        const pod = this.pods.get(name);
        const silentSinceMs = this.cutOff.get(name);
        const claim = this.claims.get(claimName(name));
        const store = this.stores.get(claim?.metadata.uid ?? '');
        if (pod === undefined || !isRunning(pod) || store === undefined || silentSinceMs !== undefined) {
          const sinceMs = silentSinceMs ?? this.#silentSince(name);
          return [name, { kind: 'unreachable', reason: 'connect ECONNREFUSED', sinceMs }];
        }
        this.#silent.delete(name);
        return [name, { kind: 'answered', podUid: pod.metadata.uid ?? '', report: this.#report(name, store) }];
      }),
    );
  }

  /** Of every queue that is not empty. */
  oldestMs = START_MS;

  readonly #silent = new Map<string, number>();

  #silentSince(name: string): number {
    const since = this.#silent.get(name) ?? this.nowMs;
    this.#silent.set(name, since);
    return since;
  }

  #report(name: string, store: QueueDatabase): MemberReport {
    const queue = (messages: number) => ({
      messages,
      bytes: messages * 1000,
      oldestMs: messages === 0 ? null : this.oldestMs,
    });
    const state = this.document?.members.find((one) => one.name === name)?.state;
    return {
      identity: store.identity,
      state: 'ready',
      generation: store.generation,
      unprotected: store.unprotected,
      drain: {
        state: store.latched ? 'empty' : state === 'draining' ? 'draining' : 'none',
        copies: store.copies,
        safetyNet: store.safetyNet,
        tombstones: store.tombstones,
        waitingFor: [],
      },
      ...(this.pressed.get(name) ?? { backPressure: 'Normal', pressedBy: '' }),
      queues: {
        submission: queue(0),
        delivery: queue(store.copies),
        unreachable: queue(0),
        poison: queue(0),
        shadow: queue(0),
        primarySafetyNet: queue(store.safetyNet),
        shadowSafetyNet: queue(0),
      },
      discardsPending: store.tombstones,
      space: { liveBytes: (store.copies + store.safetyNet) * 1000, freeBytes: this.freeBytes },
      identities: { [name]: store.identity },
      unheard: [],
      unvalidatedResolvers: this.unvalidated.get(name) ?? [],
      resubmits: [],
      certificateNotAfterMs: this.nowMs + 86_400_000,
      certificateFormer: this.formerCertificates.has(name),
    };
  }

  // --- accidents

  loseVolume(name: string): void {
    const claim = this.claims.get(claimName(name));
    if (claim === undefined) return;
    const store = this.stores.get(claim.metadata.uid ?? '');
    if (store !== undefined) this.lostStores.add(store.identity);
    this.stores.delete(claim.metadata.uid ?? '');
    this.volumes.delete(claim.spec?.volumeName ?? '');
    this.claims.delete(claimName(name));
    this.pods.delete(name);
  }

  untaint(): void {
    for (const [name, node] of this.nodes) this.nodes.set(name, { ...node, spec: {} });
  }

  edit(kind: string, name: string, change: (object: KubeObject) => KubeObject): void {
    this.objects.set(`${kind}/${name}`, change(structuredClone(this.object(kind, name))));
  }

  condition(type: string) {
    return this.status?.conditions?.find((one) => one.type === type);
  }

  said(reason: string): number {
    return this.events.filter((one) => one.reason === reason).length;
  }
}

export function isRunning(pod: PodObject): boolean {
  return pod.status?.containerStatuses?.some(({ state }) => state?.running !== undefined) ?? false;
}
