/** One command over the admin APIs of a prepared world (`admin-world.ts`), its words and its exit code. For the tests of the commands. */
import type { Command } from '../../operator/cli/command.ts';
import { LOCAL_PLACE } from '../../operator/cli/local-place.ts';
import { type AdminWorld, NOW_MS } from './admin-world.ts';

export interface Result {
  readonly code: number | string;
  readonly out: string;
  readonly err: string;
}

export const run = (command: Command, world: AdminWorld, ...args: readonly string[]): Promise<Result> =>
  runAt(NOW_MS, command, world, ...args);

/** With a clock of who types it that may be wrong. */
export async function runAt(
  nowMs: number,
  command: Command,
  world: AdminWorld,
  ...args: readonly string[]
): Promise<Result> {
  let [out, err] = ['', ''];
  const output = {
    out: (text: string) => {
      out += text;
    },
    err: (text: string) => {
      err += text;
    },
  };
  const context = {
    output,
    place: LOCAL_PLACE,
    atEnd: () => undefined,
    environment: { MAILCLUSTER_STATE: world.directory },
    nowMs: () => nowMs,
    pause: async () => undefined,
    interruption: () => new AbortController().signal,
  };
  try {
    return { code: await command.run(args, context), out, err };
  } catch (error) {
    return { code: error instanceof Error && 'code' in error ? String(error.code) : 'thrown', out, err: String(error) };
  }
}
