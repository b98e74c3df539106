/**
 * A small network of its own: one namespace per name that asks for a place, each joined by a veth pair to the namespace this process is in, which forwards
 * between them. Packets from one place to another can be dropped, each direction for itself. Owns: interfaces, namespaces and rules.
 * Promise: nothing of the machine's own network is touched and nothing stays behind, however the process ends, because it runs in private
 * namespaces (`inPrivateNetwork`) that end with it. Refuses to work in a network that has anything but a loopback interface.
 * Drops are routing rules (`blackhole`, silent for forwarded packets): they need no more than `ip`.
 */
import { execFile, execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import type { Place } from '../process/direct-cluster.ts';

const run = promisify(execFile);

/** Its own network, mounts and processes: when it dies, all it started dies and what it set up is gone. */
const PRIVATE = ['unshare', '--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc'] as const;

/** Why this machine cannot do it, or null. */
export function obstacle(): string | null {
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  const missing = ['ip', 'unshare', 'nsenter', 'mount'].filter(
    (tool) => !['/usr/sbin', '/usr/bin', '/sbin', '/bin'].some((directory) => existsSync(`${directory}/${tool}`)),
  );
  if (missing.length > 0) return `${missing.join(', ')}: not installed (packages iproute2, util-linux, mount)`;
  try {
    const [file, ...args] = inPrivateNetwork(['sh', '-c', 'mount -t tmpfs none /run && ip link set lo up']);
    execFileSync(file ?? '', args, { stdio: 'pipe' });
    return null;
  } catch (error) {
    return `no private network: ${error instanceof Error ? error.message.trim() : String(error)}`;
  }
}

export const inPrivateNetwork = (command: readonly string[]): readonly string[] => [...PRIVATE, ...command];

interface Space {
  readonly namespace: string;
  readonly host: string;
}

export class NetworkLab {
  /** Namespace and address, those that nobody lives in yet and those of names. */
  readonly #free: Space[] = [];
  readonly #spaces = new Map<string, Space>();
  /** Priority of each rule in force. */
  readonly #rules: number[] = [];

  /** Once per process, in a private network. */
  static async create(places: number): Promise<NetworkLab> {
    const { stdout } = await run('ip', ['-o', 'link', 'show']);
    const interfaces = stdout.trim().split('\n');
    if (interfaces.length !== 1 || !/ lo: /.test(stdout)) throw new Error(`not a private network:\n${stdout}`);
    await run('mount', ['-t', 'tmpfs', 'none', '/run']);
    await run('mkdir', ['/run/netns']);
    await run('ip', ['link', 'set', 'lo', 'up']);
    writeFileSync('/proc/sys/net/ipv4/ip_forward', '1');
    const lab = new NetworkLab();
    for (let at = 1; at <= places; at += 1) await lab.#join(`place${at}`, at);
    return lab;
  }

  /** The first question about a name gives it a namespace. */
  place(name: string): Place {
    const space = this.#spaces.get(name) ?? this.#free.shift();
    if (space === undefined) throw new Error(`no namespace left for ${name}`);
    this.#spaces.set(name, space);
    return { host: space.host, command: ['nsenter', `--net=/run/netns/${space.namespace}`] };
  }

  /** Nothing that one of `from` sends reaches one of `to` any more. The other direction is another cut. */
  async cut(from: readonly string[], to: readonly string[]): Promise<void> {
    for (const one of from)
      for (const other of to) {
        const priority = 100 + this.#rules.length;
        const pair = ['from', this.place(one).host, 'to', this.place(other).host];
        await run('ip', ['rule', 'add', 'priority', `${priority}`, ...pair, 'blackhole']);
        this.#rules.push(priority);
      }
  }

  async heal(): Promise<void> {
    for (const priority of this.#rules.splice(0)) await run('ip', ['rule', 'del', 'priority', `${priority}`]);
  }

  async #join(namespace: string, at: number): Promise<void> {
    const [here, there] = [`10.77.${at}.1`, `10.77.${at}.2`];
    const inside = async (...args: readonly string[]): Promise<unknown> => await run('ip', ['-n', namespace, ...args]);
    await run('ip', ['netns', 'add', namespace]);
    await run('ip', ['link', 'add', `veth${at}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace]);
    await run('ip', ['addr', 'add', `${here}/24`, 'dev', `veth${at}`]);
    await run('ip', ['link', 'set', `veth${at}`, 'up']);
    await inside('link', 'set', 'lo', 'up');
    await inside('addr', 'add', `${there}/24`, 'dev', 'eth0');
    await inside('link', 'set', 'eth0', 'up');
    await inside('route', 'add', 'default', 'via', here);
    this.#free.push({ namespace, host: there });
  }
}
