/**
 * `mailcluster trace` against real admin APIs and tracking files: a forked message as a tree over all its hops, from whichever of its names one starts; messages
 * by sender, recipient, subject, event and time over all members.
 */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { subjectHash } from '../../common/smtp/subject-hash.ts';
import { traceCommand } from '../../operator/cli/trace.ts';
import { renderTree, traceTree } from '../../operator/cli/trace-tree.ts';
import type { TrackingRecord } from '../../transport/runtime/tracking-api.ts';
import type { TrackingGaps } from '../../transport/runtime/tracking-gaps.ts';
import { AdminWorld, CONTENTS, type MemberContents, NOW_MS } from './admin-world.ts';
import { run } from './cli-run.ts';

const [MESSAGE, HOP, REPORT, AGAIN] = ['01JMESSAGE', '01JHOP', '8D6FREPORT', '01JAGAIN'];
const HASH = subjectHash('Quarterly report') ?? '';
const NAMES = { messageId: '<1@example.org>', subjectHash: HASH, from: 'ann@example.org' };
const BOTH = ['carol@contoso.com', 'bob@west.example'];

const at = (seconds: number): number => NOW_MS - 3_600_000 + seconds * 1_000;
const of = (attemptId: string, source: string) => ({ attemptId, source });

/** What the member of the first boundary knows. */
const EAST: readonly TrackingRecord[] = [
  {
    ...{ atMs: at(0), event: 'RECEIVE', ...of(MESSAGE, 'a'), ...NAMES, recipients: BOTH, detail: 'protected' },
    history: [{ atMs: at(0) - 9, event: 'FRONTEND', source: 'front-0', detail: 'FRONTEND MAIL FROM' }],
  },
  {
    atMs: at(1),
    event: 'DELIVER',
    ...of(MESSAGE, 'a'),
    ...NAMES,
    recipients: ['carol@contoso.com'],
    peer: 'mailbox:e/1',
  },
  {
    ...{ atMs: at(3), event: 'SEND', ...of(MESSAGE, 'a'), ...NAMES, recipients: ['bob@west.example'] },
    ...{ peer: 'boundary:dag/west', detail: '250 2.0.0 protected at b' },
  },
  { atMs: at(3), event: 'SAFETYNET', ...of(MESSAGE, 'a'), ...NAMES, recipients: BOTH },
  {
    ...{ atMs: at(900), event: 'RESUBMIT', ...of(AGAIN, 'a'), ...NAMES, recipients: ['carol@contoso.com'] },
    ...{ root: MESSAGE, parent: MESSAGE, detail: `of ${MESSAGE} for failover-1` },
  },
  {
    atMs: at(901),
    event: 'DEFER',
    ...of(AGAIN, 'a'),
    ...NAMES,
    recipients: ['carol@contoso.com'],
    root: MESSAGE,
    detail: 'connection refused',
  },
];

/** And of the second one. */
const WEST: readonly TrackingRecord[] = [
  {
    ...{ atMs: at(2), event: 'RECEIVE', ...of(HOP, 'b'), ...NAMES, recipients: ['bob@west.example'] },
    ...{ root: MESSAGE, parent: MESSAGE, detail: 'protected' },
    // It travels with the message, and is told once.
    history: [{ atMs: at(0) - 9, event: 'FRONTEND', source: 'front-0', detail: 'FRONTEND MAIL FROM' }],
  },
  {
    ...{ atMs: at(4), event: 'FAIL', ...of(HOP, 'b'), ...NAMES, recipients: ['bob@west.example'], root: MESSAGE },
    ...{ peer: 'mailbox:w/1', detail: '550 5.1.1 no such mailbox' },
  },
  {
    atMs: at(5),
    event: 'DSN',
    ...of(REPORT, 'b'),
    from: '',
    recipients: ['ann@example.org'],
    parent: HOP,
    detail: `about ${HOP}`,
  },
  { atMs: at(6), event: 'SEND', ...of(REPORT, 'b'), from: '', recipients: ['ann@example.org'], peer: 'connector:out' },
];

