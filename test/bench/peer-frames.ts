/**
 * CPU of the peer protocol per message and side: OPEN, OPEN-OK, CHUNK, END, RESULT. Two sessions in this process, joined in memory
 * (frames, validation, sessions only) and over TLS on loopback (sockets and encryption too). Prints a table; `node test/bench/peer-frames.ts [messages]`.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CopyId, Identity } from '../../common/message.ts';
import type { Hello, Open } from '../../common/peer/messages.ts';
import { runPeerSession } from '../../common/peer/session.ts';
import type { PeerSession } from '../../common/peer/session-api.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import type { Connection, ConnectionHandlers, PeerName } from '../../common/platform/net.ts';
import { openTlsNetwork } from '../../common/platform/tls-network.ts';
import { createAuthority, issueCertificate } from '../../operator/pki.ts';

const FRONT: PeerName = { role: 'frontend', name: 'front-0' };
const BACK: PeerName = { role: 'transport', name: 'back-0' };
const IN_FLIGHT = 100;
const DIGEST = 'a'.repeat(64);

const helloOf = (peer: PeerName): Hello => ({
  versions: [1],
  ...peer,
  cluster: 'bench',
  boundary: null,
  database: null,
  seen: null,
  uid: peer.name,
  generation: 1,
});

const open: Open = {
  id: '01HZZZZZZZZZZZZZZZZZZZZZZB' as CopyId,
  epoch: { try: 1, term: 0, owner: '01HZZZZZZZZZZZZZZZZZZZZZZA' as Identity },
  kind: 'intake',
  state: null,
  envelope: {
    reversePath: 'alice@example.org',
    recipients: [{ address: 'bob@example.com' }],
    body: '8BITMIME',
    smtputf8: false,
    declaredSizeBytes: 4_096,
    client: {
      address: '192.0.2.7',
      port: 40_000,
      helo: 'client.example.org',
      protocol: 'ESMTPS',
      tls: { version: 'TLSv1.3', cipher: 'TLS_AES_256_GCM_SHA384' },
      user: null,
    },
    frontend: 'front-0',
    listener: 'smtp',
    receivedAtMs: 1_700_000_000_000,
  },
};

/** One end of a pipe in memory: what is written arrives at the other end in a later turn of the loop, as one buffer. */
class Pipe implements Connection {
  readonly remote: PeerName;
  readonly remoteAddress = 'memory';
  other: Pipe | null = null;
  #handlers: ConnectionHandlers | null = null;
  #waiting: Uint8Array[] = [];

  constructor(remote: PeerName) {
    this.remote = remote;
  }

  start(handlers: ConnectionHandlers): void {
    this.#handlers = handlers;
  }

