/**
 * Frames of an older connection that are still under way when a member has connected anew: none is acted upon once the newer session is there (protocol.md 6),
 * whatever arrives when. That a destroyed connection hands over nothing is a promise of the port (test/contract/network.test.ts).
 */
import { expect, test } from 'vitest';
import type { CopyId, Identity } from '../../common/message.ts';
import type { Hello } from '../../common/peer/messages.ts';
import { RawPeer } from '../contract/peer-rig.ts';
import { SimNetwork } from '../sim/net.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { PEER, SELF } from './core-bench.ts';
import { helloOf, sampleEpoch } from './peer-samples.ts';
import { simPeers } from './sim-peers.ts';

/** The lower name dials: this is what it says. */
const hello: Hello = {
  ...helloOf('transport', SELF),
  cluster: 'sim',
  boundary: 'dag/dag1',
  database: { identity: 'A'.repeat(26) as Identity, chain: [{ openCounter: 1, nonce: 'n' }], syncedSequence: 0 },
};
const FRAMES = 20;
const claim = (mark: string) =>
  ({ kind: 'CLAIM', claim: { items: [{ id: mark.padEnd(26, '0') as CopyId, epoch: sampleEpoch }] } }) as const;

/** What the acceptor heard, in order: `session` when a session began, else the first letter of what a frame says. */
async function reconnected(seed: number): Promise<readonly string[]> {
  const scheduler = new Scheduler(seed);
  const network = new SimNetwork(scheduler, { fragmentChance: 0.2 });
  const heard: string[] = [];
  const peers = await simPeers(
    { scheduler, network, member: PEER },
    {
      onMember: () => heard.push('session'),
      onControl: (_session, frame) =>
        heard.push(frame.kind === 'CLAIM' ? (frame.claim.items[0]?.id[0] ?? '') : frame.kind),
    },
  );
  await peers.start();
  const mine = network.host({ role: 'transport', name: SELF }, { alive: true });
  const connect = async (): Promise<RawPeer> => {
    const raw = new RawPeer(
      await scheduler.await(mine.connect({ host: PEER, port: 4_000 }, { role: 'transport', name: PEER }, 2_000)),
    );
    raw.say({ kind: 'HELLO', hello });
    return raw;
  };
  const older = await connect();
  await scheduler.run(() => older.frames.some(({ kind }) => kind === 'WELCOME'), scheduler.nowMs + 5_000);
  const newer = await connect();
  // The older one has not heard that it is over, and goes on.
  for (let number = 0; number < FRAMES; number++) {
    scheduler.schedule(scheduler.random.next() * 4, () => older.say(claim('OLD')));
    scheduler.schedule(5 + scheduler.random.next(), () => newer.say(claim('NEW')));
  }
  await scheduler.run(() => false, scheduler.nowMs + 2_000);
  await peers.stop();
  return heard;
}

test('nothing of the older session is heard once the newer one has begun, and all of the newer one', async () => {
  let cutOff = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const heard = await reconnected(seed);
    const begun = heard.lastIndexOf('session');
    expect(heard.filter((one) => one === 'session')).toHaveLength(2);
    expect(heard.slice(begun)).not.toContain('O');
    expect(heard.slice(begun).filter((one) => one === 'N')).toHaveLength(FRAMES);
    if (heard.filter((one) => one === 'O').length < FRAMES) cutOff += 1;
  }
  // There was something under way, and the newer HELLO overtook it.
  expect(cutOff).toBeGreaterThan(30);
});
