/** What a person decides about one message (protocol.md 18, rows 23 and 24), from the command to both databases of a real cluster. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { balance, makeMessage, notAccepted, verdict } from './ledger.ts';
import { sendAll } from './smtp-sender.ts';

const TIMEOUT_MS = 150_000;
const PATIENCE = { deadlineMs: 60_000, everyMs: 200 };

let cluster: Cluster | null = null;
afterEach(async () => {
  await cluster?.[Symbol.asyncDispose]();
  cluster = null;
}, TIMEOUT_MS);

/** Of `mailcluster queue list -o json`. */
interface Queues {
  readonly nextHops: readonly { readonly nextHop: string; readonly suspended: boolean; readonly messages: number }[];
}

interface Held {
  readonly id: string;
  readonly copies: readonly { readonly member: string; readonly role: string }[];
}
const ownerOf = (message: Held | undefined): string =>
  message?.copies.find(({ role }) => role === 'primary')?.member ?? '';

interface SuspendedMessage {
  readonly id: string;
  readonly copies: readonly { readonly suspended: boolean }[];
}

interface Listed {
  readonly messages: readonly { readonly id: string; readonly copies: readonly { readonly queue: string }[] }[];
}

test(
  'message remove: gone from both databases, the others stay; resume of what is no poison changes nothing; both are answered',
  async () => {
    // Nobody listens there: everything waits.
    const system = await startCluster((directory) => twoSites(directory, { perSite: 1, lmtp: '127.0.0.1:1' }));
    cluster = system;
    const messages = [0, 1].map((n) => makeMessage(`order${n}`, 'ann@example.com', 2_000));
    const ledger = await sendAll({ targets: () => system.targets(), messages, sessions: 1 });
    expect(notAccepted(ledger)).toEqual([]);
    const list = async (): Promise<Listed['messages']> => {
      const { stdout } = await mailcluster('message', 'list', '--state', system.state, '-o', 'json');
      return (JSON.parse(stdout) as Listed).messages;
    };
    const both = await until(
      'two messages, twice each',
      async () => {
        const found = await list();
        return found.length === 2 && found.every(({ copies }) => copies.length === 2) ? found : null;
      },
      PATIENCE,
    );
    const [gone = '', kept = ''] = both.map(({ id }) => id);
    const order = async (...words: string[]) => await mailcluster('message', ...words, '--state', system.state);
    expect(await order('remove', 'no-id')).toMatchObject({ code: 2, stderr: expect.stringContaining('250 reply') });
    expect(await order('resume', kept)).toMatchObject({ code: 0, stdout: expect.stringContaining(kept) });
    const removed = await order('remove', gone);
    // Each copy is accounted for.
    expect(removed.code).toBe(0);
    expect(removed.stdout.match(new RegExp(`^${gone} .* removed `, 'gm'))).toHaveLength(2);
    // A second time there is nothing left to remove.
    expect(await order('remove', gone)).toMatchObject({ code: 1, stderr: expect.stringContaining(gone) });
    await until(`${gone} to be gone`, async () => !(await list()).some(({ id }) => id === gone), PATIENCE);
    const left = await list();
    expect(left.map(({ id, copies }) => [id, copies.length])).toEqual([[kept, 2]]);
    // No report to the sender.
    expect(left).toHaveLength(1);
    const { stdout } = await mailcluster('trace', gone, '--state', system.state);
    expect(stdout).toContain(`remove by ${userInfo().username}`);
  },
  TIMEOUT_MS,
);

