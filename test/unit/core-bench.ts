/**
 * One transport's core on plain data: `startCore()` and `step()` of the product over the index that both engines use, with a clock
 * that moves when the test says so. Owns: what would be on disk, the effects in the order in which they would leave. Promise: a write
 * that the store would refuse throws here, as it would end the process there; effects count only after their commit was taken.
 */
import type { MemberConfig, PoliciesConfig, TopologyDocument } from '../../common/config.ts';
import type {
  CopyId,
  Envelope,
  EnvelopeRecipient,
  Epoch,
  Identity,
  RecipientState,
  SharedState,
} from '../../common/message.ts';
import type { ControlFrame, List, Load, Result } from '../../common/peer/messages.ts';
import type {
  CoreEvent,
  CoreWrite,
  DeliveryResult,
  EarlyEffect,
  LateEffect,
  StepResult,
} from '../../transport/core/events.ts';
import type { CoreOptions } from '../../transport/core/new-server.ts';
import { startCore, step } from '../../transport/core/server.ts';
import { type Server, trustedTime } from '../../transport/core/state.ts';
import type {
  BodyWriter,
  CopyFacts,
  CopyState,
  Recovered,
  Seen,
  StoredCopy,
  Tombstone,
  Write,
} from '../../transport/store/database.ts';
import { LiveIndex } from '../../transport/store/live-index.ts';
import { type ShapeOptions, simTopology } from '../sim/topology.ts';

export const SELF = 't-0-0';
export const PEER = 't-0-1';
export const OTHER = 't-0-2';
/** Queue databases of the members above. */
export const A = 'A' as Identity;
export const B = 'B' as Identity;
export const C = 'C' as Identity;
export const DIGEST = 'd'.repeat(64);
export const WALL_MS = 1_700_000_000_000;
const NO_LOAD: Load = { queued: 0, intake: 0, backPressure: 'Normal', accepting: true };
const IDENTITIES: ReadonlyMap<string, Identity> = new Map([
  [SELF, A],
  [PEER, B],
  [OTHER, C],
]);

export type Effect = EarlyEffect | LateEffect;
export type EffectOf<Kind extends Effect['kind']> = Extract<Effect, { readonly kind: Kind }>;
export type FrameOf<Kind extends ControlFrame['kind']> = Extract<ControlFrame, { readonly kind: Kind }>;

export const copyId = (text: string): CopyId => text as CopyId;
export const epochOf = (owner: Identity, tryNumber = 1, term = 0): Epoch => ({ try: tryNumber, term, owner });
export const identityOf = (member: string): Identity => IDENTITIES.get(member) ?? (member as Identity);

export function envelopeFor(
  recipients: readonly (string | EnvelopeRecipient)[],
  reversePath = 'sender@far.example',
): Envelope {
  return {
    reversePath,
    recipients: recipients.map((one) => (typeof one === 'string' ? { address: one } : one)),
    body: '7BIT',
    smtputf8: false,
    declaredSizeBytes: null,
    client: { address: '192.0.2.1', port: 1, helo: 'client.test', protocol: 'ESMTP', tls: null, user: null },
    frontend: 'f-0',
    listener: 'smtp',
    receivedAtMs: WALL_MS,
  };
}

export function factsOf(id: string, more: Partial<CopyFacts> = {}): CopyFacts {
  return {
    id: copyId(id),
    ancestor: null,
    kind: 'message',
    envelope: envelopeFor(['x@far.example']),
    digest: DIGEST,
    sizeBytes: 10,
    acceptedAtMs: WALL_MS,
    takenFrom: null,
    events: [],
    ...more,
  };
}

export function stateOf(more: Partial<CopyState> = {}): CopyState {
  return {
    queue: 'submission',
    epoch: epochOf(A),
    standing: 'released',
    abortedThrough: 0,
    recipients: null,
    placements: [],
    ageMs: 0,
    finalAtMs: null,
    unprotected: null,
    suspended: false,
    crashCount: 0,
    delayed: false,
    dsns: [],
    attempts: 0,
    ...more,
  };
}

export function sharedOf(id: string, more: Partial<SharedState> = {}): SharedState {
  return {
    id: copyId(id),
    ancestor: null,
    kind: 'message',
    epoch: epochOf(A),
    standing: 'released',
    abortedThrough: 0,
    digest: DIGEST,
    sizeBytes: 10,
    recipients: null,
    final: false,
    ...more,
  };
}

export const pending = (address: string): RecipientState => ({ address, outcome: 'pending' });

