/**
 * The operator's side of the admin API of transports (`transport/runtime/admin.ts`): HTTPS with a client certificate of the role
 * `operator`. Owns: one request and what may come of it. Promise: who answers is checked by certificate, whatever the address says; an
 * answer is bounded in time and size; a member that does not answer, or answers nonsense, is a value, never an exception.
 */
import { type ClientRequest, request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { peerOfSubjectAltName } from '../common/platform/peer-identity.ts';

export type Asked<T> =
  | { readonly kind: 'answer'; readonly member: string; readonly value: T }
  /** The member answered that it does not know. */
  | { readonly kind: 'absent'; readonly member: string }
  | { readonly kind: 'unreachable'; readonly member: string; readonly reason: string };

const DEADLINE_MS = 5_000;
const MAX_ANSWER_BYTES = 64 << 20;

interface HttpAnswer {
  readonly status: number;
  readonly body: string;
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
}

function startRequest(url: string, tls: AdminTls | null, member: string): ClientRequest {
  const common = { signal: AbortSignal.timeout(DEADLINE_MS), agent: false as const };
  if (tls === null) return httpRequest(url, common);
  return httpsRequest(url, {
    ...common,
    ca: tls.ca,
    cert: tls.cert,
    key: tls.key,
    servername: '',
    minVersion: 'TLSv1.3',
    // Who answers stands in the certificate, whatever the address says.
    checkServerIdentity: (_host, certificate) => {
      const peer = peerOfSubjectAltName(certificate.subjectaltname, tls.cluster);
      if (typeof peer === 'string') return new Error(peer);
      return peer.role === 'transport' && peer.name === member
        ? undefined
        : new Error(`it is ${peer.role} ${peer.name}`);
    },
  });
}

export function get(url: string, tls: AdminTls | null, member: string): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    const request = startRequest(url, tls, member);
    request.once('error', (error) => reject(error.name === 'AbortError' ? new Error('no answer in time') : error));
    request.once('response', (response) => {
      const chunks: Buffer[] = [];
      let total = 0;
      response.on('data', (chunk: Buffer) => {
        total += chunk.length;
        if (total > MAX_ANSWER_BYTES) request.destroy(new Error('answer too large'));
        else chunks.push(chunk);
      });
      response.once('error', reject);
      response.once('end', () =>
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }),
      );
    });
    request.end();
  });
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

/** Asks one member; `adminUrl` like https://10.1.2.3:2526, `path` like /v1/status. */
export async function askMember<T>(adminUrl: string, path: string, tls: AdminTls, member: string): Promise<Asked<T>> {
  try {
    const answer = await get(adminUrl.replace(/\/$/, '') + path, tls, member);
    if (answer.status === 404) return { kind: 'absent', member };
    if (answer.status !== 200)
      return { kind: 'unreachable', member, reason: `${answer.status}: ${messageOf(answer.body)}` };
    return { kind: 'answer', member, value: JSON.parse(answer.body) as T };
  } catch (error) {
    return { kind: 'unreachable', member, reason: reasonOf(error) };
  }
}
