/**
 * The files of one pod as a kubelet would mount them, in directories of this machine. Owns: ConfigMaps, Secrets and the projected token of a pod, its empty
 * directories, and the way from a path in the container to one here. Promise: a volume claim is a directory named after its PersistentVolume, so it survives
 * the pod and not the volume; mounted files change all at once (`..data`), as kubelets do it. What a container runtime would do by namespaces
 * is done by rewriting: mount paths in arguments and in configurations, and the listening address, which is the pod's alone.
 */
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { KubeClient, KubeObject } from '../../cluster/kube-client.ts';

export interface PodPlace {
  readonly client: KubeClient;
  /** Of this pod, gone with it. */
  readonly directory: string;
  /** A directory for each PersistentVolume. */
  readonly volumes: string;
  /** Where the image has its programs, and where they are here. */
  readonly image: readonly [inContainer: string, here: string];
}

/** Something is not there yet; a kubelet waits too. */
export class NotThereYet extends Error {}

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

export class PodFiles {
  readonly #pod: KubeObject;
  readonly #place: PodPlace;
  readonly #written = new Map<string, string>();
  #paths: ReadonlyMap<string, string> = new Map();
  #versions = 0;

  constructor(pod: KubeObject, place: PodPlace) {
    this.#pod = pod;
    this.#place = place;
  }

  get container(): KubeObject {
    return this.#pod.spec.containers[0] as KubeObject;
  }

  /** A path of the container, or any text that begins with one. */
  here(text: string): string {
    const mounts = [...this.#paths.keys()].sort((a, b) => b.length - a.length).map(escaped);
    const starts = new RegExp(`^(${mounts.join('|')})(?=/|$)`);
    return text.replace(starts, (path) => this.#paths.get(path) ?? path);
  }

  /** Claims are bound, directories are made. */
  async prepare(): Promise<void> {
    const volumes = new Map((this.#pod.spec.volumes as KubeObject[]).map((one) => [one.name as string, one]));
    const paths = new Map<string, string>([this.#place.image]);
    for (const { name, mountPath } of this.container.volumeMounts as KubeObject[]) {
      const volume = volumes.get(name);
      if (volume !== undefined) paths.set(mountPath, await this.#directoryOf(volume));
    }
    this.#paths = paths;
    await Promise.all([...paths.values()].map((path) => mkdir(path, { recursive: true })));
  }

  /** What the mounted objects say now. */
  async refresh(): Promise<void> {
    for (const volume of this.#pod.spec.volumes as KubeObject[]) {
      const files = await this.#filesOf(volume);
      if (files !== null) await this.#write(volume.name, files);
    }
  }

  async remove(): Promise<void> {
    await rm(this.#place.directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }

  async #directoryOf(volume: KubeObject): Promise<string> {
    const claim = volume.persistentVolumeClaim?.claimName as string | undefined;
    if (claim === undefined) return join(this.#place.directory, volume.name);
    const bound = await this.#get('persistentvolumeclaims', claim);
    if (bound?.status?.phase !== 'Bound') throw new NotThereYet(`claim ${claim}`);
    return join(this.#place.volumes, bound.spec.volumeName);
  }

  /** Null: not a volume with content of the API server. */
  async #filesOf(volume: KubeObject): Promise<Readonly<Record<string, string>> | null> {
    const { configMap, secret, projected } = volume;
    if (projected !== undefined) return this.#written.has(volume.name) ? null : await this.#token(projected);
    if (configMap === undefined && secret === undefined) return null;
    const found = await this.#get(
      configMap === undefined ? 'secrets' : 'configmaps',
      configMap?.name ?? secret.secretName,
    );
    if (found === null && (configMap ?? secret).optional !== true) throw new NotThereYet(volume.name);
    const data = Object.entries((found?.data ?? {}) as Record<string, string>);
    return Object.fromEntries(
      data.map(([key, value]) => [
        key,
        configMap === undefined ? Buffer.from(value, 'base64').toString('utf8') : this.#onThisMachine(value),
      ]),
    );
  }

  #onThisMachine(config: string): string {
    return config
      .replaceAll('$(ANY_ADDRESS)', '$(POD_IP)')
      .replace(/"(\/[^"\\]*)"/g, (_all, path: string) => `"${this.here(path)}"`);
  }

  async #token({ sources }: KubeObject): Promise<Readonly<Record<string, string>>> {
    const { audience, expirationSeconds, path } = sources[0].serviceAccountToken;
    const { namespace, name, uid } = this.#pod.metadata;
    const account = `/api/v1/namespaces/${namespace}/serviceaccounts/${this.#pod.spec.serviceAccountName}/token`;
    const boundObjectRef = { apiVersion: 'v1', kind: 'Pod', name, uid };
    const { status } = await this.#place.client.must('POST', account, {
      body: {
        ...{ apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest' },
        spec: { audiences: [audience], expirationSeconds, boundObjectRef },
      },
    });
    return { [path]: status.token as string };
  }

  async #get(plural: string, name: string): Promise<KubeObject | null> {
    const path = `/api/v1/namespaces/${this.#pod.metadata.namespace}/${plural}/${name}`;
    const { status, body } = await this.#place.client.call('GET', path);
    if (status === 404) return null;
    if (status !== 200) throw new NotThereYet(`${path}: ${status}`);
    return body;
  }

  async #write(volume: string, files: Readonly<Record<string, string>>): Promise<void> {
    const text = JSON.stringify(files);
    if (this.#written.get(volume) === text) return;
    const isFirst = !this.#written.has(volume);
    const directory = join(this.#place.directory, volume);
    const version = `..${++this.#versions}`;
    await mkdir(join(directory, version), { recursive: true });
    for (const [name, content] of Object.entries(files)) await writeFile(join(directory, version, name), content);
    await symlink(version, join(directory, `${version}-link`));
    await rename(join(directory, `${version}-link`), join(directory, '..data'));
    for (const name of Object.keys(files))
      if (isFirst) await symlink(join('..data', name), join(directory, name));
      else await symlink(join('..data', name), join(directory, name)).catch(unlessThere);
    this.#written.set(volume, text);
  }
}

function unlessThere(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error;
}