export interface BenchOptions {
  /** Members in the one site, this one among them; 2 or 3. */
  readonly members?: 1 | 2 | 3;
  readonly shape?: Partial<ShapeOptions>;
  readonly queues?: Partial<PoliciesConfig['queues']>;
  /** Changes the document as a whole, for what the above cannot say. */
  readonly document?: (document: TopologyDocument) => TopologyDocument;
  /** Copies that are there when the process starts. */
  readonly stored?: readonly { readonly facts: CopyFacts; readonly state: CopyState }[];
  readonly draw?: () => number;
  /** What an earlier life saw of other queue databases. */
  readonly seen?: readonly Seen[];
  readonly tombstones?: readonly Tombstone[];
  /** Another member than SELF, for several cores side by side. */
  readonly name?: string;
  readonly identity?: Identity;
  /** Lazy writes reach the disk with the next commit only: what a restart finds after a power cut. */
  readonly powerCuts?: boolean;
}

const NO_BODY = {
  sizeBytes: 0,
  append: () => Promise.resolve(),
  untilRoom: () => null,
  digest: () => DIGEST,
  read: () => Promise.resolve(Buffer.alloc(0)),
  discard: () => undefined,
};
/** The core never touches the bytes: a body is its id here. */
const bodyNamed = (id: CopyId): BodyWriter => ({ ...NO_BODY, id });

export class CoreBench {
  readonly index = new LiveIndex<null>();
  /** What rests in a Safety Net here. */
  readonly resting = new Map<CopyId, CopyState>();
  readonly document: TopologyDocument;
  effects: Effect[] = [];
  server: Server;
  nowMs = 1_000;
  /** Moves the wall clock only. */
  wallOffsetMs = 0;
  #wakeAtMs: number | null = null;
  #streams = 0;
  readonly #lazy: CoreWrite[] | null;
  readonly #draw: () => number;
  readonly name: string;
  readonly identity: Identity;
  risk: Pick<CoreOptions, 'risk'> = {};

  constructor(options: BenchOptions = {}) {
    this.#lazy = options.powerCuts === true ? [] : null;
    this.name = options.name ?? SELF;
    this.identity = options.identity ?? identityOf(this.name);
    const shape = simTopology({ sites: [options.members ?? 2], dag: true, frontends: 1, ...options.shape });
    const policies = { ...shape.policies, queues: { ...shape.policies.queues, ...options.queues } };
    const document = { ...shape, policies };
    this.document = options.document?.(document) ?? document;
    this.#draw = options.draw ?? (() => 0.5);
    for (const copy of options.stored ?? []) this.index.put({ ...copy, body: null });
    for (const seen of options.seen ?? []) this.index.applySmall({ kind: 'seen', seen });
    for (const tombstone of options.tombstones ?? []) this.index.applySmall({ kind: 'tombstone', tombstone });
    this.server = this.#start();
  }

  /** A process that ends now and comes back on the same queue database. */
  restart(afterMs = 100): void {
    this.nowMs += afterMs;
    this.effects = [];
    this.#lazy?.splice(0);
    this.server = this.#start();
  }

  #start(): Server {
    const recovered: Recovered = {
      copies: [...this.index.copies.values()].map(({ facts, state }) => ({ facts, state })),
      tombstones: [...this.index.tombstones.values()],
      seen: [...this.index.seen.values()],
      facts: new Map(this.index.facts),
      quarantined: [],
      created: false,
    };
    const hashId = (text: string): CopyId => copyId(`dsn:${text}`);
    const { name, identity, document } = this;
    const given = { name, identity, document, recovered, draw: this.#draw, hashId, ...this.risk };
    const { server, result } = startCore(given, this.#now());
    this.#take(result);
    return server;
  }

  #now(): { readonly monotonicMs: number; readonly wallMs: number } {
    return { monotonicMs: this.nowMs, wallMs: WALL_MS + this.nowMs + this.wallOffsetMs };
  }

  #take(result: StepResult): StepResult {
    if (this.#lazy === null) this.#write(result.note);
    else this.#lazy.push(...result.note);
    if (result.commit.length > 0) {
      this.#write(this.#lazy?.splice(0) ?? []);
      this.#write(result.commit);
    }
    this.effects.push(...result.now, ...result.afterCommit);
    this.#wakeAtMs = result.wakeAtMs;
    return result;
  }

