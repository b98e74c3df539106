/**
 * Whose a recipient's copy is when it goes out or comes back, PURE. Owns: that the members of a mailing list are the list's (RFC 3461 5.2.7.1):
 * its envelope sender, and nothing of what the sender of the message asked for.
 */
import type { Envelope, EnvelopeRecipient } from '../../common/message.ts';

/** The envelope as it concerns this recipient: the sender that is told to the next hop and that hears of failures. */
export function envelopeFor(envelope: Envelope, recipient: EnvelopeRecipient | undefined): Envelope {
  const list = recipient?.returnPath === undefined ? undefined : envelope.returnPaths?.[recipient.returnPath];
  if (list === undefined) return envelope;
  const { ret: _ret, envid: _envid, reportsTo: _reportsTo, ...rest } = envelope;
  return {
    ...rest,
    reversePath: list.address,
    ...(list.reportsTo === undefined ? {} : { reportsTo: list.reportsTo }),
  };
}
