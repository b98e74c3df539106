/**
 * The arguments of MAIL and RCPT: RFC 5321 4.1.2 and 4.1.3 (paths), RFC 6531 (SMTPUTF8), RFC 1870 (SIZE), RFC 6152 (BODY), RFC 3461
 * (RET, ENVID, NOTIFY, ORCPT), RFC 4954 (AUTH). Pure. Promise: an address is never altered - no case folding, no punycode, no xtext
 * decoding, no unquoting; only a source route in front of it is dropped, as RFC 5321 appendix C says. Refuses by naming the reply.
 * Lengths (4.5.3.1): path 256 and domain 255 octets for both; local part 64 for a recipient only, because a sender's longer
 * bounce address (VERP, SRS, forwarding services) is not ours to police.
 */
import { isIPv6 } from 'node:net';
import type { EnvelopeRecipient, Reply } from '../message.ts';
import type { MailFrom } from './edge-api.ts';
import { reply } from './replies.ts';

export type Parsed<Value> =
  | { readonly kind: 'ok'; readonly value: Value }
  | { readonly kind: 'refused'; readonly reply: Reply };

const refused = (said: Reply): { readonly kind: 'refused'; readonly reply: Reply } => ({
  kind: 'refused',
  reply: said,
});

const MAX_LOCAL_PART = 64;
const MAX_DOMAIN = 255;
const MAX_PATH = 256;
const MAX_LABEL = 63;

// UTF8-non-ascii of RFC 6531 3.3, without the C1 controls and the Unicode line separators that would break a header line.
const NON_ASCII = '\\u00a0-\\u2027\\u202a-\\u{10ffff}';
const DOT_STRING = new RegExp(
  `^[A-Za-z0-9!#$%&'*+\\-/=?^_\`{|}~${NON_ASCII}]+(?:\\.[A-Za-z0-9!#$%&'*+\\-/=?^_\`{|}~${NON_ASCII}]+)*$`,
  'u',
);
const QUOTED_STRING = new RegExp(`^"(?:[\\x20\\x21\\x23-\\x5b\\x5d-\\x7e${NON_ASCII}]|\\\\[\\x20-\\x7e])*"$`, 'u');
const LABEL = new RegExp(`^[A-Za-z0-9${NON_ASCII}](?:[A-Za-z0-9${NON_ASCII}-]*[A-Za-z0-9${NON_ASCII}])?$`, 'u');
const SNUM = '(?:\\d{1,2}|[01]\\d{2}|2[0-4]\\d|25[0-5])';
const IPV4_LITERAL = new RegExp(`^${SNUM}(?:\\.${SNUM}){3}$`);
const IPV6_LITERAL = /^IPv6:(.+)$/i;

// biome-ignore lint/suspicious/noControlCharactersInRegex: "is ASCII" is what is meant
const ASCII = /^[\x00-\x7f]*$/;
const isAscii = (text: string): boolean => ASCII.test(text);
const octets = (text: string): number => (isAscii(text) ? text.length : Buffer.byteLength(text));

/** Why the domain or address literal is wrong, or null. */
export function domainFault(domain: string): string | null {
  if (domain.startsWith('[')) {
    if (!domain.endsWith(']')) return 'address literal not closed';
    const literal = domain.slice(1, -1);
    if (IPV4_LITERAL.test(literal)) return null;
    const v6 = IPV6_LITERAL.exec(literal)?.[1];
    // RFC 5321 4.1.3: other tags must be standardized; only IPv6 is. A zone id has no meaning on another host.
    return v6 !== undefined && isIPv6(v6) && !v6.includes('%') ? null : 'bad address literal';
  }
  if (domain === '') return 'domain missing';
  if (octets(domain) > MAX_DOMAIN) return 'domain longer than 255 octets';
  for (const label of domain.split('.')) {
    if (!LABEL.test(label)) return 'bad domain';
    if (isAscii(label) && label.length > MAX_LABEL) return 'domain label longer than 63 octets';
  }
  return null;
}

/** Index of the `@` between local part and domain, outside quotes; -1 when there is none. */
function separator(mailbox: string): number {
  if (!mailbox.startsWith('"')) return mailbox.indexOf('@');
  for (let i = 1; i < mailbox.length; i++) {
    if (mailbox[i] === '\\') i++;
    else if (mailbox[i] === '"') return mailbox[i + 1] === '@' ? i + 1 : -1;
  }
  return -1;
}

