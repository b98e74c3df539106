/** The example for install.sh, with the mailbox servers of manifests/stores.yaml: prints what `kubectl apply` takes. */
import { twoSitesExample } from './example.ts';

const items = twoSitesExample({ lmtp: (copy) => `store-${copy}.mail.svc:24` });
console.log(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }, null, 2));
