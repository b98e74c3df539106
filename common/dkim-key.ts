/** Whether a text can sign with DKIM. Owns: that look; nothing of the text is in what it says. PURE. */
import { createPrivateKey } from 'node:crypto';

/** RFC 8301 3.2. */
const LEAST_RSA_BITS = 1_024;

/** Null: it can. */
export function dkimKeyProblem(text: string): string | null {
  if (!text.includes('-----BEGIN ')) return 'is no private key in PEM';
  const key = privateKey(text);
  if (key === null) return 'is no private key in PEM, or has a passphrase';
  if (key.asymmetricKeyType === 'ed25519') return null;
  if (key.asymmetricKeyType !== 'rsa') return `is a key of type ${key.asymmetricKeyType}, not RSA or Ed25519`;
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0;
  return bits < LEAST_RSA_BITS ? `is an RSA key of ${bits} bits, and ${LEAST_RSA_BITS} are the least` : null;
}

function privateKey(text: string): ReturnType<typeof createPrivateKey> | null {
  try {
    return createPrivateKey(text);
  } catch {
    return null;
  }
}
