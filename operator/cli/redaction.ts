/**
 * What a support bundle must not say. Owns: that list. Promise: values under names of secrets, private keys, tokens, credentials in URLs,
 * subjects and bodies do not come through; of mail addresses the domain stays, and equal local parts stay equal within one bundle, so that a
 * message can still be followed. Works on what it knows: a secret inside free text without any of these marks is not recognised. PURE.
 */
import { createHash } from 'node:crypto';

export const REDACTED = '<redacted>';

/** `secretRef`, `passwordFile` and the like only say where something is. */
const SECRET_NAME =
  /^(?!.*(ref|file|name|policy|seconds)$)(.*[._-])?(.*)(password|passwd|passphrase|secret|token|credentials?|authorization|api[-_]?key|private[-_]?key|cookie)s?$/i;
const CONTENT_NAME = /^(subject|body|content|text|data64|snippet|preview)$/i;
/** Copies of whole objects, and what nobody reads. */
const DROPPED = new Set(['managedFields', 'kubectl.kubernetes.io/last-applied-configuration']);

const PRIVATE_KEY = /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)/g;
const URL_USER = /\b([a-z][a-z0-9+.-]*:\/\/)[^\s/@"']*@/gi;
const BEARER = /\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}/g;
const JWT = /\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*/g;
const ASSIGNED = /\b([\w.-]*(?:password|passwd|secret|token|api[-_]?key))(["']?\s*[=:]\s*["']?)[^\s"',;}]+/gi;
const HEADER_SUBJECT = /\bsubject:[^\r\n]*/gi;
const ADDRESS = /([A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+)@([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)/g;

export class Redaction {
  readonly #salt: string;

  /** `salt`: random for each bundle, so that nobody can try addresses against it. */
  constructor(salt: string) {
    this.#salt = salt;
  }

  text(text: string): string {
    return text
      .replace(PRIVATE_KEY, REDACTED)
      .replace(URL_USER, `$1${REDACTED}@`)
      .replace(BEARER, `$1 ${REDACTED}`)
      .replace(JWT, REDACTED)
      .replace(ASSIGNED, `$1$2${REDACTED}`)
      .replace(HEADER_SUBJECT, `Subject: ${REDACTED}`)
      .replace(ADDRESS, (_all, local: string, domain: string) => `${this.#pseudonym(local)}@${domain}`);
  }

  /** Any JSON; names stay. */
  value(value: unknown): unknown {
    if (typeof value === 'string') return this.text(value);
    if (Array.isArray(value)) return value.map((one) => this.value(one));
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value)
        .filter(([name]) => !DROPPED.has(name))
        .map(([name, inner]) => [this.text(name), this.#under(name, inner)]),
    );
  }

  /** A log: lines of JSON, or of anything. */
  log(text: string): string {
    return text
      .split('\n')
      .map((line) => this.#line(line))
      .join('\n');
  }

  #line(line: string): string {
    if (!line.startsWith('{')) return this.text(line);
    try {
      return JSON.stringify(this.value(JSON.parse(line)));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      return this.text(line);
    }
  }

  #under(name: string, value: unknown): unknown {
    const isPlain = typeof value === 'string' || typeof value === 'number';
    return isPlain && (SECRET_NAME.test(name) || CONTENT_NAME.test(name)) ? REDACTED : this.value(value);
  }

  #pseudonym(local: string): string {
    return createHash('sha256').update(this.#salt).update(local.toLowerCase()).digest('hex').slice(0, 10);
  }
}
