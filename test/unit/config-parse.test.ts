/** What pods read: a round trip of everything, and every kind of mismatch with its path. */
import { describe, expect, it } from 'vitest';
import type { FrontendConfig, TopologyDocument, TransportConfig } from '../../common/config.ts';
import {
  parseFrontendConfig,
  parseJson,
  parseTopologyDocument,
  parseTransportConfig,
} from '../../common/config-parse.ts';
import type { CopyId, Identity } from '../../common/message.ts';

const TOPOLOGY: TopologyDocument = {
  cluster: 'contoso',
  generation: 7,
  sites: [
    { name: 'seattle', hubSite: false },
    { name: 'denver', hubSite: true },
  ],
  messageTracking: { maxAgeMs: 2_592_000_000, maxBytes: null },
  siteLinks: [{ name: 'sea-den', sites: ['denver', 'seattle'], cost: 50, maxMessageBytes: 26_214_400 }],
  members: [
    {
      name: 'm0',
      dag: 'dag1',
      site: 'seattle',
      boundary: 'dag/dag1',
      address: { host: '127.0.0.1', port: 7000 },
      state: 'active',
    },
    {
      name: 'm1',
      dag: null,
      site: 'denver',
      boundary: 'site/denver',
      address: { host: '::1', port: 7001 },
      state: 'draining',
    },
  ],
  frontends: [{ name: 'f0', site: 'seattle' }],
  policies: {
    shadowRedundancy: {
      enabled: true,
      preference: 'RemoteOnly',
      maxRetriesForRemoteSiteShadow: 4,
      maxRetriesForLocalSiteShadow: 0,
      rejectMessageOnShadowFailure: true,
      heartbeatFrequencyMs: 10_000,
      resubmitTimeSpanMs: 900_000,
      messageAutoDiscardIntervalMs: 1,
    },
    safetyNet: { holdTimeMs: 1000, unresponsivePrimaryTimeoutMs: 0, quotaBytes: null },
    queues: {
      messageExpirationMs: 1,
      delayNotificationMs: 1,
      retryIntervalsMs: [1, 2],
      mailboxRetryIntervalMs: 5,
      maxConcurrentDeliveriesPerDestination: 20,
    },
    limits: { maxMessageBytes: 1, maxHeaderBytes: 1, maxRecipients: 1, maxReceivedHops: 1 },
  },
  acceptedDomains: [
    { name: 'contoso.com', type: 'Authoritative' },
    { name: 'partner.example', type: 'ExternalRelay' },
  ],
  databases: [
    {
      name: 'db01',
      boundary: 'dag/dag1',
      domains: ['contoso.com'],
      addresses: ['Bob@contoso.com'],
      caseSensitiveLocalParts: true,
      copies: [{ name: 'sea', site: 'seattle', lmtp: { host: 'h', port: 24 }, replayLagMs: 0 }],
      activeCopy: 'sea',
      activation: 3,
      lossWindowMs: 0,
      hidesClientRetries: false,
    },
  ],
  sendConnectors: [
    {
      name: 'out',
      addressSpaces: [{ domain: '*', cost: 1 }],
      smartHosts: [{ host: 'relay', port: 25 }],
      mx: null,
      tls: 'Required',
      sites: [],
      session: { isUnproven: false, credentials: 'relay', sourceAddress: null },
      sendLimits: { maxMessageBytes: 65_536, maxConcurrentDeliveries: null, messagesPerMinute: 60 },
    },
  ],
  retired: [
    { member: 'm0', identity: '01JABCDEFGHJKMNPQRSTVWXYZ0' as Identity, uid: null, reason: 'lost' },
    { member: 'm1', identity: '01JABCDEFGHJKMNPQRSTVWXYZ1' as Identity, uid: 'u', reason: 'drained' },
  ],
  queueOrders: [{ id: 'q1', queue: 'mailbox:db01/sea', action: 'suspend', by: 'ann' }],
  messageOrders: [{ id: 'o1', message: '01JABCDEFGHJKMNPQRSTVWXYZ2' as CopyId, action: 'remove', by: 'ann' }],
  resubmitRequests: [
    {
      name: 'db01-failover-3',
      boundary: 'dag/dag1',
      database: 'db01',
      sender: null,
      recipient: null,
      messageId: null,
      fromMs: 1,
      toMs: null,
      lostActivation: 2,
      createdAtMs: 2,
      expiresAtMs: 3,
      dryRun: false,
      cancelled: false,
    },
    {
      name: 'again',
      boundary: null,
      database: null,
      sender: 'ann@example.org',
      recipient: null,
      messageId: null,
      fromMs: 1,
      toMs: 1,
      lostActivation: null,
      createdAtMs: 2,
      expiresAtMs: 3,
      dryRun: true,
      cancelled: true,
    },
  ],
};
const TLS = { caFile: 'ca.pem', certificateFile: 'c.pem', keyFile: 'k.pem' };
const ANY = { host: '127.0.0.1', port: 0 };
const TRANSPORT: TransportConfig = {
  name: 'm0',
  topologyFile: 't.json',
  queueDatabaseDirectory: 'queue',
  tls: TLS,
  signer: null,
  listen: ANY,
  admin: ANY,
  metrics: ANY,
  hostname: 'm0.local',
  store: { segmentBytes: 1_048_576, reserveBytes: 0 },
  ledger: null,
  credentialsDirectory: null,
  logLevel: 'info',
};
const FRONTEND: FrontendConfig = {
  name: 'f0',
  site: 'seattle',
  topologyFile: 't.json',
  tls: TLS,
  signer: null,
  smtpTls: null,
  listeners: [
    {
      name: 'smtp',
      host: '127.0.0.1',
      port: 0,
      tls: 'StartTls',
      relayFrom: ['127.0.0.0/8', '2001:db8::/32'],
      usersFile: null,
    },
  ],
  proxyFrom: ['10.0.0.0/8'],
  metrics: ANY,
  hostname: 'f0.local',
  limits: {
    maxMessageBytes: 1,
    maxHeaderBytes: 1,
    maxRecipients: 1,
    maxCommandLineBytes: 1,
    maxDataLineBytes: 1,
    maxErrors: 1,
    maxJunkCommands: 1,
    idleTimeoutMs: 1,
    dataTimeoutMs: 1,
    minDataBytesPerSecond: 0,
    maxConnections: 1,
    maxConnectionsPerClient: 1,
    maxConnectionRatePerClient: 0,
    maxAuthFailures: 1,
    maxMessageRatePerUser: 0,
    replayBufferBytes: 0,
    totalReplayBufferBytes: 0,
  },
  sharedLimits: null,
  logLevel: 'debug',
};

