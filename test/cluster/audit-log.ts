/**
 * What was asked of the API server, by its own audit log (level Metadata). Owns: reading the file, each part of it once, and who counts as whom. Promises:
 * what was answered before `entries` is called is in the result. Fails when the API server does not answer.
 */
import { randomUUID } from 'node:crypto';
import { open } from 'node:fs/promises';
import { until } from '../house/until.ts';
import type { KubeClient } from './kube-client.ts';

export interface AuditEntry {
  readonly verb: string;
  readonly user: string;
  readonly userAgent: string;
  /** Of a server-side apply or another write that named one; else null. */
  readonly fieldManager: string | null;
  /** Plural, with the subresource: `statefulsets`, `mailclusters/status`. Empty for other URLs. */
  readonly resource: string;
  readonly namespace: string;
  readonly name: string;
  /** HTTP status of the answer. */
  readonly code: number;
  readonly uri: string;
}

const WRITES = new Set(['create', 'update', 'patch', 'delete', 'deletecollection']);
const MARKER_MS = 30_000;

export const isWrite = (entry: AuditEntry): boolean => WRITES.has(entry.verb) && !entry.uri.includes('dryRun=All');

export class AuditLog {
  readonly file: string;
  readonly #client: KubeClient;
  readonly #entries: AuditEntry[] = [];
  /** Up to here whole lines were read. */
  #offset = 0;
  #reading: Promise<void> = Promise.resolve();

  constructor(file: string, client: KubeClient) {
    this.file = file;
    this.#client = client;
  }

  /** Everything so far, oldest first. A request is written down after its answer went out, so a marker is sent and awaited. */
  async entries(): Promise<readonly AuditEntry[]> {
    const marker = `marker-${randomUUID()}`;
    await this.#client.must('GET', '/version', { userAgent: marker });
    await until('the audit log to be complete', () => this.#has(marker), { deadlineMs: MARKER_MS, everyMs: 20 });
    return this.#entries.filter(({ userAgent }) => !userAgent.startsWith('marker-'));
  }

  async #has(marker: string): Promise<boolean> {
    // One at a time; who asks again after a failure reads again.
    this.#reading = this.#reading.catch(() => undefined).then(() => this.#read());
    await this.#reading;
    return this.#entries.some(({ userAgent }) => userAgent === marker);
  }

  /** What was added since. The log of a whole run is tens of megabytes. */
  async #read(): Promise<void> {
    await using file = await open(this.file);
    const { size } = await file.stat();
    const { buffer } = await file.read(Buffer.alloc(size - this.#offset), 0, size - this.#offset, this.#offset);
    const end = buffer.lastIndexOf(0x0a) + 1;
    this.#offset += end;
    const lines = buffer.toString('utf8', 0, end).split('\n').slice(0, -1);
    this.#entries.push(...lines.map((line) => toEntry(JSON.parse(line) as RawEvent)));
  }

  /** Changes of something that is kept: no reads, no dry runs. */
  async writes(matches: (entry: AuditEntry) => boolean = () => true): Promise<readonly AuditEntry[]> {
    return (await this.entries()).filter((entry) => isWrite(entry) && matches(entry));
  }
}

interface RawEvent {
  readonly verb: string;
  readonly requestURI: string;
  readonly userAgent?: string;
  readonly user: { readonly username: string };
  readonly responseStatus?: { readonly code?: number };
  readonly objectRef?: {
    readonly resource?: string;
    readonly subresource?: string;
    readonly namespace?: string;
    readonly name?: string;
  };
}

function toEntry(event: RawEvent): AuditEntry {
  const { resource = '', subresource, namespace = '', name = '' } = event.objectRef ?? {};
  return {
    verb: event.verb,
    user: event.user.username,
    userAgent: event.userAgent ?? '',
    fieldManager: new URLSearchParams(event.requestURI.split('?')[1] ?? '').get('fieldManager'),
    resource: subresource === undefined ? resource : `${resource}/${subresource}`,
    namespace,
    name,
    code: event.responseStatus?.code ?? 0,
    uri: event.requestURI,
  };
}
