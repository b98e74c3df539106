/** What was delivered and is kept, and what came back from there. PURE data. */
import { type Dashboard, increase, rate, sumBy, transport } from '../dashboard.ts';

export const SAFETY_NET: Dashboard = {
  name: 'mailcluster-safety-net',
  title: 'MailCluster / Safety Net',
  description: 'Safety Net and resubmission.',
  variables: 'cluster',
  rows: [
    {
      title: 'At rest',
      panels: [
        {
          title: 'Messages',
          description: 'In Primary and Shadow Safety Nets.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('role', transport('safety_net_messages')), legend: '{{role}}' }],
        },
        {
          title: 'Bytes',
          description: 'In Primary and Shadow Safety Nets.',
          unit: 'bytes',
          kind: 'timeseries',
          queries: [{ expr: sumBy('role', transport('safety_net_bytes')), legend: '{{role}}' }],
        },
        {
          title: 'Oldest message',
          description:
            'Age of the oldest message at rest, by transport: at most the hold time and what a segment spans.',
          unit: 's',
          kind: 'timeseries',
          queries: [{ expr: `time() - ${transport('safety_net_oldest_timestamp_seconds')}`, legend: '{{pod}}' }],
        },
        {
          title: 'Messages by transport',
          description: 'At rest, primary and shadow together.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('pod', transport('safety_net_messages')), legend: '{{pod}}' }],
        },
        {
          title: 'Left the Safety Net',
          description:
            'After the hold time (expired), or before it for lack of room (shed): what was shed cannot be resubmitted.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            { expr: `sum(${increase(transport('safety_net_expired_total'))})`, legend: 'expired' },
            { expr: `sum(${increase(transport('safety_net_shed_total'))})`, legend: 'shed' },
          ],
        },
        {
          title: 'Given another home',
          description: 'Copies at rest whose holder was lost (protect) or is drained (handOver).',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('reason', increase(transport('rehomed_total'))), legend: '{{reason}}' }],
        },
      ],
    },
    {
      title: 'Resubmission',
      panels: [
        {
          title: 'Requests',
          description:
            'Resubmit requests that transports know, by how far they are; each transport counts its own part.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('state', transport('resubmit_requests')), legend: '{{state}}' }],
        },
        {
          title: 'Resubmitted',
          description: 'Messages a second put into transit again, by the Safety Net they came from.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('role', rate(transport('resubmitted_total'))), legend: '{{role}}' }],
        },
        {
          title: 'Repeats not made again',
          description: 'Deliveries recognised as repeats.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('reason', rate(transport('duplicates_suppressed_total'))), legend: '{{reason}}' }],
        },
        {
          title: 'Ledger: questions',
          description: 'Recipients the shared ledger of external deliveries was asked about, by what it knew.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('result', rate(transport('ledger_lookups_total'))), legend: '{{result}}' }],
        },
        {
          title: 'Ledger: entries',
          description: 'Written, failed, or dropped while it was out of reach.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('result', rate(transport('ledger_writes_total'))), legend: '{{result}}' }],
        },
        {
          title: 'Ledger: entries that proved nothing',
          description: 'Forged, damaged, or about something else. 0.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: `sum(${increase(transport('ledger_entries_rejected_total'))})`, legend: 'rejected' }],
          limits: { warning: 1 },
        },
      ],
    },
  ],
};
