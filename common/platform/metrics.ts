/**
 * The metrics port; prom-client stands behind it in `prom-metrics.ts` and nowhere else. Names and labels come from the catalogue
 * (`metric-catalog.ts`), from which `docs/metrics.md` is generated. Names are written without the prefix `mailcluster_`.
 */
import type { MetricName } from './metric-catalog.ts';

export type Labels = Readonly<Record<string, string>>;

export interface Metrics {
  /** Adds to a counter. */
  increment(name: MetricName, labels?: Labels, by?: number): void;
  /** Sets a gauge. */
  set(name: MetricName, value: number, labels?: Labels): void;
  /** Observes into a histogram (seconds or bytes). */
  observe(name: MetricName, value: number, labels?: Labels): void;
}

export const silentMetrics: Metrics = {
  increment: () => undefined,
  set: () => undefined,
  observe: () => undefined,
};