test(
  'message suspend and queue suspend: nothing of it is delivered, also after the transports were killed, until it is resumed',
  async () => {
    const system = await startCluster((directory) => twoSites(directory, { perSite: 1 }));
    cluster = system;
    const run = async (...words: string[]) => await mailcluster(...words, '--state', system.state);
    const queues = async (): Promise<Queues['nextHops']> =>
      (JSON.parse((await run('queue', 'list', '-o', 'json')).stdout) as Queues).nextHops;
    const [, word = ''] =
      /there is (mailbox:[a-z0-9/-]+)/.exec((await run('queue', 'suspend', 'mailbox:no/no')).stderr) ?? [];
    expect(word).toMatch(/^mailbox:/);
    expect(await run('queue', 'suspend', word)).toMatchObject({ code: 0, stdout: expect.stringContaining(word) });
    const messages = [0, 1].map((n) => makeMessage(`held${n}`, 'ann@example.com', 2_000));
    expect(notAccepted(await sendAll({ targets: () => system.targets(), messages, sessions: 1 }))).toEqual([]);
    const list = async (): Promise<readonly SuspendedMessage[]> =>
      (JSON.parse((await run('message', 'list', '-o', 'json')).stdout) as { messages: SuspendedMessage[] }).messages;
    const [held = '', free = ''] = await until(
      'two messages in the suspended queue',
      async () => {
        const found = await list();
        return found.length === 2 && found.every(({ copies }) => copies.length === 2)
          ? found.map(({ id }) => id)
          : null;
      },
      PATIENCE,
    );
    const given = await run('message', 'suspend', held, '-o', 'json');
    expect(given.code).toBe(0);
    const { orders } = JSON.parse(given.stdout);
    expect(orders).toEqual([{ message: held, order: expect.stringMatching(/^[0-9a-f]{16}$/) }]);
    expect(JSON.parse(given.stdout)).toEqual({ id: held, action: 'suspend', orders, unreachable: [] });
    await until(
      'both copies to say so',
      async () => (await list()).some(({ id, copies }) => id === held && copies.every((one) => one.suspended)),
      PATIENCE,
    );
    const ordered = `suspend by ${userInfo().username}`;
    // Tracking is written a moment later, and a process that is killed takes that moment with it.
    await until('the record', async () => (await run('trace', held)).stdout.includes(ordered), PATIENCE);
    for (const { name } of (await system.runFile()).transports) await system.kill(name);
    await until(
      'both transports again, the queue suspended',
      async () => {
        const found = await list();
        return found.length === 2 && found.every(({ copies }) => copies.length === 2);
      },
      PATIENCE,
    );
    expect((await queues()).filter(({ nextHop }) => nextHop === word).every(({ suspended }) => suspended)).toBe(true);
    const resumed = await run('queue', 'resume', word, '-o', 'json');
    expect([resumed.code, JSON.parse(resumed.stdout)]).toEqual([
      0,
      { queue: word, action: 'resume', order: expect.stringMatching(/^[0-9a-f]{16}$/) },
    ]);
    await until(`${free} to be delivered`, async () => !(await list()).some(({ id }) => id === free), PATIENCE);
    expect((await list()).map(({ id }) => id)).toEqual([held]);
    const digestOf = async (name: string): Promise<string> => {
      const file = join(system.state, name);
      const { code, stderr } = await run('message', 'export', held, '--out', file);
      expect([code, stderr]).toEqual([0, '']);
      return createHash('sha256')
        .update(await readFile(file))
        .digest('hex');
    };
    const waiting = await digestOf('waiting.eml');
    expect(messages.map(({ digest }) => digest)).toContain(waiting);
    expect(await run('message', 'resume', held)).toMatchObject({ code: 0 });
    await until(`${held} to be delivered`, async () => (await list()).length === 0, PATIENCE);
    // At rest it is the same.
    expect(await digestOf('resting.eml')).toBe(waiting);
    const { stdout } = await run('trace', held);
    for (const said of [ordered, `resume by ${userInfo().username}`]) expect(stdout).toContain(said);
  },
  TIMEOUT_MS,
);

test(
  'message remove by filter: listed first, then every copy of all that match, with a report to each sender',
  async () => {
    const system = await startCluster((directory) => twoSites(directory, { perSite: 1, lmtp: '127.0.0.1:1' }));
    cluster = system;
    const messages = [0, 1, 2].map((n) =>
      makeMessage(`bulk${n}`, n < 2 ? 'ann@example.com' : 'bob@example.com', 2_000),
    );
    expect(notAccepted(await sendAll({ targets: () => system.targets(), messages, sessions: 1 }))).toEqual([]);
    const run = async (...words: string[]) => await mailcluster('message', ...words, '--state', system.state);
    const ids = async (...words: string[]): Promise<readonly string[]> =>
      (JSON.parse((await run('list', '-o', 'json', ...words)).stdout) as Listed).messages
        .filter(({ copies }) => copies.length === 2)
        .map(({ id }) => id);
    const to = ['--recipient', 'ann@example.com', '--next-hop'];
    const { stdout } = await mailcluster('queue', 'list', '--state', system.state, '-o', 'json');
    const [queue] = (JSON.parse(stdout) as Queues).nextHops;
    await until('three messages, twice each', async () => (await ids()).length === 3, PATIENCE);
    const meant = await until(
      'two messages for ann',
      async () => {
        const { messages: found } = JSON.parse(
          (await run('list', '-o', 'json', '--recipient', 'ann@example.com')).stdout,
        ) as Listed;
        return found.length === 2 ? found.map(({ id }) => id) : null;
      },
      PATIENCE,
    );
    const listed = await run('remove', ...to, queue?.nextHop ?? '');
    expect(listed).toMatchObject({ code: 0, stdout: expect.stringContaining('2 messages would be') });
    expect(await ids()).toHaveLength(3);
    const done = await run('remove', ...to, queue?.nextHop ?? '', '--with-ndr', '--yes', '-o', 'json');
    const { copies } = JSON.parse(done.stdout) as { copies: { id: string; member: string; fate: string }[] };
    expect([done.code, copies.length, new Set(copies.map(({ fate }) => fate))]).toEqual([0, 4, new Set(['removed'])]);
    expect(new Set(copies.map(({ id }) => id))).toEqual(new Set(meant));
    const { stdout: story } = await run('show', meant[0] ?? '');
    expect(story).toBe('');
    const trace = await mailcluster('trace', meant[0] ?? '', '--state', system.state);
    expect(trace.stdout).toContain(`remove with NDR by ${userInfo().username}`);
    // The third stays, beside one report for each that was removed.
    const left = (JSON.parse((await run('list', '-o', 'json')).stdout) as Listed).messages;
    expect(left.filter(({ id }) => meant.includes(id))).toEqual([]);
    expect((await run('list', '--sender', '<>')).stdout.match(/<>/g)).toHaveLength(2);
  },
  TIMEOUT_MS,
);

