/**
 * A private Postfix for tests, and the load tools that come with it. Owns: the master process and a temporary directory with
 * configuration, queue, data and mail. Needs root. The users `postfix` and `postdrop` exist only inside its mount namespace, by a
 * passwd and group file of its own; nothing on the machine is added, changed or used.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../house/until.ts';
import { freePort, isListening } from './dovecot.ts';
import { type Command, commandIn, commandWithFiles, ensurePackage, NOBODY, type Prefix } from './packages.ts';

/** Ids that belong to nobody on Debian (its static ids end below 100, its dynamic ones are 100-999). */
const POSTFIX_ID = 63_001;
const POSTDROP_ID = 63_002;

export interface PostfixOptions {
  /**
   * `relay`: a previous hop that passes everything on by SMTP; `deliver`: does so by LMTP; `accept`: keeps everything in one Maildir; `queue`: accepts and
   * never delivers.
   */
  readonly role:
    | { readonly kind: 'relay' | 'deliver'; readonly port: number }
    | { readonly kind: 'accept' }
    | { readonly kind: 'queue' };
  /** Further `name = value` lines of main.cf. */
  readonly settings?: readonly string[];
  /** The directory stays behind for the caller to remove: deleting a full queue makes ext4 slow for minutes, which spoils measurements. */
  readonly keepDirectory?: boolean;
}

/** Loads a server with mail, or swallows it; see smtp-source(1) and smtp-sink(1). */
export async function postfixTool(
  name: 'smtp-source' | 'smtp-sink',
  args: readonly string[],
): Promise<Command | { readonly missing: string }> {
  const prefix = await ensurePackage('postfix');
  // Run as root they would insist on a Postfix user.
  return 'missing' in prefix ? prefix : commandIn(prefix, [`/usr/sbin/${name}`, ...args], true);
}

export class Postfix {
  readonly smtpPort: number;
  readonly directory: string;
  readonly #prefix: Prefix;
  readonly #options: PostfixOptions;
  #process: ChildProcess | null = null;
  #output = '';

  private constructor(directory: string, prefix: Prefix, smtpPort: number, options: PostfixOptions) {
    this.directory = directory;
    this.#prefix = prefix;
    this.smtpPort = smtpPort;
    this.#options = options;
  }

  static async start(options: PostfixOptions): Promise<Postfix | { readonly missing: string }> {
    if (process.getuid?.() !== 0) return { missing: 'postfix: its master must be started by root' };
    const prefix = await ensurePackage('postfix');
    if ('missing' in prefix) return prefix;
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-postfix-'));
    const postfix = new Postfix(directory, prefix, await freePort(), options);
    try {
      await postfix.#configure();
      await postfix.#launch();
    } catch (error) {
      await postfix[Symbol.asyncDispose]();
      throw error;
    }
    return postfix;
  }

  /** Of master, the parent of all its programs; null when it does not run. */
  get masterPid(): number | null {
    return this.#process?.pid ?? null;
  }

  /** Messages in the queue, whatever their state. */
  async queued(): Promise<number> {
    let count = 0;
    for (const queue of ['maildrop', 'incoming', 'active', 'deferred', 'hold']) {
      const entries = await readdir(join(this.directory, 'spool', queue), { recursive: true, withFileTypes: true });
      count += entries.filter((entry) => entry.isFile()).length;
    }
    return count;
  }

  /** What the role `accept` has delivered. */
  async delivered(): Promise<readonly string[]> {
    const box = join(this.directory, 'mail', 'all', 'new');
    const names = await readdir(box).catch(() => []);
    return await Promise.all(names.map((name) => readFile(join(box, name), 'latin1')));
  }

