/**
 * The API server of the fake without sockets, in simulated time: the port `KubeApi` for tests of what waits. The objects behave as in
 * `server.ts` (same code, same contract suite); what is simulated is the way there: latency, lost requests, lost answers, a server that is
 * away. Watches are not simulated: those tests use real connections.
 */
import type { Clock } from '../../../common/platform/clock.ts';
import {
  type Applied,
  type ApplyOptions,
  type CallOptions,
  FIELD_MANAGER,
  type KubeApi,
  type ListPage,
  type Scope,
} from '../../../operator/kube/api.ts';
import { fail, failureOf, type KubeResult, succeed } from '../../../operator/kube/failures.ts';
import type { KubeObject, ObjectName, ResourceKind, Subresource } from '../../../operator/kube/kube-object.ts';
import type { Scheduler } from '../../sim/scheduler.ts';
import { listPage } from './listing.ts';
import { Objects, type Place } from './objects.ts';
import { Refusal } from './refusal.ts';
import { BUILT_IN, type KnownKind } from './schema.ts';
import { Storage } from './storage.ts';

/** What happens to one call on its way. */
export interface Journey {
  /** Null: the request never arrives. */
  readonly thereMs: number | null;
  /** Null: the answer never arrives. */
  readonly backMs: number | null;
}

export interface Caller {
  readonly clock: Clock;
  readonly journey: () => Journey;
  /** Runs on the scheduler when the caller's process runs again. */
  readonly deliver: (run: () => void) => void;
}

export class MemoryKube {
  readonly storage = new Storage();
  readonly #objects: Objects;
  readonly #scheduler: Scheduler;
  #kinds: readonly KnownKind[] = BUILT_IN;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
    this.#objects = new Objects(this.storage, (kinds) => (this.#kinds = [...this.#kinds, ...kinds]));
  }

  /** At once, as somebody else does it. */
  by(manager: string): MemoryHand {
    return new MemoryHand(this.#objects, (kind, name, subresource) => this.place(kind, name, subresource), manager);
  }

  place(kind: ResourceKind, { namespace, name }: ObjectName, subresource = ''): Place {
    const known = this.#kinds.find(({ kind: one }) => one.group === kind.group && one.plural === kind.plural);
    if (known === undefined) throw new Error(`no kind ${kind.plural}`);
    return { known, namespace, name, subresource };
  }

  api(caller: Caller, onCommit: (verb: string) => void = () => undefined): KubeApi {
    return new MemoryApi(this, this.#scheduler, caller, onCommit);
  }
}

export class MemoryHand {
  readonly #objects: Objects;
  readonly #place: (kind: ResourceKind, name: ObjectName, subresource?: string) => Place;
  readonly #manager: string;
  constructor(
    objects: Objects,
    place: (kind: ResourceKind, name: ObjectName, subresource?: string) => Place,
    manager: string,
  ) {
    this.#objects = objects;
    this.#place = place;
    this.#manager = manager;
  }
  create<T extends KubeObject>(kind: ResourceKind, object: T): T {
    return this.#objects.create(this.#at(kind, object), object, this.#writer('')).object as T;
  }
  get<T extends KubeObject>(kind: ResourceKind, name: ObjectName): T {
    return this.#objects.get(this.#place(kind, name)) as T;
  }
  replace<T extends KubeObject>(kind: ResourceKind, object: T, subresource = ''): T {
    return this.#objects.replace(this.#at(kind, object, subresource), object, this.#writer(subresource)).object as T;
  }
  patch(kind: ResourceKind, name: ObjectName, patch: Record<string, unknown>): KubeObject {
    return this.#objects.patch(this.#place(kind, name), patch, this.#writer('')).object;
  }
  apply<T extends KubeObject>(
    kind: ResourceKind,
    object: T,
    force: boolean,
    subresource = '',
  ): { readonly object: T; readonly code: number } {
    const stored = this.#objects.apply(this.#at(kind, object, subresource), object, this.#writer(subresource), force);
    return { object: stored.object as T, code: stored.code };
  }
  delete(kind: ResourceKind, name: ObjectName, options: Record<string, unknown> = {}): KubeObject | null {
    return this.#objects.delete(this.#place(kind, name), options);
  }
  #at(kind: ResourceKind, { metadata }: KubeObject, subresource = ''): Place {
    return this.#place(kind, { namespace: metadata.namespace ?? '', name: metadata.name }, subresource);
  }
  #writer(subresource: string): { manager: string; subresource: string; time: string } {
    return { manager: this.#manager, subresource, time: new Date(0).toISOString() };
  }
}

