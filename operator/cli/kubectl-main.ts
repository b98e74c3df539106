/** The entry of `kubectl-mailcluster`, which kubectl starts as `kubectl mailcluster`: the commands for a MailCluster on Kubernetes (`dispatch.ts` runs them). */
import { start } from './dispatch.ts';
import { KUBE_COMMANDS } from './kube-commands.ts';
import { KUBE_PLACE } from './kube-place.ts';

await start(KUBE_COMMANDS, KUBE_PLACE);
