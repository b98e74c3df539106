/**
 * From what is watched and asked to the one snapshot the plan is made from (kubernetes.md K1). Owns: that collection. Promise: plain data of one moment;
 * values of Secrets stay behind; what could not be had is said (`gathered.ts`).
 */
import type { Clock } from '../common/platform/clock.ts';
import type { Authorities } from './authorities.ts';
import type { ApiKinds, Gathered, Observed, OperatorSettings } from './gathered.ts';
import type { KubeApi } from './kube/api.ts';
import {
  CERTIFICATE,
  CONFIG_MAP,
  CUSTOM_RESOURCE_DEFINITION,
  MAIL_CLUSTER,
  MAILBOX_DATABASE,
  NAMESPACE,
  NODE,
  PERSISTENT_VOLUME,
  PERSISTENT_VOLUME_CLAIM,
  POD,
  POD_MONITOR,
  RESUBMIT_REQUEST,
  SECRET,
  STORAGE_CLASS,
  TRANSPORT_ORDER,
} from './kube/kinds.ts';
import { nameOf } from './kube/kube-object.ts';
import type { MemberPoll } from './member-poll.ts';
import type { ConfigMap, Reader } from './resource/parse.ts';
import { parseDocument } from './resource/parse.ts';
import { formatPath } from './resource/problem.ts';
import { ANNOTATION, concerns } from './resources/names.ts';
import type {
  ClaimObject,
  KubeObject,
  NodeObject,
  PodObject,
  StorageClassObject,
  VolumeObject,
} from './resources/objects.ts';
import { secretView } from './secret-view.ts';
import type { Watched, World } from './world.ts';

export interface GatherSide {
  readonly world: World;
  readonly api: Pick<KubeApi, 'get'>;
  readonly clock: Clock;
  readonly authorities: Authorities;
  readonly poll: Pick<MemberPoll, 'answers'>;
  readonly reader: Reader;
  readonly settings: OperatorSettings;
  statusWrittenAtMs(key: string): number | null;
}

export class Gatherer {
  readonly #side: GatherSide;
  /** By uid and version: objects are parsed once. */
  readonly #parsed = new WeakMap<Watched, Observed<never, never>>();
  readonly #configMaps = new WeakMap<Watched, ConfigMap>();

  constructor(side: GatherSide) {
    this.#side = side;
  }

  /** Null: there is no such MailCluster any more. */
  async gather(key: string): Promise<Gathered | null> {
    const { world, clock, authorities, poll, settings } = this.#side;
    const { namespace = '', name } = nameOf(key);
    const found = world.get(MAIL_CLUSTER, namespace, name);
    if (found === undefined) return null;
    const owner = { name, namespace, uid: found.metadata.uid ?? '' };
    const databases = this.#resources(MAILBOX_DATABASE, namespace, name);
    const claims = world.ofCluster(PERSISTENT_VOLUME_CLAIM, namespace, name);
    return {
      nowMs: clock.wallMs(),
      operator: settings,
      kinds: this.#kinds(),
      schemaVersion: this.#schemaVersion(),
      namespaceTerminating: this.#isTerminating(namespace),
      cluster: this.#observed(found),
      databases: databases.map((one) => this.#observed(one)),
      requests: this.#resources(RESUBMIT_REQUEST, namespace, name).map((one) => this.#observed(one)),
      orders: this.#resources(TRANSPORT_ORDER, namespace, name).map((one) => this.#observed(one)),
      secrets: world.inNamespace(SECRET, namespace).map(secretView),
      configMaps: await this.#referredConfigMaps(namespace, databases),
      authority: await authorities.view(namespace, name),
      owned: world
        .made(namespace, name, owner.uid)
        .filter((one) => concerns(owner, one as KubeObject)) as readonly KubeObject[],
      pods: world.ofCluster(POD, namespace, name) as readonly PodObject[],
      claims: claims as readonly ClaimObject[],
      volumes: volumesOf(world, claims),
      nodes: [...world.all(NODE)] as unknown as readonly NodeObject[],
      storageClasses: [...world.all(STORAGE_CLASS)] as unknown as readonly StorageClassObject[],
      members: poll.answers(key),
      statusWrittenAtMs: this.#side.statusWrittenAtMs(key),
    };
  }

  #kinds(): ApiKinds {
    const { world } = this.#side;
    return { podMonitor: world.has(POD_MONITOR), certificate: world.has(CERTIFICATE) };
  }

