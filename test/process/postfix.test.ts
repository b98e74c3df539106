/** Real neighbours: Postfix and smtp-source as previous hops, Postfix (STARTTLS) and smtp-sink as next hops of a whole MailCluster. */
import { type ChildProcess, spawn } from 'node:child_process';
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, type TestContext, test } from 'vitest';
import { SmtpConnection } from '../../examples/demo/smtp-connection.ts';
import { until } from '../house/until.ts';
import { freePort, isListening } from '../rigs/dovecot.ts';
import { Postfix, postfixTool, runTool } from '../rigs/postfix.ts';
import { testCertificate } from '../rigs/test-certificate.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { balance, type Delivered, ledgerIdOf, makeMessage, notAccepted, type TestMessage, verdict } from './ledger.ts';
import { sendAll } from './smtp-sender.ts';

const TIMEOUT_MS = 180_000;
const RELAY = 'tls: StartTls, relayFrom: [127.0.0.0/8]';

let cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  const all = cleanups.reverse();
  cleanups = [];
  for (const cleanup of all) await cleanup();
}, 120_000);

async function cluster(...from: Parameters<typeof startCluster>): Promise<Cluster> {
  const started = await startCluster(...from);
  cleanups.push(() => started[Symbol.asyncDispose]());
  return started;
}

/** Skips the test, with the reason, when Postfix cannot be had. */
async function postfix(context: TestContext, options: Parameters<typeof Postfix.start>[0]): Promise<Postfix> {
  const started = await Postfix.start(options);
  if ('missing' in started) return context.skip(started.missing);
  cleanups.push(() => started[Symbol.asyncDispose]());
  return started;
}

async function source(context: TestContext, port: number, ...options: string[]): Promise<void> {
  const command = await postfixTool('smtp-source', [...options, `127.0.0.1:${port}`]);
  if ('missing' in command) return context.skip(command.missing);
  runTool(command);
}

/** smtp-sink on `port`; ends with the returned function or with the test. */
async function sink(context: TestContext, port: number, ...options: string[]): Promise<() => Promise<void>> {
  const command = await postfixTool('smtp-sink', [...options, `127.0.0.1:${port}`, '100']);
  if ('missing' in command) return context.skip(command.missing);
  const child: ChildProcess = spawn(command.file, [...command.args], { stdio: 'ignore' });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const end = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
  };
  cleanups.push(end);
  await until('smtp-sink to listen', () => isListening(port), { deadlineMs: 10_000 });
  return end;
}

const portOf = (of: Cluster, at = 0): number => of.targets().at(at)?.port ?? 0;

const mixed = (count: number, name: string, recipient: string, from?: string): readonly TestMessage[] => {
  const sizes = [900, 4_000, 75_000, 2_000, 20_000, 1_000_000, 1_500, 6_000];
  return Array.from({ length: count }, (_, at) => makeMessage(`${name}${at}`, recipient, sizes[at % 8] ?? 900, from));
};

const messageIds = (mails: readonly Delivered[]): readonly string[] =>
  mails.map((mail) => /^Message-Id: (\S+)/im.exec(mail.bytes.toString('latin1'))?.[1] ?? 'none');

