/**
 * A mailbox database with two copies in two real Dovecots, the second as old as a snapshot (semantics.md N2 to N5, S10). The first dies
 * under load, `activeCopy` is changed in the resource file, and the users find every message of the window over IMAP, none of them
 * twice. Then the way back, and with it the transport that was the primary of half of the messages is destroyed together with its disk:
 * Shadow Safety Net has to bring that half.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { DOVECOT_PASSWORD, Dovecot } from '../rigs/dovecot.ts';
import { readInbox } from '../rigs/imap-reader.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { balance, type Delivered, type LedgerEntry, ledgerIdOf, verdict } from './ledger.ts';
import { Load } from './seeded-load.ts';
import { ledgerLine } from './two-copies.ts';

const TIMEOUT_MS = 300_000;
const BACK_MS = 120_000;
/** So many at least are in the copy that dies and not in the other. */
const WINDOW = 60;
const USERS = Array.from({ length: 6 }, (_, at) => `user${at}@example.com`);

type Copy = 'east' | 'west';

let missing: string | null = null;
let stores: Readonly<Record<Copy, Dovecot>>;
let cluster: Cluster;
/** Over all tests of this file: the mailboxes are the same. */
const ledger: LedgerEntry[] = [];

const resources = (directory: string, activeCopy: Copy): string =>
  twoSites(directory, {
    perSite: 1,
    activeCopy,
    copies: (['east', 'west'] as const).map((name) => {
      return { name, site: name, lmtp: `127.0.0.1:${stores[name].lmtpPort}` };
    }),
    shadowRedundancy: 'resubmitTimeSpan: 30s',
    spec: ['safetyNet: { holdTime: 1h, unresponsivePrimaryTimeout: 10s }'],
  });

beforeAll(async () => {
  const east = await Dovecot.start();
  if ('missing' in east) {
    missing = east.missing;
    return;
  }
  const west = await Dovecot.start();
  if ('missing' in west) throw new Error(west.missing);
  stores = { east, west };
  await west.stop();
  cluster = await startCluster((directory) => resources(directory, 'east'));
}, 300_000);

afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
  for (const one of Object.values(stores ?? {})) await one[Symbol.asyncDispose]();
}, 120_000);

async function inboxes(copy: Copy): Promise<readonly Delivered[]> {
  const found: Delivered[] = [];
  for (const user of USERS) {
    const mails = await readInbox({ port: stores[copy].imapPort, user, password: DOVECOT_PASSWORD });
    found.push(...mails.map((mail, at) => ({ mailbox: user, file: `${at + 1}`, bytes: Buffer.from(mail, 'latin1') })));
  }
  return found;
}

const idsIn = (mails: readonly Delivered[]): ReadonlySet<string> =>
  new Set(mails.flatMap(({ bytes }) => ledgerIdOf(bytes) ?? []));

/** `from` stands still for a moment, as under a snapshot of its volume; `to` has what it had. */
async function snapshot(from: Copy, to: Copy): Promise<void> {
  await stores[from].stop();
  await stores[to].becomeCopyOf(stores[from]);
  await stores[from].launch();
}

/** Of each transport, how many messages rest in its Primary Safety Net. */
async function primaries(): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const of = new Map<string, Set<string>>();
  for (const { member, queue, digest } of await cluster.stored())
    if (queue === 'primarySafetyNet') of.set(member, (of.get(member) ?? new Set()).add(digest));
  return of;
}

interface Window {
  /** What was in the active copy when it died. */
  readonly before: ReadonlySet<string>;
  /** Of these, what the other copy did not have: they have to come back. */
  readonly ids: readonly string[];
}

/** Mail, a snapshot, more mail, and the death of the active copy; the other one is there, as old as the snapshot. */
async function windowOf(load: Load, from: Copy, to: Copy): Promise<Window> {
  await load.moreAccepted(30);
  await snapshot(from, to);
  const atSnapshot = (await inboxes(from)).length;
  await load.moreAccepted(WINDOW);
  const held = await until(
    'messages to be delivered after the snapshot',
    async () => {
      const mails = await inboxes(from);
      return mails.length >= atSnapshot + WINDOW ? mails : null;
    },
    { deadlineMs: 60_000, everyMs: 500 },
  );
  await stores[from].kill();
  await stores[to].launch();
  const [before, old] = [idsIn(held), idsIn(await inboxes(to))];
  return { before, ids: [...before].filter((id) => !old.has(id)) };
}

