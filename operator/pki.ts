/**
 * The private certificate authority of a cluster. Owns: what is in a certificate of ours (ECDSA P-256, the SAN URI of
 * `peer-identity.ts`, usable as server and client). Everything is PEM in and PEM out; where files lie is the caller's business.
 * Refuses names that a certificate cannot carry. Fails with the error of the crypto library for PEM that is not what it should be.
 */
import { webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import type { Extension, JsonGeneralName, X509Certificate } from '@peculiar/x509';
import { type Clock, systemClock } from '../common/platform/clock.ts';
import type { PeerRole } from '../common/platform/net.ts';
import { peerUri } from '../common/platform/peer-identity.ts';
import { type Random, systemRandom } from '../common/platform/random.ts';

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

export interface CertificateRequest {
  readonly cluster: string;
  readonly role: PeerRole;
  readonly name: string;
  /** DNS names and IP addresses besides the identity, for clients that check a host name. */
  readonly hosts: readonly string[];
  readonly days: number;
}

export interface Authority extends CertificatePems {
  readonly certificate: X509Certificate;
  readonly key: webcrypto.CryptoKey;
}

const KEY_ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const SIGNING = { name: 'ECDSA', hash: 'SHA-256' } as const;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const CA_DAYS = 3_650;

/** Loaded when first needed: it is large, and its container wants `Reflect` prepared. */
async function x509(): Promise<typeof import('@peculiar/x509')> {
  await import('reflect-metadata');
  return import('@peculiar/x509');
}

async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(KEY_ALGORITHM, true, ['sign', 'verify']);
}

async function keyToPem(key: webcrypto.CryptoKey): Promise<string> {
  const { PemConverter } = await x509();
  return `${PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')}\n`;
}

/** RFC 5280 4.1.2.2: positive, at most 20 octets. */
function serialNumber(random: Random): string {
  const bytes = random.bytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

/** An hour back, because clocks of pods differ; never beyond what the authority itself lives. */
function validity(
  nowMs: number,
  days: number,
  latestMs = Number.POSITIVE_INFINITY,
): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(nowMs - HOUR_MS), notAfter: new Date(Math.min(nowMs + days * DAY_MS, latestMs)) };
}

/** A new authority for one cluster. */
export async function createAuthority(cluster: string, ports: PkiPorts = {}): Promise<Authority> {
  const { clock = systemClock, random = systemRandom } = ports;
  const lib = await x509();
  const keys = await generateKeys();
  const certificate = await lib.X509CertificateGenerator.createSelfSigned(
    {
      serialNumber: serialNumber(random),
      name: [{ CN: [`MailCluster ${cluster}`] }],
      ...validity(clock.wallMs(), CA_DAYS),
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
  const keyPem = await keyToPem(keys.privateKey);
  return { certificate, key: keys.privateKey, keyPem, certificatePem: `${certificate.toString('pem')}\n` };
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
  const { clock = systemClock, random = systemRandom } = ports;
  const lib = await x509();
  const keys = await generateKeys();
  const names: JsonGeneralName[] = [{ type: 'url', value: peerUri(request.cluster, request) }];
  for (const host of request.hosts) names.push({ type: isIP(host) === 0 ? 'dns' : 'ip', value: host });
  const extensions: Extension[] = [
    new lib.BasicConstraintsExtension(false, undefined, true),
    new lib.KeyUsagesExtension(lib.KeyUsageFlags.digitalSignature, true),
    new lib.ExtendedKeyUsageExtension([lib.ExtendedKeyUsage.serverAuth, lib.ExtendedKeyUsage.clientAuth]),
    new lib.SubjectAlternativeNameExtension(names),
    await lib.SubjectKeyIdentifierExtension.create(keys.publicKey, false, webcrypto),
    await lib.AuthorityKeyIdentifierExtension.create(authority.certificate, false, webcrypto),
  ];
  const certificate = await lib.X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(random),
      // RFC 5280 upper bound of a common name is 64; the identity is in the SAN.
      subject: [{ CN: [request.name.slice(0, 64)] }],
      issuer: authority.certificate.subjectName.toJSON(),
      ...validity(clock.wallMs(), request.days, authority.certificate.notAfter.getTime()),
      signingAlgorithm: SIGNING,
      publicKey: keys.publicKey,
      signingKey: authority.key,
      extensions,
    },
    webcrypto,
  );
  return { certificatePem: `${certificate.toString('pem')}\n`, keyPem: await keyToPem(keys.privateKey) };
}
