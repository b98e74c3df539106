/**
 * The Safety Nets for people and programs outside: page by page, never the whole net in memory (a page and its cursor). Owns nothing.
 * Sender and recipient are not in the index: with them the copies themselves are read, and a page may be short, or empty, and still have
 * a next one. Fails as the store does; a damaged entry is counted and passed over.
 */
import type {
  QueueDatabase,
  SafetyNetEntry,
  SafetyNetFilter,
  SafetyNetPosition,
  StoredCopy,
} from '../store/database.ts';
import type { SafetyNetListing, SafetyNetQuestion, SafetyNetTally } from './view.ts';

type Net = Pick<QueueDatabase, 'safetyNetPage' | 'safetyNetCopies' | 'safetyNetCounts'>;

const COUNT_PAGE = 1_000;
/** Work of one answer: the asker goes on with the cursor, and others get their turn. */
const COUNT_ENTRIES = 50_000;
const COUNT_COPIES = 5_000;

const readsCopies = (question: SafetyNetQuestion): boolean => question.sender !== null || question.recipient !== null;

const same = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();

function means({ sender, recipient }: SafetyNetQuestion, { facts, state }: StoredCopy): boolean {
  if (sender !== null && !same(facts.envelope.reversePath, sender)) return false;
  const addresses = [...facts.envelope.recipients, ...(state.recipients ?? [])];
  return recipient === null || addresses.some((one) => same(one.address, recipient));
}

function entryOf({ facts, state }: StoredCopy): SafetyNetEntry {
  const databases = (state.recipients ?? []).flatMap((one) => (one.database === undefined ? [] : [one.database]));
  return {
    id: facts.id,
    role: state.queue === 'primarySafetyNet' ? 'primary' : 'shadow',
    databases: [...new Set(databases)],
    finalAtMs: state.finalAtMs ?? 0,
    sizeBytes: facts.sizeBytes,
  };
}

const behind = (filter: SafetyNetFilter, after: SafetyNetPosition | null): SafetyNetFilter =>
  after === null ? filter : { ...filter, after };

export async function listSafetyNet(net: Net, question: SafetyNetQuestion, limit: number): Promise<SafetyNetListing> {
  if (!readsCopies(question)) return { ...(await net.safetyNetPage(question.filter, limit)), unreadable: 0 };
  const { copies, unreadable, next } = await net.safetyNetCopies(question.filter, limit);
  return { entries: copies.filter((copy) => means(question, copy)).map(entryOf), unreadable, next };
}

export async function countSafetyNet(net: Net, question: SafetyNetQuestion): Promise<SafetyNetTally> {
  const { primary, shadow } = net.safetyNetCounts();
  if (Object.keys(question.filter).length === 0 && !readsCopies(question))
    return { primary, shadow, unreadable: 0, next: null };
  const sums = { primary: { messages: 0, bytes: 0 }, shadow: { messages: 0, bytes: 0 } };
  const most = readsCopies(question) ? COUNT_COPIES : COUNT_ENTRIES;
  let after = question.filter.after ?? null;
  let unreadable = 0;
  for (let examined = 0; examined < most; examined += COUNT_PAGE) {
    const page = await listSafetyNet(net, { ...question, filter: behind(question.filter, after) }, COUNT_PAGE);
    for (const { role, sizeBytes } of page.entries) {
      sums[role].messages += 1;
      sums[role].bytes += sizeBytes;
    }
    unreadable += page.unreadable;
    after = page.next;
    if (after === null) break;
  }
  return { ...sums, unreadable, next: after };
}
