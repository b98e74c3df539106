/**
 * A real Prometheus (Debian's package) for one test, on loopback, in a temporary directory: scrapes what it is told to, evaluates our rules, answers
 * over its HTTP API. And promtool of the same package. Promise: nothing of it is left after `[Symbol.asyncDispose]`.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { until } from '../house/until.ts';
import { freePort } from './dovecot.ts';
import { commandIn, ensurePackage, type Prefix } from './packages.ts';

/** One process to scrape, with the labels that a PodMonitor gives its pod. */
export interface ScrapeTarget {
  /** `http://127.0.0.1:PORT/metrics`. */
  readonly url: string;
  readonly labels: Readonly<Record<'namespace' | 'pod' | 'container' | 'endpoint' | 'job', string>>;
}

export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly values: readonly number[];
}

export interface RuleState {
  readonly name: string;
  readonly type: 'alerting' | 'recording';
  readonly health: string;
  readonly lastError?: string;
  readonly state?: 'inactive' | 'pending' | 'firing';
}

const SCRAPE = '500ms';
const EVALUATE = '1s';

const configuration = (targets: readonly ScrapeTarget[], rules: string | null): string =>
  stringify({
    global: { scrape_interval: SCRAPE, scrape_timeout: SCRAPE, evaluation_interval: EVALUATE },
    ...(rules === null ? {} : { rule_files: [rules] }),
    scrape_configs: [
      {
        job_name: 'pods',
        metrics_path: '/metrics',
        static_configs: targets.map(({ url, labels }) => ({ targets: [new URL(url).host], labels })),
      },
    ],
  });

interface ApiAnswer {
  readonly status: string;
  readonly error?: string;
  readonly data: unknown;
}

export class RealPrometheus {
  readonly directory: string;
  readonly #port: number;
  readonly #prefix: Prefix;
  #child: ChildProcess | null = null;
  #output = '';

  private constructor(prefix: Prefix, port: number, directory: string) {
    this.#prefix = prefix;
    this.#port = port;
    this.directory = directory;
  }

  /** `rules`: the text of a rules file. */
  static async start(
    targets: readonly ScrapeTarget[],
    rules: string | null,
  ): Promise<RealPrometheus | { readonly missing: string }> {
    const prefix = await ensurePackage('prometheus');
    if ('missing' in prefix) return prefix;
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-prometheus-'));
    await chmod(directory, 0o777); // it runs as nobody
    const prometheus = new RealPrometheus(prefix, await freePort(), directory);
    try {
      if (rules !== null) await writeFile(join(directory, 'rules.yaml'), rules);
      await writeFile(join(directory, 'prometheus.yaml'), configuration(targets, rules === null ? null : 'rules.yaml'));
      await prometheus.#launch();
    } catch (error) {
      await prometheus[Symbol.asyncDispose]();
      throw error;
    }
    return prometheus;
  }

  async #launch(): Promise<void> {
    const { directory } = this;
    const { file, args } = commandIn(
      this.#prefix,
      [
        '/usr/bin/prometheus',
        `--config.file=${join(directory, 'prometheus.yaml')}`,
        `--storage.tsdb.path=${join(directory, 'data')}`,
        `--web.listen-address=127.0.0.1:${this.#port}`,
        '--log.level=warn',
      ],
      true,
    );
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output = `${this.#output}${chunk.toString()}`.slice(-4_096);
      });
    }
    await until('Prometheus to be ready', async () => (await fetch(this.#url('/-/ready'))).ok, {
      deadlineMs: 30_000,
      everyMs: 100,
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${this.#output}`);
    });
  }

  #url(path: string): string {
    return `http://127.0.0.1:${this.#port}${path}`;
  }

  async #ask<T>(path: string, parameters: Readonly<Record<string, string>> = {}): Promise<T> {
    const response = await fetch(this.#url(`/api/v1/${path}?${new URLSearchParams(parameters)}`));
    const answer = (await response.json()) as ApiAnswer;
    if (answer.status !== 'success')
      throw new Error(`${path} ${parameters.query ?? ''}: ${answer.error ?? 'no reason'}`);
    return answer.data as T;
  }

  /** Now. Values are numbers or NaN. */
  async query(query: string): Promise<readonly Sample[]> {
    const { result } = await this.#ask<{ result: readonly { metric: Sample['metric']; value: [number, string] }[] }>(
      'query',
      { query },
    );
    return result.map(({ metric, value }) => ({ metric, values: [Number(value[1])] }));
  }

  /** The only value of a query, or null when it has no series. */
  async value(query: string): Promise<number | null> {
    return (await this.query(query))[0]?.values[0] ?? null;
  }

  /** As a panel asks: every second since `sinceMs`. */
  async range(query: string, sinceMs: number): Promise<readonly Sample[]> {
    const { result } = await this.#ask<{ result: readonly { metric: Sample['metric']; values: [number, string][] }[] }>(
      'query_range',
      { query, start: `${sinceMs / 1000}`, end: `${Date.now() / 1000}`, step: '1' },
    );
    return result.map(({ metric, values }) => ({ metric, values: values.map(([, value]) => Number(value)) }));
  }

  async rules(): Promise<readonly RuleState[]> {
    const { groups } = await this.#ask<{ groups: readonly { rules: readonly RuleState[] }[] }>('rules');
    return groups.flatMap(({ rules }) => rules);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child !== null && child.exitCode === null && child.signalCode === null) {
      const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.kill('SIGKILL');
      await gone;
    }
    await rm(this.directory, { recursive: true, force: true, maxRetries: 10 });
  }
}

export type Promtool = (...args: readonly string[]) => Promise<{ readonly code: number; readonly output: string }>;

export async function openPromtool(): Promise<Promtool | { readonly missing: string }> {
  const prefix = await ensurePackage('prometheus');
  if ('missing' in prefix) return prefix;
  return (...words) => {
    const { file, args } = commandIn(prefix, ['/usr/bin/promtool', ...words], false);
    return new Promise((resolve) => {
      execFile(file, [...args], { timeout: 60_000, maxBuffer: 16 << 20 }, (error, out, err) =>
        resolve({ code: error === null ? 0 : Number(error.code ?? 99), output: `${out}${err}` }),
      );
    });
  };
}
