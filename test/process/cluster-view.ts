/**
 * A running MailCluster as a test reads it: through the documented interfaces only (run.json, metrics, admin API, Maildir, `mailcluster
 * store inspect`). Owns nothing but the list of pids it has seen; who starts and stops the processes is said by those who extend it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Target } from '../../examples/demo/smtp-connection.ts';
import { gather, openCluster } from '../../operator/local/cluster.ts';
import { parseRunFile, type RunFile } from '../../operator/local/run-file.ts';
import { storeCommand } from '../../transport/inspect.ts';
import type { TrackingRecord } from '../../transport/runtime/tracking-api.ts';
import type { TransportStatus } from '../../transport/runtime/view.ts';
import { until } from '../house/until.ts';
import type { Delivered, LedgerEntry, StoredCopyView } from './ledger.ts';

export class ClusterView {
  readonly directory: string;
  readonly state: string;
  readonly maildirs: string;
  readonly resourceFile: string;
  /** Every pid ever seen in run.json: what clean-up must find gone. */
  protected readonly pids = new Set<number>();

  constructor(directory: string) {
    this.directory = directory;
    this.state = join(directory, 'state');
    this.maildirs = join(directory, 'maildirs');
    this.resourceFile = join(directory, 'cluster.yaml');
  }

  /** Last words of those who start the processes, for failure messages. */
  get output(): string {
    return '';
  }

  get runFilePath(): string {
    return join(this.state, 'run.json');
  }

  async runFile(): Promise<RunFile> {
    const text = await readFile(this.runFilePath, 'utf8');
    const file = parsed(text);
    for (const { pid } of [...file.frontends, ...file.transports, ...file.stores]) if (pid !== null) this.pids.add(pid);
    return file;
  }

  /** Ends of the logs of the processes: the directory is gone when somebody reads the failure. */
  async lastWords(): Promise<string> {
    const directory = join(this.state, 'logs');
    const names = existsSync(directory) ? await readdir(directory) : [];
    const ends = names.map(
      async (name) => `--- ${name}\n${(await readFile(join(directory, name), 'utf8')).slice(-1_000)}`,
    );
    return (await Promise.all(ends)).join('\n');
  }

  /** Connections between members, and from front ends to transports they may choose, that are missing now. */
  async missingConnections(): Promise<number> {
    const { transports, frontends } = await this.runFile();
    const known = await Promise.all(frontends.map(({ metricsUrl }) => transportsAvailable(metricsUrl)));
    const wanted = peersOf(transports) + transports.length * frontends.length;
    return wanted - known.reduce((sum, count) => sum + count, await this.total('mailcluster_peer_up'));
  }

  /** run.json says that every process serves; they also have to find each other before the first message is not answered 451. */
  async connected(): Promise<void> {
    await until(
      'every process to know every other',
      async () => {
        const { transports, frontends } = await this.runFile();
        const known = frontends.map(({ metricsUrl }) => transportsAvailable(metricsUrl));
        if ((await Promise.all(known)).some((count) => count !== transports.length)) return false;
        return (await this.total('mailcluster_peer_up')) === peersOf(transports);
      },
      { deadlineMs: 30_000 },
    );
  }

  /** Waits until every front end has at least two transports to choose from; after the deadline it goes on all the same. */
  async somewhereToGo(deadlineMs: number): Promise<void> {
    const open = async (): Promise<boolean> => {
      const { frontends } = await this.runFile();
      const known = await Promise.all(frontends.map(({ metricsUrl }) => transportsAvailable(metricsUrl)));
      return known.every((count) => count >= 2);
    };
    await until('transports to choose from', open, { deadlineMs, everyMs: 100 }).catch(() => undefined);
  }

  /** Where to send; a snapshot, read it again after a kill. */
  targets(): readonly Target[] {
    return parsed(readFileSync(this.runFilePath, 'utf8')).listeners.map(({ host, port }) => ({
      host,
      port,
    }));
  }

  /** Most memory that the first front end has ever had, in MB. */
  async peakMb(): Promise<number> {
    const [frontend] = (await this.runFile()).frontends;
    const status = await readFile(`/proc/${frontend?.pid}/status`, 'latin1');
    return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) / 1024;
  }

  /** Null while the runner is about to start it again. */
  async pidOf(name: string): Promise<number | null> {
    const { frontends, transports, stores } = await this.runFile();
    const found = [...frontends, ...transports, ...stores].find((one) => one.name === name);
    if (found === undefined) throw new Error(`no process ${name} in run.json`);
    return found.pid;
  }

  /** SIGKILLs a front end or transport by name and returns its pid once it is dead. */
  async kill(name: string): Promise<number> {
    const pid = await this.pidOf(name);
    if (pid === null) throw new Error(`${name} is not running (run.json)`);
    process.kill(pid, 'SIGKILL');
    await until(`death of ${name}`, () => !alive(pid), { deadlineMs: 10_000 });
    return pid;
  }

  /** Waits until run.json names another, living pid for `name`. */
  async restarted(name: string, oldPid: number): Promise<void> {
    await until(
      `restart of ${name}`,
      async () => {
        const pid = await this.pidOf(name);
        return pid !== null && pid !== oldPid && alive(pid);
      },
      { deadlineMs: 40_000 },
    );
  }

  /** Pids of run.json, past and present, that still live. */
  survivors(): readonly number[] {
    return [...this.pids].filter(alive);
  }

  /** What every transport says of itself; those that do not answer are left out. */
  async statuses(): Promise<readonly TransportStatus[]> {
    const cluster = await openCluster(this.state);
    return gather(await cluster.askAll<TransportStatus>('/v1/status')).answers.map(({ value }) => value);
  }

  /** What every transport remembers of a message, in order of time: for failure messages. */
  async story(id: string): Promise<string> {
    const cluster = await openCluster(this.state);
    const asked = await cluster.askAll<{ readonly records: readonly TrackingRecord[] }>(`/v1/trace?id=${id}`);
    const records = gather(asked).answers.flatMap(({ member, value }) =>
      value.records.map((one) => ({ ...one, member })),
    );
    return records
      .sort((a, b) => a.atMs - b.atMs)
      .map(
        ({ atMs, member, source, event, peer, detail }) =>
          `${new Date(atMs).toISOString().slice(14, 23)} ${member}${source === member ? '' : ` (${source})`} ${event} ${peer ?? ''} ${detail ?? ''}`,
      )
      .join('\n');
  }

  /** Everything in the Maildir stores below `maildirs`, over all databases and copies. */
  async delivered(): Promise<readonly Delivered[]> {
    return await deliveredIn(this.maildirs);
  }

  /** Every copy in every queue database, through the offline tool: it reads what is durable, not what a process claims. */
  async stored(): Promise<readonly InspectedCopy[]> {
    const { transports } = await this.runFile();
    const all: InspectedCopy[] = [];
    for (const { name, site, queueDatabaseDirectory } of transports) {
      // A disk that was replaced and not yet used again.
      if (!existsSync(join(queueDatabaseDirectory, 'identity'))) continue;
      const { copies, safetyNet } = await inspected(queueDatabaseDirectory);
      for (const copy of [...copies, ...safetyNet]) all.push({ ...copy, member: name, site });
    }
    return all;
  }

  /** A metric summed over its labels and over all transports, or those named; one that is not there counts as 0. */
  async total(metric: string, members?: readonly string[]): Promise<number> {
    const { transports } = await this.runFile();
    const asked = transports.filter(({ name }) => members?.includes(name) ?? true);
    const pages = asked.map(async ({ metricsUrl }) => await (await fetch(metricsUrl)).text());
    const lines = (await Promise.all(pages)).flatMap((page) => page.split('\n'));
    return lines
      .filter((line) => line.startsWith(`${metric}{`) || line.startsWith(`${metric} `))
      .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  /**
   * Waits until nothing is on its way, no shadow is held, and each accepted message of the ledger rests in a Primary Safety Net. A live
   * database shows what is known to be synced, a moment late; an empty one therefore says nothing about a message just sent.
   */
  async drained(deadlineMs: number, ledger: readonly LedgerEntry[]): Promise<readonly InspectedCopy[]> {
    const expected = ledger.filter(({ answer }) => answer.kind === 'accepted').map(({ message }) => message.digest);
    let last: readonly InspectedCopy[] = [];
    try {
      return await until(
        'empty queues',
        async () => {
          last = await this.stored();
          const resting = new Set(last.filter(({ queue }) => queue === 'primarySafetyNet').map(({ digest }) => digest));
          const done = last.every(({ where }) => where === 'safetyNet') && expected.every((one) => resting.has(one));
          return done ? last : null;
        },
        { deadlineMs, everyMs: 250 },
      );
    } catch (error) {
      const left = last.filter((copy) => copy.where !== 'safetyNet');
      const shown = left
        .slice(0, 10)
        .map(
          (copy) => `${copy.member} ${copy.id} ${copy.queue} owner ${copy.owner} ${JSON.stringify(copy.recipients)}`,
        );
      const resting = last.length - left.length;
      throw new Error(
        `${String(error)}\n${resting} of ${expected.length} at rest, ${left.length} copies left:\n${shown.join('\n')}\n${this.output}`,
      );
    }
  }
}

