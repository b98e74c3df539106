/**
 * A hundred thousand messages in the queue: two transports whose queue databases hold them (one owns them, the other has their shadows), a
 * store that refuses connections, one front end. Prints the memory of both whole processes and the time from the start of the owner to its
 * first accept. A measurement, not a test. Goals (issue 4): at most 256 MiB each, at most 5 s.
 *
 *   node test/bench/queued.ts [--scale 1] [--bytes 200] [--seconds 20] [--node=--flag,--flag] [--kept DIR]
 */

import { until } from '../house/until.ts';
import type { DirectCluster } from '../process/direct-cluster.ts';
import { twoSites } from '../process/harness.ts';
import { makeMessage } from '../process/ledger.ts';
import { SmtpConnection, sendMessage } from '../process/smtp-sender.ts';
import { withOwnTemporaryDirectory } from './interruption.ts';
import { inTransit } from './large-queues.ts';
import {
  benchOptions,
  cpuMs,
  deadAddress,
  LIMIT_MIB,
  largeCluster,
  line,
  metric,
  peakMiB,
  residentMiB,
} from './queue-rig.ts';

const values = benchOptions({
  scale: { type: 'string', default: '1' },
  seconds: { type: 'string', default: '20' },
  /** Of the owner or the shadow; needs `--node=--heapsnapshot-signal=SIGUSR2`, writes into the working directory. */
  snapshot: { type: 'string' },
});
withOwnTemporaryDirectory();
const COUNT = Math.round(100_000 * Number(values.scale));

/** Offers one message after the other until the owner itself has taken one. */
async function firstAccept(cluster: DirectCluster, owner: string, startMs: number): Promise<void> {
  const answers: string[] = [];
  let firstMs = 0;
  await until(
    'the first accept',
    async () => {
      const [target] = cluster.targets();
      if (target === undefined) return false;
      const connection = await SmtpConnection.open(target);
      try {
        const { answer } = await sendMessage(connection, makeMessage(`m${answers.length}`, 'user@example.com', 1_000));
        answers.push(answer.kind);
        if (answer.kind === 'accepted' && firstMs === 0) firstMs = performance.now() - startMs;
      } finally {
        connection.close();
      }
      if (firstMs === 0) return false;
      return (await metric(cluster, owner, 'mailcluster_messages_accepted_total')) > 0;
    },
    { deadlineMs: 600_000, everyMs: 20 },
  );
  line('first accept', {
    anywhereMs: firstMs,
    byOwnerMs: performance.now() - startMs,
    ownerCpuMs: cpuMs(cluster.pid(owner)),
    offered: answers.length,
  });
}

const store = await deadAddress();
const { cluster, names } = await largeCluster(
  (directory) => twoSites(directory, { perSite: 1, frontends: 1, lmtp: store }),
  values,
  `queued-${COUNT}`,
  inTransit(COUNT, Buffer.alloc(Number(values.bytes), 'x')),
);
try {
  const [owner, shadow] = names as [string, string];
  const [frontend] = cluster.frontends.map(({ name }) => name) as [string];
  const shadowStarted = performance.now();
  await Promise.all([cluster.launch(shadow), cluster.launch(frontend)]);
  line('shadow ready', { ms: performance.now() - shadowStarted, peakMiB: peakMiB(cluster.pid(shadow)) });
  const startMs = performance.now();
  const launched = cluster.launch(owner);
  await Promise.all([firstAccept(cluster, owner, startMs), launched]);
  await until('a known count', async () => (await metric(cluster, owner, 'mailcluster_queue_messages')) >= COUNT, {
    deadlineMs: 600_000,
  });
  for (let at = 0; at <= Number(values.seconds); at += 5) {
    const endMs = performance.now() + 5_000;
    const single = await metric(cluster, owner, 'mailcluster_unprotected_messages');
    for (const name of [owner, shadow]) {
      const pid = cluster.pid(name);
      line(name === owner ? 'owner' : 'shadow', {
        atS: (performance.now() - startMs) / 1000,
        peakMiB: peakMiB(pid),
        nowMiB: residentMiB(pid),
        cpuMs: cpuMs(pid),
        ...(name === owner ? { single } : {}),
      });
    }
    await until('the next look', () => performance.now() >= endMs, { deadlineMs: 10_000, everyMs: 100 });
  }
  const worst = Math.max(...[owner, shadow].map((name) => peakMiB(cluster.pid(name))));
  line('verdict', { peakMiB: worst, goal: `${LIMIT_MIB} ${worst <= LIMIT_MIB ? 'met' : 'missed'}` });
  if (values.snapshot !== undefined) {
    process.kill(cluster.pid(values.snapshot === 'shadow' ? shadow : owner), 'SIGUSR2');
    const endMs = performance.now() + 40_000;
    await until('the snapshot', () => performance.now() >= endMs, { deadlineMs: 60_000, everyMs: 500 });
  }
  const closing = performance.now();
  await cluster.end(owner, 'SIGTERM');
  line('closed', { ms: performance.now() - closing });
} finally {
  await cluster[Symbol.asyncDispose]();
}
