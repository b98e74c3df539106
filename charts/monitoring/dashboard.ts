/**
 * What a dashboard is to us: rows of panels, each with its queries. Owns: the words that queries share (which series a viewer has chosen). PURE data;
 * `grafana.ts` makes Grafana's JSON of it, `test/process/dashboards.test.ts` asks a real Prometheus every query.
 */
export interface Query {
  readonly expr: string;
  /** Of the series, with `{{label}}`. */
  readonly legend: string;
}

export interface Panel {
  readonly title: string;
  /** What it shows, and what is good. */
  readonly description: string;
  /** As Grafana names units: short, s, bytes, ops, percentunit, dateTimeFromNow. */
  readonly unit: string;
  readonly kind: 'timeseries' | 'stat' | 'table';
  readonly queries: readonly Query[];
  /** From these values on: orange, red. */
  readonly limits?: { readonly warning: number; readonly critical?: number };
  /** Of 24; 8 without it, 4 for a stat. */
  readonly width?: number;
  readonly max?: number;
}

export interface Row {
  readonly title: string;
  readonly panels: readonly Panel[];
}

export interface Dashboard {
  /** File name and uid. */
  readonly name: string;
  readonly title: string;
  readonly description: string;
  /** `cluster`: variables namespace, cluster, dag, site, pod. `operator`: namespace and pod of the operator. */
  readonly variables: 'cluster' | 'operator';
  readonly rows: readonly Row[];
}

/** Every process of the MailClusters that are chosen. */
export const PODS = 'namespace=~"$namespace",cluster=~"$cluster",site=~"$site",pod=~"$pod"';
/** Front ends have no DAG. */
export const TRANSPORTS = `${PODS},dag=~"$dag"`;
export const OPERATORS = 'namespace=~"$namespace",pod=~"$pod"';

const name = (metric: string): string => `mailcluster_${metric}`;

export const transport = (metric: string, more = ''): string =>
  `${name(metric)}{${TRANSPORTS}${more === '' ? '' : `,${more}`}}`;
export const pods = (metric: string, more = ''): string => `${name(metric)}{${PODS}${more === '' ? '' : `,${more}`}}`;
export const operator = (metric: string): string => `${name(metric)}{${OPERATORS}}`;

export const sumBy = (labels: string, expr: string): string => `sum by (${labels}) (${expr})`;
export const maxBy = (labels: string, expr: string): string => `max by (${labels}) (${expr})`;
export const rate = (series: string): string => `rate(${series}[$__rate_interval])`;
export const increase = (series: string): string => `increase(${series}[$__rate_interval])`;

/** Of a histogram, over all chosen processes and by `labels`. */
export const quantile = (q: number, series: string, labels = ''): string =>
  `histogram_quantile(${q}, sum by (le${labels === '' ? '' : `, ${labels}`}) (${rate(series)}))`;

/** NaN means that nobody knows; a sum with it would say nothing of those who do. */
export const known = (series: string): string => `(${series} >= 0)`;

/** Half, nine of ten, all but one of a hundred. */
export const spread = (series: string): readonly Query[] => [
  { expr: quantile(0.5, series), legend: 'p50' },
  { expr: quantile(0.9, series), legend: 'p90' },
  { expr: quantile(0.99, series), legend: 'p99' },
];
