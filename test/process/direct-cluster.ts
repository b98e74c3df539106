/**
 * A MailCluster whose processes a test starts one by one, without `mailcluster run`: nobody starts a dead one again, each can live in a
 * network namespace of its own, and a second process can be given the name of another. Configurations, certificates and the topology
 * document come from the same code as the runner's; run.json is kept so that everything that reads a cluster reads this one too.
 * Owns: the processes and (unless it was given one) the directory. Promise: nothing of it is left after `[Symbol.asyncDispose]`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FrontendConfig, TopologyDocument, TransportConfig } from '../../common/config.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { PROGRAMS } from '../../operator/cli/run.ts';
import {
  ensureCertificates,
  everybody,
  OPERATOR_NAME,
  openAuthority,
  type SecretFiles,
  SecretStore,
  tlsFiles,
} from '../../operator/local/credentials.ts';
import { frontendConfig, portPurpose, storeName, transportConfig, wantedSecrets } from '../../operator/local/plan.ts';
import { LOOPBACK, Ports } from '../../operator/local/ports.ts';
import type { RunFile } from '../../operator/local/run-file.ts';
import {
  makeDirectory,
  openLog,
  prepareStateDirectory,
  type StatePaths,
  statePaths,
  writeJson,
} from '../../operator/local/state-directory.ts';
import { readWanted, type Wanted } from '../../operator/local/wanted.ts';
import { NO_DECISIONS, nextTopology } from '../../operator/topology.ts';
import { TRANSPORT_ALLOCATOR, TRANSPORT_NODE_FLAGS } from '../../operator/transport-process.ts';
import { until } from '../house/until.ts';
import { alive, ClusterView, signal } from './cluster-view.ts';

/** Where a process lives: the address it listens at and what is written before its command. */
export interface Place {
  readonly host: string;
  readonly command: readonly string[];
}

export const LOCAL: Place = { host: LOOPBACK, command: [] };

export interface DirectOptions {
  readonly place?: (name: string) => Place;
  /** Its own temporary directory when it is not given one. */
  readonly directory?: string;
  /** Further options of node for transports. */
  readonly flags?: readonly string[];
  /** How long a process may take to be ready; a minute. */
  readonly readyWithinMs?: number;
}

type Kind = 'transport' | 'frontend' | 'store';

interface Child {
  readonly process: ChildProcess;
  ready: boolean;
  /** What it said before it ended for good, or null. */
  fatal: string | null;
}

export async function startDirect(
  resources: (directory: string) => string,
  options: DirectOptions = {},
): Promise<DirectCluster> {
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'mailcluster-direct-')));
  const cluster = new DirectCluster(directory, options);
  try {
    await mkdir(cluster.maildirs);
    await cluster.prepare(resources(directory));
    await cluster.launchAll();
    await cluster.connected();
    return cluster;
  } catch (error) {
    const words = `${String(error)}\n${await cluster.lastWords()}`;
    await cluster[Symbol.asyncDispose]();
    throw new Error(words, { cause: error });
  }
}

export class DirectCluster extends ClusterView {
  readonly #options: DirectOptions;
  readonly #paths: StatePaths;
  readonly #ports = new Ports({}, systemRandom);
  readonly #children = new Map<string, Child>();
  readonly #others: ChildProcess[] = [];
  #wanted: Wanted | null = null;
  #document: TopologyDocument | null = null;
  /** run.json is written by one at a time. */
  #publishing: Promise<void> = Promise.resolve();
  #isOver = false;

  constructor(directory: string, options: DirectOptions) {
    super(directory);
    this.#options = options;
    this.#paths = statePaths(this.state);
  }

  get #all(): Wanted {
    if (this.#wanted === null) throw new Error('not prepared');
    return this.#wanted;
  }

  get transports(): readonly { readonly name: string; readonly site: string }[] {
    return this.#all.members.transports;
  }

  get frontends(): readonly { readonly name: string; readonly site: string }[] {
    return this.#all.members.frontends;
  }

