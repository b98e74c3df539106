/** Real Dovecot as mailbox store: LMTP by our delivery agent, the shipped Sieve script, read back over IMAP. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CopyId, Envelope, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { createDeliveryAgent } from '../../transport/runtime/delivery.ts';
import type { DeliveryAgent, RecipientResult } from '../../transport/runtime/delivery-api.ts';
import { DOVECOT_PASSWORD, Dovecot } from '../rigs/dovecot.ts';
import { readInbox } from '../rigs/imap-reader.ts';

const ENVELOPE: Envelope = {
  reversePath: 'alice@example.org',
  recipients: [],
  body: '8BITMIME',
  smtputf8: false,
  declaredSizeBytes: null,
  client: { address: '192.0.2.7', port: 1, helo: 'client.test', protocol: 'ESMTP', tls: null, user: null },
  frontend: 'fe-1',
  listener: 'smtp',
  receivedAtMs: 0,
};

let dovecot: Dovecot;
let missing: string | null = null;
let agent: DeliveryAgent;
const bodies = new Map<string, string>();

beforeAll(async () => {
  const started = await Dovecot.start();
  if ('missing' in started) {
    missing = started.missing;
    return;
  }
  dovecot = started;
  agent = createDeliveryAgent({
    clock: systemClock,
    log: silentLogger,
    metrics: silentMetrics,
    random: systemRandom,
    dns: (servers) => nodeDns(systemClock, servers),
    hostname: 'mx.test',
    member: 'transport-0',
    readBody: async function* (id) {
      yield Buffer.from(bodies.get(id) ?? '');
    },
    onDamaged: (id) => {
      throw new Error(`damaged: ${id}`);
    },
  });
}, 300_000);

afterAll(async () => {
  await agent?.close();
  await dovecot?.[Symbol.asyncDispose]();
});

let requestId = 0;
function deliver(copyId: string, deliveryId: string, body: string, addresses: readonly string[]) {
  bodies.set(copyId, body);
  return new Promise<readonly RecipientResult[]>((resolve) => {
    agent.start(
      {
        requestId: requestId++,
        copyId: copyId as CopyId,
        deliveryId,
        contentKey: null,
        epoch: { try: 1, term: 0, owner: 'ME' as Identity },
        mayBeRepeat: false,
        envelope: ENVELOPE,
        sizeBytes: body.length,
        route: { kind: 'mailbox', database: 'DB01', copy: 'c1', host: '127.0.0.1', port: dovecot.lmtpPort },
        recipients: addresses.map((address, index) => ({ index, recipient: { address } })),
        mayBegin: () => true,
      },
      resolve,
    );
  });
}

const inbox = (user: string) => readInbox({ port: dovecot.imapPort, user, password: DOVECOT_PASSWORD });
const ids = (mails: readonly string[]) => mails.map((mail) => /^X-MailCluster-Delivery: (.*)\r$/m.exec(mail)?.[1]);

describe('Dovecot', () => {
  test('stores what was sent, with one Return-Path and our trace fields', async (context) => {
    if (missing !== null) context.skip(missing);
    const content = 'Subject: hello\r\nX-mailcluster-Delivery: forged\r\n\r\n.dot\r\n..\r\nlast é\r\n';
    const results = await deliver('C1', 'M1', content, ['bob@example.com', 'carol@example.com']);
    expect(results).toMatchObject([{ kind: 'delivered' }, { kind: 'delivered' }]);
    for (const user of ['bob@example.com', 'carol@example.com']) {
      const [mail = '', ...others] = await inbox(user);
      expect(others).toEqual([]);
      expect(mail.match(/^Return-Path:[^\r]*/gim)).toEqual(['Return-Path: <alice@example.org>']);
      expect(mail).toMatch(/^Received: from client\.test \(\[192\.0\.2\.7\]\)/m);
      expect(ids([mail])).toEqual(['M1']);
      expect(mail).not.toContain('forged');
      expect(Buffer.from(mail, 'latin1').toString()).toMatch(/\r\nSubject: hello\r\n\r\n\.dot\r\n\.\.\r\nlast é\r\n$/);
    }
  });

  test('delivers each message to each recipient once: repeats, resubmissions, after a restart', async (context) => {
    if (missing !== null) context.skip(missing);
    const body = 'Subject: once\r\n\r\nx\r\n';
    const send = (copy: string, id: string, to: readonly string[]) => deliver(copy, id, body, to);
    expect(await send('C2', 'M2', ['dan@example.com'])).toMatchObject([{ kind: 'delivered' }]);
    // The same copy again (its 250 was lost), then a resubmission: another copy with the same eldest ancestor; one recipient is new.
    expect(await send('C2', 'M2', ['dan@example.com'])).toMatchObject([{ kind: 'delivered' }]);
    expect(await send('C2b', 'M2', ['dan@example.com', 'eve@example.com'])).toMatchObject([
      { kind: 'delivered' },
      { kind: 'delivered' },
    ]);
    expect(ids(await inbox('dan@example.com'))).toEqual(['M2']);
    expect(ids(await inbox('eve@example.com'))).toEqual(['M2']);
    await dovecot.stop();
    await dovecot.launch();
    expect(await send('C2c', 'M2', ['dan@example.com', 'eve@example.com'])).toMatchObject([
      { kind: 'delivered' },
      { kind: 'delivered' },
    ]);
    expect(await send('C3', 'M3', ['dan@example.com'])).toMatchObject([{ kind: 'delivered' }]);
    expect(ids(await inbox('dan@example.com'))).toEqual(['M2', 'M3']);
    expect(ids(await inbox('eve@example.com'))).toEqual(['M2']);
  });

  test('at the same time as well', async (context) => {
    if (missing !== null) context.skip(missing);
    const all = Array.from({ length: 6 }, (_, at) =>
      deliver(`C4-${at}`, 'M4', 'Subject: race\r\n\r\nx\r\n', ['fay@example.com']),
    );
    const kinds = (await Promise.all(all)).flat().map(({ kind }) => kind);
    expect(kinds.every((kind) => kind === 'delivered' || kind === 'deferred')).toBe(true);
    expect(ids(await inbox('fay@example.com'))).toEqual(['M4']);
  });

  test('is down: deferred, and delivered when it is back', async (context) => {
    if (missing !== null) context.skip(missing);
    await dovecot.stop();
    const body = 'Subject: later\r\n\r\nx\r\n';
    expect(await deliver('C5', 'M5', body, ['gus@example.com'])).toMatchObject([{ kind: 'deferred', scope: 'host' }]);
    await dovecot.launch();
    expect(await deliver('C5', 'M5', body, ['gus@example.com'])).toMatchObject([{ kind: 'delivered' }]);
    expect(ids(await inbox('gus@example.com'))).toEqual(['M5']);
  });
});
