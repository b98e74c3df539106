/**
 * One SMTP transaction from MAIL to the end of data (RFC 5321 3.3). Owns: its sender and the recipients that were accepted so far. Refuses: recipients above
 * the limit, and those whose addresses no frame between pods could carry any more.
 */
import type { EnvelopeRecipient } from '../message.ts';
import type { MailFrom } from './edge-api.ts';

/** What all recipients of a message may take in the envelope that pods hand each other: frames between them are of bounded size. */
export const MAX_ENVELOPE_BYTES = 1_048_576;

export class Transaction {
  readonly mail: MailFrom;
  readonly receivedAtMs: number;
  readonly recipients: EnvelopeRecipient[] = [];
  refusedRecipients = 0;
  #bytes = 0;

  constructor(mail: MailFrom, receivedAtMs: number) {
    this.mail = mail;
    this.receivedAtMs = receivedAtMs;
  }

  /** The limit that one more recipient of this size would break, or null. */
  brokenBy(sizeBytes: number, maxRecipients: number): 'maxRecipients' | 'maxEnvelopeBytes' | null {
    if (this.recipients.length >= maxRecipients) return 'maxRecipients'; // RFC 5321 4.5.3.1.10
    return this.#bytes + sizeBytes > MAX_ENVELOPE_BYTES ? 'maxEnvelopeBytes' : null;
  }

  accept(recipient: EnvelopeRecipient, sizeBytes: number): void {
    this.recipients.push(recipient);
    this.#bytes += sizeBytes;
  }
}

/** What it takes in a frame. */
export const recipientBytes = (recipient: EnvelopeRecipient): number => Buffer.byteLength(JSON.stringify(recipient));
