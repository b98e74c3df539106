/** Each alert with promtool, Prometheus' own tool: quiet up to the last minute, there at the next, with these labels and these words, for nobody else. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { stringify } from 'yaml';
import { ALERTS } from '../../charts/monitoring/alerts.ts';
import { anchorOf, GROUPS, RUNBOOK } from '../../charts/monitoring/rules.ts';
import { RULES_FILE } from '../house/generate.ts';
import { ROOT } from '../house/sources.ts';
import { openPromtool, type Promtool } from '../rigs/prometheus.ts';
import { ALERT_CASES, type AlertCase } from './alert-cases.ts';

const RULES = join(ROOT, RULES_FILE);

let promtool: Promtool | { readonly missing: string };
let directory = '';

// The package is downloaded the first time.
beforeAll(async () => {
  promtool = await openPromtool();
  directory = await mkdtemp(join(tmpdir(), 'mailcluster-alerts-'));
}, 300_000);
afterAll(async () => await rm(directory, { recursive: true, force: true }));

function promtoolOf(context: TestContext): Promtool {
  // skip: promtool comes from a Debian package
  return typeof promtool === 'function' ? promtool : context.skip(promtool.missing);
}

function testFile({ alert, series, quietAt, firesAt, labels, description }: AlertCase): string {
  const rule = ALERTS.find((one) => one.alert === alert);
  const exp_alerts = [
    {
      exp_labels: { ...labels, severity: rule?.severity },
      exp_annotations: { summary: rule?.summary, description, runbook_url: `${RUNBOOK}#${anchorOf(alert)}` },
    },
  ];
  return stringify({
    rule_files: [RULES],
    evaluation_interval: '1m',
    // By itself promtool takes them in any order, and an alert may find what was recorded a minute ago.
    group_eval_order: GROUPS,
    tests: [
      {
        interval: '1m',
        input_series: Object.entries(series).map(([one, values]) => ({ series: one, values })),
        alert_rule_test: [
          { eval_time: `${quietAt}m`, alertname: alert, exp_alerts: [] },
          { eval_time: `${firesAt}m`, alertname: alert, exp_alerts },
        ],
      },
    ],
  });
}

it('there is a case for each alert, and none for another', () => {
  expect(ALERT_CASES.map(({ alert }) => alert).sort()).toEqual(ALERTS.map(({ alert }) => alert).sort());
});

it('promtool finds nothing wrong with the rules', async (context) => {
  const { code, output } = await promtoolOf(context)('check', 'rules', '--lint=all', '--lint-fatal', RULES);
  expect([code, output]).toEqual([0, expect.stringContaining('SUCCESS')]);
});

describe('alerts', () => {
  for (const one of ALERT_CASES) {
    it(one.alert, async (context) => {
      const run = promtoolOf(context);
      const file = join(directory, `${one.alert}.yaml`);
      await writeFile(file, testFile(one));
      const { code, output } = await run('test', 'rules', file);
      expect([code, output]).toEqual([0, expect.stringContaining('SUCCESS')]);
    });
  }
});
