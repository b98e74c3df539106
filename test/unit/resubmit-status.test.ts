/** What becomes of a resubmit request out of what its members say: when it is complete, and what is missing when it is not. */
import { describe, expect, it } from 'vitest';
import type { ResubmitRequestConfig } from '../../common/config.ts';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import {
  coverage,
  expiredStatus,
  isOver,
  type MemberWord,
  type ResubmitAnswer,
  requestResource,
  resubmitStatus,
} from '../../operator/resubmit-status.ts';

const NOW_MS = Date.UTC(2026, 0, 2, 3, 4, 5);
const MINUTE_MS = 60_000;
const iso = (ms: number): string => new Date(ms).toISOString();

const REQUEST: ResubmitRequestConfig = {
  name: 'db01-failover-2',
  boundary: 'dag/dag1',
  database: 'db01',
  sender: null,
  recipient: null,
  messageId: null,
  fromMs: NOW_MS - 15 * MINUTE_MS,
  toMs: null,
  lostActivation: 1,
  createdAtMs: NOW_MS,
  expiresAtMs: NOW_MS + 60 * MINUTE_MS,
  dryRun: false,
  cancelled: false,
};

function answer(more: Partial<ResubmitAnswer> = {}): ResubmitAnswer {
  return {
    name: REQUEST.name,
    state: 'Done',
    selected: 10,
    resubmitted: 7,
    byPrimary: 5,
    byShadow: 2,
    present: 1,
    covered: 2,
    failed: 0,
    waitingFor: [],
    completeSinceMs: 0,
    errors: [],
    ...more,
  };
}

const word = (name: string, more: Partial<MemberWord> = {}): MemberWord => ({
  name,
  boundary: 'dag/dag1',
  identity: `IDENTITY-${name}`,
  answer: answer(),
  lost: false,
  firstSinceMs: null,
  ...more,
});

const status = (words: readonly MemberWord[], former: ReturnType<typeof resubmitStatus> | null = null) =>
  resubmitStatus(REQUEST, words, former, NOW_MS);

describe('the state', () => {
  it('is Pending until somebody begins, Running until everybody is done, then Completed', () => {
    const pending = status([word('a', { answer: null }), word('b', { answer: 'ECONNREFUSED' })]);
    expect(pending).toMatchObject({
      state: 'Pending',
      message: 'waits for a (has not begun), b (does not answer: ECONNREFUSED)',
    });
    expect(pending).not.toHaveProperty('startTime');
    const running = status(
      [word('a'), word('b', { answer: answer({ state: 'Running', waitingFor: ['X'] }) })],
      pending,
    );
    expect(running).toMatchObject({ state: 'Running', message: 'waits for b (waits for X)', startTime: iso(NOW_MS) });
    expect(running).not.toHaveProperty('completionTime');
    const done = resubmitStatus(REQUEST, [word('a'), word('b')], running, NOW_MS + 5);
    expect(done).toMatchObject({ state: 'Completed', startTime: iso(NOW_MS), completionTime: iso(NOW_MS + 5) });
    expect(resubmitStatus(REQUEST, [word('a'), word('b')], done, NOW_MS + 9).completionTime).toBe(iso(NOW_MS + 5));
    expect([pending, running, done].map(isOver)).toEqual([false, false, true]);
  });

  it('adds up the counts of all members, each message where it is answered for', () => {
    expect(status([word('a'), word('b', { answer: answer({ failed: 1 }) })])).toMatchObject({
      state: 'CompletedWithErrors',
      message: 'b: some failed',
      counts: { selected: 16, resubmitted: 14, byPrimaries: 10, byShadows: 4, present: 2, failed: 1 },
    });
    expect(status([word('a', { answer: answer({ errors: ['unreadable'] }) })])).toMatchObject({
      state: 'CompletedWithErrors',
      message: 'a: unreadable',
    });
  });

  it('of a paused member is Running, and of nobody Pending', () => {
    expect(status([word('a', { answer: answer({ state: 'Paused' }) })]).state).toBe('Running');
    expect(status([]).state).toBe('Pending');
  });

  it('is Cancelled as soon as that is decided', () => {
    expect(resubmitStatus({ ...REQUEST, cancelled: true }, [word('a')], null, NOW_MS)).toMatchObject({
      state: 'Cancelled',
      counts: { resubmitted: 7 },
    });
  });

  it('of a request that expired is Partial when something was done, else Failed', () => {
    const silent = word('b', { answer: 'ETIMEDOUT' });
    expect(expiredStatus(status([word('a'), silent]), NOW_MS + 5)).toMatchObject({
      state: 'Partial',
      message: 'the request expired before everybody was done: waits for b (does not answer: ETIMEDOUT)',
      completionTime: iso(NOW_MS + 5),
    });
    expect(expiredStatus(status([silent]), NOW_MS).state).toBe('Failed');
  });
});

