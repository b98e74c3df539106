/** Copies, states and bodies for the store tests. */
import type { CopyId, EnvelopeRecipient, Identity, RecipientState } from '../../common/message.ts';
import type { CopyFacts, CopyState, Queue, QueueDatabase, Tombstone, Write } from '../../transport/store/database.ts';

export const copyId = (n: number): CopyId => `01J${String(n).padStart(23, '0')}` as CopyId;
export const OWNER = '0123456789ABCDEFGHJKMNPQRS' as Identity;

export function factsOf(id: CopyId, body: { digest(): string; sizeBytes: number }, recipients = 1): CopyFacts {
  const list: EnvelopeRecipient[] = Array.from({ length: recipients }, (_, i) => ({ address: `user${i}@example.org` }));
  return {
    id,
    ancestor: null,
    kind: 'message',
    envelope: {
      reversePath: 'söndér@example.net',
      recipients: list,
      body: '8BITMIME',
      smtputf8: true,
      declaredSizeBytes: null,
      client: {
        address: '192.0.2.1',
        port: 4711,
        helo: 'client.example.net',
        protocol: 'ESMTP',
        tls: null,
        user: null,
      },
      frontend: 'fe-0',
      listener: 'mx',
      receivedAtMs: 1_700_000_000_000,
    },
    digest: body.digest(),
    sizeBytes: body.sizeBytes,
    acceptedAtMs: 1_700_000_000_001,
    takenFrom: null,
    events: [],
  };
}

export function stateOf(queue: Queue, more: Partial<CopyState> = {}): CopyState {
  return {
    queue,
    epoch: { try: 1, term: 0, owner: OWNER },
    standing: 'intake',
    abortedThrough: 0,
    recipients: null,
    placements: [],
    ageMs: 0,
    finalAtMs: null,
    unprotected: null,
    suspended: false,
    crashCount: 0,
    delayed: false,
    dsns: [],
    attempts: 0,
    ...more,
  };
}

export const delivered = (address: string, database: string): RecipientState => ({
  address,
  outcome: 'delivered',
  database,
  databaseCopy: `${database}-1`,
  activation: 1,
  atMs: 1_700_000_000_500,
});

export const pending = (address: string): RecipientState => ({ address, outcome: 'pending' });

export const tombstoneOf = (id: CopyId, epochTry = 1): Tombstone => ({
  id,
  kind: 'aborted',
  epoch: { try: epochTry, term: 0, owner: OWNER },
  abortedThrough: epochTry,
  recipients: null,
  digest: null,
  placements: [],
});

/** Deterministic bytes that depend on the copy. */
export function bodyOf(id: CopyId, sizeBytes: number): Buffer {
  const bytes = Buffer.allocUnsafe(sizeBytes);
  let x = 0x12345 ^ sizeBytes;
  for (const c of id) x = Math.imul(x ^ c.charCodeAt(0), 0x01000193) >>> 0;
  for (let i = 0; i < sizeBytes; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    bytes[i] = x >>> 24;
  }
  return bytes;
}

/** The write that commits a body appended in the same tick. */
export function commitOf(store: QueueDatabase, id: CopyId, bytes: Buffer, state = stateOf('submission')): Write {
  const body = store.beginBody(id);
  void body.append(bytes);
  return { kind: 'commit', facts: factsOf(id, body), state, body };
}

export async function readAll(store: QueueDatabase, id: CopyId): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of store.readBody(id)) parts.push(part);
  return Buffer.concat(parts);
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = [];
  for await (const item of items) out.push(item);
  return out;
}

export const moveOf = (id: CopyId, role: 'primary' | 'shadow', database: string, finalAtMs: number): Write => ({
  kind: 'move',
  id,
  state: stateOf(role === 'primary' ? 'primarySafetyNet' : 'shadowSafetyNet', {
    recipients: [delivered('user0@example.org', database)],
    finalAtMs,
  }),
});
