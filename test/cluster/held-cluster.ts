/**
 * A cluster of the node level for one run of tests. Owns: its holder (hold.sh), a process in a session of its own that takes the cluster down when this
 * process ends, however it ends. Promise: `end` fails when anything is left on the machine. Never starts anything when the machine cannot do it: says what is
 * missing.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { obstacle } from '../rigs/network-namespaces.ts';
import { ensurePackages } from '../rigs/packages.ts';
import { NODE_PACKAGES } from './node-packages.ts';
import { findPrograms, NODE_PROGRAMS, programDirectory } from './programs.ts';

export interface HeldParts {
  readonly name: string;
  readonly directory: string;
}

const HERE = import.meta.dirname;
const SCRIPT_MS = 300_000;
const TOOLS = ['ip', 'tc', 'nsenter', 'unshare', 'mkfs.ext4', 'flock'];

/** What scripts of the node level find: our Node, and whose cluster it is. */
const environment = (name: string): Record<string, string> => ({
  PATH: `${dirname(process.execPath)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${process.env.PATH ?? ''}`,
  HOME: process.env.HOME ?? '/root',
  CLUSTER_NAME: name,
  ...(process.env.XDG_CACHE_HOME === undefined ? {} : { XDG_CACHE_HOME: process.env.XDG_CACHE_HOME }),
});

/** Null: nodes can be had here. Fetches the Debian packages. */
export async function missingForNodes(): Promise<string | null> {
  if (process.getuid?.() !== 0)
    return 'NOT ROOT: nothing was shown on real kubelets, which need network, mount and pid namespaces (run the stage as root)';
  const blocked = obstacle() ?? absentTool() ?? cgroupsReadOnly();
  if (blocked !== null) return blocked;
  const programs = await findPrograms();
  if ('missing' in programs) return String(programs.missing);
  const directory = await programDirectory();
  if (typeof directory !== 'string') return directory.missing;
  const absent = NODE_PROGRAMS.filter((one) => !existsSync(join(directory, one)));
  if (absent.length > 0) return `${absent.join(', ')} not built yet: make cluster-build`;
  const packages = await ensurePackages(NODE_PACKAGES);
  return 'missing' in packages ? packages.missing : null;
}

function absentTool(): string | null {
  const places = ['/usr/sbin', '/usr/bin', '/sbin', '/bin', '/usr/local/bin'];
  const absent = TOOLS.filter((tool) => !places.some((place) => existsSync(join(place, tool))));
  return absent.length === 0 ? null : `${absent.join(', ')}: not installed (packages iproute2, util-linux, e2fsprogs)`;
}

function cgroupsReadOnly(): string | null {
  try {
    const first = existsSync('/sys/fs/cgroup/memory') ? '/sys/fs/cgroup/memory' : '/sys/fs/cgroup';
    accessSync(first, constants.W_OK);
    return null;
  } catch {
    return '/sys/fs/cgroup cannot be written: kubelets need cgroups';
  }
}

export class HeldCluster {
  readonly parts: HeldParts;
  readonly #holder: ChildProcess;
  readonly #ended: Promise<number>;

  private constructor(parts: HeldParts, holder: ChildProcess, ended: Promise<number>) {
    [this.parts, this.#holder, this.#ended] = [parts, holder, ended];
  }

  static async start(name: string, options: readonly string[]): Promise<HeldCluster> {
    const directory = `/var/lib/mailcluster-${name}`;
    const holder = spawn(join(HERE, 'hold.sh'), [...options], {
      ...{ env: environment(name), detached: true, stdio: ['pipe', 'pipe', 'inherit'] },
    });
    holder.stdin?.on('error', () => undefined);
    const ended = new Promise<number>((resolve) => holder.once('exit', (code) => resolve(code ?? 99)));
    const isUp = new Promise<boolean>((resolve) => {
      if (holder.stdout !== null) createInterface({ input: holder.stdout }).once('line', () => resolve(true));
      void ended.then(() => resolve(false));
    });
    if (!(await isUp)) throw new Error(`the cluster did not come up; logs are in ${directory}.kept/log`);
    return new HeldCluster({ name, directory }, holder, ended);
  }

  async end({ keep }: { readonly keep: boolean }): Promise<void> {
    this.#holder.stdin?.end(keep ? 'keep\n' : '');
    const code = await this.#ended;
    if (code !== 0) throw new Error(`hold.sh ended with ${code}: the cluster left something behind (above)`);
  }
}

/** A script of the node level on that cluster; its output. */
export async function clusterScript(name: string, script: string, args: readonly string[]): Promise<string> {
  const run = promisify(execFile);
  const found = await run(join(HERE, script), [...args], {
    ...{ env: environment(name), timeout: SCRIPT_MS, maxBuffer: 64 << 20 },
  });
  return found.stdout;
}

/** What up.sh decided: a shell file of NAME=VALUE words. */
export function decisions(directory: string): ReadonlyMap<string, string> {
  const text = readFileSync(join(directory, 'cluster.conf'), 'utf8');
  return new Map([...text.matchAll(/(\w+)=(?:'([^']*)'|(\S+))/g)].map(([, key = '', a, b]) => [key, a ?? b ?? '']));
}