  write(buffers: readonly Uint8Array[]): boolean {
    if (this.#waiting.length === 0) setImmediate(() => this.#deliver());
    this.#waiting.push(...buffers);
    return true;
  }

  #deliver(): void {
    const bytes = Buffer.concat(this.#waiting);
    this.#waiting = [];
    if (this.other !== null) this.other.#handlers?.onData(bytes);
  }

  pause(): void {
    throw new Error('not needed here');
  }

  resume(): void {
    throw new Error('not needed here');
  }

  end(): void {
    this.destroy('ended');
  }

  destroy(reason: string): void {
    this.#handlers?.onClose(reason);
    this.#handlers = null;
  }
}

function session(connection: Connection, dialled: boolean, hello: Hello): Promise<PeerSession> {
  return new Promise((resolve, reject) => {
    runPeerSession({
      connection,
      dialled,
      hello: () => hello,
      check: () => ({ kind: 'accept' }),
      clock: systemClock,
      log: silentLogger,
      keepAliveMs: 1_000,
      deadAfterMs: 60_000,
      handshakeTimeoutMs: 5_000,
      maxIncomingStreams: 1_000,
      handlers: {
        onReady: resolve,
        onControl: () => undefined,
        onStream: (_session, stream) =>
          stream.accept(
            { credit: 131_072, maxMessageBytes: 1_000_000 },
            {
              onChunk: (bytes) => stream.grant(bytes.length),
              onEnd: (end) =>
                stream.result({
                  id: stream.open.id,
                  epoch: stream.open.epoch,
                  outcome: 'protected',
                  digest: end.digest,
                  reply: null,
                }),
              onDrop: () => undefined,
              onLost: () => undefined,
            },
          ),
        onClose: (_session, reason) => reject(new Error(reason)),
      },
    });
  });
}

/** Sends `count` messages with up to `IN_FLIGHT` at once; resolves to CPU microseconds per message and side. */
function measure(front: PeerSession, count: number, bytes: number): Promise<{ cpuUs: number; perSecond: number }> {
  const body = Buffer.alloc(bytes, 120);
  return new Promise((resolve, reject) => {
    const cpu = process.cpuUsage();
    const startedAt = performance.now();
    let started = 0;
    let done = 0;
    const finish = (): void => {
      const used = process.cpuUsage(cpu);
      const seconds = (performance.now() - startedAt) / 1_000;
      resolve({ cpuUs: (used.user + used.system) / count / 2, perSecond: count / seconds });
    };
    const next = (): void => {
      started += 1;
      const stream = front.openStream(open, {
        onOpenOk: () => {
          stream.chunk(body);
          stream.end({ sizeBytes: bytes, digest: DIGEST, events: [] });
        },
        onCredit: () => undefined,
        onRefuse: (refuse) => reject(new Error(refuse.reply.text)),
        onLost: (reason) => reject(new Error(reason)),
        onResult: () => {
          done += 1;
          if (done === count) finish();
          else if (started < count) next();
        },
      });
    };
    for (let i = 0; i < Math.min(IN_FLIGHT, count); i++) next();
  });
}

async function overMemory(): Promise<{ front: PeerSession; close: () => Promise<void> }> {
  const near = new Pipe(BACK);
  const far = new Pipe(FRONT);
  near.other = far;
  far.other = near;
  const [, front] = await Promise.all([session(far, false, helloOf(BACK)), session(near, true, helloOf(FRONT))]);
  return { front, close: async () => front.close('done') };
}

async function overTls(): Promise<{ front: PeerSession; close: () => Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-bench-'));
  const authority = await createAuthority('bench');
  const network = async (peer: PeerName) => {
    const files = {
      caFile: join(directory, 'ca.pem'),
      certificateFile: join(directory, `${peer.name}.pem`),
      keyFile: join(directory, `${peer.name}.key`),
    };
    const pems = await issueCertificate(authority, { cluster: 'bench', ...peer, hosts: [], days: 1 });
    await writeFile(files.caFile, authority.certificatePem);
    await writeFile(files.certificateFile, pems.certificatePem);
    await writeFile(files.keyFile, pems.keyPem);
    return openTlsNetwork({ files, cluster: 'bench', clock: systemClock, log: silentLogger });
  };
  const [accepting, dialling] = [await network(BACK), await network(FRONT)];
  const arrived = Promise.withResolvers<Connection>();
  const listener = await accepting.listen({ host: '127.0.0.1', port: 0 }, arrived.resolve);
  const near = await dialling.connect({ host: '127.0.0.1', port: listener.port }, BACK, 5_000);
  const back = session(await arrived.promise, false, helloOf(BACK));
  const front = await session(near, true, helloOf(FRONT));
  await back;
  return {
    front,
    close: async () => {
      front.close('done');
      await accepting.close();
      await dialling.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

async function main(): Promise<void> {
  const count = Number(process.argv[2] ?? 20_000);
  for (const [where, create] of [
    ['memory', overMemory],
    ['TLS', overTls],
  ] as const) {
    const { front, close } = await create();
    try {
      await measure(front, count / 4, 4_096);
      for (const bytes of [4_096, 76_800]) {
        const runs: number[] = [];
        let best = 0;
        for (let i = 0; i < 3; i++) {
          const { cpuUs, perSecond } = await measure(front, count, bytes);
          runs.push(cpuUs);
          best = Math.max(best, perSecond);
        }
        runs.sort((a, b) => a - b);
        const cells = runs.map((us) => us.toFixed(1)).join(' / ');
        console.log(`${where} ${bytes} B: ${cells} us CPU per message and side, ${Math.round(best)} messages/s`);
      }
    } finally {
      await close();
    }
  }
}

if (import.meta.main) await main();
