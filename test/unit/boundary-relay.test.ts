/**
 * The hop to another boundary (semantics.md D3) against scripted transports on the simulated network: who is asked, under which id and try, what is done about
 * silence, and where a message waits for a boundary that is away.
 */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import type { CopyId } from '../../common/message.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import type { Route } from '../../transport/core/events.ts';
import { BoundaryRelay } from '../../transport/runtime/boundary-relay.ts';
import type { RecipientResult } from '../../transport/runtime/delivery-api.ts';
import type { CopyFacts } from '../../transport/store/database.ts';
import { MemoryDisk, openMemoryStore } from '../../transport/store/memory.ts';
import { ScriptedTransport, simLives } from '../scenario/scripted-transport.ts';
import { SimNetwork } from '../sim/net.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { simTopology } from '../sim/topology.ts';
import { sampleEnvelope } from './peer-samples.ts';

const ID = '01HZZZZZZZZZZZZZZZZZZZZZZC' as CopyId;
const BODY = Buffer.from('Subject: over there\r\n\r\nhello\r\n');
const hashId = (text: string): CopyId =>
  createHash('sha256').update(text).digest('hex').slice(0, 26).toUpperCase() as CopyId;
const digest = createHash('sha256').update(BODY).digest('hex');

/** `t-0-0` relays; there are two transports in each of the sites before it, the last of which is where mail shall go. */
async function bench(change: (document: TopologyDocument) => TopologyDocument = (document) => document) {
  const scheduler = new Scheduler(7);
  const network = new SimNetwork(scheduler, { resetChance: 0 });
  const document = change(simTopology({ sites: [1, 2, 2], dag: false, frontends: 1, hubs: [] }));
  const others = document.members
    .slice(1)
    .map(({ name, address }) => new ScriptedTransport(name, 'sim', address, simLives(network, name)));
  for (const one of others) await one.start();
  const clock = scheduler.clock();
  const bodies = { sent: 0 };
  let trustedMs = 1_000_000;
  const relay = new BoundaryRelay({
    deps: {
      ...{ name: 't-0-0', hostname: 't-0-0', listen: { host: 't-0-0', port: 1 }, uid: 'u', clock },
      ...{ random: scheduler.random, log: silentLogger, metrics: silentMetrics, document },
      network: network.host({ role: 'transport', name: 't-0-0' }, { alive: true }),
      database: await openMemoryStore({ disk: new MemoryDisk(), clock, random: scheduler.random, member: 't-0-0' }),
      delivery: { start: () => undefined, close: () => Promise.resolve() },
      tracking: { record: () => undefined },
      onFatal: (reason) => scheduler.fail(reason),
    },
    document: () => document,
    trustedMs: () => trustedMs,
    hashId,
    bodyOf: () => {
      bodies.sent += 1;
      return { sizeBytes: BODY.length, read: (offset, most) => Promise.resolve(BODY.subarray(offset, offset + most)) };
    },
    damaged: (_id, error) => scheduler.fail(error as Error),
  });
  const stop = (site: number) => ({
    ...{ boundary: `site/site-${site}`, site: `site-${site}` },
    members: [`t-${site}-0`, `t-${site}-1`],
  });
  const route: Extract<Route, { kind: 'boundary' }> = { kind: 'boundary', ...stop(2), before: [stop(1)] };
  interface More {
    mayBeRepeat?: boolean;
    mayBegin?: boolean;
    id?: CopyId;
    recipients?: readonly number[];
  }
  const offer = async ({ mayBeRepeat = false, mayBegin = true, id = ID, recipients = [0, 1] }: More = {}) => {
    const facts: CopyFacts = {
      ...({ id, ancestor: null, kind: 'message', envelope: sampleEnvelope, digest, sizeBytes: BODY.length } as const),
      ...{ acceptedAtMs: 0, takenFrom: null, events: [{ event: 'RECEIVED', atMs: 1, source: 'fe-0' }] },
    };
    const result = Promise.withResolvers<readonly RecipientResult[]>();
    relay.start({ facts, deliveryId: id, mayBeRepeat, route, recipients, mayBegin: () => mayBegin }, result.resolve);
    const results = await scheduler.await(result.promise);
    expect(results.map(({ index }) => index)).toEqual(recipients);
    return results[0] as RecipientResult;
  };
  const named = (name: string): ScriptedTransport => {
    const found = others.find((one) => one.name === name);
    if (found === undefined) throw new Error(`no ${name}`);
    return found;
  };
  const there = others.filter(({ name }) => name.startsWith('t-2-'));
  return {
    ...{ scheduler, relay, offer, named, there, bodies },
    opens: () => others.flatMap(({ name, opens }) => opens.map((open) => ({ name, ...open }))),
    later: (ms: number) => {
      trustedMs += ms;
    },
  };
}

