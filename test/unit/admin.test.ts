/** The admin API of a transport: who is let in, what it answers, what it refuses. Real TLS, real certificates. */
import { request } from 'node:https';
import { afterEach, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import { createAuthority } from '../../operator/pki.ts';
import type { AdminIdentity } from '../../transport/runtime/admin.ts';
import type { ResubmitView } from '../../transport/runtime/view.ts';
import type { SafetyNetEntry } from '../../transport/store/database.ts';
import { AdminWorld, CONTENTS, ENTRY, ID, type MemberContents, NOW_MS } from './admin-world.ts';

const worlds: AdminWorld[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

async function open(contents: MemberContents = CONTENTS.a): Promise<{ world: AdminWorld; port: number }> {
  const world = await AdminWorld.open();
  worlds.push(world);
  return { world, port: await world.admin('a', contents) };
}

interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: JSON of many shapes, compared with toMatchObject
  readonly body: any;
}

function get(port: number, path: string, identity: Partial<AdminIdentity>, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request({
      host: '127.0.0.1',
      port,
      path,
      method,
      agent: false,
      ca: identity.ca,
      cert: identity.certificate,
      key: identity.key,
      servername: 'localhost',
    });
    sent.once('error', reject);
    sent.once('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
      });
      response.once('error', reject);
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) }));
    });
    sent.end();
  });
}

test('an operator is answered', async () => {
  const { world, port } = await open();
  const operator = await world.identity('operator', 'cli');
  expect(await get(port, '/v1/status', operator)).toMatchObject({ status: 200, body: { name: 'a', unprotected: 0 } });
  expect(await get(port, '/v1/next-hops', operator)).toMatchObject({
    status: 200,
    body: { nextHops: [{ nextHop: 'db01/sea' }] },
  });
  expect(await get(port, '/v1/next-hops?limit=1', operator)).toMatchObject({ body: { more: 0 } });
  expect(await get(port, '/v1/next-hops?limit=0', operator)).toMatchObject({ status: 400 });
  expect(await get(port, '/v1/messages', operator)).toMatchObject({ status: 200, body: { messages: [{ id: ID }] } });
  expect(await get(port, `/v1/messages/${ID}`, operator)).toMatchObject({
    status: 200,
    body: { facts: { id: ID }, state: { queue: 'delivery' } },
  });
  expect(await get(port, `/v1/trace?id=${ID}`, operator)).toMatchObject({
    status: 200,
    body: { records: CONTENTS.a.records },
  });
  expect(await get(port, `/v1/trace?id=${encodeURIComponent('<4711@example.org>')}`, operator)).toMatchObject({
    body: { records: CONTENTS.a.records },
  });
});

test('a trace answers every id that it was asked for, says of how many it is the answer, and what is not there any more', async () => {
  const other = CONTENTS.a.records.slice(0, 1).map((record) => ({ ...record, attemptId: 'OTHER' }));
  const gaps = { beforeMs: NOW_MS - 20_000, dropped: null };
  const { world, port } = await open({ ...CONTENTS.a, records: [...CONTENTS.a.records, ...other], gaps });
  const operator = await world.identity('operator', 'cli');
  const trace = async (parameters: string) => (await get(port, `/v1/trace?${parameters}`, operator)).body;
  expect(await trace(`id=${ID}`)).toEqual({ records: CONTENTS.a.records, asked: 1, cut: false, gaps });
  // The second and the third as well, in the order of time.
  const several = await trace(`id=NOBODY&id=OTHER&id=${ID}`);
  expect(several).toMatchObject({ asked: 3, cut: false });
  expect(several.records).toHaveLength(CONTENTS.a.records.length + 1);
  expect(several.records).toEqual(expect.arrayContaining([...CONTENTS.a.records, ...other]));
  expect(await trace(`id=${ID}&limit=2`)).toMatchObject({ cut: true });
});

const ANY = {
  ...{ queue: null, nextHop: null, sender: null, recipient: null, domain: null, error: null, attempt: null },
  ...{ olderThanMs: null, youngerThanMs: null, minBytes: null, maxBytes: null },
};

