/**
 * An operator that lives until it has taken one step: between it and the API server stands this, lets one write through, and nothing after it - as if the
 * process had been killed in that moment. Owns: what counts as a step, and its name. Events, leases, statuses and reviews are none.
 */
import type { KubeApi } from '../../operator/kube/api.ts';
import { fail, type KubeResult } from '../../operator/kube/failures.ts';
import type { KubeObject as ApiObject, ResourceKind } from '../../operator/kube/kube-object.ts';
import { type Lease, releasedLease } from '../../operator/kube/lease-record.ts';
import type { ApiAccess } from '../cluster/api-access.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { list, type OperatorHandle, type OperatorPlace, pathOf, writesOf } from './operator-rig.ts';

export interface Step {
  readonly verb: 'apply' | 'create' | 'patch' | 'delete';
  readonly kind: string;
  readonly name: string;
  readonly body: KubeObject;
}

/** The name of a step for a table. */
export type NameOf = (step: Step) => string;

const NO_STEPS = new Set(['Event', 'Lease', 'TokenReview']);
const DEAD = fail({ kind: 'stopped', message: 'killed', code: 0 });

export class OneStep {
  readonly #nameOf: NameOf;
  readonly #isDeadly: boolean;
  readonly steps: string[] = [];
  #last = Promise.resolve();

  /** `isDeadly`: one step is all; else it only listens. */
  constructor(nameOf: NameOf, isDeadly = true) {
    this.#nameOf = nameOf;
    this.#isDeadly = isDeadly;
  }

  get #isDead(): boolean {
    return this.#isDeadly && this.steps.length > 0;
  }

  readonly through = (api: KubeApi): KubeApi => ({
    get: (kind, name, options) => this.#read(() => api.get(kind, name, options)),
    list: (kind, scope, options) => this.#read(() => api.list(kind, scope, options)),
    watch: (kind, scope, options) => this.#read(() => api.watch(kind, scope, options)),
    apply: (kind, object, options) =>
      this.#write(kind, object.metadata.name, 'apply', object, options?.subresource, () =>
        api.apply(kind, object, options),
      ),
    create: (kind, object, options) =>
      this.#write(kind, object.metadata.name, 'create', object, options?.subresource, () =>
        api.create(kind, object, options),
      ),
    replace: (kind, object, options) =>
      this.#write(kind, object.metadata.name, 'apply', object, options?.subresource, () =>
        api.replace(kind, object, options),
      ),
    patch: (kind, name, patch, options) =>
      this.#write(kind, name.name, 'patch', patch, options?.subresource, () => api.patch(kind, name, patch, options)),
    delete: (kind, name, options) =>
      this.#write(kind, name.name, 'delete', {}, undefined, () => api.delete(kind, name, options)),
  });

  #read<T>(call: () => Promise<KubeResult<T>>): Promise<KubeResult<T>> {
    return this.#isDead ? Promise.resolve(DEAD) : call();
  }

  async #write<T>(
    { kind }: ResourceKind,
    name: string,
    verb: Step['verb'],
    body: ApiObject | Readonly<Record<string, unknown>>,
    subresource: string | undefined,
    call: () => Promise<KubeResult<T>>,
  ): Promise<KubeResult<T>> {
    if (subresource !== undefined || NO_STEPS.has(kind)) return this.#isDead ? DEAD : await call();
    // One step at a time: what the operator says beside it is not sent before its answer is there, and then not at all.
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    await before;
    try {
      return this.#isDead ? DEAD : this.#stepped({ verb, kind, name, body: body as KubeObject }, await call());
    } finally {
      resolve();
    }
  }

  #stepped<T>(step: Step, result: KubeResult<T>): KubeResult<T> {
    if (!result.ok) return result;
    this.steps.push(this.#nameOf(step));
    return this.#isDeadly ? DEAD : result;
  }
}

export interface Procedure {
  readonly access: ApiAccess;
  readonly namespace: string;
  readonly nameOf: NameOf;
  startOperator(place: OperatorPlace): Promise<OperatorHandle>;
  /** Steps that follow what members answer, as often as need be. */
  readonly isAside: (step: string) => boolean;
  /** The end state is there. */
  isOver(): Promise<boolean>;
}

const STEP = { deadlineMs: 60_000, everyMs: 20 };
const MOST_STEPS = 80;

export interface End {
  /** `converged`: pods answer, so the status comes to say that all is well. `quiet`: fake pods never do; it has looked and written nothing. */
  readonly ends: 'converged' | 'quiet';
}

/** One operator after the other, each killed after its step, until it is over; then one that lives and has nothing left to do. Returns all steps. */
export async function killedAfterEachStep(
  procedure: Procedure,
  end: End = { ends: 'converged' },
): Promise<readonly string[]> {
  const { nameOf } = procedure;
  const steps: string[] = [];
  while (steps.length < MOST_STEPS) {
    const life = new OneStep(nameOf);
    const operator = await procedure.startOperator({ through: life.through });
    await until(
      `a step after ${steps.at(-1) ?? 'none'}`,
      async () => life.steps.length > 0 || (await procedure.isOver()),
      STEP,
    );
    await operator.stop();
    // Only now: the end state may be seen before its last step has its answer.
    const [step] = life.steps;
    if (step === undefined) {
      await nothingLeft(procedure, end);
      return steps;
    }
    steps.push(step);
    await freeLease(procedure);
  }
  throw new Error(`not over after ${MOST_STEPS} steps: ${steps.join(', ')}`);
}

/** As if it had run out: nobody waits for the dead one. */
async function freeLease({ access, namespace }: Procedure): Promise<void> {
  for (const lease of await list(access, namespace, 'leases')) {
    const body = releasedLease(lease as Lease, lease.spec.holderIdentity, Date.now());
    await access.client.must('PUT', pathOf(namespace, 'leases', lease.metadata.name), {
      // In a list objects do not say what they are.
      body: { ...body, apiVersion: 'coordination.k8s.io/v1', kind: 'Lease' },
    });
  }
}

async function nothingLeft(procedure: Procedure, { ends }: End): Promise<void> {
  const witness = new OneStep(procedure.nameOf, false);
  const operator = await procedure.startOperator({ through: witness.through });
  if (ends === 'quiet') await looked(procedure, operator);
  else await until('everything to be as the spec says', () => converged(procedure), STEP);
  await operator.stop();
  const left = witness.steps.filter((one) => !procedure.isAside(one));
  if (left.length > 0) throw new Error(`something was left to do: ${left.join(', ')}`);
}

/** It leads, and between two looks it wrote nothing; perhaps it has nothing to write at all. */
async function looked({ access, namespace }: Procedure, { userAgent }: OperatorHandle): Promise<void> {
  let before = -1;
  await until(
    'the operator to lead and to have nothing left to write',
    async () => {
      const [lease] = await list(access, namespace, 'leases');
      if ((lease?.spec.holderIdentity ?? '') === '') return false;
      const now = (await writesOf(access, namespace, userAgent)).length;
      const isQuiet = now === before;
      before = now;
      return isQuiet;
    },
    { ...STEP, everyMs: 4_000 },
  );
}

async function converged({ access, namespace }: Procedure): Promise<boolean> {
  const { status = {}, metadata } = await access.client.get(pathOf(namespace, 'mailclusters', 'contoso'));
  const found = ((status.conditions ?? []) as KubeObject[]).find(({ type }) => type === 'Progressing');
  if (found?.reason === 'Converged' && status.observedGeneration === metadata.generation) return true;
  throw new Error(JSON.stringify(found));
}
