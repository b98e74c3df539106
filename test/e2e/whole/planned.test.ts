/** What people plan, under load, on real kubelets: restarts, drains, another size, other certificates. Nothing is lost, and whoever connects anew is served. */
import { expect, it } from 'vitest';
import { createAuthority } from '../../../operator/pki.ts';
import { pathOf } from '../../api/operator-rig.ts';
import { until } from '../../house/until.ts';
import type { MailOnNodes } from '../mail-on-nodes.ts';
import { LONG } from '../node-cluster.ts';
import { ownMail, since } from '../own-mail.ts';

const given = ownMail();
const TIMEOUT_MS = 900_000;

/** Load around some work; whoever connected anew was served, and all of it is in the mailboxes. */
async function underLoad(mail: MailOnNodes, what: string, work: () => Promise<void>): Promise<void> {
  const load = await mail.load();
  await load.goesOn(20, LONG.deadlineMs);
  const startMs = performance.now();
  await work();
  console.log(`${what}: ${since(startMs)}`);
  await load.goesOn(20, LONG.deadlineMs);
  const { refusedAnew } = mail.add(await load.stop(), what);
  expect(refusedAnew).toEqual([]);
  await mail.balanced(what);
}

const uids = async (mail: MailOnNodes): Promise<readonly string[]> =>
  [...(await mail.pods('transport')), ...(await mail.pods('frontend'))].map(({ metadata }) => String(metadata.uid));

it(
  'K4: every pod is restarted for a change of its resources, one transport after the other: nobody who connects anew is refused, nothing is lost',
  async (context) => {
    const { mail } = await given(context);
    const before = await uids(mail);
    const { spec } = await mail.cluster.access.client.get(pathOf(mail.namespace, 'mailclusters', 'contoso'));
    await underLoad(mail, 'rolling restart', async () => {
      const resources = { requests: { cpu: '210m' } };
      await mail.patch({ transport: { ...spec.transport, resources }, frontend: { ...spec.frontend, resources } });
      await until(
        'every pod to be another one',
        async () => {
          const now = await uids(mail);
          return now.length === before.length && now.every((uid) => !before.includes(uid));
        },
        { ...LONG, deadlineMs: 480_000 },
      );
      await mail.settled();
    });
    expect((await mail.list('events')).filter(({ reason }) => reason === 'Restarting').length).toBeGreaterThan(0);
  },
  TIMEOUT_MS,
);

it(
  'K6: kubectl drain of the only node of a site stops at the closed budget as soon as one transport is away; after uncordon everything is as before',
  async (context) => {
    const { cluster, mail } = await given(context);
    const members = await mail.members('seattle');
    await underLoad(mail, 'node drain', async () => {
      const drain = await cluster.tryKubectl([
        ...['drain', 'n1', '--ignore-daemonsets', '--delete-emptydir-data', '--timeout=30s'],
        ...['--pod-selector', 'mailcluster.dev/role'],
      ]);
      expect({ code: drain.code, said: drain.stderr }).toEqual({
        code: 1,
        said: expect.stringContaining("violate the pod's disruption budget"),
      });
      const there = (await mail.pods('transport')).filter(({ spec }) => spec.nodeName === 'n1');
      expect(there.length).toBe(1);
      await cluster.kubectl('uncordon', 'n1');
      await mail.settled();
    });
    expect(await mail.members('seattle')).toEqual(members);
  },
  TIMEOUT_MS,
);

it(
  'K3: both sites go from two transports to three and back to two, under load',
  async (context) => {
    const { mail } = await given(context);
    const scale = (replicas: number): Promise<void> => {
      const members = ['seattle', 'portland'].map((site) => ({ site, replicas }));
      return mail.patch({ dags: [{ name: 'dag1', members }] });
    };
    await underLoad(mail, 'two, three, two', async () => {
      for (const replicas of [3, 2]) {
        await scale(replicas);
        await until(
          `${2 * replicas} members`,
          async () => {
            const { membersReady } = await mail.status();
            if (membersReady === `${2 * replicas}/${2 * replicas}`) return true;
            throw new Error(membersReady);
          },
          { ...LONG, deadlineMs: 480_000 },
        );
        await mail.settled();
      }
    });
  },
  TIMEOUT_MS,
);

it(
  'section 2: another authority, under load: everybody gets a certificate of it, nobody restarts',
  async (context) => {
    const { cluster, mail } = await given(context);
    const secret = pathOf(mail.namespace, 'secrets', 'contoso-authority');
    const { 'tls.crt': former } = (await cluster.access.client.get(secret)).data;
    const { certificatePem, keyPem } = await createAuthority('contoso');
    const base64 = (text: string): string => Buffer.from(text).toString('base64');
    const change = async (data: Readonly<Record<string, string | null>>): Promise<void> => {
      expect((await cluster.access.client.mergePatch(secret, { data })).status).toBe(200);
    };
    const before = await uids(mail);
    await underLoad(mail, 'another authority', async () => {
      await change({ 'ca.crt': base64(certificatePem) });
      await until(
        'the trust document to have both',
        async () => {
          const { data } = await cluster.access.client.get(pathOf(mail.namespace, 'configmaps', 'contoso-trust'));
          return Object.values(data as Record<string, string>).some((text) => text.includes(certificatePem.trim()));
        },
        LONG,
      );
      await until(
        'every pod to have said that it trusts both',
        async () => {
          const { message } = await mail.condition('CertificatesValid', { status: 'True' });
          if (String(message).includes('every pod trusts both authorities')) return true;
          throw new Error(String(message));
        },
        LONG,
      );
      await change({ 'tls.crt': base64(certificatePem), 'tls.key': base64(keyPem), 'ca.crt': former });
      await mail.condition('CertificatesValid', { status: 'False', reason: 'FormerAuthorityNeeded' });
      await mail.condition('CertificatesValid', { status: 'True' });
      await change({ 'ca.crt': null });
      await mail.settled();
    });
    expect(await uids(mail)).toEqual(before);
  },
  TIMEOUT_MS,
);
