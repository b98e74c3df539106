/**
 * What site links do to mail between boundaries (semantics.md D3), with real processes: a link that is too narrow for a message is none, so that it goes another
 * way or, where no way is left, its sender hears 5.3.4; and what cannot go on waits as near to the failure as it gets - with every transport of a site dead, not
 * only silent (`boundaries.test.ts`). The cluster is that of `examples/hub-site-local.yaml` with a narrower link to the far coast, one around the hub, and a mailbox
 * database at the hub.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { atRest, crossings, type Sent, waitsIn } from './crossings.ts';
import { type DirectCluster, startDirect } from './direct-cluster.ts';
import { mailcluster } from './harness.ts';

const TIMEOUT_MS = 240_000;
const DEADLINE_MS = 60_000;
const NARROW = 64 * 1_024;
const AROUND = 128 * 1_024;
const [ANN, CARL, BOB] = ['ann@west.example', 'carl@hub.example', 'bob@east.example'];
const COASTS = [ANN, BOB];

const HUB_MAILBOXES = `---
apiVersion: mailcluster.dev/v1alpha1
kind: MailboxDatabase
metadata: { name: hub01 }
spec:
  clusterRef: { name: coasts }
  site: denver
  recipients: { domains: [hub.example] }
  copies: [{ name: den, site: denver, lmtp: "maildir:mail/hub01" }]
  activeCopy: den
`;
const LINK = 'maxMessageSize: 25Mi }\n';
const CHANGES: readonly (readonly [string, string])[] = [
  [
    LINK,
    `maxMessageSize: 64Ki }\n    - { name: around, sites: [seattle, boston], cost: 300, maxMessageSize: 128Ki }\n`,
  ],
  ['acceptedDomains:\n', 'acceptedDomains:\n    - { name: hub.example }\n'],
  // Retries and heartbeats within the life of a test.
  ['  redis: ', '  queues: { retryIntervals: [1s] }\n  shadowRedundancy: { heartbeatFrequency: 1s }\n  redis: '],
];

let cluster: DirectCluster;
let resources: string;
const { send, found, reports, arrived, isAt } = crossings(() => cluster);

beforeAll(async () => {
  const example = `${await readFile(join(ROOT, 'examples/hub-site-local.yaml'), 'utf8')}${HUB_MAILBOXES}`;
  for (const [wanted] of CHANGES) expect(example).toContain(wanted);
  cluster = await startDirect((directory) => {
    resources = CHANGES.reduce((text, [from, to]) => text.replace(from, to), example);
    resources = resources.replaceAll('maildir:mail/', `maildir:${join(directory, 'maildirs')}/`);
    return resources;
  });
}, TIMEOUT_MS);

afterAll(async () => await cluster?.[Symbol.asyncDispose](), 120_000);

const told = async (...words: string[]) => await mailcluster(...words, '--state', cluster.state);

/** What a transport of the near coast would do with a message for the far one. */
async function route(size: number) {
  const { stdout } = await told('route', '--to', BOB, '--size', String(size), '-o', 'json');
  return JSON.parse(stdout).routes.find(({ site }: { readonly site: string }) => site === 'seattle');
}

const ofSites = (...sites: string[]): readonly string[] =>
  cluster.transports.flatMap(({ name, site }) => (sites.includes(site) ? name : []));

const kill = async (...sites: string[]) =>
  await Promise.all(ofSites(...sites).map((name) => cluster.end(name, 'SIGKILL')));
const launch = async (...sites: string[]) => await Promise.all(ofSites(...sites).map((name) => cluster.launch(name)));

interface Queue {
  readonly member: string;
  readonly nextHop: string;
  readonly messages: number;
  readonly lastError: string | null;
}

