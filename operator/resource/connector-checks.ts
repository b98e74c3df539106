/**
 * What must hold between the send connectors of one MailCluster and costs too much as a rule of a CRD (64 connectors of 64 address spaces each): two that nobody
 * could choose between, one that points at ourselves; and what is odd but right. Owns: those checks. PURE.
 */

import { nameServer } from '../../common/name-server.ts';
import { inNetworks, networksOf } from '../../common/networks.ts';
import { pathsFrom } from '../../common/site-paths.ts';
import { named } from '../resources/names.ts';
import { siteLinks } from '../site-links.ts';
import type { MailCluster } from './generated.ts';
import type { Path } from './problem.ts';

type Say = (path: Path, problem: string, fix: string) => void;
type Connector = MailCluster['spec']['sendConnectors'][number];

const LOOPBACK = networksOf('loopback', ['127.0.0.0/8', '::1/128']);
const connectors: Path = ['spec', 'sendConnectors'];

export function checkConnectors({ metadata, spec }: MailCluster, say: Say): void {
  const transportSites = sitesOfTransports(spec);
  const all = spec.sendConnectors;
  for (const [at, connector] of all.entries())
    for (const [index, { domain, cost }] of connector.addressSpaces.entries()) {
      const path = [...connectors, at, 'addressSpaces', index];
      const equal = (other: Connector): boolean =>
        other.addressSpaces.some((space) => space.domain === domain && space.cost === cost);
      const rival = all.slice(0, at).find((other) => equal(other) && commonSites(other, connector).length > 0);
      if (rival === undefined) continue;
      const common = commonSites(rival, connector);
      const where = common.includes('*') ? 'every site' : common.join(', ');
      say(
        path,
        `send connectors ${rival.name} and ${connector.name} both serve ${domain} with cost ${cost} in ${where}`,
        'give one of them a higher cost, or give them different sites',
      );
    }
  const own = ownNames(metadata, spec);
  for (const [at, { name, smartHosts, sites }] of all.entries()) {
    for (const [index, { host }] of smartHosts.entries())
      if (own(host))
        say(
          [...connectors, at, 'smartHosts', index, 'host'],
          `send connector ${name} would bring mail back: ${host} is a name of this MailCluster`,
          'name a server outside; what is delivered here needs a MailboxDatabase, no send connector',
        );
    if (sites.length > 0 && !sites.some((site) => transportSites.has(site)))
      say(
        [...connectors, at, 'sites'],
        `send connector ${name} is for ${sites.join(', ')}, where there is no transport`,
        `add members there, or name a site with transports: ${[...transportSites].join(', ')}`,
      );
  }
}

/** `*`: all. */
function commonSites(a: Connector, b: Connector): readonly string[] {
  if (a.sites.length === 0 && b.sites.length === 0) return ['*'];
  if (a.sites.length === 0) return b.sites;
  return b.sites.length === 0 ? a.sites : a.sites.filter((site) => b.sites.includes(site));
}

function sitesOfTransports({ dags, standalone }: MailCluster['spec']): ReadonlySet<string> {
  const groups = [...dags.flatMap(({ members }) => members), ...standalone];
  return new Set(groups.filter(({ replicas }) => replicas > 0).map(({ site }) => site));
}

/** Names of the front ends: those that MX records are said to have, and the Service in cluster DNS. */
function ownNames({ name, namespace }: MailCluster['metadata'], spec: MailCluster['spec']): (host: string) => boolean {
  const said = new Set(spec.sendConnectors.flatMap(({ mx }) => mx?.ownNames ?? []));
  const service = named.smtpService(name);
  return (host) =>
    said.has(host) ||
    host === service ||
    host === `${service}.${namespace}` ||
    host === `${service}.${namespace}.svc` ||
    host.startsWith(`${service}.${namespace}.svc.`);
}

export function noteConnectors(cluster: MailCluster, note: Say): void {
  const { spec } = cluster;
  const authoritative = new Set(
    spec.acceptedDomains.filter(({ type }) => type === 'Authoritative').map((one) => one.name),
  );
  for (const [at, { name, delivery, tls, auth, mx, addressSpaces }] of spec.sendConnectors.entries()) {
    for (const [index, { domain }] of addressSpaces.entries())
      if (authoritative.has(domain))
        note(
          [...connectors, at, 'addressSpaces', index, 'domain'],
          `send connector ${name} is never used for ${domain}, an Authoritative domain`,
          'make its type InternalRelay or ExternalRelay if its mail is to leave the cluster',
        );
    if (auth !== undefined && tls === 'EncryptionOnly')
      note(
        [...connectors, at, 'tls'],
        `send connector ${name} tells its password to whoever answers: EncryptionOnly does not ask who that is`,
        'set tls to Required when the smart hosts have certificates of their names',
      );
    if (delivery !== 'MX') continue;
    if (mx?.dane === 'Enforce') {
      const [far] = mx.dnsServers.filter((server) => !isHere(server));
      if (far !== undefined)
        note(
          [...connectors, at, 'mx', 'dnsServers'],
          `send connector ${name} believes what ${far} calls validated: who can change packets on the way from there can forge TLSA records`,
          'let only an encrypted network, or one that nobody else writes to, be between it and the transports',
        );
      continue;
    }
    const protects = tls !== 'None' && mx?.mtaSts !== 'Ignore';
    note(
      [...connectors, at, 'delivery'],
      `send connector ${name} believes what DNS says${protects ? ' of domains without an MTA-STS policy' : ''}: DANE is off`,
      'set mx.dane to Enforce, with resolvers that validate DNSSEC in mx.dnsServers; to known partners use smart hosts with tls: Required',
    );
  }
  noteSites(cluster, note);
}

const isHere = (server: string): boolean => inNetworks(LOOPBACK, nameServer(server).address);

/** Sites whose transports have no way to where others send, of their own or over site links. */
function noteSites(cluster: MailCluster, note: Say): void {
  const { spec } = cluster;
  const links = siteLinks(cluster);
  const transportSites = sitesOfTransports(spec);
  const paths = new Map([...transportSites].map((site) => [site, pathsFrom(links, site, 0)]));
  const isJoined = (from: string, to: string): boolean =>
    from === to || (transportSites.has(to) && paths.get(from)?.has(to) === true);
  for (const [at, connector] of spec.sendConnectors.entries()) {
    if (connector.sites.length === 0) continue;
    for (const [index, { domain }] of connector.addressSpaces.entries()) {
      const serving = spec.sendConnectors.filter(({ addressSpaces }) =>
        addressSpaces.some((space) => space.domain === '*' || space.domain === domain || isBelow(domain, space.domain)),
      );
      const without = [...transportSites].filter(
        (site) => !serving.some(({ sites }) => sites.length === 0 || sites.some((one) => isJoined(site, one))),
      );
      if (without.length > 0)
        note(
          [...connectors, at, 'addressSpaces', index, 'domain'],
          `mail for ${domain === '*' ? 'other domains' : domain} waits in site ${without.join(', ')}: send connector ${connector.name} is not for transports there`,
          `add ${without.join(', ')} to its sites, or a send connector for them`,
        );
    }
  }
}

const isBelow = (domain: string, space: string): boolean =>
  space.startsWith('*.') && (domain === space.slice(2) || domain.endsWith(space.slice(1)));
