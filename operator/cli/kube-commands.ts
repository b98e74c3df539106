/** The commands of `kubectl mailcluster` by their names. Owns: that list; documents are held to it. */
import { type Commands, versionCommand } from './dispatch.ts';
import { kubeDrainCommand } from './kube-drain.ts';
import { kubeStatusCommand } from './kube-status.ts';
import { kubeMessageCommand } from './messages.ts';
import { queueCommand } from './queues.ts';
import { reportCommand } from './report.ts';
import { resubmitCommand } from './resubmit.ts';
import { routeCommand } from './route.ts';
import { safetyNetCommand } from './safety-net.ts';
import { traceCommand } from './trace.ts';

export const KUBE_COMMANDS: Commands = new Map([
  ['status', kubeStatusCommand],
  ['queue', queueCommand],
  ['message', kubeMessageCommand],
  ['trace', traceCommand],
  ['route', routeCommand],
  ['safety-net', safetyNetCommand],
  ['drain', kubeDrainCommand],
  ['resubmit', resubmitCommand],
  ['report', reportCommand],
  ['version', versionCommand],
]);
