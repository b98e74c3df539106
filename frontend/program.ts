/**
 * The front end as a whole: listeners, proxy, inner network, metrics endpoint, and the files they are made from. Owns: putting them
 * together, and applying changed files to what runs. Promise: a file that cannot be used is logged and counted, and the last good one
 * stays in force; `stop` lets sessions finish the transaction they are in. Fails at start with the reason, leaving nothing open.
 */
import { readFile } from 'node:fs/promises';
import type { FrontendConfig, ListenerConfig, TopologyDocument } from '../common/config.ts';
import { readTopology } from '../common/config-files.ts';
import { documentRefusal } from '../common/document-refusal.ts';
import { networksOf } from '../common/networks.ts';
import { exportBuildInfo } from '../common/platform/build-info.ts';
import type { Clock } from '../common/platform/clock.ts';
import { describeError } from '../common/platform/lifecycle.ts';
import type { Logger } from '../common/platform/log.ts';
import { type Readiness, startMetricsServer } from '../common/platform/metrics-server.ts';
import type { Network } from '../common/platform/net.ts';
import type { ExportedMetrics } from '../common/platform/prom-metrics.ts';
import type { Random } from '../common/platform/random.ts';
import { WatchedFiles } from '../common/platform/watched-files.ts';
import { passwordIn } from '../common/pod-config.ts';
import { ClientLimits } from '../common/smtp/client-limits.ts';
import { ConnectionLedger } from '../common/smtp/connection-ledger.ts';
import { readEdgeCertificate } from '../common/smtp/edge-certificate.ts';
import { type EdgeServer, type EdgeTls, startEdge } from '../common/smtp/server.ts';
import { UsersReader } from '../common/smtp/users-directory.ts';
import { AddressLists } from './address-lists.ts';
import { ContentFilters } from './content-filters.ts';
import { FrontendEdge } from './edge.ts';
import { MessageProxy } from './proxy.ts';
import { ReceiptChecks } from './receipt-checks.ts';
import { RedisSums } from './redis-sums.ts';

export interface FrontendPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: ExportedMetrics;
  /** The inner network of that cluster, with a way to close it. */
  readonly openNetwork: (cluster: string) => Promise<Network & { close(): Promise<void> }>;
}

export interface RunningFrontend {
  readonly listeners: readonly { readonly name: string; readonly port: number }[];
  readonly metricsPort: number;
  /** Reads all files again and applies what changed. */
  reload(): Promise<void>;
  stop(graceful: boolean): Promise<void>;
}

export async function startFrontend(config: FrontendConfig, ports: FrontendPorts): Promise<RunningFrontend> {
  const topology = await readTopology(config.topologyFile);
  const network = await ports.openNetwork(topology.cluster);
  const frontend = new Frontend(config, ports, topology, network, await openSharedLimits(config, ports, topology));
  try {
    await frontend.start();
  } catch (error) {
    await frontend.stop(false);
    throw error;
  }
  return frontend;
}

/** Mail does not wait for Redis, nor for a file about it: without the password the server refuses us, and each front end counts for itself. */
async function readPassword({ sharedLimits }: FrontendConfig, log: Logger): Promise<string | null> {
  const file = sharedLimits?.passwordFile ?? null;
  if (file === null) return null;
  try {
    return passwordIn(await readFile(file, 'utf8'));
  } catch (error) {
    log.error({ error: describeError(error) }, 'password of the shared limits not readable');
    return null;
  }
}

async function openSharedLimits(
  config: FrontendConfig,
  { clock, random, log, metrics }: FrontendPorts,
  { cluster }: TopologyDocument,
): Promise<RedisSums | null> {
  metrics.set('shared_limits_up', 0);
  if (config.sharedLimits === null) return null;
  const { host, port, tls, username } = config.sharedLimits;
  const password = await readPassword(config, log);
  return new RedisSums({ address: { host, port, tls }, username, password, cluster, clock, random, log, metrics });
}

