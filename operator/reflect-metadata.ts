/**
 * The few functions of the `reflect-metadata` proposal that the container inside `@peculiar/x509` (tsyringe) asks for while it is
 * loaded. Owns: nothing until called; then adds them to `Reflect` unless a polyfill is already there. Refuses property keys.
 */
type Target = object;
type MetadataKey = string | symbol;

interface ReflectWithMetadata {
  getMetadata?: (key: MetadataKey, target: Target) => unknown;
  getOwnMetadata?: (key: MetadataKey, target: Target) => unknown;
  hasOwnMetadata?: (key: MetadataKey, target: Target) => boolean;
  defineMetadata?: (key: MetadataKey, value: unknown, target: Target) => void;
}

export function ensureReflectMetadata(): void {
  const reflect = Reflect as ReflectWithMetadata;
  if (reflect.getMetadata !== undefined) return;
  const store = new WeakMap<Target, Map<MetadataKey, unknown>>();
  reflect.getOwnMetadata = (key, target) => store.get(target)?.get(key);
  reflect.hasOwnMetadata = (key, target) => store.get(target)?.has(key) === true;
  reflect.getMetadata = (key, target) => {
    for (let at: Target | null = target; at !== null; at = Object.getPrototypeOf(at) as Target | null) {
      const own = store.get(at);
      if (own?.has(key) === true) return own.get(key);
    }
    return undefined;
  };
  reflect.defineMetadata = (key, value, target) => {
    const own = store.get(target) ?? new Map<MetadataKey, unknown>();
    store.set(target, own.set(key, value));
  };
}
