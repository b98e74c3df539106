/**
 * One simulated cluster: real front-end proxy (with the real SMTP edge before it, where clients speak SMTP), real peer protocol, real transport core and runtime, real queue database, over simulated network,
 * disk and clock. Owns: the pods, their lives and deaths, and what the checkers need to know. Mail is in `mail.ts`, volumes in `volumes.ts`, what the
 * operator does in `orchestrator.ts`; the checkers are `durable-view.ts` (every write), `watch.ts` (while it runs) and `checks.ts` (at the end).
 */
import type { TopologyDocument } from '../../common/config.ts';
import type { CopyId, Identity } from '../../common/message.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import type { Network, PeerRole } from '../../common/platform/net.ts';
import { MessageProxy } from '../../frontend/proxy.ts';
import type { TransitionCoverage } from '../../transport/core/transitions.ts';
import type { DeliveryAgent } from '../../transport/runtime/delivery-api.ts';
import { TransportServer } from '../../transport/runtime/server.ts';
import type { TrackingRecord } from '../../transport/runtime/tracking-api.ts';
import type { QueueDatabase } from '../../transport/store/database.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { Crossings } from './crossing-checks.ts';
import { lostSilently } from './damage-checks.ts';
import { type DocumentMaker, HAND_MADE } from './deeds.ts';
import { SimDisk } from './disk.ts';
import { checkDoubt } from './doubt-checks.ts';
import { DurableView, type Volume } from './durable-view.ts';
import { lendProcess } from './escapes.ts';
import type { SmtpFault } from './faults.ts';
import type { Incarnation } from './incarnation.ts';
import { isAccepted, type SendOptions, type Sent, send } from './mail.ts';
import { MailStore } from './mail-store.ts';
import { SimNetwork } from './net.ts';
import { observed } from './observed-database.ts';
import { type Pod, podClock, SEGMENT_BYTES, type Trouble } from './pod.ts';
import { Poison } from './poison.ts';
import { Scheduler, SeededRandom } from './scheduler.ts';
import { askedOnce, damageMet } from './scrub-checks.ts';
import { SmtpFront } from './smtp-front.ts';
import { SmtpClients } from './smtp-mail.ts';
import { notHeldBack } from './suspensions.ts';
import { frontendMutants, storeMutants, transportMutants, type Variant } from './variants.ts';
import { lose, outOfRoom, replace, setAside } from './volumes.ts';

export interface WorldOptions {
  readonly seed: number;
  /** The first one, and who makes the later ones; by hand when absent. */
  readonly document: TopologyDocument;
  readonly maker?: DocumentMaker;
  readonly mutants?: ReadonlySet<Variant>;
  /** Every line of the trace, for a failing seed. */
  readonly trace?: (line: string) => void;
  readonly resetChance?: number;
  /** Two volumes of one message may go: exactly what had no other holder may be missing. */
  readonly outOfContract?: boolean;
  /** Mail goes in through real SMTP conversations, which have these faults; else straight into the message path of the front end. */
  readonly smtp?: { readonly faults: readonly SmtpFault[] };
}

const STANDSTILL_MS = 31_000;
/** What happened just before a trouble is excused by it as well. */
export const TROUBLE_LEAD_MS = 1_000;
/** After a pod is back others may still act on what they believed. */
const AFTERMATH_MS = 18_000;

