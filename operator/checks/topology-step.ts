/**
 * The next topology document: decisions about members, databases and requests in one generation (kubernetes.md K7, K8). Owns: what goes in when a
 * part of the resources cannot be used. Promise: what is broken about one database or request holds up nothing else; decisions about members
 * go out even when the rest is refused; the generation never goes back, also not when both copies are gone. PURE.
 */
import type { TopologyDocument } from '../../common/config.ts';
import { parseTopologyDocument } from '../../common/config-parse.ts';
import type { Action } from '../actions.ts';
import type { MailboxDatabase, MailCluster } from '../resource/generated.ts';
import { MAX_DOCUMENT_BYTES, memberHost, topologyConfigMap } from '../resources/documents.ts';
import { canonical, FIELD_MANAGER, LABEL, named } from '../resources/names.ts';
import type { ObjectMetadata } from '../resources/objects.ts';
import type { WantedRequest } from '../resubmit-requests.ts';
import { isOver } from '../resubmit-status.ts';
import { maildirPath, type NextTopology, nextTopology, type TopologyInput } from '../topology.ts';
import { type OrderVerdict, ordersInDocument } from '../transport-orders.ts';
import { act, event, type Finding, refuse } from './finding.ts';
import type { Losses } from './losses.ts';
import type { Membership } from './membership.ts';
import { isForeign, type Situation } from './situation.ts';

export interface TopologyStep {
  /** In force after this plan was carried out; null: none can be made yet. */
  readonly document: TopologyDocument | null;
  readonly findings: readonly Finding[];
  /** Requests that cannot be in a document, with the reason. */
  readonly unusable: ReadonlyMap<string, string>;
  /** Orders of people that are decided now, by their uid. */
  readonly verdicts: ReadonlyMap<string, OrderVerdict>;
}

export function topologyStep(
  situation: Situation,
  membership: Membership,
  losses: Losses,
  frozen: ReadonlySet<string>,
): TopologyStep {
  const { previous, owner } = situation;
  const foreign = [previous.main, previous.backup].find((one) => one !== undefined && isForeign(one, owner));
  if (foreign !== undefined) {
    const message = `ConfigMap ${foreign.metadata.name} is there and not ours; remove it or rename the MailCluster`;
    const finding = refuse('ForeignObject', message, { condition: 'Progressing', stop: true });
    return { document: null, findings: [finding], unusable: new Map(), verdicts: new Map() };
  }
  const retired = [...losses.retired, ...membership.retired];
  const { decisions: ordered, verdicts } = ordersInDocument(previous.document, situation.gathered.orders);
  const input: TopologyInput = {
    cluster: effectiveCluster(situation, membership),
    databases: situation.gathered.databases.flatMap(({ resource }) => resource ?? []),
    frozen,
    configMaps: situation.gathered.configMaps,
    addresses: addresses(situation),
    resolveMaildir: () => ({ host: 'unsupported.invalid', port: 24 }),
    decisions: {
      members: new Map([...membership.states].flatMap(([name, state]) => (state === 'active' ? [] : [[name, state]]))),
      retired: retired.filter((one, index) => retired.findIndex(({ identity }) => identity === one.identity) === index),
      cancelled: cancelledRequests(situation),
      ...ordered,
    },
    requests: wantedRequests(situation),
    leastGeneration: previous.leastGeneration,
    nowMs: situation.gathered.nowMs,
  };
  const { next, unusable } = withoutBadRequests(previous.document, input);
  const findings: Finding[] = [...unusable].map(([name, why]) =>
    refuse('InvalidRequest', `ResubmitRequest ${name}: ${why}`),
  );
  const problem = problemOf(next);
  if (problem === null && next.kind !== 'refused')
    return { ...written(situation, next.document, findings), unusable, verdicts };
  const [reason, why] = problem ?? ['TopologyRefused', next.kind === 'refused' ? next.reasons.join('; ') : ''];
  findings.push(refuse(reason, why, { condition: 'TopologyConverged' }));
  return { ...written(situation, decisionsOnly(previous.document, membership, input), findings), unusable, verdicts };
}

/** As pods read it: a document they would refuse must not be written. */
function problemOf(next: NextTopology): readonly ['TopologyRefused' | 'TopologyTooLarge', string] | null {
  if (next.kind !== 'changed') return null;
  const parsed = parseTopologyDocument(next.document);
  if (parsed.kind === 'error') return ['TopologyRefused', `${parsed.path}: ${parsed.problem}`];
  const bytes = Buffer.byteLength(canonical(next.document));
  if (bytes <= MAX_DOCUMENT_BYTES) return null;
  return [
    'TopologyTooLarge',
    `the topology document would have ${bytes} bytes, ${MAX_DOCUMENT_BYTES} are possible; name domains instead of single addresses`,
  ];
}

/** What is known about members, and what people ordered, must reach the pods, whatever is wrong with the rest. */
function decisionsOnly(
  previous: TopologyDocument | null,
  { states }: Membership,
  { decisions }: TopologyInput,
): TopologyDocument | null {
  if (previous === null) return null;
  const members = previous.members.flatMap((one) => {
    const state = states.get(one.name);
    return state === undefined ? [] : [{ ...one, state }];
  });
  const known = new Set(previous.retired.map(({ identity }) => identity));
  const retired = [...previous.retired, ...decisions.retired.filter(({ identity }) => !known.has(identity))];
  const { queueOrders: _, ...rest } = previous;
  const { messages: messageOrders, queues } = decisions;
  const next = { ...rest, members, retired, messageOrders, ...(queues.length === 0 ? {} : { queueOrders: queues }) };
  return canonical(next) === canonical(previous) ? previous : { ...next, generation: previous.generation + 1 };
}

