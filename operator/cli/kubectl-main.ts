/** The entry of `kubectl-mailcluster`, which kubectl starts as `kubectl mailcluster`: the commands for a MailCluster on Kubernetes (`dispatch.ts` runs them). */
import { type Commands, start, versionCommand } from './dispatch.ts';
import { kubeDrainCommand } from './kube-drain.ts';
import { KUBE_PLACE } from './kube-place.ts';
import { kubeStatusCommand } from './kube-status.ts';
import { messageLookCommand, traceCommand } from './messages.ts';
import { reportCommand } from './report.ts';
import { resubmitCommand } from './resubmit.ts';
import { safetyNetCommand } from './safety-net.ts';
import { queueCommand } from './status.ts';

const COMMANDS: Commands = new Map([
  ['status', kubeStatusCommand],
  ['queue', queueCommand],
  ['message', messageLookCommand],
  ['trace', traceCommand],
  ['safety-net', safetyNetCommand],
  ['drain', kubeDrainCommand],
  ['resubmit', resubmitCommand],
  ['report', reportCommand],
  ['version', versionCommand],
]);

await start(COMMANDS, KUBE_PLACE);