const WORLD: Readonly<Record<'a' | 'b', MemberContents>> = {
  a: { ...CONTENTS.a, messages: [], details: new Map(), records: EAST },
  b: { ...CONTENTS.b, messages: [], details: new Map(), records: WEST },
};

const TREE = `${MESSAGE}  received by a from <ann@example.org>
│    carol@contoso.com  delivered at mailbox:e/1
│    bob@west.example   relayed to dag/west
├─ ${HOP}  hop, received by b
│  │    bob@west.example  failed at mailbox:w/1: 550 5.1.1 no such mailbox
│  └─ ${REPORT}  report, made by b
│          ann@example.org  relayed at connector:out
└─ ${AGAIN}  resubmission, made by a
        carol@contoso.com  deferred: connection refused
`;

const worlds: AdminWorld[] = [];
async function open(): Promise<AdminWorld> {
  const opened = await AdminWorld.open();
  worlds.push(opened);
  return opened;
}

let world: AdminWorld;
beforeEach(async () => {
  world = await open();
  await world.cluster(WORLD);
});
afterEach(async () => {
  for (const one of worlds.splice(0)) await one.close();
});

const trace = (...args: readonly string[]) => run(traceCommand, world, ...args);
const listed = async (...args: readonly string[]) => {
  const { out, code } = await trace(...args, '-o', 'json');
  return [code, ...JSON.parse(out).messages.map(({ id }: { readonly id: string }) => id)];
};

test.each([
  ['its id', MESSAGE],
  ['its Message-ID', '1@example.org'],
  ['the id of a hop', HOP],
  ['the id of a report about a hop', REPORT],
  ['the id of a resubmission', AGAIN],
])('a forked message is a tree with all its hops, from $0', async (_, name) => {
  const { code, out } = await trace(name);
  expect(code).toBe(0);
  const [tree, rest = ''] = out.split('\n\n');
  expect(`${tree}\n`).toBe(TREE);
  // Then all of it by time, each line with its attempt.
  const lines = rest.split('\n').slice(1);
  expect(lines).toHaveLength(EAST.length + WEST.length + 1);
  expect(lines.map((line) => line.split(/ {2,}/)[4])).toEqual([
    MESSAGE,
    MESSAGE,
    MESSAGE,
    HOP,
    MESSAGE,
    MESSAGE,
    HOP,
    REPORT,
    REPORT,
    AGAIN,
    AGAIN,
  ]);
});

test('the same for programs', async () => {
  const { out } = await trace(HOP, '-o', 'json');
  expect(JSON.parse(out)).toMatchObject({
    id: HOP,
    more: false,
    tree: [
      {
        ...{ id: MESSAGE, kind: 'message', by: 'a' },
        children: [
          { id: HOP, kind: 'hop', children: [{ id: REPORT, kind: 'report', children: [] }] },
          { id: AGAIN, kind: 'resubmission', recipients: [{ address: 'carol@contoso.com', event: 'DEFER' }] },
        ],
      },
    ],
  });
});

test('a member that does not answer leaves its part out, and is named', async () => {
  await world.stopAdmin('a');
  const { code, out, err } = await trace(HOP);
  expect(code).toBe(1);
  expect(out.split('\n\n')[0]).toBe(`${MESSAGE}  not recorded any more by anybody who answered
└─ ${HOP}  hop, received by b
   │    bob@west.example  failed at mailbox:w/1: 550 5.1.1 no such mailbox
   └─ ${REPORT}  report, made by b
           ann@example.org  relayed at connector:out`);
  expect(err).toMatch(/^a is unreachable: /);
  expect(out.split('\n\n')[1]).toBe(`This may not be all of it:
  a does not answer: ECONNREFUSED
  nobody who answered has a record of ${MESSAGE} any more`);
  expect(out).toContain('\nNobody who answered holds a copy any more.\n');
  expect(JSON.parse((await trace(HOP, '-o', 'json')).out)).toMatchObject({
    missing: [{ member: 'a', reason: 'does not answer: ECONNREFUSED' }, { member: null }],
  });
});

