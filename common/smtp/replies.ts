/**
 * Every reply the SMTP edge ever says, as one table. Owns: reply codes, enhanced status codes (RFC 3463, RFC 5248), texts and how a
 * reply is written on the wire. Promise: a formatted reply is printable ASCII, each line at most 512 octets (RFC 5321 4.5.3.1.5),
 * so that no text built from what a client sent can split it. `{name}` in a text is a parameter that `reply` must be given.
 */
import type { Reply } from '../message.ts';

interface Row {
  readonly code: number;
  /** Empty for the greeting, HELO/EHLO and 3yz replies (RFC 2034 section 4). */
  readonly enhanced: string;
  readonly text: string;
}

const rows = <const T extends Record<string, Row>>(table: T): T => table;

const row = <const T extends string>(code: number, enhanced: string, text: T) => ({ code, enhanced, text });

export const REPLIES = rows({
  // Positive
  help: row(
    214,
    '2.0.0',
    'RFC 5321 applies; commands: EHLO HELO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP STARTTLS AUTH',
  ),
  greeting: row(220, '', '{hostname} ESMTP MailCluster'),
  tlsReady: row(220, '2.0.0', 'Ready to start TLS'),
  bye: row(221, '2.0.0', 'Closing connection'),
  authenticated: row(235, '2.7.0', 'Authentication successful'),
  hello: row(250, '', '{hostname} greets {client}'),
  ok: row(250, '2.0.0', 'OK'),
  senderOk: row(250, '2.1.0', 'Sender OK'),
  recipientOk: row(250, '2.1.5', 'Recipient OK'),
  accepted: row(250, '2.0.0', 'Ok: queued as {id}'),
  cannotVerify: row(252, '2.0.0', 'Cannot verify the user, but will try to deliver'),
  challenge: row(334, '', '{prompt}'),
  sendData: row(354, '', 'End data with <CR><LF>.<CR><LF>'),

  // Transient: the session ends
  idleTimeout: row(421, '4.4.2', 'Idle for too long, closing connection'),
  dataTimeout: row(421, '4.4.2', 'Message took too long to arrive, closing connection'),
  dataTooSlow: row(421, '4.4.2', 'Message arrives too slowly, closing connection'),
  tooManyErrors: row(421, '4.7.0', 'Too many errors, closing connection'),
  tooManyJunkCommands: row(421, '4.7.0', 'Too many commands without a message, closing connection'),
  tooManyConnections: row(421, '4.3.2', 'Too many connections, try again later'),
  tooManyClientConnections: row(421, '4.7.0', 'Too many connections from your network, try again later'),
  badProxyHeader: row(421, '4.3.5', 'A PROXY protocol header is expected from this address'),
  connectingTooOften: row(421, '4.7.0', 'Connecting too often from your network, try again later'),
  shuttingDown: row(421, '4.3.2', 'Shutting down, try again later'),
  notHttp: row(421, '4.7.0', 'This is an SMTP server, closing connection'),

  // Transient
  localError: row(451, '4.3.0', 'Local error, try again later'),
  shadowFailure: row(451, '4.4.0', 'Message failed to be made redundant'),
  noTransport: row(451, '4.4.0', 'No transport server can take the message now'),
  transportLost: row(451, '4.4.0', 'Transport server lost before the message was complete ({id})'),
  tooManyMessages: row(450, '4.7.1', 'Too many messages, the limit is {limit} per hour'),
  backPressure: row(452, '4.3.1', 'Insufficient system resources: {resource}'),
  addressListUnread: row(451, '4.3.0', 'Address list {list} not available, try again later'),
  groupUnusable: row(451, '4.3.5', 'Group {group} cannot be expanded now, try again later'),
  tooManyRecipients: row(452, '4.5.3', 'Too many recipients, the limit is {limit} per message'),
  envelopeTooBig: row(452, '4.5.3', 'Too many recipients, their addresses are longer than {limit} bytes together'),
  tooManyExpanded: row(
    452,
    '4.5.3',
    'Too many recipients, the limit is {limit} per message with the members of groups',
  ),
  filterUnavailable: row(451, '4.7.1', 'Content filter not available, try again later'),
  filterDeferred: row(451, '4.7.1', 'Message deferred by the content filter, try again later'),
  authRefused: row(454, '4.7.0', 'Too many failed authentications, try again later'),
  authUnavailable: row(454, '4.7.0', 'Authentication not available for a temporary reason'),

  // Permanent: syntax and order
  syntaxError: row(500, '5.5.2', 'Syntax error: a command is one line of text ended by <CR><LF>'),
  lineTooLong: row(500, '5.5.2', 'Command line too long, the limit is {limit} octets'),
  authLineTooLong: row(500, '5.5.6', 'Authentication exchange line too long, the limit is {limit} octets'),
  unknownCommand: row(500, '5.5.1', 'Command not recognized'),
  noArguments: row(501, '5.5.4', '{verb} takes no argument'),
  argumentMissing: row(501, '5.5.4', '{verb} needs an argument'),
  badHello: row(501, '5.5.4', 'Syntax: {verb} hostname'),
  badMail: row(501, '5.5.4', 'Syntax: MAIL FROM:<address>'),
  badRcpt: row(501, '5.5.4', 'Syntax: RCPT TO:<address>'),
  badSender: row(501, '5.1.7', 'Bad sender address syntax: {reason}'),
  badRecipient: row(501, '5.1.3', 'Bad recipient address syntax: {reason}'),
  badParameter: row(501, '5.5.4', 'Bad value of parameter {parameter}'),
  repeatedParameter: row(501, '5.5.4', 'Parameter {parameter} given twice'),
  unknownParameter: row(555, '5.5.4', 'Parameter {parameter} not recognized'),
  notImplemented: row(502, '5.5.1', '{verb} not implemented'),
  helloFirst: row(503, '5.5.1', 'Send EHLO or HELO first'),
  ehloFirst: row(503, '5.5.1', 'Send EHLO first'),
  nestedMail: row(503, '5.5.1', 'Sender already given, send RSET to start again'),
  mailFirst: row(503, '5.5.1', 'Send MAIL first'),
  rcptFirst: row(503, '5.5.1', 'Send RCPT first'),
  noValidRecipients: row(554, '5.5.1', 'No valid recipients'),
  tlsActive: row(503, '5.5.1', 'TLS already active'),
  earlyTalker: row(554, '5.5.1', 'You spoke before the greeting'),
  unauthorisedPipelining: row(554, '5.5.1', '{verb} must be the last command of a group: wait for its reply'),

  // Permanent: security
  startTlsFirst: row(530, '5.7.0', 'Send STARTTLS first'),
  authRequired: row(530, '5.7.0', 'Authentication required'), // RFC 4954 section 6
  encryptionRequired: row(538, '5.7.11', 'Encryption required for authentication'),
  alreadyAuthenticated: row(503, '5.5.1', 'Already authenticated'),
  authInTransaction: row(503, '5.5.1', 'AUTH not allowed during a mail transaction'),
  unknownMechanism: row(504, '5.5.4', 'Authentication mechanism not supported'),
  authCancelled: row(501, '5.7.0', 'Authentication cancelled'),
  authMalformed: row(501, '5.5.2', 'Authentication response malformed'),
  authFailed: row(535, '5.7.8', 'Authentication credentials invalid'),
  relayDenied: row(550, '5.7.1', 'Relaying denied'),

  // Permanent: addresses and content
  unknownRecipient: row(550, '5.1.1', 'Unknown recipient'),
  needSmtputf8: row(553, '5.6.7', 'Address has non-ASCII characters and SMTPUTF8 was not given'),
  messageTooBig: row(552, '5.3.4', 'Message too big, the limit is {limit} bytes'),
  headerTooBig: row(552, '5.3.4', 'Message header too big, the limit is {limit} bytes'),
  filterRejected: row(550, '5.7.1', 'Message refused by the content filter'),
  filterFieldTooBig: row(552, '5.3.4', 'A header field is too big for the content filter, the limit is {limit} bytes'),
  dataLineTooLong: row(554, '5.6.0', 'Message has a line longer than {limit} octets'),
  bareCr: row(554, '5.6.0', 'Message contains a bare CR'),
  bareLf: row(554, '5.6.0', 'Message contains a bare LF'),
  nulByte: row(554, '5.6.0', 'Message contains a NUL byte'),
  tooManyHops: row(554, '5.4.6', 'Too many hops, the limit is {limit}: mail loop'),
});

