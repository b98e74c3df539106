/** Topology documents for simulated clusters, with short spans so that a seed stays small. */
import type { MemberConfig, PoliciesConfig, TopologyDocument } from '../../common/config.ts';

export interface ShapeOptions {
  /** Members per site; all in one DAG when `dag`, else each site is its own boundary. */
  readonly sites: readonly number[];
  readonly dag: boolean;
  readonly frontends: number;
  readonly policies?: Partial<PoliciesConfig['shadowRedundancy']>;
  readonly holdTimeMs?: number;
  readonly messageExpirationMs?: number;
  readonly delayNotificationMs?: number;
  /** No way out to other domains: the first document lacks the send connector. */
  readonly withoutConnector?: boolean;
  /** Mail may cross: site N is linked with N + 1, those named are hubs, and the second mailbox database is of the boundary of the last site. */
  readonly hubs?: readonly number[];
  /** With hubs: the first and the last site are linked as well, at this cost. */
  readonly shortCut?: number;
  /** With hubs: the only site from which mail goes out to other domains. */
  readonly connectorSite?: number;
}

/** What a failover may lose is within these two, clocks that differ by a second included. */
export const LOSS_WINDOW_MS = 6_000;
export const REPLAY_LAG_MS = 8_000;

export const DATABASE_HOST = 'store';

type SiteLinks = NonNullable<TopologyDocument['siteLinks']>;

/** Site N with N + 1, the last of these at `cost`, and the last site with the first where that has a cost. */
export function linksOf(sites: TopologyDocument['sites'], shortCut: number | undefined, cost = 10): SiteLinks {
  const link = (name: string, from: number, to: number, its: number): SiteLinks[number] => ({
    ...{ name, cost: its, maxMessageBytes: null },
    sites: [sites[from]?.name ?? '', sites[to]?.name ?? ''],
  });
  const last = sites.length - 2;
  const chain = sites.slice(1).map((_, at) => link(`link-${at}`, at, at + 1, at === last ? cost : 10));
  return shortCut === undefined ? chain : [...chain, link('link-short', 0, sites.length - 1, shortCut)];
}

export function simTopology(options: ShapeOptions): TopologyDocument {
  const sites = options.sites.map((_, index) => ({
    name: `site-${index}`,
    hubSite: options.hubs?.includes(index) ?? false,
  }));
  const members: MemberConfig[] = [];
  for (const [index, count] of options.sites.entries())
    for (let ordinal = 0; ordinal < count; ordinal++) {
      const name = `t-${index}-${ordinal}`;
      members.push({
        name,
        dag: options.dag ? 'dag1' : null,
        site: `site-${index}`,
        boundary: options.dag ? 'dag/dag1' : `site/site-${index}`,
        address: { host: name, port: 4000 },
        state: 'active',
      });
    }
  return {
    cluster: 'sim',
    generation: 1,
    sites,
    ...(options.hubs === undefined ? {} : { siteLinks: linksOf(sites, options.shortCut) }),
    members,
    frontends: Array.from({ length: options.frontends }, (_, index) => ({
      name: `f-${index}`,
      site: `site-${index % sites.length}`,
    })),
    policies: {
      shadowRedundancy: {
        enabled: true,
        preference: 'PreferRemote',
        maxRetriesForRemoteSiteShadow: 4,
        maxRetriesForLocalSiteShadow: 2,
        rejectMessageOnShadowFailure: true,
        heartbeatFrequencyMs: 2_000,
        resubmitTimeSpanMs: 900_000,
        messageAutoDiscardIntervalMs: 172_800_000,
        ...options.policies,
      },
      safetyNet: {
        holdTimeMs: options.holdTimeMs ?? 172_800_000,
        unresponsivePrimaryTimeoutMs: 15_000,
        quotaBytes: null,
      },
      queues: {
        messageExpirationMs: options.messageExpirationMs ?? 172_800_000,
        delayNotificationMs: options.delayNotificationMs ?? 14_400_000,
        retryIntervalsMs: [2_000, 2_000, 5_000],
        mailboxRetryIntervalMs: 3_000,
        maxConcurrentDeliveriesPerDestination: 4,
      },
      limits: { maxMessageBytes: 1_048_576, maxHeaderBytes: 131_072, maxRecipients: 100, maxReceivedHops: 50 },
    },
    acceptedDomains: [{ name: 'sim.example', type: 'Authoritative' }],
    databases: ['alpha', 'beta'].map((name, index) => ({
      name,
      boundary: members.at(options.hubs === undefined ? 0 : -index)?.boundary ?? 'dag/dag1',
      domains: [],
      addresses: Array.from({ length: 8 }, (_, user) => `${name}-${user}@sim.example`),
      caseSensitiveLocalParts: false,
      copies: ['main', 'standby'].map((copy, order) => ({
        name: copy,
        site: (options.hubs === undefined ? members[0] : members.at(-index))?.site ?? 'site-0',
        lmtp: { host: DATABASE_HOST, port: 24 + 2 * index + order },
        replayLagMs: REPLAY_LAG_MS,
      })),
      activeCopy: 'main',
      activation: 1,
      lossWindowMs: LOSS_WINDOW_MS,
      hidesClientRetries: true,
    })),
    retired: [],
    resubmitRequests: [],
    sendConnectors:
      options.withoutConnector === true
        ? []
        : [
            {
              name: 'internet',
              addressSpaces: [{ domain: '*', cost: 1 }],
              smartHosts: [{ host: 'relay', port: 25 }],
              mx: null,
              tls: 'None',
              sites: options.connectorSite === undefined ? [] : [`site-${options.connectorSite}`],
            },
          ],
  };
}
