/**
 * What strangers send, through the whole system: who sent it is found out with a real name server and written above the message, whoever delivers it - also when the primary and its disk are
 * gone; what pretends to be ours is taken out, the rest is the message byte for byte; DNS that is silent costs no mail.
 */
import { dkimSign } from 'mailauth/lib/dkim/sign.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { dkimpy } from '../rigs/dkimpy.ts';
import { DnsServer } from '../rigs/dns-server.ts';
import { newSigningKey } from '../rigs/signing-key.ts';
import { signal } from './cluster-view.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const TIMEOUT_MS = 180_000;
const US = 'mx.example.com';

const { pem: privateKey, record } = newSigningKey();
const how = {
  signingDomain: 'sender.example',
  selector: 's1',
  privateKey,
};

let cluster: Cluster;
let dns: DnsServer;

beforeAll(async () => {
  dns = await DnsServer.start({
    'sender.example': { txt: ['v=spf1 ip4:127.0.0.1 -all'] },
    's1._domainkey.sender.example': { txt: [record] },
    '_dmarc.sender.example': { txt: ['v=DMARC1; p=reject'] },
    'other.example': { txt: ['v=spf1 -all'] },
    '_dmarc.other.example': { txt: ['v=DMARC1; p=quarantine'] },
    'silent.example': 'silent',
    '_dmarc.silent.example': 'silent',
  });
  const on = `authenticationResults: { authservId: ${US}, timeout: 5s, dnsServers: ["${dns.server}"] }`;
  cluster = await startCluster((directory) =>
    twoSites(directory, {
      ...{ perSite: 1, frontends: 1, shadowRedundancy: 'resubmitTimeSpan: 10s' },
      listener: `tls: None, ${on} }, { name: trusted, port: 2525, tls: None, relayFrom: [127.0.0.0/8], ${on}`,
    }),
  );
}, TIMEOUT_MS);
afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await dns?.[Symbol.asyncDispose]();
}, TIMEOUT_MS);

async function send(content: string, from: string, listener = 'smtp'): Promise<void> {
  const target = (await cluster.runFile()).listeners.find(({ name }) => name === listener);
  if (target === undefined) throw new Error(`no listener ${listener}`);
  const connection = await SmtpConnection.open(target, 60_000);
  for (const [part, code] of [
    [`MAIL FROM:<${from}>`, 250],
    ['RCPT TO:<bob@example.com>', 250],
    ['DATA', 354],
    [`${content.replace(/(?<=^|\r\n)\./g, '..')}.`, 250],
  ] as const) {
    connection.send(`${part}\r\n`);
    await connection.expect(code, part.slice(0, 20));
  }
  connection.close();
}

const message = (subject: string, domain: string): string =>
  `From: Ann <ann@${domain}>\r\nTo: bob@example.com\r\nSubject: ${subject}\r\nMessage-ID: <${subject}@${domain}>\r\n\r\n.A line\r\n`;

async function signed(text: string): Promise<string> {
  const { signatures } = await dkimSign(text, { ...how, signatureData: [how] });
  return signatures + text;
}

/** The message as the mailbox has it: our fields, and what follows them. */
async function delivered(subject: string): Promise<{ readonly ours: string; readonly rest: string }> {
  const found = await until(
    subject,
    async () => (await cluster.delivered()).find(({ bytes }) => bytes.includes(`\r\nSubject: ${subject}\r\n`)) ?? null,
    { deadlineMs: 60_000, everyMs: 100 },
  );
  const text = found.bytes.toString('latin1');
  const end = /\r\nX-MailCluster-Delivery: .*\r\nX-MailCluster-Content: .*\r\n/.exec(text);
  if (end === null) throw new Error(`no fields of ours: ${text}`);
  const at = end.index + end[0].length;
  return { ours: text.slice(0, at), rest: text.slice(at) };
}

/** Unfolded values of the field. */
const results = (text: string): readonly string[] =>
  [...text.replace(/\r\n(?=[ \t])/g, '').matchAll(/^Authentication-Results: (.*)$/gm)].map(([, value = '']) =>
    value.trimEnd(),
  );

const verdicts = (value = ''): string =>
  value
    .replace(/ \([^)]*\)/g, '')
    .split('; ')
    .slice(1)
    .join('; ');

