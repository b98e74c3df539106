/**
 * StatefulSets: as other objects, and where a field cannot be changed the set is made anew around its pods (orphan delete and create adopts them
 * without a restart: kubernetes.md section 2). Owns: that. Promise: a claim is enlarged before its template is; the pods stay. PURE.
 */
import { covers } from '../resources/compare.ts';
import { type KubeObject, keyOf, refOf } from '../resources/objects.ts';
import { act, event, type Finding, wait } from './finding.ts';
import { ensure } from './objects-step.ts';
import { isForeign, type Situation } from './situation.ts';
import type { Wanted } from './wanted.ts';

const IMMUTABLE = ['serviceName', 'podManagementPolicy', 'selector', 'volumeClaimTemplates'] as const;

export function setsStep(situation: Situation, sets: Wanted['sets']): readonly Finding[] {
  return sets.flatMap(({ object }) => {
    const found = situation.objects.get(keyOf({ kind: 'StatefulSet', name: object.metadata.name }));
    if (found === undefined || isForeign(found, situation.owner)) return ensure(situation, [object]);
    if (found.metadata.deletionTimestamp !== undefined)
      return [wait('Recreating', `StatefulSet ${object.metadata.name} is about to be made anew`)];
    const field = IMMUTABLE.find((name) => !covers(specOf(object)[name], specOf(found)[name]));
    return field === undefined ? ensure(situation, [object]) : [recreate(found, field)];
  });
}

const specOf = ({ spec }: KubeObject): Readonly<Record<string, unknown>> =>
  (spec ?? {}) as Readonly<Record<string, unknown>>;

function recreate(found: KubeObject, field: string): Finding {
  const message = `StatefulSet ${found.metadata.name} is made anew, because ${field} cannot be changed; its pods stay`;
  return act('Recreating', message, {
    actions: [{ kind: 'delete', target: refOf(found), uid: found.metadata.uid ?? '', orphan: true, why: 'Recreating' }],
    events: [event('Normal', 'Recreating', message)],
  });
}
