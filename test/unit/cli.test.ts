/** The commands of `mailcluster` against real admin APIs: what people and programs read, and the exit codes. */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { parseUsers, verifyPassword } from '../../common/smtp/users.ts';
import type { Command } from '../../operator/cli/command.ts';
import { messageCommand } from '../../operator/cli/messages.ts';
import { duration, size, table, time } from '../../operator/cli/output.ts';
import { passwordCommandWith } from '../../operator/cli/password.ts';
import { routeCommand } from '../../operator/cli/route.ts';
import { parseListen } from '../../operator/cli/run.ts';
import { safetyNetCommand } from '../../operator/cli/safety-net.ts';
import { statusCommand } from '../../operator/cli/status.ts';
import { traceCommand } from '../../operator/cli/trace.ts';
import { AdminWorld, CONTENTS, detail, ENTRY, ID, NOW_MS, status } from './admin-world.ts';
import { type Result, run } from './cli-run.ts';

const worlds: AdminWorld[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

async function open(): Promise<AdminWorld> {
  const world = await AdminWorld.open();
  worlds.push(world);
  return world;
}

test('status of a healthy cluster', async () => {
  const world = await open();
  await world.cluster();
  const { code, out, err } = await run(statusCommand, world);
  expect(err).toBe('');
  expect(out).toBe(`Cluster contoso, topology generation 1, runner 99

NAME  DAG   SITE      STATE  QUEUED  SHADOW  UNPROTECTED  DISCARDS  SAFETY NET P/S  PEERS  PRESSURE  SCRUB              PID  IDENTITY
a     dag1  seattle   ready       2       3            0         0            11/7    1/1  Normal    2026-01-02T02:04Z  100  IDENTITY-a
b     dag1  portland  ready       2       3            0         0            11/7    1/1  Normal    2026-01-02T02:04Z  100  IDENTITY-b

FRONT END  SITE     HEALTH  LISTENERS            PID
front-0    seattle  ready   smtp=127.0.0.1:2525  101

STORE           DATABASE  LMTP          MAILDIR  PID
store-db01-sea  db01      127.0.0.1:24  /mail    102

No problems found.
`);
  expect(code).toBe(0);
});

test('status names what needs attention, shows who is unreachable, and exits with 1', async () => {
  const world = await open();
  const peer = {
    member: 'b',
    connected: false,
    lastContactMs: NOW_MS - 90_000,
    identity: null,
    problem: 'ECONNREFUSED',
  };
  const plain = status('a');
  const queues = { ...plain.queues, poison: { messages: 1, bytes: 9, oldestMs: NOW_MS } };
  const scrub = { ...plain.scrub, isTooSlow: true };
  const bad = { unprotected: 2, backPressure: 'High', state: 'recovering', quarantined: 1, peers: [peer] } as const;
  const a = status('a', { ...bad, queues, scrub });
  await world.cluster({ ...CONTENTS, a: { ...CONTENTS.a, status: a } });
  await world.stopAdmin('b');
  const { code, out } = await run(statusCommand, world);
  expect(code).toBe(1);
  expect(out).toMatch(/^b +dag1 +portland +unreachable +- /m);
  expect(out.slice(out.indexOf('8 problems:'))).toBe(`8 problems:
  a is recovering
  a has 2 messages with one copy only
  a has 1 damaged record in quarantine
  a has 1 message in the queue poison, of which it died: "mailcluster message list --queue poison", then "message resume ID" or "message remove ID"
  a has more on its disk than a scrub at full pace can look at in a quarter of the hold time
  a is under High back pressure
  a has no connection to b (heard 1.5m ago; ECONNREFUSED)
  b is unreachable: ECONNREFUSED
`);
  const asJson = await run(statusCommand, world, '-o', 'json');
  expect(JSON.parse(asJson.out)).toMatchObject({
    cluster: 'contoso',
    transports: [
      { name: 'a', status: { unprotected: 2 } },
      { name: 'b', problem: 'ECONNREFUSED' },
    ],
    frontends: [{ name: 'front-0', health: 'ready' }],
    problems: expect.arrayContaining(['a is recovering']),
  });
});

test('mail without a route is noticed, from a member of an older version as well', async () => {
  const world = await open();
  const told = status('a', { withoutRoute: 2 });
  const older = status('b', { site: 'portland' });
  const queues = { ...older.queues, unreachable: { messages: 1, bytes: 1, oldestMs: NOW_MS } };
  await world.cluster({ a: { ...CONTENTS.a, status: told }, b: { ...CONTENTS.b, status: { ...older, queues } } });
  const { code, out } = await run(statusCommand, world);
  expect(out.slice(out.indexOf('No problems'))).toBe(`No problems found.

2 notices:
  a has 2 messages without a route for some recipient: "mailcluster queue show unreachable" says why
  b has 1 message without a route for some recipient: "mailcluster queue show unreachable" says why
`);
  expect(code).toBe(0);
});

test('unknown protection is shown as unknown, not as 0', async () => {
  const world = await open();
  await world.cluster({ ...CONTENTS, a: { ...CONTENTS.a, status: status('a', { unprotected: null }) } });
  const { code, out } = await run(statusCommand, world);
  expect(out).toMatch(/^a +dag1 +seattle +ready +2 +3 +unknown /m);
  expect(code).toBe(0);
});

test('a member that answers with the certificate of another is not believed', async () => {
  const world = await open();
  const before = await world.cluster();
  const [a, b] = before.transports;
  const { writeFile } = await import('node:fs/promises');
  const swapped = { ...before, transports: [{ ...a, adminUrl: b?.adminUrl }, b] };
  await writeFile(join(world.directory, 'run.json'), JSON.stringify(swapped));
  const { out } = await run(statusCommand, world);
  expect(out).toContain('a is unreachable: it is transport b');
});

test('route tells transports that decide alike once, and those that do not apart', async () => {
  const world = await open();
  await world.cluster();
  const alike = await run(routeCommand, world, '--to', 'bob@far.example', '--size', '2Ki');
  expect(alike).toMatchObject({ code: 0, err: '' });
  expect(alike.out).toBe(`a (site seattle), b (site portland):
  Goes through send connector out, to its smart hosts
    because cost 1
  Queue connector:out
  Hosts, in this order:
    relay:25, TLS when offered
  Otherwise:
    dear: cost 9 is higher
`);
  expect(world.asked.filter(({ what }) => what === 'route')).toEqual([
    { what: 'route', arguments: ['bob@far.example', 2_048] },
    { what: 'route', arguments: ['bob@far.example', 2_048] },
  ]);
  const path = { to: 'site denver', sites: ['portland', 'denver'], cost: 50, stops: [], why: 'pdx-den 50' };
  const nowhere = {
    ...({ kind: 'unreachable', what: 'it waits', why: '', nextHop: null, hosts: [], others: [] } as const),
    path: { ...path, what: 'portland, denver; cost 50', ifDown: [{ site: 'denver', what: 'it waits in portland' }] },
  };
  const apart = await open();
  await apart.cluster({
    a: { ...CONTENTS.a, route: { waiting: 3, nextRetryMs: NOW_MS + 5_000, lastError: '4.4.1 relay: refused' } },
    b: { ...CONTENTS.b, route: nowhere },
  });
  const told = await run(routeCommand, apart, '--to', 'bob@far.example');
  expect(told.code).toBe(1);
  expect(told.out).toContain('  On a 3 messages for it, next attempt in 5s, last error: 4.4.1 relay: refused\n');
  expect(told.out).toContain('\nb (site portland):\n  Nowhere: it waits\n');
  expect(told.out).toContain(`  Path over site links to site denver: portland, denver; cost 50
    because pdx-den 50
    with denver down: it waits in portland
`);
  const read: unknown = JSON.parse((await run(routeCommand, apart, '--to', 'bob@far.example', '-o', 'json')).out);
  expect(read).toMatchObject({ to: 'bob@far.example', sizeBytes: 1, routes: [{ member: 'a' }, { member: 'b' }] });
});

test.each([
  [[], '--to'],
  [['--to', 'two words@x'], '--to'],
  [['--to', 'bob@x', '--size', 'large'], '--size'],
])('route %j: %s is said to be wrong', async (args, option) => {
  const { code, err } = await run(routeCommand, await open(), ...args);
  expect([code, err]).toEqual(['USAGE', expect.stringContaining(option)]);
});

test('message show prints both copies and cannot steer the terminal', async () => {
  const world = await open();
  await world.cluster();
  const { out, code } = await run(messageCommand, world, 'show', ID);
  expect(code).toBe(0);
  expect(out).toContain('Copy on a: delivery\n');
  expect(out).toContain('Copy on b: shadow\n');
  expect(out).toContain('holders    b (confirmed)');
  expect(out).toContain('451 4.3.2 ?[31mtry later?[0m');
  expect(out).not.toContain('\u001b');
  const unknown = await run(messageCommand, world, 'show', 'NOBODY');
  expect(unknown).toMatchObject({
    code: 1,
    out: '',
    err: expect.stringContaining('No transport that answered holds NOBODY'),
  });
});

test('safety-net counts and lists page by page, with every filter', async () => {
  const world = await open();
  const entry = (id: string, role: 'primary' | 'shadow') => ({ ...ENTRY, id: id as CopyId, role });
  const net = [[entry('FIRST', 'primary')], [], [entry('SECOND', 'shadow'), entry('THIRD', 'shadow')]];
  await world.cluster({ a: { ...CONTENTS.a, net }, b: CONTENTS.b });
  const counted = await run(safetyNetCommand, world, 'count', '--database', 'db01');
  expect(counted).toMatchObject({ code: 0, err: '' });
  expect(counted.out).toMatch(/^a +1 +1000 B +2 +2.0 KiB +0$/m);
  expect(counted.out).toMatch(/^b +1 +1000 B +0 +0 B +0$/m);
  const listed = await run(safetyNetCommand, world, 'list', '--member', 'a');
  expect(listed.out).toBe(`ID      TRANSPORT  ROLE     DATABASES  FINAL (UTC)                 SIZE
FIRST   a          primary  db01       2026-01-02 03:04:04.000  4.0 KiB
SECOND  a          shadow   db01       2026-01-02 03:04:04.000  4.0 KiB
THIRD   a          shadow   db01       2026-01-02 03:04:04.000  4.0 KiB
`);
  const two = await run(safetyNetCommand, world, 'list', '--member', 'a', '--limit', '2');
  expect(two.out).toContain('SECOND');
  expect(two.out).not.toContain('THIRD');
  expect(two.out).toContain('Only the first 2 of each transport; --limit shows more.\n');
  const lines = (await run(safetyNetCommand, world, 'list', '-o', 'json')).out.trim().split('\n');
  expect(lines.map((line) => (JSON.parse(line) as { id: string }).id)).toEqual(['FIRST', 'SECOND', 'THIRD', ID]);
  world.asked.splice(0);
  const filters = ['--role', 'shadow', '--database', 'db01', '--sender', 'a@x', '--recipient', 'b@y', '--member', 'b'];
  await run(safetyNetCommand, world, 'list', ...filters, '--from', '2026-01-02T03:04:05Z', '--to', String(NOW_MS + 1));
  expect(world.asked).toEqual([
    {
      what: 'safetyNet',
      arguments: [
        {
          filter: { role: 'shadow', database: 'db01', fromMs: NOW_MS, toMs: NOW_MS + 1 },
          sender: 'a@x',
          recipient: 'b@y',
        },
        101,
      ],
    },
  ]);
  await world.stopAdmin('b');
  const partial = await run(safetyNetCommand, world, 'count');
  expect(partial).toMatchObject({ code: 1, err: 'b is unreachable: ECONNREFUSED\n' });
});

test('safety-net show prints what rests, and says when it is elsewhere or nowhere', async () => {
  const world = await open();
  const resting = { ...detail('shadow'), state: { ...detail('shadow').state, queue: 'shadowSafetyNet' as const } };
  await world.cluster({ a: CONTENTS.a, b: { ...CONTENTS.b, details: new Map([[ID, resting]]) } });
  const { code, out } = await run(safetyNetCommand, world, 'show', ID);
  expect([code, out.split('\n')[0]]).toEqual([0, 'Copy on b: shadowSafetyNet']);
  expect(await run(safetyNetCommand, world, 'show', 'NOBODY')).toMatchObject({
    code: 1,
    err: expect.stringContaining('No Safety Net that answered holds NOBODY'),
  });
  const other = await open();
  await other.cluster();
  expect(await run(safetyNetCommand, other, 'show', ID)).toMatchObject({
    code: 1,
    err: `${ID} rests in no Safety Net, it is still in transit: delivery@a, shadow@b.\n`,
  });
});

test('trace is one timeline over front end, primary, shadow and store, each event once', async () => {
  const world = await open();
  await world.cluster();
  const { out, code } = await run(traceCommand, world, ID);
  expect(code).toBe(0);
  expect(out).toBe(`TIME (UTC)               AFTER  EVENT       SOURCE   DETAIL
2026-01-02 03:03:55.000   +0ms  FRONTEND    front-0  MAIL FROM
2026-01-02 03:03:56.000    +1s  RECEIVE     a        from <ann@example.org>; message-id <4711@example.org>
2026-01-02 03:03:56.000    +1s  HAREDIRECT  a        peer b
2026-01-02 03:03:56.010    +1s  HARECEIVE   b        peer a
2026-01-02 03:04:01.000    +6s  DELIVER     a        to bob@contoso.com; 250 2.0.0 saved
2026-01-02 03:04:02.000    +7s  HADISCARD   b        peer a

Held now: delivery@a, shadow@b.
`);
  const byMessageId = await run(traceCommand, world, '4711@example.org');
  expect(byMessageId.out).toBe(out);
  expect(await run(traceCommand, world, 'NOBODY')).toEqual({
    code: 1,
    out: '',
    err: 'Nothing is known about NOBODY (2 transports asked).\n',
  });
});

test('wrong usage and a missing cluster', async () => {
  const world = await open();
  expect(await run(statusCommand, world)).toMatchObject({
    code: 'NO_CLUSTER',
    err: expect.stringContaining('run.json: ENOENT; start one with'),
  });
  for (const [command, args] of [
    [statusCommand, ['--nonsense']],
    [statusCommand, ['extra']],
    [statusCommand, ['-o', 'xml']],
    [messageCommand, []],
    [messageCommand, ['show']],
    [safetyNetCommand, []],
    [safetyNetCommand, ['show']],
    [safetyNetCommand, ['list', '--role', 'both']],
    [safetyNetCommand, ['count', '--from', 'yesterday']],
    [safetyNetCommand, ['list', '--from', '2', '--to', '1']],
    [messageCommand, ['lost', '--since', 'yesterday']],
    [traceCommand, []],
  ] as const) {
    expect([args, (await run(command, world, ...args)).code]).toEqual([args, 'USAGE']);
  }
});

test('--listen is read with hosts of every kind', () => {
  expect(parseListen('smtp=127.0.0.1:2525')).toEqual({ frontend: null, name: 'smtp', host: '127.0.0.1', port: 2_525 });
  expect(parseListen('front-0/smtp=[::1]:25')).toEqual({ frontend: 'front-0', name: 'smtp', host: '::1', port: 25 });
  for (const wrong of ['smtp', 'smtp=2525', 'smtp=h:99999', '=h:1'])
    expect(() => parseListen(wrong)).toThrow('expected NAME=HOST:PORT');
});

test('tables, sizes, ages', () => {
  const columns = [
    { title: 'A', value: (row: readonly string[]) => row[0] ?? null },
    { title: 'LONG', value: (row: readonly string[]) => row[1] ?? null, right: true },
  ];
  expect(
    table(columns, [
      ['x', '1'],
      ['long\u202e\n', ''],
    ]),
  ).toBe('A       LONG\nx          1\nlong??     -\n');
  expect([0, 1_023, 1_024, 10_240, 5 * 1_048_576, 3 * 2 ** 40].map(size)).toEqual([
    '0 B',
    '1023 B',
    '1.0 KiB',
    '10 KiB',
    '5.0 MiB',
    '3.0 TiB',
  ]);
  expect([0, 999, 1_500, 90_000, 36_000_000, 864_000_000].map(duration)).toEqual([
    '0ms',
    '999ms',
    '1.5s',
    '1.5m',
    '10h',
    '10d',
  ]);
  expect(time(NOW_MS)).toBe('2026-01-02 03:04:05.000');
});

function program(path: string, ...args: readonly string[]): Promise<Result> {
  return new Promise((resolve) => {
    execFile(path, [...args], { encoding: 'utf8' }, (error, out, err) => {
      resolve({
        code: error === null ? 0 : typeof error.code === 'number' ? error.code : String(error.code),
        out,
        err,
      });
    });
  });
}

test('a line of a users Secret from a password that is no argument and is not printed', async () => {
  const world = await open();
  const command = (stdin: string): Command => passwordCommandWith(() => stdin, systemRandom);
  const made = await run(command('pass word\n'), world, 'scanner');
  expect(made).toMatchObject({ code: 0, err: '', out: expect.stringMatching(/^scanner:SCRAM-SHA-256\$\d+:\S+\n$/) });
  expect(await verifyPassword(parseUsers(made.out), 'scanner', 'pass word')).toBe(true);
  expect(await run(command('\n'), world, 'scanner')).toMatchObject({
    code: 'USAGE',
    err: expect.stringContaining('empty password'),
  });
  expect(await run(command('a\nb'), world, 'scanner')).toMatchObject({
    code: 'USAGE',
    err: expect.stringContaining('one line'),
  });
  expect(await run(command('x'), world, 'a:b')).toMatchObject({
    code: 'USAGE',
    err: expect.stringContaining('"a:b": bad user name'),
  });
  expect(await run(command('x'), world)).toMatchObject({ code: 'USAGE' });
});

test('the program itself: help, version, unknown command, exit codes, also through a link', async () => {
  const path = new URL('../../operator/cli/mailcluster', import.meta.url).pathname;
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-cli-'));
  try {
    const link = join(directory, 'mailcluster');
    await symlink(path, link);
    const [help, version, unknown, nothing, topic, usage, absent] = await Promise.all([
      program(link, 'help'),
      program(path, 'version'),
      program(path, 'frobnicate'),
      program(path),
      program(path, 'help', 'trace'),
      program(path, 'status', '--nonsense'),
      program(path, 'status', '--state', join(directory, 'none')),
    ]);
    const cache = join(directory, 'cache');
    expect(await program('/usr/bin/env', `NODE_COMPILE_CACHE=${cache}`, path, 'version')).toEqual(version);
    expect(await readdir(cache)).not.toEqual([]);
    const names = [
      'run',
      'status',
      'queue',
      'message',
      'safety-net',
      'member',
      'resubmit',
      'trace',
      'validate',
      'store',
      'password',
    ];
    for (const name of [...names, 'version']) {
      expect(help.out).toMatch(new RegExp(`^  ${name} `, 'm'));
    }
    expect(version).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^mailcluster \d+\.\d+\.\d+, Node\.js v24\./),
    });
    expect(unknown).toMatchObject({ code: 2, err: expect.stringContaining('no command "frobnicate"') });
    expect(nothing).toMatchObject({ code: 2, out: '' });
    expect(topic).toMatchObject({ code: 0, out: expect.stringContaining('Examples:') });
    expect(usage).toMatchObject({ code: 2, err: expect.stringContaining('--nonsense') });
    expect(absent).toMatchObject({ code: 1, err: expect.stringContaining('no running cluster') });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}, 30_000);
