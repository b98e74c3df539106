/** One apply becomes transports and front ends that carry mail: the operator's plan and real processes (kubernetes.md K7, K9, section 2). */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { createAuthority } from '../../operator/pki.ts';
import { PATH } from '../../operator/resources/names.ts';
import { installCrds } from '../cluster/shared-cluster.ts';
import { until } from '../house/until.ts';
import { makeMessage, notAccepted } from '../process/ledger.ts';
import { sendAll } from '../process/smtp-sender.ts';
import { DnsServer } from '../rigs/dns-server.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { pathOf, writesOf } from './operator-rig.ts';
import { LONG, type MailClusterInPods, mailClusterInPods } from './pods-rig.ts';
import { ownApiServer, sharedAccess } from './rig.ts';

const api = sharedAccess();

it('K7: one apply becomes a cluster that is ready, protected and acknowledges its generation; mail goes through it', async (context) => {
  const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 2], frontends: 2 });
  const { membersReady, frontendsReady, topologyGeneration, members } = await cluster.settled();
  expect({ membersReady, frontendsReady }).toEqual({ membersReady: '4/4', frontendsReady: '2/2' });
  for (const one of members) expect(one).toMatchObject({ ready: true, generation: topologyGeneration, unprotected: 0 });
  await cluster.somewhereToGo(20_000);
  await cluster.send(20, 'first');
  await cluster.balanced();
}, 180_000);

/** Pods whose certificate is not of this authority. */
async function strangersTo(cluster: MailClusterInPods, authorityPem: string): Promise<readonly string[]> {
  const { publicKey } = new X509Certificate(authorityPem);
  const checked = cluster.pods.running.map(async (one) => {
    const isTransport = one.pod.metadata.labels['mailcluster.dev/role'] === 'transport';
    const file = one.path(`${isTransport ? `${PATH.data}/tls` : PATH.volatileTls}/tls.crt`);
    return new X509Certificate(await readFile(file)).verify(publicKey) ? [] : [one.name];
  });
  return (await Promise.all(checked)).flat();
}

it('section 2: another authority for the certificates, brought in beside the former one: everybody asks for a certificate of it at once, the status says who still needs the former, mail flows, nobody restarts', async (context) => {
  const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1] });
  const { client } = cluster.access;
  await cluster.settled();
  await cluster.somewhereToGo(20_000);
  const processes = () => cluster.pods.running.map(({ name, pod, pid }) => `${name} ${pod.metadata.uid} ${pid}`).sort();
  const before = processes();
  const secret = pathOf(cluster.namespace, 'secrets', 'contoso-authority');
  const { 'tls.crt': former } = (await client.get(secret)).data;
  const { certificatePem, keyPem } = await createAuthority('contoso');
  const base64 = (text: string): string => Buffer.from(text).toString('base64');
  const change = async (data: Readonly<Record<string, string | null>>): Promise<void> => {
    expect((await client.mergePatch(secret, { data })).status).toBe(200);
  };
  const trusted = async (): Promise<readonly string[]> =>
    await Promise.all(cluster.pods.running.map((one) => readFile(one.path(`${PATH.trust}/ca.crt`), 'utf8')));
  // First everybody trusts it, then it signs.
  const slow = cluster.pods.running.find(({ pod }) => pod.metadata.labels['mailcluster.dev/role'] === 'frontend');
  slow?.pause();
  await change({ 'ca.crt': base64(certificatePem) });
  await until(
    'the status to say that only the front end that stands still has not said that it trusts it',
    async () => {
      const { message } = await cluster.condition('CertificatesValid', { reason: 'TrustNotAcknowledged' });
      if (message.startsWith(`${slow?.name} have not said yet that they trust both`)) return true;
      throw new Error(message);
    },
    LONG,
  );
  slow?.resume();
  await until(
    'the status to say that all trust it',
    async () => {
      const { message } = await cluster.condition('CertificatesValid', { status: 'True' });
      return message.includes('every pod trusts both authorities');
    },
    LONG,
  );
  expect((await trusted()).filter((text) => !text.includes(certificatePem.trim()))).toEqual([]);
  await cluster.send(5, 'beside');
  const [silent = ''] = await cluster.members('portland');
  cluster.pods.find(silent).pause();
  await change({ 'tls.crt': base64(certificatePem), 'tls.key': base64(keyPem), 'ca.crt': former });
  await until(
    'the status to say that only the silent one may have a former certificate',
    async () => {
      const { message } = await cluster.condition('CertificatesValid', { reason: 'FormerAuthorityNeeded' });
      return message.startsWith(`${silent} may have a certificate of the former authority: keep ca.crt in Secret`);
    },
    LONG,
  );
  cluster.pods.find(silent).resume();
  await cluster.send(20, 'during');
  await cluster.condition('CertificatesValid', { status: 'True' });
  await until(
    'all certificates to be of the other authority',
    async () => (await strangersTo(cluster, certificatePem)).length === 0,
    LONG,
  );
  await change({ 'ca.crt': null });
  const isForgotten = async (): Promise<boolean> =>
    (await trusted()).every((text) => text.trim() === certificatePem.trim());
  await until('the former one to be trusted by nobody', isForgotten, LONG);
  await cluster.settled();
  await cluster.send(10, 'after');
  await cluster.balanced();
  expect(processes()).toEqual(before);
}, 240_000);

