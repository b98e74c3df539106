/**
 * Asks the members of a running cluster. Owns: the HTTPS requests to the admin APIs and the probes of the front ends.
 * Promise: every member is asked at the same time and within a deadline; one that does not answer is a value, never an exception, and
 * never spoils what the others said. Fails: `NoCluster` when there is no readable run.json.
 */
import { readFile } from 'node:fs/promises';
import { type ClientRequest, request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { join, resolve } from 'node:path';
import { peerOfSubjectAltName } from '../../common/platform/peer-identity.ts';
import { parseRunFile, type RunFile, type RunFrontend, type RunTransport } from './run-file.ts';

export class NoCluster extends Error {
  readonly code = 'NO_CLUSTER';
}

export type Asked<T> =
  | { readonly kind: 'answer'; readonly member: string; readonly value: T }
  /** The member answered that it does not know. */
  | { readonly kind: 'absent'; readonly member: string }
  | { readonly kind: 'unreachable'; readonly member: string; readonly reason: string };

const DEADLINE_MS = 5_000;
const MAX_ANSWER_BYTES = 64 << 20;

export interface Cluster {
  readonly run: RunFile;
  ask<T>(transport: RunTransport, path: string): Promise<Asked<T>>;
  /** All transports, in the order of run.json. */
  askAll<T>(path: string): Promise<readonly Asked<T>[]>;
  frontendHealth(frontend: RunFrontend): Promise<string>;
}

interface HttpAnswer {
  readonly status: number;
  readonly body: string;
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message;
}

interface AdminTls {
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

function get(url: string, tls: AdminTls | null, member: string): Promise<HttpAnswer> {
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

export async function openCluster(stateDirectory: string): Promise<Cluster> {
  const path = join(resolve(stateDirectory), 'run.json');
  let run: RunFile | string;
  try {
    run = parseRunFile(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    const why = error instanceof SyntaxError ? 'it is not JSON' : reasonOf(error);
    throw new NoCluster(
      `no running cluster: ${path}: ${why}; start one with "mailcluster run", or say where with --state DIR`,
    );
  }
  if (typeof run === 'string') throw new NoCluster(`${path}: ${run}`);
  const file = run;
  let tls: AdminTls;
  try {
    const { caFile, certificateFile, keyFile } = file.operatorTls;
    const [ca, cert, key] = await Promise.all([caFile, certificateFile, keyFile].map((one) => readFile(one, 'utf8')));
    tls = { ca: ca ?? '', cert: cert ?? '', key: key ?? '', cluster: file.cluster };
  } catch (error) {
    throw new NoCluster(
      `the operator certificate cannot be read: ${error instanceof Error ? error.message : String(error)}`,
    );
  }

  const ask = async <T>(transport: RunTransport, path: string): Promise<Asked<T>> => {
    const member = transport.name;
    try {
      const answer = await get(transport.adminUrl.replace(/\/$/, '') + path, tls, member);
      if (answer.status === 404) return { kind: 'absent', member };
      if (answer.status !== 200)
        return { kind: 'unreachable', member, reason: `${answer.status}: ${messageOf(answer.body)}` };
      return { kind: 'answer', member, value: JSON.parse(answer.body) as T };
    } catch (error) {
      return { kind: 'unreachable', member, reason: reasonOf(error) };
    }
  };

  return {
    run: file,
    ask,
    askAll: <T>(path: string) => Promise.all(file.transports.map((transport) => ask<T>(transport, path))),
    frontendHealth: async (frontend) => {
      try {
        const answer = await get(new URL('/readyz', frontend.metricsUrl).href, null, '');
        return answer.status === 200 ? 'ready' : `not ready: ${answer.body.trim()}`;
      } catch (error) {
        return `unreachable: ${reasonOf(error)}`;
      }
    },
  };
}

export interface Gathered<T> {
  readonly answers: readonly { readonly member: string; readonly value: T }[];
  readonly unreachable: readonly { readonly member: string; readonly reason: string }[];
}

export function gather<T>(asked: readonly Asked<T>[]): Gathered<T> {
  return {
    answers: asked.flatMap((one) => (one.kind === 'answer' ? [{ member: one.member, value: one.value }] : [])),
    unreachable: asked.flatMap((one) =>
      one.kind === 'unreachable' ? [{ member: one.member, reason: one.reason }] : [],
    ),
  };
}
