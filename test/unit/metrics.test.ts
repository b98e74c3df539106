/** The catalogue, its export as OpenMetrics, the endpoint for scrapers and probes. */
import { request } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import { METRIC_CATALOG, type MetricDeclaration, type MetricName } from '../../common/platform/metric-catalog.ts';
import { type MetricsServer, type Readiness, startMetricsServer } from '../../common/platform/metrics-server.ts';
import { createMetrics } from '../../common/platform/prom-metrics.ts';

const servers: MetricsServer[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
});

const DEFAULTS = { cluster: 'contoso', dag: 'dag1', site: 'seattle', member: 'a' };

function get(port: number, path: string, method = 'GET'): Promise<{ status: number; type: string; body: string }> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, path, method, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        body += chunk;
      });
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', body }),
      );
    });
    sent.once('error', reject);
    sent.end();
  });
}

test('names and units follow the rules of observability.md', () => {
  for (const [name, one] of Object.entries(METRIC_CATALOG)) {
    expect(name).toMatch(/^[a-z][a-z0-9]*(_[a-z0-9]+)*$/);
    expect([name, name.endsWith('_total')]).toEqual([name, one.type === 'counter']);
    if (one.type === 'histogram') {
      expect([name, /_(seconds|bytes|size)$/.test(name)]).toEqual([name, true]);
      const buckets: readonly number[] = one.buckets;
      expect([...buckets].sort((a, b) => a - b)).toEqual(buckets);
    } else expect(one).not.toHaveProperty('buckets');
    expect(one.help).toMatch(/^[A-Z0-9f].*\.$/);
    for (const label of one.labels) {
      expect(['recipient', 'domain', 'id', 'ip', 'address', ...Object.keys(DEFAULTS)]).not.toContain(label);
    }
  }
});

test('every metric of observability.md that the first three programs have is declared', () => {
  const wanted =
    `smtp_connections_total smtp_connections smtp_sessions_rejected_total smtp_commands_total proxy_duration_seconds
    proxy_upstream_failures_total proxy_replays_total messages_accepted_total messages_refused_total accept_duration_seconds
    shadow_commit_duration_seconds shadow_attempts_total message_size_bytes unprotected_messages shadow_queue_messages
    shadow_promotions_total reshadowed_total discards_pending heartbeat_age_timestamp_seconds peer_up reconciled_total fenced
    queue_messages queue_bytes queue_oldest_message_timestamp_seconds delivery_duration_seconds delivered_total deferred_total
    failed_total expired_total dsn_total poison_messages safety_net_messages safety_net_bytes safety_net_oldest_timestamp_seconds
    resubmitted_total duplicates_suppressed_total store_commit_duration_seconds store_commit_batch_size store_syncs_total
    store_bytes store_free_bytes backpressure_level corrupt_records_total build_info member_state topology_generation
    certificate_expiration_timestamp_seconds`.split(/\s+/);
  expect(wanted.filter((name) => !Object.hasOwn(METRIC_CATALOG, name))).toEqual([]);
});

test('what has declared values is exported with 0 before anything happened, each combination once', async () => {
  const text = await createMetrics({}).render();
  for (const [name, one] of Object.entries<MetricDeclaration>(METRIC_CATALOG)) {
    if (one.type === 'gauge') expect(one).not.toHaveProperty('values');
    if (one.values === undefined) continue;
    expect([name, Object.keys(one.values)]).toEqual([name, one.labels]);
    const count = Object.values(one.values).reduce((product, values) => product * values.length, 1);
    const suffix = one.type === 'histogram' ? '_count' : '';
    const lines = text.split('\n').filter((line) => line.startsWith(`mailcluster_${name}${suffix}{`));
    expect([name, new Set(lines).size, lines.every((line) => line.endsWith(' 0'))]).toEqual([name, count, true]);
  }
});