export class World {
  readonly scheduler: Scheduler;
  readonly random: SeededRandom;
  readonly network: SimNetwork;
  readonly store: MailStore;
  document: TopologyDocument;
  readonly maker: DocumentMaker;
  readonly sent: Sent[] = [];
  readonly coverage: TransitionCoverage = new Map();
  readonly violations: string[] = [];
  /** What is durable where; survives the pods. */
  readonly view: DurableView;
  readonly troubles: Trouble[] = [];
  /** Higher tries of one message: who has which since when. */
  readonly replays: { readonly id: CopyId; readonly by: string; readonly atMs: number }[] = [];
  /** True while no fault of any kind has been injected. */
  calm = true;
  /** How often the operator looks at a drain. */
  operatorDelayMs = 500;
  /** Up to so long a topology document is under way to each pod, whatever came before it. */
  documentDelayMs = 0;
  /** Every sender asks for reports of success (RFC 3461 4.1). Only a dose with the trait `reports` has such senders. */
  asksForReports = false;
  /** Faults are over. */
  isHealing = false;
  readonly isOutOfContract: boolean;
  /** Copies whose last holder was destroyed, out of contract. */
  readonly doomed = new Set<CopyId>();
  /** Members that are to be drained, until they left. */
  readonly draining = new Map<string, { readonly generation: number }>();
  /** Queue databases the orchestrator called lost, and when. */
  readonly lostByWord = new Map<Identity, number>();
  /** What happened, for the totals of a run. */
  readonly counts = new Map<string, number>();
  readonly clients: SmtpClients | null;
  /** Mail that goes from one boundary to another. */
  readonly crossings: Crossings;
  /** Messages that end the process. */
  readonly poison = new Poison();
  /** Called when a pod begins a delivery, for who knows who meets whom (watch.ts). */
  onDelivering: (pod: Pod, id: CopyId) => void = () => undefined;
  readonly #options: WorldOptions;
  readonly #pods = new Map<string, Pod>();

  constructor(options: WorldOptions) {
    this.#options = options;
    this.scheduler = new Scheduler(options.seed);
    this.random = this.scheduler.random.fork();
    this.network = new SimNetwork(this.scheduler, { resetChance: options.resetChance ?? 0 });
    this.store = new MailStore(this.scheduler);
    this.document = options.document;
    this.maker = options.maker ?? HAND_MADE;
    this.isOutOfContract = options.outOfContract ?? false;
    this.view = new DurableView(
      (line) => this.violate(line),
      options.document.policies.shadowRedundancy.rejectMessageOnShadowFailure,
    );
    const { seed, smtp } = options;
    this.clients = smtp === undefined ? null : new SmtpClients(this, seed, smtp.faults);
    // smtp-server knows no ports.
    lendProcess(smtp === undefined ? null : { scheduler: this.scheduler, random: new SeededRandom(seed ^ 0x1d) });
    this.crossings = new Crossings(this);
    this.view.onReplay = (id, by) => this.replays.push({ id, by, atMs: this.scheduler.nowMs });
  }

  violate(line: string): void {
    if (this.violations.includes(line)) return;
    this.trace(`VIOLATION ${line}`);
    this.violations.push(line);
  }

  trace(line: string): void {
    this.#options.trace?.(`${this.scheduler.nowMs.toFixed(1).padStart(9)} ${line}`);
  }

