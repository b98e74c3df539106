/** Plus-addressing (RFC 5233): what of a local part names the mailbox. PURE. */

/** `alice` of `alice+tag`; null where there is no detail. A quoted local part is one name. */
export function baseOf(local: string): string | null {
  const plus = local.startsWith('"') ? -1 : local.indexOf('+');
  return plus > 0 ? local.slice(0, plus) : null;
}