  log(): Promise<string> {
    return readFile(join(this.directory, 'postfix.log'), 'utf8').catch(() => this.#output);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (child !== null && child.exitCode === null && child.signalCode === null) {
      const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.kill('SIGTERM');
      await gone;
    }
    await until('Postfix to be gone', async () => !(await isListening(this.smtpPort)), { deadlineMs: 10_000 });
    if (this.#options.keepDirectory === true) return;
    await rm(this.directory, { recursive: true, force: true, maxRetries: 10 });
  }

  async #launch(): Promise<void> {
    const places = { '/etc/passwd': join(this.directory, 'passwd'), '/etc/group': join(this.directory, 'group') };
    const master = ['/usr/lib/postfix/sbin/master', '-c', join(this.directory, 'etc'), '-d'];
    const { file, args } = commandWithFiles(this.#prefix, places, master);
    const child = spawn(file, args, {
      cwd: this.directory,
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', MAIL_CONFIG: join(this.directory, 'etc') },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#process = child;
    child.stderr.on('data', (chunk: Buffer) => {
      this.#output += chunk.toString();
    });
    const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null;
    await until('Postfix to listen', async () => hasEnded() || (await isListening(this.smtpPort)), {
      deadlineMs: 15_000,
    });
    if (hasEnded()) throw new Error(`Postfix ended:\n${this.#output}\n${await this.log()}`);
  }

  async #configure(): Promise<void> {
    const { directory } = this;
    await chmod(directory, 0o755);
    for (const name of ['etc', 'spool', 'data', 'mail']) await mkdir(join(directory, name));
    await chown(join(directory, 'data'), POSTFIX_ID, POSTFIX_ID);
    await chown(join(directory, 'mail'), NOBODY.uid, NOBODY.gid);
    await this.#makeQueue();
    await this.#makeUsers();
    await writeFile(join(directory, 'etc/main.cf'), this.#mainCf());
    await writeFile(join(directory, 'etc/master.cf'), this.#masterCf());
  }

  async #makeQueue(): Promise<void> {
    const spool = join(this.directory, 'spool');
    const own = [
      'active',
      'bounce',
      'corrupt',
      'defer',
      'deferred',
      'flush',
      'hold',
      'incoming',
      'private',
      'saved',
      'trace',
    ];
    for (const name of own) {
      await mkdir(join(spool, name), { mode: 0o700 });
      await chown(join(spool, name), POSTFIX_ID, 0);
    }
    for (const [name, mode] of [
      ['maildrop', 0o1730],
      ['public', 0o2710],
    ] as const) {
      await mkdir(join(spool, name));
      await chown(join(spool, name), POSTFIX_ID, POSTDROP_ID);
      await chmod(join(spool, name), mode);
    }
    await mkdir(join(spool, 'pid'));
  }

  async #makeUsers(): Promise<void> {
    const without = (text: string): string =>
      text
        .split('\n')
        .filter((line) => !/^(postfix|postdrop):/.test(line))
        .join('\n')
        .trimEnd();
    const passwd = without(await readFile('/etc/passwd', 'utf8'));
    const group = without(await readFile('/etc/group', 'utf8'));
    await writeFile(
      join(this.directory, 'passwd'),
      `${passwd}\npostfix:x:${POSTFIX_ID}:${POSTFIX_ID}::/nonexistent:/usr/sbin/nologin\n`,
    );
    await writeFile(join(this.directory, 'group'), `${group}\npostfix:x:${POSTFIX_ID}:\npostdrop:x:${POSTDROP_ID}:\n`);
  }

  #mainCf(): string {
    const { directory } = this;
    const { role, settings = [] } = this.#options;
    const roles = {
      relay: role.kind === 'relay' ? [`relayhost = [127.0.0.1]:${role.port}`] : [],
      deliver: role.kind === 'deliver' ? [`default_transport = lmtp:inet:127.0.0.1:${role.port}`] : [],
      accept: [
        'virtual_mailbox_domains = static:all',
        'virtual_mailbox_maps = static:all/',
        `virtual_mailbox_base = ${directory}/mail`,
        `virtual_uid_maps = static:${NOBODY.uid}`,
        `virtual_gid_maps = static:${NOBODY.gid}`,
      ],
      queue: ['default_transport = hold', 'defer_transports = hold, smtp'],
    };
    return [
      'compatibility_level = 3.6',
      `queue_directory = ${directory}/spool`,
      `data_directory = ${directory}/data`,
      `config_directory = ${directory}/etc`,
      `meta_directory = ${directory}/etc`,
      'daemon_directory = /usr/lib/postfix/sbin',
      'command_directory = /usr/sbin',
      'shlib_directory = /usr/lib/postfix',
      'mail_owner = postfix',
      'setgid_group = postdrop',
      `maillog_file = ${directory}/postfix.log`,
      `maillog_file_prefixes = ${directory}`,
      'myhostname = postfix.test',
      'mydestination =',
      'alias_maps =',
      'inet_interfaces = 127.0.0.1',
      'inet_protocols = ipv4',
      'mynetworks = 127.0.0.0/8',
      'smtpd_recipient_restrictions = permit_mynetworks, reject',
      'smtp_host_lookup = native',
      'smtp_dns_support_level = disabled',
      // Retries within the life of a test.
      ...(role.kind === 'queue' || role.kind === 'deliver'
        ? []
        : ['minimal_backoff_time = 1s', 'maximal_backoff_time = 2s', 'queue_run_delay = 1s']),
      ...roles[role.kind],
      ...settings,
      '',
    ].join('\n');
  }

  #masterCf(): string {
    // The queue manager looks at new mail every second so that tests need not wait; what is only measured keeps the usual 300.
    const { kind } = this.#options.role;
    const wakeUp = kind === 'queue' || kind === 'deliver' ? 300 : 1;
    // service, type, private, unprivileged, chroot, wake-up, process limit, command
    return [
      `127.0.0.1:${this.smtpPort} inet n - n - - smtpd`,
      'pickup unix n - n 60 1 pickup',
      'cleanup unix n - n - 0 cleanup',
      `qmgr unix n - n ${wakeUp} 1 qmgr`,
      'tlsmgr unix - - n 1000? 1 tlsmgr',
      'rewrite unix - - n - - trivial-rewrite',
      'bounce unix - - n - 0 bounce',
      'defer unix - - n - 0 bounce',
      'trace unix - - n - 0 bounce',
      'verify unix - - n - 1 verify',
      'flush unix n - n 1000? 0 flush',
      'proxymap unix - - n - - proxymap',
      'smtp unix - - n - - smtp',
      'relay unix - - n - - smtp',
      'error unix - - n - - error',
      'retry unix - - n - - error',
      'discard unix - - n - - discard',
      'virtual unix - n n - - virtual',
      'lmtp unix - - n - - lmtp',
      'anvil unix - - n - 1 anvil',
      'scache unix - - n - 1 scache',
      'postlog unix-dgram n - n - 1 postlogd',
      '',
    ].join('\n');
  }
}

/** Runs a load tool to its end and returns what it printed. */
export function runTool({ file, args }: Command): string {
  return execFileSync(file, [...args], { encoding: 'utf8', timeout: 60_000, stdio: ['ignore', 'pipe', 'pipe'] });
}
