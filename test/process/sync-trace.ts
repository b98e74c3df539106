/**
 * What processes asked the kernel for, by strace: attaching to running ones, parsing, and the question of this project - was the message
 * synced on two disks before the 250 went out? Owns: the strace processes. The judgement is pure, so that it can be shown to fail.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { until } from '../house/until.ts';
import { commandIn, ensurePackage } from '../rigs/packages.ts';

/** One system call of one process; times are seconds since the epoch. */
export interface SystemCall {
  readonly name: string;
  readonly startedAt: number;
  readonly endedAt: number;
  /** Everything between the brackets: descriptors come with their files (`-y`). */
  readonly args: string;
  readonly result: number;
}

const CALLS =
  'fdatasync,fsync,write,writev,pwrite64,pwritev,pwritev2,read,recvfrom,sendto,sendmsg,recvmsg,io_uring_enter';

export class Strace {
  readonly #child: ChildProcess;
  readonly #file: string;
  readonly #ended: Promise<void>;

  private constructor(child: ChildProcess, file: string) {
    this.#child = child;
    this.#file = file;
    this.#ended = new Promise((resolve) => child.once('exit', () => resolve()));
  }

  /** Resolves once every thread of `pid` is traced. A string says why it cannot be done here. */
  static async attach(pid: number, file: string): Promise<Strace | string> {
    const prefix = await ensurePackage('strace');
    if ('missing' in prefix) return prefix.missing;
    const options = ['-f', '-ttt', '-T', '-y', '-xx', '-s', '16384', '-e', `trace=${CALLS}`];
    const command = commandIn(prefix, ['strace', ...options, '-o', file, '-p', String(pid)], false);
    const child = spawn(command.file, command.args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.on('error', (error) => {
      said += error.message;
    });
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    const strace = new Strace(child, file);
    const outcome = await until(
      `strace to hold process ${pid}`,
      async () => {
        if (child.pid === undefined || child.exitCode !== null) return 'ended' as const;
        const status = await readFile(`/proc/${pid}/status`, 'utf8');
        return /^TracerPid:\t[1-9]/m.test(status) && /attached/.test(said) ? ('attached' as const) : null;
      },
      { deadlineMs: 15_000 },
    );
    return outcome === 'attached' ? strace : `strace -p ${pid}: ${said.trim()}`;
  }

  /** Lets the process go and reads what was seen. */
  async detach(): Promise<readonly SystemCall[]> {
    await this[Symbol.asyncDispose]();
    return parseStrace(await readFile(this.#file, 'utf8'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGINT');
    await this.#ended;
  }
}

const LINE = /^(\d+) +(\d+\.\d+) (.*)$/;
const WHOLE = /^(\w+)\((.*)\) += (-?\d+|\?)(?:[^<]*)<(\d+\.\d+)>$/;
const UNFINISHED = /^(\w+)\((.*) <unfinished \.\.\.>$/;
const RESUMED = /^<\.\.\. (\w+) resumed>(.*)\) += (-?\d+|\?)(?:[^<]*)<(\d+\.\d+)>$/;

/** Calls interrupted by those of another thread are put together again; lines of another kind (signals, exits) are left out. */
export function parseStrace(text: string): readonly SystemCall[] {
  const open = new Map<string, { readonly startedAt: number; readonly args: string }>();
  const calls: SystemCall[] = [];
  for (const line of text.split('\n')) {
    const [, thread = '', time = '', what = ''] = LINE.exec(line) ?? [];
    const at = Number(time);
    const whole = WHOLE.exec(what);
    const begun = UNFINISHED.exec(what);
    const resumed = RESUMED.exec(what);
    if (whole !== null) {
      const [, name = '', args = '', result, took] = whole;
      calls.push({ name, startedAt: at, endedAt: at + Number(took), args, result: Number(result) });
    } else if (begun !== null) {
      open.set(thread, { startedAt: at, args: begun[2] ?? '' });
    } else if (resumed !== null) {
      const [, name = '', rest = '', result, took] = resumed;
      const first = open.get(thread);
      open.delete(thread);
      const startedAt = first?.startedAt ?? at - Number(took);
      calls.push({
        name,
        startedAt,
        endedAt: startedAt + Number(took),
        args: `${first?.args ?? ''}${rest}`,
        result: Number(result),
      });
    }
  }
  return calls.sort((a, b) => a.endedAt - b.endedAt);
}

/** `-xx` writes every byte of every string as \xNN, paths too. */
export const hex = (text: string): string => Buffer.from(text, 'latin1').toString('hex').replace(/../g, '\\x$&');

/** The file behind the first descriptor of a call, or null. */
export function fileOf(call: SystemCall): string | null {
  const path = /^\d+<([^>]*)>/.exec(call.args)?.[1] ?? null;
  return path === null ? null : Buffer.from(path.replaceAll('\\x', ''), 'hex').toString() || path;
}

const isWrite = (call: SystemCall): boolean => /^(p?writev?2?|pwrite64|sendto|sendmsg)$/.test(call.name);
const isRead = (call: SystemCall): boolean => /^(read|recvfrom|recvmsg)$/.test(call.name);

export interface Synced {
  readonly member: string;
  /** The segment file. */
  readonly file: string;
  readonly writtenAt: number;
  readonly syncedAt: number;
}

/** CRLF.CRLF in one read, or the rest of it alone in a read of its own: the network may cut anywhere. */
function readsEndOfData(args: string): boolean {
  const end = hex('\r\n.\r\n');
  return args.includes(end) || ['\n.\r\n', '.\r\n', '\r\n', '\n'].some((rest) => args.includes(`"${hex(rest)}"`));
}

export interface Evidence {
  readonly endReadAt: number;
  readonly repliedAt: number;
  readonly synced: readonly Synced[];
}

export interface Traces {
  readonly frontend: readonly SystemCall[];
  readonly transports: ReadonlyMap<string, { readonly calls: readonly SystemCall[]; readonly directory: string }>;
}

/**
 * From the kernel's point of view, for one message in a quiet system: the front end read the end of data; then, in each transport, bytes
 * with `mark` (in the message) were in a file of its queue database and an fdatasync of that file, begun after that write, returned 0;
 * only then the front end wrote the 250 that names `id`. A string is what is missing.
 */
export function judge(traces: Traces, mark: string, id: string): Evidence | string {
  const replied = traces.frontend.find(
    (call) => isWrite(call) && call.args.includes(hex('250 2.0.0 ')) && call.args.includes(hex(id)),
  );
  if (replied === undefined) return 'the front end wrote no 250';
  const ends = traces.frontend.filter(
    (call) => isRead(call) && call.endedAt <= replied.startedAt && readsEndOfData(call.args),
  );
  const end = ends.at(-1);
  if (end === undefined) return 'the front end read no end of data before its 250';
  const synced: Synced[] = [];
  for (const [member, { calls, directory }] of traces.transports) {
    const inStore = (call: SystemCall): boolean => fileOf(call)?.startsWith(`${directory}/`) === true;
    const body = calls.find((call) => isWrite(call) && inStore(call) && call.args.includes(hex(mark)));
    if (body === undefined) return `${member} did not write the message into its queue database`;
    // The commit of the message follows the end of data: only a sync begun after that covers it.
    const sync = calls.find(
      (call) =>
        call.name === 'fdatasync' &&
        call.result === 0 &&
        fileOf(call) === fileOf(body) &&
        call.startedAt >= Math.max(body.endedAt, end.endedAt) &&
        call.endedAt <= replied.startedAt,
    );
    if (sync === undefined) return `${member} synced nothing between the end of data and the 250`;
    synced.push({ member, file: fileOf(body) ?? '', writtenAt: body.endedAt, syncedAt: sync.endedAt });
  }
  return { endReadAt: end.endedAt, repliedAt: replied.startedAt, synced };
}
