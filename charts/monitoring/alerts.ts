/**
 * When somebody is called, and why (observability.md). Owns: the alerts. `docs/runbook.md` has a section for each, `test/unit/alerts.test.ts` a test with
 * promtool. Promise: a number nobody knows (NaN) never raises an alert. PURE data.
 */
import { ERROR_BUDGET, SLOW_BUDGET } from './recording.ts';

export interface Alert {
  readonly alert: string;
  readonly expr: string;
  readonly for: string;
  readonly severity: 'critical' | 'warning' | 'info';
  readonly summary: string;
  readonly description: string;
}

const CLUSTER = '{{ $labels.namespace }}/{{ $labels.cluster }}';
const POD = '{{ $labels.namespace }}/{{ $labels.pod }}';
const by = (labels: string, expr: string): string => `sum by (namespace, cluster${labels}) (${expr})`;

/** Google's two pairs of windows: an hour that burns 2 % of the budget of 30 days, six that burn 5 %. */
function burns(ratio: string, budget: number): string {
  const both = (factor: number, long: string, short: string): string =>
    `(${ratio}${long} > ${factor} * ${budget} and ${ratio}${short} > ${factor} * ${budget})`;
  return `${both(14.4, '1h', '5m')} or ${both(6, '6h', '30m')}`;
}

const REDUNDANCY_ALERTS: readonly Alert[] = [
  {
    alert: 'UnprotectedMessages',
    expr: `${by('', 'mailcluster_unprotected_messages >= 0')} > 0`,
    for: '5m',
    severity: 'critical',
    summary: 'Mail is on one queue database only',
    description: `{{ $value }} messages in transit of ${CLUSTER} have no second copy: one more loss would lose them.`,
  },
  {
    alert: 'BoundaryBelowRedundancy',
    expr: `${by(', dag', 'mailcluster_member_state{state="ready"}')} < 2`,
    for: '2m',
    severity: 'critical',
    summary: 'Too few transports for two copies',
    description: `${CLUSTER}, DAG {{ $labels.dag }}: {{ $value }} transports are ready, two are needed to protect a message. New mail is refused with 451 unless the policy allows one copy.`,
  },
  {
    alert: 'ShadowPeerUnreachable',
    expr: 'mailcluster_peer_up{container="transport"} == 0',
    for: '5m',
    severity: 'warning',
    summary: 'A transport does not reach another one',
    description: `${POD} has had no connection to {{ $labels.peer }} for five minutes.`,
  },
  {
    alert: 'TakeoverHappened',
    expr: `${by(', reason', 'increase(mailcluster_identities_lost_total{reason!="drained"}[15m])')} > 0`,
    for: '0m',
    severity: 'info',
    summary: 'A queue database was lost and taken over from',
    description: `${CLUSTER}: transports have taken over from a queue database ({{ $labels.reason }}). Nothing has to be done if messages are protected again; somebody should know why it was lost.`,
  },
];

const QUEUE_ALERTS: readonly Alert[] = [
  {
    alert: 'QueueAgeHigh',
    expr: 'max by (namespace, cluster, kind) (time() - mailcluster_queue_oldest_message_timestamp_seconds{kind=~"submission|delivery|unreachable"}) > 1800',
    for: '10m',
    severity: 'warning',
    summary: 'Mail waits for long',
    description: `${CLUSTER}: the oldest message of the queue {{ $labels.kind }} is {{ $value | humanizeDuration }} old.`,
  },
  {
    alert: 'PoisonMessages',
    expr: `${by('', 'mailcluster_poison_messages')} > 0`,
    for: '0m',
    severity: 'warning',
    summary: 'Messages were put aside',
    description: `${CLUSTER}: {{ $value }} messages are in the poison queue: a process died twice with each of them alone in its hands. They are not delivered until somebody decides.`,
  },
  {
    alert: 'ResubmitStalled',
    expr: `sum by (namespace, cluster, pod) (mailcluster_resubmit_requests{state=~"Pending|Running|Paused"}) > 0 and sum by (namespace, cluster, pod) (increase(mailcluster_resubmitted_total[30m])) == 0`,
    for: '30m',
    severity: 'warning',
    summary: 'A resubmission does not come on',
    description: `${POD} has had open resubmit requests for half an hour and resubmitted nothing.`,
  },
  {
    alert: 'DaneUnvalidated',
    expr: 'sum by (namespace, cluster, pod) (increase(mailcluster_dane_hosts_total{result="unvalidated"}[30m])) > 0',
    for: '10m',
    severity: 'warning',
    summary: 'The resolver for DANE does not validate',
    description: `${POD} sends by a connector with DANE, but its mx.dnsServers validate nothing, not even the root: mail goes out as without DANE.`,
  },
];

