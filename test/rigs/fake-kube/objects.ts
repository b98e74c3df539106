/**
 * Reading and writing objects as the API server does: names, preconditions, generations, finalizers, status subresource, ownership.
 * Owns no connection: `server.ts` turns requests into these calls.
 */
import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { CUSTOM_RESOURCE_DEFINITION, NAMESPACE } from '../../../operator/kube/kinds.ts';
import type { KubeObject } from '../../../operator/kube/kube-object.ts';
import { applyFields, mergePatch, ownChanges, type Writer } from './ownership.ts';
import { conflict, invalid, notFound, Refusal } from './refusal.ts';
import { type KnownKind, kindsOf } from './schema.ts';
import type { Storage } from './storage.ts';

type Json = Record<string, unknown>;

export interface Place {
  readonly known: KnownKind;
  readonly namespace: string;
  readonly name: string;
  readonly subresource: string;
}

export interface Stored {
  readonly code: 200 | 201;
  readonly object: KubeObject;
}

export const collectionOf = ({ kind }: KnownKind): string => `${kind.group}/${kind.plural}`;
const keyIn = (namespace: string, name: string): string => (namespace === '' ? name : `${namespace}/${name}`);

/** RFC 1123 subdomain, as for the names of most kinds. */
const NAME = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;

export class Objects {
  readonly #storage: Storage;
  readonly #learn: (kinds: readonly KnownKind[]) => void;

  constructor(storage: Storage, learn: (kinds: readonly KnownKind[]) => void) {
    this.#storage = storage;
    this.#learn = learn;
  }

  get(place: Place): KubeObject {
    const found = this.#find(place);
    if (found === null) throw notFound(place.known.kind.plural, place.name);
    return found;
  }

  create(place: Place, body: KubeObject, writer: Writer): Stored {
    if (this.#find(place) !== null)
      throw new Refusal(409, 'AlreadyExists', `${place.known.kind.plural} "${place.name}" already exists`);
    return { code: 201, object: this.#insert(place, body, writer) };
  }

  replace(place: Place, body: KubeObject, writer: Writer): Stored {
    const live = this.get(place);
    this.#checkVersion(place, live, body.metadata.resourceVersion);
    return { code: 200, object: this.#update(place, live, body, writer) };
  }

  patch(place: Place, patch: Json, writer: Writer): Stored {
    const live = this.get(place);
    this.#checkVersion(place, live, (patch.metadata as Json | undefined)?.resourceVersion as string | undefined);
    return { code: 200, object: this.#update(place, live, mergePatch(live, patch) as KubeObject, writer) };
  }

  apply(place: Place, body: KubeObject, writer: Writer, force: boolean): Stored {
    const live = this.#find(place);
    if (body.metadata.managedFields !== undefined)
      throw new Refusal(400, 'BadRequest', 'metadata.managedFields must be nil');
    if (live === null && place.subresource !== '') throw notFound(place.known.kind.plural, place.name);
    if (body.metadata.uid !== undefined && live?.metadata.uid !== body.metadata.uid)
      throw conflict(
        `uid mismatch: the provided object specified uid ${body.metadata.uid}, and no such object was found`,
      );
    const base = live ?? { apiVersion: body.apiVersion, kind: body.kind, metadata: this.#fresh(place, body) };
    const desired = limitTo(place, body, null);
    const merged = applyFields(base, desired, writer, force, place.known.listKeys);
    if ('conflicts' in merged) {
      const causes = merged.conflicts.map(({ manager, field }) => ({
        reason: 'FieldManagerConflict',
        message: `conflict with "${manager}"`,
        field,
      }));
      throw conflict(
        `Apply failed with ${causes.length} conflict(s): ${causes.map((one) => one.message).join(', ')}`,
        causes,
      );
    }
    if (live === null) return { code: 201, object: this.#store(place, null, merged.object) };
    this.#checkVersion(place, live, body.metadata.resourceVersion);
    return { code: 200, object: this.#store(place, live, merged.object) };
  }

  /** Null: it is gone; else what is left of it until its finalizers are. */
  delete(place: Place, options: Json): KubeObject | null {
    const live = this.get(place);
    const { uid, resourceVersion } = (options.preconditions ?? {}) as Json;
    if (uid !== undefined && uid !== live.metadata.uid)
      throw conflict(`Precondition failed: UID in precondition: ${uid}`);
    if (resourceVersion !== undefined && resourceVersion !== live.metadata.resourceVersion)
      throw conflict(`Precondition failed: ResourceVersion in precondition: ${resourceVersion}`);
    const held = (live.metadata.finalizers ?? []).length > 0 || this.#isFullNamespace(place);
    if (!held) {
      this.#remove(place);
      return null;
    }
    if (live.metadata.deletionTimestamp !== undefined) return live;
    const metadata = { ...live.metadata, deletionTimestamp: new Date().toISOString() };
    return this.#storage.put(collectionOf(place.known), keyIn(place.namespace, place.name), { ...live, metadata });
  }

  #find(place: Place): KubeObject | null {
    return this.#storage.get(collectionOf(place.known), keyIn(place.namespace, place.name));
  }

  #fresh(place: Place, body: KubeObject): KubeObject['metadata'] {
    return {
      ...(place.namespace === '' ? {} : { namespace: place.namespace }),
      name: body.metadata.name,
      uid: randomUUID(),
      creationTimestamp: new Date().toISOString(),
      ...(place.known.hasGeneration ? { generation: 1 } : {}),
    };
  }

  #insert(place: Place, body: KubeObject, writer: Writer): KubeObject {
    const fresh = { ...limitTo(place, body, null), metadata: { ...body.metadata, ...this.#fresh(place, body) } };
    return this.#store(place, null, ownChanges(null, fresh as KubeObject, writer, place.known.listKeys));
  }

  #update(place: Place, live: KubeObject, body: KubeObject, writer: Writer): KubeObject {
    const { uid, creationTimestamp, generation, deletionTimestamp, managedFields } = live.metadata;
    const kept = { uid, creationTimestamp, generation, deletionTimestamp, managedFields };
    const defined = Object.fromEntries(Object.entries(kept).filter(([, value]) => value !== undefined));
    const limited = limitTo(place, body, live);
    const next = { ...limited, metadata: { ...limited.metadata, ...defined } } as KubeObject;
    return this.#store(place, live, ownChanges(live, next, writer, place.known.listKeys));
  }

  /** Validates, counts generations, keeps the version when nothing changed, ends what was waiting for its last finalizer. */
  #store(place: Place, live: KubeObject | null, next: KubeObject): KubeObject {
    const { known, name, namespace } = place;
    const key = keyIn(namespace, name);
    this.#validate(place, live, next);
    const { resourceVersion: _, ...metadata } = next.metadata;
    const same = live !== null && isDeepStrictEqual(withoutVersion(live), withoutVersion(next));
    if (live !== null && same) return live;
    const isNewGeneration = live !== null && known.hasGeneration && !isDeepStrictEqual(intent(live), intent(next));
    const generation = isNewGeneration ? { generation: (live.metadata.generation ?? 0) + 1 } : {};
    if (live?.metadata.deletionTimestamp !== undefined && (next.metadata.finalizers ?? []).length === 0)
      return this.#remove(place);
    const stored = this.#storage.put(collectionOf(known), key, { ...next, metadata: { ...metadata, ...generation } });
    if (known.kind === CUSTOM_RESOURCE_DEFINITION) this.#learn(kindsOf(stored));
    return stored;
  }

  #remove(place: Place): KubeObject {
    const removed = this.#storage.remove(collectionOf(place.known), keyIn(place.namespace, place.name));
    return removed;
  }

  #validate(place: Place, live: KubeObject | null, next: KubeObject): void {
    const { known, namespace, name } = place;
    const title = known.kind.kind;
    const unknown = known.unknownField(next);
    if (unknown !== null) throw new Refusal(400, 'BadRequest', `strict decoding error: unknown field "${unknown}"`);
    if (!NAME.test(name) || name.length > 253)
      throw invalid(
        title,
        name,
        'metadata.name',
        'a lowercase RFC 1123 subdomain must consist of lower case characters',
      );
    if (live === null && known.kind.namespaced) {
      const owner = this.#storage.get(`${NAMESPACE.group}/${NAMESPACE.plural}`, namespace);
      if (owner === null) throw notFound('namespaces', namespace);
      if (owner.metadata.deletionTimestamp !== undefined)
        throw new Refusal(403, 'Forbidden', `namespace ${namespace} is being terminated`, [
          {
            reason: 'NamespaceTerminating',
            message: `namespace ${namespace} is being terminated`,
            field: 'metadata.namespace',
          },
        ]);
    }
    if (known.kind.kind === 'Event') validateEvent(next as KubeObject & Json, live as (KubeObject & Json) | null);
  }

  #checkVersion({ known, name }: Place, live: KubeObject, version: string | undefined): void {
    if (version === undefined || version === '' || version === live.metadata.resourceVersion) return;
    throw conflict(`Operation cannot be fulfilled on ${known.kind.plural} "${name}": the object has been modified`);
  }

  #isFullNamespace({ known, name }: Place): boolean {
    return known.kind === NAMESPACE && this.#storage.hasKeysUnder(`${name}/`);
  }
}

