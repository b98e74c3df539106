/** dkimpy (Debian package python3-dkim): signatures verified by somebody else's code. Owns: where it is found; keys come from the test, never from DNS. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ensurePackage } from './packages.ts';

const PROGRAM = `
import json, sys
import dkim
records = json.loads(sys.argv[1])
message = sys.stdin.buffer.read()
lookup = lambda name, timeout=5: records.get((name.decode() if isinstance(name, bytes) else name).rstrip('.'), '').encode() or None
verifier = dkim.DKIM(message, minkey=1024)
count = sum(1 for name, _ in verifier.headers if name.lower() == b'dkim-signature')
verdicts = []
for index in range(count):
    try:
        good = verifier.verify(idx=index, dnsfunc=lookup)
        said = {'domain': verifier.domain.decode(), 'selector': verifier.selector.decode(), 'good': good}
    except Exception as error:
        said = {'domain': '', 'selector': '', 'good': False, 'error': str(error)}
    verdicts.append(said)
print(json.dumps(verdicts))
`;

export interface Verdict {
  readonly domain: string;
  readonly selector: string;
  readonly good: boolean;
  readonly error?: string;
}

export interface Dkimpy {
  /** One for each signature of the message. `records`: TXT by name. */
  verify(message: Buffer, records: Readonly<Record<string, string>>): Promise<readonly Verdict[]>;
}

export async function dkimpy(): Promise<Dkimpy | { readonly missing: string }> {
  if (!existsSync('/usr/bin/python3')) return { missing: 'python3: not installed' };
  const prefix = await ensurePackage('python3-dkim');
  if ('missing' in prefix) return prefix;
  const environment = { ...process.env, PYTHONPATH: join(prefix.root, 'usr/lib/python3/dist-packages') };
  return {
    verify: (message, records) =>
      new Promise((resolve, reject) => {
        const args = ['-c', PROGRAM, JSON.stringify(records)];
        const child = execFile('/usr/bin/python3', args, { env: environment, timeout: 60_000 }, (error, stdout) =>
          error === null ? resolve(JSON.parse(stdout) as Verdict[]) : reject(error),
        );
        child.stdin?.end(message);
      }),
  };
}

/** The TXT record of a public key as `crypto` exports it, DER. */
export const keyRecord = (type: 'rsa' | 'ed25519', spki: Buffer): string =>
  // RFC 8463 4: the bare key of 32 bytes, not its SubjectPublicKeyInfo.
  `v=DKIM1; k=${type}; p=${(type === 'rsa' ? spki : spki.subarray(-32)).toString('base64')}`;
