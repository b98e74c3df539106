/**
 * Read, change, write again when somebody was faster. Only for what server-side apply cannot say (a finalizer among those of others, a
 * counter): everything else is applied. The change is asked anew for every version, because what it decided may no longer be so.
 */
import type { CallOptions, KubeApi } from './api.ts';
import { type KubeResult, succeed } from './failures.ts';
import type { KubeObject, ObjectName, ResourceKind } from './kube-object.ts';

const MAX_TRIES = 5;

/** `change` returns null when nothing is to be written. */
export async function readModifyWrite<T extends KubeObject>(
  api: KubeApi,
  kind: ResourceKind,
  name: ObjectName,
  change: (live: T) => T | null,
  options: CallOptions & { readonly subresource?: 'status' } = {},
): Promise<KubeResult<T>> {
  for (let tries = 1; ; tries += 1) {
    const read = await api.get<T>(kind, name, options);
    if (!read.ok) return read;
    const next = change(read.value);
    if (next === null) return succeed(read.value);
    const { resourceVersion, uid } = read.value.metadata;
    const written = await api.replace<T>(
      kind,
      {
        ...next,
        metadata: {
          ...next.metadata,
          ...(resourceVersion === undefined ? {} : { resourceVersion }),
          ...(uid === undefined ? {} : { uid }),
        },
      },
      options,
    );
    if (written.ok || written.failure.kind !== 'conflict' || tries >= MAX_TRIES) return written;
  }
}
