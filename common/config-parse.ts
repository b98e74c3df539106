/**
 * Parsers of the documents in `config.ts`, which the operator writes and pods read. Owns: their grammar and what must hold inside
 * one document. Promise: a typed value holding known fields only, or the first mismatch with its path. Unknown fields are left
 * out, not refused: pods of version N-1 read documents of version N (kubernetes.md K12). Refuses: anything else. PURE.
 */
import { CHECKS } from './authentication-results.ts';
import type {
  AddressListFile,
  AuthenticationResultsConfig,
  ContentFilterConfig,
  FrontendConfig,
  FrontendLimits,
  LedgerConfig,
  ListenerConfig,
  MailboxDatabaseConfig,
  MemberConfig,
  MessageOrder,
  MessageTrackingConfig,
  PoliciesConfig,
  QueueOrder,
  ResubmitRequestConfig,
  RetiredIdentity,
  SignerConfig,
  TlsFiles,
  TopologyDocument,
  TransportConfig,
} from './config.ts';
import { arc, dkim, sendConnector } from './config-connectors.ts';
import {
  boundary,
  count,
  endpoint,
  flag,
  list,
  lowerCase,
  Mismatch,
  milliseconds,
  named,
  network,
  nullable,
  object,
  oneOf,
  optional,
  type Parse,
  port,
  positive,
  show,
  text,
  withDefaults,
} from './config-grammar.ts';
import type { CopyId, Identity } from './message.ts';
import { recipients } from './recipients-parse.ts';
import type { SiteLink } from './site-paths.ts';

export type Parsed<T> =
  | { readonly kind: 'ok'; readonly value: T }
  /** `path` like `members[2].address.port`; empty for the document as a whole. */
  | { readonly kind: 'error'; readonly path: string; readonly problem: string };

const memberFields = object<MemberConfig>({
  name: text,
  dag: nullable(text),
  site: text,
  boundary,
  address: endpoint,
  state: oneOf('active', 'cordoned', 'draining', 'gone'),
});

const member: Parse<MemberConfig> = (value, path) => {
  const found = memberFields(value, path);
  const expected = found.dag === null ? `site/${found.site}` : `dag/${found.dag}`;
  if (found.boundary !== expected)
    throw new Mismatch(`${path}.boundary`, `expected ${expected}, found ${show(found.boundary)}`);
  return found;
};

const databaseKeys = object<MailboxDatabaseConfig>({
  name: text,
  boundary,
  domains: list(lowerCase),
  addresses: list(text),
  caseSensitiveLocalParts: flag,
  copies: named(
    object<MailboxDatabaseConfig['copies'][number]>({
      name: text,
      site: text,
      lmtp: endpoint,
      replayLagMs: milliseconds,
    }),
    1,
  ),
  activeCopy: text,
  activation: positive,
  lossWindowMs: milliseconds,
  hidesClientRetries: flag,
});

/** Documents of programs before this was a setting. */
const databaseFields = withDefaults(databaseKeys, { hidesClientRetries: true });

const database: Parse<MailboxDatabaseConfig> = (value, path) => {
  const found = databaseFields(value, path);
  if (!found.copies.some((copy) => copy.name === found.activeCopy)) {
    throw new Mismatch(`${path}.activeCopy`, `${show(found.activeCopy)} is not the name of a copy`);
  }
  for (const [index, address] of found.addresses.entries()) {
    const comparable = found.caseSensitiveLocalParts ? address.slice(address.lastIndexOf('@')) : address;
    if (!address.includes('@') || comparable !== comparable.toLowerCase()) {
      throw new Mismatch(`${path}.addresses[${index}]`, `expected a lower-case address, found ${show(address)}`);
    }
  }
  return found;
};

