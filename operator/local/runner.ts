/**
 * `mailcluster run`: one cluster as processes of one machine. Owns: the state directory (under its lock), the children, run.json.
 * Promise: nothing is started unless everything was found right; a child that dies is started again on its own directory, which is never
 * emptied; a change that is refused or wrong changes nothing; `stop` leaves no child behind. The topology comes from the same pure code
 * as the operator's. Refuses: more or fewer than one MailCluster, the removal of a member, a second runner on the directory.
 * Fails: `start` answers with reasons and exit code 2, or 1 when a child cannot be brought up.
 */
import type { TopologyDocument } from '../../common/config.ts';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { ExclusiveLock, Files } from '../../common/platform/files.ts';
import type { Random } from '../../common/platform/random.ts';
import { renderProblem } from '../resource/problem.ts';
import { nextTopology } from '../topology.ts';
import {
  ensureCertificates,
  everybody,
  OPERATOR_NAME,
  openAuthority,
  type SecretFiles,
  SecretProblem,
  SecretStore,
  tlsFiles,
} from './credentials.ts';
import {
  type Binding,
  frontendConfig,
  type ListenOption,
  localNotes,
  type PlannedStore,
  portPurpose,
  storeName,
  transportConfig,
  wantedSecrets,
} from './plan.ts';
import { LOOPBACK, listenProblem, Ports, parsePortTable } from './ports.ts';
import { type RunState, runFileOf } from './report.ts';
import {
  makeDirectory,
  openLog,
  prepareStateDirectory,
  readJson,
  removeDocument,
  StateDirectoryError,
  type StatePaths,
  statePaths,
  writeJson,
} from './state-directory.ts';
import { type ChildSpec, type ReadyFacts, SupervisedChild } from './supervisor.ts';
import { ok, type Prepared, problem, readWanted, type Wanted } from './wanted.ts';

/** The entry files of the programs; tests put small ones in their place. */
export interface ProgramTable {
  readonly transport: string;
  readonly frontend: string;
  readonly store: string;
}

export interface RunnerOptions {
  readonly files: readonly string[];
  readonly state: string;
  readonly listen: readonly ListenOption[];
  readonly programs: ProgramTable;
  readonly clock: Clock;
  readonly random: Random;
  /** For the lock on the state directory. */
  readonly disk: Pick<Files, 'lock'>;
  readonly readStdin: () => string;
  /** One line for the person at the terminal. */
  readonly say: (line: string) => void;
}

export type Started = { readonly ok: true } | { readonly ok: false; readonly exitCode: 1 | 2; readonly text: string };