type Tree = { [key: string]: unknown };

/** A copy of `value` with `path` set, or removed when `replacement` is undefined. */
function changed(value: unknown, path: readonly (string | number)[], replacement: unknown): unknown {
  const copy: unknown = JSON.parse(JSON.stringify(value));
  let at = copy as Tree;
  for (const step of path.slice(0, -1)) at = at[step] as Tree;
  const last = path.at(-1) ?? '';
  if (replacement === undefined) delete at[last];
  else at[last] = replacement;
  return copy;
}

/** Fields that documents of an older version lack; they read as null or as empty lists. */
const LATER = new Set([
  ...['siteLinks', 'messageTracking'],
  ...['session', 'sendLimits', 'credentialsDirectory'],
  'mx',
  'proxyFrom',
  'sharedLimits',
  'maxConnectionRatePerClient',
  'maxAuthFailures',
  'maxMessageRatePerUser',
  ...['retired', 'resubmitRequests', 'quotaBytes', 'ledger', 'signer'],
  ...['hidesClientRetries', 'messageOrders', 'queueOrders'],
]);

/** Every field of every object, as a path. */
function fields(value: unknown, path: readonly (string | number)[] = []): readonly (readonly (string | number)[])[] {
  if (Array.isArray(value)) return value.flatMap((entry, index) => fields(entry, [...path, index]));
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, child]) => [[...path, name], ...fields(child, [...path, name])]);
}

