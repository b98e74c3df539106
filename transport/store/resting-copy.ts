/**
 * A Safety Net copy as it is read back: state from its MOVE record, the rest from the COMMIT that one points at. Owns: what can still be
 * said when that COMMIT is damaged. PURE.
 */
import type { CopyId, Envelope, RecipientState } from '../../common/message.ts';
import type { CopyFacts, CopyState, StoredCopy } from './database.ts';
import type { Brief } from './log-record.ts';
import type { Extent } from './record.ts';

export interface RestingCopy {
  readonly facts: CopyFacts;
  readonly state: CopyState;
  readonly extents: readonly Extent[];
}

/** Enough to answer for the copy (protocol.md 9: what is final here stays final), never to send it again. */
export function withoutCommit(id: CopyId, state: CopyState, brief: Brief, damaged: string): StoredCopy {
  const { ancestor, kind, digest, sizeBytes } = brief;
  const facts: CopyFacts = {
    id,
    ancestor,
    kind,
    envelope: unknownEnvelope(state.recipients ?? []),
    digest,
    sizeBytes,
    acceptedAtMs: 0,
    takenFrom: null,
    events: [],
  };
  return { facts, state, damaged };
}

const unknownEnvelope = (recipients: readonly RecipientState[]): Envelope => ({
  reversePath: '',
  recipients: recipients.map(({ address }) => ({ address })),
  body: '8BITMIME',
  smtputf8: true,
  declaredSizeBytes: null,
  client: { address: '', port: 0, helo: '', protocol: 'ESMTP', tls: null, user: null },
  frontend: '',
  listener: '',
  receivedAtMs: 0,
});
