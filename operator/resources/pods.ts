/**
 * What is the same in every pod of ours: Restricted Pod Security, no token for the API server, the mounted documents, the environment, the
 * probes (kubernetes.md section 2). Owns: that. Promise: nothing in a template depends on the operator's version or on time, so that an
 * upgraded operator renders the same bytes (K12). PURE.
 */

import type { OperatorSettings } from '../gathered.ts';
import type { MailCluster } from '../resource/generated.ts';
import { TRANSPORT_ALLOCATOR, TRANSPORT_NODE_FLAGS } from '../transport-process.ts';
import {
  ANNOTATION,
  hashOf,
  LABEL,
  labels,
  named,
  type Owner,
  PATH,
  PORT,
  type Role,
  SIGNER_AUDIENCE,
  TOKEN_FILE,
} from './names.ts';

export type Site = MailCluster['spec']['sites'][number];

/** The user of the image; any other works too. */
const USER = 10_001;
const TOKEN_SECONDS = 3_600;
/** Reading a large queue database again takes minutes; nobody shall kill it meanwhile. */
const START_SECONDS = 900;
/** Of readiness: a pod that can serve waits at most this long until somebody knows. */
const PROBE_SECONDS = 2;
/** Endpoints stop pointing here before the listener closes (measured: without it 0.4-2.7 % of new connections fail). */
export const PRE_STOP_SECONDS = 5;

export const POD_SECURITY = {
  runAsNonRoot: true,
  runAsUser: USER,
  runAsGroup: USER,
  fsGroup: USER,
  fsGroupChangePolicy: 'OnRootMismatch',
  seccompProfile: { type: 'RuntimeDefault' },
} as const;

export const CONTAINER_SECURITY = {
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ['ALL'] },
} as const;

const fromField = (name: string, fieldPath: string) => ({ name, valueFrom: { fieldRef: { fieldPath } } });

/** What differs from pod to pod; `$(NAME)` in the rendered configuration (common/pod-config.ts). */
export const ENVIRONMENT = [
  fromField('POD_NAME', 'metadata.name'),
  fromField('POD_NAMESPACE', 'metadata.namespace'),
  fromField('POD_UID', 'metadata.uid'),
  fromField('POD_IP', 'status.podIP'),
  fromField('NODE_NAME', 'spec.nodeName'),
  { name: 'NODE_COMPILE_CACHE', value: `${PATH.temporary}/compile-cache` },
] as const;

const TRANSPORT_ENVIRONMENT = Object.entries({
  NODE_OPTIONS: TRANSPORT_NODE_FLAGS.join(' '),
  ...TRANSPORT_ALLOCATOR,
}).map(([name, value]) => ({ name, value }));

const metricsProbe = (path: string, more: object) => ({
  httpGet: { path, port: 'metrics', scheme: 'HTTP' },
  timeoutSeconds: 3,
  ...more,
});

export const PROBES = {
  startupProbe: metricsProbe('/livez', { periodSeconds: 1, failureThreshold: START_SECONDS }),
  livenessProbe: metricsProbe('/livez', { periodSeconds: 10, failureThreshold: 6 }),
  readinessProbe: metricsProbe('/readyz', { periodSeconds: PROBE_SECONDS, failureThreshold: 5 }),
} as const;

export interface Mount {
  readonly volume: Readonly<Record<string, unknown>> & { readonly name: string };
  readonly path: string;
  readonly readOnly: boolean;
}

export const configMapMount = (name: string, configMap: string, path: string): Mount => ({
  volume: { name, configMap: { name: configMap } },
  path,
  readOnly: true,
});

export const secretMount = (name: string, secretName: string, path: string): Mount => ({
  // 0440: readable through the group of the pod.
  volume: { name, secret: { secretName, defaultMode: 0o440 } },
  path,
  readOnly: true,
});

export const memoryMount = (name: string, path: string): Mount => ({
  volume: { name, emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } },
  path,
  readOnly: false,
});

/** The token of this pod for the signing endpoint and for nothing else. */
const TOKEN: Mount = {
  volume: {
    name: 'signer-token',
    projected: {
      defaultMode: 0o440,
      sources: [
        { serviceAccountToken: { audience: SIGNER_AUDIENCE, expirationSeconds: TOKEN_SECONDS, path: TOKEN_FILE } },
      ],
    },
  },
  path: PATH.token,
  readOnly: true,
};

