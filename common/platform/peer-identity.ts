/**
 * Who a certificate names. Owns: the subject alternative name `mailcluster://CLUSTER/ROLE/NAME` by which processes of one cluster know
 * each other. Refuses certificates without exactly one such name, and names with characters that a certificate text could be
 * confused by.
 */
import type { PeerName } from './net.ts';

const LABEL = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$/;
const ENTRY = /^URI:mailcluster:\/\/([^/]+)\/(transport|frontend|operator)\/([^/]+)$/;

/** The URI for a certificate; throws when a part has characters it must not have. */
export function peerUri(cluster: string, peer: PeerName): string {
  if (!LABEL.test(cluster)) throw new Error(`cluster name ${JSON.stringify(cluster)} cannot stand in a certificate`);
  if (!LABEL.test(peer.name)) throw new Error(`name ${JSON.stringify(peer.name)} cannot stand in a certificate`);
  return `mailcluster://${cluster}/${peer.role}/${peer.name}`;
}

/**
 * The peer in the text form of a subject alternative name as Node gives it (`URI:..., DNS:...`; entries with commas or quotes come
 * quoted and therefore never match). A string is the reason why there is none.
 */
export function peerOfSubjectAltName(subjectAltName: string | undefined, cluster: string): PeerName | string {
  const entries = (subjectAltName ?? '').split(', ').filter((entry) => entry.includes('mailcluster:'));
  const [entry] = entries;
  if (entry === undefined) return 'the certificate names no member of a cluster';
  if (entries.length > 1) return 'the certificate names several members';
  const [, itsCluster, role, name] = ENTRY.exec(entry) ?? [];
  if (itsCluster === undefined || name === undefined || !LABEL.test(name)) return `the certificate names ${entry}`;
  if (role !== 'transport' && role !== 'frontend' && role !== 'operator') return `the certificate names ${entry}`;
  if (itsCluster !== cluster) return `the certificate is of cluster ${itsCluster}`;
  return { role, name };
}
