/** What waits, why, and how it leaves. PURE data. */
import { type Dashboard, increase, maxBy, quantile, rate, sumBy, transport } from '../dashboard.ts';

export const QUEUES: Dashboard = {
  name: 'mailcluster-queues',
  title: 'MailCluster / Queues',
  description: 'Queues and delivery.',
  variables: 'cluster',
  rows: [
    {
      title: 'Queues',
      panels: [
        {
          title: 'Messages by queue',
          description: 'Copies in each queue, over all transports.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('kind', transport('queue_messages')), legend: '{{kind}}' }],
        },
        {
          title: 'Bytes by queue',
          description: 'Bytes in each queue, over all transports.',
          unit: 'bytes',
          kind: 'timeseries',
          queries: [{ expr: sumBy('kind', transport('queue_bytes')), legend: '{{kind}}' }],
        },
        {
          title: 'Oldest message',
          description: 'Age of the oldest message of each queue; no line: the queue is empty.',
          unit: 's',
          kind: 'timeseries',
          queries: [
            {
              expr: maxBy('kind', `time() - ${transport('queue_oldest_message_timestamp_seconds')}`),
              legend: '{{kind}}',
            },
          ],
          limits: { warning: 1800 },
        },
        {
          title: 'Messages by transport',
          description: 'Messages in transit that each transport owns.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('pod', transport('queue_messages', 'kind!="shadow"')), legend: '{{pod}}' }],
        },
        {
          title: 'Size of accepted messages',
          description: 'Half, and 99 of 100, are at most so large.',
          unit: 'bytes',
          kind: 'timeseries',
          queries: [0.5, 0.99].map((q) => ({
            expr: quantile(q, transport('message_size_bytes_bucket')),
            legend: `p${q * 100}`,
          })),
        },
        {
          title: 'Poison',
          description: 'Messages put aside, now and lately.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            { expr: transport('poison_messages'), legend: '{{pod}}, now' },
            { expr: `sum(${increase(transport('poisoned_total'))})`, legend: 'put aside' },
          ],
          limits: { warning: 1 },
        },
      ],
    },
    {
      title: 'Delivery',
      panels: [
        {
          title: 'Delivered',
          description: 'Recipients a second, by route.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('route', rate(transport('delivered_total'))), legend: '{{route}}' }],
        },
        {
          title: 'Put off',
          description: 'Attempts a second that will be made again: no connection, or a reply that said so.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('reason', rate(transport('deferred_total'))), legend: '{{reason}}' }],
        },
        {
          title: 'Failed for good',
          description: 'Recipients refused by the next hop, and those whose message expired. Their senders are told.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            { expr: sumBy('route', increase(transport('failed_total'))), legend: 'refused, {{route}}' },
            { expr: `sum(${increase(transport('expired_total'))})`, legend: 'expired' },
          ],
        },
        {
          title: 'Duration of an attempt',
          description: '99 of 100 delivery attempts, by route.',
          unit: 's',
          kind: 'timeseries',
          queries: [
            { expr: quantile(0.99, transport('delivery_duration_seconds_bucket'), 'route'), legend: 'p99, {{route}}' },
          ],
        },
        {
          title: 'Delivery status notifications',
          description: 'Created, by kind.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('kind', increase(transport('dsn_total'))), legend: '{{kind}}' }],
        },
        {
          title: 'Messages refused by transports',
          description:
            'Before anything was promised: no place (open), or no shadow in time (shadow). The front end tries another transport.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('reason', rate(transport('messages_refused_total'))), legend: '{{reason}}' }],
        },
      ],
    },
  ],
};
