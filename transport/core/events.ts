/**
 * What goes into the core and what comes out. Owns: the vocabulary of `step()`. Plain data; bodies never enter (the core sees digest and size).
 * A `stream` is the runtime's number for a body on its way in; a `member` is a name of the topology document.
 */

import type { ConnectorLimits, ConnectorSession, MxConfig, TopologyDocument } from '../../common/config.ts';
import type { CopyId, Envelope, Identity, RecipientState, Reply, SharedState } from '../../common/message.ts';
import type {
  Claim,
  Contact,
  ControlFrame,
  Cover,
  Covered,
  Fetch,
  Grant,
  List,
  Load,
  Refuse,
  Release,
  ReleaseAck,
  Resign,
  Resolve,
  Resolved,
  Result,
  State,
  StateAck,
  TrackingEvent,
} from '../../common/peer/messages.ts';
import type { TrackingEventName } from '../runtime/tracking-api.ts';
import type { CopyFacts, CopyState, SafetyNetFilter, StoredCopy, Write } from '../store/database.ts';

export type StoredCopies = ReadonlyMap<CopyId, StoredCopy>;

export type CoreEvent =
  | { readonly kind: 'TopologyChanged'; readonly document: TopologyDocument }
  | {
      readonly kind: 'PeerUp';
      readonly member: string;
      readonly identity: Identity;
      readonly openCounter: number;
      readonly nonce: string;
    }
  | { readonly kind: 'PeerDown'; readonly member: string }
  | { readonly kind: 'PeerContact'; readonly member: string; readonly contact: Contact }
  /** A front end opened a message. `stored`: this id rests in a Safety Net here. */
  | {
      readonly kind: 'IntakeOpened';
      readonly stream: number;
      readonly frontend: string;
      readonly id: CopyId;
      readonly try: number;
      readonly envelope: Envelope;
      readonly stored: StoredCopy | null;
    }
  /** Whole body is in the log (not synced), size and digest match what the sender announced. */
  | {
      readonly kind: 'IntakeEnded';
      readonly stream: number;
      readonly digest: string;
      readonly sizeBytes: number;
      readonly events: readonly TrackingEvent[];
    }
  /** The front end gave up or its connection ended, before or after END. */
  | { readonly kind: 'IntakeLost'; readonly stream: number }
  | { readonly kind: 'CandidateOpened'; readonly id: CopyId; readonly attempt: number }
  /** It never got the END, or said no: it does not hold the copy. */
  | {
      readonly kind: 'CandidateRefused';
      readonly refusal?: Reply;
      readonly member: string;
      readonly id: CopyId;
      readonly attempt: number;
      /** It rests there already. */
      readonly held: boolean;
      /** Another maker's report about the same failure rests there. */
      readonly heldOtherwise?: boolean;
    }
  | { readonly kind: 'CandidateLost'; readonly id: CopyId; readonly attempt: number }
  | {
      readonly kind: 'CandidateResult';
      readonly member: string;
      readonly id: CopyId;
      readonly attempt: number;
      readonly result: Result;
    }
  | {
      readonly kind: 'ShadowOpened';
      readonly stream: number;
      readonly purpose: 'shadow' | 'copy' | 'rest';
      readonly member: string;
      readonly identity: Identity;
      readonly openCounter: number;
      readonly nonce: string;
      readonly id: CopyId;
      readonly envelope: Envelope;
      readonly state: SharedState;
      readonly stored: StoredCopy | null;
    }
  | {
      readonly kind: 'ShadowEnded';
      readonly stream: number;
      readonly digest: string;
      readonly sizeBytes: number;
      readonly events: readonly TrackingEvent[];
    }
  | { readonly kind: 'ShadowLost'; readonly stream: number }
  /** `from` is a member or a front end (`role`). */
  | {
      readonly kind: 'ResolveAsked';
      readonly from: string;
      readonly role: 'transport' | 'frontend';
      readonly resolve: Resolve;
      readonly stored: StoredCopy | null;
    }
  | { readonly kind: 'ResolveAnswered'; readonly member: string; readonly resolved: Resolved }
  | { readonly kind: 'ListReceived'; readonly member: string; readonly list: List; readonly stored: StoredCopies }
  | { readonly kind: 'StateReceived'; readonly member: string; readonly state: State }
  | { readonly kind: 'StateAcknowledged'; readonly member: string; readonly ack: StateAck }
  | { readonly kind: 'ClaimReceived'; readonly member: string; readonly claim: Claim; readonly stored: StoredCopies }
  | { readonly kind: 'GrantReceived'; readonly member: string; readonly grant: Grant }
  /** It was not begun: the process stood still before it could be. */
  | { readonly kind: 'DeliveryWithheld'; readonly requestId: number; readonly results?: readonly DeliveryResult[] }
  | { readonly kind: 'DeliveryDone'; readonly requestId: number; readonly results: readonly DeliveryResult[] }
  | {
      readonly kind: 'DsnComposed';
      readonly stream: number;
      readonly id: CopyId;
      readonly parent: CopyId;
      readonly aboutExpansion?: boolean;
      readonly envelope: Envelope;
      readonly digest: string;
      readonly sizeBytes: number;
    }
  /** The DSN asked for rests in a Safety Net here already: another maker's, or made before `parent` came here again. */
  | { readonly kind: 'DsnAtRest'; readonly id: CopyId; readonly parent: CopyId }
  /** Space and load of this process, from the runtime. */
  | { readonly kind: 'PressureChanged'; readonly level: 'Normal' | 'Medium' | 'High'; readonly resource: string }
  | { readonly kind: 'ResignReceived'; readonly member: string; readonly resign: Resign }
  | {
      readonly kind: 'ReleaseReceived';
      readonly member: string;
      readonly release: Release;
      readonly stored: StoredCopy | null;
    }
  | { readonly kind: 'ReleaseAcked'; readonly member: string; readonly released: ReleaseAck }
  /** `stored`: those of the ids that rest here. */
  | { readonly kind: 'CoverReceived'; readonly member: string; readonly cover: Cover; readonly stored: StoredCopies }
  | { readonly kind: 'CoveredReceived'; readonly member: string; readonly covered: Covered }
  | {
      readonly kind: 'FetchReceived';
      readonly member: string;
      readonly fetch: Fetch;
      readonly stored: StoredCopy | null;
    }
  /** What `ChangeResting` asked for is durable, or the copy is no longer at rest. */
  | { readonly kind: 'RestingChanged'; readonly id: CopyId }
  /** The next copies of a scan asked for with `ScanSafetyNet`; unreadable ones are left out and counted. */
  | {
      readonly kind: 'SafetyNetPage';
      readonly scan: number;
      readonly copies: readonly StoredCopy[];
      readonly unreadable: number;
      readonly done: boolean;
    }
  /** The body of a resubmission is in the log (not synced). */
  | {
      readonly kind: 'BodyCopied';
      readonly stream: number;
      readonly id: CopyId;
      readonly digest: string;
      readonly sizeBytes: number;
    }
  | { readonly kind: 'BodyNotCopied'; readonly id: CopyId; readonly reason: 'atRest' | 'unreadable' }
  /** The stored body of a copy in transit or of a shadow copy cannot be read. */
  | { readonly kind: 'BodyDamaged'; readonly id: CopyId }
  /** Bytes of a copy at rest cannot be read; of `stored` nothing is known when its last record is what is damaged. */
  | { readonly kind: 'RestingDamaged'; readonly id: CopyId; readonly stored: StoredCopy | null }
  /** The whole log was looked at since then (monotonic): what was not found damaged again is whole, or gone. */
  | { readonly kind: 'ScrubPassed'; readonly sinceMs: number }
  | { readonly kind: 'RiskEntered'; readonly id: CopyId }
  | { readonly kind: 'RiskLeft'; readonly id: CopyId }
  /** Somebody outside the boundary was reached: a front end, the operator, a delivery target (protocol.md 3). */
  | { readonly kind: 'OutsideReached' }
  | { readonly kind: 'TimerFired' };

