/** Drain before shrink (kubernetes.md K3), lost members (K6) and restarts (K4) of the plan, on plain data. */
import { describe, expect, it } from 'vitest';
import { plan } from '../../operator/plan.ts';
import { ANNOTATION, claimName } from '../../operator/resources/names.ts';
import type { ClusterModel } from './cluster-model.ts';
import { DATABASE, TWO_SITES } from './cluster-state.ts';
import { converge, inSite, memberOf, planned, round, roundsUntil, running, sized, stateOf } from './operator-rig.ts';

const resize = (model: ClusterModel, seattle: number, portland: number): void =>
  model.change(sized(seattle, portland), { db01: DATABASE });

const budgets = (model: ClusterModel): readonly number[] =>
  [...model.objects.values()]
    .filter(
      ({ kind, metadata }) =>
        kind === 'PodDisruptionBudget' && metadata.labels?.['app.kubernetes.io/component'] === 'transport',
    )
    .map(({ spec }) => (spec as { maxUnavailable: number }).maxUnavailable);

describe('a member that is wanted no more', () => {
  it('is cordoned, drained, proved empty, removed, and its volume goes: in this order', () => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    Object.assign(model.member(last), { copies: 9, safetyNet: 4, tombstones: 2 });
    resize(model, 2, 2);
    const states: (string | undefined)[] = [];
    for (let n = 0; n < 30 && model.claims.has(claimName(last)); n += 1) {
      round(model);
      states.push(stateOf(model, last));
    }
    const order = states.filter((one, index) => one !== states[index - 1]);
    expect(order).toEqual(['cordoned', 'draining', 'gone']);
    expect(model.pods.has(last)).toBe(false);
    converge(model);
    expect(stateOf(model, last)).toBeUndefined();
    expect(model.document?.retired).toMatchObject([{ member: last, reason: 'drained' }]);
    expect(model.memberNames).toHaveLength(4);
    expect(model.condition('Draining')).toMatchObject({ status: 'False', reason: 'NotDraining' });
    for (const reason of ['Cordoned', 'Draining', 'Emptied', 'Removed']) expect(model.said(reason)).toBe(1);
  });

  it('keeps its volume where the policy says so', () => {
    const retain = '  transport: { storage: { whenScaled: Retain } }\n';
    const model = running(sized(3, 2) + retain);
    const last = memberOf(model, 'seattle', 2);
    model.change(sized(2, 2) + retain, { db01: DATABASE });
    converge(model);
    expect(model.claims.has(claimName(last))).toBe(true);
    expect(stateOf(model, last)).toBeUndefined();
  });

  it('of several in one boundary one goes at a time', () => {
    const model = running(sized(4, 4));
    resize(model, 2, 2);
    let most = 0;
    for (let n = 0; n < 80; n += 1) {
      round(model);
      most = Math.max(most, model.document?.members.filter(({ state }) => state !== 'active').length ?? 0);
    }
    expect(most).toBe(1);
    expect(model.memberNames).toHaveLength(4);
  });

  it('waits while a message is on one member only, and while another does not serve', () => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    const other = memberOf(model, 'portland', 0);
    model.member(other).unprotected = 1;
    resize(model, 2, 2);
    round(model);
    round(model);
    expect(stateOf(model, last)).toBe('active');
    expect(model.condition('Draining')).toMatchObject({ status: 'True', reason: 'UnprotectedMessages' });
    model.member(other).unprotected = 0;
    model.cutOff.set(other, model.nowMs);
    round(model);
    expect(stateOf(model, last)).toBe('active');
    expect(model.condition('Draining')).toMatchObject({ reason: 'WaitingForTheOthers' });
    model.cutOff.clear();
    converge(model);
    expect(model.pods.has(last)).toBe(false);
  });

  it('stays when the rest cannot hold what it has, with condition and event', () => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    model.member(last).copies = 10_000_000;
    resize(model, 2, 2);
    for (let n = 0; n < 5; n += 1) round(model);
    expect(stateOf(model, last)).toBe('active');
    expect(model.condition('Draining')).toMatchObject({ status: 'False', reason: 'CannotAbsorb' });
    expect(model.said('CannotAbsorb')).toBe(1);
    model.member(last).copies = 10;
    converge(model);
    expect(model.pods.has(last)).toBe(false);
  });

  it('stays when it does not answer: nobody knows what it holds', () => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    model.member(last).copies = 1;
    model.cutOff.set(last, model.nowMs);
    resize(model, 2, 2);
    for (let n = 0; n < 20; n += 1) round(model, 30);
    expect(stateOf(model, last)).toBe('active');
    expect(model.pods.has(last)).toBe(true);
    expect(model.condition('Draining')).toMatchObject({ reason: 'MemberUnreachable' });
  });

  it.each(['cordoned', 'draining'])('that is %s stays when the size is raised again', (state) => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    model.member(last).copies = 5_000;
    resize(model, 2, 2);
    roundsUntil(model, state, () => stateOf(model, last) === state);
    resize(model, 3, 2);
    converge(model);
    expect(stateOf(model, last)).toBe('active');
    expect(model.said('DrainCancelled')).toBe(1);
    expect(model.said('Emptied')).toBe(0);
  });

  it('that is gone already is removed first and comes back new', () => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    const { identity } = model.member(last);
    resize(model, 2, 2);
    roundsUntil(model, 'gone', () => stateOf(model, last) === 'gone');
    resize(model, 3, 2);
    converge(model);
    expect(stateOf(model, last)).toBe('active');
    expect(model.member(last).identity).not.toBe(identity);
    expect(model.document?.retired).toMatchObject([{ identity, reason: 'drained' }]);
  });

  it('that is gone holds up new ones above it, so that the ordinals have no hole', () => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    resize(model, 2, 2);
    roundsUntil(model, 'gone', () => stateOf(model, last) === 'gone');
    resize(model, 4, 2);
    converge(model);
    expect(inSite(model, 'seattle')).toHaveLength(4);
    expect(model.document?.members.every(({ state }) => state === 'active')).toBe(true);
  });

  it('is not believed to be empty before it says so', () => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    resize(model, 2, 2);
    roundsUntil(model, 'draining', () => stateOf(model, last) === 'draining');
    Object.assign(model.member(last), { latched: false, copies: 3 });
    round(model);
    expect(stateOf(model, last)).toBe('draining');
    expect(model.condition('Draining')).toMatchObject({ status: 'True', reason: 'WaitingForEmpty' });
  });

  it('that never ran is removed as it is', () => {
    const model = running();
    resize(model, 3, 2);
    const last = memberOf(model, 'seattle', 0).replace(/0$/, '2');
    model.broken.set(last, 'ImagePullBackOff');
    round(model);
    const claim = model.claims.get(claimName(last));
    if (claim !== undefined) model.claims.set(claimName(last), { ...claim, status: { phase: 'Pending' } });
    round(model);
    resize(model, 2, 2);
    converge(model);
    expect(model.pods.has(last)).toBe(false);
    expect(stateOf(model, last)).toBeUndefined();
  });

  it('is not drained by somebody who scales the StatefulSet by hand: that is put back', () => {
    const model = running();
    const name = memberOf(model, 'seattle', 0).replace(/-0$/, '');
    model.edit('StatefulSet', name, (one) => ({ ...one, spec: { ...(one.spec as object), replicas: 1 } }));
    expect(planned(model)).toContain(`putBack StatefulSet/${name}`);
  });

  it('goes at once when a person insists, with a loud event, and its volume stays', () => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    const { identity } = model.member(last);
    model.member(last).copies = 7;
    model.cutOff.set(last, model.nowMs);
    model.forced.add(last);
    model.annotations[ANNOTATION.forceRemove] = last;
    resize(model, 2, 2);
    converge(model);
    expect(model.pods.has(last)).toBe(false);
    expect(model.claims.has(claimName(last))).toBe(true);
    expect(model.events).toContainEqual(expect.objectContaining({ type: 'Warning', reason: 'ForcedRemoval' }));
    expect(model.document?.retired).toMatchObject([{ identity, reason: 'lost' }]);
  });

  it('that falls silent on its way out says how it can be removed all the same', () => {
    const model = running(sized(3, 2));
    const last = memberOf(model, 'seattle', 2);
    resize(model, 2, 2);
    roundsUntil(model, 'cordoned', () => stateOf(model, last) === 'cordoned');
    model.cutOff.set(last, model.nowMs);
    for (let n = 0; n < 5; n += 1) round(model);
    expect(stateOf(model, last)).not.toBe('gone');
    expect(model.condition('Draining')).toMatchObject({
      reason: 'MemberUnreachable',
      message: expect.stringContaining(`${ANNOTATION.forceRemove}: ${last}`),
    });
  });

  it('is not forced out while it is wanted', () => {
    const model = running();
    const first = memberOf(model, 'seattle', 0);
    model.annotations[ANNOTATION.forceRemove] = first;
    round(model);
    expect(stateOf(model, first)).toBe('active');
    expect(model.condition('Draining')).toMatchObject({ reason: 'ForceRemoveRefused' });
  });
});

