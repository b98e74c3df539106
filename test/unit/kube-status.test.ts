/** What `kubectl mailcluster status` makes of the conditions of a MailCluster: what is a problem, what is only worth saying, what is as it should be. */
import { expect, it } from 'vitest';
import { conditionNotices, conditionProblems } from '../../operator/cli/kube-status.ts';
import { CONDITIONS } from '../../operator/reasons.ts';

const AT_REST: Readonly<Record<string, readonly [status: 'True' | 'False', reason: string]>> = {
  Progressing: ['True', 'Converged'],
  Draining: ['False', 'NotDraining'],
  Paused: ['False', 'NotPaused'],
};

/** At rest but for these. */
function cluster(changed: Readonly<Record<string, readonly [status: 'True' | 'False', reason: string]>> = {}) {
  const conditions = CONDITIONS.map((type) => {
    const [status, reason] = changed[type] ?? AT_REST[type] ?? ['True', 'AsExpected'];
    return { type, status, reason, message: `about ${type}`, lastTransitionTime: '2026-01-02T03:04:05Z' };
  });
  return { metadata: { name: 'contoso', generation: 3 }, status: { observedGeneration: 3, conditions } };
}

it('at rest nothing is said', () => {
  expect([conditionProblems(cluster()), conditionNotices(cluster())]).toEqual([[], []]);
});

it('a change that is stuck is a problem: Progressing is False', () => {
  const stuck = cluster({ Progressing: ['False', 'UnsupportedEndpoint'] });
  expect(conditionProblems(stuck)).toEqual(['Progressing is False: UnsupportedEndpoint, about Progressing']);
  expect(conditionNotices(stuck)).toEqual([]);
});

it('a change under way, a drain and a pause are worth saying and no problem', () => {
  const busy = cluster({
    Progressing: ['True', 'Resizing'],
    Draining: ['True', 'Draining'],
    Paused: ['True', 'PausedByAnnotation'],
  });
  expect(conditionProblems(busy)).toEqual([]);
  expect(conditionNotices(busy)).toEqual([
    'Progressing: Resizing, about Progressing',
    'Draining: Draining, about Draining',
    'Paused: PausedByAnnotation, about Paused',
  ]);
});

it('everything else that is not True is a problem, and so is a change that the operator has not seen', () => {
  const bad = cluster({ ShadowProtected: ['False', 'UnprotectedMessages'] });
  expect(conditionProblems({ ...bad, metadata: { name: 'contoso', generation: 4 } })).toEqual([
    'the operator has not looked at the latest change yet',
    'ShadowProtected is False: UnprotectedMessages, about ShadowProtected',
  ]);
});
