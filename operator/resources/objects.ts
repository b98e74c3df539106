/**
 * Objects of the API server as plain JSON, as far as the plan reads them. Owns: their shapes and how they are named and owned. Promise:
 * nothing here needs a client; fields that an API server may leave out are optional. What the plan does not read is not described.
 */

export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller?: boolean;
  readonly blockOwnerDeletion?: boolean;
}

export interface ObjectMetadata {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly resourceVersion?: string;
  readonly generation?: number;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly ownerReferences?: readonly OwnerReference[];
  readonly finalizers?: readonly string[];
}

export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMetadata;
  readonly [field: string]: unknown;
}

/** Enough to name an object; the namespace is that of the cluster. */
export interface ObjectRef {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
}

export interface ObjectCondition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
  readonly message?: string;
  readonly lastTransitionTime?: string;
}

export interface ContainerStatus {
  readonly name: string;
  readonly ready?: boolean;
  readonly restartCount?: number;
  readonly state?: {
    readonly waiting?: { readonly reason?: string; readonly message?: string };
    readonly running?: { readonly startedAt?: string };
    readonly terminated?: { readonly reason?: string; readonly exitCode?: number; readonly message?: string };
  };
  readonly lastState?: ContainerStatus['state'];
}

export interface PodObject extends KubeObject {
  readonly kind: 'Pod';
  readonly spec?: {
    readonly nodeName?: string;
    readonly containers?: readonly { readonly name: string; readonly image?: string; readonly resources?: unknown }[];
  };
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly conditions?: readonly ObjectCondition[];
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

export interface ClaimObject extends KubeObject {
  readonly kind: 'PersistentVolumeClaim';
  readonly spec?: {
    readonly volumeName?: string;
    readonly storageClassName?: string;
    readonly resources?: { readonly requests?: { readonly storage?: string } };
  };
  readonly status?: {
    /** Pending, Bound or Lost. */
    readonly phase?: string;
    readonly capacity?: { readonly storage?: string };
    readonly conditions?: readonly ObjectCondition[];
  };
}

export interface VolumeObject extends KubeObject {
  readonly kind: 'PersistentVolume';
  readonly spec?: { readonly claimRef?: { readonly uid?: string; readonly name?: string } };
  readonly status?: { readonly phase?: string };
}

export interface NodeObject extends KubeObject {
  readonly kind: 'Node';
  readonly spec?: {
    readonly unschedulable?: boolean;
    readonly taints?: readonly { readonly key: string; readonly value?: string; readonly effect?: string }[];
  };
}

export interface StorageClassObject extends KubeObject {
  readonly kind: 'StorageClass';
  readonly allowVolumeExpansion?: boolean;
}

export interface StatefulSetObject extends KubeObject {
  readonly kind: 'StatefulSet';
  readonly spec?: {
    readonly replicas?: number;
    readonly template?: { readonly metadata?: { readonly annotations?: Readonly<Record<string, string>> } };
    readonly volumeClaimTemplates?: readonly KubeObject[];
  };
  readonly status?: {
    readonly observedGeneration?: number;
    readonly updateRevision?: string;
    readonly replicas?: number;
  };
}

export interface DeploymentObject extends KubeObject {
  readonly kind: 'Deployment';
  readonly spec?: { readonly replicas?: number };
  readonly status?: {
    readonly observedGeneration?: number;
    readonly replicas?: number;
    readonly readyReplicas?: number;
    readonly updatedReplicas?: number;
    readonly unavailableReplicas?: number;
    readonly conditions?: readonly ObjectCondition[];
  };
}

export interface BudgetObject extends KubeObject {
  readonly kind: 'PodDisruptionBudget';
  readonly spec?: { readonly maxUnavailable?: number | string };
}

export interface ConfigMapObject extends KubeObject {
  readonly kind: 'ConfigMap';
  readonly data?: Readonly<Record<string, string>>;
}

export const refOf = ({ apiVersion, kind, metadata }: KubeObject): ObjectRef => ({
  apiVersion,
  kind,
  name: metadata.name,
});

export const keyOf = ({ kind, name }: Pick<ObjectRef, 'kind' | 'name'>): string => `${kind}/${name}`;

export const conditionOf = (
  conditions: readonly ObjectCondition[] | undefined,
  type: string,
): ObjectCondition | undefined => conditions?.find((one) => one.type === type);

/** The pod says of itself that it serves, and nobody asked for its end. */
export const isReady = (pod: PodObject | undefined): boolean =>
  pod !== undefined &&
  pod.metadata.deletionTimestamp === undefined &&
  conditionOf(pod.status?.conditions, 'Ready')?.status === 'True';

/** Owned, as controller, by the object with this uid. */
export const isControlledBy = (object: KubeObject, uid: string): boolean =>
  object.metadata.ownerReferences?.some((one) => one.controller === true && one.uid === uid) ?? false;