export type ReplyName = keyof typeof REPLIES;

type Placeholder<Text extends string> = Text extends `${string}{${infer Name}}${infer Rest}`
  ? Name | Placeholder<Rest>
  : never;
type Parameters<Name extends ReplyName> = Readonly<
  Record<Placeholder<(typeof REPLIES)[Name]['text']>, string | number>
>;
type Arguments<Name extends ReplyName> = keyof Parameters<Name> extends never ? [] : [Parameters<Name>];

/** The reply of that row with its parameters filled in. */
export function reply<Name extends ReplyName>(name: Name, ...args: Arguments<Name>): Reply {
  const found: Row = REPLIES[name];
  const values: Readonly<Record<string, string | number>> | undefined = args[0];
  if (values === undefined) return found;
  const text = found.text.replace(/\{(\w+)\}/g, (_, key: string) => String(values[key]));
  return { code: found.code, enhanced: found.enhanced, text };
}

const MAX_REPLY_LINE = 512;

/** The reply as bytes (ASCII) for the wire; a line break in `text` makes a multi-line reply (RFC 5321 4.2.1). */
export function formatReply(said: Reply): string {
  const lines = said.text.split('\n');
  let wire = '';
  for (let i = 0; i < lines.length; i++) {
    const head = `${said.code}${i < lines.length - 1 ? '-' : ' '}${said.enhanced === '' ? '' : `${said.enhanced} `}`;
    const line = `${head}${(lines[i] ?? '').replace(/[^\x20-\x7e]/g, '?')}`;
    wire += `${line.length > MAX_REPLY_LINE - 2 ? line.slice(0, MAX_REPLY_LINE - 2) : line}\r\n`;
  }
  return wire;
}
