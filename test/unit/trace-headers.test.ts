/** `Received:` and the removal of foreign delivery ids from a streamed header. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ClientInfo, CopyId, Envelope } from '../../common/message.ts';
import {
  addressLiteral,
  DELIVERY_HEADER,
  HeaderFieldRemover,
  messageDate,
  receivedHeader,
  traceHeaders,
} from '../../transport/core/trace-headers.ts';
import { flood } from './header-flood.ts';

const CLIENT: ClientInfo = {
  address: '192.0.2.7',
  port: 4711,
  helo: 'client.example.org',
  protocol: 'ESMTPS',
  tls: { version: 'TLSv1.3', cipher: 'TLS_AES_256_GCM_SHA384' },
  user: null,
};

function traceInput(more: Partial<Envelope> = {}, client: Partial<ClientInfo> = {}) {
  const envelope: Envelope = {
    reversePath: 'alice@example.org',
    recipients: [{ address: 'bob@example.com' }],
    body: '7BIT',
    smtputf8: false,
    declaredSizeBytes: null,
    client: { ...CLIENT, ...client },
    frontend: 'fe-1',
    listener: 'smtp',
    receivedAtMs: Date.UTC(1997, 10, 21, 9, 55, 6),
    ...more,
  };
  return {
    copyId: 'COPY1' as CopyId,
    deliveryId: 'ELDEST',
    contentKey: null,
    envelope,
    results: [],
    hostname: 'mx.example.com',
    member: 'transport-0',
  };
}

describe('Received', () => {
  test('has the clauses of RFC 5321 4.4', () => {
    expect(receivedHeader(traceInput())).toBe(
      'Received: from client.example.org ([192.0.2.7])\r\n' +
        '\tby mx.example.com (MailCluster; fe-1 to transport-0)\r\n' +
        '\twith ESMTPS\r\n' +
        '\t(version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384)\r\n' +
        '\tid COPY1\r\n' +
        '\tfor <bob@example.com>;\r\n' +
        '\tFri, 21 Nov 1997 09:55:06 +0000\r\n',
    );
  });

  test('names no recipient when there are several (blind copies)', () => {
    const text = receivedHeader(traceInput({ recipients: [{ address: 'a@x' }, { address: 'b@x' }] }));
    expect(text).not.toContain('for <');
  });

  test('leaves out who sent it when it was made here', () => {
    const text = receivedHeader(traceInput({}, { address: '', tls: null }));
    expect(text).toMatch(/^Received: by mx\.example\.com \(.*\)\r\n\tid COPY1/);
  });

  test('what a client says cannot end the field, a comment or the clause', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (helo, address) => {
        const recipients = [{ address }];
        const lines = receivedHeader(traceInput({ recipients }, { helo, tls: { version: helo, cipher: helo } })).split(
          '\r\n',
        );
        expect(lines.pop()).toBe('');
        expect(lines[0]).toMatch(/^Received: from [\x21-\x7e]+ \(\[192\.0\.2\.7\]\)$/);
        for (const line of lines) expect(line).toMatch(/^[\x20-\x7e\t]{1,998}$/);
        for (const line of lines.slice(1)) expect(line.startsWith('\t')).toBe(true);
        expect(lines.join('').match(/;/g)).toHaveLength(2);
      }),
    );
  });

  test('address literals (RFC 5321 4.1.3)', () => {
    expect(addressLiteral('192.0.2.1')).toBe('[192.0.2.1]');
    expect(addressLiteral('::ffff:192.0.2.1')).toBe('[192.0.2.1]');
    expect(addressLiteral('2001:db8::1')).toBe('[IPv6:2001:db8::1]');
  });

  test('dates and the delivery field', () => {
    expect(messageDate(0)).toBe('Thu, 01 Jan 1970 00:00:00 +0000');
    expect(traceHeaders(traceInput()).toString()).toMatch(/^Received: [\s\S]*\r\nX-MailCluster-Delivery: ELDEST\r\n$/);
  });
});

function filter(text: string, step: number): string {
  const remover = new HeaderFieldRemover(DELIVERY_HEADER);
  const out: Buffer[] = [];
  const bytes = Buffer.from(text, 'latin1');
  for (let at = 0; at < bytes.length; at += step) out.push(...remover.push(bytes.subarray(at, at + step)));
  return Buffer.concat([...out, ...remover.end()]).toString('latin1');
}

describe('HeaderFieldRemover', () => {
  const cases: [string, string, string][] = [
    ['first field', 'X-MailCluster-Delivery: a\r\nA: b\r\n\r\nx', 'A: b\r\n\r\nx'],
    [
      'any case, several, folded',
      'A: b\r\nx-mailCLUSTER-delivery: a\r\n b\r\n\tc\r\nX-MAILCLUSTER-DELIVERY:\r\nB: c\r\n d\r\n\r\n',
      'A: b\r\nB: c\r\n d\r\n\r\n',
    ],
    ['white space before the colon', 'X-MailCluster-Delivery \t: a\r\n\r\n', '\r\n'],
    ['only in the header', 'A: b\r\n\r\nX-MailCluster-Delivery: a\r\n', 'A: b\r\n\r\nX-MailCluster-Delivery: a\r\n'],
    [
      'other names',
      'X-MailCluster-Deliver: a\r\nX-MailCluster-Delivery2: b\r\nX: c\r\n\r\n',
      'X-MailCluster-Deliver: a\r\nX-MailCluster-Delivery2: b\r\nX: c\r\n\r\n',
    ],
    ['no body', 'A: b\r\nX-MailCluster-Delivery: a\r\n', 'A: b\r\n'],
    ['cut off in the name', 'A: b\r\nX-MailClus', 'A: b\r\nX-MailClus'],
    ['cut off in the field', 'A: b\r\nX-MailCluster-Delivery: a', 'A: b\r\n'],
    ['no header at all', '\r\nX-MailCluster-Delivery: a\r\n', '\r\nX-MailCluster-Delivery: a\r\n'],
    ['starts with a folded line', ' x\r\nX-MailCluster-Delivery: a\r\n y\r\nB: c\r\n', ' x\r\nB: c\r\n'],
    ['empty', '', ''],
  ];
  test.each(cases)('%s', (_, text, expected) => {
    for (const step of [1, 2, 3, 7, 1000]) expect(filter(text, step)).toBe(expected);
  });

  test.each([' \r\n', 'X\r\n', 'X-MailCluster-Delivered: a\r\n', 'X-MailCluster-Delivery: a\r\n'])(
    '35 MiB of %j without an empty line keep nobody else waiting',
    (line) => {
      const remover = new HeaderFieldRemover(DELIVERY_HEADER);
      const cost = flood(remover, 'not a field\r\n', line);
      expect(cost.outBytes).toBe(remover.removed > 0 ? 13 : cost.inBytes);
      expect(cost.longestPushMs).toBeLessThan(50);
      expect(cost.totalMs).toBeLessThan(2_000);
    },
    120_000,
  );

  test('agrees with a plain model on random headers, however they are cut', () => {
    const line = fc.constantFrom(
      'A: b',
      'X-MailCluster-Delivery: q',
      'x-mailcluster-delivery:',
      'X-MailCluster-Deliver',
      ' folded',
      '\tx',
      '',
      'X-MailCluster-DeliveryX: 1',
    );
    fc.assert(
      fc.property(fc.array(line, { maxLength: 12 }), fc.integer({ min: 1, max: 40 }), (lines, step) => {
        const kept: string[] = [];
        let inBody = false;
        let dropping = false;
        for (const one of lines) {
          if (one === '') inBody = true;
          const folds = /^[ \t]/.test(one);
          if (!folds) dropping = /^x-mailcluster-delivery:/i.test(one);
          if (inBody || !dropping) kept.push(one);
        }
        const join = (all: string[]): string => all.map((one) => `${one}\r\n`).join('');
        expect(filter(join(lines), step)).toBe(join(kept));
      }),
    );
  });
});
