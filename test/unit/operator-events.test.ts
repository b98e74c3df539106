/** What the operator did is told, also when a later step of the same look failed (operator/unsaid-events.ts). */
import { expect, it } from 'vitest';
import type { PlannedEvent } from '../../operator/actions.ts';
import { UnsaidEvents } from '../../operator/unsaid-events.ts';

const event = (message: string): PlannedEvent => ({ type: 'Warning', reason: 'ForcedRemoval', message, about: null });

it('says nothing while actions fail, and then everything once, oldest first', () => {
  const unsaid = new UnsaidEvents();
  expect(unsaid.after('mail/a', [event('first'), event('second')], false)).toEqual([]);
  expect(unsaid.after('mail/a', [event('second'), event('third')], false)).toEqual([]);
  expect(unsaid.after('mail/b', [event('other')], true)).toEqual([event('other')]);
  expect(unsaid.after('mail/a', [event('third')], true)).toEqual(['first', 'second', 'third'].map(event));
  expect(unsaid.after('mail/a', [], true)).toEqual([]);
});

it('forgets what concerns a cluster that is gone, and keeps the newest fifty of one that never succeeds', () => {
  const unsaid = new UnsaidEvents();
  for (let n = 0; n < 200; n++) unsaid.after('mail/a', [event(String(n))], false);
  unsaid.after('mail/b', [event('gone')], false);
  unsaid.forget('mail/b');
  expect(unsaid.after('mail/b', [], true)).toEqual([]);
  const said = unsaid.after('mail/a', [], true).map(({ message }) => message);
  expect([said.length, said.at(0), said.at(-1)]).toEqual([50, '150', '199']);
});