test(
  'message redirect and queue redirect: what waits goes to a member that had no copy, then to another; delivered once',
  async () => {
    const system = await startCluster((directory) => twoSites(directory, { perSite: [2, 1] }));
    cluster = system;
    const run = async (...words: string[]) => await mailcluster(...words, '--state', system.state);
    const [, queue = ''] =
      /there is (mailbox:[a-z0-9/-]+)/.exec((await run('queue', 'suspend', 'mailbox:no/no')).stderr) ?? [];
    expect(await run('queue', 'suspend', queue)).toMatchObject({ code: 0 });
    const messages = [0, 1, 2].map((n) => makeMessage(`redirect${n}`, 'ann@example.com', 2_000));
    const ledger = await sendAll({ targets: () => system.targets(), messages, sessions: 1 });
    expect(notAccepted(ledger)).toEqual([]);
    const holders = async (): Promise<readonly Held[]> => {
      const { stdout } = await run('message', 'list', '-o', 'json');
      return (JSON.parse(stdout) as { readonly messages: readonly Held[] }).messages;
    };
    const first = await until(
      'three messages, twice each',
      async () => {
        const found = await holders();
        return found.length === 3 && found.every(({ copies }) => copies.length === 2) ? found : null;
      },
      PATIENCE,
    );
    const [message] = first;
    const names = (await system.runFile()).transports.map(({ name }) => name);
    const third = names.find((name) => message?.copies.every(({ member }) => member !== name)) ?? '';
    const id = message?.id ?? '';
    const moved = await run('message', 'redirect', id, '--to', third);
    expect(moved).toMatchObject({ code: 0, stderr: '' });
    expect(moved.stdout).toMatch(new RegExp(`^${id} +${ownerOf(message)} +${third} +yes$`, 'm'));
    expect(ownerOf((await holders()).find((one) => one.id === id))).toBe(third);
    expect((await run('trace', id)).stdout).toContain(`redirect by ${userInfo().username}`);
    expect(await run('message', 'redirect', id, '--to', third)).toMatchObject({
      code: 1,
      stderr: `${id} is at ${third} already.\n`,
    });
    const target = names.find((name) => name !== third) ?? '';
    const all = await run('queue', 'redirect', queue, '--to', target);
    expect(all).toMatchObject({ code: 0, stderr: '' });
    expect((await holders()).map(ownerOf)).toEqual([target, target, target]);
    for (const [words, said] of [
      [['message', 'redirect', id, '--to', 'nobody'], 'there is no such member; there is'],
      [['message', 'redirect', 'no-id', '--to', third], '250 reply'],
      [['queue', 'redirect', queue], '--to MEMBER is missing'],
    ] as const)
      expect(await run(...words)).toMatchObject({ code: 2, stderr: expect.stringContaining(said) });
    expect(await run('queue', 'resume', queue)).toMatchObject({ code: 0 });
    await until('all to be delivered', async () => (await holders()).length === 0, PATIENCE);
    expect(verdict(balance(ledger, await system.delivered(), []))).toBe('balanced');
  },
  TIMEOUT_MS,
);
