/**
 * Properties of the plan over generated histories: whatever was changed, broken or interrupted, the operator comes to rest in a bounded number of
 * looks and then writes nothing (semantics.md L10), and no member with obligations is ever removed without the word of a person (S13; the
 * model throws). Owns: the histories.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { plan } from '../../operator/plan.ts';
import { ANNOTATION, claimName } from '../../operator/resources/names.ts';
import { ClusterModel } from './cluster-model.ts';
import { DATABASE } from './cluster-state.ts';
import { converge, running, sized } from './operator-rig.ts';

type Act =
  | { readonly kind: 'resize'; readonly seattle: number; readonly portland: number }
  | { readonly kind: 'mail'; readonly member: number; readonly copies: number; readonly unprotected: number | null }
  | { readonly kind: 'killPod' | 'cutOff' | 'loseVolume' | 'breakPod' | 'force'; readonly member: number }
  | { readonly kind: 'heal' | 'taint' | 'image' | 'failover' }
  | { readonly kind: 'deleteObject' | 'editObject'; readonly object: number }
  /** The operator looks, and dies after so many actions. */
  | { readonly kind: 'look'; readonly limit: number; readonly seconds: number };

const member = fc.nat(9);
const replicas = fc.integer({ min: 2, max: 4 });
const anAct: fc.Arbitrary<Act> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant('look' as const),
      limit: fc.oneof(fc.nat(6), fc.constant(99)),
      seconds: fc.integer({ min: 1, max: 40 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('resize' as const), seattle: replicas, portland: replicas }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('mail' as const),
      member,
      copies: fc.nat(20),
      unprotected: fc.constantFrom(0, 0, 2, null),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom('killPod' as const, 'cutOff' as const, 'loseVolume' as const, 'breakPod' as const),
      member,
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('force' as const), member }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom('heal' as const, 'taint' as const, 'image' as const, 'failover' as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constantFrom('deleteObject' as const, 'editObject' as const), object: fc.nat(40) }),
  },
);

const pick = <T>(list: readonly T[], index: number): T | undefined => list[index % Math.max(1, list.length)];

function heal(model: ClusterModel): void {
  model.untaint();
  model.cutOff.clear();
  model.broken.clear();
  for (const store of model.stores.values()) store.unprotected = 0;
}

/** A cluster that has run for a while: everybody has something to lose. */
function busy(): ClusterModel {
  const model = running(sized(3, 3));
  for (const name of model.memberNames) Object.assign(model.member(name), { copies: 5, safetyNet: 3, tombstones: 1 });
  return model;
}

/** What people, machines and chance do to one member. */
function toMember(model: ClusterModel, kind: Act['kind'], name: string): void {
  switch (kind) {
    case 'killPod':
      model.pods.delete(name);
      return;
    case 'cutOff':
      model.cutOff.set(name, model.nowMs);
      return;
    case 'loseVolume':
      model.loseVolume(name);
      return;
    case 'breakPod':
      model.broken.set(name, 'CrashLoopBackOff');
      return;
    case 'force':
      model.forced.add(name);
      model.annotations[ANNOTATION.forceRemove] = name;
      return;
  }
}

function toObject(model: ClusterModel, kind: 'deleteObject' | 'editObject', index: number): void {
  const key = pick([...model.objects.keys()].sort(), index);
  const object = key === undefined ? undefined : model.objects.get(key);
  // Deleting what runs pods is deleting the pods; that is killPod.
  if (key === undefined || object === undefined || object.kind === 'Secret' || object.kind === 'StatefulSet') return;
  if (kind === 'deleteObject') model.objects.delete(key);
  else if (object.spec !== undefined)
    model.objects.set(key, { ...object, spec: { ...(object.spec as object), edited: true, selector: {} } });
}

function perform(model: ClusterModel, act: Act): void {
  switch (act.kind) {
    case 'look':
      model.carryOut(plan(model.gather()), act.limit);
      return model.settle(act.seconds);
    case 'resize':
      return model.change(sized(act.seattle, act.portland), { db01: DATABASE });
    case 'mail': {
      const name = pick(model.memberNames, act.member);
      const store = model.stores.get(model.claims.get(claimName(name ?? ''))?.metadata.uid ?? '');
      const state = model.document?.members.find((one) => one.name === name)?.state;
      // Who is leaving takes nothing new (protocol.md 16).
      if (store !== undefined && state === 'active' && !store.latched)
        Object.assign(store, { copies: act.copies, unprotected: act.unprotected });
      return;
    }
    case 'heal':
      return heal(model);
    case 'taint':
      return model.taint('node-a1');
    case 'image':
      model.operator = { ...model.operator, image: `mailcluster:${model.nowMs}` };
      return;
    case 'failover': {
      const active = model.databases[0]?.spec.activeCopy === 'sea' ? 'pdx' : 'sea';
      return model.change(sized(2, 2), { db01: DATABASE.replace('activeCopy: sea', `activeCopy: ${active}`) });
    }
    case 'deleteObject':
    case 'editObject':
      return toObject(model, act.kind, act.object);
    default: {
      const name = pick(model.memberNames, act.member);
      if (name !== undefined) toMember(model, act.kind, name);
    }
  }
}

describe('from any history', () => {
  it('the plan comes to rest, has what the spec says, and removed nobody who had obligations', () => {
    fc.assert(
      fc.property(fc.boolean(), fc.array(anAct, { minLength: 1, maxLength: 25 }), (isOld, acts) => {
        const model = isOld ? busy() : new ClusterModel(sized(2, 3), { db01: DATABASE });
        for (const act of acts) perform(model, act);
        heal(model);
        delete model.annotations[ANNOTATION.forceRemove];
        converge(model);
        const again = plan(model.gather());
        expect(again.actions).toEqual([]);
        expect(again.status).toBeNull();
        const wanted = model.spec.spec.dags
          .flatMap(({ members }) => members.map((one) => one.replicas))
          .reduce((a, b) => a + b, 0);
        expect(model.memberNames).toHaveLength(wanted);
        expect(model.document?.members.every(({ state }) => state === 'active')).toBe(true);
        expect(model.condition('Ready')).toMatchObject({ status: 'True' });
      }),
      { numRuns: 60, seed: 20260102, endOnFailure: false },
    );
  }, 240_000);
});
