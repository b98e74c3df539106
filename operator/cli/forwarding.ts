/**
 * HTTP to ports of pods over port-forward, for `admin-client.ts`. Owns: connections, kept for the next question. Promise: a host name is the name
 * of a pod; TLS goes from here to the pod, so that neither the API server nor the kubelet can read or answer.
 */
import { Agent as PlainAgent } from 'node:http';
import { Agent } from 'node:https';
import type { Duplex } from 'node:stream';
import { type ConnectionOptions, connect } from 'node:tls';
import type { KubeIdentity } from '../kube/identity.ts';
import { openPortForward } from '../kube/port-forward.ts';

/** One of them may be a long walk; a few questions at once wait for each other. */
const POOL = { keepAlive: true, maxSockets: 2 } as const;

type Created = (error: Error | null, stream: Duplex) => void;
interface Target {
  readonly host?: string | null | undefined;
  readonly port?: string | number | null | undefined;
}

export class Forwarding {
  /** For https://POD:PORT. */
  readonly secure: Agent;
  /** For http://POD:PORT. */
  readonly plain: PlainAgent;

  constructor(identity: KubeIdentity, namespace: string, deadlineMs: number) {
    const open = ({ host, port }: Target): Promise<Duplex> =>
      openPortForward(identity, { namespace, pod: host ?? '', port: Number(port) }, deadlineMs);
    this.secure = new Agent(POOL);
    this.secure.createConnection = (options: ConnectionOptions & Target, created?: Created): undefined => {
      open(options).then(
        (socket) => created?.(null, connect({ ...options, socket })),
        (error: Error) => created?.(error, undefined as never),
      );
    };
    // A stream that is no socket of the system cannot be kept by this one.
    this.plain = new PlainAgent({ keepAlive: false });
    this.plain.createConnection = (options: Target, created?: Created): undefined => {
      open(options).then(
        (socket) => created?.(null, socket),
        (error: Error) => created?.(error, undefined as never),
      );
    };
  }

  close(): void {
    this.secure.destroy();
    this.plain.destroy();
  }
}
