/** What members answer is checked, bounded in time, and holds up nobody else's (operator/member-poll.ts): real TLS servers that hang, lie and talk too much. */
import { randomInt } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { expect, it, type TestContext } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { MemberPoll, type PollTarget } from '../../operator/member-poll.ts';
import { PORT } from '../../operator/resources/names.ts';
import { memberServers } from '../house/member-servers.ts';
import { until } from '../house/until.ts';

const queue = { messages: 0, bytes: 0, oldestMs: null };
const STATUS = {
  name: 'm-0',
  identity: 'IDENTITY',
  state: 'ready',
  generation: 1,
  unprotected: 0,
  drain: { state: 'none', copies: 0, safetyNet: 0, tombstones: 0, waitingFor: [] },
  backPressure: 'Normal',
  queues: {
    ...{ submission: queue, delivery: queue, unreachable: queue, poison: queue, shadow: queue },
    ...{ primarySafetyNet: queue, shadowSafetyNet: queue },
  },
  discardsPending: 0,
  space: { liveBytes: 0, freeBytes: 1 },
  peers: [],
};

/** Members called m-0, each at an address of its own, that answer as they are told. */
async function members(context: TestContext) {
  const { tls, serve } = await memberServers(context);
  const targets = new Map<string, PollTarget>();
  const changed: string[] = [];
  const poll = new MemberPoll({
    clock: systemClock,
    target: async (key) => targets.get(key) ?? null,
    changed: (key) => changed.push(key),
    memberCount: () => targets.size,
    counted: () => undefined,
  });
  context.onTestFinished(() => poll.stop());
  const start = async (key: string, answer: (response: ServerResponse) => unknown): Promise<void> => {
    const address = `127.${randomInt(1, 255)}.${randomInt(1, 255)}.${randomInt(1, 255)}`;
    await serve('m-0', address, PORT.admin, answer);
    const pods = [{ name: 'm-0', uid: `uid of ${key}`, address }];
    targets.set(key, { pods, absent: [], wantsResubmits: false, tls, isBusy: true });
    poll.follow(key);
  };
  return { poll, start, changed };
}

it('a member that hangs costs its own deadline; members of other clusters go on being asked, and their answers are seen', async (context) => {
  const { poll, start, changed } = await members(context);
  let generation = 0;
  await start('mail/hanging', () => undefined);
  await start('mail/living', (response) => {
    generation += 1;
    response.end(JSON.stringify({ ...STATUS, generation }));
  });
  await until('two answers of the living', () => generation >= 2 && changed.includes('mail/living'), {
    deadlineMs: 15_000,
  });
  expect(poll.hasAsked('mail/hanging')).toBe(false);
  expect(poll.answers('mail/living')['m-0']).toMatchObject({ kind: 'answered', podUid: 'uid of mail/living' });
  await until('the deadline of the hanging one', () => poll.hasAsked('mail/hanging'), { deadlineMs: 15_000 });
  expect(poll.answers('mail/hanging')['m-0']).toMatchObject({ kind: 'unreachable', reason: 'no answer in time' });
});

const change = (parts: object): string => JSON.stringify({ ...STATUS, ...parts });

const WRONG: readonly (readonly [what: string, body: string, kind: 'unreachable' | 'nonsense', reason: string])[] = [
  ['no JSON', 'hello', 'unreachable', 'JSON'],
  ['no object', '[]', 'nonsense', 'the answer is no object'],
  ['another name', change({ name: 'm-1' }), 'nonsense', 'it says it is m-1'],
  ['a count below zero', change({ unprotected: -1 }), 'nonsense', 'unprotected is no count'],
  ['a state nobody knows', change({ state: 'fine' }), 'nonsense', 'state is none of recovering, ready, stopping'],
  ['a queue that is missing', change({ queues: {} }), 'nonsense', 'queues.submission is no object'],
  [
    'resolvers of another kind',
    change({ unvalidatedResolvers: [53] }),
    'nonsense',
    'unvalidatedResolvers[0] is no text',
  ],
  ['a list without end', change({ peers: Array.from({ length: 10_001 }, () => 0) }), 'nonsense', 'peers is no list'],
];

it('an answer that cannot be is not believed, and the reason says what is wrong with it; fields of a later version do no harm', async (context) => {
  const { poll, start } = await members(context);
  for (const [what, body] of WRONG) await start(what, (response) => response.end(body));
  await start('later', (response) => response.end(change({ later: { some: 'words' } })));
  await until('everybody to be asked', () => [...WRONG, ['later']].every(([key = '']) => poll.hasAsked(key)), {
    deadlineMs: 15_000,
  });
  for (const [what, , kind, reason] of WRONG)
    expect({ what, ...poll.answers(what)['m-0'] }).toMatchObject({
      what,
      kind,
      reason: expect.stringContaining(reason),
    });
  expect(poll.answers('later')['m-0']?.kind).toBe('answered');
});
