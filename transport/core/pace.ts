/**
 * How fast one destination gets messages, where its connector says so. Owns: the spacing. Promise: evenly over the minute, in bursts of at most a second's
 * worth; what is kept of a destination at rest means nothing after `restMs`, so that it can be forgotten. PURE.
 */
const MINUTE_MS = 60_000;

export interface Pace {
  /** Up to when what was sent is as much as may be sent. */
  toMs: number;
  /** When the next timer that is set comes. */
  timerAtMs: number;
}

export const newPace = (): Pace => ({ toMs: Number.NEGATIVE_INFINITY, timerAtMs: Number.POSITIVE_INFINITY });

const burst = (messagesPerMinute: number): number => Math.max(1, Math.floor(messagesPerMinute / 60));

/** How long the next one has to wait. */
export function waitMs({ toMs }: Pace, messagesPerMinute: number, nowMs: number): number {
  return Math.max(0, toMs - ((burst(messagesPerMinute) - 1) * MINUTE_MS) / messagesPerMinute - nowMs);
}

/** How long until it is as if nothing had been sent. */
export const restMs = ({ toMs }: Pace, nowMs: number): number => Math.max(0, toMs - nowMs);

/** One begins now. */
export function begins(pace: Pace, messagesPerMinute: number, nowMs: number): void {
  pace.toMs = Math.max(pace.toMs, nowMs) + MINUTE_MS / messagesPerMinute;
}