export function commonMounts(owner: Owner): readonly Mount[] {
  return [
    configMapMount('config', named.config(owner.name), PATH.config),
    configMapMount('topology', named.topology(owner.name), PATH.topology),
    configMapMount('trust', named.trust(owner.name), PATH.trust),
    TOKEN,
    { volume: { name: 'tmp', emptyDir: { sizeLimit: '256Mi' } }, path: PATH.temporary, readOnly: false },
  ];
}

/** The pod goes only to nodes of its site; a site without labels is anywhere. */
export function siteAffinity(site: Site | undefined): object {
  const wanted = Object.entries(site?.nodeLabels ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  if (wanted.length === 0) return {};
  const matchExpressions = wanted.map(([key, value]) => ({ key, operator: 'In', values: [value] }));
  return {
    affinity: {
      nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions }] } },
    },
  };
}

const spreadOverNodes = (matchLabels: Readonly<Record<string, string>>) => [
  {
    maxSkew: 1,
    topologyKey: 'kubernetes.io/hostname',
    whenUnsatisfiable: 'ScheduleAnyway',
    labelSelector: { matchLabels },
  },
];

export interface ProgramPod {
  readonly owner: Owner;
  readonly operator: OperatorSettings;
  readonly role: Role;
  readonly group: string;
  readonly site: Site | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly program: 'transport' | 'frontend';
  readonly configFile: string;
  /** The rendered configuration: a change restarts, nothing else in the ConfigMap does. */
  readonly config: object;
  readonly ports: readonly { readonly name: string; readonly containerPort: number }[];
  readonly mounts: readonly Mount[];
  /** Mounts whose volume comes from a claim template. */
  readonly claims: readonly { readonly name: string; readonly mountPath: string }[];
  readonly resources: object | undefined;
  readonly graceSeconds: number;
}

/** A pod template with the hashes by which a pod is known to be out of date, and why. */
export function podTemplate(pod: ProgramPod) {
  const { owner, operator, role, group } = pod;
  const spec = {
    serviceAccountName: named.serviceAccount(owner.name),
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    terminationGracePeriodSeconds: pod.graceSeconds,
    securityContext: POD_SECURITY,
    ...(operator.imagePullSecrets.length === 0
      ? {}
      : { imagePullSecrets: operator.imagePullSecrets.map((name) => ({ name })) }),
    ...siteAffinity(pod.site),
    topologySpreadConstraints: spreadOverNodes({ [LABEL.cluster]: owner.name, [LABEL.group]: group }),
    containers: [
      {
        name: pod.program,
        image: operator.image,
        imagePullPolicy: operator.imagePullPolicy,
        // A command of the image (charts/image/contents.ts): starts in half the time of `node main.ts`.
        command: [pod.program, '--pod', `${PATH.config}/${pod.configFile}`],
        env: pod.program === 'transport' ? [...ENVIRONMENT, ...TRANSPORT_ENVIRONMENT] : ENVIRONMENT,
        ports: [...pod.ports, { name: 'metrics', containerPort: PORT.metrics }].map((one) => ({
          ...one,
          protocol: 'TCP',
        })),
        ...PROBES,
        lifecycle: { preStop: { sleep: { seconds: PRE_STOP_SECONDS } } },
        securityContext: CONTAINER_SECURITY,
        ...(pod.resources === undefined ? {} : { resources: pod.resources }),
        volumeMounts: [
          ...pod.mounts.map(({ volume, path, readOnly }) => ({ name: volume.name, mountPath: path, readOnly })),
          ...pod.claims,
        ],
      },
    ],
    volumes: pod.mounts.map(({ volume }) => volume),
  };
  return {
    metadata: {
      labels: labels(owner, role, { [LABEL.role]: role, [LABEL.group]: group, ...pod.labels }),
      annotations: {
        [ANNOTATION.configHash]: hashOf(pod.config),
        [ANNOTATION.resourcesHash]: hashOf(pod.resources ?? {}),
        [ANNOTATION.templateHash]: hashOf(spec),
      },
    },
    spec,
  };
}

export type PodTemplate = ReturnType<typeof podTemplate>;
