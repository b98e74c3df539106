/**
 * What the front ends acknowledged, out of their logs (`logs/*.log` of the state directory; one line "message accepted" per 250). Owns: how
 * such a line reads, and from when on the logs reach. Promise: one line at a time is in memory; what is missing is said in `gaps`.
 */
import { createReadStream } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { codeOf, readJson, type StatePaths } from './state-directory.ts';

export interface Acceptance {
  readonly id: string;
  readonly atMs: number;
  readonly frontend: string;
  readonly from: string;
  /** Number of recipients of the envelope; 0 when the line is of an older version that does not say. */
  readonly recipients: number;
}

const LOG = /^(.+)\.log(\.1)?$/;

function acceptanceOf(line: string): Acceptance | 'dropped' | null {
  if (!line.includes('"message accepted"')) return line.includes('"log lines dropped"') ? 'dropped' : null;
  try {
    const { msg, attemptId, time, name, from, recipients } = JSON.parse(line) as Readonly<Record<string, unknown>>;
    if (msg !== 'message accepted' || typeof attemptId !== 'string' || typeof time !== 'string') return null;
    return {
      id: attemptId,
      atMs: Date.parse(time),
      frontend: String(name),
      from: typeof from === 'string' ? from : '?',
      recipients: typeof recipients === 'number' ? recipients : 0,
    };
  } catch (error) {
    // Half a line, of a front end that was killed.
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

const timeOf = (line: string): string | null => /"time":"([^"]+)"/.exec(line)?.[1] ?? null;

export class AcceptedLog {
  readonly #paths: StatePaths;
  readonly #frontends: readonly string[];
  /** In words, complete once everything was read. */
  readonly gaps: string[] = [];

  constructor(paths: StatePaths, frontends: readonly string[]) {
    this.#paths = paths;
    this.#frontends = frontends;
  }

  async *read(sinceMs: number): AsyncGenerator<Acceptance> {
    const names = await this.#names();
    for (const frontend of this.#frontends) await this.#explain(frontend, names);
    for (const name of names) yield* this.#readOne(name, sinceMs);
  }

  /** Older part first. */
  async #names(): Promise<readonly string[]> {
    const directory = join(this.#paths.root, 'logs');
    try {
      return (await readdir(directory)).filter((name) => LOG.test(name)).sort((a, b) => b.length - a.length);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return [];
      throw error;
    }
  }

  async #explain(frontend: string, names: readonly string[]): Promise<void> {
    const config = (await readJson(this.#paths.config(frontend))) as { readonly logLevel?: string } | null;
    if (config?.logLevel === 'warn' || config?.logLevel === 'error')
      this.gaps.push(`${frontend} logs at level ${config.logLevel}: what it acknowledged is not written down`);
    if (!names.includes(`${frontend}.log`)) this.gaps.push(`${frontend} has no log: what it acknowledged is not known`);
  }

  async *#readOne(name: string, sinceMs: number): AsyncGenerator<Acceptance> {
    const program = LOG.exec(name)?.[1] ?? name;
    const file = createReadStream(join(this.#paths.root, 'logs', name));
    let isFirst = name.endsWith('.1');
    try {
      for await (const line of createInterface({ input: file, crlfDelay: Number.POSITIVE_INFINITY })) {
        const begins = isFirst ? timeOf(line) : null;
        if (begins !== null) {
          isFirst = false;
          if (this.#frontends.includes(program)) this.gaps.push(`the log of ${program} begins at ${begins}`);
        }
        const found = acceptanceOf(line);
        if (found === 'dropped')
          this.gaps.push(`${program} dropped log lines once: some of what it acknowledged is missing`);
        else if (found !== null && found.atMs >= sinceMs) yield found;
      }
    } catch (error) {
      // Put aside by a start of the front end meanwhile.
      if (codeOf(error) !== 'ENOENT') throw error;
      this.gaps.push(`${name} was renamed while it was read; ask again`);
    } finally {
      file.destroy();
    }
  }
}
