/**
 * The metrics port over prom-client; the only import of it. Owns: one registry per process with every metric of the catalogue and the
 * runtime's own (event loop lag, GC, memory, CPU), all with the prefix `mailcluster_`. Output is OpenMetrics text.
 * Promise: counters and histograms without labels, or with labels whose values are declared, are exported from the start with 0; a gauge only once it was set, because a 0 nobody
 * measured would be a lie (`unprotected_messages` above all). Refuses labels the catalogue does not declare (throws: a bug).
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, type OpenMetricsContentType, Registry } from 'prom-client';
import { METRIC_CATALOG, type MetricDeclaration, type MetricName } from './metric-catalog.ts';
import type { Labels, Metrics } from './metrics.ts';

export const METRIC_PREFIX = 'mailcluster_';

export interface ExportedMetrics extends Metrics {
  /** What `content-type` the text of `render` has. */
  readonly contentType: string;
  render(): Promise<string>;
  /** Runs before each rendering, to set gauges from state that is cheap to read. */
  onRender(update: () => void): void;
}

type Instrument =
  | { readonly kind: 'counter'; readonly metric: Counter }
  | { readonly kind: 'gauge'; readonly metric: Gauge }
  | { readonly kind: 'histogram'; readonly metric: Histogram };

type OpenRegistry = Registry<OpenMetricsContentType>;

function instrument(registry: OpenRegistry, name: string, declaration: MetricDeclaration): Instrument {
  const options = {
    name: METRIC_PREFIX + name,
    help: declaration.help,
    labelNames: [...declaration.labels],
    registers: [registry],
  };
  switch (declaration.type) {
    case 'counter':
      return { kind: 'counter', metric: new Counter(options) };
    case 'gauge':
      return { kind: 'gauge', metric: new Gauge(options) };
    case 'histogram':
      return { kind: 'histogram', metric: new Histogram({ ...options, buckets: [...(declaration.buckets ?? [])] }) };
  }
}

/** Every combination of the declared values; none when a label has no declared ones. */
function combinations({ labels, values }: MetricDeclaration): readonly Labels[] {
  if (values === undefined) return [];
  return labels.reduce<readonly Labels[]>(
    (sets, label) => sets.flatMap((set) => (values[label] ?? []).map((value) => ({ ...set, [label]: value }))),
    [{}],
  );
}

function exportedFromTheStart({ kind, metric }: Instrument, declaration: MetricDeclaration): void {
  for (const labels of combinations(declaration)) {
    if (kind === 'counter') metric.inc(labels, 0);
    else if (kind === 'histogram') metric.zero(labels);
  }
}

/** `defaults`: cluster, dag, site, member; on every sample. */
export function createMetrics(defaults: Labels): ExportedMetrics {
  const registry: OpenRegistry = new Registry();
  registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE);
  registry.setDefaultLabels({ ...defaults });
  // Every sample of the event loop's delay wakes an idle process: ten a second, not prom-client's hundred.
  collectDefaultMetrics({ register: registry, prefix: METRIC_PREFIX, eventLoopMonitoringPrecision: 100 });
  const instruments = new Map<MetricName, Instrument>();
  for (const [name, declaration] of Object.entries(METRIC_CATALOG)) {
    if (declaration.type === 'gauge') continue;
    const made = instrument(registry, name, declaration);
    instruments.set(name as MetricName, made);
    exportedFromTheStart(made, declaration);
  }
  const gauge = (name: MetricName): Instrument | undefined => {
    const declaration: MetricDeclaration | undefined = METRIC_CATALOG[name];
    if (declaration?.type !== 'gauge') return undefined;
    const made = instrument(registry, name, declaration);
    instruments.set(name, made);
    return made;
  };
  const updates: (() => void)[] = [];

  const find = <K extends Instrument['kind']>(name: MetricName, kind: K): Extract<Instrument, { kind: K }> => {
    const found = instruments.get(name) ?? gauge(name);
    if (found?.kind !== kind)
      throw new TypeError(`metric ${name} is a ${found?.kind ?? 'stranger'}, used as a ${kind}`);
    return found as Extract<Instrument, { kind: K }>;
  };

  return {
    contentType: registry.contentType,
    increment: (name, labels = {}, by = 1) => find(name, 'counter').metric.inc(labels, by),
    set: (name, value, labels = {}) => find(name, 'gauge').metric.set(labels, value),
    observe: (name, value, labels = {}) => find(name, 'histogram').metric.observe(labels, value),
    onRender: (update) => updates.push(update),
    render: async () => {
      for (const update of updates) update();
      return await registry.metrics();
    },
  };
}