describe('offered and taken', () => {
  test('two copies over there make it relayed; the first offer is the first try', async () => {
    const { offer, opens, there } = await bench();
    expect(await offer()).toMatchObject({
      kind: 'relayed',
      reply: expect.stringMatching(/^250 2\.0\.0 protected at t-2-/),
    });
    expect(opens()).toMatchObject([{ try: 1 }]);
    const [held] = there.flatMap((one) => [...one.held.values()]);
    expect(held).toMatchObject({ body: BODY, envelope: { recipients: sampleEnvelope.recipients } });
    // Where it was goes along, and the id by which stores know it.
    expect(held?.end.events).toMatchObject([
      { event: 'RECEIVED' },
      { event: 'CROSSED', source: 'site/site-0', detail: ID },
      { event: 'PARENT', source: 'site/site-0', detail: ID },
    ]);
  });

  test('who may have been offered it before offers a try above, under the same id', async () => {
    const { offer, opens, later } = await bench();
    await offer();
    later(5_000);
    await offer({ mayBeRepeat: true });
    const [first, second] = opens();
    expect(second?.id).toBe(first?.id);
    expect([first?.try, second?.try]).toEqual([1, 1_005_000]);
  });

  test('members take turns, and who has less to do comes first', async () => {
    const { offer, there, opens, named, scheduler } = await bench();
    const ids = Array.from({ length: 20 }, (_, number) => hashId(`${number}`));
    for (const id of ids) await offer({ id });
    for (const { name } of there) expect(opens().filter((one) => one.name === name).length).toBeGreaterThan(3);
    const busy = named('t-2-0');
    busy.script.load = { ...busy.script.load, queued: 500 };
    busy.contact();
    await scheduler.run(() => false, scheduler.nowMs + 1_000);
    const before = busy.opens.length;
    for (const id of ids) await offer({ id, mayBeRepeat: true });
    expect(busy.opens).toHaveLength(before);
  });

  test('nothing is begun of what must not begin any more', async () => {
    const { offer, opens } = await bench();
    expect(await offer({ mayBegin: false })).toMatchObject({ kind: 'withheld' });
    expect(opens()).toEqual([]);
  });

  test('who is busy is passed over; too large is for good', async () => {
    const { offer, there } = await bench();
    for (const one of there) one.script.onOpen = 'busy';
    expect(await offer()).toMatchObject({ kind: 'deferred', scope: 'host', reply: expect.stringContaining('is full') });
    for (const one of there) expect(one.opens).toHaveLength(1);
    for (const one of there) one.script.onOpen = 'never';
    expect(await offer()).toMatchObject({ kind: 'failed', reply: { code: 552, enhanced: '5.3.4' } });
  });
});

describe('silence', () => {
  test('an end without an answer is asked about, and offered again only when nobody has it', async () => {
    const { offer, there, scheduler, opens } = await bench();
    for (const one of there) one.script.onEnd = 'die-holding';
    expect(await offer()).toMatchObject({ kind: 'unknown' });
    const [taker] = there.filter((one) => one.held.size > 0);
    await taker?.start();
    await scheduler.run(() => false, scheduler.nowMs + 1_000);
    expect(await offer()).toMatchObject({ kind: 'relayed', reply: expect.stringMatching(/protected at/) });
    expect(opens()).toHaveLength(1);
    expect(taker?.resolves).toMatchObject([{ through: 1 }]);
  });

  test('who was offered together and is unanswered stays together', async () => {
    const { offer, there, scheduler, opens } = await bench();
    for (const one of there) one.script.onEnd = 'die-holding';
    expect(await offer({ recipients: [0] })).toMatchObject({ kind: 'unknown' });
    for (const one of there) {
      one.kill();
      one.script.onEnd = 'protected';
      await one.start();
    }
    await scheduler.run(() => false, scheduler.nowMs + 1_000);
    expect(await offer()).toMatchObject({ kind: 'relayed' });
    // The first is asked about, the second a message of its own.
    const held = there.flatMap((one) => [...one.held.values()]);
    expect(held.map(({ envelope }) => envelope.recipients.map(({ address }) => address)).sort()).toEqual(
      sampleEnvelope.recipients.map(({ address }) => [address]).sort(),
    );
    expect(opens()).toHaveLength(2);
  });

  test('what came to nothing there is offered again as a higher try of the same', async () => {
    const { offer, there, scheduler, opens } = await bench();
    for (const one of there) one.script.onEnd = 'die-empty';
    expect(await offer()).toMatchObject({ kind: 'unknown' });
    for (const one of there) {
      one.kill();
      one.script.onEnd = 'protected';
      await one.start();
    }
    await scheduler.run(() => false, scheduler.nowMs + 1_000);
    expect(await offer()).toMatchObject({ kind: 'relayed' });
    const [first, second] = opens();
    expect(second?.id).toBe(first?.id);
    expect(second?.try).toBe(1_000_000);
    expect(there.flatMap(({ held }) => [...held])).toHaveLength(1);
  });

  test('a refusal after the end is durable there: again later, not as the same try', async () => {
    const { offer, there, opens } = await bench();
    for (const one of there) one.script.onEnd = 'refused';
    expect(await offer()).toMatchObject({ kind: 'deferred', scope: 'message' });
    for (const one of there) one.script.onEnd = 'protected';
    expect(await offer()).toMatchObject({ kind: 'relayed' });
    expect(opens().map((one) => one.try)).toEqual([1, 1_000_000]);
  });

  test('a clock that is behind: who refuses a try says how far, and the next is above', async () => {
    const { offer, there } = await bench();
    await offer();
    const [taker] = there.filter((one) => one.held.size > 0);
    for (const one of there) for (const id of taker?.held.keys() ?? []) one.abortedThrough.set(id, 9_000_000);
    expect(await offer({ mayBeRepeat: true })).toMatchObject({ kind: 'deferred', scope: 'message' });
    expect(await offer({ mayBeRepeat: true })).toMatchObject({ kind: 'relayed' });
    expect(there.flatMap(({ opens }) => opens.map((one) => one.try))).toContain(9_000_001);
  });

  test('a shadow alone is no two copies: it waits for what its owner says', async () => {
    const { offer, there } = await bench();
    for (const one of there) {
      one.script.onEnd = 'owned';
      one.script.resolve = 'stored';
    }
    expect(await offer()).toMatchObject({ kind: 'deferred', scope: 'message' });
    // Undecided is not taken (seed 1019 with links lost a message by it).
    for (const one of there) one.script.resolve = 'open';
    expect(await offer()).toMatchObject({ kind: 'unknown' });
    for (const one of there) one.script.resolve = 'final';
    expect(await offer()).toMatchObject({ kind: 'relayed', reply: expect.stringMatching(/^250 2\.0\.0 final at/) });
  });
});

