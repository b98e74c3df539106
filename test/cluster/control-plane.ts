/**
 * How the programs of a control plane at API level (loopback, no root) are started. Owns: every flag, the audit policy, the kubeconfig.
 * All run in `directory`, their working directory. Timings differ from production so that tests end: `PLANE_TIMES`.
 */
import { createServer } from 'node:net';
import { join } from 'node:path';

export interface PlaneFiles {
  readonly directory: string;
  readonly auditLogFile: string;
}

export interface PlaneTimes {
  /** A node without news is NotReady after this (50 s in production). */
  readonly nodeGraceSeconds: number;
  /** Pods leave an unready node after this (300 s in production). */
  readonly tolerationSeconds: number;
}

export const PLANE_TIMES: PlaneTimes = { nodeGraceSeconds: 16, tolerationSeconds: 15 };

/** Every write of everybody, and the reads of everybody but the control plane's own; metadata only: user, agent, verb, object, URI. */
export const AUDIT_POLICY = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - { level: None, nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/openapi/*", "/apis*", "/api"] }
  - level: None
    users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]
    verbs: [get, list, watch]
  - { level: None, userGroups: ["system:serviceaccounts:kube-system"], verbs: [get, list, watch] }
  - { level: Metadata }
`;

const SERVICE_CIDR = '10.96.0.0/16';
export const SERVICE_FIRST = '10.96.0.1';

/**
 * Sockets instead of ports: nobody else can take them, and no other user of the machine can talk to this etcd. etcd wants something that
 * reads like host and port, which it takes as a file name in its working directory.
 */
const CLIENT_SOCKET = 'client:0';
const PEER_SOCKET = 'peer:0';

export const etcdSocket = (directory: string): string => join(directory, CLIENT_SOCKET);

export function etcdArguments({ directory }: PlaneFiles): readonly string[] {
  const client = `unix://${CLIENT_SOCKET}`;
  const peer = `unix://${PEER_SOCKET}`;
  return [
    ...['--name=etcd', `--data-dir=${join(directory, 'etcd')}`, '--log-level=warn', '--unsafe-no-fsync'],
    ...[`--listen-client-urls=${client}`, `--advertise-client-urls=${client}`],
    ...[`--listen-peer-urls=${peer}`, `--initial-advertise-peer-urls=${peer}`, `--initial-cluster=etcd=${peer}`],
  ];
}

export function apiServerArguments(files: PlaneFiles, port: number, times: PlaneTimes): readonly string[] {
  const at = (name: string): string => join(files.directory, name);
  return [
    ...[
      `--etcd-servers=unix://${CLIENT_SOCKET}`,
      '--etcd-compaction-interval=0',
      '--storage-media-type=application/json',
    ],
    ...['--bind-address=127.0.0.1', '--advertise-address=127.0.0.1', `--secure-port=${port}`],
    '--endpoint-reconciler-type=none',
    ...[`--tls-cert-file=${at('server.crt')}`, `--tls-private-key-file=${at('server.key')}`],
    ...[`--client-ca-file=${at('ca.crt')}`, `--service-account-key-file=${at('sa.pub')}`],
    ...[`--service-account-signing-key-file=${at('sa.key')}`, `--service-cluster-ip-range=${SERVICE_CIDR}`],
    '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
    ...['--authorization-mode=Node,RBAC', '--allow-privileged', '--enable-aggregator-routing'],
    // By which pods of a namespace come to the nodes of its test only (`nodePool`).
    '--enable-admission-plugins=PodNodeSelector',
    `--default-not-ready-toleration-seconds=${times.tolerationSeconds}`,
    `--default-unreachable-toleration-seconds=${times.tolerationSeconds}`,
    ...[`--audit-policy-file=${at('audit-policy.yaml')}`, `--audit-log-path=${files.auditLogFile}`],
    // A program that ends must not wait for the watches of a test.
    ...['--shutdown-delay-duration=0s', '--shutdown-watch-termination-grace-period=0s'],
  ];
}

/** Port 0 serves nothing: whoever asks how it is looks at what it does. */
export function controllerManagerArguments(
  files: PlaneFiles,
  kubeconfig: string,
  times: PlaneTimes,
): readonly string[] {
  return [
    ...[`--kubeconfig=${kubeconfig}`, '--leader-elect=false', '--secure-port=0', '--use-service-account-credentials'],
    `--service-account-private-key-file=${join(files.directory, 'sa.key')}`,
    `--root-ca-file=${join(files.directory, 'ca.crt')}`,
    ...['--node-monitor-period=2s', `--node-monitor-grace-period=${times.nodeGraceSeconds}s`],
  ];
}

export function schedulerArguments(kubeconfig: string): readonly string[] {
  return [`--kubeconfig=${kubeconfig}`, '--leader-elect=false', '--secure-port=0'];
}

export interface KubeconfigParts {
  readonly url: string;
  readonly caPem: string;
  readonly certPem?: string;
  readonly keyPem?: string;
  readonly token?: string;
}

const base64 = (text: string): string => Buffer.from(text).toString('base64');

export function kubeconfig({ url, caPem, certPem, keyPem, token }: KubeconfigParts): string {
  const user = {
    ...(certPem === undefined ? {} : { 'client-certificate-data': base64(certPem) }),
    ...(keyPem === undefined ? {} : { 'client-key-data': base64(keyPem) }),
    ...(token === undefined ? {} : { token }),
  };
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'test', cluster: { server: url, 'certificate-authority-data': base64(caPem) } }],
    users: [{ name: 'test', user }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
    'current-context': 'test',
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}

/**
 * A port that is free now, below the range from which the kernel takes ports of outgoing connections. Somebody can still bind it before
 * the API server does: `startApiServer` then tries another.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 17_000);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}