it('a connector with DANE whose resolver does not validate: mail goes out, and Progressing names connector, resolver and who found it, until it is put right', async (context) => {
  const host = await ScriptedPeer.start();
  const dns = await DnsServer.start({
    '.': { ns: ['ns.example'] },
    'far.example': { mx: [[10, 'mx.far.example']] },
    'mx.far.example': { a: ['127.0.0.1'] },
  });
  context.onTestFinished(async () => {
    for (const one of [host, dns]) await one[Symbol.asyncDispose]();
  });
  const mx = { port: host.port, dnsServers: [dns.server], allowNetworks: ['127.0.0.0/8'], mtaSts: 'Ignore' };
  const connectors = (dane: 'Enforce' | 'Ignore') => [
    { name: 'internet', addressSpaces: [{ domain: '*' }], delivery: 'MX', mx: { ...mx, dane } },
  ];
  const listeners = [{ name: 'smtp', port: 25, tls: 'None', relayFrom: ['127.0.0.0/8'] }];
  const cluster = await mailClusterInPods(api(context), context, {
    ...{ replicas: [1, 1], spec: { frontend: { replicas: 1, listeners }, sendConnectors: connectors('Enforce') } },
  });
  await cluster.settled();
  await cluster.somewhereToGo(20_000);
  await cluster.condition('Progressing', { status: 'True' });
  const sent = await sendAll({
    ...{ targets: () => cluster.targets(), sessions: 1, patienceMs: 20_000 },
    messages: [makeMessage('out', 'ann@far.example', 1_000)],
  });
  expect(notAccepted(sent)).toEqual([]);
  const { message } = await cluster.condition('Progressing', { status: 'False', reason: 'DaneUnvalidated' });
  expect(message).toMatch(/^send connector internet .* \(say contoso-dag1-[^)]+\) do not validate DNSSEC: mail goes/);
  expect(message).toContain(dns.server);
  await until('the mail', () => host.messages.length === 1, LONG);
  await cluster.patch({ sendConnectors: connectors('Ignore') });
  await cluster.condition('Progressing', { status: 'True' });
}, 180_000);

it('K9: mail flows, a transport is restarted and queues are delivered while the operator and the API server are away; then they find everything as it is', async (context) => {
  const own = await ownApiServer(context);
  await installCrds(own);
  const cluster = await mailClusterInPods(own, context, { replicas: [2, 1] });
  await cluster.settled();
  await cluster.somewhereToGo(20_000);
  const [member = ''] = await cluster.members('seattle');
  const ready = await cluster.condition('Ready', { status: 'True' });
  await cluster.stopOperator();
  await own.apiServer.stop();
  try {
    await cluster.send(10, 'without');
    await cluster.balanced();
    // Its certificate is on its volume; who signs is away.
    await cluster.pods.find(member).crash();
    await cluster.somewhereToGo(60_000, 3);
    await cluster.stores.sea.stop();
    await cluster.send(10, 'queued');
    await cluster.stores.sea.start();
    await cluster.balanced();
  } finally {
    await own.startAgain(own.apiServer);
  }
  const operator = await cluster.startOperator();
  await cluster.settled();
  const writes = await writesOf(own, cluster.namespace, operator.userAgent);
  expect(writes.filter(({ resource }) => !resource.endsWith('/status')).map(({ uri }) => uri)).toEqual([]);
  expect((await cluster.condition('Ready', { status: 'True' })).lastTransitionTime).toBe(ready.lastTransitionTime);
  await cluster.send(5, 'again');
  await cluster.balanced();
}, 240_000);
