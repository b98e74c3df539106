/**
 * What the measurements of whole transports share: their options, queue databases written in advance by the product's own store code, a
 * store that takes mail and counts it, and what `/proc` says of a process. Owns: the cluster's directory until it is disposed of.
 *
 * Preparing is fast because nothing of it has to survive: the disk is the real one but for its syncs, several large groups are under way
 * at once. With `--kept DIR` what was prepared is kept and used again by the next run with the same arguments; with `--spend`, too, it is used up, for who has no room for two.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type ParseArgsOptionsConfig, parseArgs } from 'node:util';
import type { TransportConfig } from '../../common/config.ts';
import type { CopyId, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import type { Files } from '../../common/platform/files.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeFiles } from '../../common/platform/node-files.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { freshState } from '../../transport/core/copy.ts';
import type { CopyFacts, CopyState, QueueDatabase, Write } from '../../transport/store/database.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { until } from '../house/until.ts';
import { DirectCluster, type DirectOptions } from '../process/direct-cluster.ts';

export const MIB = 1024 * 1024;
/** Goal of issue 4 for a transport. */
export const LIMIT_MIB = 256;

/** What every one of them can be told: size of a body, options of node, where prepared queue databases are kept. */
export function benchOptions<T extends ParseArgsOptionsConfig>(own: T) {
  const shared = {
    bytes: { type: 'string', default: '200' },
    node: { type: 'string', default: '' },
    kept: { type: 'string', default: '' },
    spend: { type: 'boolean', default: false },
  } as const;
  return parseArgs({ options: { ...shared, ...own } }).values;
}

export interface LargeCluster {
  readonly cluster: DirectCluster;
  /** Names of its transports. */
  readonly names: readonly string[];
  /** When the queue databases were written, by the wall clock. */
  readonly preparedAtMs: number;
}

/**
 * Files for everybody, nothing started, and the queue databases of `filled` (the first transports) written by `prepare`. `what`: names the
 * contents where they are kept.
 */
