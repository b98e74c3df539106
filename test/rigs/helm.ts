/** Helm as a person types it, in a home of its own. Owns: that home. No repository, no network. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import type { KubeObject } from '../cluster/kube-client.ts';
import { findHelm } from '../cluster/programs.ts';
import { ROOT } from '../house/sources.ts';

export const OPERATOR_CHART = join(ROOT, 'charts/mailcluster-operator');
export const CLUSTER_CHART = join(ROOT, 'charts/mailcluster');
export const TWO_SITES = join(CLUSTER_CHART, 'ci/two-sites-values.yaml');

/** `template` and `lint` ask no server. */
const KUBE_VERSION = '1.34.0';
const HELM_MS = 120_000;

export interface HelmResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export class Helm {
  readonly #program: string;
  /** Gone when it is closed. */
  readonly home: string;

  private constructor(program: string, home: string) {
    this.#program = program;
    this.home = home;
  }

  /** A text: what is missing. */
  static async open(): Promise<Helm | string> {
    const program = await findHelm();
    if (typeof program !== 'string') return program.missing;
    return new Helm(program, await mkdtemp(join(tmpdir(), 'mailcluster-helm-')));
  }

  async close(): Promise<void> {
    await rm(this.home, { recursive: true });
  }

  run(...args: readonly string[]): Promise<HelmResult> {
    const env = { PATH: '/usr/bin:/bin', HOME: this.home };
    return new Promise((resolve) => {
      execFile(this.#program, [...args], { env, timeout: HELM_MS, maxBuffer: 64 << 20 }, (error, out, err) =>
        resolve({ code: error === null ? 0 : Number(error.code ?? 99), out, err }),
      );
    });
  }

  async must(...args: readonly string[]): Promise<string> {
    const { code, out, err } = await this.run(...args);
    if (code !== 0) throw new Error(`helm ${args.join(' ')}: ${code} ${err}`);
    return out;
  }

  /** A file of values, JSON being YAML. */
  async values(name: string, values: object): Promise<string> {
    const path = join(this.home, `${name}.yaml`);
    await writeFile(path, JSON.stringify(values));
    return path;
  }

  template(chart: string, ...args: readonly string[]): Promise<HelmResult> {
    return this.run('template', 'release', chart, '--namespace', 'somewhere', '--kube-version', KUBE_VERSION, ...args);
  }

  lint(...args: readonly string[]): Promise<HelmResult> {
    return this.run('lint', '--strict', '--kube-version', KUBE_VERSION, ...args);
  }
}

/** Throws on a document that is no YAML. */
export function objectsOf(rendered: string): readonly KubeObject[] {
  return parseAllDocuments(rendered, { uniqueKeys: true }).flatMap((document) => {
    if (document.errors.length > 0) throw document.errors[0];
    const object = document.toJS() as KubeObject | null;
    return object === null ? [] : [object];
  });
}
