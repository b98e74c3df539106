/**
 * Field readers for decoded JSON. Owns: the limits of primitive values on the wire. Each takes an unknown value and the name of the
 * field and returns the typed value or throws `PeerProtocolError`. Hand-written because they run for every frame of every message.
 */
import type { CopyId, Epoch, Identity, Reply } from '../message.ts';

/** The other side broke the protocol; the session closes the connection with this message. `field` names what was wrong. */
export class PeerProtocolError extends Error {
  readonly code = 'PEER_PROTOCOL';
  readonly field: string;
  readonly problem: string;
  constructor(field: string, problem: string) {
    super(`${field}: ${problem}`);
    this.name = 'PeerProtocolError';
    this.field = field;
    this.problem = problem;
  }
}

export type Fields = Readonly<Record<string, unknown>>;

export const MAX_LIST_ITEMS = 10_000;
export const MAX_NAME_LENGTH = 253;
export const MAX_TEXT_LENGTH = 4_096;

const fail = (field: string, problem: string): never => {
  throw new PeerProtocolError(field, problem);
};

export function object(value: unknown, field: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return fail(field, 'must be an object');
  return value as Fields;
}

export function list<T>(value: unknown, field: string, max: number, read: (item: unknown, field: string) => T): T[] {
  if (!Array.isArray(value)) return fail(field, 'must be a list');
  if (value.length > max) return fail(field, `must have at most ${max} items`);
  const out: T[] = [];
  for (const item of value) out.push(read(item, field));
  return out;
}

export function nullable<T>(value: unknown, field: string, read: (value: unknown, field: string) => T): T | null {
  return value === null ? null : read(value, field);
}

export function boolean(value: unknown, field: string): boolean {
  if (typeof value !== 'boolean') return fail(field, 'must be true or false');
  return value;
}

export function integer(value: unknown, field: string, min = 0, max = Number.MAX_SAFE_INTEGER): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    return fail(field, `must be an integer from ${min} to ${max}`);
  }
  return value;
}

/** A time or span in milliseconds; fractions allowed. */
export function milliseconds(value: unknown, field: string): number {
  if (typeof value !== 'number' || !(value >= 0 && value <= Number.MAX_SAFE_INTEGER)) {
    return fail(field, 'must be a number of milliseconds from 0');
  }
  return value;
}

export function oneOf<const T extends string>(allowed: readonly T[], value: unknown, field: string): T {
  for (const candidate of allowed) if (candidate === value) return candidate;
  return fail(field, `must be one of ${allowed.join(', ')}`);
}

/** Text for foreign protocols. No control characters: nothing a peer sends can end a line in SMTP, LMTP or a log. */
export function text(value: unknown, field: string, maxLength = MAX_TEXT_LENGTH): string {
  if (typeof value !== 'string') return fail(field, 'must be a string');
  if (value.length > maxLength) return fail(field, `must have at most ${maxLength} characters`);
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i);
    if ((code < 32 && code !== 9) || code === 127) return fail(field, 'must not contain control characters');
  }
  return value;
}

/**
 * Text that people read (replies of a next hop, reasons). A sender cannot know what a foreign server put in it, so it never closes a
 * connection: control characters become spaces and what is too long is cut.
 */
export function prose(value: unknown, field: string): string {
  if (typeof value !== 'string') return fail(field, 'must be a string');
  const cut = value.length > MAX_TEXT_LENGTH ? value.slice(0, MAX_TEXT_LENGTH) : value;
  for (let i = 0; i < cut.length; i++) {
    const code = cut.charCodeAt(i);
    if (code < 32 || code === 127) return cut.replace(/\p{Cc}/gu, ' ');
  }
  return cut;
}

/** Text with at least one character. */
export function name(value: unknown, field: string): string {
  const result = text(value, field, MAX_NAME_LENGTH);
  return result.length === 0 ? fail(field, 'must not be empty') : result;
}

/** Letters, digits, `-` and `_`: safe in file names and in log queries. */
function token(value: unknown, field: string, minLength: number): string {
  if (typeof value !== 'string') return fail(field, 'must be a string');
  if (value.length < minLength || value.length > 64) return fail(field, `must have ${minLength} to 64 characters`);
  for (let i = 0; i < value.length; i++) {
    const c = value.charCodeAt(i);
    const ok = (c >= 48 && c <= 57) || (c >= 65 && c <= 90) || (c >= 97 && c <= 122) || c === 45 || c === 95;
    if (!ok) return fail(field, 'must consist of letters, digits, - and _');
  }
  return value;
}

export const copyId = (value: unknown, field: string): CopyId => token(value, field, 1) as CopyId;
export const identity = (value: unknown, field: string): Identity => token(value, field, 1) as Identity;
export const nonce = (value: unknown, field: string): string => token(value, field, 1);

/** SHA-256 in lower-case hex. */
export function digest(value: unknown, field: string): string {
  if (typeof value !== 'string' || value.length !== 64) return fail(field, 'must be 64 hex digits');
  for (let i = 0; i < 64; i++) {
    const c = value.charCodeAt(i);
    if (!((c >= 48 && c <= 57) || (c >= 97 && c <= 102))) return fail(field, 'must be 64 hex digits');
  }
  return value;
}

export function epoch(value: unknown, field: string): Epoch {
  const o = object(value, field);
  return {
    try: integer(o.try, 'epoch.try'),
    term: integer(o.term, 'epoch.term'),
    owner: identity(o.owner, 'epoch.owner'),
  };
}

/** OPEN of kind intake: the owner may be left empty, the receiver fills itself in. */
export function intakeEpoch(value: unknown, field: string): Epoch {
  const o = object(value, field);
  return {
    try: integer(o.try, 'epoch.try'),
    term: integer(o.term, 'epoch.term'),
    owner: token(o.owner, 'epoch.owner', 0) as Identity,
  };
}

export function reply(value: unknown, field: string): Reply {
  const o = object(value, field);
  return {
    code: integer(o.code, 'reply.code', 200, 599),
    enhanced: text(o.enhanced, 'reply.enhanced', 16),
    text: prose(o.text, 'reply.text'),
  };
}
