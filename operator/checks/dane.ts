/**
 * Send connectors with `mx.dane: Enforce` whose resolvers do not validate (docs/decisions/0036-dane.md): their mail goes out as without DANE. Owns: the words, with what to do. Promise: only
 * what the spec names now is told, whatever members remember of resolvers that they asked before; it goes by itself. Known from the first mail on that such a connector sends. PURE.
 */
import { nameServer, shownNameServer } from '../../common/name-server.ts';
import { type Finding, refuse } from './finding.ts';
import type { Situation } from './situation.ts';

const REMEDY =
  'turn DNSSEC validation on there (unbound: auto-trust-anchor-file) and see that nothing in between drops the flag ad, or list resolvers that validate; else set mx.dane to Ignore';

export function dane({ cluster, members }: Situation): readonly Finding[] {
  return cluster.spec.sendConnectors.flatMap(({ name, mx }) => {
    if (mx?.dane !== 'Enforce') return [];
    const found = (mx.dnsServers ?? []).flatMap((written) => {
      const server = shownNameServer(nameServer(written));
      const by = members.filter(({ report }) => report?.unvalidatedResolvers.includes(server) === true);
      return by.length === 0 ? [] : [`${server} (say ${by.map((member) => member.name).join(', ')})`];
    });
    if (found.length === 0) return [];
    const message = `send connector ${name} has mx.dane: Enforce, but of its mx.dnsServers ${found.join(' and ')} do not validate DNSSEC: mail goes out as without DANE; ${REMEDY}`;
    return [refuse('DaneUnvalidated', message, { condition: 'Progressing' })];
  });
}
