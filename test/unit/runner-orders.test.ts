/** Orders of people and a running `mailcluster run`, with real processes and the real commands: drain, lost, resubmit, and crashes in between. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import type { Command } from '../../operator/cli/command.ts';
import { LOCAL_PLACE } from '../../operator/cli/local-place.ts';
import { memberCommand } from '../../operator/cli/member.ts';
import { resubmitCommand } from '../../operator/cli/resubmit.ts';
import { OrderBook } from '../../operator/local/order-book.ts';
import type { RunFile } from '../../operator/local/run-file.ts';
import { statePaths } from '../../operator/local/state-directory.ts';
import { identityIn } from '../../operator/local/volumes.ts';
import type { ResubmitResource } from '../../operator/resubmit-status.ts';
import { until } from '../house/until.ts';
import { alive, type RunnerProcess, resources, StandIns } from '../process/stand-ins.ts';

const TIMEOUT_MS = 90_000;
const PATIENCE = { deadlineMs: 20_000 };
const open: StandIns[] = [];

afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

class World {
  readonly standIns: StandIns;
  runner: RunnerProcess;
  before: RunFile;

  private constructor(standIns: StandIns, runner: RunnerProcess, before: RunFile) {
    this.standIns = standIns;
    this.runner = runner;
    this.before = before;
  }

  static async start(text = resources({ seattle: 2, portland: 1 })): Promise<World> {
    const standIns = await StandIns.open(text);
    open.push(standIns);
    const runner = standIns.run();
    return new World(standIns, runner, await standIns.ready(runner, 'run.json'));
  }

  get names(): readonly string[] {
    return this.before.transports.map(({ name }) => name);
  }

  async killRunner(): Promise<void> {
    this.runner.process.kill('SIGKILL');
    await this.runner.exited;
    for (const { pid } of [...this.before.transports, ...this.before.frontends])
      await until('its children are gone', () => pid === null || !alive(pid), PATIENCE);
  }

  async startAgain(): Promise<RunFile> {
    this.runner = this.standIns.run();
    return await this.standIns.ready(this.runner, 'run.json of the next runner');
  }

  async document(): Promise<TopologyDocument> {
    return JSON.parse(await readFile(this.before.topologyFile, 'utf8')) as TopologyDocument;
  }

  async stateOf(name: string): Promise<string | undefined> {
    return (await this.document()).members.find((member) => member.name === name)?.state;
  }

  command(command: Command, ...args: readonly string[]) {
    return this.commandUntil(new AbortController().signal, command, ...args);
  }

  /** With a person who may press Ctrl-C. */
  async commandUntil(interruption: AbortSignal, command: Command, ...args: readonly string[]) {
    let [out, err] = ['', ''];
    const output = {
      out: (text: string) => {
        out += text;
      },
      err: (text: string) => {
        err += text;
      },
    };
    const pause = async (ms: number): Promise<void> => {
      const end = performance.now() + ms;
      await until('a moment has passed', () => performance.now() >= end, { deadlineMs: ms + 5_000 });
    };
    const environment = { MAILCLUSTER_STATE: this.standIns.state };
    const clock = { nowMs: () => Date.now(), pause, interruption: () => interruption };
    const context = { place: LOCAL_PLACE, output, environment, ...clock, atEnd: () => undefined };
    try {
      return { code: await command.run(args, context), out, err };
    } catch (error) {
      return { code: 'thrown', out, err: String(error) };
    }
  }
}

