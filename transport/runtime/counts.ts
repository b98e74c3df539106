/** One business event, one metric: maps what the core counts to the catalogue's names (observability.md). */
import type { Metrics } from '../../common/platform/metrics.ts';
import type { LateEffect } from '../core/events.ts';

export function count(metrics: Metrics, effect: Extract<LateEffect, { readonly kind: 'Count' }>): void {
  const { label = '', scope = 'remote' } = effect;
  switch (effect.what) {
    case 'accepted':
      metrics.observe('message_size_bytes', effect.value ?? 0);
      return metrics.increment('messages_accepted_total', { protection: label });
    case 'refused':
      return metrics.increment('messages_refused_total', { reason: label });
    case 'shadowAttempt':
      return metrics.increment('shadow_attempts_total', { result: label, scope });
    case 'shadowCommit':
      return metrics.observe('shadow_commit_duration_seconds', effect.value ?? 0, { scope });
    case 'delivered':
      return metrics.increment('delivered_total', { route: label });
    case 'deferred':
      return metrics.increment('deferred_total', { reason: label });
    case 'failed':
      return metrics.increment('failed_total', { route: label });
    case 'expired':
      return metrics.increment('expired_total');
    case 'dsn':
      return metrics.increment('dsn_total', { kind: 'failed' });
    case 'discarded':
      return metrics.increment('discarded_total');
    case 'reshadowed':
      return metrics.increment('reshadowed_total');
    case 'reconciled':
      return metrics.increment('reconciled_total', { result: 'settled' });
    case 'takenOver':
      return metrics.increment('shadow_promotions_total', { reason: label });
    case 'identityLost':
      return metrics.increment('identities_lost_total', { reason: label });
    case 'rehomed':
      return metrics.increment('rehomed_total', { reason: label });
    case 'resigned':
      return metrics.increment('resigned_total');
    case 'released':
      return metrics.increment('released_total');
    case 'resubmitted':
      return metrics.increment('resubmitted_total', { role: label });
    case 'quarantined':
      return metrics.increment('quarantined_total');
    case 'refetched':
      return metrics.increment('refetched_total');
    case 'poison':
      return metrics.increment('poisoned_total');
    case 'drained':
      return metrics.set('drained', 1);
    case 'acceptDuration':
      return metrics.observe('accept_duration_seconds', effect.value ?? 0);
  }
}
