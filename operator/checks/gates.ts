/**
 * What is looked at before anything else: may we write at all? Owns: an operator or a CRD that is too old, the end of a cluster, an unreadable spec. Promise:
 * deletion always ends by itself (kubernetes.md K10): it needs no pods, creates nothing, and gives up on everything but the finalizer after
 * ten minutes. PURE.
 */
import type { Action, PlannedEvent } from '../actions.ts';
import type { Gathered } from '../gathered.ts';
import { ANNOTATION, FINALIZER, SCHEMA_VERSION } from '../resources/names.ts';
import { act, event, type Finding, refuse, wait } from './finding.ts';
import { inTransit } from './situation.ts';

const DELETION_PATIENCE_MS = 600_000;

export function schemaVersion({ schemaVersion: installed, operator }: Gathered): readonly Finding[] {
  if (installed === null || installed === SCHEMA_VERSION) return [];
  const both = `the CRD has schema ${installed}, this operator (${operator.version}) knows ${SCHEMA_VERSION}`;
  if (installed > SCHEMA_VERSION)
    return [
      refuse('OperatorTooOld', `${both}: it changes nothing; upgrade the operator`, {
        ...{ condition: 'Progressing', stop: true },
      }),
    ];
  const message = `${both}: the API server drops fields that the CRD lacks, all else goes on; kubectl apply --server-side -f crds/`;
  return [refuse('CrdTooOld', message, { condition: 'Progressing' })];
}

const isOwnFinalizerOn = ({ cluster }: Gathered): boolean => cluster.metadata.finalizers?.includes(FINALIZER) ?? false;

function setFinalizers({ cluster }: Gathered, finalizers: readonly string[]): Action {
  const { uid = '', resourceVersion = '' } = cluster.metadata;
  return { kind: 'setFinalizers', finalizers, uid, resourceVersion };
}

/** A namespace that ends kills the pods first and takes no new object: there is nothing we could still do. */
export function deletion(gathered: Gathered): readonly Finding[] {
  const { cluster, namespaceTerminating, nowMs } = gathered;
  const { deletionTimestamp, finalizers = [] } = cluster.metadata;
  const stop = true;
  if (deletionTimestamp === undefined) {
    if (!namespaceTerminating) return [];
    return [{ ...wait('NamespaceTerminating', 'the namespace ends: nothing is written any more', { stop }) }];
  }
  if (!isOwnFinalizerOn(gathered))
    return [{ kind: 'wait', reason: 'Deleting', message: 'waits for other finalizers', stop }];
  const release = setFinalizers(
    gathered,
    finalizers.filter((one) => one !== FINALIZER),
  );
  const isLate = nowMs - Date.parse(deletionTimestamp) > DELETION_PATIENCE_MS;
  if (namespaceTerminating || isLate)
    return [
      act(namespaceTerminating ? 'NamespaceTerminating' : 'Deleting', 'the finalizer goes', {
        stop,
        actions: [release],
      }),
    ];
  const { actions, text } = volumes(gathered);
  return [act('Deleting', text, { stop, actions: [...actions, release], events: lastWords(gathered, text) })];
}

function volumes({ cluster, claims, nowMs }: Gathered): { readonly actions: readonly Action[]; readonly text: string } {
  const policy = cluster.resource?.spec.transport.storage.whenDeleted ?? 'Retain';
  const living = claims.filter(({ metadata }) => metadata.deletionTimestamp === undefined);
  if (policy === 'Delete') {
    return {
      text: `the volumes go too (storage.whenDeleted is Delete): ${living.length}`,
      actions: living.map(({ metadata }): Action => {
        return { kind: 'deleteClaim', name: metadata.name, uid: metadata.uid ?? '', why: 'Deleting' };
      }),
    };
  }
  // A cluster of this name that is made again begins above what these queue databases have seen.
  const generation = String(cluster.status?.topologyGeneration ?? 0);
  const old = living.filter(
    ({ metadata }) => Number(metadata.annotations?.[ANNOTATION.generation] ?? -1) < Number(generation),
  );
  return {
    text: `${living.length} volumes are kept (storage.whenDeleted is Retain), ${new Date(nowMs).toISOString()}`,
    actions: old.map(({ metadata }): Action => {
      const target = { apiVersion: 'v1', kind: 'PersistentVolumeClaim', name: metadata.name };
      return {
        kind: 'annotate',
        target,
        uid: metadata.uid ?? '',
        annotations: { [ANNOTATION.generation]: generation },
      };
    }),
  };
}

function lastWords({ members }: Gathered, text: string): readonly PlannedEvent[] {
  const left = Object.values(members).reduce(
    (sum, one) => sum + (one.kind === 'answered' ? inTransit(one.report) : 0),
    0,
  );
  if (left === 0) return [event('Normal', 'Deleting', `the cluster is deleted; ${text}`)];
  return [
    event(
      'Warning',
      'DeletingWithMail',
      `the cluster is deleted while ${left} copies of messages are in transit; ${text}`,
    ),
  ];
}

export function invalidSpec({ cluster }: Gathered): readonly Finding[] {
  if (cluster.resource !== null) return [];
  const message = `the spec cannot be used, everything stays as it is: ${cluster.problems.join('; ')}`;
  return [refuse('InvalidSpec', message, { condition: 'Progressing', stop: true })];
}

export function finalizer(gathered: Gathered): readonly Finding[] {
  if (isOwnFinalizerOn(gathered)) return [];
  const finalizers = [...(gathered.cluster.metadata.finalizers ?? []), FINALIZER];
  return [act('AsExpected', '', { actions: [setFinalizers(gathered, finalizers)] })];
}

export const isPaused = ({ cluster }: Gathered): boolean =>
  cluster.metadata.annotations?.[ANNOTATION.paused] === 'true';