test('a member of a former version, which answers one id at a time, is asked for each: no hop is missing', async () => {
  const other = await open();
  await other.cluster({ ...WORLD, b: { ...WORLD.b, former: { answers: 100 } } });
  const { code, out, err } = await run(traceCommand, other, MESSAGE);
  expect([code, `${out.split('\n\n')[0]}\n`, err]).toEqual([0, TREE, '']);
  // Each once.
  expect(other.askedFormer.toSorted()).toEqual([AGAIN, HOP, MESSAGE, REPORT].toSorted());
});

test('one that stops answering in between is named, and what it told is shown', async () => {
  const other = await open();
  const b = { ...WORLD.b, former: { answers: 2 } };
  await other.cluster({ ...WORLD, b });
  const { code, out, err } = await run(traceCommand, other, MESSAGE);
  expect([code, out.split('\n\n')[1]]).toEqual([
    1,
    expect.stringMatching(/^This may not be all of it:\n {2}b does not answer: /),
  ]);
  expect(out).toContain(HOP);
  expect(err).toMatch(/^b is unreachable: /);
});

test('of a family of hundreds only some are followed, and that is said', async () => {
  const many = Array.from({ length: 250 }, (_, n): TrackingRecord => {
    return {
      atMs: at(n),
      event: 'RESUBMIT',
      ...of(`AGAIN-${n}`, 'a'),
      ...NAMES,
      recipients: BOTH,
      root: MESSAGE,
      parent: MESSAGE,
    };
  });
  const other = await open();
  await other.cluster({ ...WORLD, a: { ...WORLD.a, records: [...EAST, ...many] } });
  const { code, out } = await run(traceCommand, other, MESSAGE);
  expect([code, out.split('\n\n')[1]]).toEqual([
    0,
    'This may not be all of it:\n  only 200 messages of this name were followed',
  ]);
});

const BEFORE = { beforeMs: at(2), dropped: null };
const LATER = at(100);

test.each<[string, TrackingGaps, readonly string[]]>([
  ['gave up what was recorded before', BEFORE, ['keeps no records from before 2026-01-02 02:04:07.000']],
  ['gave up what was older than this', { beforeMs: at(-60), dropped: null }, []],
  [
    'lost records meanwhile',
    { beforeMs: null, dropped: { fromMs: at(4), toMs: LATER } },
    ['could not write down all records from 2026-01-02 02:04:09.000 to 2026-01-02 02:05:45.000'],
  ],
  ['lost records before this', { beforeMs: null, dropped: { fromMs: at(-90), toMs: at(-60) } }, []],
])(
  'a member that %s: the tree says what it may lack, before the timeline and for programs',
  async (_, gaps, reasons) => {
    const other = await open();
    await other.cluster({ ...WORLD, b: { ...WORLD.b, gaps } });
    const [text, data] = [await run(traceCommand, other, HOP), await run(traceCommand, other, HOP, '-o', 'json')];
    const said = ['This may not be all of it:', ...reasons.map((reason) => `  b ${reason}`)].join('\n');
    expect([text.code, text.err, data.code]).toEqual([0, '', 0]);
    expect(text.out.split('\n\n')[1]).toEqual(reasons.length === 0 ? expect.stringMatching(/^TIME/) : said);
    expect(JSON.parse(data.out).missing).toEqual(reasons.map((reason) => ({ member: 'b', reason })));
  },
);

test('what hangs on a message that nobody recorded, and one of which nothing is known, say who may have known', async () => {
  const other = await open();
  await other.cluster({ a: { ...WORLD.a, records: [], gaps: BEFORE }, b: WORLD.b });
  const { code, out } = await run(traceCommand, other, HOP);
  expect([code, out.split('\n\n')[1]]).toEqual([
    0,
    // b knows from the front end that it came before that.
    `This may not be all of it:
  a keeps no records from before 2026-01-02 02:04:07.000
  nobody who answered has a record of ${MESSAGE} any more`,
  ]);
  expect(await run(traceCommand, other, 'NOBODY')).toEqual({
    ...{ code: 1, out: '' },
    err: `Nothing is known about NOBODY (2 transports asked).
This may not be all of it:
  a keeps no records from before 2026-01-02 02:04:07.000
`,
  });
});

