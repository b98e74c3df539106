/**
 * Which resubmit requests stand in the topology document (protocol.md 19-22). Owns: the request of a mailbox failover, made in the
 * generation that changes the active copy; requests of people; how long each stays. Promise: a request that is in a document stays until it
 * expires or what it names is gone, whatever happens to the file it came from; `cancelled` never goes back. Refuses, with a text: a request
 * that changes under its name. PURE: time comes in.
 */
import { createHash } from 'node:crypto';
import type {
  MailboxDatabaseConfig,
  PoliciesConfig,
  ResubmitRequestConfig,
  TopologyDocument,
} from '../common/config.ts';
import type { ResubmitRequest } from './resource/generated.ts';

/** A ResubmitRequest resource with the time at which it first appeared. */
export interface WantedRequest {
  readonly request: ResubmitRequest;
  readonly createdAtMs: number;
}

export interface RequestsInput {
  readonly previous: TopologyDocument | null;
  readonly databases: readonly MailboxDatabaseConfig[];
  /** Boundaries with a member. */
  readonly boundaries: ReadonlySet<string>;
  readonly policies: PoliciesConfig;
  readonly wanted: readonly WantedRequest[];
  /** Names; counts for requests of failovers too. */
  readonly cancelled: ReadonlySet<string>;
  readonly nowMs: number;
}

export interface NextRequests {
  readonly requests: readonly ResubmitRequestConfig[];
  readonly problems: readonly string[];
}

/** Metadata names of resources (crds/resubmitrequest.yaml). */
const MAX_NAME = 63;
/** However short the hold time: time for members that are away to come back and for shadows to step in. */
const LEAST_LIFETIME_MS = 3_600_000;

export function failoverRequestName(database: string, activation: number): string {
  const suffix = `-failover-${activation}`;
  if (database.length + suffix.length <= MAX_NAME) return database + suffix;
  const hash = createHash('sha256').update(database).digest('hex').slice(0, 6);
  return `${database.slice(0, MAX_NAME - suffix.length - hash.length - 1)}-${hash}${suffix}`;
}

/** protocol.md 21: holdTime >= replayLag + lossWindow + lifetime, as far as the least lifetime leaves room for it. */
function lifetimeMs(policies: PoliciesConfig, backMs: number): number {
  const { holdTimeMs, unresponsivePrimaryTimeoutMs } = policies.safetyNet;
  const least = Math.max(
    LEAST_LIFETIME_MS,
    unresponsivePrimaryTimeoutMs + policies.shadowRedundancy.resubmitTimeSpanMs,
  );
  return Math.max(holdTimeMs - backMs, least);
}

/** protocol.md 20: everything since failover - lossWindow - replayLag that went to another activation; no upper bound. */
function failoverRequest(
  former: MailboxDatabaseConfig,
  database: MailboxDatabaseConfig,
  { policies, nowMs, boundaries }: RequestsInput,
): ResubmitRequestConfig {
  const active = database.copies.find((copy) => copy.name === database.activeCopy);
  const backMs = database.lossWindowMs + (active?.replayLagMs ?? 0);
  return {
    name: failoverRequestName(database.name, database.activation),
    boundary: former.boundary === database.boundary ? whereItRests(database, boundaries) : null,
    database: database.name,
    sender: null,
    recipient: null,
    messageId: null,
    fromMs: Math.max(0, nowMs - backMs),
    toMs: null,
    lostActivation: former.activation,
    createdAtMs: nowMs,
    expiresAtMs: nowMs + lifetimeMs(policies, backMs),
    dryRun: false,
    cancelled: false,
  };
}

/**
 * The boundary to ask; null: all. Until there is a relay between boundaries (semantics.md D3) a transport of any boundary delivers to any database itself, and
 * what it delivered rests with it: with several boundaries all are asked, each for what is its own (N3; seed 2364 with SMTP clients).
 */
const whereItRests = (database: MailboxDatabaseConfig, boundaries: ReadonlySet<string>): string | null =>
  boundaries.size === 1 ? database.boundary : null;

function manualRequest(wanted: WantedRequest, input: RequestsInput): ResubmitRequestConfig {
  const { metadata, spec } = wanted.request;
  const { database, sender, recipient, messageId } = spec.selector;
  const meant = input.databases.find((one) => one.name === database);
  return {
    name: metadata.name,
    boundary: meant === undefined ? null : whereItRests(meant, input.boundaries),
    database: database ?? null,
    sender: sender ?? null,
    recipient: recipient ?? null,
    messageId: messageId ?? null,
    fromMs: Math.max(0, Date.parse(spec.window.from)),
    toMs: spec.window.to === undefined ? null : Date.parse(spec.window.to),
    lostActivation: spec.lostActivation ?? null,
    createdAtMs: wanted.createdAtMs,
    expiresAtMs: wanted.createdAtMs + lifetimeMs(input.policies, 0),
    dryRun: spec.dryRun,
    cancelled: spec.cancel,
  };
}

const SPEC = ['database', 'sender', 'recipient', 'messageId', 'fromMs', 'toMs', 'lostActivation', 'dryRun'] as const;

export function nextRequests(input: RequestsInput): NextRequests {
  const { previous, databases, boundaries, nowMs } = input;
  const requests = new Map((previous?.resubmitRequests ?? []).map((one) => [one.name, one]));
  const problems: string[] = [];
  for (const wanted of input.wanted) {
    const made = manualRequest(wanted, input);
    const former = requests.get(made.name);
    const changed = former === undefined ? undefined : SPEC.find((field) => former[field] !== made[field]);
    if (former === undefined) requests.set(made.name, made);
    else if (changed !== undefined)
      problems.push(
        `ResubmitRequest ${made.name} is there already with another ${changed}, and a request cannot change; cancel it and make another under a new name`,
      );
    else requests.set(made.name, { ...former, cancelled: former.cancelled || made.cancelled });
    const of = databases.find((one) => one.name === made.database);
    if (of !== undefined && made.lostActivation !== null && made.lostActivation >= of.activation)
      problems.push(
        `ResubmitRequest ${made.name}: lostActivation ${made.lostActivation} is not lost, ${of.name} is at activation ${of.activation}`,
      );
  }
  for (const database of databases) {
    const former = previous?.databases.find((one) => one.name === database.name);
    if (former === undefined || former.activation === database.activation) continue;
    const request = failoverRequest(former, database, input);
    requests.set(request.name, request);
  }
  const kept = [...requests.values()].filter(
    (one) =>
      one.expiresAtMs > nowMs &&
      // A document whose request names what is not there would be refused by everybody.
      (one.database === null || databases.some((database) => database.name === one.database)) &&
      (one.boundary === null || boundaries.has(one.boundary)),
  );
  const marked = kept.map((one) => (input.cancelled.has(one.name) ? { ...one, cancelled: true } : one));
  return { requests: marked.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)), problems };
}
