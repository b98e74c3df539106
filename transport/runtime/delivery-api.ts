/**
 * The delivery port: the core decides what goes to which next hop and when; an agent behind this port does the I/O and says what became
 * of every recipient. The real agent (`delivery.ts`) speaks LMTP and SMTP; the simulator puts its own store behind the same port.
 *
 * Promises of an agent
 * - `done` runs exactly once per `start`, never inside the call to `start`, with exactly one result for each requested recipient,
 *   in the order of the request, also after `close` (then `deferred`, or `unknown` when the final dot may have been sent).
 * - `mayBegin` is asked right before every transaction; where it says no, this one and those that would follow do not take place: `withheld`.
 * - `delivered`, `relayed` and `failed` are final words of the next hop. Everything else leaves the recipient pending.
 * - `unknown` means the next hop may have the message: the caller retries, the store suppresses by `deliveryId` (protocol.md 23).
 * - The agent never retries by itself and never holds more of a body than a few chunks.
 */
import type { FilterField } from '../../common/content-filter.ts';
import type { CopyId, Envelope, EnvelopeRecipient, Epoch, Reply } from '../../common/message.ts';
import type { Route } from '../core/events.ts';

export type DeliveryRoute =
  | {
      readonly kind: 'mailbox';
      readonly database: string;
      readonly copy: string;
      readonly host: string;
      readonly port: number;
    }
  /** Hosts of a smart host are in order of preference; the next is tried when one cannot be used at all (connect, greeting, EHLO, TLS, AUTH, 4yz to MAIL). */
  | Extract<Route, { readonly kind: 'smartHost' | 'mx' }>;

export interface DeliveryRecipient {
  /** Index in the recipients of the copy; handed back in the result. */
  readonly index: number;
  readonly recipient: EnvelopeRecipient;
}

export interface DeliveryRequest {
  /** Unique among the requests under way; for the caller and the log. */
  readonly requestId: number;
  readonly copyId: CopyId;
  /** Value of `X-MailCluster-Delivery`: the id of the eldest ancestor copy (protocol.md 23). */
  readonly deliveryId: string;
  /** Value of `X-MailCluster-Content`, null for none: a client's own retry has the same (protocol.md 24). */
  readonly contentKey: string | null;
  /** Under which the copy is delivered. */
  readonly epoch: Epoch;
  /** Promoted, replayed, recovered, or made by two: somebody may have sent it to external recipients before (protocol.md 23). */
  readonly mayBeRepeat: boolean;
  readonly envelope: Envelope;
  /** As they travel with the message (common/authentication-results.ts); absent: none. */
  readonly results?: readonly string[];
  /** What a content filter added (common/content-filter.ts); absent: nothing. */
  readonly filterFields?: readonly FilterField[];
  readonly sizeBytes: number;
  readonly route: DeliveryRoute;
  /** At least one. */
  readonly recipients: readonly DeliveryRecipient[];
  /** No longer when the copy has come into doubt while the delivery waited (protocol.md 14). */
  readonly mayBegin: () => boolean;
}

export type RecipientResult = { readonly index: number } & (
  | {
      readonly kind: 'delivered' | 'relayed';
      /** Reply of the next hop, `code enhanced text`. */
      readonly reply: string;
      /**
       * Who owes the sender a success DSN (RFC 3461 5.2.1): true when the next hop offered DSN and got the NOTIFY parameter.
       * Always false over LMTP.
       */
      readonly dsnPassedOn: boolean;
      /** Nothing was sent: the ledger knows that it was relayed before. */
      readonly isRepeat?: true;
    }
  | {
      readonly kind: 'deferred';
      /** What a person should see: a reply, or why there is none. */
      readonly reply: string;
      /** `host`: the next hop as a whole cannot be used now (connect, greeting, TLS, time-out): back off all its mail. */
      readonly scope: 'host' | 'message' | 'recipient';
    }
  | { readonly kind: 'failed'; readonly reply: Reply }
  | { readonly kind: 'unknown'; readonly reason: string }
  | { readonly kind: 'withheld' }
);

/** The hosts of a route as they would be tried now, for people: `NAME [ADDRESS]:PORT, how`. */
export interface RouteHosts {
  readonly hosts: readonly string[];
  /** Why there is none; what a recipient would be told. */
  readonly problem: string | null;
  /** Mode of the domain's MTA-STS policy. */
  readonly policy: 'enforce' | 'testing' | 'none' | null;
}
export type HostsOf = (route: DeliveryRoute) => Promise<RouteHosts>;

export interface DeliveryAgent {
  start(request: DeliveryRequest, done: (results: readonly RecipientResult[]) => void): void;
  /** Stops: idle connections are closed, deliveries under way are cut off and reported. Resolves when nothing is left. */
  close(): Promise<void>;
}

/** One that also says what is known of the way mail takes from here. */
export interface SendingAgent extends DeliveryAgent {
  readonly hostsOf: HostsOf;
  /** Resolvers that were found not to validate, of connectors with DANE that mail has gone through, now or before; `ADDRESS:PORT`. */
  unvalidatedResolvers(): readonly string[];
}
