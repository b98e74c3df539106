/**
 * examples/two-site-dag.yaml for the test cluster: its mailbox servers (manifests/stores.yaml) and its volumes, all else as it stands there. Prints what
 * `kubectl apply` takes.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';

const EXAMPLE = join(import.meta.dirname, '../../examples/two-site-dag.yaml');
const STORAGE = { size: '1Gi', storageClassName: 'local' };

const items = parseAllDocuments(readFileSync(EXAMPLE, 'utf8')).map((document) => {
  const object = document.toJS();
  if (object.kind === 'MailCluster') object.spec.transport = { storage: STORAGE };
  for (const copy of object.spec?.copies ?? []) copy.lmtp = `store-${copy.name}.mail.svc:24`;
  return object;
});
console.log(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }, null, 2));
