/**
 * A store that refuses, hangs, drops after the dot, answers garbage, accepts some recipients and then dies; and a message to ten thousand recipients: whoever
 * could be served is, once where that can be known; nothing is lost, nobody else waits.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { type PeerAnswer, type PeerMessage, ScriptedPeer } from '../rigs/scripted-peer.ts';
import { type Cluster, startCluster, twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const TIMEOUT_MS = 180_000;
const MANY = 10_000;

let cluster: Cluster;
let store: ScriptedPeer;
/** Times the store said 250 for a recipient after the dot. */
const taken = new Map<string, number>();
/** As the store got them, by recipient. */
const contents = new Map<string, string[]>();
/** Times a message for it was brought to its dot. */
const offered = new Map<string, number>();

const add = (counts: Map<string, number>, rcpt: string): number => {
  const count = (counts.get(rcpt) ?? 0) + 1;
  counts.set(rcpt, count);
  return count;
};

const name = (rcpt: string): string => /<([^@>]*)/.exec(rcpt)?.[1] ?? rcpt;

function atTheDot({ rcpts, wire }: PeerMessage): readonly PeerAnswer[] {
  const answers: PeerAnswer[] = [];
  for (const rcpt of rcpts.map(name)) {
    contents.set(rcpt, [...(contents.get(rcpt) ?? []), wire]);
    const isFirst = add(offered, rcpt) === 1;
    if (isFirst && rcpt === 'dropped') return ['drop'];
    if (isFirst && rcpt === 'hanging') return ['hang'];
    if (isFirst && rcpt === 'garbage') return [{ raw: '\0\xffnonsense\r\n' }];
    // Some are in, then it dies.
    if (isFirst && rcpt === 'second') return [...answers, 'drop'];
    if (isFirst && rcpt === 'later') answers.push('452 4.2.2 full');
    else {
      add(taken, rcpt);
      answers.push('250 2.1.5 kept');
    }
  }
  return answers;
}

beforeAll(async () => {
  store = await ScriptedPeer.start({
    protocol: 'LMTP',
    onCommand: (verb, line) => (verb === 'RCPT' && /<unknown2?@/.test(line) ? '550 5.1.1 nobody' : null),
    onEnd: (message) => atTheDot(message),
  });
  cluster = await startCluster((directory) =>
    twoSites(directory, {
      ...{ perSite: 1, frontends: 1, frontend: [`limits: { maxRecipients: ${MANY} }`] },
      lmtp: `127.0.0.1:${store.port}`,
      spec: [`transport: { limits: { maxRecipients: ${MANY} } }`],
    }),
  );
}, TIMEOUT_MS);
afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await store?.[Symbol.asyncDispose]();
}, TIMEOUT_MS);

async function session(): Promise<SmtpConnection> {
  const [target] = cluster.targets();
  if (target === undefined) throw new Error('no front end');
  return await SmtpConnection.open(target, 120_000);
}

async function send(
  recipients: readonly string[],
  onFull: (connection: SmtpConnection) => Promise<void> = async () => undefined,
): Promise<void> {
  const connection = await session();
  connection.send('MAIL FROM:<sender@example.com>\r\n');
  await connection.expect(250, 'MAIL');
  for (let from = 0; from < recipients.length; from += 500) {
    const group = recipients.slice(from, from + 500);
    connection.send(group.map((one) => `RCPT TO:<${one}@example.com>\r\n`).join(''));
    for (const one of group) await connection.expect(250, one);
  }
  await onFull(connection);
  connection.send('DATA\r\n');
  await connection.expect(354, 'DATA');
  connection.send('Subject: hello\r\n\r\nhello\r\n.\r\n');
  await connection.expect(250, 'the dot');
  connection.close();
}

const got = (recipient: string, least = 1): Promise<boolean> =>
  until(`${recipient} to have it`, () => (taken.get(recipient) ?? 0) >= least, { deadlineMs: 60_000, everyMs: 50 });

/** The fields of one part of a multipart message or of a message, unfolded. */
const fieldsOf = (text: string): string => text.replace(/\r\n[ \t]+/g, ' ');