const policies = object<PoliciesConfig>({
  shadowRedundancy: object<PoliciesConfig['shadowRedundancy']>({
    enabled: flag,
    preference: oneOf('PreferRemote', 'RemoteOnly', 'LocalOnly'),
    maxRetriesForRemoteSiteShadow: count,
    maxRetriesForLocalSiteShadow: count,
    rejectMessageOnShadowFailure: flag,
    heartbeatFrequencyMs: positive,
    resubmitTimeSpanMs: positive,
    messageAutoDiscardIntervalMs: positive,
  }),
  safetyNet: withDefaults(
    object<PoliciesConfig['safetyNet']>({
      holdTimeMs: milliseconds,
      unresponsivePrimaryTimeoutMs: milliseconds,
      quotaBytes: nullable(positive),
    }),
    { quotaBytes: null },
  ),
  queues: object<PoliciesConfig['queues']>({
    messageExpirationMs: positive,
    delayNotificationMs: positive,
    retryIntervalsMs: list(positive, 1),
    mailboxRetryIntervalMs: positive,
    maxConcurrentDeliveriesPerDestination: positive,
  }),
  limits: object<PoliciesConfig['limits']>({
    maxMessageBytes: positive,
    maxHeaderBytes: positive,
    maxRecipients: positive,
    maxReceivedHops: positive,
  }),
});

const identity: Parse<Identity> = (value, path) => {
  const found = text(value, path);
  if (!/^[0-9A-HJKMNP-TV-Z]{26}$/.test(found))
    throw new Mismatch(path, `expected the identity of a queue database (26 characters), found ${show(value)}`);
  return found as Identity;
};

const retired = object<RetiredIdentity>({
  member: text,
  identity,
  uid: nullable(text),
  reason: oneOf('lost', 'drained'),
});

/** Like an identity: 26 characters of Crockford's base 32. */
const messageOrderFields = object<MessageOrder>({
  id: text,
  message: identity as unknown as Parse<CopyId>,
  action: oneOf('suspend', 'resume', 'remove', 'removeWithNdr', 'redirect'),
  from: optional(text),
  to: optional(text),
  by: text,
});

const messageOrder: Parse<MessageOrder> = (value, path) => {
  const order = withDefaults(messageOrderFields, { from: undefined, to: undefined })(value, path);
  for (const field of ['from', 'to'] as const)
    if ((order[field] === undefined) === (order.action === 'redirect'))
      throw new Mismatch(
        `${path}.${field}`,
        order.action === 'redirect' ? 'is missing' : `has no meaning in ${order.action}`,
      );
  return order;
};

const queueOrder = object<QueueOrder>({
  id: text,
  queue: text,
  action: oneOf('suspend', 'resume', 'retry'),
  by: text,
});

const requestFields = object<ResubmitRequestConfig>({
  name: text,
  boundary: nullable(boundary),
  database: nullable(text),
  sender: nullable(text),
  recipient: nullable(text),
  messageId: nullable(text),
  fromMs: milliseconds,
  toMs: nullable(milliseconds),
  lostActivation: nullable(positive),
  createdAtMs: milliseconds,
  expiresAtMs: milliseconds,
  dryRun: flag,
  cancelled: flag,
});

const resubmitRequest: Parse<ResubmitRequestConfig> = (value, path) => {
  const found = requestFields(value, path);
  const { database, sender, recipient, messageId, fromMs, toMs } = found;
  const selectors = [database, sender, recipient, messageId].filter((selector) => selector !== null).length;
  if (selectors !== 1)
    throw new Mismatch(path, `exactly one of database, sender, recipient and messageId is set, found ${selectors}`);
  if (toMs !== null && toMs < fromMs) throw new Mismatch(`${path}.toMs`, `${toMs} is before fromMs ${fromMs}`);
  if (found.lostActivation !== null && database === null)
    throw new Mismatch(`${path}.lostActivation`, 'is set without database');
  return found;
};

const siteLinkFields = object<SiteLink>({
  name: text,
  sites: list(text),
  cost: positive,
  maxMessageBytes: nullable(positive),
});

const siteLink: Parse<SiteLink> = (value, path) => {
  const found = siteLinkFields(value, path);
  const [one, other] = found.sites;
  if (found.sites.length !== 2 || one === other)
    throw new Mismatch(`${path}.sites`, `expected two different sites, found ${show(found.sites)}`);
  return found;
};

