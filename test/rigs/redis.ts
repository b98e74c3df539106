/**
 * Redis servers for tests. `RealRedis`: Debian's redis-server on a port of loopback or of another address of this machine, without persistence, in a temporary directory; can be stopped, killed
 * and started again. `ScriptedRedis`: a server that speaks just enough of the protocol and lies as the test says.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '../house/until.ts';
import { freePort } from './dovecot.ts';
import { commandIn, ensurePackage, type Prefix } from './packages.ts';

const encode = (args: readonly string[]): string =>
  `*${args.length}\r\n${args.map((arg) => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`).join('')}`;

export class RealRedis {
  readonly port: number;
  readonly directory: string;
  readonly #prefix: Prefix;
  readonly #password: string | null;
  readonly #host: string;
  #child: ChildProcess | null = null;
  #output = '';

  private constructor(
    prefix: Prefix,
    place: { readonly host: string; readonly port: number },
    directory: string,
    password: string | null,
  ) {
    this.#prefix = prefix;
    this.port = place.port;
    this.#host = place.host;
    this.directory = directory;
    this.#password = password;
  }

  static async start(
    password: string | null = null,
    host = '127.0.0.1',
  ): Promise<RealRedis | { readonly missing: string }> {
    const prefix = await ensurePackage('redis-server');
    if ('missing' in prefix) return prefix;
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-redis-'));
    await chmod(directory, 0o777); // it runs as nobody
    const redis = new RealRedis(prefix, { host, port: await freePort() }, directory, password);
    try {
      await redis.launch();
    } catch (error) {
      await redis[Symbol.asyncDispose]();
      throw error;
    }
    return redis;
  }

  /** Again after `kill`: the same port, nothing in it. */
  async launch(): Promise<void> {
    const settings = ['--port', `${this.port}`, '--bind', this.#host, '--save', '', '--appendonly', 'no'];
    const secret = this.#password === null ? [] : ['--requirepass', this.#password];
    const program = ['/usr/bin/redis-server', ...settings, '--dir', this.directory, ...secret];
    const { file, args } = commandIn(this.#prefix, program, true);
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output = `${this.#output}${chunk.toString()}`.slice(-4_096);
      });
    }
    await until('redis-server to answer', async () => (await this.command('PING')).includes('PONG'), {
      deadlineMs: 10_000,
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${this.#output}`);
    });
  }

  /** The raw reply to one command on a connection of its own. */
  command(...args: readonly string[]): Promise<string> {
    const auth = this.#password === null ? '' : encode(['AUTH', this.#password]);
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const socket = connect(this.port, this.#host);
    const chunks: Buffer[] = [];
    socket.on('error', reject);
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('close', () => {
      const text = Buffer.concat(chunks).toString('latin1');
      resolve(auth === '' ? text : text.replace('+OK\r\n', ''));
    });
    socket.end(`${auth}${encode(args)}${encode(['QUIT'])}`);
    return promise;
  }

  async keys(): Promise<readonly string[]> {
    return (await this.command('KEYS', '*')).split('\r\n').filter((line) => line.startsWith('mailcluster:'));
  }

  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child?.kill(name);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    child.kill('SIGKILL');
    await gone;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true, force: true, maxRetries: 10 });
  }
}

/** Bytes to send, or silence, or the end of the connection. Null: as a real server would. */
export type RedisAnswer = string | Buffer | 'hang' | 'drop' | null;

export class ScriptedRedis {
  readonly values = new Map<string, Buffer>();
  readonly commands: string[] = [];
  connections = 0;
  /** May be replaced at any time. */
  script: (name: string, args: readonly Buffer[], socket: Socket) => RedisAnswer = () => null;
  /** Greets with these bytes, out of turn. */
  greeting: Buffer | null = null;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor() {
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async start(): Promise<ScriptedRedis> {
    const redis = new ScriptedRedis();
    await new Promise<void>((resolve) => {
      redis.#server.listen(0, '127.0.0.1', resolve);
    });
    return redis;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('not listening');
    return address.port;
  }

  /** How many of these were received. */
  count(name: string): number {
    return this.commands.filter((one) => one === name).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
  }

  #serve(socket: Socket): void {
    this.connections++;
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    if (this.greeting !== null) socket.write(this.greeting);
    let pending = Buffer.alloc(0);
    socket.on('data', (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      for (let found = firstCommand(pending); found !== null; found = firstCommand(pending)) {
        pending = pending.subarray(found.length);
        this.#answer(socket, found.args);
      }
    });
  }

  #answer(socket: Socket, args: readonly Buffer[]): void {
    const name = (args[0] ?? '').toString().toUpperCase();
    this.commands.push(name);
    const answer = this.script(name, args, socket) ?? this.#honest(name, args);
    if (answer === 'drop') socket.destroy();
    else if (answer !== 'hang') socket.write(answer);
  }

  #honest(name: string, args: readonly Buffer[]): string | Buffer {
    const key = (args[1] ?? '').toString();
    if (name === 'PING') return '+PONG\r\n';
    if (name === 'GETRANGE') return bulk(this.values.get(key) ?? Buffer.alloc(0));
    if (name === 'SET') this.values.set(key, args[2] ?? Buffer.alloc(0));
    return '+OK\r\n';
  }
}

export const bulk = (value: Buffer): Buffer =>
  Buffer.concat([Buffer.from(`$${value.length}\r\n`), value, Buffer.from('\r\n')]);

function firstCommand(bytes: Buffer): { readonly args: readonly Buffer[]; readonly length: number } | null {
  let at = 0;
  const line = (): string | null => {
    const end = bytes.indexOf('\r\n', at);
    if (end < 0) return null;
    const text = bytes.toString('latin1', at, end);
    at = end + 2;
    return text;
  };
  const head = line();
  // A TLS greeting may have an end of line anywhere in its random bytes, and is no command.
  if (head === null || !/^\*\d+$/.test(head)) return null;
  const args: Buffer[] = [];
  for (let left = Number(head.slice(1)); left > 0; left--) {
    const size = line();
    if (size === null) return null;
    const length = Number(size.slice(1));
    if (bytes.length < at + length + 2) return null;
    args.push(bytes.subarray(at, at + length));
    at += length + 2;
  }
  return { args, length: at };
}
