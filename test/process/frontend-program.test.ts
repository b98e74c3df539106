/** The front end as a process of its own: SMTP on one side, TLS with certificates to a scripted transport on the other. */
import { type ChildProcess, fork } from 'node:child_process';
import { mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FrontendConfig, TopologyDocument } from '../../common/config.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { openTlsNetwork, type TlsNetwork } from '../../common/platform/tls-network.ts';
import { SmtpConnection } from '../../examples/demo/smtp-connection.ts';
import { createAuthority, issueCertificate } from '../../operator/pki.ts';
import { until } from '../house/until.ts';
import { testCertificate } from '../rigs/test-certificate.ts';
import { ScriptedTransport } from '../scenario/scripted-transport.ts';
import { simTopology } from '../sim/topology.ts';

interface Ready {
  readonly kind: 'ready';
  readonly listeners: readonly { readonly name: string; readonly port: number }[];
  readonly metricsPort: number;
}

const LIMITS: FrontendConfig['limits'] = {
  maxMessageBytes: 1_000_000,
  maxHeaderBytes: 131_072,
  maxRecipients: 100,
  maxCommandLineBytes: 2_048,
  maxDataLineBytes: 65_536,
  maxErrors: 10,
  maxJunkCommands: 50,
  idleTimeoutMs: 60_000,
  dataTimeoutMs: 600_000,
  minDataBytesPerSecond: 500,
  maxConnections: 100,
  maxConnectionsPerClient: 50,
  maxConnectionRatePerClient: 0,
  maxAuthFailures: 10,
  maxMessageRatePerUser: 0,
  replayBufferBytes: 262_144,
  totalReplayBufferBytes: 8_388_608,
};

let directory: string;
let network: TlsNetwork;
let transport: ScriptedTransport;
let topology: TopologyDocument;
let child: ChildProcess | null;
let output: string;

async function writeIdentity(
  authority: Awaited<ReturnType<typeof createAuthority>>,
  role: 'transport' | 'frontend',
  name: string,
): Promise<FrontendConfig['tls']> {
  const pems = await issueCertificate(authority, { cluster: 'mail', role, name, hosts: ['127.0.0.1'], days: 1 });
  const files = {
    caFile: join(directory, 'ca.pem'),
    certificateFile: join(directory, `${name}.pem`),
    keyFile: join(directory, `${name}.key`),
  };
  await writeFile(files.caFile, authority.certificatePem);
  await writeFile(files.certificateFile, pems.certificatePem);
  await writeFile(files.keyFile, pems.keyPem);
  return files;
}

/** Replaced as a ConfigMap is: by a rename. */
async function writeTopology(document: TopologyDocument | string): Promise<void> {
  const file = join(directory, 'topology.json');
  await writeFile(`${file}.new`, typeof document === 'string' ? document : JSON.stringify(document));
  await rename(`${file}.new`, file);
}

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mailcluster-frontend-'));
  child = null;
  output = '';
  const authority = await createAuthority('mail');
  const files = await writeIdentity(authority, 'transport', 't-0-0');
  network = await openTlsNetwork({ files, cluster: 'mail', clock: systemClock, log: silentLogger });
  const life = { network, clock: systemClock, end: () => undefined };
  transport = new ScriptedTransport('t-0-0', 'mail', { host: '127.0.0.1', port: 0 }, () => life);
  const port = await transport.start();
  const base = simTopology({ sites: [1], dag: true, frontends: 1 });
  const members = base.members.map((member) => ({ ...member, address: { host: '127.0.0.1', port } }));
  topology = { ...base, cluster: 'mail', members };
  await writeTopology(topology);
  const tls = await writeIdentity(authority, 'frontend', 'f-0');
  const config: FrontendConfig = {
    name: 'f-0',
    site: 'site-0',
    topologyFile: join(directory, 'topology.json'),
    tls,
    signer: null,
    smtpTls: null,
    listeners: [{ name: 'smtp', host: '127.0.0.1', port: 0, tls: 'StartTls', relayFrom: [], usersFile: null }],
    proxyFrom: [],
    metrics: { host: '127.0.0.1', port: 0 },
    hostname: 'mx.sim.example',
    limits: LIMITS,
    sharedLimits: null,
    logLevel: 'info',
  };
  await writeFile(join(directory, 'config.json'), JSON.stringify(config));
});

afterEach(async () => {
  child?.kill('SIGKILL');
  await network.close();
  await rm(directory, { recursive: true, force: true });
});

async function start(): Promise<Ready> {
  const started = fork('frontend/main.ts', [join(directory, 'config.json')], { silent: true });
  child = started;
  const ready: Ready[] = [];
  started.stdout?.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  started.stderr?.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  started.on('message', (message: Ready) => {
    if (message.kind === 'ready') ready.push(message);
  });
  const first = await until(
    'the front end is ready, or has ended',
    () => (started.exitCode === null ? (ready[0] ?? null) : 'ended'),
    { deadlineMs: 10_000 },
  );
  if (first === 'ended') throw new Error(`exit ${started.exitCode}: ${output}`);
  const url = `http://127.0.0.1:${first.metricsPort}/readyz`;
  await until('it reached the transport', async () => (await fetch(url)).status === 200, { deadlineMs: 10_000 });
  return first;
}

const smtpOf = (ready: Ready): Promise<SmtpConnection> =>
  SmtpConnection.open({ host: '127.0.0.1', port: ready.listeners[0]?.port ?? 0 }, 15_000);

const refusesConnections = (ready: Ready): Promise<boolean> =>
  smtpOf(ready).then(
    () => false,
    (error: Error) => error.message.includes('ECONNREFUSED'),
  );