/** Until `queue list` has so many in each queue of a site and nothing elsewhere, each with a reason; in the order of their names: which. */
async function queued(wanted: Readonly<Record<string, number>>): Promise<readonly string[]> {
  let last: readonly Queue[] = [];
  const isSo = async (): Promise<boolean> => {
    const { stdout } = await told('queue', 'list', '-o', 'json');
    last = (JSON.parse(stdout).nextHops as readonly Queue[]).filter(({ messages }) => messages > 0);
    const counts: Record<string, number> = {};
    for (const { member, nextHop, messages } of last) {
      const key = `${cluster.transports.find(({ name }) => name === member)?.site}: ${nextHop}`;
      counts[key] = (counts[key] ?? 0) + messages;
    }
    return isDeepStrictEqual(counts, wanted) && last.every(({ lastError }) => lastError !== null);
  };
  await until('what waits to be there and to say why', isSo, { deadlineMs: DEADLINE_MS, everyMs: 500 }).catch(() =>
    expect(last).toEqual(wanted),
  );
  return last.map(({ nextHop, lastError }) => `${nextHop}: ${lastError}`);
}

/** As `message list` tells it, found by the id that its sender has: where it waits, twice, and why. */
async function listed({ accepted }: Sent, site: string): Promise<string> {
  const { stdout } = await told('message', 'list', '--attempt', accepted, '-o', 'json');
  const { messages } = JSON.parse(stdout);
  expect(messages).toHaveLength(1);
  const copies: readonly { member: string; queue: string; lastError: string }[] = messages[0].copies;
  expect(copies.map(({ queue }) => queue).sort()).toEqual(['delivery', 'shadow']);
  expect(copies.map(({ member }) => member).sort()).toEqual([...ofSites(site)].sort());
  return copies.find(({ queue }) => queue === 'delivery')?.lastError ?? '';
}

test('what a link is too narrow for goes another way, and route says so before', { timeout: TIMEOUT_MS }, async () => {
  expect(await route(NARROW)).toMatchObject({
    ...{ kind: 'boundary', nextHop: 'boundary:site/denver/denver' },
    path: { sites: ['seattle', 'denver', 'boston'], cost: 100 },
  });
  expect(await route(NARROW + 1)).toMatchObject({
    ...{ kind: 'boundary', nextHop: 'boundary:site/boston', path: { sites: ['seattle', 'boston'], cost: 300 } },
    why: 'around 300; seattle, denver, boston (cost 100) would come first, but den-bos takes at most 65536 bytes',
  });
  const fits = await send('fits', COASTS, { sizeBytes: NARROW });
  const wide = await send('goes-around', COASTS, { sizeBytes: NARROW + 1 });
  const widest = await send('just-goes-around', COASTS, { sizeBytes: AROUND });
  const sizes = [fits, wide, widest].map(({ content }) => content.length);
  expect(sizes).toEqual([NARROW, NARROW + 1, AROUND]);
  await isAt(fits, atRest(['seattle', 'denver', 'boston']));
  for (const message of [wide, widest]) await isAt(message, atRest(['seattle', 'boston']));
  for (const message of [fits, wide, widest]) await arrived(message, COASTS);
});

