/** What is running: version of the package and of Node, as the metric `build_info` (Prometheus convention: always 1). */
import packageJson from '../../package.json' with { type: 'json' };
import type { Metrics } from './metrics.ts';

export const VERSION: string = packageJson.version;

export function exportBuildInfo(metrics: Metrics): void {
  metrics.set('build_info', 1, { version: VERSION, node: process.version });
}
