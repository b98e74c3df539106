/** Keys that sign mail (DKIM, ARC), as tests need them: the private one as Secrets hold it, the public one as DNS does. Nobody else knows them, nothing is kept. */
import { generateKeyPairSync } from 'node:crypto';

export interface SigningKey {
  /** Private, PKCS#8. */
  readonly pem: string;
  /** Public, the text of its TXT record. */
  readonly record: string;
}

/** `bits`: of RSA only. */
export function newSigningKey(type: 'rsa' | 'ed25519' = 'rsa', bits = 2_048): SigningKey {
  const { privateKey, publicKey } =
    type === 'rsa' ? generateKeyPairSync('rsa', { modulusLength: bits }) : generateKeyPairSync('ed25519');
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  // RFC 8463 4: the bare key of 32 bytes, not its SubjectPublicKeyInfo.
  const data = type === 'rsa' ? spki : spki.subarray(-32);
  return {
    pem: String(privateKey.export({ type: 'pkcs8', format: 'pem' })),
    record: `v=DKIM1; k=${type}; p=${data.toString('base64')}`,
  };
}
