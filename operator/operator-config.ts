/**
 * What the operator is told by its deployment: one JSON file, `$(NAME)` in it from the environment of the pod. Owns: its shape and check. Refuses: anything that
 * does not match, with the path.
 */
import type { OperatorSettings } from './gathered.ts';
import { LEASE_TIMES, type LeaseTimes } from './kube/lease-record.ts';

export interface OperatorConfig {
  /** Empty: as a pod in its cluster; else a kubeconfig file. */
  readonly kubeconfig: string;
  /** Which MailClusters: empty: of all namespaces. */
  readonly watchNamespace: string;
  readonly lease: { readonly namespace: string; readonly name: string; readonly times: LeaseTimes };
  /** Of this process, in the lease and in events: the name of the pod. */
  readonly identity: string;
  readonly settings: OperatorSettings;
  readonly signer: { readonly host: string; readonly port: number; readonly certificateLifetimeMs: number };
  readonly metrics: { readonly host: string; readonly port: number };
  readonly concurrency: number;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
}

type Json = Readonly<Record<string, unknown>>;

class Wrong extends Error {
  readonly code = 'CONFIGURATION';
}

function field<T>(from: Json, path: string, is: (value: unknown) => value is T, what: string, fallback?: T): T {
  const value = path.split('.').reduce<unknown>((at, name) => (at as Json | undefined)?.[name], from);
  if (value === undefined && fallback !== undefined) return fallback;
  if (!is(value)) throw new Wrong(`${path}: expected ${what}, found ${JSON.stringify(value) ?? 'nothing'}`);
  return value;
}

const isText = (value: unknown): value is string => typeof value === 'string';
const isName = (value: unknown): value is string => typeof value === 'string' && value !== '';
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isTexts = (value: unknown): value is readonly string[] => Array.isArray(value) && value.every(isText);
const isMap = (value: unknown): value is Readonly<Record<string, string>> =>
  typeof value === 'object' && value !== null && Object.values(value).every(isText);

function oneOf<const T extends string>(from: Json, path: string, choices: readonly T[], fallback: T): T {
  const is = (value: unknown): value is T => choices.includes(value as T);
  return field(from, path, is, `one of ${choices.join(', ')}`, fallback);
}

/** Throws with code `CONFIGURATION`. `version`: of this operator. */
export function parseOperatorConfig(value: unknown, version: string): OperatorConfig {
  const from = value as Json;
  const text = (path: string, fallback?: string): string => field(from, path, isText, 'text', fallback);
  const name = (path: string, fallback?: string): string => field(from, path, isName, 'text', fallback);
  const count = (path: string, fallback: number): number => field(from, path, isCount, 'a whole number', fallback);
  return {
    kubeconfig: text('kubeconfig', ''),
    watchNamespace: text('watchNamespace', ''),
    lease: {
      namespace: name('lease.namespace'),
      name: name('lease.name', 'mailcluster-operator'),
      times: {
        leaseDurationMs: count('lease.durationMs', LEASE_TIMES.leaseDurationMs),
        renewDeadlineMs: count('lease.renewDeadlineMs', LEASE_TIMES.renewDeadlineMs),
        retryMs: count('lease.retryMs', LEASE_TIMES.retryMs),
      },
    },
    identity: name('identity'),
    settings: {
      image: name('settings.image'),
      imagePullPolicy: oneOf(from, 'settings.imagePullPolicy', ['Always', 'IfNotPresent', 'Never'], 'IfNotPresent'),
      imagePullSecrets: field(from, 'settings.imagePullSecrets', isTexts, 'a list of names', []),
      redisImage: name('settings.redisImage'),
      version,
      namespace: name('settings.namespace'),
      podLabels: field(from, 'settings.podLabels', isMap, 'labels', {}),
      signerUrl: name('settings.signerUrl'),
      signerPort: count('settings.signerPort', 8443),
      clusterDomain: name('settings.clusterDomain', 'cluster.local'),
    },
    signer: {
      host: name('signer.host', '::'),
      port: count('signer.port', 8443),
      certificateLifetimeMs: count('signer.certificateLifetimeMs', 7 * 86_400_000),
    },
    metrics: { host: name('metrics.host', '::'), port: count('metrics.port', 9090) },
    concurrency: count('concurrency', 8),
    logLevel: oneOf(from, 'logLevel', ['debug', 'info', 'warn', 'error'], 'info'),
  };
}
