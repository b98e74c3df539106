/**
 * What TLSA records say of a certificate (RFC 6698, 7671, 7672). Owns: which records can be used, and whether a server's certificates are those they mean.
 * Promise: PKIX-TA, PKIX-EE and whatever else we do not know are unusable (RFC 7672 3.1.3); of several digests for one thing the strongest counts (RFC 7671 9);
 * DANE-EE looks at no name and no date (RFC 7672 3.1.1), DANE-TA at the chain and the names (3.1.2); what strangers publish and send is looked at within a bound of
 * certificates, records and signatures. Fails: a text that says what did not match.
 */
import { certificateOf, type DaneCertificate, DaneCertificates, digestLength, keyOf } from './dane-certificate.ts';
import { Paths, type TrustAnchor } from './dane-path.ts';

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
  /** Usable ones, at least one, `MOST_RECORDS` at most. */
  readonly records: readonly TlsaRecord[];
}

/** Of a name, that can be used: more are not looked at. */
export const MOST_RECORDS = 100;

export type DaneVerdict = { readonly by: string } | { readonly problem: string };

const TA = 2;
const EE = 3;
const FULL = 0;
/** Of what a server may send. */
const MOST_ABOVE = 10;

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
  const length = digestLength(matchingType);
  if (length !== undefined) return certificate.length === length;
  if (matchingType !== FULL) return false;
  return (selector === 0 ? certificateOf(certificate) : keyOf(certificate)) !== null;
}

/** `chain`: as the server sent it, its own certificate first. */
export async function daneVerdict(
  { base, names, records }: DaneProof,
  chain: readonly Buffer[],
  atMs: number,
): Promise<DaneVerdict> {
  const known = new DaneCertificates();
  const sent = chain.slice(0, 1 + MOST_ABOVE).map((bytes) => known.read(bytes));
  const certificates = sent.filter((one) => one !== null);
  const [own, ...above] = certificates;
  if (own === undefined || certificates.length < sent.length)
    return { problem: `${base} shows no certificate that can be read` };
  const byKey = records.find((one) => one.usage === EE && matches(one, own));
  if (byKey !== undefined) return { by: shownTlsa(byKey) };
  let problem: string | null = null;
  const paths = new Paths({ own, above: [...new Set(above)], names, atMs });
  for (const [anchor, record] of anchorsOf(records, above, known)) {
    problem = await paths.problemOf(anchor);
    if (problem === null) return { by: shownTlsa(record) };
    if (paths.isTooMuch) break;
  }
  const said = [...new Set(records.map(shownTlsa))].join(', ');
  const key = own.selected(1, 1)?.toString('hex') ?? 'cannot be told';
  return {
    problem: problem ?? `the certificate of ${base} is none that its ${said} means; SHA-256 of its key ${key}`,
  };
}

/** Certificates that the server sent and a record of DANE-TA means, and what such a record itself holds (RFC 7671 5.2); each with the first record that means it. */
function anchorsOf(
  records: readonly TlsaRecord[],
  above: readonly DaneCertificate[],
  known: DaneCertificates,
): ReadonlyMap<TrustAnchor, TlsaRecord> {
  const anchors = new Map<TrustAnchor, TlsaRecord>();
  for (const record of records) {
    if (record.usage !== TA) continue;
    const sent = above.filter((one) => matches(record, one));
    const held = sent.length > 0 || record.matchingType !== FULL ? null : heldBy(record, known);
    for (const anchor of held === null ? sent : [held]) if (!anchors.has(anchor)) anchors.set(anchor, record);
  }
  return anchors;
}

const heldBy = ({ selector, certificate }: TlsaRecord, known: DaneCertificates): TrustAnchor | null =>
  selector === 0 ? known.read(certificate) : keyOf(certificate);

const matches = ({ selector, matchingType, certificate }: TlsaRecord, shown: DaneCertificate): boolean =>
  shown.selected(selector, matchingType)?.equals(certificate) === true;
