/**
 * A mail filter of other people before a whole cluster: OpenDKIM signs what comes in, byte for byte, and whoever delivers writes its field - also when the primary and its disk are gone. A
 * filter that is stopped or killed costs no mail: its clients are told to come again, or it goes on without, as the listener says.
 */
import { dkimVerify } from 'mailauth/lib/dkim/verify.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { dkimpy } from '../rigs/dkimpy.ts';
import { freePort } from '../rigs/dovecot.ts';
import { OpenDkim } from '../rigs/opendkim.ts';
import { answer, type Script, ScriptedMilter } from '../rigs/scripted-milter.ts';
import { newSigningKey } from '../rigs/signing-key.ts';
import { signal } from './cluster-view.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const TIMEOUT_MS = 180_000;

const { pem: privateKey, record } = newSigningKey();
const options = {
  domain: 'example.com',
  selector: 's1',
  privateKey,
};

let cluster: Cluster;
let scripted: ScriptedMilter;
let opendkim: OpenDkim | { readonly missing: string };
let signerPort: number;

/** What X-Verdict of the message asks for. */
const obedient: Script = ({ command, data }) => {
  const asked = command === 'L' && /^X-Verdict\0 (\w+)\0$/.exec(data.toString('latin1'))?.[1];
  if (asked === 'reject') return answer('y', '554 5.7.7 Eicar\0');
  if (asked === 'later') return answer('t');
  if (asked === 'discard') return answer('d');
  return asked === 'hang' ? 'silence' : null;
};

beforeAll(async () => {
  signerPort = await freePort();
  opendkim = await OpenDkim.start(options, signerPort);
  scripted = await ScriptedMilter.start(obedient);
  const filter = (port: number, more: string): string =>
    `contentFilter: { address: "127.0.0.1:${port}", timeout: 2s${more} }`;
  cluster = await startCluster((directory) =>
    twoSites(directory, {
      ...{ perSite: 1, frontends: 1, shadowRedundancy: 'resubmitTimeSpan: 10s' },
      listener:
        `tls: None, ${filter(scripted.port, '')} }, ` +
        `{ name: lenient, port: 2526, tls: None, ${filter(scripted.port, ', failurePolicy: Accept')} }, ` +
        `{ name: signing, port: 2525, tls: None, ${filter(signerPort, '')}`,
    }),
  );
}, TIMEOUT_MS);
afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await scripted?.[Symbol.asyncDispose]();
  if (opendkim !== undefined && !('missing' in opendkim)) await opendkim[Symbol.asyncDispose]();
}, TIMEOUT_MS);

/** What the client hears at the end. */
async function send(content: string, listener: string, code = 250): Promise<void> {
  const target = (await cluster.runFile()).listeners.find(({ name }) => name === listener);
  if (target === undefined) throw new Error(`no listener ${listener}`);
  const connection = await SmtpConnection.open(target, 60_000);
  for (const [part, expected] of [
    ['MAIL FROM:<ann@example.com>', 250],
    ['RCPT TO:<bob@example.com>', 250],
    ['DATA', 354],
    [`${content.replace(/(?<=^|\r\n)\./g, '..')}.`, code],
  ] as const) {
    connection.send(`${part}\r\n`);
    await connection.expect(expected, part.slice(0, 20));
  }
  connection.close();
}

const message = (subject: string, more = ''): string =>
  `From: Ann <ann@example.com>\r\nTo:   bob@example.com,\r\n\tcy@example.com\r\n${more}Subject: ${subject}\r\n` +
  `Message-ID: <${subject}@example.com>\r\nDate: Mon, 30 Nov 2026 10:00:00 +0000\r\n\r\n.A line\r\n trailing  \r\n\r\n\r\n`;

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

/** For mailauth, and for dkimpy where it can be had. */
async function verdicts({ ours, rest }: { readonly ours: string; readonly rest: string }): Promise<readonly unknown[]> {
  const bytes = Buffer.from(ours + rest, 'latin1');
  const { results } = await dkimVerify(bytes, { resolver: async () => [[record]] });
  const verifier = await dkimpy();
  const other = 'missing' in verifier ? [] : await verifier.verify(bytes, { 's1._domainkey.example.com': record });
  return [...results.map(({ status }) => status.result), ...other.map(({ good }) => good)];
}

/** By result or reason. */
async function counted(listener: string, what: string): Promise<number> {
  const [frontend] = (await cluster.runFile()).frontends;
  const page = await (await fetch(frontend?.metricsUrl ?? '')).text();
  const labels = [`listener="${listener}"`, `="${what}"`];
  const line = page
    .split('\n')
    .find((one) => one.startsWith('mailcluster_content_filter_') && labels.every((label) => one.includes(label)));
  return Number(line?.split(' ').at(-1) ?? Number.NaN);
}