describe('a member that is silent', () => {
  it('keeps what it said while it is the same queue database', () => {
    const done = status([word('a'), word('b')]);
    const silent = word('b', { answer: 'ECONNREFUSED' });
    expect(status([word('a'), silent], done)).toEqual(done);
    expect(status([word('a'), { ...silent, identity: 'OTHER' }], done)).toMatchObject({
      state: 'Running',
      counts: { resubmitted: 7 },
      members: [{ state: 'Done' }, { state: 'Pending', message: 'does not answer: ECONNREFUSED' }],
    });
  });

  it('is not waited for when it is lost', () => {
    const lost = status([word('a'), word('b'), word('c', { answer: 'ECONNREFUSED', lost: true })]);
    expect(lost).toMatchObject({ state: 'Completed', members: [{}, {}, { name: 'c', state: 'Lost' }] });
  });
});

describe('coverage', () => {
  const since = (name: string, ms: number, more: Partial<MemberWord> = {}) =>
    word(name, { answer: answer({ completeSinceMs: ms }), ...more });

  it('is whole when at most one Safety Net does not reach back: every message rested with two members', () => {
    expect(status([since('a', NOW_MS), since('b', 0), since('c', 0)]).state).toBe('Completed');
    const lost = word('c', { answer: 'ECONNREFUSED', lost: true });
    expect(status([since('a', 0), since('b', 0), lost]).state).toBe('Completed');
  });

  it('is Partial with the missing part when two do not', () => {
    const found = status([since('a', NOW_MS - MINUTE_MS), since('b', NOW_MS - 5 * MINUTE_MS), since('c', 0)]);
    expect(found.state).toBe('Partial');
    expect(found.message).toBe(
      `what was delivered from ${iso(REQUEST.fromMs)} before ${iso(NOW_MS - 5 * MINUTE_MS)} cannot be covered for certain: two or more Safety Nets do not reach back to it: a (${iso(NOW_MS - MINUTE_MS)}), b (${iso(NOW_MS - 5 * MINUTE_MS)})`,
    );
    const lost = ['a', 'b'].map((name) => word(name, { answer: 'gone', lost: true }));
    expect(status([...lost, since('c', 0)]).message).toContain('until now cannot be covered');
  });

  it('does not hold the youth of a member against it when it never had another queue database', () => {
    const young = ['a', 'b', 'c'].map((name) =>
      since(name, NOW_MS - MINUTE_MS, { firstSinceMs: NOW_MS - MINUTE_MS + 5 }),
    );
    expect(status(young)).toMatchObject({ state: 'Completed' });
    // What was shed afterwards counts.
    const shed = ['a', 'b'].map((name) => since(name, NOW_MS, { firstSinceMs: NOW_MS - MINUTE_MS }));
    expect(status([...shed, since('c', 0)]).state).toBe('Partial');
  });

  it('is looked at in each boundary by itself; a member without a partner covers alone', () => {
    const members = [{ name: 'a', completeSince: iso(50) }, { name: 'b', completeSince: iso(40) }, { name: 'c' }];
    const alone = coverage(10, members, (name) => name);
    expect([alone.fromMs, alone.short.map(({ name }) => name)]).toEqual([50, ['a', 'b']]);
    const together = coverage(10, members, () => 'dag/dag1');
    expect([together.fromMs, together.short.map(({ name }) => name)]).toEqual([40, ['a', 'b']]);
    expect(coverage(45, members, () => 'dag/dag1').short).toEqual([]);
  });
});

describe('the resource of a request', () => {
  it('is one that the CRD accepts', () => {
    const resource = requestResource(REQUEST, { cluster: 'contoso', namespace: 'mail' }, status([word('a')]));
    const others = `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: contoso, namespace: mail }
spec:
  sites: [{ name: seattle }]
  standalone: [{ site: seattle, replicas: 2 }]
  acceptedDomains: [{ name: contoso.com }]
---
apiVersion: mailcluster.dev/v1alpha1
kind: MailboxDatabase
metadata: { name: db01, namespace: mail }
spec:
  clusterRef: { name: contoso }
  site: seattle
  recipients: { domains: [contoso.com] }
  copies: [{ name: sea, site: seattle, lmtp: "store:24" }]
  activeCopy: sea
---
`;
    const loaded = parseResources([{ file: 'x.yaml', text: others + JSON.stringify(resource) }], createReader());
    expect(loaded.ok ? loaded.resubmitRequests[0]?.spec : loaded.problems).toEqual({
      clusterRef: { name: 'contoso' },
      selector: { database: 'db01' },
      window: { from: iso(REQUEST.fromMs) },
      lostActivation: 1,
      reason: 'Failover',
      dryRun: false,
      cancel: false,
    });
  });
});
