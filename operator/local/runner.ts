/**
 * `mailcluster run`: one cluster as processes of one machine. Owns: the state directory (under its lock), the children, run.json.
 * Promise: nothing is started unless everything was found right; a child that dies is started again on its own directory, which is never
 * emptied; a change that is refused or wrong changes nothing; `stop` leaves no child behind. The topology comes from the same pure code
 * as the operator's; orders of people (`orders/`) come into force one look later, and again after a crash. Refuses: more or fewer than
 * one MailCluster, the removal of a member that was not drained, a second runner on the directory.
 * Fails: `start` answers with reasons and exit code 2, or 1 when a child cannot be brought up.
 */
import type { TopologyDocument } from '../../common/config.ts';
import type { Identity } from '../../common/message.ts';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { ExclusiveLock, Files } from '../../common/platform/files.ts';
import type { Random } from '../../common/platform/random.ts';
import type { ConfigMap, Secret } from '../resource/parse.ts';
import { renderProblem } from '../resource/problem.ts';
import { nextTopology } from '../topology.ts';
import { childConfigs, childSpecs, endpointOfCopy, type ProgramTable, portPurposes } from './child-configs.ts';
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
import { OrderBook } from './order-book.ts';
import { isIdentity } from './orders.ts';
import { OrdersInForce } from './orders-in-force.ts';
import { Overseer } from './overseer.ts';
import { type ListenOption, localNotes, portPurpose, wantedSecrets } from './plan.ts';
import { busyListener, LOOPBACK, Ports, parsePortTable } from './ports.ts';
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
  writeDurably,
  writeJson,
} from './state-directory.ts';
import { type ChildSpec, type ReadyFacts, SupervisedChild } from './supervisor.ts';
import { recordIdentity, setAsideRetired } from './volumes.ts';
import { ok, type Prepared, problem, readWanted, type Wanted } from './wanted.ts';

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
/** A member that is taken for lost is not given the time of an orderly stop. */
const LOST_GRACE_MS = 3_000;

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
  #secretFiles: SecretFiles = { smtpTls: null, users: new Map(), addressLists: [], ledger: null, changed: false };
  #document: TopologyDocument | null = null;
  readonly #orders: OrdersInForce;
  readonly #overseer: Overseer;
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
    const { clock, random, say } = options;
    const book = new OrderBook(this.#paths, say);
    this.#orders = new OrdersInForce(book, this.#paths, say);
    this.#overseer = new Overseer({
      clock,
      random,
      paths: this.#paths,
      book,
      say,
      document: () => (this.#phase === 'running' ? this.#document : null),
      namespace: () => this.#wanted?.cluster.metadata.namespace ?? '',
      applyOrders: () => this.#inTurn(() => this.#applyOrders()),
    });
  }

  get #generation(): number {
    return this.#document?.generation ?? 0;
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
    if (result.ok) this.#overseer.start();
    else await this.stop();
    return result;
  }

  /** Reads the files again. Null when all is well (also when nothing changed), else why nothing changed. */
  reload(): Promise<string | null> {
    return this.#inTurn(async () => {
      if (this.#phase !== 'running') return `not now: the cluster is ${this.#phase}`;
      const loaded = this.#load();
      if (loaded.kind === 'problem') return loaded.text;
      try {
        await this.#applyOrders();
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
    await this.#overseer.stop();
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
    const busy = await busyListener(wanted.bindings);
    if (busy !== null) return problem(`${busy}\n`);
    this.#ports = new Ports(parsePortTable(await readJson(this.#paths.ports)), this.#options.random);
    this.#document = (await readJson(this.#paths.topology)) as TopologyDocument | null;
    const remembered = Object.keys(this.#ports.table());
    for (const purpose of await this.#ports.taken(remembered)) await this.#ports.renew(purpose);
    await removeDocument(this.#paths.run);
    await this.#orders.read(this.#document);
    const applied = await this.#apply(wanted);
    if (applied.kind === 'ok') await this.#orders.answer(this.#generation);
    return applied;
  }

  /**
   * A lost database must not speak any more when the document says that it is lost: its process ends first, and starts again on an empty
   * directory (`setAsideRetired` in `#beforeStart`). After a crash anywhere in between the next start does the rest.
   */
  async #applyOrders(): Promise<void> {
    const wanted = this.#wanted;
    if (wanted === null || this.#phase !== 'running') return;
    const ended: SupervisedChild[] = [];
    for (const { member, identity } of await this.#orders.read(this.#document)) {
      const child = this.#children.get(member);
      const runs = child?.state.kind === 'ready' ? child.state.facts.identity : identity;
      if (child === undefined || runs !== identity) continue;
      await child.stop(LOST_GRACE_MS);
      ended.push(child);
    }
    const applied = await this.#apply(wanted);
    for (const child of ended) child.start();
    if (applied.kind === 'problem') throw new Error(applied.text.trim());
    await this.#orders.answer(this.#generation);
  }

  /** Files, then children: what was wanted comes into force, or nothing changes and the reason is returned. */
  async #apply(wanted: Wanted): Promise<Prepared<null>> {
    const { members } = wanted;
    for (const purpose of portPurposes(wanted)) await this.#ports.of(purpose);
    const nowMs = this.#options.clock.wallMs();
    const next = nextTopology(this.#document, {
      cluster: wanted.cluster,
      databases: wanted.databases,
      configMaps: wanted.loaded.configMaps,
      addresses: new Map(members.transports.map(({ name }) => [name, this.#endpoint(portPurpose.peer(name))])),
      resolveMaildir: (database, copy) => endpointOfCopy(this.#portOf, database, copy),
      decisions: this.#orders.decisions,
      requests: await this.#orders.requests(wanted, nowMs),
      nowMs,
    });
    if (next.kind === 'refused') return problem(next.reasons.map((reason) => `refused: ${reason}\n`).join(''));
    const secrets = await this.#writeSecrets(wanted);
    if (secrets.kind === 'problem') return secrets;
    const { cluster } = wanted;
    const authority = await openAuthority(this.#paths, cluster.metadata.name);
    await ensureCertificates(this.#paths, cluster.metadata.name, authority, everybody(members), this.#options.clock);
    await writeJson(this.#paths.ports, this.#ports.table());
    // Its failover requests and retired databases are nowhere else.
    if (next.kind === 'changed' || this.#wanted === null) await writeDurably(this.#paths.topology, next.document);
    this.#document = next.document;
    this.#wanted = wanted;
    this.#secretFiles = secrets.value;
    await this.#bringChildrenUpToDate(wanted, next.kind === 'changed');
    return ok(null);
  }

  /** Without the members that are gone. */
  #present(wanted: Wanted): Wanted {
    const gone = new Set(this.#document?.members.flatMap(({ name, state }) => (state === 'gone' ? [name] : [])));
    const transports = wanted.members.transports.filter(({ name }) => !gone.has(name));
    return { ...wanted, members: { ...wanted.members, transports } };
  }

  async #writeSecrets({ cluster, loaded }: Wanted): Promise<Prepared<SecretFiles>> {
    const isOwn = ({ metadata }: Secret | ConfigMap): boolean => metadata.namespace === cluster.metadata.namespace;
    const [secrets, configMaps] = [loaded.secrets.filter(isOwn), loaded.configMaps.filter(isOwn)];
    try {
      return ok(await this.#secrets.write(wantedSecrets(cluster), secrets, configMaps));
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

  /** Starts what is new, stops what is no longer wanted or gone, tells the rest. */
  async #bringChildrenUpToDate(wanted: Wanted, topologyChanged: boolean): Promise<void> {
    const stale = await this.#writeConfigs(wanted);
    const specs = childSpecs(this.#present(wanted), this.#options.programs, this.#paths, this.#portOf);
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
  async #writeConfigs(wanted: Wanted): Promise<ReadonlySet<string>> {
    const stale = new Set<string>();
    const configs = childConfigs(this.#present(wanted), this.#secretFiles, this.#paths, this.#portOf);
    for (const { name, config, directory } of configs) {
      if (directory !== null) await makeDirectory(directory);
      const text = JSON.stringify(config);
      const before = this.#configs.get(name);
      if (before === text) continue;
      await writeJson(this.#paths.config(name), config);
      this.#configs.set(name, text);
      if (before !== undefined) stale.add(name);
    }
    return stale;
  }

  #newChild(spec: ChildSpec): SupervisedChild {
    const events = {
      prepare: (name: string) => this.#inTurn(() => this.#beforeStart(name)),
      onReady: (name: string, facts: ReadyFacts) => this.#onReady(name, facts),
      onDeath: (name: string, reason: string, delayMs: number, attempts: number) =>
        this.#onDeath(name, reason, delayMs, attempts),
      openLog: (name: string) => openLog(this.#paths.log(name)),
    };
    return new SupervisedChild(spec, events, this.#options.clock);
  }

  /** A queue database that was retired is never opened again: its directory is set aside and the member starts with an empty one. */
  async #beforeStart(name: string): Promise<string | null> {
    const { clock, say } = this.#options;
    if (this.#children.get(name)?.spec.kind === 'transport') {
      const aside = await setAsideRetired(this.#paths, name, this.#document?.retired ?? [], clock.wallMs());
      if (aside !== null)
        say(`the queue directory of ${name} was set aside as ${aside}; ${name} starts with an empty one`);
      await makeDirectory(this.#paths.queue(name));
    }
    return await this.#checkPorts(name);
  }

  /** Another program may have taken its port meanwhile. */
  async #checkPorts(name: string): Promise<string | null> {
    const wanted = this.#wanted;
    const child = this.#children.get(name);
    if (wanted === null || child === undefined || this.#phase === 'stopping') return 'it is no longer wanted';
    const busy = await busyListener(wanted.bindings.filter((one) => one.frontend === name));
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

  #onReady(name: string, { identity }: ReadyFacts): void {
    const child = this.#children.get(name);
    if (child === undefined || this.#phase === 'stopping') return;
    if (child.spec.kind === 'transport' && isIdentity(identity)) this.#remember(name, identity);
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

  #remember(name: string, identity: Identity): void {
    this.#inTurn(() => recordIdentity(this.#paths, name, identity, this.#options.clock.wallMs())).catch(
      (error: unknown) => this.#options.say(`the identity of ${name} could not be noted: ${reasonOf(error)}`),
    );
  }

  #publishSoon(): void {
    this.#inTurn(() => this.#publish()).catch((error: unknown) =>
      this.#options.say(`run.json could not be written: ${reasonOf(error)}`),
    );
  }

  async #publish(): Promise<void> {
    const { cluster, members, stores, bindings } = this.#wanted === null ? {} : this.#present(this.#wanted);
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
