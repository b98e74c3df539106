/**
 * The controllers of cert-manager (`test/cluster/cert-manager/`) against a control plane of a test, and what people give them to do. Owns: their process and
 * log, in the directory of the control plane. Nobody admits for them: what the webhook would refuse, they work on.
 */
import { join } from 'node:path';
import type { ApiAccess } from '../cluster/api-access.ts';
import { Daemon } from '../cluster/daemon.ts';
import { foreignCrds, installCrd } from '../cluster/foreign-crds.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { findCertManager } from '../cluster/programs.ts';

const API = { apiVersion: 'cert-manager.io/v1' };
const YEAR = '8760h0m0s';

export const certificatePath = (namespace: string, name: string): string =>
  `/apis/cert-manager.io/v1/namespaces/${namespace}/certificates/${name}`;

/** By which algorithm it names the key of an authority (RFC 5280 4.2.1.2, RFC 7093): what Go did before 1.25, and does since. */
export type KeyIdentifiers = 'Sha1' | 'Sha256';

export class CertManager {
  readonly #access: ApiAccess;
  readonly #program: string;
  #daemon: Daemon;

  private constructor(access: ApiAccess, program: string) {
    this.#access = access;
    this.#program = program;
    this.#daemon = this.#made('Sha256');
  }

  /** With its kinds; or what is missing. */
  static async open(access: ApiAccess): Promise<CertManager | { readonly missing: string }> {
    const [program, crds] = await Promise.all([findCertManager(), foreignCrds()]);
    if (typeof program !== 'string') return { missing: `cert-manager: ${program.missing}` };
    if ('missing' in crds) return { missing: String(crds.missing) };
    for (const [name, crd] of crds) if (name.endsWith('.cert-manager.io')) await installCrd(access, crd);
    return new CertManager(access, program);
  }

  get failure(): string | null {
    return this.#daemon.failure;
  }

  start(): void {
    this.#daemon.start();
  }

  stop(): Promise<void> {
    return this.#daemon.stop();
  }

  /** Another release of it takes over. */
  async replace(identifiers: KeyIdentifiers): Promise<void> {
    await this.stop();
    this.#daemon = this.#made(identifiers);
    this.start();
  }

  /** As `cmctl renew` does: a condition in the status of the Certificate. */
  async renew(namespace: string, name: string): Promise<void> {
    const path = certificatePath(namespace, name);
    const { status } = await this.#access.client.get(path);
    const others = ((status?.conditions ?? []) as KubeObject[]).filter(({ type }) => type !== 'Issuing');
    const issuing = {
      ...{ type: 'Issuing', status: 'True', reason: 'ManuallyTriggered', message: 'renewed by a test' },
      lastTransitionTime: new Date().toISOString(),
    };
    const answer = await this.#access.client.mergePatch(`${path}/status`, {
      status: { conditions: [...others, issuing] },
    });
    if (answer.status !== 200) throw new Error(`${name} cannot be renewed: ${answer.status} ${answer.body.message}`);
  }

  /** Of a Certificate; null: nobody has looked at it yet. */
  async readiness(namespace: string, name: string): Promise<string | null> {
    const { body } = await this.#access.client.call('GET', certificatePath(namespace, name));
    const conditions = (body?.status?.conditions ?? []) as KubeObject[];
    return conditions.find(({ type }) => type === 'Ready')?.status ?? null;
  }

  #made(identifiers: KeyIdentifiers): Daemon {
    const { directory, kubeconfig } = this.#access;
    return new Daemon({
      ...{ name: 'cert-manager', file: this.#program, directory, logFile: join(directory, 'cert-manager.log') },
      args: [`--kubeconfig=${kubeconfig}`, '-v=2'],
      environment: { GODEBUG: `x509sha256skid=${identifiers === 'Sha1' ? 0 : 1}` },
    });
  }
}

/** An issuer that signs itself, and by it a root: Issuer `company-root`. */
export function companyRoot(namespace: string): readonly KubeObject[] {
  return [
    { ...API, kind: 'Issuer', metadata: { name: 'self', namespace }, spec: { selfSigned: {} } },
    authorityOf(namespace, 'company-root', 'self'),
    issuerBy(namespace, 'company-root'),
  ];
}

/** Certificate and Secret of one name, for an authority below an Issuer. */
export const authorityOf = (namespace: string, name: string, issuer: string): KubeObject => ({
  ...{ ...API, kind: 'Certificate', metadata: { name, namespace } },
  spec: {
    ...{ isCA: true, commonName: name, secretName: name, duration: YEAR },
    privateKey: { algorithm: 'ECDSA', size: 256, rotationPolicy: 'Never' },
    issuerRef: { name: issuer },
  },
});

/** An Issuer that signs with what is in the Secret of its name. */
export const issuerBy = (namespace: string, name: string, secretName = name): KubeObject => ({
  ...{ ...API, kind: 'Issuer', metadata: { name, namespace }, spec: { ca: { secretName } } },
});
