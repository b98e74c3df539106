/** Failovers, resubmit requests, decisions about members: what beyond the resources goes into the topology document, and how long it stays. */
import { describe, expect, it } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import { parseTopologyDocument } from '../../common/config-parse.ts';
import type { Identity } from '../../common/message.ts';
import { drainRefusal, nextTopology, planMembers } from '../../operator/topology.ts';
import { DATABASE, document, HOUR_MS, NOW_MS, next, resources, UNDECIDED } from './topology-shapes.ts';

describe('a failover', () => {
  const first = document(null);
  const TO_PDX = { databases: DATABASE.replace('activeCopy: sea', 'activeCopy: pdx') };
  const TO_SEA = { nowMs: NOW_MS + HOUR_MS };

  it('makes its request in the same generation: from failover - lossWindow - replayLag, open ended', () => {
    const second = document(first, TO_PDX);
    expect(second.generation).toBe(2);
    expect(second.resubmitRequests).toEqual([
      {
        name: 'db01-failover-2',
        boundary: 'dag/dag1',
        database: 'db01',
        sender: null,
        recipient: null,
        messageId: null,
        // 15 minutes of loss window and 1 hour of replay lag of the copy that is active now.
        fromMs: NOW_MS - 900_000 - HOUR_MS,
        toMs: null,
        lostActivation: 1,
        createdAtMs: NOW_MS,
        // holdTime 48 h = replay lag + loss window + lifetime (protocol.md 21).
        expiresAtMs: NOW_MS + 48 * HOUR_MS - HOUR_MS - 900_000,
        dryRun: false,
        cancelled: false,
      },
    ]);
    expect(parseTopologyDocument(JSON.parse(JSON.stringify(second)))).toEqual({ kind: 'ok', value: second });
  });

  it('and a second one have a request each; the first is left as it was', () => {
    const second = document(first, TO_PDX);
    const third = document(second, TO_SEA);
    expect(third.resubmitRequests.map(({ name, lostActivation, fromMs }) => [name, lostActivation, fromMs])).toEqual([
      ['db01-failover-2', 1, second.resubmitRequests[0]?.fromMs],
      // The copy in Seattle has no replay lag.
      ['db01-failover-3', 2, NOW_MS + HOUR_MS - 900_000],
    ]);
  });

  it('of a database with the longest name has a name a resource may have', () => {
    const databases = ['a', 'b'].map((last) => DATABASE.replace('db01', `${'d'.repeat(62)}${last}`));
    const shape = databases.map((one) => one.replace('[contoso.com], addresses: [Bob@Contoso.COM]', '[contoso.com]'));
    const found = shape.map((text) => {
      const before = nameless(null, text);
      return nameless(before, text.replace('activeCopy: sea', 'activeCopy: pdx')).resubmitRequests[0]?.name ?? '';
    });
    expect(new Set(found).size).toBe(2);
    for (const name of found) expect(name).toMatch(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/);
    for (const name of found) expect(name.length).toBeLessThanOrEqual(63);
  });

  it('keeps its request whatever is edited, until it expires or its database is gone', () => {
    const second = document(first, TO_PDX);
    const edited = document(second, { ...TO_PDX, spec: '  frontend: { replicas: 3 }', nowMs: NOW_MS + HOUR_MS });
    expect(edited.resubmitRequests).toEqual(second.resubmitRequests);
    const last = second.resubmitRequests[0]?.expiresAtMs ?? 0;
    expect(next(second, { ...TO_PDX, nowMs: last - 1 }).kind).toBe('unchanged');
    expect(document(second, { ...TO_PDX, nowMs: last })).toMatchObject({ generation: 3, resubmitRequests: [] });
    expect(document(second, { databases: '' }).resubmitRequests).toEqual([]);
  });

  it('with hardly any hold time left for it still has an hour', () => {
    const spec = '  safetyNet: { holdTime: 75m }';
    const second = document(document(null, { spec }), { ...TO_PDX, spec });
    expect(second.resubmitRequests[0]?.expiresAtMs).toBe(NOW_MS + HOUR_MS);
  });

  it('that is cancelled stays cancelled', () => {
    const second = document(first, TO_PDX);
    const third = document(second, { ...TO_PDX, decisions: { cancelled: new Set(['db01-failover-2']) } });
    expect(third.resubmitRequests).toMatchObject([{ cancelled: true }]);
    expect(next(third, TO_PDX)).toMatchObject({ kind: 'unchanged' });
  });

  function nameless(previous: TopologyDocument | null, databases: string): TopologyDocument {
    const { cluster, databases: parsed, configMaps } = resources({ databases });
    const addresses = new Map(planMembers(cluster).transports.map(({ name }, n) => [name, { host: 'h', port: 1 + n }]));
    const resolveMaildir = () => ({ host: 'h', port: 24 });
    const made = nextTopology(previous, {
      cluster,
      databases: parsed,
      configMaps,
      addresses,
      resolveMaildir,
      ...UNDECIDED,
    });
    if (made.kind === 'refused') throw new Error(made.reasons.join());
    return made.document;
  }
});

