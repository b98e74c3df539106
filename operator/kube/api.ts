/**
 * The port to the Kubernetes API. Owns: what the operator may ask of an API server, generic over kinds. The real implementation is
 * `client.ts`; the same contract suite (`test/contract/kube-api.ts`) runs it against our own API server and against the real one.
 * Promises: every call ends by its deadline with a value; expected failures are values (`failures.ts`), never exceptions; one field
 * manager; a call whose outcome is unknown says so (`perhapsDone`). Refuses nothing: what may be written is decided by the caller.
 */
import type { KubeResult } from './failures.ts';
import type { KubeObject, ObjectName, ResourceKind, Subresource } from './kube-object.ts';

/** The only field manager we write as; server-side apply keeps what others own (kubernetes.md K1). */
export const FIELD_MANAGER = 'mailcluster-operator';

export interface CallOptions {
  /** For the whole call with its retries; 30 s. */
  readonly deadlineMs?: number;
  /** How often a call that may be repeated is repeated; 4. 0 for callers that have a rhythm of their own. */
  readonly retries?: number;
  /** Not held back by the client's own rate limit: lease renewals. */
  readonly isUrgent?: boolean;
  /** Nothing is sent, and what is on its way is given up, after this moment of the monotonic clock (the fence of `leader.ts`). */
  readonly notAfterMs?: number;
  readonly signal?: AbortSignal;
}

export interface Scope {
  /** Empty or absent: all namespaces. */
  readonly namespace?: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
}

export interface PageOptions extends CallOptions {
  readonly limit?: number;
  /** From the page before. */
  readonly continueToken?: string;
}

export interface ListPage<T extends KubeObject> {
  readonly items: readonly T[];
  readonly resourceVersion: string;
  /** Empty: this was the last page. */
  readonly continueToken: string;
}

export interface WatchOptions {
  readonly resourceVersion: string;
  /** The server ends the watch after about this time; a watch that never ends would never notice a lost load balancer. */
  readonly timeoutSeconds: number;
  /** Given up as stalled when no byte arrives for so long. The API server sends a bookmark about every minute. */
  readonly stallMs: number;
  readonly signal: AbortSignal;
}

export type WatchEvent<T extends KubeObject> =
  | { readonly type: 'ADDED' | 'MODIFIED' | 'DELETED'; readonly object: T }
  | { readonly type: 'BOOKMARK'; readonly resourceVersion: string };

/** How a watch ended. `end`: as agreed, by the server's timeout. `reset`: the connection broke. `garbage`: no event could be read. */
export type WatchEnd =
  | { readonly kind: 'end' | 'reset' | 'stalled' | 'stopped' | 'garbage'; readonly message: string }
  | { readonly kind: 'gone'; readonly message: string }
  | { readonly kind: 'error'; readonly message: string };

export interface Watch<T extends KubeObject> {
  /** Calls back for every event in order; resolves when the watch is over, and never rejects. */
  run(onEvent: (event: WatchEvent<T>) => void): Promise<WatchEnd>;
}

export interface ApplyOptions extends CallOptions {
  /** Take over fields that others own; ours is the intent for what we render (client-go controllers do the same). */
  readonly force?: boolean;
  /** Fails with `notFound` instead of creating: for objects somebody else makes (pods, claims). */
  readonly mustExist?: { readonly uid: string };
  readonly subresource?: 'status';
}

export interface Applied<T extends KubeObject> {
  readonly object: T;
  /** It was not there before. Whether an existing one changed shows its resourceVersion: an apply without effect keeps it. */
  readonly isCreated: boolean;
}

export interface DeleteOptions extends CallOptions {
  readonly uid?: string;
  readonly resourceVersion?: string;
  /** Background when absent. */
  readonly propagation?: 'Background' | 'Foreground' | 'Orphan';
  readonly gracePeriodSeconds?: number;
}

export interface KubeApi {
  get<T extends KubeObject>(kind: ResourceKind, name: ObjectName, options?: CallOptions): Promise<KubeResult<T>>;
  list<T extends KubeObject>(kind: ResourceKind, scope: Scope, options?: PageOptions): Promise<KubeResult<ListPage<T>>>;
  watch<T extends KubeObject>(kind: ResourceKind, scope: Scope, options: WatchOptions): Promise<KubeResult<Watch<T>>>;
  /** Server-side apply: creates or changes; fields we applied before and leave out now are removed. */
  apply<T extends KubeObject>(kind: ResourceKind, object: T, options?: ApplyOptions): Promise<KubeResult<Applied<T>>>;
  create<T extends KubeObject>(
    kind: ResourceKind,
    object: T,
    options?: CallOptions & { readonly subresource?: Subresource; readonly name?: string },
  ): Promise<KubeResult<T>>;
  /** PUT; with `metadata.resourceVersion` it fails with `conflict` when somebody was faster. */
  replace<T extends KubeObject>(
    kind: ResourceKind,
    object: T,
    options?: CallOptions & { readonly subresource?: 'status' },
  ): Promise<KubeResult<T>>;
  /** JSON merge patch (RFC 7396); `metadata.resourceVersion` in it is a precondition. */
  patch<T extends KubeObject>(
    kind: ResourceKind,
    name: ObjectName,
    patch: Readonly<Record<string, unknown>>,
    options?: CallOptions & { readonly subresource?: Subresource },
  ): Promise<KubeResult<T>>;
  /** `gone`: it is away now or was before; `terminating`: finalizers or a grace period hold it. */
  delete(kind: ResourceKind, name: ObjectName, options?: DeleteOptions): Promise<KubeResult<'gone' | 'terminating'>>;
}
