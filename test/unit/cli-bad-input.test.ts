/** What a person types wrong: an option that can match nothing, a time that is none, a question that no member can be asked. Each is exit code 2, said once. */
import { afterEach, expect, test } from 'vitest';
import type { CommandContext } from '../../operator/cli/command.ts';
import { parse, timeOption } from '../../operator/cli/command.ts';
import { LOCAL_PLACE } from '../../operator/cli/local-place.ts';
import { messageCommand } from '../../operator/cli/messages.ts';
import { queueCommand } from '../../operator/cli/queues.ts';
import { safetyNetCommand } from '../../operator/cli/safety-net.ts';
import { traceCommand } from '../../operator/cli/trace.ts';
import { AdminWorld, CONTENTS, ID, NOW_MS, summary } from './admin-world.ts';
import { run } from './cli-run.ts';

const worlds: AdminWorld[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

async function open(): Promise<AdminWorld> {
  const world = await AdminWorld.open();
  worlds.push(world);
  return world;
}

test('a question that the members refuse is wrong usage, said once; no member is called unreachable for it', async () => {
  const world = await open();
  await world.cluster();
  for (const [command, args] of [
    [messageCommand, ['list', '--queue', 'nosuch']],
    [messageCommand, ['remove', '--queue', 'nosuch', '--yes']],
    [safetyNetCommand, ['show', 'x'.repeat(1_001)]],
    [traceCommand, ['x'.repeat(1_001)]],
  ] as const) {
    const { code, out, err } = await run(command, world, ...args);
    expect([args[0], code, out]).toEqual([args[0], 'USAGE', '']);
    expect(err.match(/the transports refuse the question: (queue: one of submission|id: at most 1000)/g)).toHaveLength(
      1,
    );
    expect(err).not.toContain('is unreachable');
  }
});

const context = { place: LOCAL_PLACE, environment: {} } as unknown as CommandContext;
const timeOf = (value: string): number | null =>
  timeOption(parse(['--since', value], context, { since: { type: 'string' } }, [0, 0]), 'since');

test.each([
  ['2026-11-30T17:58:07.630Z', Date.UTC(2026, 10, 30, 17, 58, 7, 630)],
  // As tables show it, and without a zone: never that of this machine.
  ['2026-11-30 17:58:07.630', Date.UTC(2026, 10, 30, 17, 58, 7, 630)],
  ['2026-11-30 17:58:07.630 UTC', Date.UTC(2026, 10, 30, 17, 58, 7, 630)],
  ['2026-11-30T17:58:07', Date.UTC(2026, 10, 30, 17, 58, 7)],
  ['2026-11-30 17:58', Date.UTC(2026, 10, 30, 17, 58)],
  ['2026-11-30T17:58:07-05:00', Date.UTC(2026, 10, 30, 22, 58, 7)],
  ['2026-11-30', Date.UTC(2026, 10, 30)],
  ['2024-02-29', Date.UTC(2024, 1, 29)],
  [String(NOW_MS), NOW_MS],
])('%s is a time', (value, expected) => {
  const zone = process.env.TZ;
  process.env.TZ = 'America/New_York';
  try {
    expect(timeOf(value)).toBe(expected);
  } finally {
    if (zone === undefined) delete process.env.TZ;
    else process.env.TZ = zone;
  }
});

test.each([
  '2026-02-30',
  '2026-02-29T00:00:00Z',
  '2026-13-01',
  '2026-11-30T24:00:00Z',
  '2026-11-30T23:59:60Z',
  'Nov 3',
  '11/30/2026',
  '1700000000',
  '0',
  '5',
  'yesterday',
])('%s is no time, and what would be one is said', async (value) => {
  const world = await open();
  for (const [command, args] of [
    [traceCommand, ['--since', value]],
    [messageCommand, ['lost', '--since', value]],
  ] as const)
    expect(await run(command, world, ...args)).toMatchObject({
      code: 'USAGE',
      err: expect.stringMatching(/--since: a time like 2026-01-31T12:00:00Z .*30m.*, not /),
    });
});

test('filters by address: brackets are no part of it, what can match nobody is refused', async () => {
  const world = await open();
  await world.cluster();
  const list = (...args: readonly string[]) => run(messageCommand, world, 'list', ...args);
  await list('--sender', '<ann@example.org>', '--recipient', '<bob@contoso.com>', '--older-than', '1d12h');
  const [asked] = world.asked.filter(({ what }) => what === 'messages');
  expect(asked?.arguments[0]).toMatchObject({
    ...{ sender: 'ann@example.org', recipient: 'bob@contoso.com', olderThanMs: 36 * 3_600_000 },
  });
  expect((await list('--sender', '<>', '--recipient', 'Postmaster')).code).toBe(0);
  expect((await list('--recipient', '"a b"@example.org', '--domain', '[192.0.2.1]')).code).toBe(0);
  for (const args of [
    ['--recipient', 'ann'],
    ['--recipient', '<>'],
    ['--recipient', 'ann@'],
    ['--recipient', '@example.org'],
    ['--recipient', 'ann@exa mple'],
    ['--sender', 'ann'],
    ['--sender', 'Ann <ann@example.org>'],
    ['--domain', '@x'],
    ['--domain', 'a@x'],
    ['--domain', '*.example.org'],
  ] as const) {
    const said = { code: 'USAGE', err: expect.stringContaining(`${args[0]}: `) };
    expect(await list(...args)).toMatchObject(said);
    expect(await run(traceCommand, world, ...args)).toMatchObject(said);
  }
});

test('trace --event: one that there is, in any case', async () => {
  const world = await open();
  await world.cluster();
  expect(await run(traceCommand, world, '--event', 'duplicatedeliver')).toMatchObject({
    code: 1,
    out: 'No messages.\n',
  });
  expect(await run(traceCommand, world, '--event', 'DELIVERED')).toMatchObject({
    code: 'USAGE',
    err: expect.stringMatching(/--event: one of RECEIVE, .*DELIVER, .*, not DELIVERED/),
  });
});

test('queue show: what is suspended, itself or its queue, is not said to be tried now', async () => {
  const due = { ...summary('delivery'), nextAttemptMs: NOW_MS - 1 };
  for (const [nextHop, message, said] of [
    [{}, due, 'now'],
    [{ suspended: true }, due, 'suspended'],
    [{}, { ...due, suspended: true }, 'suspended'],
  ] as const) {
    const world = await open();
    await world.cluster({ ...CONTENTS, a: { ...CONTENTS.a, nextHop, messages: [message] } });
    const { out } = await run(queueCommand, world, 'show', 'db01/sea');
    expect(out).toMatch(new RegExp(`^${ID} +a +bob@contoso.com +${said} `, 'm'));
  }
});
