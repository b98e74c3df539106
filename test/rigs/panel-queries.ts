/** The queries of our dashboards and rules as a test asks them: variables replaced as Grafana would. PURE. */
import type { Dashboard } from '../../charts/monitoring/dashboard.ts';

export interface PanelQuery {
  readonly panel: string;
  readonly expr: string;
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
    panels.flatMap(({ title, queries }) => queries.map(({ expr }) => ({ panel: title, expr: replaced(expr) }))),
  );
}

/** Of ours, without the endings of histograms; recording rules (`mailcluster:...`) are none. */
export function metricsIn(expr: string): readonly string[] {
  return [...new Set([...expr.matchAll(/\bmailcluster_[a-z0-9_]+/g)].map(([name]) => name))];
}
