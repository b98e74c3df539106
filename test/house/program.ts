/**
 * Runs one program of a test stage. Owns: its process group, its deadline, its output, its counts.
 * Promises: when `run` resolves nothing of the group is left; past the deadline the group gets SIGTERM, 5 s later SIGKILL, and the
 * stage fails. Counts come from the last line `N passed, N failed[, N skipped]`; without one the exit code alone cannot pass.
 */
import { type ChildProcess, spawn } from 'node:child_process';

export interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

export interface Program {
  /** Shown to people, and named in the verdict. */
  readonly title: string;
  readonly command: readonly [string, ...string[]];
  /** `lines`: the program prints counts. `exit`: one check, passed when the exit code is 0. */
  readonly counts: 'lines' | 'exit';
}

export interface Outcome {
  readonly counts: Counts;
  readonly skipped: readonly string[];
  /** What the program itself named as failed. */
  readonly failed: readonly string[];
  /** Why it failed although it may have counted otherwise, or null. */
  readonly problem: string | null;
}

const KILL_GRACE_MS = 5_000;
const COUNT_LINE = /^\s*(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: terminal colours are control characters
const COLOURS = /\u001b\[[0-9;]*m/g;

export function parseCounts(output: string): Counts | null {
  for (const line of output.replace(COLOURS, '').split('\n').reverse()) {
    const found = COUNT_LINE.exec(line);
    if (found) return { passed: Number(found[1]), failed: Number(found[2]), skipped: Number(found[3] ?? 0) };
  }
  return null;
}

/** The counts of one program, given how it ended: anything odd is at least one failure. */
export function judge(program: Program, output: string, ended: string | null): Outcome {
  const lines = output.replace(COLOURS, '').split('\n');
  const named = {
    skipped: lines.filter((line) => line.startsWith('SKIPPED ')),
    failed: lines.filter((line) => line.startsWith('FAILED ')),
  };
  if (program.counts === 'exit') {
    return { counts: { passed: ended ? 0 : 1, failed: ended ? 1 : 0, skipped: 0 }, ...named, problem: ended };
  }
  const counts = parseCounts(output);
  if (counts === null) {
    const problem = `${ended ?? 'exit code 0'}, but no line with counts`;
    return { counts: { passed: 0, failed: 1, skipped: 0 }, ...named, problem };
  }
  if (ended !== null && counts.failed === 0) return { counts: { ...counts, failed: 1 }, ...named, problem: ended };
  if (ended === null && counts.failed > 0) return { counts, ...named, problem: 'exit code 0 in spite of failures' };
  if (counts.passed + counts.failed + counts.skipped === 0) {
    return { counts: { ...counts, failed: 1 }, ...named, problem: 'not one test ran' };
  }
  return { counts, ...named, problem: ended };
}

/** What a runner does with its programs beside running them. */
export interface RunnerOptions {
  /** Takes what the program prints; as it comes to this process's own output unless given. */
  readonly write?: (chunk: Buffer, stream: 'stdout' | 'stderr') => void;
  /** The program gets the processors only while nobody else wants them. */
  readonly inIdleTime?: boolean;
}

/** The class of idle processes weighs within one session only: where the kernel groups by session, the session gets the least weight there is, too. */
const IN_IDLE_TIME = [
  'sh',
  '-c',
  '{ echo 19 > /proc/$$/autogroup; } 2> /dev/null; exec chrt --idle 0 "$@"',
  'sh',
] as const;

export class ProgramRunner {
  readonly #write: NonNullable<RunnerOptions['write']>;
  readonly #inIdleTime: boolean;
  #running: ChildProcess | null = null;
  #interrupted = false;

  constructor({ write, inIdleTime }: RunnerOptions = {}) {
    this.#write = write ?? ((chunk, stream) => process[stream].write(chunk));
    this.#inIdleTime = inIdleTime ?? false;
  }

  /** Ends what runs now; nothing starts afterwards. */
  interrupt(): void {
    this.#interrupted = true;
    signalGroup(this.#running, 'SIGTERM');
  }

  async run(program: Program, deadlineMs: number, directory: string): Promise<Outcome> {
    if (this.#interrupted) return judge(program, '', 'interrupted');
    const [file, ...args] = this.#inIdleTime ? [...IN_IDLE_TIME, ...program.command] : program.command;
    const child = spawn(file, args, { cwd: directory, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#running = child;
    let output = '';
    const collect = (stream: 'stdout' | 'stderr') => (chunk: Buffer) => {
      output += chunk.toString('utf8');
      this.#write(chunk, stream);
    };
    child.stdout.on('data', collect('stdout'));
    child.stderr.on('data', collect('stderr'));
    let late = false;
    const timers = [
      setTimeout(() => {
        late = true;
        signalGroup(child, 'SIGTERM');
      }, deadlineMs),
      setTimeout(() => signalGroup(child, 'SIGKILL'), deadlineMs + KILL_GRACE_MS),
    ];
    const ended = await new Promise<string | null>((resolve) => {
      child.once('error', (error) => resolve(`could not be started: ${error.message}`));
      // `exit`, not `close`: a grandchild that kept our pipe must not outlive the deadline unnoticed.
      child.once('exit', (code, signal) =>
        resolve(code === 0 ? null : signal ? `ended by ${signal}` : `exit code ${code}`),
      );
    });
    for (const timer of timers) clearTimeout(timer);
    // Whatever the program left in its group goes with it.
    signalGroup(child, 'SIGKILL');
    await outputClosed(child);
    this.#running = null;
    const reason = late ? `over its deadline of ${deadlineMs / 1000} s` : ended;
    return judge(program, output, reason);
  }
}

/** True when the group still had a member that could be signalled. */
function signalGroup(child: ChildProcess | null, signal: NodeJS.Signals): boolean {
  if (child?.pid === undefined) return false;
  try {
    process.kill(-child.pid, signal);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

async function outputClosed(child: ChildProcess): Promise<void> {
  const open = [child.stdout, child.stderr].filter((stream) => stream !== null && !stream.closed);
  await Promise.all(open.map((stream) => new Promise((resolve) => stream?.once('close', resolve).resume())));
}
