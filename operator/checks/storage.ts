/**
 * Volumes of the members: growing them (kubernetes.md K5), and what is wrong with them. Owns: which size the StatefulSets may ask for. Promise: claims
 * are only ever enlarged, online, where their class allows it; a size that cannot be had changes nothing and is said; a claim goes only when it never had a
 * volume. PURE.
 */
import { sizeBytes } from '../resource/quantity.ts';
import { quantity } from '../resources/compare.ts';
import type { ClaimObject, StatefulSetObject } from '../resources/objects.ts';
import { act, event, type Finding, refuse, wait } from './finding.ts';
import { object, type Situation } from './situation.ts';

export interface Storage {
  /** For claim templates. */
  readonly size: string;
  readonly findings: readonly Finding[];
}

const requested = (claim: ClaimObject | undefined): number | null =>
  quantity(claim?.spec?.resources?.requests?.storage ?? null);

function sizeInSets({ objects, groups }: Situation): string | null {
  const sizes = groups.flatMap(({ name }) => {
    const [template] = object<StatefulSetObject>(objects, 'StatefulSet', name)?.spec?.volumeClaimTemplates ?? [];
    return (template as ClaimObject | undefined)?.spec?.resources?.requests?.storage ?? [];
  });
  return sizes.sort((a, b) => (quantity(b) ?? 0) - (quantity(a) ?? 0))[0] ?? null;
}

export function effectiveStorage(situation: Situation): Storage {
  const { size } = situation.cluster.spec.transport.storage;
  const former = sizeInSets(situation);
  const claims = situation.members.flatMap(({ claim }) => claim ?? []);
  const condition = 'StorageHealthy';
  const lost = claims
    .filter(({ status }) => status?.phase === 'Lost')
    .map(({ metadata }) => refuse('ClaimLost', `claim ${metadata.name} lost its volume`, { condition }));
  if (former !== null && (quantity(former) ?? 0) > sizeBytes(size)) {
    const message = `storage.size ${size} is less than ${former}: volumes cannot shrink; write ${former} or more`;
    return { size: former, findings: [...lost, refuse('ShrinkRefused', message, { condition })] };
  }
  const small = claims.filter((claim) => (requested(claim) ?? sizeBytes(size)) < sizeBytes(size));
  const stuck = small.find((claim) => !mayGrow(situation, claim));
  if (stuck !== undefined) {
    const name = stuck.spec?.storageClassName ?? '(none)';
    const message = `claim ${stuck.metadata.name} cannot grow to ${size}: storage class ${name} does not allow volume expansion; allow it there (allowVolumeExpansion: true)`;
    return { size: former ?? size, findings: [...lost, refuse('ExpansionNotAllowed', message, { condition })] };
  }
  const findings = [...lost, ...misplaced(situation), ...small.map((claim) => grow(claim, size))];
  return { size, findings: [...findings, ...growing(claims)] };
}

/**
 * Claims that asked for another class than is wanted now, and never got a volume: nothing was ever on them. A claim cannot be changed there, so it goes, and the
 * StatefulSet, made anew with the class of now, makes another.
 */
function misplaced({ cluster, members }: Situation): readonly Finding[] {
  const condition = 'StorageHealthy';
  const { storageClassName } = cluster.spec.transport.storage;
  if (storageClassName === undefined) return [];
  return members.flatMap(({ claim, former }) => {
    const { metadata, spec, status } = claim ?? {};
    const isEmpty = status?.phase === 'Pending' && spec?.volumeName === undefined && former?.identity === undefined;
    if (metadata === undefined || !isEmpty || spec?.storageClassName === storageClassName) return [];
    if (metadata.deletionTimestamp !== undefined)
      return [wait('ClaimDeleted', `claim ${metadata.name} is being deleted`, { condition })];
    const message = `claim ${metadata.name} never got a volume of storage class ${spec?.storageClassName ?? '(none)'} and is made anew with ${storageClassName}`;
    const claimRef = { apiVersion: 'v1', kind: 'PersistentVolumeClaim', name: metadata.name };
    return [
      act('ClaimDeleted', message, {
        condition,
        actions: [{ kind: 'deleteClaim', name: metadata.name, uid: metadata.uid ?? '', why: 'ClaimDeleted' }],
        events: [event('Normal', 'ClaimDeleted', message, claimRef)],
      }),
    ];
  });
}

function mayGrow({ gathered }: Situation, claim: ClaimObject): boolean {
  const { storageClassName } = claim.spec ?? {};
  return gathered.storageClasses.some(
    ({ metadata, allowVolumeExpansion }) => metadata.name === storageClassName && allowVolumeExpansion === true,
  );
}

function grow({ metadata }: ClaimObject, size: string): Finding {
  const message = `claim ${metadata.name} grows to ${size}`;
  return act('Resizing', message, {
    actions: [{ kind: 'resizeClaim', name: metadata.name, uid: metadata.uid ?? '', storage: size }],
    events: [event('Normal', 'Resizing', message)],
  });
}

function growing(claims: readonly ClaimObject[]): readonly Finding[] {
  return claims
    .filter((claim) => {
      const capacity = quantity(claim.status?.capacity?.storage ?? null);
      return capacity !== null && capacity < (requested(claim) ?? 0);
    })
    .map(({ metadata, status }) => {
      const why = status?.conditions?.map(({ type, message = '' }) => `${type} ${message}`.trim()).join('; ') ?? '';
      return wait('Resizing', `claim ${metadata.name} is growing${why === '' ? '' : `: ${why}`}`);
    });
}
