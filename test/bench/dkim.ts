/**
 * What signing (DKIM) takes from the event loop of a transport: its delay while messages are signed in the thread, beside the same signatures made in the loop itself, and how many
 * a second. A measurement, not a test. Goal (issue 8): the loop's p99 delay at most 20 ms.
 *
 *   node test/bench/dkim.ts [--messages 2000] [--large 8]
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { systemClock } from '../../common/platform/clock.ts';
import { StreamThread } from '../../common/platform/stream-thread.ts';
import { type Signed, type SigningJob, sign } from '../../transport/runtime/dkim-signature.ts';
import { newSigningKey } from '../rigs/signing-key.ts';
import { line } from './queue-rig.ts';

const { values } = parseArgs({
  options: { messages: { type: 'string', default: '2000' }, large: { type: 'string', default: '8' } },
});
const CHUNK = 65_536;
/** Deliveries at the same time. */
const SIDE_BY_SIDE = 20;

const directory = await mkdtemp(join(tmpdir(), 'mailcluster-dkim-bench-'));
const file = join(directory, 's1.key');
await writeFile(file, newSigningKey().pem, { mode: 0o600 });
const job = (): SigningJob => ({
  keys: [{ domain: 'contoso.com', selector: 's1', secret: 'dkim', key: 's1.key', file }],
  signedAtMs: systemClock.wallMs(),
});

function message(bytes: number): readonly Buffer[] {
  const header = 'From: ann@contoso.com\r\nTo: bob@far.example\r\nSubject: bench\r\nMIME-Version: 1.0\r\n\r\n';
  const whole = Buffer.concat([Buffer.from(header), Buffer.alloc(bytes, `${'text of a line '.repeat(5)}\r\n`)]);
  return Array.from({ length: Math.ceil(whole.length / CHUNK) }, (_, at) =>
    whole.subarray(at * CHUNK, (at + 1) * CHUNK),
  );
}

/** As the store gives a body: a turn of the loop between chunks. */
async function* stored(chunks: readonly Buffer[]): AsyncGenerator<Buffer> {
  for (const chunk of chunks) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    yield chunk;
  }
}

type Sign = (content: AsyncIterable<Buffer>) => Promise<Signed>;

async function measure(what: string, how: Sign, count: number, bytes: number): Promise<void> {
  const chunks = message(bytes);
  const delay = monitorEventLoopDelay({ resolution: 1 });
  let begun = 0;
  const startMs = performance.now();
  delay.enable();
  const worker = async (): Promise<void> => {
    while (begun < count) {
      begun++;
      const signed = await how(stored(chunks));
      if (signed.kind !== 'signed') throw new Error(JSON.stringify(signed));
    }
  };
  await Promise.all(Array.from({ length: Math.min(SIDE_BY_SIDE, count) }, worker));
  delay.disable();
  const seconds = (performance.now() - startMs) / 1000;
  // The histogram counts the millisecond it waits for, too.
  const ms = (nanoseconds: number): string => (nanoseconds / 1e6 - 1).toFixed(1);
  line(what, {
    ...{ n: count, 'KiB each': Math.round(bytes / 1024), 'a second': (count / seconds).toFixed(0) },
    ...{ 'MiB/s': ((count * bytes) / seconds / 1_048_576).toFixed(0), 'delay p50 ms': ms(delay.percentile(50)) },
    ...{ 'p99 ms': ms(delay.percentile(99)), 'max ms': ms(delay.max) },
  });
}

const entry = new URL('../../transport/runtime/dkim-worker.ts', import.meta.url);
const thread = new StreamThread<SigningJob, Signed>({ clock: systemClock, entry, name: 'dkim' });
const inThread: Sign = (content) => thread.run(job(), content);
const inLoop: Sign = (content) => sign(job(), content);
try {
  await measure('warm-up', inThread, 200, 4_096);
  for (const [count, bytes] of [
    [Number(values.messages), 4_096],
    [Number(values.messages) / 10, 262_144],
    [Number(values.large), 25 * 1_048_576],
  ] as const) {
    await measure('in the thread', inThread, count, bytes);
    await measure('in the loop', inLoop, count, bytes);
  }
} finally {
  await thread.close();
  await rm(directory, { recursive: true, force: true });
}
