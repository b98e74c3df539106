/**
 * The operator of a simulated cluster: the topology documents are what the operator's own plan (`operator/topology.ts`) makes of resources and decisions, as
 * `mailcluster run` does it. Owns: those resources and decisions of one world. The resources go through the real parser once, so that their defaults are the
 * real ones; the spans of a simulated cluster are shorter than validation allows and are put in after it. Fails a run when the plan refuses what it is asked.
 */
import type { MemberConfig, RetiredIdentity, TopologyDocument } from '../../common/config.ts';
import type { SiteLink } from '../../common/site-paths.ts';
import type { MailboxDatabase, MailCluster, ResubmitRequest } from '../../operator/resource/generated.ts';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import { renderProblems } from '../../operator/resource/problem.ts';
import type { WantedRequest } from '../../operator/resubmit-requests.ts';
import { type Decisions, nextTopology, planMembers } from '../../operator/topology.ts';
import { besides, type Deed, type DocumentMaker, type RequestFields } from './deeds.ts';
import { linksOf, type ShapeOptions, simTopology } from './topology.ts';

interface Resources {
  readonly cluster: MailCluster;
  readonly databases: readonly MailboxDatabase[];
}

type Spec = MailCluster['spec'];

const HEAD = { apiVersion: 'mailcluster.dev/v1alpha1' };
const MEMBER_PORT = 4000;

/** Parsed once per shape and process: compiling the rules of the resources costs more than a seed. */
const parsed = new Map<string, Resources>();
let reader: ReturnType<typeof createReader> | null = null;

export class SimOperator implements DocumentMaker {
  #cluster: MailCluster;
  #databases: readonly MailboxDatabase[];
  readonly #states = new Map<string, 'cordoned' | 'draining' | 'gone'>();
  readonly #retired: RetiredIdentity[] = [];
  readonly #cancelled = new Set<string>();
  readonly #requests: WantedRequest[] = [];
  #messages: Decisions['messages'] = [];
  #queues: Decisions['queues'] = [];

  constructor(shape: ShapeOptions) {
    // What the cluster is to look like: the hand-made document says it in numbers.
    const model = simTopology(shape);
    const { cluster, databases } = resourcesOf(shape, model);
    this.#cluster = { ...cluster, spec: withSpans(cluster.spec, model) };
    this.#databases = databases;
  }

  /** Of a cluster that begins. */
  first(nowMs: number): TopologyDocument {
    return this.#plan(null, nowMs) as TopologyDocument;
  }

  next(document: TopologyDocument, deeds: readonly Deed[], nowMs: number): TopologyDocument | null {
    for (const deed of deeds) this.#decide(deed, nowMs);
    return this.#plan(document, nowMs);
  }

  #plan(previous: TopologyDocument | null, nowMs: number): TopologyDocument | null {
    const { transports } = planMembers(this.#cluster);
    const decisions: Decisions = {
      members: this.#states,
      retired: this.#retired,
      cancelled: this.#cancelled,
      messages: this.#messages,
      queues: this.#queues,
    };
    const next = nextTopology(previous, {
      cluster: this.#cluster,
      databases: this.#databases,
      configMaps: [],
      addresses: new Map(transports.map(({ name }) => [name, { host: name, port: MEMBER_PORT }])),
      resolveMaildir: (database) => {
        throw new Error(`${database} has no maildir`);
      },
      decisions,
      requests: this.#requests,
      nowMs,
    });
    if (next.kind === 'refused') throw new Error(`the plan refuses: ${next.reasons.join('; ')}`);
    return next.kind === 'unchanged' ? null : next.document;
  }

  #decide(deed: Deed, nowMs: number): void {
    switch (deed.kind) {
      case 'state':
        return this.#setState(deed.member, deed.state);
      case 'retire':
        this.#retired.push(deed.identity);
        return;
      case 'order':
        this.#messages = besides(this.#messages, deed.orders);
        return;
      case 'queues':
        this.#queues = deed.orders;
        return;
      case 'add':
        this.#cluster = { ...this.#cluster, spec: withOneMore(this.#cluster.spec, deed.beside) };
        return;
      case 'activate':
        this.#databases = this.#databases.map((one) =>
          one.metadata.name === deed.database ? { ...one, spec: { ...one.spec, activeCopy: deed.copy } } : one,
        );
        return;
      case 'request':
        this.#requests.push({ request: this.#request(deed.name, deed.fields), createdAtMs: nowMs });
        return;
      case 'cancel':
        this.#cancelled.add(deed.request);
        return;
      case 'links': {
        const siteLinks = linksOf(
          this.#cluster.spec.sites.map(({ name }) => ({ name, hubSite: false })),
          deed.shortCut,
          deed.cost,
        ).map(asResource);
        this.#cluster = { ...this.#cluster, spec: { ...this.#cluster.spec, siteLinks } };
        return;
      }
      default: {
        const sendConnectors = deed.connectors.map(({ mx: _, ...one }) => ({ ...one, delivery: 'SmartHost' as const }));
        this.#cluster = { ...this.#cluster, spec: { ...this.#cluster.spec, sendConnectors } };
      }
    }
  }

  #setState(member: string, state: MemberConfig['state']): void {
    if (state === 'active') this.#states.delete(member);
    else this.#states.set(member, state);
  }

  #request(name: string, fields: RequestFields): ResubmitRequest {
    const { metadata } = this.#cluster;
    const { database, sender, recipient, messageId, fromMs, toMs, dryRun } = fields;
    const time = (ms: number): string => new Date(ms).toISOString();
    return {
      kind: 'ResubmitRequest',
      metadata: { ...metadata, name },
      spec: {
        clusterRef: { name: metadata.name },
        selector: {
          ...(database == null ? {} : { database }),
          ...(sender == null ? {} : { sender }),
          ...(recipient == null ? {} : { recipient }),
          ...(messageId == null ? {} : { messageId }),
        },
        window: { from: time(fromMs ?? 0), ...(toMs == null ? {} : { to: time(toMs) }) },
        reason: 'Manual',
        dryRun: dryRun ?? false,
        cancel: false,
      },
    };
  }
}