async function say(connection: SmtpConnection, line: string): Promise<string> {
  connection.send(`${line}\r\n`);
  const reply = await connection.reply();
  return typeof reply === 'string' ? reply : `${reply.code} ${reply.text}`;
}

const exitOf = (of: ChildProcess): Promise<number> =>
  until('the front end ends', () => (of.exitCode === null ? null : [of.exitCode]), { deadlineMs: 10_000 }).then(
    ([code]) => code ?? -1,
  );

describe('front end process', () => {
  it('carries a message, refuses to relay, applies a new topology, counts, stops in order', async () => {
    const ready = await start();
    const smtp = await smtpOf(ready);
    expect(await say(smtp, 'MAIL FROM:<a@foreign.example>')).toMatch(/^250/);
    expect(await say(smtp, 'RCPT TO:<b@elsewhere.example>')).toMatch(/^550 5\.7\.1/);
    expect(await say(smtp, 'RCPT TO:<nobody@sim.example>')).toMatch(/^550 5\.1\.1/);
    expect(await say(smtp, 'RCPT TO:<alpha-1@sim.example>')).toMatch(/^250/);
    expect(await say(smtp, 'DATA')).toMatch(/^354/);
    const accepted = await say(smtp, 'Subject: x\r\n\r\n..dot\r\n.');
    const [id, held] = [...transport.held][0] ?? ['', undefined];
    expect(accepted).toBe(`250 2.0.0 Ok: queued as ${id}`);
    expect(held?.body.toString()).toBe('Subject: x\r\n\r\n.dot\r\n');
    expect(held?.envelope).toMatchObject({ frontend: 'f-0', listener: 'smtp', reversePath: 'a@foreign.example' });

    const acceptedDomains = [
      ...topology.acceptedDomains,
      { name: 'elsewhere.example', type: 'ExternalRelay' as const },
    ];
    await writeTopology('{"cluster": ');
    await writeTopology({ ...topology, generation: 2, acceptedDomains });
    await until(
      'the new domain is accepted',
      async () => {
        await say(smtp, 'RSET');
        await say(smtp, 'MAIL FROM:<a@foreign.example>');
        return (await say(smtp, 'RCPT TO:<b@elsewhere.example>')).startsWith('250');
      },
      { deadlineMs: 5_000, everyMs: 50 },
    );
    const metrics = await (await fetch(`http://127.0.0.1:${ready.metricsPort}/metrics`)).text();
    expect(metrics).toMatch(/mailcluster_topology_generation\{[^}]*\} 2/);
    expect(metrics).toMatch(/mailcluster_proxy_transports_available\{[^}]*\} 1/);
    expect(metrics).toMatch(/mailcluster_proxy_duration_seconds_count\{[^}]*outcome="accepted"[^}]*\} 1/);
    expect(output).toContain(id);

    // Back to an older one, and two under one generation: neither is used.
    await writeTopology(topology);
    await until('the older one is refused', () => output.includes('its generation 1 is older than 2'), {
      deadlineMs: 5_000,
    });
    await writeTopology({ ...topology, generation: 2 });
    const other = 'it says something else under the same generation 2';
    await until('the other one is refused', () => output.includes(other), { deadlineMs: 5_000 });
    await say(smtp, 'RSET');
    await say(smtp, 'MAIL FROM:<a@foreign.example>');
    expect(await say(smtp, 'RCPT TO:<b@elsewhere.example>')).toMatch(/^250/);

    await say(smtp, 'RSET');
    child?.kill('SIGTERM');
    expect(await exitOf(child as ChildProcess)).toBe(0);
  });

  it('lets a transaction finish after SIGTERM and takes no new connection', async () => {
    const ready = await start();
    const smtp = await smtpOf(ready);
    await say(smtp, 'MAIL FROM:<a@foreign.example>');
    await say(smtp, 'RCPT TO:<alpha-1@sim.example>');
    expect(await say(smtp, 'DATA')).toMatch(/^354/);
    child?.kill('SIGTERM');
    await until('the port is closed', () => refusesConnections(ready), { deadlineMs: 5_000 });
    expect(await say(smtp, 'Subject: late\r\n\r\nbody\r\n.')).toMatch(/^250 2\.0\.0/);
    expect(transport.held.size).toBe(1);
    expect(await exitOf(child as ChildProcess)).toBe(0);
  });

  it('a certificate for clients: missing, it ends with the file and the remedy; for another name, that is said and it is shown', async () => {
    const file = join(directory, 'config.json');
    const smtpTls = { certificateFile: join(directory, 'mx.crt'), keyFile: join(directory, 'mx.key') };
    const config = JSON.parse(await readFile(file, 'utf8')) as FrontendConfig;
    await writeFile(file, JSON.stringify({ ...config, smtpTls }));
    await expect(start()).rejects.toThrow(/exit 70: .*SMTP_CERTIFICATE: .*mx\.(crt|key).*put it there/s);
    const { cert, key } = await testCertificate('other.example');
    await writeFile(smtpTls.certificateFile, cert);
    await writeFile(smtpTls.keyFile, key);
    const smtp = await smtpOf(await start());
    expect(output).toMatch(/names DNS:other\.example, not mx\.sim\.example: have one made for that name/);
    expect(await say(smtp, 'STARTTLS')).toMatch(/^220/);
  });

  it('ends with its parent, and says what is wrong with its configuration', async () => {
    await start();
    child?.disconnect();
    expect(await exitOf(child as ChildProcess)).toBe(0);
    await writeFile(join(directory, 'config.json'), '{');
    const broken = fork('frontend/main.ts', [join(directory, 'config.json')], { silent: true });
    child = broken;
    expect(await exitOf(broken)).toBe(2);
  });
});
