/**
 * Messages nobody should send, through the whole system: 100 MB, nothing at all, headers and lines of 10 MB, clients that vanish. Each is refused with the right words or arrives whole; the front end's memory stays bounded; mail of others passes all the time.
 */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { doubledDots } from '../../examples/demo/smtp-connection.ts';
import { until } from '../house/until.ts';
import { type Cluster, startCluster, twoSites } from './harness.ts';
import { balance, makeMessage, notAccepted, verdict } from './ledger.ts';
import { SmtpConnection, sendAll } from './smtp-sender.ts';

const TIMEOUT_MS = 240_000;
const MB = 1024 * 1024;
const LIMITS = 'limits: { maxMessageSize: 110Mi, idleTimeout: 30s }';

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster((directory) =>
    twoSites(directory, {
      ...{ perSite: 1, frontends: 1, frontend: [LIMITS] },
      spec: ['transport: { limits: { maxMessageSize: 110Mi } }'],
    }),
  );
}, TIMEOUT_MS);
afterAll(async () => await cluster?.[Symbol.asyncDispose](), TIMEOUT_MS);

async function session(): Promise<SmtpConnection> {
  const [target] = cluster.targets();
  if (target === undefined) throw new Error('no front end');
  return await SmtpConnection.open(target, 120_000);
}

async function said(connection: SmtpConnection, command: string): Promise<string> {
  connection.send(`${command}\r\n`);
  const reply = await connection.reply();
  return typeof reply === 'string' ? reply : `${reply.code} ${reply.text}`;
}

/** Up to the 354. */
async function begun(recipient = 'ann@example.com', size = ''): Promise<SmtpConnection> {
  const connection = await session();
  expect(await said(connection, `MAIL FROM:<sender@example.org>${size}`)).toMatch(/^250/);
  expect(await said(connection, `RCPT TO:<${recipient}>`)).toMatch(/^250/);
  expect(await said(connection, 'DATA')).toMatch(/^354/);
  return connection;
}

async function mailPasses(id: string): Promise<void> {
  const ledger = await sendAll({
    targets: () => cluster.targets(),
    messages: [makeMessage(id, 'good@example.com', 3_000)],
    sessions: 1,
  });
  expect(notAccepted(ledger)).toEqual([]);
  await cluster.drained(60_000, ledger);
  const found = (await cluster.delivered()).filter(({ bytes }) => bytes.includes(`X-Ledger-Id: ${id}\r\n`));
  expect(verdict(balance(ledger, found, []))).toBe('balanced');
}

/** Lines of 76 octets, about as long as asked. */
const lines = (bytes: number): Buffer => Buffer.from(`${'x'.repeat(74)}\r\n`.repeat(Math.ceil(bytes / 76)));

const deliveredTo = async (mailbox: string): Promise<readonly Buffer[]> =>
  (await cluster.delivered()).filter((one) => one.mailbox === mailbox).map(({ bytes }) => bytes);

/** The one message in this mailbox, as soon as it is there. */
const arrived = async (mailbox: string, deadlineMs: number): Promise<Buffer> =>
  await until(
    `mail in ${mailbox}`,
    async () => {
      const [first, ...more] = await deliveredTo(mailbox);
      return first !== undefined && more.length === 0 && first;
    },
    { deadlineMs, everyMs: 200 },
  );

