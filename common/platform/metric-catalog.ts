/** Every metric the programs export (observability.md). Owns: names, types, help, labels, buckets. The only place a metric is declared. */
export interface MetricDeclaration {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly labels: readonly string[];
  /** Histogram buckets in the unit of the name. */
  readonly buckets?: readonly number[];
}

const declare = <const T extends Record<string, MetricDeclaration>>(catalog: T): T => catalog;

export const METRIC_CATALOG = declare({
  messages_accepted_total: { type: 'counter', help: 'Messages answered 250, by protection.', labels: ['protection'] },
});

export type MetricName = keyof typeof METRIC_CATALOG;
