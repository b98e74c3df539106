/** The entry of `mailcluster`: its commands (`dispatch.ts` runs them). Tools that belong to another program are started as processes. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { systemRandom } from '../../common/platform/random.ts';
import type { Command } from './command.ts';
import { start, versionCommand } from './dispatch.ts';
import { LOCAL_PLACE } from './local-place.ts';
import { memberCommand } from './member.ts';
import { messageCommand } from './messages.ts';
import { passwordCommandWith } from './password.ts';
import { queueCommand } from './queues.ts';
import { resubmitCommand } from './resubmit.ts';
import { routeCommand } from './route.ts';
import { PROGRAMS, runCommandWith } from './run.ts';
import { safetyNetCommand } from './safety-net.ts';
import { statusCommand } from './status.ts';
import { traceCommand } from './trace.ts';
import { VALIDATE_HELP, validateCommand } from './validate.ts';

const fileOf = (relative: string): string => new URL(relative, import.meta.url).pathname;

const storeCommand: Command = {
  summary: 'inspect, verify or export a queue database directory (reads only)',
  help: `Usage: mailcluster store inspect|verify|export DIR [options]

Examples:
  mailcluster store inspect .state/transports/NAME/queue
  mailcluster store verify .state/transports/NAME/queue`,
  run: (args) =>
    new Promise((resolve, reject) => {
      const child = spawn(process.execPath, [fileOf('../../transport/inspect.ts'), ...args], { stdio: 'inherit' });
      child.once('error', reject);
      child.once('exit', (code) => resolve(code ?? 1));
    }),
};

const validate: Command = {
  summary: 'check resource files: what is wrong, where, and what would be right',
  help: VALIDATE_HELP.trimEnd(),
  run: (args) => validateCommand(args),
};

const COMMANDS: ReadonlyMap<string, Command> = new Map([
  ['run', runCommandWith(PROGRAMS)],
  ['status', statusCommand],
  ['queue', queueCommand],
  ['message', messageCommand],
  ['safety-net', safetyNetCommand],
  ['member', memberCommand],
  ['resubmit', resubmitCommand],
  ['trace', traceCommand],
  ['route', routeCommand],
  ['validate', validate],
  ['store', storeCommand],
  ['password', passwordCommandWith(() => readFileSync(0, 'utf8'), systemRandom)],
  ['version', versionCommand],
]);

await start(COMMANDS, LOCAL_PLACE);
