/** The memory of a core that has not made a step yet. Owns: what a start needs, and what a new core takes from the queue database. PURE. */
import type { TopologyDocument } from '../../common/config.ts';
import type { CopyId, Identity } from '../../common/message.ts';
import { assert } from '../../common/platform/assert.ts';
import { Graves } from '../store/buried.ts';
import { Compactor } from '../store/compact.ts';
import type { Recovered } from '../store/database.ts';
import { knownPaths } from './boundary-path.ts';
import { latchOf } from './drain.ts';
import { Line } from './line.ts';
import type { Mutant } from './mutants.ts';
import { OpenDeliveries } from './open-deliveries.ts';
import { suspendedIn } from './orders.ts';
import { Placings } from './placings.ts';
import { newRisk, type RiskOptions } from './poison.ts';
import { newRehoming } from './rehome.ts';
import { ReportParents } from './report-parents.ts';
import { newResubmissions } from './resubmission.ts';
import { type Server, TIMERS_BOUND } from './state.ts';
import { voidWords } from './takeover.ts';
import type { TransitionCoverage } from './transitions.ts';
import { CLOCK_FACT, newTrusted, type SavedClock } from './trusted-time.ts';

export interface CoreOptions {
  readonly name: string;
  readonly identity: Identity;
  readonly document: TopologyDocument;
  readonly recovered: Recovered;
  readonly draw: () => number;
  readonly hashId: (text: string) => CopyId;
  readonly mutants?: ReadonlySet<Mutant>;
  /** Where the copy in a risky step is marked, and what the mark of the life before says (poison.ts). */
  readonly risk?: RiskOptions;
  /** Where visits of transition rows are counted; the simulator adds up all lives of all pods. */
  readonly coverage?: TransitionCoverage;
}

export interface Now {
  readonly monotonicMs: number;
  readonly wallMs: number;
}

export function newServer(options: CoreOptions, now: Now): Server {
  return {
    name: options.name,
    me: options.identity,
    mutants: options.mutants ?? new Set(),
    draw: options.draw,
    hashId: options.hashId,
    document: options.document,
    ...placeOf(options.document, options.name),
    pressure: 'Normal',
    pressedBy: '',
    copies: new Map(),
    tombstones: new Map(options.recovered.tombstones.map((tombstone) => [tombstone.id, tombstone])),
    graves: new Graves(),
    intakes: new Map(),
    intakeOf: new Map(),
    incoming: new Map(),
    unmetOwners: new Set(),
    intakeSeen: { atMs: now.monotonicMs, ids: new Set() },
    placings: new Placings(),
    heldEnds: new Set(),
    peers: new Map(),
    lastHeardMs: new Map(),
    heardOfMs: new Map(),
    awakeSinceMs: now.monotonicMs,
    known: new Map(options.recovered.seen.map((seen) => [seen.member, seen.identity])),
    memberOf: new Map(options.recovered.seen.map((seen) => [seen.identity, seen.member])),
    lost: new Map(),
    retired: voidWords(options.recovered.facts),
    takingOver: new Set(),
    away: new Set(),
    moving: new Set(),
    redirects: new Map(),
    shadowless: new Line(),
    reshadowing: 0,
    rehoming: newRehoming(),
    damaged: new Map(),
    latch: latchOf(options.recovered.facts),
    aloneSinceMs: null,
    outsideReachedMs: Number.NEGATIVE_INFINITY,
    lastStepMs: now.monotonicMs,
    completeSinceMs: 0,
    nextScan: 0,
    resubmissions: newResubmissions(options.recovered.facts),
    risk: newRisk(options.risk, options.recovered.facts),
    sessions: 0,
    held: new Map(),
    listedOnce: new Set(),
    reportParents: new ReportParents(),
    single: new Set(),
    doubtful: new Set(),
    lastDoubt: null,
    unasked: new Map(),
    guarded: new Map(),
    resolveWaiters: new Map(),
    hops: new Map(),
    suspendedQueues: suspendedIn(options.document),
    deliveries: new OpenDeliveries(),
    composing: new Map(),
    ...{ nextRequest: 0, nextAttempt: 0 },
    timers: [],
    timersBound: TIMERS_BOUND,
    ages: { due: new Map(), size: 0, bound: TIMERS_BOUND },
    compactor: new Compactor(),
    ...{ recent: [], loaded: [] },
    coverage: options.coverage ?? new Map(),
    startedAtMs: now.monotonicMs,
    trusted: newTrusted(options.recovered.facts.get(CLOCK_FACT) as SavedClock | undefined, now),
  };
}

/** Where this member stands in a document; a document without it was refused before. */
export function placeOf(document: TopologyDocument, name: string): Pick<Server, 'self' | 'boundary' | 'paths'> {
  const self = document.members.find((member) => member.name === name);
  assert(self !== undefined, 'this transport is not in the topology document', {
    name,
    generation: document.generation,
  });
  return {
    self,
    boundary: document.members.filter(
      (member) => member.boundary === self.boundary && member.name !== name && member.state !== 'gone',
    ),
    paths: knownPaths(document),
  };
}
