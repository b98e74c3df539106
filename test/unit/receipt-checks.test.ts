/** SPF, DKIM and DMARC of what strangers send: against a real name server, in the real thread; and that no message waits for longer than it may. */
import { dkimSign } from 'mailauth/lib/dkim/sign.js';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { AuthenticationResultsConfig, ListenerConfig } from '../../common/config.ts';
import type { ClientInfo, Envelope } from '../../common/message.ts';
import { type Clock, systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import type { Labels, Metrics } from '../../common/platform/metrics.ts';
import { type ReceiptCheck, ReceiptChecks } from '../../frontend/receipt-checks.ts';
import { DnsServer, type ZoneEntry } from '../rigs/dns-server.ts';
import { newSigningKey } from '../rigs/signing-key.ts';

const US = 'mx.example.org';
const { pem: PRIVATE, record: RECORD } = newSigningKey('rsa', 1_024);

const MESSAGE = Buffer.from(
  'From: Ann <ann@example.com>\r\nTo: bob@example.org\r\nSubject: hello\r\nDate: Mon, 30 Nov 2026 10:00:00 +0000\r\n\r\nHello.\r\n',
);

const ZONE: Readonly<Record<string, ZoneEntry>> = {
  'example.com': { txt: ['v=spf1 ip4:192.0.2.1 -all'] },
  's1._domainkey.example.com': { txt: [RECORD] },
  '_dmarc.example.com': { txt: ['v=DMARC1; p=reject'] },
  'client.example.com': { a: ['192.0.2.1'], txt: ['v=spf1 a -all'] },
};

async function signed(message = MESSAGE, domain = 'example.com'): Promise<Buffer> {
  const how = { signingDomain: domain, selector: 's1', privateKey: PRIVATE };
  const { signatures } = await dkimSign(message, { ...how, signatureData: [how] });
  return Buffer.concat([Buffer.from(signatures), message]);
}

let dns: DnsServer;
let counted: string[];
let checks: ReceiptChecks | null;
beforeEach(async () => {
  dns = await DnsServer.start({ ...ZONE });
  counted = [];
  checks = null;
});
afterEach(async () => {
  await checks?.close();
  await dns[Symbol.asyncDispose]();
});

const metrics: Metrics = {
  increment: (name, labels: Labels = {}) =>
    void (name === 'authentication_results_total' && counted.push(`${labels.method}=${labels.result}`)),
  set: () => undefined,
  observe: () => undefined,
};

function listener(name: string, settings?: Partial<AuthenticationResultsConfig>): ListenerConfig {
  const defaults = {
    authservId: US,
    checks: ['SPF', 'DKIM', 'DMARC'],
    timeoutMs: 10_000,
    dnsServers: [dns.server],
  } as const;
  return {
    ...{ name, host: '', port: 0, tls: 'None', relayFrom: [], usersFile: null },
    ...(settings === undefined ? {} : { authenticationResults: { ...defaults, ...settings } }),
  };
}

function started(listeners: readonly ListenerConfig[], clock: Clock = systemClock): ReceiptChecks {
  checks = new ReceiptChecks({ clock, log: silentLogger, metrics, listeners, maxConnections: 100 });
  return checks;
}

function from(reversePath = 'ann@example.com', client: Partial<ClientInfo> = {}, name = 'smtp'): Envelope {
  const info = { address: '192.0.2.1', port: 1, helo: 'client.example.com', protocol: 'ESMTP', tls: null, user: null };
  return {
    ...{ reversePath, recipients: [{ address: 'bob@example.org' }], body: '8BITMIME', smtputf8: false },
    ...{ declaredSizeBytes: null, client: { ...info, ...client }, frontend: 'fe', listener: name, receivedAtMs: 0 },
  };
}

/** Its details, as they travel. */
async function found(message: Buffer, envelope = from(), settings: Partial<AuthenticationResultsConfig> = {}) {
  await checks?.close();
  const all = started([listener('smtp', settings)]);
  await all.start();
  const check = all.begin(envelope, false, () => undefined);
  if (check === null) throw new Error('not looked at');
  return pass(check, message);
}

async function pass(check: ReceiptCheck, message: Buffer): Promise<readonly string[]> {
  for (let at = 0; at < message.length; at += 50) check.write(message.subarray(at, at + 50));
  return check.end();
}

/** `method=result` of each, without what else it says. */
const verdicts = (details: readonly string[]): string =>
  (details[0] ?? '')
    .split('; ')
    .slice(1)
    .map((one) => one.split(' ')[0])
    .join(' ');

describe('what is found out', () => {
  test('all is well, and it says about whom', async () => {
    const [detail = ''] = await found(await signed());
    expect(detail).toMatch(
      /^mx\.example\.org; spf=pass \(mx\.example\.org: .*\) smtp\.mailfrom=example\.com; dkim=pass header\.d=example\.com header\.i=@example\.com header\.s=s1 header\.a=rsa-sha256 header\.b="?[\w/+]{8}"?; dmarc=pass \(p=REJECT\) policy\.dmarc=reject header\.from=example\.com$/,
    );
    expect(counted).toEqual(['spf=pass', 'dkim=pass', 'dmarc=pass']);
    expect(dns.asked).toContain('TXT s1._domainkey.example.com');
  });

  test.each<[string, () => Promise<Buffer>, Envelope, string]>([
    [
      'another address',
      () => signed(),
      from('ann@example.com', { address: '192.0.2.9' }),
      'spf=fail dkim=pass dmarc=pass',
    ],
    [
      'a changed body',
      async () => Buffer.concat([await signed(), Buffer.from('P.S.\r\n')]),
      from(),
      'spf=pass dkim=fail dmarc=pass',
    ],
    [
      'both',
      async () => Buffer.concat([await signed(), Buffer.from('P.S.\r\n')]),
      from('ann@example.com', { address: '192.0.2.9' }),
      'spf=fail dkim=fail dmarc=fail',
    ],
    ['no signature', async () => MESSAGE, from(), 'spf=pass dkim=none dmarc=pass'],
    [
      'a stranger in From',
      async () => signed(Buffer.from(String(MESSAGE).replace('ann@example.com', 'ceo@example.net'))),
      from(),
      'spf=pass dkim=pass dmarc=none',
    ],
    ['a report', () => signed(), from(''), 'spf=pass dkim=pass dmarc=pass'],
    ['a domain that does not exist', () => signed(), from('a@gone.example'), 'spf=none dkim=pass dmarc=pass'],
    [
      'a key that is not there',
      async () => signed(MESSAGE, 'gone.example'),
      from(),
      'spf=pass dkim=neutral dmarc=pass',
    ],
    [
      'two authors',
      async () => Buffer.concat([Buffer.from('From: x@example.net\r\n'), MESSAGE]),
      from(),
      'spf=pass dkim=none dmarc=permerror',
    ],
    ['no header', async () => Buffer.from('\r\nhello\r\n'), from(), 'spf=pass dkim=none dmarc=permerror'],
    ['nothing', async () => Buffer.alloc(0), from(), 'spf=pass dkim=none dmarc=permerror'],
    [
      'an IPv4-mapped address',
      () => signed(),
      from('ann@example.com', { address: '::ffff:192.0.2.1' }),
      'spf=pass dkim=pass dmarc=pass',
    ],
    [
      'HELO with an address literal',
      async () => MESSAGE,
      from('', { helo: '[192.0.2.1]' }),
      'spf=none dkim=none dmarc=fail',
    ],
  ])('%s', async (_, message, envelope, expected) => {
    expect(verdicts(await found(await message(), envelope))).toBe(expected);
  });

  test('only what is asked for', async () => {
    expect(verdicts(await found(await signed(), from(), { checks: ['SPF'] }))).toBe('spf=pass');
    expect(dns.asked.filter((one) => one.includes('_dmarc') || one.includes('_domainkey'))).toEqual([]);
    expect(verdicts(await found(await signed(), from(), { checks: ['SPF', 'DKIM'] }))).toBe('spf=pass dkim=pass');
    expect(verdicts(await found(await signed(), from(), { checks: ['DKIM'] }))).toBe('dkim=pass');
    expect(verdicts(await found(await signed(), from(), { checks: ['ARC'] }))).toBe('arc=none');
    expect(verdicts(await found(await signed(), from(), { checks: ['ARC', 'SPF', 'DKIM'] }))).toBe(
      'arc=none spf=pass dkim=pass',
    );
  });

  test('of many signatures some are looked at, however the names are written; those above count', async () => {
    const message = await signed();
    const hash = /bh=([^;]+);/.exec(String(message))?.[1];
    const more = Array.from(
      { length: 40 },
      (_, at) => `a=rsa-sha256; c=relaxed/relaxed; d=x${at}.example; s=s; h=from; bh=${hash}; b=AA==`,
    );
    const bogus = more.map((one) => `DKIM-Signature\r\n : v=1; ${one}\r\n`).join('');
    expect(
      verdicts(
        await found(Buffer.concat([message.subarray(0, message.length - MESSAGE.length), Buffer.from(bogus), MESSAGE])),
      ),
    ).toBe(`spf=pass dkim=pass ${'dkim=neutral '.repeat(9)}dkim=policy dmarc=pass`);
    expect(dns.asked.filter((one) => /^TXT s\._domainkey\.x\d+\.example$/.test(one))).toHaveLength(9);
  });

  test('long results do not push out those of SPF and DMARC, and nothing is cut in the middle', async () => {
    const name = `${'x'.repeat(60)}.`.repeat(3);
    const long =
      `DKIM-Signature: v=1; a=rsa-sha256; d=${name}example; s=${'y'.repeat(60)}.${'z'.repeat(60)}; h=from; bh=AA==; b=AA==\r\n`.repeat(
        9,
      );
    const [detail = ''] = await found(
      Buffer.concat([Buffer.from(long), await signed()]),
      from(`${'é'.repeat(60)}@example.com`),
    );
    expect(detail.length).toBeLessThanOrEqual(4_096);
    expect(detail).toMatch(/^[\x20-\x7e]+$/);
    expect(verdicts([detail])).toMatch(/^spf=pass (dkim=fail )+dmarc=pass$/);
    expect(counted.filter((one) => one.startsWith('dkim='))).toHaveLength(10);
  });
});

describe('DNS that does not answer', () => {
  const silent = (...names: string[]): void => {
    for (const name of names) dns.zone[name] = 'silent';
  };

  test.each<[string, () => void, string]>([
    ['SPF', () => silent('example.com'), 'spf=temperror dkim=pass dmarc=pass'],
    ['the key', () => silent('s1._domainkey.example.com'), 'spf=pass dkim=temperror dmarc=pass'],
    ['the policy', () => silent('_dmarc.example.com'), 'spf=pass dkim=pass dmarc=temperror'],
    ['all', () => silent(...Object.keys(ZONE)), 'spf=temperror dkim=temperror dmarc=temperror'],
    [
      'SERVFAIL',
      () => Object.assign(dns.zone, Object.fromEntries(Object.keys(ZONE).map((name) => [name, 'SERVFAIL']))),
      'spf=temperror dkim=temperror dmarc=temperror',
    ],
  ])('%s: temperror, in time', async (_, spoil, expected) => {
    spoil();
    const message = await signed();
    const beganMs = performance.now();
    expect(verdicts(await found(message, from(), { timeoutMs: 5_000 }))).toBe(expected);
    // Not the margin of a second: the machine may be slow; 30 s would be c-ares with its own times.
    expect(performance.now() - beganMs).toBeLessThan(10_000);
  });

  test('DMARC does not fail for want of an answer; whose name server is silent does not matter when he could not align', async () => {
    silent('s1._domainkey.example.com', 's1._domainkey.evil.example');
    const elsewhere = from('ann@example.com', { address: '192.0.2.9' });
    const settings = { timeoutMs: 5_000 };
    expect(verdicts(await found(await signed(), elsewhere, settings))).toBe('spf=fail dkim=temperror dmarc=temperror');
    expect(verdicts(await found(await signed(MESSAGE, 'evil.example'), elsewhere, settings))).toBe(
      'spf=fail dkim=temperror dmarc=fail',
    );
  });

  test('a name server that is not there at all', async () => {
    const settings = { dnsServers: ['127.0.0.9:9'], timeoutMs: 5_000 };
    expect(verdicts(await found(await signed(), from(), settings))).toBe(
      'spf=temperror dkim=temperror dmarc=temperror',
    );
  });
});

describe('who is looked at', () => {
  const settings = { timeoutMs: 5_000 };

  test('nobody where no listener has it on', () => {
    expect(started([listener('smtp')]).begin(from(), false, () => undefined)).toBeNull();
  });

  test('not whom relayFrom trusts; of our users and on other listeners only the name is guarded, and no question is asked', async () => {
    const all = started([
      listener('smtp', settings),
      listener('mx2', { authservId: 'two.example.org' }),
      listener('internal'),
    ]);
    expect(all.begin(from(), true, () => undefined)).toBeNull();
    for (const envelope of [from('ann@example.com', { user: 'ann' }), from('ann@example.com', {}, 'internal')]) {
      const check = all.begin(envelope, false, () => undefined);
      if (check === null) throw new Error('not guarded');
      expect(await pass(check, MESSAGE)).toEqual([US, 'two.example.org']);
    }
    expect(dns.asked).toEqual([]);
    const check = all.begin(from(), false, () => undefined);
    if (check === null) throw new Error('not looked at');
    const details = await pass(check, MESSAGE);
    expect(verdicts(details)).toBe('spf=pass dkim=none dmarc=pass');
    expect(details.slice(1)).toEqual(['two.example.org']);
  });
});

describe('a thread that does not keep up', () => {
  test('a body of 100 MB goes through, and the client waits while too much of it is here', async () => {
    const big = Buffer.alloc(64 * 1024, 'a line of text that is hashed\r\n');
    let wake: (() => void) | null = null;
    let waits = 0;
    const check = started([listener('smtp', { timeoutMs: 60_000 })]).begin(from(), false, () => wake?.());
    if (check === null) throw new Error('not looked at');
    check.write(await signed());
    for (let sent = 0; sent < 100 * 1024 * 1024; sent += big.length) {
      if (check.write(big)) continue;
      waits++;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    // The body is another one than the one that was signed.
    expect(verdicts(await check.end())).toBe('spf=pass dkim=fail dmarc=pass');
    expect(waits).toBeGreaterThan(10);
    // What waits, what is on its way and a whole block of garbage; the body is 100 MB.
    expect(process.memoryUsage().arrayBuffers).toBeLessThan(60 * 1024 * 1024);
  }, 120_000);

  test('is not waited for: temperror, the client goes on, and the next message has a thread', async () => {
    // Time passes at once for whoever waits for the thread; the thread lives in the time of the machine.
    const hasty: Clock = {
      ...systemClock,
      setTimer: (delayMs, callback) => systemClock.setTimer(delayMs / 1_000, callback),
    };
    const all = started([listener('smtp', { timeoutMs: 1_000 })], hasty);
    const check = all.begin(from(), false, () => undefined);
    if (check === null) throw new Error('not looked at');
    const details = await pass(check, await signed());
    expect(details).toEqual([
      'mx.example.org; spf=temperror (not looked at in time); dkim=temperror (not looked at in time); dmarc=temperror (not looked at in time)',
    ]);
    await all.close();
    expect(verdicts(await found(await signed()))).toBe('spf=pass dkim=pass dmarc=pass');
  });

  test("abandoned in the middle it is nobody's work any more", async () => {
    const all = started([listener('smtp', settingsOf())]);
    for (let at = 0; at < 50; at++) {
      const check = all.begin(from(), false, () => undefined);
      check?.write(MESSAGE.subarray(0, 40));
      check?.abandon();
      expect(check?.write(MESSAGE)).toBe(true);
    }
    const check = all.begin(from(), false, () => undefined);
    if (check === null) throw new Error('not looked at');
    expect(verdicts(await pass(check, await signed()))).toBe('spf=pass dkim=pass dmarc=pass');
  });
});

const settingsOf = (): Partial<AuthenticationResultsConfig> => ({ timeoutMs: 20_000 });
