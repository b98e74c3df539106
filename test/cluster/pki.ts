/**
 * Keys and certificates of a test cluster: one authority, one certificate per user of the API server. Owns: what is in them (ECDSA
 * P-256, CN = user, O = group as Kubernetes reads them). PEM out; where files lie is the caller's business. Lives for days, not years.
 */
import { webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import type * as X509 from '@peculiar/x509';

export interface Credentials {
  readonly certPem: string;
  /** PKCS #8. */
  readonly keyPem: string;
}

export interface Authority {
  readonly caPem: string;
  /** A client certificate: user and, when given, one group. */
  user(name: string, group?: string): Promise<Credentials>;
  /** A server certificate for DNS names and addresses. */
  server(name: string, hosts: readonly string[]): Promise<Credentials>;
}

export interface KeyPairPems {
  readonly privatePem: string;
  readonly publicPem: string;
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const HOUR_MS = 3_600_000;
const LIFE_MS = 30 * 24 * HOUR_MS;

/** Loaded when first needed: it is large, and its container wants `Reflect` prepared. */
async function x509(): Promise<typeof X509> {
  await import('reflect-metadata');
  return import('@peculiar/x509');
}

const newKeys = (): Promise<webcrypto.CryptoKeyPair> =>
  webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);

async function privatePem(keys: webcrypto.CryptoKeyPair): Promise<string> {
  const { PemConverter } = await x509();
  return `${PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY')}\n`;
}

/** For signing ServiceAccount tokens. */
export async function createKeyPair(): Promise<KeyPairPems> {
  const { PemConverter } = await x509();
  const keys = await newKeys();
  const publicKey = await webcrypto.subtle.exportKey('spki', keys.publicKey);
  return { privatePem: await privatePem(keys), publicPem: `${PemConverter.encode(publicKey, 'PUBLIC KEY')}\n` };
}

export async function createAuthority(): Promise<Authority> {
  const lib = await x509();
  const nowMs = Date.now();
  const validity = { notBefore: new Date(nowMs - HOUR_MS), notAfter: new Date(nowMs + LIFE_MS) };
  const caKeys = await newKeys();
  const ca = await lib.X509CertificateGenerator.createSelfSigned(
    {
      name: [{ CN: ['test cluster'] }],
      ...validity,
      signingAlgorithm: ALGORITHM,
      keys: caKeys,
      extensions: [
        new lib.BasicConstraintsExtension(true, 0, true),
        new lib.KeyUsagesExtension(lib.KeyUsageFlags.keyCertSign | lib.KeyUsageFlags.cRLSign, true),
        await lib.SubjectKeyIdentifierExtension.create(caKeys.publicKey, false, webcrypto),
      ],
    },
    webcrypto,
  );
  const issue = async (
    subject: X509.JsonName,
    usage: X509.ExtendedKeyUsage,
    hosts: readonly string[],
  ): Promise<Credentials> => {
    const keys = await newKeys();
    const certificate = await lib.X509CertificateGenerator.create(
      {
        subject,
        issuer: ca.subjectName.toJSON(),
        ...validity,
        signingAlgorithm: ALGORITHM,
        publicKey: keys.publicKey,
        signingKey: caKeys.privateKey,
        extensions: [
          new lib.BasicConstraintsExtension(false, undefined, true),
          new lib.KeyUsagesExtension(lib.KeyUsageFlags.digitalSignature, true),
          new lib.ExtendedKeyUsageExtension([usage]),
          await lib.AuthorityKeyIdentifierExtension.create(ca, false, webcrypto),
          ...(hosts.length === 0
            ? []
            : [
                new lib.SubjectAlternativeNameExtension(
                  hosts.map((value) => ({ type: isIP(value) === 0 ? ('dns' as const) : ('ip' as const), value })),
                ),
              ]),
        ],
      },
      webcrypto,
    );
    return { certPem: `${certificate.toString('pem')}\n`, keyPem: await privatePem(keys) };
  };
  return {
    caPem: `${ca.toString('pem')}\n`,
    user: (name, group) =>
      issue([...(group === undefined ? [] : [{ O: [group] }]), { CN: [name] }], lib.ExtendedKeyUsage.clientAuth, []),
    server: (name, hosts) => issue([{ CN: [name] }], lib.ExtendedKeyUsage.serverAuth, hosts),
  };
}
