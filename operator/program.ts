/**
 * The operator as a whole: client, watches, leader election, queue, signing endpoint, metrics. Owns: the order in which they start and stop. Every
 * replica watches and signs, and notes on a pod what it said it trusts; only the leader plans and writes anything else, through the fence. Promise: `stop` ends the lease cleanly, so that the next
 * replica takes over at once. Fails at start when a port or the kubeconfig cannot be had; an API server that is away is waited for.
 */
import { exportBuildInfo } from '../common/platform/build-info.ts';
import type { Clock } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import { startMetricsServer } from '../common/platform/metrics-server.ts';
import type { ExportedMetrics } from '../common/platform/prom-metrics.ts';
import type { Random } from '../common/platform/random.ts';
import { AccessRequests } from './access-requests.ts';
import { Authorities } from './authorities.ts';
import { CarryOut } from './carry-out.ts';
import { Gatherer } from './gather.ts';
import type { KubeApi } from './kube/api.ts';
import { Events } from './kube/events.ts';
import { fencedApi } from './kube/fence.ts';
import { MAIL_CLUSTER, POD } from './kube/kinds.ts';
import { keyOf, nameOf } from './kube/kube-object.ts';
import { Leader } from './kube/leader.ts';
import { WorkQueue } from './kube/work-queue.ts';
import { MemberPoll } from './member-poll.ts';
import type { OperatorConfig } from './operator-config.ts';
import { noteTrust, podOf, reviewToken } from './pod-identity.ts';
import { pollTarget } from './poll-target.ts';
import { Reconciler } from './reconcile.ts';
import { createReader } from './resource/load.ts';
import { startSigner } from './signer.ts';
import { Unseen } from './unseen.ts';
import { World } from './world.ts';

export interface OperatorPorts {
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: ExportedMetrics;
}

export interface RunningOperator {
  readonly facts: { readonly signerPort: number; readonly metricsPort: number };
  stop(): Promise<void>;
}

/** A look under way may end; the fence stops its writes in any case. */
const QUEUE_GRACE_MS = 5_000;

/** Fifty pods that start change a cluster a hundred times a second. */
const REST_MS = 200;
/** Numbers of a member reach the status within this time. */
const COUNTS_MS = 20_000;

/** Everything that is the leader's: what it plans from, and what it plans with. */
interface Control {
  readonly world: World;
  readonly queue: WorkQueue;
  readonly leader: Leader;
  readonly poll: MemberPoll;
  readonly authorities: Authorities;
  readonly events: Events;
  readonly access: AccessRequests;
}

function control(config: OperatorConfig, ports: OperatorPorts): Control {
  const { api, clock, random, log, metrics } = ports;
  const side = { clock, random, log, metrics };
  let leads = false;
  const due = (key: string): void => {
    if (leads) queue.add(key);
  };
  const world = new World({ api, ...side, namespace: config.watchNamespace }, due);
  const authorities = new Authorities({ world, clock, random });
  const poll = new MemberPoll({
    clock,
    target: (key) => pollTarget(world, authorities, key),
    changed: due,
    counted: (key) => {
      if (leads) queue.addAfter(key, COUNTS_MS);
    },
    memberCount: () => world.count(POD),
  });
  const leader = new Leader({
    api,
    lease: config.lease,
    times: config.lease.times,
    identity: `${config.identity}_${random.bytes(6).toString('hex')}`,
    ...side,
    changed: (mayWrite) => {
      leads = mayWrite;
      log.info({ leads }, 'leadership changed');
      if (mayWrite) access.lookAgain();
      for (const cluster of world.all(MAIL_CLUSTER))
        if (mayWrite) queue.add(keyOf(cluster));
        else poll.forget(keyOf(cluster));
    },
  });
  const fenced = fencedApi(api, leader);
  const access: AccessRequests = new AccessRequests({
    ...{ api, writer: fenced, world, authorities, namespace: config.watchNamespace, ...side },
    mayWrite: () => leader.mayWrite,
  });
  const controller = { controller: 'mailcluster.dev/operator', instance: config.identity };
  const events = new Events({ api: fenced, ...side, ...controller });
  const unseen = new Unseen(world, clock);
  const gatherer: Gatherer = new Gatherer({
    ...{ world, api, clock, authorities, poll },
    reader: createReader(),
    settings: config.settings,
    statusWrittenAtMs: (key) => reconciler.statusWrittenAtMs(key),
  });
  const carryOut = new CarryOut({ api: fenced, clock, random, pki: { clock, random }, unseen });
  const reconciler: Reconciler = new Reconciler({
    ...{ clock, log, metrics },
    ...{ gatherer, carryOut, poll, unseen, events },
    forgotten: (key) => {
      const { namespace = '', name } = nameOf(key);
      authorities.forget(namespace, name);
    },
  });
  const queue: WorkQueue = new WorkQueue({
    name: 'mailclusters',
    work: async (key) => (leader.mayWrite ? await reconciler.reconcile(key) : { kind: 'done' }),
    failed: (key, error) => {
      metrics.increment('reconcile_total', { result: 'error' });
      log.error({ cluster: key, error }, 'reconcile failed');
    },
    concurrency: config.concurrency,
    restMs: REST_MS,
    ...side,
  });
  return { world, queue, leader, poll, authorities, events, access };
}

export async function startOperator(config: OperatorConfig, ports: OperatorPorts): Promise<RunningOperator> {
  const { api, clock, random, log, metrics } = ports;
  const { world, queue, leader, poll, authorities, events, access } = control(config, ports);
  await using started = new AsyncDisposableStack();
  let synced = false;
  const exported = await startMetricsServer(config.metrics, metrics, () =>
    synced ? { ready: true } : { ready: false, reason: 'the API server has not been read yet' },
  );
  started.defer(() => exported.close());
  const signer = await startSigner(
    { address: config.signer, certificateLifetimeMs: config.signer.certificateLifetimeMs },
    {
      clock,
      random,
      log: log.child({ subsystem: 'signer' }),
      reviewToken: (token) => reviewToken(api, token),
      pod: (namespace, name) => podOf(world, config.settings, namespace, name),
      authority: (namespace, cluster) => authorities.authority(namespace, cluster),
      noteTrust: (namespace, name, uid, trust) => noteTrust({ api, log }, { namespace, name }, uid, trust),
    },
  );
  started.defer(() => signer.close());
  exportBuildInfo(metrics);
  world.start();
  started.defer(() => world.stop());
  started.defer(() => poll.stop());
  events.start();
  // Before the watches are whole nothing is decided; the lease is not run for either, so that a replica that can read leads.
  const running = world.whenSynced().then((all) => {
    if (!all) return;
    synced = true;
    queue.start();
    access.start();
    leader.start();
  });
  started.defer(async () => {
    await running;
    await queue.stop(QUEUE_GRACE_MS);
    await access.stop();
    await events.stop();
    await leader.stop();
  });
  const stack = started.move();
  return {
    facts: { signerPort: signer.port, metricsPort: exported.port },
    stop: async () => {
      // `whenSynced` would be waited for for ever while the API server is away.
      if (!synced) await world.stop();
      await stack.disposeAsync();
    },
  };
}
