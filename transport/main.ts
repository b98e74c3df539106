/**
 * The transport program: `node transport/main.ts CONFIG` (a `TransportConfig` as JSON). Owns one queue database. Exit codes: 2 the configuration is wrong,
 * 70 it could not start, its disk failed or an invariant broke, 0 stopped in order.
 */
import process from 'node:process';
import type { TransportConfig } from '../common/config.ts';
import { readTopology, readTransportConfig } from '../common/config-files.ts';
import { systemClock } from '../common/platform/clock.ts';
import { boundHeapGrowth } from '../common/platform/heap-growth.ts';
import { describeError, startLifecycle } from '../common/platform/lifecycle.ts';
import { createLogger } from '../common/platform/pino-logger.ts';
import { type PodCertificate, startPodCertificate } from '../common/platform/pod-certificate.ts';
import { configFromArguments } from '../common/platform/program-config.ts';
import { createMetrics } from '../common/platform/prom-metrics.ts';
import { systemRandom } from '../common/platform/random.ts';
import { openTlsNetwork, type TlsNetwork } from '../common/platform/tls-network.ts';
import { type RunningTransport, startTransport } from './program.ts';

const GRACE_MS = 10_000;

/** On every sample (observability.md): where this member stands. */
async function labels(config: TransportConfig): Promise<Readonly<Record<string, string>>> {
  const topology = await readTopology(config.topologyFile);
  const self = topology.members.find((member) => member.name === config.name);
  return { cluster: topology.cluster, dag: self?.dag ?? '', site: self?.site ?? '', member: config.name };
}

boundHeapGrowth();
const config = await configFromArguments('transport/main.ts', readTransportConfig);
const logger = createLogger({
  fields: { program: 'transport', name: config.name },
  level: config.logLevel,
  descriptor: 1,
});
let certificate: PodCertificate | null = null;
let network: TlsNetwork | null = null;
let running: RunningTransport | null = null;
const lifecycle = startLifecycle({
  logger,
  graceMs: GRACE_MS,
  stop: async () => {
    certificate?.close();
    await running?.stop();
  },
  reload: () => void running?.reload(),
});

try {
  const metrics = createMetrics(await labels(config));
  if (config.signer !== null) {
    certificate = await startPodCertificate(config.name, config.tls, config.signer, {
      clock: systemClock,
      random: systemRandom,
      log: logger,
      expires: (atMs) => metrics.set('certificate_expiration_timestamp_seconds', atMs / 1000, { purpose: 'peer' }),
      reload: async () => {
        await running?.reload();
        // What is opened later reads the files then.
        return (await network?.reload()) ?? true;
      },
    });
  }
  running = await startTransport(config, {
    clock: systemClock,
    random: systemRandom,
    log: logger,
    metrics,
    openNetwork: async (cluster) => {
      network = await openTlsNetwork({ files: config.tls, cluster, clock: systemClock, log: logger });
      return network;
    },
    onFatal: (reason) =>
      lifecycle.fatal(
        describeError(reason),
        'the disk or the process state cannot be trusted; the shadow copies are on its peers',
        reason,
      ),
  });
  lifecycle.ready(running.facts);
} catch (error) {
  lifecycle.fatal(describeError(error), `look at ${process.argv[2]} and the files it names`, error);
}
