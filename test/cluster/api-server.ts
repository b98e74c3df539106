/**
 * A real control plane of Kubernetes on loopback, without root: etcd, API server, controller manager, scheduler. Owns: their processes,
 * one temporary directory (keys, data, logs, audit log), one port. Promises: when `startApiServer` resolves, the API answers and, with
 * controllers, the namespace `default` has its ServiceAccount; everything is gone after `stop`, and also when this process is killed: the
 * programs die with it, and the next start removes the directory. Two can run side by side. Fails with the end of the log of what did not come up.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from '../house/until.ts';
import { type AccessParts, ApiAccess, type ApiUser, auditLogFile } from './api-access.ts';
import {
  AUDIT_POLICY,
  apiServerArguments,
  controllerManagerArguments,
  etcdArguments,
  etcdSocket,
  freePort,
  kubeconfig,
  PLANE_TIMES,
  type PlaneFiles,
  type PlaneTimes,
  SERVICE_FIRST,
  schedulerArguments,
} from './control-plane.ts';
import { Daemon } from './daemon.ts';
import { compact } from './etcd-client.ts';
import { KubeClient, type KubeCredentials } from './kube-client.ts';
import { createDirectory, keepDirectory, removeDirectory } from './own-directory.ts';
import { type Authority, createAuthority, createKeyPair } from './pki.ts';
import { findPrograms } from './programs.ts';

export interface ApiServerOptions extends Partial<PlaneTimes> {
  /** With controller manager and scheduler; default true. Without them it is ready sooner. */
  readonly controllers?: boolean;
  /** Appended to the flags of the API server, for example `--max-mutating-requests-inflight=1`. */
  readonly apiServerFlags?: readonly string[];
  /** The same for controller manager and scheduler, for example `--kube-api-qps=500`: by themselves they write 20 and 50 times a second. */
  readonly controllerFlags?: readonly string[];
  /** For the controller manager alone. */
  readonly managerFlags?: readonly string[];
  /** Default: a free one of loopback. */
  readonly choosePort?: () => Promise<number>;
}

const READY_MS = 120_000;
const PORT_TRIES = 5;
const LOGS = ['etcd', 'kube-apiserver', 'kube-controller-manager', 'kube-scheduler'] as const;

/** What to do first, when this machine cannot run a control plane as it is; null: it can. */
export async function missingForApiServer(): Promise<string | null> {
  const programs = await findPrograms();
  return 'missing' in programs ? programs.missing : null;
}

export async function startApiServer(options: ApiServerOptions = {}): Promise<ApiCluster> {
  const programs = await findPrograms();
  if ('missing' in programs) throw new Error(`no API server: ${programs.missing}`);
  const directory = await createDirectory();
  const files: PlaneFiles = { directory, auditLogFile: auditLogFile(directory) };
  const daemon = (name: (typeof LOGS)[number], args: readonly string[]): Daemon =>
    new Daemon({ name, file: programs[name], args, directory, logFile: join(directory, `${name}.log`) });
  const etcd = daemon('etcd', etcdArguments(files));
  const daemons: Daemon[] = [etcd];
  try {
    etcd.start();
    const authority = await writeKeys(directory);
    const times = { ...PLANE_TIMES, ...options };
    const admin = await authority.user('test-admin', 'system:masters');
    const { apiServer, url } = await startOnFreePort(
      daemons,
      options.choosePort ?? freePort,
      { url: '', caPem: authority.caPem, ...admin },
      (port) =>
        daemon('kube-apiserver', [...apiServerArguments(files, port, times), ...(options.apiServerFlags ?? [])]),
    );
    const cluster = new ApiCluster(
      {
        ...{ url, caPem: authority.caPem, adminCertPem: admin.certPem, adminKeyPem: admin.keyPem },
        ...{ directory, kubectlProgram: programs.kubectl },
      },
      { authority, etcd, apiServer, daemons },
    );
    await writeFile(cluster.kubeconfig, kubeconfig(cluster.admin), { mode: 0o600 });
    if (options.controllers ?? true) {
      const [manager, scheduler] = await Promise.all([
        cluster.user('system:kube-controller-manager'),
        cluster.user('system:kube-scheduler'),
      ]);
      const flags = options.controllerFlags ?? [];
      daemons.push(
        daemon('kube-controller-manager', [
          ...controllerManagerArguments(files, manager.kubeconfig, times),
          ...flags,
          ...(options.managerFlags ?? []),
        ]),
        daemon('kube-scheduler', [...schedulerArguments(scheduler.kubeconfig), ...flags]),
      );
      for (const started of daemons.slice(2)) started.start();
      await cluster.awaitControllers();
    }
    return cluster;
  } catch (error) {
    await endAll(daemons);
    await removeDirectory(directory);
    throw error;
  }
}

interface ClusterParts {
  readonly authority: Authority;
  readonly etcd: Daemon;
  readonly apiServer: Daemon;
  /** In the order of their start; the controllers, when there are any, last. */
  readonly daemons: readonly Daemon[];
}