const dotted = (path: readonly (string | number)[]): string =>
  path
    .map((step) => (typeof step === 'number' ? `[${step}]` : `.${step}`))
    .join('')
    .slice(1);

describe.each([
  ['topology document', parseTopologyDocument, TOPOLOGY],
  ['transport configuration', parseTransportConfig, TRANSPORT],
  ['front-end configuration', parseFrontendConfig, FRONTEND],
] as const)('a %s', (_, parse, value) => {
  it('survives the round trip', () => {
    expect(parseJson<unknown>(parse, JSON.stringify(value))).toEqual({ kind: 'ok', value });
  });

  it('needs every field, and names the missing one', () => {
    for (const path of fields(value)) {
      if (LATER.has(String(path.at(-1)))) continue;
      expect(parse(changed(value, path, undefined))).toEqual({
        kind: 'error',
        path: dotted(path),
        problem: 'is missing',
      });
    }
  });

  it('reads a document of an older version, which lacks the later fields', () => {
    const later = fields(value).filter((path) => LATER.has(String(path.at(-1))));
    const older = later.reduce<unknown>((at, path) => changed(at, path, undefined), value);
    const settings: Readonly<Record<string, unknown>> = {
      hidesClientRetries: true,
      maxConnectionRatePerClient: 0,
      maxAuthFailures: 10,
      maxMessageRatePerUser: 0,
    };
    const empty = (path: readonly (string | number)[]) => {
      const name = String(path.at(-1));
      if (name in settings) return settings[name];
      if (['queueOrders', 'siteLinks', 'messageTracking'].includes(name)) return undefined;
      return path.length === 1 && !['ledger', 'signer', 'sharedLimits', 'credentialsDirectory'].includes(name)
        ? []
        : null;
    };
    const read = later.reduce<unknown>((at, path) => changed(at, path, empty(path)), value);
    expect(parse(older)).toEqual({ kind: 'ok', value: read });
  });

  it('refuses another kind of value in every field, and names it', () => {
    for (const path of fields(value)) {
      const result = parse(changed(value, path, -1.5));
      expect(result, dotted(path)).toMatchObject({ kind: 'error', path: dotted(path) });
    }
  });

  it('leaves out fields of a newer version', () => {
    expect(parse({ ...value, invented: { deep: true } })).toEqual({ kind: 'ok', value });
  });

  it.each([[null], [[]], ['text'], [7], [undefined]])('refuses %j', (other) => {
    expect(parse(other)).toMatchObject({ kind: 'error', path: '' });
  });
});

