/**
 * Where the built programs of the test cluster are, or what is missing. Owns: no state; `build.sh` decides the directory and builds.
 * Never builds by itself: that takes minutes and is a step of its own (`make cluster-build`, and `test/run.ts` before its stage `api`).
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

export const CONTROL_PLANE = [
  'etcd',
  'kube-apiserver',
  'kube-controller-manager',
  'kube-scheduler',
  'kubectl',
] as const;
/** What a node needs beside them. */
export const NODE_PROGRAMS = ['kubelet', 'kube-proxy', 'coredns', 'pause', 'helm'] as const;
export type ProgramName = (typeof CONTROL_PLANE)[number];

export type Programs = { readonly [Name in ProgramName]: string } | { readonly missing: string };

const run = promisify(execFile);

/** Absolute paths, all of them there; or what a person has to do. */
export async function findPrograms(): Promise<Programs> {
  const directory = await programDirectory();
  if (typeof directory !== 'string') return directory;
  const absent = CONTROL_PLANE.filter((name) => !existsSync(join(directory, name)));
  if (absent.length > 0) return { missing: `${absent.join(', ')} not built yet: make cluster-build` };
  if (!['/usr/bin/setpriv', '/bin/setpriv'].some(existsSync)) return { missing: 'needs setpriv of util-linux' };
  const paths = CONTROL_PLANE.map((name) => [name, join(directory, name)] as const);
  return Object.fromEntries(paths) as { [Name in ProgramName]: string };
}

/** Built beside them; needs no control plane. */
export async function findHelm(): Promise<string | { readonly missing: string }> {
  const directory = await programDirectory();
  if (typeof directory !== 'string') return directory;
  const program = join(directory, 'helm');
  return existsSync(program) ? program : { missing: 'helm not built yet: make cluster-build' };
}

/** The controllers of cert-manager: built on their own, since they share nothing with the rest. */
export async function findCertManager(): Promise<string | { readonly missing: string }> {
  const directory = await programDirectory('cert-manager');
  if (typeof directory !== 'string') return directory;
  const program = join(directory, 'cert-manager');
  return existsSync(program) ? program : { missing: 'not built yet: test/cluster/build.sh cert-manager' };
}

export async function programDirectory(
  what: 'all' | 'cert-manager' = 'all',
): Promise<string | { readonly missing: string }> {
  try {
    const { stdout } = await run(join(import.meta.dirname, 'build.sh'), ['--where', what]);
    return stdout.trim();
  } catch (error) {
    const said = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : String(error);
    return {
      missing:
        said
          .split('\n')
          .at(-1)
          ?.replace(/^build\.sh: /, '') ?? 'build.sh failed',
    };
  }
}
