/** `mailcluster message lost`, and what `status` says about drains, lost databases and set-aside volumes; over real admin APIs. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { CopyId, Identity } from '../../common/message.ts';
import { memberCommand } from '../../operator/cli/member.ts';
import { messageCommand } from '../../operator/cli/messages.ts';
import { statusCommand } from '../../operator/cli/status.ts';
import { acceptanceOf } from '../../operator/local/accepted-log.ts';
import { simTopology } from '../sim/topology.ts';
import { AdminWorld, CONTENTS, ID, type MemberContents, NOW_MS, status } from './admin-world.ts';
import { run } from './cli-run.ts';

const worlds: AdminWorld[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

const id = (last: string): CopyId => `${ID.slice(0, 25)}${last}` as CopyId;

const accepted = (attemptId: string, more: object = {}): object => ({
  level: 'info',
  time: new Date(NOW_MS - 60_000).toISOString(),
  program: 'frontend',
  name: 'front-0',
  attemptId,
  from: 'ann@example.org',
  recipients: 2,
  msg: 'message accepted',
  ...more,
});

function topology(): ReturnType<typeof simTopology> {
  const made = simTopology({ sites: [1, 1], dag: true, frontends: 1 });
  const members = made.members.map((member, index) => ({ ...member, name: index === 0 ? 'a' : 'b' }));
  return { ...made, cluster: 'contoso', members };
}

async function open(a: Partial<MemberContents> = {}, b: Partial<MemberContents> = {}): Promise<AdminWorld> {
  const world = await AdminWorld.open();
  worlds.push(world);
  await world.cluster({ a: { ...CONTENTS.a, ...a }, b: { ...CONTENTS.b, ...b } });
  await world.topology(topology());
  return world;
}

test('every acknowledged message is accounted for: in transit, at rest, as a tombstone, or by tracking', async () => {
  const world = await open(
    {
      known: [
        { id: id('1'), where: 'transit' },
        { id: id('2'), where: 'damaged' },
      ],
    },
    {
      known: [
        { id: id('2'), where: 'safetyNet' },
        { id: id('3'), where: 'final' },
      ],
      outcomes: [
        { id: id('4'), final: true, recipients: [] },
        { id: id('5'), final: false, recipients: ['bob@contoso.com', 'eve@contoso.com'] },
      ],
    },
  );
  await world.frontendLog(
    'front-0.log',
    ['1', '2', '3', '4', '5'].map((last) => accepted(id(last))),
  );
  expect(await run(messageCommand, world, 'lost')).toEqual({
    code: 0,
    out: '5 acknowledged messages compared with what every transport knows: 0 lost, 0 not decided.\n',
    err: '',
  });
});

test('exactly the lost ones are listed, with what is known of them', async () => {
  const world = await open(
    {
      known: [
        { id: id('1'), where: 'transit' },
        { id: id('3'), where: 'damaged' },
        { id: id('4'), where: 'aborted' },
      ],
    },
    { outcomes: [{ id: id('5'), final: false, recipients: ['bob@contoso.com'] }], lost: [id('3'), id('9')] },
  );
  await world.frontendLog('front-0.log.1', [accepted(id('1')), accepted(id('2'))]);
  await world.frontendLog('front-0.log', [
    { level: 'info', msg: 'ready' },
    accepted(id('3')),
    accepted(id('4'), { from: '' }),
    accepted(id('5')),
  ]);
  await writeFile(
    join(world.directory, 'logs', 'old.log'),
    `${JSON.stringify(accepted(id('6')))}\n{"msg":"message accepted","att`,
  );
  const aside = join(world.directory, 'transports', 'a', 'queue.lost-1');
  await mkdir(aside, { recursive: true });
  const { code, out } = await run(messageCommand, world, 'lost');
  expect(code).toBe(1);
  expect(out).toContain('6 acknowledged messages compared with what every transport knows: 5 lost, 0 not decided.');
  expect(out).toMatch(new RegExp(`^ {2}${id('2')} +2026-01-02 03:03:05\\.000 +front-0 +ann@example\\.org +2 +-$`, 'm'));
  expect(out).toMatch(new RegExp(`^ {2}${id('3')} .* its bytes are damaged on a$`, 'm'));
  expect(out).toMatch(new RegExp(`^ {2}${id('4')} .* <> `, 'm'));
  expect(out).toMatch(new RegExp(`^ {2}${id('5')} .* delivered to bob@contoso\\.com before$`, 'm'));
  expect(out).not.toContain(id('1'));
  expect(out).toContain(`Damaged, and every member was asked for the bytes:\n  ${id('9')} on b\n`);
  expect(out).toContain(`${aside} (not said)`);
  expect(out).toContain('Not checked:\n  the log of front-0 begins at 2026-01-02T03:03:05.000Z\n');
  const asJson = JSON.parse((await run(messageCommand, world, 'lost', '-o', 'json')).out) as Record<string, unknown>;
  expect(asJson).toMatchObject({ checked: 6, undecided: [], unreadable: [{ id: id('9'), members: ['b'] }] });
  expect((asJson.lost as { id: string }[]).map((one) => one.id).sort()).toEqual(['2', '3', '4', '5', '6'].map(id));
  const since = await run(messageCommand, world, 'lost', '--since', String(NOW_MS), '-o', 'json');
  expect(JSON.parse(since.out)).toMatchObject({ checked: 0, lost: [] });
});

test('a damaged line about a message that was acknowledged is said: nobody can look for what it does not name', async () => {
  const world = await open({ known: [{ id: id('1'), where: 'transit' }] });
  const whole = JSON.stringify(accepted(id('2')));
  const damaged = [
    whole.slice(0, -3),
    whole.replace(/"time":"[^"]+"/, '"time":"2026-99-02"'),
    whole.replace(/"time":"[^"]+"/, '"time":7'),
    whole.replace(/"attemptId":"[^"]+"/, '"attemptId":"A,B"'),
    whole.replace(/"attemptId":"[^"]+"/, '"attemptId":null'),
    '"message accepted"',
  ];
  for (const line of damaged) expect([line, acceptanceOf(line)]).toEqual([line, 'unreadable']);
  await mkdir(join(world.directory, 'logs'), { recursive: true });
  const lines = [JSON.stringify(accepted(id('1'))), ...damaged, ''];
  await writeFile(join(world.directory, 'logs', 'front-0.log'), lines.join('\n'));
  const { code, out } = await run(messageCommand, world, 'lost');
  expect(code).toBe(0);
  expect(out).toContain('1 acknowledged message compared with what every transport knows: 0 lost');
  expect(out).toContain('front-0.log has lines that cannot be read: what they acknowledged is not known');
});

test('what cannot be decided is said: a member that is silent, a log that is not there, messages older than anything kept', async () => {
  const world = await open({ known: [{ id: id('1'), where: 'transit' }] });
  const nothing = await run(messageCommand, world, 'lost');
  expect(nothing.code).toBe(1);
  expect(nothing.out).toBe(`0 acknowledged messages compared with what every transport knows: 0 lost, 0 not decided.

Not checked:
  front-0 has no log: what it acknowledged is not known
  the front ends wrote down no acknowledged message: nothing could be compared
`);
  const old = new Date(NOW_MS - 5 * 86_400_000).toISOString();
  await world.frontendLog('front-0.log', [
    accepted(id('1')),
    accepted(id('2'), { time: old }),
    { level: 'warn', dropped: 3, msg: 'log lines dropped' },
  ]);
  const aged = await run(messageCommand, world, 'lost');
  expect(aged.code).toBe(0);
  expect(aged.out).toContain('1 message acknowledged longer ago than messages are kept: nobody remembers');
  expect(aged.out).toContain('front-0 dropped log lines once');
  await mkdir(join(world.directory, 'config'), { recursive: true });
  await writeFile(join(world.directory, 'config', 'front-0.json'), '{"logLevel":"error"}');
  await world.frontendLog('front-0.log', [accepted(id('1')), accepted(id('7'))]);
  await world.stopAdmin('b');
  const silent = await run(messageCommand, world, 'lost');
  expect(silent.code).toBe(1);
  expect(silent.out).toContain('0 lost, 1 not decided');
  expect(silent.out).toContain('b does not answer (ECONNREFUSED): what only it has is not known');
  expect(silent.out).toContain('front-0 logs at level error');
});

test('status tells of drains, databases taken over, requests, and what to do about set-aside volumes, as notices', async () => {
  const drain = { state: 'draining' as const, copies: 2, safetyNet: 5, tombstones: 0, waitingFor: [] };
  const lost = [
    { member: 'b', identity: 'OLD', why: 'said by the orchestrator' },
    { member: 'b', identity: 'EMPTY', why: 'drained' },
  ];
  const world = await open({ status: status('a', { drain, lost }) });
  const fenced = join(world.directory, 'transports', 'b', 'queue.fenced-1');
  await mkdir(fenced, { recursive: true });
  await writeFile(
    join(fenced, 'fenced.json'),
    JSON.stringify({ why: 'restored\u001b from a copy', identity: 'X', at: '2026' }),
  );
  await mkdir(join(world.directory, 'resubmits'), { recursive: true });
  const request = {
    metadata: { name: 'db01-failover-2' },
    status: { state: 'Running', counts: { selected: 5, resubmitted: 3 }, message: 'waits for b' },
  };
  await writeFile(join(world.directory, 'resubmits', 'db01-failover-2.json'), JSON.stringify(request));
  const { code, out } = await run(statusCommand, world);
  expect(code).toBe(0);
  expect(out.slice(out.indexOf('No problems found.'))).toBe(`No problems found.

5 notices:
  a is draining: 2 messages, 5 in Safety Net, 0 answers owed
  queue database OLD of b was lost and is taken over (said by the orchestrator)
  queue database EMPTY of b was drained; nothing is left on it
  resubmit request db01-failover-2 is Running: 3 of 5 resubmitted; waits for b
  set aside: b: ${fenced} (restored? from a copy, 2026): it was an old or foreign copy of the queue database and is not used; read what is in it with "mailcluster store export ${fenced} --all OUT", then remove it
`);
});

test('member lost knows the database of a silent member from the others, says when nobody could take over, and never lies', async () => {
  const seen = { member: 'b', connected: false, lastContactMs: 1, identity: ID as string, problem: 'gone' };
  const world = await open({ status: status('a', { peers: [seen] }) });
  await world.stopAdmin('b');
  // Nobody runs here: the order is kept, and that is said.
  const kept = await run(memberCommand, world, 'lost', 'b');
  expect(kept).toMatchObject({ code: 1, out: '' });
  expect(kept.err).toMatch(new RegExp(`has not answered in 30 s\\. The order is kept in .*lost-${ID}\\.json`));
  await world.topology({
    ...topology(),
    retired: [{ member: 'b', identity: ID as string as Identity, uid: null, reason: 'lost' }],
  });
  expect(await run(memberCommand, world, 'lost', 'b')).toMatchObject({
    code: 0,
    out: `Queue database ${ID} of b is retired already; it was taken over.\n`,
  });
  await world.stopAdmin('a');
  expect(await run(memberCommand, world, 'lost', 'b')).toMatchObject({
    code: 1,
    err: expect.stringContaining('No queue database of b was ever seen'),
  });
});