describe('a request of a person', () => {
  const REQUEST = `---
apiVersion: mailcluster.dev/v1alpha1
kind: ResubmitRequest
metadata: { name: again }
spec:
  clusterRef: { name: contoso }
  selector: { database: db01 }
  window: { from: "2026-01-02T00:00:00Z", to: "2026-01-02T02:00:00+01:00" }
`;
  const first = document(null);

  it('is in the document, stays when the file is gone, and is cancelled by it', () => {
    const second = document(first, { requests: REQUEST });
    expect(second).toMatchObject({
      generation: 2,
      resubmitRequests: [
        {
          name: 'again',
          boundary: 'dag/dag1',
          database: 'db01',
          fromMs: Date.UTC(2026, 0, 2),
          toMs: Date.UTC(2026, 0, 2, 1),
          lostActivation: null,
          createdAtMs: NOW_MS,
          expiresAtMs: NOW_MS + 48 * HOUR_MS,
          dryRun: false,
          cancelled: false,
        },
      ],
    });
    expect(next(second, { nowMs: NOW_MS + HOUR_MS })).toMatchObject({ kind: 'unchanged' });
    expect(next(second, { requests: REQUEST, requestedAtMs: NOW_MS + 5 })).toMatchObject({ kind: 'unchanged' });
    const third = document(second, { requests: REQUEST.replace('  window', '  cancel: true\n  window') });
    expect(third.resubmitRequests).toMatchObject([{ cancelled: true }]);
    expect(document(third).resubmitRequests).toMatchObject([{ cancelled: true }]);
  });

  it('does not come back after it expired, although its file is still there', () => {
    const late = { requests: REQUEST, requestedAtMs: NOW_MS, nowMs: NOW_MS + 48 * HOUR_MS };
    expect(document(document(first, { requests: REQUEST }), late).resubmitRequests).toEqual([]);
    expect(next(first, late)).toMatchObject({ kind: 'unchanged' });
  });

  it.each([
    [
      'changes',
      REQUEST.replace('T00:00:00Z', 'T00:30:00Z'),
      /^ResubmitRequest again is there already with another fromMs/,
    ],
    [
      'calls the present activation lost',
      REQUEST.replace('name: again', 'name: other').replace('  window', '  lostActivation: 1\n  window'),
      /lostActivation 1 is not lost, db01 is at activation 1/,
    ],
  ])('that %s is refused', (_, requests, reason) => {
    const result = next(document(first, { requests: REQUEST }), { requests });
    expect(result).toMatchObject({ kind: 'refused', reasons: [expect.stringMatching(reason)] });
  });
});

describe('a decision about a member', () => {
  const first = document(null);
  const [one, two] = first.members.map(({ name }) => name).sort();
  if (one === undefined || two === undefined) throw new Error('no members');
  const IDENTITY = '01JABCDEFGHJKMNPQRSTVWXYZ0' as Identity;
  const lost = { member: one, identity: IDENTITY, uid: null, reason: 'lost' } as const;
  const stateOf = (found: TopologyDocument, name: string) =>
    found.members.find((member) => member.name === name)?.state;

  it('is its state in the document, and undone by its absence', () => {
    const second = document(first, { decisions: { members: new Map([[one, 'draining']]) } });
    expect([second.generation, stateOf(second, one), stateOf(second, two)]).toEqual([2, 'draining', 'active']);
    expect(document(second)).toMatchObject({ generation: 3, members: first.members });
  });

  it('that it is gone lets its replicas go, and nothing else does', () => {
    const dags = '[{ name: dag1, members: [{ site: seattle, replicas: 2 }, { site: portland, replicas: 1 }] }]';
    const last = first.members.find(({ name }) => /portland-[0-9a-f]{6}-1$/.test(name))?.name ?? '';
    expect(next(first, { dags, decisions: { members: new Map([[last, 'draining']]) } }).kind).toBe('refused');
    const gone = { members: new Map([[last, 'gone' as const]]) };
    const second = document(first, { decisions: gone });
    expect(stateOf(second, last)).toBe('gone');
    expect(document(second, { dags, decisions: gone }).members).toHaveLength(3);
    expect(document(second, { dags }).members).toHaveLength(3);
  });

  it('retires a queue database for ever, once', () => {
    const second = document(first, { decisions: { retired: [lost] } });
    expect(second).toMatchObject({ generation: 2, retired: [lost] });
    expect(next(second)).toMatchObject({ kind: 'unchanged' });
    const drained = { ...lost, reason: 'drained' as const };
    expect(next(second, { decisions: { retired: [drained] } })).toMatchObject({ kind: 'unchanged' });
    const other = { ...drained, identity: '01JABCDEFGHJKMNPQRSTVWXYZ1' as Identity };
    expect(document(second, { decisions: { retired: [other, lost] } }).retired).toEqual([lost, other]);
  });

  it('to drain the last active member of its boundary is refused, with the reason', () => {
    expect(drainRefusal(first, one)).toBe(null);
    expect(drainRefusal(first, 'nobody')).toBe('there is no member nobody');
    const names = first.members.map(({ name }) => name);
    const states = new Map(names.filter((name) => name !== one).map((name) => [name, 'draining' as const]));
    const alone = document(first, { decisions: { members: states } });
    expect(drainRefusal(alone, one)).toMatch(
      /^.* is the last active member of dag\/dag1 \(.* is draining, .*\): nobody could take over its messages; add a member/,
    );
  });
});

describe('the quota of the Safety Nets', () => {
  it('is in bytes, or null', () => {
    expect(document(null).policies.safetyNet.quotaBytes).toBe(null);
    expect(document(null, { spec: '  safetyNet: { quota: 2Gi }' }).policies.safetyNet.quotaBytes).toBe(2 ** 31);
  });
});
