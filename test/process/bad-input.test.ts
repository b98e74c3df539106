/** What the whole system says to wrong input, strangers and foreign directories: refused, with what is wrong and what to do, and nothing harmed. */
import { cp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import { request as secureRequest } from 'node:https';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, connect } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import { createAuthority, issueCertificate, loadAuthority } from '../../operator/pki.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { type Cluster, inspected, mailcluster, program, startCluster, twoSites } from './harness.ts';
import { balance, makeMessage, notAccepted, verdict } from './ledger.ts';
import { sendAll } from './smtp-sender.ts';

const TIMEOUT_MS = 120_000;
const PEER_ALPN = 'mailcluster/1';

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster((directory) => twoSites(directory, { perSite: 1, frontends: 1 }));
}, TIMEOUT_MS);
afterAll(async () => await cluster?.[Symbol.asyncDispose](), TIMEOUT_MS);

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** A message that goes all the way. */
async function mailPasses(id: string): Promise<void> {
  const messages = [makeMessage(id, 'ann@example.com', 3_000)];
  const ledger = await sendAll({ targets: () => cluster.targets(), messages, sessions: 1 });
  expect(notAccepted(ledger)).toEqual([]);
  await cluster.drained(30_000, ledger);
  const found = (await cluster.delivered()).filter(({ bytes }) => bytes.includes(`X-Ledger-Id: ${id}\r\n`));
  expect([verdict(balance(ledger, found, [])), found.length]).toEqual(['balanced', 1]);
}

const pids = async (): Promise<readonly (number | null)[]> => {
  const { pid, transports, frontends, stores } = await cluster.runFile();
  return [pid, ...[...transports, ...frontends, ...stores].map((one) => one.pid)];
};

describe('mailcluster run', () => {
  test(
    'a wrong resource: exit 2, file, path, what is wrong and what would be right; nothing started',
    async () => {
      const state = join(cluster.directory, 'never');
      for (const [file, said] of [
        ['dag-of-one-member.yaml', /dag-of-one-member\.yaml:\d+: MailCluster\/.*\n {2}wrong: .+\n {2}right: .+/],
        ['not-yaml.yaml', /not-yaml\.yaml:\d+/],
        ['unknown-field.yaml', /unknown-field\.yaml:\d+: .*\n {2}wrong: .+\n {2}right: .+/],
      ] as const) {
        const result = await mailcluster('run', '-f', join(ROOT, 'examples/invalid', file), '--state', state);
        expect([result.code, result.stderr]).toEqual([2, expect.stringMatching(said)]);
        expect(await isThere(state)).toBe(false);
      }
    },
    TIMEOUT_MS,
  );

  test(
    'a port that is taken: exit 2, which listener, what to do; nothing started',
    async () => {
      const server = createServer();
      await new Promise<void>((resolve) => {
        server.listen(0, '127.0.0.1', resolve);
      });
      try {
        const address = server.address();
        const port = address === null || typeof address === 'string' ? 0 : address.port;
        const state = join(cluster.directory, 'taken');
        const result = await mailcluster(
          'run',
          '-f',
          cluster.resourceFile,
          '--state',
          state,
          '--listen',
          `smtp=127.0.0.1:${port}`,
        );
        expect([result.code, result.stderr]).toEqual([
          2,
          expect.stringMatching(
            new RegExp(`listener smtp: 127\\.0\\.0\\.1:${port} is in use.*stop it, or choose another`),
          ),
        ]);
        expect([await isThere(join(state, 'run.json')), await isThere(join(state, 'topology.json'))]).toEqual([
          false,
          false,
        ]);
      } finally {
        await new Promise((resolve) => server.close(resolve));
      }
    },
    TIMEOUT_MS,
  );

  test(
    'a state directory in use: exit 2, and the instance that owns it goes on',
    async () => {
      const before = await pids();
      const result = await mailcluster('run', '-f', cluster.resourceFile, '--state', cluster.state);
      expect([result.code, result.stderr]).toEqual([
        2,
        expect.stringMatching(/is in use by another "mailcluster run"; stop it, or/),
      ]);
      expect(await pids()).toEqual(before);
      await mailPasses('stillhere');
    },
    TIMEOUT_MS,
  );

  test(
    'two topology documents under one generation: the former stays in force everywhere, each log says why',
    async () => {
      const file = join(cluster.state, 'topology.json');
      const text = await readFile(file, 'utf8');
      const document = JSON.parse(text) as TopologyDocument;
      const { transports, frontends } = await cluster.runFile();
      const refused = async (name: string): Promise<boolean> =>
        (await readFile(join(cluster.state, 'logs', `${name}.log`), 'utf8')).includes(
          `it says something else under the same generation ${document.generation}`,
        );
      await writeFile(file, JSON.stringify({ ...document, databases: [], acceptedDomains: [] }));
      for (const { name } of [...transports, ...frontends])
        await until(`${name} refuses it`, () => refused(name), { deadlineMs: 10_000 });
      await mailPasses('sametopology');
      await writeFile(file, text);
    },
    TIMEOUT_MS,
  );

  test(
    'a second transport on a queue database in use ends with the reason and leaves the first alone',
    async () => {
      const [first] = (await cluster.runFile()).transports;
      if (first === undefined) throw new Error('no transport');
      const before = await pids();
      const result = await program(
        join(ROOT, 'transport/main.ts'),
        join(cluster.state, 'config', `${first.name}.json`),
      );
      expect([result.code, result.stdout + result.stderr]).toEqual([
        70,
        expect.stringMatching(/is open in another process: end that one first/),
      ]);
      expect(await pids()).toEqual(before);
      await mailPasses('undisturbed');
    },
    TIMEOUT_MS,
  );
});