test(
  'drain: refused for the last one, ends the process once it is empty, and the replicas may go then',
  async () => {
    const world = await World.start();
    const [first = '', second = '', third = ''] = world.names;
    const wrong = await world.command(memberCommand, 'drain', 'nobody');
    expect(wrong).toMatchObject({ code: 1, err: expect.stringContaining(`There is no member nobody; there are `) });

    await world.standIns.answers(second, {
      '/v1/status': { drain: { state: 'draining', copies: 3, safetyNet: 9, tombstones: 1, waitingFor: [first] } },
    });
    const drained = await world.command(memberCommand, 'drain', second);
    expect(drained).toMatchObject({
      code: 0,
      err: '',
      out: expect.stringContaining(`${second} is draining: it takes nothing new`),
    });
    expect(await world.stateOf(second)).toBe('draining');
    const listed = await world.command(memberCommand, 'list');
    expect(listed.out).toMatch(
      new RegExp(
        `^${second} +dag/dag1 +seattle +draining +yes +3 messages, 9 in Safety Net, 1 answer owed; waits for ${first} `,
        'm',
      ),
    );
    expect((await world.command(memberCommand, 'drain', third)).code).toBe(0);
    const last = await world.command(memberCommand, 'drain', first);
    expect(last).toMatchObject({
      code: 1,
      err: expect.stringMatching(/is the last active member of dag\/dag1 \(.* is draining, .* is draining\)/),
    });
    expect(await world.command(memberCommand, 'drain', third, '--cancel')).toMatchObject({
      code: 0,
      out: expect.stringContaining('takes messages again'),
    });
    expect(await world.stateOf(third)).toBe('active');

    // Empty, but under a document that is not the one in force: not believed.
    await world.standIns.answers(second, { '/v1/status': { generation: 1, drain: { state: 'empty' } } });
    const waiting = world.command(memberCommand, 'drain', second, '--wait');
    await until(
      'it was asked',
      async () => (await world.command(memberCommand, 'list')).out.includes(' empty '),
      PATIENCE,
    );
    expect(await world.stateOf(second)).toBe('draining');
    await world.standIns.answers(second, { '/v1/status': { drain: { state: 'empty' } } });
    expect(await waiting).toMatchObject({ code: 0, out: expect.stringContaining(`${second} is gone: it was empty`) });
    const { retired, members } = await world.document();
    expect(members.find(({ name }) => name === second)?.state).toBe('gone');
    expect(retired).toMatchObject([{ member: second, reason: 'drained' }]);
    const pid = world.before.transports.find(({ name }) => name === second)?.pid ?? 0;
    await until('its process has ended', () => !alive(pid), PATIENCE);
    const run = await world.standIns.ready(world.runner, 'two transports', (one) => one.transports.length === 2);
    expect(run.transports.map(({ name }) => name)).toEqual([first, third]);

    await writeFile(world.standIns.file, resources({ seattle: 1, portland: 1 }));
    world.runner.process.kill('SIGHUP');
    await until('the member left the document', async () => (await world.stateOf(second)) === undefined, PATIENCE);
    // And back: a fresh queue database, the drained one is set aside.
    await writeFile(world.standIns.file, resources({ seattle: 2, portland: 1 }));
    world.runner.process.kill('SIGHUP');
    await world.standIns.ready(
      world.runner,
      'three transports',
      (one) => one.transports.every(({ pid: at }) => at !== null) && one.transports.length === 3,
    );
    expect(await world.stateOf(second)).toBe('active');
    expect(await identityIn(statePaths(world.standIns.state).queue(second))).not.toBe(retired[0]?.identity);
    expect((await world.command(memberCommand, 'list')).out).toMatch(/queue\.drained-1 .*remove it when you like/);
  },
  TIMEOUT_MS,
);

