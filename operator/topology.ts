/**
 * Resources and decisions to what pods read: the topology document, and which transports and front ends there are. Owns: names,
 * spreading, boundaries, members' states, generation and activation. Promise: the same input gives the same document byte for byte
 * (lists are sorted where order means nothing), shared by the operator and `mailcluster run`; a change of an active copy and its resubmit
 * request are one generation; what was retired stays retired. Refuses: to drop a member that was not drained. PURE; time comes in;
 * resources must have been validated.
 */
import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type {
  FrontendLimits,
  ListenerConfig,
  MailboxDatabaseConfig,
  MemberConfig,
  MessageOrder,
  MessageTrackingConfig,
  PoliciesConfig,
  QueueOrder,
  RecipientsConfig,
  RetiredIdentity,
  TopologyDocument,
} from '../common/config.ts';
import { assert } from '../common/platform/assert.ts';
import { sendConnectors } from './connectors.ts';
import { arcConfig, dkimConfig } from './dkim.ts';
import { comparable, configuredAddresses } from './resource/cross-check.ts';
import type { MailboxDatabase, MailCluster } from './resource/generated.ts';
import type { ConfigMap } from './resource/parse.ts';
import { durationMs, sizeBytes } from './resource/quantity.ts';
import { nextRequests, type WantedRequest } from './resubmit-requests.ts';
import { siteLinks } from './site-links.ts';

export interface Endpoint {
  readonly host: string;
  readonly port: number;
}

export interface PlannedTransport {
  readonly name: string;
  readonly dag: string | null;
  readonly site: string;
  readonly boundary: string;
  readonly ordinal: number;
}

export type PlannedListener = MailCluster['spec']['frontend']['listeners'][number];

/** Submission (RFC 6409, RFC 8314). */
const SUBMISSION_PORTS: ReadonlySet<number> = new Set([587, 465]);

/** What the configuration of a front end says about `auth.required`: nothing when everybody may come. */
export const forUsersOnly = ({ auth, port }: PlannedListener): Pick<ListenerConfig, 'authRequired'> =>
  auth !== undefined && (auth.required ?? SUBMISSION_PORTS.has(port)) ? { authRequired: true } : {};

export interface PlannedFrontend {
  readonly name: string;
  readonly site: string;
  readonly listeners: readonly PlannedListener[];
}

export interface MembershipPlan {
  readonly transports: readonly PlannedTransport[];
  readonly frontends: readonly PlannedFrontend[];
}

/** What the orchestrator decided beyond the resources. */
export interface Decisions {
  /** Members that are not `active`, by name. */
  readonly members: ReadonlyMap<string, 'cordoned' | 'draining' | 'gone'>;
  /** Queue databases that will not come back; those of the previous document stay in any case. */
  readonly retired: readonly RetiredIdentity[];
  /** Names of resubmit requests. */
  readonly cancelled: ReadonlySet<string>;
  readonly messages: readonly MessageOrder[];
  readonly queues: readonly QueueOrder[];
}

export const NO_DECISIONS: Decisions = {
  members: new Map(),
  retired: [],
  cancelled: new Set(),
  messages: [],
  queues: [],
};

export interface TopologyInput {
  readonly cluster: MailCluster;
  /** Databases of any cluster; those of `cluster` are taken. */
  readonly databases: readonly MailboxDatabase[];
  readonly configMaps: readonly ConfigMap[];
  /** Peer address of every planned transport, by name. */
  readonly addresses: ReadonlyMap<string, Endpoint>;
  /** Where the store of a `maildir:PATH` copy listens. */
  readonly resolveMaildir: (database: string, copy: string, path: string) => Endpoint;
  readonly decisions: Decisions;
  /** ResubmitRequests of this cluster that are wanted now; earlier ones stay until they expire. */
  readonly requests: readonly WantedRequest[];
  /** Databases that stay as they are in the previous document, because what is said of them cannot be used now. */
  readonly frozen?: ReadonlySet<string>;
  /** Pods have seen this generation: where there is no previous document, the next is above it. */
  readonly leastGeneration?: number;
  readonly nowMs: number;
}

