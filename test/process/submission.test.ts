/**
 * Submission by a client of others, through the whole system: msmtp with GNU gsasl authenticates by SCRAM-SHA-256, PLAIN and LOGIN over a TLS it has verified, its
 * messages arrive byte by byte with who sent them in `Received:` and tracking, and whoever has not authenticated gets nowhere.
 */
import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, type TestContext, test } from 'vitest';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { type Submission, type Submitted, submitWithMsmtp } from '../rigs/msmtp.ts';
import { testCertificate } from '../rigs/test-certificate.ts';
import { type Cluster, startCluster, twoSites } from './harness.ts';
import { type Delivered, digestOf, ledgerIdOf, makeMessage } from './ledger.ts';

const TIMEOUT_MS = 180_000;
const HOST = '127.0.0.1';
/** Made by `mailcluster password`, and in plain text in the Secret: both serve every mechanism. */
const HASHED = { user: 'scanner', password: 'a pass,word=with "marks" +%' };
const PLAIN = { user: 'printer@example.org', password: 'grün?' };

let cluster: Cluster;
let caFile: string;

const block = (text: string): string => text.trimEnd().replace(/^/gm, '    ');

beforeAll(async () => {
  const { ca, cert, key } = await testCertificate(HOST);
  const { user, password } = HASHED;
  const command = [join(ROOT, 'operator/cli/main.ts'), 'password', user];
  const line = execFileSync(process.execPath, command, { input: password, encoding: 'utf8' }).trim();
  const hash = line.slice(user.length + 1);
  expect(line).toMatch(/^scanner:SCRAM-SHA-256\$/);
  const secrets = `---
apiVersion: v1
kind: Secret
metadata: { name: mail-tls }
stringData:
  tls.crt: |
${block(cert)}
  tls.key: |
${block(key)}
---
apiVersion: v1
kind: Secret
metadata: { name: users }
stringData: { ${user}: ${JSON.stringify(hash)}, ${PLAIN.user}: ${JSON.stringify(PLAIN.password)} }
`;
  cluster = await startCluster((directory) =>
    twoSites(directory, { perSite: 1, frontends: 1 })
      .replace(
        /^ {4}listeners: .*$/m,
        `    tlsSecretRef: { name: mail-tls }
    listeners:
      - { name: smtp, port: 25, tls: StartTls }
      - { name: submission, port: 587, tls: StartTlsRequired, auth: { secretRef: { name: users } } }
      - { name: submissions, port: 465, tls: Implicit, auth: { secretRef: { name: users } } }
    limits: { maxAuthFailures: 3 }`,
      )
      .concat(secrets),
  );
  caFile = join(cluster.directory, 'ca.pem');
  await writeFile(caFile, ca);
}, TIMEOUT_MS);
afterAll(async () => await cluster?.[Symbol.asyncDispose](), TIMEOUT_MS);

async function submit(
  context: TestContext,
  listener: 'smtp' | 'submission' | 'submissions',
  name: string,
  auth: Submission['auth'],
  more: Partial<Submission> = {},
): Promise<Submitted> {
  const { listeners } = await cluster.runFile();
  const port = listeners.find((one) => one.name === listener)?.port ?? 0;
  const recipient = more.recipient ?? 'ann@example.com';
  const sent = await submitWithMsmtp({
    ...{ host: HOST, port, caFile, auth, from: 'sender@example.org', recipient },
    tls: listener === 'submissions' ? 'implicit' : 'starttls',
    content: contentOf(name).toString('latin1').replaceAll('\r\n', '\n'),
    ...more,
  });
  return 'missing' in sent ? context.skip(sent.missing) : sent;
}

const contentOf = (name: string): Buffer => makeMessage(name, 'ann@example.com', 4_000).content;

const delivered = (name: string): Promise<Delivered> =>
  until(
    `${name} in its mailbox`,
    async () => (await cluster.delivered()).find(({ bytes }) => ledgerIdOf(bytes) === name) ?? null,
    { deadlineMs: 30_000, everyMs: 100 },
  );

const TABLE = (['scram-sha-256', 'plain', 'login'] as const).flatMap((mechanism) =>
  (['submission', 'submissions'] as const).flatMap((listener) =>
    [HASHED, PLAIN].map((who) => ({ mechanism, listener, who, user: who.user })),
  ),
);

