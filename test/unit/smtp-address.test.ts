/** The grammar of MAIL and RCPT as tables: RFC 5321 4.1.2, 4.1.3, 4.5.3.1; RFC 6531; RFC 1870, 3461, 4954. */
import { describe, expect, it } from 'vitest';
import { parseMail, parseRcpt } from '../../common/smtp/address.ts';

const x = (count: number): string => 'x'.repeat(count);
/** `count` octets of domain. */
const domain = (count: number): string =>
  `${x(49)}.`
    .repeat(10)
    .slice(0, count - 1)
    .concat('x');

const rcpt = (text: string, smtputf8 = false): string => {
  const parsed = parseRcpt(` TO:${text}`, smtputf8);
  return parsed.kind === 'ok' ? parsed.value.address : `${parsed.reply.code} ${parsed.reply.enhanced}`;
};
const mail = (text: string): string => {
  const parsed = parseMail(` FROM:${text}`);
  return parsed.kind === 'ok' ? `ok ${JSON.stringify(parsed.value)}` : `${parsed.reply.code} ${parsed.reply.enhanced}`;
};

describe('addresses that are accepted come out unaltered', () => {
  it.each([
    'bob@example.org',
    'Bob@EXAMPLE.Org',
    "!#$%&'*+-/=?^_`{|}~@example.org",
    'a.b.c@example.org',
    '""@example.org',
    '"a b"@example.org',
    '"a\\"b"@example.org',
    '"a\\\\b"@example.org',
    '"a@b"@example.org',
    '"<>"@example.org',
    '".dots.."@example.org',
    'bob@localhost',
    'bob@1.2.3',
    'bob@a-b.example',
    'bob@xn--bcher-kva.example',
    'bob@[127.0.0.1]',
    'bob@[255.255.255.255]',
    'bob@[IPv6:::1]',
    'bob@[ipv6:2001:DB8::ffff:192.0.2.1]',
    'postmaster',
    'PostMaster',
    `${x(64)}@example.org`,
    `bob@${domain(250)}`,
    `a@${x(63)}.example`,
  ])('%s', (address) => expect(rcpt(`<${address}>`)).toBe(address));

  it.each(['jörg@example.org', 'bob@bücher.example', '"ö x"@example.org', '用户@例子.广告'])(
    '%s with SMTPUTF8',
    (address) => {
      expect(rcpt(`<${address}>`, true)).toBe(address);
      expect(rcpt(`<${address}>`, false)).toBe('553 5.6.7');
    },
  );

  it('a source route is dropped and nothing else', () => {
    expect(rcpt('<@a.example:bob@example.org>')).toBe('bob@example.org');
    expect(rcpt('<@a.example,@[127.0.0.1]:Bob@Example.org>')).toBe('Bob@Example.org');
  });
});

describe('addresses that are refused', () => {
  it.each([
    '',
    'bob@example.org',
    '<bob@example.org',
    'bob@example.org>',
    '<bob@example.org>x',
    '<>',
    '<bob>',
    '<@example.org>',
    '<bob@>',
    '<bob@@example.org>',
    '<bob@example.org@example.net>',
    '<.bob@example.org>',
    '<bob.@example.org>',
    '<a..b@example.org>',
    '<a b@example.org>',
    '<a,b@example.org>',
    '<a(comment)@example.org>',
    '<"a"b@example.org>',
    '<"a@example.org>',
    '<"a\\"@example.org>',
    '<"a"b"@example.org>',
    '<bob@-a.example>',
    '<bob@a-.example>',
    '<bob@a..example>',
    '<bob@.example>',
    '<bob@example.>',
    '<bob@exa_mple.org>',
    '<bob@exa mple.org>',
    '<bob@[127.0.0.256]>',
    '<bob@[127.0.0]>',
    '<bob@[1.2.3.4.5]>',
    '<bob@[127.0.0.1>',
    '<bob@[]>',
    '<bob@[::1]>',
    '<bob@[IPv6:127.0.0.1]>',
    '<bob@[IPv6:fe80::1%eth0]>',
    '<bob@[x400:c=us]>',
    '<@a.example bob@example.org>',
    '<@:bob@example.org>',
    '<@-bad-:bob@example.org>',
    '<@a.example:>',
    `<${x(65)}@example.org>`,
    `<bob@${domain(256)}>`,
    `<bob@${x(64)}.example>`,
    `<${x(40)}@${domain(214)}>`,
  ])('%s', (text) => {
    expect(rcpt(text)).toMatch(/^501 5\.(1\.3|5\.4)$/);
    expect(rcpt(text)).toBe('501 5.1.3');
  });

  it.each(['<\u0085@example.org>', '<\u2028@example.org>', '<bob@\u0085.example>'])('%j, SMTPUTF8 or not', (text) => {
    expect(rcpt(text, true)).toBe('501 5.1.3');
  });

  it('by the path as a whole: 256 octets with its brackets pass, 257 do not', () => {
    expect(rcpt(`<${x(40)}@${domain(213)}>`)).toContain('@');
    expect(rcpt(`<${x(40)}@${domain(214)}>`)).toBe('501 5.1.3');
  });

  it.each(['', ' bob', ' FROM:<a@b>', ' TO <a@b>', ' TO', ' TO :<a@b>', 'TO:<a@b>'])('RCPT%s is no RCPT', (text) => {
    const parsed = parseRcpt(text, false);
    expect(parsed.kind === 'refused' && `${parsed.reply.code} ${parsed.reply.enhanced}`).toBe('501 5.5.4');
  });

  it('of a sender get 5.1.7, and postmaster without a domain is none', () => {
    expect(mail('<bob>')).toBe('501 5.1.7');
    expect(mail('<postmaster>')).toBe('501 5.1.7');
    expect(mail('bob@example.org')).toBe('501 5.1.7');
  });
});