export class ApiCluster extends ApiAccess {
  /** `stop`, `kill`, `pause`, `resume` at any time; after `stop` and `kill`: `startAgain`. */
  readonly etcd: Daemon;
  readonly apiServer: Daemon;
  readonly #daemons: readonly Daemon[];
  readonly #authority: Authority;
  #isKept = false;

  constructor(access: AccessParts, { authority, etcd, apiServer, daemons }: ClusterParts) {
    super(access);
    this.etcd = etcd;
    this.apiServer = apiServer;
    this.#daemons = daemons;
    this.#authority = authority;
  }

  /** A user with a client certificate. What it may do is the test's to say (RBAC). */
  async user(name: string, group?: string): Promise<ApiUser> {
    const credentials = { url: this.url, caPem: this.caPem, ...(await this.#authority.user(name, group)) };
    return this.withKubeconfig(name, credentials);
  }

  /** Starts what was stopped or killed, and waits until the API answers. */
  async startAgain(...daemons: readonly Daemon[]): Promise<void> {
    for (const daemon of daemons) daemon.start();
    await awaitReady(this.client, this.#daemons);
  }

  /** etcd forgets what was before now. The API server's own watch cache remembers until it is started again. */
  compact(): Promise<string> {
    return compact(etcdSocket(this.directory));
  }

  /** The controllers work: what they owe every namespace is there. */
  async awaitControllers(): Promise<void> {
    await until(
      'the controller manager to make the ServiceAccount of namespace default',
      async () => {
        throwFailures(this.#daemons);
        return (await this.client.call('GET', '/api/v1/namespaces/default/serviceaccounts/default')).status === 200;
      },
      { deadlineMs: READY_MS, everyMs: 50 },
    );
  }

  /** `stop` leaves the directory with the logs, and says where. For a test that failed. */
  keepLogs(): void {
    this.#isKept = true;
  }

  async stop(): Promise<void> {
    this.client.close();
    await endAll(this.#daemons);
    if (!this.#isKept) return removeDirectory(this.directory);
    await keepDirectory(this.directory);
    console.error(`logs of the API server are kept in ${this.directory}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

async function writeKeys(directory: string): Promise<Authority> {
  const authority = await createAuthority();
  const hosts = ['kubernetes', 'kubernetes.default', 'kubernetes.default.svc', 'localhost', '127.0.0.1', SERVICE_FIRST];
  const [server, tokens] = await Promise.all([authority.server('kube-apiserver', hosts), createKeyPair()]);
  const write = (name: string, text: string): Promise<void> => writeFile(join(directory, name), text, { mode: 0o600 });
  await write('ca.crt', authority.caPem);
  await write('server.crt', server.certPem);
  await write('server.key', server.keyPem);
  await write('sa.key', tokens.privatePem);
  await write('sa.pub', tokens.publicPem);
  await write('audit-policy.yaml', AUDIT_POLICY);
  return authority;
}

/** The API server must be told its port, so it can lose the race for it: then it says so and ends, and another port is tried. */
async function startOnFreePort(
  daemons: Daemon[],
  choosePort: () => Promise<number>,
  admin: KubeCredentials,
  create: (port: number) => Daemon,
): Promise<{ readonly apiServer: Daemon; readonly url: string }> {
  for (let tries = 1; ; tries += 1) {
    const port = await choosePort();
    const url = `https://127.0.0.1:${port}`;
    const apiServer = create(port);
    const client = new KubeClient({ ...admin, url });
    try {
      apiServer.start();
      await awaitReady(client, [...daemons, apiServer]);
      daemons.push(apiServer);
      return { apiServer, url };
    } catch (error) {
      await apiServer.kill();
      if (tries === PORT_TRIES || !apiServer.tail().includes('address already in use')) throw error;
    } finally {
      client.close();
    }
  }
}

async function awaitReady(client: KubeClient, daemons: readonly Daemon[]): Promise<void> {
  const isReady = async (): Promise<boolean> => {
    if (daemons.some((daemon) => daemon.failure !== null)) return true;
    const { status, body } = await client.call('GET', '/readyz?verbose', { deadlineMs: 5_000 });
    if (status !== 200) throw new Error(`/readyz ${status}: ${String(body.text ?? body.message ?? '')}`);
    return true;
  };
  await until('the API server to be ready', isReady, { deadlineMs: READY_MS, everyMs: 50 });
  throwFailures(daemons);
}

function throwFailures(daemons: readonly Daemon[]): void {
  const failures = daemons.map((daemon) => daemon.failure).filter((failure) => failure !== null);
  if (failures.length > 0) throw new Error(failures.join('\n'));
}

/** Last started, first ended; nothing in the directory is worth a slow end. */
async function endAll(daemons: readonly Daemon[]): Promise<void> {
  for (const daemon of [...daemons].reverse()) await daemon.kill();
}
