/**
 * What the plan is made from: one snapshot of everything about one MailCluster. Owns: the shape; `gather` (wiring) fills it, `plan.ts` reads
 * it. Promise: plain data, secrets' values never among it; the same snapshot gives the same plan. What could not be had is said, not
 * left out: a member that does not answer is `unreachable` with the reason.
 */
import type {
  MailboxDatabase,
  MailboxDatabaseStatus,
  MailCluster,
  MailClusterStatus,
  ResubmitRequest,
  ResubmitRequestStatus,
  TransportOrder,
  TransportOrderStatus,
} from './resource/generated.ts';
import type { ConfigMap } from './resource/parse.ts';
import type {
  ClaimObject,
  KubeObject,
  NodeObject,
  ObjectMetadata,
  PodObject,
  StorageClassObject,
  VolumeObject,
} from './resources/objects.ts';
import type { ResubmitAnswer } from './resubmit-status.ts';

/** What the operator itself is told by its own deployment; the same for all clusters. */
export interface OperatorSettings {
  /** The image with the three programs, for transports and front ends. Changing it restarts them, one by one. */
  readonly image: string;
  readonly imagePullPolicy: 'Always' | 'IfNotPresent' | 'Never';
  readonly imagePullSecrets: readonly string[];
  /** Image of a managed Redis or Valkey. */
  readonly redisImage: string;
  /** Version of the operator, for events and logs only: it is in no object, so that an upgrade changes nothing (K12). */
  readonly version: string;
  /** Where the operator runs: NetworkPolicies let it in. */
  readonly namespace: string;
  /** Labels of the operator's own pods. */
  readonly podLabels: Readonly<Record<string, string>>;
  /** Base of the signing endpoint, `https://HOST:PORT`. */
  readonly signerUrl: string;
  readonly signerPort: number;
  /** Domain of cluster DNS, usually `cluster.local`. */
  readonly clusterDomain: string;
}

/** Kinds that exist in this cluster only when somebody installed them. */
export interface ApiKinds {
  /** monitoring.coreos.com/v1 PodMonitor. */
  readonly podMonitor: boolean;
  /** cert-manager.io/v1 Certificate. */
  readonly certificate: boolean;
}

/** One of our kinds: as the API server has it, and as `operator/resource/parse.ts` reads it. */
export interface Observed<Resource, Status> {
  readonly metadata: ObjectMetadata;
  /** Null: it does not parse; `problems` says why, one line each with field and fix. */
  readonly resource: Resource | null;
  readonly problems: readonly string[];
  readonly status: Status | null;
}

/** The part of `GET /v1/status` (transport/runtime/view.ts) that the plan reads, checked by who asked. */
export interface MemberReport {
  readonly identity: string;
  readonly state: 'recovering' | 'ready' | 'stopping';
  readonly generation: number;
  /** In-transit copies known to be on this database only; null: not known yet, never to be read as 0. */
  readonly unprotected: number | null;
  readonly drain: {
    readonly state: 'none' | 'draining' | 'empty';
    readonly copies: number;
    readonly safetyNet: number;
    readonly tombstones: number;
    readonly waitingFor: readonly string[];
  };
  readonly backPressure: 'Normal' | 'Medium' | 'High';
  /** For want of what; empty at Normal, and from older versions. */
  readonly pressedBy: string;
  readonly queues: Readonly<
    Record<
      'submission' | 'delivery' | 'unreachable' | 'poison' | 'shadow' | 'primarySafetyNet' | 'shadowSafetyNet',
      { readonly messages: number; readonly bytes: number; readonly oldestMs: number | null }
    >
  >;
  /** Tombstones that still owe somebody an answer. */
  readonly discardsPending: number;
  readonly space: { readonly liveBytes: number; readonly freeBytes: number };
  /** Queue databases by name of the member, its own and those of peers it knows; members that know the same share it. */
  readonly identities: Readonly<Record<string, string>>;
  /** Peers that it has no connection to, in order. */
  readonly unheard: readonly string[];
  /** `ADDRESS:PORT` of resolvers that it found not to validate, of connectors with DANE now or before; none from older versions. */
  readonly unvalidatedResolvers: readonly string[];
  /** `GET /v1/resubmit`; empty when nothing is asked. */
  readonly resubmits: readonly ResubmitAnswer[];
  /** End of the certificate that it showed, ms; null when not seen. */
  readonly certificateNotAfterMs: number | null;
  /** It was signed by an authority that is being replaced. */
  readonly certificateFormer: boolean;
}

