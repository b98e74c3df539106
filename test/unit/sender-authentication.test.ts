/** What anybody may write to keep the thread busy, or to end it: one message must not cost the results of all others. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CHECKS } from '../../common/authentication-results.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { DnsQuestions } from '../../common/platform/dns-questions.ts';
import { authenticate } from '../../frontend/sender-authentication.ts';
import { DnsServer } from '../rigs/dns-server.ts';

/** A header has 128 KiB at most. */
const SIZE = 120_000;
const folded = (text: string): string => (text.match(/.{1,900}/gs) ?? []).join('\r\n ');
const FROM = 'From: a@x.example\r\n';
const SIGNATURE =
  'DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=s; h=from; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AA==';
const arc = (at: number): string =>
  `ARC-Seal: i=${at}; a=rsa-sha256; cv=pass; d=x.example; s=s; b=AA==\r\nARC-Message-Signature: i=${at}; a=rsa-sha256; d=x.example; s=s; h=from; bh=AA==; b=AA==\r\nARC-Authentication-Results: i=${at}; x; none\r\n`;

let dns: DnsServer;
beforeAll(async () => {
  const key = { txt: ['v=DKIM1; p=AA=='] };
  dns = await DnsServer.start({ 'x.example': { txt: ['v=spf1 -all'] }, 's._domainkey.x.example': key });
});
afterAll(() => dns[Symbol.asyncDispose]());

/** What is found out, and the processor time it took. */
async function look(header: string): Promise<{ readonly said: string; readonly cpuMs: number }> {
  const message = Buffer.from(`${header}\r\nbody\r\n`, 'latin1');
  const content = (async function* (): AsyncGenerator<Buffer> {
    for (let at = 0; at < message.length; at += 16_384) yield message.subarray(at, at + 16_384);
  })();
  const settings = { authservId: 'us', timeoutMs: 20_000, dnsServers: [dns.server] };
  const job = { address: '192.0.2.1', helo: 'x', reversePath: 'a@x.example' };
  const before = process.cpuUsage();
  const found = await authenticate(
    { ...job, settings: { ...settings, checks: CHECKS } },
    content,
    systemClock,
    new DnsQuestions([dns.server], 20_000),
  );
  const { user, system } = process.cpuUsage(before);
  return { said: found.map(({ text }) => text).join('; '), cpuMs: (user + system) / 1_000 };
}

test.each([
  ['lines that are no fields', `${FROM}${SIGNATURE}\r\n${'a\r\n'.repeat(SIZE / 3)}`],
  ['folded lines', `${FROM}${SIGNATURE}\r\nTo: a\r\n${' b\r\n'.repeat(SIZE / 4)}`],
  ['groups of authors', `From: ${folded('a:'.repeat(SIZE / 2))}\r\n`],
  ['groups of authors in lines that are no fields', `From: a:\r\n${`${'b c:'.repeat(200)}\r\n`.repeat(SIZE / 802)}`],
  ['authors', `From: ${folded('a@x.example,'.repeat(SIZE / 12))}\r\n`],
  ['many From fields', `${'From: a:b\r\n'.repeat(3_900)}`],
  ['comments', `From: ${folded('('.repeat(SIZE))}\r\n`],
  ['quotes', `From: ${folded('"'.repeat(SIZE))}\r\n`],
  ['tags', `${FROM}${folded(SIGNATURE + '; x=y'.repeat(SIZE / 5))}\r\n`],
  ['signed fields', `${FROM}${folded(SIGNATURE.replace('h=from', `h=from:${'x:'.repeat(SIZE / 2)}`))}\r\n`],
  ['signatures', `${FROM}${`${SIGNATURE}\r\n`.repeat(SIZE / 130)}`],
  ['parameters', `${FROM}${SIGNATURE}\r\nContent-Type: a/b${folded('; a=b'.repeat(SIZE / 5))}\r\n`],
  ['ARC sets', FROM + Array.from({ length: 50 }, (_, at) => arc(at + 1)).join('')],
  ['ARC sets of one instance', FROM + arc(1).repeat(SIZE / arc(1).length)],
  ['ARC sets that are large', FROM + arc(1).replace('none', folded('a '.repeat(SIZE / 2)))],
  ['tags of ARC', FROM + arc(1).replace('i=1', folded(`i=1${'; x=y'.repeat(SIZE / 5)}`))],
  ['numbers of ARC', `${FROM}${'ARC-Seal: i=9\r\n'.repeat(3_900)}`],
])('a header full of %s takes no second', async (_, header) => {
  const { said, cpuMs } = await look(header);
  expect(said).toMatch(/^arc=\w+ .*; spf=fail .*; dkim=/);
  expect(cpuMs).toBeLessThan(1_000);
});

test('a message of 35 MB without an empty line takes neither the thread nor its memory', async () => {
  const { said, cpuMs } = await look(`not a field\r\n${FROM}${`X: ${'a'.repeat(60_000)}\r\n`.repeat(600)}`);
  const problem = 'header of more than 131074 bytes, not looked at';
  expect(said).toMatch(/^arc=policy .*; spf=fail .*; dkim=neutral .*; dmarc=permerror$/);
  expect(said).toContain(`arc=policy (${problem})`);
  expect(said).toContain(`dkim=neutral (${problem})`);
  expect(cpuMs).toBeLessThan(1_000);
});

test('a header as large as they come, of somebody with a thousand recipients, is looked at', async () => {
  const to = Array.from({ length: 3_000 }, (_, at) => `a-person-${at}@somewhere.example`).join(',\r\n ');
  expect((await look(`${FROM}${SIGNATURE}\r\nTo: ${to}\r\n`)).said).not.toContain('not looked at');
});

test('whatever is written, there are results, in words of RFC 8601', async () => {
  const part = fc.oneof(
    fc.constantFrom(
      'From',
      'DKIM-Signature',
      'ARC-Seal: i=1;',
      'Content-Type',
      ': ',
      ':',
      '\r\n',
      ' ',
      ';',
      '=',
      '@x.example',
      SIGNATURE,
      FROM,
    ),
    fc.constantFrom(
      '"',
      '(',
      ')',
      '<',
      '>',
      '\\',
      ',',
      'v=1; a=rsa-sha256',
      'l=',
      '99999999999999999999',
      '-1',
      'é',
      '\xff',
      'b=',
    ),
    fc.string({ unit: 'binary', maxLength: 20 }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(part, { maxLength: 40 }), async (parts) => {
      const { said } = await look(parts.join(''));
      expect(said).toMatch(
        /^arc=\w+ [\x20-\x7e]*; spf=\w+ [\x20-\x7e]*; dkim=[\x20-\x7e]*; dmarc=(none|pass|fail|temperror|permerror)/,
      );
    }),
    { numRuns: 60 },
  );
}, 120_000);
