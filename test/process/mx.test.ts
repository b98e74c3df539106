/**
 * Mail for other domains through the whole system: the hosts come from a real name server, each domain waits for itself only, and what DNS says is final is reported.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { DnsServer } from '../rigs/dns-server.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const TIMEOUT_MS = 180_000;
const HERE = '127.0.0.1';
/** Nobody listens there. */
const DEAD = '127.0.0.9';

let cluster: Cluster;
let dns: DnsServer;
/** The mail server of everybody who has one. */
let host: ScriptedPeer;

beforeAll(async () => {
  dns = await DnsServer.start({
    'good.example': {
      mx: [
        [10, 'first.good.example'],
        [20, 'second.good.example'],
      ],
    },
    'first.good.example': { a: [DEAD] },
    'second.good.example': { a: [HERE] },
    'down.example': { a: [DEAD] },
    'silent.example': 'silent',
    'null.example': { mx: [[0, '.']] },
    'private.example': { a: ['10.1.2.3'] },
  });
  host = await ScriptedPeer.start();
  const mx = `mx: { port: ${host.port}, dnsServers: ["${dns.server}"], allowNetworks: [127.0.0.0/8] }`;
  cluster = await startCluster((directory) =>
    twoSites(directory, {
      ...{ perSite: 1, frontends: 1, listener: 'tls: None, relayFrom: [127.0.0.0/8]' },
      spec: [`sendConnectors: [{ name: internet, addressSpaces: [{ domain: "*" }], delivery: MX, ${mx} }]`],
    }),
  );
}, TIMEOUT_MS);
afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await host?.[Symbol.asyncDispose]();
  await dns?.[Symbol.asyncDispose]();
}, TIMEOUT_MS);

async function send(recipient: string): Promise<void> {
  const [target] = cluster.targets();
  if (target === undefined) throw new Error('no front end');
  const connection = await SmtpConnection.open(target, 60_000);
  for (const [part, code] of [
    ['MAIL FROM:<sender@example.com>', 250],
    [`RCPT TO:<${recipient}>`, 250],
    ['DATA', 354],
    ['Subject: out\r\n\r\nout\r\n.', 250],
  ] as const) {
    connection.send(`${part}\r\n`);
    await connection.expect(code, part);
  }
  connection.close();
}

const came = (recipient: string): number =>
  host.messages.filter(({ rcpts }) => rcpts.some((one) => one.includes(`<${recipient}>`))).length;

const reports = async (): Promise<readonly string[]> =>
  (await cluster.delivered()).filter(({ mailbox }) => mailbox === 'sender@example.com').map(({ bytes }) => `${bytes}`);

test(
  'the second MX takes what the first does not; a dead and a silent domain hold up nobody, and get theirs when they are back; null MX and unknown domains are reported',
  async () => {
    const waiting = Array.from({ length: 25 }, (_, at) => [`d${at}@down.example`, `s${at}@silent.example`]).flat();
    for (const one of waiting) await send(one);
    await send('a@good.example');
    await until('the mail past them', () => came('a@good.example') === 1, { deadlineMs: 20_000 });
    expect(waiting.filter((one) => came(one) > 0)).toEqual([]);

    await send('b@null.example');
    await send('c@gone.example');
    await until('two reports', async () => (await reports()).length === 2, { deadlineMs: 30_000, everyMs: 200 });
    expect((await reports()).map((one) => /^Status: (\S+)$/m.exec(one)?.[1]).sort()).toEqual(['5.1.10', '5.1.2']);

    const route = async (...args: string[]): Promise<string> =>
      (await mailcluster('route', '--state', cluster.state, ...args)).stdout;
    expect(await route('--to', 'a@good.example')).toMatch(
      /Goes through send connector internet, to the hosts that DNS names for good\.example\n.*best match at cost 1\n {2}Queue connector:internet\/good\.example\n {2}Hosts, in this order:\n {4}(first\.good\.example \[127\.0\.0\.9\]|second\.good\.example \[127\.0\.0\.1\]):\d+, TLS when offered\n/,
    );
    expect(await route('--to', 'd0@down.example')).toMatch(
      /On \S+ \d+ messages for it, .*last error: 4\.4\.1 127\.0\.0\.9/,
    );
    expect(await route('--to', 'b@null.example')).toContain('No host now: 556 5.1.10 null.example takes no mail');
    expect(await route('--to', 'sender@example.com')).toMatch(/Goes to MailboxDatabase \S+, copy \S+ \(LMTP /);
    expect(await route('--to', 'a@good.example', '--size', '2Gi')).toContain('Refused: 552 5.3.4');

    dns.zone['down.example'] = { a: [HERE] };
    dns.zone['silent.example'] = { a: [HERE] };
    await until('all that waited', () => waiting.every((one) => came(one) === 1), { deadlineMs: 90_000 });

    // A private address that is not allowed is not dialled, and it is said how it would be.
    await send('p@private.example');
    const queues = async (): Promise<string> =>
      (await mailcluster('queue', '--state', cluster.state, '-o', 'json')).stdout;
    await until('the reason', async () => (await queues()).includes('mx.allowNetworks'), {
      deadlineMs: 30_000,
      everyMs: 500,
    });
  },
  TIMEOUT_MS,
);