  #write(core: readonly CoreWrite[]): void {
    const writes = core.map(
      (write): Write => (write.kind === 'commit' ? { ...write, body: bodyNamed(write.facts.id) } : write),
    );
    this.index.check(writes, (id) => this.resting.has(id));
    for (const write of writes) this.#apply(write);
  }

  #apply(write: Write): void {
    switch (write.kind) {
      case 'commit':
        return this.index.put({ facts: write.facts, state: write.state, body: null });
      case 'state':
        return this.index.setState(write.id, write.state, write.outcomes);
      case 'move':
        this.resting.set(write.id, write.state);
        return this.index.remove(write.id);
      case 'recall':
        throw new Error('nothing is recalled before resubmission exists');
      case 'remove':
        return this.index.remove(write.id);
      default:
        return this.index.applySmall(write);
    }
  }

  event(event: CoreEvent): StepResult {
    return this.#take(step(this.server, event, this.#now()));
  }

  /** Lets time pass; every timer fires at its moment. */
  pass(spanMs: number): void {
    const untilMs = this.nowMs + spanMs;
    for (let next = this.#wakeAtMs; next !== null && next <= untilMs; next = this.#wakeAtMs) {
      this.nowMs = Math.max(this.nowMs, next);
      this.event({ kind: 'TimerFired' });
    }
    this.nowMs = untilMs;
  }

  /** Lets time pass while these members go on speaking, each once a second. */
  passHearing(spanMs: number, hearing: Readonly<Record<string, readonly string[]>>): void {
    for (let left = spanMs; left > 0; left -= 1_000) {
      this.pass(Math.min(1_000, left));
      for (const [member, hears] of Object.entries(hearing)) this.contact(member, {}, hears);
    }
  }

  /** The next generation of the document. */
  topology(change: (document: TopologyDocument) => TopologyDocument): void {
    const { document } = this.server;
    this.event({
      kind: 'TopologyChanged',
      document: { ...change(document), generation: document.generation + 1 },
    });
  }

  memberState(name: string, state: MemberConfig['state']): void {
    this.topology((document) => ({
      ...document,
      members: document.members.map((member) => (member.name === name ? { ...member, state } : member)),
    }));
  }

  /** A stream of another member arrives; returns its number. */
  streamOpened(
    member: string,
    purpose: 'shadow' | 'copy' | 'rest',
    state: SharedState,
    stored: StoredCopy | null = null,
  ): number {
    this.#streams += 1;
    this.event({
      kind: 'ShadowOpened',
      purpose,
      stream: this.#streams,
      member,
      identity: identityOf(member),
      openCounter: 1,
      nonce: 'n',
      id: state.id,
      envelope: envelopeFor(['x@far.example']),
      state,
      stored,
    });
    return this.#streams;
  }

  streamEnded(stream: number): StepResult {
    return this.event({ kind: 'ShadowEnded', stream, digest: DIGEST, sizeBytes: 10, events: [] });
  }

  /** Answers the walk that was asked for last. */
  page(copies: readonly StoredCopy[], more: { readonly done?: boolean; readonly unreadable?: number } = {}): void {
    const { scan } = this.lastSeen('ScanSafetyNet');
    this.event({ kind: 'SafetyNetPage', scan, copies, unreadable: 0, done: true, ...more });
  }

  // --- what came out ---------------------------------------------------------------------------------------------------

  seen<Kind extends Effect['kind']>(kind: Kind): EffectOf<Kind>[] {
    return this.effects.filter((effect): effect is EffectOf<Kind> => effect.kind === kind);
  }

  lastSeen<Kind extends Effect['kind']>(kind: Kind): EffectOf<Kind> {
    const last = this.seen(kind).at(-1);
    if (last === undefined) throw new Error(`no ${kind} came out of the core`);
    return last;
  }

  sent<Kind extends ControlFrame['kind']>(kind: Kind): { readonly to: string; readonly frame: FrameOf<Kind> }[] {
    return this.seen('Send').flatMap(({ to, frame }) =>
      frame.kind === kind ? [{ to, frame: frame as FrameOf<Kind> }] : [],
    );
  }

  answers(): Result[] {
    return this.seen('AnswerStream').map(({ result }) => result);
  }

  /** As in the index, which is what a restart would find. */
  stored(id: string): CopyState | null {
    return this.index.copies.get(copyId(id))?.state ?? null;
  }

  copy(id: string): CopyState {
    const copy = this.server.copies.get(copyId(id));
    if (copy === undefined) throw new Error(`the core has no copy ${id}`);
    return copy.state;
  }

  // --- what others do ----------------------------------------------------------------------------------------------------

  /** The session is up, the load is known, everything it holds of ours is told. */
  join(member: string, items: List['items'] = [], load: Partial<Load> = {}): void {
    this.up(member);
    this.contact(member, load);
    this.list(member, items);
  }

  up(member: string, identity: Identity = identityOf(member)): void {
    this.event({ kind: 'PeerUp', member, identity, openCounter: 1, nonce: 'n' });
  }

  down(member: string): void {
    this.event({ kind: 'PeerDown', member });
  }

  /** `aheadMs`: of its elapsed time before ours. */
  contact(member: string, load: Partial<Load> = {}, hears: readonly string[] = [], aheadMs = 0): void {
    const trustedMs = trustedTime(this.server, this.nowMs) + aheadMs;
    const contact = { syncedSequence: 0, trustedMs, generation: 1, hears, load: { ...NO_LOAD, ...load } };
    this.event({ kind: 'PeerContact', member, contact });
  }

  list(member: string, items: List['items'] = []): void {
    this.event({
      kind: 'ListReceived',
      member,
      list: { owner: this.identity, items, complete: true },
      stored: new Map(),
    });
  }

  /** OPEN and END of a front end; the shadow's answer is the test's business. */
  open(
    id: string,
    recipients: readonly (string | EnvelopeRecipient)[],
    more: { from?: string; try?: number } = {},
  ): number {
    this.#streams += 1;
    const envelope = envelopeFor(recipients, more.from);
    this.event({
      kind: 'IntakeOpened',
      stream: this.#streams,
      frontend: 'f-0',
      id: copyId(id),
      try: more.try ?? 1,
      envelope,
      stored: null,
    });
    return this.#streams;
  }

  end(stream: number): StepResult {
    return this.event({ kind: 'IntakeEnded', stream, digest: DIGEST, sizeBytes: 10, events: [] });
  }

  candidateOpened(): EffectOf<'OpenCandidate'> {
    const open = this.lastSeen('OpenCandidate');
    this.event({ kind: 'CandidateOpened', id: open.id, attempt: open.attempt });
    return open;
  }

  /** The candidate holds the copy and says so. */
  candidateStored(open: EffectOf<'OpenCandidate'>): void {
    const { id, attempt, member, state } = open;
    const result: Result = { id, epoch: state.epoch, outcome: 'stored', digest: DIGEST, reply: null };
    this.event({ kind: 'CandidateResult', member, id, attempt, result });
  }

  candidateRefused(open: EffectOf<'OpenCandidate'>): void {
    this.event({ kind: 'CandidateRefused', member: open.member, id: open.id, attempt: open.attempt, held: false });
  }

  /** A message that was answered 250: here and on the member that was asked. Returns that member's candidate. */
  accept(
    id: string,
    recipients: readonly (string | EnvelopeRecipient)[],
    more: { from?: string; try?: number } = {},
  ): EffectOf<'OpenCandidate'> {
    const stream = this.open(id, recipients, more);
    const open = this.candidateOpened();
    this.end(stream);
    this.candidateStored(open);
    return open;
  }

  /** A shadow of `member`'s copy, released by it. */
  shadow(id: string, recipients: readonly string[], member = PEER): void {
    this.#streams += 1;
    const owner = identityOf(member);
    const state = sharedOf(id, { epoch: epochOf(owner), standing: 'intake', digest: null, sizeBytes: 0 });
    this.event({
      kind: 'ShadowOpened',
      purpose: 'shadow',
      stream: this.#streams,
      member,
      identity: owner,
      openCounter: 1,
      nonce: 'n',
      id: copyId(id),
      envelope: envelopeFor(recipients),
      state,
      stored: null,
    });
    this.event({ kind: 'ShadowEnded', stream: this.#streams, digest: DIGEST, sizeBytes: 10, events: [] });
    this.state(member, 'pending', sharedOf(id, { epoch: epochOf(owner) }));
  }

  state(member: string, verdict: 'pending' | 'final' | 'owner' | 'aborted', state: SharedState): void {
    this.event({ kind: 'StateReceived', member, state: { id: state.id, verdict, state } });
  }

  grant(member: string, verdict: 'pending' | 'final' | 'owner', state: SharedState, granted = true): void {
    this.event({ kind: 'GrantReceived', member, grant: { items: [{ id: state.id, granted, verdict, state }] } });
  }

  claim(member: string, items: readonly { readonly id: CopyId; readonly epoch: Epoch }[]): void {
    this.event({ kind: 'ClaimReceived', member, claim: { items }, stored: new Map() });
  }

  delivered(deliver: EffectOf<'Deliver'>, results: readonly DeliveryResult[]): StepResult {
    return this.event({ kind: 'DeliveryDone', requestId: deliver.requestId, results });
  }
}
/** Member entries as a topology document has them, for tests of single tables. */
export function memberOf(name: string, site: string, more: Partial<MemberConfig> = {}): MemberConfig {
  const address = { host: name, port: 4_000 };
  return { name, dag: 'dag1', site, boundary: 'dag/dag1', address, state: 'active', ...more };
}