export interface Topology extends MembershipPlan {
  readonly document: TopologyDocument;
}

export type NextTopology =
  | ({ readonly kind: 'unchanged' | 'changed' } & Topology)
  | { readonly kind: 'refused'; readonly reasons: readonly string[] };

/** Front ends when neither replicas nor autoscaling is set: the fewest that survive the loss of one. */
const DEFAULT_FRONTENDS = 2;
/**
 * A StatefulSet's pods carry its name + `-` + 10 characters in a label (controller-revision-hash), labels end at 63: 52 for the
 * name; with `-ordinal` the pod's own name stays below 63 too.
 */
const MAX_GROUP_NAME = 52;

/** `<readable>-<6 hex>`: dag `a-b` + site `c` is not dag `a` + site `b-c` (architecture.md section 8). */
function groupName(readable: readonly string[], identity: readonly string[]): string {
  const hash = createHash('sha256').update(JSON.stringify(identity)).digest('hex').slice(0, 6);
  const kept = readable.join('-').slice(0, MAX_GROUP_NAME - hash.length - 1);
  return `${kept.replace(/-+$/, '')}-${hash}`;
}

export function transportGroupName(cluster: MailCluster, dag: string | null, site: string): string {
  const { name, namespace } = cluster.metadata;
  const identity = dag === null ? [namespace, name, 'site', site] : [namespace, name, 'dag', dag, site];
  return groupName(dag === null ? [name, site] : [name, dag, site], identity);
}

export function frontendGroupName(cluster: MailCluster, site: string): string {
  const { name, namespace } = cluster.metadata;
  return groupName([name, 'frontend', site], [namespace, name, 'frontend', site]);
}

const byName = <T extends { readonly name: string }>(a: T, b: T): number =>
  a.name < b.name ? -1 : a.name > b.name ? 1 : 0;

/** Names first: the caller finds addresses for them and then asks for the document. */
export function planMembers(cluster: MailCluster): MembershipPlan {
  const { dags, standalone } = cluster.spec;
  const groups = [
    ...dags.flatMap((dag) => dag.members.map((member) => ({ dag: dag.name, ...member }))),
    ...standalone.map((member) => ({ dag: null, ...member })),
  ];
  const transports = groups.flatMap(({ dag, site, replicas }) => {
    const group = transportGroupName(cluster, dag, site);
    const boundary = dag === null ? `site/${site}` : `dag/${dag}`;
    return Array.from({ length: replicas }, (_, ordinal) => ({
      name: `${group}-${ordinal}`,
      dag,
      site,
      boundary,
      ordinal,
    }));
  });
  return { transports, frontends: planFrontends(cluster) };
}

/** Of a total, spread evenly; the first get what is left over (architecture.md section 8). */
export const share = (total: number, among: number, index: number): number =>
  Math.floor(total / among) + (index < total % among ? 1 : 0);

function planFrontends(cluster: MailCluster): readonly PlannedFrontend[] {
  const { sites, frontend } = cluster.spec;
  const total = frontend.replicas ?? frontend.autoscaling?.min ?? DEFAULT_FRONTENDS;
  return sites.flatMap((site, index) => {
    const count = share(total, sites.length, index);
    const group = frontendGroupName(cluster, site.name);
    return Array.from({ length: count }, (_, n) => ({
      name: `${group}-${n}`,
      site: site.name,
      listeners: frontend.listeners,
    }));
  });
}