describe('MAIL', () => {
  it.each([
    ['<>', '{"reversePath":"","body":"7BIT","smtputf8":false,"declaredSizeBytes":null}'],
    [
      `<${x(100)}@example.org>`,
      `{"reversePath":"${x(100)}@example.org","body":"7BIT","smtputf8":false,"declaredSizeBytes":null}`,
    ],
    [' <a@b>', '{"reversePath":"a@b","body":"7BIT","smtputf8":false,"declaredSizeBytes":null}'],
    [
      '<a@b> size=12 Body=8BitMime SmtpUtf8 Ret=full EnvId=a+2Bb auth=<>',
      '{"reversePath":"a@b","body":"8BITMIME","smtputf8":true,"declaredSizeBytes":12,"ret":"FULL","envid":"a+2Bb"}',
    ],
    [
      '<a@b>  BODY=7BIT  AUTH=e+3Dmc2@example.com',
      '{"reversePath":"a@b","body":"7BIT","smtputf8":false,"declaredSizeBytes":null}',
    ],
  ])('FROM:%s', (text, expected) => expect(mail(text)).toBe(`ok ${expected}`));

  it.each([
    ['SIZE', '501 5.5.4'],
    ['SIZE=', '501 5.5.4'],
    ['SIZE=-1', '501 5.5.4'],
    ['SIZE=123456789012345678901', '501 5.5.4'],
    ['SIZE=1 SIZE=1', '501 5.5.4'],
    ['BODY=BINARYMIME', '501 5.5.4'],
    ['BODY', '501 5.5.4'],
    ['SMTPUTF8=1', '501 5.5.4'],
    ['RET=ALL', '501 5.5.4'],
    ['ENVID=a=b', '501 5.5.4'],
    ['ENVID=a+zz', '501 5.5.4'],
    [`ENVID=${x(101)}`, '501 5.5.4'],
    ['AUTH=a+b', '501 5.5.4'],
    ['=x', '501 5.5.4'],
    ['X_Y=1', '501 5.5.4'],
    ['NOTIFY=NEVER', '555 5.5.4'],
    ['REQUIRETLS', '555 5.5.4'],
    ['FUTURE=1', '555 5.5.4'],
    ['ENVID=ö', '501 5.5.4'],
  ])('parameter %s is refused', (parameter, expected) => expect(mail(`<a@b> ${parameter}`)).toBe(expected));
});

describe('RCPT parameters', () => {
  it.each([
    ['NOTIFY=NEVER', { notify: 'NEVER' }],
    ['notify=success,Delay', { notify: 'success,Delay' }],
    ['ORCPT=rfc822;Bob+2B1@example.org', { orcpt: 'rfc822;Bob+2B1@example.org' }],
    ['ORCPT=utf-8;\\x{F6}@example.org NOTIFY=FAILURE', { orcpt: 'utf-8;\\x{F6}@example.org', notify: 'FAILURE' }],
  ])('%s passes through', (parameter, expected) => {
    expect(parseRcpt(` TO:<a@b> ${parameter}`, false)).toEqual({ kind: 'ok', value: { address: 'a@b', ...expected } });
  });

  it('a UTF-8 ORCPT passes with SMTPUTF8', () => {
    expect(parseRcpt(' TO:<a@b> ORCPT=utf-8;ö@example.org', true)).toMatchObject({
      value: { orcpt: 'utf-8;ö@example.org' },
    });
  });

  it.each([
    ['NOTIFY', '501 5.5.4'],
    ['NOTIFY=', '501 5.5.4'],
    ['NOTIFY=NEVER,DELAY', '501 5.5.4'],
    ['NOTIFY=SOMETIMES', '501 5.5.4'],
    ['NOTIFY=SUCCESS,', '501 5.5.4'],
    ['ORCPT=bob', '501 5.5.4'],
    ['ORCPT=;bob', '501 5.5.4'],
    ['ORCPT=rfc822;', '501 5.5.4'],
    ['ORCPT=rfc822;a=b', '501 5.5.4'],
    [`ORCPT=rfc822;${x(500)}`, '501 5.5.4'],
    ['SIZE=1', '555 5.5.4'],
  ])('%s is refused', (parameter, expected) => expect(rcpt(`<a@b> ${parameter}`)).toBe(expected));
});
