/**
 * Commands that wait until something has come about (`drain --wait`). Owns: the loop, `--timeout`, Ctrl-C, the exit codes. Promise: what changes is said,
 * each thing once; waiting is only looking - its end, by time or by Ctrl-C, changes nothing, and the last line says so; a look that fails for a
 * moment is said and repeated.
 */
import { parseDuration } from '../resource/quantity.ts';
import { type CommandContext, type Parsed, text, UsageError } from './command.ts';

/** Beside 0 (it came about), 1 (refused, or it cannot be known) and 2 (usage). */
export const WAIT_EXIT = { cancelled: 3, timedOut: 4, interrupted: 130 } as const;

export const WAIT_HELP = `  --timeout DURATION     with --wait: not longer than that (30s, 10m, 2h); without it as long as it takes
Exit codes with --wait: 0 the member is gone, 1 it was refused, 3 somebody cancelled the drain, 4 the time is over, 130 Ctrl-C. After 4 and 130 the
drain goes on.`;

export type Look =
  | { readonly kind: 'over'; readonly code: number; readonly text: string }
  /** `text`: how far it is. */
  | { readonly kind: 'going'; readonly text: string };

export interface Waiting {
  readonly what: string;
  /** What goes on without us, and how it is ended. */
  readonly goesOn: string;
  readonly timeoutMs: number | null;
  look(): Promise<Look>;
}

const LOOK_MS = 500;

/** Null: as long as it takes. */
export function timeoutOption(parsed: Parsed): number | null {
  const value = text(parsed, 'timeout');
  if (value === null) return null;
  if (parsed.values.wait !== true) throw new UsageError('--timeout is for --wait');
  const ms = parseDuration(value);
  if (ms === null || ms === 0) throw new UsageError(`--timeout: a duration like 30s, 10m or 2h, not ${value}`);
  return ms;
}

/** The exit code. */
export async function waitUntil(waiting: Waiting, context: CommandContext): Promise<number> {
  const { output, nowMs, pause } = context;
  const { what, goesOn, timeoutMs } = waiting;
  const endMs = timeoutMs === null ? Number.POSITIVE_INFINITY : nowMs() + timeoutMs;
  const interrupted = context.interruption();
  const stopped = new Promise<null>((resolve) => interrupted.addEventListener('abort', () => resolve(null)));
  let said = '';
  for (;;) {
    const look = interrupted.aborted ? null : await Promise.race([waiting.look(), stopped]);
    if (look === null) {
      output.err(`Not waiting any more. ${goesOn}\n`);
      return WAIT_EXIT.interrupted;
    }
    if (look.kind === 'over') {
      (look.code === 0 ? output.out : output.err)(`${look.text}\n`);
      return look.code;
    }
    if (look.text !== said) output.out(`${what}: ${look.text}\n`);
    said = look.text;
    if (nowMs() >= endMs) {
      output.err(`${what} is not gone after ${Math.round((timeoutMs ?? 0) / 1000)} s (${said}). ${goesOn}\n`);
      return WAIT_EXIT.timedOut;
    }
    await Promise.race([pause(Math.min(LOOK_MS, Math.max(1, endMs - nowMs()))), stopped]);
  }
}
