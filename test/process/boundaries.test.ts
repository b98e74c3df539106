/**
 * Three boundaries of real processes, joined by site links over a hub (semantics.md D3): `examples/hub-site-local.yaml` under `mailcluster run`. A message for both
 * coasts is accepted on one; what is for the other goes over the hub and rests in both Safety Nets of each boundary it was in. With the far coast away it waits at
 * the hub, whole and twice; with the hub away where it was accepted; it arrives once when they are back. Away is: every transport there stands still, so that
 * connections open and nobody answers.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { atRest, crossings, type Sent, waitsIn } from './crossings.ts';
import { type Cluster, mailcluster, signal, startCluster } from './harness.ts';
import { restProblems } from './two-copies.ts';

const TIMEOUT_MS = 300_000;
const COASTS = ['ann@west.example', 'bob@east.example'];

let cluster: Cluster;
const { found, arrived, isAt, send: sendTo } = crossings(() => cluster);
const send = (id: string): Promise<Sent> => sendTo(id, COASTS);

beforeAll(async () => {
  const example = await readFile(join(ROOT, 'examples/hub-site-local.yaml'), 'utf8');
  // Retries and heartbeats within the life of a test.
  const quick =
    '  queues: { mailboxRetryInterval: 1s, retryIntervals: [1s] }\n  shadowRedundancy: { heartbeatFrequency: 1s }\n  redis: ';
  cluster = await startCluster((directory) =>
    example.replaceAll('maildir:mail/', `maildir:${join(directory, 'maildirs')}/`).replace('  redis: ', quick),
  );
}, TIMEOUT_MS);

afterAll(async () => await cluster?.[Symbol.asyncDispose](), 120_000);

/** Every transport of a site stands still, or goes on. */
async function all(site: string, what: 'SIGSTOP' | 'SIGCONT'): Promise<void> {
  for (const { pid, site: where } of (await cluster.runFile()).transports)
    if (where === site && pid !== null) signal(pid, what);
}

test('mail for two boundaries crosses over the hub, and rests twice in each', { timeout: TIMEOUT_MS }, async () => {
  const message = await send('crosses');
  await arrived(message, COASTS);
  await isAt(message, atRest(['seattle', 'denver', 'boston']));
  expect(restProblems([message.digest], await cluster.stored())).toEqual([]);
  const { stdout } = await mailcluster('route', '--state', cluster.state, '--to', 'bob@east.example');
  expect(stdout).toContain(
    'Path over site links to site/boston: seattle, denver (hub, it stops there), boston; cost 100',
  );
});

test('one trace tells all hops of it as a tree, found by what a person remembers', {
  timeout: TIMEOUT_MS,
}, async () => {
  const about = [
    '--state',
    cluster.state,
    '--sender',
    'sender@example.org',
    '--subject',
    'LEDGER crosses',
    '--since',
    '1h',
  ];
  const list = await mailcluster('trace', ...about, '--recipient', COASTS[0] ?? '', '-o', 'json');
  const { messages } = JSON.parse(list.stdout);
  expect(messages).toMatchObject([{ from: 'sender@example.org', recipientCount: 2, last: { event: 'DELIVER' } }]);
  const { code, stdout } = await mailcluster('trace', '--state', cluster.state, messages[0].id, '-o', 'json');
  expect(code).toBe(0);
  const { tree, missing } = JSON.parse(stdout);
  expect(missing).toEqual([]);
  const [first] = tree;
  const { recipients } = first;
  expect(first).toMatchObject({ id: messages[0].id, kind: 'message', from: 'sender@example.org' });
  expect(recipients).toMatchObject([
    { address: COASTS[0], event: 'DELIVER' },
    { address: COASTS[1], event: 'SEND', peer: 'boundary:site/denver/denver' },
  ]);
  const [hub] = first.children;
  expect(hub).toMatchObject({ kind: 'hop', by: expect.stringContaining('denver') });
  expect(hub.recipients).toMatchObject([{ address: COASTS[1], event: 'SEND', peer: 'boundary:site/boston' }]);
  const [end] = hub.children;
  expect(end).toMatchObject({ kind: 'hop', by: expect.stringContaining('boston'), children: [] });
  expect(end.recipients).toMatchObject([{ address: COASTS[1], event: 'DELIVER' }]);
  // From the far end back: the same tree, and people see it before the timeline.
  const { stdout: shown } = await mailcluster('trace', '--state', cluster.state, end.id);
  expect(shown.split('\n').slice(0, 6).join('\n')).toMatch(
    new RegExp(`^${first.id}  received by .*\\n.*\\n.*\\n└─ ${hub.id}  hop, .*\\n.*\\n   └─ ${end.id}  hop, `),
  );
});