  #place(name: string): Place {
    return this.#options.place?.(name) ?? LOCAL;
  }

  /** Files for all of them; nothing runs yet. */
  async prepare(resources: string): Promise<void> {
    await prepareStateDirectory(this.#paths);
    await this.#apply(resources);
    const { cluster, members, stores, bindings } = this.#all;
    const authority = await openAuthority(this.#paths, cluster.metadata.name);
    await ensureCertificates(this.#paths, cluster.metadata.name, authority, everybody(members), systemClock);
    const secrets = await this.#secrets();
    for (const one of members.transports) {
      await makeDirectory(this.#paths.queue(one.name));
      await this.#writeConfig(one.name, transportConfig(cluster, one, secrets, this.#paths, this.#portOf));
    }
    for (const one of members.frontends) {
      await makeDirectory(this.#paths.frontend(one.name));
      const config = frontendConfig(cluster, one, bindings, secrets, this.#paths, this.#portOf);
      const { host } = this.#place(one.name);
      await this.#writeConfig(one.name, { ...config, listeners: config.listeners.map((each) => ({ ...each, host })) });
    }
    for (const { maildir } of stores) await makeDirectory(maildir);
    await this.#publish();
  }

  /** The document that follows from changed resources; everybody is told. */
  async change(resources: string): Promise<void> {
    await this.#apply(resources);
    for (const { process: child } of this.#children.values()) if (child.connected) child.send({ kind: 'reload' });
    await this.#publish();
  }

  async launchAll(): Promise<void> {
    const { stores, members } = this.#all;
    await Promise.all(stores.map(({ name }) => this.launch(name)));
    await Promise.all(members.transports.map(({ name }) => this.launch(name)));
    await Promise.all(members.frontends.map(({ name }) => this.launch(name)));
  }

  /** The same for what no resource says: members that are lost, requests. */
  async decide(change: (document: TopologyDocument) => Partial<TopologyDocument>): Promise<void> {
    const document = this.#document;
    if (document === null) throw new Error('not prepared');
    this.#document = { ...document, ...change(document), generation: document.generation + 1 };
    await writeJson(this.#paths.topology, this.#document);
    for (const { process: child } of this.#children.values()) if (child.connected) child.send({ kind: 'reload' });
  }

  configFile(name: string): string {
    return this.#paths.config(name);
  }

  /** Starts the process of that name and waits until it is ready. */
  async launch(name: string): Promise<void> {
    const { child, ended } = await this.#spawn(name, this.#kind(name), this.#arguments(name));
    this.#children.set(name, child);
    await ended;
    await this.#publish();
  }

  /** A second process with the name of a transport, on `queueDirectory`. */
  async launchDouble(name: string, queueDirectory: string): Promise<Double> {
    const path = `${queueDirectory}.config.json`;
    const original = this.#paths.config(name);
    const config = JSON.parse(await readFile(original, 'utf8')) as TransportConfig;
    const free = { host: this.#place(name).host, port: 0 };
    const own = { queueDatabaseDirectory: queueDirectory, listen: free, admin: free, metrics: free };
    await writeJson(path, { ...config, ...own });
    const { child, ended } = await this.#spawn(`${name}-double`, 'transport', [path]);
    this.#others.push(child.process);
    const outcome = ended.then(
      () => 'ready' as const,
      (error: unknown) => String(error),
    );
    const stop = async (): Promise<void> => {
      child.process.kill('SIGKILL');
      await until(`the double of ${name} to be gone`, () => !hasNotEnded(child.process), { deadlineMs: 10_000 });
    };
    return { isAlive: () => hasNotEnded(child.process), fatal: () => child.fatal, outcome, stop };
  }

  /** SIGKILL; returns when it is dead. Nobody starts it again. */
  override async kill(name: string): Promise<number> {
    return await this.end(name, 'SIGKILL');
  }

  async end(name: string, how: 'SIGKILL' | 'SIGTERM'): Promise<number> {
    const child = this.#child(name);
    const pid = child.process.pid ?? 0;
    signal(pid, 'SIGCONT');
    child.process.kill(how);
    await until(`${name} to be gone`, () => !hasNotEnded(child.process), { deadlineMs: 30_000 });
    await this.#publish();
    return pid;
  }

  /** The volume of a dead transport as it would be after its disk was replaced. */
  async destroyVolume(name: string): Promise<void> {
    if (this.isRunning(name)) throw new Error(`${name} runs on that volume`);
    await rm(this.queueDirectory(name), { recursive: true, force: true });
    await makeDirectory(this.queueDirectory(name));
  }

  /** A copy of a volume, byte for byte; `name` should not be running, or frozen. */
  async copyVolume(from: string, to: string): Promise<void> {
    await rm(to, { recursive: true, force: true });
    await cp(from, to, { recursive: true, preserveTimestamps: true });
  }

  queueDirectory(name: string): string {
    return this.#paths.queue(name);
  }

  isRunning(name: string): boolean {
    const child = this.#children.get(name);
    return child !== undefined && hasNotEnded(child.process);
  }

  /** What it said before it ended, or null. */
  fatal(name: string): string | null {
    return this.#child(name).fatal;
  }

  pid(name: string): number {
    const { pid } = this.#child(name).process;
    if (pid === undefined) throw new Error(`${name} has no pid`);
    return pid;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    const processes = [...[...this.#children.values()].map((one) => one.process), ...this.#others];
    for (const one of processes.filter(hasNotEnded)) {
      signal(one.pid ?? 0, 'SIGCONT');
      one.kill('SIGKILL');
    }
    const gone = (): boolean => processes.every((one) => one.pid === undefined || !alive(one.pid));
    await until('every process to be gone', gone, { deadlineMs: 30_000 });
    await this.#publishing;
    await rm(this.directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }

  async #apply(resources: string): Promise<void> {
    await writeFile(this.resourceFile, resources);
    const read = readWanted([this.resourceFile], [], this.#paths.root, () => '');
    if (read.kind === 'problem') throw new Error(read.text);
    const wanted = read.value;
    await this.#findPorts(wanted);
    const next = nextTopology(this.#document, {
      cluster: wanted.cluster,
      databases: wanted.databases,
      configMaps: wanted.loaded.configMaps,
      addresses: new Map(wanted.members.transports.map(({ name }) => [name, this.#at(name, portPurpose.peer(name))])),
      resolveMaildir: (database, copy) => {
        const name = storeName(database, copy);
        return this.#at(name, portPurpose.store(name));
      },
      decisions: NO_DECISIONS,
      requests: [],
      nowMs: systemClock.wallMs(),
    });
    if (next.kind === 'refused') throw new Error(next.reasons.join('\n'));
    this.#wanted = wanted;
    this.#document = next.document;
    await writeJson(this.#paths.topology, next.document);
  }

  async #findPorts({ members, stores, bindings }: Wanted): Promise<void> {
    const { peer, admin, metrics, store, listener } = portPurpose;
    const purposes = [
      ...members.transports.flatMap(({ name }) => [peer(name), admin(name), metrics(name)]),
      ...members.frontends.map(({ name }) => metrics(name)),
      ...bindings.map((one) => listener(one.frontend, one.listener)),
      ...stores.map(({ name }) => store(name)),
    ];
    for (const purpose of purposes) await this.#ports.of(purpose);
  }

  #portOf = (purpose: string): number => {
    const port = this.#ports.table()[purpose];
    if (port === undefined) throw new Error(`no port for ${purpose}`);
    return port;
  };

  #at(name: string, purpose: string): { readonly host: string; readonly port: number } {
    return { host: this.#place(name).host, port: this.#portOf(purpose) };
  }

  #secrets(): Promise<SecretFiles> {
    const { cluster, loaded } = this.#all;
    return new SecretStore(this.#paths, systemRandom).write(wantedSecrets(cluster), loaded.secrets);
  }

  async #writeConfig(name: string, config: TransportConfig | FrontendConfig): Promise<void> {
    const { host } = this.#place(name);
    const elsewhere = 'admin' in config ? { listen: { ...config.listen, host }, admin: { ...config.admin, host } } : {};
    await writeJson(this.#paths.config(name), { ...config, ...elsewhere, metrics: { ...config.metrics, host } });
  }

  #kind(name: string): Kind {
    const { members, stores } = this.#all;
    if (members.transports.some((one) => one.name === name)) return 'transport';
    if (members.frontends.some((one) => one.name === name)) return 'frontend';
    if (stores.some((one) => one.name === name)) return 'store';
    throw new Error(`no process ${name}`);
  }

  #arguments(name: string): readonly string[] {
    const store = this.#all.stores.find((one) => one.name === name);
    if (store === undefined) return [this.#paths.config(name)];
    const { host, port } = this.#at(name, portPurpose.store(name));
    return ['--maildir', store.maildir, '--listen', `${host}:${port}`];
  }

  async #spawn(
    name: string,
    kind: Kind,
    args: readonly string[],
  ): Promise<{ readonly child: Child; readonly ended: Promise<void> }> {
    const [file = process.execPath, ...before] = [...this.#place(name).command, process.execPath];
    const log = openLog(this.#paths.log(name));
    const flags = kind === 'transport' ? [...TRANSPORT_NODE_FLAGS, ...(this.#options.flags ?? [])] : [];
    const spawned = spawn(file, [...before, ...flags, PROGRAMS[kind], ...args], {
      stdio: ['ignore', kind === 'store' ? 'pipe' : log, log, 'ipc'],
      env: {
        ...process.env,
        ...(kind === 'transport' ? TRANSPORT_ALLOCATOR : {}),
        NODE_COMPILE_CACHE: this.#paths.cache,
      },
    });
    closeSync(log);
    const child: Child = { process: spawned, ready: false, fatal: null };
    spawned.on('message', (message: { readonly kind?: string; readonly reason?: string }) => {
      if (message.kind === 'ready') child.ready = true;
      if (message.kind === 'fatal') child.fatal = message.reason ?? 'no reason given';
    });
    // The store says in a line that it is ready.
    spawned.stdout?.on('data', (chunk: Buffer) => {
      if (chunk.toString().includes('"ready":true')) child.ready = true;
    });
    spawned.on('exit', () => void this.#publish());
    const settled = until(`${name} to be ready`, () => child.ready || !hasNotEnded(spawned), {
      deadlineMs: this.#options.readyWithinMs ?? 60_000,
    });
    const ended = settled.then(() => {
      if (!child.ready) throw new Error(`${name} ended: ${child.fatal ?? spawned.exitCode ?? spawned.signalCode}`);
    });
    return { child, ended };
  }

  #child(name: string): Child {
    const child = this.#children.get(name);
    if (child === undefined) throw new Error(`${name} was never started`);
    return child;
  }

  #publish(): Promise<void> {
    this.#publishing = this.#publishing.then(async () => {
      if (this.#isOver) return;
      const { cluster, members, stores, bindings } = this.#all;
      const pid = (name: string): number | null => {
        const child = this.#children.get(name);
        return child?.ready === true && hasNotEnded(child.process) ? (child.process.pid ?? null) : null;
      };
      const url = (name: string, scheme: string, purpose: string): string =>
        `${scheme}://${this.#place(name).host}:${this.#portOf(purpose)}`;
      const metricsUrl = (name: string): string => `${url(name, 'http', portPurpose.metrics(name))}/metrics`;
      const run: RunFile = {
        version: 1,
        cluster: cluster.metadata.name,
        pid: process.pid,
        state: this.#paths.root,
        generation: this.#document?.generation ?? 0,
        topologyFile: this.#paths.topology,
        operatorTls: tlsFiles(this.#paths, OPERATOR_NAME),
        listeners: bindings.map(({ frontend, listener }) => ({
          ...this.#at(frontend, portPurpose.listener(frontend, listener)),
          name: listener,
          frontend,
        })),
        frontends: members.frontends.map((one) => ({ ...one, pid: pid(one.name), metricsUrl: metricsUrl(one.name) })),
        transports: members.transports.map(({ name, dag, site }) => ({
          name,
          dag,
          site,
          pid: pid(name),
          queueDatabaseDirectory: this.#paths.queue(name),
          adminUrl: url(name, 'https', portPurpose.admin(name)),
          metricsUrl: metricsUrl(name),
        })),
        stores: stores.map((one) => ({
          ...one,
          pid: pid(one.name),
          ...this.#at(one.name, portPurpose.store(one.name)),
        })),
      };
      await writeJson(this.#paths.run, run);
    });
    return this.#publishing;
  }
}

/** A second process with somebody else's name. */
export interface Double {
  /** `ready`, or why it never was. */
  readonly outcome: Promise<string>;
  isAlive(): boolean;
  fatal(): string | null;
  stop(): Promise<void>;
}

const hasNotEnded = (child: ChildProcess): boolean => child.exitCode === null && child.signalCode === null;
