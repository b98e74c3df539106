/**
 * What every program with commands does: finds the command, prints help, turns errors into one line and an exit code (0 fine, 1 a problem,
 * 2 usage). Owns nothing else; each command is in its own file.
 */
import { readFile } from 'node:fs/promises';
import { systemClock } from '../../common/platform/clock.ts';
import { NoCluster } from '../local/cluster.ts';
import { type Command, type CommandContext, helpOf, UsageError } from './command.ts';
import type { Place } from './place.ts';

export type Commands = ReadonlyMap<string, Command>;

const fileOf = (relative: string): string => new URL(relative, import.meta.url).pathname;

export const versionCommand: Command = {
  summary: 'version of MailCluster and of Node.js',
  help: 'Usage: mailcluster version',
  run: async (_args, context) => {
    const manifest: unknown = JSON.parse(await readFile(fileOf('../../package.json'), 'utf8'));
    context.output.out(
      `${context.place.program} ${(manifest as { version: string }).version}, Node.js ${process.version}\n`,
    );
    return 0;
  },
};

function overview(commands: Commands, { program }: Place): string {
  const width = Math.max(...[...commands.keys()].map((name) => name.length));
  const lines = [...commands].map(([name, command]) => `  ${name.padEnd(width)}  ${command.summary}\n`);
  return `Usage: ${program} COMMAND [OPTIONS]

Commands:
${lines.join('')}  ${'help'.padEnd(width)}  this text, or "help COMMAND" for one of them

Exit codes: 0 fine, 1 a problem was found or nothing was found, 2 the command line or a file is wrong.
`;
}

/** The exit code. */
export async function dispatch(args: readonly string[], commands: Commands, context: CommandContext): Promise<number> {
  const { place } = context;
  const { program } = place;
  const [name, ...rest] = args;
  const { out, err } = context.output;
  const asksHelp = name === undefined || name === 'help' || name === '--help' || name === '-h';
  const topic = asksHelp ? rest[0] : name;
  if (topic === undefined) {
    (name === undefined ? err : out)(overview(commands, place));
    return name === undefined ? 2 : 0;
  }
  const command = commands.get(topic === '--version' ? 'version' : topic);
  if (command === undefined) {
    err(`${program}: no command "${topic}"\n\n${overview(commands, place)}`);
    return 2;
  }
  if (asksHelp || rest.includes('--help') || rest.includes('-h')) {
    out(`${helpOf(command, place)}\n`);
    return 0;
  }
  try {
    return await command.run(rest, context);
  } catch (error) {
    if (error instanceof UsageError) {
      err(`${program} ${topic}: ${error.message}\n\n${helpOf(command, place)}\n`);
      return 2;
    }
    if (error instanceof NoCluster) {
      err(`${program} ${topic}: ${error.message}\n`);
      return 1;
    }
    throw error;
  }
}

/** With the arguments and streams of this process. */
export async function start(commands: Commands, place: Place): Promise<void> {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // `mailcluster message list | head`: the reader has seen enough.
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  // Of commands only (operator/cli/mailcluster): programs that they start are as anybody else starts them.
  delete process.env.NODE_COMPILE_CACHE;
  await using ending = new AsyncDisposableStack();
  process.exitCode = await dispatch(process.argv.slice(2), commands, {
    output: { out: (text) => process.stdout.write(text), err: (text) => process.stderr.write(text) },
    environment: process.env,
    nowMs: () => systemClock.wallMs(),
    pause: (ms) => new Promise((resolve) => systemClock.setTimer(ms, resolve)),
    interruption: () => {
      const controller = new AbortController();
      process.once('SIGINT', () => controller.abort());
      return controller.signal;
    },
    place,
    atEnd: (close) => ending.defer(close),
  });
}
