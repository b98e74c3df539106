/** What a front end says of a chain (RFC 8617): of chains that dkimpy has made, and of broken ones; and what of that may be sealed. */
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Check, chainStatusOf } from '../../common/authentication-results.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { DnsQuestions } from '../../common/platform/dns-questions.ts';
import { authenticate } from '../../frontend/sender-authentication.ts';
import { type Dkimpy, dkimpy } from '../rigs/dkimpy.ts';
import { DnsServer } from '../rigs/dns-server.ts';
import { newSigningKey } from '../rigs/signing-key.ts';

// Each set is made by a program of its own.
vi.setConfig({ testTimeout: 120_000 });

const { pem: PRIVATE, record } = newSigningKey();
const RECORD = { txt: [record] };
const MESSAGE = 'From: Ann <ann@example.com>\r\nTo: bob@example.org\r\nSubject: hello\r\n\r\nHello.\r\n';

let dns: DnsServer;
let other: Dkimpy | null;
let missing = '';
beforeAll(async () => {
  dns = await DnsServer.start({});
  const found = await dkimpy();
  other = 'missing' in found ? null : found;
  missing = 'missing' in found ? found.missing : '';
}, 300_000);
afterAll(() => dns[Symbol.asyncDispose]());
beforeEach((context) => {
  for (const domain of ['a', 'b', 'c']) dns.zone[`s._domainkey.${domain}.example`] = RECORD;
  if (other === null) context.skip(missing);
});

/** As it comes from `domain`, which found `arc` to be what the message had. */
async function sealedBy(domain: string, arc: string, message: Buffer): Promise<Buffer> {
  if (other === null) throw new Error(missing);
  const how = { selector: 's', domain: `${domain}.example`, privateKey: PRIVATE, authservId: `${domain}.example` };
  const field = `Authentication-Results: ${how.authservId}; arc=${arc}; spf=pass smtp.mailfrom=example.com\r\n`;
  return other.seal(Buffer.concat([Buffer.from(field), message]), how);
}
const twoHops = async (): Promise<Buffer> => sealedBy('b', 'pass', await sealedBy('a', 'none', Buffer.from(MESSAGE)));
const changed = (message: Buffer, from: string | RegExp, to: string): Buffer => {
  const text = message.toString('latin1').replace(from, to);
  expect(text).not.toBe(message.toString('latin1'));
  return Buffer.from(text, 'latin1');
};

async function found(message: Buffer, checks: readonly Check[] = ['ARC'], timeoutMs = 20_000, address = '192.0.2.1') {
  const settings = { authservId: 'us.example', checks, timeoutMs, dnsServers: [dns.server] };
  const findings = await authenticate(
    { settings, address, helo: 'x', reversePath: 'a@x.example' },
    (async function* () {
      for (let at = 0; at < message.length; at += 100) yield message.subarray(at, at + 100);
    })(),
    systemClock,
    new DnsQuestions([dns.server], timeoutMs),
  );
  return findings.map(({ text }) => text).join('; ');
}

