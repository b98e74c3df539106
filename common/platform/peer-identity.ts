/**
 * Who a certificate names. Owns: the subject alternative name `mailcluster://CLUSTER/ROLE/NAME` by which processes of one cluster know
 * each other. Refuses certificates without exactly one such name, and names with characters that a certificate text could be
 * confused by.
 */
import type { PeerName, PeerRole } from './net.ts';

/** Who only looks, and who may have mail itself as well: no process of the cluster, so no peer of anybody (docs/decisions/0014-kubectl-plugin.md). */
export type PersonRole = 'viewer' | 'exporter';

/** Whom an admin API answers. */
export interface AdminClient {
  readonly role: 'operator' | PersonRole;
  readonly name: string;
  /** Who it is, as the API server knows them; null where the certificate does not say. */
  readonly user: string | null;
}

const LABEL = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$/;
const ENTRY = /^URI:mailcluster:\/\/([^/]+)\/(transport|frontend|operator|viewer|exporter)\/([^/]+)$/;

const USER = 'mailcluster-user:';

interface Named {
  readonly role: PeerRole | PersonRole;
  readonly name: string;
}

/** The URI for a certificate; throws when a part has characters it must not have. */
export function peerUri(cluster: string, peer: Named): string {
  if (!LABEL.test(cluster)) throw new Error(`cluster name ${JSON.stringify(cluster)} cannot stand in a certificate`);
  if (!LABEL.test(peer.name)) throw new Error(`name ${JSON.stringify(peer.name)} cannot stand in a certificate`);
  return `mailcluster://${cluster}/${peer.role}/${peer.name}`;
}

/** The URI that says who a person is, besides the one with the role. Only characters that a text form shows as they are. */
export function userUri(user: string): string {
  const hex = (one: string): string => `%${one.charCodeAt(0).toString(16).toUpperCase()}`;
  return USER + encodeURIComponent(user).replaceAll(/[!'()*]/g, hex);
}

function userIn(subjectAltName: string | undefined): string | null {
  const entry = (subjectAltName ?? '').split(', ').find((one) => one.startsWith(`URI:${USER}`));
  if (entry === undefined) return null;
  const text = entry.slice(`URI:${USER}`.length);
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (error instanceof URIError) return text;
    throw error;
  }
}

export const isPerson = (role: Named['role'] | null): role is PersonRole => role === 'viewer' || role === 'exporter';

/** The name in the text form of a subject alternative name as Node gives it (`URI:..., DNS:...`). A string is the reason why there is none. */
function nameIn(subjectAltName: string | undefined, cluster: string): Named | string {
  // Entries with commas or quotes come quoted and therefore never match.
  const entries = (subjectAltName ?? '').split(', ').filter((entry) => entry.includes('mailcluster:'));
  const [entry] = entries;
  if (entry === undefined) return 'the certificate names no member of a cluster';
  if (entries.length > 1) return 'the certificate names several members';
  const [, itsCluster, role, name] = ENTRY.exec(entry) ?? [];
  if (itsCluster === undefined || name === undefined || !LABEL.test(name)) return `the certificate names ${entry}`;
  if (itsCluster !== cluster) return `the certificate is of cluster ${itsCluster}`;
  return { role: role as Named['role'], name };
}

/** The process of the cluster that a certificate names. A person is none. */
export function peerOfSubjectAltName(subjectAltName: string | undefined, cluster: string): PeerName | string {
  const named = nameIn(subjectAltName, cluster);
  if (typeof named === 'string') return named;
  const { role, name } = named;
  return isPerson(role) ? `the certificate is of ${role} ${name}` : { role, name };
}

/** Who may ask an admin API: the operator, and people it gave a certificate. */
export function adminClientOfSubjectAltName(subjectAltName: string | undefined, cluster: string): AdminClient | string {
  const named = nameIn(subjectAltName, cluster);
  if (typeof named === 'string') return named;
  const { role, name } = named;
  return role === 'operator' || isPerson(role)
    ? { role, name, user: userIn(subjectAltName) }
    : `the certificate is of ${role} ${name}`;
}
