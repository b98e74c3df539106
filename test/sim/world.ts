/**
 * One simulated cluster: real front-end proxy, real peer protocol, real transport core and runtime, real queue database, over simulated network,
 * disk and clock. Owns: the pods, their lives and deaths, the mail that is sent and what was answered. The checkers live in `checks.ts`.
 */
import { createHash } from 'node:crypto';
import type { TopologyDocument } from '../../common/config.ts';
import type { CopyId, Envelope, Identity } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import type { Network, PeerRole } from '../../common/platform/net.ts';
import type { DataAnswer } from '../../common/smtp/edge-api.ts';
import { MessageProxy } from '../../frontend/proxy.ts';
import type { Mutant } from '../../transport/core/mutants.ts';
import type { TransitionCoverage } from '../../transport/core/transitions.ts';
import { TransportServer } from '../../transport/runtime/server.ts';
import type { TrackingRecord } from '../../transport/runtime/tracking-api.ts';
import type { QueueDatabase, StoredCopy, Write } from '../../transport/store/database.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { SimDisk } from './disk.ts';
import type { Incarnation } from './incarnation.ts';
import { MailStore } from './mail-store.ts';
import { SimNetwork } from './net.ts';
import { observed } from './observed-database.ts';
import { Scheduler, type SeededRandom } from './scheduler.ts';

export interface Sent {
  readonly number: number;
  readonly envelope: Envelope;
  readonly digest: string;
  readonly sizeBytes: number;
  id: CopyId | null;
  /** `refusedEarly`: before the 354. */
  answer: DataAnswer | { readonly kind: 'refusedEarly' } | { readonly kind: 'clientGone' } | null;
  answeredAtMs: number | null;
  /** Two databases held it when the 250 was said. */
  isProtected: boolean;
}

interface Pod {
  readonly name: string;
  readonly role: PeerRole;
  readonly disk: SimDisk;
  incarnation: Incarnation;
  server: TransportServer | null;
  database: QueueDatabase | null;
  proxy: MessageProxy | null;
  lives: number;
  jumpWall: ((deltaMs: number) => void) | null;
}

export interface WorldOptions {
  readonly seed: number;
  readonly document: TopologyDocument;
  readonly mutants?: ReadonlySet<Mutant>;
  /** Every line of the trace, for a failing seed. */
  readonly trace?: (line: string) => void;
  readonly resetChance?: number;
}

const SEGMENT_BYTES = 131_072;

export class World {
  readonly scheduler: Scheduler;
  readonly random: SeededRandom;
  readonly network: SimNetwork;
  readonly store: MailStore;
  readonly document: TopologyDocument;
  readonly sent: Sent[] = [];
  readonly coverage: TransitionCoverage = new Map();
  readonly violations: string[] = [];
  /** What is durable where, by database identity; survives the pods. */
  readonly durable = new Map<CopyId, Map<Identity, { readonly member: string; readonly digest: string }>>();
  readonly finals = new Set<CopyId>();
  readonly aborts = new Set<CopyId>();
  readonly dsns = new Set<CopyId>();
  /** Times at which a pod died, for the excuses of repeated offers. */
  readonly deaths: { readonly member: string; readonly atMs: number }[] = [];
  cuts = 0;
  readonly #options: WorldOptions;
  readonly #pods = new Map<string, Pod>();

  constructor(options: WorldOptions) {
    this.#options = options;
    this.scheduler = new Scheduler(options.seed);
    this.random = this.scheduler.random.fork();
    this.network = new SimNetwork(this.scheduler, { resetChance: options.resetChance ?? 0 });
    this.store = new MailStore(this.scheduler);
    this.document = options.document;
  }

  trace(line: string): void {
    this.#options.trace?.(`${this.scheduler.nowMs.toFixed(1).padStart(9)} ${line}`);
  }

  get transports(): readonly Pod[] {
    return [...this.#pods.values()].filter((pod) => pod.role === 'transport');
  }

  get frontends(): readonly Pod[] {
    return [...this.#pods.values()].filter((pod) => pod.role === 'frontend');
  }

  startAll(): void {
    for (const member of this.document.members) this.#boot(this.#pod(member.name, 'transport'));
    for (const frontend of this.document.frontends) this.#boot(this.#pod(frontend.name, 'frontend'));
  }

  #pod(name: string, role: PeerRole): Pod {
    const pod: Pod = { name, role, disk: new SimDisk(this.scheduler), incarnation: { alive: false }, server: null, database: null, proxy: null, lives: 0, jumpWall: null };
    this.#pods.set(name, pod);
    return pod;
  }

  isAlive(name: string): boolean {
    return this.#pods.get(name)?.incarnation.alive === true;
  }

  /** A clock that dies with its incarnation. */
  #clock(pod: Pod): Clock {
    const clock = this.scheduler.clock(this.random.integer(-500, 500), 1 + (this.random.next() - 0.5) / 500);
    const { incarnation } = pod;
    pod.jumpWall = (deltaMs) => clock.jumpWall(deltaMs);
    return {
      monotonicMs: () => clock.monotonicMs(),
      wallMs: () => clock.wallMs(),
      setTimer: (delayMs, callback) =>
        clock.setTimer(delayMs, () => {
          if (incarnation.alive) callback();
        }),
    };
  }