const withoutVersion = ({ metadata: { resourceVersion: _, ...metadata }, ...rest }: KubeObject): unknown => ({
  ...rest,
  metadata,
});

const intent = ({ metadata: _, status: __, ...rest }: KubeObject): unknown => rest;

/** A write to the object leaves its status alone, a write to the status leaves everything else. */
function limitTo(place: Place, body: KubeObject, live: KubeObject | null): KubeObject {
  if (!place.known.hasStatus) return body;
  const { status, ...rest } = body;
  if (place.subresource !== 'status')
    return live?.status === undefined ? (rest as KubeObject) : ({ ...rest, status: live.status } as KubeObject);
  const base = live ?? { apiVersion: body.apiVersion, kind: body.kind, metadata: { name: body.metadata.name } };
  return { ...base, ...(status === undefined ? {} : { status }) };
}

/** events.k8s.io/v1: what the real server insists on and a careless writer forgets. */
function validateEvent(event: KubeObject & Json, live: (KubeObject & Json) | null): void {
  const name = event.metadata.name;
  const texts: readonly [string, number][] = [
    ['reason', 128],
    ['action', 128],
    ['reportingController', 253],
    ['reportingInstance', 128],
  ];
  for (const [field, limit] of texts) {
    const value = event[field];
    if (typeof value !== 'string' || value === '' || value.length > limit)
      throw invalid('Event', name, field, `Required value: up to ${limit} characters`);
  }
  if (typeof event.eventTime !== 'string') throw invalid('Event', name, 'eventTime', 'Required value');
  if (typeof event.note === 'string' && Buffer.byteLength(event.note) > 1024)
    throw invalid('Event', name, 'note', 'can have at most 1024 characters');
  if (live === null) return;
  for (const field of ['reason', 'note', 'eventTime', 'regarding', 'action', 'type'])
    if (!isDeepStrictEqual(live[field], event[field])) throw invalid('Event', name, field, 'field is immutable');
}
