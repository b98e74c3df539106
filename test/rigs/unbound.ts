/**
 * A real resolver that validates DNSSEC, with a small world of its own: a signed root, domains in it, domains below it that are not signed or whose signatures are wrong.
 * Owns: the process, its directory and the keys; nothing but loopback is asked. The programs come as Debian packages (`packages.ts`).
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { until } from '../house/until.ts';
import { freePort } from './dovecot.ts';
import { commandIn, ensurePackages, NOBODY, type Prefix } from './packages.ts';

const run = promisify(execFile);

export interface UnboundWorld {
  /** Lines of the signed root, absolute names: `far.test. 1 IN MX 10 mx.far.test.`. */
  readonly signed: readonly string[];
  /** Lines by name of the zone; nothing in it is signed. */
  readonly unsigned?: Readonly<Record<string, readonly string[]>>;
  /** The same of zones that the root says are signed, and that are not. */
  readonly forged?: Readonly<Record<string, readonly string[]>>;
}

const start = (name: string): readonly string[] => [
  `${name} 60 IN SOA ns.${name === '.' ? '' : name} admin. 1 3600 3600 3600 60`,
  `${name} 60 IN NS ns.${name === '.' ? '' : name}`,
  `ns.${name === '.' ? '' : name} 60 IN A 127.0.0.1`,
];

export class Unbound implements AsyncDisposable {
  readonly server: string;
  readonly #port: number;
  readonly #prefix: Prefix;
  readonly #directory: string;
  #process: ChildProcess | null = null;
  #output = '';

  private constructor(prefix: Prefix, directory: string, port: number) {
    this.#prefix = prefix;
    this.#directory = directory;
    this.#port = port;
    this.server = `127.0.0.1:${port}`;
  }

  static async start(world: UnboundWorld): Promise<Unbound | { readonly missing: string }> {
    const prefix = await ensurePackages(['unbound', 'ldnsutils']);
    if ('missing' in prefix) return prefix;
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-unbound-'));
    if (process.getuid?.() === 0) await chown(directory, NOBODY.uid, NOBODY.gid);
    const unbound = new Unbound(prefix, directory, await freePort());
    try {
      const key = await unbound.#tool(['/usr/bin/ldns-keygen', '-k', '-a', 'ECDSAP256SHA256', '.']);
      await unbound.#write(world, key.trim());
      await unbound.#launch();
    } catch (error) {
      await unbound[Symbol.asyncDispose]();
      throw error;
    }
    return unbound;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (child !== null && child.exitCode === null && child.signalCode === null) {
      const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.kill('SIGTERM');
      await gone;
    }
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #tool(words: readonly string[]): Promise<string> {
    const { file, args } = commandIn(this.#prefix, words, true);
    return (await run(file, [...args], { cwd: this.#directory })).stdout;
  }

  async #write({ signed, unsigned = {}, forged = {} }: UnboundWorld, key: string): Promise<void> {
    const at = (name: string): string => join(this.#directory, name);
    const below = { ...unsigned, ...forged };
    const delegations = Object.keys(below).flatMap((name) => [
      `${name} 60 IN NS ns.${name}`,
      `ns.${name} 60 IN A 127.0.0.1`,
      ...(name in forged ? [`${name} 60 IN DS 4711 13 2 ${'ab'.repeat(32)}`] : []),
    ]);
    await writeFile(at('root'), [...start('.'), ...signed, ...delegations, ''].join('\n'));
    await this.#tool(['/usr/bin/ldns-signzone', '-f', at('root.signed'), at('root'), at(key)]);
    const zones = [{ name: '.', file: 'root.signed' }];
    for (const [at, [name, lines]] of Object.entries(below).entries()) {
      zones.push({ name, file: `zone-${at}` });
      await writeFile(join(this.#directory, `zone-${at}`), [...start(name), ...lines, ''].join('\n'));
    }
    await writeFile(
      at('unbound.conf'),
      [
        'server:',
        `  interface: 127.0.0.1@${this.#port}`,
        // Whatever it does not know it cannot ask anybody for.
        '  outgoing-interface: 127.0.0.1',
        ...[
          '  do-ip6: no',
          '  do-daemonize: no',
          '  use-syslog: no',
          '  chroot: ""',
          '  username: ""',
          '  pidfile: ""',
        ],
        `  directory: "${this.#directory}"`,
        `  trust-anchor-file: "${at(`${key}.key`)}"`,
        ...['  module-config: "validator iterator"', '  val-log-level: 2', '  num-threads: 1'],
        // It would say by itself that there is no such domain (RFC 6761 6.2).
        '  local-zone: "test." nodefault',
        ...['remote-control:', '  control-enable: no'],
        ...zones.flatMap(({ name, file }) => [
          ...['auth-zone:', `  name: "${name}"`, `  zonefile: "${at(file)}"`],
          ...['  for-downstream: no', '  for-upstream: yes', '  fallback-enabled: no'],
        ]),
        '',
      ].join('\n'),
    );
  }

  async #launch(): Promise<void> {
    const words = ['/usr/sbin/unbound', '-d', '-c', join(this.#directory, 'unbound.conf')];
    const { file, args } = commandIn(this.#prefix, words, true);
    const child = spawn(file, [...args], {
      ...{ cwd: this.#directory, stdio: ['ignore', 'ignore', 'pipe'] },
    });
    this.#process = child;
    child.stderr?.on('data', (chunk: Buffer) => {
      this.#output += chunk.toString();
    });
    const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null;
    await until('unbound to run', () => hasEnded() || this.#output.includes('start of service'), {
      deadlineMs: 30_000,
    });
    if (hasEnded()) throw new Error(`unbound ended:\n${this.#output}`);
  }
}