/** Within a boundary everybody has everybody else as a peer. */
function peersOf(transports: RunFile['transports']): number {
  const sizes = new Map<string, number>();
  for (const { dag, site } of transports) {
    const boundary = dag === null ? `site/${site}` : `dag/${dag}`;
    sizes.set(boundary, (sizes.get(boundary) ?? 0) + 1);
  }
  return [...sizes.values()].reduce((sum, size) => sum + size * (size - 1), 0);
}

/** Everything in the Maildir stores below a directory. */
export async function deliveredIn(directory: string): Promise<readonly Delivered[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile() && /\/(new|cur)$/.test(entry.parentPath));
  return await Promise.all(
    files.map(async (entry) => ({
      mailbox: decodeMailbox(entry.parentPath.split('/').at(-2) ?? ''),
      file: entry.name,
      bytes: await readFile(join(entry.parentPath, entry.name)),
    })),
  );
}

/** How many transports a front end may choose from. */
export async function transportsAvailable(metricsUrl: string): Promise<number> {
  const page = await (await fetch(metricsUrl)).text();
  return Number(/^mailcluster_proxy_transports_available\{[^}]*\} (\d+)$/m.exec(page)?.[1]);
}

/** A file that does not parse is not there yet for those who wait for it. */
function parsed(text: string): RunFile {
  const file = parseRunFile(JSON.parse(text));
  if (typeof file === 'string') throw new Error(`run.json: ${file}`);
  return file;
}

