/** What the measurements of large queues write in advance: copies in transit of two members, and a Safety Net. */
import type { QueueDatabase } from '../../transport/store/database.ts';
import { fill, lastSeen, messageFacts, transitState } from './queue-rig.ts';

type Prepare = (stores: readonly QueueDatabase[], names: readonly string[], atMs: number) => Promise<void>;

/** Mail in transit goes to as many mailboxes, in turn. */
const MAILBOXES = 20_000;
/** Mail at rest went to as many databases, in turn; `db01` is one of them. */
export const DATABASES = 10;
const SPAN_MS = 1.9 * 86_400_000;

const confirmedAt = (theirs: QueueDatabase, member: string, owner: QueueDatabase) => {
  const epoch = { try: 1, term: 0, owner: owner.identity };
  return { epoch, placements: [{ identity: theirs.identity, member, epoch, status: 'confirmed' as const }] };
};

/** `count` messages: the first member owns them, the second has their shadows; both know each other. */
export const inTransit =
  (count: number, body: Buffer, domainOf: (n: number) => string = () => 'example.com'): Prepare =>
  async (stores, names) => {
    const [mine, theirs] = stores as [QueueDatabase, QueueDatabase];
    const { epoch, placements } = confirmedAt(theirs, names[1] as string, mine);
    await fill(mine, count, body, (n, digest) => ({
      facts: messageFacts(n, digest, body.length, domainOf(n)),
      state: transitState(n, {
        queue: 'delivery',
        epoch,
        recipients: [{ address: `mailbox-${n % MAILBOXES}@${domainOf(n)}`, outcome: 'pending' }],
        placements,
      }),
      resting: null,
    }));
    const takenFrom = lastSeen(mine);
    await fill(theirs, count, body, (n, digest) => ({
      facts: { ...messageFacts(n, digest, body.length, domainOf(n)), takenFrom },
      state: transitState(n, { queue: 'shadow', epoch }),
      resting: null,
    }));
  };

/** When entry `n` of so many became final: over two days, up to when they were written. */
export const finalAt = (entries: number, preparedAtMs: number, n: number): number =>
  Math.floor(preparedAtMs - SPAN_MS + (n * SPAN_MS) / entries);

/** The Primary Safety Net of the first member. */
export const atRest =
  (entries: number, body: Buffer): Prepare =>
  async (stores, names, preparedAtMs) => {
    const [mine, theirs] = stores as [QueueDatabase, QueueDatabase];
    const other = names[1] as string;
    const { epoch, placements } = confirmedAt(theirs, other, mine);
    await mine.commit([{ kind: 'seen', seen: { member: other, ...lastSeen(theirs), syncedSequence: 0 } }]);
    await fill(mine, entries, body, (n, digest) => {
      const facts = messageFacts(n, digest, body.length, 'example.com');
      const state = transitState(n, { queue: 'delivery', epoch, placements });
      const finalAtMs = finalAt(entries, preparedAtMs, n);
      const recipient = {
        address: facts.envelope.recipients[0]?.address ?? '',
        outcome: 'delivered' as const,
        database: n % DATABASES === 0 ? 'db01' : `other-${n % DATABASES}`,
        databaseCopy: 'old',
        activation: 1,
        atMs: finalAtMs,
      };
      return { facts, state, resting: { ...state, queue: 'primarySafetyNet', recipients: [recipient], finalAtMs } };
    });
  };
