/** The side of the clients: connections, commands, answers, transports to choose from. PURE data. */
import { type Dashboard, increase, pods, quantile, rate, spread, sumBy } from '../dashboard.ts';

export const FRONT_END: Dashboard = {
  name: 'mailcluster-front-end',
  title: 'MailCluster / Front end',
  description: 'SMTP sessions, and what becomes of messages on their way to a transport.',
  variables: 'cluster',
  rows: [
    {
      title: 'Sessions',
      panels: [
        {
          title: 'Connections',
          description: 'Open now, by listener.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('listener', pods('smtp_connections')), legend: '{{listener}}' }],
        },
        {
          title: 'New connections',
          description: 'Accepted a second, by front end.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('pod', rate(pods('smtp_connections_total'))), legend: '{{pod}}' }],
        },
        {
          title: 'Replies',
          description: 'Commands answered a second, by verb and code.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('verb, code', rate(pods('smtp_commands_total'))), legend: '{{verb}} {{code}}' }],
        },
        {
          title: 'Sessions cut off',
          description: 'Turned away or ended by us, by reason.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('reason', increase(pods('smtp_sessions_rejected_total'))), legend: '{{reason}}' }],
        },
        {
          title: 'Limits reached',
          description: 'By limit.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('limit', increase(pods('smtp_limits_total'))), legend: '{{limit}}' }],
        },
        {
          title: 'Authentication',
          description: 'AUTH attempts, by result.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('result', increase(pods('smtp_auth_total'))), legend: '{{result}}' }],
        },
      ],
    },
    {
      title: 'Messages',
      panels: [
        {
          title: 'By answer',
          description: 'Messages a second whose data was complete, by what the client was told.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('outcome', rate(pods('proxy_duration_seconds_count'))), legend: '{{outcome}}' }],
        },
        {
          title: 'Time to answer',
          description: 'From the end of data to the reply, 99 of 100, by outcome.',
          unit: 's',
          kind: 'timeseries',
          queries: [
            { expr: quantile(0.99, pods('proxy_duration_seconds_bucket'), 'outcome'), legend: 'p99, {{outcome}}' },
          ],
        },
        {
          title: 'Transports that failed',
          description:
            'By the stage the transaction had reached. The client does not see it when another transport takes the message.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('stage', increase(pods('proxy_upstream_failures_total'))), legend: '{{stage}}' }],
        },
        {
          title: 'Replays',
          description: 'Messages sent again to another transport, by how it ended.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('result', increase(pods('proxy_replays_total'))), legend: '{{result}}' }],
        },
        {
          title: 'Transports to choose from',
          description: 'By front end. 0: every message is answered 451.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: pods('proxy_transports_available'), legend: '{{pod}}' }],
        },
        {
          title: 'Held for replay',
          description: 'Bytes in memory, by front end.',
          unit: 'bytes',
          kind: 'timeseries',
          queries: [{ expr: pods('proxy_replay_buffer_bytes'), legend: '{{pod}}' }],
        },
      ],
    },
    {
      title: 'Content filter',
      panels: [
        {
          title: 'Verdicts of content filters',
          description:
            'Messages a second that a filter was asked about, by listener and result. No line: no listener has a filter.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [
            {
              expr: sumBy('listener, result', rate(pods('content_filter_messages_total'))),
              legend: '{{listener}}, {{result}}',
            },
          ],
        },
        {
          title: 'No usable answer of content filters',
          description:
            'Messages deferred (failurePolicy Defer) or accepted unfiltered (Accept) because of that, by listener and reason. 0 is good.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            {
              expr: sumBy('listener, reason', increase(pods('content_filter_failures_total'))),
              legend: '{{listener}}, {{reason}}',
            },
          ],
          limits: { warning: 1 },
        },
        {
          title: 'Wait for content filters',
          description: 'How long clients waited for a verdict after the end of their message.',
          unit: 's',
          kind: 'timeseries',
          queries: spread(pods('content_filter_wait_seconds_bucket')),
        },
      ],
    },
  ],
};
