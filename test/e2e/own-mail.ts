/** One MailCluster for the tests of a file, made when the first of them asks for it, gone with the file; settled before each test begins. */
import { afterAll, type TestContext } from 'vitest';
import type { KubeObject } from '../cluster/kube-client.ts';
import { MailOnNodes } from './mail-on-nodes.ts';
import { LONG, type NodeCluster, nodeCluster } from './node-cluster.ts';

export interface Given {
  readonly cluster: NodeCluster;
  readonly mail: MailOnNodes;
}

/** Once per file, at its top; `before`: what has to be there when it is applied. */
export function ownMail(
  spec: KubeObject = {},
  before: (mail: MailOnNodes) => Promise<void> = async () => undefined,
): (context: TestContext) => Promise<Given> {
  const open = nodeCluster();
  let made: Promise<MailOnNodes> | null = null;
  const make = async (cluster: NodeCluster): Promise<MailOnNodes> => {
    await cluster.operator();
    const mail = await MailOnNodes.prepare(cluster);
    await before(mail);
    await mail.apply(spec);
    return mail;
  };
  afterAll(async () => await (await made)?.close(), LONG.deadlineMs);
  return async (context) => {
    const cluster = await open(context);
    made ??= make(cluster);
    const mail = await made;
    await mail.settled();
    await mail.somewhereToGo(4);
    return { cluster, mail };
  };
}

export const since = (startMs: number): string => `${((performance.now() - startMs) / 1000).toFixed(1)} s`;
