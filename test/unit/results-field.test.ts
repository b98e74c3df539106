/** `Authentication-Results:` on the way out (RFC 8601): how the field is written, and that what pretends to be ours is taken out and nothing else. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { OwnResultsRemover, resultsFields } from '../../transport/core/results-field.ts';
import { flood } from './header-flood.ts';

const unfold = (text: string): string => text.replace(/\r\n(?=[ \t])/g, '');

describe('resultsFields', () => {
  test('a line for each result, longer ones folded at spaces; unfolded it is what came with the message', () => {
    const value =
      'mx.example.org; spf=pass (mx.example.org: domain of a@example.com designates 192.0.2.1 as permitted sender) smtp.mailfrom=example.com; ' +
      'dkim=pass header.i=@example.com header.s=s1 header.a=rsa-sha256 header.b="abc/def+g"; dmarc=pass (p=REJECT) policy.dmarc=reject header.from=example.com';
    const text = resultsFields([value]);
    expect(text).toBe(
      [
        'Authentication-Results: mx.example.org;',
        ' spf=pass (mx.example.org: domain of a@example.com designates 192.0.2.1 as',
        ' permitted sender) smtp.mailfrom=example.com;',
        ' dkim=pass header.i=@example.com header.s=s1 header.a=rsa-sha256',
        ' header.b="abc/def+g";',
        ' dmarc=pass (p=REJECT) policy.dmarc=reject header.from=example.com',
        '',
      ].join('\r\n'),
    );
    expect(unfold(text)).toBe(`Authentication-Results: ${value}\r\n`);
  });

  test('whatever came with the message is one field of printable lines of at most 998', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 3_000 }), (value) => {
        const lines = resultsFields([`mx.example.org; ${value}`]).split('\r\n');
        expect(lines.pop()).toBe('');
        expect(lines[0]).toMatch(/^Authentication-Results: mx\.example\.org;/);
        for (const line of lines) expect(line).toMatch(/^[\x20-\x7e]{1,998}$/);
        for (const line of lines.slice(1)) expect(line).toMatch(/^ +[^ ]/);
      }),
    );
  });

  test('an authserv-id alone writes nothing', () => {
    expect(resultsFields(['mx.example.org'])).toBe('');
    expect(resultsFields([])).toBe('');
  });
});

/** The message in pieces of this size. */
function passed(message: string, pieceBytes: number, ids = ['mx.example.org']): string {
  const remover = new OwnResultsRemover(ids);
  const bytes = Buffer.from(message, 'latin1');
  const out: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes) out.push(...remover.push(bytes.subarray(at, at + pieceBytes)));
  out.push(...remover.end());
  return Buffer.concat(out).toString('latin1');
}

const around = (field: string): string =>
  `Received: from a\r\n\tby b\r\n${field}Subject: hello\r\n folded\r\n\r\nAuthentication-Results: mx.example.org; in the body\r\n`;

