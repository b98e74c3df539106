/**
 * Policies of MTA-STS as receiving domains publish them (RFC 8461). Owns: the grammar of the TXT record and of the policy, and which MX hosts a policy means.
 * Promise: what is malformed is no policy, with a reason; what we do not know is skipped (3.2). PURE.
 */
export interface StsPolicy {
  readonly mode: 'enforce' | 'testing' | 'none';
  /** Lower case; `*.example.org` stands for one label in front. */
  readonly mx: readonly string[];
  readonly maxAgeMs: number;
}

/** 3.2: a year, about. */
const MOST_AGE_S = 31_557_600;
/** More than anybody needs; what is kept of a domain is bounded. */
const MOST_PATTERNS = 100;

/** 3.1: the id of the one record, or null: several, or none that says STSv1, mean no policy. */
export function policyId(records: readonly string[]): string | null {
  const own = records.filter((record) => /^v=STSv1\s*(;|$)/.test(record));
  const [record] = own;
  if (record === undefined || own.length > 1) return null;
  return /;\s*id=([A-Za-z0-9]{1,32})\s*(?:;|$)/.exec(record)?.[1] ?? null;
}

export function parsePolicy(text: string): StsPolicy | { readonly problem: string } {
  const values = new Map<string, string>();
  const mx: string[] = [];
  for (const line of text.split(/\r?\n/)) {
    const colon = line.indexOf(':');
    // Not one expression: strangers write the line, and blanks without end would take it quadratic time.
    const [key, value] = [line.slice(0, Math.max(0, colon)).trim(), line.slice(colon + 1).trim()];
    if (key === 'mx') mx.push(value.toLowerCase());
    else if (key !== '' && !values.has(key)) values.set(key, value); // the first counts
  }
  const mode = values.get('mode');
  const age = values.get('max_age') ?? '';
  if (values.get('version') !== 'STSv1') return { problem: 'its version is not STSv1' };
  if (mode !== 'enforce' && mode !== 'testing' && mode !== 'none')
    return { problem: 'its mode is none of enforce, testing, none' };
  if (!/^\d{1,10}$/.test(age)) return { problem: 'its max_age is not a number of seconds' };
  if (mode !== 'none' && mx.length === 0) return { problem: 'it names no mx' };
  if (mx.length > MOST_PATTERNS) return { problem: `it names more than ${MOST_PATTERNS} mx` };
  const wrong = mx.find(
    (pattern) => !/^(\*\.)?([a-z0-9_]([-a-z0-9_]{0,62})\.)*[a-z0-9]([-a-z0-9]{0,62})$/.test(pattern),
  );
  if (wrong !== undefined) return { problem: `its mx ${JSON.stringify(wrong.slice(0, 100))} is not a host name` };
  return { mode, mx, maxAgeMs: Math.min(Number(age), MOST_AGE_S) * 1000 };
}

/** 4.1: a wildcard is exactly one label. */
export function isInPolicy({ mx }: StsPolicy, host: string): boolean {
  const name = host.toLowerCase().replace(/\.$/, '');
  return mx.some((pattern) =>
    pattern.startsWith('*.')
      ? name.slice(name.indexOf('.')) === pattern.slice(1) && name.includes('.')
      : name === pattern,
  );
}
