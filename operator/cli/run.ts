/**
 * `mailcluster run`: the command around `operator/local/runner.ts`. Owns: its options, the signals, the watch on the files, the lines a
 * person sees. Promise: SIGTERM and SIGINT stop every process; a second one kills them; SIGHUP reads the files again. Exit 0 after a
 * stop that was asked for, 1 when a process did not come up, 2 when something given was wrong (then nothing was started).
 */
import { type FSWatcher, readFileSync, statSync, watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import { systemClock, type Timer } from '../../common/platform/clock.ts';
import { nodeFiles } from '../../common/platform/node-files.ts';
import { systemRandom } from '../../common/platform/random.ts';
import type { ProgramTable } from '../local/child-configs.ts';
import type { ListenOption } from '../local/plan.ts';
import { parseRunFile } from '../local/run-file.ts';
import { Runner } from '../local/runner.ts';
import { type Command, type CommandContext, parse, UsageError } from './command.ts';
import { table } from './output.ts';

const HELP = `Usage: mailcluster run -f FILE... [--state DIR] [--listen NAME=HOST:PORT]... [--watch]

Runs the MailCluster of the files on this machine: every transport, front end and embedded store is a process of its own.
Stops them all on Ctrl-C or SIGTERM. SIGHUP reads the files again: policies and added members apply at once.

  -f, --file FILE          resources (YAML or JSON), a directory of them, or - for stdin; may be repeated
  --state DIR              where queues, certificates and logs live ($MAILCLUSTER_STATE, else ./.state); never emptied
  --listen NAME=HOST:PORT  where listener NAME is bound; given again it is for the next front end; FRONTEND/NAME= is exact.
                           Without it each front end gets a free port of 127.0.0.1 (see run.json)
  --watch                  read the files again whenever they change

DIR/run.json says where everything is (docs/run-json.md). Paths of maildir: copies are relative to DIR.

Examples:
  mailcluster run -f examples/two-site-dag.yaml
  mailcluster run -f cluster.yaml -f databases/ --state /var/lib/mailcluster --listen smtp=127.0.0.1:2525 --watch`;

/** Files of a set are saved one after the other. */
const SETTLE_MS = 200;
const LISTEN = /^(?:([a-z0-9.-]+)\/)?([a-z0-9-]+)=(.+):(\d{1,5})$/i;

export function parseListen(option: string): ListenOption {
  const match = LISTEN.exec(option);
  const port = Number(match?.[4]);
  if (match === null || port > 65_535) {
    throw new UsageError(`--listen ${option}: expected NAME=HOST:PORT, for example smtp=127.0.0.1:2525`);
  }
  const host = (match[3] ?? '').replace(/^\[(.*)\]$/, '$1');
  return { frontend: match[1] ?? null, name: match[2] ?? '', host, port };
}

const list = (value: unknown): readonly string[] => (Array.isArray(value) ? value.map(String) : []);

const fileOf = (relative: string): string => new URL(relative, import.meta.url).pathname;

/** The real programs. */
export const PROGRAMS: ProgramTable = {
  transport: fileOf('../../transport/main.ts'),
  frontend: fileOf('../../frontend/main.ts'),
  store: fileOf('../maildir/main.ts'),
};

/** Calls `changed` when a file, or a file of a directory, was written or replaced. */
function watchFiles(files: readonly string[], changed: () => void, failed: (reason: string) => void): () => void {
  let timer: Timer | null = null;
  const soon = (): void => {
    timer?.cancel();
    timer = systemClock.setTimer(SETTLE_MS, changed);
  };
  const watchers = files.map((file): FSWatcher => {
    const directory = statSync(file).isDirectory() ? file : dirname(file);
    const only = directory === file ? null : basename(file);
    // The directory, not the file: editors replace files, mounted ones are links that move.
    const watcher = watch(directory, (_event, name) => {
      if (only === null || name === null || name === only || name.startsWith('..')) soon();
    });
    watcher.on('error', (error) => failed(error.message));
    return watcher;
  });
  return () => {
    timer?.cancel();
    for (const watcher of watchers) watcher.close();
  };
}

function announce(runner: Runner, state: string, context: CommandContext): void {
  const run = parseRunFile(JSON.parse(readFileSync(runner.runFile, 'utf8')));
  if (typeof run === 'string') throw new Error(`run.json: ${run}`);
  const { out } = context.output;
  out(
    table(
      [
        { title: 'LISTENER', value: (row) => row.name },
        { title: 'ADDRESS', value: (row) => `${row.host}:${row.port}` },
        { title: 'FRONT END', value: (row) => row.frontend },
      ],
      run.listeners,
    ),
  );
  const counts = `${run.transports.length} transports, ${run.frontends.length} front ends, ${run.stores.length} stores`;
  out(`\nMailCluster ${run.cluster} is ready: ${counts}. Everything about it: ${runner.runFile}\n`);
  out(`Try: mailcluster status --state ${state}\n`);
}

export const runCommandWith = (programs: ProgramTable): Command => ({
  summary: 'run a cluster on this machine',
  help: HELP,
  run: async (args, context) => {
    const repeated = { type: 'string', multiple: true } as const;
    const options = { file: { ...repeated, short: 'f' }, listen: repeated, watch: { type: 'boolean' } } as const;
    const parsed = parse(args, context, options, [0, 0]);
    const files = list(parsed.values.file);
    const watching = parsed.values.watch === true;
    if (files.length === 0) throw new UsageError('-f FILE is missing');
    if (watching && files.includes('-')) throw new UsageError('--watch cannot watch stdin');
    let stdin: string | null = null;
    const readStdin = (): string => {
      stdin ??= readFileSync(0, 'utf8');
      return stdin;
    };
    const say = (line: string): void => context.output.err(`mailcluster: ${line}\n`);
    const runner = new Runner({
      files,
      state: parsed.common.state,
      listen: list(parsed.values.listen).map(parseListen),
      programs,
      clock: systemClock,
      random: systemRandom,
      disk: nodeFiles,
      readStdin,
      say,
    });
    return await supervise(runner, { files, watching, state: parsed.common.state }, say, context);
  },
});

async function supervise(
  runner: Runner,
  what: { readonly files: readonly string[]; readonly watching: boolean; readonly state: string },
  say: (line: string) => void,
  context: CommandContext,
): Promise<number> {
  process.on('exit', () => runner.killChildren());
  let signals = 0;
  const stopRequested = new Promise<void>((resolve) => {
    const stop = (signal: string): void => {
      signals++;
      if (signals > 1) process.exit(1);
      say(`${signal}: stopping (once more to kill)`);
      resolve();
    };
    process.on('SIGTERM', () => stop('SIGTERM'));
    process.on('SIGINT', () => stop('SIGINT'));
  });
  const reload = (why: string): void => {
    runner.reload().then(
      (refused) =>
        say(refused === null ? `${why}: read the files again` : `${why}: nothing changed\n${refused.trimEnd()}`),
      (error: unknown) => say(`${why}: nothing changed: ${String(error)}`),
    );
  };
  process.on('SIGHUP', () => reload('SIGHUP'));
  const starting = runner.start();
  const started = await Promise.race([starting, stopRequested.then(() => null)]);
  if (started === null) {
    await runner.stop();
    return 0;
  }
  if (!started.ok) {
    context.output.err(started.text);
    return started.exitCode;
  }
  announce(runner, what.state, context);
  const unwatch = what.watching
    ? watchFiles(
        what.files,
        () => reload('files changed'),
        (reason) => say(`files are no longer watched: ${reason}`),
      )
    : () => undefined;
  await stopRequested;
  unwatch();
  await runner.stop();
  return 0;
}
