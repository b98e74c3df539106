/** Where a message would go from here (view.ts): what the core decides, the hosts as they would be tried now, and what waits for them. Asks DNS, changes nothing. */
import { explainRoute } from '../core/route-explanation.ts';
import type { HostsOf } from './delivery-api.ts';
import type { TransportServer } from './server.ts';
import type { RouteView } from './view.ts';

export async function routeView(
  server: TransportServer,
  hostsOf: HostsOf,
  address: string,
  sizeBytes: number,
): Promise<RouteView> {
  const { core, deps } = server;
  const { site, boundary } = core.self;
  const { route, ...told } = explainRoute(core.document, address, { site, boundary, sizeBytes });
  const hop = told.nextHop === null ? undefined : core.hops.get(told.nextHop);
  const offsetMs = deps.clock.wallMs() - deps.clock.monotonicMs();
  const hosts = route === null || route.kind === 'mailbox' || route.kind === 'boundary' ? null : await hostsOf(route);
  return {
    ...told,
    site,
    hosts: hosts?.hosts ?? [],
    hostsProblem: hosts?.problem ?? null,
    policy: hosts?.policy ?? null,
    waiting: hop === undefined ? 0 : hop.ready.size + hop.active,
    nextRetryMs: hop === undefined || hop.retryAtMs === null ? null : Math.round(hop.retryAtMs + offsetMs),
    lastError: hop?.lastError ?? null,
  };
}