interface Request {
  readonly metadata: { readonly name: string };
  readonly status?: { readonly state: string; readonly [field: string]: unknown };
}

/** The newest request: nobody asked for it (semantics.md N2), and it says when it is over. */
async function finishedRequest(): Promise<string> {
  let last: unknown = null;
  return await until(
    'the resubmit request to be over',
    async () => {
      const { stdout } = await mailcluster('resubmit', 'list', '--state', cluster.state, '-o', 'json');
      const { requests } = JSON.parse(stdout) as { readonly requests: readonly Request[] };
      last = requests;
      const newest = [...requests].sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1)).at(-1);
      if (newest?.status === undefined || !newest.status.state.startsWith('Completed')) return null;
      const { members: _, ...status } = newest.status;
      return `${newest.metadata.name}: ${JSON.stringify(status)}`;
    },
    { deadlineMs: BACK_MS, everyMs: 1_000 },
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${JSON.stringify(last)}`);
  });
}

/** Everything that was accepted is in that copy; then the resubmission is over as well, and the ledger is read once more. */
async function allBack(copy: Copy, window: Window, title: string): Promise<void> {
  const startMs = performance.now();
  const accepted = ledger.flatMap(({ answer, message }) => (answer.kind === 'accepted' ? [message.id] : []));
  let left: readonly string[] = accepted;
  try {
    await until(
      'every message to be back',
      async () => {
        const there = idsIn(await inboxes(copy));
        left = accepted.filter((id) => !there.has(id));
        return left.length === 0;
      },
      { deadlineMs: BACK_MS, everyMs: 1_000 },
    );
  } catch (error) {
    const ofWindow = left.filter((id) => window.ids.includes(id)).length;
    const requests = await mailcluster('resubmit', 'list', '--state', cluster.state, '-o', 'json');
    throw new Error(
      `${String(error)}\n${title}: ${left.length} are missing, ${ofWindow} of them of the window: ${left.slice(0, 10).join(', ')}\n${requests.stdout}${requests.stderr}\n${cluster.output}`,
    );
  }
  const backMs = performance.now() - startMs;
  const request = await finishedRequest();
  const stored = await cluster.drained(60_000, ledger);
  const result = balance(ledger, await inboxes(copy), stored);
  console.log(
    `${ledgerLine(title, ledger, result)}; ${window.ids.length} of the window are back after ${(backMs / 1_000).toFixed(1)} s; ${request}`,
  );
  expect([verdict(result), result.both]).toEqual(['balanced', []]);
  expect(result.accepted).toBeGreaterThan(ledger.length / 2);
}

test(
  'the active copy dies under load, the other is older: every message of the window is back, none twice',
  async (context) => {
    if (missing !== null) return context.skip(missing);
    const load = new Load(cluster, { name: 'first', sessions: 2, users: USERS });
    let window: Window;
    try {
      window = await windowOf(load, 'east', 'west');
      await cluster.change(resources(cluster.directory, 'west'));
      await load.moreAccepted(20);
    } finally {
      ledger.push(...(await load.stop()));
    }
    expect(window.ids.length).toBeGreaterThanOrEqual(WINDOW);
    await allBack('west', window, 'failover to an older copy');
  },
  TIMEOUT_MS,
);

test(
  'the same on the way back, and the primary of half of the messages is destroyed with its disk: Shadow Safety Net brings them',
  async (context) => {
    if (missing !== null) return context.skip(missing);
    const load = new Load(cluster, { name: 'second', sessions: 2, users: USERS });
    let window: Window;
    let lost: ReadonlySet<string> = new Set();
    try {
      window = await windowOf(load, 'west', 'east');
      // Which transport is chosen for a message is its front end's business: the one that was primary of most goes.
      const [most] = [...(await primaries())].sort(([, a], [, b]) => b.size - a.size);
      if (most === undefined) throw new Error('no transport is primary of anything');
      lost = most[1];
      await cluster.destroy(most[0]);
      await cluster.change(resources(cluster.directory, 'east'));
      await load.moreAccepted(20);
    } finally {
      ledger.push(...(await load.stop()));
    }
    const digests = new Map(ledger.map(({ message }) => [message.id, message.digest]));
    const byShadow = window.ids.filter((id) => lost.has(digests.get(id) ?? ''));
    // Otherwise this would be the same test as the one before.
    expect(byShadow.length).toBeGreaterThan(WINDOW / 10);
    await allBack('east', window, `failover with the primary of ${byShadow.length} destroyed`);
  },
  TIMEOUT_MS,
);
