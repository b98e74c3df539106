/**
 * For each alert the series that raise it, the last minute at which it is still quiet, the minute at which it is there, and what it says then. Series
 * beside the guilty one are those that must not count: unknown (NaN), healthy, of somebody else. In the notation of promtool: `1x9` is ten times 1.
 */
export interface AlertCase {
  readonly alert: string;
  /** Labels and values, one a minute. */
  readonly series: Readonly<Record<string, string>>;
  readonly quietAt: number;
  readonly firesAt: number;
  /** Without severity. */
  readonly labels: Readonly<Record<string, string>>;
  readonly description: string;
}

const C = 'namespace="mail",cluster="contoso"';
const A = `${C},pod="a"`;
const B = `${C},pod="b"`;
const cluster = { namespace: 'mail', cluster: 'contoso' };
const pod = { ...cluster, pod: 'a' };
const OPERATOR = 'namespace="system",pod="op-1"';
const unknown = (minutes: number): string => Array.from({ length: minutes }, () => 'NaN').join(' ');

export const ALERT_CASES: readonly AlertCase[] = [
  {
    alert: 'UnprotectedMessages',
    series: {
      [`mailcluster_unprotected_messages{${A}}`]: '2x9',
      [`mailcluster_unprotected_messages{${B}}`]: unknown(10),
      'mailcluster_unprotected_messages{namespace="mail",cluster="other",pod="c"}': '0x9',
    },
    ...{ quietAt: 4, firesAt: 5, labels: cluster },
    description: '2 messages in transit of mail/contoso have no second copy: one more loss would lose them.',
  },
  {
    alert: 'BoundaryBelowRedundancy',
    series: {
      [`mailcluster_member_state{${A},dag="dag1",state="ready"}`]: '1x9',
      [`mailcluster_member_state{${B},dag="dag1",state="ready"}`]: '0x9',
      [`mailcluster_member_state{${B},dag="dag1",state="recovering"}`]: '1x9',
      [`mailcluster_member_state{${C},pod="c",dag="dag2",state="ready"}`]: '1x9',
      [`mailcluster_member_state{${C},pod="d",dag="dag2",state="ready"}`]: '1x9',
    },
    ...{ quietAt: 1, firesAt: 2, labels: { ...cluster, dag: 'dag1' } },
    description:
      'mail/contoso, DAG dag1: 1 transports are ready, two are needed to protect a message. New mail is refused with 451 unless the policy allows one copy.',
  },
  {
    alert: 'ShadowPeerUnreachable',
    series: {
      [`mailcluster_peer_up{${A},container="transport",peer="b"}`]: '0x9',
      [`mailcluster_peer_up{${A},container="transport",peer="gone"}`]: unknown(10),
      [`mailcluster_peer_up{${B},container="transport",peer="a"}`]: '0 0 0 1 0 0 0 0 0 0',
      [`mailcluster_peer_up{${C},pod="f",container="frontend",peer="b"}`]: '0x9',
    },
    ...{ quietAt: 4, firesAt: 5, labels: { ...pod, container: 'transport', peer: 'b' } },
    description: 'mail/a has had no connection to b for five minutes.',
  },
  {
    alert: 'TakeoverHappened',
    series: {
      [`mailcluster_identities_lost_total{${A},reason="replaced"}`]: '0 0 1x9',
      [`mailcluster_identities_lost_total{${A},reason="drained"}`]: '0 1 2x9',
    },
    ...{ quietAt: 1, firesAt: 2, labels: { ...cluster, reason: 'replaced' } },
    description:
      'mail/contoso: transports have taken over from a queue database (replaced). Nothing has to be done if messages are protected again; somebody should know why it was lost.',
  },
  {
    alert: 'QueueAgeHigh',
    series: {
      [`mailcluster_queue_oldest_message_timestamp_seconds{${A},kind="delivery"}`]: '0x60',
      [`mailcluster_queue_oldest_message_timestamp_seconds{${B},kind="delivery"}`]: unknown(60),
      [`mailcluster_queue_oldest_message_timestamp_seconds{${B},kind="unreachable"}`]: unknown(60),
      [`mailcluster_queue_oldest_message_timestamp_seconds{${B},kind="shadow"}`]: '0x60',
    },
    ...{ quietAt: 40, firesAt: 41, labels: { ...cluster, kind: 'delivery' } },
    description: 'mail/contoso: the oldest message of the queue delivery is 41m 0s old.',
  },
  {
    alert: 'DaneUnvalidated',
    series: {
      [`mailcluster_dane_hosts_total{${A},result="unvalidated"}`]: '0x4 5x30',
      [`mailcluster_dane_hosts_total{${A},result="none"}`]: '0+7x35',
      [`mailcluster_dane_hosts_total{${B},result="unvalidated"}`]: '0x35',
    },
    ...{ quietAt: 14, firesAt: 15, labels: pod },
    description:
      'mail/a sends by a connector with DANE, but its mx.dnsServers validate nothing, not even the root: mail goes out as without DANE.',
  },
  {
    alert: 'PoisonMessages',
    series: { [`mailcluster_poison_messages{${A}}`]: '0 1x5', [`mailcluster_poison_messages{${B}}`]: '0x9' },
    ...{ quietAt: 0, firesAt: 1, labels: cluster },
    description:
      'mail/contoso: 1 messages are in the poison queue: a process died twice with each of them alone in its hands. They are not delivered until somebody decides.',
  },
  {
    alert: 'ResubmitStalled',
    series: {
      [`mailcluster_resubmit_requests{${A},state="Running"}`]: '1x70',
      [`mailcluster_resubmit_requests{${A},state="Done"}`]: '3x70',
      [`mailcluster_resubmitted_total{${A},role="primary"}`]: '5x70',
      [`mailcluster_resubmit_requests{${B},state="Running"}`]: '1x70',
      [`mailcluster_resubmitted_total{${B},role="primary"}`]: '0+1x70',
      [`mailcluster_resubmit_requests{${C},pod="c",state="Done"}`]: '1x70',
      [`mailcluster_resubmitted_total{${C},pod="c",role="primary"}`]: '5x70',
    },
    ...{ quietAt: 30, firesAt: 31, labels: pod },
    description: 'mail/a has had open resubmit requests for half an hour and resubmitted nothing.',
  },
  {
    alert: 'AcceptLatencyBurn',
    series: {
      [`mailcluster_proxy_duration_seconds_bucket{${A},outcome="accepted",le="2.5"}`]: '0+30x9',
      [`mailcluster_proxy_duration_seconds_count{${A},outcome="accepted"}`]: '0+60x9',
      'mailcluster_proxy_duration_seconds_bucket{namespace="mail",cluster="idle",pod="f",outcome="accepted",le="2.5"}':
        '0x9',
      'mailcluster_proxy_duration_seconds_count{namespace="mail",cluster="idle",pod="f",outcome="accepted"}': '0x9',
    },
    ...{ quietAt: 2, firesAt: 3, labels: cluster },
    description:
      'mail/contoso: 50% of the messages took longer than 2.5 s to accept; the objective allows 1 % over 30 days.',
  },
  {
    alert: 'AcceptErrorsBurn',
    series: {
      [`mailcluster_proxy_duration_seconds_count{${A},outcome="accepted"}`]: '0+60x9',
      [`mailcluster_proxy_duration_seconds_count{${A},outcome="refused"}`]: '0+6x9',
      'mailcluster_proxy_duration_seconds_count{namespace="mail",cluster="good",pod="f",outcome="accepted"}':
        '0+10000x9',
      'mailcluster_proxy_duration_seconds_count{namespace="mail",cluster="good",pod="f",outcome="refused"}': '0+1x9',
    },
    ...{ quietAt: 2, firesAt: 3, labels: cluster },
    description:
      'mail/contoso: 9.091% of the complete messages were not answered 250; the objective allows 0.1 % over 30 days.',
  },
  {
    alert: 'FrontendNoUpstream',
    series: {
      [`mailcluster_proxy_transports_available{${A}}`]: '0x9',
      [`mailcluster_proxy_transports_available{${B}}`]: '2x9',
    },
    ...{ quietAt: 0, firesAt: 1, labels: pod },
    description: 'mail/a may choose from no transport: it answers 451 to every message.',
  },
  {
    alert: 'ContentFilterFailing',
    series: {
      // From the fifth minute on one pod does not reach it: more than one in twenty from the eighth on. What the other one hears from it are answers.
      [`mailcluster_content_filter_messages_total{${A},listener="smtp",result="accepted"}`]: '0+10x4 40x30',
      [`mailcluster_content_filter_messages_total{${A},listener="smtp",result="failedDeferred"}`]: '0x4 0+2x30',
      [`mailcluster_content_filter_messages_total{${A},listener="smtp",result="failedAccepted"}`]: '0x35',
      [`mailcluster_content_filter_messages_total{${B},listener="smtp",result="rejected"}`]: '0+8x35',
      // One in a hundred, a filter that refuses all there is, and a listener that nobody uses.
      [`mailcluster_content_filter_messages_total{${A},listener="large",result="accepted"}`]: '0+99x35',
      [`mailcluster_content_filter_messages_total{${A},listener="large",result="failedAccepted"}`]: '0+1x35',
      [`mailcluster_content_filter_messages_total{${A},listener="strict",result="rejected"}`]: '0+9x35',
      [`mailcluster_content_filter_messages_total{${A},listener="idle",result="failedDeferred"}`]: '0x35',
    },
    ...{ quietAt: 17, firesAt: 18, labels: { ...cluster, listener: 'smtp', result: 'failedDeferred' } },
    description:
      'mail/contoso, listener smtp: 16.67% of the messages had no usable answer from its content filter; their senders were told to come again.',
  },
  {
    alert: 'MemberFlapping',
    series: {
      [`mailcluster_process_start_time_seconds{${A}}`]: '1 2 3 4x9',
      [`mailcluster_process_start_time_seconds{${B}}`]: '1 2 3x9',
      [`mailcluster_process_start_time_seconds{${OPERATOR}}`]: '1 2 3 4x9',
    },
    ...{ quietAt: 2, firesAt: 3, labels: pod },
    description: 'mail/a has started 3 times in half an hour.',
  },
  {
    alert: 'StoreFillingPredicted',
    series: {
      [`mailcluster_store_free_bytes{${A}}`]: '10000000000-50000000x90',
      [`mailcluster_store_bytes{${A}}`]: '30000000000+50000000x90',
      [`mailcluster_store_free_bytes{${B}}`]: '90000000000-90000000x90',
      [`mailcluster_store_bytes{${B}}`]: '10000000000+90000000x90',
    },
    ...{ quietAt: 60, firesAt: 61, labels: pod },
    description: 'mail/a: at the pace of the last six hours nothing is free in a day.',
  },
  {
    alert: 'StoreNearlyFull',
    series: {
      [`mailcluster_store_free_bytes{${A}}`]: '314572800x9',
      [`mailcluster_store_free_bytes{${B}}`]: '900000000x9',
    },
    ...{ quietAt: 4, firesAt: 5, labels: pod },
    description: 'mail/a: 300MiB are free; below 256 MiB it refuses mail.',
  },
  {
    alert: 'BackPressure',
    series: {
      [`mailcluster_backpressure_level{${A},resource="disk"}`]: '1x9',
      [`mailcluster_backpressure_level{${B},resource="disk"}`]: '0x9',
    },
    ...{ quietAt: 4, firesAt: 5, labels: { ...pod, resource: 'disk' } },
    description: 'mail/a is at level 1 (1 medium, 2 high) for want of disk.',
  },
  {
    alert: 'CorruptRecords',
    series: {
      [`mailcluster_corrupt_records_total{${A}}`]: '0 2x9',
      [`mailcluster_corrupt_records_total{${B}}`]: '0x9',
    },
    ...{ quietAt: 0, firesAt: 1, labels: pod },
    description: 'mail/a has met 2 damaged records since it started and put them aside. The disk cannot be trusted.',
  },
  {
    alert: 'DrainStalled',
    series: {
      [`mailcluster_member_state{${A},state="draining"}`]: '1x70',
      [`mailcluster_member_state{${B},state="draining"}`]: '0x70',
    },
    ...{ quietAt: 59, firesAt: 60, labels: { ...pod, state: 'draining' } },
    description: 'mail/a has been draining for an hour and still holds something.',
  },
  {
    alert: 'TopologyNotConverged',
    series: {
      [`mailcluster_topology_generation{${A}}`]: '7x20',
      [`mailcluster_topology_generation{${B}}`]: '6x20',
      'mailcluster_topology_generation{namespace="mail",cluster="other",pod="c"}': '9x20',
    },
    ...{ quietAt: 9, firesAt: 10, labels: cluster },
    description: 'mail/contoso: some process is behind generation 7.',
  },
  {
    alert: 'CertificateExpiring',
    series: {
      [`mailcluster_certificate_expiration_timestamp_seconds{${A},purpose="peer"}`]: '130000x40',
      [`mailcluster_certificate_expiration_timestamp_seconds{${B},purpose="peer"}`]: '600000x40',
    },
    ...{ quietAt: 21, firesAt: 22, labels: { ...pod, purpose: 'peer' } },
    description: 'mail/a: the certificate for peer ends in 1d 11h 44m 40s and should have been renewed.',
  },
  {
    alert: 'OperatorDown',
    series: { [`mailcluster_leader{${OPERATOR}}`]: '1 1 0x9' },
    ...{ quietAt: 6, firesAt: 7, labels: {} },
    description: 'Mail flows, but nobody starts, restarts or drains members, tells losses, or signs certificates.',
  },
  {
    alert: 'OperatorReconcileErrors',
    series: {
      [`mailcluster_reconcile_total{${OPERATOR},result="retry"}`]: '0+9x30',
      [`mailcluster_reconcile_total{${OPERATOR},result="done"}`]: '0+1x30',
      'mailcluster_reconcile_total{namespace="system",pod="op-2",result="retry"}': '0+1x30',
      'mailcluster_reconcile_total{namespace="system",pod="op-2",result="done"}': '0+9x30',
      [`mailcluster_reconcile_total{${A},result="retry"}`]: '0x30',
    },
    ...{ quietAt: 15, firesAt: 16, labels: { namespace: 'system', pod: 'op-1' } },
    description: 'system/op-1: 90% of its looks at MailClusters end with a failure.',
  },
  {
    alert: 'ClusterNotReady',
    series: {
      [`mailcluster_condition{${OPERATOR},mailcluster="mail/contoso",type="Ready"}`]: '0x20',
      [`mailcluster_condition{${OPERATOR},mailcluster="mail/contoso",type="Paused"}`]: '0x20',
      [`mailcluster_condition{${OPERATOR},mailcluster="mail/gone",type="Ready"}`]: unknown(20),
      'mailcluster_condition{namespace="system",pod="op-2",mailcluster="mail/former",type="Ready"}': '0x20',
      [`mailcluster_leader{${OPERATOR}}`]: '1x20',
      'mailcluster_leader{namespace="system",pod="op-2"}': '0x20',
    },
    ...{
      quietAt: 9,
      firesAt: 10,
      labels: { namespace: 'system', pod: 'op-1', mailcluster: 'mail/contoso', type: 'Ready' },
    },
    description: 'mail/contoso has not been Ready for ten minutes.',
  },
];
