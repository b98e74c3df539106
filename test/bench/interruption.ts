/**
 * What a measurement leaves behind: nothing, also when it is ended (Ctrl-C, SIGTERM, a terminal that closes). Owns: the temporary directory of the whole run, and what ends with it. Everything
 * below this process is stopped first, so that nobody starts another one meanwhile, then killed by its id; an ordered end would only write into what is deleted next. All of it in one go: what
 * the measurement was waiting for does not go on. Of SIGKILL nothing is known here: who uses that looks after Postfix himself.
 */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { below, isRunning } from './proc.ts';

const GONE_WITHIN_MS = 10_000;
const EVERY_MS = 10;

/** As a shell says it: 128 and the number of the signal. */
const ENDINGS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** Temporary directories of this process and of all that it starts lie in one, which goes with it, however it ends. Returns it. */
export function withOwnTemporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'mailcluster-bench-'));
  // Postfix' programs run as another user and must get through.
  chmodSync(directory, 0o755);
  process.env.TMPDIR = directory;
  process.once('exit', () => rmSync(directory, { recursive: true, force: true, maxRetries: 10 }));
  for (const [signal, code] of Object.entries(ENDINGS))
    process.once(signal, () => {
      const left = endAllBelow();
      if (left.length > 0) console.error(`bench: ended by ${signal}; these did not go: ${left.join(', ')}`);
      process.exit(code);
    });
  return directory;
}

function send(pid: number, signal: 'SIGSTOP' | 'SIGKILL'): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Those that are still there after `GONE_WITHIN_MS`. Waits without the event loop. */
function endAllBelow(): readonly number[] {
  const endMs = performance.now() + GONE_WITHIN_MS;
  const all = new Set<number>();
  for (;;) {
    // A killed one may have started another just before it was stopped.
    const found = stopAllBelow();
    // Children first: whose parent is gone is below us no longer.
    for (const pid of found.toReversed()) send(pid, 'SIGKILL');
    for (const pid of found) all.add(pid);
    const left = [...all].filter(isRunning);
    if (left.length === 0 || performance.now() > endMs) return left;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, EVERY_MS);
  }
}

/** Until nobody is there who has not been told. Parents before their children. */
function stopAllBelow(): readonly number[] {
  const told = new Set<number>();
  for (;;) {
    const others = below(process.pid).filter((pid) => !told.has(pid));
    if (others.length === 0) return [...told];
    for (const pid of others) {
      send(pid, 'SIGSTOP');
      told.add(pid);
    }
  }
}
