/**
 * examples/two-site-dag.yaml as the test cluster can run it: other mailbox servers, local volumes, and what a test wants otherwise; all else as it
 * stands there. Owns nothing.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { ROOT } from '../house/sources.ts';
import type { KubeObject } from './kube-client.ts';

const STORAGE = { size: '1Gi', storageClassName: 'local' };
/** Pods that ask for nothing have two shares of a node's 2,048: beside a compiler on this machine they would stand still. */
const RESOURCES = { requests: { cpu: '200m' } };

export interface ExampleOptions {
  /** HOST:PORT of the mailbox server with that copy of the database. */
  readonly lmtp: (copy: string) => string;
  /** Over the MailCluster's own. */
  readonly spec?: KubeObject;
}

export function twoSitesExample({ lmtp, spec = {} }: ExampleOptions): readonly KubeObject[] {
  const text = readFileSync(join(ROOT, 'examples/two-site-dag.yaml'), 'utf8');
  return parseAllDocuments(text).map((document) => {
    const object = document.toJS() as KubeObject;
    if (object.kind === 'MailCluster')
      object.spec = {
        ...object.spec,
        transport: { storage: STORAGE, resources: RESOURCES },
        frontend: { ...object.spec.frontend, resources: RESOURCES },
        ...spec,
      };
    for (const copy of object.spec?.copies ?? []) copy.lmtp = lmtp(copy.name);
    return object;
  });
}
