/** The operator: does it look, does it write, does anything hold it up. PURE data. */
import { type Dashboard, increase, maxBy, operator, quantile, rate, sumBy } from '../dashboard.ts';

export const OPERATOR: Dashboard = {
  name: 'mailcluster-operator',
  title: 'MailCluster / Operator',
  description: 'Reconciling, and the conversation with the API server.',
  variables: 'operator',
  rows: [
    {
      title: 'MailClusters',
      panels: [
        {
          title: 'Conditions',
          description: '1 while a condition is True, 0 while it is not, as the leader sees it.',
          unit: 'short',
          kind: 'table',
          queries: [{ expr: maxBy('mailcluster, type', operator('condition')), legend: '{{mailcluster}} {{type}}' }],
        },
        {
          title: 'Restarts in order',
          description: 'Members restarted, by reason.',
          unit: 'short',
          kind: 'timeseries',
          width: 12,
          queries: [{ expr: sumBy('reason', increase(operator('restarts_total'))), legend: '{{reason}}' }],
        },
      ],
    },
    {
      title: 'Reconciling',
      panels: [
        {
          title: 'Leader',
          description: '1 for the replica that may write.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: operator('leader'), legend: '{{pod}}' }],
        },
        {
          title: 'Looks',
          description: 'At MailClusters, a second, by result.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('result', rate(operator('reconcile_total'))), legend: '{{result}}' }],
        },
        {
          title: 'Duration of a look',
          description: 'Gather, plan, carry out, status.',
          unit: 's',
          kind: 'timeseries',
          queries: [0.5, 0.99].map((q) => ({
            expr: quantile(q, operator('reconcile_duration_seconds_bucket')),
            legend: `p${q * 100}`,
          })),
        },
        {
          title: 'Waiting',
          description: 'Keys that wait for a worker, by queue.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('queue', operator('workqueue_depth')), legend: '{{queue}}' }],
        },
        {
          title: 'Tried again',
          description: 'Keys that failed and will be tried again, a second, by queue.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('queue', rate(operator('workqueue_retries_total'))), legend: '{{queue}}' }],
        },
        {
          title: 'Events not written',
          description: 'By why.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('reason', increase(operator('events_dropped_total'))), legend: '{{reason}}' }],
        },
      ],
    },
    {
      title: 'API server',
      panels: [
        {
          title: 'Requests',
          description: 'A second, by verb and code; none: no answer.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('verb, code', rate(operator('api_requests_total'))), legend: '{{verb}} {{code}}' }],
        },
        {
          title: 'Duration of a request',
          description: '99 of 100, by verb, watches excepted.',
          unit: 's',
          kind: 'timeseries',
          queries: [
            { expr: quantile(0.99, operator('api_request_duration_seconds_bucket'), 'verb'), legend: '{{verb}}' },
          ],
        },
        {
          title: 'Lists and watches',
          description: 'Resources listed as a whole, and connections opened.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            { expr: sumBy('reason', increase(operator('relists_total'))), legend: 'listed, {{reason}}' },
            { expr: `sum(${increase(operator('api_connections_total'))})`, legend: 'connections' },
          ],
        },
        {
          title: 'Memory',
          description: 'Resident, by replica.',
          unit: 'bytes',
          kind: 'timeseries',
          queries: [
            {
              expr: `${operator('process_resident_memory_bytes')} and on (namespace, pod) ${operator('leader')}`,
              legend: '{{pod}}',
            },
          ],
        },
        {
          title: 'Event loop lag',
          description: '99 of 100 turns, by replica.',
          unit: 's',
          kind: 'timeseries',
          queries: [
            {
              expr: `${operator('nodejs_eventloop_lag_p99_seconds')} and on (namespace, pod) ${operator('leader')}`,
              legend: '{{pod}}',
            },
          ],
        },
      ],
    },
  ],
};
