/** The operator's side of the admin API, over a real TLS server: what a member shows is known for every question, also over a kept connection. */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, it, type TestContext } from 'vitest';
import { askMember, MemberAgent, withContext } from '../../operator/admin-client.ts';
import { createAuthority } from '../../operator/pki.ts';
import { memberServers } from '../house/member-servers.ts';
import { until } from '../house/until.ts';

async function member(context: TestContext) {
  const { tls, serve } = await memberServers(context);
  let connections = 0;
  let reply = (response: ServerResponse): unknown => response.end('{"name":"m-0"}');
  const { server, certificatePem } = await serve('m-0', '127.0.0.1', 0, (response) => reply(response));
  server.on('secureConnection', () => {
    connections += 1;
  });
  const agent = new MemberAgent(tls, 'm-0');
  context.onTestFinished(() => agent.destroy());
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const notAfterMs = Date.parse(new X509Certificate(certificatePem).validTo);
  const answer = (how: (response: ServerResponse) => unknown): void => {
    reply = how;
  };
  return { url, tls, agent, notAfterMs, connections: () => connections, answer };
}

it('knows the certificate of every answer over a kept connection, and one connection is enough', async (context) => {
  const { url, tls, agent, notAfterMs, connections } = await member(context);
  for (let n = 0; n < 3; n += 1) {
    expect(await askMember(url, '/v1/status', tls, 'm-0', { agent })).toEqual({
      kind: 'answer',
      member: 'm-0',
      value: { name: 'm-0' },
      certificateNotAfterMs: notAfterMs,
      certificateFormer: false,
    });
    // The connection is free again in the next turn.
    await nextTurn();
  }
  expect(connections()).toBe(1);
  // It is m-0, whoever else was expected there.
  const another = new MemberAgent(tls, 'm-1');
  context.onTestFinished(() => another.destroy());
  expect(await askMember(url, '/v1/status', tls, 'm-1', { agent: another })).toMatchObject({
    kind: 'unreachable',
    reason: 'it is transport m-0',
  });
  expect(await askMember(url, '/v1/status', tls, 'm-1')).toMatchObject({ reason: 'it is transport m-0' });
});

it('checks who is there as strictly with an identity that was read once for all connections', async (context) => {
  const { url, tls, notAfterMs } = await member(context);
  const once = withContext(tls);
  expect(await askMember(url, '/v1/status', once, 'm-0')).toMatchObject({ certificateNotAfterMs: notAfterMs });
  expect(await askMember(url, '/v1/status', once, 'm-1')).toMatchObject({ reason: 'it is transport m-0' });
  const stranger = withContext({ ...tls, ca: (await createAuthority('contoso')).certificatePem });
  expect(await askMember(url, '/v1/status', stranger, 'm-0')).toMatchObject({ kind: 'unreachable' });
});

it('knows a certificate of an authority that another one replaces', async (context) => {
  const { url, tls } = await member(context);
  const { certificatePem } = await createAuthority('contoso');
  const asked = async (ca: string) => await askMember(url, '/v1/status', { ...tls, ca }, 'm-0');
  expect(await asked(tls.ca + certificatePem)).toMatchObject({ kind: 'answer', certificateFormer: false });
  expect(await asked(certificatePem + tls.ca)).toMatchObject({ kind: 'answer', certificateFormer: true });
  expect(await asked(certificatePem)).toMatchObject({ kind: 'unreachable' });
});

it('gives a member that reads its tracking longer than its deadline, once it has been reached', async (context) => {
  const { url, tls, agent, answer } = await member(context);
  const question = { agent, deadlineMs: 300 };
  answer((response) => setTimeout(() => response.end('{}'), 600));
  for (const path of ['/v1/trace?id=A', '/v1/tracking?limit=1', '/v1/outcomes?ids=A'])
    expect([path, (await askMember(url, path, tls, 'm-0', question)).kind]).toEqual([path, 'answer']);
  expect(await askMember(url, '/v1/status', tls, 'm-0', question)).toMatchObject({ reason: 'no answer in time' });
  // Who takes the connection and says nothing has not been reached.
  const silent = createServer().listen(0, '127.0.0.1');
  context.onTestFinished(() => void silent.close());
  await once(silent, 'listening');
  const nowhere = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`;
  const asked = performance.now();
  expect(await askMember(nowhere, '/v1/trace?id=A', tls, 'm-0', { deadlineMs: 300 })).toMatchObject({
    reason: 'no answer in time',
  });
  expect(performance.now() - asked).toBeLessThan(60_000);
});

it('gives up at its deadline, and a kept connection outlives the deadlines of its questions', async (context) => {
  const { url, tls, agent, connections, answer } = await member(context);
  const question = { agent, deadlineMs: 150 };
  expect((await askMember(url, '/v1/status', tls, 'm-0', question)).kind).toBe('answer');
  answer(() => undefined);
  expect(await askMember(url, '/v1/status', tls, 'm-0', question)).toMatchObject({ reason: 'no answer in time' });
  answer((response) => response.end('{}'));
  const first = performance.now();
  let asked = 0;
  await until(
    'questions over more than two deadlines',
    async () => {
      asked += 1;
      expect((await askMember(url, '/v1/status', tls, 'm-0', question)).kind).toBe('answer');
      return performance.now() - first > 400;
    },
    { deadlineMs: 10_000 },
  );
  expect({ several: asked > 2, connections: connections() }).toEqual({ several: true, connections: 2 });
});
