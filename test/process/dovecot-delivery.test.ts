/**
 * A mailbox database in a real Dovecot with the shipped Sieve script, from SMTP client to IMAP client. The moment in which a delivery is
 * done but not yet known to be done is provoked twice: the store's reply is lost, and the transport is killed before it can record it.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { DOVECOT_PASSWORD, Dovecot } from '../rigs/dovecot.ts';
import { readInbox } from '../rigs/imap-reader.ts';
import { ReplyInterceptor } from '../rigs/reply-interceptor.ts';
import { type Cluster, signal, startCluster, twoSites } from './harness.ts';
import { balance, type Delivered, digestOf, makeMessage, notAccepted, type TestMessage, verdict } from './ledger.ts';
import { sendAll } from './smtp-sender.ts';

const TIMEOUT_MS = 120_000;

let missing: string | null = null;
let dovecot: Dovecot;
let between: ReplyInterceptor;
let cluster: Cluster;

beforeAll(async () => {
  const started = await Dovecot.start();
  if ('missing' in started) {
    missing = started.missing;
    return;
  }
  dovecot = started;
  between = await ReplyInterceptor.start(dovecot.lmtpPort);
  cluster = await startCluster((directory) => twoSites(directory, { perSite: 1, lmtp: `127.0.0.1:${between.port}` }));
}, 300_000);

afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await between?.[Symbol.asyncDispose]();
  await dovecot?.[Symbol.asyncDispose]();
}, 120_000);

async function inboxes(users: readonly string[]): Promise<readonly Delivered[]> {
  const found: Delivered[] = [];
  for (const user of users) {
    const mails = await readInbox({ port: dovecot.imapPort, user, password: DOVECOT_PASSWORD });
    found.push(...mails.map((mail, at) => ({ mailbox: user, file: `${at + 1}`, bytes: Buffer.from(mail, 'latin1') })));
  }
  return found;
}

const messagesTo = (user: string, sizes: readonly number[]): readonly TestMessage[] =>
  sizes.map((size, at) => makeMessage(`${user.split('@')[0]}${at}`, user, size));

function withoutMessageId(message: TestMessage): TestMessage {
  const content = Buffer.from(message.content.toString('latin1').replace(/^Message-ID:.*\r\n/m, ''), 'latin1');
  return { ...message, content, digest: digestOf(content) };
}

/** Sends, waits until everything is final, and compares what the users see over IMAP with what was sent. */
async function sendAndRead(
  messages: readonly TestMessage[],
  meanwhile: () => Promise<void> = async () => undefined,
): Promise<void> {
  const ledger = await sendAll({ targets: () => cluster.targets(), messages, sessions: 3 });
  expect(notAccepted(ledger)).toEqual([]);
  await meanwhile();
  const stored = await cluster.drained(60_000, ledger);
  const users = [...new Set(messages.map(({ recipient }) => recipient))];
  const result = balance(ledger, await inboxes(users), stored);
  expect([verdict(result), result.delivered]).toEqual(['balanced', messages.length]);
}

test(
  'what was sent is what the users read, byte for byte',
  async (context) => {
    if (missing !== null) return context.skip(missing);
    const sizes = [900, 4_000, 75_000, 1_000_000, 2_000];
    await sendAndRead(['ann@example.com', 'bob@example.com'].flatMap((user) => messagesTo(user, sizes)));
  },
  TIMEOUT_MS,
);

test(
  'a reply that is lost after the dot: delivered again, seen once',
  async (context) => {
    if (missing !== null) return context.skip(missing);
    let left = 3;
    between.decide = (reply) => {
      if (!reply.startsWith('250') || left === 0) return 'pass';
      left -= 1;
      return 'drop';
    };
    const before = between.dropped;
    await sendAndRead(messagesTo('carol@example.com', [1_000, 5_000, 20_000, 3_000]));
    expect(between.dropped - before).toBe(3);
    between.decide = () => 'pass';
  },
  TIMEOUT_MS,
);

test(
  'the transport dies between the reply of the store and its record: delivered again, seen once',
  async (context) => {
    if (missing !== null) return context.skip(missing);
    const { transports } = await cluster.runFile();
    const owners = new Map(transports.map((one) => [one.name, one.pid]));
    // Whoever delivers: both are killed when Dovecot has stored the message and the reply is not yet passed on.
    let killed = false;
    between.decide = (reply) => {
      if (killed || !reply.startsWith('250')) return 'pass';
      killed = true;
      for (const pid of owners.values()) if (pid !== null) signal(pid, 'SIGKILL');
      return 'drop';
    };
    await sendAndRead(messagesTo('dan@example.com', [2_500]), async () => {
      for (const [name, pid] of owners) await cluster.restarted(name, pid ?? 0);
      const seen = await until(
        'the first delivery',
        async () => {
          const found = await inboxes(['dan@example.com']);
          return found.length > 0 ? found : null;
        },
        { deadlineMs: 30_000 },
      );
      expect(seen).toHaveLength(1);
    });
    expect(killed).toBe(true);
    between.decide = () => 'pass';
  },
  TIMEOUT_MS,
);

test(
  'the same message sent twice by its client is there once, another one with the same text is there: the balance can fail',
  async (context) => {
    if (missing !== null) return context.skip(missing);
    // protocol.md 24: two attempts with two ids; the bytes and the Message-ID are the same.
    const [message] = messagesTo('eve@example.com', [1_200]);
    if (message === undefined) throw new Error('no message');
    const twice = await sendAll({ targets: () => cluster.targets(), messages: [message, message], sessions: 1 });
    expect(notAccepted(twice)).toEqual([]);
    await cluster.drained(60_000, twice);
    expect(verdict(balance(twice, await inboxes(['eve@example.com']), []))).not.toContain('duplicated');
    // Without a Message-ID nobody knows that the second is a retry, and the balance says so.
    const [other] = messagesTo('dan@example.com', [1_200]);
    if (other === undefined) throw new Error('no message');
    const anonymous = withoutMessageId(other);
    const ledger = await sendAll({ targets: () => cluster.targets(), messages: [anonymous, anonymous], sessions: 1 });
    expect(notAccepted(ledger)).toEqual([]);
    await cluster.drained(60_000, ledger);
    expect(verdict(balance(ledger, await inboxes(['dan@example.com']), []))).toContain('1 duplicated');
  },
  TIMEOUT_MS,
);
