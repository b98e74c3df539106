/**
 * The transport as a whole: queue database, core behind its ports, delivery agents, admin API, metrics. Owns: the order in which they start (database first:
 * nothing is heard before everything is recovered) and stop (database last), and applying a changed topology document. Fails at start with the reason.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { TopologyDocument, TransportConfig } from '../common/config.ts';
import { readTopology } from '../common/config-files.ts';
import { documentRefusal } from '../common/document-refusal.ts';
import type { CopyId } from '../common/message.ts';
import { exportBuildInfo } from '../common/platform/build-info.ts';
import type { Clock } from '../common/platform/clock.ts';
import { growWithHeld } from '../common/platform/heap-growth.ts';
import { describeError } from '../common/platform/lifecycle.ts';
import type { Logger } from '../common/platform/log.ts';
import { type MailDns, nodeDns } from '../common/platform/mail-dns.ts';
import { type MarkFile, openMarkFile } from '../common/platform/mark-file.ts';
import { memoryUse } from '../common/platform/memory-use.ts';
import { startMetricsServer } from '../common/platform/metrics-server.ts';
import type { Network } from '../common/platform/net.ts';
import { nodeFiles } from '../common/platform/node-files.ts';
import type { ExportedMetrics } from '../common/platform/prom-metrics.ts';
import type { Random } from '../common/platform/random.ts';
import { WatchedFiles } from '../common/platform/watched-files.ts';
import { passwordIn } from '../common/pod-config.ts';
import type { RiskOptions } from './core/poison.ts';
import { markFenced, setAsideIfFenced } from './fence.ts';
import { type AdminServer, startAdminServer } from './runtime/admin.ts';
import { credentialsIn } from './runtime/connector-credentials.ts';
import { countedFiles } from './runtime/counted-files.ts';
import { createDeliveryAgent } from './runtime/delivery.ts';
import type { DeliveryAgent, SendingAgent } from './runtime/delivery-api.ts';
import { withLedger } from './runtime/delivery-ledger.ts';
import { type Ledger, MemoryLedger } from './runtime/ledger.ts';
import { FencedError } from './runtime/peers.ts';
import { openRedisLedger, type RedisLedger } from './runtime/redis-ledger.ts';
import { markedBy } from './runtime/risk-marks.ts';
import { TransportServer } from './runtime/server.ts';
import { openTracking, type TrackingFiles } from './runtime/tracking.ts';
import { transportView } from './runtime/transport-view.ts';
import type { QueueDatabase } from './store/database.ts';
import { openSegmentLog } from './store/segment-log.ts';

export interface TransportPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: ExportedMetrics;
  /** The inner network of that cluster, with a way to close it. */
  readonly openNetwork: (cluster: string) => Promise<Network & { close(): Promise<void> }>;
  readonly onFatal: (reason: Error) => void;
}

export interface RunningTransport {
  readonly facts: {
    readonly peerPort: number;
    readonly adminPort: number;
    readonly metricsPort: number;
    readonly identity: string;
  };
  reload(): Promise<void>;
  stop(): Promise<void>;
}

/** How long a start waits for the other members before it says ready; alone it goes on. */
const MEETING_MS = 3_000;

async function readIdentity(config: TransportConfig): Promise<{ ca: string; certificate: string; key: string }> {
  const { caFile, certificateFile, keyFile } = config.tls;
  const [ca, certificate, key] = await Promise.all(
    [caFile, certificateFile, keyFile].map((file) => readFile(file, 'utf8')),
  );
  return { ca: ca ?? '', certificate: certificate ?? '', key: key ?? '' };
}

async function openDatabase(
  config: TransportConfig,
  ports: TransportPorts,
  onDamaged: (id: CopyId) => void,
): Promise<QueueDatabase> {
  const { clock, random, log, metrics } = ports;
  await setAsideIfFenced(config.queueDatabaseDirectory, log);
  await mkdir(config.queueDatabaseDirectory, { recursive: true });
  const database = await openSegmentLog({
    directory: config.queueDatabaseDirectory,
    files: countedFiles(nodeFiles, metrics, clock),
    clock,
    random,
    log: log.child({ subsystem: 'store' }),
    segmentBytes: config.store.segmentBytes,
    reserveBytes: config.store.reserveBytes,
    onFatal: ports.onFatal,
    onSynced: (commits) => metrics.observe('store_commit_batch_size', commits),
    member: config.name,
    onQuarantined: ({ id }) => {
      metrics.increment('corrupt_records_total');
      if (id !== null) onDamaged(id);
    },
  });
  const { created, copies, quarantined } = database.recovered;
  log.info(
    { identity: database.identity, created, copies: copies.length, quarantined: quarantined.length },
    'queue database open',
  );
  if (quarantined.length > 0) metrics.increment('corrupt_records_total', {}, quarantined.length);
  return database;
}

