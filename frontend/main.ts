/**
 * The front end program: `node frontend/main.ts CONFIG` (a `FrontendConfig` as JSON). Stateless, can be killed at any time. Exit codes:
 * 2 the configuration is wrong, 70 it could not start or an invariant broke, 0 stopped in order.
 */
import process from 'node:process';
import { readFrontendConfig, readTopology } from '../common/config-files.ts';
import { systemClock } from '../common/platform/clock.ts';
import { growWithHeld } from '../common/platform/heap-growth.ts';
import { describeError, startLifecycle } from '../common/platform/lifecycle.ts';
import { createLogger } from '../common/platform/pino-logger.ts';
import { type PodCertificate, startPodCertificate } from '../common/platform/pod-certificate.ts';
import { configFromArguments } from '../common/platform/program-config.ts';
import { createMetrics } from '../common/platform/prom-metrics.ts';
import { systemRandom } from '../common/platform/random.ts';
import { openTlsNetwork, type TlsNetwork } from '../common/platform/tls-network.ts';
import { type RunningFrontend, startFrontend } from './program.ts';

/** A message may take until its reply bound (60 s) after the end of data; longer nobody waits. */
const GRACE_MS = 70_000;

const config = await configFromArguments('frontend/main.ts', readFrontendConfig);
const logger = createLogger({
  fields: { program: 'frontend', name: config.name },
  level: config.logLevel,
  descriptor: 1,
});
let certificate: PodCertificate | null = null;
let network: TlsNetwork | null = null;
let running: RunningFrontend | null = null;
const heap = growWithHeld(systemClock, () => 0);
const lifecycle = startLifecycle({
  logger,
  graceMs: GRACE_MS,
  stop: async (reason) => {
    heap[Symbol.dispose]();
    certificate?.close();
    await running?.stop(reason !== 'parent gone');
  },
  reload: () => void running?.reload(),
});

try {
  const { cluster } = await readTopology(config.topologyFile);
  const metrics = createMetrics({ cluster, member: config.name, site: config.site });
  if (config.signer !== null) {
    certificate = await startPodCertificate(config.name, config.tls, config.signer, {
      clock: systemClock,
      random: systemRandom,
      log: logger,
      expires: (atMs) => metrics.set('certificate_expiration_timestamp_seconds', atMs / 1000, { purpose: 'peer' }),
      // What is opened later reads the files then.
      reload: async () => (await network?.reload()) ?? true,
    });
  }
  running = await startFrontend(config, {
    clock: systemClock,
    random: systemRandom,
    log: logger,
    metrics,
    openNetwork: async (cluster) => {
      network = await openTlsNetwork({ files: config.tls, cluster, clock: systemClock, log: logger });
      return network;
    },
  });
  lifecycle.ready({ listeners: running.listeners, metricsPort: running.metricsPort });
} catch (error) {
  lifecycle.fatal(describeError(error), `look at ${process.argv[2]} and the files it names`, error);
}
