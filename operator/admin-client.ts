/**
 * The operator's side of the admin API of transports (`transport/runtime/admin.ts`): HTTPS with a client certificate of the role
 * `operator`. Owns: one request and what may come of it. Promise: who answers is checked by certificate, whatever the address says; an
 * answer is bounded in time and size; a member that does not answer, or answers nonsense, is a value, never an exception.
 */
import { X509Certificate } from 'node:crypto';
import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import type { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createSecureContext, type PeerCertificate, type SecureContext, type TLSSocket } from 'node:tls';
import { systemClock } from '../common/platform/clock.ts';
import { peerOfSubjectAltName } from '../common/platform/peer-identity.ts';
import { certificatesIn } from '../common/trust.ts';

export type Asked<T> =
  | {
      readonly kind: 'answer';
      readonly member: string;
      readonly value: T;
      /** End of the certificate that it showed, ms since the epoch. */
      readonly certificateNotAfterMs: number | null;
      /** It is of an authority that is still trusted while another one replaces it. */
      readonly certificateFormer: boolean;
    }
  /** The member answered that it does not know. */
  | { readonly kind: 'absent'; readonly member: string }
  | {
      readonly kind: 'unreachable';
      readonly member: string;
      readonly reason: string;
      /** It is there, and what it was asked can nobody be asked: what is wrong with it. */
      readonly badQuestion?: string;
    };

const DEADLINE_MS = 5_000;
/** What reads all message tracking of a member, from the moment the question is there: 1 GiB takes seconds, and people may keep more. */
const TRACKING_MS = 120_000;
const READS_TRACKING = /^\/v1\/(trace|tracking|outcomes)\?/;
const UNKNOWN_FILTER = ': there is no such filter';
const MAX_ANSWER_BYTES = 64 << 20;

/** Of the certificate that a member showed. */
interface Shown {
  readonly certificateNotAfterMs: number | null;
  readonly certificateFormer: boolean;
}

interface HttpAnswer extends Shown {
  readonly status: number;
  readonly body: string;
}

export interface AskOptions {
  /** A `MemberAgent` keeps connections and checks who is there, any other one is only the way; absent: a connection for each question. */
  readonly agent?: Agent;
  readonly deadlineMs?: number;
  /** For the answer, once the question has gone out; absent: the deadline is for all of it. */
  readonly answerMs?: number;
}

export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message;
}

/** PEM, and the cluster that certificates must name. */
export interface AdminTls {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  readonly cluster: string;
  /** The three above as read once: for who asks often, a connection without it reads them again and keeps its own. */
  readonly context?: SecureContext;
}

export const withContext = (tls: AdminTls): AdminTls => ({
  ...tls,
  context: createSecureContext({ ca: tls.ca, cert: tls.cert, key: tls.key, minVersion: 'TLSv1.3' }),
});

/** Who answers stands in the certificate, whatever the address says. */
const secured = (tls: AdminTls, member: string) => ({
  ...(tls.context === undefined ? { ca: tls.ca, cert: tls.cert, key: tls.key } : { secureContext: tls.context }),
  servername: '',
  minVersion: 'TLSv1.3' as const,
  checkServerIdentity: (_host: string, certificate: PeerCertificate): Error | undefined => {
    const peer = peerOfSubjectAltName(certificate.subjectaltname, tls.cluster);
    if (typeof peer === 'string') return new Error(peer);
    return peer.role === 'transport' && peer.name === member ? undefined : new Error(`it is ${peer.role} ${peer.name}`);
  },
});

/**
 * Keeps connections to one member: Node keeps none whose check came with the request. No resumed sessions: their certificate is not checked again.
 */
export class MemberAgent extends Agent {
  /** What a connection began with it goes on showing. */
  readonly shown = new WeakMap<TLSSocket, Shown>();
  constructor(tls: AdminTls, member: string) {
    super({ keepAlive: true, maxSockets: 2, maxCachedSessions: 0, ...secured(tls, member) });
  }
}

function startRequest(url: string, tls: AdminTls | null, member: string, options: AskOptions): ClientRequest {
  const { agent = false, deadlineMs = DEADLINE_MS, answerMs } = options;
  const request =
    tls === null
      ? httpRequest(url, { agent })
      : httpsRequest(url, agent instanceof MemberAgent ? { agent } : { agent, ...secured(tls, member) });
  // Not as an option of the request: a connection that is kept would end with it.
  const giveUp = (): void => void request.destroy(new Error('no answer in time'));
  let late = systemClock.setTimer(deadlineMs, giveUp);
  // Not before the connection is there.
  request.once('finish', () => {
    if (answerMs === undefined || answerMs <= deadlineMs) return;
    late.cancel();
    late = systemClock.setTimer(answerMs, giveUp);
  });
  request.once('close', () => late.cancel());
  return request;
}

