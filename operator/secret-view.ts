/**
 * What the operator sees of a Secret of people: its keys, and what of it can be used as a certificate or to sign. Owns: that look, when the Secret arrives; its values are
 * not kept (`world.ts`). PURE.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { dkimKeyProblem } from '../common/dkim-key.ts';
import type { SecretView } from './gathered.ts';
import type { Watched } from './world.ts';

type Data = Readonly<Record<string, string | undefined>>;

/** Null: not to be read as that. */
function readAs<T>(read: (text: string) => T, base64: string): T | null {
  try {
    return read(Buffer.from(base64, 'base64').toString());
  } catch {
    return null;
  }
}

/** Why certificate and key cannot be used together; null where they can, or one is not there. */
export function tlsProblem(data: unknown): string | null {
  const { 'tls.crt': certificateText, 'tls.key': keyText } = (data ?? {}) as Data;
  if (certificateText === undefined || keyText === undefined) return null;
  const certificate = readAs((text) => new X509Certificate(text), certificateText);
  if (certificate === null) return 'tls.crt is no certificate in PEM';
  const key = readAs<KeyObject>((text) => createPrivateKey(text), keyText);
  if (key === null) return 'tls.key is no private key in PEM';
  return certificate.checkPrivateKey(key) ? null : 'tls.key is not the key of tls.crt';
}

/** Keys of a Secret whose values can sign with DKIM. */
export function signingKeys(data: unknown): readonly string[] {
  return Object.entries((data ?? {}) as Data).flatMap(([key, value]) =>
    value !== undefined && readAs(dkimKeyProblem, value) === null ? [key] : [],
  );
}

/** Of a Secret as it is kept. */
export function secretView({ metadata, data, tlsProblem: problem, signingKeys: signing }: Watched): SecretView {
  const keys = Object.keys((data as object | undefined) ?? {});
  return {
    name: metadata.name,
    keys,
    tlsProblem: typeof problem === 'string' ? problem : null,
    signingKeys: Array.isArray(signing) ? signing.map(String) : [],
  };
}
