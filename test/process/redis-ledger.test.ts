/**
 * Mail to external recipients with the shared ledger, through all programs: Redis absent, stopped, wiped; a transport that dies between the next hop's
 * 250 and its own record. Stands in for that moment: a statement in the name of a lost member, signed with the authority of this cluster.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, type TestContext, test } from 'vitest';
import type { CopyId, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { createAuthority, issueCertificate, loadAuthority } from '../../operator/pki.ts';
import { openRedisLedger } from '../../transport/runtime/redis-ledger.ts';
import { until } from '../house/until.ts';
import { RealRedis } from '../rigs/redis.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { type Cluster, type InspectedCopy, mailcluster, startCluster, twoSites } from './harness.ts';
import { ledgerIdOf, makeMessage, notAccepted } from './ledger.ts';
import { sendAll } from './smtp-sender.ts';

const TIMEOUT_MS = 150_000;
const PASSWORD = 'a secret: /nobody@may%read';

let cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  const all = cleanups.reverse();
  cleanups = [];
  for (const cleanup of all) await cleanup();
}, TIMEOUT_MS);

async function realRedis(context: TestContext): Promise<RealRedis> {
  const redis = await RealRedis.start(PASSWORD);
  if ('missing' in redis) return context.skip(redis.missing);
  cleanups.push(() => redis[Symbol.asyncDispose]());
  return redis;
}

/** A next hop for example.net that says 451 to every recipient while `holding`. */
async function nextHop(): Promise<{ readonly peer: ScriptedPeer; holding: boolean }> {
  const peer = await ScriptedPeer.start({
    onCommand: (verb) => (verb === 'RCPT' && state.holding ? '451 4.2.0 not now' : null),
  });
  cleanups.push(() => peer[Symbol.asyncDispose]());
  const state = { peer, holding: false };
  return state;
}

async function cluster(redisPort: number, peer: ScriptedPeer): Promise<Cluster> {
  const url = `redis://:${encodeURIComponent(PASSWORD)}@127.0.0.1:${redisPort}`;
  const started = await startCluster(
    (directory) =>
      `${twoSites(directory, {
        perSite: 1,
        frontends: 1,
        listener: 'tls: None, relayFrom: [127.0.0.0/8]',
        spec: [
          'redis: { mode: External, urlSecretRef: { name: redis } }',
          'sendConnectors:',
          `  - { name: out, addressSpaces: [{ domain: example.net }], smartHosts: [{ host: 127.0.0.1, port: ${peer.port} }], tls: None }`,
        ],
      })}---
apiVersion: v1
kind: Secret
metadata: { name: redis }
stringData: { url: ${JSON.stringify(url)} }
`,
  );
  cleanups.push(() => started[Symbol.asyncDispose]());
  return started;
}

async function send(of: Cluster, names: readonly string[]): Promise<void> {
  const messages = names.map((name) => makeMessage(name, 'bob@example.net', 2_000));
  expect(notAccepted(await sendAll({ targets: () => of.targets(), messages, sessions: 2 }))).toEqual([]);
}

const received = (peer: ScriptedPeer): readonly string[] =>
  peer.messages.map(({ wire }) => ledgerIdOf(Buffer.from(wire, 'latin1')) ?? '?').sort();

async function arrives(peer: ScriptedPeer, names: readonly string[], deadlineMs: number): Promise<void> {
  await until(`${names.join(', ')} at the next hop`, () => names.every((name) => received(peer).includes(name)), {
    deadlineMs,
  });
}

test(
  'mail flows with Redis absent, in use, stopped, gone',
  async (context) => {
    const { peer } = await nextHop();
    const redis = await realRedis(context);
    await redis.kill();
    const system = await cluster(redis.port, peer);
    expect(system.output).not.toContain('redis: ');
    await send(system, ['absent0', 'absent1']);
    await arrives(peer, ['absent0', 'absent1'], 20_000);
    expect(await system.total('mailcluster_ledger_up')).toBe(0);

    await redis.launch();
    const inUse = async (): Promise<boolean> => (await system.total('mailcluster_ledger_up')) === 2;
    await until('both transports to use it', inUse, { deadlineMs: 30_000 });
    await send(system, ['used0', 'used1', 'used2']);
    await arrives(peer, ['used0', 'used1', 'used2'], 20_000);
    // Limits of clients are counted there too.
    const entries = async (): Promise<readonly string[]> =>
      (await redis.keys()).filter((key) => !key.includes(':limit:'));
    await until('three entries', async () => (await entries()).length === 3, { deadlineMs: 10_000 });

    redis.signal('SIGSTOP');
    const startMs = performance.now();
    await send(system, ['stopped0', 'stopped1', 'stopped2']);
    await arrives(peer, ['stopped0', 'stopped1', 'stopped2'], 20_000);
    expect(performance.now() - startMs).toBeLessThan(10_000);
    redis.signal('SIGCONT');

    await redis.kill();
    await send(system, ['gone0']);
    await arrives(peer, ['gone0'], 20_000);
    expect(received(peer)).toEqual(
      ['absent0', 'absent1', 'gone0', 'stopped0', 'stopped1', 'stopped2', 'used0', 'used1', 'used2'].sort(),
    );
    // The password is in its own file and nowhere else.
    const { transports } = await system.runFile();
    for (const { name } of transports)
      expect(await readFile(join(system.state, 'config', `${name}.json`), 'utf8')).not.toContain('nobody');
    expect(await system.lastWords()).not.toContain('nobody@may');
  },
  TIMEOUT_MS,
);