test('parameters reach the transport, and lists have a bound', async () => {
  const { world, port } = await open();
  const operator = await world.identity('operator', 'cli');
  await get(port, '/v1/messages?queue=shadow&after=X&limit=5', operator);
  await get(
    port,
    `/v1/messages?nextHop=${encodeURIComponent('mailbox:db01/sea')}&sender=${encodeURIComponent('<>')}&recipient=b@x&domain=x&error=no%20route&attempt=${ID}&olderThanMs=1&youngerThanMs=2&minBytes=3&maxBytes=4`,
    operator,
  );
  await get(port, '/v1/messages', operator);
  await get(
    port,
    `/v1/safety-net?role=shadow&database=db01&from=2026-01-02T03:04:05Z&to=${NOW_MS + 1}&sender=ann@example.org&recipient=bob@contoso.com&after=7&limit=9`,
    operator,
  );
  await get(port, '/v1/safety-net', operator);
  await get(port, '/v1/safety-net/count?role=primary', operator);
  expect(world.asked).toEqual([
    { what: 'messages', arguments: [{ ...ANY, queue: 'shadow' }, 'X', 5] },
    {
      what: 'messages',
      arguments: [
        {
          ...{ queue: null, nextHop: 'mailbox:db01/sea', sender: '', recipient: 'b@x', domain: 'x', error: 'no route' },
          ...{ attempt: ID, olderThanMs: 1, youngerThanMs: 2, minBytes: 3, maxBytes: 4 },
        },
        null,
        100,
      ],
    },
    { what: 'messages', arguments: [ANY, null, 100] },
    {
      what: 'safetyNet',
      arguments: [
        {
          filter: { role: 'shadow', database: 'db01', fromMs: NOW_MS, toMs: NOW_MS + 1, after: '7' },
          sender: 'ann@example.org',
          recipient: 'bob@contoso.com',
        },
        9,
      ],
    },
    { what: 'safetyNet', arguments: [{ filter: {}, sender: null, recipient: null }, 100] },
    { what: 'countSafetyNet', arguments: [{ filter: { role: 'primary' }, sender: null, recipient: null }] },
  ]);
});

test('pages have a cursor; the rest of what the orchestrator asks', async () => {
  const world = await AdminWorld.open();
  worlds.push(world);
  const second: SafetyNetEntry = { ...ENTRY, id: '01JABCDEFGHJKMNPQRSTVWXYZ1' as CopyId, role: 'shadow' };
  const report = { name: 'again', state: 'Done', selected: 3, resubmitted: 2 } as unknown as ResubmitView;
  const port = await world.admin('a', {
    ...CONTENTS.a,
    net: [[ENTRY], [], [second]],
    resubmits: [report],
    known: [{ id: ID, where: 'final' }],
    outcomes: [{ id: ID, final: true, recipients: [] }],
    lost: [ID],
  });
  const operator = await world.identity('operator', 'cli');
  const pages: unknown[] = [];
  let after: string | null = '';
  while (after !== null) {
    const { body }: Answer = await get(
      port,
      `/v1/safety-net?limit=1${after === '' ? '' : `&after=${after}`}`,
      operator,
    );
    pages.push(...body.entries);
    after = body.next;
  }
  expect(pages).toEqual([ENTRY, second]);
  expect((await get(port, '/v1/safety-net/count?after=2', operator)).body).toEqual({
    primary: { messages: 0, bytes: 0 },
    shadow: { messages: 1, bytes: 1_000 },
    unreadable: 0,
    next: null,
  });
  expect((await get(port, '/v1/resubmit', operator)).body).toEqual({ requests: [report] });
  expect((await get(port, `/v1/known?ids=OTHER,${ID}`, operator)).body).toEqual({
    known: [{ id: ID, where: 'final' }],
  });
  expect((await get(port, `/v1/outcomes?ids=${ID}`, operator)).body).toEqual({
    outcomes: [{ id: ID, final: true, recipients: [] }],
  });
  expect((await get(port, '/v1/lost', operator)).body).toEqual({ messages: [ID] });
});

test('without a client certificate, or with one of another authority, the handshake fails', async () => {
  const { world, port } = await open();
  const { ca } = await world.identity('operator', 'cli');
  await expect(get(port, '/v1/status', { ca })).rejects.toThrow();
  const foreign = await world.identity('operator', 'cli', 'contoso', await createAuthority('contoso'));
  await expect(get(port, '/v1/status', foreign)).rejects.toThrow();
  expect(world.asked).toEqual([]);
});