describe('messages nobody should send', () => {
  test(
    '100 MB: refused by SIZE or at the end where it is too much, else whole on the other side; memory bounded',
    async () => {
      await mailPasses('warm');
      const before = await cluster.peakMb();
      const declared = await session();
      expect(await said(declared, `MAIL FROM:<s@example.org> SIZE=${120 * MB}`)).toMatch(/^552 5\.3\.4 .*115343360/);
      declared.send('QUIT\r\n');

      const block = lines(MB);
      const tooBig = await begun();
      for (let sent = 0; sent < 120; sent++) tooBig.send(block);
      expect(await said(tooBig, '.')).toMatch(/^552 5\.3\.4 /);
      expect(await said(tooBig, 'NOOP')).toMatch(/^250/);

      const big = await begun('big@example.com');
      const digest = createHash('sha256');
      for (let sent = 0; sent < 100; sent++) {
        digest.update(block);
        big.send(block);
      }
      expect(await said(big, '.')).toMatch(/^250 2\.0\.0 Ok: queued as /);
      const stored = await arrived('big@example.com', 90_000);
      const body = stored.subarray(-100 * block.length);
      expect(createHash('sha256').update(body).digest('hex')).toBe(digest.digest('hex'));
      expect((await cluster.peakMb()) - before).toBeLessThan(96);
      await mailPasses('afterbig');
    },
    TIMEOUT_MS,
  );

  test(
    'a header or a line of 10 MB: 552 and 554 after its true end, the session goes on, memory bounded',
    async () => {
      const before = await cluster.peakMb();
      const header = await begun();
      const fields = Buffer.from(`X-Filler: ${'y'.repeat(1_000)}\r\n`.repeat(1_000));
      for (let sent = 0; sent < 10; sent++) header.send(fields);
      expect(await said(header, '\r\nbody\r\n.')).toMatch(/^552 5\.3\.4 Message header too big/);
      expect(await said(header, 'NOOP')).toMatch(/^250/);

      const line = await begun();
      line.send('Subject: one line\r\n\r\n');
      for (let sent = 0; sent < 10; sent++) line.send(Buffer.alloc(MB, 'z'));
      expect(await said(line, '\r\n.')).toMatch(/^554 5\.6\.0 Message has a line longer than 65536/);

      const command = await session();
      for (let sent = 0; sent < 10; sent++) command.send(Buffer.alloc(MB, 'N'));
      expect(await said(command, '')).toMatch(/^500 5\.5\.2 Command line too long/);
      expect((await cluster.peakMb()) - before).toBeLessThan(64);
      await mailPasses('afterlong');
    },
    TIMEOUT_MS,
  );

  test(
    'nothing at all: 0 bytes are a message, and arrive with our trace fields only',
    async () => {
      const connection = await begun('empty@example.com');
      expect(await said(connection, '.')).toMatch(/^250/);
      const mail = await arrived('empty@example.com', 30_000);
      expect(mail.toString('latin1')).toMatch(/^(?:[\w-]+: .*\r\n(?:[ \t].*\r\n)*)+\r?\n?$/);
    },
    TIMEOUT_MS,
  );

  test(
    'every octet but NUL, bare CR and bare LF, and lines of dots: what is in the mailbox is what was sent',
    async () => {
      const octets = Buffer.from(Array.from({ length: 256 }, (_, at) => at).filter((at) => ![0, 10, 13].includes(at)));
      const dots = ['.', '..', '...', '.\t', ' .', '.x', '..x', 'x.', ''].join('\r\n');
      const body = Buffer.concat([
        Buffer.from('\r\n'),
        octets,
        Buffer.from(`\r\n${dots}\r\n.`),
        octets,
        Buffer.from('\r\n'),
      ]);
      const connection = await begun('octets@example.com', ' BODY=8BITMIME');
      connection.send(doubledDots(Buffer.concat([Buffer.from('Subject: octets\r\n'), body])));
      expect(await said(connection, '.')).toMatch(/^250/);
      const stored = await arrived('octets@example.com', 30_000);
      expect(stored.subarray(-body.length).toString('latin1')).toBe(body.toString('latin1'));
    },
    TIMEOUT_MS,
  );

  test(
    'clients that vanish: before the dot nothing is delivered, after the dot it is, once',
    async () => {
      const early = await begun('early@example.com');
      early.send('Subject: half\r\n\r\nhalf of it\r\n');
      early.close();
      const late = await begun('late@example.com');
      late.send('Subject: whole\r\n\r\nall of it\r\n.\r\n');
      late.close();
      await until('the whole one', async () => (await deliveredTo('late@example.com')).length > 0, {
        deadlineMs: 30_000,
        everyMs: 200,
      });
      await mailPasses('aftervanished');
      expect((await deliveredTo('late@example.com')).length).toBe(1);
      expect((await deliveredTo('early@example.com')).length).toBe(0);
    },
    TIMEOUT_MS,
  );
});
