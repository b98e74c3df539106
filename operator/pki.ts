/**
 * The private certificate authority of a cluster. Owns: what is in a certificate of ours (ECDSA P-256, the SAN URI of
 * `peer-identity.ts`, usable as server and client). Everything is PEM in and PEM out; where files lie is the caller's business.
 * Refuses names that a certificate cannot carry. Fails with the error of the crypto library for PEM that is not what it should be.
 */
import { X509Certificate as NodeCertificate, webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import type { Extension, JsonGeneralName, JsonName, X509Certificate } from '@peculiar/x509';
import { generateKeys, KEY_ALGORITHM, keyToPem, SIGNING, x509 } from '../common/platform/certificate-request.ts';
import { type Clock, systemClock } from '../common/platform/clock.ts';
import type { PeerRole } from '../common/platform/net.ts';
import { isPerson, type PersonRole, peerUri, userUri } from '../common/platform/peer-identity.ts';
import { type Random, systemRandom } from '../common/platform/random.ts';
import { certificatesIn } from '../common/trust.ts';

export interface CertificatePems {
  readonly certificatePem: string;
  /** PKCS #8. */
  readonly keyPem: string;
}

/** Where time and serial numbers come from; the real ones by default. */
export interface PkiPorts {
  readonly clock?: Clock;
  readonly random?: Random;
}

/** What a certificate says. */
export interface CertificateSubject {
  readonly cluster: string;
  /** Null: no member of the cluster, only a server under the names in `hosts`. */
  readonly role: PeerRole | PersonRole | null;
  readonly name: string;
  /** Who the person is, where it matters afterwards. */
  readonly user?: string;
  /** DNS names and IP addresses besides the identity, for clients that check a host name. */
  readonly hosts: readonly string[];
}

export interface CertificateRequest extends CertificateSubject {
  readonly days: number;
}

export interface Authority extends CertificatePems {
  readonly certificate: X509Certificate;
  readonly key: webcrypto.CryptoKey;
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const CA_DAYS = 3_650;

/** RFC 5280 4.1.2.2: positive, at most 20 octets. */
function serialNumber(random: Random): string {
  const bytes = random.bytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

/** An hour back, because clocks of pods differ; never beyond what the authority itself lives. */
function validity(
  nowMs: number,
  lifetimeMs: number,
  latestMs = Number.POSITIVE_INFINITY,
): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(nowMs - HOUR_MS), notAfter: new Date(Math.min(nowMs + lifetimeMs, latestMs)) };
}

/** A new authority for one cluster. */
export async function createAuthority(cluster: string, ports: PkiPorts = {}): Promise<Authority> {
  const keys = await generateKeys();
  const certificate = await selfSigned([{ CN: [`MailCluster ${cluster}`] }], keys, ports);
  const keyPem = await keyToPem(keys.privateKey);
  return { certificate, key: keys.privateKey, keyPem, certificatePem: `${certificate.toString('pem')}\n` };
}

async function selfSigned(
  name: JsonName,
  keys: webcrypto.CryptoKeyPair,
  { clock = systemClock, random = systemRandom }: PkiPorts,
): Promise<X509Certificate> {
  const lib = await x509();
  return await lib.X509CertificateGenerator.createSelfSigned(
    {
      serialNumber: serialNumber(random),
      name,
      ...validity(clock.wallMs(), CA_DAYS * DAY_MS),
      signingAlgorithm: SIGNING,
      keys,
      extensions: [
        new lib.BasicConstraintsExtension(true, 0, true),
        new lib.KeyUsagesExtension(lib.KeyUsageFlags.keyCertSign | lib.KeyUsageFlags.cRLSign, true),
        await lib.SubjectKeyIdentifierExtension.create(keys.publicKey, false, webcrypto),
      ],
    },
    webcrypto,
  );
}

/**
 * What to trust for whatever this authority signs, and nothing else: a root of its name and its key (docs/decisions/0032-*). The certificate of the authority itself where
 * that is one, else the first of the certificates `known` that is and lives as long, else a new one.
 */
export async function rootOf(authority: Authority, known: readonly string[], ports: PkiPorts = {}): Promise<string> {
  const probe = new NodeCertificate((await probeOf(authority)).certificatePem);
  const [own = ''] = certificatesIn(authority.certificatePem);
  const untilMs = Date.parse(new NodeCertificate(own).validTo);
  const found = [own, ...known].find((pem) => isRootOf(pem, probe, untilMs));
  if (found !== undefined) return found;
  const publicKey = await authority.certificate.publicKey.export(KEY_ALGORITHM, ['verify'], webcrypto);
  const name = authority.certificate.subjectName.toJSON();
  return (await selfSigned(name, { publicKey, privateKey: authority.key }, ports)).toString('pem');
}

/** A certificate by this authority, to see what vouches for such. */
const probeOf = (authority: Authority): Promise<CertificatePems> =>
  issueCertificate(authority, { cluster: 'check', role: null, name: 'check', hosts: [], days: 1 });

/** Whether key and certificate of an authority belong together. */
export async function isPair(authority: Authority): Promise<boolean> {
  const { publicKey } = new NodeCertificate(authority.certificatePem);
  return new NodeCertificate((await probeOf(authority)).certificatePem).verify(publicKey);
}

function isRootOf(pem: string, probe: NodeCertificate, untilMs: number): boolean {
  try {
    const one = new NodeCertificate(pem);
    // By names, key identifiers and usages, as OpenSSL compares them in a handshake; then by the signatures.
    const vouches = [one, probe].every((issued) => issued.checkIssued(one) && issued.verify(one.publicKey));
    return one.ca && vouches && Date.parse(one.validTo) >= untilMs;
  } catch {
    // What people put beside an authority is not ours to judge here.
    return false;
  }
}

/** The authority whose PEMs were kept. */
export async function loadAuthority(pems: CertificatePems): Promise<Authority> {
  const lib = await x509();
  const certificate = new lib.X509Certificate(pems.certificatePem);
  const key = await webcrypto.subtle.importKey(
    'pkcs8',
    lib.PemConverter.decodeFirst(pems.keyPem),
    KEY_ALGORITHM,
    true,
    ['sign'],
  );
  return { ...pems, certificate, key };
}

/** A key and a certificate for one process. */
export async function issueCertificate(
  authority: Authority,
  request: CertificateRequest,
  ports: PkiPorts = {},
): Promise<CertificatePems> {
  const keys = await generateKeys();
  const certificatePem = await certify(authority, request, keys.publicKey, request.days * DAY_MS, ports);
  return { certificatePem, keyPem: await keyToPem(keys.privateKey) };
}

/** The request cannot be used; `message` says why. */
export class CertificateRequestError extends Error {
  readonly code = 'CERTIFICATE_REQUEST';
}

/**
 * A certificate for the key of a PKCS #10 request (RFC 2986). Only the key is taken from it, once its signature shows that the asker has the
 * private half; who is named is the caller's knowledge. Rejects with `CertificateRequestError`.
 */
export async function signRequest(
  authority: Authority,
  requestPem: string,
  subject: CertificateSubject,
  lifetimeMs: number,
  ports: PkiPorts = {},
): Promise<string> {
  return certify(authority, subject, await publicKeyOf(requestPem), lifetimeMs, ports);
}

async function publicKeyOf(requestPem: string): Promise<webcrypto.CryptoKey> {
  const lib = await x509();
  try {
    const request = new lib.Pkcs10CertificateRequest(requestPem);
    const key = await request.publicKey.export(KEY_ALGORITHM, ['verify'], webcrypto);
    if (await request.verify(webcrypto)) return key;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new CertificateRequestError(`not a PKCS #10 request in PEM with an ECDSA P-256 key (${why})`);
  }
  throw new CertificateRequestError('the request is not signed with the key it asks a certificate for');
}

async function certify(
  authority: Authority,
  subject: CertificateSubject,
  publicKey: webcrypto.CryptoKey,
  lifetimeMs: number,
  { clock = systemClock, random = systemRandom }: PkiPorts,
): Promise<string> {
  const lib = await x509();
  const { cluster, role, name } = subject;
  const names: JsonGeneralName[] = role === null ? [] : [{ type: 'url', value: peerUri(cluster, { role, name }) }];
  if (subject.user !== undefined) names.push({ type: 'url', value: userUri(subject.user) });
  for (const host of subject.hosts) names.push({ type: isIP(host) === 0 ? 'dns' : 'ip', value: host });
  const { serverAuth, clientAuth } = lib.ExtendedKeyUsage;
  const extensions: Extension[] = [
    new lib.BasicConstraintsExtension(false, undefined, true),
    new lib.KeyUsagesExtension(lib.KeyUsageFlags.digitalSignature, true),
    new lib.ExtendedKeyUsageExtension(
      role === null ? [serverAuth] : isPerson(role) ? [clientAuth] : [serverAuth, clientAuth],
    ),
    new lib.SubjectAlternativeNameExtension(names),
    await lib.SubjectKeyIdentifierExtension.create(publicKey, false, webcrypto),
    await lib.AuthorityKeyIdentifierExtension.create(authority.certificate, false, webcrypto),
  ];
  const certificate = await lib.X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(random),
      // RFC 5280 upper bound of a common name is 64; the identity is in the SAN.
      subject: [{ CN: [name.slice(0, 64)] }],
      issuer: authority.certificate.subjectName.toJSON(),
      ...validity(clock.wallMs(), lifetimeMs, authority.certificate.notAfter.getTime()),
      signingAlgorithm: SIGNING,
      publicKey,
      signingKey: authority.key,
      extensions,
    },
    webcrypto,
  );
  return `${certificate.toString('pem')}\n`;
}
