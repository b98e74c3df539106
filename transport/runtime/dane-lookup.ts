/**
 * What the hosts of a domain must prove with DANE (RFC 7672 2.2). Owns: where TLSA records are looked for, and what it means when there are none. Promise: a host of which it
 * cannot be learnt whether it has TLSA records is not used (2.1.2: no downgrade by breaking DNS); none are believed that were not validated.
 */
import type { Metrics } from '../../common/platform/metrics.ts';
import type { ValidatingDns } from '../../common/platform/validating-dns.ts';
import { type DaneProof, MOST_RECORDS, shownTlsa, usableRecords } from '../../common/smtp/dane.ts';
import type { MxAnswer, MxTarget } from './mx-lookup.ts';

export type HostDane =
  | { readonly kind: 'proof'; readonly proof: DaneProof }
  /** Records that say nothing to us: TLS, whatever the certificate (2.2). */
  | { readonly kind: 'unusable'; readonly why: string }
  /** The connector decides. */
  | { readonly kind: 'none' | 'unvalidated'; readonly why: string }
  | { readonly kind: 'unresolved'; readonly reason: string };

type Targets = Extract<MxAnswer, { kind: 'targets' }>;

/** By name of the host. */
export async function lookUpDane(
  domain: string,
  { targets, provenNames }: Targets,
  port: number,
  dns: ValidatingDns,
  metrics: Metrics,
): Promise<ReadonlyMap<string, HostDane>> {
  const hosts = [...new Map(targets.map((target) => [target.name, target])).values()];
  const found = await Promise.all(
    hosts.map(async (host): Promise<readonly [string, HostDane]> => {
      const said =
        provenNames.length === 0 ? await unproven(`MX of ${domain}`, dns) : await ofHost(host, provenNames, port, dns);
      metrics.increment('dane_hosts_total', { result: said.kind });
      return [host.name, said];
    }),
  );
  return new Map(found);
}

async function ofHost(
  { name, tlsaBases = [] }: MxTarget,
  domainNames: readonly string[],
  port: number,
  dns: ValidatingDns,
): Promise<HostDane> {
  if (tlsaBases.length === 0) return unproven(`the address of ${name}`, dns);
  for (const base of tlsaBases) {
    const answer = await dns.tlsa(`_${port}._tcp.${base}`);
    if (answer.kind === 'temporary') return { kind: 'unresolved', reason: answer.reason };
    if (answer.kind !== 'records' || (answer.provenNames ?? []).length === 0) continue;
    const records = usableRecords(answer.records);
    if (records.length > MOST_RECORDS)
      return { kind: 'unresolved', reason: `TLSA of ${base}: ${records.length} records, more than ${MOST_RECORDS}` };
    const said = answer.records.map(shownTlsa).join(', ');
    if (records.length === 0) return { kind: 'unusable', why: `${said} of ${base} cannot be used` };
    return { kind: 'proof', proof: { base, names: [...new Set([base, name, ...domainNames])], records } };
  }
  return { kind: 'none', why: `${tlsaBases.join(', ')} has no TLSA records for port ${port}` };
}

async function unproven(what: string, dns: ValidatingDns): Promise<HostDane> {
  return (await dns.validates()) === false
    ? { kind: 'unvalidated', why: 'mx.dnsServers do not validate DNSSEC' }
    : { kind: 'none', why: `${what} is not signed` };
}
