/**
 * Where the API server is and who we are. Owns: the two ways to know it - mounted files inside a pod, a kubeconfig outside - and rereading
 * credentials that rotate. Promises: a ServiceAccount token is at most `TOKEN_MAX_AGE_MS` old and reread at once after a 401 (the kubelet
 * replaces it long before it expires); an exec plugin is asked again when its credential has run out. Refuses plain HTTP outside loopback.
 *
 * The only import of `@kubernetes/client-node`, and a lazy one: it costs 80 MB of memory that an operator in its pod does not need
 * (docs/decisions/0009-api-client.md). What it is here for: kubeconfig files with all their ways to authenticate.
 */
import { readFile } from 'node:fs/promises';
import type { RequestOptions } from 'node:https';
import { join } from 'node:path';
import type { KubeConfig } from '@kubernetes/client-node';
import type { Clock } from '../../common/platform/clock.ts';
import type { Credentials, KubeIdentity, TlsMaterial } from './identity.ts';

/** client-go: a minute. */
export const TOKEN_MAX_AGE_MS = 60_000;
const SERVICE_ACCOUNT_DIRECTORY = '/var/run/secrets/kubernetes.io/serviceaccount';

export interface InClusterOptions {
  readonly clock: Clock;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly directory?: string;
}

/** Null outside a pod. */
export async function inClusterIdentity(options: InClusterOptions): Promise<KubeIdentity | null> {
  const env = options.env ?? process.env;
  const host = env.KUBERNETES_SERVICE_HOST ?? '';
  const port = env.KUBERNETES_SERVICE_PORT ?? '';
  if (host === '' || port === '') return null;
  const directory = options.directory ?? SERVICE_ACCOUNT_DIRECTORY;
  const namespace = (await readFile(join(directory, 'namespace'), 'utf8')).trim();
  const server = `https://${host.includes(':') ? `[${host}]` : host}:${port}`;
  return new ServiceAccountIdentity(server, namespace, directory, options.clock);
}

class ServiceAccountIdentity implements KubeIdentity {
  readonly server: string;
  readonly namespace: string;
  readonly #directory: string;
  readonly #clock: Clock;
  #known: { readonly credentials: Credentials; readonly readAtMs: number } | null = null;
  #mustRead = true;

  constructor(server: string, namespace: string, directory: string, clock: Clock) {
    this.server = server;
    this.namespace = namespace;
    this.#directory = directory;
    this.#clock = clock;
  }

  async credentials(): Promise<Credentials> {
    const known = this.#known;
    const nowMs = this.#clock.monotonicMs();
    if (known !== null && !this.#mustRead && nowMs - known.readAtMs < TOKEN_MAX_AGE_MS) return known.credentials;
    try {
      const [token, ca] = await Promise.all([
        readFile(join(this.#directory, 'token'), 'utf8'),
        readFile(join(this.#directory, 'ca.crt'), 'utf8'),
      ]);
      const tls: TlsMaterial = { ca, cert: null, key: null, isVerified: true, serverName: null };
      const credentials = { tls, headers: { authorization: `Bearer ${token.trim()}` } };
      this.#known = { credentials, readAtMs: nowMs };
      this.#mustRead = false;
      return credentials;
    } catch (error) {
      // The kubelet swaps a link: a moment without the file. The old token is good for a while, a 401 would bring us back here.
      if (known === null) throw error;
      return known.credentials;
    }
  }

  refuse(): void {
    this.#mustRead = true;
  }
}

export interface KubeconfigOptions {
  /** Text of a kubeconfig instead of files. */
  readonly text?: string;
  /** A file instead of $KUBECONFIG or ~/.kube/config. */
  readonly file?: string;
  readonly context?: string;
  readonly impersonate?: string;
}

/** Rejects with a sentence for a person when there is no usable context. */
export async function kubeconfigIdentity(options: KubeconfigOptions = {}): Promise<KubeIdentity> {
  const library = await import('@kubernetes/client-node');
  const load = (): KubeConfig => loadConfig(new library.KubeConfig(), options);
  const config = load();
  const cluster = config.getCurrentCluster();
  const context = config.getContextObject(config.getCurrentContext());
  if (cluster === null || context === null)
    throw new Error(`the kubeconfig has no context "${config.getCurrentContext()}" with a cluster`);
  const server = cluster.server.replace(/\/$/, '');
  const { protocol, hostname } = new URL(server);
  if (protocol !== 'https:' && !['127.0.0.1', '[::1]', 'localhost'].includes(hostname))
    throw new Error(`${server}: credentials would go over the network in the clear; the server must be https`);
  if (cluster.proxyUrl !== undefined) throw new Error('a kubeconfig with proxy-url is not supported');
  return new KubeconfigIdentity(server, context.namespace ?? 'default', config, load);
}

function loadConfig(config: KubeConfig, { text, file, context, impersonate }: KubeconfigOptions): KubeConfig {
  if (text !== undefined) config.loadFromString(text);
  else if (file !== undefined) config.loadFromFile(file);
  else config.loadFromDefault();
  if (context !== undefined) config.setCurrentContext(context);
  if (impersonate !== undefined) config.users = config.users.map((user) => ({ ...user, impersonateUser: impersonate }));
  return config;
}

class KubeconfigIdentity implements KubeIdentity {
  readonly server: string;
  readonly namespace: string;
  #config: KubeConfig;
  readonly #reload: () => KubeConfig;
  #mustReload = false;

  constructor(server: string, namespace: string, config: KubeConfig, reload: () => KubeConfig) {
    this.server = server;
    this.namespace = namespace;
    this.#config = config;
    this.#reload = reload;
  }

  async credentials(): Promise<Credentials> {
    if (this.#mustReload) {
      // The library keeps tokens it has; a new configuration has none.
      this.#config = this.#reload();
      this.#mustReload = false;
    }
    const options: RequestOptions = {};
    await this.#config.applyToHTTPSOptions(options);
    const headers = Object.fromEntries(
      Object.entries(options.headers ?? {}).map(([name, value]) => [name.toLowerCase(), String(value)]),
    );
    if (typeof options.auth === 'string')
      headers.authorization = `Basic ${Buffer.from(options.auth).toString('base64')}`;
    const tls: TlsMaterial = {
      ca: pem(options.ca),
      cert: pem(options.cert),
      key: pem(options.key),
      isVerified: options.rejectUnauthorized !== false,
      serverName: options.servername ?? null,
    };
    return { tls, headers };
  }

  refuse(): void {
    this.#mustReload = true;
  }
}

const pem = (value: RequestOptions['ca'] | RequestOptions['key']): string | null =>
  value === undefined ? null : Buffer.isBuffer(value) ? value.toString('utf8') : String(value);