describe('OwnResultsRemover', () => {
  const forged = [
    'Authentication-Results: mx.example.org; dmarc=pass\r\n',
    'authentication-results:mx.example.org;none\r\n',
    'AUTHENTICATION-RESULTS : MX.Example.ORG 1; spf=pass\r\n',
    'Authentication-Results:\r\n mx.example.org;\r\n\tspf=pass\r\n\tsmtp.mailfrom=example.org\r\n',
    'Authentication-Results:\r\n\t(they (really) say \\) so)\r\n mx.example.org (x) ; dkim=pass\r\n',
    'Authentication-Results: "mx.example.org"; dkim=pass\r\n',
    'Authentication-Results: "mx\\.example.org"; dkim=pass\r\n',
    'Authentication-Results: mx.example.org.; dkim=pass\r\n',
    'Authentication-Results: mx.(x)example.org; dkim=pass\r\n',
    'Authentication-Results: mx.example. org; dkim=pass\r\n',
    'Authentication-Results: mx.example.org\r\n',
    'Authentication-Results: (never closed mx.example.org; dkim=pass\r\n',
    'Authentication-Results\r\n : mx.example.org; dkim=pass\r\n',
    'Authentication-Results\r\n: mx.example.org; dkim=pass\r\n',
    `Authentication-Results${' '.repeat(300)}: mx.example.org; dkim=pass\r\n`,
    `Authentication-Results: (${'x'.repeat(3_000)})\r\n mx.example.org; dkim=pass\r\n`,
  ];
  test.each(forged.map((field) => [field.slice(0, 90), field]))(
    '%j is taken out, however it comes',
    (_, field = '') => {
      for (const piece of [1, 2, 3, 7, 64, 100_000]) {
        expect(passed(around(field), piece)).toBe(around(''));
        expect(passed(field + around(''), piece)).toBe(around(''));
        expect(passed(around(field + field), piece)).toBe(around(''));
      }
    },
  );

  const others = [
    'Authentication-Results: mx.example.net; dmarc=pass\r\n',
    'Authentication-Results: mx.example.org.evil.example; dmarc=pass\r\n',
    'Authentication-Results: x; spf=pass smtp.mailfrom=mx.example.org\r\n',
    'Authentication-Results: (mx.example.org) x; spf=pass\r\n',
    'Authentication-Results-Old: mx.example.org; spf=pass\r\n',
    'ARC-Authentication-Results: i=1; mx.example.org; spf=pass\r\n',
    'X: y\r\n Authentication-Results: mx.example.org; spf=pass\r\n',
    'Authentication-Results mx.example.org; spf=pass\r\n',
    'Authentication-Results\r\n',
  ];
  test.each(others)('%j stays', (field) => {
    for (const piece of [1, 2, 3, 7, 64, 100_000]) {
      expect(passed(around(field), piece)).toBe(around(field));
      // And the one behind it goes.
      expect(passed(around(field + forged[0]), piece)).toBe(around(field));
    }
  });

  test('a message without body, without header, cut off in the middle', () => {
    for (const piece of [1, 5, 1_000]) {
      expect(passed(forged[0] ?? '', piece)).toBe('');
      expect(passed('Authentication-Results: mx.example.org; dk', piece)).toBe('');
      expect(passed('Subject: x\r\nAuthentication-Res', piece)).toBe('Subject: x\r\nAuthentication-Res');
      expect(passed(`\r\n${forged[0]}`, piece)).toBe(`\r\n${forged[0]}`);
      expect(passed(`\n${forged[0]}`, piece)).toBe(`\n${forged[0]}`);
    }
  });

  test('without an id nothing is looked at; of several each counts', () => {
    expect(passed(around(forged[0] ?? ''), 9, [])).toBe(around(forged[0] ?? ''));
    const ids = ['other.example; spf=pass', 'mx.example.org'];
    expect(passed(around(`Authentication-Results: Other.Example; x\r\n${forged[0]}`), 9, ids)).toBe(around(''));
  });

  test('a message cut off behind a field of ours loses that field and no more', () => {
    const [ours = ''] = forged;
    for (const piece of [1, 5, 1_000]) {
      expect(passed(`X: y\r\n${ours}Subj`, piece)).toBe('X: y\r\nSubj');
      expect(passed(`X: y\r\n${others[0]}${ours.trimEnd()}`, piece)).toBe(`X: y\r\n${others[0]}`);
    }
  });

  /** Longer than what is held of a field. */
  const long = ' (x)\r\n'.repeat(40_000);
  test.each<[string, string, boolean]>([
    ['begins with our name', `Authentication-Results: mx.example.org;\r\n${long}`, false],
    ['has our name behind a comment', `Authentication-Results: (x)\r\n mx.example.org;\r\n${long}`, false],
    ['names us and has no end', `Authentication-Results: (mx.example.org\r\n${long}`, false],
    ['is of somebody else', `Authentication-Results: x.example; mx.example.org\r\n${long}`, true],
    ['names nobody', `Authentication-Results:\r\n${long}`, true],
    ['names us far behind', `Authentication-Results:\r\n${long} mx.example.org; spf=pass\r\n`, true],
    ['has no colon for long', `Authentication-Results\r\n${long}: mx.example.org\r\n`, true],
  ])('a field without measure that %s is decided by its beginning, wherever it is cut', (_, field, stays) => {
    for (const piece of [1_001, 65_536, 1_000_000])
      expect(passed(around(field), piece) === around(stays ? field : '')).toBe(true);
  });

  test.each([
    ' \r\n',
    ':\r\n',
    'A\r\n',
    'Authentication-Results\r\n',
    'Authentication-Results: other.example; spf=pass\r\n',
  ])(
    '35 MiB of %j without an empty line keep nobody else waiting',
    (line) => {
      const start = 'not a field\r\nAuthentication-Results: other.example;\r\n';
      const cost = flood(new OwnResultsRemover(['mx.example.org']), start, line);
      expect(cost.outBytes).toBe(cost.inBytes);
      expect(cost.longestPushMs).toBeLessThan(50);
      expect(cost.totalMs).toBeLessThan(line.length > 3 ? 4_000 : 2_000);
    },
    120_000,
  );

  test('whatever has no such field comes out byte for byte, in pieces of any size', () => {
    const line = fc.constantFrom(
      'Authentication-Results: ',
      'mx.example.com; ',
      ' ',
      '\t',
      ':',
      '\r\n',
      '\n',
      'é',
      'From: a',
      '(',
      '"',
    );
    fc.assert(
      fc.property(fc.array(line, { maxLength: 40 }), fc.integer({ min: 1, max: 50 }), (parts, piece) => {
        expect(passed(parts.join(''), piece)).toBe(parts.join(''));
      }),
    );
  });
});
