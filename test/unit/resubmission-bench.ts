/**
 * `CoreBench` with a Safety Net behind it: scans, pages and copied bodies are answered as the runtime does, what the core moves to rest is found there later.
 * Owns: the documents of a mailbox failover, and entries as they would rest.
 */
import type { ResubmitRequestConfig, TopologyDocument } from '../../common/config.ts';
import type { CopyId, EnvelopeRecipient, Identity, RecipientState } from '../../common/message.ts';
import { resubmitViews } from '../../transport/core/resubmission.ts';
import type { Turn } from '../../transport/core/state.ts';
import type { ResubmitView } from '../../transport/runtime/view.ts';
import type { CopyFacts, CopyState, SafetyNetFilter, StoredCopy } from '../../transport/store/database.ts';
import { matches, safetyNetEntry } from '../../transport/store/live-index.ts';
import {
  A,
  type BenchOptions,
  CoreBench,
  DIGEST,
  type Effect,
  type EffectOf,
  envelopeFor,
  epochOf,
  factsOf,
  stateOf,
  WALL_MS,
} from './core-bench.ts';

export const HOUR_MS = 3_600_000;

const noRequest: ResubmitRequestConfig = {
  name: 'r',
  boundary: null,
  database: null,
  sender: null,
  recipient: null,
  messageId: null,
  fromMs: WALL_MS - HOUR_MS,
  toMs: null,
  lostActivation: null,
  createdAtMs: WALL_MS,
  expiresAtMs: WALL_MS + 48 * HOUR_MS,
  dryRun: false,
  cancelled: false,
};

export const requestOf = (more: Partial<ResubmitRequestConfig>): ResubmitRequestConfig => ({ ...noRequest, ...more });

/** Every database has a second copy; spans as in production. */
function withSecondCopies(document: TopologyDocument): TopologyDocument {
  const { policies } = document;
  return {
    ...document,
    policies: {
      ...policies,
      safetyNet: { ...policies.safetyNet, unresponsivePrimaryTimeoutMs: 300_000 },
      shadowRedundancy: { ...policies.shadowRedundancy, resubmitTimeSpanMs: 900_000 },
    },
    databases: document.databases.map((database) => ({
      ...database,
      copies: [
        ...database.copies,
        { name: 'second', site: 'site-0', lmtp: { host: 'other', port: 24 }, replayLagMs: 0 },
      ],
    })),
  };
}

export function withRequests(
  document: TopologyDocument,
  ...requests: readonly ResubmitRequestConfig[]
): TopologyDocument {
  return { ...document, generation: document.generation + 1, resubmitRequests: requests };
}

/** The active copy changes and the request is there, in one generation. */
export function failedOver(
  document: TopologyDocument,
  database = 'alpha',
  more: Partial<ResubmitRequestConfig> = {},
): TopologyDocument {
  const before = document.databases.find((entry) => entry.name === database);
  if (before === undefined) throw new Error(`no database ${database}`);
  const { activation } = before;
  const after = {
    ...before,
    activation: activation + 1,
    activeCopy: before.activeCopy === 'main' ? 'second' : 'main',
  };
  const request = requestOf({
    name: `failover-${database}-${activation}`,
    database,
    lostActivation: activation,
    ...more,
  });
  return {
    ...document,
    generation: document.generation + 1,
    databases: document.databases.map((entry) => (entry === before ? after : entry)),
    resubmitRequests: [...document.resubmitRequests, request],
  };
}

export const deliveredTo = (
  address: string,
  database = 'alpha',
  activation = 1,
  more: Partial<RecipientState> = {},
): RecipientState => ({
  address,
  outcome: 'delivered',
  database,
  databaseCopy: 'main',
  activation,
  atMs: WALL_MS,
  reply: '250 2.0.0 Ok',
  ...more,
});

/** What rests after a delivery; shadow entries are those of `owner`. */
export function resting(
  id: string,
  recipients: readonly RecipientState[],
  more: { owner?: Identity; facts?: Partial<CopyFacts>; state?: Partial<CopyState>; from?: string } = {},
): StoredCopy {
  const owner = more.owner ?? A;
  const named = recipients.map((recipient): EnvelopeRecipient => ({ address: recipient.address }));
  return {
    facts: factsOf(id, { envelope: envelopeFor(named, more.from), ...more.facts }),
    state: stateOf({
      queue: owner === A ? 'primarySafetyNet' : 'shadowSafetyNet',
      epoch: epochOf(owner),
      recipients,
      finalAtMs: WALL_MS,
      ...more.state,
    }),
  };
}

interface OpenScan {
  readonly entries: StoredCopy[];
  readonly pageSize: number;
}

