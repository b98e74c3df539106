/**
 * What the plan asks for. Owns: the shapes of actions, events and the plan; `apply` (wiring) carries them out in order and stops at the first
 * that fails. Promise: every action can be repeated, and none is given that would change nothing. Conditions of an action (uid, version)
 * are to be sent with it: an object that changed meanwhile makes it fail, and the next plan sees why.
 */
import type { TopologyDocument } from '../common/config.ts';
import type { Reason, RestartReason } from './reasons.ts';
import type {
  MailboxDatabaseStatus,
  MailClusterStatus,
  ResubmitRequestStatus,
  TransportOrderStatus,
} from './resource/generated.ts';
import type { ConfigMapObject, KubeObject, ObjectRef } from './resources/objects.ts';

export type Action =
  /** Server-side apply with our one field manager, force. `object.metadata.resourceVersion`, where set, is part of it. */
  | { readonly kind: 'apply'; readonly object: KubeObject; readonly why: 'create' | 'change' | 'putBack' }
  /** Delete with precondition uid. `orphan`: propagationPolicy Orphan, the pods stay. */
  | {
      readonly kind: 'delete';
      readonly target: ObjectRef;
      readonly uid: string;
      readonly orphan: boolean;
      readonly why: Reason;
    }
  /** Delete a pod with preconditions uid and resourceVersion: an ordered restart. */
  | {
      readonly kind: 'restartPod';
      readonly name: string;
      readonly uid: string;
      readonly resourceVersion: string;
      readonly reason: RestartReason;
    }
  /** Merge patch of metadata.annotations; null removes. With the uid, so that a successor under the same name is not meant. */
  | {
      readonly kind: 'annotate';
      readonly target: ObjectRef;
      readonly uid: string;
      readonly annotations: Readonly<Record<string, string | null>>;
    }
  /** Merge patch of spec.resources.requests.storage of a claim. */
  | { readonly kind: 'resizeClaim'; readonly name: string; readonly uid: string; readonly storage: string }
  /** Delete a claim, precondition uid. Only after the member was proved empty, or on deletion by policy. */
  | { readonly kind: 'deleteClaim'; readonly name: string; readonly uid: string; readonly why: Reason }
  /**
   * The next generation. First `backup`, then `main`, both server-side apply; null: it has this document already. Where
   * `metadata.resourceVersion` is set the write must fail on conflict (a second leader), where it is absent the object is created.
   */
  | {
      readonly kind: 'writeTopology';
      readonly document: TopologyDocument;
      readonly backup: ConfigMapObject | null;
      readonly main: ConfigMapObject | null;
    }
  /** Make an authority (operator/pki.ts `createAuthority`) and create this Secret with data tls.crt, tls.key, ca.crt; keep an existing one. */
  | { readonly kind: 'createAuthority'; readonly secret: KubeObject }
  /** Create this Secret with `key` = that many random bytes in base64url; keep an existing one. */
  | { readonly kind: 'createPassword'; readonly secret: KubeObject; readonly key: string; readonly bytes: number }
  /** metadata.finalizers of the MailCluster, with its resourceVersion. Treat "not found" as done. */
  | {
      readonly kind: 'setFinalizers';
      readonly finalizers: readonly string[];
      readonly uid: string;
      readonly resourceVersion: string;
    }
  /** Status subresource of one of the other kinds (that of the MailCluster is `Plan.status`). */
  | {
      readonly kind: 'writeDatabaseStatus';
      readonly name: string;
      readonly uid: string;
      readonly status: MailboxDatabaseStatus;
    }
  | {
      readonly kind: 'writeRequestStatus';
      readonly name: string;
      readonly uid: string;
      readonly status: ResubmitRequestStatus;
    }
  | {
      readonly kind: 'writeOrderStatus';
      readonly name: string;
      readonly uid: string;
      readonly status: TransportOrderStatus;
    }
  /** A TransportOrder that was decided long ago. */
  | { readonly kind: 'deleteOrder'; readonly name: string; readonly uid: string };

const JUDGED: readonly Action['kind'][] = ['restartPod', 'delete', 'deleteClaim', 'resizeClaim', 'writeTopology'];

/** It takes something from the data plane, or lets others take it, because of what members said of themselves. */
export const reliesOnAnswers = (action: Action): boolean =>
  JUDGED.includes(action.kind) ||
  (action.kind === 'apply' && ['StatefulSet', 'PodDisruptionBudget'].includes(action.object.kind));

export interface PlannedEvent {
  readonly type: 'Normal' | 'Warning';
  readonly reason: Reason;
  readonly message: string;
  /** What it is about; null: the MailCluster. */
  readonly about: ObjectRef | null;
}

/** What one check said; for the log, `Progressing` and tests. */
export interface Outcome {
  readonly check: string;
  readonly kind: 'continue' | 'act' | 'wait' | 'refuse';
  readonly reason: Reason | null;
  readonly message: string;
}

export interface Plan {
  /** In this order. */
  readonly actions: readonly Action[];
  /** Whole status of the MailCluster to write, or null: it is that already, or must not be written. */
  readonly status: MailClusterStatus | null;
  readonly events: readonly PlannedEvent[];
  /** Look again after this long even if no object changes; null: only when something changes. */
  readonly requeueAfterMs: number | null;
  readonly outcomes: readonly Outcome[];
}
