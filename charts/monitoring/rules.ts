/** The rules as Prometheus reads them: a file of groups, which the chart also wraps into a PrometheusRule. PURE. */
import { stringify } from 'yaml';
import { ALERTS, type Alert } from './alerts.ts';
import { RECORDING_RULES } from './recording.ts';

/** What the chart replaces by `rules.runbook` of its values. */
export const RUNBOOK = 'docs/runbook.md';

/** As Markdown makes them of headings. */
export const anchorOf = (alert: string): string => alert.toLowerCase();

const alertRule = ({ alert, expr, for: lasting, severity, summary, description }: Alert) => ({
  alert,
  expr,
  for: lasting,
  labels: { severity },
  annotations: { summary, description, runbook_url: `${RUNBOOK}#${anchorOf(alert)}` },
});

/** Alerts read what the objectives record. */
export const GROUPS = ['mailcluster.objectives', 'mailcluster.alerts'] as const;

export function rulesFile(): string {
  const [objectives, alerts] = GROUPS;
  const groups = [
    { name: objectives, rules: RECORDING_RULES },
    { name: alerts, rules: ALERTS.map(alertRule) },
  ];
  return stringify({ groups }, { lineWidth: 0 });
}
