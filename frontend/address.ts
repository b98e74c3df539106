/**
 * Addresses as policy compares them, PURE. Syntax is the adapter's business (RFC 5321 4.1.2); here an address is a local part and a
 * domain. Promise: never guesses; what has no domain answers null. Internationalised domains compare as A-labels (RFC 5890).
 */
export interface AddressParts {
  /** As written, quotes included. */
  readonly local: string;
  /** Lower-case A-label form, or an address literal in brackets. */
  readonly domain: string;
}

/** Splits at the last `@`: a quoted local part may hold others. */
export function splitAddress(address: string): AddressParts | null {
  const at = address.lastIndexOf('@');
  if (at <= 0 || at === address.length - 1) return null;
  return { local: address.slice(0, at), domain: normalDomain(address.slice(at + 1)) };
}

export function normalDomain(domain: string): string {
  const lower = domain.toLowerCase();
  if (/^[a-z0-9.-]*$/.test(lower) || !/^[\p{L}\p{N}\p{M}.-]+$/u.test(lower)) return lower;
  // What is no domain at all stays what it is and matches nothing.
  return URL.parse(`http://${lower}/`)?.hostname ?? lower;
}