describe('previous hop', () => {
  test(
    'Postfix relays over STARTTLS with pipelining; smtp-source pushes many sessions: all of it arrives once',
    async (context) => {
      const system = await cluster((directory) =>
        twoSites(directory, { perSite: 1, listener: RELAY, frontend: ['limits: { maxConnectionsPerClient: 50 }'] }),
      );
      const relay = await postfix(context, {
        role: { kind: 'relay', port: portOf(system) },
        settings: ['smtp_tls_security_level = may', 'smtp_tls_loglevel = 1', 'smtp_destination_concurrency_limit = 8'],
      });
      // Ours, byte by byte, through Postfix.
      const messages = mixed(40, 'px', 'ann@example.com');
      const entry = { host: '127.0.0.1', port: relay.smtpPort };
      const ledger = await sendAll({ targets: () => [entry], messages, sessions: 6 });
      expect(notAccepted(ledger)).toEqual([]);
      // Volume from the load tool, through Postfix and directly.
      const usual = ['-f', 'load@example.org', '-t', 'load@example.com'];
      await source(context, relay.smtpPort, '-s', '5', '-m', '60', '-l', '4096', ...usual);
      await source(context, portOf(system), '-s', '20', '-m', '200', '-l', '4096', ...usual);
      await source(context, portOf(system, 1), '-s', '4', '-m', '20', '-l', '300000', ...usual);
      await source(context, portOf(system), '-d', '-s', '3', '-m', '30', '-l', '75000', '-r', '1', ...usual);
      await until('the queue of Postfix to be empty', async () => (await relay.queued()) === 0, { deadlineMs: 60_000 });
      // Postfix puts a Received field in front: what is stored has another digest than what was sent.
      const delivered = await until(
        '350 messages in their mailboxes',
        async () => {
          const all = await system.delivered();
          return all.length >= 350 ? all : null;
        },
        { deadlineMs: 60_000, everyMs: 250 },
      );
      const stored = await system.drained(60_000, []);
      const mine = delivered.filter(({ bytes }) => ledgerIdOf(bytes) !== null);
      expect(verdict(balance(ledger, mine, stored))).toBe('balanced');
      const load = delivered.filter(({ bytes }) => ledgerIdOf(bytes) === null);
      expect(load.map(({ mailbox }) => mailbox).every((mailbox) => mailbox === 'load@example.com')).toBe(true);
      expect([load.length, new Set(messageIds(load)).size]).toEqual([310, 310]);
      const log = await relay.log();
      expect(log.match(/status=sent \(250 2\.0\.0 Ok: queued as /g)).toHaveLength(100);
      expect(log).toMatch(/TLS connection established to 127\.0\.0\.1/);
      console.log(
        `previous hop: ${ledger.length} by Postfix byte by byte, 60 by Postfix, 250 by smtp-source: all delivered once`,
      );
    },
    TIMEOUT_MS,
  );

  test(
    'commands and messages in one packet are answered in order',
    async () => {
      const system = await cluster((directory) => twoSites(directory, { perSite: 1, frontends: 1 }));
      const connection = await SmtpConnection.open({ host: '127.0.0.1', port: portOf(system) });
      const count = 12;
      let sent = '';
      const replies: string[] = [];
      for (let at = 0; at < count; at += 1) {
        // RFC 2920: DATA ends a group; the next one goes with the end of the message.
        connection.send(`${sent}MAIL FROM:<a@example.org>\r\nRCPT TO:<p${at}@example.com>\r\nDATA\r\n`);
        const codes = [];
        for (let reply = 0; reply < (at === 0 ? 3 : 4); reply += 1) {
          const one = await connection.reply();
          codes.push(typeof one === 'string' ? one : one.code);
        }
        replies.push(codes.join(' '));
        sent = `X-Ledger-Id: pipe${at}\r\n\r\nbody ${at}\r\n.\r\n`;
      }
      connection.send(`${sent}QUIT\r\n`);
      const last = [await connection.reply(), await connection.reply()];
      expect([...replies, last.map((one) => (typeof one === 'string' ? one : one.code)).join(' ')]).toEqual([
        '250 250 354',
        ...Array.from({ length: count - 1 }, () => '250 250 250 354'),
        '250 221',
      ]);
      const delivered = await until(
        'all of them in their mailboxes',
        async () => {
          const all = await system.delivered();
          return all.length >= count ? all : null;
        },
        { deadlineMs: 30_000 },
      );
      const found = delivered.map(({ mailbox, bytes }) => [mailbox, ledgerIdOf(bytes)].join(' '));
      expect(found.sort()).toEqual(Array.from({ length: count }, (_, at) => `p${at}@example.com pipe${at}`).sort());
    },
    TIMEOUT_MS,
  );
});

/** Names of domains and where their mail goes. */
const connectors = (...all: readonly (readonly [domain: string, port: number, tls: string])[]): readonly string[] => [
  'sendConnectors:',
  ...all.map(
    ([domain, port, tls], at) =>
      `  - { name: out${at}, addressSpaces: [{ domain: ${domain} }], smartHosts: [{ host: 127.0.0.1, port: ${port} }], tls: ${tls} }`,
  ),
];

async function certified(context: TestContext): Promise<{ readonly server: Postfix; readonly caFile: string }> {
  const { ca, cert, key } = await testCertificate('127.0.0.1');
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-certificate-'));
  cleanups.push(() => rm(directory, { recursive: true, force: true }));
  const files = { ca: join(directory, 'ca.pem'), cert: join(directory, 'cert.pem'), key: join(directory, 'key.pem') };
  await Promise.all([writeFile(files.ca, ca), writeFile(files.cert, cert), writeFile(files.key, key, { mode: 0o600 })]);
  if (process.getuid?.() === 0) await chown(directory, 0, 0);
  const server = await postfix(context, {
    role: { kind: 'accept' },
    settings: [
      'smtpd_tls_security_level = encrypt',
      'smtpd_tls_loglevel = 1',
      `smtpd_tls_cert_file = ${files.cert}`,
      `smtpd_tls_key_file = ${files.key}`,
    ],
  });
  return { server, caFile: files.ca };
}

describe('next hop', () => {
  test(
    'a smart host with STARTTLS: proven for Required, tried for Opportunistic, refused when unproven',
    async (context) => {
      const [trusted, other] = [await certified(context), await certified(context)];
      const system = await cluster(
        (directory) =>
          twoSites(directory, {
            perSite: 1,
            listener: RELAY,
            spec: connectors(
              ['proven.example.net', trusted.server.smtpPort, 'Required'],
              ['tried.example.net', other.server.smtpPort, 'Opportunistic'],
              ['unproven.example.net', other.server.smtpPort, 'Required'],
            ),
          }),
        { environment: { NODE_EXTRA_CA_CERTS: trusted.caFile } },
      );
      const messages = ['proven', 'tried', 'unproven'].flatMap((name) => mixed(6, name, `bob@${name}.example.net`));
      const ledger = await sendAll({ targets: () => system.targets(), messages, sessions: 4 });
      expect(notAccepted(ledger)).toEqual([]);
      const received = async (): Promise<readonly Delivered[]> =>
        [...(await trusted.server.delivered()), ...(await other.server.delivered())].map((text) => ({
          mailbox: /^Delivered-To: (\S+)/im.exec(text)?.[1] ?? '',
          file: '',
          bytes: Buffer.from(text, 'latin1'),
        }));
      await until('12 messages in Postfix', async () => (await received()).length >= 12, { deadlineMs: 60_000 });
      const waiting = await until(
        'only the unproven ones to wait',
        async () => {
          // The step from submission to delivery is lazy: on disk it may not have been taken yet.
          const left = (await system.stored()).filter(({ queue }) => queue === 'delivery' || queue === 'submission');
          return left.length === 6 ? left : null;
        },
        { deadlineMs: 30_000, everyMs: 250 },
      );
      expect(waiting.map(({ to }) => to)).toEqual(waiting.map(() => ['bob@unproven.example.net']));
      expect(verdict(balance(ledger, await received(), waiting))).toBe('balanced');
      expect(await trusted.server.log()).toMatch(/TLS connection established from/);
      expect(await other.server.log()).toMatch(/TLS connection established from/);
      const hops = await mailcluster('queue', '--state', system.state, '-o', 'json');
      expect(hops.stdout).toMatch(/lastError": "[^"]*(certificate|TLS)/i);
    },
    TIMEOUT_MS,
  );

  test(
    '4yz and a drop after the dot are tried again, 5yz comes back to the sender',
    async (context) => {
      const ports = [await freePort(), await freePort(), await freePort()] as const;
      const endSoft = await sink(context, ports[0], '-r', '.');
      await sink(context, ports[1], '-f', 'RCPT');
      const endDrop = await sink(context, ports[2], '-q', '.');
      const system = await cluster((directory) =>
        twoSites(directory, {
          perSite: 1,
          listener: RELAY,
          spec: connectors(
            ['soft.example.net', ports[0], 'None'],
            ['hard.example.net', ports[1], 'None'],
            ['drop.example.net', ports[2], 'None'],
          ),
        }),
      );
      const from = 'ann@example.com';
      const messages = ['soft', 'hard', 'drop'].flatMap((name) => mixed(3, name, `bob@${name}.example.net`, from));
      const ledger = await sendAll({ targets: () => system.targets(), messages, sessions: 3 });
      expect(notAccepted(ledger)).toEqual([]);

      const reports = async (): Promise<readonly string[]> =>
        (await system.delivered()).map(({ mailbox, bytes }) => `To ${mailbox}\n${bytes.toString('latin1')}`);
      const returned = await until(
        'three reports',
        async () => {
          const all = await reports();
          return all.length >= 3 ? all : null;
        },
        { deadlineMs: 60_000, everyMs: 250 },
      );
      for (const report of returned) {
        expect(report).toMatch(/^To ann@example\.com\n/);
        expect(report).toMatch(/^Return-Path: <>/im);
        expect(report).toMatch(/multipart\/report/);
        expect(report).toMatch(/^Final-Recipient: rfc822; ?bob@hard\.example\.net/im);
        expect(report).toMatch(/^Action: failed/im);
      }
      expect(returned.map((report) => /ledger (hard\d)/.exec(report)?.[1]).sort()).toEqual(['hard0', 'hard1', 'hard2']);

      // The others are still there, were tried more than once, and go out when their next hop behaves.
      const before = await system.total('mailcluster_deferred_total');
      await until(
        'further attempts',
        async () => (await system.total('mailcluster_deferred_total')) >= Math.max(before, 6) + 2,
        { deadlineMs: 60_000, everyMs: 250 },
      );
      // A report may be in its mailbox, and not yet known to be.
      const waiting = await until(
        'the six to be all that waits',
        async () => {
          const all = (await system.stored()).filter(({ queue }) => queue === 'delivery');
          return all.length === 6 ? all : null;
        },
        { deadlineMs: 60_000, everyMs: 250 },
      );
      expect(new Set(waiting.flatMap(({ to }) => to))).toEqual(
        new Set(['bob@soft.example.net', 'bob@drop.example.net']),
      );
      await endSoft();
      await endDrop();
      await sink(context, ports[0]);
      await sink(context, ports[2]);
      const stored = await system.drained(
        90_000,
        ledger.filter(({ message }) => !message.id.startsWith('hard')),
      );
      expect(stored.filter(({ queue, kind }) => queue === 'primarySafetyNet' && kind === 'message')).toHaveLength(6);
      expect(await reports()).toHaveLength(3);
    },
    TIMEOUT_MS,
  );
});
