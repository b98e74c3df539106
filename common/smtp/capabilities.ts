/** What the SMTP edge offers: verbs, EHLO keywords, and how a session is named in `Received:`. Pure. */
import type { ConversationSetting } from './conversation-port.ts';

/** Verbs a browser would send to a port it was tricked into (cross-protocol attacks). */
export const HTTP_VERBS: ReadonlySet<string> = new Set([
  'GET',
  'POST',
  'PUT',
  'HEAD',
  'OPTIONS',
  'DELETE',
  'PATCH',
  'CONNECT',
]);
/** RFC 3207 section 4: what may come before STARTTLS when it is required. */
export const BEFORE_TLS: ReadonlySet<string> = new Set(['EHLO', 'NOOP', 'STARTTLS', 'QUIT']);
export const JUNK: ReadonlySet<string> = new Set(['NOOP', 'RSET', 'VRFY', 'EXPN', 'HELP', 'EHLO', 'HELO']);
export const VERBS: ReadonlySet<string> = new Set([...JUNK, 'MAIL', 'RCPT', 'DATA', 'QUIT', 'STARTTLS', 'AUTH']);
type Offer = Pick<ConversationSetting, 'listener' | 'limits' | 'tlsAvailable' | 'handlers'>;

/** Whether STARTTLS would be accepted now. */
export function tlsOffered({ listener, tlsAvailable }: Offer, tlsActive: boolean): boolean {
  return tlsAvailable && !tlsActive && listener.tls !== 'None' && listener.tls !== 'Implicit';
}

export function keywords(offer: Offer, tlsActive: boolean): string[] {
  const { listener, limits, handlers } = offer;
  return [
    'PIPELINING', // RFC 2920
    `SIZE ${limits.maxMessageBytes}`, // RFC 1870
    '8BITMIME', // RFC 6152
    'SMTPUTF8', // RFC 6531
    'ENHANCEDSTATUSCODES', // RFC 2034
    'DSN', // RFC 3461
    ...(tlsOffered(offer, tlsActive) ? ['STARTTLS'] : []), // RFC 3207
    ...(listener.usersFile !== null && tlsActive ? [`AUTH ${handlers.mechanisms(listener.name).join(' ')}`] : []), // RFC 4954
    'HELP',
  ];
}

/** RFC 3848 and the registry entries of RFC 6531 section 4.3. */
export function protocolName(session: {
  readonly extended: boolean;
  readonly tls: boolean;
  readonly authenticated: boolean;
  readonly smtputf8: boolean;
}): string {
  if (!session.extended) return 'SMTP';
  const suffix = `${session.tls ? 'S' : ''}${session.authenticated ? 'A' : ''}`;
  return `${session.smtputf8 ? 'UTF8SMTP' : 'ESMTP'}${suffix}`;
}
