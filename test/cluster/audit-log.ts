/**
 * What was asked of the API server, by its own audit log (level Metadata). Owns: reading the file and who counts as whom. Promises: what
 * was answered before `entries` is called is in the result. Fails when the API server does not answer.
 */
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
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

  constructor(file: string, client: KubeClient) {
    this.file = file;
    this.#client = client;
  }

  /** Everything so far, oldest first. A request is written down after its answer went out, so a marker is sent and awaited. */
  async entries(): Promise<readonly AuditEntry[]> {
    const marker = `marker-${randomUUID()}`;
    await this.#client.must('GET', '/version', { userAgent: marker });
    const text = await until(
      'the audit log to be complete',
      async () => {
        const now = await readFile(this.file, 'utf8');
        return now.includes(marker) && now;
      },
      { deadlineMs: MARKER_MS, everyMs: 20 },
    );
    return text
      .slice(0, text.lastIndexOf('\n'))
      .split('\n')
      .map((line) => toEntry(JSON.parse(line) as RawEvent))
      .filter(({ userAgent }) => !userAgent.startsWith('marker-'));
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
