/** The proxy over the simulated network against scripted transports: real peer sessions, credit, replay, RESOLVE, deadlines. */
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { ReceiptCheck } from '../../frontend/receipt-checks.ts';
import { BARE_LF, bodyOf, Client, holdersOf, REPLAY_BYTES, world } from './proxy-world.ts';
import { CALM } from './scripted-transport.ts';

describe('proxy', () => {
  it('streams a message to the transport of its own site and answers 250 with the attempt id', async () => {
    const w = await world();
    const body = bodyOf(500_000);
    const client = new Client(w, body);
    expect(await client.over()).toBe(250);
    const [id, held] = [...w.a.held][0] ?? [null, null];
    expect(id).toMatch(/^[0-9A-HJKMNP-TV-Z]{26}$/);
    expect(client.answer).toMatchObject({ reply: { enhanced: '2.0.0', text: `Ok: queued as ${id}` } });
    expect(held?.body.equals(body)).toBe(true);
    expect(held?.end.digest).toBe(createHash('sha256').update(body).digest('hex'));
    expect(held?.end.events.map((e) => e.event)).toContain('FRONTEND');
    expect(w.b.opens).toEqual([]);
    expect(w.proxy.inFlight).toBe(0);
    expect(w.proxy.replayBufferBytes).toBe(0);
  });

  it('takes an empty message', async () => {
    const w = await world();
    expect(await new Client(w, Buffer.alloc(0)).over()).toBe(250);
  });

  it('holds a client back that is faster than the transport, in bounded memory', async () => {
    const w = await world();
    w.a.script.creditBytes = 4096;
    w.network.clog('f-0', 't-0-0', 20);
    const client = new Client(w, bodyOf(1_000_000), { chunk: 65_536 });
    expect(await client.over()).toBe(250);
    // Replay buffer while whole, then the unsent limit and one chunk.
    expect(client.maxBurst).toBeLessThanOrEqual(REPLAY_BYTES + 65_536);
    expect(client.maxBurst).toBeGreaterThan(65_536);
  });

  it('says 451 when no transport is there', async () => {
    const w = await world(1, { started: false });
    w.proxy.start();
    expect(await new Client(w, bodyOf(10)).over()).toBe(451);
  });

  it('goes to the next transport before the 354: refused, dead, silent', async () => {
    for (const onOpen of ['busy', 'die', 'hang'] as const) {
      const w = await world();
      w.a.script.onOpen = onOpen;
      const body = bodyOf(5000);
      expect(await new Client(w, body).over(), onOpen).toBe(250);
      expect(holdersOf(w, body)).toEqual(['t-1-0']);
      expect(w.b.opens.map((o) => o.try)).toEqual([1]);
      if (onOpen !== 'hang') expect(w.scheduler.nowMs).toBeLessThan(100);
      if (onOpen === 'hang') {
        expect(w.scheduler.nowMs).toBeGreaterThanOrEqual(2_000);
        expect(w.scheduler.nowMs).toBeLessThan(3_000);
      }
    }
  });

  it('relays the refusal of the transport', async () => {
    const w = await world();
    w.a.script.onOpen = 'never';
    expect(await new Client(w, bodyOf(5000)).over()).toBe(552);
    expect(w.b.opens).toEqual([]);
  });

  it('replays a whole body as the next try when the transport dies while streaming', async () => {
    const w = await world();
    w.a.script.atBytes = { bytes: 60_000, what: 'die' };
    const body = bodyOf(200_000);
    expect(await new Client(w, body).over()).toBe(250);
    expect(holdersOf(w, body)).toEqual(['t-1-0']);
    expect(w.b.opens.map((o) => o.try)).toEqual([2]);
    expect(w.b.opens[0]?.id).toBe(w.a.opens[0]?.id);
  });

  it('never gives up the beginning of a body while another transport is still to get it', async () => {
    const w = await world();
    w.a.script.atBytes = { bytes: 200_000, what: 'die' };
    w.a.script.creditBytes = 500_000;
    w.network.clog('f-0', 't-1-0', 300);
    const body = bodyOf(400_000);
    const client = new Client(w, body, { chunk: 4_000 });
    expect(await client.over()).toBe(250);
    expect(client.maxBurst, 'the case is the one meant').toBeGreaterThan(REPLAY_BYTES);
    expect(client.maxBurst).toBeLessThanOrEqual(REPLAY_BYTES + 128 * 1024 + 4_000);
    expect(holdersOf(w, body)).toEqual(['t-1-0']);
  });

  it('says 451 when it dies while streaming and the body is no longer whole', async () => {
    const w = await world();
    w.a.script.atBytes = { bytes: 400_000, what: 'die' };
    const client = new Client(w, bodyOf(600_000));
    expect(await client.over()).toBe(451);
    expect([...w.b.opens, ...w.b.held]).toEqual([]);
    expect(w.proxy.replayBufferBytes).toBe(0);
  });

  it('what is found out about a sender goes with END, to whoever has the body by then; a body that is refused needs none', async () => {
    const found = Promise.withResolvers<readonly string[]>();
    const seen = { bytes: 0, isEnded: false, isAbandoned: false };
    const check: ReceiptCheck = {
      write: ({ length }) => Object.assign(seen, { bytes: seen.bytes + length }).bytes > 0,
      end: () => Object.assign(seen, { isEnded: true }) && found.promise,
      abandon: () => void Object.assign(seen, { isAbandoned: true }),
    };
    const w = await world();
    const client = new Client(w, bodyOf(50_000), { check });
    await w.run(() => seen.isEnded);
    w.a.kill();
    await w.run(() => w.b.opens.length === 1);
    expect([client.code, w.a.held.size, w.b.held.size, seen.bytes]).toEqual([null, 0, 0, 50_000]);
    found.resolve(['mx.example; spf=pass']);
    expect(await client.over()).toBe(250);
    const events = [...w.b.held.values()].flatMap(({ end }) => end.events);
    expect(events.at(-1)).toMatchObject({ event: 'AUTHENTICATION', detail: 'mx.example; spf=pass', source: 'f-0' });

    Object.assign(seen, { isEnded: false, isAbandoned: false });
    expect(await new Client(w, bodyOf(10), { check, rejected: BARE_LF }).over()).toBe(554);
    expect(seen).toMatchObject({ isEnded: false, isAbandoned: true });
  });

  it('cannot replay when all sessions together hold too much', async () => {
    const w = await world(1, { totalReplayBytes: 20_000 });
    w.a.script.atBytes = { bytes: 60_000, what: 'die' };
    expect(await new Client(w, bodyOf(400_000)).over()).toBe(451);
  });

  it('relays a refusal that comes while the body streams, after the client has ended', async () => {
    const w = await world();
    w.a.script.atBytes = { bytes: 30_000, what: 'never' };
    expect(await new Client(w, bodyOf(200_000)).over()).toBe(552);
  });

  it('drops a malformed body: END is never sent', async () => {
    const w = await world();
    expect(await new Client(w, bodyOf(20_000), { rejected: BARE_LF }).over()).toBe(554);
    await w.run(() => w.a.drops.length === 1);
    expect(w.a.ends).toBe(0);
  });

  it('drops when the client vanishes before its end', async () => {
    const w = await world();
    const client = new Client(w, bodyOf(50_000), { abortAt: 20_000 });
    await w.run(() => w.a.drops.length === 1);
    expect(client.answer).toBeNull();
    expect(w.proxy.inFlight).toBe(0);
  });

  it('relays a durable refusal after END', async () => {
    const w = await world();
    w.a.script.onEnd = 'refused';
    expect(await new Client(w, bodyOf(5000)).over()).toBe(451);
    expect(w.b.opens).toEqual([]);
  });

  it('learns by RESOLVE that a transport which died after END holds the message', async () => {
    const w = await world();
    w.a.script.onEnd = 'die-holding';
    const body = bodyOf(5000);
    const client = new Client(w, body);
    await w.run(() => w.a.held.size === 1);
    w.scheduler.schedule(500, () => void w.a.start());
    expect(await client.over()).toBe(250);
    expect(holdersOf(w, body)).toEqual(['t-0-0']);
    expect(w.b.opens).toEqual([]);
  });

  it('replays after RESOLVE said aborted', async () => {
    const w = await world();
    w.a.script.onEnd = 'die-empty';
    const body = bodyOf(5000);
    const client = new Client(w, body);
    await w.run(() => w.a.ends === 1);
    w.a.script.onEnd = 'protected';
    w.scheduler.schedule(300, () => void w.a.start());
    expect(await client.over()).toBe(250);
    const tries = [...w.a.opens, ...w.b.opens].map((o) => o.try).sort();
    expect(tries).toEqual([1, 2]);
    expect(holdersOf(w, body).length).toBe(1);
  });

  it('says 451 after RESOLVE said aborted when the body cannot be replayed', async () => {
    const w = await world();
    w.a.script.onEnd = 'die-empty';
    const client = new Client(w, bodyOf(600_000));
    await w.run(() => w.a.ends === 1);
    w.scheduler.schedule(300, () => void w.a.start());
    expect(await client.over()).toBe(451);
  });

  it('replays to another transport after 2 s of silence', async () => {
    const w = await world();
    w.a.script.onEnd = 'die-holding';
    const client = new Client(w, bodyOf(5000));
    await w.run(() => w.a.held.size === 1);
    const diedAtMs = w.scheduler.nowMs;
    expect(await client.over()).toBe(250);
    expect(client.answeredAtMs - diedAtMs).toBeGreaterThan(1_900);
    expect(client.answeredAtMs - diedAtMs).toBeLessThan(3_000);
    expect(w.b.opens.map((o) => o.try)).toEqual([2]);
  });

  it('closes without a reply when the replay is refused and the first try is unknown', async () => {
    const w = await world();
    w.a.script.onEnd = 'die-holding';
    w.b.script.onEnd = 'refused';
    expect(await new Client(w, bodyOf(5000)).over()).toBe('close');
  });

  it('closes without a reply when nothing can be known and nothing replayed', async () => {
    const w = await world();
    w.a.script.onEnd = 'die-holding';
    expect(await new Client(w, bodyOf(600_000)).over()).toBe('close');
  });

  it('does not believe another volume of the same member', async () => {
    const w = await world();
    w.a.script.onEnd = 'die-holding';
    const client = new Client(w, bodyOf(600_000));
    await w.run(() => w.a.held.size === 1);
    w.a.held.clear();
    w.a.identity = `${w.a.identity}-new` as typeof w.a.identity;
    w.scheduler.schedule(300, () => void w.a.start());
    expect(await client.over()).toBe('close');
    expect(w.a.resolves.length).toBeGreaterThan(0);
  });

  it('keeps asking while the transport is undecided, up to the cap', async () => {
    const w = await world();
    w.a.script.onEnd = 'hang';
    w.a.script.resolve = 'open';
    const client = new Client(w, bodyOf(5000));
    await w.run(() => w.a.ends === 1);
    const endedAtMs = w.scheduler.nowMs;
    w.network.reset('f-0', 't-0-0');
    expect(await client.over()).toBe('close');
    expect(client.answeredAtMs - endedAtMs).toBeGreaterThan(54_000);
    expect(client.answeredAtMs - endedAtMs).toBeLessThan(56_000);
    expect(w.a.resolves.length).toBeGreaterThan(1);
    expect(w.a.resolves.length).toBeLessThan(55_000 / 250 + 10);
    expect(w.b.opens).toEqual([]);
  });

  it('closes at the cap when a living transport never answers', async () => {
    const w = await world();
    w.a.script.onEnd = 'hang';
    const client = new Client(w, bodyOf(5000));
    await w.run(() => w.a.ends === 1);
    const endedAtMs = w.scheduler.nowMs;
    expect(await client.over()).toBe('close');
    expect(client.answeredAtMs - endedAtMs).toBeLessThan(56_000);
  });

  it('says 451 at the cap when a living transport takes no more bytes after the end of data', async () => {
    const w = await world();
    w.a.script.atBytes = { bytes: 1, what: 'stall' };
    // What is over the credit fits into the buffer, so that the client gets to its end of data.
    const client = new Client(w, bodyOf(w.a.script.creditBytes + 100_000));
    const startedAtMs = w.scheduler.nowMs;
    expect(await client.over()).toBe(451);
    expect(client.answeredAtMs - startedAtMs).toBeLessThan(57_000);
    await w.run(() => w.a.drops.length === 1);
    expect(w.a.ends).toBe(0);
    expect(w.proxy.inFlight).toBe(0);
    expect(w.proxy.replayBufferBytes).toBe(0);
  });

  it('joins what a client sends byte by byte, and streams through what is worth a frame', async () => {
    const w = await world();
    const drip = new Client(w, bodyOf(3000), { chunk: 1 });
    expect(await drip.over()).toBe(250);
    expect(w.sent.chunks).toBe(1);
    const body = bodyOf(200_000);
    const slow = new Client(w, body, { chunk: 500 });
    // Long before its end.
    await w.run(() => w.sent.chunks === 3);
    expect(slow.code).toBe(null);
    expect(await slow.over()).toBe(250);
    expect(w.sent.chunks).toBeLessThan(1 + 200_000 / 8192 + 2);
    expect(holdersOf(w, body)).toEqual(['t-0-0']);
  });

  it('notices back pressure and members that leave, and comes back', async () => {
    const w = await world();
    w.a.script.load = { ...CALM, backPressure: 'High' };
    w.a.contact();
    await w.run(() => w.proxy.available === 1);
    expect(w.proxy.pressedBy).toBe(null);
    w.b.script.load = { ...CALM, backPressure: 'High', pressedBy: 'disk, memory' };
    w.b.contact();
    await w.run(() => w.proxy.available === 0);
    expect(w.proxy.pressedBy).toBe('disk, memory, resources');
    // Medium refuses strangers as well: nobody sends a body for nothing.
    w.a.script.load = { ...CALM, backPressure: 'Medium', pressedBy: 'queue' };
    w.a.contact();
    await w.run(() => w.proxy.pressedBy === 'disk, memory, queue');
    w.a.script.load = CALM;
    w.a.contact();
    await w.run(() => w.proxy.available === 1);
    const members = w.topology.members.filter((m) => m.name !== 't-0-0');
    w.proxy.setTopology({ ...w.topology, generation: 2, members });
    expect(w.proxy.available).toBe(0);
    w.proxy.setTopology({ ...w.topology, generation: 3 });
    await w.run(() => w.proxy.available === 1);
    w.a.kill();
    await w.run(() => w.proxy.available === 0);
    void w.a.start();
    await w.run(() => w.proxy.available === 1);
  });

  it('never contradicts what the transports hold, over random deaths', async () => {
    const outcomes = new Map<string, number>();
    for (let seed = 1; seed <= 60; seed++) {
      const w = await world(seed);
      const random = w.scheduler.random.fork();
      w.network.options.resetChance = 0.01;
      const clients: { readonly client: Client; readonly body: Buffer }[] = [];
      for (let i = 0; i < 6; i++) {
        const body = bodyOf(random.integer(1, 400_000));
        body.writeUInt8(i, 0);
        clients.push({ client: new Client(w, body, { chunk: random.integer(1000, 70_000) }), body });
      }
      for (const transport of [w.a, w.b])
        for (let i = 0; i < 2; i++) {
          const atMs = random.integer(1, 60);
          const downMs = random.integer(1, 4_000);
          w.scheduler.schedule(atMs, () => transport.kill());
          w.scheduler.schedule(60 + downMs, () => {
            transport.kill();
            void transport.start();
          });
        }
      await w.run(() => clients.every(({ client }) => client.code !== null));
      for (const { client, body } of clients) {
        const code = client.code;
        outcomes.set(String(code), (outcomes.get(String(code)) ?? 0) + 1);
        const holders = holdersOf(w, body).length;
        if (code === 250) expect(holders, `seed ${seed}: 250 and nobody holds it`).toBeGreaterThan(0);
        else if (code !== 'close') expect(holders, `seed ${seed}: ${code} and somebody holds it`).toBe(0);
      }
      expect(w.proxy.replayBufferBytes).toBe(0);
    }
    expect(outcomes.get('250') ?? 0).toBeGreaterThan(20);
    expect(outcomes.get('451') ?? 0).toBeGreaterThan(5);
  });
});
