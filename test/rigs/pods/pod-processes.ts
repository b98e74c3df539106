/**
 * The machines of a fake cluster (`test/cluster/fake-nodes.ts`) on which pods of ours are real processes. Owns: a block of loopback addresses, one for each
 * pod, the names under which they are found, the volumes, the processes. Promise: after `stop` no process and no file of it is left, also when the test
 * failed; when this process is killed they die with it (`Daemon`). Names of pods resolve as long as the pod is there, ready or not: the
 * headless Services publish them so.
 */
import { randomInt } from 'node:crypto';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { PodBehaviour } from '../../cluster/fake-pod-status.ts';
import type { KubeClient, KubeObject } from '../../cluster/kube-client.ts';
import { ROOT } from '../../house/sources.ts';
import { PodProcess } from './pod-process.ts';

const TICK_MS = 100;
const PROGRAMS = '/opt/mailcluster';
/** Loopback in Linux is 127.0.0.0/8. One block for each rig, so that all pods can have the ports of their manifests. */
const LOCK = { host: 254, port: 7_700 };
const FIRST_POD = 10;

/** Of which version a pod is (`pod-build.ts`); null: of this one. */
export type BuildOf = (pod: KubeObject) => 'former' | 'next' | null;

interface Place {
  readonly client: KubeClient;
  /** Shared with others: what it holds is found by its content. */
  readonly compileCache: string;
  readonly directory: string;
  readonly block: string;
  readonly lock: Server;
  readonly build: BuildOf;
}

export class PodProcesses {
  readonly directory: string;
  readonly #client: KubeClient;
  readonly #compileCache: string;
  readonly #block: string;
  readonly #lock: Server;
  readonly #build: BuildOf;
  readonly #pods = new Map<string, PodProcess>();
  readonly #names = new Map<string, string>();
  readonly #busy = new Map<string, Promise<void>>();
  readonly #dark = new Set<string>();
  readonly #ticker: NodeJS.Timeout;
  #look: (uid: string) => void = () => undefined;
  #nextAddress = FIRST_POD;
  #writing: Promise<void> = Promise.resolve();
  #failure: string | null = null;
  #isStopped = false;

  private constructor({ client, compileCache, directory, block, lock, build }: Place) {
    this.#build = build;
    this.#client = client;
    this.#compileCache = compileCache;
    this.directory = directory;
    this.#block = block;
    this.#lock = lock;
    this.#ticker = setInterval(() => this.#tick(), TICK_MS);
  }

  static async start(client: KubeClient, compileCache: string, build: BuildOf = () => null): Promise<PodProcesses> {
    const { block, lock } = await ownBlock();
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-pods-'));
    const made = new PodProcesses({ client, compileCache, directory, block, lock, build });
    for (const name of ['pods', 'volumes', 'logs']) await mkdir(join(directory, name));
    await made.#writeNames();
    return made;
  }

  /** An address of this block that is nobody's. */
  address(host: number): string {
    return `${this.#block}.${host}`;
  }

  /** Whom to tell that a pod has something new to say. */
  tell(look: (uid: string) => void): void {
    this.#look = look;
  }

  /** For `FakeNodes`. */
  readonly behaviour = (pod: KubeObject): PodBehaviour =>
    this.#isStopped ? { state: 'notReady' } : this.#podOf(pod).see(pod);

  readonly gone = ({ metadata: { uid } }: KubeObject): void => {
    const found = this.#pods.get(uid);
    if (found === undefined) return;
    this.#pods.delete(uid);
    this.#forgetName(found.pod);
    void found.losePower();
  };

  get failure(): string | null {
    return this.#failure;
  }

