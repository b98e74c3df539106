/**
 * Documents that come from the code: the state table and its picture in ARCHITECTURE.md,
 * docs/metrics.md, docs/reference.md, the types of the resources, what charts/ takes over, dashboards and rules. `--write` writes them,
 * `--check` (what `test/tidy.test.ts` does through `generated()`) exits 1 and names what is stale.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DASHBOARDS } from '../../charts/monitoring/dashboards/all.ts';
import { grafanaJson } from '../../charts/monitoring/grafana.ts';
import { rulesFile } from '../../charts/monitoring/rules.ts';
import { METRIC_CATALOG, type MetricDeclaration } from '../../common/platform/metric-catalog.ts';
import { renderTypes } from '../../operator/resource/generate-types.ts';
import { loadSchemas } from '../../operator/resource/schema.ts';
import { type Place, TRANSITIONS, type TransitionRow } from '../../transport/core/transitions.ts';
import { CHART_COPIES, clusterValuesSchema } from './chart-files.ts';
import { reference } from './reference.ts';
import { ROOT, readText } from './sources.ts';

export const DASHBOARD_FILES = 'charts/mailcluster-operator/files/dashboards';
export const RULES_FILE = 'charts/mailcluster-operator/files/rules.yaml';

export interface Generated {
  readonly path: string;
  readonly wanted: string;
  readonly current: string;
}

export function generated(): readonly Generated[] {
  const architecture = readText('ARCHITECTURE.md');
  return [
    {
      path: 'ARCHITECTURE.md',
      current: architecture,
      wanted: replaceSection(architecture, 'transitions', `${picture(TRANSITIONS)}\n\n${table(TRANSITIONS)}`),
    },
    { path: 'docs/metrics.md', current: readIfThere('docs/metrics.md'), wanted: metrics(METRIC_CATALOG) },
    { path: 'docs/reference.md', current: readIfThere('docs/reference.md'), wanted: reference(loadSchemas()) },
    {
      path: 'operator/resource/generated.ts',
      current: readIfThere('operator/resource/generated.ts'),
      wanted: renderTypes(loadSchemas()),
    },
    {
      path: 'charts/mailcluster/values.schema.json',
      current: readIfThere('charts/mailcluster/values.schema.json'),
      wanted: clusterValuesSchema(loadSchemas()),
    },
    ...DASHBOARDS.map((one) => {
      const path = `${DASHBOARD_FILES}/${one.name}.json`;
      return { path, current: readIfThere(path), wanted: grafanaJson(one) };
    }),
    { path: RULES_FILE, current: readIfThere(RULES_FILE), wanted: rulesFile() },
    ...[...CHART_COPIES].map(([path, from]) => ({ path, current: readIfThere(path), wanted: readText(from) })),
  ];
}

function readIfThere(path: string): string {
  try {
    return readText(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  }
}

/** Replaces what stands between `<!-- generated NAME: make docs -->` and `<!-- end NAME -->`. */
export function replaceSection(text: string, name: string, content: string): string {
  const start = `<!-- generated ${name}: make docs -->`;
  const end = `<!-- end ${name} -->`;
  const from = text.indexOf(start);
  const to = text.indexOf(end);
  if (from < 0 || to < from) throw new Error(`no section "${name}" to generate into`);
  return `${text.slice(0, from + start.length)}\n\n${content}\n\n${text.slice(to)}`;
}

const node = (place: Place): string => (place === '-' ? '[*]' : place);

/** Events by arrow; events which leave a copy where it is are in the table only. */
export function picture(rows: readonly TransitionRow[]): string {
  const arrows = new Map<string, string[]>();
  for (const row of rows) {
    for (const from of row.from) {
      for (const to of row.to) {
        if (to === 'same' || to === from) continue;
        const arrow = `${node(from)} --> ${node(to)}`;
        arrows.set(arrow, [...(arrows.get(arrow) ?? []), row.event]);
      }
    }
  }
  const lines = [...arrows].map(([arrow, events]) => `  ${arrow}: ${[...new Set(events)].join(', ')}`);
  return ['```mermaid', 'stateDiagram-v2', ...lines, '```'].join('\n');
}

const cell = (text: string): string => text.replaceAll('|', '\\|');

function table(rows: readonly TransitionRow[]): string {
  const lines = rows.map((row) =>
    [row.row, row.event, row.from.join(', '), row.role, row.to.join(', '), row.guard, row.committed]
      .map((value) => cell(String(value)))
      .join(' | '),
  );
  return [
    '| row | event | from | role after | to | guard | committed, then effect |',
    '|---|---|---|---|---|---|---|',
    ...lines.map((line) => `| ${line} |`),
  ].join('\n');
}

export function metrics(catalog: Readonly<Record<string, MetricDeclaration>>): string {
  const lines = Object.entries(catalog)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, one]) => {
      const labels = one.labels.map((label) => `\`${label}\``).join(', ') || '-';
      return `| \`mailcluster_${name}\` | ${one.type} | ${labels} | ${cell(one.help)} |`;
    });
  return [
    '# Metrics',
    '',
    'Generated from `common/platform/metric-catalog.ts` by `make docs`; a test fails when it is stale.',
    'Every program serves those it has at `/metrics`; histograms have `_bucket`, `_sum` and `_count`.',
    '',
    '| metric | type | labels | meaning |',
    '|---|---|---|---|',
    ...lines,
    '',
  ].join('\n');
}

function main(mode: string | undefined): number {
  const stale = generated().filter((one) => one.current !== one.wanted);
  if (mode === '--write') for (const one of stale) writeFileSync(join(ROOT, one.path), one.wanted);
  for (const one of stale) console.log(`${mode === '--write' ? 'wrote' : 'stale'}: ${one.path}`);
  return mode === '--write' || stale.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = main(process.argv[2]);
