/**
 * Delivery status notifications: RFC 3464 reports in an RFC 6522 multipart, under the rules of RFC 3461. Pure: the same input gives the
 * same bytes, so that two pods that report the same thing make the same message.
 * Promise: an answer never goes to `<>`; NOTIFY decides who is reported; nothing that others said (addresses, replies, header of the
 * message) can end a field or a part. Refuses by returning null: nothing is to be reported.
 */
import type { CopyId, Envelope, EnvelopeRecipient, Reply } from '../../common/message.ts';
import { messageDate } from './trace-headers.ts';

/**
 * What is reported of a recipient. `expired` is a failure after the last retry; `relayed`: handed to a next hop that will not report
 * (RFC 3461 5.2.1 d); `delivered`: in the mailbox, or given to a mailing list; `expanded`: an alias of several (5.2.7.3).
 */
export type ReportKind = 'failed' | 'expired' | 'delayed' | 'delivered' | 'relayed' | 'expanded';

export interface ReportedRecipient {
  readonly recipient: EnvelopeRecipient;
  readonly report: ReportKind;
  /** Last reply of the next hop, or ours; null when there was none. */
  readonly reply: Reply | null;
  /** Host that gave the reply; null when it was this one. */
  readonly remoteHost: string | null;
  readonly lastAttemptMs: number | null;
  /** For `delayed`: when we give up. */
  readonly willRetryUntilMs: number | null;
}

export interface DsnInput {
  /** Id of the DSN's own copy; names it, and the MIME boundary. */
  readonly id: CopyId;
  readonly originalId: CopyId;
  readonly original: Envelope;
  readonly recipients: readonly ReportedRecipient[];
  /** Header block of the message as received, with or without the empty line. */
  readonly originalHeader: Buffer;
  /** The whole message, for RET=FULL; header only when null. */
  readonly originalContent: Buffer | null;
  /** Host name and member that report. */
  readonly hostname: string;
  readonly member: string;
  readonly nowMs: number;
}

export interface Dsn {
  readonly envelope: Envelope;
  readonly body: Buffer;
  /** Those of the input that NOTIFY let through. */
  readonly reported: readonly ReportedRecipient[];
}

/** RFC 3461 4.1. Without NOTIFY the sender hears of failures and of delays. */
export function isReportWanted(notify: string | undefined, report: ReportKind): boolean {
  if (notify === undefined) return report === 'failed' || report === 'expired' || report === 'delayed';
  const words = notify.toUpperCase().split(',');
  if (words.includes('NEVER')) return false;
  if (report === 'delayed') return words.includes('DELAY');
  return words.includes(report === 'failed' || report === 'expired' ? 'FAILURE' : 'SUCCESS');
}

/** The notification, or null when the sender is `<>` or nobody's report is wanted. */
export function composeDsn(input: DsnInput): Dsn | null {
  // RFC 5321 4.5.5, RFC 3461 5.2: a notification is never answered.
  if (input.original.reversePath === '') return null;
  const reported = input.recipients.filter(({ recipient, report }) => isReportWanted(recipient.notify, report));
  if (reported.length === 0) return null;
  const utf8 = input.original.smtputf8;
  const returned = returnedPart(input, reported);
  const text = cleanText(explanation(input, reported));
  const status = cleanText(statusFields(input, reported));
  const is8Bit = [returned.content, Buffer.from(text + status)].some(has8Bit);
  const boundary = boundaryFor(input.id, [text, status, returned.content.toString('latin1')]);
  const encoding = is8Bit ? 'Content-Transfer-Encoding: 8bit\r\n' : '';
  const part = (type: string): string => `\r\n--${boundary}\r\nContent-Type: ${type}\r\n${encoding}\r\n`;
  const head = messageHeader(input, reported, boundary, encoding);
  const body = Buffer.concat([
    Buffer.from(`${head}\r\nThis is a MIME report (RFC 6522).\r\n`),
    Buffer.from(part(is8Bit ? 'text/plain; charset=utf-8' : 'text/plain; charset=us-ascii') + text),
    // RFC 6533 3 names the types for reports about SMTPUTF8 messages.
    Buffer.from(part(utf8 ? 'message/global-delivery-status' : 'message/delivery-status') + status),
    Buffer.from(part(returned.type)),
    returned.content,
    Buffer.from(`\r\n--${boundary}--\r\n`),
  ]);
  return { envelope: dsnEnvelope(input, is8Bit, body.length), body, reported };
}

