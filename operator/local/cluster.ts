/**
 * Asks the members of a cluster on this machine. Owns: the way from run.json to their admin APIs, and the probes of the front ends.
 * Promise: every member is asked at the same time and within a deadline; one that does not answer is a value, never an exception, and
 * never spoils what the others said. Fails: `NoCluster` when there is no readable run.json.
 */
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Writable } from 'node:stream';
import { type AdminTls, type Asked, askMember, download, get, reasonOf } from '../admin-client.ts';
import { parseRunFile, type RunFile, type RunFrontend, type RunTransport } from './run-file.ts';

export class NoCluster extends Error {
  readonly code = 'NO_CLUSTER';
}

export interface Cluster {
  readonly run: RunFile;
  readonly members: readonly RunTransport[];
  ask<T>(transport: Pick<RunTransport, 'name'>, path: string): Promise<Asked<T>>;
  /** All transports, in the order of run.json. */
  askAll<T>(path: string): Promise<readonly Asked<T>[]>;
  /** Bytes of a path into `to`, which is ended: how many. */
  download(transport: Pick<RunTransport, 'name'>, path: string, to: Writable): Promise<Asked<number>>;
  frontendHealth(frontend: RunFrontend): Promise<string>;
  /** Nothing is kept open between questions. */
  close(): void;
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

  const ask = async <T>({ name }: Pick<RunTransport, 'name'>, path: string): Promise<Asked<T>> => {
    const transport = file.transports.find((one) => one.name === name);
    if (transport === undefined) return { kind: 'unreachable', member: name, reason: 'it is not in run.json' };
    return await askMember<T>(transport.adminUrl, path, tls, name);
  };

  return {
    run: file,
    members: file.transports,
    ask,
    download: async ({ name }, path, to) => {
      const transport = file.transports.find((one) => one.name === name);
      if (transport === undefined) return { kind: 'unreachable', member: name, reason: 'it is not in run.json' };
      return await download(transport.adminUrl, path, tls, { member: name, to });
    },
    close: () => undefined,
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
