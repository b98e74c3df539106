/**
 * Whether an object of the API server already is what we want. Owns: that judgement. Promise: true means that applying it would change nothing:
 * it carries the hash of exactly this wish, and every field of the wish is there with that value, so that what somebody edited is seen.
 * What others added is not looked at (server-side apply leaves it). Knows how the API server writes things: empty lists and objects
 * vanish, quantities are rewritten (Kubernetes API conventions, "Quantity"). PURE.
 */

import { ANNOTATION, hashOf } from './names.ts';
import type { KubeObject } from './objects.ts';

type Plain = Readonly<Record<string, unknown>>;

const isPlain = (value: unknown): value is Plain =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The wish, with its own hash on it. */
export function stamped<T extends KubeObject>(object: T): T {
  const { metadata } = object;
  const annotations = { ...metadata.annotations, [ANNOTATION.applied]: hashOf(object) };
  return { ...object, metadata: { ...metadata, annotations } };
}

export function isAsWanted(wanted: KubeObject, observed: KubeObject): boolean {
  const hash = wanted.metadata.annotations?.[ANNOTATION.applied];
  return observed.metadata.annotations?.[ANNOTATION.applied] === hash && covers(wanted, observed);
}

/** Somebody else changed it after us: it still says that it is what we want, and is not. */
export function wasEdited(wanted: KubeObject, observed: KubeObject): boolean {
  const hash = wanted.metadata.annotations?.[ANNOTATION.applied];
  return observed.metadata.annotations?.[ANNOTATION.applied] === hash && !covers(wanted, observed);
}

const isNothing = (value: unknown): boolean =>
  value === undefined ||
  value === null ||
  // Go leaves out what is false or empty where the field says omitempty (`readOnly: false`).
  value === false ||
  value === '' ||
  (Array.isArray(value) && value.length === 0) ||
  (isPlain(value) && Object.values(value).every(isNothing));

/** Every field of `wanted` is in `observed`. */
export function covers(wanted: unknown, observed: unknown): boolean {
  if (isNothing(wanted)) return observed === undefined || observed === null || isNothing(observed) || isPlain(observed);
  if (Array.isArray(wanted)) return Array.isArray(observed) && coversList(wanted, observed);
  if (isPlain(wanted)) {
    if (!isPlain(observed)) return false;
    return Object.entries(wanted).every(([key, value]) => covers(value, observed[key]));
  }
  return wanted === observed || sameQuantity(wanted, observed);
}

/** Lists of named things are maps to server-side apply; others are compared whole. */
function coversList(wanted: readonly unknown[], observed: readonly unknown[]): boolean {
  const nameOf = (one: unknown): unknown => (isPlain(one) ? one.name : undefined);
  if (wanted.every((one) => typeof nameOf(one) === 'string'))
    return wanted.every((one) =>
      covers(
        one,
        observed.find((other) => nameOf(other) === nameOf(one)),
      ),
    );
  return wanted.length === observed.length && wanted.every((one, index) => covers(one, observed[index]));
}

const SUFFIX: Readonly<Record<string, number>> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};

export function quantity(value: unknown): number | null {
  if (typeof value === 'number') return value;
  const match = typeof value === 'string' ? /^([0-9]+(?:\.[0-9]+)?)([numkMGTP]|[KMGTP]i)?$/.exec(value) : null;
  const scale = SUFFIX[match?.[2] ?? ''];
  return match === null || scale === undefined ? null : Number(match[1]) * scale;
}

function sameQuantity(a: unknown, b: unknown): boolean {
  const [left, right] = [quantity(a), quantity(b)];
  return left !== null && right !== null && Math.abs(left - right) <= 1e-9 * Math.max(1, Math.abs(left));
}