function dsnEnvelope(input: DsnInput, is8Bit: boolean, sizeBytes: number): Envelope {
  return {
    reversePath: '', // RFC 3461 6.1
    recipients: (input.original.reportsTo ?? [input.original.reversePath]).map((address) => ({
      address,
      notify: 'NEVER',
    })),
    body: is8Bit ? '8BITMIME' : '7BIT',
    smtputf8: input.original.smtputf8,
    declaredSizeBytes: sizeBytes,
    client: { address: '', port: 0, helo: input.hostname, protocol: 'SMTP', tls: null, user: null },
    frontend: input.member,
    listener: 'dsn',
    receivedAtMs: input.nowMs,
  };
}

const isFailure = (report: ReportKind): boolean => report === 'failed' || report === 'expired';

function subjectOf(reported: readonly ReportedRecipient[]): string {
  if (reported.some(({ report }) => isFailure(report))) return 'Undelivered Mail Returned to Sender';
  if (reported.some(({ report }) => report === 'delayed')) return 'Delayed Mail (still being retried)';
  return 'Successful Mail Delivery Report';
}

function messageHeader(
  input: DsnInput,
  reported: readonly ReportedRecipient[],
  boundary: string,
  encoding: string,
): string {
  const reportType = input.original.smtputf8 ? 'global-delivery-status' : 'delivery-status';
  return [
    `Date: ${messageDate(input.nowMs)}`,
    `From: Mail Delivery System <MAILER-DAEMON@${field(input.hostname)}>`,
    `To: <${field(input.original.reversePath)}>`,
    `Subject: ${subjectOf(reported)}`,
    `Message-ID: <${input.id}@${field(input.hostname)}>`,
    'Auto-Submitted: auto-replied', // RFC 3834 5.2
    'MIME-Version: 1.0',
    `Content-Type: multipart/report; report-type=${reportType};\r\n\tboundary="${boundary}"`,
    encoding,
  ]
    .filter((line) => line !== '')
    .map((line) => (line.endsWith('\r\n') ? line : `${line}\r\n`))
    .join('');
}

const SAYINGS: Readonly<Record<ReportKind, string>> = {
  failed: 'could not be delivered to',
  expired: 'could not be delivered in time, and no more attempts are made, to',
  delayed: 'has not been delivered yet. You need not send it again; attempts go on for',
  delivered: 'was delivered to',
  relayed: 'was passed on to a system that sends no delivery reports, for',
  expanded: 'was passed on to everybody behind',
};

/** The part for people. */
function explanation(input: DsnInput, reported: readonly ReportedRecipient[]): string {
  const lines = [`This is the mail system at ${field(input.hostname)}.`, ''];
  for (const kind of ['failed', 'expired', 'delayed', 'delivered', 'relayed', 'expanded'] as const) {
    const those = reported.filter(({ report }) => report === kind);
    if (those.length === 0) continue;
    lines.push(`Your message of ${messageDate(input.original.receivedAtMs)} ${SAYINGS[kind]}:`, '');
    for (const { recipient, reply, remoteHost, willRetryUntilMs } of those) {
      lines.push(`  <${field(recipient.address)}>`);
      if (reply !== null)
        lines.push(`    ${remoteHost === null ? '' : `${hostField(remoteHost)} said: `}${diagnostic(reply)}`);
      if (willRetryUntilMs !== null) lines.push(`    Attempts go on until ${messageDate(willRetryUntilMs)}`);
    }
    lines.push('');
  }
  lines.push(`For your postmaster: this message is known here as ${input.originalId}.`, '');
  return lines.join('\r\n');
}

/** RFC 3464 2. */
function statusFields(input: DsnInput, reported: readonly ReportedRecipient[]): string {
  const { original } = input;
  const perMessage = [
    ...(original.envid === undefined ? [] : [`Original-Envelope-Id: ${field(decodeXtext(original.envid))}`]), // 2.2.1
    `Reporting-MTA: dns; ${field(input.hostname)}`, // 2.2.2
    ...(original.client.address === '' ? [] : [`Received-From-MTA: dns; ${hostField(original.client.helo)}`]), // 2.2.4
    `Arrival-Date: ${messageDate(original.receivedAtMs)}`, // 2.2.5
    `X-MailCluster-Id: ${input.originalId}`, // 2.4: extension fields start with X-
  ];
  const groups = reported.map((one) => recipientFields(one, original.smtputf8));
  return `${[perMessage, ...groups].map((group) => group.join('\r\n')).join('\r\n\r\n')}\r\n`;
}

