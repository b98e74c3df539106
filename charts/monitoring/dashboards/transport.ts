/** The inside of transports and front ends: disk, process, certificates, damage. PURE data. */
import { type Dashboard, increase, maxBy, pods, quantile, rate, spread, sumBy, transport } from '../dashboard.ts';

export const TRANSPORT: Dashboard = {
  name: 'mailcluster-transport',
  title: 'MailCluster / Transport',
  description: 'Queue database and process.',
  variables: 'cluster',
  rows: [
    {
      title: 'Queue database',
      panels: [
        {
          title: 'Time of a sync',
          description: 'From handing writes over to their being durable.',
          unit: 's',
          kind: 'timeseries',
          queries: spread(transport('store_commit_duration_seconds_bucket')),
        },
        {
          title: 'Syncs',
          description: 'fdatasync calls a second, by transport.',
          unit: 'ops',
          kind: 'timeseries',
          queries: [{ expr: sumBy('pod', rate(transport('store_syncs_total'))), legend: '{{pod}}' }],
        },
        {
          title: 'Commits per sync',
          description: 'How many commits share one sync: more under load.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            {
              expr: `${sumBy('pod', rate(transport('store_commit_batch_size_sum')))} / ${sumBy('pod', rate(transport('store_commit_batch_size_count')))}`,
              legend: '{{pod}}',
            },
          ],
        },
        {
          title: 'Size on disk',
          description: 'Mail in transit and Safety Net, by transport.',
          unit: 'bytes',
          kind: 'timeseries',
          queries: [{ expr: transport('store_bytes'), legend: '{{pod}}' }],
        },
        {
          title: 'Free space',
          description: 'Bytes the queue database can still take. Below 256 MiB mail is refused for a while.',
          unit: 'bytes',
          kind: 'timeseries',
          queries: [{ expr: transport('store_free_bytes'), legend: '{{pod}}' }],
        },
        {
          title: 'Back pressure',
          description: '0 normal, 1 medium, 2 high, by transport and resource.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: transport('backpressure_level'), legend: '{{pod}}, {{resource}}' }],
          limits: { warning: 1, critical: 2 },
        },
        {
          title: 'Time to answer a front end',
          description: 'From the end of data to the durable answer, at the transport.',
          unit: 's',
          kind: 'timeseries',
          queries: spread(transport('accept_duration_seconds_bucket')),
        },
        {
          title: 'Search for damage',
          description: 'Bytes a second looked at, over all transports.',
          unit: 'Bps',
          kind: 'timeseries',
          queries: [{ expr: `sum(${rate(transport('scrubbed_bytes_total'))})`, legend: 'scrubbed' }],
        },
        {
          title: 'Damage',
          description:
            'Damaged records, bodies that turned out unreadable, and those fetched again from another member.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            { expr: sumBy('pod', transport('corrupt_records_total')), legend: '{{pod}}, records' },
            { expr: `sum(${increase(transport('quarantined_total'))})`, legend: 'bodies' },
            { expr: `sum(${increase(transport('refetched_total'))})`, legend: 'fetched again' },
          ],
          limits: { warning: 1 },
        },
      ],
    },
    {
      title: 'Processes',
      panels: [
        {
          title: 'Event loop lag',
          description: '99 of 100 turns, by process.',
          unit: 's',
          kind: 'timeseries',
          queries: [{ expr: pods('nodejs_eventloop_lag_p99_seconds'), legend: '{{pod}}' }],
        },
        {
          title: 'Memory',
          description: 'Resident, by process.',
          unit: 'bytes',
          kind: 'timeseries',
          queries: [{ expr: pods('process_resident_memory_bytes'), legend: '{{pod}}' }],
        },
        {
          title: 'Processor',
          description: 'Seconds a second, by process.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: rate(pods('process_cpu_seconds_total')), legend: '{{pod}}' }],
        },
        {
          title: 'Garbage collection',
          description: 'Seconds a second, by kind.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: sumBy('kind', rate(pods('nodejs_gc_duration_seconds_sum'))), legend: '{{kind}}' }],
        },
        {
          title: 'Certificates',
          description: 'When the certificate in use ends, by purpose: the earliest one.',
          unit: 's',
          kind: 'timeseries',
          queries: [
            {
              expr: `min by (purpose) (${pods('certificate_expiration_timestamp_seconds')}) - time()`,
              legend: '{{purpose}}',
            },
          ],
          limits: { warning: 129600 },
        },
        {
          title: 'Versions',
          description: 'Processes by version and Node.',
          unit: 'short',
          kind: 'table',
          width: 8,
          queries: [{ expr: `count by (version, node) (${pods('build_info')})`, legend: '{{version}}, {{node}}' }],
        },
        {
          title: 'Topology generation',
          description: 'In force, by process: all the same soon after a change.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: maxBy('pod', pods('topology_generation')), legend: '{{pod}}' }],
        },
        {
          title: 'Refused by the peer protocol',
          description:
            'Connections dropped because the other side spoke wrongly, and topology documents that could not be read.',
          unit: 'short',
          kind: 'timeseries',
          queries: [
            { expr: sumBy('reason', increase(transport('peer_protocol_errors_total'))), legend: '{{reason}}' },
            { expr: `sum(${increase(pods('topology_rejected_total'))})`, legend: 'topology' },
          ],
          limits: { warning: 1 },
        },
        {
          title: 'Tracking records lost',
          description: 'The disk did not take them.',
          unit: 'short',
          kind: 'timeseries',
          queries: [{ expr: `sum(${increase(transport('tracking_dropped_total'))})`, legend: 'dropped' }],
          limits: { warning: 1 },
        },
        {
          title: 'Slowest hundredth of syncs',
          description: 'By transport: a slow disk makes every sender wait.',
          unit: 's',
          kind: 'timeseries',
          queries: [
            { expr: quantile(0.99, transport('store_commit_duration_seconds_bucket'), 'pod'), legend: '{{pod}}' },
          ],
        },
      ],
    },
  ],
};