describe('a chain', () => {
  test('of nobody is none', async () => {
    expect(await found(Buffer.from(MESSAGE))).toBe('arc=none smtp.remote-ip=192.0.2.1');
    expect(await found(Buffer.from(MESSAGE), ['ARC'], 20_000, '2001:db8::1')).toBe(
      'arc=none smtp.remote-ip="2001:db8::1"',
    );
  });

  test('of one hop, of two, of three passes, and it says who sealed last', async () => {
    const first = await sealedBy('a', 'none', Buffer.from(MESSAGE));
    expect(await found(first)).toBe('arc=pass (i=1 sealed by a.example) smtp.remote-ip=192.0.2.1');
    const third = await sealedBy('c', 'pass', await sealedBy('b', 'pass', first));
    expect(await found(third)).toBe('arc=pass (i=3 sealed by c.example) smtp.remote-ip=192.0.2.1');
  });

  test.for([
    ['a changed body', 'Hello.', 'Hullo.', 'i=2 no valid signature'],
    ['a changed field', 'Subject: hello', 'Subject: hullo', 'i=2 no valid signature'],
    ['other results of the first hop', /i=1; a\.example/, 'i=1; x.example', 'i=2 seal signature validation failed'],
    ['a set that is gone', /ARC-Seal: i=1/, 'X-Gone: i=1', 'i=1 no arc-seal set'],
    ['a number that is none', /ARC-Seal: i=2/, 'ARC-Seal: i=0', 'invalid as instance'],
    ['a number that is left out', /ARC-([-A-Za-z]+): i=2/g, 'ARC-$1: i=3', 'i=3 expected=2'],
    ['a seal that is there twice', /(ARC-Seal: i=2(?:.|\r\n[ \t])*\r\n)/, '$1$1', 'i=2 multiple arc-seal values'],
    ['a seal that says it failed', /cv=pass/, 'cv=fail', 'i=2 cv=fail'],
  ] as const)('with %s fails', async ([, from, to, comment]) => {
    expect(await found(changed(await twoHops(), from, to))).toBe(`arc=fail (${comment}) smtp.remote-ip=192.0.2.1`);
  });

  test('whose key is gone fails; whose name server is silent, or says nothing, is not known and not sealed', async () => {
    const message = await twoHops();
    delete dns.zone['s._domainkey.a.example'];
    expect(await found(message)).toMatch(/^arc=fail \(.*s\._domainkey\.a\.example.*\) smtp/);
    for (const domain of ['a', 'b'])
      for (const entry of ['silent', 'SERVFAIL'] as const) {
        for (const one of ['a', 'b']) dns.zone[`s._domainkey.${one}.example`] = RECORD;
        dns.zone[`s._domainkey.${domain}.example`] = entry;
        const said = await found(message, ['ARC'], 2_000);
        expect(said).toMatch(/^arc=temperror .*smtp\.remote-ip=192\.0\.2\.1$/);
        expect(chainStatusOf(`us.example; ${said}`)).toBe(null);
      }
  });

  test('is looked at beside the other checks, and written before them', async () => {
    const verdicts = async (checks: readonly Check[]): Promise<string> =>
      (await found(await twoHops(), checks))
        .split('; ')
        .map((one) => one.split(' ')[0])
        .join(' ');
    expect(await verdicts(['ARC', 'SPF', 'DKIM', 'DMARC'])).toBe('arc=pass spf=none dkim=none dmarc=none');
    expect(await verdicts(['ARC', 'SPF'])).toBe('arc=pass spf=none');
    expect(await verdicts(['DKIM'])).toBe('dkim=none');
  });

  test('below more signatures than are looked at is not judged: it may have signed them', async () => {
    const signature = 'DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=s; h=from; bh=AA==; b=AA==\r\n';
    const message = await sealedBy('a', 'none', Buffer.from(signature.repeat(11) + MESSAGE));
    expect(await found(message)).toBe('arc=policy (11 DKIM signatures, not looked at)');
    expect(await found(Buffer.from(`${'X: y\r\n'.repeat(4_000)}${MESSAGE}`))).toMatch(/^arc=policy \(header of /);
  });
});

test.each([
  ['us; arc=none smtp.remote-ip=192.0.2.1; spf=pass', 'none'],
  ['us; arc=pass (i=2 sealed by b.example); spf=pass', 'pass'],
  ['us; arc=fail', 'fail'],
  ['us; arc=temperror (not looked at in time)', null],
  ['us; arc=policy (header of 5000 lines, not looked at)', null],
  ['us; arc=passable', null],
  ['us; spf=pass (us: domain of "a; arc=pass"@x.example designates 192.0.2.1)', null],
  ['us; spf=pass; arc=pass', null],
  ['us', null],
])('%s: a chain that is %s', (results, status) => {
  expect(chainStatusOf(results)).toBe(status);
});
