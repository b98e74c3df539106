/**
 * How a pod comes by its certificate: its own key, signed by the operator's endpoint against the token of its ServiceAccount
 * (kubernetes.md section 2; `operator/signer.ts`). Owns: the key and certificate files of this pod and their renewal.
 * Promise: the key is made once and never leaves; a certificate is renewed after two thirds of its life, and at once when the authorities to trust
 * change, and asked for again until it is there; a certificate that is still good is used while the endpoint is away (kubernetes.md K9). With each
 * request the pod says which authorities it trusts, and only after they are in use.
 * `start` resolves when usable files exist.
 * Refuses: an endpoint that another authority vouches for. A refusal or silence of the endpoint is logged and repeated, never fatal.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { request as httpsRequest } from 'node:https';
import { dirname } from 'node:path';
import type { SignerConfig, TlsFiles } from '../config.ts';
import { certificatesIn, TRUST_HEADER, trustOf } from '../trust.ts';
import { createCertificateRequest, generateKeys, keyToPem } from './certificate-request.ts';
import type { Clock, Timer } from './clock.ts';
import type { Logger } from './log.ts';
import { type Random, randomFraction } from './random.ts';

export interface PodCertificateSide {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** What is in force now ends then, ms since the epoch. */
  expires(atMs: number): void;
  /** Takes the files that are there now into use; false: they cannot be used. */
  reload(): Promise<boolean>;
}

export interface PodCertificate {
  close(): void;
}

const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 30_000;
const DEADLINE_MS = 10_000;
const AUTHORITY_LOOK_MS = 5_000;
const MAX_ANSWER_BYTES = 64 << 10;

