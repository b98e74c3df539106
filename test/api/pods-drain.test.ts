/** Drain before shrink with real transports and real mail (kubernetes.md K3): what a member has is handed over, proved, and only then removed. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { ROOT } from '../house/sources.ts';
import { program } from '../process/harness.ts';
import { list, pathOf } from './operator-rig.ts';
import { type MailClusterInPods, mailClusterInPods } from './pods-rig.ts';
import { sharedAccess } from './rig.ts';

const api = sharedAccess();
const TIMEOUT_MS = 240_000;
const PLUGIN = join(ROOT, 'operator/cli/kubectl-main.ts');

const at = ({ access, namespace }: MailClusterInPods) => ['-n', namespace, '--kubeconfig', access.kubeconfig];

/** Ready, with mail on its way that nobody takes: the mailbox store is away. */
async function withQueuedMail(cluster: MailClusterInPods, count: number): Promise<void> {
  await cluster.settled();
  await cluster.somewhereToGo(20_000);
  await cluster.stores.sea.stop();
  await cluster.send(count, 'queued');
}

const claimsOf = async ({ access, namespace }: MailClusterInPods): Promise<readonly string[]> =>
  (await list(access, namespace, 'persistentvolumeclaims')).map(({ metadata }) => metadata.name as string);

it(
  'K3: scaled from three to two with mail queued: handed over, proved empty, removed, its volume goes by policy; nothing is lost',
  async (context) => {
    const storage = { whenScaled: 'DeleteWhenEmpty' };
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1], storage });
    await withQueuedMail(cluster, 40);
    const [, leaving = ''] = await cluster.members('seattle');
    expect((await cluster.copiesOf(leaving)).length).toBeGreaterThan(0);
    const drained = await program(PLUGIN, 'drain', leaving, '--wait', '--timeout=50s', ...at(cluster));
    expect(drained).toMatchObject({ code: 0, stderr: '', stdout: expect.stringContaining(`${leaving} is gone`) });
    expect(drained.stdout).toContain(`${leaving}: `);
    await cluster.awaitGone(leaving);
    for (const reason of ['Cordoned', 'Draining', 'Emptied', 'ClaimDeleted', 'Removed'])
      expect({ reason, text: String((await cluster.event(reason)).note) }).toEqual({
        reason,
        text: expect.stringContaining(leaving),
      });
    const { membersReady } = await cluster.settled();
    expect({ membersReady, claims: await claimsOf(cluster) }).toEqual({
      membersReady: '2/2',
      claims: expect.not.arrayContaining([`queue-${leaving}`]),
    });
    await cluster.stores.sea.start();
    await cluster.balanced();
  },
  TIMEOUT_MS,
);

it(
  'K3: raised again in the middle of a drain: it stays, with what it has, and takes mail again',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1] });
    await withQueuedMail(cluster, 30);
    const [stays = '', leaving = ''] = await cluster.members('seattle');
    // Its peer is frozen, so the hand-over begins and does not end.
    await cluster.scale(1, 1);
    await cluster.event('Cordoned');
    const others = [stays, ...(await cluster.members('portland'))];
    for (const name of others) cluster.pods.find(name).pause();
    await cluster.condition('Draining', { status: 'True' });
    await cluster.scale(2, 1);
    await cluster.event('DrainCancelled');
    for (const name of others) cluster.pods.find(name).resume();
    const { membersReady, members } = await cluster.settled();
    expect(membersReady).toBe('3/3');
    expect(members.map(({ state }: { state: string }) => state)).toEqual(['Active', 'Active', 'Active']);
    expect(await cluster.events('Emptied')).toEqual([]);
    await cluster.somewhereToGo(30_000, 3);
    await cluster.send(20, 'after');
    await cluster.stores.sea.start();
    await cluster.balanced();
    expect(cluster.pods.find(leaving).failure).toBe(null);
  },
  TIMEOUT_MS,
);

it(
  'K3: refused with condition and event when the rest cannot absorb what it has; goes on when there is room',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1] });
    await withQueuedMail(cluster, 20);
    const [stays = '', leaving = ''] = await cluster.members('seattle');
    const others = [stays, ...(await cluster.members('portland'))];
    // An operator that comes now has no older answers to plan from.
    await cluster.stopOperator();
    for (const name of others) await cluster.fill(name);
    await cluster.scale(1, 1);
    await cluster.startOperator();
    const { message } = await cluster.condition('Draining', { reason: 'CannotAbsorb' });
    expect(message).toContain(`${leaving} cannot leave`);
    expect((await cluster.event('CannotAbsorb')).type).toBe('Warning');
    expect((await cluster.status()).members).toContainEqual(
      expect.objectContaining({ name: leaving, state: 'Active' }),
    );
    for (const name of others) await cluster.pods.setFreeBytes(name, null);
    await cluster.awaitGone(leaving);
    await cluster.stores.sea.start();
    await cluster.balanced();
  },
  TIMEOUT_MS,
);

it(
  'K3: the escape annotation removes a member that cannot hand over, with a loud event; its shadows deliver, its volume stays',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1] });
    await withQueuedMail(cluster, 30);
    const [, leaving = ''] = await cluster.members('seattle');
    cluster.pods.find(leaving).pause();
    await cluster.scale(1, 1);
    const { message } = await cluster.condition('Draining', { reason: 'MemberUnreachable' });
    expect(message).toContain('mailcluster.dev/force-remove');
    await cluster.patch({}, { 'mailcluster.dev/force-remove': leaving });
    const event = await cluster.event('ForcedRemoval');
    expect({ type: event.type, note: event.note }).toEqual({
      type: 'Warning',
      note: expect.stringContaining('its volume is kept'),
    });
    await cluster.awaitGone(leaving);
    await cluster.stores.sea.start();
    await cluster.balanced();
    expect(await claimsOf(cluster)).toContain(`queue-${leaving}`);
    const claim = pathOf(cluster.namespace, 'persistentvolumeclaims', `queue-${leaving}`);
    expect((await cluster.access.client.get(claim)).status.phase).toBe('Bound');
  },
  TIMEOUT_MS,
);