export interface BoundaryStop {
  readonly boundary: string;
  readonly site: string;
  /** Who may take it there, those of the site first. */
  readonly members: readonly string[];
}

export type DeliveryResult = { readonly index: number } & (
  | {
      readonly kind: 'delivered' | 'relayed';
      readonly reply: string;
      /** Nothing was sent: it had been relayed before. */
      readonly isRepeat?: true;
      /** Whoever has it now reports of success to who asked for that (RFC 3461 5.2.1). */
      readonly isPassedOn?: true;
    }
  | {
      readonly kind: 'deferred';
      readonly reply: string /** The next hop as a whole cannot be used now. */;
      readonly host: boolean;
    }
  | { readonly kind: 'failed'; readonly reply: string }
  | { readonly kind: 'unknown'; readonly reason: string }
);

export type Route =
  | {
      readonly kind: 'mailbox';
      readonly database: string;
      readonly copy: string;
      readonly activation: number;
      readonly host: string;
      readonly port: number;
    }
  | {
      readonly kind: 'smartHost';
      readonly connector: string;
      readonly hosts: readonly { readonly host: string; readonly port: number }[];
      readonly tls: 'None' | 'Opportunistic' | 'Required';
      readonly session?: ConnectorSession | null;
      readonly sendLimits?: ConnectorLimits | null;
    }
  /** The next stop on the path to another boundary, or to another site of this one (semantics.md D3). */
  | ({
      readonly kind: 'boundary';
      /** Where it may wait instead while nobody answers there, the nearest to it first. */
      readonly before: readonly BoundaryStop[];
    } & BoundaryStop)
  /** A next hop for each domain, so that none holds up another (semantics.md D6). */
  | {
      readonly kind: 'mx';
      readonly connector: string;
      readonly domain: string;
      readonly mx: MxConfig;
      readonly tls: 'None' | 'Opportunistic' | 'Required';
      readonly session?: ConnectorSession | null;
      readonly sendLimits?: ConnectorLimits | null;
    };