async function readIfThere(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

/** Whole or not at all, also through a power cut. */
async function writeDurably(file: string, text: string): Promise<void> {
  const fresh = `${file}.new`;
  const handle = await open(fresh, 'w', 0o600);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(fresh, file);
  const directory = await open(dirname(file), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** The key that is there; another one in place of one that cannot be read. */
async function ownKey(file: string, log: Logger): Promise<string> {
  const kept = await readIfThere(file);
  if (kept !== null) {
    try {
      if (createPrivateKey(kept).asymmetricKeyDetails?.namedCurve === 'prime256v1') return kept;
      log.warn({ file }, 'key of another kind, a new one is made');
    } catch (error) {
      log.warn({ file, error }, 'key not readable, a new one is made');
    }
  }
  const keyPem = await keyToPem((await generateKeys()).privateKey);
  await mkdir(dirname(file), { recursive: true });
  await writeDurably(file, keyPem);
  return keyPem;
}

/** Until when, ms since the epoch, of a certificate that is for this key and signed by the authority of now; null otherwise. */
function goodUntil(certificatePem: string | null, keyPem: string, caPem: string): number | null {
  if (certificatePem === null) return null;
  try {
    const certificate = new X509Certificate(certificatePem);
    if (!certificate.checkPrivateKey(createPrivateKey(keyPem))) return null;
    const signed = certificatesIn(caPem).some((pem) => certificate.verify(new X509Certificate(pem).publicKey));
    return signed ? Date.parse(certificate.validTo) : null;
  } catch (error) {
    // Not a certificate any more: a new one replaces it.
    return error === null ? 0 : null;
  }
}

function ask(signer: SignerConfig, ca: string, token: string, body: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = httpsRequest(signer.url, {
      method: 'POST',
      agent: false,
      ca,
      servername: signer.serverName,
      minVersion: 'TLSv1.3',
      signal: AbortSignal.timeout(DEADLINE_MS),
      headers: {
        authorization: `Bearer ${token.trim()}`,
        'content-type': 'application/pkcs10',
        [TRUST_HEADER]: trustOf(ca),
        'content-length': Buffer.byteLength(body),
      },
    });
    request.once('error', reject);
    request.once('response', (response) => {
      const chunks: Buffer[] = [];
      let total = 0;
      response.on('data', (chunk: Buffer) => {
        total += chunk.length;
        if (total > MAX_ANSWER_BYTES) request.destroy(new Error('the answer is too large'));
        else chunks.push(chunk);
      });
      response.once('error', reject);
      response.once('end', () => {
        const text = Buffer.concat(chunks).toString('utf8');
        if (response.statusCode === 200) resolve(text);
        else reject(new Error(`${response.statusCode}: ${text.trim().slice(0, 300)}`));
      });
    });
    request.end(body);
  });
}

interface Signed {
  readonly certificate: string;
  readonly renewAfterMs: number;
}

function signedOf(answer: string): Signed {
  const { certificate, renewAfterMs } = JSON.parse(answer) as Partial<Signed>;
  if (typeof certificate !== 'string' || typeof renewAfterMs !== 'number' || !(renewAfterMs > 0)) {
    throw new Error('the answer holds no certificate with a time to renew it');
  }
  return { certificate, renewAfterMs };
}

class Renewal implements PodCertificate {
  readonly #name: string;
  readonly #files: TlsFiles;
  readonly #signer: SignerConfig;
  readonly #side: PodCertificateSide;
  #timer: Timer | null = null;
  #authorityTimer: Timer | null = null;
  #authorities = '';
  #isLooking = false;
  #closed = false;
  #failures = 0;
  #usable: () => void = () => undefined;

  constructor(name: string, files: TlsFiles, signer: SignerConfig, side: PodCertificateSide) {
    this.#name = name;
    this.#files = files;
    this.#signer = signer;
    this.#side = side;
  }

  /** Resolves when there are files to work with. */
  async start(): Promise<void> {
    const usable = new Promise<void>((resolve) => {
      this.#usable = resolve;
    });
    void this.#look();
    this.#watchAuthorities();
    await usable;
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#authorityTimer?.cancel();
  }

  /** One that is being replaced goes when nobody has a certificate of it any more: that must not take two thirds of a life. */
  #watchAuthorities(): void {
    if (this.#closed) return;
    this.#authorityTimer = this.#side.clock.setTimer(AUTHORITY_LOOK_MS, () => {
      void this.#lookAtAuthorities().finally(() => this.#watchAuthorities());
    });
  }

  async #lookAtAuthorities(): Promise<void> {
    try {
      const authorities = await readIfThere(this.#files.caFile);
      if (authorities === null || authorities === this.#authorities || this.#isLooking || this.#closed) return;
      this.#side.log.info({ file: this.#files.caFile }, 'other authorities to trust, a certificate is asked for');
      this.#timer?.cancel();
      await this.#look();
    } catch (error) {
      this.#side.log.error({ error }, 'authorities not readable');
    }
  }

  /** At the start too: what is kept may be of an earlier pod of this name, or of an authority that is being replaced. */
  async #look(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    await this.#lookOnce().finally(() => {
      this.#isLooking = false;
    });
  }

  async #lookOnce(): Promise<void> {
    const { log } = this.#side;
    try {
      this.#good(await this.#keptUntil());
    } catch (error) {
      log.error({ error }, 'certificate files not readable');
    }
    try {
      const renewAfterMs = await this.#renew();
      this.#failures = 0;
      this.#good(await this.#keptUntil());
      this.#later(renewAfterMs * (0.9 + 0.1 * randomFraction(this.#side.random)));
    } catch (error) {
      this.#failures += 1;
      log.warn({ error, url: this.#signer.url, failures: this.#failures }, 'certificate not renewed, asking again');
      const waitMs = Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(this.#failures, 10));
      this.#later(waitMs * (0.5 + 0.5 * randomFraction(this.#side.random)));
    }
  }

  #good(untilMs: number | null): void {
    if (untilMs === null || untilMs <= this.#side.clock.wallMs()) return;
    this.#side.expires(untilMs);
    this.#usable();
  }

  #later(delayMs: number): void {
    if (this.#closed) return;
    this.#timer = this.#side.clock.setTimer(delayMs, () => void this.#look());
  }

  async #keptUntil(): Promise<number | null> {
    const { caFile, certificateFile, keyFile } = this.#files;
    const [ca, certificate, key] = await Promise.all([caFile, certificateFile, keyFile].map(readIfThere));
    return typeof ca === 'string' && typeof key === 'string' ? goodUntil(certificate ?? null, key, ca) : null;
  }

  /** How long the new one need not be renewed. */
  async #renew(): Promise<number> {
    const { certificateFile, keyFile, caFile } = this.#files;
    const keyPem = await ownKey(keyFile, this.#side.log);
    const [ca, token, body] = await Promise.all([
      readFile(caFile, 'utf8'),
      readFile(this.#signer.tokenFile, 'utf8'),
      createCertificateRequest(keyPem, this.#name),
    ]);
    if (!(await this.#side.reload())) throw new Error('the certificate files are not usable, the former stay in use');
    this.#authorities = ca;
    const { certificate, renewAfterMs } = signedOf(await ask(this.#signer, ca, token, body));
    if (goodUntil(certificate, keyPem, ca) === null) {
      throw new Error('the certificate in the answer is not for our key or not of the authority in the CA file');
    }
    await mkdir(dirname(certificateFile), { recursive: true });
    await writeDurably(certificateFile, certificate);
    this.#side.log.info({ file: certificateFile }, 'certificate renewed');
    return renewAfterMs;
  }
}

/** Resolves when `files` can be used; keeps them good until `close`. `name`: of this pod. */
export async function startPodCertificate(
  name: string,
  files: TlsFiles,
  signer: SignerConfig,
  side: PodCertificateSide,
): Promise<PodCertificate> {
  const renewal = new Renewal(name, files, signer, side);
  await renewal.start();
  return renewal;
}
