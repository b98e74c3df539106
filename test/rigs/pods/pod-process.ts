/**
 * One pod of ours, played by the real program that its manifest names. Owns: its process, by pid, its files, its log. Promise: what the API server is told of it
 * is what its readiness endpoint says; it ends by SIGTERM within its grace period when the pod is deleted; a process that ends by itself is
 * started again in the same pod. The preStop pause is left out: nothing here routes by endpoints.
 */
import { join } from 'node:path';
import { COMMANDS } from '../../../charts/image/contents.ts';
import { Daemon } from '../../cluster/daemon.ts';
import type { PodBehaviour } from '../../cluster/fake-pod-status.ts';
import type { KubeObject } from '../../cluster/kube-client.ts';
import { ROOT } from '../../house/sources.ts';
import { NotThereYet, PodFiles, type PodPlace } from './pod-files.ts';

export interface PodMachine extends PodPlace {
  readonly address: string;
  readonly logFile: string;
  /** For `pod-machine.ts`. */
  readonly environment: Readonly<Record<string, string>>;
}

type Stage = 'preparing' | 'starting' | 'ready' | 'ending' | 'ended';

const PRELOAD = join(import.meta.dirname, 'pod-machine.ts');
const BUILD = join(import.meta.dirname, 'pod-build.ts');
const PROBE_MS = 1_000;
/** How often mounted files are looked at when nothing changes on the pod: a minute in a kubelet. */
const REFRESH_MS = 3_000;
/** A program that cannot run is no use to a test. */
const MOST_STARTS = 8;

export class PodProcess {
  readonly machine: PodMachine;
  readonly #files: PodFiles;
  #pod: KubeObject;
  #stage: Stage = 'preparing';
  #daemon: Daemon | null = null;
  #refreshed: string | null = null;
  #refreshedAtMs = 0;
  #starts = 0;
  #isPowerless = false;
  #termination: Promise<void> | null = null;

  constructor(pod: KubeObject, machine: PodMachine) {
    this.#pod = pod;
    this.machine = machine;
    this.#files = new PodFiles(pod, machine);
  }

  get name(): string {
    return this.#pod.metadata.name;
  }

  get pod(): KubeObject {
    return this.#pod;
  }

  get pid(): number | null {
    return this.#daemon?.pid ?? null;
  }

  /** Why it does not come up at all; null: it may. */
  get failure(): string | null {
    return this.#starts < MOST_STARTS ? null : `${this.name} ended ${this.#starts} times: ${this.#daemon?.tail()}`;
  }

  /** As the kubelet would report it. */
  see(pod: KubeObject): PodBehaviour {
    this.#pod = pod;
    const { address } = this.machine;
    if (this.#stage === 'ended') return { state: 'failed', address };
    const state = this.#stage === 'preparing' ? 'pending' : this.#stage === 'ready' ? 'running' : 'notReady';
    return { state, address, ignoresDeletion: true };
  }

  /** One look of the kubelet. True: something to report. */
  async tick(): Promise<boolean> {
    if (this.#isPowerless || this.#stage === 'ended') return false;
    const before = this.#stage;
    try {
      if (this.#pod.metadata.deletionTimestamp !== undefined) await this.#terminate();
      else if (this.#stage === 'preparing') await this.#start();
      else {
        if (this.#daemon?.pid === null && this.failure === null) this.#run();
        // What is mounted stays while the API server is away.
        await this.#refresh().catch(unlessAway);
        this.#stage = (await this.#isReady()) ? 'ready' : 'starting';
      }
    } catch (error) {
      unlessAway(error);
    }
    return this.#stage !== before;
  }

  /** Its machine lost power, or the pod was deleted by force: nothing is said any more. */
  async losePower(): Promise<void> {
    this.#isPowerless = true;
    await this.#daemon?.kill();
  }

  /** The process alone; started again in the same pod. */
  async crash(): Promise<void> {
    await this.#daemon?.kill();
  }

  /** SIGSTOP: its connections stay open and nothing answers. */
  pause(): void {
    this.#daemon?.pause();
  }

  resume(): void {
    this.#daemon?.resume();
  }

  /** Where a path of its container is on this machine. */
  path(inContainer: string): string {
    return this.#files.here(inContainer);
  }

  log(): string {
    return this.#daemon?.tail() ?? '';
  }

  async #start(): Promise<void> {
    await this.#files.prepare();
    await this.#files.refresh();
    this.#run();
    this.#stage = 'starting';
  }

  #run(): void {
    this.#starts += 1;
    const { directory, logFile, environment } = this.machine;
    const [program = '', ...words] = this.#files.container.command as string[];
    // The image has it on its PATH.
    const command = [join(ROOT, COMMANDS[program] ?? ''), ...words.map((word) => this.#files.here(word))];
    this.#daemon = new Daemon({
      name: this.name,
      file: process.execPath,
      args: ['--import', PRELOAD, ...(environment.POD_BUILD === undefined ? [] : ['--import', BUILD]), ...command],
      ...{ directory, logFile },
      environment: { ...this.#environment(), ...environment },
    });
    this.#daemon.start();
  }

  #environment(): Readonly<Record<string, string>> {
    const { metadata, spec } = this.#pod;
    const fields: Readonly<Record<string, string>> = {
      'metadata.name': metadata.name,
      'metadata.namespace': metadata.namespace,
      'metadata.uid': metadata.uid,
      'spec.nodeName': spec.nodeName,
      'status.podIP': this.machine.address,
    };
    const env = this.#files.container.env as { name: string; value?: string; valueFrom?: KubeObject }[];
    return Object.fromEntries(
      env.map(({ name, value, valueFrom }) => [name, value ?? fields[valueFrom?.fieldRef.fieldPath] ?? '']),
    );
  }

  /** At once when the pod changed, else now and then. */
  async #refresh(): Promise<void> {
    const annotations = JSON.stringify(this.#pod.metadata.annotations ?? {});
    const nowMs = performance.now();
    if (annotations === this.#refreshed && nowMs - this.#refreshedAtMs < REFRESH_MS) return;
    await this.#files.refresh();
    [this.#refreshed, this.#refreshedAtMs] = [annotations, nowMs];
  }

  async #isReady(): Promise<boolean> {
    const { path, port } = this.#files.container.readinessProbe.httpGet;
    const ports = this.#files.container.ports as { readonly name: string; readonly containerPort: number }[];
    const number = ports.find(({ name }) => name === port)?.containerPort;
    const signal = AbortSignal.timeout(PROBE_MS);
    const answer = fetch(`http://${this.machine.address}:${number}${path}`, { signal });
    return await answer.then(
      (response) => response.ok,
      () => false,
    );
  }

  async #terminate(): Promise<void> {
    this.#stage = 'ending';
    this.#termination ??= this.#daemon?.stop() ?? Promise.resolve();
    await this.#termination;
    await this.#files.remove();
    this.#stage = 'ended';
  }
}

/** The API server does not answer, or it has not got that yet. */
function unlessAway(error: unknown): void {
  if (!(error instanceof NotThereYet) && !(error instanceof Error && 'code' in error)) throw error;
}
