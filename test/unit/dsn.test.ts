/** RFC 3464 reports: who is told, what the fields say, what hostile texts cannot do. */
import { describe, expect, test } from 'vitest';
import type { CopyId, Envelope } from '../../common/message.ts';
import {
  composeDsn,
  type Dsn,
  type DsnInput,
  decodeXtext,
  isReportWanted,
  type ReportedRecipient,
  type ReportKind,
} from '../../transport/core/dsn.ts';

const NOW = Date.UTC(2026, 0, 2, 3, 4, 5);
const HEADER = Buffer.from('Subject: hello\r\nFrom: alice@example.org\r\n\r\n');

const ORIGINAL: Envelope = {
  reversePath: 'alice@example.org',
  recipients: [],
  body: '7BIT',
  smtputf8: false,
  declaredSizeBytes: null,
  client: { address: '192.0.2.7', port: 1, helo: 'client.test', protocol: 'ESMTP', tls: null, user: null },
  frontend: 'fe-1',
  listener: 'smtp',
  receivedAtMs: NOW - 1000,
};

function reported(report: ReportKind, more: Partial<ReportedRecipient> & { notify?: string; orcpt?: string } = {}) {
  const { notify, orcpt, ...rest } = more;
  return {
    recipient: {
      address: 'bob@example.com',
      ...(notify === undefined ? {} : { notify }),
      ...(orcpt === undefined ? {} : { orcpt }),
    },
    report,
    reply: { code: 550, enhanced: '5.1.1', text: 'no such user' },
    remoteHost: 'store.test',
    lastAttemptMs: NOW - 500,
    willRetryUntilMs: null,
    ...rest,
  };
}

function dsnInput(
  recipients: readonly ReportedRecipient[],
  original: Partial<Envelope> = {},
  more: Partial<DsnInput> = {},
): DsnInput {
  return {
    id: 'DSN1' as CopyId,
    originalId: 'MSG1' as CopyId,
    original: { ...ORIGINAL, ...original },
    recipients,
    originalHeader: HEADER,
    originalContent: null,
    hostname: 'mx.example.net',
    member: 'transport-0',
    nowMs: NOW,
    ...more,
  };
}

function compose(input: DsnInput): Dsn {
  const dsn = composeDsn(input);
  if (dsn === null) throw new Error('no DSN');
  return dsn;
}

/** Header fields and parts as a MIME reader sees them. */
function read(body: Buffer): { head: string; parts: { type: string; text: string }[] } {
  const text = body.toString('utf8');
  const end = text.indexOf('\r\n\r\n');
  const head = text.slice(0, end);
  const boundary = /boundary="([^"]+)"/.exec(head)?.[1] ?? '?';
  const pieces = text.slice(end + 2).split(`\r\n--${boundary}`);
  expect(pieces.at(-1)).toBe('--\r\n');
  const parts = pieces.slice(1, -1).map((piece) => {
    const split = piece.indexOf('\r\n\r\n');
    return { type: /Content-Type: ([^;\r]+)/.exec(piece.slice(0, split))?.[1] ?? '?', text: piece.slice(split + 4) };
  });
  return { head, parts };
}

describe('who is told (RFC 3461 4.1)', () => {
  test.each<[string | undefined, ReportKind[]]>([
    [undefined, ['failed', 'expired', 'delayed']],
    ['NEVER', []],
    ['FAILURE', ['failed', 'expired']],
    ['SUCCESS,DELAY', ['delayed', 'delivered', 'relayed']],
    ['success,failure', ['failed', 'expired', 'delivered', 'relayed']],
  ])('NOTIFY=%s', (notify, wanted) => {
    const all: ReportKind[] = ['failed', 'expired', 'delayed', 'delivered', 'relayed'];
    expect(all.filter((kind) => isReportWanted(notify, kind))).toEqual(wanted);
  });

  test('never the null reverse-path, nobody when NOTIFY forbids it for all, else those who may be reported', () => {
    expect(composeDsn(dsnInput([reported('failed')], { reversePath: '' }))).toBeNull();
    expect(composeDsn(dsnInput([reported('failed', { notify: 'NEVER' })]))).toBeNull();
    expect(compose(dsnInput([reported('failed', { notify: 'NEVER' }), reported('failed')])).reported).toHaveLength(1);
  });
});

