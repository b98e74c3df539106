/**
 * What happens to people, under load, on real kubelets: a volume lost, zones that do not hear each other, operator, API server and Redis away. Nothing that was accepted
 * is lost.
 */
import { afterAll, expect, it } from 'vitest';
import { until } from '../../house/until.ts';
import { RealRedis } from '../../rigs/redis.ts';
import type { MailOnNodes } from '../mail-on-nodes.ts';
import { LONG, RELEASE, SYSTEM } from '../node-cluster.ts';
import { ownMail, since } from '../own-mail.ts';

const TIMEOUT_MS = 900_000;
const AWAY_MS = 130_000;
const PASSWORD = 'of this test';

let redis: RealRedis | null = null;
/** A Redis on this machine, for limits and ledger. */
const given = ownMail({ redis: { mode: 'External', urlSecretRef: { name: 'redis' } } }, async (mail) => {
  const { access, hostAddress } = mail.cluster;
  const started = await RealRedis.start(PASSWORD, hostAddress);
  if ('missing' in started) throw new Error(started.missing);
  redis = started;
  await access.client.mustApply({
    ...{ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'redis', namespace: mail.namespace } },
    stringData: { url: `redis://:${encodeURIComponent(PASSWORD)}@${hostAddress}:${redis.port}` },
  });
});
afterAll(async () => await redis?.[Symbol.asyncDispose]());

/** Every front end shares its limits and every transport its ledger through Redis, or nobody does. */
async function redisIsUsed(mail: MailOnNodes, isUsed: boolean): Promise<void> {
  const wanted = isUsed ? 1 : 0;
  await until(
    `Redis to be ${isUsed ? '' : 'not '}used by everybody`,
    async () => {
      const said = [
        ...(await mail.pods('frontend')).map(({ metadata }) =>
          mail.metric(metadata.name, 'mailcluster_shared_limits_up'),
        ),
        ...(await mail.pods('transport')).map(({ metadata }) => mail.metric(metadata.name, 'mailcluster_ledger_up')),
      ];
      const values = await Promise.all(said);
      if (values.every((value) => value === wanted)) return true;
      throw new Error(values.join(' '));
    },
    LONG,
  );
}

it(
  'K6: the claim of a transport is deleted with its pod, mail in its queue: its shadows deliver, it comes back with a new queue database',
  async (context) => {
    const { cluster, mail } = await given(context);
    const [member = ''] = await mail.members('seattle');
    const identityOf = async (): Promise<string> =>
      ((await mail.status()).members as { name: string; identity: string }[]).find(({ name }) => name === member)
        ?.identity ?? '';
    const former = await identityOf();
    const load = await mail.load({ perSecond: 10 });
    const lostMs = await mail.withoutStore('sea', async () => {
      await load.goesOn(60, LONG.deadlineMs);
      await cluster.kubectl('delete', 'pvc', `queue-${member}`, '-n', mail.namespace, '--wait=false');
      await cluster.kubectl('delete', 'pod', member, '-n', mail.namespace, '--grace-period=0', '--force');
      return performance.now();
    });
    await mail.event('VolumeLost');
    await until('another queue database', async () => ![former, ''].includes(await identityOf()), LONG);
    await mail.settled();
    console.log(`claim deleted to settled with a new queue database: ${since(lostMs)}`);
    mail.add(await load.stop(), 'a claim is deleted');
    await mail.balanced('a claim is deleted');
  },
  TIMEOUT_MS,
);

/** What is done, and what it means. */
const CUTS: readonly (readonly [string, readonly string[]])[] = [
  ['two zones do not hear each other', ['cut', 'n1', 'n2']],
  ['portland does not hear seattle, which hears it', ['oneway', 'n1', 'n2']],
  ['seattle does not hear portland, which hears it', ['oneway', 'n2', 'n1']],
];

it.for(CUTS)(
  '%s, clients reach both: mail is taken on, both copies of it in one zone; after the heal nothing is lost, and nothing is there twice',
  { timeout: TIMEOUT_MS },
  async ([what, fault], context) => {
    const { cluster, mail } = await given(context);
    const load = await mail.load({ perSecond: 10 });
    await load.goesOn(20, LONG.deadlineMs);
    const cutMs = performance.now();
    await cluster.fault(...fault);
    try {
      const members = await mail.members();
      await until(
        'every transport to hear its own site only',
        async () => (await Promise.all(members.map((one) => mail.peersUp(one)))).every((up) => up === 1),
        LONG,
      );
      console.log(`${what}: known to every transport after ${since(cutMs)}`);
      await load.goesOn(100, LONG.deadlineMs);
      await mail.withoutStore('sea', async () => {
        const sent = await mail.send(40, `${what}: the mailbox server away, too`);
        expect(sent.refusedAnew).toEqual([]);
        // PreferRemote gives way: both copies are where they can be.
        await mail.inZones(1, sent);
      });
    } finally {
      await cluster.heal();
    }
    const healMs = performance.now();
    await mail.heardByAll();
    await mail.settled();
    console.log(`${what}: heal to everybody heard and settled: ${since(healMs)}`);
    await load.goesOn(20, LONG.deadlineMs);
    mail.add(await load.stop(), what);
    expect((await mail.balanced(what)).duplicated).toEqual([]);
    const across = await mail.withoutStore('sea', async () => {
      const sent = await mail.send(20, `${what}: healed`);
      await mail.inZones(2, sent);
      return sent;
    });
    expect(across.refusedAnew).toEqual([]);
    await mail.balanced(`${what}: healed`);
  },
);

it(
  'K9: operator, API server and Redis are away for two minutes, a transport crashes meanwhile and comes back: mail flows and is delivered; then they find everything as it is',
  async (context) => {
    const { cluster, mail } = await given(context);
    const [, transport] = await mail.pods('transport');
    if (transport === undefined || redis === null) throw new Error('no transport, or no Redis');
    const before = (await mail.pods('transport')).map(({ metadata }) => metadata.uid);
    await redisIsUsed(mail, true);
    await cluster.kubectl('scale', `deployment/${RELEASE}`, '-n', SYSTEM, '--replicas=0');
    const load = await mail.load({ perSecond: 10 });
    await load.goesOn(20, LONG.deadlineMs);
    expect((await redis.keys()).filter((key) => key.includes(':limit:')).length).toBeGreaterThan(0);
    await redis.kill();
    await redisIsUsed(mail, false);
    await cluster.fault('api', 'kill');
    const awayMs = performance.now();
    try {
      await load.goesOn(100, LONG.deadlineMs);
      process.kill(cluster.processOf(transport), 'SIGKILL');
      await until('mail to flow for a while without them', () => performance.now() - awayMs > AWAY_MS, {
        deadlineMs: 2 * AWAY_MS,
        everyMs: 500,
      });
      await load.goesOn(100, LONG.deadlineMs);
      console.log(`without operator, API server and Redis: ${since(awayMs)}, ${load.accepted} accepted so far`);
    } finally {
      await cluster.fault('api', 'start');
      await cluster.kubectl('scale', `deployment/${RELEASE}`, '-n', SYSTEM, '--replicas=1');
    }
    await redis.launch();
    await redisIsUsed(mail, true);
    await mail.settled();
    const { refusedAnew } = mail.add(await load.stop(), 'operator, API server and Redis away');
    expect(refusedAnew).toEqual([]);
    await mail.balanced('operator, API server and Redis away');
    expect((await mail.pods('transport')).map(({ metadata }) => metadata.uid)).toEqual(before);
  },
  TIMEOUT_MS,
);
