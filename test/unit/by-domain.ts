/** A core whose mail for the world goes to each domain by its MX: a next hop for each. */
import { CoreBench, PEER } from './core-bench.ts';

const mx = { port: 25, dnsServers: [], allowNetworks: [], ownNames: [] };

/** `atOnce`: deliveries to one domain. */
export function byDomain(atOnce?: number): CoreBench {
  const bench = new CoreBench({
    document: (document) => {
      const { policies, sendConnectors } = document;
      const maxConcurrentDeliveriesPerDestination = atOnce ?? policies.queues.maxConcurrentDeliveriesPerDestination;
      return {
        ...document,
        policies: { ...policies, queues: { ...policies.queues, maxConcurrentDeliveriesPerDestination } },
        sendConnectors: sendConnectors.map((one) => ({ ...one, smartHosts: [], mx })),
      };
    },
  });
  bench.join(PEER);
  return bench;
}
