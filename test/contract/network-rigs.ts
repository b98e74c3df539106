/** The two implementations of the network port, each with a way to wait for what it does: real TLS on loopback, and the simulator. */
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../common/platform/clock.ts';
import { type LogFields, type Logger, silentLogger } from '../../common/platform/log.ts';
import type { Connection, ConnectionHandlers, Network, PeerAddress, PeerName } from '../../common/platform/net.ts';
import { openTlsNetwork, type TlsNetwork } from '../../common/platform/tls-network.ts';
import { type Authority, type CertificatePems, createAuthority, issueCertificate } from '../../operator/pki.ts';
import { until } from '../house/until.ts';
import { SimNetwork } from '../sim/net.ts';
import { Scheduler } from '../sim/scheduler.ts';

export const DIALLER: PeerName = { role: 'frontend', name: 'front-0' };
export const ACCEPTOR: PeerName = { role: 'transport', name: 'back-0' };

export interface NetworkRig {
  readonly dialling: Network;
  readonly accepting: Network;
  /** To listen at with port 0, to dial with the port of the listener. */
  readonly host: string;
  wait(what: string, condition: () => boolean): Promise<void>;
  /** Waits for a promise, letting the network work. */
  settle<T>(promise: Promise<T>): Promise<T>;
  /** An address where somebody is who never answers. */
  silent(): Promise<PeerAddress>;
  close(): Promise<void>;
}

export function simRig(seed = 1): NetworkRig {
  const scheduler = new Scheduler(seed);
  const network = new SimNetwork(scheduler, { fragmentChance: 0.3 });
  const wait = async (what: string, condition: () => boolean): Promise<void> => {
    await new Promise<void>((resolve) => setImmediate(resolve));
    if (!(await scheduler.run(condition, scheduler.nowMs + 60_000))) throw new Error(`never happened: ${what}`);
  };
  return {
    dialling: network.host(DIALLER, { alive: true }),
    accepting: network.host(ACCEPTOR, { alive: true }),
    host: ACCEPTOR.name,
    wait,
    settle: async (promise) => {
      let done = false;
      const finish = (): void => {
        done = true;
      };
      promise.then(finish, finish);
      await wait('a promise', () => done);
      return promise;
    },
    silent: async () => {
      network.cut(DIALLER.name, 'nobody');
      return { host: 'nobody', port: 1 };
    },
    close: async () => undefined,
  };
}

/** A directory with certificates of one authority. */
export class Pki {
  readonly directory: string;
  readonly authority: Authority;
  readonly warnings: LogFields[] = [];
  readonly #networks: TlsNetwork[] = [];

  constructor(directory: string, authority: Authority) {
    this.directory = directory;
    this.authority = authority;
  }

  static async create(): Promise<Pki> {
    return new Pki(await mkdtemp(join(tmpdir(), 'mailcluster-tls-')), await createAuthority('mail'));
  }

  files(name: string): { caFile: string; certificateFile: string; keyFile: string } {
    return {
      caFile: join(this.directory, `${name}.ca.pem`),
      certificateFile: join(this.directory, `${name}.cert.pem`),
      keyFile: join(this.directory, `${name}.key.pem`),
    };
  }

  issue(peer: PeerName, authority = this.authority, cluster = 'mail'): Promise<CertificatePems> {
    return issueCertificate(authority, { cluster, ...peer, hosts: ['127.0.0.1'], days: 1 });
  }

  /** Replaces each file by a rename, one after the other, as a careful writer does. */
  async write(name: string, pems: CertificatePems, caPem = this.authority.certificatePem): Promise<void> {
    const files = this.files(name);
    const replace = async (path: string, text: string): Promise<void> => {
      await writeFile(`${path}.new`, text);
      await rename(`${path}.new`, path);
    };
    await replace(files.caFile, caPem);
    await replace(files.certificateFile, pems.certificatePem);
    await replace(files.keyFile, pems.keyPem);
  }

  async network(name: string, cluster = 'mail'): Promise<TlsNetwork> {
    const log: Logger = { ...silentLogger, warn: (fields) => this.warnings.push(fields) };
    const network = await openTlsNetwork({ files: this.files(name), cluster, clock: systemClock, log });
    this.#networks.push(network);
    return network;
  }

  /** A network for a peer with a fresh certificate. */
  async member(peer: PeerName): Promise<TlsNetwork> {
    await this.write(peer.name, await this.issue(peer));
    return this.network(peer.name);
  }

  async close(): Promise<void> {
    for (const network of this.#networks) await network.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}

export async function tlsRig(): Promise<NetworkRig> {
  const { createServer } = await import('node:net');
  const pki = await Pki.create();
  const sockets = new Set<{ destroy(): void }>();
  const mute = createServer((socket) => sockets.add(socket));
  return {
    dialling: await pki.member(DIALLER),
    accepting: await pki.member(ACCEPTOR),
    host: '127.0.0.1',
    wait: async (what, condition) => {
      await until(what, () => condition(), { deadlineMs: 10_000, everyMs: 2 });
    },
    settle: (promise) => promise,
    silent: () =>
      new Promise((resolve) => {
        mute.listen({ host: '127.0.0.1', port: 0 }, () => {
          const address = mute.address();
          resolve({ host: '127.0.0.1', port: typeof address === 'object' && address !== null ? address.port : 0 });
        });
      }),
    close: async () => {
      for (const socket of sockets) socket.destroy();
      if (mute.listening) mute.close();
      await pki.close();
    },
  };
}

/** Handlers that keep what they are told. */
export class Heard implements ConnectionHandlers {
  readonly chunks: Buffer[] = [];
  readonly closes: string[] = [];
  drains = 0;

  onData(chunk: Buffer): void {
    if (this.closes.length > 0) throw new Error('data after close');
    this.chunks.push(chunk);
  }

  onDrain(): void {
    this.drains += 1;
  }

  onClose(reason: string): void {
    this.closes.push(reason);
  }

  get bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }

  get length(): number {
    return this.chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  }
}

export function hear(connection: Connection): Heard {
  const heard = new Heard();
  connection.start(heard);
  return heard;
}