test('what is counted is exported as OpenMetrics with prefix, labels and default labels', async () => {
  const metrics = createMetrics(DEFAULTS);
  metrics.increment('messages_accepted_total', { protection: 'shadow' });
  metrics.increment('messages_accepted_total', { protection: 'shadow' }, 2);
  expect(await metrics.render()).not.toContain('mailcluster_unprotected_messages');
  metrics.set('unprotected_messages', Number.NaN);
  metrics.observe('accept_duration_seconds', 0.003);
  let renderings = 0;
  metrics.onRender(() => {
    renderings++;
    metrics.set('topology_generation', 7);
  });
  const text = await metrics.render();
  const labels = 'cluster="contoso",dag="dag1",site="seattle",member="a"';
  expect(metrics.contentType).toContain('application/openmetrics-text');
  expect(text).toContain('# TYPE mailcluster_messages_accepted counter');
  expect(text).toContain(`mailcluster_messages_accepted_total{protection="shadow",${labels}} 3`);
  expect(text).toContain(`mailcluster_unprotected_messages{${labels}} Nan`);
  expect(text).toContain(`mailcluster_topology_generation{${labels}} 7`);
  expect(text).toContain(`mailcluster_accept_duration_seconds_count{${labels}} 1`);
  expect(text).toMatch(/mailcluster_accept_duration_seconds_bucket\{le="0\.005",[^}]*\} 1/);
  expect(text).toContain(`mailcluster_store_syncs_total{${labels}} 0`);
  expect(text).toMatch(/mailcluster_nodejs_eventloop_lag_seconds\{/);
  expect(text).toMatch(/mailcluster_process_resident_memory_bytes\{/);
  expect(text.endsWith('# EOF\n')).toBe(true);
  expect(renderings).toBe(1);
  expect(text.match(/^# TYPE mailcluster_messages_accepted /gm)).toHaveLength(1);
});

test('two registries in one process do not mix, and misuse is an error', async () => {
  const [a, b] = [createMetrics(DEFAULTS), createMetrics({ ...DEFAULTS, member: 'b' })];
  a.increment('store_syncs_total');
  expect(await b.render()).toContain('member="b"} 0');
  expect(() => a.increment('unprotected_messages')).toThrow('is a gauge, used as a counter');
  expect(() => a.set('nonsense' as MetricName, 1)).toThrow('is a stranger');
  expect(() => a.increment('messages_accepted_total', { recipient: 'bob@example.org' })).toThrow();
});

test('/metrics, /livez, /readyz; nothing else, and nothing but reading', async () => {
  let state: Readiness = { ready: false, reason: 'recovering the queue database' };
  const server = await startMetricsServer({ host: '127.0.0.1', port: 0 }, createMetrics(DEFAULTS), () => state);
  servers.push(server);
  expect(await get(server.port, '/livez')).toMatchObject({ status: 200, body: 'ok\n' });
  expect(await get(server.port, '/readyz')).toMatchObject({ status: 503, body: 'recovering the queue database\n' });
  state = { ready: true };
  expect(await get(server.port, '/readyz')).toMatchObject({ status: 200 });
  const scraped = await get(server.port, '/metrics?x=1');
  expect(scraped.type).toContain('openmetrics-text');
  expect(scraped.body).toContain('mailcluster_store_syncs_total');
  expect(await get(server.port, '/other')).toMatchObject({ status: 404 });
  expect(await get(server.port, '/metrics', 'POST')).toMatchObject({ status: 405 });
});

test('a rendering that fails is a 500, and the endpoint goes on', async () => {
  let broken = true;
  const render = async (): Promise<string> => {
    if (broken) throw new Error('no luck');
    return 'fine\n';
  };
  const server = await startMetricsServer(
    { host: '127.0.0.1', port: 0 },
    { contentType: 'text/plain', render },
    () => ({ ready: true }),
  );
  servers.push(server);
  expect(await get(server.port, '/metrics')).toMatchObject({ status: 500, body: 'no luck\n' });
  broken = false;
  expect(await get(server.port, '/metrics')).toMatchObject({ status: 200, body: 'fine\n' });
  await expect(
    startMetricsServer({ host: '127.0.0.1', port: server.port }, { contentType: 'text/plain', render }, () => ({
      ready: true,
    })),
  ).rejects.toThrow('EADDRINUSE');
});
