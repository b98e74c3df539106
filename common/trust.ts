/**
 * Which authorities a pod trusts, in the few characters in which it says so with each request for a certificate (docs/internals.md). Owns: that word and
 * its place; `platform/pod-certificate.ts` says it, `operator/signer.ts` hears it. PURE.
 */
import { createHash } from 'node:crypto';

/** Header of a request for a certificate: `trustOf` what this pod uses. */
export const TRUST_HEADER = 'mailcluster-trust';
export const TRUST_WORD = /^[0-9a-f]{16}$/;

/** The authorities in a CA file; another order is another word. */
export const trustOf = (caPem: string): string => createHash('sha256').update(caPem).digest('hex').slice(0, 16);

/** Each as it stands there. */
export const certificatesIn = (pem: string): readonly string[] =>
  pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