export type DsnKind = 'failed' | 'delayed' | 'expired' | 'delivered' | 'relayed';
/** Of an alias that the front end expanded, or a list that has it: `recipient` is then its place in `expanded`. */
export type ExpansionReport = 'expanded' | 'listed';

export const isExpansionReport = (dsn: DsnKind | ExpansionReport): dsn is ExpansionReport =>
  dsn === 'expanded' || dsn === 'listed';

/** `commit` with the runtime's stream number in place of the body. */
export type CoreWrite =
  | Exclude<Write, { readonly kind: 'commit' }>
  | { readonly kind: 'commit'; readonly facts: CopyFacts; readonly state: CopyState; readonly stream: number };

/** Opens a stream to `member` and pumps the body of `id` into it as it grows; END waits for `EndCandidate`. */
export interface OpenCandidate {
  readonly kind: 'OpenCandidate';
  readonly id: CopyId;
  readonly attempt: number;
  readonly member: string;
  /** `rest`: of a copy that rests in a Safety Net here and shall rest there too. */
  readonly purpose: 'shadow' | 'copy' | 'rest';
  readonly envelope: Envelope;
  readonly state: SharedState;
}

/** Reads the original: the copy `parent` is marked meanwhile; `alone`: RiskLeft follows. */
export interface ComposeDsn {
  readonly kind: 'ComposeDsn';
  readonly id: CopyId;
  readonly parent: CopyId;
  readonly dsn: DsnKind | ExpansionReport;
  readonly recipient: number;
  readonly facts: CopyFacts;
  readonly state: CopyState;
  readonly alone?: true;
}