const SERVICE_ALERTS: readonly Alert[] = [
  {
    alert: 'AcceptLatencyBurn',
    expr: burns('mailcluster:proxy_slow:ratio_rate', SLOW_BUDGET),
    for: '2m',
    severity: 'critical',
    summary: 'Senders wait too long for the 250',
    description: `${CLUSTER}: {{ $value | humanizePercentage }} of the messages took longer than 2.5 s to accept; the objective allows 1 % over 30 days.`,
  },
  {
    alert: 'AcceptErrorsBurn',
    expr: burns('mailcluster:proxy_errors:ratio_rate', ERROR_BUDGET),
    for: '2m',
    severity: 'critical',
    summary: 'Mail is not accepted',
    description: `${CLUSTER}: {{ $value | humanizePercentage }} of the complete messages were not answered 250; the objective allows 0.1 % over 30 days.`,
  },
  {
    alert: 'FrontendNoUpstream',
    expr: 'mailcluster_proxy_transports_available == 0',
    for: '1m',
    severity: 'critical',
    summary: 'A front end has no transport',
    description: `${POD} may choose from no transport: it answers 451 to every message.`,
  },
  {
    alert: 'ContentFilterFailing',
    expr: `${by(', listener, result', 'increase(mailcluster_content_filter_messages_total{result=~"failed.*"}[15m])')} / on (namespace, cluster, listener) group_left () ${by(', listener', 'increase(mailcluster_content_filter_messages_total[15m])')} > 0.05`,
    for: '10m',
    severity: 'warning',
    summary: 'A content filter gives no usable answer',
    description: `${CLUSTER}, listener {{ $labels.listener }}: {{ $value | humanizePercentage }} of the messages had no usable answer from its content filter; {{ if eq $labels.result "failedDeferred" }}their senders were told to come again{{ else }}they were accepted unfiltered{{ end }}.`,
  },
  {
    alert: 'MemberFlapping',
    expr: 'changes(mailcluster_process_start_time_seconds{cluster!=""}[30m]) >= 3',
    for: '0m',
    severity: 'warning',
    summary: 'A process starts again and again',
    description: `${POD} has started {{ $value }} times in half an hour.`,
  },
];

const STORE_ALERTS: readonly Alert[] = [
  {
    alert: 'StoreFillingPredicted',
    expr: 'predict_linear(mailcluster_store_free_bytes[6h], 86400) < 0 and mailcluster_store_free_bytes / (mailcluster_store_free_bytes + mailcluster_store_bytes) < 0.4',
    for: '1h',
    severity: 'warning',
    summary: 'A queue database will be full within a day',
    description: `${POD}: at the pace of the last six hours nothing is free in a day.`,
  },
  {
    alert: 'StoreNearlyFull',
    expr: 'mailcluster_store_free_bytes < 536870912',
    for: '5m',
    severity: 'critical',
    summary: 'A queue database is nearly full',
    description: `${POD}: {{ $value | humanize1024 }}B are free; below 256 MiB it refuses mail.`,
  },
  {
    alert: 'BackPressure',
    expr: 'mailcluster_backpressure_level > 0',
    for: '5m',
    severity: 'warning',
    summary: 'A transport refuses mail to protect itself',
    description: `${POD} is at level {{ $value }} (1 medium, 2 high) for want of {{ $labels.resource }}.`,
  },
  {
    alert: 'CorruptRecords',
    expr: 'mailcluster_corrupt_records_total > 0',
    for: '0m',
    severity: 'warning',
    summary: 'A queue database is damaged',
    description: `${POD} has met {{ $value }} damaged records since it started and put them aside. The disk cannot be trusted.`,
  },
];

const CHANGE_ALERTS: readonly Alert[] = [
  {
    alert: 'DrainStalled',
    expr: 'mailcluster_member_state{state="draining"} == 1',
    for: '1h',
    severity: 'warning',
    summary: 'A drain does not end',
    description: `${POD} has been draining for an hour and still holds something.`,
  },
  {
    alert: 'TopologyNotConverged',
    expr: 'max by (namespace, cluster) (mailcluster_topology_generation) != min by (namespace, cluster) (mailcluster_topology_generation)',
    for: '10m',
    severity: 'warning',
    summary: 'Not everybody has the present topology',
    description: `${CLUSTER}: some process is behind generation {{ $value }}.`,
  },
  {
    alert: 'CertificateExpiring',
    expr: 'mailcluster_certificate_expiration_timestamp_seconds - time() < 129600',
    for: '15m',
    severity: 'warning',
    summary: 'A certificate ends soon',
    description: `${POD}: the certificate for {{ $labels.purpose }} ends in {{ $value | humanizeDuration }} and should have been renewed.`,
  },
];

const OPERATOR_ALERTS: readonly Alert[] = [
  {
    alert: 'OperatorDown',
    expr: 'absent(mailcluster_leader == 1)',
    for: '5m',
    severity: 'critical',
    summary: 'No operator leads',
    description: 'Mail flows, but nobody starts, restarts or drains members, tells losses, or signs certificates.',
  },
  {
    alert: 'OperatorReconcileErrors',
    expr: 'sum by (namespace, pod) (rate(mailcluster_reconcile_total{result=~"retry|error"}[10m])) / sum by (namespace, pod) (rate(mailcluster_reconcile_total[10m])) > 0.5',
    for: '15m',
    severity: 'warning',
    summary: 'The operator does not get its work done',
    description: `${POD}: {{ $value | humanizePercentage }} of its looks at MailClusters end with a failure.`,
  },
  {
    alert: 'ClusterNotReady',
    expr: 'mailcluster_condition{type="Ready"} == 0 and on (namespace, pod) mailcluster_leader == 1',
    for: '10m',
    severity: 'critical',
    summary: 'A MailCluster is not ready',
    description: '{{ $labels.mailcluster }} has not been Ready for ten minutes.',
  },
];

export const ALERTS: readonly Alert[] = [
  ...REDUNDANCY_ALERTS,
  ...QUEUE_ALERTS,
  ...SERVICE_ALERTS,
  ...STORE_ALERTS,
  ...CHANGE_ALERTS,
  ...OPERATOR_ALERTS,
];
