/**
 * msmtp, a submission client of others (GnuTLS, GNU gsasl): it chooses nothing of ours, checks our certificate, and with SCRAM our proof that we know the password.
 * Owns: one run of it, and a file of its settings (mode 0600) for that long. Fails by saying what is missing; a refusal of the server is an exit code.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { commandIn, ensurePackage } from './packages.ts';

export interface Submission {
  readonly host: string;
  readonly port: number;
  /** `none` speaks plain text. */
  readonly tls: 'starttls' | 'implicit' | 'none';
  readonly caFile: string;
  readonly auth: 'off' | { readonly mechanism: string; readonly user: string; readonly password: string };
  readonly from: string;
  readonly recipient: string;
  /** Lines end with LF, as a program that is called as sendmail gets them. */
  readonly content: string;
}

export interface Submitted {
  /** Of sysexits.h: 0 accepted, 65 a refused recipient, 77 refused authentication. */
  readonly code: number | null;
  /** What went over the wire, `--> ` and `<-- ` a line, and the complaint; passwords and proofs as they were sent. */
  readonly conversation: string;
}

const DEADLINE_MS = 60_000;

export async function submitWithMsmtp(submission: Submission): Promise<Submitted | { readonly missing: string }> {
  const prefix = await ensurePackage('msmtp');
  if ('missing' in prefix) return prefix;
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-msmtp-'));
  try {
    const settings = join(directory, 'msmtprc');
    await writeFile(settings, settingsOf(submission), { mode: 0o600 });
    const words = ['/usr/bin/msmtp', `--file=${settings}`, '--debug', '--', submission.recipient];
    const { file, args } = commandIn(prefix, words, false);
    return await runToEnd(file, args, submission.content);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function settingsOf({ host, port, tls, caFile, auth, from }: Submission): string {
  const encryption =
    tls === 'none'
      ? ['tls off']
      : ['tls on', `tls_starttls ${tls === 'starttls' ? 'on' : 'off'}`, `tls_trust_file ${caFile}`];
  const identity =
    auth === 'off' ? ['auth off'] : [`auth ${auth.mechanism}`, `user ${auth.user}`, `password ${auth.password}`];
  const lines = [`account default`, `host ${host}`, `port ${port}`, `from ${from}`, 'timeout 30'];
  return [...lines, 'domain client.example.org', ...encryption, ...identity, ''].join('\n');
}

function runToEnd(file: string, args: readonly string[], input: string): Promise<Submitted> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, [...args], { stdio: ['pipe', 'pipe', 'pipe'], timeout: DEADLINE_MS });
    let conversation = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (conversation += chunk));
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, conversation: conversation.replaceAll('\r\n', '\n') }));
    // It may have ended before it read the message.
    child.stdin.on('error', () => undefined).end(input);
  });
}
