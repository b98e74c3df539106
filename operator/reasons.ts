/**
 * Every reason the operator gives, in conditions, events and the plan (Kubernetes API conventions: CamelCase, one word per cause). Owns: the
 * lists, so that tests and documents can go through them. PURE data.
 */

/** Types of the conditions of a MailCluster (kubernetes.md K11). */
export const CONDITIONS = [
  'Ready',
  'TopologyConverged',
  'ShadowProtected',
  'Progressing',
  'Draining',
  'UpToDate',
  'CertificatesValid',
  'StorageHealthy',
  'Paused',
] as const;
export type ConditionType = (typeof CONDITIONS)[number];

/** Why a member is restarted (kubernetes.md K4). The first that fits is told. */
export const RESTART_REASONS = ['ConfigurationChanged', 'ImageChanged', 'ResourcesChanged', 'TemplateChanged'] as const;
export type RestartReason = (typeof RESTART_REASONS)[number];

export const REASONS = [
  // Everything is as it should be.
  'AsExpected',
  'Converged',
  'Protected',
  'NotDraining',
  'NotPaused',
  'Valid',
  // Before anything is looked at.
  'OperatorTooOld',
  'CrdTooOld',
  'NamespaceTerminating',
  'Deleting',
  'DeletingWithMail',
  'PausedByAnnotation',
  'InvalidSpec',
  // References; they heal by themselves when the thing appears.
  'MissingSecret',
  'MissingSecretKey',
  'MissingConfigMap',
  'MissingStorageClass',
  'NoNodeInSite',
  'InvalidReference',
  'UnsupportedEndpoint',
  'InvalidRequest',
  // Objects.
  'ForeignObject',
  'PutBack',
  'Recreating',
  'WaitingForController',
  'ActionFailed',
  // Topology.
  'TopologyWritten',
  'TopologyRestored',
  'TopologyLost',
  'TopologyTooLarge',
  'TopologyRefused',
  'WaitingForGeneration',
  // Members that leave.
  'Cordoned',
  'Draining',
  'DrainCancelled',
  'Emptied',
  'Removed',
  'LastMember',
  'CannotAbsorb',
  'MemberUnreachable',
  'WaitingForEmpty',
  'WaitingForTheOthers',
  'BoundaryLeaving',
  'ForcedRemoval',
  'ForceRemoveRefused',
  'NeverStarted',
  // Members that are lost.
  'NodeOutOfService',
  'PodGone',
  'VolumeLost',
  // Restarts.
  'Restarting',
  'WaitingForRestart',
  'UnprotectedMessages',
  'ProtectionUnknown',
  'LastOfSite',
  'RollingOut',
  // Budgets.
  'BudgetClosed',
  'BudgetOpen',
  // Storage.
  'Resizing',
  'ShrinkRefused',
  'ExpansionNotAllowed',
  'ClaimLost',
  'ClaimDeleted',
  'ClaimPending',
  'NearlyFull',
  'BackPressure',
  // Pods.
  'MembersNotReady',
  'FrontendsNotReady',
  'Unschedulable',
  'PodFailing',
  // Certificates.
  'AuthorityCreated',
  'AuthorityMissing',
  'AuthorityInvalid',
  'InvalidCertificate',
  'InvalidDkimKey',
  'InvalidArcKey',
  'AuthorityExpiring',
  'CertificateExpiring',
  'FormerAuthorityNeeded',
  'TrustNotAcknowledged',
  'IssuerKindMissing',
  // Mailbox failover.
  'FailedOver',
  'ResubmitCreated',
  // Policies.
  'ShadowRedundancyDisabled',
  'DaneUnvalidated',
] as const;
export type Reason = (typeof REASONS)[number];
