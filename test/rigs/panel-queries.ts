/** The queries of our dashboards and rules as a test asks them: variables replaced as Grafana would. PURE. */
import type { Dashboard, Panel } from '../../charts/monitoring/dashboard.ts';

export interface PanelQuery {
  readonly panel: string;
  readonly expr: string;
  readonly legend: string;
  readonly kind: Panel['kind'];
}

/** `All` of every variable that is not given. */
export function panelQueries(
  { rows }: Dashboard,
  chosen: Readonly<Record<string, string>>,
  rateInterval: string,
): readonly PanelQuery[] {
  const replaced = (expr: string): string =>
    expr
      .replaceAll('$__rate_interval', rateInterval)
      .replaceAll(/\$(namespace|cluster|dag|site|pod)\b/g, (_, name: string) => chosen[name] ?? '.*');
  return rows.flatMap(({ panels }) =>
    panels.flatMap(({ title, kind, queries }) =>
      queries.map(({ expr, legend }) => ({ panel: title, expr: replaced(expr), legend, kind })),
    ),
  );
}

/** Of ours, without the endings of histograms; recording rules (`mailcluster:...`) are none. */
export function metricsIn(expr: string): readonly string[] {
  return [...new Set([...expr.matchAll(/\bmailcluster_[a-z0-9_]+/g)].map(([name]) => name))];
}

/** The name that Grafana gives a series. */
export const legendOf = (legend: string, labels: Readonly<Record<string, string>>): string =>
  legend.replaceAll(/\{\{([a-z_]+)\}\}/g, (_, label: string) => labels[label] ?? '');
