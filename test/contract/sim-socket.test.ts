/** The simulated TCP connection of SMTP clients (`test/sim/sim-socket.ts`) does what the sockets do that it stands for. */
import { describe, expect, it } from 'vitest';
import type { Incarnation } from '../sim/incarnation.ts';
import { Scheduler, SeededRandom } from '../sim/scheduler.ts';
import { SimSocket } from '../sim/sim-socket.ts';

interface End {
  readonly socket: SimSocket;
  readonly life: Incarnation;
  /** `data`, `end`, `error CODE`, `close` as they came; data joined. */
  readonly heard: string[];
}

interface Rig {
  readonly scheduler: Scheduler;
  readonly client: End;
  readonly server: End;
  run(ms?: number): Promise<void>;
}

function rig(seed = 1): Rig {
  const scheduler = new Scheduler(seed);
  const wire = { scheduler, random: new SeededRandom(seed) };
  const end = (): End => {
    const life = { alive: true };
    const socket = new SimSocket(wire, life, { address: '10.0.0.1', port: 1 });
    const heard: string[] = [];
    socket.on('data', (chunk: Buffer) => {
      if (heard.at(-1)?.startsWith('data ')) heard.push(`${heard.pop()}${chunk.toString('latin1')}`);
      else heard.push(`data ${chunk.toString('latin1')}`);
    });
    socket.on('end', () => heard.push('end'));
    socket.on('error', (error: Error & { code?: string }) => heard.push(`error ${error.code}`));
    socket.on('close', () => heard.push('close'));
    return { socket, life, heard };
  };
  const [client, server] = [end(), end()];
  client.socket.join(server.socket);
  return {
    scheduler,
    client,
    server,
    run: async (ms = 1_000) => void (await scheduler.run(() => false, scheduler.nowMs + ms)),
  };
}

describe('a simulated connection of a client', () => {
  it('brings the bytes of one direction in order and once, whatever the pieces, and then the end', async () => {
    for (let seed = 1; seed <= 30; seed++) {
      const { client, server, run } = rig(seed);
      const text = Array.from({ length: 50 }, (_, index) => `piece ${index}.`).join('');
      for (let at = 0; at < text.length; at += 7) client.socket.write(text.slice(at, at + 7));
      client.socket.end();
      await run();
      expect(server.heard.slice(0, 2)).toEqual([`data ${text}`, 'end']);
    }
  });

  it('is handed on in other pieces than it was written in', async () => {
    const { client, server, run } = rig();
    const pieces: number[] = [];
    server.socket.on('data', (chunk: Buffer) => pieces.push(chunk.length));
    for (let i = 0; i < 100; i++) client.socket.write('ten bytes.');
    await run();
    expect(pieces.reduce((sum, length) => sum + length)).toBe(1_000);
    expect(pieces.some((length) => length % 10 !== 0)).toBe(true);
  });

  it('lets the receiver change what it got', async () => {
    const { client, server, run } = rig();
    const mine = Buffer.from('..dots');
    server.socket.on('data', (chunk: Buffer) => chunk.fill(0));
    client.socket.write(mine);
    await run();
    expect(mine.toString()).toBe('..dots');
  });

  it('what was said before the close is heard after QUIT: the directions end one after the other', async () => {
    const { client, server, run } = rig();
    server.socket.on('end', () => server.socket.write('221 bye\r\n'));
    client.socket.end('QUIT\r\n');
    // As a front end that still has replies to write when the client has ended its side.
    server.socket.allowHalfOpen = true;
    await run();
    server.socket.end();
    await run();
    expect(server.heard).toEqual(['data QUIT\r\n', 'end', 'close']);
    expect(client.heard).toEqual(['data 221 bye\r\n', 'end', 'close']);
  });

  it('who writes to a closed end is reset', async () => {
    const { client, server, run } = rig();
    // Else it would close when it hears the end, before the answer to what it wrote.
    client.socket.allowHalfOpen = true;
    server.socket.destroy();
    client.socket.write('anybody there?');
    await run();
    expect(client.heard).toContain('error ECONNRESET');
  });

  it('breaks at a random byte for the other end, at once for its own', async () => {
    const lengths = new Set<number>();
    for (let seed = 1; seed <= 40; seed++) {
      const { client, server, run } = rig(seed);
      client.socket.write('0123456789');
      client.socket.breakOff();
      await run();
      expect(client.heard).toEqual(['error ECONNRESET', 'close']);
      expect(server.heard.slice(-2)).toEqual(['error ECONNRESET', 'close']);
      const got = server.heard[0]?.startsWith('data ') === true ? server.heard[0].slice(5) : '';
      expect('0123456789'.startsWith(got)).toBe(true);
      lengths.add(got.length);
    }
    expect(lengths.size).toBeGreaterThan(4);
  });

  it('a machine that is gone says nothing, and takes writes until the buffers are full', async () => {
    const { client, server, run } = rig();
    client.socket.write('the last words');
    client.socket.vanish();
    client.life.alive = false;
    let written = 0;
    for (let i = 0; i < 10; i++) server.socket.write(Buffer.alloc(10_000), () => written++);
    await run(100_000);
    expect(server.heard).toEqual(['data the last words']);
    expect(client.heard).toEqual([]);
    expect(written).toBeLessThan(10);
    server.socket.destroy();
    await run();
    expect(server.heard).toEqual(['data the last words', 'close']);
  });

  it('a process that died hears nothing, its client hears an end or a reset', async () => {
    const ends = new Set<string>();
    for (let seed = 1; seed <= 20; seed++) {
      const { client, server, run } = rig(seed);
      server.socket.write('250 ok\r\n');
      server.life.alive = false;
      server.socket.processDied();
      client.socket.write('more');
      await run();
      expect(server.heard).toEqual([]);
      ends.add(client.heard.join(', '));
    }
    expect([...ends].some((heard) => heard.startsWith('data 250 ok'))).toBe(true);
    expect([...ends].some((heard) => heard.startsWith('error ECONNRESET'))).toBe(true);
  });

  it('holds a writer back while the reader takes nothing', async () => {
    const { client, server, run } = rig();
    server.socket.pause();
    let written = 0;
    for (let i = 0; i < 40; i++) client.socket.write(Buffer.alloc(10_000), () => written++);
    await run();
    const before = written;
    expect(before).toBeLessThan(40);
    server.socket.resume();
    await run();
    expect(written).toBe(40);
  });
});
