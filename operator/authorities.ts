/**
 * The authorities of the clusters, from their Secrets, and our own certificate under each. Owns: what was parsed, by version of the Secret.
 * Promise: keys stay in memory and in no log; one parse per version; our certificate (role `operator`) is renewed at half its life. A Secret that holds no
 * usable authority is a problem in words, not an exception.
 */
import { X509Certificate } from 'node:crypto';
import type { Clock } from '../common/platform/clock.ts';
import type { Random } from '../common/platform/random.ts';
import { certificatesIn } from '../common/trust.ts';
import { type AdminTls, withContext } from './admin-client.ts';
import type { Gathered } from './gathered.ts';
import { CONFIG_MAP, SECRET } from './kube/kinds.ts';
import { type Authority, isPair, issueCertificate, loadAuthority, rootOf } from './pki.ts';
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

async function load(secret: Watched, known: readonly string[], side: AuthoritiesSide): Promise<Loaded> {
  const [certificatePem, keyPem] = [textOf(secret, 'tls.crt'), textOf(secret, 'tls.key')];
  if (certificatePem === null || keyPem === null) return { ok: false, problem: 'needs the keys tls.crt and tls.key' };
  try {
    const certificate = new X509Certificate(certificatePem);
    if (!certificate.ca) return { ok: false, problem: 'tls.crt is no certificate of an authority' };
    const authority = await loadAuthority({ certificatePem, keyPem });
    if (!(await isPair(authority))) return { ok: false, problem: 'tls.key is not the key of tls.crt' };
    const beside = besides(certificatePem, textOf(secret, TRUST_KEY) ?? '', known);
    const trustPem = [await rootOf(authority, known, side), ...beside];
    return {
      ok: true,
      authority,
      trustPem: [...new Set(trustPem)].map((one) => `${one}\n`).join(''),
      notAfterMs: Date.parse(certificate.validTo),
    };
  } catch (error) {
    return {
      ok: false,
      problem: `holds no usable authority (${error instanceof Error ? error.message : String(error)})`,
    };
  }
}

/** What is being replaced stays trusted beside it. An issuer above it is not: whom else that vouches for is no member of ours. */
function besides(certificatePem: string, caPem: string, known: readonly string[]): readonly string[] {
  const parsed = (pem: string): X509Certificate => new X509Certificate(pem);
  const [own, ...others] = [...certificatesIn(certificatePem), ...certificatesIn(caPem)].map(parsed);
  const above = new Set(own === undefined ? [] : [own]);
  for (const one of above)
    for (const other of others) if (one.checkIssued(other) && one.verify(other.publicKey)) above.add(other);
  const issuers = new Set([...above].map(({ fingerprint256 }) => fingerprint256));
  const kept = certificatesIn(caPem).filter((pem) => !issuers.has(parsed(pem).fingerprint256));
  // The root that stood for it while it signed stands for what it has signed.
  return kept.map((pem) => known.find((root) => isSameAuthority(parsed(root), parsed(pem))) ?? pem);
}

function isReadable(pem: string): boolean {
  try {
    return new X509Certificate(pem).ca;
  } catch {
    // Somebody wrote into what we made; the plan puts it right.
    return false;
  }
}

const isSameAuthority = (one: X509Certificate, other: X509Certificate): boolean =>
  one.subject === other.subject && one.publicKey.equals(other.publicKey);

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
    const fresh: Kept = { version, loaded: load(secret, this.#trusted(namespace, cluster), this.#side), tls: null };
    this.#kept.set(key, fresh);
    return fresh;
  }

  /** What pods trust already: a root that we made is there, and nowhere else. */
  #trusted(namespace: string, cluster: string): readonly string[] {
    const { data } = this.#side.world.get(CONFIG_MAP, namespace, named.trust(cluster)) ?? {};
    const text = (data as Readonly<Record<string, string>> | undefined)?.[TRUST_KEY];
    return certificatesIn(text ?? '').filter(isReadable);
  }
}
