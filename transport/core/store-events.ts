/** What the runtime tells of the own disk and of risky steps: which part of the core answers. Owns nothing. */
import { bodyDamaged } from './damage.ts';
import { restingDamaged, scrubPassed } from './damage-at-rest.ts';
import type { CoreEvent } from './events.ts';
import { riskEntered, riskLeft } from './poison.ts';
import type { Turn } from './state.ts';

export type StoreEvent = Extract<
  CoreEvent,
  { readonly kind: 'BodyDamaged' | 'RestingDamaged' | 'ScrubPassed' | 'RiskEntered' | 'RiskLeft' }
>;

export function storeEvent(turn: Turn, event: StoreEvent): void {
  switch (event.kind) {
    case 'BodyDamaged':
      return bodyDamaged(turn, event.id);
    case 'RestingDamaged':
      return restingDamaged(turn, event.id, event.stored);
    case 'ScrubPassed':
      return scrubPassed(turn, event.sinceMs);
    case 'RiskEntered':
      return riskEntered(turn, event.id);
    case 'RiskLeft':
      return riskLeft(turn, event.id);
  }
}