test('records that say they come of each other, and names of terminals', () => {
  const record = (attemptId: string, parent: string) => ({
    ...{ atMs: 1, event: 'RECEIVE', source: '\u001b[31m', attemptId, parent, recipients: [] },
  });
  const tree = traceTree([record('A', 'B'), record('B', 'A'), record('C', 'C')]);
  expect(renderTree(tree)).toBe(`A  hop, received by ?[31m
└─ B  hop, received by ?[31m
C  hop, received by ?[31m
`);
});

/** One message of two recipients: what a trace says of them after these events. */
function endsAfter(...events: readonly (readonly [string, readonly string[], string?])[]): readonly string[] {
  const records = events.map(([event, recipients, detail], index) => ({
    ...{ atMs: at(index), event, ...of(MESSAGE, 'a'), ...NAMES, recipients },
    ...(detail === undefined ? {} : { detail }),
  }));
  return renderTree(traceTree(records)).trimEnd().split('\n');
}

const [CAROL = '', BOB = ''] = BOTH;
const RECEIVED = ['RECEIVE', BOTH] as const;
const HEAD = `${MESSAGE}  received by a from <ann@example.org>`;

test.each([
  [
    'removed',
    [
      ['DEFER', [BOB], '450 later'],
      ['REMOVE', [BOB], 'remove by eve, order o'],
    ],
    'removed: remove by eve, order o',
  ],
  [
    'removed, in a record that names all',
    [
      ['DEFER', [BOB], '450 later'],
      ['REMOVE', BOTH],
    ],
    'removed',
  ],
  [
    'expired',
    [
      ['DEFER', [BOB], '450 later'],
      ['EXPIRE', [BOB], '450 later'],
    ],
    'expired: 450 later',
  ],
  [
    'suspended',
    [
      ['DEFER', [BOB], '450 later'],
      ['SUSPEND', [BOB], 'suspend by eve, order o'],
    ],
    'held back: suspend by eve, order o',
  ],
  [
    'let go',
    [
      ['SUSPEND', [BOB]],
      ['RESUME', [BOB]],
    ],
    'no outcome yet',
  ],
  [
    'let go, and tried',
    [
      ['SUSPEND', [BOB]],
      ['RESUME', [BOB]],
      ['DEFER', [BOB], '450 later'],
    ],
    'deferred: 450 later',
  ],
  ['poison', [['POISON', BOTH]], 'held back as poison'],
  [
    'poison, and submitted again',
    [
      ['POISON', BOTH],
      ['RESUBMIT', [BOB]],
    ],
    'no outcome yet',
  ],
] as const)('what became of one recipient: %s', (_, events, end) => {
  expect(endsAfter(RECEIVED, ['DELIVER', [CAROL]], ...events)).toEqual([
    HEAD,
    `     ${CAROL}  delivered`,
    `     ${BOB.padEnd(CAROL.length)}  ${end}`,
  ]);
});

test.each([
  ['--sender', 'ANN@example.org', [MESSAGE]],
  ['--sender', '<>', [REPORT]],
  ['--recipient', 'bob@West.example', [MESSAGE]],
  ['--domain', 'west.example', [MESSAGE]],
  ['--subject', ' quarterly  REPORT', [MESSAGE]],
  ['--subject', '=?utf-8?Q?Quarterly_report?=', [MESSAGE]],
  ['--subject', 'Quarterly', []],
  ['--subject-hash', HASH.toUpperCase(), [MESSAGE]],
  ['--event', 'fail', [MESSAGE]],
  ['--message-id', '1@example.org', [MESSAGE]],
  ['--since', new Date(at(6)).toISOString(), [MESSAGE, REPORT]],
  ['--since', '3000s', [MESSAGE]],
  ['--until', `${at(2)}`, [MESSAGE]],
])('messages by %s %s', async (option, value, ids) => {
  expect(await listed(option, value)).toEqual([ids.length === 0 ? 1 : 0, ...ids]);
});

test('all filters have to match, in one event', async () => {
  expect(await listed('--sender', 'ann@example.org', '--recipient', 'bob@west.example', '--event', 'SEND')).toEqual([
    0,
    MESSAGE,
  ]);
  expect(await listed('--recipient', 'carol@contoso.com', '--event', 'SEND')).toEqual([1]);
  expect((await trace('--event', 'POISON')).out).toBe('No messages.\n');
});