describe('mismatches', () => {
  it.each([
    [['generation'], 0, 'generation', 'whole number of at least 1, found 0'],
    [['members', 0, 'address', 'port'], 70_000, 'members[0].address.port', 'from 0 to 65535'],
    [['members', 0, 'boundary'], 'dag/dag2', 'members[0].boundary', 'expected dag/dag1'],
    [['members', 1, 'boundary'], 'denver', 'members[1].boundary', 'dag/NAME or site/NAME'],
    [['members', 1, 'name'], 'm0', 'members[1].name', '"m0" is the name of entry 0 too'],
    [['members', 1, 'state'], 'asleep', 'members[1].state', 'active, cordoned, draining, gone'],
    [['members', 0, 'site'], 'boston', 'members[0].site', 'not listed in sites'],
    [['frontends', 0, 'site'], 'boston', 'frontends[0].site', 'not listed in sites'],
    [['sites'], [], 'sites', 'at least 1'],
    [['siteLinks', 0, 'sites', 1], 'boston', 'siteLinks[0].sites[1]', 'not listed in sites'],
    [['siteLinks', 0, 'sites'], ['seattle'], 'siteLinks[0].sites', 'two different sites'],
    [['siteLinks', 0, 'sites', 1], 'denver', 'siteLinks[0].sites', 'two different sites'],
    [['messageTracking', 'maxAgeMs'], 0, 'messageTracking.maxAgeMs', 'at least 1'],
    [['messageTracking', 'maxBytes'], 'much', 'messageTracking.maxBytes', 'at least 1'],
    [['siteLinks', 0, 'cost'], 0, 'siteLinks[0].cost', 'at least 1'],
    [['databases', 0, 'activeCopy'], 'pdx', 'databases[0].activeCopy', 'not the name of a copy'],
    [['databases', 0, 'domains', 0], 'Contoso.com', 'databases[0].domains[0]', 'lower case'],
    [['databases', 0, 'addresses', 0], 'bob@Contoso.com', 'databases[0].addresses[0]', 'lower-case address'],
    [['databases', 0, 'addresses', 0], 'bob', 'databases[0].addresses[0]', 'lower-case address'],
    [['databases', 0, 'caseSensitiveLocalParts'], false, 'databases[0].addresses[0]', 'lower-case address'],
    [
      ['sendConnectors', 0, 'mx'],
      { port: 25, dnsServers: [], allowNetworks: [], ownNames: [] },
      'sendConnectors[0].mx',
      'is set beside smartHosts',
    ],
    [
      ['sendConnectors', 0, 'addressSpaces', 0, 'domain'],
      '',
      'sendConnectors[0].addressSpaces[0].domain',
      'expected text',
    ],
    [['members', 1, 'address'], { host: '127.0.0.1', port: 7000 }, 'members[1].address', 'address of "m0" too'],
    [['retired', 0, 'identity'], 'IDENTITY-a', 'retired[0].identity', 'identity of a queue database'],
    [['retired', 1, 'identity'], '01JABCDEFGHJKMNPQRSTVWXYZ0', 'retired[1].identity', 'is that of "m0" too'],
    [['retired', 1, 'reason'], 'bored', 'retired[1].reason', 'lost, drained'],
    [['resubmitRequests', 1, 'name'], 'db01-failover-3', 'resubmitRequests[1].name', 'name of entry 0 too'],
    [['resubmitRequests', 0, 'database'], 'db02', 'resubmitRequests[0].database', 'not listed in databases'],
    [['resubmitRequests', 0, 'sender'], 'ann@example.org', 'resubmitRequests[0]', 'exactly one of database'],
    [['resubmitRequests', 1, 'sender'], null, 'resubmitRequests[1]', 'exactly one of database'],
    [['resubmitRequests', 1, 'toMs'], 0, 'resubmitRequests[1].toMs', 'before fromMs'],
    [['resubmitRequests', 0, 'boundary'], 'dag/dag2', 'resubmitRequests[0].boundary', 'has no member'],
    [['resubmitRequests', 0, 'lostActivation'], 3, 'resubmitRequests[0].lostActivation', 'not below activation 3'],
    [['resubmitRequests', 1, 'lostActivation'], 1, 'resubmitRequests[1].lostActivation', 'set without database'],
    [['resubmitRequests', 0, 'expiresAtMs'], 1, 'resubmitRequests[0].expiresAtMs', 'before createdAtMs'],
    [['policies', 'queues', 'retryIntervalsMs'], [], 'policies.queues.retryIntervalsMs', 'at least 1'],
    [
      ['policies', 'shadowRedundancy', 'heartbeatFrequencyMs'],
      1e300,
      'policies.shadowRedundancy.heartbeatFrequencyMs',
      'whole number',
    ],
  ] as const)('at %j: %j', (steps, replacement, path, problem) => {
    const result = parseTopologyDocument(changed(TOPOLOGY, steps, replacement));
    expect(result).toMatchObject({ kind: 'error', path, problem: expect.stringContaining(problem) });
  });

  it.each([['10.0.0.0/33'], ['10.0.0.0'], ['::/129'], ['host/8']])('network %s', (network) => {
    expect(parseFrontendConfig(changed(FRONTEND, ['listeners', 0, 'relayFrom'], [network]))).toMatchObject({
      kind: 'error',
      path: 'listeners[0].relayFrom[0]',
    });
  });

  it('text that is not JSON', () => {
    expect(parseJson(parseTransportConfig, '{"name":')).toMatchObject({
      kind: 'error',
      path: '',
      problem: expect.stringContaining('not JSON'),
    });
  });
});
