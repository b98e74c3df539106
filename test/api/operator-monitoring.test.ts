/**
 * The operator under a real Prometheus: every query of its dashboard and every metric of its alerts has a value once it looks after a MailCluster, and
 * its end is noticed.
 */
import { expect, it } from 'vitest';
import { ALERTS } from '../../charts/monitoring/alerts.ts';
import { OPERATOR } from '../../charts/monitoring/dashboards/operator.ts';
import { rulesFile } from '../../charts/monitoring/rules.ts';
import { until } from '../house/until.ts';
import { metricsIn, panelQueries } from '../rigs/panel-queries.ts';
import { RealPrometheus } from '../rigs/prometheus.ts';
import { applyAll, list, ownOperator, ownVolumes, PATIENCE, twoSites } from './operator-rig.ts';
import { nodesOfFile, ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();
nodesOfFile();

const OF_OPERATOR = ALERTS.filter(({ expr }) => /mailcluster_(leader|condition|reconcile_total)/.test(expr));

it('every panel of the operator has data, conditions of a MailCluster are seen, and so is its end', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const operator = await ownOperator(access, context, namespace);
  const labels = {
    namespace: 'system',
    pod: 'operator-0',
    container: 'operator',
    endpoint: 'metrics',
    job: 'operator',
  };
  const startMs = Date.now();
  const url = `http://127.0.0.1:${operator.facts.metricsPort}/metrics`;
  const prometheus = await RealPrometheus.start([{ url, labels }], rulesFile());
  // skip: Prometheus comes from a Debian package
  if ('missing' in prometheus) return context.skip(prometheus.missing);
  context.onTestFinished(() => prometheus[Symbol.asyncDispose]());
  const seen = (query: string) => until(query, async () => (await prometheus.value(query)) !== null, PATIENCE);

  const storageClassName = await ownVolumes(access, context, namespace);
  await applyAll(access, twoSites(namespace, { transport: { storage: { size: '1Gi', storageClassName } } }));
  await until('all pods to be there', async () => (await list(access, namespace, 'pods')).length === 6, PATIENCE);
  await seen(`mailcluster_condition{mailcluster="${namespace}/contoso",type="Ready"} >= 0`);
  await seen('sum(mailcluster_reconcile_total{result=~"done|again"}) > 2');

  const chosen = { namespace: 'system', pod: 'operator-0' };
  const empty = async (): Promise<readonly string[]> => {
    const found: string[] = [];
    for (const { panel, expr } of panelQueries(OPERATOR, chosen, '5s')) {
      const series = await prometheus.range(expr, startMs);
      if (!series.some(({ values }) => values.some((value) => !Number.isNaN(value)))) found.push(`${panel}: ${expr}`);
    }
    return found;
  };
  // A rate wants two scrapes.
  await until('every panel', async () => (await empty()).length === 0, { deadlineMs: 20_000, everyMs: 500 }).catch(
    () => undefined,
  );
  expect(await empty()).toEqual([]);
  expect(OF_OPERATOR.map(({ alert }) => alert)).toEqual(['OperatorDown', 'OperatorReconcileErrors', 'ClusterNotReady']);
  for (const name of OF_OPERATOR.flatMap(({ expr }) => metricsIn(expr)))
    expect([name, (await prometheus.query(name)).length > 0]).toEqual([name, true]);

  const down = ALERTS.find(({ alert }) => alert === 'OperatorDown')?.expr ?? '';
  expect(await prometheus.query(down)).toEqual([]);
  await operator.stop();
  await seen(down);
}, 180_000);
