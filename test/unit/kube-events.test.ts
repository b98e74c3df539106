/** Kubernetes Events in simulated time: series, rates, an API server that is away. */
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../common/platform/log.ts';
import { Events } from '../../operator/kube/events.ts';
import { EVENT, NAMESPACE } from '../../operator/kube/kinds.ts';
import type { KubeObject } from '../../operator/kube/kube-object.ts';
import { CountedMetrics } from '../contract/kube-rig.ts';
import { MemoryKube } from '../rigs/fake-kube/memory-api.ts';
import { Scheduler } from '../sim/scheduler.ts';

type Written = KubeObject & {
  readonly reason: string;
  readonly note: string;
  readonly series?: { readonly count: number };
};

function rig() {
  const scheduler = new Scheduler(1);
  const clock = scheduler.clock();
  const kube = new MemoryKube(scheduler);
  kube.by('test').create(NAMESPACE, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'mail' } });
  const metrics = new CountedMetrics();
  const state = { isAway: false, commits: 0 };
  const journey = () => (state.isAway ? { thereMs: null, backMs: null } : { thereMs: 5, backMs: 5 });
  const api = kube.api({ clock, journey, deliver: (run) => run() }, () => (state.commits += 1));
  const events = new Events({
    api,
    clock,
    random: scheduler.random,
    log: silentLogger,
    metrics,
    controller: 'mailcluster.dev/operator',
    instance: 'operator-0',
  });
  events.start();
  const written = (): Written[] =>
    kube.storage.at(`${EVENT.group}/${EVENT.plural}`, kube.storage.revision).map(([, object]) => object as Written);
  const pass = (ms: number): Promise<boolean> => scheduler.run(() => false, scheduler.nowMs + ms);
  return { scheduler, kube, metrics, state, events, written, pass };
}

const about = (name: string): KubeObject => ({
  apiVersion: 'mailcluster.dev/v1alpha1',
  kind: 'MailCluster',
  metadata: { namespace: 'mail', name, uid: `uid-of-${name}` },
});
const happening = (reason: string, note = 'something') => ({ type: 'Normal', reason, action: 'Test', note }) as const;

describe('events', () => {
  it('one at once; the same again is counted, and the count is written every half minute', async () => {
    const { events, written, state, pass } = rig();
    events.say(about('a'), happening('Drained'));
    await pass(100);
    expect(written()).toMatchObject([{ reason: 'Drained', type: 'Normal', regarding: { name: 'a', uid: 'uid-of-a' } }]);
    for (let at = 0; at < 600; at += 1) {
      events.say(about('a'), happening('Drained'));
      await pass(100);
    }
    await pass(31_000);
    expect(written()).toHaveLength(1);
    expect(written()[0]?.series?.count).toBe(601);
    expect(state.commits).toBeLessThanOrEqual(5);
  });

  it('after a pause the same is a new Event', async () => {
    const { events, written, pass } = rig();
    events.say(about('a'), happening('Drained'));
    await pass(361_000);
    events.say(about('a'), happening('Drained'));
    await pass(1_000);
    expect(written()).toHaveLength(2);
  });

  it('who says too much about one object is silenced about that one only', async () => {
    const { events, written, metrics, pass } = rig();
    for (let at = 0; at < 100; at += 1) events.say(about('loud'), happening('Changed', `number ${at}`));
    events.say(about('quiet'), happening('Changed'));
    await pass(10_000);
    expect(written()).toHaveLength(26);
    expect(metrics.counts.get('events_dropped_total rate')).toBe(75);
    await pass(300_000);
    events.say(about('loud'), happening('Changed', 'later'));
    await pass(1_000);
    expect(written()).toHaveLength(27);
  });

  it('an API server that is away blocks nobody; afterwards it works again', async () => {
    const { scheduler, events, written, metrics, state, pass } = rig();
    state.isAway = true;
    for (let at = 0; at < 3_000; at += 1) events.say(about(`o${at}`), happening('Lost'));
    expect(scheduler.nowMs).toBe(0);
    await pass(60_000);
    expect(metrics.sum('events_dropped_total backlog')).toBe(2_000);
    expect(metrics.sum('events_dropped_total failed')).toBeGreaterThan(0);
    state.isAway = false;
    await pass(120_000);
    events.say(about('after'), happening('Back'));
    await pass(1_000);
    expect(written().map((one) => one.reason)).toContain('Back');
  });

  it('an Event that is gone from the server is made anew', async () => {
    const { events, kube, written, pass } = rig();
    events.say(about('a'), happening('Drained'));
    await pass(100);
    kube.by('test').delete(EVENT, { namespace: 'mail', name: written()[0]?.metadata.name ?? '' });
    events.say(about('a'), happening('Drained'));
    await pass(61_000);
    events.say(about('a'), happening('Drained'));
    await pass(1_000);
    expect(written()).toHaveLength(1);
  });

  it('stop writes what is due, but waits for nobody who is away', async () => {
    const { scheduler, events, written, state, pass } = rig();
    events.say(about('a'), happening('Stopped'));
    await pass(100);
    events.say(about('a'), happening('Stopped'));
    events.say(about('b'), happening('Stopped'));
    await scheduler.await(events.stop());
    expect(written().map((one) => one.series?.count)).toEqual(expect.arrayContaining([2, undefined]));
    const other = rig();
    other.state.isAway = true;
    state.isAway = true;
    for (let at = 0; at < 50; at += 1) other.events.say(about(`o${at}`), happening('Stopped'));
    await other.scheduler.await(other.events.stop());
    expect(other.scheduler.nowMs).toBeLessThan(10_000);
  });
});