export function get(url: string, tls: AdminTls | null, member: string, options: AskOptions = {}): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    const request = startRequest(url, tls, member, options);
    request.once('error', reject);
    request.once('response', (response) => {
      // A kept connection is taken from the response when its end was read.
      const shown = shownBy(response.socket as TLSSocket, tls, options.agent);
      const chunks: Buffer[] = [];
      let total = 0;
      response.on('data', (chunk: Buffer) => {
        total += chunk.length;
        if (total > MAX_ANSWER_BYTES) request.destroy(new Error('answer too large'));
        else chunks.push(chunk);
      });
      response.once('error', reject);
      response.once('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          body: Buffer.concat(chunks).toString('utf8'),
          ...shown,
        }),
      );
    });
    request.end();
  });
}

function shownBy(socket: TLSSocket, tls: AdminTls | null, agent: Agent | undefined): Shown {
  const known = agent instanceof MemberAgent ? agent.shown.get(socket) : undefined;
  if (known !== undefined) return known;
  const raw = tls === null ? undefined : socket.getPeerCertificate().raw;
  if (tls === null || raw === undefined) return { certificateNotAfterMs: null, certificateFormer: false };
  const certificate = new X509Certificate(raw);
  const shown = {
    certificateNotAfterMs: Date.parse(certificate.validTo),
    certificateFormer: isFormer(certificate, tls.ca),
  };
  if (agent instanceof MemberAgent) agent.shown.set(socket, shown);
  return shown;
}

/** The first of the trusted ones signs now. */
function isFormer(certificate: X509Certificate, trustPem: string): boolean {
  const [present, ...former] = certificatesIn(trustPem);
  if (present === undefined || former.length === 0) return false;
  return !certificate.verify(new X509Certificate(present).publicKey);
}

function messageOf(body: string): string {
  try {
    const value = JSON.parse(body) as { error?: { message?: unknown } };
    return typeof value.error?.message === 'string' ? value.error.message : body.slice(0, 200);
  } catch (error) {
    if (error instanceof SyntaxError) return body.slice(0, 200);
    throw error;
  }
}

/** More than a hundred megabytes take over a slow network. */
const DOWNLOAD_MS = 600_000;

/** Bytes of one path into `to`, which is ended; the value is how many came. */
export async function download(
  adminUrl: string,
  path: string,
  tls: AdminTls,
  { member, to, ...by }: { readonly member: string; readonly to: Writable; readonly agent?: Agent },
): Promise<Asked<number>> {
  const request = startRequest(adminUrl.replace(/\/$/, '') + path, tls, member, { ...by, deadlineMs: DOWNLOAD_MS });
  try {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      request.once('error', reject).once('response', resolve).end();
    });
    const shown = shownBy(response.socket as TLSSocket, tls, undefined);
    if (response.statusCode === 404) return { kind: 'absent', member };
    if (response.statusCode !== 200) {
      const said = messageOf((await response.setEncoding('utf8').toArray()).join(''));
      return { kind: 'unreachable', member, reason: `${response.statusCode}: ${said}` };
    }
    let bytes = 0;
    response.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    await pipeline(response, to);
    return { kind: 'answer', member, value: bytes, ...shown };
  } catch (error) {
    return { kind: 'unreachable', member, reason: reasonOf(error) };
  } finally {
    request.destroy();
    to.destroy();
  }
}

/** Asks one member; `adminUrl` like https://10.1.2.3:2526, `path` like /v1/status. */
export async function askMember<T>(
  adminUrl: string,
  path: string,
  tls: AdminTls,
  member: string,
  options: AskOptions = {},
): Promise<Asked<T>> {
  try {
    const patience = READS_TRACKING.test(path) ? { answerMs: TRACKING_MS } : {};
    const answer = await get(adminUrl.replace(/\/$/, '') + path, tls, member, { ...patience, ...options });
    if (answer.status === 404) return { kind: 'absent', member };
    if (answer.status !== 200) {
      const said = messageOf(answer.body);
      // Another version may know that filter.
      const badQuestion = answer.status === 400 && !said.endsWith(UNKNOWN_FILTER) ? { badQuestion: said } : {};
      return { kind: 'unreachable', member, reason: `${answer.status}: ${said}`, ...badQuestion };
    }
    const { certificateNotAfterMs, certificateFormer } = answer;
    return { kind: 'answer', member, value: JSON.parse(answer.body) as T, certificateNotAfterMs, certificateFormer };
  } catch (error) {
    return { kind: 'unreachable', member, reason: reasonOf(error) };
  }
}
