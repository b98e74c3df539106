/**
 * How a test talks to a control plane, its own or the one that the whole run shares: as administrator, as a ServiceAccount, through the
 * audit log, in a namespace of its own. Owns: connections and kubeconfig files in the cluster's directory. Breaks nothing: who wants the
 * API server to stop or hang starts one (`startApiServer`).
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { AuditLog } from './audit-log.ts';
import { kubeconfig } from './control-plane.ts';
import { KubeClient, type KubeCredentials, type KubeObject } from './kube-client.ts';

/** What it takes; plain data, so that it can be handed to another process. */
export interface AccessParts {
  readonly url: string;
  readonly caPem: string;
  readonly adminCertPem: string;
  readonly adminKeyPem: string;
  readonly directory: string;
  readonly kubectlProgram: string;
}

/** Somebody who may talk to the API server. */
export interface ApiUser extends KubeCredentials {
  /** Path of a file. */
  readonly kubeconfig: string;
}

export interface KubectlResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const KUBECTL_MS = 150_000;

/** A label of fake nodes: pods of the namespaces of this pool run on them, and nowhere else. */
const POOL_LABEL = 'mailcluster.dev/test-pool';
const POOL_ANNOTATION = 'scheduler.alpha.kubernetes.io/node-selector';

export const nodePool = (pool: string): Readonly<Record<string, string>> => ({ [POOL_LABEL]: pool });

export const auditLogFile = (directory: string): string => join(directory, 'audit.log');

export class ApiAccess {
  readonly url: string;
  readonly caPem: string;
  readonly adminCertPem: string;
  readonly adminKeyPem: string;
  readonly directory: string;
  /** Path of a kubeconfig file of an administrator (group system:masters). */
  readonly kubeconfig: string;
  /** As administrator. */
  readonly client: KubeClient;
  readonly audit: AuditLog;
  /** From which another process makes the same. */
  readonly parts: AccessParts;

  constructor(parts: AccessParts) {
    this.parts = parts;
    this.url = parts.url;
    this.caPem = parts.caPem;
    this.adminCertPem = parts.adminCertPem;
    this.adminKeyPem = parts.adminKeyPem;
    this.directory = parts.directory;
    this.kubeconfig = join(this.directory, 'admin.conf');
    this.client = new KubeClient(this.admin);
    this.audit = new AuditLog(auditLogFile(this.directory), this.client);
  }

  get admin(): ApiUser {
    const { kubeconfig: path, url, caPem, adminCertPem: certPem, adminKeyPem: keyPem } = this;
    return { kubeconfig: path, url, caPem, certPem, keyPem };
  }

  /** A fresh namespace, whose pods run on nodes of this pool; `remove` begins its deletion and does not wait. */
  async namespace(prefix: string, pool: string): Promise<{ readonly name: string; remove(): Promise<void> }> {
    const name = `${prefix}-${randomBytes(4).toString('hex')}`;
    const annotations = { [POOL_ANNOTATION]: `${POOL_LABEL}=${pool}` };
    await this.client.must('POST', '/api/v1/namespaces', {
      body: { apiVersion: 'v1', kind: 'Namespace', metadata: { name, annotations } },
    });
    const remove = async (): Promise<void> => {
      await this.client.must('DELETE', `/api/v1/namespaces/${name}`);
      await this.#letGo(name);
    };
    return { name, remove };
  }

  /** What would keep it for ever, and the controllers busy with it: the finalizer of an operator that is gone, pods of a kubelet that is. */
  async #letGo(namespace: string): Promise<void> {
    const clusters = `/apis/mailcluster.dev/v1alpha1/namespaces/${namespace}/mailclusters`;
    const { body } = await this.client.call('GET', clusters);
    for (const { metadata } of (body.items ?? []) as KubeObject[])
      await this.client.mergePatch(`${clusters}/${metadata.name}`, { metadata: { finalizers: null } });
    const options = { apiVersion: 'v1', kind: 'DeleteOptions', gracePeriodSeconds: 0 };
    await this.client.call('DELETE', `/api/v1/namespaces/${namespace}/pods`, { body: options });
  }

  /** A ServiceAccount, made when absent, and a token of it. What it may do is the test's to say (RBAC). */
  async serviceAccount(namespace: string, name: string): Promise<ApiUser> {
    await this.client.mustApply({ apiVersion: 'v1', kind: 'ServiceAccount', metadata: { namespace, name } });
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${name}/token`;
    const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: 3_600 } };
    const { status } = await this.client.must('POST', path, { body });
    return this.withKubeconfig(`${namespace}-${name}`, { url: this.url, caPem: this.caPem, token: status.token });
  }

  /** What a person types, as administrator or as somebody else. */
  async kubectl(args: readonly string[], { as = this.admin, input = '' } = {}): Promise<KubectlResult> {
    const running = promisify(execFile)(this.parts.kubectlProgram, ['--kubeconfig', as.kubeconfig, ...args], {
      timeout: KUBECTL_MS,
      maxBuffer: 64 * 1024 * 1024,
      // Its cache of what the server knows must not outlive the cluster, nor be somebody's own.
      env: { PATH: '/usr/bin:/bin', HOME: this.directory, KUBECACHEDIR: join(this.directory, 'kubectl-cache') },
    });
    // A program that ends without reading is judged by its exit code.
    running.child.stdin?.on('error', () => undefined).end(input);
    try {
      return { code: 0, ...(await running) };
    } catch (error) {
      if (!(error instanceof Error && 'stderr' in error && 'code' in error && typeof error.code === 'number'))
        throw error;
      const { code, stdout, stderr } = error as unknown as KubectlResult;
      return { code, stdout, stderr };
    }
  }

  protected async withKubeconfig(name: string, credentials: KubeCredentials): Promise<ApiUser> {
    const path = join(this.directory, `${name.replace(/[^a-z0-9.-]/gi, '-')}.conf`);
    await writeFile(path, kubeconfig(credentials), { mode: 0o600 });
    return { ...credentials, kubeconfig: path };
  }
}
