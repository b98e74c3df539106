/** What a session between members carries when there is too much of it (floods towards a member that reads slowly) and when there is nothing to say. */
import { describe, expect, test } from 'vitest';
import type { CopyId, Identity } from '../../common/message.ts';
import type { ControlFrame, Hello } from '../../common/peer/messages.ts';
import { CONTROL_CAP_BYTES } from '../../common/peer/outbox.ts';
import type { OutgoingStreamHandlers } from '../../common/peer/session-api.ts';
import type { Connection } from '../../common/platform/net.ts';
import { RawPeer } from '../contract/peer-rig.ts';
import { SimNetwork } from '../sim/net.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { simTopology } from '../sim/topology.ts';
import { PEER, SELF, sharedOf } from './core-bench.ts';
import { helloOf, sampleEpoch, sampleIdentity, sampleOpen } from './peer-samples.ts';
import { simPeers } from './sim-peers.ts';

const WINDOW_BYTES = 262_144;
const idOf = (number: number): CopyId => `01J${String(number).padStart(23, '0')}` as CopyId;
const unheeded: OutgoingStreamHandlers = {
  onOpenOk: () => undefined,
  onCredit: () => undefined,
  onRefuse: () => undefined,
  onResult: () => undefined,
  onLost: () => undefined,
};
/** What was said outside an event of the scheduler leaves at the end of the tick; only then time may move. */
const flushed = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const theirHello: Hello = {
  ...helloOf('transport', PEER),
  cluster: 'sim',
  boundary: 'dag/dag1',
  database: { identity: 'B'.repeat(26) as Identity, chain: [{ openCounter: 1, nonce: 'n' }], syncedSequence: 0 },
};

/** A page as large as those of a member that comes back to many copies, marked by the id of its first item. */
function page(number: number): ControlFrame {
  const ids = [idOf(number), ...Array.from({ length: 499 }, (_, at) => idOf(1_000_000 + at))];
  const items = ids.map((id) => ({ id, epoch: sampleEpoch }));
  if (number % 3 === 0) return { kind: 'CLAIM', claim: { items } };
  if (number % 3 === 1)
    return {
      kind: 'LIST',
      list: { owner: sampleIdentity, items: items.map((item) => ({ ...item, standing: 'released' })), complete: false },
    };
  const state = { ...sharedOf(idOf(number), { epoch: sampleEpoch }) };
  return { kind: 'STATE', state: { id: idOf(number), verdict: 'pending', state } };
}

function markOf(frame: RawPeer['frames'][number]): CopyId | null {
  if (frame.kind === 'CLAIM') return frame.claim.items[0]?.id ?? null;
  if (frame.kind === 'LIST') return frame.list.items[0]?.id ?? null;
  return frame.kind === 'STATE' ? frame.state.id : null;
}

/** The sessions of `SELF`, which dials `PEER`; the other end is raw and may stop reading. */
async function rig() {
  const scheduler = new Scheduler(7);
  const network = new SimNetwork(scheduler, { fragmentChance: 0 });
  const ends: { readonly connection: Connection; readonly raw: RawPeer }[] = [];
  const theirs = network.host({ role: 'transport', name: PEER }, { alive: true });
  await theirs.listen({ host: PEER, port: 4_000 }, (connection) =>
    ends.push({ connection, raw: new RawPeer(connection) }),
  );
  const gone: string[] = [];
  const peers = await simPeers(
    { scheduler, network, member: SELF },
    { onMemberGone: (member) => gone.push(member) },
    { keepAliveMs: 600_000, deadAfterMs: 1_200_000 },
  );
  const until = async (what: string, condition: () => boolean, spanMs = 60_000): Promise<void> => {
    await flushed();
    if (!(await scheduler.run(condition, scheduler.nowMs + spanMs))) throw new Error(`not reached: ${what}`);
  };
  /** The next connection and its handshake. */
  const connected = async (number: number): Promise<{ readonly connection: Connection; readonly raw: RawPeer }> => {
    await until('connection', () => (ends[number]?.raw.frames.length ?? 0) > 0);
    const end = ends[number];
    if (end === undefined) throw new Error('no connection');
    end.raw.say({ kind: 'WELCOME', hello: theirHello });
    await until('session', () => peers.member(PEER) !== null);
    return end;
  };
  await peers.start();
  return { scheduler, network, peers, gone, until, connected, ends };
}

