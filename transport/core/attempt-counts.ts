/** What is counted of attempts to place a shadow: how each ended, in which scope, and how long the confirmation took after the end of data. PURE. */
import { type Attempt, late, type Placing, type Turn } from './state.ts';

export function countAttempt(turn: Turn, placing: Placing, attempt: Attempt, result: 'stored' | 'failed'): void {
  const scope = attempt.site === turn.server.self.site ? 'local' : 'remote';
  late(turn, { copy: null, kind: 'Count', what: 'shadowAttempt', label: result, scope });
  // A shadow that is sought again later says nothing about what a client waits for.
  if (result === 'failed' || placing.purpose !== 'shadow' || placing.end === null) return;
  const value = (turn.nowMs - placing.end.atMs) / 1000;
  late(turn, { copy: null, kind: 'Count', what: 'shadowCommit', scope, value });
}