describe('the report', () => {
  test('envelope: null reverse-path, NOTIFY=NEVER, to the sender (RFC 3461 6.1)', () => {
    const { envelope, body } = compose(dsnInput([reported('failed')]));
    expect(envelope).toMatchObject({
      reversePath: '',
      recipients: [{ address: 'alice@example.org', notify: 'NEVER' }],
      body: '7BIT',
      declaredSizeBytes: body.length,
    });
    expect(envelope).not.toHaveProperty('ret');
  });

  test('is a multipart/report of three parts with the fields of RFC 3464', () => {
    const input = dsnInput([reported('failed', { orcpt: 'rfc822;Bob+2Bx@example.com' })], { envid: 'QQ+3D1' });
    const { head, parts } = read(compose(input).body);
    expect(head).toContain('Content-Type: multipart/report; report-type=delivery-status;');
    expect(head).toContain('Auto-Submitted: auto-replied');
    expect(head).toContain('Message-ID: <DSN1@mx.example.net>');
    expect(parts.map(({ type }) => type)).toEqual(['text/plain', 'message/delivery-status', 'text/rfc822-headers']);
    expect(parts[0]?.text).toContain('<bob@example.com>\r\n    store.test said: 550 5.1.1 no such user');
    expect(parts[1]?.text).toBe(
      [
        'Original-Envelope-Id: QQ=1',
        'Reporting-MTA: dns; mx.example.net',
        'Received-From-MTA: dns; client.test',
        'Arrival-Date: Fri, 02 Jan 2026 03:04:04 +0000',
        'X-MailCluster-Id: MSG1',
        '',
        'Original-Recipient: rfc822; Bob+x@example.com',
        'Final-Recipient: rfc822; bob@example.com',
        'Action: failed',
        'Status: 5.1.1',
        'Remote-MTA: dns; store.test',
        'Diagnostic-Code: smtp; 550 5.1.1 no such user',
        'Last-Attempt-Date: Fri, 02 Jan 2026 03:04:04 +0000',
        '',
      ].join('\r\n'),
    );
    expect(parts[2]?.text).toBe('Subject: hello\r\nFrom: alice@example.org\r\n');
  });

  test('actions and status classes agree', () => {
    const status = (kind: ReportKind, enhanced: string): string => {
      const one = reported(kind, {
        notify: 'SUCCESS,FAILURE,DELAY',
        reply: { code: 450, enhanced, text: 'x' },
        willRetryUntilMs: kind === 'delayed' ? NOW : null,
      });
      return read(compose(dsnInput([one])).body).parts[1]?.text ?? '';
    };
    expect(status('expired', '4.2.2')).toMatch(/Action: failed\r\nStatus: 5\.4\.7/);
    expect(status('delayed', '4.2.2')).toMatch(/Action: delayed\r\nStatus: 4\.2\.2[\s\S]*Will-Retry-Until: Fri/);
    expect(status('delayed', '')).toContain('Status: 4.0.0');
    expect(status('delivered', '2.1.5')).toMatch(/Action: delivered\r\nStatus: 2\.1\.5/);
    expect(status('relayed', '4.0.0')).toMatch(/Action: relayed\r\nStatus: 2\.0\.0/);
    expect(status('failed', '4.7.1')).toContain('Status: 5.0.0');
  });

  test('RET: the whole message only for failures and only when asked', () => {
    const content = Buffer.concat([HEADER, Buffer.from('body\r\n')]);
    const last = (kind: ReportKind, ret: 'FULL' | 'HDRS' | undefined): string | undefined => {
      const one = reported(kind, { notify: 'SUCCESS,FAILURE,DELAY' });
      const input = dsnInput([one], ret === undefined ? {} : { ret }, { originalContent: content });
      return read(compose(input).body).parts[2]?.type;
    };
    expect(last('failed', 'FULL')).toBe('message/rfc822');
    expect(last('failed', 'HDRS')).toBe('text/rfc822-headers');
    expect(last('failed', undefined)).toBe('text/rfc822-headers');
    expect(last('delayed', 'FULL')).toBe('text/rfc822-headers');
    expect(last('delivered', 'FULL')).toBe('text/rfc822-headers');
  });

  test('the same input gives the same bytes; a boundary of ours in the message is avoided', () => {
    const input = dsnInput([reported('failed')]);
    const first = compose(input).body;
    expect(compose(input).body.equals(first)).toBe(true);
    const nested = compose(dsnInput([reported('failed')], { ret: 'FULL' }, { originalContent: first })).body;
    expect(read(nested).parts.map(({ type }) => type)).toEqual([
      'text/plain',
      'message/delivery-status',
      'message/rfc822',
    ]);
    expect(read(nested).parts[2]?.text).toBe(first.toString());
  });

  test('8-bit headers and SMTPUTF8 are declared (RFC 6533)', () => {
    const plain = compose(
      dsnInput([reported('failed')], {}, { originalHeader: Buffer.from('Subject: \xe9\r\n', 'latin1') }),
    );
    expect(plain.envelope.body).toBe('8BITMIME');
    expect(read(plain.body).head).toContain('Content-Transfer-Encoding: 8bit');
    const recipient = { address: 'jö@example.com' };
    const utf8 = compose(
      dsnInput([{ ...reported('failed'), recipient }], { smtputf8: true, reversePath: 'é@example.org' }),
    );
    expect(utf8.envelope).toMatchObject({ smtputf8: true, body: '8BITMIME' });
    expect(read(utf8.body).parts[1]).toMatchObject({
      type: 'message/global-delivery-status',
      text: expect.stringContaining('Final-Recipient: utf-8; jö@example.com'),
    });
  });

  test('hostile texts end no field and make no long line', () => {
    const evil = `x\r\nBcc: y@z\r\n\r\n--=_MailCluster_DSN1--\u0000${'é'.repeat(3000)}`;
    const one = reported('failed', {
      reply: { code: 550, enhanced: '5.1.1', text: evil },
      remoteHost: evil,
      orcpt: `rfc822;a+0D+0ABcc: q`,
    });
    const { body } = compose(dsnInput([one], { envid: 'a+0D+0Ab' }));
    const { head, parts } = read(body);
    expect(head).not.toContain('Bcc');
    expect(parts).toHaveLength(3);
    expect(parts[1]?.text).not.toMatch(/^Bcc/m);
    for (const line of body.toString('latin1').split('\r\n')) expect(line.length).toBeLessThanOrEqual(998);
  });

  test('a very long header is cut at a line', () => {
    const line = `X-Long: ${'a'.repeat(990)}\r\n`;
    const { body } = compose(dsnInput([reported('failed')], {}, { originalHeader: Buffer.from(line.repeat(1000)) }));
    const text = read(body).parts[2]?.text ?? '';
    expect(text.length).toBeLessThanOrEqual(65_536);
    expect(text.length % line.length).toBe(0);
  });

  test('xtext', () => {
    expect(decodeXtext('a+2Bb+3D+4')).toBe('a+b=+4');
  });
});