/** What `mailcluster store inspect -o json` says of a copy; the fields that tests look at. */
export interface InspectedCopy extends StoredCopyView {
  readonly site: string;
  readonly id: string;
  readonly where: 'transit' | 'safetyNet';
  readonly kind: 'message' | 'dsn';
  readonly owner: string;
  readonly from: string;
  readonly to: readonly string[];
  readonly recipients: unknown;
  /** Why it was accepted with one copy, or null. */
  readonly unprotected: string | null;
}

export interface InspectedDatabase {
  readonly identity: string;
  readonly member: string;
  readonly chain: readonly { readonly openCounter: number }[];
  readonly copies: readonly InspectedCopy[];
  readonly safetyNet: readonly InspectedCopy[];
  readonly quarantined: readonly unknown[];
}

/** `mailcluster store inspect DIR -o json`, in this process: tests ask often. */
export async function inspected(directory: string): Promise<InspectedDatabase> {
  const lines: string[] = [];
  const code = await storeCommand(['inspect', directory, '-o', 'json'], (line) => lines.push(line));
  if (code !== 0) throw new Error(`store inspect ${directory}: exit ${code}: ${lines.join('\n').slice(0, 2_000)}`);
  return JSON.parse(lines.join('\n')) as InspectedDatabase;
}

/** The embedded store escapes what a file name cannot hold as %XX. */
const decodeMailbox = (name: string): string => decodeURIComponent(name);

/** False when there is no such process any more. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

/** False for a zombie too: a killed orphan may wait for a reaper for long (testing.md). */
export function alive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}