/** Deaths in a row without ever having been ready, after which `start` gives up. */
const MAX_FIRST_FAILURES = 5;
/** How long one front end may take before the next is started again all the same. */
const READY_PATIENCE_MS = 20_000;
const CERTIFICATE_CHECK_MS = 12 * 3_600_000;

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export class Runner {
  readonly #options: RunnerOptions;
  readonly #paths: StatePaths;
  readonly #secrets: SecretStore;
  readonly #children = new Map<string, SupervisedChild>();
  /** Text of the configuration each child was last given. */
  readonly #configs = new Map<string, string>();
  #lock: ExclusiveLock | null = null;
  #ports: Ports;
  #wanted: Wanted | null = null;
  #secretFiles: SecretFiles = { smtpTls: null, users: new Map(), ledger: null, changed: false };
  #document: TopologyDocument | null = null;
  #phase: 'new' | 'starting' | 'running' | 'stopping' = 'new';
  /** Changes of files and children happen one after the other. */
  #turn: Promise<unknown> = Promise.resolve();
  #renewal: Timer | null = null;
  #onStarted: ((started: Started) => void) | null = null;

  constructor(options: RunnerOptions) {
    this.#options = options;
    this.#paths = statePaths(options.state);
    this.#secrets = new SecretStore(this.#paths, options.random);
    this.#ports = new Ports({}, options.random);
  }

  get runFile(): string {
    return this.#paths.run;
  }

  /** Resolves when every process is ready, or with the reasons why not; then nothing is left running. */
  async start(): Promise<Started> {
    const loaded = this.#load();
    if (loaded.kind === 'problem') return { ok: false, exitCode: 2, text: loaded.text };
    try {
      await prepareStateDirectory(this.#paths);
      this.#lock = await this.#options.disk.lock(this.#paths.lock);
      if (this.#lock === null) {
        const text = `the state directory ${this.#paths.root} is in use by another "mailcluster run"; stop it, or give --state another directory\n`;
        return { ok: false, exitCode: 2, text };
      }
      const prepared = await this.#inTurn(() => this.#firstPlan(loaded.value));
      if (prepared.kind === 'problem') {
        await this.#release();
        return { ok: false, exitCode: 2, text: prepared.text };
      }
    } catch (error) {
      await this.#release();
      const fix = error instanceof StateDirectoryError ? `; ${error.fix}` : '';
      return { ok: false, exitCode: 2, text: `${reasonOf(error)}${fix}\n` };
    }
    for (const note of localNotes(loaded.value.cluster)) this.#options.say(note);
    this.#phase = 'starting';
    const started = new Promise<Started>((resolve) => {
      this.#onStarted = resolve;
    });
    for (const child of this.#children.values()) child.start();
    this.#scheduleRenewal();
    const result = await started;
    if (!result.ok) await this.stop();
    return result;
  }

  /** Reads the files again. Null when all is well (also when nothing changed), else why nothing changed. */
  reload(): Promise<string | null> {
    return this.#inTurn(async () => {
      if (this.#phase !== 'running') return `not now: the cluster is ${this.#phase}`;
      const loaded = this.#load();
      if (loaded.kind === 'problem') return loaded.text;
      try {
        const applied = await this.#apply(loaded.value);
        return applied.kind === 'problem' ? applied.text : null;
      } catch (error) {
        return `${reasonOf(error)}\n`;
      }
    });
  }

  /** Front ends first, so that no client loses a session to a transport that is gone; then transports, then stores. */
  async stop(): Promise<void> {
    this.#phase = 'stopping';
    this.#renewal?.cancel();
    this.#onStarted?.({ ok: false, exitCode: 1, text: 'stopped before everything was ready\n' });
    this.#onStarted = null;
    await this.#inTurn(async () => {
      for (const kind of ['frontend', 'transport', 'store'] as const) {
        const some = [...this.#children.values()].filter((child) => child.spec.kind === kind);
        await Promise.all(some.map((child) => child.stop()));
      }
      await removeDocument(this.#paths.run);
    });
    await this.#release();
  }

  /** Synchronous; for the very end of this process. */
  killChildren(): void {
    for (const child of this.#children.values()) child.killNow();
  }

  async #release(): Promise<void> {
    await this.#lock?.release();
    this.#lock = null;
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  #load(): Prepared<Wanted> {
    const { files, readStdin, listen, say } = this.#options;
    const wanted = readWanted(files, listen, this.#paths.root, readStdin);
    if (wanted.kind === 'ok' && this.#phase === 'new')
      for (const note of wanted.value.loaded.notes) say(renderProblem(note));
    return wanted;
  }

  async #firstPlan(wanted: Wanted): Promise<Prepared<null>> {
    const busy = await this.#busyListeners(wanted.bindings);
    if (busy !== null) return problem(`${busy}\n`);
    this.#ports = new Ports(parsePortTable(await readJson(this.#paths.ports)), this.#options.random);
    this.#document = (await readJson(this.#paths.topology)) as TopologyDocument | null;
    const remembered = Object.keys(this.#ports.table());
    for (const purpose of await this.#ports.taken(remembered)) await this.#ports.renew(purpose);
    await removeDocument(this.#paths.run);
    return await this.#apply(wanted);
  }

  /** Listeners whose address somebody gave us and that cannot be bound. */
  async #busyListeners(bindings: readonly Binding[]): Promise<string | null> {
    for (const { listener, fixed } of bindings) {
      const busy = fixed === null ? null : await listenProblem(`listener ${listener}`, fixed);
      if (busy !== null) return `${busy} with --listen`;
    }
    return null;
  }

  /** Files, then children: what was wanted comes into force, or nothing changes and the reason is returned. */
  async #apply(wanted: Wanted): Promise<Prepared<null>> {
    const { members, stores } = wanted;
    await this.#findPorts(wanted);
    const next = nextTopology(this.#document, {
      cluster: wanted.cluster,
      databases: wanted.databases,
      configMaps: wanted.loaded.configMaps,
      addresses: new Map(members.transports.map(({ name }) => [name, this.#endpoint(portPurpose.peer(name))])),
      resolveMaildir: (database, copy) => this.#endpoint(portPurpose.store(storeName(database, copy))),
    });
    if (next.kind === 'refused') return problem(next.reasons.map((reason) => `refused: ${reason}\n`).join(''));
    const secrets = await this.#writeSecrets(wanted);
    if (secrets.kind === 'problem') return secrets;
    const { cluster } = wanted;
    const authority = await openAuthority(this.#paths, cluster.metadata.name);
    await ensureCertificates(this.#paths, cluster.metadata.name, authority, everybody(members), this.#options.clock);
    await writeJson(this.#paths.ports, this.#ports.table());
    if (next.kind === 'changed' || this.#wanted === null) await writeJson(this.#paths.topology, next.document);
    this.#document = next.document;
    this.#wanted = wanted;
    this.#secretFiles = secrets.value;
    await Promise.all(stores.map((store) => makeDirectory(store.maildir)));
    await this.#bringChildrenUpToDate(wanted, next.kind === 'changed');
    return ok(null);
  }

  async #findPorts({ members, stores, bindings }: Wanted): Promise<void> {
    for (const { name } of members.transports) {
      for (const purpose of [portPurpose.peer(name), portPurpose.admin(name), portPurpose.metrics(name)])
        await this.#ports.of(purpose);
    }
    for (const { name } of members.frontends) await this.#ports.of(portPurpose.metrics(name));
    for (const one of bindings)
      if (one.fixed === null) await this.#ports.of(portPurpose.listener(one.frontend, one.listener));
    for (const { name } of stores) await this.#ports.of(portPurpose.store(name));
  }

  async #writeSecrets({ cluster, loaded }: Wanted): Promise<Prepared<SecretFiles>> {
    const own = loaded.secrets.filter((secret) => secret.metadata.namespace === cluster.metadata.namespace);
    try {
      return ok(await this.#secrets.write(wantedSecrets(cluster), own));
    } catch (error) {
      if (error instanceof SecretProblem) return problem(`${error.message}\n`);
      throw error;
    }
  }

  #portOf = (purpose: string): number => {
    const port = this.#ports.table()[purpose];
    if (port === undefined) throw new Error(`no port was found for ${purpose}`);
    return port;
  };

  #endpoint(purpose: string): { readonly host: string; readonly port: number } {
    return { host: LOOPBACK, port: this.#portOf(purpose) };
  }

  #specs({ members, stores }: Wanted): readonly ChildSpec[] {
    const { programs } = this.#options;
    const env = { NODE_COMPILE_CACHE: this.#paths.cache };
    const spec = (name: string, kind: ChildSpec['kind'], args: () => readonly string[]): ChildSpec => {
      return { name, kind, entry: programs[kind], args, env };
    };
    return [
      ...stores.map((store) => spec(store.name, 'store', () => this.#storeArguments(store))),
      ...members.transports.map(({ name }) => spec(name, 'transport', () => [this.#paths.config(name)])),
      ...members.frontends.map(({ name }) => spec(name, 'frontend', () => [this.#paths.config(name)])),
    ];
  }

  #storeArguments(store: PlannedStore): readonly string[] {
    const { host, port } = this.#endpoint(portPurpose.store(store.name));
    return ['--maildir', store.maildir, '--listen', `${host}:${port}`];
  }

  /** Starts what is new, stops front ends and stores that are no longer wanted, tells the rest. */
  async #bringChildrenUpToDate(wanted: Wanted, topologyChanged: boolean): Promise<void> {
    const stale = await this.#writeConfigs(wanted);
    const specs = this.#specs(wanted);
    const names = new Set(specs.map((spec) => spec.name));
    for (const [name, child] of this.#children) {
      if (names.has(name)) continue;
      this.#options.say(`${child.spec.kind} ${name} is no longer wanted; stopping it`);
      await child.stop();
      this.#children.delete(name);
      this.#configs.delete(name);
    }
    const again: SupervisedChild[] = [];
    for (const spec of specs) {
      const old = this.#children.get(spec.name);
      if (old === undefined) {
        const child = this.#newChild(spec);
        this.#children.set(spec.name, child);
        if (this.#phase !== 'new') child.start();
        continue;
      }
      if (topologyChanged || (spec.kind === 'frontend' && this.#secretFiles.changed)) old.reload();
      if (!stale.has(spec.name) || old.pid === null) continue;
      if (spec.kind !== 'transport') again.push(old);
      else this.#options.say(`transport ${spec.name} has a new configuration; it is used from its next start`);
    }
    this.#startAgain(again).catch((error: unknown) => this.#options.say(`starting again failed: ${reasonOf(error)}`));
    await this.#publish();
  }

  /** One after the other, each ready before the next is stopped. Not in turn: a start takes a turn of its own. */
  async #startAgain(children: readonly SupervisedChild[]): Promise<void> {
    for (const child of children) {
      if (this.#isStopping()) return;
      this.#options.say(`${child.spec.kind} ${child.spec.name} has a new configuration; starting it again`);
      await child.stop();
      if (!this.#isStopping()) await child.startAndWait(READY_PATIENCE_MS);
    }
  }

  #isStopping(): boolean {
    return this.#phase === 'stopping';
  }

  /** Answers with the names of those that had another configuration before. */
  async #writeConfigs({ cluster, members, stores, bindings }: Wanted): Promise<ReadonlySet<string>> {
    const stale = new Set<string>();
    const write = async (name: string, config: object): Promise<void> => {
      const text = JSON.stringify(config);
      const before = this.#configs.get(name);
      if (before === text) return;
      await writeJson(this.#paths.config(name), config);
      this.#configs.set(name, text);
      if (before !== undefined) stale.add(name);
    };
    for (const store of stores)
      await write(store.name, { ...store, lmtp: this.#endpoint(portPurpose.store(store.name)) });
    for (const transport of members.transports) {
      await makeDirectory(this.#paths.queue(transport.name));
      await write(transport.name, transportConfig(cluster, transport, this.#secretFiles, this.#paths, this.#portOf));
    }
    for (const frontend of members.frontends) {
      await makeDirectory(this.#paths.frontend(frontend.name));
      await write(
        frontend.name,
        frontendConfig(cluster, frontend, bindings, this.#secretFiles, this.#paths, this.#portOf),
      );
    }
    return stale;
  }

  #newChild(spec: ChildSpec): SupervisedChild {
    const events = {
      prepare: (name: string) => this.#inTurn(() => this.#checkPorts(name)),
      onReady: (name: string, facts: ReadyFacts) => this.#onReady(name, facts),
      onDeath: (name: string, reason: string, delayMs: number, attempts: number) =>
        this.#onDeath(name, reason, delayMs, attempts),
      openLog: (name: string) => openLog(this.#paths.log(name)),
    };
    return new SupervisedChild(spec, events, this.#options.clock);
  }

  /** Before each start of a child: another program may have taken its port meanwhile. */
  async #checkPorts(name: string): Promise<string | null> {
    const wanted = this.#wanted;
    const child = this.#children.get(name);
    if (wanted === null || child === undefined || this.#phase === 'stopping') return 'it is no longer wanted';
    const busy = await this.#busyListeners(wanted.bindings.filter((one) => one.frontend === name));
    if (busy !== null) return busy;
    const own = Object.keys(this.#ports.table()).filter(
      (purpose) => purpose.startsWith(`${child.spec.kind}/${name}/`) || purpose.startsWith(`${name}/`),
    );
    const taken = await this.#ports.taken(own);
    if (taken.length === 0) return null;
    for (const purpose of taken) {
      const port = await this.#ports.renew(purpose);
      this.#options.say(`the port of ${purpose} was taken by another program; it is ${port} now`);
    }
    const applied = await this.#apply(wanted);
    return applied.kind === 'problem' ? applied.text.trim() : null;
  }

  #onReady(name: string, _facts: ReadyFacts): void {
    const child = this.#children.get(name);
    if (child === undefined || this.#phase === 'stopping') return;
    if (this.#phase === 'running') this.#options.say(`${child.spec.kind} ${name} is ready (pid ${child.pid})`);
    const allReady = [...this.#children.values()].every((one) => one.state.kind === 'ready');
    if (this.#phase === 'starting' && allReady) {
      this.#phase = 'running';
      void this.#inTurn(() => this.#publish()).then(
        () => this.#settleStart({ ok: true }),
        (error: unknown) => this.#settleStart({ ok: false, exitCode: 1, text: `${reasonOf(error)}\n` }),
      );
    } else if (this.#phase === 'running') this.#publishSoon();
  }

  #onDeath(name: string, reason: string, delayMs: number, attempts: number): void {
    if (this.#phase === 'stopping') return;
    const kind = this.#children.get(name)?.spec.kind ?? 'child';
    this.#options.say(
      `${kind} ${name} died: ${reason}; starting it again in ${delayMs / 1000} s (log: ${this.#paths.log(name)})`,
    );
    if (this.#phase === 'starting' && attempts >= MAX_FIRST_FAILURES) {
      this.#settleStart({
        ok: false,
        exitCode: 1,
        text: `${kind} ${name} does not come up: ${reason}\nIts log: ${this.#paths.log(name)}\n`,
      });
    } else if (this.#phase === 'running') this.#publishSoon();
  }

  #settleStart(started: Started): void {
    this.#onStarted?.(started);
    this.#onStarted = null;
  }

  #publishSoon(): void {
    this.#inTurn(() => this.#publish()).catch((error: unknown) =>
      this.#options.say(`run.json could not be written: ${reasonOf(error)}`),
    );
  }

  async #publish(): Promise<void> {
    const { cluster, members, stores, bindings } = this.#wanted ?? {};
    if (this.#phase !== 'running' || cluster === undefined || this.#document === null) return;
    const state: RunState = {
      cluster: cluster.metadata.name,
      generation: this.#document.generation,
      paths: this.#paths,
      operatorTls: tlsFiles(this.#paths, OPERATOR_NAME),
      members: members ?? { transports: [], frontends: [] },
      stores: stores ?? [],
      bindings: bindings ?? [],
      portOf: this.#portOf,
      childOf: (name) => this.#children.get(name)?.state ?? { kind: 'stopped' },
    };
    await writeJson(this.#paths.run, runFileOf(state));
  }

  #scheduleRenewal(): void {
    this.#renewal = this.#options.clock.setTimer(CERTIFICATE_CHECK_MS, () => {
      this.#scheduleRenewal();
      this.#inTurn(async () => {
        if (this.#wanted === null || this.#phase !== 'running') return;
        const { cluster, members } = this.#wanted;
        const authority = await openAuthority(this.#paths, cluster.metadata.name);
        await ensureCertificates(
          this.#paths,
          cluster.metadata.name,
          authority,
          everybody(members),
          this.#options.clock,
        );
      }).catch((error: unknown) => this.#options.say(`certificates could not be renewed: ${reasonOf(error)}`));
    });
  }
}
