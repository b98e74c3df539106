/**
 * The path from a server's certificate to a trust anchor that DNS named (RFC 7672 3.1.2, RFC 5280 6.1). Owns: what makes a path good. Promise: signatures, dates,
 * authority bit, key usage and length of path are checked, and one of the names must be in the server's certificate; an extension that an authority calls critical and
 * we do not know makes the path bad. Who sends a maze gets no more than `MOST_VERIFICATIONS`. Node cannot be told an anchor once a handshake has begun, so this is ours. Fails: a text that says what is wrong.
 */
import { KeyObject, type X509Certificate } from 'node:crypto';
import { checkServerIdentity } from 'node:tls';
import { x509 } from '../platform/certificate-request.ts';
import { type DaneCertificate, isSignedBy } from './dane-certificate.ts';

/** A certificate, or a bare key that signs. */
export type TrustAnchor = DaneCertificate | KeyObject;

type X509Library = Awaited<ReturnType<typeof x509>>;

export interface Shown {
  readonly own: DaneCertificate;
  /** What else the server sent, in any order, each once. */
  readonly above: readonly DaneCertificate[];
  readonly names: readonly string[];
  readonly atMs: number;
}

const BASIC_CONSTRAINTS = '2.5.29.19';
const KEY_USAGE = '2.5.29.15';
/** Of an authority; policies ask nothing of who has none in mind (RFC 5280 6.1.1 d). */
const UNDERSTOOD: ReadonlySet<string> = new Set([BASIC_CONSTRAINTS, KEY_USAGE, '2.5.29.32', '2.5.29.37']);
const SERVER_AUTHENTICATION: ReadonlySet<string> = new Set(['1.3.6.1.5.5.7.3.1', '2.5.29.37.0']);

/** Signatures that are looked at for one certificate, whatever the number of anchors: each takes milliseconds in which nothing else goes on. */
const MOST_VERIFICATIONS = 50;
/** Of authorities whose extensions are read, which takes some 10 ms for 1,000. */
const MOST_AUTHORITY_BYTES = 40_000;

/** From one server's certificate to anchors. */
export class Paths {
  readonly #shown: Shown;
  /** Who was found to have signed what. */
  readonly #verified = new Map<DaneCertificate, Map<TrustAnchor, boolean>>();
  readonly #authorities = new Map<DaneCertificate, Authority | null>();
  #verifications = 0;
  #authorityBytes = 0;
  #name: { readonly problem: string | null } | null = null;

  constructor(shown: Shown) {
    this.#shown = shown;
  }

  /** It was given up. */
  get isTooMuch(): boolean {
    return this.#verifications > MOST_VERIFICATIONS || this.#authorityBytes > MOST_AUTHORITY_BYTES;
  }