test('the far boundary away: it waits at the hub on two disks, and arrives once', { timeout: TIMEOUT_MS }, async () => {
  await all('boston', 'SIGSTOP');
  const message = await send('waits-at-hub');
  try {
    await arrived(message, ['ann@west.example']);
    await isAt(message, [...atRest(['seattle']), ...waitsIn('denver')]);
    expect(await found(message)).toEqual(['ann@west.example']);
  } finally {
    await all('boston', 'SIGCONT');
  }
  await arrived(message, COASTS);
  await isAt(message, atRest(['seattle', 'denver', 'boston']));
});

test('the hub away: it waits where it was accepted, and says for what', { timeout: TIMEOUT_MS }, async () => {
  await all('denver', 'SIGSTOP');
  const message = await send('waits-before-hub');
  try {
    await arrived(message, ['ann@west.example']);
    const said = await until(
      'the queue for the hub to say why it waits',
      async () => {
        const { stdout } = await mailcluster('queue', 'list', '--state', cluster.state);
        return /boundary:site\/denver\/denver.*4\.4\.[12]/.exec(stdout)?.[0] ?? null;
      },
      { deadlineMs: 60_000, everyMs: 500 },
    );
    expect(said).toContain('denver');
    expect(await found(message)).toEqual(['ann@west.example']);
  } finally {
    await all('denver', 'SIGCONT');
  }
  await arrived(message, COASTS);
  await isAt(message, atRest(['seattle', 'denver', 'boston']));
});

test('the id of the 250 reply holds back, lets go and removes what crossed under another one', {
  timeout: TIMEOUT_MS,
}, async () => {
  const order = async (...words: string[]) => await mailcluster(...words, '--state', cluster.state);
  const atHub = [...atRest(['seattle']), ...waitsIn('denver')];
  /** Accepted, and at the hub under another id: which one. */
  const waiting = async (name: string) => {
    expect(await order('queue', 'suspend', 'boundary:site/boston')).toMatchObject({ code: 0 });
    const message = await send(name);
    await arrived(message, ['ann@west.example']);
    await isAt(message, atHub);
    const { stdout } = await order('message', 'list', '--attempt', message.accepted, '-o', 'json');
    const [{ id, copies }] = JSON.parse(stdout).messages;
    expect(copies).toMatchObject([{ crossedFrom: message.accepted }, { crossedFrom: message.accepted }]);
    expect(id).not.toBe(message.accepted);
    return { ...message, there: id as string };
  };
  const held = await waiting('held-at-hub');
  const suspended = await order('message', 'suspend', held.accepted);
  expect(suspended).toMatchObject({ code: 0, stdout: expect.stringContaining(held.there), stderr: '' });
  expect((await order('message', 'show', held.accepted)).stdout).toContain(`${held.there}, as which it crossed`);
  expect(await order('queue', 'resume', 'boundary:site/boston')).toMatchObject({ code: 0 });
  // The way is free, and what comes after it goes by.
  const passes = await send('passes');
  await arrived(passes, COASTS);
  await isAt(held, atHub);
  expect(await order('message', 'resume', held.accepted)).toMatchObject({ code: 0 });
  await arrived(held, COASTS);
  await isAt(held, atRest(['seattle', 'denver', 'boston']));
  const removed = await waiting('removed-at-hub');
  const gone = await order('message', 'remove', removed.accepted);
  expect(gone.code).toBe(0);
  expect(gone.stdout.match(new RegExp(`^${removed.there} .*removed `, 'gm'))).toHaveLength(2);
  expect(await order('queue', 'resume', 'boundary:site/boston')).toMatchObject({ code: 0 });
  await isAt(removed, atRest(['seattle']));
  // Nothing of it is in transit any more: nobody is told that something was done.
  for (const what of ['suspend', 'resume', 'remove'])
    expect(await order('message', what, removed.accepted)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('no order was given'),
    });
  expect(await found(removed)).toEqual(['ann@west.example']);
});
