/** `authenticationResults` and `contentFilter` of a listener, from the resource to what a front end reads, and where it may ask. */
import { expect, test } from 'vitest';
import { parseFrontendConfig } from '../../common/config-parse.ts';
import { podConfig } from '../../common/pod-config.ts';
import { frontendConfig } from '../../operator/resources/configs.ts';
import { networkPolicies } from '../../operator/resources/policies.ts';
import { simTopology } from '../sim/topology.ts';
import { OPERATOR, resourcesOf, TWO_SITES } from './cluster-state.ts';

const OWNER = { name: 'contoso', namespace: 'mail', uid: 'cluster-uid' };
const POD = { POD_NAME: 'fe-abc12', POD_NAMESPACE: 'mail', POD_UID: 'u', POD_IP: '10.0.0.7', NODE_NAME: 'n1' };
const cluster = (settings: string) =>
  resourcesOf(`${TWO_SITES}  frontend: { listeners: [{ name: smtp, port: 25${settings} }] }\n`).cluster;

function read(settings: string) {
  const rendered = frontendConfig(cluster(settings), OWNER, OPERATOR, 'east');
  const parsed = parseFrontendConfig(podConfig(rendered, POD, null, () => undefined));
  if (parsed.kind === 'error') throw new Error(`${parsed.path}: ${parsed.problem}`);
  const [first] = parsed.value.listeners;
  return { hostname: parsed.value.hostname, results: first?.authenticationResults, filter: first?.contentFilter };
}

test('the authserv-id is what the greetings of all front ends end with, unless the resource says another', () => {
  const { hostname, results } = read(', authenticationResults: {}');
  expect(hostname).toBe(`fe-abc12.${results?.authservId}`);
  expect(results).toMatchObject({ checks: ['SPF', 'DKIM', 'DMARC'], timeoutMs: 5_000, dnsServers: [] });
  const said = '{ authservId: mx.example.org, checks: [DKIM, SPF], timeout: 1500ms, dnsServers: ["192.0.2.53:54"] }';
  expect(read(`, authenticationResults: ${said}`).results).toEqual({
    authservId: 'mx.example.org',
    checks: ['SPF', 'DKIM'],
    timeoutMs: 1_500,
    dnsServers: ['192.0.2.53:54'],
  });
});

test('a content filter is asked with patience and not passed by, unless the resource says so', () => {
  expect(read(', contentFilter: { address: "opendkim.mail.svc:8891" }').filter).toEqual({
    ...{ host: 'opendkim.mail.svc', port: 8_891, timeoutMs: 30_000, failurePolicy: 'Defer' },
  });
  const said = '{ address: "[2001:db8::1]:11332", timeout: 1m30s, failurePolicy: Accept }';
  expect(read(`, contentFilter: ${said}`).filter).toEqual({
    ...{ host: '2001:db8::1', port: 11_332, timeoutMs: 90_000, failurePolicy: 'Accept' },
  });
});

test('who does not have it gets the same configuration as before', () => {
  expect(read('').results).toBeUndefined();
  const rendered = JSON.stringify(frontendConfig(cluster(''), OWNER, OPERATOR, 'east'));
  expect(rendered).not.toContain('authenticationResults');
  expect(rendered).not.toContain('contentFilter');
});

test('front ends may go out to name servers and filters on ports of their own', () => {
  const ports = (settings: string): readonly string[] => {
    const document = simTopology({ sites: [1], dag: true, frontends: 1 });
    const policy = networkPolicies(cluster(settings), OWNER, OPERATOR, document).find(({ metadata }) =>
      metadata.name.endsWith('-frontend'),
    );
    if (policy === undefined) throw new Error('no policy');
    const { egress } = policy.spec as {
      readonly egress: readonly {
        readonly to?: unknown;
        readonly ports: readonly { protocol: string; port: number }[];
      }[];
    };
    return egress.flatMap(({ to, ports: open }) =>
      to === undefined ? open.map((one) => `${one.protocol} ${one.port}`) : [],
    );
  };
  expect(ports(', authenticationResults: {}')).toEqual(['UDP 53', 'TCP 53']);
  expect(ports(', contentFilter: { address: "[2001:db8::1]:8891" }')).toEqual(['UDP 53', 'TCP 53', 'TCP 8891']);
  expect(ports(', authenticationResults: { dnsServers: ["192.0.2.53", "[2001:db8::53]:5353"] }')).toEqual([
    'UDP 53',
    'TCP 53',
    'UDP 5353',
    'TCP 5353',
  ]);
});