  boot(name: string): void {
    const pod = this.#pods.get(name);
    if (pod !== undefined && !pod.incarnation.alive) this.#boot(pod);
  }

  #boot(pod: Pod): void {
    pod.incarnation = { alive: true };
    pod.lives += 1;
    this.trace(`${pod.name} starts, life ${pod.lives}`);
    const network = this.network.host({ role: pod.role, name: pod.name }, pod.incarnation);
    if (pod.role === 'transport') void this.#bootTransport(pod, network).catch((error: unknown) => this.scheduler.fail(error));
    else this.#bootFrontend(pod, network);
  }

  #bootFrontend(pod: Pod, network: Network): void {
    const site = this.document.frontends.find((entry) => entry.name === pod.name)?.site ?? '';
    pod.proxy = new MessageProxy(
      {
        name: pod.name, site, uid: `${pod.name}-${pod.lives}`, clock: this.#clock(pod), random: this.random.fork(), network, log: silentLogger, metrics: silentMetrics,
        limits: { replayBufferBytes: 1_048_576, totalReplayBufferBytes: 8_388_608 },
      },
      this.document,
    );
    pod.proxy.start();
  }

  async #bootTransport(pod: Pod, network: Network): Promise<void> {
    const { incarnation } = pod;
    const clock = this.#clock(pod);
    const fatal = (reason: Error): void => {
      if (!incarnation.alive) return;
      if ((reason as { code?: string }).code === 'INVARIANT' || !(reason as { code?: string }).code) this.scheduler.fail(reason);
      this.kill(pod.name, 'process');
    };
    const opened = await openSegmentLog({
      directory: '/queue', files: pod.disk.files(incarnation), clock, random: this.random.fork(), log: silentLogger, segmentBytes: SEGMENT_BYTES, reserveBytes: SEGMENT_BYTES, onFatal: fatal, member: pod.name,
    });
    if (!incarnation.alive) return;
    this.trace(`${pod.name} opened ${opened.identity} with ${opened.recovered.copies.map((copy) => copy.facts.id).join(' ') || 'no copies'}${opened.recovered.quarantined.length > 0 ? ` QUARANTINED ${JSON.stringify(opened.recovered.quarantined)}` : ''}`);
    const database = observed(opened, pod.name, {
      durable: (member, identity, writes) => this.#durable(member, identity, writes),
      recovered: (member, identity, copies) => this.#recovered(member, identity, copies),
    });
    pod.database = database;
    const { mutants } = this.#options;
    pod.server = new TransportServer({
      name: pod.name, hostname: `${pod.name}.sim`, listen: { host: pod.name, port: 4000 }, uid: `${pod.name}-${pod.lives}`, clock, random: this.random.fork(), network, log: silentLogger, metrics: silentMetrics, database,
      delivery: this.store.agent(pod.name, incarnation, database),
      tracking: { record: (record) => this.#tracked(record) },
      document: this.document,
      ...(mutants === undefined ? {} : { mutants }),
      coverage: this.coverage,
      onFatal: fatal,
    });
    await pod.server.start();
  }

  #tracked(record: TrackingRecord): void {
    this.trace(`${record.source} ${record.event} ${record.attemptId} ${record.peer ?? ''} ${record.detail ?? ''}`);
  }

  /** Process death keeps what the OS had; power loss keeps what was synced and a seeded part of the rest. */
  kill(name: string, how: 'process' | 'power'): void {
    const pod = this.#pods.get(name);
    if (pod === undefined || !pod.incarnation.alive) return;
    this.trace(`${name} dies (${how})`);
    pod.incarnation.alive = false;
    this.deaths.push({ member: name, atMs: this.scheduler.nowMs });
    pod.server = null;
    pod.database = null;
    pod.proxy = null;
    if (pod.role === 'transport' && how === 'power') pod.disk.crash();
    // The network notices at the next boot or by silence; a process death resets connections.
    this.network.host({ role: pod.role, name }, { alive: false });
  }

  jumpWall(name: string, deltaMs: number): void {
    this.trace(`${name} wall clock jumps by ${deltaMs} ms`);
    this.#pods.get(name)?.jumpWall?.(deltaMs);
  }

  disk(name: string): SimDisk | undefined {
    return this.#pods.get(name)?.disk;
  }

  // --- what became durable -------------------------------------------------------------------------------------------

  #durable(member: string, identity: Identity, writes: readonly Write[]): void {
    for (const write of writes) {
      switch (write.kind) {
        case 'commit':
          if (write.facts.kind === 'dsn') this.dsns.add(write.facts.id);
          if (write.facts.kind === 'dsn') this.dsns.add(write.facts.id);
          this.#holders(write.facts.id).set(identity, { member, digest: write.facts.digest });
          break;
        case 'move':
          this.finals.add(write.id);
          break;
        case 'tombstone':
          (write.tombstone.kind === 'final' ? this.finals : this.aborts).add(write.tombstone.id);
          break;
        case 'remove':
          this.durable.get(write.id)?.delete(identity);
          break;
        default:
          break;
      }
    }
  }

  #holders(id: CopyId): Map<Identity, { readonly member: string; readonly digest: string }> {
    const holders = this.durable.get(id) ?? new Map<Identity, { readonly member: string; readonly digest: string }>();
    this.durable.set(id, holders);
    return holders;
  }

  /** After a restart the truth is what the database recovered, not what we thought. */
  #recovered(member: string, identity: Identity, copies: readonly StoredCopy[]): void {
    for (const stored of copies) this.#holders(stored.facts.id).set(identity, { member, digest: stored.facts.digest });
  }

  // --- mail ------------------------------------------------------------------------------------------------------------

  /** One SMTP transaction through `frontend`; resolves when the client knows its answer or has gone. */
  async send(frontend: string, recipients: readonly string[], sizeBytes: number, options: { readonly from?: string; readonly leaveAfterEnd?: boolean } = {}): Promise<Sent> {
    const number = this.sent.length;
    const body = Buffer.alloc(sizeBytes, `Subject: ${number}\r\nMessage-ID: <${number}@sim>\r\n\r\n${'x'.repeat(60)}\r\n`);
    const envelope: Envelope = {
      reversePath: options.from ?? `sender-${number}@elsewhere.example`,
      recipients: recipients.map((address) => ({ address })),
      body: '8BITMIME', smtputf8: false, declaredSizeBytes: null,
      client: { address: '127.0.0.1', port: 1, helo: 'sim', protocol: 'ESMTP', tls: null, user: null },
      frontend, listener: 'smtp', receivedAtMs: 0,
    };
    const sent: Sent = { number, envelope, digest: createHash('sha256').update(body).digest('hex'), sizeBytes, id: null, answer: null, answeredAtMs: null, isProtected: false };
    this.sent.push(sent);
    const pod = this.#pods.get(frontend);
    const { incarnation } = pod ?? {};
    if (pod?.proxy == null || incarnation === undefined) {
      sent.answer = { kind: 'clientGone' };
      return sent;
    }
    let wake: (() => void) | null = null;
    const decision = await pod.proxy.open(envelope, () => wake?.());
    if (decision.kind === 'refuse') {
      this.trace(`message ${number} refused before the body: ${decision.reply.code} ${decision.reply.text}`);
      sent.answer = { kind: 'refusedEarly' };
      return sent;
    }
    for (let offset = 0; offset < body.length && incarnation.alive; ) {
      const size = Math.min(body.length - offset, this.random.integer(500, 20_000));
      const more = decision.sink.write(body.subarray(offset, offset + size));
      offset += size;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (more) this.scheduler.schedule(this.random.integer(0, 3), resolve);
      });
    }
    const answer = decision.sink.end({ sizeBytes: body.length, rejected: null });
    if (options.leaveAfterEnd === true) decision.sink.abort('client vanished');
    void answer.then((said) => {
      if (!incarnation.alive || options.leaveAfterEnd === true) return;
      sent.answer = said;
      sent.answeredAtMs = this.scheduler.nowMs;
      this.trace(`message ${number} answered ${said.kind === 'reply' ? `${said.reply.code} ${said.reply.text}` : 'by closing'}`);
      this.#checkAtAnswer(sent, said);
    });
    return sent;
  }

  /** Invariant S1: 250 means two durable copies on two identities (or an accept that policy allows alone). */
  #checkAtAnswer(sent: Sent, said: DataAnswer): void {
    if (said.kind !== 'reply' || said.reply.code !== 250) return;
    const id = /[0-9A-HJKMNP-TV-Z]{26}/.exec(said.reply.text)?.[0] as CopyId | undefined;
    if (id === undefined) {
      this.violations.push(`250 without an id for message ${sent.number}`);
      return;
    }
    sent.id = id;
    const holders = this.durable.get(id);
    const right = [...(holders ?? [])].filter(([, holder]) => holder.digest === sent.digest);
    sent.isProtected = right.length >= 2;
    if (right.length < 2 && !this.finals.has(id) && this.document.policies.shadowRedundancy.rejectMessageOnShadowFailure)
      this.violations.push(`S1: message ${sent.number} ${id} answered 250 with ${right.length} durable copies (${right.map(([, holder]) => holder.member).join(', ')})`);
    const boundaries = new Set(right.map(([, holder]) => this.document.members.find((member) => member.name === holder.member)?.boundary));
    if (boundaries.size > 1) this.violations.push(`message ${sent.number} ${id} has copies in two boundaries`);
    if (this.calm && this.document.policies.shadowRedundancy.preference !== 'LocalOnly') {
      const sites = new Set(right.map(([, holder]) => this.document.members.find((member) => member.name === holder.member)?.site));
      const boundarySites = new Set(this.document.members.filter((member) => boundaries.has(member.boundary)).map((member) => member.site));
      if (sites.size === 1 && boundarySites.size > 1 && right.length >= 2) this.violations.push(`R4: message ${sent.number} ${id} has both copies in one site without any fault`);
    }
  }

  /** True while no fault of any kind has been injected. */
  calm = true;
}
