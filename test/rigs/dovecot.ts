/**
 * A private Dovecot (LMTP and IMAP) with the Sieve script of `examples/dovecot`, run by an unprivileged user in a temporary directory.
 * Owns: the processes and the directory; nothing of the machine's own Dovecot is touched. Users: any address, password `secret`.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chown, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { commandIn, ensurePackages, NOBODY, type Prefix } from './packages.ts';

const PACKAGES = ['dovecot-core', 'dovecot-lmtpd', 'dovecot-imapd', 'dovecot-sieve'];
const SCRIPT = join(ROOT, 'examples/dovecot/mailcluster-duplicate.sieve');
export const DOVECOT_PASSWORD = 'secret';

export class Dovecot {
  readonly lmtpPort: number;
  readonly imapPort: number;
  /** Answers a Postfix that asks for passwords (`smtpd_sasl_type = dovecot`). */
  readonly authPort: number;
  readonly #directory: string;
  readonly #address: string;
  readonly #prefix: Prefix;
  #process: ChildProcess | null = null;

  private constructor(directory: string, prefix: Prefix, address: string, ports: readonly [number, number, number]) {
    this.#directory = directory;
    this.#address = address;
    this.#prefix = prefix;
    [this.lmtpPort, this.imapPort, this.authPort] = ports;
  }

  /** `address`: where LMTP is heard; IMAP is for this machine. */
  static async start(address = '127.0.0.1'): Promise<Dovecot | { readonly missing: string }> {
    const prefix = await ensurePackages(PACKAGES);
    if ('missing' in prefix) return prefix;
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-dovecot-'));
    const dovecot = new Dovecot(directory, prefix, address, [await freePort(), await freePort(), await freePort()]);
    try {
      await dovecot.#configure();
      await dovecot.launch();
    } catch (error) {
      await dovecot[Symbol.asyncDispose]();
      throw error;
    }
    return dovecot;
  }

  /** Starts it again after `stop` or `kill`. */
  async launch(): Promise<void> {
    const { file, args } = commandIn(
      this.#prefix,
      ['dovecot', '-F', '-c', join(this.#directory, 'dovecot.conf')],
      true,
    );
    const child = spawn(file, args, {
      cwd: this.#directory,
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#process = child;
    let output = '';
    child.stderr.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
    const ports = [this.lmtpPort, this.imapPort];
    await until(
      'Dovecot to listen',
      async () => {
        if (child.exitCode !== null) return true;
        return (await Promise.all(ports.map(isListening))).every(Boolean);
      },
      { deadlineMs: 15_000 },
    );
    if (child.exitCode !== null) throw new Error(`Dovecot ended:\n${output}\n${await this.log()}`);
  }

  async stop(): Promise<void> {
    await this.#end('SIGTERM');
  }

  /** Dies as with its machine: what is in the directory stays. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /**
   * Makes the mailboxes here those of `other` as they are now: mail, and with it what each user's duplicate database remembers. Neither
   * may be running: a snapshot of a volume is of one moment, a copy of files in use is not.
   */
  async becomeCopyOf(other: Dovecot): Promise<void> {
    if (this.#process !== null || other.#process !== null) throw new Error('stop both before mailboxes are copied');
    for (const name of ['mail', 'home']) {
      await rm(join(this.#directory, name), { recursive: true, force: true });
      execFileSync('cp', ['-a', join(other.#directory, name), join(this.#directory, name)]);
    }
  }

  log(): Promise<string> {
    return readFile(join(this.#directory, 'dovecot.log'), 'utf8').catch(() => '');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end('SIGTERM');
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    child.kill(signal);
    await gone;
    await until('Dovecot to be gone', async () => !(await isListening(this.lmtpPort)), { deadlineMs: 10_000 });
  }

  async #configure(): Promise<void> {
    const directory = this.#directory;
    for (const name of ['run', 'mail', 'home', 'sieve']) await mkdir(join(directory, name));
    await copyFile(SCRIPT, join(directory, 'sieve/mailcluster-duplicate.sieve'));
    await writeFile(join(directory, 'dovecot.conf'), this.#configuration());
    await writeFile(join(directory, 'dovecot.log'), '');
    if (process.getuid?.() !== 0) return;
    for (const name of ['', 'run', 'mail', 'home', 'sieve', 'dovecot.conf', 'dovecot.log']) {
      await chown(join(directory, name), NOBODY.uid, NOBODY.gid);
    }
  }

  #configuration(): string {
    const directory = this.#directory;
    const isRoot = process.getuid?.() === 0;
    const uid = isRoot ? NOBODY.uid : process.getuid?.();
    const gid = isRoot ? NOBODY.gid : process.getgid?.();
    const user = isRoot ? 'nobody' : userInfo().username;
    const group = isRoot ? 'nogroup' : execFileSync('id', ['-gn']).toString().trim();
    return `
protocols = imap lmtp
listen = 127.0.0.1
base_dir = ${directory}/run
state_dir = ${directory}/run
log_path = ${directory}/dovecot.log
ssl = no
disable_plaintext_auth = no
default_internal_user = ${user}
default_internal_group = ${group}
default_login_user = ${user}
mail_uid = ${uid}
mail_gid = ${gid}
first_valid_uid = 1
mail_location = maildir:${directory}/mail/%u
mail_fsync = always
passdb {
  driver = static
  args = password=${DOVECOT_PASSWORD}
}
userdb {
  driver = static
  args = uid=${uid} gid=${gid} home=${directory}/home/%u allow_all_users=yes
}
auth_mechanisms = plain login
service auth {
  inet_listener {
    port = ${this.authPort}
  }
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
service imap-login {
  chroot =
  inet_listener imap {
    port = ${this.imapPort}
  }
  inet_listener imaps {
    port = 0
  }
}
service lmtp {
  process_limit = 1
  client_limit = 200
  inet_listener lmtp {
    address = 127.0.0.1${this.#address === '127.0.0.1' ? '' : ` ${this.#address}`}
    port = ${this.lmtpPort}
  }
}
protocol lmtp {
  mail_plugins = sieve
}
plugin {
  sieve = file:${directory}/home/%u/sieve
  sieve_before = ${directory}/sieve/mailcluster-duplicate.sieve
  sieve_duplicate_max_period = 40d
}
`;
  }
}

/** Free a moment ago; programs that cannot choose a port and tell us get this one. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** Somebody accepts connections there. */
export async function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