  #schemaVersion(): number | null {
    const { plural, group } = MAIL_CLUSTER;
    const definition = this.#side.world.get(CUSTOM_RESOURCE_DEFINITION, '', `${plural}.${group}`);
    const text = definition?.metadata.annotations?.[ANNOTATION.schemaVersion];
    return text === undefined || !/^\d+$/.test(text) ? null : Number(text);
  }

  #isTerminating(namespace: string): boolean {
    const found = this.#side.world.get(NAMESPACE, '', namespace);
    const phase = (found?.status as { phase?: string } | undefined)?.phase;
    return found?.metadata.deletionTimestamp !== undefined || phase === 'Terminating';
  }

  #resources(kind: typeof MAILBOX_DATABASE, namespace: string, cluster: string): readonly Watched[] {
    return this.#side.world
      .inNamespace(kind, namespace)
      .filter(({ spec }) => (spec as { clusterRef?: { name?: string } } | undefined)?.clusterRef?.name === cluster);
  }

  #observed<Resource, Status>(found: Watched): Observed<Resource, Status> {
    const known = this.#parsed.get(found);
    if (known !== undefined) return known as Observed<Resource, Status>;
    const parsed = parseDocument({ value: found }, this.#side.reader);
    const observed = {
      metadata: found.metadata,
      resource: parsed.kind === 'resource' ? parsed.resource : null,
      problems:
        parsed.kind === 'invalid'
          ? parsed.findings.map(({ path, problem, fix }) => `${formatPath(path)}: ${problem}; ${fix}`)
          : [],
      status: (found.status ?? null) as Status | null,
    } as unknown as Observed<Resource, Status>;
    this.#parsed.set(found, observed as unknown as Observed<never, never>);
    return observed;
  }

  /** Other people's ConfigMaps are not kept whole: those that are referred to are read when they change. */
  async #referredConfigMaps(namespace: string, databases: readonly Watched[]): Promise<readonly ConfigMap[]> {
    const names = referredConfigMaps(databases);
    const found: ConfigMap[] = [];
    for (const name of names) {
      const watched = this.#side.world.get(CONFIG_MAP, namespace, name);
      if (watched === undefined) continue;
      const whole = this.#configMaps.get(watched) ?? (await this.#readConfigMap(watched));
      if (whole === null) continue;
      this.#configMaps.set(watched, whole);
      found.push(whole);
    }
    return found;
  }

  async #readConfigMap(watched: Watched): Promise<ConfigMap | null> {
    const { name, namespace = '' } = watched.metadata;
    const read = await this.#side.api.get<Watched>(CONFIG_MAP, { name, namespace });
    if (!read.ok) return null;
    const { metadata, data } = read.value;
    const { labels = {}, annotations = {} } = metadata;
    return {
      kind: 'ConfigMap',
      metadata: { name, namespace, labels, annotations },
      data: (data as Readonly<Record<string, string>> | undefined) ?? {},
    };
  }
}

/** `recipients.addressesFrom.configMapRef` (crds/mailboxdatabase.yaml). */
export function referredConfigMaps(databases: readonly Pick<Watched, 'spec'>[]): ReadonlySet<string> {
  type Spec = {
    readonly recipients?: { readonly addressesFrom?: { readonly configMapRef?: { readonly name?: string } } };
  };
  return new Set(
    databases.flatMap(({ spec }) => (spec as Spec | undefined)?.recipients?.addressesFrom?.configMapRef?.name ?? []),
  );
}

function volumesOf(world: World, claims: readonly Watched[]): readonly VolumeObject[] {
  return claims.flatMap(({ spec }) => {
    const name = (spec as { volumeName?: string } | undefined)?.volumeName;
    const volume = name === undefined ? undefined : world.get(PERSISTENT_VOLUME, '', name);
    return volume === undefined ? [] : [volume as unknown as VolumeObject];
  });
}
