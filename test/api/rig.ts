/**
 * What every test of `test/api` starts with. Owns: the connection of one file to the shared control plane, closed with the file, and the
 * namespaces its tests asked for, removed with the test.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, inject, type TestContext } from 'vitest';
import { ApiAccess } from '../cluster/api-access.ts';
import { type ApiCluster, type ApiServerOptions, missingForApiServer, startApiServer } from '../cluster/api-server.ts';
import type { FakeNodes } from '../cluster/fake-nodes.ts';
import { ownNodes } from './operator-rig.ts';

/** Every file of tests is a process of its own, with machines of its own: no pod of another file comes to them, none of its own goes elsewhere. */
export const POOL = randomBytes(4).toString('hex');

/** Skips the test, with the reason, when there is no control plane to be had. */
export type Access = (context: TestContext) => ApiAccess;

/** Once per file, at its top. */
export function sharedAccess(): Access {
  const shared = inject('sharedCluster');
  const access = 'missing' in shared ? null : new ApiAccess(shared);
  afterAll(() => access?.client.close());
  return (context) => {
    if (access === null) return context.skip('missing' in shared ? shared.missing : '');
    return access;
  };
}

/** Once per file, at its top: two machines play the pods of all its tests, and nothing went wrong on them. For who wants pods to behave otherwise. */
export function nodesOfFile(): () => FakeNodes {
  let nodes: FakeNodes | null = null;
  beforeAll(async () => {
    const shared = inject('sharedCluster');
    if (!('missing' in shared)) nodes = await ownNodes(new ApiAccess(shared), POOL);
  });
  afterAll(async () => {
    const failure = nodes?.failure ?? null;
    await nodes?.remove();
    expect(failure).toBe(null);
  });
  return () => {
    if (nodes === null) throw new Error('there are no nodes');
    return nodes;
  };
}

/** For NODE_COMPILE_CACHE of the programs that tests start: the types are taken out of the sources once per run. */
export function compileCache(): string {
  const shared = inject('sharedCluster');
  if ('missing' in shared) throw new Error(shared.missing);
  return join(shared.directory, 'compile-cache');
}

export async function ownNamespace(access: ApiAccess, context: TestContext, prefix = 'test'): Promise<string> {
  const { name, remove } = await access.namespace(prefix, POOL);
  context.onTestFinished(remove);
  return name;
}

/** A control plane that this test may break; gone with the test, its logs kept when the test fails. */
export async function ownApiServer(context: TestContext, options: ApiServerOptions = {}): Promise<ApiCluster> {
  const missing = await missingForApiServer();
  if (missing !== null) return context.skip(missing);
  const cluster = await startApiServer(options);
  context.onTestFailed(() => cluster.keepLogs());
  context.onTestFinished(() => cluster.stop());
  return cluster;
}
