/**
 * PKCS #10 requests (RFC 2986): how a process asks for a certificate without giving its key away. Owns: the key type of our certificates
 * (ECDSA P-256) and the way to the X.509 library. PEM in and out. Fails with the error of the library for PEM that is not what it should be.
 */
import { webcrypto } from 'node:crypto';

export const KEY_ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256' } as const;
export const SIGNING = { name: 'ECDSA', hash: 'SHA-256' } as const;

/** Loaded when first needed: it is large, and its container wants `Reflect` prepared. */
export async function x509(): Promise<typeof import('@peculiar/x509')> {
  await import('reflect-metadata');
  return import('@peculiar/x509');
}

export async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(KEY_ALGORITHM, true, ['sign', 'verify']);
}

/** PKCS #8. */
export async function keyToPem(key: webcrypto.CryptoKey): Promise<string> {
  const { PemConverter } = await x509();
  return `${PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')}\n`;
}

/** The pair of a private key that was kept. */
async function keysOf(keyPem: string): Promise<webcrypto.CryptoKeyPair> {
  const { PemConverter } = await x509();
  const der = PemConverter.decodeFirst(keyPem);
  const privateKey = await webcrypto.subtle.importKey('pkcs8', der, KEY_ALGORITHM, true, ['sign']);
  const { kty, crv, x, y } = await webcrypto.subtle.exportKey('jwk', privateKey);
  const publicPart = { kty, crv, x, y, ext: true } as webcrypto.JsonWebKey;
  const publicKey = await webcrypto.subtle.importKey('jwk', publicPart, KEY_ALGORITHM, true, ['verify']);
  return { privateKey, publicKey };
}

/** A request signed with the key, which shows that the asker has it. The name is a courtesy: the signer decides what it certifies. */
export async function createCertificateRequest(keyPem: string, name: string): Promise<string> {
  const lib = await x509();
  const keys = await keysOf(keyPem);
  const request = await lib.Pkcs10CertificateRequestGenerator.create(
    // RFC 5280 upper bound of a common name is 64.
    { name: [{ CN: [name.slice(0, 64)] }], keys, signingAlgorithm: SIGNING },
    webcrypto,
  );
  return `${request.toString('pem')}\n`;
}
