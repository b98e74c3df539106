/**
 * A sender over real sockets that keeps a ledger: what it was told, message by message. Promise: every message gets exactly one entry,
 * whatever the other end does.
 */
import { doubledDots, type Reply, SmtpConnection, type Target } from '../../examples/demo/smtp-connection.ts';
import { until } from '../house/until.ts';
import type { Answer, LedgerEntry, TestMessage } from './ledger.ts';

export { SmtpConnection, type Target } from '../../examples/demo/smtp-connection.ts';

const none = (endSent: boolean, reason: string): Answer => ({ kind: 'none', endSent, reason });
const refused = (reply: Reply): Answer => ({ kind: 'refused', code: reply.code, text: reply.text });

/** Moments of a transaction at which a test does something else. */
export interface Moments {
  /** The content goes in two parts; `until` comes in between. */
  readonly afterBytes?: number;
  readonly until?: () => Promise<void>;
  /** The last byte has been handed to the kernel, the reply is not there yet. */
  readonly endSent?: () => void;
}

/** One transaction. */
export async function sendMessage(
  connection: SmtpConnection,
  message: TestMessage,
  { afterBytes, until: between, endSent }: Moments = {},
): Promise<LedgerEntry> {
  const entry = (answer: Answer, latencyMs: number | null = null): LedgerEntry => ({ message, answer, latencyMs });
  for (const command of [`MAIL FROM:<${message.from}>`, `RCPT TO:<${message.recipient}>`, 'DATA']) {
    connection.send(`${command}\r\n`);
    const reply = await connection.reply();
    if (typeof reply === 'string') return entry(none(false, `${command}: ${reply}`));
    if (reply.code >= 400) {
      connection.send('RSET\r\n');
      await connection.reply();
      return entry(refused(reply));
    }
  }
  const wire = doubledDots(message.content);
  connection.send(wire.subarray(0, afterBytes ?? wire.length));
  if (between !== undefined) await between();
  if (afterBytes !== undefined) connection.send(wire.subarray(afterBytes));
  if (connection.ended !== null) return entry(none(false, connection.ended));
  const startMs = performance.now();
  connection.send('.\r\n');
  endSent?.();
  const reply = await connection.reply();
  if (typeof reply === 'string') return entry(none(true, reply));
  const latencyMs = performance.now() - startMs;
  return reply.code < 400 ? entry({ kind: 'accepted', text: reply.text }, latencyMs) : entry(refused(reply), latencyMs);
}

export interface Campaign {
  /** Read again before every connection: a restarted front end may listen elsewhere. */
  readonly targets: () => readonly Target[];
  readonly messages: Iterable<TestMessage>;
  readonly sessions: number;
  /** How long a session without any front end looks for one before it gives its message up. */
  readonly patienceMs?: number;
  readonly onEntry?: (entry: LedgerEntry, done: number) => void;
  /** What a session waits for after a message was refused, before it offers the next one. */
  readonly afterRefusal?: () => Promise<void>;
  /** What a session waits for before each message. */
  readonly before?: () => Promise<void>;
}

/** Sends all messages, each once, over `sessions` connections at a time; a lost connection is replaced, its message is not repeated. */
export async function sendAll(campaign: Campaign): Promise<readonly LedgerEntry[]> {
  const { targets, sessions, patienceMs = 0, onEntry, afterRefusal, before } = campaign;
  const left = campaign.messages[Symbol.iterator]();
  const next = (): TestMessage | undefined => {
    const one = left.next();
    return one.done === true ? undefined : one.value;
  };
  const ledger: LedgerEntry[] = [];
  const record = (entry: LedgerEntry): void => {
    ledger.push(entry);
    onEntry?.(entry, ledger.length);
  };
  const session = async (index: number): Promise<void> => {
    let current: SmtpConnection | null = null;
    for (let attempt = index, message = next(); message !== undefined; message = next(), attempt += 1) {
      await before?.();
      const connection: SmtpConnection | null =
        current !== null && current.ended === null ? current : await openSomewhere(targets, attempt, patienceMs);
      current = connection;
      const entry: LedgerEntry =
        connection === null
          ? { message, answer: none(false, 'no front end could be reached'), latencyMs: null }
          : await sendMessage(connection, message);
      record(entry);
      if (entry.answer.kind === 'refused') await afterRefusal?.();
    }
    current?.close();
  };
  await Promise.all(Array.from({ length: sessions }, (_, index) => session(index)));
  return ledger;
}

/** What a real client with several MX hosts does: the next one when one does not answer. */
async function openSomewhere(
  targets: () => readonly Target[],
  first: number,
  patienceMs: number,
): Promise<SmtpConnection | null> {
  const tryAll = async (): Promise<SmtpConnection | null> => {
    const all = targets();
    for (let i = 0; i < all.length; i += 1) {
      const target = all[(first + i) % all.length];
      if (target === undefined) continue;
      const opened = await SmtpConnection.open(target).then(
        (connection) => connection,
        () => null,
      );
      if (opened !== null) return opened;
    }
    return null;
  };
  return await until('a front end', tryAll, { deadlineMs: patienceMs, everyMs: 100 }).catch(() => null);
}
