/** What happens to people, under load, on real kubelets: a volume lost, zones that do not hear each other, the control plane away. Nothing that was accepted is lost. */
import { expect, it } from 'vitest';
import { until } from '../../house/until.ts';
import { LONG, RELEASE, SYSTEM } from '../node-cluster.ts';
import { ownMail, since } from '../own-mail.ts';

const given = ownMail();
const TIMEOUT_MS = 900_000;
const AWAY_MS = 90_000;

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

it(
  'two zones do not hear each other for a while, both are heard by clients: mail is taken on, and nothing is lost after the heal',
  async (context) => {
    const { cluster, mail } = await given(context);
    const load = await mail.load({ perSecond: 10 });
    await load.goesOn(20, LONG.deadlineMs);
    await cluster.fault('cut', 'n1', 'n2');
    try {
      const members = await mail.members();
      await until(
        'every transport to hear its own site only',
        async () => (await Promise.all(members.map((one) => mail.peersUp(one)))).every((up) => up === 1),
        LONG,
      );
      // Both copies in one zone: PreferRemote gives way.
      await load.goesOn(400, LONG.deadlineMs);
    } finally {
      await cluster.heal();
    }
    const healMs = performance.now();
    await mail.settled();
    await mail.heardByAll();
    console.log(`heal to settled and everybody heard: ${since(healMs)}`);
    await load.goesOn(20, LONG.deadlineMs);
    mail.add(await load.stop(), 'zones cut and healed');
    await mail.balanced('zones cut and healed');
  },
  TIMEOUT_MS,
);

it(
  'K9: operator and API server are away, a transport crashes meanwhile and comes back: mail flows and is delivered; then they find everything as it is',
  async (context) => {
    const { cluster, mail } = await given(context);
    const [, transport] = await mail.pods('transport');
    if (transport === undefined) throw new Error('no transport');
    const before = (await mail.pods('transport')).map(({ metadata }) => metadata.uid);
    await cluster.kubectl('scale', `deployment/${RELEASE}`, '-n', SYSTEM, '--replicas=0');
    const load = await mail.load({ perSecond: 10 });
    await load.goesOn(20, LONG.deadlineMs);
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
      console.log(`without operator and API server: ${since(awayMs)}, ${load.accepted} accepted so far`);
    } finally {
      await cluster.fault('api', 'start');
      await cluster.kubectl('scale', `deployment/${RELEASE}`, '-n', SYSTEM, '--replicas=1');
    }
    await mail.settled();
    const { refusedAnew } = mail.add(await load.stop(), 'control plane away');
    expect(refusedAnew).toEqual([]);
    await mail.balanced('control plane away');
    expect((await mail.pods('transport')).map(({ metadata }) => metadata.uid)).toEqual(before);
  },
  TIMEOUT_MS,
);
