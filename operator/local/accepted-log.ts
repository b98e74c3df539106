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

/** Of a question to a transport it would make several, or none. */
const ID = /^[0-9A-Za-z_-]{1,64}$/;
const LOG = /^(.+)\.log(\.1)?$/;

/** What a line of a log says of a message; null: nothing. */
export function acceptanceOf(line: string): Acceptance | 'dropped' | 'unreadable' | null {
  // What a line is about stands at its end.
  if (line.startsWith('{"') && !line.endsWith('}')) return 'unreadable';
  if (!line.includes('"message accepted"')) return line.includes('"log lines dropped"') ? 'dropped' : null;
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value !== 'object' || value === null) return 'unreadable';
    const { msg, attemptId, time, name, from, recipients } = value as Readonly<Record<string, unknown>>;
    if (msg !== 'message accepted') return null;
    const atMs = typeof time === 'string' ? Date.parse(time) : Number.NaN;
    if (typeof attemptId !== 'string' || !ID.test(attemptId) || Number.isNaN(atMs)) return 'unreadable';
    return {
      id: attemptId,
      atMs,
      frontend: String(name),
      from: typeof from === 'string' ? from : '?',
      recipients: typeof recipients === 'number' ? recipients : 0,
    };
  } catch (error) {
    if (error instanceof SyntaxError) return 'unreadable';
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
        else if (found === 'unreadable')
          this.gaps.push(`${name} has lines that cannot be read: what they acknowledged is not known`);
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
