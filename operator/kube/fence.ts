/**
 * The API as a leader may use it: reading as ever, every write through the fence (`leader.ts`). Who reconciles gets this one and no other,
 * so a write past the fence cannot be forgotten.
 */
import type { KubeApi } from './api.ts';
import type { Leader } from './leader.ts';

export function fencedApi(api: KubeApi, leader: Pick<Leader, 'write'>): KubeApi {
  return {
    get: (kind, name, options) => api.get(kind, name, options),
    list: (kind, scope, options) => api.list(kind, scope, options),
    watch: (kind, scope, options) => api.watch(kind, scope, options),
    apply: (kind, object, options) => leader.write((fence) => api.apply(kind, object, { ...options, ...fence })),
    create: (kind, object, options) => leader.write((fence) => api.create(kind, object, { ...options, ...fence })),
    replace: (kind, object, options) => leader.write((fence) => api.replace(kind, object, { ...options, ...fence })),
    patch: (kind, name, patch, options) =>
      leader.write((fence) => api.patch(kind, name, patch, { ...options, ...fence })),
    delete: (kind, name, options) => leader.write((fence) => api.delete(kind, name, { ...options, ...fence })),
  };
}
