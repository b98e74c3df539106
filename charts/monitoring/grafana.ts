/** Grafana's JSON of our dashboards, by its own SDK (docs/decisions/0016-dashboards.md). Promise: the same dashboard is the same text. PURE. */
import { GraphThresholdsStyleConfigBuilder, GraphThresholdsStyleMode } from '@grafana/grafana-foundation-sdk/common';
import {
  DashboardBuilder,
  DashboardCursorSync,
  DashboardLinkBuilder,
  DashboardLinkType,
  DatasourceVariableBuilder,
  QueryVariableBuilder,
  RowBuilder,
  ThresholdsConfigBuilder,
  ThresholdsMode,
  VariableRefresh,
  VariableSort,
} from '@grafana/grafana-foundation-sdk/dashboard';
import { DataqueryBuilder, PromQueryFormat } from '@grafana/grafana-foundation-sdk/prometheus';
import { PanelBuilder as StatBuilder } from '@grafana/grafana-foundation-sdk/stat';
import { PanelBuilder as TableBuilder } from '@grafana/grafana-foundation-sdk/table';
import { PanelBuilder as TimeseriesBuilder } from '@grafana/grafana-foundation-sdk/timeseries';
import type { Dashboard, Panel } from './dashboard.ts';

const DATASOURCE = { type: 'prometheus', uid: '$datasource' };
const TAG = 'mailcluster';
const HEIGHTS = { timeseries: 8, table: 8, stat: 4 } as const;
const WIDTHS = { timeseries: 8, table: 12, stat: 4 } as const;

/** Which series have the label to choose from. A front end has no DAG, and the operator no cluster. */
const CLUSTER_VARIABLES: readonly (readonly [name: string, label: string, query: string])[] = [
  ['namespace', 'Namespace', 'label_values(mailcluster_topology_generation, namespace)'],
  ['cluster', 'MailCluster', 'label_values(mailcluster_topology_generation{namespace=~"$namespace"}, cluster)'],
  ['dag', 'DAG', 'label_values(mailcluster_topology_generation{namespace=~"$namespace",cluster=~"$cluster"}, dag)'],
  ['site', 'Site', 'label_values(mailcluster_topology_generation{namespace=~"$namespace",cluster=~"$cluster"}, site)'],
  [
    'pod',
    'Pod',
    'label_values(mailcluster_topology_generation{namespace=~"$namespace",cluster=~"$cluster",site=~"$site"}, pod)',
  ],
];
const OPERATOR_VARIABLES: typeof CLUSTER_VARIABLES = [
  ['namespace', 'Namespace', 'label_values(mailcluster_leader, namespace)'],
  ['pod', 'Pod', 'label_values(mailcluster_leader{namespace=~"$namespace"}, pod)'],
];

function variable([name, label, query]: (typeof CLUSTER_VARIABLES)[number]): QueryVariableBuilder {
  return new QueryVariableBuilder(name)
    .label(label)
    .datasource(DATASOURCE)
    .query(query)
    .refresh(VariableRefresh.OnTimeRangeChanged)
    .sort(VariableSort.AlphabeticalAsc)
    .multi(true)
    .includeAll(true)
    .allValue('.*')
    .current({ selected: true, text: ['All'], value: ['$__all'] });
}

function thresholds({ limits }: Panel): ThresholdsConfigBuilder {
  const steps = [
    { value: null, color: 'green' },
    ...(limits === undefined ? [] : [{ value: limits.warning, color: 'orange' }]),
    ...(limits?.critical === undefined ? [] : [{ value: limits.critical, color: 'red' }]),
  ];
  return new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps(steps);
}

/** Limits are colours of a number, and lines across a graph, which shows none unless told to. */
const LINES = new GraphThresholdsStyleConfigBuilder().mode(GraphThresholdsStyleMode.Dashed);

const BUILDERS = {
  timeseries: ({ limits }: Panel) => {
    const made = new TimeseriesBuilder().fillOpacity(8).lineWidth(1);
    return limits === undefined ? made : made.thresholdsStyle(LINES);
  },
  stat: () => new StatBuilder(),
  // Of an instant query the time is that of the reader's clock.
  table: () =>
    new TableBuilder().withTransformation({
      id: 'organize',
      options: { excludeByName: { Time: true }, indexByName: {}, renameByName: {} },
    }),
} as const;

function query({ expr, legend }: Panel['queries'][number], at: number, kind: Panel['kind']): DataqueryBuilder {
  const made = new DataqueryBuilder()
    .refId(String.fromCharCode(65 + at))
    .datasource(DATASOURCE)
    .expr(expr)
    .legendFormat(legend);
  // As series, a table would show the first one, and a list to choose another from.
  return kind === 'table' ? made.instant().format(PromQueryFormat.Table) : made.range();
}

function panel(one: Panel) {
  const made = BUILDERS[one.kind](one)
    .title(one.title)
    .description(one.description)
    .datasource(DATASOURCE)
    .unit(one.unit)
    .height(HEIGHTS[one.kind])
    .span(one.width ?? WIDTHS[one.kind])
    .thresholds(thresholds(one))
    .targets(one.queries.map((each, at) => query(each, at, one.kind)));
  return one.max === undefined ? made : made.max(one.max);
}

/** Pretty, so that a change can be read. */
export function grafanaJson(dashboard: Dashboard): string {
  const variables = dashboard.variables === 'cluster' ? CLUSTER_VARIABLES : OPERATOR_VARIABLES;
  const builder = new DashboardBuilder(dashboard.title)
    .uid(dashboard.name)
    .description(dashboard.description)
    .tags([TAG])
    .timezone('browser')
    .refresh('30s')
    .time({ from: 'now-1h', to: 'now' })
    .tooltip(DashboardCursorSync.Crosshair)
    .link(
      new DashboardLinkBuilder('MailCluster')
        .type(DashboardLinkType.Dashboards)
        .tags([TAG])
        .asDropdown(true)
        .keepTime(true),
    )
    .withVariable(new DatasourceVariableBuilder('datasource').label('Data source').type('prometheus'));
  for (const each of variables) builder.withVariable(variable(each));
  for (const row of dashboard.rows) {
    builder.withRow(new RowBuilder(row.title));
    for (const one of row.panels) builder.withPanel(panel(one));
  }
  return `${JSON.stringify(builder.build(), null, 2)}\n`;
}