describe('a boundary that is wanted no more', () => {
  const standalone = (text: string): string => `${TWO_SITES}  standalone: ${text}\n`;

  it('takes nothing new and goes when all it holds is over, without a copy becoming the only one', () => {
    const model = running(standalone('[{ site: portland, replicas: 2 }]'));
    const others =
      model.document?.members.filter(({ boundary }) => boundary === 'site/portland').map(({ name }) => name) ?? [];
    for (const name of others) Object.assign(model.member(name), { copies: 3, safetyNet: 5 });
    model.change(standalone('[]'), { db01: DATABASE });
    for (let n = 0; n < 10; n += 1) round(model);
    for (const name of others) expect(stateOf(model, name)).toBe('cordoned');
    expect(model.condition('Draining')).toMatchObject({ status: 'True', reason: 'BoundaryLeaving' });
    for (const name of others) Object.assign(model.member(name), { copies: 0, safetyNet: 0 });
    converge(model);
    expect(model.document?.members).toHaveLength(4);
    expect([...model.objects.keys()].filter((key) => key.startsWith('StatefulSet/'))).toHaveLength(2);
    expect(model.memberNames).toHaveLength(4);
  });

  it('stays in a site that was taken out of the spec until it is empty', () => {
    const model = running();
    const [first = ''] = inSite(model, 'portland');
    model.member(first).copies = 40;
    model.change(
      TWO_SITES.replace('    - { name: portland, nodeLabels: { zone: b } }\n', '').replace(
        '        - { site: portland, replicas: 2 }\n',
        '',
      ),
      { db01: DATABASE.replace('    - { name: pdx, site: portland, lmtp: "dovecot-pdx.mail.svc:24" }\n', '') },
    );
    round(model);
    expect(model.document?.sites.map(({ name }) => name)).toEqual(['portland', 'seattle']);
    converge(model);
    expect(model.document?.sites.map(({ name }) => name)).toEqual(['seattle']);
    expect(model.memberNames).toHaveLength(2);
  });
});