function recipientFields(one: ReportedRecipient, utf8: boolean): string[] {
  const { recipient, report, reply } = one;
  const type = utf8 && has8Bit(Buffer.from(recipient.address)) ? 'utf-8' : 'rfc822';
  const lines: string[] = [];
  if (recipient.orcpt !== undefined) {
    const [addressType = 'rfc822', ...rest] = recipient.orcpt.split(';');
    lines.push(`Original-Recipient: ${field(addressType)}; ${field(decodeXtext(rest.join(';')))}`); // 2.3.1
  }
  lines.push(`Final-Recipient: ${type}; ${field(recipient.address)}`); // 2.3.2
  lines.push(`Action: ${report === 'expired' ? 'failed' : report}`); // 2.3.3
  lines.push(`Status: ${statusOf(report, reply)}`); // 2.3.4
  if (one.remoteHost !== null) lines.push(`Remote-MTA: dns; ${hostField(one.remoteHost)}`); // 2.3.5
  if (reply !== null) lines.push(`Diagnostic-Code: smtp; ${diagnostic(reply)}`); // 2.3.6
  if (one.lastAttemptMs !== null) lines.push(`Last-Attempt-Date: ${messageDate(one.lastAttemptMs)}`); // 2.3.7
  if (one.willRetryUntilMs !== null) lines.push(`Will-Retry-Until: ${messageDate(one.willRetryUntilMs)}`); // 2.3.9
  return lines;
}

/** RFC 3464 2.3.4 wants the class to agree with the action; 4.4.7 / 5.4.7 is "delivery time expired" (RFC 3463 3.5). */
function statusOf(report: ReportKind, reply: Reply | null): string {
  if (report === 'expired') return '5.4.7';
  const wanted = report === 'failed' ? '5' : report === 'delayed' ? '4' : '2';
  if (reply?.enhanced.startsWith(wanted)) return field(reply.enhanced);
  return `${wanted}.0.0`;
}

const diagnostic = (reply: Reply): string => field(`${reply.code} ${reply.enhanced} ${reply.text}`);

interface ReturnedPart {
  readonly type: string;
  readonly content: Buffer;
}

/** RFC 3461 4.3: RET=FULL concerns failures only; everything else, and the default here, returns the header. */
function returnedPart(input: DsnInput, reported: readonly ReportedRecipient[]): ReturnedPart {
  const { original, originalContent } = input;
  const full = original.ret === 'FULL' && reported.some(({ report }) => isFailure(report)) ? originalContent : null;
  if (full !== null) return { type: original.smtputf8 ? 'message/global' : 'message/rfc822', content: full };
  return {
    type: original.smtputf8 ? 'message/global-headers' : 'text/rfc822-headers',
    content: trimHeader(input.originalHeader),
  };
}

const MAX_RETURNED_HEADER_BYTES = 64 * 1024;

/** Ends at the empty line or, when it is very long, at the end of a line. */
function trimHeader(header: Buffer): Buffer {
  const end = header.indexOf('\r\n\r\n');
  const block = end < 0 ? header : header.subarray(0, end + 2);
  if (block.length <= MAX_RETURNED_HEADER_BYTES) return block;
  return block.subarray(0, block.lastIndexOf('\r\n', MAX_RETURNED_HEADER_BYTES - 2) + 2);
}

/** RFC 2046 5.1.1: must not occur in what it separates, which may be a message of ours that came back. */
function boundaryFor(id: CopyId, texts: readonly string[]): string {
  let boundary = `=_MailCluster_${id}`;
  for (let n = 1; texts.some((text) => text.includes(`--${boundary}`)); n++) boundary = `=_MailCluster_${n}_${id}`;
  return boundary;
}

/** RFC 3461 4: `+` and two upper-case hex digits stand for a character. */
export function decodeXtext(xtext: string): string {
  return xtext.replace(/\+([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

const MAX_FIELD_LENGTH = 690;

/** A host name as somebody gave it. */
const hostField = (host: string): string => host.replace(/[^\x21-\x7e]/g, '?').slice(0, 255);

/** Text of others inside one line: no controls, never longer than a line may be (RFC 5322 2.1.1). */
function field(text: string): string {
  const clean = text.replace(/[\p{Cc}\u2028\u2029]/gu, '?');
  // A character takes up to three bytes for each unit of its length.
  return clean.slice(0, /[^\p{ASCII}]/u.test(clean) ? MAX_FIELD_LENGTH / 3 : MAX_FIELD_LENGTH);
}

/** Only 7-bit text needs no declaration; a lone surrogate would not survive UTF-8. */
const cleanText = (text: string): string => text.toWellFormed();

function has8Bit(bytes: Buffer): boolean {
  for (let i = 0; i < bytes.length; i++) if ((bytes[i] ?? 0) > 0x7f) return true;
  return false;
}