class MemoryApi implements KubeApi {
  readonly #kube: MemoryKube;
  readonly #scheduler: Scheduler;
  readonly #caller: Caller;
  readonly #onCommit: (verb: string) => void;
  readonly #hand: MemoryHand;

  constructor(kube: MemoryKube, scheduler: Scheduler, caller: Caller, onCommit: (verb: string) => void) {
    this.#kube = kube;
    this.#scheduler = scheduler;
    this.#caller = caller;
    this.#onCommit = onCommit;
    this.#hand = kube.by(FIELD_MANAGER);
  }

  get<T extends KubeObject>(kind: ResourceKind, name: ObjectName, options: CallOptions = {}): Promise<KubeResult<T>> {
    return this.#travel('get', options, () => this.#hand.get<T>(kind, name));
  }

  list<T extends KubeObject>(
    kind: ResourceKind,
    scope: Scope,
    options: CallOptions = {},
  ): Promise<KubeResult<ListPage<T>>> {
    return this.#travel('list', options, () => {
      const place = this.#kube.place(kind, { namespace: scope.namespace ?? '', name: '' });
      const { items, metadata } = listPage(this.#kube.storage, place, new URLSearchParams()) as {
        items: T[];
        metadata: { resourceVersion: string };
      };
      return { items, resourceVersion: metadata.resourceVersion, continueToken: '' };
    });
  }

  watch(): Promise<never> {
    throw new Error('watches are tested with real connections');
  }

  apply<T extends KubeObject>(
    kind: ResourceKind,
    object: T,
    options: ApplyOptions = {},
  ): Promise<KubeResult<Applied<T>>> {
    return this.#travel('apply', options, () => {
      const applied = this.#hand.apply(kind, object, options.force ?? false, options.subresource);
      return { object: applied.object, isCreated: applied.code === 201 };
    });
  }

  create<T extends KubeObject>(kind: ResourceKind, object: T, options: CallOptions = {}): Promise<KubeResult<T>> {
    return this.#travel('create', options, () => this.#hand.create(kind, object));
  }

  replace<T extends KubeObject>(
    kind: ResourceKind,
    object: T,
    options: CallOptions & { readonly subresource?: 'status' } = {},
  ): Promise<KubeResult<T>> {
    return this.#travel('replace', options, () => this.#hand.replace(kind, object, options.subresource));
  }

  patch<T extends KubeObject>(
    kind: ResourceKind,
    name: ObjectName,
    patch: Readonly<Record<string, unknown>>,
    options: CallOptions & { readonly subresource?: Subresource } = {},
  ): Promise<KubeResult<T>> {
    return this.#travel('patch', options, () => this.#hand.patch(kind, name, patch) as T);
  }

  delete(kind: ResourceKind, name: ObjectName, options: CallOptions = {}): Promise<KubeResult<'gone' | 'terminating'>> {
    return this.#travel('delete', options, () => (this.#hand.delete(kind, name) === null ? 'gone' : 'terminating'));
  }

  /** There, done, and back; or our own deadline first. Sent only while it may be, as `client.ts` does. */
  #travel<T>(
    verb: string,
    { deadlineMs = 30_000, notAfterMs = Number.POSITIVE_INFINITY }: CallOptions,
    act: () => T,
  ): Promise<KubeResult<T>> {
    const { clock, journey, deliver } = this.#caller;
    const { thereMs, backMs } = journey();
    const leftMs = Math.min(deadlineMs, notAfterMs - clock.monotonicMs());
    if (leftMs <= 0) return Promise.resolve(fail({ kind: 'fenced', code: 0, message: 'too late' }));
    return new Promise((resolve) => {
      const timer = clock.setTimer(leftMs, () =>
        resolve(fail({ kind: 'deadline', perhapsDone: true, code: 0, message: 'no answer' })),
      );
      if (thereMs === null) return;
      this.#scheduler.schedule(thereMs, () => {
        const result = this.#act(verb, act);
        if (backMs === null) return;
        this.#scheduler.schedule(backMs, () =>
          deliver(() => {
            timer.cancel();
            resolve(result);
          }),
        );
      });
    });
  }

  #act<T>(verb: string, act: () => T): KubeResult<T> {
    try {
      const value = act();
      this.#onCommit(verb);
      return succeed(structuredClone(value));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return fail(failureOf(error.code, error.status(), null));
    }
  }
}
