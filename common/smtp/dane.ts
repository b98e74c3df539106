/**
 * What TLSA records say of a certificate (RFC 6698, 7671, 7672). Owns: which records can be used, and whether a server's certificates are those they mean.
 * Promise: PKIX-TA, PKIX-EE and whatever else we do not know are unusable (RFC 7672 3.1.3); of several digests for one thing the strongest counts (RFC 7671 9);
 * DANE-EE looks at no name and no date (RFC 7672 3.1.1), DANE-TA at the chain and the names (3.1.2). Fails: a text that says what did not match.
 */
import { createHash, createPublicKey, X509Certificate } from 'node:crypto';
import { pathProblem, type TrustAnchor } from './dane-path.ts';

export interface TlsaRecord {
  readonly usage: number;
  readonly selector: number;
  readonly matchingType: number;
  readonly certificate: Buffer;
}

/** What a server must prove. */
export interface DaneProof {
  /** TLSA base domain: the name in SNI. */
  readonly base: string;
  /** That a certificate under DANE-TA may be for. */
  readonly names: readonly string[];
  /** Usable ones, at least one. */
  readonly records: readonly TlsaRecord[];
}

export type DaneVerdict = { readonly by: string } | { readonly problem: string };

const TA = 2;
const EE = 3;
const FULL = 0;
const DIGESTS: ReadonlyMap<number, { readonly hash: string; readonly bytes: number }> = new Map([
  [1, { hash: 'sha256', bytes: 32 }],
  [2, { hash: 'sha512', bytes: 64 }],
]);

export const shownTlsa = ({ usage, selector, matchingType }: TlsaRecord): string =>
  `TLSA ${usage} ${selector} ${matchingType}`;

export function usableRecords(records: readonly TlsaRecord[]): readonly TlsaRecord[] {
  const known = records.filter(isUsable);
  return known.filter(
    (one) =>
      one.matchingType === FULL ||
      !known.some(
        (other) =>
          other.usage === one.usage && other.selector === one.selector && other.matchingType > one.matchingType,
      ),
  );
}

function isUsable({ usage, selector, matchingType, certificate }: TlsaRecord): boolean {
  if ((usage !== TA && usage !== EE) || (selector !== 0 && selector !== 1)) return false;
  const digest = DIGESTS.get(matchingType);
  if (digest !== undefined) return certificate.length === digest.bytes;
  if (matchingType !== FULL) return false;
  return (selector === 0 ? certificateOf(certificate) : keyOf(certificate)) !== null;
}

/** `chain`: as the server sent it, its own certificate first. */
export async function daneVerdict(
  { base, names, records }: DaneProof,
  chain: readonly Buffer[],
  atMs: number,
): Promise<DaneVerdict> {
  const certificates = chain.map(certificateOf).filter((one) => one !== null);
  const [own, ...above] = certificates;
  if (own === undefined || certificates.length < chain.length)
    return { problem: `${base} shows no certificate that can be read` };
  const byKey = records.find((one) => one.usage === EE && matches(one, own));
  if (byKey !== undefined) return { by: shownTlsa(byKey) };
  let problem: string | null = null;
  for (const record of records.filter(({ usage }) => usage === TA))
    for (const anchor of anchorsOf(record, above)) {
      problem = await pathProblem({ own, above, anchor, names, atMs });
      if (problem === null) return { by: shownTlsa(record) };
    }
  const said = [...new Set(records.map(shownTlsa))].join(', ');
  const shown = `SHA-256 of its key ${digestOf('sha256', keyBytes(own))}`;
  return { problem: problem ?? `the certificate of ${base} is none that its ${said} means; ${shown}` };
}

/** Certificates that the server sent and the record means, and what the record itself holds (RFC 7671 5.2). */
function anchorsOf(record: TlsaRecord, above: readonly X509Certificate[]): readonly TrustAnchor[] {
  const sent = above.filter((one) => matches(record, one)).map((certificate) => ({ certificate }));
  if (sent.length > 0 || record.matchingType !== FULL) return sent;
  const certificate = record.selector === 0 ? certificateOf(record.certificate) : null;
  if (certificate !== null) return [{ certificate }];
  const key = record.selector === 1 ? keyOf(record.certificate) : null;
  return key === null ? [] : [{ key }];
}

function matches({ selector, matchingType, certificate }: TlsaRecord, shown: X509Certificate): boolean {
  const selected = selector === 0 ? shown.raw : keyBytes(shown);
  const digest = DIGESTS.get(matchingType);
  return digest === undefined
    ? certificate.equals(selected)
    : certificate.equals(createHash(digest.hash).update(selected).digest());
}

const digestOf = (hash: string, bytes: Buffer): string => createHash(hash).update(bytes).digest('hex');

/** SubjectPublicKeyInfo. */
const keyBytes = (certificate: X509Certificate): Buffer =>
  certificate.publicKey.export({ type: 'spki', format: 'der' });

function certificateOf(bytes: Buffer): X509Certificate | null {
  try {
    const certificate = new X509Certificate(bytes);
    // Trailing bytes, PEM: not what a record means.
    return certificate.raw.equals(bytes) ? certificate : null;
  } catch {
    return null;
  }
}

function keyOf(bytes: Buffer): ReturnType<typeof createPublicKey> | null {
  try {
    return createPublicKey({ key: bytes, format: 'der', type: 'spki' });
  } catch {
    return null;
  }
}
