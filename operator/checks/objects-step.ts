/**
 * Objects as they should be against objects as they are. Owns: create, change, put back, leave alone, delete what is wanted no more. Promise: what is
 * as wanted is not written; what somebody edited or deleted is put back, with an event; what somebody else made is refused, not taken
 * (kubernetes.md K1). PURE.
 */
import type { Action, PlannedEvent } from '../actions.ts';
import { isAsWanted, stamped, wasEdited } from '../resources/compare.ts';
import { LABEL, named, type Owner } from '../resources/names.ts';
import { isControlledBy, type KubeObject, keyOf, refOf } from '../resources/objects.ts';
import { act, event, type Finding, refuse } from './finding.ts';
import { isForeign, type Situation } from './situation.ts';

const nameOf = ({ kind, metadata }: KubeObject): string => `${kind} ${metadata.name}`;
const keyFor = ({ kind, metadata }: KubeObject): string => keyOf({ kind, name: metadata.name });

/** The cluster was complete under this very spec: what is missing now was deleted by somebody. */
function wasThere({ gathered }: Situation): boolean {
  const { status, metadata } = gathered.cluster;
  const progressing = status?.conditions?.find(({ type }) => type === 'Progressing');
  return progressing?.reason === 'Converged' && status?.observedGeneration === metadata.generation;
}

export function ensure(situation: Situation, wanted: readonly KubeObject[]): readonly Finding[] {
  return wanted.map(stamped).flatMap((one) => ensureOne(situation, one));
}

function ensureOne(situation: Situation, wanted: KubeObject): readonly Finding[] {
  const found = situation.objects.get(keyFor(wanted));
  if (found === undefined) {
    const message = `${nameOf(wanted)} was deleted by somebody else and is made again`;
    const events = wasThere(situation) ? [event('Warning', 'PutBack', message, refOf(wanted))] : [];
    return [apply(wanted, 'create', events)];
  }
  if (isForeign(found, situation.owner)) {
    const message = `${nameOf(found)} is there and not ours: remove it, or give it to us with the annotation mailcluster.dev/adopt: "true"`;
    return [refuse('ForeignObject', message, { condition: 'Progressing' })];
  }
  // It ends by itself; a new one is made when it is gone.
  if (found.metadata.deletionTimestamp !== undefined || isAsWanted(wanted, found)) return [];
  if (!wasEdited(wanted, found)) return [apply(wanted, 'change', [])];
  const message = `${nameOf(found)} was changed by somebody else and is put back`;
  return [apply(wanted, 'putBack', [event('Warning', 'PutBack', message, refOf(found))])];
}

function apply(object: KubeObject, why: 'create' | 'change' | 'putBack', events: readonly PlannedEvent[]): Finding {
  const reason = why === 'putBack' ? 'PutBack' : 'WaitingForController';
  return act(reason, `${why} ${nameOf(object)}`, { actions: [{ kind: 'apply', object, why }], events });
}

/** Ours by ownership, and no part of what is wanted. */
export function obsolete(situation: Situation, wanted: readonly KubeObject[]): readonly Finding[] {
  const { owner, objects } = situation;
  const keep = new Set([...wanted.map(keyFor), ...neverObsolete(owner)]);
  return (
    [...objects.values()]
      .filter((one) => isControlledBy(one, owner.uid) && !keep.has(keyFor(one)))
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined && metadata.uid !== undefined)
      // Never together with its pods: only members that were proved empty may end (semantics.md S13).
      .filter((one) => one.kind !== 'StatefulSet' || !hasPods(situation, one.metadata.name))
      .map((one) => {
        const remove: Action = {
          kind: 'delete',
          target: refOf(one),
          uid: one.metadata.uid ?? '',
          orphan: false,
          why: 'Removed',
        };
        return act('Removed', `${nameOf(one)} is wanted no more`, { actions: [remove] });
      })
  );
}

const hasPods = ({ gathered }: Situation, group: string): boolean =>
  gathered.pods.some(({ metadata }) => metadata.labels?.[LABEL.group] === group);

/** Made once and kept: deleting an authority would cut every pod off. */
function neverObsolete(owner: Owner): readonly string[] {
  return [
    keyOf({ kind: 'ConfigMap', name: named.topology(owner.name) }),
    keyOf({ kind: 'ConfigMap', name: named.topologyBackup(owner.name) }),
    keyOf({ kind: 'Secret', name: named.authority(owner.name) }),
    keyOf({ kind: 'Secret', name: named.redis(owner.name) }),
  ];
}