export async function largeCluster(
  resources: (directory: string) => string,
  options: { readonly node: string; readonly kept: string; readonly spend: boolean; readonly bytes: string },
  what: string,
  prepare: (stores: readonly QueueDatabase[], names: readonly string[], atMs: number) => Promise<void>,
  filled = 2,
): Promise<LargeCluster> {
  const flags = options.node.split(',').filter((flag) => flag !== '');
  const cluster = await preparedCluster(resources, { flags, readyWithinMs: 600_000 });
  try {
    const names = cluster.transports.map(({ name }) => name);
    const started = performance.now();
    const directories = await Promise.all(names.slice(0, filled).map((name) => queueDirectory(cluster, name)));
    const kept = options.kept === '' ? null : join(options.kept, `${what}-${options.bytes}`);
    const isKept = kept !== null && existsSync(kept);
    const preparedAtMs = isKept ? statSync(join(kept, 'prepared')).mtimeMs : Date.now();
    if (isKept)
      for (const [at, directory] of directories.entries())
        await (options.spend ? move : copy)(join(kept, `${at}`), directory);
    else {
      const stores: QueueDatabase[] = [];
      for (const [at, directory] of directories.entries()) stores.push(await openQueue(directory, names[at] ?? ''));
      await prepare(stores, names, preparedAtMs);
      for (const store of stores) await store.close();
    }
    if (kept !== null && isKept && options.spend) await rm(kept, { recursive: true });
    if (kept !== null && !isKept) {
      for (const [at, directory] of directories.entries()) await copy(directory, join(`${kept}.part`, `${at}`));
      await writeFile(join(`${kept}.part`, 'prepared'), '');
      await utimes(join(`${kept}.part`, 'prepared'), preparedAtMs / 1000, preparedAtMs / 1000);
      await rename(`${kept}.part`, kept);
    }
    const { user, system } = process.cpuUsage();
    line(isKept ? 'taken from before' : 'prepared', {
      seconds: (performance.now() - started) / 1000,
      cpuSeconds: (user + system) / 1_000_000,
    });
    return { cluster, names, preparedAtMs };
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

export async function preparedCluster(
  resources: (directory: string) => string,
  options: Omit<DirectOptions, 'directory'> = {},
): Promise<DirectCluster> {
  const cluster = new DirectCluster(await mkdtemp(join(tmpdir(), 'mc-bench-')), options);
  try {
    await mkdir(cluster.maildirs);
    await cluster.prepare(resources(cluster.directory));
    return cluster;
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Starts these two and waits until the first hears the other. One after the other: the very first start of a directory takes the types out of the
 * sources (20 to 30 MiB that stay, in no other start and never in the image), and that shall not be the one that is measured.
 */
export async function launchPair(cluster: DirectCluster, first: string, second: string): Promise<void> {
  await cluster.launch(second);
  await cluster.launch(first);
  await until('the two to know each other', async () => (await metric(cluster, first, 'mailcluster_peer_up')) >= 1, {
    deadlineMs: 120_000,
  });
}

const copy = (from: string, to: string): Promise<void> => cp(from, to, { recursive: true });

async function move(from: string, to: string): Promise<void> {
  await rm(to, { recursive: true, force: true });
  await mkdir(dirname(to), { recursive: true });
  await rename(from, to);
}

async function queueDirectory(cluster: DirectCluster, name: string): Promise<string> {
  const config = JSON.parse(await readFile(cluster.configFile(name), 'utf8')) as TransportConfig;
  return config.queueDatabaseDirectory;
}

/** Nothing that is prepared has to survive. */
const unsyncedFiles: Files = {
  ...nodeFiles,
  open: async (path, mode) => {
    const handle = await nodeFiles.open(path, mode);
    return {
      writev: (buffers, position) => handle.writev(buffers, position),
      read: (target, offset, length, position) => handle.read(target, offset, length, position),
      datasync: async () => undefined,
      sizeBytes: () => handle.sizeBytes(),
      modifiedMs: () => handle.modifiedMs(),
      truncate: (sizeBytes) => handle.truncate(sizeBytes),
      close: () => handle.close(),
    };
  },
  syncDirectory: async () => undefined,
};

/** Opened as the transport of that name will open it. */
const openQueue = (directory: string, member: string): Promise<QueueDatabase> =>
  openSegmentLog({
    directory,
    files: unsyncedFiles,
    clock: systemClock,
    random: systemRandom,
    log: silentLogger,
    segmentBytes: 64 * MIB,
    reserveBytes: 128 * MIB,
    onFatal: (reason) => {
      throw reason;
    },
    member,
  });

/** Not long ago: older mail expires at once. */
const firstMs = Math.floor(systemClock.wallMs()) - 1_800_000;

/** 32 bits that look like chance, as text (the finaliser of MurmurHash3). */
function mixed(n: number): string {
  let h = n | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (0x1_0000_0000 + ((h ^ (h >>> 16)) >>> 0)).toString(16).slice(1);
}

export const messageId = (n: number): CopyId =>
  `01J${mixed(n).toUpperCase()}${(0x1000_0000_0000 + n).toString(16).toUpperCase()}000` as CopyId;

/** Message `n` to a mailbox of `domain`, as a front end hands it over; no text of it is shared with another. */
export function messageFacts(n: number, digest: string, sizeBytes: number, domain: string): CopyFacts {
  const atMs = firstMs + (n % 200_000) * 7;
  const address = `192.0.2.${n % 200}`;
  const port = 1024 + (n % 60_000);
  const helo = `relay-${n % 200}.example.net`;
  const note = (detail: string, event = 'FRONTEND') => ({ event, atMs: atMs + 3, source: 'frontend-0', detail });
  return {
    id: messageId(n),
    ancestor: null,
    kind: 'message',
    envelope: {
      reversePath: `sender-${n % 5000}@customer-${n % 300}.example.net`,
      recipients: [{ address: `mailbox-${n % 20_000}@${domain}` }],
      body: '8BITMIME',
      smtputf8: false,
      declaredSizeBytes: sizeBytes,
      client: {
        address,
        port,
        helo,
        protocol: 'ESMTPS',
        tls: { version: 'TLSv1.3', cipher: 'TLS_AES_256_GCM_SHA384' },
        user: null,
      },
      frontend: 'frontend-0',
      listener: 'mx',
      receivedAtMs: atMs,
    },
    digest,
    sizeBytes,
    acceptedAtMs: atMs + 4,
    takenFrom: null,
    events: [
      note(`connect from [${address}]:${port} to mx, ESMTPS ${helo}: MAIL, 1 RCPT`),
      note('open to hub-b1, try 1'),
      note(`end of data, ${sizeBytes} bytes`),
      note(`<${mixed(n)}${mixed(~n)}${mixed(n + 0x5bd1e995)}${mixed(-n)}@customer.example.net>`, 'MESSAGE-ID'),
      note(`${mixed(n + 0x3c6ef372)}${mixed(~n + 0x3c6ef372)}`, 'SUBJECT-HASH'),
    ],
  };
}

export const transitState = (n: number, more: Pick<CopyState, 'queue' | 'epoch'> & Partial<CopyState>): CopyState =>
  freshState({ standing: 'released', ageMs: n % 1000, ...more });

export interface Batch {
  readonly facts: CopyFacts;
  readonly state: CopyState;
  /** Where it comes to rest at once, or null. */
  readonly resting: CopyState | null;
}

const GROUP = 1_000;
const GROUPS_AT_ONCE = 4;

/** Writes `count` copies; `make` says what each is, given the digest of its body. */
export async function fill(
  store: QueueDatabase,
  count: number,
  bytes: Buffer,
  make: (n: number, digest: string) => Batch,
): Promise<void> {
  const underWay: Promise<void>[] = [];
  for (let n = 0; n < count; ) {
    const writes: Write[] = [];
    for (let i = 0; i < GROUP && n < count; i++, n++) {
      const body = store.beginBody(messageId(n));
      await body.append(bytes);
      const { facts, state, resting } = make(n, body.digest());
      writes.push({ kind: 'commit', facts, state, body });
      if (resting !== null) writes.push({ kind: 'move', id: facts.id, state: resting });
    }
    underWay.push(store.commit(writes));
    if (underWay.length >= GROUPS_AT_ONCE) await underWay.shift();
  }
  await Promise.all(underWay);
}

export const seenOf = (member: string, identity: Identity): Write => ({
  kind: 'seen',
  seen: { member, identity, openCounter: 1, nonce: 'bench', syncedSequence: 0 },
});

/** What a database last saw of another one that was opened just now. */
export const lastSeen = ({ identity, chain }: QueueDatabase) => ({
  identity,
  ...(chain.at(-1) ?? { openCounter: 1, nonce: '' }),
});

// --- what a process costs ------------------------------------------------------------------------------------------------

function status(pid: number, field: string): number {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? Number.NaN) / 1024;
}

export const residentMiB = (pid: number): number => status(pid, 'VmRSS');
export const peakMiB = (pid: number): number => status(pid, 'VmHWM');

/** CPU time so far, all threads, ms; ticks of 10. */
export function cpuMs(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

export const line = (what: string, figures: Readonly<Record<string, number | string>>): void => {
  const shown = Object.entries(figures).map(
    ([name, value]) => `${name} ${typeof value === 'number' ? value.toFixed(Math.abs(value) < 10 ? 2 : 0) : value}`,
  );
  process.stdout.write(`${what.padEnd(24)} ${shown.join('  ')}\n`);
};

/** Metrics of one transport, each summed over its labels, in one look: a scrape costs the transport some milliseconds. */
export async function metrics<Name extends string>(
  cluster: DirectCluster,
  member: string,
  names: readonly Name[],
): Promise<Record<Name, number>> {
  const { transports } = await cluster.runFile();
  const url = transports.find((one) => one.name === member)?.metricsUrl;
  if (url === undefined) throw new Error(`no transport ${member}`);
  const lines = (await (await fetch(url)).text()).split('\n');
  const sum = (name: string): number =>
    lines
      .filter((each) => each.startsWith(`${name}{`) || each.startsWith(`${name} `))
      .reduce((total, each) => total + Number(each.split(' ').at(-1)), 0);
  return Object.fromEntries(names.map((name) => [name, sum(name)])) as Record<Name, number>;
}

export const metric = async (cluster: DirectCluster, member: string, name: string): Promise<number> =>
  (await metrics(cluster, member, [name]))[name] ?? 0;

// --- a store ---------------------------------------------------------------------------------------------------------------

/** LMTP (RFC 2033) or SMTP, as the client greets it, that says yes to everything and keeps nothing: what is measured is the transport. */
export class CountingStore {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  delivered = 0;
  firstAtMs: number | null = null;
  lastAtMs: number | null = null;

  readonly #delayMs: number;

  private constructor(server: Server, delayMs: number) {
    this.#server = server;
    this.#delayMs = delayMs;
  }

  /** `delayMs`: how long each message is thought about. */
  static async open({ host = '127.0.0.1', port = 0, delayMs = 0 } = {}): Promise<CountingStore> {
    const store = new CountingStore(
      createServer((socket) => store.#talk(socket)),
      delayMs,
    );
    await new Promise<void>((resolve) => store.#server.listen(port, host, resolve));
    return store;
  }

  get address(): string {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('not listening');
    return `127.0.0.1:${address.port}`;
  }

  #talk(socket: Socket): void {
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#sockets.delete(socket));
    let rest = '';
    let recipients = 0;
    let inData = false;
    let isLmtp = false;
    const say = (text: string): void => void socket.write(text);
    socket.write('220 bench LMTP\r\n');
    socket.on('data', (chunk: Buffer) => {
      let text = rest + chunk.toString('latin1');
      let answer = '';
      for (;;) {
        if (inData) {
          const end = text.indexOf('\r\n.\r\n');
          if (end < 0) {
            text = text.slice(-4);
            break;
          }
          text = text.slice(end + 5);
          inData = false;
          const stored = '250 2.0.0 stored\r\n'.repeat(isLmtp ? recipients : 1);
          if (this.#delayMs === 0) answer += stored;
          else setTimeout(say, this.#delayMs, stored);
          this.delivered += 1;
          this.lastAtMs = performance.now();
          this.firstAtMs ??= this.lastAtMs;
          continue;
        }
        const end = text.indexOf('\r\n');
        if (end < 0) break;
        const command = text.slice(0, 4).toUpperCase();
        text = text.slice(end + 2);
        if (command === 'LHLO' || command === 'EHLO') {
          isLmtp = command === 'LHLO';
          answer += '250-bench\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n';
        } else if (command === 'DATA') {
          inData = true;
          // The dot may follow the line end of DATA itself.
          text = `\r\n${text}`;
          answer += '354 go on\r\n';
        } else if (command === 'QUIT') {
          socket.end(`${answer}221 2.0.0 bye\r\n`);
          return;
        } else {
          if (command === 'MAIL') recipients = 0;
          if (command === 'RCPT') recipients += 1;
          answer += '250 2.1.0 ok\r\n';
        }
      }
      rest = text;
      if (answer !== '') socket.write(answer);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

/** An address where nobody answers: connections are refused at once. */
export async function deadAddress(): Promise<string> {
  const store = await CountingStore.open();
  const { address } = store;
  await store[Symbol.asyncDispose]();
  return address;
}
