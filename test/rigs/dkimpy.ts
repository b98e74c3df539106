/** dkimpy (Debian packages python3-dkim, python3-authres): signatures and chains verified by somebody else's code. Owns: where it is found; keys come from the test, never from DNS. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ensurePackages } from './packages.ts';

const COMMON = `
import json, sys
import dkim
question = json.loads(sys.argv[1])
message = sys.stdin.buffer.read()
`;
const LOOKUP = `
records = question['records']
lookup = lambda name, timeout=5: records.get((name.decode() if isinstance(name, bytes) else name).rstrip('.'), '').encode() or None
`;

const SIGNATURES = `${COMMON}${LOOKUP}
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

const CHAIN = `${COMMON}${LOOKUP}
status, sets, reason = dkim.arc_verify(message, dnsfunc=lookup, minkey=1024)
print(json.dumps({
    'status': status and status.decode(),
    'reason': reason,
    'sets': [{
        'instance': one['instance'],
        'cv': one['cv'].decode(),
        'domain': one['as-domain'].decode(),
        'results': one['aar-value'].decode().strip(),
        'messageIsSigned': one['ams-valid'],
        'isSealed': one['as-valid'],
    } for one in sets],
}))
`;

const SEAL = `${COMMON}
text = lambda name: question[name].encode()
lines = dkim.arc_sign(message, text('selector'), text('domain'), text('privateKey'), text('authservId'))
print(json.dumps(b''.join(lines).decode()))
`;

export interface Verdict {
  readonly domain: string;
  readonly selector: string;
  readonly good: boolean;
  readonly error?: string;
}

/** Of RFC 8617. */
export interface Chain {
  /** Null: it was ended by a set with `cv=fail`. */
  readonly status: 'none' | 'pass' | 'fail' | null;
  readonly reason: string;
  /** The newest first, as far as could be read. */
  readonly sets: readonly {
    readonly instance: number;
    readonly cv: string;
    readonly domain: string;
    readonly results: string;
    readonly messageIsSigned: boolean;
    readonly isSealed: boolean;
  }[];
}

/** `authservId`: whose Authentication-Results field of the message it is to take over; `cv` is what that says of `arc`. */
export interface Sealing {
  readonly selector: string;
  readonly domain: string;
  readonly privateKey: string;
  readonly authservId: string;
}

type Records = Readonly<Record<string, string>>;

export interface Dkimpy {
  /** One for each signature of the message. `records`: TXT by name. */
  verify(message: Buffer, records: Records): Promise<readonly Verdict[]>;
  verifyChain(message: Buffer, records: Records): Promise<Chain>;
  /** The message with another set in front. */
  seal(message: Buffer, how: Sealing): Promise<Buffer>;
}

export async function dkimpy(): Promise<Dkimpy | { readonly missing: string }> {
  if (!existsSync('/usr/bin/python3')) return { missing: 'python3: not installed' };
  const prefix = await ensurePackages(['python3-dkim', 'python3-authres']);
  if ('missing' in prefix) return prefix;
  const environment = { ...process.env, PYTHONPATH: join(prefix.root, 'usr/lib/python3/dist-packages') };
  const run = (program: string, question: unknown, message: Buffer): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const args = ['-c', program, JSON.stringify(question)];
      const child = execFile('/usr/bin/python3', args, { env: environment, timeout: 60_000 }, (error, stdout) =>
        error === null ? resolve(JSON.parse(stdout)) : reject(error),
      );
      child.stdin?.end(message);
    });
  return {
    verify: (message, records) => run(SIGNATURES, { records }, message) as Promise<Verdict[]>,
    verifyChain: (message, records) => run(CHAIN, { records }, message) as Promise<Chain>,
    seal: async (message, how) => Buffer.concat([Buffer.from((await run(SEAL, how, message)) as string), message]),
  };
}