test('a message is one row, whatever was made of it, with what says most of what became of it; and it says that there are more', async () => {
  const { code, out } = await trace('--sender', 'ann@example.org');
  expect(code).toBe(0);
  expect(out).toBe(`TIME (UTC)               ID          FROM             TO                   EVENT  SOURCE  DETAIL
2026-01-02 02:04:09.000  01JMESSAGE  ann@example.org  bob@west.example +1  FAIL   b       mailbox:w/1; 550 5.1.1 no such mailbox
`);
  const newest = await trace('--since', '2h', '--limit', '1');
  expect(newest.out.split('\n').slice(1)).toEqual([
    expect.stringMatching(/ 01JMESSAGE +ann@example.org +carol@contoso.com +DEFER +a +connection refused$/),
    'Only the newest 1; --limit shows more, a shorter time or another filter fewer.',
    '',
  ]);
  // Not what its copies did afterwards.
  const own = await trace('--recipient', 'carol@contoso.com', '--until', `${at(10)}`);
  expect(own.out.split('\n')[1]).toMatch(/carol@contoso.com \+1 +DELIVER +a +mailbox:e\/1$/);
  const { out: all } = await trace('--sender', 'ann@example.org', '-o', 'json');
  expect(JSON.parse(all).messages).toMatchObject([{ id: MESSAGE, ids: [AGAIN, HOP, MESSAGE] }]);
});

test('a Message-ID that many messages have is a list, not a story', async () => {
  const other = await open();
  const many = Array.from({ length: 30 }, (_, n): TrackingRecord => {
    return { atMs: at(n), event: 'RECEIVE', ...of(`M${n}`, 'a'), ...NAMES, recipients: BOTH };
  });
  await other.cluster({ ...WORLD, a: { ...WORLD.a, records: many }, b: { ...WORLD.b, records: [] } });
  const { code, out } = await run(traceCommand, other, '<1@example.org>');
  expect(code).toBe(0);
  const lines = out.trimEnd().split('\n');
  expect(lines).toHaveLength(23);
  expect([lines[1], lines[22]]).toEqual([
    expect.stringContaining(' M29 '),
    'Many messages have this Message-ID; these are the newest. Trace one by its ID.',
  ]);
});

test('what its shadow heard afterwards is no later word about it', async () => {
  const other = await open();
  const discarded = { atMs: at(9), event: 'HADISCARD' as const, ...of(MESSAGE, 'b'), ...NAMES, recipients: BOTH };
  await other.cluster({ ...WORLD, b: { ...WORLD.b, records: [discarded] } });
  const { out } = await run(traceCommand, other, '--recipient', 'bob@west.example', '--limit', '1', '-o', 'json');
  expect(JSON.parse(out).messages).toMatchObject([
    { id: MESSAGE, firstMs: at(0), last: { event: 'SEND', source: 'a' } },
  ]);
});

test('who cannot answer is named, and the exit code says so', async () => {
  await world.stopAdmin('b');
  const { code, out, err } = await trace('--sender', 'ann@example.org');
  expect([code, out.split('\n').length]).toEqual([1, 3]);
  expect(err).toMatch(/^b is unreachable: /);
});

test.each([
  [[], 'say which message'],
  [['--limit', '5'], 'say which message'],
  [[MESSAGE, '--sender', 'a@b'], 'an ID and --sender: one or the other'],
  [['--sender', ''], '--sender: is empty'],
  [['--subject', '  '], '--subject: is empty'],
  [['--subject', 'a', '--subject-hash', HASH], '--subject and --subject-hash: one or the other'],
  [['--subject-hash', 'xyz'], '--subject-hash: 16 hexadecimal digits, not xyz'],
  [['--since', 'yesterday'], '--since: a time like 2026-01-31T12:00:00Z'],
  [['--since', '2026-01-02', '--until', '2026-01-01'], '--until: is before --since'],
  [['--sender', 'a@b', '--limit', '0'], '--limit: a number from 1 to 1000'],
])('wrong usage: %j', async (args, words) => {
  expect(await trace(...args)).toMatchObject({ code: 'USAGE', err: expect.stringContaining(words) });
});
