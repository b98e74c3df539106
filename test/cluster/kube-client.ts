/**
 * The API server as tests see it: plain HTTPS and JSON, a client certificate or a token, no library. Owns: its connections. Answers are
 * values with their status, refusals too; it fails only when there is no answer. Knows nothing of caches, retries or the product: what
 * tests use to look must not share mistakes with what they look at.
 */
import { Agent, type RequestOptions, request } from 'node:https';
import { createInterface } from 'node:readline';

export interface KubeCredentials {
  readonly url: string;
  readonly caPem: string;
  readonly certPem?: string;
  readonly keyPem?: string;
  readonly token?: string;
}

/** Any JSON of the API server; tests look into it with plain property access. */
// biome-ignore lint/suspicious/noExplicitAny: objects of every kind, read by tests only
export type KubeObject = Record<string, any>;

export interface KubeAnswer {
  readonly status: number;
  readonly body: KubeObject;
  /** Warning headers (RFC 7234 299), as kubectl prints them. */
  readonly warnings: readonly string[];
}

export interface KubeCall {
  readonly body?: unknown;
  readonly contentType?: string;
  readonly deadlineMs?: number;
  readonly userAgent?: string;
}

export interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR';
  readonly object: KubeObject;
}

export interface ApplyOptions {
  readonly fieldManager?: string;
  readonly force?: boolean;
  readonly dryRun?: boolean;
  readonly subresource?: 'status' | 'scale';
}

/** `kubectl apply`, `create` and this client refuse what the schema does not know. */
const STRICT = 'fieldValidation=Strict';
const DEADLINE_MS = 30_000;

interface KnownResource {
  readonly plural: string;
  readonly isNamespaced: boolean;
}

export class KubeClient {
  readonly #credentials: KubeCredentials;
  readonly #agent: Agent;
  readonly #resources = new Map<string, ReadonlyMap<string, KnownResource>>();

  constructor(credentials: KubeCredentials) {
    this.#credentials = credentials;
    this.#agent = new Agent({ keepAlive: true, maxSockets: 32 });
  }

  async call(method: string, path: string, call: KubeCall = {}): Promise<KubeAnswer> {
    const { body, contentType = 'application/json', deadlineMs = DEADLINE_MS } = call;
    const text = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const sent = request(this.#options(method, path, call), (response) => {
        let received = '';
        response.setEncoding('utf8').on('data', (chunk: string) => {
          received += chunk;
        });
        response.once('error', reject);
        response.once('end', () => {
          const warning = response.headers.warning ?? '';
          resolve({ status: response.statusCode ?? 0, body: asObject(received), warnings: warning ? [warning] : [] });
        });
      });
      sent.setTimeout(deadlineMs, () => sent.destroy(new Error(`no answer to ${method} ${path} for ${deadlineMs} ms`)));
      sent.once('error', reject);
      if (text !== undefined)
        sent.setHeader('content-type', contentType).setHeader('content-length', Buffer.byteLength(text));
      sent.end(text);
    });
  }

  /** A call that must succeed. */
  async must(method: string, path: string, call: KubeCall = {}): Promise<KubeObject> {
    const { status, body } = await this.call(method, path, call);
    if (status >= 300) throw new Error(`${method} ${path}: ${status} ${String(body.message ?? '')}`);
    return body;
  }

  get = (path: string): Promise<KubeObject> => this.must('GET', path);

  /** Server-side apply (the answer may be a refusal). */
  async apply(object: KubeObject, options: ApplyOptions = {}): Promise<KubeAnswer> {
    const { fieldManager = 'test', force = true, dryRun = false, subresource } = options;
    const path = `${await this.pathOf(object)}${subresource ? `/${subresource}` : ''}`;
    const query = `fieldManager=${fieldManager}&force=${force}&${STRICT}${dryRun ? '&dryRun=All' : ''}`;
    return this.call('PATCH', `${path}?${query}`, { body: object, contentType: 'application/apply-patch+yaml' });
  }

  async mustApply(object: KubeObject, options: ApplyOptions = {}): Promise<KubeObject> {
    const { status, body } = await this.apply(object, options);
    if (status >= 300) throw new Error(`apply ${object.kind} ${object.metadata?.name}: ${status} ${body.message}`);
    return body;
  }

  async create(object: KubeObject, { dryRun = false } = {}): Promise<KubeAnswer> {
    const path = (await this.pathOf(object)).replace(/\/[^/]+$/, '');
    return this.call('POST', `${path}?${STRICT}${dryRun ? '&dryRun=All' : ''}`, { body: object });
  }

  mergePatch(path: string, patch: unknown): Promise<KubeAnswer> {
    return this.call('PATCH', path, { body: patch, contentType: 'application/merge-patch+json' });
  }

  /** Events until the signal or the end of the stream; `path` with its own query. */
  async watch(path: string, onEvent: (event: WatchEvent) => void, signal: AbortSignal): Promise<void> {
    const query = `${path.includes('?') ? '&' : '?'}watch=1&allowWatchBookmarks=true`;
    await new Promise<void>((resolve, reject) => {
      const sent = request({ ...this.#options('GET', path + query, {}), signal }, (response) => {
        const lines = createInterface({ input: response });
        lines.on('line', (line) => onEvent(JSON.parse(line) as WatchEvent));
        lines.once('close', resolve);
        // A connection that breaks ends the watch; readline tells of it, too.
        for (const broken of [lines, response])
          broken.on('error', (error) => (signal.aborted ? resolve() : reject(error)));
      });
      sent.once('error', (error) => (signal.aborted ? resolve() : reject(error)));
      sent.end();
    });
  }

  /** `/apis/apps/v1/namespaces/mail/statefulsets/dag1`, by asking the server for the plural of the kind. */
  async pathOf(object: KubeObject): Promise<string> {
    const { apiVersion, kind, metadata } = object;
    const root = String(apiVersion).includes('/') ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
    const found = (await this.#kinds(root, kind)).get(kind);
    if (found === undefined) throw new Error(`the server has no kind ${kind} in ${apiVersion}`);
    const space = found.isNamespaced ? `/namespaces/${metadata?.namespace ?? 'default'}` : '';
    return `${root}${space}/${found.plural}/${metadata?.name}`;
  }

  close(): void {
    this.#agent.destroy();
  }

  async #kinds(root: string, wanted: string): Promise<ReadonlyMap<string, KnownResource>> {
    const known = this.#resources.get(root);
    if (known?.has(wanted)) return known;
    const { body } = await this.call('GET', root);
    const resources = ((body.resources ?? []) as KubeObject[]).filter(({ name }) => !String(name).includes('/'));
    const kinds = new Map(
      resources.map(({ kind, name, namespaced }) => [
        String(kind),
        { plural: String(name), isNamespaced: Boolean(namespaced) },
      ]),
    );
    this.#resources.set(root, kinds);
    return kinds;
  }

  #options(method: string, path: string, { userAgent = 'mailcluster-test' }: KubeCall): RequestOptions {
    const { url, caPem, certPem, keyPem, token } = this.#credentials;
    const { hostname, port } = new URL(url);
    return {
      ...{ method, path, hostname, port, agent: this.#agent, ca: caPem },
      ...(certPem === undefined ? {} : { cert: certPem }),
      ...(keyPem === undefined ? {} : { key: keyPem }),
      headers: {
        accept: 'application/json',
        'user-agent': userAgent,
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
    };
  }
}

/** Health endpoints answer with text. */
function asObject(text: string): KubeObject {
  try {
    return JSON.parse(text) as KubeObject;
  } catch (error) {
    if (error instanceof SyntaxError) return { text };
    throw error;
  }
}
