/** The certificate that clients are shown: what is refused, and what is only said, each with the remedy. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readEdgeCertificate } from '../../common/smtp/edge-certificate.ts';
import { testCertificate } from '../rigs/test-certificate.ts';

const DAY_MS = 86_400_000;
const NOW_MS = Date.now();
let directory: string;
let files: { readonly certificateFile: string; readonly keyFile: string };

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mailcluster-certificate-'));
  files = { certificateFile: join(directory, 'tls.crt'), keyFile: join(directory, 'tls.key') };
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

async function have(made: { readonly cert: string; readonly key: string }): Promise<void> {
  await writeFile(files.certificateFile, made.cert);
  await writeFile(files.keyFile, made.key);
}

const problemsAt = async (hostname: string | null, nowMs: number): Promise<readonly string[]> =>
  (await readEdgeCertificate(files, hostname, nowMs)).problems;

test('good for its name and its time: nothing is said', async () => {
  await have(await testCertificate('mx.example.net'));
  expect(await problemsAt('mx.example.net', NOW_MS)).toEqual([]);
});

test('expired, not yet valid, another name: said with the remedy, and shown all the same', async () => {
  const made = await testCertificate('mx.example.net');
  await have(made);
  expect(await problemsAt('mx.example.net', NOW_MS + DAY_MS)).toEqual([
    expect.stringMatching(/^expired 20.*: renew it$/),
  ]);
  expect(await problemsAt('mx.example.net', NOW_MS - DAY_MS)).toEqual([
    expect.stringMatching(/^not valid before 20.*clock/),
  ]);
  expect(await problemsAt('mail.example.org', NOW_MS)).toEqual([
    expect.stringMatching(/^names DNS:mx\.example\.net, not mail\.example\.org: have one made/),
  ]);
  expect(await problemsAt(null, NOW_MS)).toEqual([]);
  expect(await readEdgeCertificate(files, 'other', NOW_MS + DAY_MS)).toMatchObject({ cert: made.cert, key: made.key });
});

test('missing, no PEM, the key of another one: refused with the files and the remedy', async () => {
  const refused = (): Promise<unknown> => readEdgeCertificate(files, null, NOW_MS);
  await expect(refused()).rejects.toMatchObject({
    code: 'SMTP_CERTIFICATE',
    message: expect.stringMatching(/no such file.*tls\.(crt|key).*put it there/),
  });
  const [one, other] = [await testCertificate('mx.example.net'), await testCertificate('mx.example.net')];
  for (const pair of [
    { cert: 'nothing', key: one.key },
    { cert: one.cert, key: other.key },
  ]) {
    await have(pair);
    await expect(refused()).rejects.toThrow(
      /tls\.crt and .*tls\.key are not a certificate and its key in PEM \(.+\); put the chain into tls\.crt/,
    );
  }
});
