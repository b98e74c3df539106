/** Throw-away certificates for tests: one authority and one server certificate, in memory. */
import { webcrypto } from 'node:crypto';
import type * as X509 from '@peculiar/x509';

export interface TestCertificate {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

export const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
export const HOUR_MS = 3_600_000;

/** The library asks for the metadata functions when it is loaded; it stores and reads nothing that matters to certificates. */
export async function loadX509(): Promise<typeof X509> {
  if (!('getMetadata' in Reflect)) {
    const nothing = (): undefined => undefined;
    Object.assign(Reflect, { getMetadata: nothing, getOwnMetadata: nothing, defineMetadata: nothing });
  }
  return import('@peculiar/x509');
}

/** A certificate for `name` (a DNS name or an IPv4 address) from an authority of its own, valid from an hour before until an hour after `atMs`. */
export async function testCertificate(name: string, atMs = Date.now()): Promise<TestCertificate> {
  const x509 = await loadX509();
  x509.cryptoProvider.set(webcrypto);
  const validity = { notBefore: new Date(atMs - HOUR_MS), notAfter: new Date(atMs + HOUR_MS) };
  const caKeys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=Test authority of ${name}`, // of one name only the first would be looked at
    keys: caKeys,
    signingAlgorithm: ALGORITHM,
    ...validity,
    extensions: [new x509.BasicConstraintsExtension(true, 1, true)],
  });
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const isAddress = /^[\d.]+$/.test(name);
  const certificate = await x509.X509CertificateGenerator.create({
    subject: `CN=${name}`,
    issuer: ca.subject,
    publicKey: keys.publicKey,
    signingKey: caKeys.privateKey,
    signingAlgorithm: ALGORITHM,
    ...validity,
    extensions: [new x509.SubjectAlternativeNameExtension([{ type: isAddress ? 'ip' : 'dns', value: name }])],
  });
  const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  return {
    ca: ca.toString('pem'),
    cert: certificate.toString('pem'),
    key: `-----BEGIN PRIVATE KEY-----\n${key.replace(/.{64}/g, '$&\n')}\n-----END PRIVATE KEY-----\n`,
  };
}