/** One bad request must not hold up the document. */
function withoutBadRequests(previous: TopologyDocument | null, input: TopologyInput) {
  const next = nextTopology(previous, input);
  const unusable = new Map<string, string>();
  if (next.kind !== 'refused' || input.requests.length === 0) return { next, unusable };
  const without = nextTopology(previous, { ...input, requests: [] });
  if (without.kind === 'refused') return { next: without, unusable };
  for (const one of input.requests) {
    const alone = nextTopology(previous, { ...input, requests: [one] });
    if (alone.kind === 'refused') unusable.set(one.request.metadata.name, alone.reasons.join('; '));
  }
  const good = input.requests.filter(({ request }) => !unusable.has(request.metadata.name));
  return { next: nextTopology(previous, { ...input, requests: good }), unusable };
}

function written(
  situation: Situation,
  document: TopologyDocument | null,
  before: readonly Finding[],
): Pick<TopologyStep, 'document' | 'findings'> {
  const { previous, owner } = situation;
  const isNew = document !== null && document.generation !== previous.document?.generation;
  if (document === null || (!isNew && previous.damaged.length === 0)) return { document, findings: before };
  const { topology, topologyBackup } = named;
  // One that has it already is not written again: the operator may have died between the two.
  const written = (which: 'main' | 'backup', name: string) =>
    isNew || previous.damaged.includes(which)
      ? topologyConfigMap(owner, name, document, previous[which]?.metadata.resourceVersion)
      : null;
  const write: Action = {
    kind: 'writeTopology',
    document,
    backup: written('backup', topologyBackup(owner.name)),
    main: written('main', topology(owner.name)),
  };
  return { document, findings: [...before, writing(situation, document, write)] };
}

function writing(situation: Situation, document: TopologyDocument, write: Action): Finding {
  const { previous } = situation;
  const { generation } = document;
  // Without a reason one is only older: the operator died before it wrote the second.
  if (previous.document !== null && previous.why !== '') {
    const message = `the topology ConfigMap (${previous.damaged.join(', ')}) ${previous.why}: put back at generation ${generation}`;
    return act('TopologyRestored', message, {
      actions: [write],
      events: [event('Warning', 'TopologyRestored', message)],
    });
  }
  if (previous.document === null && previous.leastGeneration > 0) {
    const message = `both copies of the topology document are gone (generation ${previous.leastGeneration} was seen): it is made anew from the resources; what was decided about members and failovers since then is not in it`;
    return act('TopologyLost', message, { actions: [write], events: [event('Warning', 'TopologyLost', message)] });
  }
  return act('TopologyWritten', `topology generation ${generation}`, { actions: [write] });
}

const isMaildir = ({ spec }: MailboxDatabase): boolean => spec.copies.some(({ lmtp }) => maildirPath(lmtp) !== null);

/** Databases of which something cannot be used now, and why. They stay as they were; mail for them is not refused meanwhile. */
export function unsupportedDatabases(databases: readonly MailboxDatabase[]): readonly string[] {
  return databases.filter(isMaildir).map(({ metadata }) => metadata.name);
}

/** The spec, as if nobody who is still in the document had been taken out of it. */
export function effectiveCluster(situation: Situation, { states }: Membership): MailCluster {
  const { cluster, groups, previous } = situation;
  const { spec } = cluster;
  const sizes = groups.map((group) => {
    const names = situation.members.filter((one) => one.group === group && states.has(one.name));
    return { ...group, replicas: names.length };
  });
  const inDag = (dag: string) => sizes.filter((one) => one.dag === dag);
  const dagNames = [...new Set([...spec.dags.map(({ name }) => name), ...sizes.flatMap(({ dag }) => dag ?? [])])];
  const missing = sizes.filter(({ site, replicas }) => replicas > 0 && !spec.sites.some(({ name }) => name === site));
  const hubs = new Map((previous.document?.sites ?? []).map(({ name, hubSite }) => [name, hubSite]));
  const kept = [...new Set(missing.map(({ site }) => site))].map((name) => ({
    name,
    hubSite: hubs.get(name) ?? false,
  }));
  return {
    ...cluster,
    spec: {
      ...spec,
      sites: [...spec.sites, ...kept],
      dags: dagNames.map((name) => ({ name, members: inDag(name).map(({ site, replicas }) => ({ site, replicas })) })),
      standalone: sizes.filter(({ dag }) => dag === null).map(({ site, replicas }) => ({ site, replicas })),
    },
  };
}

function addresses({ members, owner, gathered }: Situation) {
  return new Map(members.map(({ name, group }) => [name, memberHost(name, group.name, owner, gathered.operator)]));
}

export const isOurs = ({ labels }: ObjectMetadata): boolean => labels?.[LABEL.managedBy] === FIELD_MANAGER;

/** Of people; those of failovers stand in the document because the active copy changed, not because the object is there. */
function wantedRequests({ gathered, previous }: Situation): readonly WantedRequest[] {
  const standing = new Set((previous.document?.resubmitRequests ?? []).map(({ name }) => name));
  return gathered.requests.flatMap(({ resource, metadata, status }): WantedRequest[] => {
    if (resource === null || isOurs(metadata)) return [];
    if (!standing.has(resource.metadata.name) && isOver(status)) return [];
    return [{ request: resource, createdAtMs: Date.parse(metadata.creationTimestamp ?? '') || gathered.nowMs }];
  });
}

const cancelledRequests = ({ gathered }: Situation): ReadonlySet<string> =>
  new Set(
    gathered.requests.flatMap(({ resource }) => (resource?.spec.cancel === true ? [resource.metadata.name] : [])),
  );
