/**
 * The authorities of the clusters, from their Secrets, and our own certificate under each. Owns: what was parsed, by version of the Secret.
 * Promise: keys stay in memory and in no log; one parse per version; our certificate (role `operator`) is renewed at half its life. A Secret that holds no
 * usable authority is a problem in words, not an exception.
 */
import { X509Certificate } from 'node:crypto';
import type { Clock } from '../common/platform/clock.ts';
import type { Random } from '../common/platform/random.ts';
import { type AdminTls, withContext } from './admin-client.ts';
import type { Gathered } from './gathered.ts';
import { SECRET } from './kube/kinds.ts';
import { type Authority, issueCertificate, loadAuthority } from './pki.ts';
import { named, TRUST_KEY } from './resources/names.ts';
import type { Watched, World } from './world.ts';

export interface AuthoritiesSide {
  readonly world: Pick<World, 'get'>;
  readonly clock: Clock;
  readonly random: Random;
}

type Loaded =
  | { readonly ok: true; readonly authority: Authority; readonly trustPem: string; readonly notAfterMs: number }
  | { readonly ok: false; readonly problem: string };

interface Kept {
  readonly version: string;
  readonly loaded: Promise<Loaded>;
  tls: { readonly untilMs: number; readonly identity: Promise<AdminTls> } | null;
}

const OPERATOR_DAYS = 2;
const RENEW_MS = 86_400_000;
export const OPERATOR_NAME = 'mailcluster-operator';

const textOf = (secret: Watched, key: string): string | null => {
  const value = (secret.data as Readonly<Record<string, string>> | undefined)?.[key];
  return value === undefined ? null : Buffer.from(value, 'base64').toString('utf8');
};

async function load(secret: Watched): Promise<Loaded> {
  const [certificatePem, keyPem] = [textOf(secret, 'tls.crt'), textOf(secret, 'tls.key')];
  if (certificatePem === null || keyPem === null) return { ok: false, problem: 'needs the keys tls.crt and tls.key' };
  try {
    const certificate = new X509Certificate(certificatePem);
    if (!certificate.ca) return { ok: false, problem: 'tls.crt is no certificate of an authority' };
    const authority = await loadAuthority({ certificatePem, keyPem });
    if (!(await isPair(authority))) return { ok: false, problem: 'tls.key is not the key of tls.crt' };
    // cert-manager puts the issuer's chain there; ours is its own root. What is being replaced stays trusted beside it.
    const trustPem = [certificatePem, textOf(secret, TRUST_KEY) ?? ''].filter((one) => one !== '');
    return {
      ok: true,
      authority,
      trustPem: [...new Set(trustPem.map((one) => `${one.trim()}\n`))].join(''),
      notAfterMs: Date.parse(certificate.validTo),
    };
  } catch (error) {
    return {
      ok: false,
      problem: `holds no usable authority (${error instanceof Error ? error.message : String(error)})`,
    };
  }
}

async function isPair(authority: Authority): Promise<boolean> {
  const made = await issueCertificate(authority, { cluster: 'check', role: null, name: 'check', hosts: [], days: 1 });
  return new X509Certificate(made.certificatePem).verify(new X509Certificate(authority.certificatePem).publicKey);
}

export class Authorities {
  readonly #side: AuthoritiesSide;
  readonly #kept = new Map<string, Kept>();

  constructor(side: AuthoritiesSide) {
    this.#side = side;
  }

  async view(namespace: string, cluster: string): Promise<Gathered['authority']> {
    const kept = this.#find(namespace, cluster);
    if (kept === null) return { kind: 'absent' };
    const loaded = await kept.loaded;
    if (!loaded.ok) return { kind: 'invalid', problem: loaded.problem };
    return { kind: 'present', view: { trustPem: loaded.trustPem, notAfterMs: loaded.notAfterMs } };
  }

  /** For the signing endpoint. */
  async authority(namespace: string, cluster: string): Promise<Authority | null> {
    const loaded = await this.#find(namespace, cluster)?.loaded;
    return loaded?.ok === true ? loaded.authority : null;
  }

  /** By which the admin APIs of this cluster know us; null: there is no authority yet. */
  async identity(namespace: string, cluster: string): Promise<AdminTls | null> {
    const { clock } = this.#side;
    const kept = this.#find(namespace, cluster);
    const loaded = await kept?.loaded;
    if (kept === null || loaded?.ok !== true) return null;
    if (kept.tls === null || kept.tls.untilMs <= clock.wallMs())
      kept.tls = { untilMs: clock.wallMs() + RENEW_MS, identity: this.#issue(cluster, loaded) };
    return kept.tls.identity;
  }

  forget(namespace: string, cluster: string): void {
    this.#kept.delete(`${namespace}/${cluster}`);
  }

  async #issue(cluster: string, { authority, trustPem }: Loaded & { ok: true }): Promise<AdminTls> {
    const request = { cluster, role: 'operator', name: OPERATOR_NAME, hosts: [], days: OPERATOR_DAYS } as const;
    const { certificatePem, keyPem } = await issueCertificate(authority, request, this.#side);
    return withContext({ ca: trustPem, cert: certificatePem, key: keyPem, cluster });
  }

  #find(namespace: string, cluster: string): Kept | null {
    const key = `${namespace}/${cluster}`;
    const secret = this.#side.world.get(SECRET, namespace, named.authority(cluster));
    if (secret === undefined) {
      this.#kept.delete(key);
      return null;
    }
    const version = `${secret.metadata.uid} ${secret.metadata.resourceVersion}`;
    const kept = this.#kept.get(key);
    if (kept?.version === version) return kept;
    const fresh: Kept = { version, loaded: load(secret), tls: null };
    this.#kept.set(key, fresh);
    return fresh;
  }
}
