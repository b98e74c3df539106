/**
 * The operator program: `node operator/main.ts CONFIG` (an `OperatorConfig` as JSON). Holds nothing that cannot be read again from the API server; can be
 * killed at any time. Exit codes: 2 the configuration is wrong, 70 it could not start or an invariant broke, 0 stopped in order.
 */
import { readFile } from 'node:fs/promises';
import process from 'node:process';
import { setFlagsFromString } from 'node:v8';
import { VERSION } from '../common/platform/build-info.ts';
import { systemClock } from '../common/platform/clock.ts';
import { describeError, startLifecycle } from '../common/platform/lifecycle.ts';
import { createLogger } from '../common/platform/pino-logger.ts';
import { configFromArguments } from '../common/platform/program-config.ts';
import { createMetrics } from '../common/platform/prom-metrics.ts';
import { systemRandom } from '../common/platform/random.ts';
import { KubeClient } from './kube/client.ts';
import type { KubeIdentity } from './kube/identity.ts';
import { inClusterIdentity, kubeconfigIdentity } from './kube/kube-config.ts';
import { type OperatorConfig, parseOperatorConfig } from './operator-config.ts';
import { type RunningOperator, startOperator } from './program.ts';

const GRACE_MS = 15_000;
/** Between two full collections: a look leaves garbage, and nobody waits for milliseconds here (docs/performance.md). */
const HEAP_GROWTH = '--heap-growing-percent=30';

async function readConfig(file: string): Promise<OperatorConfig> {
  const text = await readFile(file, 'utf8');
  const filled = text.replace(/\$\(([A-Z_]+)\)/g, (all, name: string) => process.env[name] ?? all);
  return parseOperatorConfig(JSON.parse(filled), VERSION);
}

async function identityOf({ kubeconfig }: OperatorConfig): Promise<KubeIdentity> {
  if (kubeconfig !== '') return await kubeconfigIdentity({ file: kubeconfig });
  const found = await inClusterIdentity({ clock: systemClock });
  if (found === null) throw new Error('not in a pod: name a kubeconfig in the configuration');
  return found;
}

setFlagsFromString(HEAP_GROWTH);
const config = await configFromArguments('operator/main.ts', readConfig);
const logger = createLogger({
  fields: { program: 'operator', name: config.identity },
  level: config.logLevel,
  descriptor: 1,
});
let running: RunningOperator | null = null;
const lifecycle = startLifecycle({ logger, graceMs: GRACE_MS, stop: async () => running?.stop() });

try {
  const metrics = createMetrics({});
  const identity = await identityOf(config);
  const side = { clock: systemClock, random: systemRandom, log: logger, metrics };
  const api = new KubeClient({ identity, userAgent: `mailcluster-operator/${VERSION}`, ...side });
  running = await startOperator(config, { api, ...side });
  lifecycle.ready(running.facts);
} catch (error) {
  lifecycle.fatal(describeError(error), `look at ${process.argv[2]} and the kubeconfig it names`, error);
}
