/**
 * A running transport: the core behind its ports. Owns: translating what sessions, streams, delivery and time do into core events, and the core's
 * effects into what they shall do. No decision is made here. The simulator builds the same object over simulated ports.
 */
import { createHash } from 'node:crypto';
import { resultsOf } from '../../common/authentication-results.ts';
import type { TopologyDocument } from '../../common/config.ts';
import { filterFieldsOf } from '../../common/content-filter.ts';
import type { CopyId, Epoch, Identity } from '../../common/message.ts';
import type { Contact } from '../../common/peer/messages.ts';
import type { IncomingStream, PeerSession } from '../../common/peer/session-api.ts';
import type { Timer } from '../../common/platform/clock.ts';
import { randomFraction } from '../../common/platform/random.ts';
import { reply } from '../../common/smtp/replies.ts';
import { contentKeyOf } from '../core/content-key.ts';
import { IN_TRANSIT } from '../core/copy.ts';
import { mayBegin } from '../core/delivery.ts';
import { takesNothing } from '../core/drain.ts';
import type { CoreEvent, CoreWrite, EarlyEffect, LateEffect, StoredCopies } from '../core/events.ts';
import { startCore } from '../core/server.ts';
import { type Server, trustedTime } from '../core/state.ts';
import type { CopyState, Queue, StoredCopy, Write } from '../store/database.ts';
import { Bodies, storedBody } from './bodies.ts';
import { BoundaryRelay } from './boundary-relay.ts';
import { count } from './counts.ts';
import { DamageTold } from './damage-told.ts';
import type { RecipientResult } from './delivery-api.ts';
import type { TransportDeps } from './deps.ts';
import { Gauges } from './gauges.ts';
import { controlReceived, type Inbound } from './inbound.ts';
import { Loop } from './loop.ts';
import { outcomeOf } from './outcome.ts';
import { OwnCopies } from './own-copies.ts';
import { Peers } from './peers.ts';
import { PressureGauge } from './pressure.ts';
import { type QueueTotals, queueTotals } from './queue-totals.ts';
import { Resting } from './resting.ts';
import { SafetyNetScans } from './safety-net-scans.ts';
import { Scrubbing } from './scrubbing.ts';
import { clocksOf } from './told-times.ts';
import { track } from './track.ts';

const SWEEP_MS = 1_000;
/** Part of the Safety Net quota from which on it is said that something will be shed. */
const EARLY_WARNING = 0.9;
const COUNT_MS = 500;
/** Longer than the longest pause between two dials and a handshake on a busy machine. */
const MEETING_MS = 5_000;

/** Of a copy that is gone while its delivery starts: everything about it is a repeat. */
const NO_EPOCH: Epoch = { try: 0, term: 0, owner: '' as Identity };

const hashId = (text: string): CopyId =>
  createHash('sha256').update(text).digest('hex').slice(0, 26).toUpperCase() as CopyId;

export class TransportServer {
  readonly deps: TransportDeps;
  readonly core: Server;
  readonly peers: Peers;
  readonly bodies: Bodies;
  readonly scrubbing: Scrubbing;
  readonly pressure = new PressureGauge();
  readonly #scans: SafetyNetScans;
  readonly #loop: Loop;
  readonly #resting: Resting;
  readonly #damage: DamageTold;
  readonly #ownCopies: OwnCopies;
  readonly #relay: BoundaryRelay;
  readonly #inbound: Inbound;
  #sweep: Timer | null = null;
  readonly #gauges: Gauges;
  #counted: ReadonlyMap<Queue, QueueTotals> = new Map();
  #countAtMs = Number.NEGATIVE_INFINITY;
  readonly #startedAtMs: number;
  /** A member of another site was met since the start; losing it again is no reason to hold back. */
  #hasMet = false;
  #stopped = false;
  state: 'recovering' | 'ready' | 'stopping' = 'recovering';