class Frontend implements RunningFrontend {
  readonly #config: FrontendConfig;
  readonly #ports: FrontendPorts;
  readonly #network: { close(): Promise<void> };
  readonly #proxy: MessageProxy;
  readonly #edge: FrontendEdge;
  readonly #shared: RedisSums | null;
  readonly #clients: ClientLimits;
  readonly #ledger: ConnectionLedger;
  readonly #checks: ReceiptChecks;
  readonly #filters: ContentFilters;
  readonly #users: UsersReader;
  readonly #addressLists: AddressLists;
  #topology: TopologyDocument;
  #servers: { readonly listener: ListenerConfig; readonly server: EdgeServer }[] = [];
  #closeMetrics: (() => Promise<void>) | null = null;
  #watched: WatchedFiles | null = null;
  #reloading: Promise<void> = Promise.resolve();
  #stopping = false;
  metricsPort = 0;

  constructor(
    config: FrontendConfig,
    ports: FrontendPorts,
    topology: TopologyDocument,
    network: Network & { close(): Promise<void> },
    shared: RedisSums | null,
  ) {
    const { clock, random, log, metrics } = ports;
    this.#config = config;
    this.#ports = ports;
    this.#users = new UsersReader(ports.random);
    this.#addressLists = new AddressLists(config.addressLists ?? []);
    this.#topology = topology;
    this.#network = network;
    const { name, site, limits, listeners } = config;
    const uid = random.bytes(16).toString('hex');
    this.#shared = shared;
    this.#clients = new ClientLimits(clock, shared);
    this.#ledger = new ConnectionLedger(this.#clients);
    this.#proxy = new MessageProxy({ name, site, uid, clock, random, network, log, metrics, limits }, topology);
    this.#checks = new ReceiptChecks({ clock, log, metrics, listeners, maxConnections: limits.maxConnections });
    this.#filters = new ContentFilters({ clock, log, metrics, listeners, hostname: config.hostname });
    const [proxy, clients, checks, filters] = [this.#proxy, this.#clients, this.#checks, this.#filters];
    this.#edge = new FrontendEdge(
      { name, proxy, clock, random, log, metrics, limits, listeners, clients, checks, filters },
      topology,
    );
  }

  get listeners(): readonly { readonly name: string; readonly port: number }[] {
    return this.#servers.map(({ listener, server }) => ({ name: listener.name, port: server.port }));
  }

