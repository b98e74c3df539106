/** The plan as a whole on plain data: a cluster comes up, stays as it is, is put back, waits and ends (kubernetes.md section 3). */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { plan } from '../../operator/plan.ts';
import { ANNOTATION, canonical, claimName, FINALIZER, hashOf, named } from '../../operator/resources/names.ts';
import { ClusterModel } from './cluster-model.ts';
import { DATABASE, TWO_SITES } from './cluster-state.ts';
import { converge, planned, round, running } from './operator-rig.ts';

describe('a cluster', () => {
  it('comes up in a few rounds and is then left alone: no action, no status, no event', () => {
    const model = new ClusterModel();
    const rounds = converge(model);
    expect(rounds.length).toBeLessThanOrEqual(7);
    expect(model.memberNames).toHaveLength(4);
    for (const type of [
      'Ready',
      'TopologyConverged',
      'ShadowProtected',
      'UpToDate',
      'CertificatesValid',
      'StorageHealthy',
    ])
      expect(model.condition(type)).toMatchObject({ status: 'True' });
    expect(model.condition('Progressing')).toMatchObject({ status: 'True', reason: 'Converged' });
    expect(model.condition('Draining')).toMatchObject({ status: 'False' });
    expect(model.condition('Paused')).toMatchObject({ status: 'False' });
    expect(model.status).toMatchObject({ membersReady: '4/4', frontendsReady: '2/2', observedGeneration: 1 });
    expect(model.finalizers).toEqual([FINALIZER]);
    expect(plan(model.gather())).toMatchObject({ actions: [], status: null, events: [] });
  });

  it('does the same for the same snapshot', () => {
    const model = new ClusterModel();
    round(model);
    const snapshot = model.gather();
    expect(plan(structuredClone(snapshot))).toEqual(plan(snapshot));
  });

  it('has every object it is to have, with labels and an owner', () => {
    const model = running();
    const kinds = [...model.objects.values()].map(({ kind }) => kind);
    for (const kind of [
      'StatefulSet',
      'Deployment',
      'Service',
      'ConfigMap',
      'PodDisruptionBudget',
      'NetworkPolicy',
      'ServiceAccount',
    ])
      expect(kinds).toContain(kind);
    for (const { metadata } of model.objects.values()) {
      expect(metadata.labels).toMatchObject({
        'app.kubernetes.io/managed-by': 'mailcluster-operator',
        'app.kubernetes.io/instance': 'contoso',
      });
      expect(metadata.ownerReferences).toMatchObject([{ kind: 'MailCluster', uid: 'cluster-uid', controller: true }]);
    }
  });

  it('is not touched by another version of the operator', () => {
    const model = running();
    model.operator = { ...model.operator, version: '2.0.0' };
    expect(planned(model)).toEqual([]);
  });

  it('writes counters at most every ten seconds, and conditions at once', () => {
    const model = running();
    const [first = ''] = model.memberNames;
    model.member(first).copies = 3;
    model.statusWrittenAtMs = model.nowMs - 1_000;
    expect(plan(model.gather()).status).toBeNull();
    model.statusWrittenAtMs = model.nowMs - 11_000;
    expect(plan(model.gather()).status?.counts?.queued).toBe(3);
    model.member(first).unprotected = 1;
    model.statusWrittenAtMs = model.nowMs - 1_000;
    expect(plan(model.gather()).status?.conditions).toContainEqual(
      expect.objectContaining({ type: 'ShadowProtected', status: 'False' }),
    );
  });

  it('the oldest message is the same one while its time moves by less than a second', () => {
    const model = running();
    const [first = ''] = model.memberNames;
    model.member(first).copies = 3;
    const { oldestMs } = model;
    const later = () => {
      model.statusWrittenAtMs = model.nowMs - 11_000;
    };
    later();
    round(model);
    expect(model.status?.oldestMessageTime).toBe(new Date(oldestMs).toISOString());
    // Two clocks that are read one after the other: it is not worth a write.
    for (const off of [-3, 3, 900]) {
      model.oldestMs = oldestMs + off;
      later();
      expect(plan(model.gather()).status).toBeNull();
    }
    model.oldestMs = oldestMs + 1_500;
    later();
    expect(plan(model.gather()).status?.oldestMessageTime).toBe(new Date(oldestMs + 1_500).toISOString());
  });

  it('keeps the time of a condition until its status changes', () => {
    const model = running();
    const before = model.condition('Ready')?.lastTransitionTime;
    const storage = model.condition('StorageHealthy')?.lastTransitionTime;
    const [first = ''] = model.memberNames;
    model.cutOff.set(first, model.nowMs);
    round(model);
    expect(model.condition('Ready')).toMatchObject({ status: 'False', reason: 'MembersNotReady' });
    expect(model.condition('Ready')?.lastTransitionTime).not.toBe(before);
    expect(model.condition('ShadowProtected')).toMatchObject({
      status: 'Unknown',
      reason: 'ProtectionUnknown',
      message: expect.stringMatching(/alone; silent: contoso-dag1-/),
    });
    expect(model.condition('StorageHealthy')?.lastTransitionTime).toBe(storage);
  });
});