export class ResubmissionBench extends CoreBench {
  readonly net = new Map<CopyId, StoredCopy>();
  readonly unreadable = new Set<CopyId>();
  /** Every page that was given, by its number of copies. */
  readonly pages: number[] = [];
  /** Bodies are not copied until `release()`. */
  holds = false;
  readonly held: EffectOf<'CopyBody'>[] = [];
  readonly filters: SafetyNetFilter[] = [];
  readonly #scans = new Map<number, OpenScan>();
  #taken = 0;
  #streams = 10_000;
  shown: TopologyDocument;

  constructor(entries: readonly StoredCopy[] = [], options: BenchOptions = {}) {
    super({
      ...options,
      document: (document) => (options.document ?? ((same) => same))(withSecondCopies(document)),
    });
    this.shown = this.document;
    for (const entry of entries) this.put(entry);
  }

  put(entry: StoredCopy): void {
    this.net.set(entry.facts.id, entry);
  }

  /** The document changes and everything that follows at once happens. */
  change(change: (document: TopologyDocument) => TopologyDocument): void {
    this.shown = change(this.shown);
    this.event({ kind: 'TopologyChanged', document: this.shown });
    this.settle();
  }

  again(): void {
    this.restart();
    this.#scans.clear();
    this.#taken = 0;
    this.held.length = 0;
    this.settle();
  }

  /** Time passes second by second, and the runtime answers in between. */
  wait(spanMs: number): void {
    for (let passed = 0; passed < spanMs; passed += 1_000) {
      this.pass(Math.min(1_000, spanMs - passed));
      this.settle();
    }
  }

  settle(): void {
    for (let effect = this.effects[this.#taken]; effect !== undefined; effect = this.effects[this.#taken]) {
      this.#taken += 1;
      this.#answer(effect);
    }
  }

  #answer(effect: Effect): void {
    switch (effect.kind) {
      case 'ScanSafetyNet':
        return this.#scan(effect);
      case 'NextSafetyNetPage':
        return this.#page(effect.scan);
      case 'EndScan':
        this.#scans.delete(effect.scan);
        return;
      case 'CopyBody':
        if (this.holds) this.held.push(effect);
        else this.copyBody(effect);
        return;
      case 'Track':
        if (effect.event === 'SAFETYNET' && effect.facts !== null) this.#rests(effect.facts);
        return;
      default:
        return;
    }
  }

  #rests(facts: CopyFacts): void {
    const state = this.resting.get(facts.id);
    if (state !== undefined) this.put({ facts, state });
  }

  #scan({ scan, filter, pageSize }: EffectOf<'ScanSafetyNet'>): void {
    this.filters.push(filter);
    const entries = [...this.net.values()].filter(({ facts, state }) => matches(safetyNetEntry(facts, state), filter));
    this.#scans.set(scan, { entries, pageSize });
    this.#page(scan);
  }

  #page(scan: number): void {
    const found = this.#scans.get(scan);
    if (found === undefined) return;
    const copies = found.entries.splice(0, found.pageSize);
    this.pages.push(copies.length);
    const done = copies.length < found.pageSize;
    if (done) this.#scans.delete(scan);
    this.event({ kind: 'SafetyNetPage', scan, copies, unreadable: 0, done });
  }

  copyBody({ id, from }: EffectOf<'CopyBody'>, digest = DIGEST): void {
    if (this.net.has(id)) {
      this.event({ kind: 'BodyNotCopied', id, reason: 'atRest' });
    } else if (this.unreadable.has(from) || !this.net.has(from)) {
      this.event({ kind: 'BodyNotCopied', id, reason: 'unreadable' });
    } else {
      this.#streams += 1;
      this.event({ kind: 'BodyCopied', stream: this.#streams, id, digest, sizeBytes: 10 });
    }
  }

  release(): void {
    this.holds = false;
    for (const body of this.held.splice(0)) this.copyBody(body);
    this.settle();
  }

  view(name = 'failover-alpha-1'): ResubmitView {
    const found = resubmitViews({ server: this.server, nowMs: this.nowMs }).find((one) => one.name === name);
    if (found === undefined) throw new Error(`no request ${name} here`);
    return found;
  }

  /** Live copies that a resubmission made. */
  made(): CopyFacts[] {
    return [...this.server.copies.values()].flatMap(({ facts }) => (facts.kind === 'resubmission' ? [facts] : []));
  }

  /** Answers every delivery that is open. */
  deliverAll(): void {
    for (const open of [...this.server.deliveries.values()])
      this.event({
        kind: 'DeliveryDone',
        requestId: open.requestId,
        results: open.recipients.map((index) => ({ index, kind: 'delivered', reply: '250 2.0.0 Ok' })),
      });
    this.settle();
  }
}

/** A turn of its own, for the functions others call. */
export const turnOf = (bench: ResubmissionBench): Turn => ({
  server: bench.server,
  nowMs: bench.nowMs,
  wallMs: WALL_MS + bench.nowMs,
  out: { commit: [], note: [], now: [], afterCommit: [], wakeAtMs: null },
  claims: new Map(),
});
