/**
 * Every metric the programs export (observability.md). Owns: names, types, help, labels, buckets. The only place a metric is declared;
 * `docs/metrics.md` is generated from it (`make docs`). Names carry no prefix here. `cluster`, `dag`, `site` and `member` are
 * default labels of every sample and not repeated. Labels are bounded: never a recipient, domain, id or address.
 */
export interface MetricDeclaration {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly labels: readonly string[];
  /** All values of its labels, where they are few and known: exported with 0 from the start, so that the first event is an increase, too. */
  readonly values?: Readonly<Record<string, readonly string[]>>;
  /** Histogram buckets in the unit of the name. */
  readonly buckets?: readonly number[];
}

const declare = <const T extends Record<string, MetricDeclaration>>(catalog: T): T => catalog;

/** 0.5 ms to 60 s: one sync is about 1 ms, the last intake deadline 10 s. */
const LATENCY = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const;
const SIZES = [1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864] as const;

export const METRIC_CATALOG = declare({
  // Front end
  smtp_connections_total: { type: 'counter', help: 'SMTP connections accepted, by listener.', labels: ['listener'] },
  smtp_connections: { type: 'gauge', help: 'SMTP connections open now, by listener.', labels: ['listener'] },
  smtp_sessions_rejected_total: {
    type: 'counter',
    help: 'SMTP connections turned away or cut off, by reason.',
    labels: ['reason'],
    values: {
      reason: [
        'idleTimeout',
        'dataTimeout',
        'dataTooSlow',
        'tooManyErrors',
        'tooManyJunkCommands',
        'tooManyConnections',
        'tooManyClientConnections',
        'connectingTooOften',
        'notHttp',
        'badProxyHeader',
        'earlyTalker',
        'unauthorisedPipelining',
        'refusedByPolicy',
        'handlerFailed',
      ],
    },
  },
  smtp_commands_total: {
    type: 'counter',
    help: 'SMTP commands answered, by verb and reply code.',
    labels: ['verb', 'code'],
  },
  smtp_auth_total: {
    type: 'counter',
    help: 'AUTH attempts, by result.',
    labels: ['result'],
    values: { result: ['success', 'failure', 'error', 'refused'] },
  },
  smtp_limits_total: {
    type: 'counter',
    help: 'Times a limit of the SMTP edge was reached, by limit.',
    labels: ['limit'],
    values: {
      limit: [
        'maxErrors',
        'maxJunkCommands',
        'maxCommandLineBytes',
        'maxMessageBytes',
        'maxRecipients',
        'maxExpandedRecipients',
        'maxEnvelopeBytes',
        'maxHeaderBytes',
        'maxDataLineBytes',
        'maxReceivedHops',
        'maxConnections',
        'maxConnectionsPerClient',
        'maxConnectionRatePerClient',
        'maxAuthFailures',
        'maxMessageRatePerUser',
      ],
    },
  },
  address_lists_missing: {
    type: 'gauge',
    help: 'Address lists that were never read: who is only in one of them is refused for now (451).',
    labels: [],
  },
  address_list_addresses: { type: 'gauge', help: 'Addresses of all address lists in force.', labels: [] },
  address_list_bytes: { type: 'gauge', help: 'Memory of the address lists in force.', labels: [] },
  address_list_rejected_total: {
    type: 'counter',
    help: 'Times an address list could not be read or was not one; the former stays.',
    labels: [],
  },
  shared_limits_up: {
    type: 'gauge',
    help: '1 while the limits are shared with the other front ends through Redis; 0: this one counts for itself.',
    labels: [],
  },
  shared_limits_total: {
    type: 'counter',
    help: 'Counts told to the other front ends, by result (added, failed, dropped while Redis was out of reach).',
    labels: ['result'],
    values: { result: ['added', 'failed', 'dropped'] },
  },
  authentication_results_total: {
    type: 'counter',
    help: 'Results of SPF, DKIM, DMARC and ARC written into Authentication-Results, by method (a message has one of DKIM for each signature).',
    labels: ['method', 'result'],
    values: {
      method: ['spf', 'dkim', 'dmarc', 'arc'],
      result: ['none', 'pass', 'fail', 'softfail', 'policy', 'neutral', 'temperror', 'permerror'],
    },
  },
  content_filter_messages_total: {
    type: 'counter',
    help: 'Messages that a content filter was asked about, by listener (only those with a filter) and result (accepted; rejected, deferred or discarded by it, none of which is taken; failedDeferred and failedAccepted: no usable answer, by failurePolicy).',
    labels: ['listener', 'result'],
  },
  content_filter_failures_total: {
    type: 'counter',
    help: 'Messages for which the content filter gave no usable answer, by listener and reason (connect: nobody there; timeout: silent; closed: gone before its answer; garbage: not understood; unsupported: it wants to change what it may not).',
    labels: ['listener', 'reason'],
  },
  content_filter_wait_seconds: {
    type: 'histogram',
    help: 'How long messages waited for the content filter after their end.',
    labels: [],
    buckets: LATENCY,
  },
  proxy_duration_seconds: {
    type: 'histogram',
    help: 'From the end of data to the reply for the client, at the front end.',
    labels: ['outcome'],
    values: { outcome: ['accepted', 'refused', 'closed'] },
    buckets: LATENCY,
  },
  proxy_upstream_failures_total: {
    type: 'counter',
    help: 'Transports that failed a transaction, by the stage it had reached.',
    labels: ['stage'],
    values: { stage: ['open', 'body', 'end'] },
  },
  proxy_replays_total: {
    type: 'counter',
    help: 'Messages replayed to another transport, by result.',
    labels: ['result'],
    values: { result: ['accepted', 'refused', 'closed'] },
  },
  proxy_replay_buffer_bytes: { type: 'gauge', help: 'Bytes held for replay over all sessions.', labels: [] },
  proxy_transports_available: { type: 'gauge', help: 'Transports this front end may choose from now.', labels: [] },

  // Intake
  messages_accepted_total: {
    type: 'counter',
    help: 'Messages answered 250, by protection.',
    labels: ['protection'],
    values: { protection: ['protected', 'unprotected'] },
  },
  messages_refused_total: {
    type: 'counter',
    help: 'Messages refused by the transport, by reason.',
    labels: ['reason'],
    values: { reason: ['open', 'shadow'] },
  },
  accept_duration_seconds: {
    type: 'histogram',
    help: 'From the end of data to the durable answer, at the transport.',
    labels: [],
    buckets: LATENCY,
  },
  shadow_commit_duration_seconds: {
    type: 'histogram',
    help: 'From the end of data to the durable confirmation of the shadow, by scope (remote or local site).',
    labels: ['scope'],
    values: { scope: ['remote', 'local'] },
    buckets: LATENCY,
  },
  shadow_attempts_total: {
    type: 'counter',
    help: 'Attempts to place a shadow copy, by result and scope.',
    labels: ['result', 'scope'],
    values: { result: ['stored', 'failed'], scope: ['remote', 'local'] },
  },
  message_size_bytes: { type: 'histogram', help: 'Size of accepted messages.', labels: [], buckets: SIZES },

  // Redundancy
  unprotected_messages: {
    type: 'gauge',
    help: 'Messages in transit known to be on this database only (the safety number); NaN while some peer has not answered since start.',
    labels: [],
  },
  shadow_queue_messages: { type: 'gauge', help: 'Shadow copies held, by primary.', labels: ['primary'] },
  shadow_promotions_total: {
    type: 'counter',
    help: 'Shadow copies that became primary, by reason.',
    labels: ['reason'],
    values: { reason: ['replaced', 'confirmed lost', 'drained', 'no contact'] },
  },
  identities_lost_total: {
    type: 'counter',
    help: 'Queue databases taken over from, by how it became known (replaced, confirmed lost, drained).',
    labels: ['reason'],
    values: { reason: ['replaced', 'confirmed lost', 'drained'] },
  },
  rehomed_total: {
    type: 'counter',
    help: 'Safety Net copies given another home, by why (protect: its holder was lost; handOver: this member is drained).',
    labels: ['reason'],
    values: { reason: ['protect', 'handOver'] },
  },
  resigned_total: { type: 'counter', help: 'Copies handed over to another owner by a drain.', labels: [] },
  released_total: {
    type: 'counter',
    help: 'Shadow copies given up because another member holds them now.',
    labels: [],
  },
  poisoned_total: {
    type: 'counter',
    help: 'Messages put aside because the process died twice while it had only them in its hands.',
    labels: [],
  },
  quarantined_total: { type: 'counter', help: 'Copies whose body turned out to be unreadable.', labels: [] },
  refetched_total: { type: 'counter', help: 'Unreadable bodies fetched again from another member.', labels: [] },
  drained: { type: 'gauge', help: '1 once this member has proved that it holds nothing any more.', labels: [] },
  reshadowed_total: { type: 'counter', help: 'Messages given a new shadow after losing one.', labels: [] },
  discarded_total: { type: 'counter', help: 'Shadow copies given up because their owner said final.', labels: [] },
  discards_pending: { type: 'gauge', help: 'Discard notices not yet acknowledged by the shadow.', labels: [] },
  heartbeat_age_timestamp_seconds: {
    type: 'gauge',
    help: 'Time of the last authenticated contact, by peer; subtract from time(). NaN: none since the start, or no member any more.',
    labels: ['peer'],
  },
  peer_up: {
    type: 'gauge',
    help: '1 while an authenticated connection to the peer is open; NaN once it is no member any more.',
    labels: ['peer'],
  },
  peer_protocol_errors_total: {
    type: 'counter',
    help: 'Peer connections dropped because the other side spoke wrongly, by reason.',
    labels: ['reason'],
    values: { reason: ['handshake', 'session'] },
  },
  reconciled_total: {
    type: 'counter',
    help: 'Copies settled by comparing states with a peer, by result.',
    labels: ['result'],
    values: { result: ['settled'] },
  },
  fenced: { type: 'gauge', help: '1 while this member holds back because another may own its messages.', labels: [] },

  // Queues and delivery
  queue_messages: { type: 'gauge', help: 'Copies in a queue, by kind.', labels: ['kind'] },
  queue_bytes: { type: 'gauge', help: 'Bytes in a queue, by kind.', labels: ['kind'] },
  queue_oldest_message_timestamp_seconds: {
    type: 'gauge',
    help: 'By kind, when the oldest message of a queue came, so that it is as old as expiry counts it (time in which no member was up is not in it); NaN: it is empty.',
    labels: ['kind'],
  },
  dkim_signatures_total: {
    type: 'counter',
    help: 'Messages of domains with a DKIM key that were to leave: signed, sent unsigned, or deferred because the key could not be used.',
    labels: ['outcome'],
    values: { outcome: ['signed', 'unsigned', 'deferred'] },
  },
  dane_hosts_total: {
    type: 'counter',
    help: 'MX hosts of connectors with DANE as they were found: with TLSA records, with unusable ones, without any, in doubt (not used), or unvalidated: the resolver validates nothing.',
    labels: ['result'],
    values: { result: ['proof', 'unusable', 'none', 'unresolved', 'unvalidated'] },
  },
  dane_attempts_total: {
    type: 'counter',
    help: 'Attempts to deliver to hosts with usable TLSA records: the certificate was proven, or refused before anything was sent.',
    labels: ['outcome'],
    values: { outcome: ['proven', 'refused'] },
  },
  arc_seals_total: {
    type: 'counter',
    help: "Strangers' messages with a known chain of ARC that were to leave: sealed, sent unsealed or deferred because the key could not be used, or unsealable (a chain that has ended or is full, no author).",
    labels: ['outcome'],
    values: { outcome: ['sealed', 'unsealed', 'deferred', 'unsealable'] },
  },
  delivery_duration_seconds: {
    type: 'histogram',
    help: 'Duration of one delivery attempt, by route.',
    labels: ['route'],
    values: { route: ['mailbox', 'smartHost', 'mx', 'boundary'] },
    buckets: LATENCY,
  },
  delivered_total: {
    type: 'counter',
    help: 'Recipients delivered or relayed, by route.',
    labels: ['route'],
    values: { route: ['mailbox', 'smartHost', 'mx', 'boundary'] },
  },
  deferred_total: {
    type: 'counter',
    help: 'Delivery attempts put off, by reason.',
    labels: ['reason'],
    values: { reason: ['connection', 'reply'] },
  },
  failed_total: {
    type: 'counter',
    help: 'Recipients that failed for good, by route.',
    labels: ['route'],
    values: { route: ['mailbox', 'smartHost', 'mx', 'boundary'] },
  },
  expired_total: { type: 'counter', help: 'Recipients given up because the message expired.', labels: [] },
  dsn_total: {
    type: 'counter',
    help: 'Delivery status notifications created, by kind.',
    labels: ['kind'],
    values: { kind: ['failed'] },
  },
  poison_messages: { type: 'gauge', help: 'Messages in the poison queue.', labels: [] },

  // Safety Net
  safety_net_messages: { type: 'gauge', help: 'Messages in Safety Net, by role.', labels: ['role'] },
  safety_net_bytes: { type: 'gauge', help: 'Bytes in Safety Net, by role.', labels: ['role'] },
  safety_net_oldest_timestamp_seconds: {
    type: 'gauge',
    help: 'When the oldest message in Safety Net became final; NaN: it is empty.',
    labels: [],
  },
  safety_net_expired_total: {
    type: 'counter',
    help: 'Messages dropped from Safety Net after the hold time.',
    labels: [],
  },
  safety_net_shed_total: {
    type: 'counter',
    help: 'Safety Net entries given up before their hold time because of the quota.',
    labels: [],
  },
  resubmitted_total: {
    type: 'counter',
    help: 'Messages resubmitted from Safety Net, by role.',
    labels: ['role'],
    values: { role: ['primary', 'shadow'] },
  },
  duplicates_suppressed_total: {
    type: 'counter',
    help: 'Deliveries recognised as repeats and not made again, by who recognised them.',
    labels: ['reason'],
    values: { reason: ['ledger'] },
  },
  resubmit_requests: {
    type: 'gauge',
    help: 'Resubmit requests this member knows, by how far it is (Pending, Running, Paused, Done, Cancelled).',
    labels: ['state'],
  },
  ledger_up: { type: 'gauge', help: '1 while the shared ledger of external deliveries answers.', labels: [] },
  ledger_lookups_total: {
    type: 'counter',
    help: 'Recipients the ledger was asked about, by what it knew (relayed, absent, unknown).',
    labels: ['result'],
    values: { result: ['relayed', 'absent', 'unknown'] },
  },
  ledger_entries_rejected_total: {
    type: 'counter',
    help: 'Entries of the shared ledger that proved nothing: forged, damaged, about something else.',
    labels: [],
  },
  ledger_writes_total: {
    type: 'counter',
    help: 'Entries for the shared ledger, by result (written, failed, dropped while it was out of reach).',
    labels: ['result'],
    values: { result: ['written', 'failed', 'dropped'] },
  },

  // Store
  store_commit_duration_seconds: {
    type: 'histogram',
    help: 'From handing writes over to their being durable.',
    labels: [],
    buckets: LATENCY,
  },
  store_commit_batch_size: {
    type: 'histogram',
    help: 'Commits that shared one sync.',
    labels: [],
    buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256],
  },
  store_syncs_total: { type: 'counter', help: 'fdatasync calls.', labels: [] },
  store_bytes: {
    type: 'gauge',
    help: 'Bytes of the queue database on disk.',
    labels: [],
  },
  store_free_bytes: { type: 'gauge', help: 'Bytes the queue database can still take.', labels: [] },
  backpressure_level: { type: 'gauge', help: '0 Normal, 1 Medium, 2 High, by resource.', labels: ['resource'] },
  scrubbed_bytes_total: { type: 'counter', help: 'Bytes of the queue database looked at for damage.', labels: [] },
  scrub_last_full_pass_timestamp_seconds: {
    type: 'gauge',
    help: 'When the queue database was last looked at from end to end; subtract from time(). 0: never yet.',
    labels: [],
  },
  corrupt_records_total: { type: 'counter', help: 'Damaged records quarantined.', labels: [] },

  // Operator
  api_requests_total: {
    type: 'counter',
    help: 'Requests to the API server, each attempt counted, by verb, resource and HTTP code (none: no answer).',
    labels: ['verb', 'resource', 'code'],
  },
  api_request_duration_seconds: {
    type: 'histogram',
    help: 'Duration of one request to the API server, watches excepted, by verb.',
    labels: ['verb'],
    buckets: LATENCY,
  },
  api_connections_total: { type: 'counter', help: 'Connections opened to the API server.', labels: [] },
  relists_total: {
    type: 'counter',
    help: 'Times a resource was listed as a whole, by resource and why (start, gone).',
    labels: ['resource', 'reason'],
  },
  watch_ends_total: {
    type: 'counter',
    help: 'Watches that ended, by resource and how (end, reset, stalled, gone, error, garbage, refused).',
    labels: ['resource', 'reason'],
  },
  reconcile_total: {
    type: 'counter',
    help: 'Looks at one MailCluster, by result (done, again, retry, error).',
    labels: ['result'],
    values: { result: ['done', 'again', 'retry', 'error'] },
  },
  reconcile_duration_seconds: {
    type: 'histogram',
    help: 'Duration of one look at one MailCluster: gather, plan, carry out, status.',
    labels: [],
    buckets: LATENCY,
  },
  condition: {
    type: 'gauge',
    help: '1 while the condition is True, 0 while it is not, by MailCluster (namespace/name) and type; NaN once the MailCluster is gone. Of the leader.',
    labels: ['mailcluster', 'type'],
  },
  restarts_total: {
    type: 'counter',
    help: 'Members restarted in order, by reason.',
    labels: ['reason'],
    values: { reason: ['ConfigurationChanged', 'ImageChanged', 'ResourcesChanged', 'TemplateChanged'] },
  },
  workqueue_depth: { type: 'gauge', help: 'Keys that wait for a worker, by queue.', labels: ['queue'] },
  workqueue_retries_total: {
    type: 'counter',
    help: 'Keys that failed and will be tried again, by queue.',
    labels: ['queue'],
    values: { queue: ['mailclusters', 'access-requests'] },
  },
  leader: { type: 'gauge', help: '1 while this operator holds the lease and may write.', labels: [] },
  events_dropped_total: {
    type: 'counter',
    help: 'Kubernetes Events that were not written, by why (rate, backlog, failed).',
    labels: ['reason'],
    values: { reason: ['rate', 'backlog', 'failed'] },
  },

  // Process
  build_info: { type: 'gauge', help: 'Always 1; version and runtime in the labels.', labels: ['version', 'node'] },
  member_state: { type: 'gauge', help: '1 for the state this member is in.', labels: ['state'] },
  topology_generation: { type: 'gauge', help: 'Generation of the topology in force.', labels: [] },
  topology_rejected_total: {
    type: 'counter',
    help: 'Topology documents refused because they could not be read.',
    labels: [],
  },
  certificate_expiration_timestamp_seconds: {
    type: 'gauge',
    help: 'When the certificate in use expires, by purpose.',
    labels: ['purpose'],
  },
  tracking_bytes: { type: 'gauge', help: 'Bytes of message tracking on disk (messageTracking.maxSize).', labels: [] },
  tracking_dropped_total: {
    type: 'counter',
    help: 'Tracking records lost because the disk did not take them.',
    labels: [],
  },
});

export type MetricName = keyof typeof METRIC_CATALOG;
