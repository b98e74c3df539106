/**
 * An SMTP client that does not wait: it sends a whole message behind the greeting or behind EHLO. Owns: that conversation and what its replies mean, in the
 * words of the well-behaved client. The front end must refuse what comes before its turn (RFC 2920) - or, where the bytes were late enough, take it properly.
 */
import type { Envelope } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import { ClientError, type RecipientOutcome } from '../../common/smtp/client.ts';
import { DotStuffer } from '../../common/smtp/dot-stuffer.ts';
import { ReplyParser, type ServerReply } from '../../common/smtp/reply-parser.ts';
import type { SimSocket } from './sim-socket.ts';
import type { SmtpBody } from './smtp-bodies.ts';

/** It waits this long for the front end to close the session. */
const PATIENCE_MS = 100_000;

/** `isEarly`: not even the greeting is waited for. Resolves when the connection is over. */
export function speakTooSoon(
  socket: SimSocket,
  { reversePath, recipients }: Envelope,
  body: SmtpBody,
  isEarly: boolean,
  clock: Clock,
): Promise<{ readonly recipients: readonly RecipientOutcome[] }> {
  const hello = 'EHLO rude.sim\r\n';
  const envelope = [`MAIL FROM:<${reversePath}>`, ...recipients.map(({ address }) => `RCPT TO:<${address}>`), 'DATA'];
  const stuffer = new DotStuffer();
  const rest = Buffer.concat([
    Buffer.from(`${envelope.join('\r\n')}\r\n`),
    stuffer.push(body.bytes),
    stuffer.end(),
    Buffer.from('QUIT\r\n'),
  ]);
  const replies: ServerReply[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const parser = new ReplyParser();
  socket.on('data', (chunk: Buffer) =>
    parser.push(chunk, (reply) => {
      replies.push(reply);
      if (isEarly || socket.destroyed) return;
      if (replies.length === 1) socket.write(hello);
      if (replies.length === 2) socket.write(rest);
    }),
  );
  const timer = clock.setTimer(PATIENCE_MS, () => socket.destroy());
  socket.on('error', () => undefined);
  socket.once('close', () => {
    timer.cancel();
    resolve();
  });
  if (isEarly) socket.write(Buffer.concat([Buffer.from(hello), rest]));
  return promise.then(() => ({
    recipients: recipients.map((_, index) => meaningOf(replies, index, recipients.length)),
  }));
}

/** The session ended before the reply to RCPT. */
const UNHEARD: RecipientOutcome = { kind: 'unknown', error: new ClientError('ABORTED', 'RCPT was not answered') };

const isCutOff = (reply: ServerReply): boolean =>
  reply.code === 421 || /last command of a group|before the greeting/.test(reply.text);

/** Replies come in the order of greeting, EHLO, MAIL, each RCPT, DATA, end of data - until one of them ends the session. */
function meaningOf(replies: readonly ServerReply[], recipient: number, recipients: number): RecipientOutcome {
  const unknown = { kind: 'unknown', error: new ClientError('CLOSED', 'connection closed') } as const;
  const toMail = replies[2];
  const toRcpt = replies[3 + recipient];
  const toData = replies[3 + recipients];
  const toEnd = replies[4 + recipients];
  const cutOff = replies.find(isCutOff);
  // What follows a refused MAIL is refused for want of it.
  if (toMail !== undefined && toMail.code >= 400) return { kind: 'rejected', reply: toMail, stage: 'MAIL' };
  if (toRcpt === undefined || isCutOff(toRcpt))
    return cutOff === undefined ? UNHEARD : { kind: 'rejected', reply: cutOff, stage: 'DATA' };
  if (toRcpt.code >= 400) return { kind: 'rejected', reply: toRcpt, stage: 'RCPT' };
  if (toData === undefined) return unknown;
  if (toData.code >= 400) return { kind: 'rejected', reply: toData, stage: 'DATA' };
  if (toEnd === undefined) return unknown;
  return toEnd.code < 400
    ? { kind: 'accepted', reply: toEnd }
    : { kind: 'rejected', reply: toEnd, stage: isCutOff(toEnd) ? 'DATA' : 'END' };
}
