/** `messageTracking` of a MailCluster holds for the files that are there, and another one from the moment it is read on, in the same process (decision 0039). */
import { access, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { startCluster, twoSites } from './harness.ts';

const TIMEOUT_MS = 120_000;
const HOUR_MS = 3_600_000;
const [OLD, YOUNG] = ['tracking-000900.jsonl', 'tracking-000901.jsonl'];

const trackingOf = ({ queueDatabaseDirectory }: { readonly queueDatabaseDirectory: string }): string =>
  join(dirname(queueDatabaseDirectory), 'tracking');

test(
  'a shorter age and a smaller size remove what is beyond them, and nobody restarts for it',
  async () => {
    const resources = (directory: string, messageTracking: string): string =>
      twoSites(directory, { perSite: 1, frontends: 1, spec: [`messageTracking: ${messageTracking}`] });
    await using cluster = await startCluster((directory) => resources(directory, '{}'));
    const transports = async () => (await cluster.runFile()).transports;
    const before = await transports();
    const isThere = async (file: string): Promise<readonly boolean[]> =>
      Promise.all(
        before.map((one) =>
          access(join(trackingOf(one), file)).then(
            () => true,
            () => false,
          ),
        ),
      );
    for (const one of before) {
      const directory = trackingOf(one);
      for (const file of [OLD, YOUNG]) await writeFile(join(directory, file), `${'x'.repeat(79)}\n`.repeat(250_000));
      const at = new Date(Date.now() - 3 * HOUR_MS);
      await utimes(join(directory, OLD), at, at);
      await cluster.kill(one.name);
    }
    const restarted = await until(
      'both transports again',
      async () => {
        const now = await transports();
        const isNew = ({ pid }: { readonly pid: number | null }): boolean =>
          pid !== null && before.every((one) => one.pid !== pid);
        return now.every(isNew) ? now : null;
      },
      { deadlineMs: 60_000 },
    );
    await cluster.connected();
    expect([await isThere(OLD), await isThere(YOUNG)].flat()).toEqual([true, true, true, true]);

    await cluster.change(resources(cluster.directory, '{ maxAge: 2h }'));
    await until('what is older than two hours to go', async () => !(await isThere(OLD)).includes(true), {
      deadlineMs: 30_000,
    });
    expect(await isThere(YOUNG)).toEqual([true, true]);

    await cluster.change(resources(cluster.directory, '{ maxAge: 2h, maxSize: 8Mi }'));
    await until('what is more than 8 MiB to go', async () => !(await isThere(YOUNG)).includes(true), {
      deadlineMs: 30_000,
    });
    expect(await transports()).toEqual(restarted);
  },
  TIMEOUT_MS,
);
