/**
 * What the operator sees of a Secret of people: its keys, and whether certificate and key in it can be used. Owns: that look. Promise: no value leaves here. PURE.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import type { SecretView } from './gathered.ts';

type Data = Readonly<Record<string, string | undefined>>;

/** Null: not to be read as that. */
function readAs<T>(read: (text: string) => T, base64: string): T | null {
  try {
    return read(Buffer.from(base64, 'base64').toString());
  } catch {
    return null;
  }
}

function tlsProblem({ 'tls.crt': certificateText, 'tls.key': keyText }: Data): string | null {
  if (certificateText === undefined || keyText === undefined) return null;
  const certificate = readAs((text) => new X509Certificate(text), certificateText);
  if (certificate === null) return 'tls.crt is no certificate in PEM';
  const key = readAs<KeyObject>((text) => createPrivateKey(text), keyText);
  if (key === null) return 'tls.key is no private key in PEM';
  return certificate.checkPrivateKey(key) ? null : 'tls.key is not the key of tls.crt';
}

export function secretView(name: string, data: unknown): SecretView {
  const values = (data ?? {}) as Data;
  return { name, keys: Object.keys(values), tlsProblem: tlsProblem(values) };
}
