/** Where one looks first: is mail taken, is it on two databases, does it leave. PURE data. */
import { type Dashboard, increase, known, maxBy, pods, quantile, rate, sumBy, transport } from '../dashboard.ts';

const answered = pods('proxy_duration_seconds_count');

export const OVERVIEW: Dashboard = {
  name: 'mailcluster-overview',
  title: 'MailCluster / Overview',
  description: 'Is mail taken, is it protected, does it leave.',
  variables: 'cluster',
  rows: [
    {
      title: 'Now',
      panels: [
        {
          title: 'Unprotected messages',
          description: 'Messages in transit known to be on one database only. 0, but for moments after a loss.',
          unit: 'short',
          kind: 'stat',
          queries: [{ expr: `sum(${known(transport('unprotected_messages'))})`, legend: 'unprotected' }],
          limits: { warning: 1, critical: 1 },
        },
        {
          title: 'Transports ready',
          description: 'Members that serve, over all sites. A boundary needs two of them to protect a message.',
          unit: 'short',
          kind: 'stat',
          queries: [{ expr: `sum(${transport('member_state', 'state="ready"')})`, legend: 'ready' }],
        },
        {
          title: 'Queued',
          description: 'Messages in transit that this cluster owns: submission, delivery, unreachable, poison.',
          unit: 'short',
          kind: 'stat',
          queries: [{ expr: `sum(${transport('queue_messages', 'kind!="shadow"')})`, legend: 'queued' }],
        },
        {
          title: 'Poison messages',
          description: 'Put aside because the process died twice with only them in its hands. Somebody has to look.',
          unit: 'short',
          kind: 'stat',
          queries: [{ expr: `sum(${transport('poison_messages')})`, legend: 'poison' }],
          limits: { warning: 1 },
        },
        {
          title: 'Back pressure',
          description:
            'The highest level of any transport. 0 normal, 1 medium, 2 high: from 1 on mail is refused for a while.',
          unit: 'short',
          kind: 'stat',
          queries: [{ expr: `max(${transport('backpressure_level')})`, legend: 'level' }],
          limits: { warning: 1, critical: 2 },
        },
        {
          title: 'Connections',
          description: 'SMTP connections open now, over all front ends.',
          unit: 'short',
          kind: 'stat',
          queries: [{ expr: `sum(${pods('smtp_connections')})`, legend: 'open' }],
        },
      ],
    },
    {
      title: 'Service',
      panels: [
        {
          title: 'Messages by answer',
          description: 'Messages a second whose data was complete, by what the client was told.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('outcome', rate(answered)), legend: '{{outcome}}' }],
        },
        {
          title: 'Messages not accepted',
          description: 'Part of the complete messages that were not answered 250. Objective: 0.1 % over 30 days.',
          unit: 'percentunit',
          kind: 'timeseries',
          queries: [
            {
              expr: 'mailcluster:proxy_errors:ratio_rate5m{namespace=~"$namespace",cluster=~"$cluster"}',
              legend: '{{cluster}}, 5 m',
            },
            {
              expr: 'mailcluster:proxy_errors:ratio_rate1h{namespace=~"$namespace",cluster=~"$cluster"}',
              legend: '{{cluster}}, 1 h',
            },
          ],
          limits: { warning: 0.001, critical: 0.0144 },
        },
        {
          title: 'Time to answer',
          description: 'From the end of data to the 250, at the front end. Objective: 99 % within 2.5 s.',
          unit: 's',
          kind: 'timeseries',
          queries: [0.5, 0.9, 0.99].map((q) => ({
            expr: quantile(q, pods('proxy_duration_seconds_bucket', 'outcome="accepted"')),
            legend: `p${q * 100}`,
          })),
          limits: { warning: 2.5 },
        },
        {
          title: 'Accepted by protection',
          description:
            'Messages a second that transports answered, protected by a second copy or not (only where the policy allows it).',
          unit: 'ops',
          kind: 'timeseries',
          queries: [
            { expr: sumBy('protection', rate(transport('messages_accepted_total'))), legend: '{{protection}}' },
          ],
        },
        {
          title: 'Delivered',
          description: 'Recipients a second that were delivered or relayed, by route.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('route', rate(transport('delivered_total'))), legend: '{{route}}' }],
        },
        {
          title: 'Oldest message in transit',
          description: 'Age of the oldest message of each queue; no line: the queue is empty.',
          unit: 's',
          kind: 'timeseries',
          queries: [
            {
              expr: maxBy('kind', `time() - ${transport('queue_oldest_message_timestamp_seconds', 'kind!="shadow"')}`),
              legend: '{{kind}}',
            },
          ],
          limits: { warning: 1800 },
        },
      ],
    },
    {
      title: 'Losses',
      panels: [
        {
          title: 'Queue databases lost',
          description: 'Databases that were taken over from, by how it became known.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('reason', increase(transport('identities_lost_total'))), legend: '{{reason}}' }],
        },
        {
          title: 'Members by state',
          description: 'Transports in each state.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('state', transport('member_state')), legend: '{{state}}' }],
        },
        {
          title: 'Free space',
          description: 'Bytes each queue database can still take.',
          unit: 'bytes',
          kind: 'timeseries',
          queries: [{ expr: transport('store_free_bytes'), legend: '{{pod}}' }],
        },
      ],
    },
  ],
};
