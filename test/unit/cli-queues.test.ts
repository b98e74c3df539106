/** `mailcluster message list` and `mailcluster queue`: filters, pages over all members, what a person is told; over real admin APIs. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import { kubeMessageCommand, messageCommand } from '../../operator/cli/messages.ts';
import { queueCommand } from '../../operator/cli/queues.ts';
import type { MessageSummary, NextHopView } from '../../transport/runtime/view.ts';
import { AdminWorld, CONTENTS, detail, ID, NOW_MS, summary } from './admin-world.ts';
import { run, runAt } from './cli-run.ts';

const worlds: AdminWorld[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

async function open(): Promise<AdminWorld> {
  const world = await AdminWorld.open();
  worlds.push(world);
  return world;
}

const UNREACHABLE: NextHopView = {
  ...{ queue: 'unreachable', nextHop: 'unreachable', messages: 1, active: 0, deferred: 0, suspended: false },
  ...{ nextRetryMs: null, lastError: 'no route', oldestAgeMs: 60_000 },
};

test('queue shows next hops, retries and errors; an unreachable member does not spoil it, but the exit code says so', async () => {
  const world = await open();
  await world.cluster();
  await world.stopAdmin('b');
  const { code, out, err } = await run(queueCommand, world);
  expect(out).toBe(`TRANSPORT  QUEUE     NEXT HOP  MESSAGES  OLDEST  NEXT RETRY  LAST ERROR
a          delivery  db01/sea         2      9s  in 1m       451 4.3.2 try later
`);
  expect(err).toBe('b is unreachable: ECONNREFUSED\n');
  // A script must not take half an answer for all of it.
  expect(code).toBe(1);
});

test('message list joins the copies of a message, primary first', async () => {
  const world = await open();
  await world.cluster();
  const { out, code } = await run(messageCommand, world, 'list');
  expect(out).toBe(
    `ID                          COPIES              FROM             TO               SIZE  AGE
${ID}  delivery@a, shadow@b  ann@example.org  bob@contoso.com  4.0 KiB   9s
`
      .replace('COPIES              FROM', 'COPIES                FROM')
      .replace('TO               SIZE', 'TO                  SIZE'),
  );
  expect(code).toBe(0);
  expect((await run(messageCommand, world, 'list', '--queue', 'poison')).out).toBe('No messages.\n');
  expect(JSON.parse((await run(messageCommand, world, 'list', '-o', 'json')).out)).toMatchObject({
    messages: [
      {
        id: ID,
        copies: [
          { member: 'a', role: 'primary' },
          { member: 'b', role: 'shadow' },
        ],
      },
    ],
  });
});

test('queue list shows a page: what is wrong first, then the longest, of all members; a script gets all', async () => {
  const hop = (nextHop: string, messages: number, more: Partial<NextHopView> = {}): NextHopView => ({
    ...{ queue: 'delivery', nextHop, messages, active: 0, deferred: 0, suspended: false },
    ...{ nextRetryMs: null, lastError: null, oldestAgeMs: 1_000 },
    ...more,
  });
  const many = (at: string, count: number) => Array.from({ length: count }, (_, n) => hop(`mx:${at}${n}`, n + 1));
  const world = await open();
  const held = hop('mx:held', 0, { suspended: true });
  const idle = hop('mx:idle', 0);
  await world.cluster({
    a: { ...CONTENTS.a, moreHops: [idle, ...many('a', 150)] },
    b: { ...CONTENTS.b, nextHop: { lastError: null }, moreHops: [...many('b', 60), held] },
  });
  const listed = async (...args: readonly string[]) =>
    (await run(queueCommand, world, 'list', ...args)).out.split('\n');
  const [, ...first] = await listed('--limit', '4');
  expect(first.map((line) => line.split(/ +/)).map(([member, , nextHop]) => `${member} ${nextHop}`)).toEqual([
    'a db01/sea',
    'b mx:held',
    'a mx:a149',
    'a mx:a148',
    expect.anything(),
    expect.anything(),
  ]);
  // 150 and 60 besides, db01/sea of both, and what is held.
  expect(first.at(-2)).toBe('209 more queues; --limit shows more, -o json all.');
  const page = await listed();
  expect(page).toHaveLength(1 + 100 + 2);
  expect(page.at(-2)).toMatch(/^113 more queues;/);
  const all = JSON.parse((await listed('-o', 'json')).join('\n'));
  expect(all).toMatchObject({ more: 0 });
  expect(all.nextHops).toHaveLength(213);
  const some = JSON.parse((await listed('-o', 'json', '--limit', '3')).join('\n'));
  expect(some).toMatchObject({ more: 210, nextHops: [{ nextHop: 'db01/sea' }, { nextHop: 'mx:held' }, {}] });
});

test.each([
  ['an hour behind', -3_600_000],
  ['right', 0],
  ['an hour ahead', 3_600_000],
])('AGE and OLDEST are what the transports say, with a clock here that is %s', async (_, wrongMs) => {
  const world = await open();
  const twoHours = 7_200_000;
  // As accepted by a trusted time that is eight hours behind the wall clock: nobody was up meanwhile.
  const old = { ...summary('delivery'), acceptedAtMs: NOW_MS - twoHours - 28_800_000, ageMs: twoHours - 1 };
  const moreHops = [{ ...UNREACHABLE, oldestAgeMs: twoHours }];
  await world.cluster({
    a: {
      ...CONTENTS.a,
      messages: [old],
      details: new Map([[ID, { ...detail('delivery'), ageMs: twoHours }]]),
      moreHops,
    },
    b: { ...CONTENTS.b, messages: [] },
  });
  const at = async (...args: readonly string[]) => (await runAt(NOW_MS + wrongMs, messageCommand, world, ...args)).out;
  // A millisecond less than two hours is not two hours: `--older-than 2h` does not mean it.
  expect((await at('list')).split('\n')[1]).toMatch(/ 4\.0 KiB +1\.9h$/);
  expect(await at('show', ID)).toContain('\n  age        2h\n');
  expect((await runAt(NOW_MS + wrongMs, queueCommand, world)).out).toMatch(/^a +unreachable +- +1 +2h /m);
});

test('a member of an older version tells no age: since it was accepted, by the clock here; never less than nothing', async () => {
  const { ageMs: _, ...older } = summary('delivery');
  const { ageMs: __, ...future } = {
    ...summary('delivery', '01JABCDEFGHJKMNPQRSTVWXYZ1' as CopyId),
    acceptedAtMs: NOW_MS + 5_000,
  };
  const { ageMs: ___, ...both } = { ...summary('delivery', '01JABCDEFGHJKMNPQRSTVWXYZ2' as CopyId), acceptedAtMs: 0 };
  const world = await open();
  await world.cluster({
    a: { ...CONTENTS.a, messages: [older, future, both] as MessageSummary[] },
    b: { ...CONTENTS.b, messages: [{ ...summary('shadow', both.id), ageMs: 61_000 }] },
  });
  const { code, out } = await run(messageCommand, world, 'list');
  expect([
    code,
    out
      .trimEnd()
      .split('\n')
      .map((line) => line.split(/ {2,}/).at(-1)),
  ]).toEqual([0, ['AGE', '9s', '0ms', '1m']]);
});

test('message list pages over all members at once: each message once, with all its copies, in order', async () => {
  const world = await open();
  const id = (n: number): CopyId => `01J${String(n).padStart(23, '0')}` as CopyId;
  const numbers = Array.from({ length: 2_500 }, (_, n) => n);
  const of = (queue: 'delivery' | 'shadow', wanted: (n: number) => boolean) =>
    numbers.filter(wanted).map((n) => summary(queue, id(n)));
  // b has a third of them only.
  await world.cluster({
    a: { ...CONTENTS.a, messages: of('delivery', () => true) },
    b: { ...CONTENTS.b, messages: of('shadow', (n) => n % 3 === 0) },
  });
  type Page = { readonly messages: { id: string; copies: object[] }[]; readonly next: string | null };
  const ask = async (...args: string[]): Promise<Page> =>
    JSON.parse((await run(messageCommand, world, 'list', '-o', 'json', ...args)).out);
  const all = await ask('--limit', '5000');
  expect(all.messages.map((one) => one.id)).toEqual(numbers.map(id));
  expect(all.messages.map(({ copies }) => copies.length)).toEqual(numbers.map((n) => (n % 3 === 0 ? 2 : 1)));
  expect(all.next).toBeNull();
  const first = await ask('--limit', '1200');
  const rest = await ask('--limit', '5000', '--after', String(first.next));
  expect([first.messages.length, first.next, rest.messages.length]).toEqual([1_200, id(1_199), 1_300]);
  const { out } = await run(messageCommand, world, 'list', '--limit', '2');
  expect(out).toContain(`Only the first 2; --limit shows more, --after ${id(1)} those behind.\n`);
});

test('message list: filters reach every member, what cannot be one is said', async () => {
  const world = await open();
  await world.cluster();
  const filters = ['--domain', 'contoso.com', '--older-than', '1h30m', '--larger-than', '10Ki', '--error', 'no route'];
  await run(messageCommand, world, 'list', ...filters, '--sender', '<>');
  const asked = world.asked.filter(({ what }) => what === 'messages').map(({ arguments: [filter] }) => filter);
  const one = { domain: 'contoso.com', olderThanMs: 5_400_000, minBytes: 10_240, error: 'no route', sender: '' };
  expect(asked).toEqual([expect.objectContaining(one), expect.objectContaining(one)]);
  for (const [args, said] of [
    [['--older-than', 'yesterday'], '--older-than: a duration like 30s, 10m, 2h or 3d, not yesterday'],
    [['--larger-than', 'huge'], '--larger-than: bytes, or a size like 10Ki, not huge'],
    [['--sender', ''], '--sender: is empty'],
  ] as const)
    expect(await run(messageCommand, world, 'list', ...args)).toMatchObject({
      code: 'USAGE',
      err: expect.stringContaining(said),
    });
  await world.stopAdmin('b');
  expect(await run(messageCommand, world, 'list', '--domain', 'contoso.com')).toMatchObject({
    code: 1,
    out: expect.stringContaining(ID),
    err: 'b is unreachable: ECONNREFUSED\n',
  });
});

test('queue show: the last error in full, who waits and why; an unknown queue is said to be one', async () => {
  const world = await open();
  const waiting = {
    ...summary('delivery'),
    lastError: '451 4.3.2 \u001b[31mtry later',
    nextAttemptMs: NOW_MS + 60_000,
  };
  await world.cluster({ ...CONTENTS, a: { ...CONTENTS.a, messages: [waiting] } });
  const { out, code } = await run(queueCommand, world, 'show', 'db01/sea');
  expect(code).toBe(0);
  expect(out).toContain(`Queue db01/sea on a: 2 messages, 0 being delivered, 0 put off
  oldest      9s
  next retry  in 1m
  last error  451 4.3.2 try later
`);
  expect(out).toMatch(new RegExp(`^${ID} +a +bob@contoso.com +in 1m +451 4.3.2 \\?\\[31mtry later$`, 'm'));
  expect(await run(queueCommand, world, 'show', 'db09/sea')).toMatchObject({
    code: 1,
    out: '',
    err: 'No transport that answered has a queue db09/sea; there is db01/sea.\n',
  });
  expect(await run(queueCommand, world, 'empty')).toMatchObject({ code: 'USAGE' });
  // Who looks at a message sees that a person holds it back.
  const state = { ...detail('delivery').state, suspended: 1 };
  const held = await open();
  const own = {
    messages: [{ ...waiting, suspended: true }],
    details: new Map([[ID, { ...detail('delivery'), state }]]),
  };
  await held.cluster({ ...CONTENTS, a: { ...CONTENTS.a, ...own } });
  expect((await run(messageCommand, held, 'list')).out).toContain('delivery (suspended)@a, shadow@b');
  expect((await run(messageCommand, held, 'show', ID)).out).toContain('suspended  by a person');
});

test('queue show unreachable: who has no route and why, also of messages of which the rest waits in another queue', async () => {
  const world = await open();
  const reason = 'no site link leads from seattle to dag/west';
  const idle = { active: 0, deferred: 0, suspended: false, nextRetryMs: null, oldestAgeMs: 60_000 };
  const partly = {
    ...summary('delivery'),
    ...{ nextHops: ['db01/sea', 'unreachable'], lastError: reason },
    recipients: [
      { address: 'bob@contoso.com', outcome: 'delivered' as const },
      { address: 'eve@west.example', outcome: 'pending' as const, reply: reason },
    ],
  };
  const moreHops = [{ queue: 'unreachable' as const, nextHop: 'unreachable', messages: 1, ...idle, lastError: reason }];
  await world.cluster({ ...CONTENTS, a: { ...CONTENTS.a, messages: [partly], moreHops } });
  const { code, out } = await run(queueCommand, world, 'show', 'unreachable');
  expect(code).toBe(0);
  expect(out).toContain(`Queue unreachable on a: 1 message, 0 being delivered, 0 put off
  oldest      1m
  next retry  -
  last error  ${reason}
`);
  expect(out).toMatch(new RegExp(`^${ID} +a +eve@west.example +- +${reason}$`, 'm'));
  expect((await run(queueCommand, world)).out).toMatch(new RegExp(`^a +unreachable +- +1 +1m +- +${reason}$`, 'm'));
});

test('message remove: several are only listed, everything needs --all, an ID is one; nothing is ordered meanwhile', async () => {
  const world = await open();
  const id = (n: number): CopyId => `01J${String(n).padStart(23, '0')}` as CopyId;
  const [one, two] = [summary('delivery', id(1)), { ...summary('delivery', id(2)), nextHops: ['db02/sea'] }];
  await world.cluster({ a: { ...CONTENTS.a, messages: [one, two] }, b: { ...CONTENTS.b, messages: [] } });
  const remove = async (...args: string[]) => await run(messageCommand, world, 'remove', ...args);
  const listed = await remove('--domain', 'contoso.com');
  expect(listed).toMatchObject({ code: 0, err: '' });
  for (const said of [id(1), id(2), 'Nothing was removed: 2 messages would be; --yes does it.'])
    expect(listed.out).toContain(said);
  expect(await remove('--next-hop', 'db02/sea', '--dry-run')).toMatchObject({
    code: 0,
    out: expect.stringContaining('Nothing was removed: 1 message would be; --yes does it.'),
  });
  // It is a filter, and matches everything all the same.
  expect(await remove('--domain', 'contoso.com', '--yes')).toMatchObject({
    code: 1,
    err: 'Refused: these 2 are all messages there are; say --all as well if you mean it.\n',
  });
  expect(await remove(ID)).toMatchObject({
    code: 1,
    err: expect.stringContaining(`No transport has ${ID} in transit`),
  });
  expect(await remove('--next-hop', 'nowhere')).toMatchObject({ code: 1, err: 'No messages match.\n' });
  for (const [args, said] of [
    [[], 'say --all if you mean it'],
    [['--yes'], 'say --all if you mean it'],
    [['no-id'], 'it stands in the 250 reply'],
    [[ID, '--domain', 'x'], 'an ID, or filters, not both'],
    [['--domain', 'x', '--dry-run', '--yes'], 'contradict each other'],
  ] as const)
    expect(await remove(...args)).toMatchObject({ code: 'USAGE', err: expect.stringContaining(said) });
  expect(await readdir(world.directory)).not.toContain('orders');
});

test.each([
  [201, 0],
  [250, 1],
])(
  'message remove: of %i waiting all but %i match; more than fit into one command need --all like any others',
  async (count, others) => {
    const id = (n: number): CopyId => `01J${String(n).padStart(23, '0')}` as CopyId;
    const waiting = Array.from({ length: count }, (_, n) => summary('delivery', id(n)));
    // The last one by id: all that match have to be passed first.
    const rest = Array.from({ length: others }, () => ({ ...summary('delivery', id(count)), nextHops: ['db02/sea'] }));
    const world = await open();
    const b = { ...CONTENTS.b, messages: waiting.slice(100, 150).map((one) => summary('shadow', one.id)) };
    await world.cluster({ a: { ...CONTENTS.a, messages: [...waiting, ...rest] }, b });
    const orders = async (): Promise<number> => {
      const names = await readdir(world.directory);
      if (!names.includes('orders')) return 0;
      return (await readdir(join(world.directory, 'orders'))).filter((name) => name.startsWith('message-')).length;
    };
    const { code, err } = await run(messageCommand, world, 'remove', '--next-hop', 'db01/sea', '--yes');
    expect(code).toBe(1);
    if (others === 0)
      expect(err).toBe('Refused: all messages there are match, more than 200; say --all as well if you mean it.\n');
    expect(await orders()).toBe(others === 0 ? 0 : 200);
    await run(messageCommand, world, 'remove', '--next-hop', 'db01/sea', '--yes', '--all');
    expect(await orders()).toBe(200);
  },
);

test('wrong usage', async () => {
  const world = await open();
  for (const [command, args] of [
    [messageCommand, ['list', '--limit', '0']],
    [messageCommand, ['suspend', 'no-id']],
    [queueCommand, ['suspend']],
    [queueCommand, ['retry', 'q', 'r']],
    [queueCommand, ['suspend', `connector:${'x'.repeat(200)}`]],
    [kubeMessageCommand, ['lost']],
  ] as const)
    expect([args, (await run(command, world, ...args)).code]).toEqual([args, 'USAGE']);
});