function mailboxFault(mailbox: string, maxLocalPart: number): string | null {
  const at = separator(mailbox);
  if (at === -1) return mailbox.startsWith('"') ? 'bad quoted local part' : 'domain missing';
  const local = mailbox.slice(0, at);
  if (!DOT_STRING.test(local) && !QUOTED_STRING.test(local)) return 'bad local part';
  if (octets(local) > maxLocalPart) return `local part longer than ${maxLocalPart} octets`;
  return domainFault(mailbox.slice(at + 1));
}

const SOURCE_ROUTE = /^@[^,:@\s]+(?:,@[^,:@\s]+)*:/;

/** Index of the `>` that closes the path, outside quotes. */
function pathEnd(text: string): number {
  let quoted = false;
  for (let i = 1; i < text.length; i++) {
    const c = text[i];
    if (quoted && c === '\\') i++;
    else if (c === '"') quoted = !quoted;
    else if (c === '>' && !quoted) return i;
  }
  return -1;
}

interface Path {
  readonly address: string;
  readonly parameters: string;
}

function parsePath(text: string, isRecipient: boolean): Path | string {
  if (!text.startsWith('<')) return 'address must be in <>';
  const end = pathEnd(text);
  if (end === -1) return 'address must be in <>';
  const parameters = text.slice(end + 1);
  if (parameters !== '' && !parameters.startsWith(' ')) return 'text after the address';
  const path = text.slice(1, end);
  if (octets(path) + 2 > MAX_PATH) return 'path longer than 256 octets';
  if (path === '') return isRecipient ? 'address missing' : { address: '', parameters };
  const route = SOURCE_ROUTE.exec(path)?.[0] ?? '';
  for (const hop of route.slice(1, -1).split(',@'))
    if (route !== '' && domainFault(hop) !== null) return 'bad source route';
  const address = path.slice(route.length);
  // RFC 5321 4.1.1.3: the only recipient without a domain.
  if (isRecipient && address.toLowerCase() === 'postmaster') return { address, parameters };
  const fault = mailboxFault(address, isRecipient ? MAX_LOCAL_PART : MAX_PATH);
  return fault ?? { address, parameters };
}

type ParameterMap = ReadonlyMap<string, string | null>;

// RFC 5321 4.1.2: esmtp-keyword and esmtp-value; the value with UTF-8 (RFC 6531 3.3).
const KEYWORD = /^[A-Za-z0-9][A-Za-z0-9-]*$/;
const VALUE = new RegExp(`^[\\x21-\\x3c\\x3e-\\x7e${NON_ASCII}]+$`, 'u');

function parseParameters(text: string, known: ReadonlySet<string>): Parsed<ParameterMap> {
  const found = new Map<string, string | null>();
  for (const part of text.split(' ')) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const keyword = (equals === -1 ? part : part.slice(0, equals)).toUpperCase();
    const value = equals === -1 ? null : part.slice(equals + 1);
    if (!KEYWORD.test(keyword)) return refused(reply('badParameter', { parameter: part.slice(0, 40) }));
    // RFC 5321 4.1.1.11: 555 for a parameter that is not recognized or not implemented.
    if (!known.has(keyword)) return refused(reply('unknownParameter', { parameter: keyword.slice(0, 40) }));
    if (found.has(keyword)) return refused(reply('repeatedParameter', { parameter: keyword }));
    // RFC 4954 section 5: the value of AUTH is xtext or `<>`, and xtext leaves no bare `=` either.
    if (value !== null && !VALUE.test(value)) return refused(reply('badParameter', { parameter: keyword }));
    found.set(keyword, value);
  }
  return { kind: 'ok', value: found };
}

