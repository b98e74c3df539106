/**
 * What one message is called and made of on every hop: names, envelope, the part of a copy's state that members exchange.
 * Owns: the words. Promise: plain readonly data that survives JSON. No behaviour beyond comparing epochs.
 */

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

/** Cluster-unique id of one SMTP transaction, assigned by the front end; 26 characters of Crockford base32, sorts by time. */
export type AttemptId = Branded<'AttemptId'>;
/** Id of a copy: the attempt id of a message; a hash for a DSN or a resubmission (protocol.md section 1). */
export type CopyId = Branded<'CopyId'>;
/** Random id of a queue database, written when a volume is first opened; 26 characters of Crockford base32. */
export type Identity = Branded<'Identity'>;

/** Who owns a copy; lexicographic (try, term, owner). A front-end replay raises the try, a takeover the term. */
export interface Epoch {
  readonly try: number;
  readonly term: number;
  readonly owner: Identity;
}

export function compareEpochs(a: Epoch, b: Epoch): number {
  if (a.try !== b.try) return a.try - b.try;
  if (a.term !== b.term) return a.term - b.term;
  return a.owner < b.owner ? -1 : a.owner > b.owner ? 1 : 0;
}

export const sameEpoch = (a: Epoch, b: Epoch): boolean => compareEpochs(a, b) === 0;

/** An SMTP reply (RFC 5321 4.2) with its enhanced status code (RFC 3463). `lines` without code and CRLF. */
export interface Reply {
  readonly code: number;
  readonly enhanced: string;
  readonly text: string;
}

/** A forward-path as received, with its RFC 3461 parameters exactly as the client wrote them. */
export interface EnvelopeRecipient {
  /** `local-part@domain`, or `postmaster` without a domain (RFC 5321 4.5.1). Never rewritten after the front end has resolved it. */
  readonly address: string;
  /** NOTIFY= value, for example `SUCCESS,FAILURE` or `NEVER`. */
  readonly notify?: string;
  /** ORCPT= value in xtext, for example `rfc822;bob@example.org`. */
  readonly orcpt?: string;
  /** Index in `returnPaths`: it goes there as a member of a mailing list. */
  readonly returnPath?: number;
}

/** The envelope sender that a mailing list writes in place of the client's (RFC 5321 3.9.2). */
export interface ReturnPath {
  readonly address: string;
  /** Who is meant by it, where it is no mailbox itself. */
  readonly reportsTo?: readonly string[];
}

/** An alias or list that was expanded and whose sender wants to hear of it: `expanded` and `delivered` are actions of RFC 3464 2.3.3. */
export interface ExpandedRecipient extends EnvelopeRecipient {
  readonly action: 'expanded' | 'delivered';
}

/** What the front end saw of the client; becomes the `Received:` field when the message is sent on (RFC 5321 4.4). */
export interface ClientInfo {
  readonly address: string;
  readonly port: number;
  readonly helo: string;
  /** RFC 3848 "with" protocol: SMTP, ESMTP, ESMTPS, ESMTPSA, UTF8SMTP, ... */
  readonly protocol: string;
  readonly tls: { readonly version: string; readonly cipher: string } | null;
  /** Authenticated user, or null. */
  readonly user: string | null;
}

export interface Envelope {
  /** Reverse-path; empty for `<>`. */
  readonly reversePath: string;
  readonly recipients: readonly EnvelopeRecipient[];
  readonly body: '7BIT' | '8BITMIME';
  readonly smtputf8: boolean;
  /** SIZE= as declared, bytes, or null. */
  readonly declaredSizeBytes: number | null;
  /** RFC 3461 RET= and ENVID= as received. */
  readonly ret?: 'FULL' | 'HDRS';
  readonly envid?: string;
  /** Who is meant by the reverse-path, where it is an alias: resolved once, like the recipients. */
  readonly reportsTo?: readonly string[];
  readonly returnPaths?: readonly ReturnPath[];
  readonly expanded?: readonly ExpandedRecipient[];
  readonly client: ClientInfo;
  readonly frontend: string;
  readonly listener: string;
  /** Wall clock of the front end at MAIL FROM, ms since the epoch; for headers and people only. */
  readonly receivedAtMs: number;
}

export type CopyKind = 'message' | 'dsn' | 'resubmission';
export type Standing = 'intake' | 'released';

/** What became of a recipient. `pending` is the only one that is not final. */
export type RecipientOutcome = 'pending' | 'delivered' | 'relayed' | 'failed' | 'expired' | 'removed';

/**
 * Finality of one recipient (protocol.md 19): for a mailbox it is bound to the activation of the database it went to.
 * `atMs` is the wall clock of the pod that made it final, for people and for the resubmission window.
 */
export interface RecipientState {
  readonly address: string;
  readonly outcome: RecipientOutcome;
  readonly database?: string;
  readonly databaseCopy?: string;
  readonly activation?: number;
  /** Send connector, for relayed recipients. */
  readonly connector?: string;
  readonly atMs?: number;
  /** Last reply of the next hop as `code enhanced text`, for people. */
  readonly reply?: string;
  /**
   * A failed recipient is announced to holders only once its DSN is protected, final or accepted unprotected (protocol.md 11). Of a success: false while the sender,
   * who asked for it (NOTIFY=SUCCESS), is owed a report; holders know the success at once.
   */
  readonly announced?: boolean;
}

/** The part of a copy's state that members exchange and `merge` (protocol.md section 11). */
export interface SharedState {
  readonly id: CopyId;
  readonly ancestor: CopyId | null;
  readonly kind: CopyKind;
  readonly epoch: Epoch;
  readonly standing: Standing;
  /** Every try up to this one was aborted; 0 when none. */
  readonly abortedThrough: number;
  /** SHA-256 of the body as received, hex; null for a tombstone that never had one. */
  readonly digest: string | null;
  readonly sizeBytes: number;
  /** Resolved recipients; null until somebody categorised (protocol.md 18: who has them never expands again). */
  readonly recipients: readonly RecipientState[] | null;
  /** The owner says: every recipient is final. */
  readonly final: boolean;
  /** Deaths of a process that had only this one in its hands (protocol.md 18); absent: none. */
  readonly crashes?: number;
  /** How often a person suspended and resumed it, together: odd while it is suspended (protocol.md row 25); absent: never. */
  readonly suspensions?: number;
}