  constructor(deps: TransportDeps) {
    this.deps = deps;
    const { clock, database } = deps;
    const now = { monotonicMs: clock.monotonicMs(), wallMs: clock.wallMs() };
    this.#startedAtMs = now.monotonicMs;
    const started = startCore(
      {
        name: deps.name,
        identity: database.identity,
        document: deps.document,
        recovered: database.recovered,
        draw: () => randomFraction(deps.random),
        hashId,
        ...(deps.mutants === undefined ? {} : { mutants: deps.mutants }),
        ...(deps.risk === undefined ? {} : { risk: deps.risk }),
        ...(deps.coverage === undefined ? {} : { coverage: deps.coverage }),
      },
      now,
    );
    this.core = started.server;
    const isAwaited = deps.mutants?.has('written-not-awaited') !== true;
    this.#resting = new Resting(this.core, deps, (id) => (isAwaited ? this.#loop.writing(id) : null));
    this.bodies = new Bodies(database, {
      event: (event) => {
        if (event.kind === 'CandidateResult' && event.result.syncedSequence !== undefined)
          this.peers.sawSequence(event.member, event.result.syncedSequence);
        this.#loop.handle(event);
      },
      maxMessageBytes: () => this.core.document.policies.limits.maxMessageBytes,
      damaged: (id, error) => this.#unreadable(id, error),
    });
    this.#scans = new SafetyNetScans(database, deps.log, (page) => {
      if (!this.#stopped) this.#loop.handle({ kind: 'SafetyNetPage', ...page });
    });
    // Nothing is delivered, answered or told any more once the volume must not be used.
    const onFatal = (reason: Error): void => {
      this.#loop.stop();
      deps.onFatal(reason);
    };
    this.peers = new Peers(
      { ...deps, onFatal },
      {
        onMember: (member, identity, openCounter, nonce) =>
          this.#loop.handle({ kind: 'PeerUp', member, identity, openCounter, nonce }),
        onMemberGone: (member) => this.#loop.handle({ kind: 'PeerDown', member }),
        onControl: (session, frame) => controlReceived(this.#inbound, session, frame),
        onStream: (session, stream) => this.#stream(session, stream),
        contact: () => this.#contact(),
        onSeen: (seen) => database.note([{ kind: 'seen', seen }]),
      },
    );
    this.#inbound = { peers: this.peers, resting: this.#resting, handle: (event) => this.#loop.handle(event) };
    this.#loop = new Loop(this.core, clock, database, {
      write: (write) => this.#write(write),
      early: (effect) => this.#early(effect),
      late: (effect) => this.#late(effect),
      fatal: (reason) => deps.onFatal(reason),
    });
    this.#damage = new DamageTold({ core: this.core, database, resting: this.#resting, loop: this.#loop });
    this.#ownCopies = this.#newOwnCopies();
    this.scrubbing = this.#newScrubbing();
    this.#relay = this.#newRelay();
    this.#gauges = new Gauges(this);
    // The core has what it needs of it: what the database recovered need not be kept twice.
    database.releaseRecovered();
    this.#loop.apply(started.result);
  }

  #newOwnCopies(): OwnCopies {
    const handle = (event: CoreEvent): void => {
      if (!this.#stopped) this.#loop.handle(event);
    };
    return new OwnCopies({ deps: this.deps, bodies: this.bodies, resting: this.#resting, handle });
  }

  #newRelay(): BoundaryRelay {
    const { deps } = this;
    return new BoundaryRelay({
      ...{ deps, hashId, document: () => this.core.document },
      trustedMs: () => trustedTime(this.core, deps.clock.monotonicMs()),
      bodyOf: ({ id, sizeBytes }) => storedBody(deps.database, id, sizeBytes),
      damaged: (id, error) => this.#unreadable(id, error),
    });
  }

  #newScrubbing(): Scrubbing {
    return new Scrubbing({
      ...this.deps,
      holdTimeMs: () => this.core.document.policies.safetyNet.holdTimeMs,
      onDamaged: (id) => this.bodyDamaged(id),
      onPassed: (sinceMs) => this.#loop.handle({ kind: 'ScrubPassed', sinceMs }),
    });
  }

  async start(): Promise<void> {
    await this.peers.start();
    this.state = 'ready';
    this.scrubbing.start();
    this.#sweepLater();
  }

  get port(): number {
    return this.peers.port;
  }

  #unreadable(id: CopyId, error: unknown): void {
    this.deps.log.error({ attemptId: id, err: String(error) }, 'stored body unreadable');
    // Not (yet) there is not damaged: its COMMIT may still be on the way to the log.
    if ((error as { code?: string }).code === 'DAMAGED') this.bodyDamaged(id);
  }

  /** The bytes of this copy cannot be read. */
  bodyDamaged(id: CopyId): void {
    this.#damage.told(id);
  }

  setTopology(document: TopologyDocument): void {
    this.#loop.handle({ kind: 'TopologyChanged', document });
    this.peers.setTopology(this.core.document);
  }

  /** Stops taking part; the caller closes the queue database afterwards. */
  async stop(): Promise<void> {
    this.state = 'stopping';
    this.#stopped = true;
    this.#sweep?.cancel();
    this.scrubbing.stop();
    this.#damage.stop();
    this.#ownCopies.stop();
    await this.#relay.stop();
    await this.peers.stop();
    await this.deps.delivery.close();
    // What was decided is written, so that nobody has to decide it again.
    await this.#resting.settled();
    this.#loop.stop();
  }

  #sweepLater(): void {
    this.#sweep = this.deps.clock.setTimer(SWEEP_MS, () => {
      this.bodies.settled((id) => {
        const { placings, intakeOf, rehoming } = this.core;
        return placings.has(id) || intakeOf.has(id) || rehoming.sending.has(id);
      });
      this.#readPressure();
      // A session that is open has been heard within its dead time (protocol.md 3).
      if (this.core.peers.size === 0 && this.peers.hearsFrontend) this.#loop.handle({ kind: 'OutsideReached' });
      this.core.completeSinceMs = this.deps.database.safetyNetCounts().completeSinceMs;
      this.#gauges.set(this.#queueTotals());
      this.#sweepLater();
    });
  }

  #readPressure(): void {
    const { database, memoryUse } = this.deps;
    const { level, resource } = this.pressure.read({
      space: database.space(),
      openBytes: this.bodies.openBytes,
      memoryUse: memoryUse?.() ?? 0,
      queued: this.core.copies.size,
    });
    if (level === this.core.pressure && resource === this.core.pressedBy) return;
    this.deps.log.warn({ level, resource }, 'back pressure');
    this.#loop.handle({ kind: 'PressureChanged', level, resource });
  }

  /** Every peer is told, and the queue may hold hundreds of thousands: counted at most twice a second, and for a hundredth of the time. */
  #queueTotals(): ReadonlyMap<Queue, QueueTotals> {
    const nowMs = this.deps.clock.monotonicMs();
    if (nowMs < this.#countAtMs) return this.#counted;
    this.#counted = queueTotals(this.core, clocksOf(this.deps.clock));
    this.#countAtMs = nowMs + Math.max(COUNT_MS, 100 * (this.deps.clock.monotonicMs() - nowMs));
    return this.#counted;
  }

  /**
   * semantics.md R4: remote sites come first. Who has just started and has met only its neighbours would give them every shadow; until it
   * has met a member of another site (or nobody came for a while) front ends send their mail to others.
   */
  #hasMetOtherSites(): boolean {
    const { boundary, self, document } = this.core;
    if (this.#hasMet || this.deps.clock.monotonicMs() - this.#startedAtMs > MEETING_MS) return true;
    if (document.policies.shadowRedundancy.preference === 'LocalOnly') return true;
    const remote = boundary.filter((member) => member.site !== self.site && member.state === 'active');
    this.#hasMet = remote.some((member) => this.peers.member(member.name) !== null);
    return remote.length === 0 || this.#hasMet;
  }

  #contact(): Omit<Contact, 'hears'> {
    let queued = 0;
    for (const [queue, { messages }] of this.#queueTotals()) if (IN_TRANSIT.has(queue)) queued += messages;
    return {
      syncedSequence: this.deps.database.syncedSequence,
      trustedMs: trustedTime(this.core, this.deps.clock.monotonicMs()),
      ...(this.core.trusted.isNew ? { timeUnknown: true } : {}),
      generation: this.core.document.generation,
      load: {
        queued,
        intake: this.bodies.openIntakes,
        backPressure: this.core.pressure,
        ...(this.core.pressedBy === '' ? {} : { pressedBy: this.core.pressedBy }),
        accepting: !takesNothing(this.core) && !this.#stopped && this.#hasMetOtherSites(),
      },
    };
  }

  // --- what comes in -------------------------------------------------------------------------------------------------

  #stream(session: PeerSession, stream: IncomingStream): void {
    const { open } = stream;
    if (this.peers.bringsMail(session) !== (open.kind === 'intake')) {
      stream.refuse({
        reply: { code: 550, enhanced: '5.7.1', text: 'stream kind not allowed for this role' },
        tryOther: false,
      });
      return;
    }
    const number = this.bodies.register(stream);
    // The first try of a front end cannot rest in a Safety Net; everything else is looked up first. A shadow may, at any try: what a resubmission made is made by
    // whoever needs it, and an owner that lost the end of its log to a power cut offers again what it had finished.
    if (open.kind === 'intake' && open.epoch.try === 1) return this.#opened(session, stream, number, null);
    const use = (stored: StoredCopies, unreadable: ReadonlySet<CopyId>): void => {
      // What cannot be read is what it may be sent for.
      const isMissed = unreadable.size > 0 && !this.core.damaged.has(open.id);
      if (isMissed) this.bodies.refuse(number, { reply: reply('localError'), tryOther: true });
      else if (stream.closed) this.bodies.discard(number);
      else this.#opened(session, stream, number, stored.get(open.id) ?? null);
    };
    void this.#resting.withStored([open.id], use, open.kind === 'rest' ? 'all' : 'untold');
  }

  #opened(session: PeerSession, stream: IncomingStream, number: number, stored: StoredCopy | null): void {
    const { open, remote } = stream;
    if (open.kind === 'intake') {
      this.#loop.handle({
        kind: 'IntakeOpened',
        stream: number,
        frontend: remote.name,
        id: open.id,
        try: open.epoch.try,
        envelope: open.envelope,
        stored,
      });
      return;
    }
    const database = session.hello.database;
    if (open.state === null || database === null) {
      this.bodies.refuse(number, {
        reply: { code: 550, enhanced: '5.5.4', text: 'a shadow stream needs a state' },
        tryOther: false,
      });
      return;
    }
    const last = database.chain.at(-1) ?? { openCounter: 0, nonce: '' };
    this.#loop.handle({
      kind: 'ShadowOpened',
      stream: number,
      purpose: open.kind,
      member: remote.name,
      identity: database.identity,
      openCounter: last.openCounter,
      nonce: last.nonce,
      id: open.id,
      envelope: open.envelope,
      state: { ...open.state, epoch: open.epoch },
      stored,
    });
  }

  // --- what goes out -------------------------------------------------------------------------------------------------

  #write(write: CoreWrite): Write {
    if (write.kind !== 'commit') return write;
    return { kind: 'commit', facts: write.facts, state: write.state, body: this.bodies.writerOf(write.stream) };
  }

  #early(effect: EarlyEffect): void {
    switch (effect.kind) {
      case 'AcceptStream':
        return this.bodies.accept(effect.stream);
      case 'RefuseStream':
        return this.bodies.refuse(effect.stream, effect.refuse);
      case 'OpenCandidate':
        return this.bodies.openCandidate(this.peers.member(effect.member), effect);
      case 'EndCandidate':
        return this.bodies.endCandidate(effect.id, effect.attempt, {
          sizeBytes: effect.sizeBytes,
          digest: effect.digest,
          events: effect.events,
        });
      case 'DropCandidate':
        return this.bodies.dropCandidate(effect.id, effect.attempt, effect.reason);
      case 'DiscardBody':
        return this.bodies.discard(effect.stream);
      case 'ComposeDsn':
        return this.#ownCopies.markedReport(effect);
      case 'ExpireSafetyNet':
        this.#trimSafetyNet(effect.beforeMs).catch((error: unknown) => {
          this.deps.log.error({ err: String(error) }, 'Safety Net expiry failed, tried again at the next turn');
        });
        return;
      case 'ScanSafetyNet':
        // What is being changed has a new place in the log: a walk that began before would meet it at neither.
        return void this.#resting.settled().then(() => this.#scans.start(effect.scan, effect.filter, effect.pageSize));
      case 'ChangeResting':
        return this.#changeResting(effect.id, effect.state);
      case 'NextSafetyNetPage':
        return this.#scans.next(effect.scan);
      case 'EndScan':
        return this.#scans.end(effect.scan);
      case 'CopyBody':
        return void this.#ownCopies.copyBody(effect.id, effect.from);
    }
  }

  #changeResting(id: CopyId, state: CopyState): void {
    this.#loop.alsoWriting(id, async (before) => {
      await this.#resting.change(id, state, before);
      if (!this.#stopped) this.#loop.handle({ kind: 'RestingChanged', id });
    });
  }

  /** By time, and by the quota (semantics.md N8): oldest first, mail in transit never. */
  async #trimSafetyNet(beforeMs: number): Promise<void> {
    const { database, log } = this.deps;
    const expired = await database.expireSafetyNet(beforeMs);
    this.deps.metrics.increment('safety_net_expired_total', {}, expired);
    const { quotaBytes } = this.core.document.policies.safetyNet;
    if (quotaBytes === null) return;
    const heldBytes = database.space().safetyNetBytes;
    if (heldBytes > EARLY_WARNING * quotaBytes) log.warn({ heldBytes, quotaBytes }, 'Safety Net is close to its quota');
    const shed = await database.shedSafetyNet(quotaBytes);
    if (shed.messages === 0) return;
    log.error({ ...shed, quotaBytes }, 'Safety Net over its quota: the oldest entries were given up');
    this.deps.metrics.increment('safety_net_shed_total', {}, shed.messages);
  }

  #late(effect: LateEffect): void {
    switch (effect.kind) {
      case 'OpenCandidate':
        return this.bodies.openCandidate(this.peers.member(effect.member), effect);
      case 'EnterRisk':
        return this.#loop.handle({ kind: 'RiskEntered', id: effect.id });
      case 'AnswerStream':
        return this.bodies.answer(effect.stream, this.#dated(effect.result));
      case 'RefuseStream':
        return this.bodies.refuse(effect.stream, effect.refuse);
      case 'Send':
        this.peers.send(
          effect.to,
          effect.frame.kind === 'STATE-ACK' ? { ...effect.frame, ack: this.#dated(effect.frame.ack) } : effect.frame,
        );
        return;
      case 'Deliver':
        return this.#deliver(effect);
      case 'Track':
        return track(this.deps, effect);
      case 'Count':
        return count(this.deps.metrics, effect);
    }
  }

  /** What was promised is durable: so is the log up to here, and the other side shall remember that (protocol.md 1). */
  #dated<T extends object>(said: T): T & { readonly syncedSequence: number } {
    return { ...said, syncedSequence: this.deps.database.syncedSequence };
  }

  #deliver(effect: Extract<LateEffect, { readonly kind: 'Deliver' }>): void {
    const { facts, route, deliveryId } = effect;
    const copy = this.core.copies.get(facts.id);
    const epoch = copy?.state.epoch ?? NO_EPOCH;
    const done = (results: readonly RecipientResult[]): void => {
      if (!this.#stopped) this.#loop.handle(outcomeOf(effect.requestId, results));
    };
    const mayBeRepeat =
      epoch.term > 0 || epoch.try !== 1 || facts.kind !== 'message' || copy === undefined || copy.wasDoubtful;
    const may = (): boolean => mayBegin(this.core, effect.requestId, this.deps.clock.monotonicMs());
    if (route.kind === 'boundary') {
      const { recipients } = effect;
      return this.#relay.start({ facts, deliveryId, mayBeRepeat, route, recipients, mayBegin: may }, done);
    }
    const recipients = effect.recipients.flatMap((index) => {
      const recipient = facts.envelope.recipients[index];
      return recipient === undefined ? [] : [{ index, recipient }];
    });
    this.deps.delivery.start(
      {
        requestId: effect.requestId,
        copyId: facts.id,
        deliveryId: effect.deliveryId,
        contentKey:
          this.deps.mutants?.has('retry-shown') === true
            ? null
            : contentKeyOf(facts, route, this.core.document, hashId),
        epoch,
        mayBeRepeat,
        envelope: facts.envelope,
        results: resultsOf(facts.events),
        filterFields: filterFieldsOf(facts.events),
        sizeBytes: facts.sizeBytes,
        route,
        recipients,
        mayBegin: may,
      },
      (results) => this.#loop.handle(outcomeOf(effect.requestId, results)),
    );
  }
}