export function nextTopology(previous: TopologyDocument | null, input: TopologyInput): NextTopology {
  const { cluster, decisions } = input;
  const plan = planMembers(cluster);
  const reasons = previous === null ? [] : refusals(previous, input, plan);
  const [dkim, arc] = [dkimConfig(cluster), arcConfig(cluster)];
  const generation = (previous?.generation ?? input.leastGeneration ?? 0) + 1;
  const members = plan.transports.map((transport) => memberConfig(transport, input)).sort(byName);
  const found = { members, policies: policies(cluster), databases: databases(previous, generation, input) };
  const { requests, problems } = nextRequests({
    ...found,
    previous,
    boundaries: new Set(members.map((member) => member.boundary)),
    wanted: input.requests,
    cancelled: decisions.cancelled,
    nowMs: input.nowMs,
  });
  if (reasons.length + problems.length > 0) return { kind: 'refused', reasons: [...reasons, ...problems] };
  const document: TopologyDocument = {
    cluster: cluster.metadata.name,
    generation,
    sites: cluster.spec.sites.map(({ name, hubSite }) => ({ name, hubSite })).sort(byName),
    // What is not asked for is left out (K12).
    ...(cluster.spec.siteLinks.length === 0 ? {} : { siteLinks: siteLinks(cluster) }),
    ...found,
    frontends: plan.frontends.map(({ name, site }) => ({ name, site })).sort(byName),
    acceptedDomains: cluster.spec.acceptedDomains.map(({ name, type }) => ({ name, type })).sort(byName),
    ...(cluster.spec.recipients === undefined ? {} : { recipients: recipientsConfig(cluster.spec.recipients) }),
    sendConnectors: sendConnectors(cluster),
    ...(dkim === null ? {} : { dkim }),
    ...(arc === null ? {} : { arc }),
    messageTracking: messageTracking(cluster),
    retired: allRetired(previous?.retired ?? [], decisions.retired),
    messageOrders: decisions.messages,
    ...(decisions.queues.length === 0 ? {} : { queueOrders: decisions.queues }),
    resubmitRequests: requests,
  };
  if (previous !== null && isDeepStrictEqual({ ...document, generation: previous.generation }, previous)) {
    return { kind: 'unchanged', document: previous, ...plan };
  }
  return { kind: 'changed', document, ...plan };
}

/** In the order in which they were retired; the first word about an identity stays. */
function allRetired(
  previous: readonly RetiredIdentity[],
  decided: readonly RetiredIdentity[],
): readonly RetiredIdentity[] {
  const byIdentity = new Map([...decided, ...previous].map((one) => [one.identity, one]));
  const known = new Set(previous.map((one) => one.identity));
  return [...previous, ...[...byIdentity.values()].filter((one) => !known.has(one.identity))];
}

function refusals(
  previous: TopologyDocument,
  { cluster, decisions }: TopologyInput,
  plan: MembershipPlan,
): readonly string[] {
  if (previous.cluster !== cluster.metadata.name) {
    return [
      `the topology is of MailCluster ${previous.cluster}, not of ${cluster.metadata.name}; give each cluster a state directory of its own`,
    ];
  }
  const planned = new Set(plan.transports.map((transport) => transport.name));
  return previous.members
    .filter((member) => member.state !== 'gone' && !planned.has(member.name))
    .filter((member) => decisions.members.get(member.name) !== 'gone')
    .map(
      ({ name, boundary, site }) =>
        `member ${name} of ${boundary} in site ${site} would be removed, but its queue database may hold the only copy of a message; say "mailcluster member drain ${name}" first and lower the replicas when it is gone`,
    );
}

/** Why `name` may not be drained now, or null. */
export function drainRefusal(document: TopologyDocument, name: string): string | null {
  const member = document.members.find((one) => one.name === name);
  if (member === undefined || member.state === 'gone') return `there is no member ${name}`;
  const { boundary } = member;
  const others = document.members.filter(
    (one) => one.boundary === boundary && one.name !== name && one.state === 'active',
  );
  if (others.length > 0) return null;
  const rest = document.members.filter((one) => one.boundary === boundary && one.name !== name && one.state !== 'gone');
  const why = rest.map((one) => `${one.name} is ${one.state}`).join(', ');
  return `${name} is the last active member of ${boundary}${why === '' ? '' : ` (${why})`}: nobody could take over its messages; add a member to ${boundary} first${why === '' ? '' : ', or cancel the other drain'}`;
}

