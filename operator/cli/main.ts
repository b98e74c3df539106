/**
 * The entry of `mailcluster`: finds the command, prints help, turns errors into one line and an exit code (0 fine, 1 a problem, 2 usage).
 * Owns nothing else; each command is in its own file. Tools that belong to another program are started as processes.
 */
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { systemClock } from '../../common/platform/clock.ts';
import { NoCluster } from '../local/cluster.ts';
import { type Command, type CommandContext, UsageError } from './command.ts';
import { memberCommand } from './member.ts';
import { messageCommand, traceCommand } from './messages.ts';
import { resubmitCommand } from './resubmit.ts';
import { PROGRAMS, runCommandWith } from './run.ts';
import { safetyNetCommand } from './safety-net.ts';
import { queueCommand, statusCommand } from './status.ts';
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

const version: Command = {
  summary: 'version of MailCluster and of Node.js',
  help: 'Usage: mailcluster version',
  run: async (_args, context) => {
    const manifest: unknown = JSON.parse(await readFile(fileOf('../../package.json'), 'utf8'));
    context.output.out(`mailcluster ${(manifest as { version: string }).version}, Node.js ${process.version}\n`);
    return 0;
  },
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
  ['validate', validate],
  ['store', storeCommand],
  ['version', version],
]);

function overview(): string {
  const width = Math.max(...[...COMMANDS.keys()].map((name) => name.length));
  const lines = [...COMMANDS].map(([name, command]) => `  ${name.padEnd(width)}  ${command.summary}\n`);
  return `Usage: mailcluster COMMAND [OPTIONS]

Commands:
${lines.join('')}  ${'help'.padEnd(width)}  this text, or "help COMMAND" for one of them

Exit codes: 0 fine, 1 a problem was found or nothing was found, 2 the command line or a file is wrong.
`;
}

async function dispatch(args: readonly string[], context: CommandContext): Promise<number> {
  const [name, ...rest] = args;
  const { out, err } = context.output;
  const asksHelp = name === undefined || name === 'help' || name === '--help' || name === '-h';
  const topic = asksHelp ? rest[0] : name;
  if (topic === undefined) {
    (name === undefined ? err : out)(overview());
    return name === undefined ? 2 : 0;
  }
  const command = COMMANDS.get(topic === '--version' ? 'version' : topic);
  if (command === undefined) {
    err(`mailcluster: no command "${topic}"\n\n${overview()}`);
    return 2;
  }
  if (asksHelp || rest.includes('--help') || rest.includes('-h')) {
    out(`${command.help}\n`);
    return 0;
  }
  try {
    return await command.run(rest, context);
  } catch (error) {
    if (error instanceof UsageError) {
      err(`mailcluster ${topic}: ${error.message}\n\n${command.help}\n`);
      return 2;
    }
    if (error instanceof NoCluster) {
      err(`mailcluster ${topic}: ${error.message}\n`);
      return 1;
    }
    throw error;
  }
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // `mailcluster message list | head`: the reader has seen enough.
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});
process.exitCode = await dispatch(process.argv.slice(2), {
  output: { out: (text) => process.stdout.write(text), err: (text) => process.stderr.write(text) },
  environment: process.env,
  nowMs: () => systemClock.wallMs(),
  pause: (ms) => new Promise((resolve) => systemClock.setTimer(ms, resolve)),
});