describe('the operator dies after each action of a drain', () => {
  it('and goes on where it was, whichever it is', () => {
    for (let limit = 0; limit < 4; limit += 1) {
      const model = running(sized(3, 2));
      const last = memberOf(model, 'seattle', 2);
      Object.assign(model.member(last), { copies: 9, safetyNet: 4 });
      resize(model, 2, 2);
      for (let n = 0; n < 40; n += 1) {
        model.carryOut(plan(model.gather()), n % 2 === 0 ? limit : undefined);
        model.settle();
      }
      converge(model);
      expect(model.memberNames).toHaveLength(4);
      expect(model.claims.has(claimName(last))).toBe(false);
    }
  });
});

describe('a member that is lost', () => {
  const retired = (model: ClusterModel) => model.document?.retired ?? [];

  it('is told at once when its node is out of service', () => {
    const model = running();
    const member = memberOf(model, 'seattle', 0);
    const { identity } = model.member(member);
    model.taint(model.pods.get(member)?.spec?.nodeName ?? '');
    round(model);
    expect(retired(model)).toContainEqual(expect.objectContaining({ member, identity, reason: 'lost' }));
    expect(model.status?.members?.find(({ name }) => name === member)?.state).toBe('Lost');
    expect(model.said('NodeOutOfService')).toBeGreaterThan(0);
  });

  it('does not hold up ShadowProtected: when all that are left have heard of it, they know what is protected', () => {
    const model = running();
    const [member, left] = [memberOf(model, 'seattle', 0), memberOf(model, 'portland', 0)];
    model.taint(model.pods.get(member)?.spec?.nodeName ?? '');
    round(model);
    expect(model.condition('ShadowProtected')).toMatchObject({ status: 'Unknown', reason: 'ProtectionUnknown' });
    model.member(left).unprotected = 3;
    round(model, 30);
    expect(model.condition('ShadowProtected')).toMatchObject({ status: 'False', reason: 'UnprotectedMessages' });
    model.member(left).unprotected = 0;
    round(model);
    expect(model.condition('ShadowProtected')).toMatchObject({ status: 'True', reason: 'Protected' });
    expect(budgets(model)).toEqual([0, 0]);
  });

  it('stays lost when Kubernetes has made another pod in its place that finds no machine, and is welcome when that runs', () => {
    const model = running();
    const member = memberOf(model, 'seattle', 0);
    const pod = model.pods.get(member);
    if (pod === undefined) throw new Error('no pod');
    model.taint(pod.spec?.nodeName ?? '');
    round(model);
    round(model);
    const { nodeName: _none, ...spec } = pod.spec ?? {};
    const conditions = [{ type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: 'no node' }];
    const waiting = { ...pod, metadata: { ...pod.metadata, uid: model.uid() }, spec };
    model.pods.set(member, { ...waiting, status: { phase: 'Pending', conditions } } as typeof pod);
    model.carryOut(plan(model.gather()));
    expect(model.status?.members?.find(({ name }) => name === member)?.state).toBe('Lost');
    expect(model.condition('ShadowProtected')).toMatchObject({ status: 'True', reason: 'Protected' });
    model.untaint();
    model.pods.set(member, { ...pod, metadata: waiting.metadata });
    round(model);
    expect(model.status?.members?.find(({ name }) => name === member)).toMatchObject({ state: 'Active', ready: true });
    expect(retired(model).filter((one) => one.member === member)).toHaveLength(1);
  });

  it('is told at once when its volume is gone, and starts anew', () => {
    const model = running();
    const member = memberOf(model, 'seattle', 0);
    const { identity } = model.member(member);
    model.loseVolume(member);
    converge(model);
    expect(retired(model)).toMatchObject([{ member, identity, reason: 'lost' }]);
    expect(model.member(member).identity).not.toBe(identity);
    expect(model.condition('Ready')).toMatchObject({ status: 'True' });
  });

  it.each(['Lost', 'unbound'])('is told when its claim is %s', (how) => {
    const model = running();
    const member = memberOf(model, 'seattle', 0);
    const { identity } = model.member(member);
    const claim = model.claims.get(claimName(member));
    if (claim === undefined) throw new Error('no claim');
    if (how === 'Lost') model.claims.set(claimName(member), { ...claim, status: { phase: 'Lost' } });
    else model.volumes.delete(claim.spec?.volumeName ?? '');
    model.cutOff.set(member, model.nowMs);
    round(model);
    expect(retired(model)).toMatchObject([{ member, identity }]);
  });

  it('is not told for being not ready, terminating, or silent', () => {
    const model = running();
    const member = memberOf(model, 'seattle', 0);
    const pod = model.pods.get(member);
    if (pod === undefined) throw new Error('no pod');
    model.cutOff.set(member, model.nowMs);
    const deletionTimestamp = new Date(model.nowMs).toISOString();
    model.pods.set(member, { ...pod, metadata: { ...pod.metadata, deletionTimestamp } });
    for (let n = 0; n < 5; n += 1) {
      model.carryOut(plan(model.gather()));
      model.nowMs += 60_000;
    }
    expect(retired(model)).toEqual([]);
  });

  it('is told when its pod is gone and nobody came instead for 30 s; not before', () => {
    const model = running();
    const member = memberOf(model, 'seattle', 0);
    model.broken.set(member, 'ContainerCreating');
    model.pods.delete(member);
    model.cutOff.set(member, model.nowMs);
    round(model, 10);
    expect(retired(model)).toEqual([]);
    round(model, 25);
    round(model);
    expect(retired(model)).toMatchObject([{ member, reason: 'lost' }]);
    expect(model.said('PodGone')).toBe(1);
  });

  it('is not told when the operator sent the pod away itself', () => {
    const model = running();
    model.operator = { ...model.operator, image: 'mailcluster:broken' };
    roundsUntil(model, 'a restart', () => model.said('Restarting') > 0);
    const member = model.status?.members?.find(({ restartReason }) => restartReason !== undefined)?.name ?? '';
    expect(member).not.toBe('');
    model.broken.set(member, 'ImagePullBackOff');
    for (let n = 0; n < 5; n += 1) round(model, 60);
    expect(retired(model)).toEqual([]);
    expect(model.condition('Progressing')).toMatchObject({ status: 'False', reason: 'PodFailing' });
  });
});

