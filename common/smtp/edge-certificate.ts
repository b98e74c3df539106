/**
 * The certificate that clients are shown: read, and looked at before anybody is. Owns: what is said about it. Refuses, with what to do: files that are not there, that are no certificate
 * and its key. What clients that verify would refuse - expired, not yet valid, another name - is said and shown all the same: most clients encrypt without looking, and plain text would be
 * worse.
 */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';

export interface EdgeCertificate {
  readonly cert: string;
  readonly key: string;
  readonly notAfterMs: number;
  /** What is wrong with it for clients that verify, each with the remedy. */
  readonly problems: readonly string[];
}

export class EdgeCertificateError extends Error {
  readonly code = 'SMTP_CERTIFICATE';
}

async function read(file: string, what: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new EdgeCertificateError(
      `${what} of the SMTP certificate: ${why}; put it there, or name another Secret in frontend.tls`,
    );
  }
}

/** `hostname` is what clients call us by; null: nobody expects a name. */
export async function readEdgeCertificate(
  { certificateFile, keyFile }: { readonly certificateFile: string; readonly keyFile: string },
  hostname: string | null,
  nowMs: number,
): Promise<EdgeCertificate> {
  const [cert, key] = await Promise.all([read(certificateFile, 'chain'), read(keyFile, 'key')]);
  let parsed: X509Certificate;
  try {
    createSecureContext({ cert, key });
    parsed = new X509Certificate(cert);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new EdgeCertificateError(
      `${certificateFile} and ${keyFile} are not a certificate and its key in PEM (${why}); put the chain into tls.crt and its private key into tls.key`,
    );
  }
  const problems: string[] = [];
  const [notBeforeMs, notAfterMs] = [parsed.validFromDate.getTime(), parsed.validToDate.getTime()];
  if (notAfterMs <= nowMs) problems.push(`expired ${parsed.validToDate.toISOString()}: renew it`);
  if (notBeforeMs > nowMs)
    problems.push(`not valid before ${parsed.validFromDate.toISOString()}: look at the clock, or use the former one`);
  if (hostname !== null && parsed.checkHost(hostname) === undefined)
    problems.push(
      `names ${parsed.subjectAltName ?? parsed.subject}, not ${hostname}: have one made for that name, or set the host name`,
    );
  return { cert, key, notAfterMs, problems };
}
