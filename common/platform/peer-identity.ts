/**
 * Who a certificate names. Owns: the subject alternative name `mailcluster://CLUSTER/ROLE/NAME` by which processes of one cluster know
 * each other. Refuses certificates without exactly one such name, and names with characters that a certificate text could be
 * confused by.
 */
import type { PeerName, PeerRole } from './net.ts';

/** Who only looks: no process of the cluster, so no peer of anybody (docs/decisions/0014-kubectl-plugin.md). */
export type ViewerRole = 'viewer';

/** Whom an admin API answers. */
export interface AdminClient {
  readonly role: 'operator' | ViewerRole;
  readonly name: string;
}

const LABEL = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$/;
const ENTRY = /^URI:mailcluster:\/\/([^/]+)\/(transport|frontend|operator|viewer)\/([^/]+)$/;

interface Named {
  readonly role: PeerRole | ViewerRole;
  readonly name: string;
}

/** The URI for a certificate; throws when a part has characters it must not have. */
export function peerUri(cluster: string, peer: Named): string {
  if (!LABEL.test(cluster)) throw new Error(`cluster name ${JSON.stringify(cluster)} cannot stand in a certificate`);
  if (!LABEL.test(peer.name)) throw new Error(`name ${JSON.stringify(peer.name)} cannot stand in a certificate`);
  return `mailcluster://${cluster}/${peer.role}/${peer.name}`;
}

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

/** The process of the cluster that a certificate names. A viewer is none. */
export function peerOfSubjectAltName(subjectAltName: string | undefined, cluster: string): PeerName | string {
  const named = nameIn(subjectAltName, cluster);
  if (typeof named === 'string') return named;
  return named.role === 'viewer'
    ? `the certificate is of viewer ${named.name}`
    : { role: named.role, name: named.name };
}

/** Who may ask an admin API: the operator, and people it gave a certificate of a viewer. */
export function adminClientOfSubjectAltName(subjectAltName: string | undefined, cluster: string): AdminClient | string {
  const named = nameIn(subjectAltName, cluster);
  if (typeof named === 'string') return named;
  const { role, name } = named;
  return role === 'operator' || role === 'viewer' ? { role, name } : `the certificate is of ${role} ${name}`;
}
