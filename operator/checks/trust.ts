/**
 * Which authorities pods trust, while one replaces another (docs/internals.md). Owns: that the bundle of now is pushed, and who has said that it uses it.
 * Promise: nobody is told to go on before every pod that runs has said so for this very bundle; a pod that says nothing for two minutes
 * after it was pointed to it - an earlier version does not say it - holds nothing up any more, and is named. PURE.
 */
import { trustOf } from '../../common/trust.ts';
import type { Action } from '../actions.ts';
import { ANNOTATION, LABEL, named } from '../resources/names.ts';
import type { PodObject } from '../resources/objects.ts';
import { act, type Finding, LATER_MS, SOON_MS, wait } from './finding.ts';
import type { Situation } from './situation.ts';

/** A mounted file that nobody pushed changes after 76 s at most (measured). */
const PATIENCE_MS = 120_000;

/** The certificates of the bundle of now, where they are more than one for a while; null: nothing is being replaced. */
function replacing({ gathered }: Situation): string | null {
  const { authority } = gathered;
  if (authority.kind !== 'present') return null;
  const { trustPem } = authority.view;
  return (trustPem.match(/BEGIN CERTIFICATE/g) ?? []).length < 2 ? null : trustOf(trustPem);
}

const ours = ({ gathered }: Situation): readonly PodObject[] =>
  gathered.pods
    .filter(({ metadata }) => ['transport', 'frontend'].includes(metadata.labels?.[LABEL.role] ?? ''))
    .filter(({ metadata }) => metadata.deletionTimestamp === undefined && metadata.uid !== undefined);

/** Bundle, and when the pod was pointed to it; null: never. */
function pushedTo({ metadata }: PodObject): { readonly trust: string; readonly atMs: number } | null {
  const [trust = '', at = ''] = (metadata.annotations?.[ANNOTATION.trust] ?? '').split(' ');
  return trust === '' ? null : { trust, atMs: Date.parse(at) || 0 };
}

export function pushTrust(situation: Situation): readonly Finding[] {
  const trust = replacing(situation);
  if (trust === null) return [];
  const value = `${trust} ${new Date(situation.gathered.nowMs).toISOString()}`;
  const actions = ours(situation)
    .filter((pod) => pushedTo(pod)?.trust !== trust)
    .map(({ metadata }): Action => {
      const target = { apiVersion: 'v1', kind: 'Pod', name: metadata.name };
      return { kind: 'annotate', target, uid: metadata.uid ?? '', annotations: { [ANNOTATION.trust]: value } };
    });
  if (actions.length === 0) return [];
  return [act('TrustNotAcknowledged', `the authorities to trust are pushed to ${actions.length} pods`, { actions })];
}

interface Unsaid {
  readonly waiting: readonly string[];
  /** Said nothing in all that time. */
  readonly silent: readonly string[];
}

/** Of pods that run; one that starts later finds the bundle of now. */
function unsaid(situation: Situation, trust: string): Unsaid {
  const open = ours(situation).filter(
    ({ metadata, status }) => status?.phase === 'Running' && metadata.annotations?.[ANNOTATION.trusts] !== trust,
  );
  const isSilent = (pod: PodObject): boolean => {
    const pushed = pushedTo(pod);
    return pushed?.trust === trust && situation.gathered.nowMs - pushed.atMs >= PATIENCE_MS;
  };
  const names = (pods: readonly PodObject[]): readonly string[] => pods.map(({ metadata }) => metadata.name).sort();
  return { waiting: names(open.filter((pod) => !isSilent(pod))), silent: names(open.filter(isSilent)) };
}

export function trusted(situation: Situation): readonly Finding[] {
  const trust = replacing(situation);
  if (trust === null) return [];
  const { waiting, silent } = unsaid(situation, trust);
  const secret = named.authority(situation.owner.name);
  if (waiting.length > 0) {
    const message = `${waiting.join(', ')} have not said yet that they trust both authorities of Secret ${secret} (${trust}): change nothing there before`;
    return [wait('TrustNotAcknowledged', message, { condition: 'CertificatesValid', afterMs: SOON_MS })];
  }
  if (silent.length === 0) return [];
  return [wait('TrustNotAcknowledged', silence(silent), { afterMs: LATER_MS })];
}

const silence = (silent: readonly string[]): string =>
  `${silent.join(', ')} did not say within two minutes that they trust both authorities: they are away, or of an earlier version, which does not say it`;

/** For the condition, when nothing is wrong. */
export function trustText(situation: Situation): string {
  const trust = replacing(situation);
  if (trust === null) return '';
  const { silent } = unsaid(situation, trust);
  return silent.length === 0 ? `; every pod trusts both authorities (${trust})` : `; ${silence(silent)}`;
}