function memberConfig(transport: PlannedTransport, { addresses, decisions }: TopologyInput): MemberConfig {
  const { name, dag, site, boundary } = transport;
  const address = addresses.get(name);
  assert(address !== undefined, 'a planned transport has no address', { name });
  const { host, port } = address;
  return { name, dag, site, boundary, address: { host, port }, state: decisions.members.get(name) ?? 'active' };
}

/**
 * The activation rises with every change of the active copy. A new database starts at the generation of the document that
 * brings it: activation <= generation always, so a database that was removed and returns is above all its former ones.
 */
function databases(
  previous: TopologyDocument | null,
  generation: number,
  input: TopologyInput,
): readonly MailboxDatabaseConfig[] {
  const { cluster, resolveMaildir } = input;
  const frozen = input.frozen ?? new Set();
  const own = input.databases.filter(
    ({ metadata, spec }) =>
      metadata.namespace === cluster.metadata.namespace &&
      spec.clusterRef.name === cluster.metadata.name &&
      !frozen.has(metadata.name),
  );
  return own
    .map((database): MailboxDatabaseConfig => {
      const { name } = database.metadata;
      const { spec } = database;
      const { localParts } = spec.recipients;
      const former = previous?.databases.find((candidate) => candidate.name === name);
      const risen = former !== undefined && former.activeCopy !== spec.activeCopy ? 1 : 0;
      const addresses = [...(spec.recipients.addresses ?? []), ...configuredAddresses(database, input.configMaps)];
      return {
        name,
        boundary: spec.dag === undefined ? `site/${spec.site}` : `dag/${spec.dag}`,
        domains: [...(spec.recipients.domains ?? [])].sort(),
        addresses: addresses.map((address) => comparable(address, localParts)).sort(),
        caseSensitiveLocalParts: localParts === 'CaseSensitive',
        copies: spec.copies
          .map((copy) => ({
            name: copy.name,
            site: copy.site,
            lmtp: lmtpEndpoint(name, copy.name, copy.lmtp, resolveMaildir),
            replayLagMs: durationMs(copy.replayLag),
          }))
          .sort(byName),
        activeCopy: spec.activeCopy,
        activation: former === undefined ? generation : former.activation + risen,
        lossWindowMs: durationMs(spec.failover.lossWindow),
        hidesClientRetries: spec.duplicateSuppression.clientRetries === 'Hide',
      };
    })
    .concat((previous?.databases ?? []).filter(({ name }) => frozen.has(name)))
    .sort(byName);
}

const MAILDIR = 'maildir:';

/** Path of a `maildir:PATH` copy, or null when the copy names an LMTP server. */
export function maildirPath(lmtp: string): string | null {
  return lmtp.startsWith(MAILDIR) ? lmtp.slice(MAILDIR.length) : null;
}

function lmtpEndpoint(
  database: string,
  copy: string,
  lmtp: string,
  resolve: TopologyInput['resolveMaildir'],
): Endpoint {
  const path = maildirPath(lmtp);
  if (path !== null) {
    const { host, port } = resolve(database, copy, path);
    return { host, port };
  }
  const colon = lmtp.lastIndexOf(':');
  return { host: lmtp.slice(0, colon).replace(/^\[(.*)\]$/, '$1'), port: Number(lmtp.slice(colon + 1)) };
}

function recipientsConfig({
  plusAddressing,
  aliases,
  groups,
  catchAll,
  knownRecipients,
}: NonNullable<MailCluster['spec']['recipients']>): RecipientsConfig {
  const expansions = [
    ...aliases.map(({ address, target }) => ({ address, members: [target], membersFrom: null, envelopeSender: null })),
    ...groups.map(({ address, members, membersFrom = null, envelopeSender = null }) => ({
      address,
      members,
      membersFrom,
      envelopeSender,
    })),
  ];
  const by =
    <T>(key: (one: T) => string) =>
    (a: T, b: T): number =>
      key(a) < key(b) ? -1 : 1;
  return {
    plusAddressing,
    expansions: expansions.sort(by(({ address }) => address)),
    catchAll: catchAll.map(({ domain, target }) => ({ domain, target })).sort(by(({ domain }) => domain)),
    knownRecipients: knownRecipients
      .map(({ domain, addressLists }) => ({ domain, addressLists: [...addressLists].sort() }))
      .sort(by(({ domain }) => domain)),
  };
}