describe('away', () => {
  test('where nobody can be reached it waits at the stop before, under an id of its own there', async () => {
    const { offer, there, opens } = await bench();
    for (const one of there) one.kill();
    expect(await offer()).toMatchObject({ kind: 'relayed', reply: expect.stringMatching(/protected at t-1-/) });
    expect(opens()).toMatchObject([{ name: expect.stringMatching(/^t-1-/) }]);
  });

  test('who may have it is not passed by', async () => {
    const { offer, there, named } = await bench();
    for (const one of there) one.script.onEnd = 'die-holding';
    expect(await offer()).toMatchObject({ kind: 'unknown' });
    for (const one of there) one.kill();
    expect(await offer()).toMatchObject({ kind: 'deferred', scope: 'host' });
    for (const name of ['t-1-0', 't-1-1']) expect(named(name).opens).toEqual([]);
  });

  test('nobody on the way: it stays, and the reason is that of where it should go', async () => {
    const { offer, named } = await bench();
    for (const name of ['t-1-0', 't-1-1', 't-2-0', 't-2-1']) named(name).kill();
    expect(await offer()).toMatchObject({
      kind: 'deferred',
      scope: 'host',
      reply: expect.stringMatching(/^451 4\.4\.1 t-2-/),
    });
  });

  test('an older version refuses the session: it waits, and a person can read why', async () => {
    const { offer, named } = await bench();
    for (const name of ['t-1-0', 't-1-1', 't-2-0', 't-2-1'])
      named(name).script.refuses = 'not a member of this boundary';
    const said = await offer();
    expect(said).toMatchObject({ kind: 'deferred', scope: 'host' });
    expect((said as { readonly reply: string }).reply).toMatch(
      /^451 4\.4\.1 t-2-.: refused by the peer: not a member of this boundary: says t-2-. \(its version is older than this one, or its topology document has no site links yet\)$/,
    );
  });
});

describe('sessions', () => {
  test('one for all that goes to a member, closed when nothing went for a minute', async () => {
    const { offer, scheduler, named } = await bench((document) => ({
      ...document,
      members: document.members.filter(({ name }) => name !== 't-2-1'),
    }));
    const taker = named('t-2-0');
    const ids = Array.from({ length: 8 }, (_, number) => hashId(`${number}`));
    await Promise.all(ids.map((id) => offer({ id })));
    expect(taker.sessions).toBe(1);
    await scheduler.run(() => false, scheduler.nowMs + 59_000);
    expect(taker.openSessions).toBe(1);
    await scheduler.run(() => false, scheduler.nowMs + 2_000);
    expect(taker.openSessions).toBe(0);
    await offer({ mayBeRepeat: true });
    expect(taker.sessions).toBe(2);
  });

  test('a question that nobody answers ends with its time', async () => {
    const { offer, there, scheduler } = await bench();
    for (const one of there) {
      one.script.onEnd = 'owned';
      one.script.resolve = 'hang';
    }
    const beganMs = scheduler.nowMs;
    expect(await offer()).toMatchObject({ kind: 'unknown' });
    expect(scheduler.nowMs - beganMs).toBeLessThan(7_000);
  });

  test('stopping ends what is open', async () => {
    const { relay, offer, there, scheduler } = await bench();
    for (const one of there) one.script.onEnd = 'hang';
    scheduler.schedule(1_000, () => void relay.stop());
    expect(await offer()).toMatchObject({ kind: 'unknown' });
    expect(scheduler.nowMs).toBeLessThan(2_000);
  });
});
