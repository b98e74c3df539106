/**
 * A certificate that DANE looks at. Owns: what is computed of it, once. Promise: the same bytes are the same object within a set; what cannot be read is null and never an
 * error, because the bytes are a stranger's; keys so long that a signature by them would take all our time sign nothing.
 */
import { createHash, createPublicKey, type KeyObject, X509Certificate } from 'node:crypto';

/** Bits of RSA and its kin; who needs more has elliptic curves. */
const LONGEST_MODULUS = 8_192;

const DIGESTS: ReadonlyMap<number, { readonly hash: string; readonly bytes: number }> = new Map([
  [1, { hash: 'sha256', bytes: 32 }],
  [2, { hash: 'sha512', bytes: 64 }],
]);

/** Of a TLSA record of this matching type; undefined: it is none of a digest. */
export const digestLength = (matchingType: number): number | undefined => DIGESTS.get(matchingType)?.bytes;

export class DaneCertificate {
  readonly x509: X509Certificate;
  readonly raw: Buffer;
  readonly #selected = new Map<string, Buffer | null>();
  #key: KeyObject | null | undefined;

  constructor(x509: X509Certificate, raw: Buffer) {
    this.x509 = x509;
    this.raw = raw;
  }

  /** Null: of a kind that we do not know. */
  get key(): KeyObject | null {
    if (this.#key === undefined) this.#key = attempt(() => this.x509.publicKey);
    return this.#key;
  }

  /** What a TLSA record with these numbers holds when it means this certificate. */
  selected(selector: number, matchingType: number): Buffer | null {
    const which = `${selector} ${matchingType}`;
    const known = this.#selected.get(which);
    if (known !== undefined) return known;
    const computed = this.#select(selector, matchingType);
    this.#selected.set(which, computed);
    return computed;
  }

  #select(selector: number, matchingType: number): Buffer | null {
    const digest = DIGESTS.get(matchingType);
    if (digest !== undefined) {
      const whole = this.selected(selector, 0);
      return whole === null ? null : createHash(digest.hash).update(whole).digest();
    }
    if (selector === 0) return this.raw;
    const { key } = this;
    // SubjectPublicKeyInfo.
    return key === null ? null : attempt(() => key.export({ type: 'spki', format: 'der' }));
  }
}

/** One object for each distinct certificate. */
export class DaneCertificates {
  readonly #known = new Map<string, DaneCertificate | null>();

  read(bytes: Buffer): DaneCertificate | null {
    const digest = createHash('sha256').update(bytes).digest('hex');
    const known = this.#known.get(digest);
    if (known !== undefined) return known;
    const x509 = certificateOf(bytes);
    const made = x509 === null ? null : new DaneCertificate(x509, bytes);
    this.#known.set(digest, made);
    return made;
  }
}

export function certificateOf(bytes: Buffer): X509Certificate | null {
  const certificate = attempt(() => new X509Certificate(bytes));
  // Trailing bytes, PEM: not what a record means.
  return certificate?.raw.equals(bytes) === true ? certificate : null;
}

export const keyOf = (bytes: Buffer): KeyObject | null =>
  attempt(() => createPublicKey({ key: bytes, format: 'der', type: 'spki' }));

/** Whether this key signed it. */
export function isSignedBy({ x509 }: DaneCertificate, key: KeyObject): boolean {
  if ((key.asymmetricKeyDetails?.modulusLength ?? 0) > LONGEST_MODULUS) return false;
  return attempt(() => x509.verify(key)) ?? false;
}

function attempt<T>(read: () => T): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}
