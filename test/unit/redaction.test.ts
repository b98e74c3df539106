/** What a support bundle does not say, and what it still does. */
import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { tar } from '../../common/tar.ts';
import { REDACTED, Redaction } from '../../operator/cli/redaction.ts';

const redaction = new Redaction('salt');

test.each([
  ['redis://app:s3cr3t@redis:6379/0', `redis://${REDACTED}@redis:6379/0`],
  ['Authorization: Bearer abcdefgh12345678', `Authorization: Bearer ${REDACTED}`],
  ['AUTH password=s3cr3t; next', `AUTH password=${REDACTED}; next`],
  ['{"token":"s3cr3t","a":1}', `{"token":"${REDACTED}","a":1}`],
  ['a eyJhbGciOiJIUzI1.eyJzdWIiOiJhbGlj.c2lnbmF0dXJl b', `a ${REDACTED} b`],
  ['550 Subject: lunch\r\nnext', `550 Subject: ${REDACTED}\r\nnext`],
  ['-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\nnext', `${REDACTED}\nnext`],
  ['-----BEGIN PRIVATE KEY-----\nAAAA cut off', REDACTED],
  ['nothing to hide at 10.1.2.3:25', 'nothing to hide at 10.1.2.3:25'],
])('%j', (text, expected) => {
  expect(redaction.text(text)).toBe(expected);
});

test('addresses keep their domain, and the same local part stays the same', () => {
  const text = redaction.text('from <Ann@example.com> to ann@contoso.com, bob@contoso.com');
  const [first, second, third] = [...text.matchAll(/([0-9a-f]{10})@/g)].map((found) => found[1]);
  expect(text).not.toMatch(/ann|bob/i);
  expect(first).toBe(second);
  expect(third).not.toBe(first);
  expect(new Redaction('other').text('ann@contoso.com')).not.toBe(redaction.text('ann@contoso.com'));
});

test('values under names of secrets go, references and the rest stay', () => {
  const value = {
    metadata: {
      name: 'a',
      managedFields: [{}],
      annotations: { 'kubectl.kubernetes.io/last-applied-configuration': '{}' },
    },
    auth: { secretRef: { name: 'relay-users' } },
    password: 's3cr3t',
    redisPassword: 's3cr3t',
    'api-key': 's3cr3t',
    passwordFile: '/etc/x',
    tokenSeconds: 3_600,
    subject: 'lunch',
    list: [{ token: 's3cr3t' }, 5, null],
  };
  expect(redaction.value(value)).toEqual({
    metadata: { name: 'a', annotations: {} },
    auth: { secretRef: { name: 'relay-users' } },
    password: REDACTED,
    redisPassword: REDACTED,
    'api-key': REDACTED,
    passwordFile: '/etc/x',
    tokenSeconds: 3_600,
    subject: REDACTED,
    list: [{ token: REDACTED }, 5, null],
  });
});

test('a log is read line by line, as JSON where it is', () => {
  const log = redaction.log('{"msg":"x","password":"s3cr3t"}\nplain token=s3cr3t\n{"cut');
  expect(log).toBe(`{"msg":"x","password":"${REDACTED}"}\nplain token=${REDACTED}\n{"cut`);
});

test('the archive is one that tar reads', () => {
  const content = 'x'.repeat(700);
  const packed = tar(
    [
      { name: 'a/b.json', content },
      { name: 'empty', content: '' },
    ],
    1_700_000_000_000,
  );
  expect(execFileSync('tar', ['-tf', '-'], { input: packed }).toString()).toBe('a/b.json\nempty\n');
  expect(execFileSync('tar', ['-xOf', '-', 'a/b.json'], { input: packed }).toString()).toBe(content);
  expect(() => tar([{ name: 'n'.repeat(101), content }], 0)).toThrow(RangeError);
});
