/**
 * The volumes of both transports are full, later and at the start (semantics.md R10): clients are told before it is too late, what was accepted is delivered all the
 * same, more room heals it without a restart, and a volume on which nothing fits ends the start with the reason. Message tracking goes before that (decision
 * 0039). Small file systems of their own; needs root.
 */
import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { statePaths } from '../../operator/local/state-directory.ts';
import { until } from '../house/until.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { type DirectCluster, LOCAL, type Place, startDirect } from './direct-cluster.ts';
import { twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const run = promisify(execFile);
const TIMEOUT_MS = 240_000;
const MB = 1024 * 1024;
const WRAP = 'mkdir -p "$1" && mount -t tmpfs -o "size=$2,mode=0700" none "$1" && shift 2 && exec "$@"';

/** Its queue database is on a file system of this size, which nobody else sees and which goes with the process. */
const onVolume = (directory: string, size: string): Place => ({
  ...LOCAL,
  command: ['unshare', '--mount', 'sh', '-c', WRAP, 'sh', directory, size],
});

function obstacle(): string | null {
  if (process.getuid?.() !== 0) return 'file systems of their own need root';
  try {
    execFileSync('unshare', ['--mount', 'sh', '-c', 'mount -t tmpfs none /run'], { stdio: 'pipe' });
    return null;
  } catch (error) {
    return `no file system of its own: ${String(error)}`;
  }
}

/** A megabyte that nothing makes smaller. */
const content = (): string =>
  `Subject: large\r\n\r\n${randomBytes(MB * 0.73)
    .toString('base64')
    .replace(/.{76}/g, '$&\r\n')}\r\n`;

/** The reply at which it ended: that to the dot when everything was taken. */
async function send(cluster: DirectCluster, recipient: string): Promise<string> {
  const [target] = cluster.targets();
  if (target === undefined) throw new Error('no front end');
  const connection = await SmtpConnection.open(target, 60_000);
  try {
    for (const part of ['MAIL FROM:<a@example.org>', `RCPT TO:<${recipient}@example.com>`, 'DATA', `${content()}.`]) {
      connection.send(`${part}\r\n`);
      const reply = await connection.reply();
      if (typeof reply === 'string') return reply;
      if (reply.code >= 400 || part.endsWith('\r\n.')) return `${reply.code} ${reply.text}`;
    }
    throw new Error('no end of data');
  } finally {
    connection.close();
  }
}

/** Mail until one is refused: who was accepted, and the words for the other. */
async function fill(
  cluster: DirectCluster,
): Promise<{ readonly accepted: readonly string[]; readonly refusal: string }> {
  const accepted: string[] = [];
  for (let number = 0; number < 400; number += 1) {
    const answer = await send(cluster, `r${number}`);
    if (!answer.startsWith('250')) return { accepted, refusal: answer };
    accepted.push(`r${number}`);
  }
  throw new Error('a volume of 420 MB took 400 messages of 1 MB');
}

test('disks run full: 452 4.3.1 names the disk, what was accepted is delivered, more room heals it; nothing fits at the start: it ends with the reason', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const why = obstacle();
  if (why !== null) return context.skip(`full disk: ${why}`);
  let isOpen = false;
  const taken = new Map<string, number>();
  await using store = await ScriptedPeer.start({
    protocol: 'LMTP',
    onCommand: (verb) => (verb === 'RCPT' && !isOpen ? '451 4.2.0 later' : null),
    onEnd: ({ rcpts }) => {
      for (const rcpt of rcpts) {
        const name = /<([^@>]*)/.exec(rcpt)?.[1] ?? rcpt;
        taken.set(name, (taken.get(name) ?? 0) + 1);
      }
      return rcpts.map(() => '250 2.1.5 kept');
    },
  });
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-full-'));
  let size = '420m';
  const place = (name: string): Place =>
    name.includes('-dag1-') ? onVolume(statePaths(join(directory, 'state')).queue(name), size) : LOCAL;
  await using cluster = await startDirect(
    () => twoSites(directory, { perSite: 1, frontends: 1, lmtp: `127.0.0.1:${store.port}` }),
    { directory, place },
  );
  const names = cluster.transports.map(({ name }) => name);

  const { accepted, refusal } = await fill(cluster);
  expect(refusal).toMatch(/^452 4\.3\.1 .*disk/);
  expect(accepted.length).toBeGreaterThan(20);

  isOpen = true;
  await until('all that was accepted', () => accepted.every((one) => taken.has(one)), { deadlineMs: 90_000 });
  expect([...taken].filter(([, count]) => count !== 1)).toEqual([]);

  for (const name of names) {
    const volume = statePaths(join(directory, 'state')).queue(name);
    await run('nsenter', ['-t', `${cluster.pid(name)}`, '-m', 'mount', '-o', 'remount,size=900m', volume]);
  }
  await until('mail to be taken again', async () => (await send(cluster, 'healed')).startsWith('250'), {
    deadlineMs: 60_000,
    everyMs: 500,
  });
  await until('it to arrive', () => taken.has('healed'), { deadlineMs: 60_000 });

  const [first = ''] = names;
  await cluster.end(first, 'SIGTERM');
  size = '256k';
  await expect(cluster.launch(first)).rejects.toThrow(/ended/);
  expect(cluster.fatal(first)).toMatch(/space|ENOSPC/i);
});

/** Six files of message tracking, 12 MB each, are there before the transport is. */
const TRACKED = [1, 2, 3, 4, 5, 6].map((number) => `tracking-00000${number}.jsonl`);
const WITH_TRACKING = `mkdir -p "$1" && mount -t tmpfs -o "size=$2,mode=0700" none "$1" && mkdir "$1/tracking" &&
for n in ${TRACKED.join(' ')}; do head -c 12000000 /dev/zero >"$1/tracking/$n"; done && shift 2 && exec "$@"`;

test('a volume that is nearly full: the oldest message tracking goes, the newest stays, mail is taken', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const why = obstacle();
  if (why !== null) return context.skip(`nearly full: ${why}`);
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-nearly-full-'));
  const volumeOf = (name: string): string => dirname(statePaths(join(directory, 'state')).queue(name));
  const place = (name: string): Place =>
    name.includes('-dag1-')
      ? { ...LOCAL, command: ['unshare', '--mount', 'sh', '-c', WITH_TRACKING, 'sh', volumeOf(name), '830m'] }
      : LOCAL;
  const spec = ['messageTracking: { maxSize: 1Gi }'];
  await using cluster = await startDirect(() => twoSites(directory, { perSite: 1, frontends: 1, spec }), {
    ...{ directory, place },
  });
  for (const { name } of cluster.transports) {
    const inside = join(`/proc/${cluster.pid(name)}/root`, volumeOf(name), 'tracking');
    let left: readonly string[] = [];
    await until(
      `tracking of ${name} to go`,
      async () => {
        expect(await send(cluster, 'taken')).toMatch(/^250/);
        left = (await readdir(inside)).filter((file) => TRACKED.includes(file)).sort();
        return left.length < TRACKED.length;
      },
      { deadlineMs: 90_000, everyMs: 500 },
    );
    expect(left).toEqual(TRACKED.slice(-left.length));
    expect(left).toContain(TRACKED.at(-1));
  }
});