const topologyFields = object<TopologyDocument>({
  cluster: text,
  generation: positive,
  sites: named(object<TopologyDocument['sites'][number]>({ name: text, hubSite: flag }), 1),
  siteLinks: optional(named(siteLink)),
  members: named(member),
  frontends: named(object<TopologyDocument['frontends'][number]>({ name: text, site: text })),
  policies,
  acceptedDomains: named(
    object<TopologyDocument['acceptedDomains'][number]>({
      name: lowerCase,
      type: oneOf('Authoritative', 'ExternalRelay', 'InternalRelay'),
    }),
  ),
  databases: named(database),
  sendConnectors: named(sendConnector),
  retired: list(retired),
  resubmitRequests: named(resubmitRequest),
  messageOrders: list(messageOrder),
  queueOrders: optional(list(queueOrder)),
  recipients: optional(recipients),
  dkim: optional(dkim),
  arc: optional(arc),
  messageTracking: optional(object<MessageTrackingConfig>({ maxAgeMs: positive, maxBytes: nullable(positive) })),
});

/** A site that is not listed would be a boundary of nobody: refused where it is named. */
const topology: Parse<TopologyDocument> = (value, path) => {
  const found = withDefaults(topologyFields, {
    ...{ retired: [], resubmitRequests: [], messageOrders: [] },
    ...{ queueOrders: undefined, recipients: undefined, dkim: undefined, arc: undefined },
    ...{ siteLinks: undefined, messageTracking: undefined },
  })(value, path);
  contradictions(found);
  const sites = new Set(found.sites.map((site) => site.name));
  for (const field of ['members', 'frontends'] as const) {
    for (const [index, entry] of found[field].entries()) {
      if (!sites.has(entry.site))
        throw new Mismatch(`${field}[${index}].site`, `${show(entry.site)} is not listed in sites`);
    }
  }
  for (const [index, link] of (found.siteLinks ?? []).entries())
    for (const [at, site] of link.sites.entries())
      if (!sites.has(site))
        throw new Mismatch(`siteLinks[${index}].sites[${at}]`, `${show(site)} is not listed in sites`);
  return found;
};

/** What no parser of one field can see: a document that says two things at once is used by nobody. */
function contradictions({ members, retired: lost, resubmitRequests, databases }: TopologyDocument): void {
  const boundaries = new Set(members.map((entry) => entry.boundary));
  for (const [index, entry] of members.entries()) {
    if (entry.state === 'gone') continue;
    const other = members.findIndex(
      (one) =>
        one.state !== 'gone' && one.address.host === entry.address.host && one.address.port === entry.address.port,
    );
    if (other !== index && entry.address.port !== 0)
      throw new Mismatch(`members[${index}].address`, `is the address of ${show(members[other]?.name)} too`);
  }
  for (const [index, entry] of lost.entries()) {
    const other = lost.findIndex((one) => one.identity === entry.identity);
    if (other !== index)
      throw new Mismatch(
        `retired[${index}].identity`,
        `${show(entry.identity)} is that of ${show(lost[other]?.member)} too, see entry ${other}`,
      );
  }
  for (const [index, request] of resubmitRequests.entries()) {
    const { database, boundary: where } = request;
    if (database !== null && !databases.some((entry) => entry.name === database))
      throw new Mismatch(`resubmitRequests[${index}].database`, `${show(database)} is not listed in databases`);
    if (where !== null && !boundaries.has(where))
      throw new Mismatch(`resubmitRequests[${index}].boundary`, `${show(where)} has no member`);
    const { activation } = databases.find((entry) => entry.name === database) ?? {
      activation: Number.POSITIVE_INFINITY,
    };
    if (request.lostActivation !== null && request.lostActivation >= activation)
      throw new Mismatch(
        `resubmitRequests[${index}].lostActivation`,
        `${request.lostActivation} is not below activation ${activation} of ${show(database)}`,
      );
    if (request.expiresAtMs < request.createdAtMs)
      throw new Mismatch(`resubmitRequests[${index}].expiresAtMs`, 'is before createdAtMs');
  }
}

const tlsFiles = object<TlsFiles>({ caFile: text, certificateFile: text, keyFile: text });
const logLevel = oneOf('debug', 'info', 'warn', 'error');

const ledger = object<LedgerConfig>({
  host: text,
  port,
  tls: flag,
  username: nullable(text),
  passwordFile: nullable(text),
});

