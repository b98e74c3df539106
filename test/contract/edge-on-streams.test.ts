/**
 * The real edge (`unboundEdge`) and our real client on simulated connections, in simulated time: what the simulator builds on. The library's timers,
 * immediates and random bytes are those that the world lends (`test/sim/escapes.ts`); nothing here waits for a real clock.
 */
import type { Socket } from 'node:net';
import { beforeAll, describe, expect, it } from 'vitest';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { type ClientOptions, connectClient, RFC5321_TIMEOUTS } from '../../common/smtp/client.ts';
import { type UnboundEdge, unboundEdge } from '../../common/smtp/server.ts';
import { LIMITS, Recorder } from '../dialog/edge-rig.ts';
import { escapes, forbidEscapes, lendProcess } from '../sim/escapes.ts';
import { Scheduler, SeededRandom } from '../sim/scheduler.ts';
import { SimSocket } from '../sim/sim-socket.ts';

const TEXT = 'Subject: hi\r\n\r\n.dot\r\n..\r\n.\r\nthe end\r\n';
const ADDRESS = { address: '10.0.0.1', port: 1 };

class Rig {
  readonly scheduler: Scheduler;
  readonly recorder = new Recorder();
  readonly edge: UnboundEdge;
  readonly clients: SimSocket[] = [];
  readonly #random: SeededRandom;

  constructor(seed: number) {
    this.scheduler = new Scheduler(seed);
    this.#random = new SeededRandom(seed);
    lendProcess({ scheduler: this.scheduler, random: new SeededRandom(seed) });
    this.edge = unboundEdge({
      listener: { name: 'smtp', host: '::', port: 25, tls: 'None', relayFrom: [], usersFile: null },
      frontend: 'fe-1',
      hostname: 'mx.example.net',
      limits: LIMITS,
      tls: null,
      handlers: this.recorder,
      log: silentLogger,
      metrics: silentMetrics,
      clock: this.scheduler.clock(),
    });
  }

  dial(): SimSocket {
    const wire = { scheduler: this.scheduler, random: this.#random };
    const near = new SimSocket(wire, { alive: true }, ADDRESS);
    const far = new SimSocket(wire, { alive: true }, ADDRESS);
    this.clients.push(near);
    this.scheduler.schedule(1, () => {
      near.join(far);
      this.edge.accept(far as unknown as Socket);
      this.scheduler.schedule(1, () => near.emit('connect'));
    });
    return near;
  }

  /** What a whole session comes to, and what the server heard of it. */
  async send(more: Partial<ClientOptions> = {}): Promise<string> {
    const client = await this.scheduler.await(
      connectClient({
        protocol: 'SMTP',
        host: 'mx',
        port: 25,
        hostname: 'client.example',
        tls: 'None',
        timeouts: RFC5321_TIMEOUTS,
        clock: this.scheduler.clock(),
        dial: () => this.dial() as unknown as Socket,
        ...more,
      }),
    );
    const outcome = await this.scheduler.await(
      client.send({
        reversePath: 'alice@example.org',
        body: '7BIT',
        smtputf8: false,
        sizeBytes: TEXT.length,
        recipients: [{ address: 'bob@example.org' }, { address: 'unknown@example.org' }],
        content: async function* () {
          yield Buffer.from(TEXT);
        },
      }),
    );
    client.quit();
    return outcome.recipients
      .map((one) => (one.kind === 'accepted' || one.kind === 'rejected' ? `${one.kind} ${one.reply.code}` : one.kind))
      .join(', ');
  }
}

describe('the real edge without a listening socket', () => {
  beforeAll(() => forbidEscapes());

  it('takes a message byte for byte, however the stream is cut', async () => {
    for (let seed = 1; seed <= 20; seed++) {
      const rig = new Rig(seed);
      expect(await rig.send()).toBe('accepted 250, rejected 550');
      expect(rig.recorder.messages.map(({ content }) => content)).toEqual([TEXT]);
    }
  });

  it('is the same one command at a time, by a client that does not believe in PIPELINING', async () => {
    const session = async (ignored: readonly string[]): Promise<number> => {
      const rig = new Rig(1);
      let writes = 0;
      const dial = (): Socket => {
        const socket = rig.dial();
        const write = socket.write.bind(socket) as (chunk: Buffer | string) => boolean;
        socket.write = (chunk: Buffer | string): boolean => {
          writes += 1;
          return write(chunk);
        };
        return socket as unknown as Socket;
      };
      expect(await rig.send({ dial, ignoredKeywords: new Set(ignored) })).toBe('accepted 250, rejected 550');
      expect(rig.recorder.messages.map(({ content }) => content)).toEqual([TEXT]);
      return writes;
    };
    // MAIL, two RCPT and DATA in one write; or in four.
    expect(await session(['PIPELINING'])).toBe((await session([])) + 3);
  });

  it('ends the session of a client that is gone without a word, and of one that never closes its side', async () => {
    const rig = new Rig(3);
    rig.dial();
    await rig.scheduler.run(() => rig.edge.connections === 1, 1_000);
    rig.clients[0]?.vanish();
    const stubborn = rig.dial();
    stubborn.allowHalfOpen = true;
    stubborn.resume();
    await rig.scheduler.run(() => rig.edge.connections === 2, 1_000);
    await rig.scheduler.run(() => false, LIMITS.idleTimeoutMs - 100);
    expect(rig.edge.connections).toBe(2);
    expect(await rig.scheduler.run(() => rig.edge.connections === 0, LIMITS.idleTimeoutMs + 6_000)).toBe(true);
    // The last one had the five seconds that smtp-server gives a client to close its side.
    expect(rig.scheduler.nowMs).toBeGreaterThan(LIMITS.idleTimeoutMs + 4_900);
  });

  it('closes when the last session is over', async () => {
    const rig = new Rig(4);
    await rig.send();
    await rig.scheduler.await(rig.edge.close(true));
    expect(rig.edge.connections).toBe(0);
    expect(rig.recorder.closed).toBe(1);
  });

  it('uses no clock and no randomness but those that are lent', () => {
    expect(escapes().filter((line) => /\/(common|frontend)\//.test(line))).toEqual([]);
  });
});
