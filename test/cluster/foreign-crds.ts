/**
 * CRDs of others as they publish them: files of Go modules pinned here by version and hash, fetched once into a cache outside the checkout. Owns: that
 * cache. Says what is missing where neither it nor Go and its module proxy are there.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { until } from '../house/until.ts';
import type { ApiAccess } from './api-access.ts';
import type { KubeObject } from './kube-client.ts';

interface Source {
  readonly module: string;
  /** As go.sum has it. */
  readonly sum: string;
  readonly directory: string;
  readonly files: readonly string[];
}

const SOURCES: readonly Source[] = [
  {
    module: 'github.com/prometheus-operator/prometheus-operator@v0.92.1',
    sum: 'h1:rHWuFo6SVya4FBSCNg2DCzyc4xAv54zk3eDTzp5mQZc=',
    directory: 'example/prometheus-operator-crd',
    files: ['podmonitors', 'prometheusrules', 'servicemonitors'].map((name) => `monitoring.coreos.com_${name}.yaml`),
  },
  {
    module: 'github.com/cert-manager/cert-manager@v1.18.2',
    sum: 'h1:H2P75ycGcTMauV3gvpkDqLdS3RSXonWF2S49QGA1PZE=',
    directory: 'deploy/crds',
    files: ['certificates', 'certificaterequests', 'clusterissuers', 'issuers'].map((name) => `crd-${name}.yaml`),
  },
];
const FETCH_MS = 120_000;
const SERVED_MS = 60_000;

/** By name (`podmonitors.monitoring.coreos.com`), or what is missing. */
export async function foreignCrds(): Promise<ReadonlyMap<string, KubeObject> | { readonly missing: string }> {
  const found = new Map<string, KubeObject>();
  for (const source of SOURCES) {
    const directory = await fetched(source);
    if (typeof directory !== 'string') return directory;
    for (const file of source.files) {
      const crd = parse(await readFile(join(directory, file), 'utf8')) as KubeObject;
      found.set(crd.metadata.name, crd);
    }
  }
  return found;
}

/** Served, too: a kind answers a moment after its CRD was taken. */
export async function installCrd({ client }: ApiAccess, crd: KubeObject): Promise<void> {
  const { apiVersion, kind, spec } = crd;
  const { name } = crd.metadata;
  // Its labels may be templates of a chart.
  await client.mustApply({ apiVersion, kind, metadata: { name }, spec }, { fieldManager: 'somebody-else' });
  const { group, names, versions } = spec;
  const path = `/apis/${group}/${versions[0].name}/${names.plural}`;
  const isServed = async (): Promise<boolean> => (await client.call('GET', path)).status === 200;
  await until(`${name} to be served`, isServed, { deadlineMs: SERVED_MS, everyMs: 50 });
}

async function fetched({ module, sum, directory, files }: Source): Promise<string | { readonly missing: string }> {
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'mailcluster');
  const key = createHash('sha256').update(JSON.stringify({ sum, files })).digest('hex').slice(0, 24);
  const kept = join(cache, `crds-${key}`);
  const isKept = await Promise.all(files.map((file) => readFile(join(kept, file)))).then(
    () => true,
    () => false,
  );
  if (isKept) return kept;
  const said = await download(module);
  if (typeof said === 'string') return { missing: said };
  if (said.Sum !== sum) throw new Error(`${module} is ${said.Sum}, wanted ${sum}`);
  const making = `${kept}.${process.pid}`;
  await mkdir(making, { recursive: true });
  for (const file of files) await copyFile(join(said.Dir, directory, file), join(making, file));
  // Whole or not at all; another process may have been faster.
  await rename(making, kept).catch(() => rm(making, { recursive: true }));
  return kept;
}

async function download(module: string): Promise<{ readonly Dir: string; readonly Sum: string } | string> {
  try {
    const { stdout } = await promisify(execFile)('go', ['mod', 'download', '-json', module], {
      timeout: FETCH_MS,
      env: { ...process.env, GOFLAGS: '-mod=mod', GOTOOLCHAIN: 'auto', GOWORK: 'off' },
    });
    return JSON.parse(stdout);
  } catch (error) {
    const why = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : '';
    return `cannot fetch the CRDs of ${module} with go mod download: ${why || (error as Error).message}`;
  }
}