/** Opens TLS, says something that is no HELLO, and counts what comes back until the other side closes. */
function knock(port: number, options: ConnectionOptions): Promise<number> {
  return new Promise((resolve) => {
    let received = 0;
    const socket = connect({
      host: '127.0.0.1',
      port,
      rejectUnauthorized: false,
      minVersion: 'TLSv1.3',
      ALPNProtocols: [PEER_ALPN],
      ...options,
    });
    socket.on('secureConnect', () => socket.write(Buffer.alloc(64, 0xff)));
    socket.on('data', (chunk: Buffer) => {
      received += chunk.length;
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => resolve(received));
  });
}

interface Asked {
  readonly status: number | null;
  readonly body: string;
}

/** One GET of the admin API; status null when there was no answer. */
function ask(url: string, options: { readonly cert?: string; readonly key?: string }): Promise<Asked> {
  return new Promise((resolve) => {
    const answered = (response: IncomingMessage): void => {
      let body = '';
      response.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      response.on('end', () => resolve({ status: response.statusCode ?? null, body }));
    };
    const asking = url.startsWith('https:')
      ? secureRequest(url, { rejectUnauthorized: false, agent: false, ...options }, answered)
      : request(url, answered);
    asking.on('error', (error) => resolve({ status: null, body: error.message }));
    asking.end();
  });
}

describe('strangers', () => {
  async function identities() {
    const { transports, operatorTls } = await cluster.runFile();
    const [first, second] = transports;
    if (first === undefined || second === undefined) throw new Error('no transports');
    const topology = JSON.parse(await readFile(join(cluster.state, 'topology.json'), 'utf8')) as TopologyDocument;
    const peerPort = topology.members.find(({ name }) => name === first.name)?.address.port ?? 0;
    const pki = join(cluster.state, 'pki');
    const read = async (name: string) => ({
      cert: await readFile(join(pki, `${name}.crt`), 'utf8'),
      key: await readFile(join(pki, `${name}.key`), 'utf8'),
    });
    const certificatePem = await readFile(operatorTls.caFile, 'utf8');
    const ours = await loadAuthority({ certificatePem, keyPem: await readFile(join(pki, 'ca.key'), 'utf8') });
    const issue = async (
      authority: Awaited<ReturnType<typeof createAuthority>>,
      of: string,
      role: 'transport' | 'operator',
    ) => {
      const hosts = ['127.0.0.1'];
      const pems = await issueCertificate(authority, { cluster: of, role, name: second.name, hosts, days: 1 });
      return { cert: pems.certificatePem, key: pems.keyPem };
    };
    return {
      first,
      peerPort,
      peer: await read(second.name),
      operator: {
        cert: await readFile(operatorTls.certificateFile, 'utf8'),
        key: await readFile(operatorTls.keyFile, 'utf8'),
      },
      forged: await issue(await createAuthority('test'), 'test', 'transport'),
      forgedOperator: await issue(await createAuthority('test'), 'test', 'operator'),
      otherCluster: await issue(ours, 'another', 'transport'),
    };
  }

  test(
    'the peer port answers nobody without a certificate of this cluster',
    async () => {
      const { first, peerPort, peer, forged, otherCluster } = await identities();
      expect(await knock(peerPort, {})).toBe(0);
      expect(await knock(peerPort, forged)).toBe(0);
      expect(await knock(peerPort, otherCluster)).toBe(0);
      expect(await knock(peerPort, { ...peer, ALPNProtocols: ['http/1.1'] })).toBe(0);
      // The same knock of a member is answered: it speaks wrongly, and is told so.
      expect(await knock(peerPort, peer)).toBeGreaterThan(0);
      // Log lines reach the file when the program gets to it.
      const refused = async (): Promise<string[]> => {
        const log = await readFile(join(cluster.state, 'logs', `${first.name}.log`), 'utf8');
        return log.split('\n').filter((line) => line.includes('peer connection refused'));
      };
      await until('four refusals in the log', async () => (await refused()).length >= 4, { deadlineMs: 10_000 });
      expect((await refused()).join('\n')).toContain('the certificate is of cluster another');
      await mailPasses('afterknocking');
    },
    TIMEOUT_MS,
  );

  test(
    'the admin API answers the operator and viewers, no peer',
    async () => {
      const { first, peer, operator, forgedOperator } = await identities();
      const url = `${first.adminUrl}/v1/status`;
      expect((await ask(url, operator)).status).toBe(200);
      expect((await ask(url, {})).status).toBe(null);
      expect((await ask(url, forgedOperator)).status).toBe(null);
      expect((await ask(url.replace('https:', 'http:'), {})).status).toBe(null);
      expect(await ask(url, peer)).toMatchObject({
        status: 403,
        body: expect.stringContaining('role operator or viewer is needed'),
      });
    },
    TIMEOUT_MS,
  );
});

describe('queue database directories', () => {
  async function directories(): Promise<readonly [first: string, second: string]> {
    const [first, second] = (await cluster.runFile()).transports;
    if (first === undefined || second === undefined) throw new Error('no transports');
    return [first.queueDatabaseDirectory, second.queueDatabaseDirectory];
  }

  /** The runner gives up after some attempts and says what the transport said. */
  async function refusedStart(): Promise<string> {
    const result = await mailcluster('run', '-f', cluster.resourceFile, '--state', cluster.state);
    expect(result.code).toBe(1);
    expect(await isThere(join(cluster.state, 'run.json'))).toBe(false);
    return result.stderr;
  }

  test(
    'damaged or of another member: refused with the remedy, nothing overwritten; as it was, it works again',
    async () => {
      const [first, second] = await directories();
      const identities = [(await inspected(first)).identity, (await inspected(second)).identity];
      await cluster.stop();

      const file = join(first, 'identity');
      const good = await readFile(file);
      const bad = Buffer.from(good);
      for (let at = 0; at < 8_192; at += 97) bad[at] = (bad[at] ?? 0) ^ 0xff;
      await rename(second, `${second}.mine`);
      await cp(first, second, { recursive: true });
      await writeFile(file, bad);
      const foreign = await readdir(second);
      const said = await refusedStart();
      expect(said).toMatch(/identity cannot be read: set the directory aside \(never delete it\)/);
      expect(said).toMatch(/belongs to member .*, this is .*: give each member its own volume/);
      expect((await readFile(file)).equals(bad)).toBe(true);
      expect(await readdir(second)).toEqual(foreign);

      await writeFile(file, good);
      await rm(second, { recursive: true });
      await rename(`${second}.mine`, second);
      await cluster.start();
      await cluster.connected();
      expect([(await inspected(first)).identity, (await inspected(second)).identity]).toEqual(identities);
      await mailPasses('asitwas');
    },
    TIMEOUT_MS,
  );

  test(
    'emptied: it gets a new identity, the others keep theirs, mail goes on',
    async () => {
      const [first, second] = await directories();
      const before = [await inspected(first), await inspected(second)];
      await cluster.stop();
      await rm(first, { recursive: true });
      await cluster.start();
      await cluster.connected();
      const after = [await inspected(first), await inspected(second)];
      expect(after[0]?.identity).not.toBe(before[0]?.identity);
      expect(after[0]?.chain.map(({ openCounter }) => openCounter)).toEqual([1]);
      expect(after[0]?.member).toBe(before[0]?.member);
      expect(after[1]?.identity).toBe(before[1]?.identity);
      await mailPasses('newidentity');
      await until(
        'status without problems',
        async () => (await mailcluster('status', '--state', cluster.state)).code === 0,
        { deadlineMs: 30_000, everyMs: 250 },
      );
    },
    TIMEOUT_MS,
  );
});
