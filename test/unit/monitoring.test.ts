/** Dashboards, rules and runbook held to the code: metrics that exist, texts that are there, a section for each alert. */
import { describe, expect, it } from 'vitest';
import { ALERTS } from '../../charts/monitoring/alerts.ts';
import { DASHBOARDS } from '../../charts/monitoring/dashboards/all.ts';
import { ERROR_BUDGET, RECORDING_RULES, SLOW_BUDGET, SLOW_SECONDS } from '../../charts/monitoring/recording.ts';
import { METRIC_CATALOG, type MetricDeclaration } from '../../common/platform/metric-catalog.ts';
import { createMetrics, METRIC_PREFIX } from '../../common/platform/prom-metrics.ts';
import { readText } from '../house/sources.ts';
import { metricsIn } from '../rigs/panel-queries.ts';

const RUNBOOK = readText('docs/runbook.md');
/** Labels that a scrape adds, and those that every transport says of itself (operator/resources/documents.ts, transport/main.ts). */
const EVERYWHERE = ['namespace', 'pod', 'container', 'cluster', 'dag', 'site', 'member', 'le'];

const ENDINGS = ['_bucket', '_sum', '_count'];

/** Names of samples, as a query writes them. */
function exportedNames(): ReadonlySet<string> {
  return new Set(
    Object.entries<MetricDeclaration>(METRIC_CATALOG).flatMap(([name, { type }]) => {
      const full = METRIC_PREFIX + name;
      return type === 'histogram' ? ENDINGS.map((ending) => full + ending) : [full];
    }),
  );
}

/** What the runtime adds: its samples are there from the start. */
async function runtimeNames(): Promise<ReadonlySet<string>> {
  const samples = (await createMetrics({}).render())
    .split('\n')
    .filter((line) => /^mailcluster_(process|nodejs)_/.test(line));
  const names = samples.map((line) => line.split(/[{ ]/, 1)[0] ?? '');
  // Collected when the first garbage is.
  return new Set([...names, ...ENDINGS.map((ending) => `${METRIC_PREFIX}nodejs_gc_duration_seconds${ending}`)]);
}

const panels = DASHBOARDS.flatMap(({ title, rows }) =>
  rows.flatMap((row) => row.panels.map((panel) => ({ title, panel }))),
);
const EXPRESSIONS: readonly string[] = [
  ...panels.flatMap(({ panel }) => panel.queries.map(({ expr }) => expr)),
  ...RECORDING_RULES.map(({ expr }) => expr),
  ...ALERTS.map(({ expr }) => expr),
];

/** Selectors: the metric, and the labels they name. */
const selectors = (expr: string): readonly (readonly [metric: string, labels: readonly string[]])[] =>
  [...expr.matchAll(/\b(mailcluster_[a-z0-9_]+)\{([^}]*)\}/g)].map(([, metric = '', inside = '']) => [
    metric,
    [...inside.matchAll(/([a-z_]+)(?:=~|!~|!=|=)/g)].map(([, label = '']) => label),
  ]);

/** As Grafana gets it. */
function madePanel(title: string, description?: string) {
  const all = DASHBOARDS.flatMap(
    ({ name }) => JSON.parse(readText(`charts/mailcluster-operator/files/dashboards/${name}.json`)).panels,
  );
  return all.find((one) => one.title === title && (description === undefined || one.description === description));
}

