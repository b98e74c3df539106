/**
 * The path from a server's certificate to a trust anchor that DNS named (RFC 7672 3.1.2, RFC 5280 6.1). Owns: what makes a path good. Promise: signatures, dates,
 * authority bit, key usage and length of path are checked, and one of the names must be in the server's certificate; an extension that an authority calls critical and
 * we do not know makes the path bad. Node cannot be told an anchor once a handshake has begun, so this is ours. Fails: a text that says what is wrong.
 */
import type { KeyObject, X509Certificate } from 'node:crypto';
import { checkServerIdentity } from 'node:tls';
import type { Extension } from '@peculiar/x509';
import { x509 } from '../platform/certificate-request.ts';

/** A certificate, or a bare key that signs. */
export type TrustAnchor = { readonly certificate: X509Certificate } | { readonly key: KeyObject };

type X509Library = Awaited<ReturnType<typeof x509>>;

export interface Path {
  readonly own: X509Certificate;
  /** What else the server sent, in any order. */
  readonly above: readonly X509Certificate[];
  readonly anchor: TrustAnchor;
  readonly names: readonly string[];
  readonly atMs: number;
}

const BASIC_CONSTRAINTS = '2.5.29.19';
const KEY_USAGE = '2.5.29.15';
/** Of an authority; policies ask nothing of who has none in mind (RFC 5280 6.1.1 d). */
const UNDERSTOOD: ReadonlySet<string> = new Set([BASIC_CONSTRAINTS, KEY_USAGE, '2.5.29.32', '2.5.29.37']);
/** A server may send many; each is looked at once. */
const MOST_ABOVE = 20;
const SERVER_AUTHENTICATION: ReadonlySet<string> = new Set(['1.3.6.1.5.5.7.3.1', '2.5.29.37.0']);

/** Null: it is good. */
export async function pathProblem(path: Path): Promise<string | null> {
  const links = linksOf(path);
  if (links === null)
    return `the certificate of ${path.names[0]} was not issued by the authority that its TLSA record means`;
  const [own] = links;
  const used = own?.keyUsage;
  if (used !== undefined && !used.some((one) => SERVER_AUTHENTICATION.has(one)))
    return `the certificate of ${path.names[0]} is not for servers`;
  for (const link of links) {
    const when = dateProblem(link, path.atMs);
    if (when !== null) return when;
  }
  for (const [at, link] of links.entries()) {
    // Below it, its own certificate not counted (RFC 5280 4.2.1.9).
    const problem = at === 0 ? null : await authorityProblem(link, at - 1);
    if (problem !== null) return problem;
  }
  return nameProblem(path);
}

/** From the server's certificate to the anchor, which is part of it when it is a certificate; null: there is no way. */
function linksOf({ own, above, anchor }: Path): readonly X509Certificate[] | null {
  const left = new Set(above.slice(0, MOST_ABOVE));
  const from = (current: X509Certificate): readonly X509Certificate[] | null => {
    if ('key' in anchor && current.verify(anchor.key)) return [current];
    if ('certificate' in anchor && isIssuedBy(current, anchor.certificate)) return [current, anchor.certificate];
    for (const next of left) {
      if (!isIssuedBy(current, next)) continue;
      left.delete(next);
      const rest = from(next);
      if (rest !== null) return [current, ...rest];
    }
    return null;
  };
  return from(own);
}

const isIssuedBy = (one: X509Certificate, issuer: X509Certificate): boolean =>
  one.checkIssued(issuer) && one.verify(issuer.publicKey);

function dateProblem({ subject, validFromDate, validToDate }: X509Certificate, atMs: number): string | null {
  const whose = `the certificate of ${oneLine(subject)}`;
  const [from, to] = [validFromDate.getTime(), validToDate.getTime()];
  if (Number.isNaN(from) || Number.isNaN(to)) return `${whose} has no dates that can be read`;
  if (from > atMs) return `${whose} is not valid before ${validFromDate.toISOString()}`;
  return to < atMs ? `${whose} has expired on ${validToDate.toISOString()}` : null;
}

async function authorityProblem(link: X509Certificate, below: number): Promise<string | null> {
  const whose = `the certificate of ${oneLine(link.subject)}`;
  const library = await x509();
  const extensions = extensionsOf(library, link);
  if (extensions === null) return `${whose} is one that cannot be read`;
  const unknown = extensions.find(({ critical, type }) => critical && !UNDERSTOOD.has(type));
  if (unknown !== undefined) return `${whose} has a critical extension ${unknown.type} that is not understood`;
  const basic = extensions.find((one) => one instanceof library.BasicConstraintsExtension);
  if (basic?.ca !== true || !link.ca) return `${whose} is not that of an authority`;
  if (basic.pathLength !== undefined && basic.pathLength < below) return `${whose} allows no such long path`;
  const usage = extensions.find((one) => one instanceof library.KeyUsagesExtension);
  if (usage !== undefined && (usage.usages & library.KeyUsageFlags.keyCertSign) === 0)
    return `${whose} may not sign certificates`;
  return null;
}

/** The library takes less than OpenSSL does, which read the certificate before. */
function extensionsOf(library: X509Library, link: X509Certificate): readonly Extension[] | null {
  try {
    return new library.X509Certificate(link.raw).extensions;
  } catch {
    return null;
  }
}

function nameProblem({ own, names }: Path): string | null {
  const certificate = own.toLegacyObject();
  if (names.some((name) => checkServerIdentity(name, certificate) === undefined)) return null;
  const shown = (own.subjectAltName ?? oneLine(own.subject)).slice(0, 200);
  return `the certificate is for ${shown}, none of ${names.join(', ')}`;
}

/** Absent where it is empty, whatever the types say. */
const oneLine = (subject: string | undefined): string =>
  subject === undefined ? 'nobody' : subject.replaceAll('\n', ', ').slice(0, 200);