describe('what a sender said about reports (RFC 3461) comes back in the report (RFC 3464)', () => {
  test(
    'RET, ENVID, ORCPT and NOTIFY, through two transports and the store: header only, envelope id, original recipient; NEVER brings nothing',
    async () => {
      const connection = await session();
      connection.send('MAIL FROM:<asks@example.com> RET=HDRS ENVID=order+2B17\r\n');
      await connection.expect(250, 'MAIL');
      connection.send('RCPT TO:<unknown@example.com> NOTIFY=FAILURE ORCPT=rfc822;first+2Bname@example.net\r\n');
      await connection.expect(250, 'RCPT');
      connection.send('RCPT TO:<unknown2@example.com> NOTIFY=NEVER\r\n');
      await connection.expect(250, 'RCPT');
      connection.send('DATA\r\n');
      await connection.expect(354, 'DATA');
      connection.send('Subject: the order\r\n\r\nnobody else shall read this\r\n.\r\n');
      await connection.expect(250, 'the dot');
      connection.close();
      await got('asks');
      await cluster.drained(60_000, []);
      const reports = (contents.get('asks') ?? []).map(fieldsOf);
      expect(reports).toHaveLength(1);
      const [report = ''] = reports;
      expect(report).toMatch(/^Content-Type: multipart\/report;.*report-type="?delivery-status"?/im);
      expect(report).toMatch(/^Original-Envelope-Id: order\+17$/im);
      expect(report).toMatch(/^Original-Recipient: rfc822; ?first\+name@example\.net$/im);
      expect(report).toMatch(/^Final-Recipient: rfc822; ?unknown@example\.com$/im);
      expect(report).toMatch(/^Action: failed$/im);
      expect(report).toMatch(/^Status: 5\.1\.1$/im);
      expect(report).toContain('Subject: the order');
      expect(report).not.toContain('nobody else shall read this');
      expect(report).not.toContain('unknown2');
    },
    TIMEOUT_MS,
  );

  test(
    'NOTIFY=SUCCESS: one report for each who has it, after the store took it; not about who did not ask',
    async () => {
      const connection = await session();
      connection.send('MAIL FROM:<pleased@example.com> RET=HDRS ENVID=order+2B18\r\n');
      await connection.expect(250, 'MAIL');
      for (const rcpt of [
        'glad> NOTIFY=SUCCESS ORCPT=rfc822;old@example.net',
        'silent>',
        'both> NOTIFY=SUCCESS,FAILURE',
      ]) {
        connection.send(`RCPT TO:<${rcpt.replace('>', '@example.com>')}\r\n`);
        await connection.expect(250, 'RCPT');
      }
      connection.send('DATA\r\n');
      await connection.expect(354, 'DATA');
      connection.send('Subject: the second order\r\n\r\nnobody else shall read this\r\n.\r\n');
      await connection.expect(250, 'the dot');
      connection.close();
      await until('both reports', () => (contents.get('pleased') ?? []).length >= 2, { deadlineMs: 60_000 });
      await cluster.drained(60_000, []);
      const reports = (contents.get('pleased') ?? []).map(fieldsOf);
      expect(reports.map((one) => /^Final-Recipient: rfc822; ?(.*)$/im.exec(one)?.[1]).sort()).toEqual([
        'both@example.com',
        'glad@example.com',
      ]);
      for (const report of reports) {
        expect(report).toMatch(/^Action: delivered$/im);
        expect(report).toMatch(/^Status: 2\./im);
        expect(report).toMatch(/^Original-Envelope-Id: order\+18$/im);
        expect(report).toMatch(/^Subject: Successful Mail Delivery Report$/im);
        expect(report).not.toContain('nobody else shall read this');
      }
      expect(reports.filter((one) => /^Original-Recipient: rfc822; ?old@example\.net$/im.test(one))).toHaveLength(1);
    },
    TIMEOUT_MS,
  );
});

describe('stores that misbehave', () => {
  test(
    'refused for good: reported; refused for now, garbage, dropped after the dot, hanging: tried again; some taken, then dead: only the others again',
    async () => {
      await send(['unknown']);
      await got('sender');
      for (const one of ['later', 'garbage', 'dropped']) {
        await send([one]);
        await got(one);
      }
      await send(['first', 'second', 'third']);
      for (const one of ['first', 'second', 'third']) await got(one);
      // While one transaction hangs, the next mail goes past it; when the store lets go, it comes too.
      await send(['hanging']);
      await until('the hanging one at its dot', () => offered.get('hanging') === 1, { deadlineMs: 30_000 });
      await send(['good']);
      await got('good');
      expect(taken.has('hanging')).toBe(false);
      store.dropAll();
      await got('hanging');
      await cluster.drained(60_000, []);
      // What the store had confirmed is not sent again; what it had not is.
      expect([...taken].filter(([name, count]) => count !== (name === 'pleased' ? 2 : 1))).toEqual([]);
      expect([offered.get('first'), offered.get('second'), offered.get('dropped'), offered.get('hanging')]).toEqual([
        1, 2, 2, 2,
      ]);
    },
    TIMEOUT_MS,
  );

  test(
    '10,000 recipients: 452 for the one above, all others have it, once; who comes later does not wait for them',
    async () => {
      const many = Array.from({ length: MANY }, (_, at) => `many${at}`);
      await send(many, async (connection) => {
        connection.send('RCPT TO:<onemore@example.com>\r\n');
        const reply = await connection.reply();
        expect(reply).toMatchObject({ code: 452, text: expect.stringMatching(/^4\.5\.3 .*10000/) });
      });
      await send(['between']);
      await got('between');
      await until('all of them to have it', () => many.every((one) => taken.has(one)), {
        deadlineMs: 120_000,
        everyMs: 500,
      });
      await cluster.drained(60_000, []);
      expect(many.filter((one) => taken.get(one) !== 1)).toEqual([]);
      expect(taken.has('onemore')).toBe(false);
    },
    TIMEOUT_MS,
  );
});