/** Effects that promise nothing: they may leave before anything is durable. */
export type EarlyEffect =
  | { readonly kind: 'AcceptStream'; readonly stream: number }
  | { readonly kind: 'RefuseStream'; readonly stream: number; readonly refuse: Refuse }
  | OpenCandidate
  | {
      readonly kind: 'EndCandidate';
      readonly id: CopyId;
      readonly attempt: number;
      readonly digest: string;
      readonly sizeBytes: number;
      readonly events: readonly TrackingEvent[];
    }
  | { readonly kind: 'DropCandidate'; readonly id: CopyId; readonly attempt: number; readonly reason: string }
  | { readonly kind: 'DiscardBody'; readonly stream: number }
  | ComposeDsn
  | { readonly kind: 'ExpireSafetyNet'; readonly beforeMs: number }
  /** Starts a walk over the Safety Nets, oldest first; the first page comes at once, the next when asked for. */
  | {
      readonly kind: 'ScanSafetyNet';
      readonly scan: number;
      readonly filter: SafetyNetFilter;
      readonly pageSize: number;
    }
  /** New state of a copy at rest, if it still is: it leaves and comes back in one commit; answered by RestingChanged. */
  | { readonly kind: 'ChangeResting'; readonly id: CopyId; readonly state: CopyState }
  | { readonly kind: 'NextSafetyNetPage'; readonly scan: number }
  | { readonly kind: 'EndScan'; readonly scan: number }
  /** Copies the body of `from` into a new body `id`; answered by BodyCopied or BodyNotCopied. */
  | { readonly kind: 'CopyBody'; readonly id: CopyId; readonly from: CopyId };

/** Effects that speak: they leave only when every commit of their copy (`copy`), or every commit so far (null), is durable. */
export type LateEffect = {
  readonly copy: CopyId | null;
} /** With a state that says final: nobody hears of that before it is durable. */ & (
  | OpenCandidate
  /** A suspect goes alone (poison.ts): answered by RiskEntered. */
  | { readonly kind: 'EnterRisk'; readonly id: CopyId }
  | { readonly kind: 'AnswerStream'; readonly stream: number; readonly result: Result }
  /** With the word that it is held here: the sender counts on that. */
  | { readonly kind: 'RefuseStream'; readonly stream: number; readonly refuse: Refuse }
  | { readonly kind: 'Send'; readonly to: string; readonly frame: ControlFrame }
  | {
      readonly kind: 'Deliver';
      readonly requestId: number;
      readonly facts: CopyFacts;
      readonly deliveryId: CopyId;
      readonly route: Route;
      readonly recipients: readonly number[];
      readonly addresses: readonly RecipientState[];
    }
  | {
      readonly kind: 'Track';
      readonly event: TrackingEventName;
      readonly facts: CopyFacts | null;
      readonly id: CopyId;
      readonly peer?: string;
      readonly detail?: string;
      readonly addresses?: readonly string[];
      /** Of what it was made, or about what. */
      readonly parent?: CopyId;
    }
  | {
      readonly kind: 'Count';
      readonly what: CoreCount;
      readonly label?: string;
      readonly scope?: Scope;
      readonly value?: number;
    }
);

/** Where the shadow is, seen from here. */
export type Scope = 'remote' | 'local';

export type CoreCount =
  | 'accepted'
  | 'refused'
  | 'shadowAttempt'
  | 'shadowCommit'
  | 'delivered'
  | 'deferred'
  | 'failed'
  | 'expired'
  | 'dsn'
  | 'discarded'
  | 'reshadowed'
  | 'reconciled'
  | 'takenOver'
  | 'identityLost'
  | 'rehomed'
  | 'resigned'
  | 'released'
  | 'resubmitted'
  | 'quarantined'
  | 'refetched'
  | 'drained'
  | 'poison'
  | 'acceptDuration';

export interface StepResult {
  readonly commit: CoreWrite[];
  /** Lazy writes: ride with the next group, cost no sync, guard nothing. */
  readonly note: CoreWrite[];
  readonly now: EarlyEffect[];
  readonly afterCommit: LateEffect[];
  /** Monotonic time of the next TimerFired, or null. */
  wakeAtMs: number | null;
}

export const emptyStep = (): StepResult => ({ commit: [], note: [], now: [], afterCommit: [], wakeAtMs: null });

/** What a front end is told about the present load (CONTACT). */
export type { Load, Reply };
