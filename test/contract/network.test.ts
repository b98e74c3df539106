/** What every implementation of the network port must do: real TLS on loopback and the simulated one pass the same suite. */
import { createHash } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Connection, Listener } from '../../common/platform/net.ts';
import { SeededRandom } from '../sim/scheduler.ts';
import { ACCEPTOR, DIALLER, hear, type NetworkRig, simRig, tlsRig } from './network-rigs.ts';

const implementations: readonly (readonly [string, () => Promise<NetworkRig>])[] = [
  ['TLS on loopback', tlsRig],
  ['simulated', async () => simRig()],
];

const hashOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

describe.each(implementations)('%s', (_name, create) => {
  let rig: NetworkRig;
  let accepted: Connection[];
  let listener: Listener;

  beforeEach(async () => {
    rig = await create();
    accepted = [];
    listener = await rig.accepting.listen({ host: rig.host, port: 0 }, (connection) => accepted.push(connection));
  });
  afterEach(async () => {
    for (const connection of accepted) connection.destroy('the test is over');
    await listener.close();
    await rig.close();
  });

  const dial = async (): Promise<{ near: Connection; far: Connection }> => {
    const near = await rig.settle(rig.dialling.connect({ host: rig.host, port: listener.port }, ACCEPTOR, 5_000));
    await rig.wait('the connection at the other end', () => accepted.length > 0);
    return { near, far: accepted.at(-1) as Connection };
  };

  test('both ends know who the other is', async () => {
    const { near, far } = await dial();
    expect(near.remote).toEqual(ACCEPTOR);
    expect(far.remote).toEqual(DIALLER);
    expect(listener.port).toBeGreaterThan(0);
    expect(near.remoteAddress).not.toBe('');
    near.destroy('done');
  });

  test('bytes arrive whole and in order, both ways at once', async () => {
    const { near, far } = await dial();
    const [atNear, atFar] = [hear(near), hear(far)];
    const random = new SeededRandom(7);
    const bodies = [random.bytes(700_000), random.bytes(300_000)] as const;
    const pour = (connection: Connection, body: Buffer): void => {
      for (let at = 0; at < body.length; at += 30_000) {
        const end = Math.min(at + 30_000, body.length);
        connection.write([body.subarray(at, at + 9), body.subarray(at + 9, end)]);
      }
    };
    pour(near, bodies[0]);
    pour(far, bodies[1]);
    await rig.wait('all bytes', () => atFar.length === 700_000 && atNear.length === 300_000);
    expect(hashOf(atFar.bytes)).toBe(hashOf(bodies[0]));
    expect(hashOf(atNear.bytes)).toBe(hashOf(bodies[1]));
    near.destroy('done');
  });

  test('what came before start is kept', async () => {
    const { near, far } = await dial();
    far.write([Buffer.from('early')]);
    const other = hear(far);
    near.write([Buffer.from('x')]);
    await rig.wait('a byte at the other end', () => other.length === 1);
    const heard = hear(near);
    await rig.wait('the early bytes', () => heard.length === 5);
    expect(heard.bytes.toString()).toBe('early');
    near.destroy('done');
  });

  test('write says false when full, onDrain follows when the other end reads', async () => {
    const { near, far } = await dial();
    const heard = hear(near);
    const slow = hear(far);
    far.pause();
    const block = Buffer.alloc(65_536, 1);
    let written = 0;
    while (near.write([block])) {
      written += block.length;
      if (written > 50_000_000) throw new Error('never full');
      await rig.settle(Promise.resolve());
    }
    written += block.length;
    expect(heard.drains).toBe(0);
    far.resume();
    await rig.wait('drain', () => heard.drains === 1);
    await rig.wait('all bytes', () => slow.length === written);
    expect(near.write([block])).toBe(true);
    near.destroy('done');
  });

  test('a paused end is given nothing until it resumes', async () => {
    const { near, far } = await dial();
    const [atNear, atFar] = [hear(near), hear(far)];
    far.pause();
    near.write([Buffer.from('held')]);
    far.write([Buffer.from('answer')]);
    await rig.wait('the answer', () => atNear.length === 6);
    expect(atFar.length).toBe(0);
    far.resume();
    await rig.wait('the held bytes', () => atFar.length === 4);
    near.destroy('done');
  });

  test('end sends what is queued, then both ends are closed, each told once', async () => {
    const { near, far } = await dial();
    const [atNear, atFar] = [hear(near), hear(far)];
    for (let i = 0; i < 20; i++) near.write([Buffer.alloc(10_000, i)]);
    near.end();
    near.write([Buffer.from('too late')]);
    near.end();
    await rig.wait('both closed', () => atNear.closes.length > 0 && atFar.closes.length > 0);
    expect(atFar.length).toBe(200_000);
    expect(atFar.closes).toEqual(['closed by the other end']);
    expect(atNear.closes).toHaveLength(1);
    near.destroy('again');
    far.destroy('again');
    expect(far.write([Buffer.from('nobody')])).toBe(true);
    await rig.settle(Promise.resolve());
    expect([atNear.closes.length, atFar.closes.length]).toEqual([1, 1]);
  });

  test('destroy tells this end its reason and closes the other', async () => {
    const { near, far } = await dial();
    const [atNear, atFar] = [hear(near), hear(far)];
    far.destroy('we had enough');
    far.destroy('twice');
    await rig.wait('both closed', () => atNear.closes.length > 0 && atFar.closes.length > 0);
    expect(atFar.closes).toEqual(['we had enough']);
    expect(atNear.closes).toHaveLength(1);
  });

  test('one that was destroyed hands over nothing more, whatever is still under way; another between the same ends does', async () => {
    const { near: older, far: olderFar } = await dial();
    const { near: newer } = await dial();
    await rig.wait('the second connection at the other end', () => accepted.length === 2);
    const newerFar = accepted.find((one) => one !== olderFar) as Connection;
    let before = 0;
    let after = 0;
    let isDestroyed = false;
    olderFar.start({
      onData: (chunk) => {
        if (isDestroyed) after += chunk.length;
        before += chunk.length;
        isDestroyed = true;
        olderFar.destroy('replaced');
      },
      onDrain: () => undefined,
      onClose: () => undefined,
    });
    const [end, heard] = [hear(older), hear(newerFar)];
    hear(newer);
    for (let at = 0; at < 20; at++) older.write([Buffer.alloc(50_000)]);
    newer.write([Buffer.alloc(50_000)]);
    await rig.wait(
      'the end of the older and the bytes of the newer one',
      () => end.closes.length > 0 && heard.length === 50_000,
    );
    expect(before).toBeGreaterThan(0);
    expect(before).toBeLessThan(1_000_000);
    expect(after).toBe(0);
  });

  test('one that closed before it was started is told so at start', async () => {
    const { near, far } = await dial();
    const atNear = hear(near);
    far.destroy('early');
    await rig.wait('closed here', () => atNear.closes.length > 0);
    const atFar = hear(far);
    await rig.wait('closed there', () => atFar.closes.length > 0);
    expect(atFar.closes).toHaveLength(1);
  });

  test.each([
    ['name', { role: 'transport', name: 'back-1' }],
    ['role', { role: 'frontend', name: 'back-0' }],
  ] as const)('who expects another %s gets no connection', async (_what, expected) => {
    const connecting = rig.dialling.connect({ host: rig.host, port: listener.port }, expected, 5_000);
    await expect(rig.settle(connecting)).rejects.toMatchObject({ code: 'ERR_PEER_IDENTITY' });
  });

  test('nobody listening is ECONNREFUSED, also after close; existing connections stay', async () => {
    const { near, far } = await dial();
    const atFar = hear(far);
    hear(near);
    await listener.close();
    const connecting = rig.dialling.connect({ host: rig.host, port: listener.port }, ACCEPTOR, 5_000);
    await expect(rig.settle(connecting)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    near.write([Buffer.from('still here')]);
    await rig.wait('bytes on the old connection', () => atFar.length === 10);
    near.destroy('done');
  });

  test('who never answers is ETIMEDOUT', async () => {
    const connecting = rig.dialling.connect(await rig.silent(), ACCEPTOR, 200);
    await expect(rig.settle(connecting)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  });
});
