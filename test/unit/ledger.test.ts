/** The arithmetic that process tests rest on: every kind of loss, surplus and damage must show. */
import { createServer, type Server } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { SmtpConnection } from '../../examples/demo/smtp-connection.ts';
import { type Answer, balance, digestOf, type LedgerEntry, makeMessage, verdict } from '../process/ledger.ts';
import { sendAll, sendMessage } from '../process/smtp-sender.ts';

const BOB = 'bob@example.com';
const message = (id: string): ReturnType<typeof makeMessage> => makeMessage(id, BOB, 2_000);
const ACCEPTED: Answer = { kind: 'accepted', text: '2.0.0 queued' };
const entry = (id: string, answer: Answer = ACCEPTED): LedgerEntry => ({ message: message(id), answer, latencyMs: 1 });
const trace = 'Received: from a by b\r\n';
const inMailbox = (id: string, mailbox = BOB) => ({
  mailbox,
  file: id,
  bytes: Buffer.concat([Buffer.from(trace), message(id).content]),
});

describe('a message of the ledger', () => {
  it('has the size asked for, the same bytes each time, and lines with dots', () => {
    expect(message('a').content.length).toBe(2_000);
    expect(message('a').digest).toBe(message('a').digest);
    expect(message('a').digest).not.toBe(message('b').digest);
    expect(message('a').content.toString()).toContain('\r\n.\r\n');
    expect(message('a').content.toString().endsWith('\r\n')).toBe(true);
  });
});

describe('the balance', () => {
  it('holds when each 250 is in one mailbox or in a queue', () => {
    const queued = { member: 't1', queue: 'delivery', digest: message('b').digest };
    const result = balance([entry('a'), entry('b')], [inMailbox('a')], [queued]);
    expect(result).toMatchObject({ accepted: 2, delivered: 1, queued: 1, both: [] });
    expect(verdict(result)).toBe('balanced');
  });

  it('accepts a store that keeps LF lines', () => {
    const found = inMailbox('a');
    const bytes = Buffer.from(found.bytes.toString().replaceAll('\r\n', '\n'));
    expect(verdict(balance([entry('a')], [{ ...found, bytes }], []))).toBe('balanced');
  });

  it('lets an unanswered end of data be there or not', () => {
    const open = entry('a', { kind: 'none', endSent: true, reason: 'closed' });
    expect(verdict(balance([open], [], []))).toBe('balanced');
    expect(verdict(balance([open], [inMailbox('a')], []))).toBe('balanced');
  });

  it('sees a loss', () => expect(verdict(balance([entry('a')], [], []))).toContain('1 lost (a)'));

  it('does not take a shadow copy or a Safety Net copy for a message in transit', () => {
    const copies = ['shadow', 'primarySafetyNet', 'shadowSafetyNet'].map((queue) => ({
      member: 't1',
      queue,
      digest: message('a').digest,
    }));
    expect(verdict(balance([entry('a')], [], copies))).toContain('1 lost');
  });

  it('sees a duplicate', () =>
    expect(verdict(balance([entry('a')], [inMailbox('a'), inMailbox('a')], []))).toContain('1 duplicated'));

  it.each([
    ['refused', { kind: 'refused', code: 451, text: '4.4.0 no' }],
    ['unfinished', { kind: 'none', endSent: false, reason: 'closed' }],
  ] as const)('sees a %s message that was delivered', (_, answer) =>
    expect(verdict(balance([entry('a', answer)], [inMailbox('a')], []))).toContain('1 unexpected'),
  );

  it('sees a message in another mailbox, and one nobody sent', () => {
    expect(verdict(balance([entry('a')], [inMailbox('a', 'eve@example.com')], []))).toContain('1 unexpected');
    expect(verdict(balance([], [inMailbox('a')], []))).toContain('1 unexpected');
  });

  it('sees one changed byte', () => {
    const found = inMailbox('a');
    found.bytes[found.bytes.length - 10] = 0x21;
    expect(verdict(balance([entry('a')], [found], []))).toContain('1 damaged');
  });
});

describe('the sender', () => {
  let server: Server | null = null;
  afterEach(() => new Promise<void>((resolve) => (server ? server.close(() => resolve()) : resolve())));

  /** A peer from a script: what to say after the end of data; null closes instead. */
  async function peer(
    afterData: (n: number) => string | null,
  ): Promise<{ target: { host: string; port: number }; bodies: string[] }> {
    const bodies: string[] = [];
    const listening = createServer((socket) => {
      let input = '';
      let inData = false;
      socket.setEncoding('latin1');
      socket.on('error', () => socket.destroy());
      socket.write('220 test\r\n');
      socket.on('data', (chunk: string) => {
        input += chunk;
        for (;;) {
          const end = inData ? input.indexOf('\r\n.\r\n') : input.indexOf('\r\n');
          if (end < 0) return;
          const text = input.slice(0, end);
          input = input.slice(end + (inData ? 5 : 2));
          if (inData) {
            bodies.push(`${text}\r\n`);
            inData = false;
            const said = afterData(bodies.length);
            if (said === null) return void socket.destroy();
            socket.write(said);
          } else if (text === 'DATA') {
            inData = true;
            socket.write('354 go\r\n');
          } else socket.write(text.startsWith('EHLO') ? '250-test\r\n250 PIPELINING\r\n' : '250 ok\r\n');
        }
      });
    });
    server = listening;
    await new Promise<void>((resolve) => listening.listen(0, '127.0.0.1', resolve));
    const address = listening.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    return { target: { host: '127.0.0.1', port: address.port }, bodies };
  }

  it('records 250, 4yz and no answer, and goes on after a lost connection', async () => {
    const { target, bodies } = await peer((n) => (n === 2 ? '451 4.4.0 no\r\n' : n === 3 ? null : '250 2.0.0 ok\r\n'));
    const messages = ['a', 'b', 'c', 'd'].map(message);
    const ledger = await sendAll({ targets: () => [target], messages, sessions: 1 });
    expect(ledger.map(({ answer }) => answer.kind)).toEqual(['accepted', 'refused', 'none', 'accepted']);
    expect(ledger[2]?.answer).toMatchObject({ endSent: true });
    const undotted = (bodies[0] ?? '').replace(/^\.\./gm, '.');
    expect(digestOf(Buffer.from(undotted))).toBe(message('a').digest);
  });

  it('records a message that found no front end, and one whose connection died in the middle', async () => {
    const { target } = await peer(() => '250 ok\r\n');
    const connection = await SmtpConnection.open(target);
    const half = await sendMessage(connection, message('a'), {
      afterBytes: 500,
      until: async () => connection.close(),
    });
    expect(half.answer).toMatchObject({ kind: 'none', endSent: false });
    const [none] = await sendAll({
      targets: () => [{ host: '127.0.0.1', port: 1 }],
      messages: [message('b')],
      sessions: 1,
    });
    expect(none?.answer).toMatchObject({ kind: 'none', endSent: false });
  });
});