const signer = object<SignerConfig>({ url: text, serverName: text, tokenFile: text });

const transportFields = object<TransportConfig>({
  name: text,
  topologyFile: text,
  queueDatabaseDirectory: text,
  tls: tlsFiles,
  signer: nullable(signer),
  listen: endpoint,
  admin: endpoint,
  metrics: endpoint,
  hostname: text,
  store: object<TransportConfig['store']>({ segmentBytes: positive, reserveBytes: count }),
  ledger: nullable(ledger),
  credentialsDirectory: nullable(text),
  logLevel,
});
const transport = withDefaults(transportFields, { ledger: null, signer: null, credentialsDirectory: null });

const listenerFields = object<ListenerConfig>({
  name: text,
  host: text,
  port,
  tls: oneOf('None', 'StartTls', 'StartTlsRequired', 'Implicit'),
  relayFrom: list(network),
  usersFile: nullable(text),
  authRequired: optional(flag),
  authenticationResults: optional(
    object<AuthenticationResultsConfig>({
      authservId: lowerCase,
      checks: list(oneOf(...CHECKS), 1),
      timeoutMs: positive,
      dnsServers: list(text),
    }),
  ),
  contentFilter: optional(
    object<ContentFilterConfig>({
      host: text,
      port,
      timeoutMs: positive,
      failurePolicy: oneOf('Defer', 'Accept'),
    }),
  ),
});
const listener = withDefaults(listenerFields, {
  ...{ authRequired: undefined, authenticationResults: undefined, contentFilter: undefined },
});

const limitFields = object<FrontendLimits>({
  maxMessageBytes: positive,
  maxHeaderBytes: positive,
  maxRecipients: positive,
  maxCommandLineBytes: positive,
  maxDataLineBytes: positive,
  maxErrors: positive,
  maxJunkCommands: positive,
  idleTimeoutMs: positive,
  dataTimeoutMs: positive,
  minDataBytesPerSecond: count,
  maxConnections: positive,
  maxConnectionsPerClient: positive,
  maxConnectionRatePerClient: count,
  maxAuthFailures: positive,
  maxMessageRatePerUser: count,
  replayBufferBytes: count,
  totalReplayBufferBytes: count,
});

/** Documents of programs before these were settings. */
const limits = withDefaults(limitFields, {
  maxConnectionRatePerClient: 0,
  maxAuthFailures: 10,
  maxMessageRatePerUser: 0,
});

const frontendFields = object<FrontendConfig>({
  name: text,
  site: text,
  topologyFile: text,
  tls: tlsFiles,
  signer: nullable(signer),
  smtpTls: nullable(object<NonNullable<FrontendConfig['smtpTls']>>({ certificateFile: text, keyFile: text })),
  listeners: named(listener, 1),
  proxyFrom: list(network),
  metrics: endpoint,
  hostname: text,
  addressLists: optional(named(object<AddressListFile>({ name: text, file: text }))),
  limits,
  sharedLimits: nullable(ledger),
  logLevel,
});
const frontend = withDefaults(frontendFields, {
  signer: null,
  proxyFrom: [],
  sharedLimits: null,
  addressLists: undefined,
});

function run<T>(parse: Parse<T>, value: unknown): Parsed<T> {
  try {
    return { kind: 'ok', value: parse(value, '') };
  } catch (error) {
    if (error instanceof Mismatch) return { kind: 'error', path: error.path, problem: error.message };
    throw error;
  }
}

export const parseTopologyDocument = (value: unknown): Parsed<TopologyDocument> => run(topology, value);
export const parseTransportConfig = (value: unknown): Parsed<TransportConfig> => run(transport, value);
export const parseFrontendConfig = (value: unknown): Parsed<FrontendConfig> => run(frontend, value);

/** For a file's text: what is not JSON is a mismatch of the whole document. */
export function parseJson<T>(parse: (value: unknown) => Parsed<T>, json: string): Parsed<T> {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    return { kind: 'error', path: '', problem: `not JSON: ${error instanceof Error ? error.message : String(error)}` };
  }
  return parse(value);
}