describe('2. a flood towards a slow member waits in order (else its session ends, again at every contact, and no copy is ever discarded)', () => {
  test('more than the cap of the session: nothing is lost, the order is kept, what is said meanwhile comes last', async () => {
    const { scheduler, peers, gone, until, connected } = await rig();
    const { connection, raw } = await connected(0);
    raw.answers = true;
    const session = peers.member(PEER);
    if (session === null) throw new Error('no session');
    connection.pause();
    const count = 600;
    let most = 0;
    for (let number = 0; number < count; number++) {
      peers.send(PEER, page(number));
      most = Math.max(most, session.queuedBytes);
    }
    // The flood is larger than what the session may hold; what it holds is not.
    expect(JSON.stringify(page(0)).length * (2 / 3) * count).toBeGreaterThan(CONTROL_CAP_BYTES);
    expect(most).toBeLessThan(WINDOW_BYTES + 100_000);
    await flushed();
    await scheduler.run(() => false, scheduler.nowMs + 1_000);
    expect(session.closed).toBe(false);
    connection.resume();
    const arrived = (): number => {
      most = Math.max(most, session.queuedBytes);
      return raw.frames.filter((frame) => markOf(frame) !== null).length;
    };
    // In the midst of draining, when the session itself is empty, more is said: it must not overtake.
    await until('a pause in the midst', () => session.queuedBytes === 0 && arrived() > 0 && arrived() < count);
    for (let number = count; number < count + 30; number++) peers.send(PEER, page(number));
    await until('all of it', () => arrived() >= count + 30);
    expect(most).toBeLessThan(WINDOW_BYTES + 100_000);
    const marks = raw.frames.map(markOf).filter((mark) => mark !== null);
    expect(marks).toEqual(Array.from({ length: count + 30 }, (_, number) => idOf(number)));
    expect(gone).toEqual([]);
    await peers.stop();
  });

  test('a body stands behind no more than the window of what the member has not read yet, however long the flood', async () => {
    const { scheduler, peers, until, connected } = await rig();
    const { raw } = await connected(0);
    const session = peers.member(PEER);
    if (session === null) throw new Error('no session');
    const count = 600;
    for (let number = 0; number < count; number++) peers.send(PEER, page(number));
    await flushed();
    // It takes everything off the network at once, and is busy with the first of it: no PING is answered.
    await scheduler.run(() => false, scheduler.nowMs + 1_000);
    const before = raw.frames.filter((frame) => markOf(frame) !== null).length;
    expect(before).toBeGreaterThan(0);
    expect(JSON.stringify(page(1)).length * (before - 1)).toBeLessThan(WINDOW_BYTES * 1.5);
    session.openStream(sampleOpen, unheeded);
    await until('the body', () => raw.frames.some(({ kind }) => kind === 'OPEN'));
    expect(raw.frames.filter((frame) => markOf(frame) !== null)).toHaveLength(before);
    // It comes to the end of what it has.
    raw.answers = true;
    for (const { kind } of raw.frames) if (kind === 'PING') raw.say({ kind: 'PONG' });
    await until('all of it', () => raw.frames.filter((frame) => markOf(frame) !== null).length === count);
    await peers.stop();
  });

  test('what waited for a session that ended is not said on the next one: it asks and lists anew', async () => {
    const { network, peers, gone, until, connected } = await rig();
    const { connection } = await connected(0);
    connection.pause();
    for (let number = 0; number < 300; number++) peers.send(PEER, page(number));
    await flushed();
    network.reset(SELF, PEER);
    await until('end of the session', () => gone.length > 0);
    const { raw } = await connected(1);
    peers.send(PEER, page(1_000));
    await until('the frame', () => raw.frames.some((frame) => markOf(frame) !== null));
    expect(raw.frames.map(markOf).filter((mark) => mark !== null)).toEqual([idOf(1_000)]);
    await peers.stop();
  });

  test('without a session a frame is dropped: LIST repeats on contact', async () => {
    const { peers } = await rig();
    expect(() => peers.send('nobody', page(1))).not.toThrow();
    await peers.stop();
  });
});

describe('a member that has nothing new to say', () => {
  test('says CONTACT once a heartbeat, though its elapsed time goes on: fifty idle peers cost next to nothing', async () => {
    const { scheduler, connected } = await rig();
    const { heartbeatFrequencyMs } = simTopology({ sites: [2], dag: true, frontends: 1 }).policies.shadowRedundancy;
    const { raw } = await connected(0);
    const contacts = (): number => raw.frames.filter(({ kind }) => kind === 'CONTACT').length;
    const before = contacts();
    const heartbeats = 20;
    await scheduler.run(() => false, scheduler.nowMs + heartbeats * heartbeatFrequencyMs);
    expect(contacts() - before).toBeGreaterThanOrEqual(heartbeats - 1);
    expect(contacts() - before).toBeLessThanOrEqual(heartbeats + 1);
  });
});