describe('what somebody else does to an object', () => {
  const budget = (model: ClusterModel): string =>
    [...model.objects.values()].find(
      ({ kind, metadata }) =>
        kind === 'PodDisruptionBudget' && metadata.name.includes('seattle') && !metadata.name.includes('frontend'),
    )?.metadata.name ?? '';

  it('an edit is put back with an event', () => {
    const model = running();
    const name = budget(model);
    model.edit('PodDisruptionBudget', name, (one) => ({
      ...one,
      spec: { ...(one.spec as object), maxUnavailable: 4 },
    }));
    expect(round(model)).toEqual([`putBack PodDisruptionBudget/${name}`]);
    expect(model.said('PutBack')).toBe(1);
    expect(planned(model)).toEqual([]);
  });

  it('a deletion is made good with an event', () => {
    const model = running();
    model.objects.delete('Service/contoso-smtp');
    expect(round(model)).toEqual(['create Service/contoso-smtp']);
    expect(model.said('PutBack')).toBe(1);
  });

  it('what others add stays', () => {
    const model = running();
    model.edit('Service', 'contoso-smtp', (one) => ({
      ...one,
      metadata: {
        ...one.metadata,
        labels: { ...one.metadata.labels, team: 'mail' },
        annotations: { ...one.metadata.annotations, cloud: 'lb-1' },
      },
      spec: { ...(one.spec as object), clusterIP: '10.0.0.1' },
    }));
    expect(planned(model)).toEqual([]);
  });

  it('a foreign object of our name is refused, said once, and not taken', () => {
    const model = new ClusterModel();
    model.objects.set('Service/contoso-smtp', {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'contoso-smtp', uid: 'foreign' },
    });
    converge(model);
    expect(model.condition('Progressing')).toMatchObject({ status: 'False', reason: 'ForeignObject' });
    expect(model.object('Service', 'contoso-smtp').metadata.ownerReferences).toBeUndefined();
    expect(model.said('ForeignObject')).toBe(1);
    model.edit('Service', 'contoso-smtp', (one) => ({
      ...one,
      metadata: { ...one.metadata, annotations: { [ANNOTATION.adopt]: 'true' } },
    }));
    converge(model);
    expect(model.condition('Progressing')).toMatchObject({ status: 'True' });
  });

  it('a foreign topology ConfigMap stops everything', () => {
    const model = new ClusterModel();
    const name = named.topology('contoso');
    model.objects.set(`ConfigMap/${name}`, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name, uid: 'foreign' },
      data: {},
    });
    converge(model);
    expect(model.condition('Progressing')).toMatchObject({ status: 'False', reason: 'ForeignObject' });
    expect(model.memberNames).toEqual([]);
  });

  it.each(['topology', 'topologyBackup'] as const)(
    'the %s ConfigMap, changed or deleted, comes back at its generation',
    (which) => {
      for (const change of ['edit', 'delete'] as const) {
        const model = running();
        const { document } = model;
        const name = named[which]('contoso');
        if (change === 'delete') model.objects.delete(`ConfigMap/${name}`);
        else
          model.edit('ConfigMap', name, (one) => ({
            ...one,
            data: {
              'topology.json': JSON.stringify({
                ...document,
                retired: [],
                sites: [
                  { name: 'seattle', hubSite: true },
                  { name: 'portland', hubSite: false },
                ],
              }),
            },
          }));
        converge(model);
        expect(model.document).toEqual(document);
        expect(model.said('TopologyRestored')).toBe(1);
      }
    },
  );

  it('the operator died between the two topology ConfigMaps: the second is written, the first not again, and nobody is warned', () => {
    const model = running();
    model.change(TWO_SITES.replace('portland, replicas: 2', 'portland, replicas: 3'), { db01: DATABASE });
    const [first] = plan(model.gather()).actions.filter(({ kind }) => kind === 'writeTopology');
    if (first?.kind !== 'writeTopology') throw new Error('no generation is planned');
    model.perform({ ...first, main: null });
    const next = plan(model.gather());
    const writes = next.actions.filter(({ kind }) => kind === 'writeTopology');
    expect(writes).toMatchObject([{ document: { generation: first.document.generation }, backup: null }]);
    converge(model);
    expect(model.document?.generation).toBe(first.document.generation);
    expect(model.said('TopologyRestored')).toBe(0);
  });

  it('both topology ConfigMaps deleted: made anew above every generation that was seen', () => {
    const model = running();
    const before = model.document?.generation ?? 0;
    model.objects.delete(`ConfigMap/${named.topology('contoso')}`);
    model.objects.delete(`ConfigMap/${named.topologyBackup('contoso')}`);
    converge(model);
    expect(model.document?.generation).toBe(before + 1);
    expect(model.document?.databases[0]?.activation).toBe(before + 1);
    expect(model.said('TopologyLost')).toBe(1);
    expect(model.condition('Ready')).toMatchObject({ status: 'True' });
  });
});