function policies(cluster: MailCluster): PoliciesConfig {
  const { shadowRedundancy: shadow, safetyNet, queues, transport } = cluster.spec;
  return {
    shadowRedundancy: {
      enabled: shadow.enabled,
      preference: shadow.preference,
      maxRetriesForRemoteSiteShadow: shadow.maxRetriesForRemoteSiteShadow,
      maxRetriesForLocalSiteShadow: shadow.maxRetriesForLocalSiteShadow,
      rejectMessageOnShadowFailure: shadow.rejectMessageOnShadowFailure,
      heartbeatFrequencyMs: durationMs(shadow.heartbeatFrequency),
      resubmitTimeSpanMs: durationMs(shadow.resubmitTimeSpan),
      messageAutoDiscardIntervalMs: durationMs(shadow.messageAutoDiscardInterval),
    },
    safetyNet: {
      holdTimeMs: durationMs(safetyNet.holdTime),
      unresponsivePrimaryTimeoutMs: durationMs(safetyNet.unresponsivePrimaryTimeout),
      quotaBytes: safetyNet.quota === undefined ? null : sizeBytes(safetyNet.quota),
    },
    queues: {
      messageExpirationMs: durationMs(queues.messageExpiration),
      delayNotificationMs: durationMs(queues.delayNotification),
      retryIntervalsMs: queues.retryIntervals.map(durationMs),
      mailboxRetryIntervalMs: durationMs(queues.mailboxRetryInterval),
      maxConcurrentDeliveriesPerDestination: queues.maxConcurrentDeliveriesPerDestination,
    },
    limits: {
      maxMessageBytes: sizeBytes(transport.limits.maxMessageSize),
      maxHeaderBytes: sizeBytes(transport.limits.maxHeaderSize),
      maxRecipients: transport.limits.maxRecipients,
      maxReceivedHops: transport.limits.maxReceivedHops,
    },
  };
}

function messageTracking({ spec: { messageTracking: declared } }: MailCluster): MessageTrackingConfig {
  const { maxAge, maxSize } = declared;
  return { maxAgeMs: durationMs(maxAge), maxBytes: maxSize === undefined ? null : sizeBytes(maxSize) };
}

/** `FrontendConfig.limits` of every front end of the cluster. */
export function frontendLimits(cluster: MailCluster): FrontendLimits {
  const { limits } = cluster.spec.frontend;
  return {
    maxMessageBytes: sizeBytes(limits.maxMessageSize),
    maxHeaderBytes: sizeBytes(limits.maxHeaderSize),
    maxRecipients: limits.maxRecipients,
    maxCommandLineBytes: sizeBytes(limits.maxCommandLineSize),
    maxDataLineBytes: sizeBytes(limits.maxDataLineSize),
    maxErrors: limits.maxErrors,
    maxJunkCommands: limits.maxJunkCommands,
    idleTimeoutMs: durationMs(limits.idleTimeout),
    dataTimeoutMs: durationMs(limits.dataTimeout),
    minDataBytesPerSecond: limits.minDataBytesPerSecond,
    maxConnections: limits.maxConnections,
    maxConnectionsPerClient: limits.maxConnectionsPerClient,
    maxConnectionRatePerClient: limits.maxConnectionRatePerClient,
    maxAuthFailures: limits.maxAuthFailures,
    maxMessageRatePerUser: limits.maxMessageRatePerUser,
    replayBufferBytes: sizeBytes(limits.replayBufferSize),
    totalReplayBufferBytes: sizeBytes(limits.totalReplayBufferSize),
  };
}
