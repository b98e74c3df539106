/**
 * DANE through the whole system: resource to a real Postfix. The name server plays the resolver that validates (it says of its names that they are signed); a real one is in
 * `test/unit/dane-delivery.test.ts`.
 */
import { createHash } from 'node:crypto';
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { type ChainCertificate, certificate } from '../rigs/certificate-chain.ts';
import { DnsServer, type ZoneRecords } from '../rigs/dns-server.ts';
import { Postfix } from '../rigs/postfix.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const TIMEOUT_MS = 180_000;
const MESSAGES = 10;
const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
}, TIMEOUT_MS);
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

async function send(cluster: Cluster, subject: string): Promise<void> {
  const [target] = cluster.targets();
  if (target === undefined) throw new Error('no front end');
  const connection = await SmtpConnection.open(target, 60_000);
  for (const [part, code] of [
    ['MAIL FROM:<ann@example.com>', 250],
    ['RCPT TO:<bob@far.example>', 250],
    ['DATA', 354],
    [`Subject: ${subject}\r\n\r\nhello\r\n.`, 250],
  ] as const) {
    connection.send(`${part}\r\n`);
    await connection.expect(code, part.slice(0, 20));
  }
  connection.close();
}

async function postfixWith({ pem, key }: ChainCertificate): Promise<Postfix | { readonly missing: string }> {
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-certificate-'));
  kept({ [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) });
  const files = { cert: join(directory, 'cert.pem'), key: join(directory, 'key.pem') };
  await writeFile(files.cert, pem);
  await writeFile(files.key, key, { mode: 0o600 });
  if (process.getuid?.() === 0) await chown(directory, 0, 0);
  const postfix = await Postfix.start({
    role: { kind: 'accept' },
    settings: [
      ...['smtpd_tls_security_level = may', 'smtpd_tls_loglevel = 1'],
      ...[`smtpd_tls_cert_file = ${files.cert}`, `smtpd_tls_key_file = ${files.key}`],
    ],
  });
  return 'missing' in postfix ? postfix : kept(postfix);
}

test(
  'TLSA that lies keeps mail and says why; mended, everything arrives once, and is said to be proven',
  async (context) => {
    const [own, other] = [
      await certificate({ subject: 'own', names: ['mx.far.example'] }),
      await certificate({ subject: 'other', names: ['mx.far.example'] }),
    ];
    const postfix = await postfixWith(own);
    if ('missing' in postfix) return context.skip(postfix.missing);
    const tlsa = ({ spki }: ChainCertificate): ZoneRecords => ({
      isSigned: true,
      tlsa: [{ usage: 3, selector: 1, matchingType: 1, certificate: createHash('sha256').update(spki).digest() }],
    });
    const place = `_${postfix.smtpPort}._tcp.mx.far.example`;
    const dns = kept(
      await DnsServer.start({
        '.': { ns: ['ns.example'], isSigned: true },
        'far.example': { mx: [[10, 'mx.far.example']], isSigned: true },
        'mx.far.example': { a: ['127.0.0.1'], isSigned: true },
        [place]: tlsa(other),
      }),
    );
    const mx = `mx: { port: ${postfix.smtpPort}, dnsServers: ["${dns.server}"], allowNetworks: [127.0.0.0/8], dane: Enforce }`;
    const cluster = kept(
      await startCluster((directory) =>
        twoSites(directory, {
          ...{ perSite: 1, frontends: 1, listener: 'tls: None, relayFrom: [127.0.0.0/8]' },
          spec: [`sendConnectors: [{ name: internet, addressSpaces: [{ domain: "*" }], delivery: MX, ${mx} }]`],
        }),
      ),
    );
    const said = async (...words: string[]): Promise<string> =>
      (await mailcluster(...words, '--state', cluster.state)).stdout;

    const subjects = Array.from({ length: MESSAGES }, (_, at) => `number ${at}`);
    for (const one of subjects) await send(cluster, one);
    await until(
      'the reason',
      async () =>
        /4\.7\.5 .*DANE: the certificate of mx\.far\.example is none that its TLSA 3 1 1 means/.test(
          await said('queue', '-o', 'json'),
        ),
      { deadlineMs: 30_000, everyMs: 500 },
    );
    expect(await postfix.delivered()).toEqual([]);
    expect(await said('route', '--to', 'bob@far.example')).toMatch(
      /mx\.far\.example \[127\.0\.0\.1\]:\d+, TLS proven by TLSA 3 1 1 \(DANE\)/,
    );
    await until('the count', async () => (await cluster.total('mailcluster_dane_attempts_total')) > 0, {
      ...{ deadlineMs: 30_000, everyMs: 500 },
    });

    const { messages } = JSON.parse(await said('message', 'list', '-o', 'json'));
    const id = String(messages[0].id);

    dns.zone[place] = tlsa(own);
    const arrived = async (): Promise<readonly string[]> =>
      (await postfix.delivered()).flatMap((one) => /^Subject: (number \d+)\r?$/m.exec(one)?.[1] ?? []).sort();
    await until('all of it', async () => (await arrived()).length >= MESSAGES, { deadlineMs: 90_000, everyMs: 500 });
    expect(await arrived()).toEqual([...subjects].sort());
    expect(await said('trace', id)).toContain('(DANE: mx.far.example proven by TLSA 3 1 1)');
  },
  TIMEOUT_MS,
);