/** Beside the queue database, on the same volume. */
function openTransportTracking(
  { queueDatabaseDirectory }: TransportConfig,
  { clock, log, metrics }: TransportPorts,
  { messageTracking }: TopologyDocument,
  database: QueueDatabase,
): Promise<TrackingFiles> {
  const directory = `${dirname(queueDatabaseDirectory)}/tracking`;
  const kept = { retention: messageTracking ?? null, volume: () => database.space() };
  return openTracking({ directory, files: nodeFiles, clock, logger: log, metrics, ...kept });
}

/** One resolver for each list of servers: its questions are bounded together. */
function dnsOf(clock: Clock): (servers: readonly string[]) => MailDns {
  const known = new Map<string, MailDns>();
  return (servers) => {
    const key = servers.join(' ');
    const dns = known.get(key) ?? nodeDns(clock, servers);
    known.set(key, dns);
    return dns;
  };
}

function deliveryAgent(
  config: TransportConfig,
  ports: TransportPorts,
  database: QueueDatabase,
  ledger: Ledger,
  { damaged, inForce }: { damaged(id: CopyId): void; inForce(): TopologyDocument },
): { readonly agent: DeliveryAgent; readonly sending: SendingAgent } {
  const { clock, random, log, metrics } = ports;
  const agent = createDeliveryAgent({
    clock,
    log: log.child({ subsystem: 'delivery' }),
    metrics,
    random,
    dns: dnsOf(clock),
    hostname: config.hostname,
    member: config.name,
    readBody: (id) => database.readBody(id),
    onDamaged: damaged,
    credentials: credentialsIn(config.credentialsDirectory ?? null),
    dkim: {
      ...{ config: () => inForce().dkim ?? null, arc: () => inForce().arc ?? null },
      directory: config.credentialsDirectory ?? null,
    },
  });
  const kept = withLedger(agent, ledger, { log: log.child({ subsystem: 'ledger' }), metrics });
  return { agent: kept, sending: agent };
}

/** Mail does not wait for Redis, nor for a file about it: without the password the server refuses us, and that is logged and counted. */
async function readPassword(config: TransportConfig, log: Logger): Promise<string | null> {
  const file = config.ledger?.passwordFile ?? null;
  if (file === null) return null;
  try {
    return passwordIn(await readFile(file, 'utf8'));
  } catch (error) {
    log.error({ error: describeError(error) }, 'password of the shared ledger not readable');
    return null;
  }
}

async function openSharedLedger(
  config: TransportConfig,
  ports: TransportPorts,
  cluster: string,
  ttlMs: () => number,
): Promise<RedisLedger | null> {
  if (config.ledger === null) return null;
  const { clock, random, metrics } = ports;
  const { host, port, tls, username } = config.ledger;
  const log = ports.log.child({ subsystem: 'ledger' });
  const identity = await readIdentity(config);
  const password = await readPassword(config, log);
  const member = { cluster, member: config.name, identity };
  const side = { clock, random, metrics, log };
  return openRedisLedger({ address: { host, port, tls }, username, password, ...member, ttlMs, ...side });
}

/** How long a message can come back: in transit until it expires, then in Safety Net. */
const comesBackWithinMs = ({ policies }: TopologyDocument): number =>
  policies.safetyNet.holdTimeMs + policies.queues.messageExpirationMs;

/** A fenced volume is marked before the process ends. */
function ended(config: TransportConfig, ports: TransportPorts, database: QueueDatabase, reason: Error): void {
  if (!(reason instanceof FencedError)) return ports.onFatal(reason);
  const at = new Date(ports.clock.wallMs()).toISOString();
  const mark = { why: reason.message, identity: database.identity, at };
  markFenced(config.queueDatabaseDirectory, mark).then(
    () => ports.onFatal(reason),
    (error: unknown) => {
      ports.log.error({ error: describeError(error) }, 'the fence mark could not be written');
      ports.onFatal(reason);
    },
  );
}