describe('a cluster that must not be changed', () => {
  it('paused: says what it would do and does nothing; mail and status go on', () => {
    const model = running();
    model.annotations[ANNOTATION.paused] = 'true';
    model.change(TWO_SITES.replace('portland, replicas: 2', 'portland, replicas: 3'), { db01: DATABASE });
    const next = plan(model.gather());
    expect(next.actions).toEqual([]);
    expect(next.events).toEqual([]);
    expect(next.status?.conditions).toContainEqual(
      expect.objectContaining({ type: 'Paused', status: 'True', reason: 'PausedByAnnotation' }),
    );
    expect(next.outcomes.filter(({ kind }) => kind === 'act').length).toBeGreaterThan(0);
    delete model.annotations[ANNOTATION.paused];
    converge(model);
    expect(model.memberNames).toHaveLength(5);
  });

  it('an operator older than the CRD says so and stops', () => {
    const model = running();
    model.schemaVersion = 2;
    model.objects.delete('Service/contoso-smtp');
    const next = plan(model.gather());
    expect(next.actions).toEqual([]);
    expect(next.status?.conditions).toContainEqual(
      expect.objectContaining({ type: 'Progressing', status: 'False', reason: 'OperatorTooOld' }),
    );
  });

  it('a CRD older than the operator is said, holds nothing up, and is forgotten when it is the right one', () => {
    const model = running();
    model.schemaVersion = 0;
    model.change(TWO_SITES.replace('portland, replicas: 2', 'portland, replicas: 3'), { db01: DATABASE });
    converge(model);
    expect(model.memberNames).toHaveLength(5);
    expect(model.condition('Progressing')).toMatchObject({
      ...{ status: 'False', reason: 'CrdTooOld' },
      message: expect.stringContaining('kubectl apply --server-side -f crds/'),
    });
    expect(model.condition('Ready')).toMatchObject({ status: 'True' });
    expect(plan(model.gather()).events).toEqual([]);
    model.schemaVersion = 1;
    converge(model);
    expect(model.condition('Progressing')).toMatchObject({ status: 'True' });
  });

  it('an unreadable spec leaves everything as it is', () => {
    const model = running();
    const gathered = model.gather();
    const metadata = { ...gathered.cluster.metadata, generation: 2 };
    const next = plan({
      ...gathered,
      cluster: { ...gathered.cluster, metadata, resource: null, problems: ['spec.dags: field x'] },
    });
    expect(next.actions).toEqual([]);
    expect(next.status?.conditions).toContainEqual(
      expect.objectContaining({ type: 'Progressing', status: 'False', reason: 'InvalidSpec' }),
    );
    expect(next.status?.members).toEqual(model.status?.members);
    // What nobody could look at under this spec says so: who waits for it goes on waiting.
    const about = Object.fromEntries(
      (next.status?.conditions ?? []).map(({ type, observedGeneration }) => [type, observedGeneration]),
    );
    expect([next.status?.observedGeneration, about.Progressing, about.Ready, about.UpToDate]).toEqual([2, 2, 1, 1]);
  });

  it('conditions are about the spec of now: more front ends are not Ready, another image is not UpToDate, before anything was applied', () => {
    const model = running();
    model.change(`${TWO_SITES}  frontend: { replicas: 6 }\n`);
    model.carryOut(plan(model.gather()));
    expect(model.condition('Ready')).toMatchObject({
      status: 'False',
      reason: 'FrontendsNotReady',
      observedGeneration: 2,
      message: expect.stringContaining('1 of 3 serve'),
    });
    expect(model.status?.frontendsReady).toBe('2/6');
    converge(model);
    expect(model.condition('Ready')).toMatchObject({ status: 'True' });
    model.operator = { ...model.operator, image: 'mailcluster:2' };
    const next = plan(model.gather());
    expect(next.status?.conditions).toContainEqual(expect.objectContaining({ type: 'UpToDate', status: 'False' }));
    const said = next.outcomes.flatMap(({ reason, message }) => (reason === 'RollingOut' ? [message] : []));
    expect(said).toHaveLength(2);
  });
});

