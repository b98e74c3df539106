/**
 * One simulated cluster: real front-end proxy, real peer protocol, real transport core and runtime, real queue database, over simulated network,
 * disk and clock. Owns: the pods, their lives and deaths, the mail that is sent and what was answered. The checkers live in `checks.ts`.
 */
import { createHash } from 'node:crypto';
import type { TopologyDocument } from '../../common/config.ts';
import type { CopyId, Envelope } from '../../common/message.ts';
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
import type { QueueDatabase } from '../../transport/store/database.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { SimDisk } from './disk.ts';
import { DurableView } from './durable-view.ts';
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
  /** The life of the front end that held the session. */
  life: Incarnation | null;
}

/** A stretch of time in which something between or on transports was wrong: the excuse of a repeated offer. */
interface Trouble {
  readonly who: readonly string[];
  readonly fromMs: number;
  untilMs: number;
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
  /** Called when a commit is handed to the engine; for deaths at the worst moment. */
  onCommit: (() => void) | null;
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
  document: TopologyDocument;
  readonly sent: Sent[] = [];
  readonly coverage: TransitionCoverage = new Map();
  readonly violations: string[] = [];
  /** What is durable where, by database identity; survives the pods. */
  readonly view: DurableView;
  readonly troubles: Trouble[] = [];
  readonly #options: WorldOptions;
  readonly #pods = new Map<string, Pod>();

  constructor(options: WorldOptions) {
    this.#options = options;
    this.scheduler = new Scheduler(options.seed);
    this.random = this.scheduler.random.fork();
    this.network = new SimNetwork(this.scheduler, { resetChance: options.resetChance ?? 0 });
    this.store = new MailStore(this.scheduler);
    this.document = options.document;
    this.view = new DurableView(
      (line) => this.violate(line),
      options.document.policies.shadowRedundancy.rejectMessageOnShadowFailure,
    );
  }

