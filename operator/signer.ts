/**
 * The signing endpoint: a pod shows a ServiceAccount token with our own audience and a PKCS #10 request, and gets a certificate of its
 * cluster's authority (kubernetes.md section 2).
 *   POST /v1/namespaces/NAMESPACE/clusters/NAME/certificates   Authorization: Bearer TOKEN, body the request in PEM
 *   -> 200 {certificate, ca, renewAfterMs}
 * Owns: one HTTPS listener that shows each cluster a certificate of that cluster's own authority, by the name the client asks for
 * (RFC 6066 SNI: `signerName`). Promise: what a certificate says comes from the token review and from the pods we know, never from the
 * request; what a pod says in `mailcluster-trust` is noted as its own word; a token is good for the pod it was made for, on its node, while that pod exists and 60 s into its end.
 * Refuses: each with `{error:{code, message}}` - bad request (400), no or a foreign token (401), not a pod of this cluster (403), unknown
 * cluster (404), and 503 with Retry-After where asking again may help (the API server is away, the pod not seen yet, too many at once).
 * Fails: rejects at start when the port cannot be had; an error while answering is a 500 and ends nothing.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { createSecureContext, type SecureContext } from 'node:tls';
import type { Clock } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Random } from '../common/platform/random.ts';
import { TRUST_HEADER, TRUST_WORD } from '../common/trust.ts';
import { type Authority, CertificateRequestError, issueCertificate, signRequest } from './pki.ts';
import { SIGNER_AUDIENCE } from './resources/names.ts';

/** Who a token speaks for (TokenReview status: `user.username` and the `authentication.kubernetes.io/...` extras). */
export interface TokenHolder {
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly podName: string;
  readonly podUid: string;
  /** Where the API server says it. */
  readonly nodeName: string | null;
}

/** What the operator knows of a pod, from its own watch: a token review can be ten seconds old. */
export interface SignerPod {
  readonly uid: string;
  readonly nodeName: string | null;
  readonly serviceAccount: string;
  readonly cluster: string | null;
  readonly role: 'transport' | 'frontend' | null;
  /** When its end was asked for, ms since the epoch. */
  readonly deletionAtMs: number | null;
  /** The authorities it has said it uses (`trustOf`); null: none yet. */
  readonly trusts: string | null;
  /** DNS names for clients that check a host name. */
  readonly hosts: readonly string[];
}

export interface SignerSide {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** TokenReview with `SIGNER_AUDIENCE`; null: not authenticated for it. Rejects when the API server does not answer. */
  reviewToken(token: string): Promise<TokenHolder | null>;
  pod(namespace: string, name: string): SignerPod | null;
  /** Null: no such cluster here, or its authority is not made yet. */
  authority(namespace: string, cluster: string): Promise<Authority | null>;
  /** It says which authorities it uses; false: that could not be noted. */
  noteTrust(namespace: string, name: string, uid: string, trust: string): Promise<boolean>;
}

export interface SignerOptions {
  readonly address: { readonly host: string; readonly port: number };
  readonly certificateLifetimeMs: number;
}

export interface Signer {
  readonly port: number;
  close(): Promise<void>;
}

const MAX_BODY_BYTES = 16 << 10;
const MAX_AT_ONCE = 64;
const REQUEST_TIMEOUT_MS = 10_000;
const RETRY_AFTER_SECONDS = 2;
/** The grace a pod may still need a certificate in: sessions are kept until it ends. */
const ENDING_GRACE_MS = 60_000;
const SERVER_DAYS = 30;
const SERVER_RENEW_MS = 10 * 86_400_000;
/** A pod whose word could not be noted comes again soon. */
const NOTE_AGAIN_MS = 10_000;
const PATH = /^\/v1\/namespaces\/([a-z0-9-]+)\/clusters\/([a-z0-9.-]+)\/certificates$/;
const SERVER_NAME = /^signer\.(.+)\.([^.]+)\.mailcluster\.internal$/;