  counted(what: string, by = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + by);
  }

  // --- pods ------------------------------------------------------------------------------------------------------------

  get pods(): readonly Pod[] {
    return [...this.#pods.values()];
  }

  /** Those that run, or shall run again. */
  get transports(): readonly Pod[] {
    const found: Pod[] = [];
    for (const pod of this.#pods.values()) if (pod.role === 'transport' && !pod.isGone) found.push(pod);
    return found;
  }

  get frontends(): readonly Pod[] {
    return this.pods.filter((pod) => pod.role === 'frontend');
  }

  pod(key: string): Pod | undefined {
    return this.#pods.get(key);
  }

  boundaryOf(member: string): string | undefined {
    return this.document.members.find((entry) => entry.name === member)?.boundary;
  }

  startAll(): void {
    for (const member of this.document.members) this.#boot(this.addPod(member.name, member.name, 'transport'));
    for (const frontend of this.document.frontends) this.#boot(this.addPod(frontend.name, frontend.name, 'frontend'));
  }

  addPod(
    key: string,
    name: string,
    role: PeerRole,
    attached: { readonly disk: SimDisk; readonly volume: Volume } | null = null,
  ): Pod {
    const pod: Pod = {
      key,
      name,
      role,
      disk: attached?.disk ?? new SimDisk(this.scheduler),
      volume: attached?.volume ?? this.view.newVolume(name),
      setAside: [],
      incarnation: { alive: false },
      server: null,
      database: null,
      proxy: null,
      smtp: null,
      lives: 0,
      mark: null,
      jumpWall: null,
      clockErrorMs: 0,
      onCommit: null,
      document: this.document,
      isOutOfReach: false,
      isGone: false,
      isOff: false,
      doubts: [],
      delivering: new Map(),
      bornMs: this.scheduler.nowMs,
      down: null,
    };
    this.#pods.set(key, pod);
    return pod;
  }

  isAlive(key: string): boolean {
    return this.#pods.get(key)?.incarnation.alive === true;
  }

  /** Another process under the same name. */
  twinOf(pod: Pod): Pod | undefined {
    return this.transports.find((other) => other !== pod && other.name === pod.name);
  }

  boot(key: string): void {
    const pod = this.#pods.get(key);
    if (pod !== undefined && !pod.incarnation.alive && !pod.isGone && !pod.isOff) this.#boot(pod);
  }

  #boot(pod: Pod): void {
    const incarnation: Incarnation = { alive: true };
    pod.incarnation = incarnation;
    pod.lives += 1;
    pod.delivering.clear();
    if (pod.down !== null) pod.down.untilMs = this.scheduler.nowMs + AFTERMATH_MS;
    pod.down = null;
    this.trace(`${pod.key} starts, life ${pod.lives}`);
    const twin = this.twinOf(pod) !== undefined;
    const network = this.network.host({ role: pod.role, name: pod.name }, incarnation, twin);
    if (pod.role === 'frontend') return this.#bootFrontend(pod, network);
    this.#bootTransport(pod, network).catch((error: unknown) => this.#endsItself(pod, incarnation, error as Error));
  }

  #bootFrontend(pod: Pod, network: Network): void {
    const site = pod.document.frontends.find((entry) => entry.name === pod.name)?.site ?? '';
    const clock = podClock(this.scheduler, this.random, pod);
    const random = this.random.fork();
    pod.proxy = new MessageProxy(
      {
        name: pod.name,
        site,
        uid: `${pod.name}-${pod.lives}`,
        clock,
        random,
        network,
        log: silentLogger,
        metrics: silentMetrics,
        limits: { replayBufferBytes: 1_048_576, totalReplayBufferBytes: 8_388_608 },
        mutants: frontendMutants(this.#options.mutants),
      },
      pod.document,
    );
    pod.proxy.start();
    if (this.clients === null) return;
    const { name, incarnation: life, proxy } = pod;
    pod.smtp = new SmtpFront({ name, life, clock, random, proxy }, pod.document);
  }

  async #bootTransport(pod: Pod, network: Network): Promise<void> {
    const { incarnation, volume } = pod;
    const clock = podClock(this.scheduler, this.random, pod);
    const fatal = (reason: Error): void => this.#endsItself(pod, incarnation, reason);
    const opened = await openSegmentLog({
      directory: '/queue',
      files: pod.disk.files(incarnation),
      clock,
      random: this.random.fork(),
      log: silentLogger,
      segmentBytes: SEGMENT_BYTES,
      reserveBytes: SEGMENT_BYTES,
      onFatal: fatal,
      onQuarantined: ({ id }) => {
        if (id !== null && incarnation.alive) damageMet(this, pod, id);
      },
      member: pod.name,
      mutants: storeMutants(this.#options.mutants),
    });
    if (!incarnation.alive) return;
    this.trace(
      `${pod.key} opened ${opened.identity} with ${opened.recovered.copies.map((copy) => copy.facts.id).join(' ') || 'no copies'}${opened.recovered.quarantined.length > 0 ? ` QUARANTINED ${JSON.stringify(opened.recovered.quarantined)}` : ''}`,
    );
    for (const id of lostSilently(volume, opened))
      this.violate(`rule 25: ${pod.key} lost ${id} without a word, though the damage is elsewhere in its log`);
    const database = observed(opened, this.view, volume, (writes) => {
      if (writes.some((write) => write.kind === 'commit')) pod.onCommit?.();
    });
    pod.database = database;
    pod.doubts = [{ sinceMs: this.scheduler.nowMs, ids: new Set(volume.live.keys()), isStandstill: false }];
    pod.server = new TransportServer({
      name: pod.name,
      hostname: `${pod.name}.sim`,
      listen: { host: pod.name, port: 4000 },
      uid: `${pod.key}-${pod.lives}`,
      clock,
      random: this.random.fork(),
      network,
      log: silentLogger,
      metrics: silentMetrics,
      database,
      delivery: this.#agent(pod, database),
      tracking: { record: (record) => this.#tracked(pod, record) },
      document: pod.document,
      mutants: transportMutants(this.#options.mutants),
      coverage: this.coverage,
      risk: this.poison.marksOf(this, pod),
      onFatal: fatal,
    });
    await pod.server.start();
  }

  #agent(pod: Pod, database: QueueDatabase): DeliveryAgent {
    const { volume } = pod;
    const agent = this.store.agent(pod.name, pod.incarnation, database, (id) => damageMet(this, pod, id));
    return {
      start: (request, done) => {
        // Rules 13 and 31: who delivers owns the copy durably.
        const owner = volume.live.get(request.copyId)?.state.epoch.owner;
        if (owner !== volume.identity)
          this.violate(`rule 13: ${pod.key} delivers ${request.copyId}, which is durably ${owner ?? 'nobody'}'s`);
        checkDoubt(this, pod, request.copyId);
        this.onDelivering(pod, request.copyId);
        pod.delivering.set(request.copyId, (pod.delivering.get(request.copyId) ?? 0) + 1);
        const mayBegin = (): boolean => {
          const may = request.mayBegin();
          if (may) {
            checkDoubt(this, pod, request.copyId);
            notHeldBack(this, pod, request.copyId);
          }
          return may;
        };
        agent.start({ ...request, mayBegin }, (results) => {
          pod.delivering.set(request.copyId, (pod.delivering.get(request.copyId) ?? 1) - 1);
          done(results);
        });
      },
      close: () => agent.close(),
    };
  }

  /**
   * A lost disk ends the process (protocol.md 27), and so does a refused volume (1); anything else is a bug. The runner starts it again: on the same directory
   * once the medium works, on an empty one when the old one was set aside.
   */
  #endsItself(pod: Pod, incarnation: Incarnation, reason: Error): void {
    if (!incarnation.alive) return;
    const { code } = reason as { code?: string };
    this.trace(`${pod.key} ends itself: ${reason.message}`);
    const isKnown = code === 'EIO' || code === 'ENOSPC' || code === 'FENCED';
    const isDamage = code === 'DAMAGED' && pod.volume.isDamaged;
    if (!isKnown && !isDamage) this.scheduler.fail(reason);
    if (code === 'ENOSPC') outOfRoom(this, pod);
    this.kill(pod.key, 'process');
    if (code === 'FENCED') setAside(this, pod, reason.message);
    else if (isDamage) this.#startEmpty(pod);
    if (code === 'FENCED' && this.twinOf(pod) !== undefined) return this.remove(pod);
    this.scheduler.schedule(this.random.integer(100, 3_000), () => {
      pod.disk.failSyncs(0);
      pod.disk.failWrites(0);
      this.boot(pod.key);
    });
  }

  /** The damage was in what the volume is known by: somebody gives the member an empty one, as the error says. */
  #startEmpty(pod: Pod): void {
    this.trace(`${pod.key} gets an empty volume`);
    this.view.lose(pod.volume);
    replace(this, pod);
    this.checkKept();
  }

  /** One process too many: it ends and is not started again. */
  remove(pod: Pod): void {
    this.kill(pod.key, 'process');
    pod.isGone = true;
    this.network.reap();
  }

  /** One process per member: of two the one that was there first goes, and its volume with it. */
  endTwins(name: string): void {
    const [first, second] = this.transports.filter((pod) => pod.name === name);
    if (first === undefined || second === undefined) return;
    this.trace(`${first.key} is one too many`);
    this.remove(first);
    lose(this, first.volume);
    this.checkKept();
  }

  #tracked(pod: Pod, record: TrackingRecord): void {
    if (record.event === 'QUARANTINE') askedOnce(this, pod, `${record.attemptId} ${record.detail ?? 'in transit'}`);
    this.trace(`${record.source} ${record.event} ${record.attemptId} ${record.peer ?? ''} ${record.detail ?? ''}`);
  }

  /** Process death keeps what the OS had; power loss keeps what was synced and a seeded part of the rest. */
  kill(key: string, how: 'process' | 'power', silent = false): void {
    const pod = this.#pods.get(key);
    if (pod === undefined || !pod.incarnation.alive) return;
    this.trace(`${key} dies (${how})`);
    pod.incarnation.alive = false;
    pod.down = { who: [pod.name], fromMs: this.scheduler.nowMs - TROUBLE_LEAD_MS, untilMs: Number.POSITIVE_INFINITY };
    this.troubles.push(pod.down);
    pod.onCommit = null;
    pod.server = null;
    pod.database = null;
    pod.proxy = null;
    pod.smtp?.died();
    pod.smtp = null;
    if (pod.role === 'transport' && how === 'power') pod.disk.crash();
    if (how === 'power') pod.mark = null;
    // `silent`: the machine vanished, connections stay half open; else a process death resets them.
    this.network.reap(silent);
    this.checkKept();
  }

  /** The process stands still: nothing it does goes on, nothing that comes for it is taken, its clock runs. */
  stall(key: string, forMs: number): void {
    const pod = this.#pods.get(key);
    if (pod === undefined || !pod.incarnation.alive) return;
    this.trace(`${key} stands still for ${forMs} ms`);
    this.troubled([pod.name], forMs);
    // One that begins while another lasts does not end it.
    pod.incarnation.resumeAtMs = Math.max(pod.incarnation.resumeAtMs ?? 0, this.scheduler.nowMs + forMs);
    if (forMs <= STANDSTILL_MS) return;
    const owned = [...pod.volume.live].filter(([, stored]) => stored.state.standing === 'released').map(([id]) => id);
    const awakeBeforeMs = pod.server?.core.awakeSinceMs ?? 0;
    const { nowMs } = this.scheduler;
    pod.doubts.push({ sinceMs: nowMs + forMs, fromMs: nowMs, ids: new Set(owned), isStandstill: true, awakeBeforeMs });
  }

  /** From now, for as long as given and the time a session needs to come back, these pods may not know of each other. */
  troubled(who: readonly string[], forMs: number): void {
    const { nowMs } = this.scheduler;
    this.troubles.push({ who, fromMs: nowMs - TROUBLE_LEAD_MS, untilMs: nowMs + forMs + 12_000 });
  }

  onNextCommit(key: string, act: () => void): void {
    const pod = this.#pods.get(key);
    if (pod === undefined) return;
    pod.onCommit = () => {
      pod.onCommit = null;
      act();
    };
  }

  resetConnections(a: string, b: string): void {
    this.trace(`connections between ${a} and ${b} are reset`);
    this.network.reset(a, b);
  }

  jumpWall(key: string, deltaMs: number): void {
    this.trace(`${key} wall clock jumps by ${deltaMs} ms`);
    this.#pods.get(key)?.jumpWall?.(deltaMs);
  }

  disk(key: string): SimDisk | undefined {
    return this.#pods.get(key)?.disk;
  }

  /** One SMTP transaction through `frontend`; resolves when the client knows its answer or has gone. */
  send(frontend: string, recipients: readonly string[], sizeBytes: number, options: SendOptions = {}): Promise<Sent> {
    if (this.clients !== null) return this.clients.send(frontend, recipients, sizeBytes, options);
    return send(this, frontend, recipients, sizeBytes, options);
  }

  /**
   * S2: a message that was answered 250 and is not final rests on some volume - on two of them when it was answered as protected and neither was lost
   * meanwhile (how soon it is protected again then is watch.ts's business).
   */
  checkKept(): void {
    for (const sent of this.sent) {
      const { id } = sent;
      if (id === null || !isAccepted(sent) || this.view.isFinal(id) || this.doomed.has(id)) continue;
      const copies = this.view.holders(id, sent.digest).length;
      const wanted = sent.isProtected && !this.view.bereft.has(id) ? 2 : 1;
      if (copies < wanted)
        this.violate(`S2: message ${sent.number} ${id}, answered 250, is not final and rests on ${copies} volumes`);
    }
    this.crossings.checkKept();
  }
}

export type { Sent } from './mail.ts';
