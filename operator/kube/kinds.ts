/** The kinds the operator reads or writes (kubernetes.md section 2), as data. Pure. */
import { apiVersionOf, type ResourceKind } from './kube-object.ts';

const core = (kind: string, plural: string, namespaced = true): ResourceKind => ({
  group: '',
  version: 'v1',
  kind,
  plural,
  namespaced,
});
const grouped = (group: string, version: string, kind: string, plural: string, namespaced = true): ResourceKind => ({
  group,
  version,
  kind,
  plural,
  namespaced,
});

export const NAMESPACE = core('Namespace', 'namespaces', false);
export const NODE = core('Node', 'nodes', false);
export const PERSISTENT_VOLUME = core('PersistentVolume', 'persistentvolumes', false);
export const CONFIG_MAP = core('ConfigMap', 'configmaps');
export const SECRET = core('Secret', 'secrets');
export const SERVICE = core('Service', 'services');
export const SERVICE_ACCOUNT = core('ServiceAccount', 'serviceaccounts');
export const POD = core('Pod', 'pods');
export const PERSISTENT_VOLUME_CLAIM = core('PersistentVolumeClaim', 'persistentvolumeclaims');
export const STATEFUL_SET = grouped('apps', 'v1', 'StatefulSet', 'statefulsets');
export const DEPLOYMENT = grouped('apps', 'v1', 'Deployment', 'deployments');
export const POD_DISRUPTION_BUDGET = grouped('policy', 'v1', 'PodDisruptionBudget', 'poddisruptionbudgets');
export const HORIZONTAL_POD_AUTOSCALER = grouped(
  'autoscaling',
  'v2',
  'HorizontalPodAutoscaler',
  'horizontalpodautoscalers',
);
export const NETWORK_POLICY = grouped('networking.k8s.io', 'v1', 'NetworkPolicy', 'networkpolicies');
export const LEASE = grouped('coordination.k8s.io', 'v1', 'Lease', 'leases');
export const EVENT = grouped('events.k8s.io', 'v1', 'Event', 'events');
export const CUSTOM_RESOURCE_DEFINITION = grouped(
  'apiextensions.k8s.io',
  'v1',
  'CustomResourceDefinition',
  'customresourcedefinitions',
  false,
);
export const STORAGE_CLASS = grouped('storage.k8s.io', 'v1', 'StorageClass', 'storageclasses', false);
export const TOKEN_REVIEW = grouped('authentication.k8s.io', 'v1', 'TokenReview', 'tokenreviews', false);
export const SUBJECT_ACCESS_REVIEW = grouped(
  'authorization.k8s.io',
  'v1',
  'SubjectAccessReview',
  'subjectaccessreviews',
  false,
);
export const CERTIFICATE_SIGNING_REQUEST = grouped(
  'certificates.k8s.io',
  'v1',
  'CertificateSigningRequest',
  'certificatesigningrequests',
  false,
);
/** Of the Prometheus operator and of cert-manager: there only where somebody installed them. */
export const POD_MONITOR = grouped('monitoring.coreos.com', 'v1', 'PodMonitor', 'podmonitors');
export const CERTIFICATE = grouped('cert-manager.io', 'v1', 'Certificate', 'certificates');
export const MAIL_CLUSTER = grouped('mailcluster.dev', 'v1alpha1', 'MailCluster', 'mailclusters');
export const MAILBOX_DATABASE = grouped('mailcluster.dev', 'v1alpha1', 'MailboxDatabase', 'mailboxdatabases');
export const RESUBMIT_REQUEST = grouped('mailcluster.dev', 'v1alpha1', 'ResubmitRequest', 'resubmitrequests');
export const TRANSPORT_ORDER = grouped('mailcluster.dev', 'v1alpha1', 'TransportOrder', 'transportorders');
/** Of itself: how the API server knows who asks. */
export const SELF_SUBJECT_REVIEW = grouped(
  'authentication.k8s.io',
  'v1',
  'SelfSubjectReview',
  'selfsubjectreviews',
  false,
);

const ALL: readonly ResourceKind[] = [
  NAMESPACE,
  NODE,
  PERSISTENT_VOLUME,
  CONFIG_MAP,
  SECRET,
  SERVICE,
  SERVICE_ACCOUNT,
  POD,
  PERSISTENT_VOLUME_CLAIM,
  STATEFUL_SET,
  DEPLOYMENT,
  POD_DISRUPTION_BUDGET,
  HORIZONTAL_POD_AUTOSCALER,
  NETWORK_POLICY,
  LEASE,
  EVENT,
  CUSTOM_RESOURCE_DEFINITION,
  STORAGE_CLASS,
  TOKEN_REVIEW,
  SUBJECT_ACCESS_REVIEW,
  CERTIFICATE_SIGNING_REQUEST,
  POD_MONITOR,
  CERTIFICATE,
  MAIL_CLUSTER,
  MAILBOX_DATABASE,
  RESUBMIT_REQUEST,
  TRANSPORT_ORDER,
  SELF_SUBJECT_REVIEW,
];

/** The kind of an object, or of a reference to one. Throws for a kind that is not here: a bug. */
export function kindOf({ apiVersion, kind }: { readonly apiVersion: string; readonly kind: string }): ResourceKind {
  const found = ALL.find((one) => one.kind === kind && apiVersionOf(one) === apiVersion);
  if (found === undefined) throw new Error(`no kind ${apiVersion} ${kind}`);
  return found;
}