  violate(line: string): void {
    this.trace(`VIOLATION ${line}`);
    if (!this.violations.includes(line)) this.violations.push(line);
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
    const pod: Pod = {
      name,
      role,
      disk: new SimDisk(this.scheduler),
      incarnation: { alive: false },
      server: null,
      database: null,
      proxy: null,
      lives: 0,
      jumpWall: null,
      onCommit: null,
    };
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
    if (pod.role === 'transport')
      void this.#bootTransport(pod, network).catch((error: unknown) =>
        this.#endsItself(pod, pod.incarnation, error as Error),
      );
    else this.#bootFrontend(pod, network);
  }

  #bootFrontend(pod: Pod, network: Network): void {
    const site = this.document.frontends.find((entry) => entry.name === pod.name)?.site ?? '';
    pod.proxy = new MessageProxy(
      {
        name: pod.name,
        site,
        uid: `${pod.name}-${pod.lives}`,
        clock: this.#clock(pod),
        random: this.random.fork(),
        network,
        log: silentLogger,
        metrics: silentMetrics,
        limits: { replayBufferBytes: 1_048_576, totalReplayBufferBytes: 8_388_608 },
      },
      this.document,
    );
    pod.proxy.start();
  }

  async #bootTransport(pod: Pod, network: Network): Promise<void> {
    const { incarnation } = pod;
    const clock = this.#clock(pod);
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
      member: pod.name,
    });
    if (!incarnation.alive) return;
    this.trace(
      `${pod.name} opened ${opened.identity} with ${opened.recovered.copies.map((copy) => copy.facts.id).join(' ') || 'no copies'}${opened.recovered.quarantined.length > 0 ? ` QUARANTINED ${JSON.stringify(opened.recovered.quarantined)}` : ''}`,
    );
    const database = observed(opened, pod.name, {
      recovered: (member, identity, recovered) => this.view.recovered(member, identity, recovered),
      handed: (identity, writes) => {
        if (writes.some((write) => write.kind === 'commit')) pod.onCommit?.();
        return this.view.handed(identity, writes);
      },
      durable: (identity, mark) => this.view.durable(identity, mark),
    });
    pod.database = database;
    const { mutants } = this.#options;
    pod.server = new TransportServer({
      name: pod.name,
      hostname: `${pod.name}.sim`,
      listen: { host: pod.name, port: 4000 },
      uid: `${pod.name}-${pod.lives}`,
      clock,
      random: this.random.fork(),
      network,
      log: silentLogger,
      metrics: silentMetrics,
      database,
      delivery: this.store.agent(pod.name, incarnation, database),
      tracking: { record: (record) => this.#tracked(record) },
      document: this.document,
      ...(mutants === undefined ? {} : { mutants }),
      coverage: this.coverage,
      onFatal: fatal,
    });
    await pod.server.start();
  }

  /** A lost disk ends the process (protocol.md 27); anything else is a bug. The runner starts it again on the same directory once the medium works. */
  #endsItself(pod: Pod, incarnation: Incarnation, reason: Error): void {
    if (!incarnation.alive) return;
    const { code } = reason as { code?: string };
    this.trace(`${pod.name} ends itself: ${reason.message}`);
    if (code !== 'EIO' && code !== 'ENOSPC') this.scheduler.fail(reason);
    this.kill(pod.name, 'process');
    this.scheduler.schedule(this.random.integer(100, 3_000), () => {
      pod.disk.failSyncs(0);
      pod.disk.failWrites(0);
      this.boot(pod.name);
    });
  }

  #tracked(record: TrackingRecord): void {
    this.trace(`${record.source} ${record.event} ${record.attemptId} ${record.peer ?? ''} ${record.detail ?? ''}`);
  }

  /** Process death keeps what the OS had; power loss keeps what was synced and a seeded part of the rest. */
  kill(name: string, how: 'process' | 'power', silent = false): void {
    const pod = this.#pods.get(name);
    if (pod === undefined || !pod.incarnation.alive) return;
    this.trace(`${name} dies (${how})`);
    pod.incarnation.alive = false;
    this.troubled([name], 6_000);
    pod.onCommit = null;
    pod.server = null;
    pod.database = null;
    pod.proxy = null;
    if (pod.role === 'transport' && how === 'power') pod.disk.crash();
    // `silent`: the machine vanished, connections stay half open; else a process death resets them.
    this.network.reap(silent);
    this.checkKept();
  }

  /** From now, for as long as given and the time a session needs to come back, these pods may not know of each other. */
  troubled(who: readonly string[], forMs: number): void {
    const { nowMs } = this.scheduler;
    this.troubles.push({ who, fromMs: nowMs - 1_000, untilMs: nowMs + forMs + 12_000 });
  }

  /** A newer topology document for everybody who lives; the others read it when they start. */
  setTopology(document: TopologyDocument): void {
    this.trace(`topology generation ${document.generation}`);
    this.document = document;
    for (const pod of this.#pods.values()) {
      if (!pod.incarnation.alive) continue;
      pod.server?.setTopology(document);
      pod.proxy?.setTopology(document);
    }
  }

  onNextCommit(name: string, act: () => void): void {
    const pod = this.#pods.get(name);
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

  jumpWall(name: string, deltaMs: number): void {
    this.trace(`${name} wall clock jumps by ${deltaMs} ms`);
    this.#pods.get(name)?.jumpWall?.(deltaMs);
  }

  disk(name: string): SimDisk | undefined {
    return this.#pods.get(name)?.disk;
  }

  /** S2: a message that was answered 250 and is not final rests on some disk - on two of them when it was answered as protected. */
  checkKept(): void {
    for (const sent of this.sent) {
      const { id } = sent;
      if (id === null || this.view.isFinal(id)) continue;
      const copies = this.view.holders(id, sent.digest).length;
      if (copies < (sent.isProtected ? 2 : 1))
        this.violate(`S2: message ${sent.number} ${id}, answered 250, is not final and rests on ${copies} disks`);
    }
  }

  // --- mail ------------------------------------------------------------------------------------------------------------

  /** One SMTP transaction through `frontend`; resolves when the client knows its answer or has gone. */
  async send(
    frontend: string,
    recipients: readonly string[],
    sizeBytes: number,
    options: SendOptions = {},
  ): Promise<Sent> {
    const number = this.sent.length;
    const body = Buffer.alloc(
      sizeBytes,
      `Subject: ${number}\r\nMessage-ID: <${number}@sim>\r\n\r\n${'x'.repeat(60)}\r\n`,
    );
    const pod = this.#pods.get(frontend);
    const life = pod?.incarnation ?? null;
    const sent: Sent = {
      number,
      envelope: envelopeOf(number, frontend, recipients, options.from),
      digest: createHash('sha256').update(body).digest('hex'),
      sizeBytes,
      id: null,
      answer: null,
      answeredAtMs: null,
      isProtected: false,
      life,
    };
    this.sent.push(sent);
    if (pod?.proxy == null || life?.alive !== true) {
      sent.answer = { kind: 'clientGone' };
      return sent;
    }
    let wake: (() => void) | null = null;
    const decision = await pod.proxy.open(sent.envelope, () => wake?.());
    if (decision.kind === 'refuse') {
      this.trace(`message ${number} refused before the body: ${decision.reply.code} ${decision.reply.text}`);
      sent.answer = { kind: 'refusedEarly' };
      return sent;
    }
    this.trace(`message ${number} for ${recipients.join(' ')}: 354`);
    for (let offset = 0; offset < body.length && life.alive; ) {
      const size = Math.min(body.length - offset, this.random.integer(500, 20_000));
      const more = decision.sink.write(body.subarray(offset, offset + size));
      offset += size;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (more) this.scheduler.schedule(this.random.integer(0, 3), resolve);
      });
      if (offset >= body.length / 2) await options.halfway?.();
    }
    if (!life.alive) return sent;
    const answer = decision.sink.end({ sizeBytes: body.length, rejected: null });
    this.trace(`message ${number} end of data`);
    options.ended?.();
    if (options.leaveAfterEnd === true) {
      decision.sink.abort('client vanished');
      sent.answer = { kind: 'clientGone' };
      return sent;
    }
    const said = await answer;
    if (!life.alive) return sent;
    sent.answer = said;
    sent.answeredAtMs = this.scheduler.nowMs;
    this.trace(
      `message ${number} answered ${said.kind === 'reply' ? `${said.reply.code} ${said.reply.text}` : 'by closing'}`,
    );
    this.#checkAtAnswer(sent, said);
    return sent;
  }

  #checkAtAnswer(sent: Sent, said: DataAnswer): void {
    if (said.kind === 'reply' && said.reply.code === 250) this.#checkAccepted(sent, said.reply.text);
    if (said.kind === 'reply' && said.reply.code >= 400) this.#checkRefused(sent);
  }

  /** S3: a refusal after the 354 means that no disk holds a copy that somebody would still deliver. */
  #checkRefused(sent: Sent): void {
    for (const { member, stored } of this.view.liveAnywhere(sent.digest))
      this.violate(
        `S3: message ${sent.number} ${stored.facts.id} was refused while ${member} durably held it in ${stored.state.queue}`,
      );
  }

  /** S1: 250 means two durable copies on two identities (or an accept that policy allows alone), inside one boundary, sites as preferred (R4). */
  #checkAccepted(sent: Sent, text: string): void {
    const id = /[0-9A-HJKMNP-TV-Z]{26}/.exec(text)?.[0] as CopyId | undefined;
    if (id === undefined) return this.violate(`250 without an id for message ${sent.number}`);
    sent.id = id;
    const holders = this.view.holders(id, sent.digest).map((holder) => holder.member);
    sent.isProtected = holders.length >= 2;
    const { shadowRedundancy } = this.document.policies;
    if (holders.length < (shadowRedundancy.rejectMessageOnShadowFailure ? 2 : 1) && !this.view.isFinal(id))
      this.violate(
        `S1: message ${sent.number} ${id} answered 250 with ${holders.length} durable copies (${holders.join(', ')})`,
      );
    const members = this.document.members.filter((member) => holders.includes(member.name));
    const boundaryOf = (name: string | undefined): string | undefined =>
      this.document.members.find((member) => member.name === name)?.boundary;
    for (const { member, stored } of this.view.holders(id, sent.digest))
      if (boundaryOf(member) !== boundaryOf(this.view.disks.get(stored.state.epoch.owner)?.member))
        this.violate(`boundary: ${member} holds message ${sent.number} ${id} of an owner in another boundary`);
    const boundaries = new Set(members.map((member) => member.boundary));
    this.checkKept();
    if (!this.calm || holders.length < 2) return;
    const sites = new Set(members.map((member) => member.site));
    const spans =
      new Set(this.document.members.filter((member) => boundaries.has(member.boundary)).map((member) => member.site))
        .size > 1;
    if (shadowRedundancy.preference !== 'LocalOnly' && spans && sites.size === 1)
      this.violate(`R4: message ${sent.number} ${id} has both copies in one site without any fault`);
    if ((shadowRedundancy.preference === 'LocalOnly' || !spans) && sites.size > 1)
      this.violate(`R4: message ${sent.number} ${id} left its site although LocalOnly`);
  }

  /** True while no fault of any kind has been injected. */
  calm = true;
}

export interface SendOptions {
  readonly from?: string;
  readonly leaveAfterEnd?: boolean;
  /** Awaited once half of the body was given to the front end (and after each later chunk). */
  readonly halfway?: () => Promise<void>;
  readonly ended?: () => void;
}

const envelopeOf = (number: number, frontend: string, recipients: readonly string[], from?: string): Envelope => ({
  reversePath: from ?? `sender-${number}@elsewhere.example`,
  recipients: recipients.map((address) => ({ address })),
  body: '8BITMIME',
  smtputf8: false,
  declaredSizeBytes: null,
  client: { address: '127.0.0.1', port: 1, helo: 'sim', protocol: 'ESMTP', tls: null, user: null },
  frontend,
  listener: 'smtp',
  receivedAtMs: 0,
});
