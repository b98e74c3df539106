/**
 * A configuration that all pods of a set share, made into that of one pod. Owns: `$(NAME)` in its texts (written as in a Kubernetes container
 * spec), filled in from the pod's environment, and a Redis whose place is in a mounted Secret (`ledger: {urlFile}`, `sharedLimits: {urlFile}`). Promise: what comes out
 * has no `$(...)` left. Refuses: a name that is not in the environment. A file of it that is missing or unusable means no Redis: mail
 * does not wait for Redis (semantics.md S15). PURE; the file is read by whoever calls.
 */
import { isIPv6 } from 'node:net';
import { parseRedisUrl } from './redis-url.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

export class PodConfigError extends Error {
  readonly code = 'POD_CONFIG';
}

const NAMES = ['POD_NAME', 'POD_NAMESPACE', 'POD_UID', 'POD_IP', 'NODE_NAME'] as const;
const REFERENCE = /\$\(([A-Z_]+)\)/g;

function fromPod(name: string, environment: Environment): string {
  // Every address of the family the pod has: port-forward comes to the loopback address.
  if (name === 'ANY_ADDRESS') return isIPv6(fromPod('POD_IP', environment)) ? '::' : '0.0.0.0';
  const value = NAMES.some((one) => one === name) ? environment[name] : undefined;
  if (value === undefined || value === '') throw new PodConfigError(`$(${name}) is not in the environment of this pod`);
  return value;
}

function filled(value: unknown, environment: Environment): unknown {
  if (typeof value === 'string') return value.replaceAll(REFERENCE, (_all, name: string) => fromPod(name, environment));
  if (Array.isArray(value)) return value.map((one) => filled(one, environment));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, filled(inner, environment)]));
}

type Fields = Readonly<Record<string, { readonly urlFile?: unknown } | null | undefined>>;

/** Of a transport, of a front end; and what is done without Redis. */
const REDIS_FIELDS = {
  ledger: 'external deliveries are remembered by this transport alone',
  sharedLimits: 'this front end counts for itself',
} as const;

function redisField(value: unknown): { readonly field: keyof typeof REDIS_FIELDS; readonly urlFile: string } | null {
  for (const field of ['ledger', 'sharedLimits'] as const) {
    const urlFile = (value as Fields | null)?.[field]?.urlFile;
    if (typeof urlFile === 'string') return { field, urlFile };
  }
  return null;
}

/** File with the URL of Redis, where the configuration names one. */
export const redisUrlFile = (value: unknown): string | null => redisField(value)?.urlFile ?? null;

/** `url`: what is in `redisUrlFile`, null when it cannot be read. `say`: what is wrong with it. */
export function podConfig(
  value: unknown,
  environment: Environment,
  url: string | null,
  say: (problem: string) => void,
): unknown {
  const config = filled(value, environment);
  const found = redisField(config);
  if (found === null) return config;
  const { field, urlFile } = found;
  const parsed = url === null ? 'cannot be read' : parseRedisUrl(url);
  if (typeof parsed === 'string') {
    say(`${urlFile}: ${parsed}; ${REDIS_FIELDS[field]}`);
    return { ...(config as object), [field]: null };
  }
  const { host, port, tls, username, password } = parsed;
  const passwordFile = password === null ? null : urlFile;
  return { ...(config as object), [field]: { host, port, tls, username, passwordFile } };
}

/** A password file holds the password, or the whole URL as its Secret has it. */
export function passwordIn(text: string): string {
  const line = text.replace(/\r?\n$/, '');
  if (!/^rediss?:\/\//.test(line)) return line;
  const parsed = parseRedisUrl(line);
  return typeof parsed === 'string' ? '' : (parsed.password ?? '');
}