test('where no way is left its sender hears 5.3.4, on either coast, and whoever else it is for gets it', {
  timeout: TIMEOUT_MS,
}, async () => {
  const why = `552 5.3.4 every path from seattle to site/boston takes at most ${AROUND} bytes, this is ${AROUND + 1}`;
  expect(await route(AROUND + 1)).toMatchObject({ kind: 'refused', what: why, nextHop: null, path: { sites: [] } });
  const said = await told('route', '--to', BOB, '--size', String(AROUND + 1));
  const because = `\n    because every path over site links is for smaller messages\n  Path over site links to site/boston: none\n    because`;
  expect(said).toMatchObject({
    code: 1,
    stdout: expect.stringContaining(`  Refused: ${why}${because} ${why.slice(10)}\n\n`),
  });
  const sizeBytes = AROUND + 1;
  // The report to the far coast is small enough for the link that the message was too large for.
  for (const from of ['dora@west.example', 'dora@east.example']) {
    const message = await send(`too-large-from-${from}`, [ANN, CARL, BOB], { from, sizeBytes });
    expect(message.content).toHaveLength(sizeBytes);
    await arrived(message, [ANN, CARL]);
    await until('the report', async () => (await reports(message)).length > 0, { deadlineMs: DEADLINE_MS });
    await isAt(message, atRest(['seattle', 'denver']));
    const [report, ...more] = await reports(message);
    expect(more).toEqual([]);
    expect(report?.to).toBe(from);
    const text = report?.text ?? '';
    expect(text).toMatch(/^Content-Type: multipart\/report; report-type=delivery-status;$/m);
    expect(text).toContain(`could not be delivered to:\n\n  <${BOB}>\n    ${why}\n`);
    expect(text).toContain(
      `\nFinal-Recipient: rfc822; ${BOB}\nAction: failed\nStatus: 5.3.4\nDiagnostic-Code: smtp; ${why}\n`,
    );
    expect(text.match(/^Final-Recipient:/gm)).toHaveLength(1);
    expect(await found(message)).toEqual([ANN, CARL]);
  }
});

test.each([
  ['hub', ', hubSite: true', 'boundary:site/denver/denver'],
  ['site on the way', '', 'boundary:site/boston'],
])(
  '%s and far boundary dead: mail waits where it was accepted, moves up when the first is back, arrives once with both',
  {
    timeout: TIMEOUT_MS,
  },
  async (title, hubSite, nextHop) => {
    await cluster.change(resources.replace(', hubSite: true', hubSite));
    const isKnown = async (): Promise<boolean> => (await route(1)).nextHop === nextHop;
    await until('the near coast to know the path', isKnown, { deadlineMs: DEADLINE_MS, everyMs: 250 });
    await kill('denver', 'boston');
    const mails: Sent[] = [];
    for (let at = 0; at < 5; at += 1) mails.push(await send(`${title}-${at}`.replaceAll(' ', '-'), COASTS));
    // Its path has nobody before the far coast: it has to wait where it is.
    const large = await send(`${title}-large`.replaceAll(' ', '-'), COASTS, { sizeBytes: NARROW + 1 });
    const [first = large] = mails;
    const all = [...mails, large];
    const direct = 'boundary:site/boston';
    const waits = nextHop === direct ? { [direct]: 6 } : { [nextHop]: 5, [direct]: 1 };
    const before = await queued(Object.fromEntries(Object.entries(waits).map(([hop, n]) => [`seattle: ${hop}`, n])));
    for (const why of before)
      expect(why).toMatch(/^boundary:site\/(\w+)(\/\w+)?: 451 4\.4\.1 coasts-\1-\S+: .*ECONNREFUSED/);
    for (const message of all) await isAt(message, waitsIn('seattle'));
    expect(await listed(first, 'seattle')).toMatch(/^451 4\.4\.1 coasts-.*ECONNREFUSED/);

    await launch('denver');
    for (const message of mails) await isAt(message, [...atRest(['seattle']), ...waitsIn('denver')]);
    for (const why of await queued({ [`denver: ${direct}`]: 5, [`seattle: ${direct}`]: 1 }))
      expect(why).toMatch(/^boundary:site\/boston: 451 4\.4\.1 coasts-boston-\S+: .*ECONNREFUSED/);
    expect(await listed(first, 'denver')).toMatch(/^451 4\.4\.1 coasts-boston-.*ECONNREFUSED/);
    await isAt(large, waitsIn('seattle'));
    for (const message of all) expect(await found(message)).toEqual([ANN]);

    await launch('boston');
    for (const message of mails) await isAt(message, atRest(['seattle', 'denver', 'boston']));
    await isAt(large, atRest(['seattle', 'boston']));
    for (const message of all) expect(await found(message)).toEqual(COASTS);
  },
);
