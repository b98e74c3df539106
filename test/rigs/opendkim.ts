/**
 * OpenDKIM, a mail filter of other people, on loopback. Owns: its process and a directory with its configuration and key. It signs for one domain what comes from this machine, in both
 * canonicalizations `simple`: not a byte of the message or of its own field may change on the way.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../house/until.ts';
import { freePort, isListening } from './dovecot.ts';
import { commandIn, ensurePackage, NOBODY } from './packages.ts';

export interface OpenDkimOptions {
  readonly domain: string;
  readonly selector: string;
  /** PEM. */
  readonly privateKey: string;
}

export class OpenDkim {
  readonly port: number;
  readonly #directory: string;
  readonly #process: ChildProcess;

  private constructor(directory: string, port: number, child: ChildProcess) {
    this.#directory = directory;
    this.port = port;
    this.#process = child;
  }

  static async start(options: OpenDkimOptions, port?: number): Promise<OpenDkim | { readonly missing: string }> {
    const prefix = await ensurePackage('opendkim');
    if ('missing' in prefix) return prefix;
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-opendkim-'));
    const chosen = port ?? (await freePort());
    const key = join(directory, 'key.pem');
    await writeFile(key, options.privateKey, { mode: 0o600 });
    // Without KeepAuthResults it insists on removing fields, which is not offered.
    const settings = [
      ...[`Socket inet:${chosen}@127.0.0.1`, 'Mode s', 'Canonicalization simple/simple', 'InternalHosts 127.0.0.0/8'],
      ...[`Domain ${options.domain}`, `Selector ${options.selector}`, `KeyFile ${key}`, 'RequireSafeKeys no'],
      ...['Background no', 'Syslog no', 'AutoRestart no', 'KeepAuthResults yes', ''],
    ];
    const file = join(directory, 'opendkim.conf');
    await writeFile(file, settings.join('\n'));
    if (process.getuid?.() === 0) for (const one of [directory, key, file]) await chown(one, NOBODY.uid, NOBODY.gid);
    const command = commandIn(prefix, ['/usr/sbin/opendkim', '-f', '-x', file], true);
    const child = spawn(command.file, command.args, { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const started = new OpenDkim(directory, chosen, child);
    try {
      await until('OpenDKIM to listen', async () => started.#hasEnded || (await isListening(chosen)), {
        deadlineMs: 30_000,
      });
      if (started.#hasEnded) throw new Error(`OpenDKIM ended: ${output}`);
    } catch (error) {
      await started[Symbol.asyncDispose]();
      throw error;
    }
    return started;
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  get #hasEnded(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#hasEnded) {
      const gone = new Promise<void>((resolve) => this.#process.once('exit', () => resolve()));
      this.#process.kill('SIGKILL');
      await gone;
    }
    await rm(this.#directory, { recursive: true, force: true });
  }
}