function withOneMore(spec: Spec, beside: MemberConfig): Spec {
  const more = <T extends { readonly site: string; readonly replicas: number }>(groups: readonly T[]): T[] =>
    groups.map((group) => (group.site === beside.site ? { ...group, replicas: group.replicas + 1 } : group));
  if (beside.dag === null) return { ...spec, standalone: more(spec.standalone) };
  return {
    ...spec,
    dags: spec.dags.map((dag) => (dag.name === beside.dag ? { ...dag, members: more(dag.members) } : dag)),
  };
}

const ms = (span: number): string => `${span}ms`;

/** The short spans of a simulated cluster. */
function withSpans(spec: Spec, { policies }: TopologyDocument): Spec {
  const { shadowRedundancy: shadow, safetyNet, queues, limits } = policies;
  return {
    ...spec,
    transport: {
      ...spec.transport,
      limits: {
        maxMessageSize: String(limits.maxMessageBytes),
        maxHeaderSize: String(limits.maxHeaderBytes),
        maxRecipients: limits.maxRecipients,
        maxReceivedHops: limits.maxReceivedHops,
      },
    },
    shadowRedundancy: {
      ...spec.shadowRedundancy,
      preference: shadow.preference,
      rejectMessageOnShadowFailure: shadow.rejectMessageOnShadowFailure,
      maxRetriesForRemoteSiteShadow: shadow.maxRetriesForRemoteSiteShadow,
      maxRetriesForLocalSiteShadow: shadow.maxRetriesForLocalSiteShadow,
      heartbeatFrequency: ms(shadow.heartbeatFrequencyMs),
      resubmitTimeSpan: ms(shadow.resubmitTimeSpanMs),
      messageAutoDiscardInterval: ms(shadow.messageAutoDiscardIntervalMs),
    },
    safetyNet: {
      ...spec.safetyNet,
      holdTime: ms(safetyNet.holdTimeMs),
      unresponsivePrimaryTimeout: ms(safetyNet.unresponsivePrimaryTimeoutMs),
    },
    queues: {
      messageExpiration: ms(queues.messageExpirationMs),
      delayNotification: ms(queues.delayNotificationMs),
      retryIntervals: queues.retryIntervalsMs.map(ms),
      mailboxRetryInterval: ms(queues.mailboxRetryIntervalMs),
      maxConcurrentDeliveriesPerDestination: queues.maxConcurrentDeliveriesPerDestination,
    },
  };
}

function resourcesOf(shape: ShapeOptions, model: TopologyDocument): Resources {
  const { hubs = null, shortCut = 0, connectorSite = -1 } = shape;
  const links = [hubs, shortCut, connectorSite];
  const key = JSON.stringify([shape.sites, shape.dag, shape.frontends, shape.withoutConnector ?? false, links]);
  const known = parsed.get(key);
  if (known !== undefined) return known;
  reader ??= createReader();
  const documents = [clusterResource(shape, model), ...databaseResources(shape, model)];
  // JSON is YAML.
  const text = documents.map((one) => JSON.stringify({ ...HEAD, ...one })).join('\n---\n');
  const read = parseResources([{ file: 'simulated', text }], reader);
  if (!read.ok) throw new Error(renderProblems(read.problems));
  const [cluster] = read.clusters;
  if (cluster === undefined) throw new Error('no cluster');
  const made = { cluster, databases: read.databases };
  parsed.set(key, made);
  return made;
}

function clusterResource({ sites, dag, frontends }: ShapeOptions, model: TopologyDocument): object {
  const groups = sites.map((replicas, index) => ({ site: `site-${index}`, replicas }));
  return {
    kind: 'MailCluster',
    metadata: { name: model.cluster },
    spec: {
      sites: model.sites.map(({ name, hubSite }) => ({ name, hubSite })),
      siteLinks: (model.siteLinks ?? []).map(asResource),
      ...(dag ? { dags: [{ name: 'dag1', members: groups }] } : { standalone: groups }),
      frontend: { replicas: frontends },
      acceptedDomains: model.acceptedDomains,
      sendConnectors: model.sendConnectors.map(({ name, addressSpaces, smartHosts, tls, sites: from }) => ({
        ...{ name, addressSpaces, smartHosts, tls, sites: from },
      })),
    },
  };
}

const asResource = ({ name, sites, cost }: SiteLink): Spec['siteLinks'][number] => ({ name, sites: [...sites], cost });

function databaseResources({ dag }: ShapeOptions, model: TopologyDocument): object[] {
  return model.databases.map((database) => ({
    kind: 'MailboxDatabase',
    metadata: { name: database.name },
    spec: {
      clusterRef: { name: model.cluster },
      ...(dag ? { dag: 'dag1' } : { site: database.boundary.slice('site/'.length) }),
      recipients: { addresses: database.addresses },
      copies: database.copies.map(({ name, site, lmtp, replayLagMs }) => ({
        ...{ name, site, lmtp: `${lmtp.host}:${lmtp.port}`, replayLag: `${replayLagMs / 1000}s` },
      })),
      activeCopy: database.activeCopy,
      failover: { lossWindow: `${database.lossWindowMs / 1000}s` },
    },
  }));
}
