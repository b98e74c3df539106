/** What a connector says to its smart hosts: passwords over TLS only, encryption with and without proof, from which address. Against Postfix where it can be had. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ConnectorSession } from '../../common/config.ts';
import type { CopyId, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { credentialsIn } from '../../transport/runtime/connector-credentials.ts';
import {
  createDeliveryAgent,
  type DeliveryAgentOptions,
  type DeliverySettings,
} from '../../transport/runtime/delivery.ts';
import type { DeliveryAgent, RecipientResult } from '../../transport/runtime/delivery-api.ts';
import { DOVECOT_PASSWORD, Dovecot } from '../rigs/dovecot.ts';
import { Postfix } from '../rigs/postfix.ts';
import { type PeerScript, ScriptedPeer } from '../rigs/scripted-peer.ts';
import { testCertificate } from '../rigs/test-certificate.ts';
import { sampleEnvelope } from './peer-samples.ts';

const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
});
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

let secrets = '';
beforeEach(async () => {
  secrets = await mkdtemp(join(tmpdir(), 'mailcluster-secrets-'));
  kept({ [Symbol.asyncDispose]: () => rm(secrets, { recursive: true, force: true }) });
});
async function secret(name: string, username: string, password: string): Promise<void> {
  await mkdir(join(secrets, name), { recursive: true });
  await writeFile(join(secrets, name, 'username'), username);
  await writeFile(join(secrets, name, 'password'), password);
}

interface How extends Partial<ConnectorSession> {
  readonly tls?: 'None' | 'Opportunistic' | 'Required';
  readonly ca?: string;
}
const PASSWORD: How = { credentials: 'relay', tls: 'Required' };

function agentWith(options: Partial<DeliveryAgentOptions>): DeliveryAgent {
  const agent = createDeliveryAgent({
    ...{ clock: systemClock, log: silentLogger, metrics: silentMetrics, random: systemRandom },
    ...{ hostname: 'us.test', member: 'transport-0', credentials: credentialsIn(secrets) },
    dns: (servers) => nodeDns(systemClock, servers),
    readBody: async function* () {
      yield Buffer.from('Subject: out\r\n\r\nhello\r\n');
    },
    onDamaged: (id) => {
      throw new Error(`damaged: ${id}`);
    },
    ...options,
  });
  kept({ [Symbol.asyncDispose]: () => agent.close() });
  return agent;
}

function deliver(
  port: number,
  { tls = 'Required', ca, ...session }: How,
  agent = agentWith(ca === undefined ? {} : { settings: { ca } }),
  to: readonly string[] = ['bob@far.test'],
): Promise<readonly RecipientResult[]> {
  const said = { isUnproven: false, credentials: null, sourceAddress: null, ...session };
  return new Promise((resolve) =>
    agent.start(
      {
        ...{ requestId: 1, copyId: 'COPY' as CopyId, deliveryId: 'COPY', contentKey: null, mayBeRepeat: false },
        epoch: { try: 1, term: 0, owner: 'ME' as Identity },
        envelope: { ...sampleEnvelope, recipients: [], body: '7BIT', declaredSizeBytes: null },
        sizeBytes: 30,
        route: { kind: 'smartHost', connector: 'out', hosts: [{ host: '127.0.0.1', port }], tls, session: said },
        recipients: to.map((address, at) => ({ index: 3 + at, recipient: { address } })),
        mayBegin: () => true,
      },
      resolve,
    ),
  );
}

async function peer(
  script: PeerScript,
  name = '127.0.0.1',
): Promise<{ readonly server: ScriptedPeer; readonly ca: string }> {
  const { ca, ...tls } = await testCertificate(name);
  return {
    server: kept(await ScriptedPeer.start({ tls, capabilities: ['STARTTLS', 'AUTH LOGIN PLAIN'], ...script })),
    ca,
  };
}

describe('a password for the smart host', () => {
  test('a real Postfix relays for who knows it, and for nobody else; a Secret that was corrected is read anew', async (context) => {
    const dovecot = await Dovecot.start();
    if ('missing' in dovecot) return context.skip(dovecot.missing);
    kept(dovecot);
    const { ca, cert, key } = await testCertificate('127.0.0.1');
    const files = { cert: join(secrets, 'cert.pem'), key: join(secrets, 'key.pem') };
    await writeFile(files.cert, cert);
    await writeFile(files.key, key, { mode: 0o600 });
    const postfix = await Postfix.start({
      role: { kind: 'accept' },
      settings: [
        ...[
          'smtpd_tls_security_level = may',
          `smtpd_tls_cert_file = ${files.cert}`,
          `smtpd_tls_key_file = ${files.key}`,
        ],
        ...[
          'smtpd_sasl_auth_enable = yes',
          'smtpd_sasl_type = dovecot',
          `smtpd_sasl_path = inet:127.0.0.1:${dovecot.authPort}`,
        ],
        ...['smtpd_tls_auth_only = yes', 'mynetworks = 192.0.2.1/32'],
        'smtpd_recipient_restrictions = permit_sasl_authenticated, reject',
      ],
    });
    if ('missing' in postfix) return context.skip(postfix.missing);
    kept(postfix);
    await secret('relay', 'bob', 'wrong');
    expect(await deliver(postfix.smtpPort, { ...PASSWORD, ca })).toMatchObject([
      { kind: 'deferred', scope: 'host', reply: expect.stringMatching(/^4\.7\.0 .*authentication refused: 535/) },
    ]);
    expect(await deliver(postfix.smtpPort, { tls: 'Required', ca })).toMatchObject([{ kind: 'failed' }]);
    await secret('relay', 'bob', `${DOVECOT_PASSWORD}\n`);
    expect(await deliver(postfix.smtpPort, { ...PASSWORD, ca })).toMatchObject([{ index: 3, kind: 'relayed' }]);
    expect(await postfix.log()).toMatch(/sasl_method=PLAIN, sasl_username=bob/);
  });

  test('LOGIN where PLAIN is not offered', async () => {
    await secret('relay', 'bob', 'secret');
    const answers = ['334 VXNlcm5hbWU6', '334 UGFzc3dvcmQ6', '235 2.7.0 welcome'];
    const isPart = (verb: string): boolean =>
      verb === 'AUTH' || !['EHLO', 'STARTTLS', 'MAIL', 'RCPT', 'DATA', 'QUIT', 'RSET'].includes(verb);
    const { server, ca } = await peer({
      capabilities: ['STARTTLS', 'AUTH LOGIN CRAM-MD5'],
      onCommand: (verb) => (isPart(verb) ? (answers.shift() ?? null) : null),
    });
    expect(await deliver(server.port, { ...PASSWORD, ca })).toMatchObject([{ kind: 'relayed' }]);
    const base64 = (text: string): string => Buffer.from(text).toString('base64');
    expect(server.lines).toEqual(expect.arrayContaining(['AUTH LOGIN', base64('bob'), base64('secret')]));
  });

  test.each<[string, PeerScript, string, RegExp]>([
    ['without STARTTLS', { capabilities: ['AUTH PLAIN'] }, '127.0.0.1', /^4\.7\.5 .*STARTTLS is not offered/],
    ['with a certificate of another name', {}, 'other.test', /^4\.7\.5 .*TLS failed/],
    ['where AUTH is not offered', { capabilities: ['STARTTLS'] }, '127.0.0.1', /^4\.7\.0 .*AUTH is not offered/],
    [
      'where only others are offered',
      { capabilities: ['STARTTLS', 'AUTH GSSAPI'] },
      '127.0.0.1',
      /^4\.7\.0 .*without PLAIN and LOGIN/,
    ],
  ])('%s nothing of it is said, and the message waits', async (_title, script, name, reason) => {
    await secret('relay', 'bob', 'secret');
    const { server, ca } = await peer(script, name);
    expect(await deliver(server.port, { ...PASSWORD, ca })).toMatchObject([
      { kind: 'deferred', scope: 'host', reply: expect.stringMatching(reason) },
    ]);
    expect(server.lines.filter((line) => /^(AUTH|MAIL)/i.test(line))).toEqual([]);
  });

  test.each<[string, (() => Promise<void>) | null, RegExp]>([
    ['a Secret that is not there', null, /credentials of Secret relay: ENOENT/],
    ['an empty password', () => secret('relay', 'bob', ''), /password is empty/],
    ['a password of two lines', () => secret('relay', 'bob', 'a\nb'), /more than one line/],
  ])('%s: the message waits, and the file is named', async (_title, prepare, reason) => {
    await prepare?.();
    const { server, ca } = await peer({});
    expect(await deliver(server.port, { ...PASSWORD, ca })).toMatchObject([
      { kind: 'deferred', scope: 'host', reply: expect.stringMatching(reason) },
    ]);
    expect(server.connections).toBe(0);
  });
});

describe('encryption without proof', () => {
  test('takes a certificate of any name, and nothing in the clear', async () => {
    const { server } = await peer({}, 'other.test');
    expect(await deliver(server.port, { isUnproven: true })).toMatchObject([{ kind: 'relayed' }]);
    expect(await deliver(server.port, { isUnproven: false })).toMatchObject([{ kind: 'deferred' }]);
    const plain = kept(await ScriptedPeer.start());
    expect(await deliver(plain.port, { isUnproven: true })).toMatchObject([
      { kind: 'deferred', reply: expect.stringContaining('STARTTLS is not offered') },
    ]);
    expect(plain.messages).toEqual([]);
  });
});

describe('source address', () => {
  test('connections come from it; one that this machine does not have is named', async () => {
    const seen: (string | undefined)[] = [];
    const server = kept(await ScriptedPeer.start({}));
    server.onSocket = ({ remoteAddress }) => seen.push(remoteAddress);
    const from = (sourceAddress: string) => deliver(server.port, { tls: 'None', sourceAddress });
    expect(await from('127.0.0.77')).toMatchObject([{ kind: 'relayed' }]);
    expect(seen).toEqual(['127.0.0.77']);
    expect(await from('192.0.2.99')).toMatchObject([
      {
        kind: 'deferred',
        reply: expect.stringContaining('192.0.2.99 is not an address of this machine; correct sourceAddress'),
      },
    ]);
  });
});

describe('what nobody foresaw', () => {
  /** Reads of the Secret fail this many times in a way that they should not. */
  function faulty(times: number, most: Partial<DeliverySettings> = {}) {
    const errors: string[] = [];
    let left = times;
    const agent = agentWith({
      credentials: async (name) => {
        if (left-- > 0) throw new TypeError('nobody foresaw it');
        return credentialsIn(secrets)(name);
      },
      log: { ...silentLogger, error: (_fields, text) => errors.push(text) },
      settings: most,
    });
    return { agent, errors };
  }
  const waits = { kind: 'deferred', scope: 'message', reply: '4.3.0 internal error: nobody foresaw it' };
  const said = 'delivery attempt ended in an internal error';

  test('ends one delivery, which waits; the log says so; who waits for its place gets it', async () => {
    await secret('relay', 'bob', 'secret');
    const { server, ca } = await peer({ onCommand: (verb) => (verb === 'AUTH' ? '235 2.7.0 welcome' : null) });
    const { agent, errors } = faulty(2, { ca, maxConnectionsPerDestination: 1 });
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => deliver(server.port, PASSWORD, agent)));
    expect([first, second]).toEqual([[{ index: 3, ...waits }], [{ index: 3, ...waits }]]);
    expect(third).toMatchObject([{ kind: 'relayed' }]);
    expect(errors).toEqual([said, said]);
    expect(await deliver(server.port, PASSWORD, agent)).toMatchObject([{ kind: 'relayed' }]);
  });

  test('in one transaction changes nothing for the recipients of the others', async () => {
    await secret('relay', 'bob', 'secret');
    const { server, ca } = await peer({ onCommand: (verb) => (verb === 'AUTH' ? '235 2.7.0 welcome' : null) });
    const { agent, errors } = faulty(1, { ca, maxRecipientsPerTransaction: 1 });
    expect(await deliver(server.port, PASSWORD, agent, ['bob@far.test', 'eve@far.test'])).toMatchObject([
      { index: 3, ...waits },
      { index: 4, kind: 'relayed' },
    ]);
    expect(errors).toEqual([said]);
  });
});