test(
  'spf, dkim and dmarc pass; what a stranger wrote in our name is gone, and every other byte is there',
  async (context) => {
    const verifier = await dkimpy();
    const text = await signed(message('good', 'sender.example'));
    const forged = `authentication-results: (x)\r\n ${US.toUpperCase()};\r\n\tdmarc=pass\r\n`;
    const foreign = 'Authentication-Results: mx.sender.example; auth=pass\r\n';
    await send(foreign + forged + text, 'ann@sender.example');
    const { ours, rest } = await delivered('good');
    expect(rest).toBe(foreign + text);
    expect(results(ours)).toHaveLength(1);
    const [value = ''] = results(ours);
    expect(value.startsWith(`${US}; spf=pass (${US}: domain of ann@sender.example designates 127.0.0.1`)).toBe(true);
    expect(verdicts(value)).toMatch(
      /^spf=pass smtp\.mailfrom=sender\.example; dkim=pass header\.d=sender\.example header\.i=@sender\.example header\.s=s1 header\.a=rsa-sha256 header\.b=\S+; dmarc=pass policy\.dmarc=reject header\.from=sender\.example$/,
    );
    // Above the field of the host that found it out (RFC 8601 5), behind those of the store.
    expect(ours.indexOf('\r\nReceived: from ')).toBeGreaterThan(ours.indexOf('Authentication-Results: '));
    const [frontend] = (await cluster.runFile()).frontends;
    const page = await (await fetch(frontend?.metricsUrl ?? '')).text();
    expect(page).toMatch(/^mailcluster_authentication_results_total\{[^}]*method="dmarc",result="pass"[^}]*\} 1$/m);
    if ('missing' in verifier) return context.skip(verifier.missing);
    // The signature is still good for somebody else's code, at the mailbox.
    expect(await verifier.verify(Buffer.from(rest, 'latin1'), { 's1._domainkey.sender.example': record })).toEqual([
      { domain: 'sender.example', selector: 's1', good: true },
    ]);
  },
  TIMEOUT_MS,
);

test(
  'who is not who he says is delivered all the same, and it is written',
  async () => {
    const text = (await signed(message('changed', 'sender.example'))).replace('A line', 'Another line');
    await send(text, 'ann@other.example');
    expect(verdicts(results((await delivered('changed')).ours)[0])).toMatch(
      /^spf=fail smtp\.mailfrom=other\.example; dkim=fail .*; dmarc=fail policy\.dmarc=reject header\.from=sender\.example$/,
    );
    await send(message('spoofed', 'other.example'), 'ann@sender.example');
    expect(verdicts(results((await delivered('spoofed')).ours)[0])).toBe(
      'spf=pass smtp.mailfrom=sender.example; dkim=none; dmarc=fail policy.dmarc=quarantine header.from=other.example',
    );
  },
  TIMEOUT_MS,
);

test(
  'DNS that is silent: temperror, accepted within the time',
  async () => {
    const beganMs = performance.now();
    await send(message('unheard', 'silent.example'), 'ann@silent.example');
    // 5 s, and what the machine takes for the rest.
    expect(performance.now() - beganMs).toBeLessThan(15_000);
    expect(verdicts(results((await delivered('unheard')).ours)[0])).toBe(
      'spf=temperror smtp.mailfrom=silent.example; dkim=none; dmarc=temperror header.from=silent.example',
    );
  },
  TIMEOUT_MS,
);

test(
  'a client in relayFrom is not looked at, and what it says of others stays',
  async () => {
    const before = dns.asked.length;
    const text = `Authentication-Results: ${US}; spf=pass smtp.mailfrom=x.example\r\n${message('trusted', 'other.example')}`;
    await send(text, 'ann@other.example', 'trusted');
    const { ours, rest } = await delivered('trusted');
    expect(results(ours)).toEqual([]);
    expect(rest).toBe(text);
    expect(dns.asked.length).toBe(before);
  },
  TIMEOUT_MS,
);

test(
  'the primary dies with its disk before it has delivered: who takes over writes the same field, and takes out the same',
  async () => {
    const [store] = (await cluster.runFile()).stores;
    if (store?.pid == null) throw new Error('no store');
    signal(store.pid, 'SIGSTOP');
    try {
      await send(
        `Authentication-Results: ${US}; dkim=pass\r\n${await signed(message('orphan', 'sender.example'))}`,
        'ann@sender.example',
      );
      const primary = await until(
        'two copies of it on disk',
        async () => {
          const copies = (await cluster.stored()).filter(({ where }) => where === 'transit');
          return copies.length < 2 ? null : (copies.find(({ queue }) => queue !== 'shadow') ?? null);
        },
        { deadlineMs: 30_000, everyMs: 100 },
      );
      await cluster.destroy(primary.member);
    } finally {
      signal(store.pid, 'SIGCONT');
    }
    const { ours, rest } = await delivered('orphan');
    expect(verdicts(results(ours)[0])).toMatch(/^spf=pass .*; dkim=pass .*; dmarc=pass /);
    expect(results(rest)).toEqual([]);
  },
  TIMEOUT_MS,
);

test('validate says what it does not like about the setting', async () => {
  const bad = 'examples/invalid/authentication-results-of-users.yaml';
  const { code, stderr } = await mailcluster('validate', '-f', bad);
  expect(code).not.toBe(0);
  expect(stderr).toContain('spec.frontend.listeners[0].authenticationResults');
});
