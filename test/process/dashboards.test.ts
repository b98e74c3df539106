/**
 * Every query of every dashboard, and every rule, asked of a real Prometheus that has scraped a cluster of real processes through mail, the
 * loss of a queue database and a mailbox failover. A panel without a single number in all that time fails. The operator's own dashboard is
 * asked in test/api/operator-monitoring.test.ts.
 */
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { ALERTS } from '../../charts/monitoring/alerts.ts';
import { DASHBOARDS } from '../../charts/monitoring/dashboards/all.ts';
import { RECORDING_RULES } from '../../charts/monitoring/recording.ts';
import { rulesFile } from '../../charts/monitoring/rules.ts';
import { until } from '../house/until.ts';
import { legendOf, metricsIn, panelQueries } from '../rigs/panel-queries.ts';
import { RealPrometheus, type ScrapeTarget } from '../rigs/prometheus.ts';
import { ScriptedMilter } from '../rigs/scripted-milter.ts';
import { type Cluster, signal, startCluster, twoSites } from './harness.ts';
import { makeMessage } from './ledger.ts';
import { sendAll } from './smtp-sender.ts';

const CHOSEN = { namespace: 'mail', cluster: 'test' };
/** Four scrapes at least, as Grafana has it. */
const RATE_INTERVAL = '10s';
const SOON_MS = 90_000;

/** Queries that may have no number here, each with its reason. */
const WITHOUT_DATA: ReadonlyMap<string, string> = new Map();
/** Only the operator has them. */
const OF_OPERATOR = ['mailcluster_leader', 'mailcluster_condition'];

let cluster: Cluster;
let opened: RealPrometheus | { readonly missing: string };
let filter: ScriptedMilter;
let startMs = 0;

const resources = (directory: string, activeCopy: string): string =>
  twoSites(directory, {
    listener: `tls: StartTls, contentFilter: { address: "127.0.0.1:${filter.port}" }`,
    activeCopy,
    copies: ['east', 'west'].map((name) => ({ name, site: name, lmtp: `maildir:${directory}/maildirs/db01-${name}` })),
    spec: ['safetyNet: { holdTime: 1h, unresponsivePrimaryTimeout: 10s }'],
  });

/** What the operator's PodMonitor makes of pods: namespace, pod, container and endpoint beside the labels of the process itself. */
async function targets(): Promise<readonly ScrapeTarget[]> {
  const { transports, frontends } = await cluster.runFile();
  const target = (container: string, { name, metricsUrl }: { readonly name: string; readonly metricsUrl: string }) => ({
    url: metricsUrl,
    labels: { namespace: 'mail', pod: name, container, endpoint: 'metrics', job: 'mail/test-pods' },
  });
  return [...transports.map((one) => target('transport', one)), ...frontends.map((one) => target('frontend', one))];
}

async function send(name: string, count: number): Promise<void> {
  const messages = Array.from({ length: count }, (_, at) =>
    makeMessage(`${name}${at}`, `user${at % 5}@example.com`, 2_000 + 500 * at),
  );
  const ledger = await sendAll({ targets: () => cluster.targets(), messages, sessions: 4, patienceMs: 30_000 });
  expect(ledger.filter(({ answer }) => answer.kind !== 'accepted')).toEqual([]);
}

const prometheus = (): RealPrometheus => {
  if ('missing' in opened) throw new Error(opened.missing);
  return opened;
};

/** Prometheus has seen it, which is what a panel needs. */
async function seen(what: string, query: string): Promise<void> {
  await until(what, async () => ((await prometheus().value(query)) ?? 0) > 0, { deadlineMs: SOON_MS, everyMs: 250 });
}

const ALL_WELL =
  'count(mailcluster_member_state{state="ready"} == 1) == 4 and sum(mailcluster_peer_up{container="transport"}) == 12 and sum(mailcluster_unprotected_messages) + 1 == 1';

/** The store stands still, so that something is in transit; the transport that owns most of it loses its disk. */
async function loseOne(): Promise<void> {
  const { stores } = await cluster.runFile();
  const pids = stores.flatMap(({ pid }) => pid ?? []);
  for (const pid of pids) signal(pid, 'SIGSTOP');
  await send('held', 20);
  await seen('messages in transit', 'sum(mailcluster_queue_messages{kind="delivery"}) >= 20');
  const [busiest] = await prometheus().query('topk(1, sum by (pod) (mailcluster_queue_messages{kind="delivery"}))');
  await cluster.destroy(busiest?.metric.pod ?? '');
  await seen('a takeover', 'sum(mailcluster_shadow_promotions_total)');
  for (const pid of pids) signal(pid, 'SIGCONT');
  await seen('two copies of everything again', ALL_WELL);
}

