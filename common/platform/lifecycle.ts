/**
 * How a program of ours begins and ends. Owns: the signal handlers, the IPC channel to a parent (`mailcluster run`), the exit.
 * Promise: SIGTERM, SIGINT and the loss of the parent stop the program once, in order, within the grace period; a second signal ends it
 * at once; an uncaught error or a broken invariant is logged with its reason, told to the parent and ends the process (architecture.md 5:
 * the peer has a copy). Messages to the parent: `{kind:'ready', ...}`, `{kind:'fatal', reason, remedy}`; from it: `{kind:'reload'}`.
 */
import { flushCompileCache } from 'node:module';
import { type Clock, systemClock } from './clock.ts';
import type { FlushableLogger } from './pino-logger.ts';

/** Exit code of a program that ended itself because going on would be wrong (sysexits EX_SOFTWARE). */
export const FATAL_EXIT_CODE = 70;

export type StopReason = 'SIGTERM' | 'SIGINT' | 'parent gone';

export interface LifecycleOptions {
  readonly logger: FlushableLogger;
  /** Closes what is open; the process exits when it resolves. */
  readonly stop: (reason: StopReason) => Promise<void>;
  /** How long `stop` may take. */
  readonly graceMs: number;
  /** The topology changed, or SIGHUP. */
  readonly reload?: () => void;
  readonly clock?: Clock;
}

export interface Lifecycle {
  /** The program serves; `facts` are ports, identity ... */
  ready(facts: Readonly<Record<string, unknown>>): void;
  /** Logs, tells the parent, ends the process. `remedy`: what a person can do about it. */
  fatal(reason: string, remedy: string, error?: unknown): void;
}

/** Grace for a program whose parent died: nobody waits for it any more. */
const ORPHAN_GRACE_MS = 2_000;
/** Time given to the log and to the IPC message at the end. */
const LAST_WORDS_MS = 500;
const CRASH_REMEDY = 'restart; report the logged stack';

export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = 'code' in error && typeof error.code === 'string' ? `${error.code}: ` : '';
  return error.message.startsWith(code) ? error.message : code + error.message;
}

function tellParent(logger: FlushableLogger, message: Readonly<Record<string, unknown>>): Promise<void> {
  if (process.send === undefined || !process.connected) return Promise.resolve();
  return new Promise((resolve) => {
    process.send?.(message, undefined, undefined, (error) => {
      if (error !== null) logger.warn({ error: error.message }, 'parent did not take a message');
      resolve();
    });
  });
}

export function startLifecycle(options: LifecycleOptions): Lifecycle {
  const { logger, clock = systemClock } = options;
  let ending: 'no' | 'stopping' | 'fatal' = 'no';

  /** After what was said has gone out; that may not hold up the end for long. */
  const exit = (code: number, lastWords: Promise<void> = Promise.resolve()): void => {
    clock.setTimer(LAST_WORDS_MS, () => process.exit(code));
    void Promise.all([lastWords, logger.flush()]).then(() => process.exit(code));
  };

  const fatal = (reason: string, remedy: string, error?: unknown): void => {
    if (ending === 'fatal') return;
    ending = 'fatal';
    logger.error({ reason, remedy, ...(error === undefined ? {} : { error }) }, 'fatal');
    exit(FATAL_EXIT_CODE, tellParent(logger, { kind: 'fatal', reason, remedy }));
  };

  const stop = (reason: StopReason): void => {
    if (ending !== 'no') {
      if (reason !== 'parent gone') exit(1);
      return;
    }
    ending = 'stopping';
    logger.info({ reason }, 'stopping');
    const graceMs = reason === 'parent gone' ? Math.min(ORPHAN_GRACE_MS, options.graceMs) : options.graceMs;
    clock.setTimer(graceMs, () => {
      logger.error({ graceMs }, 'stopping took too long');
      exit(1);
    });
    options.stop(reason).then(
      () => {
        logger.info({ reason }, 'stopped');
        exit(0);
      },
      (error: unknown) => {
        logger.error({ error }, 'stopping failed');
        exit(1);
      },
    );
  };

  watchProcess({
    stop,
    reload: () => options.reload?.(),
    crash: (error) => fatal(describeError(error), CRASH_REMEDY, error),
  });

  return {
    ready: (facts) => {
      logger.info(facts, 'ready');
      // Node writes its compile cache (NODE_COMPILE_CACHE) at an orderly end only; a process that is killed shall leave it to the next one,
      // which then starts three times as fast and without the 30 MiB that taking the types out of the sources costs.
      flushCompileCache();
      void tellParent(logger, { kind: 'ready', ...facts });
    },
    fatal,
  };
}

interface ProcessEvents {
  stop(reason: StopReason): void;
  reload(): void;
  crash(error: unknown): void;
}

function watchProcess(on: ProcessEvents): void {
  process.on('SIGTERM', () => on.stop('SIGTERM'));
  process.on('SIGINT', () => on.stop('SIGINT'));
  process.on('SIGHUP', () => on.reload());
  process.on('uncaughtException', (error) => on.crash(error));
  process.on('unhandledRejection', (error) => on.crash(error));
  if (process.send === undefined) return;
  process.on('disconnect', () => on.stop('parent gone'));
  process.on('message', (message: unknown) => {
    if (typeof message === 'object' && message !== null && 'kind' in message && message.kind === 'reload') on.reload();
  });
}