/** What the life before had in its hands when it died (protocol.md 18). */
function riskOf(mark: MarkFile, log: Logger): RiskOptions {
  // At the end of a turn of the event loop: the next message of this turn stands there instead, with one write and not two.
  const risk = markedBy(mark, setImmediate);
  if (risk.marked.ids.length > 0) log.warn({ ...risk.marked }, 'the process before ended with these in a risky step');
  return risk;
}

export async function startTransport(config: TransportConfig, ports: TransportPorts): Promise<RunningTransport> {
  const { clock, random, log, metrics } = ports;
  const { name, hostname, listen } = config;
  await using started = new AsyncDisposableStack();
  const document = await readTopology(config.topologyFile);
  let damaged: (id: CopyId) => void = () => undefined;
  const database = await openDatabase(config, ports, (id) => damaged(id));
  started.defer(() => database.close());
  const tracking = await openTransportTracking(config, ports, document, database);
  started.defer(() => tracking.close());
  const network = await ports.openNetwork(document.cluster);
  started.defer(() => network.close());
  const shared = await openSharedLedger(config, ports, document.cluster, () => comesBackWithinMs(server.core.document));
  const ledger = shared ?? new MemoryLedger(name);
  started.defer(() => ledger.close());
  const later = { damaged: (id: CopyId) => damaged(id), inForce: () => server.core.document };
  const { agent: delivery, sending } = deliveryAgent(config, ports, database, ledger, later);
  const mark = openMarkFile(`${config.queueDatabaseDirectory}/in-risky-step`);
  started.defer(async () => mark.close());
  const peerSide = { name, hostname, listen, uid: random.bytes(16).toString('hex'), network, document, memoryUse };
  const server = new TransportServer({
    ...peerSide,
    clock,
    random,
    log,
    metrics,
    database,
    delivery,
    tracking,
    risk: riskOf(mark, log),
    onFatal: (reason) => ended(config, ports, database, reason),
  });
  damaged = (id) => {
    log.error({ attemptId: id }, 'stored body damaged');
    server.bodyDamaged(id);
  };
  await server.start();
  started.defer(() => server.stop());
  started.use(growWithHeld(clock, () => server.core.copies.size + server.core.tombstones.size));
  await server.peers.met(MEETING_MS);
  const admin = await startAdminServer({
    address: config.admin,
    identity: await readIdentity(config),
    cluster: document.cluster,
    view: transportView(server, sending),
    tracking,
    logger: log,
  });
  started.defer(() => admin.close());
  const exported = await startMetricsServer(config.metrics, metrics, () =>
    server.state === 'ready' ? { ready: true } : { ready: false, reason: server.state },
  );
  started.defer(() => exported.close());
  exportBuildInfo(metrics);
  const reload = reloader(config, ports, { server, admin, tracking, ledger: shared });
  const files = [config.topologyFile, config.tls.certificateFile, config.ledger?.passwordFile ?? []].flat();
  const watched = new WatchedFiles(files, clock, log, () => void reload());
  started.defer(() => watched.close());
  const stack = started.move();
  return {
    facts: {
      ...{ peerPort: server.port, adminPort: admin.port, metricsPort: exported.port },
      identity: database.identity,
    },
    reload,
    stop: () => stack.disposeAsync(),
  };
}

interface Reloaded {
  readonly server: TransportServer;
  readonly admin: AdminServer;
  readonly tracking: TrackingFiles;
  readonly ledger: RedisLedger | null;
}

/** Applies what changed in the files; what cannot be used is logged and counted, the former stays in force. */
function reloader(
  config: TransportConfig,
  ports: TransportPorts,
  { server, admin, tracking, ledger }: Reloaded,
): () => Promise<void> {
  return async () => {
    try {
      const document = await readTopology(config.topologyFile);
      const reason = documentRefusal(document, server.core.document);
      if (reason === null) {
        server.setTopology(document);
        await tracking.setRetention(document.messageTracking ?? null);
      } else {
        ports.metrics.increment('topology_rejected_total');
        ports.log.error({ file: config.topologyFile, reason }, 'topology document not used, the former stays in force');
      }
      const identity = await readIdentity(config);
      admin.renew(identity);
      ledger?.renew(identity, await readPassword(config, ports.log));
    } catch (error) {
      ports.metrics.increment('topology_rejected_total');
      ports.log.error({ error: describeError(error) }, 'changed files not used, the former stay in force');
    }
  };
}