  async start(): Promise<void> {
    const { clock, log, metrics } = this.#ports;
    const config = this.#config;
    this.#proxy.start();
    this.#clients.start();
    void this.#checks.start();
    exportBuildInfo(metrics);
    metrics.onRender(() => {
      metrics.set('proxy_transports_available', this.#proxy.available);
      metrics.set('proxy_replay_buffer_bytes', this.#proxy.replayBufferBytes);
      metrics.set('topology_generation', this.#topology.generation);
    });
    await this.#readUsers();
    await this.#readAddressLists();
    const tls = await this.#readTls();
    const proxyFrom = networksOf('proxyFrom', config.proxyFrom);
    for (const listener of config.listeners) {
      const server = await startEdge({
        listener,
        frontend: config.name,
        hostname: config.hostname,
        limits: config.limits,
        maxReceivedHops: this.#topology.policies.limits.maxReceivedHops,
        tls,
        proxyFrom,
        handlers: this.#edge,
        log,
        metrics,
        ledger: this.#ledger,
        clock,
      });
      this.#servers.push({ listener, server });
    }
    const served = await startMetricsServer(config.metrics, metrics, () => this.#readiness());
    this.#closeMetrics = () => served.close();
    this.metricsPort = served.port;
    // Both a file and a mounted directory are seen: watches are on the directory of what is named.
    const users = config.listeners.flatMap(({ usersFile }) =>
      usersFile === null ? [] : [usersFile, `${usersFile}/.`],
    );
    const password = config.sharedLimits?.passwordFile ?? [];
    const lists = this.#addressLists.files;
    const files = [
      config.topologyFile,
      this.#smtpTls.certificateFile,
      this.#smtpTls.keyFile,
      ...users,
      ...lists,
      password,
    ].flat();
    this.#watched = new WatchedFiles(files, clock, log, () => void this.reload());
  }

  /** One at a time, in order; never rejects. */
  reload(): Promise<void> {
    this.#reloading = this.#reloading.then(() => this.#reload());
    return this.#reloading;
  }

  async stop(graceful: boolean): Promise<void> {
    this.#stopping = true;
    this.#watched?.close();
    await Promise.all(this.#servers.map(({ server }) => server.close(graceful)));
    this.#proxy.stop('front end stops');
    this.#clients.stop();
    this.#shared?.close();
    await this.#checks.close();
    this.#filters.close();
    await this.#closeMetrics?.();
    await this.#network.close();
  }

  async #reload(): Promise<void> {
    if (this.#stopping) return;
    await this.#attempt('topology', this.#config.topologyFile, async () => {
      const topology = await readTopology(this.#config.topologyFile);
      const reason = documentRefusal(topology, this.#topology);
      if (reason !== null) throw new Error(reason);
      if (topology.generation > this.#topology.generation)
        this.#ports.log.info({ generation: topology.generation }, 'topology applied');
      this.#topology = topology;
      this.#proxy.setTopology(topology);
      this.#edge.setTopology(topology);
      for (const { server } of this.#servers)
        server.setLimits(this.#config.limits, topology.policies.limits.maxReceivedHops);
    });
    await this.#attempt('users', '', () => this.#readUsers());
    await this.#readAddressLists();
    const password = await readPassword(this.#config, this.#ports.log);
    if (password !== null) this.#shared?.usePassword(password);
    await this.#attempt('certificate', this.#smtpTls.certificateFile, async () => {
      const tls = await this.#readTls();
      for (const { server } of this.#servers) server.setTls(tls);
    });
  }

  async #attempt(what: 'topology' | 'users' | 'certificate', file: string, apply: () => Promise<void>): Promise<void> {
    try {
      await apply();
    } catch (error) {
      if (what === 'topology') this.#ports.metrics.increment('topology_rejected_total');
      this.#ports.log.error(
        { what, file, reason: describeError(error) },
        'changed file not usable, the last one stays',
      );
    }
  }

  async #readUsers(): Promise<void> {
    for (const { name, usersFile } of this.#config.listeners)
      if (usersFile !== null) this.#edge.setUsers(name, await this.#users.read(usersFile));
  }

  /** Mail does not wait for a list: who is only in one that was never read hears 451, everybody else goes on. */
  async #readAddressLists(): Promise<void> {
    const { log, metrics } = this.#ports;
    const { changed, problems } = await this.#addressLists.read();
    for (const problem of problems) {
      metrics.increment('address_list_rejected_total');
      log.error(
        { ...problem },
        problem.inForce ? 'address list not usable, the last one stays' : 'address list missing',
      );
    }
    if (changed) this.#edge.setAddressLists(this.#addressLists.all);
    const lists = [...this.#addressLists.all.values()];
    metrics.set('address_lists_missing', this.#addressLists.missing);
    metrics.set(
      'address_list_addresses',
      lists.reduce((sum, { size }) => sum + size, 0),
    );
    metrics.set(
      'address_list_bytes',
      lists.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    );
  }

  /** Without a certificate for clients STARTTLS is offered with the pod's own. */
  get #smtpTls(): { readonly certificateFile: string; readonly keyFile: string } {
    return this.#config.smtpTls ?? this.#config.tls;
  }

  async #readTls(): Promise<EdgeTls> {
    const { log, metrics, clock } = this.#ports;
    // The pod's own is for the inside: no client knows its name.
    const hostname = this.#config.smtpTls === null ? null : this.#config.hostname;
    const { cert, key, notAfterMs, problems } = await readEdgeCertificate(this.#smtpTls, hostname, clock.wallMs());
    metrics.set('certificate_expiration_timestamp_seconds', notAfterMs / 1000, { purpose: 'smtp' });
    const file = this.#smtpTls.certificateFile;
    for (const problem of problems) log.error({ file, problem }, 'clients that verify refuse the SMTP certificate');
    return { cert, key };
  }

  #readiness(): Readiness {
    if (this.#stopping) return { ready: false, reason: 'stopping' };
    if (this.#proxy.available > 0) return { ready: true };
    const problems = this.#proxy.problems().map(({ member, problem }) => `${member}: ${problem}`);
    return { ready: false, reason: ['no transport can be chosen', ...problems].join('\n') };
  }
}
