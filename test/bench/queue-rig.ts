/**
 * What the measurements of whole transports share: queue databases written in advance by the product's own store code, a store that takes
 * mail and counts it, and what `/proc` says of a process. Owns: the cluster's directory until it is disposed of.
 */
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readFile } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TransportConfig } from '../../common/config.ts';
import type { CopyId, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeFiles } from '../../common/platform/node-files.ts';
import { systemRandom } from '../../common/platform/random.ts';
import type { CopyFacts, CopyState, QueueDatabase, Write } from '../../transport/store/database.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { DirectCluster, type DirectOptions } from '../process/direct-cluster.ts';
import { benchId, wireFacts, wireState } from './store-copies.ts';

export const MIB = 1024 * 1024;

/** Files for everybody, nothing started: the queue databases can be written first. */
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

/** The queue database a transport of the cluster will find, opened as it would. */
export async function openQueue(cluster: DirectCluster, name: string): Promise<QueueDatabase> {
  const config = JSON.parse(await readFile(cluster.configFile(name), 'utf8')) as TransportConfig;
  return openSegmentLog({
    directory: config.queueDatabaseDirectory,
    files: nodeFiles,
    clock: systemClock,
    random: systemRandom,
    log: silentLogger,
    segmentBytes: config.store.segmentBytes,
    reserveBytes: config.store.reserveBytes,
    onFatal: (reason) => {
      throw reason;
    },
    member: name,
  });
}

/** Not long ago: older mail expires at once. */
const shiftMs = Math.floor(systemClock.wallMs()) - 1_800_000 - 1_700_000_000_000;

/** Message `n` to a mailbox of `domain`, as it comes off the wire. */
export function messageFacts(n: number, digest: string, sizeBytes: number, domain: string): CopyFacts {
  const facts = wireFacts(n % 200_000, digest, sizeBytes);
  return {
    ...facts,
    id: benchId(n),
    envelope: {
      ...facts.envelope,
      recipients: [{ address: `mailbox-${n % 20_000}@${domain}` }],
      receivedAtMs: facts.envelope.receivedAtMs + shiftMs,
    },
    acceptedAtMs: facts.acceptedAtMs + shiftMs,
    events: facts.events.map((event) => ({ ...event, atMs: event.atMs + shiftMs })),
  };
}

export function transitState(n: number, more: Pick<CopyState, 'queue' | 'epoch'> & Partial<CopyState>): CopyState {
  return { ...wireState(n, 'delivery'), recipients: null, placements: [], ...more };
}

export interface Batch {
  readonly id: CopyId;
  readonly facts: CopyFacts;
  readonly state: CopyState;
  /** Where it comes to rest at once, or null. */
  readonly resting: CopyState | null;
}

/** Writes `count` copies; `make` says what each is, given the digest of its body. */
export async function fill(
  store: QueueDatabase,
  count: number,
  bytes: Buffer,
  make: (n: number, digest: string) => Omit<Batch, 'id'>,
): Promise<void> {
  for (let n = 0; n < count; ) {
    const writes: Write[] = [];
    for (let i = 0; i < 500 && n < count; i++, n++) {
      const body = store.beginBody(benchId(n));
      await body.append(bytes);
      const { facts, state, resting } = make(n, body.digest());
      writes.push({ kind: 'commit', facts, state, body });
      if (resting !== null) writes.push({ kind: 'move', id: facts.id, state: resting });
    }
    await store.commit(writes);
  }
}

export const seenOf = (member: string, identity: Identity): Write => ({
  kind: 'seen',
  seen: { member, identity, openCounter: 1, nonce: 'bench', syncedSequence: 0 },
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

/** A metric of one transport, summed over its labels that contain `label`. */
export async function metric(cluster: DirectCluster, member: string, name: string, label = ''): Promise<number> {
  const { transports } = await cluster.runFile();
  const url = transports.find((one) => one.name === member)?.metricsUrl;
  if (url === undefined) throw new Error(`no transport ${member}`);
  const page = await (await fetch(url)).text();
  return page
    .split('\n')
    .filter((each) => (each.startsWith(`${name}{`) || each.startsWith(`${name} `)) && each.includes(label))
    .reduce((sum, each) => sum + Number(each.split(' ').at(-1)), 0);
}

// --- a store ---------------------------------------------------------------------------------------------------------------

/** LMTP (RFC 2033) that says yes to everything and keeps nothing: what is measured is the transport. */
export class CountingStore {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  delivered = 0;
  firstAtMs: number | null = null;
  lastAtMs: number | null = null;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async open(): Promise<CountingStore> {
    const store = new CountingStore(createServer((socket) => store.#talk(socket)));
    await new Promise<void>((resolve) => store.#server.listen(0, '127.0.0.1', resolve));
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
          answer += '250 2.0.0 stored\r\n'.repeat(recipients);
          this.delivered += 1;
          this.lastAtMs = performance.now();
          this.firstAtMs ??= this.lastAtMs;
          continue;
        }
        const end = text.indexOf('\r\n');
        if (end < 0) break;
        const command = text.slice(0, 4).toUpperCase();
        text = text.slice(end + 2);
        if (command === 'LHLO') answer += '250-bench\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n';
        else if (command === 'DATA') {
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
