/**
 * Facts and states as they come off the wire: every string and object decoded anew for every message, as the transport sees them.
 * For the measurements of the store only.
 */
import { createHash } from 'node:crypto';
import type { CopyId } from '../../common/message.ts';
import type { Compactor } from '../../transport/store/compact.ts';
import type { CopyFacts, CopyState, Queue, QueueDatabase, StoredCopy } from '../../transport/store/database.ts';

export const benchId = (n: number): CopyId =>
  `01J${createHash('sha256').update(String(n)).digest('hex').slice(0, 23).toUpperCase()}` as CopyId;

const OWNER = '0123456789ABCDEFGHJKMNPQRS';
const PEER = '9123456789ABCDEFGHJKMNPQRS';

/** Decoded anew: nothing is shared between two copies. */
const fresh = <T>(value: unknown): T => JSON.parse(JSON.stringify(value)) as T;

export function wireFacts(n: number, digest: string, sizeBytes: number): CopyFacts {
  const atMs = 1_700_000_000_000 + n * 7;
  const note = (detail: string, event = 'FRONTEND'): unknown => ({
    event,
    atMs: atMs + 3,
    source: 'frontend-0',
    detail,
  });
  return fresh({
    id: benchId(n),
    ancestor: null,
    kind: 'message',
    envelope: {
      reversePath: `sender-${n % 5000}@customer-${n % 300}.example.net`,
      recipients: [{ address: `mailbox-${n % 20_000}@example.org` }],
      body: '8BITMIME',
      smtputf8: false,
      declaredSizeBytes: sizeBytes,
      client: {
        address: `192.0.2.${n % 200}`,
        port: 1024 + (n % 60_000),
        helo: `relay-${n % 200}.example.net`,
        protocol: 'ESMTPS',
        tls: { version: 'TLSv1.3', cipher: 'TLS_AES_256_GCM_SHA384' },
        user: null,
      },
      frontend: 'frontend-0',
      listener: 'mx',
      receivedAtMs: atMs,
    },
    digest,
    sizeBytes,
    acceptedAtMs: atMs + 4,
    takenFrom: null,
    events: [
      note(
        `connect from [192.0.2.${n % 200}]:${1024 + (n % 60_000)} to mx, ESMTPS relay-${n % 200}.example.net: MAIL, 1 RCPT`,
      ),
      note('open to hub-b1, try 1'),
      note(`end of data, ${sizeBytes} bytes`),
      note(`<${createHash('sha256').update(`m${n}`).digest('hex').slice(0, 32)}@customer.example.net>`, 'MESSAGE-ID'),
      note(createHash('sha256').update(`s${n}`).digest('hex').slice(0, 16), 'SUBJECT-HASH'),
    ],
  });
}

export function wireState(n: number, queue: Queue): CopyState {
  const resting = queue === 'primarySafetyNet' || queue === 'shadowSafetyNet';
  const epoch = { try: 1, term: 0, owner: OWNER };
  const address = `mailbox-${n % 20_000}@example.org`;
  const database = `mbx-${n % 20}`;
  return fresh({
    queue,
    epoch,
    standing: 'released',
    abortedThrough: 0,
    recipients: resting
      ? [
          {
            address,
            outcome: 'delivered',
            database,
            databaseCopy: `${database}-a`,
            activation: 1,
            atMs: 1_700_000_000_000 + n * 7,
          },
        ]
      : [{ address, outcome: 'pending' }],
    placements: [{ identity: PEER, member: 'hub-b1', epoch, status: 'confirmed' }],
    ageMs: n % 1000,
    finalAtMs: resting ? 1_700_000_000_000 + n * 7 : null,
    unprotected: null,
    suspended: false,
    crashCount: 0,
    delayed: false,
    dsns: [],
    attempts: 0,
  });
}

/** The database and whoever keeps the copies hold the very same objects. */
export function commitBench(
  store: QueueDatabase,
  n: number,
  bytes: Buffer,
  compactor: Compactor,
): StoredCopy & { readonly done: Promise<void> } {
  const body = store.beginBody(benchId(n));
  void body.append(bytes);
  const facts = compactor.hold(wireFacts(n, body.digest(), bytes.length));
  const state = compactor.state(wireState(n, 'submission'));
  return { facts, state, done: store.commit([{ kind: 'commit', facts, state, body }]) };
}
