/**
 * The Redis (or Valkey) of `redis.mode: Managed`: one pod in memory, because what it knows may be lost at any time (semantics.md S15). Owns: its
 * Deployment, Service and the Secret with its password. The password is made by whoever carries the plan out. PURE.
 */
import type { OperatorSettings } from '../gathered.ts';
import { LABEL, labels, metadata, named, type Owner, PASSWORD_KEY, PORT, podSelector } from './names.ts';
import type { KubeObject } from './objects.ts';
import { CONTAINER_SECURITY, POD_SECURITY } from './pods.ts';

export const PASSWORD_BYTES = 24;

/** Read from standard input: a password among arguments could be read by everybody on the node. */
const START = [
  '{',
  `echo "requirepass $(cat /secret/${PASSWORD_KEY})";`,
  'echo "port 6379"; echo "save \'\'"; echo "appendonly no"; echo "dir /tmp";',
  'echo "maxmemory 200mb"; echo "maxmemory-policy allkeys-lru";',
  '} | exec redis-server -',
].join(' ');

export const redisSecret = (owner: Owner): KubeObject => ({
  apiVersion: 'v1',
  kind: 'Secret',
  type: 'Opaque',
  metadata: metadata(owner, named.redis(owner.name), 'redis'),
});

export function redisService(owner: Owner): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: metadata(owner, named.redis(owner.name), 'redis'),
    spec: {
      type: 'ClusterIP',
      selector: podSelector(owner, 'redis'),
      ports: [{ name: 'redis', port: PORT.redis, targetPort: PORT.redis, protocol: 'TCP' }],
    },
  };
}

export function redisDeployment(owner: Owner, operator: OperatorSettings): KubeObject {
  const probe = { tcpSocket: { port: 'redis' }, timeoutSeconds: 3 };
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: metadata(owner, named.redis(owner.name), 'redis'),
    spec: {
      replicas: 1,
      strategy: { type: 'Recreate' },
      revisionHistoryLimit: 3,
      selector: { matchLabels: podSelector(owner, 'redis') },
      template: {
        metadata: { labels: labels(owner, 'redis', { [LABEL.role]: 'redis' }) },
        spec: {
          serviceAccountName: named.serviceAccount(owner.name),
          automountServiceAccountToken: false,
          enableServiceLinks: false,
          securityContext: POD_SECURITY,
          ...(operator.imagePullSecrets.length === 0
            ? {}
            : { imagePullSecrets: operator.imagePullSecrets.map((name) => ({ name })) }),
          containers: [
            {
              name: 'redis',
              image: operator.redisImage,
              imagePullPolicy: operator.imagePullPolicy,
              command: ['sh', '-c', START],
              ports: [{ name: 'redis', containerPort: PORT.redis, protocol: 'TCP' }],
              livenessProbe: { ...probe, periodSeconds: 10 },
              readinessProbe: { ...probe, periodSeconds: 5 },
              securityContext: CONTAINER_SECURITY,
              resources: { requests: { cpu: '50m', memory: '64Mi' }, limits: { memory: '256Mi' } },
              volumeMounts: [
                { name: 'password', mountPath: '/secret', readOnly: true },
                { name: 'tmp', mountPath: '/tmp' },
              ],
            },
          ],
          volumes: [
            { name: 'password', secret: { secretName: named.redis(owner.name), defaultMode: 0o440 } },
            { name: 'tmp', emptyDir: { sizeLimit: '64Mi' } },
          ],
        },
      },
    },
  };
}