describe('msmtp with GNU gsasl', () => {
  test.for(TABLE)(
    '$mechanism on $listener as $user: accepted over TLS, delivered byte by byte, and everybody knows whose it is',
    { timeout: TIMEOUT_MS },
    async ({ mechanism, listener, who }, context) => {
      const name = `${mechanism}-${listener}-${who.user.replace(/@.*/, '')}`;
      const { code, conversation } = await submit(context, listener, name, { mechanism, ...who });
      expect(conversation).toMatch(/<-- 250[- ]AUTH SCRAM-SHA-256 PLAIN LOGIN\n/);
      expect(conversation).toContain(`--> AUTH ${mechanism.toUpperCase()}`);
      expect(conversation).toContain('<-- 235 2.7.0 ');
      expect(code, conversation).toBe(0);
      const id = /<-- 250 2\.0\.0 Ok: queued as (\S+)/.exec(conversation)?.[1] ?? 'none';
      const { bytes, mailbox } = await delivered(name);
      expect(mailbox).toBe('ann@example.com');
      const header = bytes.toString('latin1').split('X-Ledger-Id')[0] ?? '';
      expect(header).toMatch(/^Received: from client\.example\.org \(\[127\.0\.0\.1\]\)\r\n/m);
      expect(header).toMatch(/^\twith ESMTPSA\r\n\t\(version=TLSv1\.3 /m);
      expect(digestOf(bytes.subarray(header.length))).toBe(digestOf(contentOf(name)));
      expect(await cluster.story(id)).toContain(`to ${listener}, ESMTPSA client.example.org, user ${who.user}: MAIL`);
    },
  );

  test(
    'a wrong password and nobody’s name: 535 by every mechanism; too often: 454, the right one as well; others are not touched',
    async (context) => {
      const wrong = { user: HASHED.user, password: 'guessed' };
      for (const mechanism of ['scram-sha-256', 'plain', 'login']) {
        const { code, conversation } = await submit(context, 'submission', 'no', { mechanism, ...wrong });
        expect(conversation).toMatch(/535 5\.7\.8/);
        expect(code).toBe(77);
      }
      const mechanism = 'scram-sha-256';
      const right = await submit(context, 'submission', 'no', { mechanism, ...HASHED });
      expect(right.conversation).toMatch(/454 4\.7\.0/);
      expect(right.code).not.toBe(0);
      const nobody = await submit(context, 'submission', 'no', { mechanism, user: 'nobody', password: 'x' });
      expect(nobody.conversation).toMatch(/535 5\.7\.8/);
      const other = await submit(context, 'submission', 'other', { mechanism, ...PLAIN });
      expect(other.code, other.conversation).toBe(0);
      await delivered('other');
    },
    TIMEOUT_MS,
  );

  test(
    'without AUTH nothing leaves the cluster, with it everything may; without TLS there is no AUTH; our name is proved by its certificate',
    async (context) => {
      const foreign = { recipient: 'victim@foreign.example' };
      const relayed = await submit(context, 'smtp', 'no', 'off', foreign);
      expect(relayed.conversation).toMatch(/550 5\.7\.1 Relaying denied/);
      expect(relayed.code).toBe(65);
      for (const listener of ['submission', 'submissions'] as const)
        for (const what of [foreign, {}]) {
          const { code, conversation } = await submit(context, listener, 'no', 'off', what);
          expect(conversation).toMatch(/530 5\.7\.0 Authentication required/);
          expect(code).toBe(65);
        }
      const known = await submit(context, 'submissions', 'abroad', { mechanism: 'plain', ...PLAIN }, foreign);
      expect(known.code, known.conversation).toBe(0);
      const plainText = await submit(context, 'submission', 'no', { mechanism: 'plain', ...PLAIN }, { tls: 'none' });
      expect(plainText.conversation).not.toMatch(/<-- 250[- ]AUTH|--> AUTH/);
      expect(plainText.code).not.toBe(0);
      const another = await testCertificate(HOST);
      const stranger = join(cluster.directory, 'stranger.pem');
      await writeFile(stranger, another.ca);
      const unproved = await submit(
        context,
        'submissions',
        'no',
        { mechanism: 'plain', ...PLAIN },
        { caFile: stranger },
      );
      expect(unproved.conversation).toMatch(/certificate/i);
      expect(unproved.code).not.toBe(0);
      expect((await cluster.delivered()).filter(({ bytes }) => ledgerIdOf(bytes) === 'no')).toEqual([]);
    },
    TIMEOUT_MS,
  );
});