describe('restarts', () => {
  const restarted = (actions: readonly (readonly string[])[]): readonly string[] =>
    actions.flat().filter((one) => one.startsWith('restart'));

  it.each([
    [
      'ImageChanged',
      (model: ClusterModel) => {
        model.operator = { ...model.operator, image: 'mailcluster:2' };
      },
    ],
    [
      'ConfigurationChanged',
      (model: ClusterModel) => model.change(`${TWO_SITES}  logLevel: debug\n`, { db01: DATABASE }),
    ],
    [
      'ResourcesChanged',
      (model: ClusterModel) =>
        model.change(`${TWO_SITES}  transport: { resources: { requests: { cpu: "1" } } }\n`, { db01: DATABASE }),
    ],
  ] as const)('are ordered, each with the reason %s', (reason, change) => {
    const model = running();
    change(model);
    const all = restarted(converge(model));
    expect(all).toHaveLength(4);
    expect(all.every((one) => one.endsWith(reason))).toBe(true);
    expect(model.condition('UpToDate')).toMatchObject({ status: 'True' });
    expect(model.document?.retired).toEqual([]);
  });

  it('do not follow from what is read while running: policies, domains, databases', () => {
    const model = running();
    model.change(`${TWO_SITES}  safetyNet: { holdTime: 24h }\n`, { db01: DATABASE });
    expect(restarted(converge(model))).toEqual([]);
    expect(model.document?.policies.safetyNet.holdTimeMs).toBe(86_400_000);
  });

  it('never hit two members of one boundary at once', () => {
    const model = running();
    model.operator = { ...model.operator, image: 'mailcluster:2' };
    for (let n = 0; n < 30; n += 1) {
      const next = plan(model.gather());
      expect(next.actions.filter(({ kind }) => kind === 'restartPod').length).toBeLessThanOrEqual(1);
      model.carryOut(next);
      model.settle();
    }
  });

  it.each([
    ['UnprotectedMessages', 2],
    ['ProtectionUnknown', null],
  ] as const)('wait: %s', (reason, unprotected) => {
    const model = running();
    const other = memberOf(model, 'portland', 1);
    model.member(other).unprotected = unprotected;
    model.operator = { ...model.operator, image: 'mailcluster:2' };
    for (let n = 0; n < 5; n += 1) round(model);
    expect(model.said('Restarting')).toBe(0);
    expect(model.condition('UpToDate')).toMatchObject({ status: 'False', reason });
    model.member(other).unprotected = 0;
    expect(restarted(converge(model))).toHaveLength(4);
  });

  it('wait for a member that does not serve, but replace one that is not running at once', () => {
    const model = running();
    const [away, dead] = [memberOf(model, 'portland', 1), memberOf(model, 'seattle', 0)];
    model.cutOff.set(away, model.nowMs);
    model.operator = { ...model.operator, image: 'mailcluster:2' };
    for (let n = 0; n < 4; n += 1) round(model);
    expect(model.said('Restarting')).toBe(0);
    model.broken.set(dead, 'CrashLoopBackOff');
    model.settle();
    const acted = round(model);
    expect(acted).toContain(`restart ${dead} ImageChanged`);
  });

  it('do not wait for shadows where shadow redundancy is off', () => {
    const off = `${TWO_SITES}  shadowRedundancy: { enabled: false }\n`;
    const model = running(off);
    for (const name of model.memberNames) model.member(name).unprotected = 5;
    model.operator = { ...model.operator, image: 'mailcluster:2' };
    expect(restarted(converge(model))).toHaveLength(4);
  });
});

describe('disruption budgets', () => {
  it('are open when all serve and everything is protected, and closed otherwise', () => {
    const model = running();
    expect(budgets(model)).toEqual([1, 1]);
    const member = memberOf(model, 'seattle', 0);
    for (const unprotected of [1, null]) {
      model.member(member).unprotected = unprotected;
      round(model);
      expect(budgets(model)).toEqual([0, 0]);
      model.member(member).unprotected = 0;
      round(model);
      expect(budgets(model)).toEqual([1, 1]);
    }
    model.cutOff.set(member, model.nowMs);
    round(model);
    expect(budgets(model)).toEqual([0, 0]);
  });
});