/** Writes into the ledger that the copies were relayed, as a member with a certificate of that authority would. */
async function claimRelayed(
  of: Cluster,
  redis: RealRedis,
  copies: readonly InspectedCopy[],
  genuine: boolean,
): Promise<void> {
  const [certificatePem, keyPem] = await Promise.all(
    ['ca.crt', 'ca.key'].map((name) => readFile(join(of.state, 'pki', name), 'utf8')),
  );
  if (certificatePem === undefined || keyPem === undefined) throw new Error('no authority');
  const authority = genuine ? await loadAuthority({ certificatePem, keyPem }) : await createAuthority('test');
  const request = { cluster: 'test', role: 'transport', name: 'gone-0', hosts: [], days: 1 } as const;
  const pems = await issueCertificate(authority, request);
  let writes = 0;
  const ledger = openRedisLedger({
    address: { host: '127.0.0.1', port: redis.port, tls: false },
    username: null,
    password: PASSWORD,
    cluster: 'test',
    member: 'gone-0',
    identity: { ca: authority.certificatePem, certificate: pems.certificatePem, key: pems.keyPem },
    ttlMs: () => 600_000,
    clock: systemClock,
    random: systemRandom,
    log: silentLogger,
    metrics: { ...silentMetrics, increment: (_, labels) => void (labels?.result === 'written' && writes++) },
  });
  try {
    await until('the ledger', () => ledger.open, { deadlineMs: 10_000 });
    const epoch = { try: 1, term: 0, owner: 'GONE' as Identity };
    ledger.record(
      copies.map(({ id, to }) => ({
        copy: id as CopyId,
        recipient: to[0] ?? '',
        epoch,
        reply: '250 2.0.0 taken before',
        dsnPassedOn: false,
      })),
    );
    await until('the entries', () => writes === copies.length, { deadlineMs: 10_000 });
  } finally {
    await ledger.close();
  }
}

test(
  'what a dead process had relayed is not sent again; forged and absent entries change nothing',
  async (context) => {
    const redis = await realRedis(context);
    const hop = await nextHop();
    hop.holding = true;
    const system = await cluster(redis.port, hop.peer);
    await send(system, ['relayed', 'forged', 'unheard']);
    const waiting = await until(
      'three copies on their way, each with a shadow',
      async () => {
        const all = await system.stored();
        // The step from submission to delivery is lazy: on disk it may not have been taken yet.
        const own = all.filter(({ queue }) => queue === 'delivery' || queue === 'submission');
        return own.length === 3 && all.filter(({ queue }) => queue === 'shadow').length === 3 ? own : null;
      },
      { deadlineMs: 30_000, everyMs: 250 },
    );
    const named = async (name: string): Promise<InspectedCopy[]> => {
      const { digest } = makeMessage(name, 'bob@example.net', 2_000);
      return waiting.filter((copy) => copy.digest === digest);
    };
    await claimRelayed(system, redis, await named('relayed'), true);
    await claimRelayed(system, redis, await named('forged'), false);
    // Without a restart nobody has a reason to ask.
    expect(await system.total('mailcluster_ledger_lookups_total')).toBe(0);
    for (const member of new Set(waiting.map((copy) => copy.member))) {
      const pid = await system.kill(member);
      await system.restarted(member, pid);
    }
    const suppressed = async (): Promise<boolean> =>
      (await system.total('mailcluster_duplicates_suppressed_total')) === 1;
    await until('the repeat to be suppressed', suppressed, { deadlineMs: 60_000 });
    hop.holding = false;
    await arrives(hop.peer, ['forged', 'unheard'], 60_000);
    await until('all three at rest', async () => (await system.stored()).every(({ where }) => where === 'safetyNet'), {
      deadlineMs: 30_000,
      everyMs: 250,
    });
    expect(received(hop.peer)).toEqual(['forged', 'unheard']);
    expect(await system.total('mailcluster_ledger_entries_rejected_total')).toBeGreaterThan(0);
    const [relayed] = await named('relayed');
    const { stdout } = await mailcluster('trace', relayed?.id ?? '', '--state', system.state);
    expect(stdout).toMatch(/DUPLICATEDELIVER.*suppressed: relayed before by gone-0/);
  },
  TIMEOUT_MS,
);
