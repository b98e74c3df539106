/** What a check answers: nothing (continue), or findings that act, wait or refuse, each with its reason. Owns: that shape. PURE. */
import type { Action, PlannedEvent } from '../actions.ts';
import type { ConditionType, Reason } from '../reasons.ts';
import type { ObjectRef } from '../resources/objects.ts';

export interface Finding {
  readonly kind: 'act' | 'wait' | 'refuse';
  readonly reason: Reason;
  readonly message: string;
  /** Which condition it makes false (Draining, Paused: true). */
  readonly condition?: ConditionType;
  readonly actions?: readonly Action[];
  readonly events?: readonly PlannedEvent[];
  /** Look again after this long. */
  readonly afterMs?: number;
  /** No later check is asked. */
  readonly stop?: true;
}

export const SOON_MS = 1_000;
export const LATER_MS = 10_000;

export const event = (
  type: PlannedEvent['type'],
  reason: Reason,
  message: string,
  about: ObjectRef | null = null,
): PlannedEvent => ({ type, reason, message, about });

export const act = (reason: Reason, message: string, more: Partial<Finding> = {}): Finding => ({
  kind: 'act',
  reason,
  message,
  ...more,
});

export const wait = (reason: Reason, message: string, more: Partial<Finding> = {}): Finding => ({
  kind: 'wait',
  reason,
  message,
  afterMs: SOON_MS,
  ...more,
});

/** Said as a Warning too: somebody has to do something. */
export const refuse = (reason: Reason, message: string, more: Partial<Finding> = {}): Finding => ({
  kind: 'refuse',
  reason,
  message,
  afterMs: LATER_MS,
  events: [event('Warning', reason, message)],
  ...more,
});
