/**
 * The SMTP edge as the front end sees it: `server.ts` (the one adapter around `smtp-server`) speaks RFC 5321 with the client and calls
 * these. The adapter owns syntax, command order, line discipline, limits, TLS, AUTH dialogue, reply batching; the handlers own policy.
 */
import type { ClientInfo, Envelope, EnvelopeRecipient, Reply } from '../message.ts';
import type { ScramKeys } from './scram.ts';

/** One SMTP connection. `client` changes after EHLO, STARTTLS and AUTH; read it when needed. */
export interface EdgeSession {
  readonly id: string;
  readonly listener: string;
  readonly client: ClientInfo;
}

export interface MailFrom {
  /** Empty for `<>`; exactly as received. */
  readonly reversePath: string;
  readonly body: '7BIT' | '8BITMIME';
  readonly smtputf8: boolean;
  readonly declaredSizeBytes: number | null;
  readonly ret?: 'FULL' | 'HDRS';
  readonly envid?: string;
}

/** What the adapter read of the content besides its bytes. */
export interface DataEnd {
  readonly sizeBytes: number;
  /** Null when well-formed; else the reply it deserves (bare CR / LF / NUL, size, line or header limits): the content must not be accepted. */
  readonly rejected: Reply | null;
}

/** `close`: the connection is closed without a reply (protocol.md 5). */
export type DataAnswer =
  | { readonly kind: 'reply'; readonly reply: Reply }
  | { readonly kind: 'close'; readonly reason: string };

/** Receives one message body, dots removed, exactly as it will be stored. */
export interface DataSink {
  /** False: wait for `drain` (set by the adapter before the first write) before the next write. */
  write(chunk: Buffer): boolean;
  end(end: DataEnd): Promise<DataAnswer>;
  /** The client vanished, timed out or was cut off before the end of data. */
  abort(reason: string): void;
  /** The client vanished after `end` and hears no answer any more. */
  gone(reason: string): void;
}

export type DataDecision =
  | { readonly kind: 'refuse'; readonly reply: Reply }
  | { readonly kind: 'accept'; readonly sink: DataSink };

export interface ScramStart {
  readonly keys: ScramKeys;
  /** Printable, without a comma. */
  readonly nonce: string;
}

export interface EdgeHandlers {
  /** Null accepts; a 4yz/5yz is sent instead of the 220 and the connection closed. */
  onConnect(session: EdgeSession): Reply | null;
  /** Null accepts. */
  onMailFrom(session: EdgeSession, mail: MailFrom): Promise<Reply | null>;
  onRcptTo(
    session: EdgeSession,
    mail: MailFrom,
    recipient: EnvelopeRecipient,
    acceptedSoFar: number,
  ): Promise<Reply | null>;
  /** Called at DATA, before the 354; nothing is read from the client until it resolves. `drain` resumes a sink that said false. */
  onData(session: EdgeSession, envelope: Envelope, drain: () => void): Promise<DataDecision>;
  /** Mechanisms that serve every user of the listener, preferred first. */
  mechanisms(listener: string): readonly string[];
  /** True when user and password are right; a reply refuses to look. Called only over TLS. */
  onAuth(session: EdgeSession, user: string, password: string): Promise<boolean | Reply>;
  /** What SCRAM needs to go on, for whoever says to be that user; a reply refuses to look. Called only over TLS. */
  onScram(session: EdgeSession, user: string): ScramStart | Reply;
  /** How that ended. */
  onScramEnd(session: EdgeSession, user: string, right: boolean): void;
  onClose(session: EdgeSession): void;
}
