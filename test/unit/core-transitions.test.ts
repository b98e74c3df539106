/** The transition table (protocol.md 10) is what the code obeys: every row is used, every use has a row. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { TRANSITIONS, type TransitionCoverage, transition } from '../../transport/core/transitions.ts';

const folder = join(import.meta.dirname, '../../transport/core');
const code = readdirSync(folder)
  .filter((name) => name !== 'transitions.ts')
  .map((name) => readFileSync(join(folder, name), 'utf8'))
  .join('\n');

describe('the transition table', () => {
  it('has one row per event', () => expect(new Set(TRANSITIONS.map((row) => row.event)).size).toBe(TRANSITIONS.length));

  it.each(TRANSITIONS.map((row) => row.event))('%s is used by the code', (event) =>
    expect(code).toContain(`'${event}'`),
  );

  it('refuses an unknown source, a wrong role and an unknown target, and counts what it allows', () => {
    const coverage: TransitionCoverage = new Map();
    expect(transition(coverage, 'BodyReceived', '-', 'primary', 'submission')).toBe('submission');
    expect(coverage.get('BodyReceived')).toBe(1);
    expect(() => transition(coverage, 'BodyReceived', 'delivery', 'primary', 'submission')).toThrow('does not name');
    expect(() => transition(coverage, 'BodyReceived', '-', 'shadow', 'submission')).toThrow('wrong role');
    expect(() => transition(coverage, 'BodyReceived', '-', 'primary', 'delivery')).toThrow('does not name');
  });

  it('lets nothing leave `shadow` except by final, aborted, re-parented or taken over (semantics.md S3)', () => {
    const leaving = TRANSITIONS.filter(
      (row) => row.from.includes('shadow') && !row.to.includes('shadow') && !row.to.includes('same'),
    );
    expect(leaving.map((row) => row.event).sort()).toEqual([
      'AbortAcknowledged',
      'BecameOwner',
      'Claimed',
      'DiscardNotified',
      'DiscardNotifiedFailed',
      'PlacementReleased',
      'TryRaised',
    ]);
  });
});