class Refused extends Error {
  readonly status: 400 | 401 | 403 | 404 | 405 | 413 | 503;
  readonly code: string;
  constructor(status: Refused['status'], code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

interface Signed {
  readonly certificate: string;
  readonly ca: string;
  readonly renewAfterMs: number;
}

function tokenOf(request: IncomingMessage): string {
  const token = /^Bearer ([\x21-\x7e]{1,8192})$/.exec(request.headers.authorization ?? '')?.[1];
  if (token === undefined) throw new Refused(401, 'NO_TOKEN', 'Authorization: Bearer TOKEN is missing');
  return token;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let total = 0;
  for await (const chunk of request) {
    total += (chunk as Buffer).length;
    if (total > MAX_BODY_BYTES) throw new Refused(413, 'TOO_LARGE', `a request has at most ${MAX_BODY_BYTES} bytes`);
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}

async function holderOf(token: string, side: SignerSide): Promise<TokenHolder> {
  let holder: TokenHolder | null;
  try {
    holder = await side.reviewToken(token);
  } catch (error) {
    side.log.warn({ error }, 'token not reviewed');
    throw new Refused(503, 'NO_REVIEW', 'the API server did not review the token; ask again');
  }
  if (holder === null) throw new Refused(401, 'BAD_TOKEN', `the token is not good for audience ${SIGNER_AUDIENCE}`);
  return holder;
}

/** The pod behind the token, if it is one of this cluster and still there. */
function memberOf(holder: TokenHolder, namespace: string, cluster: string, side: SignerSide): SignerPod {
  const forbidden = (message: string): never => {
    throw new Refused(403, 'NOT_YOURS', message);
  };
  if (holder.namespace !== namespace) forbidden(`the token is of namespace ${holder.namespace}`);
  const pod = side.pod(namespace, holder.podName);
  if (pod === null || pod.uid !== holder.podUid) {
    throw new Refused(503, 'POD_NOT_SEEN', `pod ${holder.podName} with this uid is not known here yet; ask again`);
  }
  if (pod.cluster !== cluster || pod.role === null) forbidden(`pod ${holder.podName} is not of MailCluster ${cluster}`);
  if (pod.serviceAccount !== holder.serviceAccount)
    forbidden(`the token is of ServiceAccount ${holder.serviceAccount}`);
  if (holder.nodeName !== null && holder.nodeName !== pod.nodeName)
    forbidden(`the token is of node ${holder.nodeName}`);
  if (pod.deletionAtMs !== null && side.clock.wallMs() > pod.deletionAtMs + ENDING_GRACE_MS) {
    forbidden(`pod ${holder.podName} should have ended`);
  }
  return pod;
}

async function answer(request: IncomingMessage, options: SignerOptions, side: SignerSide): Promise<Signed> {
  const [, namespace, cluster] = PATH.exec(request.url ?? '') ?? [];
  if (namespace === undefined || cluster === undefined) throw new Refused(404, 'NO_SUCH_PATH', 'nothing here');
  if (request.method !== 'POST') throw new Refused(405, 'POST_ONLY', 'a certificate is asked for with POST');
  const token = tokenOf(request);
  const requestPem = await bodyOf(request);
  const holder = await holderOf(token, side);
  const pod = memberOf(holder, namespace, cluster, side);
  const authority = await side.authority(namespace, cluster);
  if (authority === null || pod.role === null) {
    throw new Refused(404, 'NO_SUCH_CLUSTER', `MailCluster ${namespace}/${cluster} has no authority here`);
  }
  const { role, hosts } = pod;
  const subject = { cluster, role, name: holder.podName, hosts };
  const lifetimeMs = options.certificateLifetimeMs;
  const certificate = await signRequest(authority, requestPem, subject, lifetimeMs, side);
  side.log.info({ namespace, cluster, pod: holder.podName, podUid: pod.uid, node: pod.nodeName }, 'certificate signed');
  const isNoted = await noteTrust(request, namespace, holder.podName, pod, side);
  const renewAfterMs = isNoted ? Math.floor((lifetimeMs * 2) / 3) : Math.min(NOTE_AGAIN_MS, lifetimeMs / 2);
  return { certificate, ca: authority.certificatePem, renewAfterMs };
}

/** A pod of an earlier version says nothing. */
async function noteTrust(
  request: IncomingMessage,
  namespace: string,
  name: string,
  pod: SignerPod,
  side: SignerSide,
): Promise<boolean> {
  const trust = request.headers[TRUST_HEADER];
  if (typeof trust !== 'string' || !TRUST_WORD.test(trust) || trust === pod.trusts) return true;
  return await side.noteTrust(namespace, name, pod.uid, trust);
}

function refusalOf(
  error: unknown,
  side: SignerSide,
): { readonly status: number; readonly code: string; message: string } {
  if (error instanceof Refused) return error;
  if (error instanceof CertificateRequestError) return { status: 400, code: error.code, message: error.message };
  side.log.error({ error }, 'signing failed');
  return { status: 500, code: 'INTERNAL', message: 'signing failed; the log of the operator says why' };
}

function send(response: ServerResponse, status: number, body: unknown): void {
  const text = `${JSON.stringify(body)}\n`;
  response.writeHead(status, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    // What is left of a body that was refused is not read.
    connection: 'close',
    ...(status === 503 ? { 'retry-after': String(RETRY_AFTER_SECONDS) } : {}),
  });
  response.end(text);
}

/** Server certificates by the name they are for; made when first asked for. */
class ServerCertificates {
  readonly #side: SignerSide;
  readonly #kept = new Map<
    string,
    { readonly ca: string; readonly untilMs: number; readonly context: SecureContext }
  >();

  constructor(side: SignerSide) {
    this.#side = side;
  }

  async contextFor(name: string): Promise<SecureContext> {
    const [, cluster, namespace] = SERVER_NAME.exec(name) ?? [];
    if (cluster === undefined || namespace === undefined) throw new Error('a name that no cluster has');
    const authority = await this.#side.authority(namespace, cluster);
    if (authority === null) throw new Error(`no authority of MailCluster ${namespace}/${cluster}`);
    const nowMs = this.#side.clock.wallMs();
    const kept = this.#kept.get(name);
    if (kept !== undefined && kept.ca === authority.certificatePem && kept.untilMs > nowMs) return kept.context;
    const request = { cluster, role: null, name: 'signer', hosts: [name], days: SERVER_DAYS };
    const { certificatePem: cert, keyPem: key } = await issueCertificate(authority, request, this.#side);
    const context = createSecureContext({ cert, key, minVersion: 'TLSv1.3' });
    this.#kept.set(name, { ca: authority.certificatePem, untilMs: nowMs + SERVER_RENEW_MS, context });
    return context;
  }
}

export async function startSigner(options: SignerOptions, side: SignerSide): Promise<Signer> {
  const certificates = new ServerCertificates(side);
  let atOnce = 0;
  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    atOnce += 1;
    try {
      if (atOnce > MAX_AT_ONCE) throw new Refused(503, 'BUSY', 'too many requests at once; ask again');
      send(response, 200, await answer(request, options, side));
    } catch (error) {
      const { status, code, message } = refusalOf(error, side);
      send(response, status, { error: { code, message } });
    } finally {
      atOnce -= 1;
    }
  };
  const server = createServer(
    {
      minVersion: 'TLSv1.3',
      requestTimeout: REQUEST_TIMEOUT_MS,
      headersTimeout: REQUEST_TIMEOUT_MS,
      SNICallback: (name, done) => {
        certificates.contextFor(name).then(
          (context) => done(null, context),
          (error: unknown) => done(error instanceof Error ? error : new Error(String(error))),
        );
      },
    },
    (request, response) => void serve(request, response),
  );
  server.maxConnections = 4 * MAX_AT_ONCE;
  server.on('tlsClientError', (error, socket) => {
    side.log.debug({ reason: error.message, remoteAddress: socket.remoteAddress }, 'signer handshake failed');
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.address.port, options.address.host, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
