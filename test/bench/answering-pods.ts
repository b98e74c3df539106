/**
 * Pods for the bench of the operator: fake nodes say that they run, and behind the address of each transport something answers the operator's question as a
 * member at rest does, by its own certificate of its cluster's authority. Owns: the nodes, the volumes, one listener on all of loopback. Stands in
 * for transports, of which thousands have no room on one machine; never used by a test.
 */
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { createSecureContext, type SecureContext, TLSSocket } from 'node:tls';
import { type Authority, issueCertificate, loadAuthority } from '../../operator/pki.ts';
import { ANNOTATION, LABEL, named, PORT } from '../../operator/resources/names.ts';
import { FakeNodes } from '../cluster/fake-nodes.ts';
import type { PodBehaviour } from '../cluster/fake-pod-status.ts';
import type { KubeClient, KubeObject } from '../cluster/kube-client.ts';

export const STORAGE_CLASS = 'bench';
const PODS_PER_NODE = 900;
const AT_ONCE = 16;
const nothing = { messages: 0, bytes: 0, oldestMs: null };
const QUEUES = ['submission', 'delivery', 'unreachable', 'poison', 'shadow', 'primarySafetyNet', 'shadowSafetyNet'];

interface Member {
  readonly name: string;
  readonly cluster: string;
  readonly namespace: string;
  readonly identity: string;
  /** As the operator pushed it. */
  generation: number;
  context: Promise<SecureContext> | null;
}

export class AnsweringPods {
  readonly #client: KubeClient;
  readonly #members = new Map<string, Member>();
  /** By cluster: a member names all the others, as one of a boundary does. */
  readonly #clusters = new Map<string, Member[]>();
  readonly #addresses = new Map<string, string>();
  readonly #authorities = new Map<string, Promise<Authority>>();
  readonly #server: Server;
  readonly #http = createHttpServer();
  #nodes: FakeNodes | null = null;
  /** Asked of all of them so far. */
  questions = 0;

  private constructor(client: KubeClient) {
    this.#client = client;
    // As transport/runtime/admin.ts.
    this.#http.keepAliveTimeout = 120_000;
    this.#http.on('request', (request, response) => this.#answer(request, response));
    this.#server = createServer((socket) => void this.#serve(socket).catch(() => socket.destroy()));
  }

  /** `many` members at most. */
  static async start(client: KubeClient, many: number): Promise<AnsweringPods> {
    const made = new AnsweringPods(client);
    await new Promise<void>((resolve) => made.#server.listen(PORT.admin, '0.0.0.0', resolve));
    await made.#volumes(many);
    const nodes = Array.from({ length: Math.ceil((2 * many) / PODS_PER_NODE) }, (_, at) => ({
      name: `bench-${at}`,
      zone: 'bench',
    }));
    made.#nodes = await FakeNodes.start(client, nodes, { behaviour: made.#behaviour });
    return made;
  }

  async stop(): Promise<void> {
    await this.#nodes?.stop();
    this.#server.close();
    this.#http.closeAllConnections();
  }

  async #volumes(many: number): Promise<void> {
    await this.#client.mustApply({
      ...{ apiVersion: 'storage.k8s.io/v1', kind: 'StorageClass', metadata: { name: STORAGE_CLASS } },
      ...{ provisioner: 'kubernetes.io/no-provisioner', volumeBindingMode: 'Immediate' },
    });
    const volume = (at: number): Promise<KubeObject> =>
      this.#client.mustApply({
        ...{ apiVersion: 'v1', kind: 'PersistentVolume', metadata: { name: `bench-${at}` } },
        spec: {
          ...{ capacity: { storage: '1Ti' }, accessModes: ['ReadWriteOnce'], storageClassName: STORAGE_CLASS },
          hostPath: { path: `/nowhere/${at}` },
        },
      });
    for (let from = 0; from < many; from += AT_ONCE)
      await Promise.all(Array.from({ length: Math.min(AT_ONCE, many - from) }, (_, at) => volume(from + at)));
  }

  readonly #behaviour = ({ metadata }: KubeObject): PodBehaviour => {
    const { uid, name, namespace, labels, annotations } = metadata;
    const number = this.#addresses.size;
    const address =
      this.#addresses.get(uid) ??
      `127.${100 + Math.floor(number / 60_000)}.${Math.floor(number / 250) % 240}.${(number % 250) + 1}`;
    if (!this.#addresses.has(uid)) {
      this.#addresses.set(uid, address);
      const identity = String(number).padStart(26, '0');
      const member = { name, namespace, cluster: labels[LABEL.cluster], identity, generation: 0, context: null };
      if (labels[LABEL.role] === 'transport') this.#add(address, member);
    }
    const member = this.#members.get(address);
    if (member !== undefined) member.generation = Number(annotations?.[ANNOTATION.generation] ?? 0);
    return { state: 'running', address };
  };

  #add(address: string, member: Member): void {
    this.#members.set(address, member);
    this.#clusters.set(member.cluster, [...(this.#clusters.get(member.cluster) ?? []), member]);
  }

  #peersOf(member: Member): readonly object[] {
    const others = (this.#clusters.get(member.cluster) ?? []).filter((one) => one !== member);
    return others.map(({ name, identity }) => ({
      ...{ member: name, identity, connected: true, lastContactMs: Date.now(), problem: null },
    }));
  }

  async #serve(socket: Socket): Promise<void> {
    const member = this.#members.get(socket.localAddress ?? '');
    if (member === undefined) return void socket.destroy();
    member.context ??= this.#contextOf(member);
    const secured = new TLSSocket(socket, { isServer: true, secureContext: await member.context, requestCert: true });
    secured.on('error', () => socket.destroy());
    this.#http.emit('connection', secured);
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    this.questions += 1;
    const member = this.#members.get(request.socket.localAddress ?? '');
    if (member === undefined || request.url !== '/v1/status') return void response.writeHead(404).end();
    const status = {
      ...{
        name: member.name,
        identity: member.identity,
        state: 'ready',
        generation: member.generation,
        unprotected: 0,
      },
      drain: { state: 'none', copies: 0, safetyNet: 0, tombstones: 0, waitingFor: [] },
      ...{ backPressure: 'Normal', queues: Object.fromEntries(QUEUES.map((queue) => [queue, nothing])) },
      ...{ discardsPending: 0, space: { liveBytes: 0, freeBytes: 1e12 }, peers: this.#peersOf(member) },
    };
    response.end(JSON.stringify(status));
  }

  async #contextOf({ name, cluster, namespace }: Member): Promise<SecureContext> {
    const authority = await this.#authorityOf(namespace, cluster);
    const request = { cluster, role: 'transport', name, hosts: [], days: 7 } as const;
    const { certificatePem: cert, keyPem: key } = await issueCertificate(authority, request);
    return createSecureContext({ cert, key, ca: authority.certificatePem, minVersion: 'TLSv1.3' });
  }

  #authorityOf(namespace: string, cluster: string): Promise<Authority> {
    const found = this.#authorities.get(cluster) ?? this.#readAuthority(namespace, cluster);
    this.#authorities.set(cluster, found);
    return found;
  }

  async #readAuthority(namespace: string, cluster: string): Promise<Authority> {
    const { data } = await this.#client.get(`/api/v1/namespaces/${namespace}/secrets/${named.authority(cluster)}`);
    const [certificatePem, keyPem] = ['tls.crt', 'tls.key'].map((key) => Buffer.from(data[key], 'base64').toString());
    return await loadAuthority({ certificatePem: certificatePem ?? '', keyPem: keyPem ?? '' });
  }
}