describe('the end of a cluster', () => {
  const deleted = (model: ClusterModel): ClusterModel => {
    model.deletionTimestamp = new Date(model.nowMs).toISOString();
    return model;
  };

  it('keeps the volumes, marks them with the generation and lets go in one round', () => {
    const model = deleted(running());
    const generation = model.document?.generation;
    const [first = ''] = model.memberNames;
    model.member(first).copies = 2;
    const done = round(model);
    expect(done.filter((one) => one.startsWith('annotate PersistentVolumeClaim/'))).toHaveLength(4);
    expect(done.at(-1)).toBe('finalizers ');
    expect(model.removed).toBe(true);
    expect(model.claims.get(claimName(first))?.metadata.annotations?.[ANNOTATION.generation]).toBe(String(generation));
    expect(model.said('DeletingWithMail')).toBe(1);
  });

  it('deletes the volumes where the policy says so', () => {
    const model = deleted(running(`${TWO_SITES}  transport: { storage: { whenDeleted: Delete } }\n`));
    expect(round(model).filter((one) => one.startsWith('deleteClaim'))).toHaveLength(4);
    expect(model.removed).toBe(true);
  });

  it('ends although paused, and after ten minutes whatever stands in the way', () => {
    const model = deleted(running());
    model.annotations[ANNOTATION.paused] = 'true';
    model.nowMs += 601_000;
    expect(planned(model)).toEqual(['finalizers ']);
  });

  it('in a namespace that ends: only the finalizer goes, nothing else is written or said', () => {
    const model = running();
    model.namespaceTerminating = true;
    expect(plan(model.gather())).toMatchObject({ actions: [], status: null, events: [] });
    const next = plan(deleted(model).gather());
    expect(next.actions).toEqual([{ kind: 'setFinalizers', finalizers: [], uid: 'cluster-uid', resourceVersion: '1' }]);
    expect(next.events).toEqual([]);
    expect(next.status).toBeNull();
  });

  it('waits for the finalizers of others without acting', () => {
    const model = deleted(running());
    model.finalizers = ['somebody/else'];
    expect(plan(model.gather())).toMatchObject({ actions: [], status: null, requeueAfterMs: null });
  });

  it('a cluster of that name made again begins above what the kept volumes have seen', () => {
    const model = running();
    const kept = [...model.claims.values()].map((claim) => ({
      ...claim,
      metadata: { ...claim.metadata, annotations: { [ANNOTATION.generation]: '40' } },
    }));
    const again = new ClusterModel();
    for (const claim of kept) again.claims.set(claim.metadata.name, claim);
    round(again);
    round(again);
    expect(again.document?.generation).toBe(41);
  });
});

describe('the text whose hash stands in annotations', () => {
  it('is JSON with its keys in order, whatever they were in; what is undefined is not there', () => {
    const value = {
      b: [{ z: 1, a: undefined }, undefined, 'x'],
      a: { 10: true, 9: null, A: new Date(0) },
      c: undefined,
    };
    expect(canonical(value)).toBe('{"a":{"9":null,"10":true,"A":"1970-01-01T00:00:00.000Z"},"b":[{"z":1},null,"x"]}');
    expect(hashOf(value)).toBe('ae3d5a35953a748a314675805c0d4674');
  });

  it('says the same as a stringify that sorts every object by itself, and leaves what it is given alone', () => {
    const slow = (value: unknown): string =>
      JSON.stringify(value, (_key, inner: unknown) =>
        typeof inner !== 'object' || inner === null || Array.isArray(inner)
          ? inner
          : Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))),
      );
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const before = JSON.stringify(value);
        expect(canonical(value)).toBe(slow(value));
        expect(JSON.stringify(value)).toBe(before);
      }),
    );
  });
});