  /** Null: there is a path to it, and it is good. */
  async problemOf(anchor: TrustAnchor): Promise<string | null> {
    const { own, names, atMs } = this.#shown;
    const links = this.#linksTo(anchor);
    const tooMuch = `${names[0]} sends more, or larger, certificates than are looked at`;
    if (this.isTooMuch) return tooMuch;
    if (links === null)
      return `the certificate of ${names[0]} was not issued by the authority that its TLSA record means`;
    const used = own.x509.keyUsage;
    if (used !== undefined && !used.some((one) => SERVER_AUTHENTICATION.has(one)))
      return `the certificate of ${names[0]} is not for servers`;
    for (const { x509: link } of links) {
      const when = dateProblem(link, atMs);
      if (when !== null) return when;
    }
    for (const [at, link] of links.entries()) {
      // Below it, its own certificate not counted (RFC 5280 4.2.1.9).
      const problem = at === 0 ? null : authorityProblem(link.x509, await this.#authorityOf(link), at - 1);
      if (problem !== null) return this.isTooMuch ? tooMuch : problem;
    }
    this.#name ??= { problem: nameProblem(own.x509, names) };
    return this.#name.problem;
  }

  /** From the server's certificate to the anchor, which is part of it when it is a certificate; null: there is no way. */
  #linksTo(anchor: TrustAnchor): readonly DaneCertificate[] | null {
    const left = new Set(this.#shown.above);
    const from = (current: DaneCertificate): readonly DaneCertificate[] | null => {
      if (this.#isIssuedBy(current, anchor)) return anchor instanceof KeyObject ? [current] : [current, anchor];
      for (const next of left) {
        if (!this.#isIssuedBy(current, next)) continue;
        left.delete(next);
        const rest = from(next);
        if (rest !== null) return [current, ...rest];
      }
      return null;
    };
    return from(this.#shown.own);
  }

  #isIssuedBy(one: DaneCertificate, issuer: TrustAnchor): boolean {
    const verified = this.#verified.get(one) ?? new Map<TrustAnchor, boolean>();
    this.#verified.set(one, verified);
    const known = verified.get(issuer) ?? this.#verify(one, issuer);
    verified.set(issuer, known);
    return known;
  }

  #verify(one: DaneCertificate, issuer: TrustAnchor): boolean {
    if (!(issuer instanceof KeyObject) && !one.x509.checkIssued(issuer.x509)) return false;
    const key = issuer instanceof KeyObject ? issuer : issuer.key;
    return key !== null && ++this.#verifications <= MOST_VERIFICATIONS && isSignedBy(one, key);
  }

  async #authorityOf(link: DaneCertificate): Promise<Authority | null> {
    const known = this.#authorities.get(link);
    if (known !== undefined) return known;
    const library = await x509();
    this.#authorityBytes += link.raw.length;
    const read = this.isTooMuch ? null : authorityOf(library, link);
    this.#authorities.set(link, read);
    return read;
  }
}

function dateProblem({ subject, validFromDate, validToDate }: X509Certificate, atMs: number): string | null {
  const whose = `the certificate of ${oneLine(subject)}`;
  const [from, to] = [validFromDate.getTime(), validToDate.getTime()];
  if (Number.isNaN(from) || Number.isNaN(to)) return `${whose} has no dates that can be read`;
  if (from > atMs) return `${whose} is not valid before ${validFromDate.toISOString()}`;
  return to < atMs ? `${whose} has expired on ${validToDate.toISOString()}` : null;
}

/** What the certificate of an authority says of itself. */
interface Authority {
  /** A critical extension that we do not know. */
  readonly unknown: string | null;
  readonly isAuthority: boolean;
  readonly pathLength: number | null;
  readonly maySign: boolean;
}

/** Null: the library takes less than OpenSSL does, which read the certificate before. */
function authorityOf(library: X509Library, { raw }: DaneCertificate): Authority | null {
  try {
    const { extensions } = new library.X509Certificate(raw);
    const basic = extensions.find((one) => one instanceof library.BasicConstraintsExtension);
    const usage = extensions.find((one) => one instanceof library.KeyUsagesExtension);
    return {
      unknown: extensions.find(({ critical, type }) => critical && !UNDERSTOOD.has(type))?.type ?? null,
      isAuthority: basic?.ca === true,
      pathLength: basic?.pathLength ?? null,
      maySign: usage === undefined || (usage.usages & library.KeyUsageFlags.keyCertSign) !== 0,
    };
  } catch {
    return null;
  }
}

function authorityProblem({ subject, ca }: X509Certificate, said: Authority | null, below: number): string | null {
  const whose = `the certificate of ${oneLine(subject)}`;
  if (said === null) return `${whose} is one that cannot be read`;
  if (said.unknown !== null) return `${whose} has a critical extension ${said.unknown} that is not understood`;
  if (!said.isAuthority || !ca) return `${whose} is not that of an authority`;
  if (said.pathLength !== null && said.pathLength < below) return `${whose} allows no such long path`;
  return said.maySign ? null : `${whose} may not sign certificates`;
}

function nameProblem(own: X509Certificate, names: readonly string[]): string | null {
  const certificate = own.toLegacyObject();
  if (names.some((name) => checkServerIdentity(name, certificate) === undefined)) return null;
  const shown = (own.subjectAltName ?? oneLine(own.subject)).slice(0, 200);
  return `the certificate is for ${shown}, none of ${names.join(', ')}`;
}

/** Absent where it is empty, whatever the types say. */
const oneLine = (subject: string | undefined): string =>
  subject === undefined ? 'nobody' : subject.replaceAll('\n', ', ').slice(0, 200);