describe('queries', () => {
  it('use only metrics that the catalogue or the runtime has', async () => {
    const known = new Set([...exportedNames(), ...(await runtimeNames())]);
    const strangers = EXPRESSIONS.flatMap(metricsIn).filter((name) => !known.has(name));
    expect(strangers).toEqual([]);
  });

  it('select by labels that the metric has, and by values that are declared', () => {
    const wrong = EXPRESSIONS.flatMap(selectors).flatMap(([metric, labels]) => {
      const name = metric.slice(METRIC_PREFIX.length).replace(/_(bucket|sum|count)$/, '');
      const declared = Object.entries<MetricDeclaration>(METRIC_CATALOG).find(([one]) => one === name)?.[1];
      const allowed = [...EVERYWHERE, ...(declared?.labels ?? [])];
      return labels.filter((label) => !allowed.includes(label)).map((label) => `${metric}{${label}}`);
    });
    expect(wrong).toEqual([]);
  });

  it('name recording rules that there are, and look at counters only through rate, increase or where they start at 0', () => {
    const recorded = RECORDING_RULES.map(({ record }) => record);
    const named = EXPRESSIONS.flatMap((expr) => [...expr.matchAll(/mailcluster:[a-z0-9_:]+/g)].map(([name]) => name));
    expect(named.filter((name) => !recorded.includes(name))).toEqual([]);
    const raw = EXPRESSIONS.flatMap((expr) =>
      [...expr.matchAll(/(\w+\()?(mailcluster_[a-z0-9_]+_total)\b/g)].flatMap(([, before, name]) =>
        before === 'rate(' || before === 'increase(' || name === 'mailcluster_corrupt_records_total' ? [] : [expr],
      ),
    );
    expect(raw).toEqual([]);
  });

  it('the objectives are buckets and budgets that can be', () => {
    expect(METRIC_CATALOG.proxy_duration_seconds.buckets.map(String)).toContain(SLOW_SECONDS);
    for (const budget of [ERROR_BUDGET, SLOW_BUDGET]) expect(14.4 * budget).toBeLessThan(1);
  });
});

describe('dashboards', () => {
  it('have names of their own that Grafana takes as uid, and every panel says what it shows', () => {
    const names = DASHBOARDS.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^mailcluster-[a-z-]{1,28}$/);
    for (const { title, panel } of panels) {
      expect([title, panel.title, panel.description]).toEqual([
        title,
        expect.stringMatching(/^[A-Z]/),
        expect.stringMatching(/\.$/),
      ]);
      expect([panel.title, panel.unit === '', panel.queries.length > 0]).toEqual([panel.title, false, true]);
    }
  });

  it('no panel comes twice in one dashboard', () => {
    for (const { title, rows } of DASHBOARDS) {
      const titles = rows.flatMap((row) => row.panels.map((panel) => panel.title));
      expect([title, titles.length]).toEqual([title, new Set(titles).size]);
    }
  });

  it('what is made for Grafana has the queries, the units and the variables', () => {
    for (const dashboard of DASHBOARDS) {
      const made = JSON.parse(readText(`charts/mailcluster-operator/files/dashboards/${dashboard.name}.json`));
      const wanted = dashboard.rows.flatMap((row) => [
        { type: 'row', title: row.title },
        ...row.panels.map(({ title, kind, unit, description, queries }) => ({
          ...{ type: kind, title, description },
          targets: queries.map(({ expr }) => expect.objectContaining({ expr })),
          fieldConfig: expect.objectContaining({ defaults: expect.objectContaining({ unit }) }),
        })),
      ]);
      expect(made.uid).toBe(dashboard.name);
      expect(made.panels).toEqual(wanted.map((one) => expect.objectContaining(one)));
      const used = new Set(JSON.stringify(dashboard).match(/\$(?!__)[a-z]+/g));
      const variables: readonly string[] = made.templating.list.map(({ name }: { name: string }) => `$${name}`);
      expect([...used].filter((name) => !variables.includes(name))).toEqual([]);
    }
  });
});

describe('what Grafana would not show', () => {
  it('a table of series shows one of them: tables ask for a table, by labels that are named, without the time', () => {
    for (const { panel } of panels.filter(({ panel: { kind } }) => kind === 'table')) {
      const made = madePanel(panel.title);
      expect([panel.title, made.targets]).toEqual([
        panel.title,
        panel.queries.map(() => expect.objectContaining({ format: 'table', instant: true })),
      ]);
      expect(made.transformations).toEqual([
        expect.objectContaining({
          id: 'organize',
          options: expect.objectContaining({ excludeByName: { Time: true } }),
        }),
      ]);
      // Else every label of the scrape is a column.
      for (const { expr } of panel.queries) expect(expr).toMatch(/^(sum|max|min|count) by \(/);
    }
  });

  it('a graph has no line for a limit unless it is told to', () => {
    for (const { panel } of panels.filter(({ panel: { kind } }) => kind === 'timeseries')) {
      const { custom } = madePanel(panel.title, panel.description).fieldConfig.defaults;
      const style = custom.thresholdsStyle?.mode ?? 'off';
      expect([panel.title, style]).toEqual([panel.title, panel.limits === undefined ? 'off' : 'dashed']);
    }
  });
});

/** Text of each section by its heading. */
const sections = new Map(
  RUNBOOK.split(/^## /m)
    .slice(1)
    .map((text) => [text.split('\n', 1)[0] ?? '', text] as const),
);

describe('the runbook', () => {
  it('has a section for each alert, in the same words for the same questions, and none for another', () => {
    expect([...sections.keys()].sort()).toEqual(ALERTS.map(({ alert }) => alert).sort());
    for (const [alert, text] of sections)
      for (const question of ['**Means.**', '**Users see**', '**Look.**', '**Do.**'])
        expect([alert, question, text.includes(question)]).toEqual([alert, question, true]);
  });

  it('links to sections that are there', () => {
    const anchors = [...sections.keys()].map((title) => title.toLowerCase());
    const links = [...RUNBOOK.matchAll(/\]\(#([^)]+)\)/g)].map(([, anchor]) => anchor);
    expect(links.filter((anchor) => !anchors.includes(anchor ?? ''))).toEqual([]);
  });

  it('names panels and metrics that there are', () => {
    const titles = new Set([
      ...panels.map(({ panel }) => panel.title),
      ...DASHBOARDS.map(({ title }) => title.replace('MailCluster / ', '')),
    ]);
    const named = [...RUNBOOK.matchAll(/(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)/g)].map(([, title]) => title ?? '');
    expect(named.length).toBeGreaterThan(5);
    expect(named.filter((title) => !titles.has(title))).toEqual([]);
    expect(metricsIn(RUNBOOK).filter((name) => !exportedNames().has(name))).toEqual([]);
  });
});