beforeAll(async () => {
  filter = await ScriptedMilter.start();
  cluster = await startCluster((directory) => resources(directory, 'east'));
  startMs = Date.now();
  opened = await RealPrometheus.start(await targets(), rulesFile());
  if ('missing' in opened) return;
  await seen('everybody', ALL_WELL);
  await send('first', 40);
  await seen('delivered messages', 'sum(mailcluster_delivered_total)');
  await loseOne();
  await cluster.change(resources(cluster.directory, 'west'));
  await seen('resubmitted messages', 'sum(mailcluster_resubmitted_total)');
  await send('last', 20);
  await seen('all of it at rest', 'sum(mailcluster_safety_net_messages{role="primary"}) >= 80');
}, 400_000);

afterAll(async () => {
  if (opened !== undefined && !('missing' in opened)) await opened[Symbol.asyncDispose]();
  await cluster?.[Symbol.asyncDispose]();
  await filter?.[Symbol.asyncDispose]();
}, 120_000);

function skipWithout(context: TestContext): void {
  // skip: Prometheus comes from a Debian package
  if ('missing' in opened) context.skip(opened.missing);
}

describe('every panel has data', () => {
  for (const dashboard of DASHBOARDS.filter(({ variables }) => variables === 'cluster')) {
    it(dashboard.title, async (context) => {
      skipWithout(context);
      const empty: string[] = [];
      const shown = new Map<string, string[]>();
      for (const { panel, expr, legend, kind } of panelQueries(dashboard, CHOSEN, RATE_INTERVAL)) {
        const series = await prometheus().range(expr, startMs);
        const hasNumber = series.some(({ values }) => values.some((value) => !Number.isNaN(value)));
        if (hasNumber === WITHOUT_DATA.has(panel)) empty.push(`${panel}: ${expr}`);
        // Columns of a table are labels; elsewhere the legend is all that tells a line from another.
        const names = series.map(({ metric }) =>
          kind === 'table' ? JSON.stringify(metric) : legendOf(legend, metric),
        );
        shown.set(panel, [...(shown.get(panel) ?? []), ...names]);
      }
      expect(empty).toEqual([]);
      const alike = [...shown].filter(([, names]) => new Set(names).size < names.length || names.includes(''));
      expect(alike).toEqual([]);
    });
  }
});

it('every rule is evaluated without an error, and what is recorded is there', async (context) => {
  skipWithout(context);
  const rules = await until(
    'all rules to be evaluated',
    async () => {
      const states = await prometheus().rules();
      return states.every(({ health }) => health !== 'unknown') ? states : null;
    },
    { deadlineMs: 30_000, everyMs: 250 },
  );
  const ours = [...RECORDING_RULES.map(({ record }) => record), ...ALERTS.map(({ alert }) => alert)];
  expect(rules.map(({ name }) => name).sort()).toEqual(ours.sort());
  expect(rules.filter(({ health }) => health !== 'ok')).toEqual([]);
  for (const { record } of RECORDING_RULES)
    expect([record, (await prometheus().query(record)).length]).toEqual([record, 1]);
});

it('every metric that an alert looks at is there, and the loss has called somebody', async (context) => {
  skipWithout(context);
  for (const { alert, expr } of ALERTS) {
    // As written, now.
    await prometheus().query(expr);
    if (metricsIn(expr).some((name) => OF_OPERATOR.includes(name))) continue;
    for (const name of metricsIn(expr)) {
      const there = await prometheus().value(`count(${name})`);
      expect([alert, name, (there ?? 0) > 0]).toEqual([alert, name, true]);
    }
  }
  const rules = await prometheus().rules();
  const firing = rules.filter(({ state }) => state === 'firing').map(({ name }) => name);
  expect(firing).toEqual(['TakeoverHappened']);
});

it('who is lost is seen as lost, and who holds shadows for whom is said by name', async (context) => {
  skipWithout(context);
  const { transports } = await cluster.runFile();
  const names = transports.map(({ name }) => name).sort();
  const primaries = await prometheus().query('count by (primary) (mailcluster_shadow_queue_messages)');
  expect(primaries.map(({ metric }) => metric.primary).sort()).toEqual(names);
  const down = await prometheus().range('min(mailcluster_peer_up{container="transport"})', startMs);
  expect(Math.min(...(down[0]?.values ?? []))).toBe(0);
  expect(await prometheus().value('max(time() - mailcluster_heartbeat_age_timestamp_seconds)')).toBeLessThan(10);
});
