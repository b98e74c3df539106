/** What one event of a message becomes in message tracking: the names by which people find it, and of what it was made. */
import { expect, test } from 'vitest';
import { silentLogger } from '../../common/platform/log.ts';
import { track } from '../../transport/runtime/track.ts';
import type { TrackingRecord } from '../../transport/runtime/tracking-api.ts';
import type { CopyFacts } from '../../transport/store/database.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { copyId, factsOf } from './core-bench.ts';

type Effect = Parameters<typeof track>[1];

function recorded(facts: CopyFacts, more: Partial<Effect> & Pick<Effect, 'event'>): TrackingRecord | undefined {
  const records: TrackingRecord[] = [];
  const clock = new Scheduler(1).clock();
  const tracking = { record: (record: TrackingRecord) => void records.push(record) };
  const effect: Effect = { kind: 'Track', copy: null, facts, id: facts.id, ...more };
  track({ clock, log: silentLogger, name: 't-0', tracking }, effect);
  return records[0];
}

const event = (name: string, detail: string, source = 'f-0') => ({ event: name, atMs: 1, source, detail });
const NAMED = [event('FRONTEND', 'MAIL FROM'), event('MESSAGE-ID', '<1@x>'), event('SUBJECT-HASH', '0123456789abcdef')];
const CROSSED = [...NAMED, event('CROSSED', 'ROOT', 'dag/east'), event('PARENT', 'BEFORE', 'dag/east')];

test('a message of its own has its names, and the front end tells its part once', () => {
  const received = recorded(factsOf('M1', { events: NAMED }), { event: 'RECEIVE', peer: 'f-0', detail: 'protected' });
  expect(received).toEqual({
    ...{ atMs: expect.any(Number), event: 'RECEIVE', source: 't-0', attemptId: 'M1', peer: 'f-0', detail: 'protected' },
    ...{
      from: 'sender@far.example',
      recipients: ['x@far.example'],
      messageId: '<1@x>',
      subjectHash: '0123456789abcdef',
    },
    history: [event('FRONTEND', 'MAIL FROM')],
  });
  expect(recorded(factsOf('M1', { events: NAMED }), { event: 'DELIVER' })).not.toHaveProperty('history');
});

test.each(['RECEIVE', 'HARECEIVE'] as const)(
  'a hop says at %s where it comes from, and always what it belongs to',
  (name) => {
    const facts = factsOf('HOP', { events: CROSSED });
    expect(recorded(facts, { event: name })).toMatchObject({ root: 'ROOT', parent: 'BEFORE' });
    const later = recorded(facts, { event: 'DELIVER', addresses: ['y@far.example'] });
    expect(later).toMatchObject({ root: 'ROOT', recipients: ['y@far.example'], subjectHash: '0123456789abcdef' });
    expect(later).not.toHaveProperty('parent');
  },
);

test('a resubmission comes of the copy at rest, not of what that one came of', () => {
  const facts = factsOf('AGAIN', { events: CROSSED, kind: 'resubmission', ancestor: copyId('ROOT') });
  expect(recorded(facts, { event: 'RESUBMIT', parent: copyId('HOP') })).toMatchObject({ root: 'ROOT', parent: 'HOP' });
  expect(recorded(facts, { event: 'HARECEIVE' })).not.toHaveProperty('parent');
});

test('a report says about what it is; what is about no message has no names', () => {
  const report = recorded(factsOf('DSN', { kind: 'dsn' }), { event: 'DSN', parent: copyId('M1'), detail: 'about M1' });
  expect(report).toMatchObject({ parent: 'M1' });
  expect(report).not.toHaveProperty('root');
  const order = recorded(factsOf('X'), { event: 'QUEUE', facts: null, id: copyId('ORDER') });
  expect(Object.keys(order ?? {})).toEqual(['atMs', 'event', 'source', 'attemptId']);
});