export type MemberAnswer =
  | { readonly kind: 'answered'; readonly podUid: string; readonly report: MemberReport }
  /** `sinceMs`: when it was first not to be reached, as far as this operator process knows; starts anew with the process. */
  | { readonly kind: 'unreachable'; readonly reason: string; readonly sinceMs: number }
  /** It answered what cannot be: another name, a malformed body. Counts as knowing nothing. */
  | { readonly kind: 'nonsense'; readonly reason: string; readonly sinceMs: number };

/** What is seen of a Secret: not its values. */
export interface SecretView {
  readonly name: string;
  readonly keys: readonly string[];
  /** Why its `tls.crt` and `tls.key` cannot be used together; null where they can, or one is not there. */
  readonly tlsProblem: string | null;
  /** Keys whose values can sign with DKIM. */
  readonly signingKeys: readonly string[];
}

/** The authority that signs the pods' certificates: the Secret `authorityName()`. */
export interface AuthorityView {
  /** Certificates to trust, PEM, the newest first; two while one replaces the other. */
  readonly trustPem: string;
  readonly notAfterMs: number;
}

export interface Gathered {
  readonly nowMs: number;
  readonly operator: OperatorSettings;
  readonly kinds: ApiKinds;
  /** `mailcluster.dev/schema-version` of the installed CRD MailCluster; null when it has none. */
  readonly schemaVersion: number | null;
  readonly namespaceTerminating: boolean;
  readonly cluster: Observed<MailCluster, MailClusterStatus>;
  /** Of this namespace, with `clusterRef` to this cluster. */
  readonly databases: readonly Observed<MailboxDatabase, MailboxDatabaseStatus>[];
  readonly requests: readonly Observed<ResubmitRequest, ResubmitRequestStatus>[];
  readonly orders: readonly Observed<TransportOrder, TransportOrderStatus>[];
  /** Names and keys of the Secrets of this namespace to which the resources refer, and of our own; those that exist. */
  readonly secrets: readonly SecretView[];
  /** ConfigMaps to which the databases refer (`recipients.addressesFrom`); those that exist. */
  readonly configMaps: readonly ConfigMap[];
  readonly authority:
    | { readonly kind: 'present'; readonly view: AuthorityView }
    | { readonly kind: 'absent' }
    | {
        readonly kind: 'invalid';
        readonly problem: string;
      };
  /**
   * Every object of the kinds in `MADE_KINDS` (operator/resources/names.ts) of this namespace for which `concerns(cluster, object)` holds:
   * ours, and foreign ones that have our names.
   */
  readonly owned: readonly KubeObject[];
  /** Pods with our cluster label. */
  readonly pods: readonly PodObject[];
  /** Claims with our cluster label, or named as a member's. */
  readonly claims: readonly ClaimObject[];
  /** Volumes to which those claims are bound. */
  readonly volumes: readonly VolumeObject[];
  readonly nodes: readonly NodeObject[];
  readonly storageClasses: readonly StorageClassObject[];
  /** By name of the member (= of its pod). A member that was not asked is not here. */
  readonly members: Readonly<Record<string, MemberAnswer>>;
  /** When this process last wrote the status; null: not yet. Counters alone do not make it write again at once. */
  readonly statusWrittenAtMs: number | null;
}