test(
  'OpenDKIM signs what comes in: its field is above the message, every byte is as it was, and the signature is good at the mailbox',
  async (context) => {
    if ('missing' in opendkim) return context.skip(opendkim.missing);
    const text = message('signed');
    await send(text, 'signing');
    const found = await delivered('signed');
    expect(found.rest).toBe(text);
    expect(found.ours).toMatch(/^DKIM-Signature: [\s\S]*d=example\.com; s=s1;[\s\S]*\r\nReceived: from /m);
    const said = await verdicts(found);
    expect(said).toContain('pass');
    expect(
      said.every((one) => one === 'pass' || one === true),
      JSON.stringify(said),
    ).toBe(true);
    expect(await counted('signing', 'accepted')).toBe(1);
  },
  TIMEOUT_MS,
);

test(
  'what the filter refuses, defers or would throw away is nowhere, and its client hears why',
  async () => {
    for (const [verdict, code] of [
      ['reject', 554],
      ['later', 451],
      ['discard', 550],
    ] as const)
      await send(message(verdict, `X-Verdict: ${verdict}\r\n`), 'smtp', code);
    await send(message('fine'), 'smtp');
    await delivered('fine');
    const subjects = (await cluster.delivered()).map(
      ({ bytes }) => /^Subject: (.*)\r$/m.exec(bytes.toString('latin1'))?.[1],
    );
    expect(subjects.filter((one) => ['reject', 'later', 'discard'].includes(one ?? ''))).toEqual([]);
    await until('no copy under way', async () => (await cluster.stored()).every(({ where }) => where !== 'transit'), {
      deadlineMs: 30_000,
      everyMs: 200,
    });
    expect(await counted('smtp', 'discarded')).toBe(1);
  },
  TIMEOUT_MS,
);

test(
  'a filter that hangs: 451 within its time where the listener defers, and the message without it where it accepts',
  async () => {
    const beganMs = performance.now();
    await send(message('hung', 'X-Verdict: hang\r\n'), 'smtp', 451);
    await send(message('let-through', 'X-Verdict: hang\r\n'), 'lenient', 250);
    // 2 s each, and what the machine takes for the rest.
    expect(performance.now() - beganMs).toBeLessThan(20_000);
    expect((await delivered('let-through')).ours).not.toContain('DKIM');
    for (const [listener, result] of [
      ['smtp', 'failedDeferred'],
      ['lenient', 'failedAccepted'],
    ] as const)
      expect([await counted(listener, 'timeout'), await counted(listener, result)]).toEqual([1, 1]);
    expect((await cluster.delivered()).some(({ bytes }) => bytes.includes('Subject: hung'))).toBe(false);
    await until('its connections to be gone', async () => scripted.open === 0, { deadlineMs: 10_000 });
  },
  TIMEOUT_MS,
);

test(
  'the primary dies with its disk before it has delivered: who takes over writes the same signature',
  async (context) => {
    if ('missing' in opendkim) return context.skip(opendkim.missing);
    const [store] = (await cluster.runFile()).stores;
    if (store?.pid == null) throw new Error('no store');
    signal(store.pid, 'SIGSTOP');
    const text = message('orphan');
    try {
      await send(text, 'signing');
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
    const found = await delivered('orphan');
    expect(found.rest).toBe(text);
    const said = await verdicts(found);
    expect(said).toContain('pass');
    expect(
      said.every((one) => one === 'pass' || one === true),
      JSON.stringify(said),
    ).toBe(true);
  },
  TIMEOUT_MS,
);

test(
  'OpenDKIM is killed in between: 451 until it is back, then signed again',
  async (context) => {
    if ('missing' in opendkim) return context.skip(opendkim.missing);
    await opendkim[Symbol.asyncDispose]();
    await send(message('unsigned'), 'signing', 451);
    expect(await counted('signing', 'connect')).toBe(1);
    opendkim = await OpenDkim.start(options, signerPort);
    await send(message('again'), 'signing');
    expect(await verdicts(await delivered('again'))).toContain('pass');
  },
  TIMEOUT_MS,
);

test('validate says what it does not like about the setting', async () => {
  const { code, stderr } = await mailcluster('validate', '-f', 'examples/invalid/content-filter-without-port.yaml');
  expect(code).not.toBe(0);
  expect(stderr).toContain('spec.frontend.listeners[0].contentFilter.address');
});
