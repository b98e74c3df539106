/**
 * What one message costs the SMTP edge alone: CPU of the process that runs `startEdge` with handlers that accept everything, clients
 * in a process of their own. `node test/bench/smtp-edge.ts [--messages N]` prints µs of CPU and messages per second; no verdict, the
 * figures belong to docs/decisions/0003-smtp-server-adapter.md. Goal (performance.md section 1): 34 µs at 4 KB, 106 µs at 75 KB.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import type { EdgeHandlers } from '../../common/smtp/edge-api.ts';
import { reply } from '../../common/smtp/replies.ts';
import { startEdge } from '../../common/smtp/server.ts';

const SIZES = [4_096, 75_000, 1_000_000] as const;
const SESSIONS = 20;
const ACCEPTED = reply('ok');

const HANDLERS: EdgeHandlers = {
  onConnect: () => null,
  onMailFrom: async () => null,
  onRcptTo: async () => null,
  onData: async () => ({
    kind: 'accept',
    sink: {
      write: () => true,
      end: async () => ({ kind: 'reply', reply: ACCEPTED }),
      abort: () => undefined,
      gone: () => undefined,
    },
  }),
  mechanisms: () => [],
  onAuth: async () => false,
  onScram: () => reply('authFailed'),
  onScramEnd: () => undefined,
  onClose: () => undefined,
};

function message(sizeBytes: number): Buffer {
  const head =
    'Received: from a by b; Thu, 1 Jan 1970 00:00:00 +0000\r\nFrom: a@example.org\r\nTo: b@example.net\r\nSubject: x\r\n\r\n';
  return Buffer.from(`${head}${`${'x'.repeat(74)}\r\n`.repeat(Math.ceil((sizeBytes - head.length) / 76))}.\r\n`);
}

/** One pipelining client: the envelope in one write, the content in the next. */
async function send(port: number, count: number, content: Buffer): Promise<void> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true });
  let left = count;
  let text = '';
  let state: 'greeting' | 'ehlo' | 'go' | 'end' = 'greeting';
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
    const last = text.slice(text.lastIndexOf('\n', text.length - 2) + 1);
    if (!text.endsWith('\r\n') || last[3] === '-') return;
    text = '';
    if (state === 'greeting') {
      state = 'ehlo';
      socket.write('EHLO bench\r\n');
    } else if (state === 'go' && last.startsWith('354')) {
      state = 'end';
      socket.write(content);
    } else if (state === 'ehlo' || state === 'end') {
      state = 'go';
      if (left-- > 0) socket.write('MAIL FROM:<a@example.org> SIZE=100\r\nRCPT TO:<b@example.net>\r\nDATA\r\n');
      else socket.end('QUIT\r\n');
    }
  });
  await once(socket, 'close');
}

async function client(port: number, messages: number, sizeBytes: number): Promise<void> {
  const content = message(sizeBytes);
  await Promise.all(Array.from({ length: SESSIONS }, () => send(port, Math.ceil(messages / SESSIONS), content)));
}

async function load(port: number, messages: number, sizeBytes: number): Promise<void> {
  const args = [
    fileURLToPath(import.meta.url),
    '--client',
    String(port),
    '--messages',
    String(messages),
    '--size',
    String(sizeBytes),
  ];
  const child = spawn(process.execPath, args, { stdio: 'inherit' });
  const [code] = (await once(child, 'exit')) as [number | null];
  if (code !== 0) throw new Error(`the clients failed with ${code}`);
}

async function bench(messages: number): Promise<void> {
  const limits = {
    maxMessageBytes: 36_700_160,
    maxHeaderBytes: 131_072,
    maxRecipients: 1_000,
    maxCommandLineBytes: 2_048,
    maxDataLineBytes: 65_536,
    maxErrors: 10,
    maxJunkCommands: 50,
    idleTimeoutMs: 60_000,
    dataTimeoutMs: 600_000,
    minDataBytesPerSecond: 500,
    maxConnections: 5_000,
    maxConnectionsPerClient: 5_000,
    maxConnectionRatePerClient: 0,
    maxAuthFailures: 10,
    maxMessageRatePerUser: 0,
    replayBufferBytes: 0,
    totalReplayBufferBytes: 0,
  };
  const listener = { name: 'smtp', host: '127.0.0.1', port: 0, tls: 'None', relayFrom: [], usersFile: null } as const;
  const common = {
    frontend: 'bench',
    hostname: 'mx.example.net',
    log: silentLogger,
    metrics: silentMetrics,
    tls: null,
  };
  const edge = await startEdge({ ...common, listener, limits, handlers: HANDLERS });
  for (const size of SIZES) {
    const count = Math.ceil(messages / Math.max(1, size / 20_000));
    await load(edge.port, Math.ceil(count / 4), size);
    const costs: number[] = [];
    for (let round = 0; round < 5; round++) {
      const cpu = process.cpuUsage();
      const start = performance.now();
      await load(edge.port, count, size);
      const used = process.cpuUsage(cpu);
      costs.push((used.user + used.system) / count);
      const rate = Math.round((count * 1_000) / (performance.now() - start));
      console.log(
        `${size} B: ${costs.at(-1)?.toFixed(1)} us CPU per message, ${rate} messages/s (start of clients included)`,
      );
    }
    costs.sort((a, b) => a - b);
    console.log(
      `${size} B: n=5 min ${costs[0]?.toFixed(1)} median ${costs[2]?.toFixed(1)} max ${costs[4]?.toFixed(1)} us CPU per message`,
    );
  }
  await edge.close(true);
}

const { values } = parseArgs({
  options: {
    client: { type: 'string' },
    messages: { type: 'string', default: '20000' },
    size: { type: 'string', default: '4096' },
  },
});
if (values.client === undefined) await bench(Number(values.messages));
else await client(Number(values.client), Number(values.messages), Number(values.size));
