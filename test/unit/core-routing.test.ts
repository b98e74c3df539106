/** Where a recipient goes (semantics.md D1) as a table. */
import { describe, expect, it } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import { resolveRecipient } from '../../transport/core/routing.ts';
import { simTopology } from '../sim/topology.ts';

const HERE = { site: 'here', sizeBytes: 1 };

const base = simTopology({ sites: [1], dag: true, frontends: 1 });
const [alpha, beta] = base.databases;
if (alpha === undefined || beta === undefined) throw new Error('the topology of the simulator has two databases');
const connector = (name: string, domain: string, cost: number) => ({
  name,
  addressSpaces: [{ domain, cost }],
  smartHosts: [{ host: name, port: 25 }],
  mx: null,
  tls: 'None' as const,
  sites: [],
});
const document: TopologyDocument = {
  ...base,
  acceptedDomains: [
    { name: 'sim.example', type: 'Authoritative' },
    { name: 'Relay.example', type: 'ExternalRelay' },
  ],
  databases: [
    { ...alpha, domains: ['all.example'], addresses: ['Ann@sim.example', 'one@all.example'] },
    {
      ...beta,
      caseSensitiveLocalParts: true,
      addresses: ['Bob@sim.example', 'two@all.example', 'postmaster@sim.example'],
    },
    { ...beta, name: 'gone', addresses: ['gone@sim.example'], activeCopy: 'none' },
  ],
  sendConnectors: [
    connector('rest', '*', 1),
    connector('dear', 'partner.example', 20),
    connector('cheap', 'partner.example', 10),
    connector('wild', '*.partner.example', 1),
  ],
};

const where = (address: string): string => {
  const resolution = resolveRecipient(document, address, HERE);
  return resolution.kind === 'route' ? resolution.hop : resolution.kind;
};

describe('routing', () => {
  it.each([
    ['an address', 'Ann@sim.example', 'mailbox:alpha/main'],
    ['local parts without case', 'ANN@SIM.EXAMPLE', 'mailbox:alpha/main'],
    ['local parts with case where the database says so', 'bob@sim.example', 'unknown'],
    ['a domain of a database', 'anybody@all.example', 'mailbox:alpha/main'],
    ['an address beats a domain', 'two@all.example', 'mailbox:beta/main'],
    ['nobody in an authoritative domain', 'nobody@sim.example', 'unknown'],
    ['postmaster without a domain (RFC 5321 4.5.1)', 'postmaster', 'mailbox:beta/main'],
    ['a database without an active copy', 'gone@sim.example', 'unreachable'],
    ['the rest of the world', 'x@anywhere.example', 'connector:rest'],
    ['an accepted relay domain', 'x@relay.example', 'connector:rest'],
    ['the cheaper connector', 'x@partner.example', 'connector:cheap'],
    ['a subdomain', 'x@eu.partner.example', 'connector:wild'],
  ])('%s', (_title, address, expected) => expect(where(address)).toBe(expected));

  it('by MX each domain is a next hop of its own', () => {
    const mx = { port: 25, dnsServers: [], allowNetworks: [], ownNames: [] };
    const sendConnectors = [{ ...connector('out', '*', 1), smartHosts: [], mx }];
    const hopOf = (address: string) => resolveRecipient({ ...document, sendConnectors }, address, HERE);
    expect(hopOf('x@One.example')).toMatchObject({
      hop: 'connector:out/one.example',
      route: { kind: 'mx', connector: 'out', domain: 'one.example', mx },
    });
    expect(hopOf('x@two.example')).toMatchObject({ hop: 'connector:out/two.example' });
  });

  it('without a connector a foreign domain waits', () => {
    expect(resolveRecipient({ ...document, sendConnectors: [] }, 'x@anywhere.example', HERE).kind).toBe('unreachable');
  });
});
