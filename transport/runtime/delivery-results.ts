/**
 * What the client saw, in the words of the core. Pure. The one place where a reply becomes delivered, deferred, failed or unknown.
 * Promise: only a 5yz makes a recipient fail, only a 2yz makes it delivered; whatever is not a reply keeps it pending.
 */
import type { Reply } from '../../common/message.ts';
import { ClientError, formatReply, type RecipientOutcome, type SendOutcome } from '../../common/smtp/client.ts';
import type { DeliveryRecipient, DeliveryRoute, RecipientResult } from './delivery-api.ts';

export interface ResultContext {
  readonly route: DeliveryRoute;
  /** `host:port` spoken to, for people. */
  readonly peer: string;
  readonly contentError: Error | null;
  readonly dsnPassedOn: boolean;
  /** With DANE, for people. */
  readonly provenBy?: string;
}

export function toResult(index: number, outcome: RecipientOutcome, context: ResultContext): RecipientResult {
  switch (outcome.kind) {
    case 'accepted': {
      const isMailbox = context.route.kind === 'mailbox';
      const proven = context.provenBy === undefined ? '' : ` (DANE: ${context.provenBy})`;
      return {
        index,
        kind: isMailbox ? 'delivered' : 'relayed',
        reply: `${formatReply(outcome.reply)}${proven}`,
        dsnPassedOn: !isMailbox && context.dsnPassedOn,
      };
    }
    case 'rejected':
      if (outcome.reply.code >= 500) return { index, kind: 'failed', reply: bare(outcome.reply) };
      return { index, kind: 'deferred', reply: formatReply(outcome.reply), scope: scopeOf(outcome, context.route) };
    case 'broken':
      if (context.contentError !== null) return { index, ...unreadable(context.contentError) };
      return hostProblem(index, context.peer, outcome.error);
    case 'unknown':
      return { index, kind: 'unknown', reason: `${context.peer}: ${outcome.error.message}` };
  }
}

/** Every recipient of a destination that could not be used. */
export function hostProblem(index: number, peer: string, error: Error): RecipientResult {
  return { index, kind: 'deferred', reply: `${enhancedFor(error)} ${peer}: ${error.message}`, scope: 'host' };
}

export function allDeferred(recipients: readonly DeliveryRecipient[], peer: string, error: Error): RecipientResult[] {
  return recipients.map(({ index }) => hostProblem(index, peer, error));
}

/**
 * The host can be left for another one without risk of a duplicate: it took nothing, and said nothing final about a recipient. What we
 * decided ourselves (`LOCAL`) depends on the host's capabilities.
 */
export function mayTryNextHost(outcome: SendOutcome): boolean {
  if (outcome.contentError !== null) return false;
  const isAbout = (one: RecipientOutcome): boolean => one.kind === 'broken' || isRefusalByHost(one);
  const isOurs = (one: RecipientOutcome): boolean => one.kind === 'rejected' && one.stage === 'LOCAL';
  return outcome.recipients.some(isAbout) && outcome.recipients.every((one) => isAbout(one) || isOurs(one));
}

/** The connection broke under this transaction. */
export function brokeDown(outcome: SendOutcome): boolean {
  return (
    outcome.contentError === null && outcome.recipients.some(({ kind }) => kind === 'broken' || kind === 'unknown')
  );
}

function isRefusalByHost(one: RecipientOutcome): boolean {
  if (one.kind !== 'rejected' || one.reply.code >= 500) return false;
  return one.stage === 'MAIL' || one.reply.code === 421;
}

function scopeOf(
  outcome: Extract<RecipientOutcome, { kind: 'rejected' }>,
  route: DeliveryRoute,
): 'host' | 'message' | 'recipient' {
  if (outcome.reply.code === 421) return 'host'; // RFC 5321 3.8: service not available
  if (outcome.stage === 'RCPT') return 'recipient';
  return outcome.stage === 'END' && route.kind === 'mailbox' ? 'recipient' : 'message';
}

/** Our own fault, not that of the next hop: nobody else's mail waits for it. */
export function internalError(recipients: readonly DeliveryRecipient[], error: Error): RecipientResult[] {
  const reply = `4.3.0 internal error: ${error.message}`;
  return recipients.map(({ index }) => ({ index, kind: 'deferred', reply, scope: 'message' }));
}

/** Our own disk, not the next hop. */
export const unreadable = (error: Error) =>
  ({ kind: 'deferred', reply: `4.3.0 stored message cannot be read: ${error.message}`, scope: 'message' }) as const;

/** RFC 3463 3.5: no answer from host, bad connection; 4.7.5 cryptographic failure. A wrong password is no fault of the message: 4.7.0, whatever the server says. */
function enhancedFor(error: Error): string {
  if (!(error instanceof ClientError)) return '4.4.0';
  if (error.code === 'REFUSED') return error.reply?.enhanced.replace(/^5/, '4') ?? '4.4.0';
  const codes = {
    CONNECT: '4.4.1',
    TIMEOUT: '4.4.1',
    CLOSED: '4.4.2',
    GARBAGE: '4.5.0',
    TLS: '4.7.5',
    AUTH: '4.7.0',
    ABORTED: '4.3.2',
  };
  return codes[error.code];
}

/** The client's reply object carries its lines; records and frames keep three fields. */
function bare({ code, enhanced, text }: Reply): Reply {
  return { code, enhanced, text };
}