  get running(): readonly PodProcess[] {
    return [...this.#pods.values()].filter(({ pid }) => pid !== null);
  }

  find(name: string): PodProcess {
    const found = [...this.#pods.values()].find((one) => one.name === name);
    if (found === undefined) throw new Error(`no process plays ${name}`);
    return found;
  }

  /** Everything on this node ends in the same moment, and nothing is said of it any more. */
  async losePower(node: string): Promise<void> {
    this.#dark.add(node);
    await Promise.all([...this.#pods.values()].filter(({ pod }) => pod.spec.nodeName === node).map(powerless));
  }

  /** As many bytes are free on the volume of whoever runs as this pod; null: as many as there are. */
  async setFreeBytes(name: string, bytes: number | null): Promise<void> {
    const file = this.#diskFile(name);
    if (bytes === null) return await rm(file, { force: true });
    await writeFile(`${file}.new`, String(bytes));
    await rename(`${file}.new`, file);
  }

  /** What is on a PersistentVolume; the directory of a queue database is `queue` in it. */
  volume(name: string): string {
    return join(this.directory, 'volumes', name);
  }

  /** Last words of all, for a failure. */
  logs(): string {
    return [...this.#pods.values()].map((one) => `--- ${one.name}\n${one.log()}`).join('\n');
  }

  async stop(): Promise<void> {
    clearInterval(this.#ticker);
    this.#isStopped = true;
    // A program that ends in order is not waited for.
    await Promise.all([...this.#pods.values()].map(powerless));
    await Promise.all(this.#busy.values());
    for (const uid of this.#pods.keys()) this.#look(uid);
    this.#pods.clear();
    await this.#writing;
    await new Promise<void>((resolve) => this.#lock.close(() => resolve()));
    await rm(this.directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }

  #buildOf(pod: KubeObject): Readonly<Record<string, string>> {
    const build = this.#build(pod);
    return build === null ? {} : { POD_BUILD: build };
  }

  #podOf(pod: KubeObject): PodProcess {
    const { uid, name } = pod.metadata;
    const known = this.#pods.get(uid);
    if (known !== undefined) return known;
    const made = new PodProcess(pod, {
      client: this.#client,
      directory: join(this.directory, 'pods', uid),
      volumes: join(this.directory, 'volumes'),
      image: [PROGRAMS, ROOT],
      address: this.address(this.#nextAddress++),
      logFile: join(this.directory, 'logs', `${name}.log`),
      environment: {
        POD_HOSTS: this.#namesFile,
        POD_DISK: this.#diskFile(name),
        NODE_COMPILE_CACHE: this.#compileCache,
        ...this.#buildOf(pod),
      },
    });
    this.#pods.set(uid, made);
    if (this.#dark.has(pod.spec.nodeName)) void made.losePower();
    this.#publish(pod, made.machine.address);
    return made;
  }

  #tick(): void {
    for (const [uid, pod] of this.#pods) {
      if (this.#busy.has(uid)) continue;
      const looking = pod
        .tick()
        .then((changed) => {
          if (changed) this.#look(uid);
          this.#failure ??= pod.failure;
        })
        .catch((error: unknown) => {
          this.#failure ??= `${pod.name}: ${error instanceof Error ? error.stack : String(error)}`;
        })
        .finally(() => this.#busy.delete(uid));
      this.#busy.set(uid, looking);
    }
  }

  get #namesFile(): string {
    return join(this.directory, 'hosts.json');
  }

  #diskFile(name: string): string {
    return join(this.directory, `free-${name}`);
  }

  /** Only pods of a Service have names. */
  #publish({ spec, metadata }: KubeObject, address: string): void {
    const { hostname, subdomain } = spec;
    if (hostname === undefined || subdomain === undefined) return;
    this.#names.set(`${hostname}.${subdomain}.${metadata.namespace}.svc.cluster.local`, address);
    void this.#writeNames();
  }

  #forgetName({ spec, metadata }: KubeObject): void {
    const name = `${spec.hostname}.${spec.subdomain}.${metadata.namespace}.svc.cluster.local`;
    // A successor may be there already.
    if ([...this.#pods.values()].some(({ pod }) => pod.metadata.name === metadata.name)) return;
    if (this.#names.delete(name)) void this.#writeNames();
  }

  #writeNames(): Promise<void> {
    const next = this.#writing.then(async () => {
      await writeFile(`${this.#namesFile}.new`, JSON.stringify(Object.fromEntries(this.#names)));
      await rename(`${this.#namesFile}.new`, this.#namesFile);
    });
    this.#writing = next;
    return next;
  }
}

const powerless = (pod: PodProcess): Promise<void> => pod.losePower();

/** Taken by listening in it for as long as it is used. */
async function ownBlock(): Promise<{ readonly block: string; readonly lock: Server }> {
  for (;;) {
    const block = `127.${randomInt(1, 255)}.${randomInt(0, 255)}`;
    const lock = createServer().unref();
    const isOurs = await new Promise<boolean>((resolve) => {
      lock.once('error', () => resolve(false));
      lock.listen(LOCK.port, `${block}.${LOCK.host}`, () => resolve(true));
    });
    if (isOurs) return { block, lock };
  }
}