// RFC 3461 section 4: xchar or "+" and two upper-case hexadecimal digits.
const XTEXT = /^(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*$/;
const ENVID_MAX = 100;
const ORCPT_MAX = 500;
const ADDRESS_TYPE = /^([A-Za-z0-9!#$%&'*+\-/?^_`{|}~]+);(.+)$/u;
const NOTIFY = /^(?:NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY))*)$/i;

const MAIL_PARAMETERS: ReadonlySet<string> = new Set(['SIZE', 'BODY', 'SMTPUTF8', 'RET', 'ENVID', 'AUTH']);
const RCPT_PARAMETERS: ReadonlySet<string> = new Set(['NOTIFY', 'ORCPT']);

function orcptIsValid(value: string): boolean {
  const match = ADDRESS_TYPE.exec(value);
  if (match === null || value.length > ORCPT_MAX) return false;
  const text = match[2] ?? '';
  // RFC 6533 section 3: utf-8-addr-xtext and utf-8-addr-unitext; the rest is xtext.
  return XTEXT.test(text) || (match[1]?.toLowerCase() === 'utf-8' && !isAscii(text));
}

/** What is wrong with the value of a MAIL or RCPT parameter: its keyword, or null. */
function badParameter(parameters: ParameterMap): string | null {
  for (const [keyword, value] of parameters) if (!parameterIsValid(keyword, value)) return keyword;
  return null;
}

function parameterIsValid(keyword: string, value: string | null): boolean {
  if (keyword === 'SMTPUTF8') return value === null; // RFC 6531 3.4: takes no value
  if (value === null) return false;
  switch (keyword) {
    case 'SIZE':
      return /^\d{1,20}$/.test(value); // RFC 1870 section 3
    case 'BODY':
      return /^(?:7BIT|8BITMIME)$/i.test(value); // RFC 6152; BINARYMIME needs BDAT, which is not offered
    case 'RET':
      return /^(?:FULL|HDRS)$/i.test(value);
    case 'ENVID':
      return value.length <= ENVID_MAX && XTEXT.test(value);
    case 'AUTH':
      return value === '<>' || XTEXT.test(value);
    case 'NOTIFY':
      return NOTIFY.test(value);
    case 'ORCPT':
      return orcptIsValid(value);
    default:
      return false;
  }
}

/** `text` is what follows `MAIL`. */
export function parseMail(text: string): Parsed<MailFrom> {
  const argument = /^ +FROM: *(.*)$/is.exec(text)?.[1];
  if (argument === undefined) return refused(reply('badMail'));
  const path = parsePath(argument, false);
  if (typeof path === 'string') return refused(reply('badSender', { reason: path }));
  const parameters = parseParameters(path.parameters, MAIL_PARAMETERS);
  if (parameters.kind === 'refused') return parameters;
  const values = parameters.value;
  const bad = badParameter(values);
  if (bad !== null) return refused(reply('badParameter', { parameter: bad }));
  const smtputf8 = values.has('SMTPUTF8');
  // RFC 6531 3.5
  if (!smtputf8 && !isAscii(argument)) return refused(reply('needSmtputf8'));
  const size = values.get('SIZE');
  const ret = values.get('RET')?.toUpperCase();
  const envid = values.get('ENVID');
  return {
    kind: 'ok',
    value: {
      reversePath: path.address,
      body: values.get('BODY')?.toUpperCase() === '8BITMIME' ? '8BITMIME' : '7BIT',
      smtputf8,
      declaredSizeBytes: size === undefined || size === null ? null : Number(size),
      ...(ret === 'FULL' || ret === 'HDRS' ? { ret } : {}),
      ...(envid === undefined || envid === null ? {} : { envid }),
      // AUTH= is checked and then ignored: we trust nobody's word on it, which RFC 4954 section 5 spells AUTH=<>.
    },
  };
}

/** `text` is what follows `RCPT`; `smtputf8` is what MAIL said. */
export function parseRcpt(text: string, smtputf8: boolean): Parsed<EnvelopeRecipient> {
  const argument = /^ +TO: *(.*)$/is.exec(text)?.[1];
  if (argument === undefined) return refused(reply('badRcpt'));
  const path = parsePath(argument, true);
  if (typeof path === 'string') return refused(reply('badRecipient', { reason: path }));
  const parameters = parseParameters(path.parameters, RCPT_PARAMETERS);
  if (parameters.kind === 'refused') return parameters;
  const bad = badParameter(parameters.value);
  if (bad !== null) return refused(reply('badParameter', { parameter: bad }));
  if (!smtputf8 && !isAscii(argument)) return refused(reply('needSmtputf8'));
  const notify = parameters.value.get('NOTIFY') ?? undefined;
  const orcpt = parameters.value.get('ORCPT') ?? undefined;
  return {
    kind: 'ok',
    value: {
      address: path.address,
      ...(notify === undefined ? {} : { notify }),
      ...(orcpt === undefined ? {} : { orcpt }),
    },
  };
}
