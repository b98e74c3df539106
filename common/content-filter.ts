/**
 * Header fields that a content filter added to a message, as they travel with it: one event each, so that both copies have them for good and whoever delivers writes them, like the
 * results of authentication. Owns: the name of the event, what is in its detail, and which fields may be: what would end a field or begin another one is none, neither from a filter nor
 * from a peer. PURE.
 */
import type { TrackingEvent } from './peer/messages.ts';

export const CONTENT_FILTER = 'CONTENT-FILTER';

/** `value` is what follows the colon, white space included; lines of it end in `\n`. Its bytes matter: a signature may be about them. */
export interface FilterField {
  readonly name: string;
  readonly value: string;
}

/** Of one message. */
export const MAX_FILTER_FIELDS = 24;
/** Of one detail: it is cut at 4,096 characters, and half a field must not come of it. */
const MAX_DETAIL_LENGTH = 3_500;
/** Of all of them together. */
export const MAX_FILTER_FIELDS_LENGTH = 16_384;
/** RFC 5322 2.1.1. */
const MAX_LINE_LENGTH = 998;

/** What is not printable is escaped: a detail is one line of text. */
export const detailOf = ({ name, value }: FilterField): string =>
  JSON.stringify([name, value]).replace(
    /[^\x20-\x7e]/g,
    (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );

/** In their order; what cannot be one is left out. */
export const filterFieldsOf = (events: readonly TrackingEvent[]): readonly FilterField[] =>
  events.flatMap(({ event, detail }) => (event === CONTENT_FILTER && detail !== undefined ? parsed(detail) : []));

function parsed(detail: string): readonly FilterField[] {
  try {
    const [name, value]: unknown[] = JSON.parse(detail);
    if (typeof name !== 'string' || typeof value !== 'string') return [];
    return problemOf({ name, value }) === null ? [{ name, value }] : [];
  } catch {
    return [];
  }
}

/** Why a message cannot have this field; null: it can. */
export function problemOf(field: FilterField): string | null {
  const { name, value } = field;
  if (!/^[\x21-\x39\x3b-\x7e]{1,200}$/.test(name)) return 'its name is none of a header field (RFC 5322 2.2)';
  if (/^x-mailcluster-/i.test(name)) return 'its name is one of our own';
  if (!/^[\t\n\x20-\x7e]*$/.test(value)) return 'it has control characters or others outside of ASCII';
  const lines = `${name}:${value}`.split('\n');
  if (lines.slice(1).some((line) => !/^[\t ]+[^\t ]/.test(line)))
    return 'a line of it does not go on with the one before';
  if (lines.some(({ length }) => length > MAX_LINE_LENGTH))
    return `a line of it is longer than ${MAX_LINE_LENGTH} characters`;
  return detailOf(field).length > MAX_DETAIL_LENGTH ? `it is longer than ${MAX_DETAIL_LENGTH} characters` : null;
}

/** Each ends in CRLF. */
export const writtenFields = (fields: readonly FilterField[]): string =>
  fields.map(({ name, value }) => `${name}:${value.replaceAll('\n', '\r\n')}\r\n`).join('');