test(
  'drain --wait: says what changes, ends in time, by Ctrl-C and when it is cancelled, each with its own exit code; the drain goes on',
  async () => {
    const world = await World.start();
    const [, second = ''] = world.names;
    const left = (copies: number) =>
      world.standIns.answers(second, {
        '/v1/status': { drain: { state: 'draining', copies, safetyNet: 0, tombstones: 0, waitingFor: [] } },
      });
    await left(3);
    const late = await world.command(memberCommand, 'drain', second, '--wait', '--timeout', '1s');
    expect(late).toMatchObject({ code: 4, out: expect.stringContaining(`${second}: 3 messages, 0 in Safety Net`) });
    expect(late.err).toMatch(
      /is not gone after 1 s \(3 messages.*The drain of .* goes on; .*--cancel" ends it at any time/,
    );
    expect(await world.stateOf(second)).toBe('draining');

    const person = new AbortController();
    const interrupted = world.commandUntil(person.signal, memberCommand, 'drain', second, '--wait');
    person.abort();
    expect(await interrupted).toMatchObject({
      code: 130,
      err: expect.stringMatching(/^Not waiting any more\. The drain of .* goes on/),
    });
    expect(await world.stateOf(second)).toBe('draining');

    const waiting = world.command(memberCommand, 'drain', second, '--wait', '--timeout', '1m');
    await left(2);
    expect((await world.command(memberCommand, 'drain', second, '--cancel')).code).toBe(0);
    expect(await waiting).toMatchObject({ code: 3, err: `The drain of ${second} was cancelled.\n` });
    for (const wrong of [
      ['--timeout', '1m'],
      ['--wait', '--timeout', '5'],
      ['--wait', '--timeout', '0s'],
    ])
      expect(await world.command(memberCommand, 'drain', second, ...wrong)).toMatchObject({
        code: 'thrown',
        err: expect.stringContaining('--timeout'),
      });
    expect(await world.stateOf(second)).toBe('active');
  },
  TIMEOUT_MS,
);

test(
  'drain and cancel survive the death of the runner at any step',
  async () => {
    const world = await World.start();
    const [first = '', second = ''] = world.names;
    await world.command(memberCommand, 'drain', second);
    await world.killRunner();
    await world.startAgain();
    expect(await world.stateOf(second)).toBe('draining');
    await world.killRunner();
    // The member proved empty, and the runner died before the document said so.
    const book = new OrderBook(statePaths(world.standIns.state), () => undefined);
    const order = (await book.read()).find(({ kind }) => kind === 'member');
    const identity = await identityIn(statePaths(world.standIns.state).queue(second));
    if (order === undefined || identity === null) throw new Error('no order');
    await book.write({ kind: 'gone', id: 'g', atMs: 1, member: second, order: order.id, identity });
    const run = await world.startAgain();
    expect(run.transports.map(({ name }) => name)).not.toContain(second);
    expect(await world.document()).toMatchObject({ retired: [{ member: second, identity, reason: 'drained' }] });
    expect(await world.command(memberCommand, 'drain', second, '--cancel')).toMatchObject({
      code: 0,
      out: expect.stringContaining('is a member again'),
    });
    await world.standIns.ready(world.runner, 'it is back', (one) =>
      one.transports.some(({ name, pid }) => name === second && pid !== null),
    );
    expect(await world.stateOf(first)).toBe('active');
  },
  TIMEOUT_MS,
);

test(
  'lost: refused for a healthy one; else its database is retired, set aside, and it starts empty',
  async () => {
    const world = await World.start();
    const [first = '', second = ''] = world.names;
    const queue = statePaths(world.standIns.state).queue(first);
    const identity = await identityIn(queue);
    await writeFile(join(queue, 'segment-1'), 'the only copy');
    const refused = await world.command(memberCommand, 'lost', first);
    expect(refused).toMatchObject({
      code: 1,
      out: '',
      err: expect.stringContaining(`${first} is healthy: it answers with queue database ${identity}`),
    });
    expect(refused.err).toContain('--force');
    expect((await world.document()).retired).toEqual([]);

    const forced = await world.command(memberCommand, 'lost', first, '--force');
    expect(forced).toMatchObject({
      code: 0,
      err: '',
      out: expect.stringContaining(`Queue database ${identity} of ${first} is lost.`),
    });
    expect(forced.out).toMatch(new RegExp(`^Next: .*${second} take over within a minute`, 'm'));
    expect((await world.document()).retired).toEqual([{ member: first, identity, uid: null, reason: 'lost' }]);
    const pid = world.before.transports[0]?.pid ?? null;
    await world.standIns.ready(world.runner, 'it is back', (one) => {
      const now = one.transports.find(({ name }) => name === first)?.pid ?? null;
      return now !== null && now !== pid;
    });
    expect(await identityIn(queue)).not.toBe(identity);
    expect(await readFile(join(`${queue}.lost-1`, 'segment-1'), 'utf8')).toBe('the only copy');
    expect((await world.command(memberCommand, 'list')).out).toMatch(/queue\.lost-1 .*store export/);

    // Its process dies over and over: no --force is needed, and the last database it was known by is meant.
    const again = await identityIn(queue);
    await world.standIns.behave(first, 'fatal');
    const now = (await world.standIns.runFile())?.transports.find(({ name }) => name === first)?.pid ?? 0;
    process.kill(now, 'SIGKILL');
    await world.standIns.said(world.runner, /told to fail/);
    const dead = await world.command(memberCommand, 'lost', first);
    expect(dead).toMatchObject({
      code: 0,
      out: expect.stringContaining(`Queue database ${again} of ${first} is lost.`),
    });
    await world.standIns.behave(first, '');
    await world.standIns.ready(world.runner, 'it is back once more', (one) =>
      one.transports.every(({ pid: at }) => at !== null),
    );
    expect((await readdir(join(queue, '..'))).sort()).toEqual(['queue', 'queue.lost-1', 'queue.lost-2']);
    expect(await world.command(memberCommand, 'lost', 'nobody')).toMatchObject({ code: 1 });
  },
  TIMEOUT_MS,
);

test(
  'lost is carried out by the next runner when the first died before it could',
  async () => {
    const world = await World.start();
    const [first = ''] = world.names;
    const paths = statePaths(world.standIns.state);
    const identity = await identityIn(paths.queue(first));
    if (identity === null) throw new Error('no identity');
    await world.killRunner();
    const book = new OrderBook(paths, () => undefined);
    await book.write({ kind: 'lost', id: 'late', atMs: 1, member: first, identity, why: 'test' });
    await world.startAgain();
    expect((await world.document()).retired).toMatchObject([{ identity, reason: 'lost' }]);
    expect(await book.answerTo('late')).toMatchObject({ ok: true });
    expect(await identityIn(`${paths.queue(first)}.lost-1`)).toBe(identity);
    expect(await identityIn(paths.queue(first))).not.toBe(identity);
  },
  TIMEOUT_MS,
);

test(
  'a resubmit request: bad ones are refused, a good one is followed to its end; a failover makes its own',
  async () => {
    const world = await World.start();
    const report = {
      name: '',
      state: 'Done',
      selected: 2,
      resubmitted: 2,
      byPrimary: 2,
      byShadow: 0,
      present: 0,
      covered: 0,
      failed: 0,
      waitingFor: [],
      completeSinceMs: 0,
      errors: [],
    };
    const from = new Date(Date.now() - 3_600_000).toISOString();
    const refusals: readonly (readonly [args: readonly string[], said: RegExp])[] = [
      [['--from', from], /exactly one of --database/],
      [['--database', 'db01', '--sender', 'a@x', '--from', from], /exactly one of/],
      [['--database', 'db01'], /--from TIME is missing/],
      [['--database', 'db01', '--from', from, '--to', '2020-01-01T00:00:00Z'], /--to 2020-.* is not after --from/],
      [['--database', 'db02', '--from', from], /There is no database db02; there is db01\./],
      [
        ['--sender', 'a@x', '--from', '2020-01-01', '--to', '2020-01-02'],
        /the whole window is older than the hold time: .*nothing from before .* is left/,
      ],
      [['--sender', 'a@x', '--from', from, '--name', 'Not A Name'], /--name Not A Name/],
    ];
    for (const [args, said] of refusals) {
      const { code, err } = await world.command(resubmitCommand, ...args);
      expect([args, code === 0, err]).toEqual([args, false, expect.stringMatching(said)]);
    }
    expect((await world.document()).resubmitRequests).toEqual([]);

    const asked = world.command(
      resubmitCommand,
      '--sender',
      'ann@example.org',
      '--from',
      '2020-01-01',
      '--name',
      'again',
      '--wait',
    );
    await until('the document has it', async () => (await world.document()).resubmitRequests.length === 1, PATIENCE);
    for (const name of world.names)
      await world.standIns.answers(name, { '/v1/resubmit': { requests: [{ ...report, name: 'again' }] } });
    const done = await asked;
    expect(done.err).toMatch(/Covered: from .* on\. Not covered: 2020-01-01T00:00:00\.000Z to /);
    expect(done).toMatchObject({ code: 0, out: expect.stringContaining('Resubmit request again: Completed') });
    expect(done.out).toContain('counts     selected 6, resubmitted 6, byPrimaries 6, byShadows 0');
    const same = await world.command(resubmitCommand, '--sender', 'bob@example.org', '--from', from, '--name', 'again');
    expect(same).toMatchObject({
      code: 1,
      err: 'Refused: there is a resubmit request again already; choose another name.\n',
    });
    const file = join(world.standIns.state, 'resubmits', 'again.json');
    const kept = JSON.parse(await readFile(file, 'utf8')) as ResubmitResource;
    expect(kept).toMatchObject({
      kind: 'ResubmitRequest',
      metadata: { name: 'again', namespace: 'mail' },
      spec: { selector: { sender: 'ann@example.org' }, reason: 'Manual' },
      status: { state: 'Completed', members: [{ state: 'Done' }, { state: 'Done' }, { state: 'Done' }] },
    });

    const moved = resources({ seattle: 2, portland: 1 }).replace(
      'copies: [{ name: sea, site: seattle, lmtp: "maildir:mail/db01" }]\n  activeCopy: sea',
      'copies: [{ name: sea, site: seattle, lmtp: "maildir:mail/db01" }, { name: pdx, site: portland, lmtp: "maildir:mail/pdx" }]\n  activeCopy: pdx',
    );
    await writeFile(world.standIns.file, moved);
    world.runner.process.kill('SIGHUP');
    const name = await until(
      'the failover request',
      async () => {
        const { resubmitRequests, databases } = await world.document();
        const own = resubmitRequests.find(({ lostActivation }) => lostActivation !== null);
        return own !== undefined && databases[0]?.activeCopy === 'pdx' && own.name;
      },
      PATIENCE,
    );
    await until(
      'its file',
      async () => (await readdir(join(world.standIns.state, 'resubmits'))).includes(`${name}.json`),
      PATIENCE,
    );
    await world.killRunner();
    await world.startAgain();
    expect((await world.document()).resubmitRequests.map((one) => one.name).sort()).toEqual(['again', name]);
    expect((await world.command(resubmitCommand, 'list')).out).toMatch(
      new RegExp(`^${name} +(Pending|Running) +database db01 `, 'm'),
    );
    expect(await world.command(resubmitCommand, 'cancel', name)).toMatchObject({ code: 0 });
    expect(await world.command(resubmitCommand, 'cancel', 'nothing')).toMatchObject({
      code: 1,
      err: expect.stringContaining('there is no resubmit request nothing'),
    });
    await until(
      'it is cancelled',
      async () => (await world.command(resubmitCommand, 'show', name)).out.includes(`${name}: Cancelled`),
      PATIENCE,
    );
    expect(await world.command(resubmitCommand, 'show', 'nothing')).toMatchObject({ code: 1 });
  },
  TIMEOUT_MS,
);
