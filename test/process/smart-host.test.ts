/** A smart host that asks for a password, through the whole system: resource and Secret to Postfix; what is too large for it takes the other way. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { DOVECOT_PASSWORD, Dovecot } from '../rigs/dovecot.ts';
import { Postfix } from '../rigs/postfix.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { testCertificate } from '../rigs/test-certificate.ts';
import { mailcluster, startCluster, twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const TIMEOUT_MS = 120_000;
const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
}, TIMEOUT_MS);
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

test(
  'what needs a password has it from its Secret, over proven TLS; what is larger than its connector takes the next',
  async (context) => {
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-smart-host-'));
    kept({ [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) });
    const { ca, cert, key } = await testCertificate('127.0.0.1');
    const file = (name: string): string => join(directory, name);
    await writeFile(file('ca.pem'), ca);
    await writeFile(file('cert.pem'), cert);
    await writeFile(file('key.pem'), key, { mode: 0o600 });
    const dovecot = await Dovecot.start();
    if ('missing' in dovecot) return context.skip(dovecot.missing);
    kept(dovecot);
    const postfix = await Postfix.start({
      role: { kind: 'accept' },
      settings: [
        'smtpd_tls_security_level = may',
        ...[`smtpd_tls_cert_file = ${file('cert.pem')}`, `smtpd_tls_key_file = ${file('key.pem')}`],
        ...['smtpd_sasl_auth_enable = yes', 'smtpd_sasl_type = dovecot'],
        ...[`smtpd_sasl_path = inet:127.0.0.1:${dovecot.authPort}`, 'smtpd_tls_auth_only = yes'],
        ...['mynetworks = 192.0.2.1/32', 'smtpd_recipient_restrictions = permit_sasl_authenticated, reject'],
      ],
    });
    if ('missing' in postfix) return context.skip(postfix.missing);
    kept(postfix);
    const large = kept(await ScriptedPeer.start());
    const connector = (name: string, domain: string, port: number, more: string): string =>
      `  - { name: ${name}, addressSpaces: [{ domain: "${domain}" }], smartHosts: [{ host: 127.0.0.1, port: ${port} }], ${more} }`;
    const cluster = kept(
      await startCluster(
        (state) =>
          `${twoSites(state, {
            ...{ perSite: [2, 0], frontends: 1, listener: 'tls: None, relayFrom: [127.0.0.0/8]' },
            spec: [
              'sendConnectors:',
              connector(
                'small',
                'far.example',
                postfix.smtpPort,
                'tls: Required, auth: { secretRef: { name: relay } }, maxMessageSize: 64Ki',
              ),
              connector('large', '*', large.port, 'tls: None'),
            ],
          }).trimEnd()}\n---\napiVersion: v1\nkind: Secret\nmetadata: { name: relay }\nstringData: { username: us, password: ${DOVECOT_PASSWORD} }\n`,
        { environment: { NODE_EXTRA_CA_CERTS: file('ca.pem') } },
      ),
    );
    const [target] = cluster.targets();
    if (target === undefined) throw new Error('no front end');
    const connection = await SmtpConnection.open(target, 60_000);
    for (const body of ['small', 'x'.repeat(70).concat('\r\n').repeat(1_000)])
      for (const [part, code] of [
        ['MAIL FROM:<sender@example.com>', 250],
        ['RCPT TO:<bob@far.example>', 250],
        ['DATA', 354],
        [`Subject: out\r\n\r\n${body}\r\n.`, 250],
      ] as const) {
        connection.send(`${part}\r\n`);
        await connection.expect(code, part.slice(0, 20));
      }
    connection.close();
    await until('one at Postfix', async () => (await postfix.delivered()).length === 1, { deadlineMs: 30_000 });
    await until('one at the other', () => large.messages.length === 1, { deadlineMs: 30_000 });
    expect((await postfix.delivered())[0]).toMatch(/\r?\nsmall\r?\n/);
    expect(await postfix.log()).toMatch(/sasl_method=PLAIN, sasl_username=us/);
    expect(await cluster.total('mailcluster_deferred_total')).toBe(0);
    const route = async (...args: string[]): Promise<string> =>
      (await mailcluster('route', '--state', cluster.state, '--to', 'bob@far.example', ...args)).stdout;
    expect(await route()).toMatch(
      /Goes through send connector small, .*\n.*address space far\.example .*\n(.*\n){2} {4}127\.0\.0\.1:\d+, TLS with a proven certificate, AUTH with Secret relay\n {2}Otherwise:\n {4}large: address space \* is a wider match\n/,
    );
    expect(await route('--size', '1Mi')).toMatch(
      /send connector large(.|\n)*Otherwise:\n {4}small: takes at most 65536 bytes, this is 1048576\n/,
    );
  },
  TIMEOUT_MS,
);
