/**
 * One cluster of real kubelets for the whole run of `test/e2e`: three nodes in three zones, up before its first file and down after its last (vitest calls
 * `setup`), with the image of this checkout in every node. When this machine cannot do it every test is told so and skips itself. Fails when anything is left on the
 * machine afterwards.
 */
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import process from 'node:process';
import { promisify } from 'node:util';
import type { TestProject } from 'vitest/node';
import { clusterScript, HeldCluster, type HeldParts, missingForNodes } from '../cluster/held-cluster.ts';
import { ROOT } from '../house/sources.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    nodeCluster: HeldParts | { readonly missing: string };
  }
}

export const IMAGE = 'localhost/mailcluster:e2e';
const NAME = 'e2e';
/** A cluster that somebody has up (`CLUSTER_NAME=NAME make cluster-up`) and wants to keep: tests of one file again and again. */
const OWN = process.env.MAILCLUSTER_E2E_ON ?? null;
const OPTIONS = ['--zones', 'west-1,west-2,central-1'];

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const missing = await missingForNodes();
  if (missing !== null) {
    console.error(`\nSKIPPED the cluster suite: ${missing}\n`);
    project.provide('nodeCluster', { missing });
    return async () => undefined;
  }
  if (OWN !== null) {
    const parts = { name: OWN, directory: `/var/lib/mailcluster-${OWN}` };
    await loadImage(parts);
    project.provide('nodeCluster', parts);
    return async () => undefined;
  }
  const held = await HeldCluster.start(NAME, OPTIONS);
  const hasFailed = (): boolean => project.vitest.state.getCountOfFailedTests() > 0;
  try {
    await loadImage(held.parts);
  } catch (error) {
    await held.end({ keep: true });
    throw error;
  }
  project.provide('nodeCluster', held.parts);
  return () => held.end({ keep: hasFailed() });
}

/** As `make image` makes it, into every node. */
async function loadImage({ name, directory }: HeldParts): Promise<void> {
  const startMs = performance.now();
  const archive = join(directory, 'images/mailcluster.tar');
  await mkdir(join(directory, 'images'), { recursive: true });
  const args = [join(ROOT, 'charts/image/main.ts'), '--out', archive, '--reference', IMAGE];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  await clusterScript(name, 'images.sh', ['load', archive]);
  // Pods reach mailbox servers on this machine, and it reaches Services through the node that no test breaks.
  await clusterScript(name, 'faults.sh', ['gateway', 'n3']);
  console.log(`image made and in every node: ${((performance.now() - startMs) / 1000).toFixed(1)} s\n${stdout.trim()}`);
}
