/** Who holds whose shadows, and what happens when somebody is lost. PURE data. */
import { type Dashboard, increase, maxBy, quantile, rate, sumBy, transport } from '../dashboard.ts';

export const REDUNDANCY: Dashboard = {
  name: 'mailcluster-redundancy',
  title: 'MailCluster / Redundancy',
  description: 'Shadow copies, heartbeats, takeovers.',
  variables: 'cluster',
  rows: [
    {
      title: 'Protection',
      panels: [
        {
          title: 'Unprotected messages',
          description:
            'By the transport that owns them. No line: it does not know, because some peer has not answered since its start.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: transport('unprotected_messages'), legend: '{{pod}}' }],
          limits: { warning: 1 },
        },
        {
          title: 'Attempts to place a shadow',
          description: 'Attempts a second, by result and by whether the other site was asked.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [
            { expr: sumBy('result, scope', rate(transport('shadow_attempts_total'))), legend: '{{result}}, {{scope}}' },
          ],
        },
        {
          title: 'Time to the second copy',
          description: 'From the end of data to the durable confirmation of the shadow, 99 of 100.',
          unit: 's',
          kind: 'timeseries',
          queries: [
            {
              expr: quantile(0.99, transport('shadow_commit_duration_seconds_bucket'), 'scope'),
              legend: 'p99, {{scope}}',
            },
          ],
        },
      ],
    },
    {
      title: 'Who shadows whom',
      panels: [
        {
          title: 'Shadow copies by holder and primary',
          description: 'How many shadow copies each transport holds for each primary.',
          unit: 'short',
          kind: 'table',
          queries: [
            {
              expr: sumBy('pod, site, primary', transport('shadow_queue_messages')),
              legend: '{{pod}} for {{primary}}',
            },
          ],
        },
        {
          title: 'Last contact',
          description: 'Seconds since the last authenticated contact, by transport and peer.',
          unit: 's',
          kind: 'table',
          queries: [
            {
              expr: maxBy('pod, site, peer', `time() - ${transport('heartbeat_age_timestamp_seconds')} >= 0`),
              legend: '{{pod}} with {{peer}}',
            },
          ],
        },
        {
          title: 'Shadow copies held',
          description: 'By holder.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: transport('queue_messages', 'kind="shadow"'), legend: '{{pod}}' }],
        },
        {
          title: 'Peers connected',
          description: 'Other transports to which there is an authenticated connection, by transport.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('pod', `${transport('peer_up', 'container="transport"')} >= 0`), legend: '{{pod}}' }],
        },
        {
          title: 'Notices not yet acknowledged',
          description: 'Messages that are final here and of which a shadow has not confirmed that it knows.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: transport('discards_pending'), legend: '{{pod}}' }],
        },
      ],
    },
    {
      title: 'Takeover',
      panels: [
        {
          title: 'Queue databases lost',
          description:
            'Databases taken over from, by how it became known. Each loss is counted by everybody who learns of it.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('reason', increase(transport('identities_lost_total'))), legend: '{{reason}}' }],
        },
        {
          title: 'Shadows that became primary',
          description: 'Messages taken over, by reason.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('reason', increase(transport('shadow_promotions_total'))), legend: '{{reason}}' }],
        },
        {
          title: 'Given another shadow',
          description: 'Messages in transit that got a new second copy, and Safety Net copies that got another home.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            { expr: `sum(${increase(transport('reshadowed_total'))})`, legend: 'in transit' },
            { expr: sumBy('reason', increase(transport('rehomed_total'))), legend: 'Safety Net, {{reason}}' },
          ],
        },
        {
          title: 'Reconciled',
          description: 'Copies settled by comparing states with a peer that came back.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('result', increase(transport('reconciled_total'))), legend: '{{result}}' }],
        },
        {
          title: 'Draining',
          description: '1 while the member holds nothing any more; copies it handed over on the way.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            { expr: transport('drained'), legend: '{{pod}} empty' },
            { expr: `sum(${increase(transport('resigned_total'))})`, legend: 'handed over' },
          ],
        },
        {
          title: 'Fenced',
          description: '1 while a member holds back because another may own its messages.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: transport('fenced'), legend: '{{pod}}' }],
          limits: { warning: 1 },
        },
      ],
    },
  ],
};
