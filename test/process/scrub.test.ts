/** Damage at rest in a real cluster (protocol.md 29): a bit flips on the disk under a running transport, nobody reads it, and it is put right. */
import { open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { makeMessage, notAccepted } from './ledger.ts';
import { sendAll } from './smtp-sender.ts';

const TIMEOUT_MS = 200_000;
/** The first pass begins a minute after the start. */
const PATIENCE = { deadlineMs: 120_000, everyMs: 500 };

const SEEN = ['refetched_total', 'quarantined_total', 'scrubbed_bytes_total', 'scrub_last_full_pass_timestamp_seconds'];

let cluster: Cluster | null = null;
afterEach(async () => {
  await cluster?.[Symbol.asyncDispose]();
  cluster = null;
}, TIMEOUT_MS);

/** Where the body of a message lies in the segments of this queue database. */
async function placeOf(directory: string, text: string): Promise<{ readonly path: string; readonly offset: number }> {
  for (const name of (await readdir(directory)).filter((one) => one.startsWith('segment-'))) {
    const path = join(directory, name);
    const offset = (await readFile(path)).indexOf(text);
    if (offset >= 0) return { path, offset };
  }
  throw new Error(`${text} is not in ${directory}`);
}

test(
  'a flipped bit in a copy at rest is found by the scrub and fetched from the other holder; status and metrics say so',
  async () => {
    const system = await startCluster((directory) => twoSites(directory, { perSite: 1 }));
    cluster = system;
    const messages = [0, 1, 2].map((n) => makeMessage(`scrub${n}`, 'ann@example.com', 3_000));
    const ledger = await sendAll({ targets: () => system.targets(), messages, sessions: 1 });
    expect(notAccepted(ledger)).toEqual([]);
    await system.drained(60_000, ledger);
    const [transport] = (await system.runFile()).transports;
    if (transport === undefined) throw new Error('no transport');
    const { path, offset } = await placeOf(transport.queueDatabaseDirectory, 'Subject: ledger scrub1');
    const handle = await open(path, 'r+');
    const byte = Buffer.alloc(1);
    await handle.read(byte, 0, 1, offset + 9);
    await handle.write(Buffer.from([(byte[0] ?? 0) ^ 0x10]), 0, 1, offset + 9);
    await handle.close();
    const counted = (metric: string): Promise<number> => system.total(`mailcluster_${metric}`, [transport.name]);
    await until(
      'the bytes to be fetched again',
      async () => {
        const [refetched, ...rest] = await Promise.all(SEEN.map(counted));
        // What `until` says when it gives up.
        if (refetched !== 1)
          throw new Error(`${SEEN.join(', ')}: ${[refetched, ...rest].join(', ')}\n${system.output}`);
        return true;
      },
      PATIENCE,
    );
    expect(await counted('quarantined_total')).toBe(1);
    expect(await counted('scrubbed_bytes_total')).toBeGreaterThan(3 * 3_000);
    await until('the pass to end', async () => (await counted('scrub_last_full_pass_timestamp_seconds')) > 0, PATIENCE);
    const { code, stdout } = await mailcluster('status', '--state', system.state);
    expect({ code, stdout }).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/SCRUB[\s\S]*\d{4}-\d\d-\d\dT\d\d:\d\dZ/),
    });
    // Whole again, at rest in both databases.
    const stored = await system.drained(60_000, ledger);
    expect(stored.filter(({ digest }) => digest === messages[1]?.digest)).toHaveLength(2);
  },
  TIMEOUT_MS,
);
