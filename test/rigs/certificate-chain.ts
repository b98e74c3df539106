/** Certificates for tests, one under the other, in memory: authorities of any kind and what they sign. Owns: what a test does not say of them (P-256, valid for an hour). */
import { webcrypto } from 'node:crypto';
import { ALGORITHM, HOUR_MS, loadX509 } from './test-certificate.ts';

export interface ChainCertificate {
  readonly subject: string;
  readonly pem: string;
  readonly der: Buffer;
  /** PKCS #8, PEM. */
  readonly key: string;
  /** SubjectPublicKeyInfo. */
  readonly spki: Buffer;
  readonly keys: webcrypto.CryptoKeyPair;
}

export interface ChainOptions {
  /** Empty: it has none. */
  readonly subject: string;
  /** Itself when absent. */
  readonly issuer?: ChainCertificate;
  /** Of an authority; null: none is said. */
  readonly pathLength?: number | null;
  /** DNS names; it is a server then, no authority. */
  readonly names?: readonly string[];
  readonly notAfterMs?: number;
  readonly notBeforeMs?: number;
  /** Extended key usage. */
  readonly usedFor?: readonly string[];
  /** Name constraints, critical, of this domain. */
  readonly onlyBelow?: string;
  /** Key usage of an authority. */
  readonly mayNotSign?: boolean;
  /** Has its keys; drawn anew when absent. */
  readonly keysOf?: ChainCertificate;
  /** Of keys drawn anew, when it is not P-256. */
  readonly curve?: 'P-521';
  /** An extension of this type with this content, whatever the type means. */
  readonly extra?: { readonly type: string; readonly content: Buffer };
}

export async function certificate(options: ChainOptions): Promise<ChainCertificate> {
  const x509 = await loadX509();
  x509.cryptoProvider.set(webcrypto);
  const algorithm = { ...ALGORITHM, namedCurve: options.curve ?? ALGORITHM.namedCurve };
  const keys = options.keysOf?.keys ?? (await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']));
  const { subject, issuer, names, pathLength = null, usedFor = [], onlyBelow } = options;
  const isAuthority = names === undefined;
  const usage = options.mayNotSign === true ? x509.KeyUsageFlags.digitalSignature : x509.KeyUsageFlags.keyCertSign;
  const extensions = [
    ...(isAuthority ? [new x509.BasicConstraintsExtension(true, pathLength ?? undefined, true)] : []),
    ...(isAuthority ? [new x509.KeyUsagesExtension(usage, true)] : []),
    ...(names === undefined
      ? []
      : [new x509.SubjectAlternativeNameExtension(names.map((value) => ({ type: 'dns', value })))]),
    ...(usedFor.length === 0 ? [] : [new x509.ExtendedKeyUsageExtension([...usedFor])]),
    // NameConstraints ::= SEQUENCE { permittedSubtrees [0] { SEQUENCE { dNSName [2] } } }
    ...(onlyBelow === undefined ? [] : [new x509.Extension('2.5.29.30', true, nested(onlyBelow))]),
    ...(options.extra === undefined ? [] : [new x509.Extension(options.extra.type, false, options.extra.content)]),
  ];
  const made = await x509.X509CertificateGenerator.create({
    subject: subject === '' ? '' : `CN=${subject}`,
    issuer: `CN=${issuer?.subject ?? subject}`,
    publicKey: keys.publicKey,
    signingKey: (issuer?.keys ?? keys).privateKey,
    signingAlgorithm: ALGORITHM,
    notBefore: new Date(options.notBeforeMs ?? Date.now() - HOUR_MS),
    notAfter: new Date(options.notAfterMs ?? Date.now() + HOUR_MS),
    extensions,
  });
  const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  return {
    ...{ subject, keys, pem: `${made.toString('pem')}\n`, der: Buffer.from(made.rawData) },
    key: `-----BEGIN PRIVATE KEY-----\n${key.replace(/.{64}/g, '$&\n')}\n-----END PRIVATE KEY-----\n`,
    spki: Buffer.from(await webcrypto.subtle.exportKey('spki', keys.publicKey)),
  };
}

function nested(domain: string): Buffer {
  const tagged = (tag: number, content: Buffer): Buffer => Buffer.concat([Buffer.from([tag, content.length]), content]);
  return tagged(0x30, tagged(0xa0, tagged(0x30, tagged(0x82, Buffer.from(domain)))));
}
