/** Orders of people: what may be, what they come to, that a crash between any two of their files loses nothing; and the volumes. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { MemberConfig, TopologyDocument } from '../../common/config.ts';
import type { CopyId, Identity } from '../../common/message.ts';
import { OrderBook } from '../../operator/local/order-book.ts';
import {
  acceptance,
  admit,
  decisionsOf,
  type Order,
  orderFile,
  parseOrder,
  requestsOf,
} from '../../operator/local/orders.ts';
import { prepareStateDirectory, type StatePaths, statePaths } from '../../operator/local/state-directory.ts';
import {
  identityIn,
  knownIdentities,
  recordIdentity,
  setAside,
  setAsideRetired,
} from '../../operator/local/volumes.ts';
import type { ResubmitRequest } from '../../operator/resource/generated.ts';

const NOW_MS = Date.UTC(2026, 0, 2, 3, 4, 5);
const ONE = '01JABCDEFGHJKMNPQRSTVWXYZ1' as Identity;
const TWO = '01JABCDEFGHJKMNPQRSTVWXYZ2' as Identity;

let root = '';
let paths: StatePaths = statePaths('/nowhere');
const said: string[] = [];

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'mailcluster-orders-'));
  paths = statePaths(root);
  await prepareStateDirectory(paths);
  said.length = 0;
});
afterEach(async () => {
  await rm(root, { recursive: true, force: true });
});

const member = (name: string, state: MemberConfig['state'] = 'active'): MemberConfig => ({
  name,
  dag: 'dag1',
  site: 'seattle',
  boundary: 'dag/dag1',
  address: { host: 'h', port: 1 },
  state,
});

function document(...members: readonly MemberConfig[]): TopologyDocument {
  const found = { generation: 3, members, databases: [{ name: 'db01' }], retired: [], resubmitRequests: [] };
  return found as unknown as TopologyDocument;
}

const drain = (name: string, atMs = 1, id = `drain-${name}`): Order => ({
  kind: 'member',
  id,
  atMs,
  member: name,
  state: 'draining',
});
const active = (name: string, atMs = 9): Order => ({
  kind: 'member',
  id: `active-${name}`,
  atMs,
  member: name,
  state: 'active',
});
const gone = (name: string, order = `drain-${name}`): Order => ({
  kind: 'gone',
  id: `gone-${name}`,
  atMs: 5,
  member: name,
  order,
  identity: ONE,
});
const lost = (name: string, identity = TWO): Order => ({
  kind: 'lost',
  id: `lost-${name}`,
  atMs: 2,
  member: name,
  identity,
  why: 'it does not answer',
});
const message = (n: number, action: 'resume' | 'remove' = 'resume', atMs = n): Order => ({
  kind: 'message',
  id: `message-${n}`,
  atMs,
  message: `01J${String(n).padStart(23, '0')}` as CopyId,
  action,
  by: 'ann',
});
const queue = (action: 'suspend' | 'resume' | 'retry', name: string, atMs = 1): Order => ({
  ...{ kind: 'queue', id: `${action}-${name}`, atMs, queue: name, action, by: 'ann' },
});
const cancel = (request: string): Order => ({ kind: 'cancel', id: 'cancel', atMs: 3, request });
const resubmit = (name: string, database = 'db01', atMs = 2): Order => ({
  kind: 'resubmit',
  id: `resubmit-${name}`,
  atMs,
  resource: {
    apiVersion: 'mailcluster.dev/v1alpha1',
    kind: 'ResubmitRequest',
    metadata: { name, namespace: 'default', labels: {}, annotations: {} },
    spec: {
      clusterRef: { name: 'contoso' },
      selector: { database },
      window: { from: '2026-01-02T03:00:00Z' },
      reason: 'Manual',
      dryRun: false,
      cancel: false,
    },
  } as ResubmitRequest,
});

describe('orders about delivery queues', () => {
  it('keep the last word about suspension, and retries beside it', () => {
    const given = [queue('retry', 'q', 2), queue('suspend', 'q', 1)];
    expect(new Set(given.map(orderFile))).toEqual(new Set(['queue-q.json', 'retry-q.json']));
    expect(orderFile(queue('resume', 'q'))).toBe('queue-q.json');
    expect(orderFile(queue('suspend', 'mailbox:db01/sea'))).toBe('queue-mailbox%3Adb01%2Fsea.json');
    expect(decisionsOf(given).queues).toEqual([
      { id: 'suspend-q', queue: 'q', action: 'suspend', by: 'ann' },
      { id: 'retry-q', queue: 'q', action: 'retry', by: 'ann' },
    ]);
  });

  it('are bounded in the document, but what is suspended is never forgotten', () => {
    const suspended = Array.from({ length: 150 }, (_, n) => queue('suspend', `s${n}`, n));
    const retried = Array.from({ length: 300 }, (_, n) => queue('retry', `r${n}`, 1_000 + n));
    const { queues } = decisionsOf([...suspended, ...retried]);
    expect(queues.filter(({ action }) => action === 'suspend')).toHaveLength(150);
    expect(queues.filter(({ action }) => action === 'retry').map(({ queue: name }) => name)).toEqual(
      retried.slice(100).map((one) => (one.kind === 'queue' ? one.queue : '')),
    );
  });

  it('say what is wrong with them', () => {
    const parse = (order: object) => parseOrder(order, () => 'none');
    expect(parse(queue('suspend', 'q'))).toEqual(queue('suspend', 'q'));
    expect(parse({ ...queue('suspend', 'q'), action: 'drop' })).toBe('action: suspend, resume, retry');
    expect(parse({ ...queue('suspend', 'q'), queue: 7 })).toBe('queue: not a text');
    expect(parse({ ...message(1), action: 'drop' })).toBe('action: suspend, resume, remove, removeWithNdr, redirect');
    expect(parse({ ...message(1), action: 'suspend' })).toMatchObject({ action: 'suspend' });
  });
});

describe('what is admitted', () => {
  const three = document(member('a'), member('b'), member('c'));
  const reasons = (found: TopologyDocument, ...orders: readonly Order[]) =>
    admit(found, orders).refused.map(({ order, reason }) => `${order.id}: ${reason}`);

  it('is every order before there is a document', () => {
    expect(admit(null, [drain('a'), lost('x')]).refused).toEqual([]);
  });

  it('are drains, but not of the last active member, also when all are given at once', () => {
    const { accepted, refused } = admit(three, [drain('c', 3), drain('b', 2), drain('a', 1)]);
    expect(accepted.map(({ id }) => id)).toEqual(['drain-a', 'drain-b']);
    expect(refused).toMatchObject([
      {
        order: { id: 'drain-c' },
        reason: expect.stringMatching(/^c is the last active member of dag\/dag1 \(a is draining, b is draining\)/),
      },
    ]);
  });

  it('are orders about delivery queues that can be, or that stand in the document', () => {
    const databases = [{ name: 'db01', copies: [{ name: 'sea' }] }];
    const sendConnectors = [
      { name: 'out', mx: null },
      { name: 'world', mx: {} },
    ];
    const queueOrders = [{ id: 'x', queue: 'mailbox:gone/sea', action: 'suspend', by: 'ann' }];
    const found = { ...three, databases, sendConnectors, queueOrders } as unknown as TopologyDocument;
    const own = ['mailbox:db01/sea', 'connector:out', 'connector:world/example.org'];
    expect(reasons(found, ...own.map((name) => queue('suspend', name)))).toEqual([]);
    expect(reasons(found, queue('resume', 'mailbox:gone/sea'))).toEqual([]);
    // No pattern, and no domain as somebody else writes it: it would be suspended in vain.
    const never = ['connector:world/*', 'connector:world/Example.org', 'connector:world/@example.org'];
    const wrong = [
      ...['mailbox:db01/pdx', 'connector:out/example.org', 'connector:world', 'connector:world/', 'shadow'],
      ...never,
    ];
    const known = 'there is mailbox:db01/sea, connector:out, connector:world/DOMAIN';
    expect(reasons(found, ...wrong.map((name) => queue('suspend', name)))).toEqual(
      [...wrong].sort().map((name) => `suspend-${name}: there can be no delivery queue ${name}; ${known}`),
    );
    expect(reasons(found, queue('suspend', 'mailbox:gone/sea'))).toHaveLength(1);
  });

  it('are redirections between members of one boundary, to one that is active', () => {
    const far = { ...member('d'), boundary: 'dag/dag2' };
    const leaving = member('e', 'draining');
    const found = { ...three, members: [...three.members, far, leaving, member('f', 'gone')] } as TopologyDocument;
    const redirect = (from: string, to: string) => {
      const id = `${from}-${to}`;
      return {
        kind: 'message',
        id,
        atMs: 1,
        message: '01JABCDEFGHJKMNPQRSTVWXYZ0' as CopyId,
        action: 'redirect',
        from,
        to,
        by: 'ann',
      } as const;
    };
    const said = (from: string, to: string): string => reasons(found, redirect(from, to)).join();
    expect([said('a', 'b'), said('e', 'b')]).toEqual(['', '']);
    expect(said('a', 'a')).toBe('a-a: a has the message already; name another member');
    expect(said('a', 'd')).toBe('a-d: d is in dag/dag2, and a message of a stays in dag/dag1; name a member of that');
    expect(said('a', 'e')).toBe('a-e: e is draining and takes nothing; name an active member');
    expect(said('a', 'f')).toBe('a-f: there is no member f; there is a, b, c, d');
    expect(said('x', 'b')).toBe('x-b: there is no member x from which a message could be redirected');
    // It was good when it was given.
    const { kind: _, atMs: __, ...standing } = redirect('a', 'e');
    expect(reasons({ ...found, messageOrders: [standing] }, redirect('a', 'e'))).toEqual([]);
    expect(parseOrder({ ...redirect('a', 'b'), to: undefined }, () => 'none')).toBe('from, to: names of members');
  });

  it('is a drain again once another was cancelled', () => {
    expect(reasons(document(member('a', 'draining'), member('b')), active('a', 1), drain('b', 2))).toEqual([]);
    expect(reasons(document(member('a', 'draining'), member('b')), drain('a', 1), drain('b', 2))).toHaveLength(1);
  });

  it('is what is in the document already, although it could not be given any more', () => {
    expect(reasons(document(member('a', 'draining'), member('b', 'gone')), drain('a'), drain('b'), gone('b'))).toEqual(
      [],
    );
  });

  it('is nothing about members, requests and databases that are not there', () => {
    expect(reasons(three, drain('x'), lost('y'), cancel('z'), resubmit('again', 'db02'))).toEqual([
      'drain-x: there is no member x',
      'lost-y: there is no member y',
      'resubmit-again: there is no database db02; there is db01',
      'cancel: there is no resubmit request z that could be cancelled',
    ]);
  });

  it('is one request under a name', () => {
    const other = { name: 'again', createdAtMs: 1 } as TopologyDocument['resubmitRequests'][number];
    const found = { ...three, resubmitRequests: [other] };
    expect(reasons(found, resubmit('again'))).toEqual([
      'resubmit-again: there is a resubmit request again already; choose another name',
    ]);
    expect(reasons(found, resubmit('again', 'db01', 1), cancel('again'))).toEqual([]);
  });
});

describe('what orders come to', () => {
  it('are states, retired databases, cancelled and wanted requests', () => {
    const found = decisionsOf([drain('a'), drain('b'), gone('b'), active('c'), lost('c'), cancel('again')]);
    expect([...found.members]).toEqual([
      ['a', 'draining'],
      ['b', 'gone'],
    ]);
    expect(found.retired).toEqual([
      { member: 'b', identity: ONE, uid: null, reason: 'drained' },
      { member: 'c', identity: TWO, uid: null, reason: 'lost' },
    ]);
    expect([...found.cancelled]).toEqual(['again']);
    expect(requestsOf([resubmit('again')])).toMatchObject([
      { createdAtMs: 2, request: { metadata: { name: 'again' } } },
    ]);
  });

  it('of a drain that was cancelled while its end was written is nothing: that database lives on', () => {
    expect(decisionsOf([active('a'), gone('a')])).toMatchObject({ members: new Map(), retired: [] });
    expect(decisionsOf([drain('a', 7, 'another'), gone('a')])).toMatchObject({
      members: new Map([['a', 'draining']]),
      retired: [],
    });
  });

  it('about messages are in the document, the newest of very many', () => {
    const orders = Array.from({ length: 700 }, (_, n) => message(n, n % 2 === 0 ? 'resume' : 'remove', 1_000 - n));
    const { messages } = decisionsOf(orders);
    expect(messages).toHaveLength(500);
    expect(messages.at(-1)).toEqual({
      id: 'message-0',
      message: '01J00000000000000000000000',
      action: 'resume',
      by: 'ann',
    });
    for (const wrong of [{ action: 'drop' }, { message: '../x' }, { by: 7 }])
      expect(parseOrder({ ...message(1), ...wrong }, () => 'no')).toBeTypeOf('string');
  });

  it('is told to the person', () => {
    const orders = [drain('a'), active('a'), lost('a'), cancel('again'), resubmit('again'), message(1, 'remove')];
    expect(orders.map((order) => acceptance(order, 4))).toEqual([
      'a is draining since topology generation 4',
      'a is active since topology generation 4',
      `queue database ${TWO} of a is lost since topology generation 4`,
      'resubmit request again is cancelled since topology generation 4',
      'resubmit request again is there since topology generation 4',
      '01J00000000000000000000001: remove ordered in topology generation 4; its owner carries it out',
    ]);
  });
});

describe('the book of orders', () => {
  const book = () => new OrderBook(paths, (line) => said.push(line));

  it('gives back what was written, of every kind', async () => {
    const orders = [drain('a'), gone('a'), lost('a'), cancel('again'), resubmit('again'), message(7)];
    for (const order of orders) await book().write(order);
    const byId = (a: Order, b: Order): number => (a.id < b.id ? -1 : 1);
    const found = [...(await book().read())].sort(byId);
    expect([...orders].sort(byId)).toMatchObject(found);
    expect(found).toHaveLength(orders.length);
    expect(said).toEqual([]);
  });

  it('notices every change, and only changes', async () => {
    const empty = await book().signature();
    await book().write(drain('a'));
    const first = await book().signature();
    expect(first).not.toBe(empty);
    expect(await book().signature()).toBe(first);
    await book().write(active('a'));
    const second = await book().signature();
    expect(second).not.toBe(first);
    await book().answer({ id: 'x', ok: true, text: 'fine' });
    expect(await book().signature()).toBe(second);
  });

  it('removes an order only while it is that one', async () => {
    await book().write(active('a'));
    await book().remove(drain('a'));
    expect(await book().read()).toHaveLength(1);
    await book().remove(active('a'));
    expect(await book().read()).toEqual([]);
  });

  it('keeps answers until they are forgotten', async () => {
    expect(await book().answerTo('x')).toBe(null);
    await book().answer({ id: 'x', ok: false, text: 'no' });
    expect(await book().answerTo('x')).toEqual({ id: 'x', ok: false, text: 'no' });
    await book().forgetAnswer('x');
    expect(await book().answerTo('x')).toBe(null);
  });

  it('names files that are no orders once, and leaves them and the others alone', async () => {
    await book().write(drain('a'));
    const wrong: Readonly<Record<string, string>> = {
      'half.json': '{"kind":"mem',
      'member-b.json': JSON.stringify({ ...drain('c') }),
      'member-d.json': JSON.stringify({ ...drain('d'), state: 'asleep' }),
      'what.json': JSON.stringify({ kind: 'what', id: 'x', atMs: 1 }),
      [`lost-${ONE}.json`]: JSON.stringify({ ...lost('a', ONE), identity: 'IDENTITY' }),
      'resubmit-again.json': JSON.stringify({ ...resubmit('again'), resource: { kind: 'ResubmitRequest' } }),
      'resubmit-late.json': JSON.stringify({
        ...resubmit('late'),
        resource: {
          apiVersion: 'mailcluster.dev/v1alpha1',
          kind: 'ResubmitRequest',
          metadata: { name: 'late' },
          spec: {
            clusterRef: { name: 'c' },
            selector: { sender: 'a@x' },
            window: { from: '2026-01-02T03:00:00Z', to: '2026-01-02T02:00:00Z' },
          },
        },
      }),
    };
    for (const [name, text] of Object.entries(wrong)) await writeFile(join(paths.orders, name), text);
    const one = book();
    expect(await one.read()).toEqual([drain('a')]);
    expect(await one.read()).toEqual([drain('a')]);
    expect(said).toHaveLength(Object.keys(wrong).length);
    expect(said.join('\n')).toMatch(/half\.json is no order and not used: .*not JSON/);
    expect(said.join('\n')).toMatch(/member-b\.json is no order and not used: it is member-c\.json/);
    expect(said.join('\n')).toMatch(/resubmit-late\.json .*window\.to is not after window\.from/);
    expect(await readdir(paths.orders)).toHaveLength(Object.keys(wrong).length + 2);
  });

  it('has no half-written order: a temporary file is not read', async () => {
    await writeFile(join(paths.orders, '.1.member-a.json.tmp'), JSON.stringify(drain('a')));
    expect(await book().read()).toEqual([]);
    expect(orderFile(drain('a'))).toBe('member-a.json');
  });
});

describe('volumes', () => {
  const LOST = [{ member: 'a', identity: ONE, uid: null, reason: 'lost' }] as const;

  /** As transport/store/identity-file.ts writes it. */
  async function volume(name: string, identity: string | null): Promise<void> {
    await mkdir(paths.queue(name), { recursive: true });
    const header =
      identity === null
        ? 'rubbish'
        : `mailcluster queue database\n${JSON.stringify({ version: 1, identity, member: name })}\n`;
    await writeFile(join(paths.queue(name), 'identity'), Buffer.concat([Buffer.alloc(8, 1), Buffer.from(header)]));
    await writeFile(join(paths.queue(name), 'segment-1'), 'mail');
  }

  it('know whose database lies in a directory', async () => {
    await volume('a', ONE);
    expect(await identityIn(paths.queue('a'))).toBe(ONE);
    expect(await identityIn(paths.queue('nobody'))).toBe(null);
  });

  it('remember every identity of a member with the time it was first heard', async () => {
    expect(await knownIdentities(paths, 'a')).toEqual([]);
    await recordIdentity(paths, 'a', ONE, 1);
    await recordIdentity(paths, 'a', ONE, 2);
    await recordIdentity(paths, 'a', TWO, 3);
    expect(await knownIdentities(paths, 'a')).toEqual([
      { identity: ONE, sinceMs: 1 },
      { identity: TWO, sinceMs: 3 },
    ]);
  });

  it('of a retired database are set aside whole, with the reason, and never twice', async () => {
    await volume('a', ONE);
    const aside = await setAsideRetired(paths, 'a', LOST, NOW_MS);
    expect(aside).toBe(`${paths.queue('a')}.lost-1`);
    expect(await readFile(join(aside ?? '', 'segment-1'), 'utf8')).toBe('mail');
    expect(await setAsideRetired(paths, 'a', LOST, NOW_MS)).toBe(null);
    // Interrupted before the member started: the empty directory stays; a restored old copy goes aside as well.
    await mkdir(paths.queue('a'));
    expect(await setAsideRetired(paths, 'a', LOST, NOW_MS)).toBe(null);
    await rm(paths.queue('a'), { recursive: true });
    await volume('a', ONE);
    expect(await setAsideRetired(paths, 'a', LOST, NOW_MS)).toBe(`${paths.queue('a')}.lost-2`);
    expect(await setAside(paths.queue('a'), 'a')).toMatchObject([
      {
        member: 'a',
        reason: 'lost',
        identity: ONE,
        at: '2026-01-02T03:04:05.000Z',
        why: expect.stringContaining('lost'),
      },
      { reason: 'lost' },
    ]);
  });

  it('of a living database stay, whatever was known before', async () => {
    await recordIdentity(paths, 'a', ONE, 1);
    await volume('a', TWO);
    expect(await setAsideRetired(paths, 'a', LOST, NOW_MS)).toBe(null);
    expect(await identityIn(paths.queue('a'))).toBe(TWO);
  });

  it('with an unreadable header are what the member was last known by', async () => {
    await volume('a', null);
    expect(await setAsideRetired(paths, 'a', LOST, NOW_MS)).toBe(null);
    await recordIdentity(paths, 'a', ONE, 1);
    expect(await setAsideRetired(paths, 'a', LOST, NOW_MS)).toBe(`${paths.queue('a')}.lost-1`);
  });

  it('that a transport fenced are listed with its words, also when they cannot be read', async () => {
    await mkdir(`${paths.queue('a')}.fenced-1`, { recursive: true });
    await mkdir(`${paths.queue('a')}.fenced-2`, { recursive: true });
    await writeFile(
      join(`${paths.queue('a')}.fenced-1`, 'fenced.json'),
      JSON.stringify({ why: 'old copy', identity: TWO, at: 'then' }),
    );
    await writeFile(join(`${paths.queue('a')}.fenced-2`, 'fenced.json'), '{');
    expect(await setAside(paths.queue('a'), 'a')).toEqual([
      {
        member: 'a',
        directory: `${paths.queue('a')}.fenced-1`,
        reason: 'fenced',
        identity: TWO,
        why: 'old copy',
        at: 'then',
      },
      {
        member: 'a',
        directory: `${paths.queue('a')}.fenced-2`,
        reason: 'fenced',
        identity: null,
        why: expect.stringContaining('cannot be read'),
        at: null,
      },
    ]);
  });
});
