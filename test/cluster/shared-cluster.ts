/**
 * One control plane for the whole run of `test/api`: started before its first file, ended after its last (vitest calls `setup`). Owns:
 * that cluster, with the CRDs of `crds/` installed. When programs are missing, every test is told so (`sharedAccess`) and skips itself.
 * Logs are kept when a test failed. Tests share it by using namespaces of their own and by not breaking it.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { parse } from 'yaml';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import type { AccessParts, ApiAccess } from './api-access.ts';
import { missingForApiServer, startApiServer } from './api-server.ts';
import type { KubeObject } from './kube-client.ts';

export type SharedCluster = AccessParts | { readonly missing: string };

declare module 'vitest' {
  export interface ProvidedContext {
    sharedCluster: SharedCluster;
  }
}

const ESTABLISHED_MS = 60_000;

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const missing = await missingForApiServer();
  if (missing !== null) {
    project.provide('sharedCluster', { missing });
    return async () => undefined;
  }
  const cluster = await startApiServer();
  try {
    await installCrds(cluster);
  } catch (error) {
    await cluster.stop();
    throw error;
  }
  project.provide('sharedCluster', cluster.parts);
  return async () => {
    if (project.vitest.state.getCountOfFailedTests() > 0) cluster.keepLogs();
    await cluster.stop();
  };
}

export async function readCrds(): Promise<readonly KubeObject[]> {
  const names = (await readdir(join(ROOT, 'crds'))).filter((name) => name.endsWith('.yaml')).sort();
  const texts = await Promise.all(names.map((name) => readFile(join(ROOT, 'crds', name), 'utf8')));
  return texts.map((text) => parse(text) as KubeObject);
}

/** Applied, established, and served: a kind answers a moment after its CRD says so. */
export async function installCrds({ client }: ApiAccess): Promise<void> {
  for (const crd of await readCrds()) {
    const { name } = (await client.mustApply(crd, { fieldManager: 'mailcluster-crds' })).metadata;
    const { group, names, versions } = crd.spec;
    await until(
      `${name} to be served`,
      async () => (await client.call('GET', `/apis/${group}/${versions[0].name}/${names.plural}`)).status === 200,
      { deadlineMs: ESTABLISHED_MS, everyMs: 50 },
    );
  }
}