test('other roles and other clusters are refused, whatever they ask', async () => {
  const { world, port } = await open();
  const strangers = [
    await world.identity('transport', 'b'),
    await world.identity('frontend', 'front-0'),
    await world.identity('operator', 'cli', 'fabrikam'),
  ];
  for (const stranger of strangers) {
    for (const path of ['/v1/status', `/v1/messages/${ID}`, '/v1/messages', '/nothing']) {
      expect(await get(port, path, stranger)).toEqual({
        status: 403,
        body: { error: { code: 'WRONG_ROLE', message: expect.any(String) } },
      });
    }
  }
  expect(world.asked).toEqual([]);
});

test('a viewer reads what the operator reads, of its own cluster only', async () => {
  const { world, port } = await open();
  const viewer = await world.identity('viewer', 'alice');
  expect(await get(port, '/v1/status', viewer)).toMatchObject({ status: 200 });
  expect(await get(port, '/v1/status', viewer, 'POST')).toMatchObject({ status: 405 });
  const stranger = await world.identity('viewer', 'alice', 'fabrikam');
  expect(await get(port, '/v1/status', stranger)).toMatchObject({ status: 403 });
});

test('what cannot be answered says why', async () => {
  const { world, port } = await open();
  const operator = await world.identity('operator', 'cli');
  const cases: readonly (readonly [path: string, status: number, code: string])[] = [
    ['/v1/messages/NOBODY', 404, 'NO_SUCH_MESSAGE'],
    ['/v1/nothing', 404, 'NO_SUCH_PATH'],
    ['/v1/messages?queue=inbox', 400, 'BAD_PARAMETER'],
    ['/v1/messages?limit=1001', 400, 'BAD_PARAMETER'],
    ['/v1/messages?limit=0', 400, 'BAD_PARAMETER'],
    // Taken for no filter it would match everything.
    ['/v1/messages?sendr=ann@example.org', 400, 'BAD_PARAMETER'],
    ['/v1/messages?nextHop=', 400, 'BAD_PARAMETER'],
    ['/v1/messages?minBytes=10Ki', 400, 'BAD_PARAMETER'],
    ['/v1/safety-net?from=yesterday', 400, 'BAD_PARAMETER'],
    ['/v1/safety-net?from=2&to=1', 400, 'BAD_PARAMETER'],
    ['/v1/safety-net/count?role=both', 400, 'BAD_PARAMETER'],
    ['/v1/known', 400, 'BAD_PARAMETER'],
    [`/v1/known?ids=${Array.from({ length: 201 }, () => 'A').join(',')}`, 400, 'BAD_PARAMETER'],
    ['/v1/outcomes?ids=', 400, 'BAD_PARAMETER'],
    ['/v1/trace', 400, 'BAD_PARAMETER'],
    [`/v1/trace?id=${'x'.repeat(1_001)}`, 400, 'BAD_PARAMETER'],
    [`/v1/trace?${'id=A&'.repeat(201)}`, 400, 'BAD_PARAMETER'],
    ['/v1/trace?id=A&id=', 400, 'BAD_PARAMETER'],
    ['/v1/tracking?sendr=ann@example.org', 400, 'BAD_PARAMETER'],
    ['/v1/tracking?subjectHash=secret', 400, 'BAD_PARAMETER'],
    ['/v1/tracking?from=2&to=1', 400, 'BAD_PARAMETER'],
    ['/v1/tracking?limit=1001', 400, 'BAD_PARAMETER'],
    ['/v1/messages/%E0%A4%A', 400, 'BAD_PARAMETER'],
    ['/v1/messages/BROKEN', 500, 'INTERNAL'],
  ];
  for (const [path, status, code] of cases) {
    expect([path, await get(port, path, operator)]).toMatchObject([path, { status, body: { error: { code } } }]);
  }
  expect(await get(port, '/v1/status', operator, 'DELETE')).toMatchObject({ status: 405 });
  expect(await get(port, '/v1/status', operator)).toMatchObject({ status: 200 });
});
