/** Real Postfix and smtp-sink as next hops of the delivery agent, real smtp-source and Postfix as previous hops of the Maildir store. */
import { type ChildProcess, spawn } from 'node:child_process';
import { afterEach, describe, expect, test } from 'vitest';
import type { CopyId, Envelope, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeDns } from '../../common/platform/mail-dns.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { createDeliveryAgent } from '../../transport/runtime/delivery.ts';
import type { DeliveryRoute, RecipientResult } from '../../transport/runtime/delivery-api.ts';
import { until } from '../house/until.ts';
import { freePort, isListening } from '../rigs/dovecot.ts';
import { Postfix, postfixTool, runTool } from '../rigs/postfix.ts';

const ENVELOPE: Envelope = {
  reversePath: 'alice@example.org',
  recipients: [],
  body: '8BITMIME',
  smtputf8: false,
  declaredSizeBytes: null,
  client: { address: '192.0.2.7', port: 1, helo: 'client.test', protocol: 'ESMTP', tls: null, user: null },
  frontend: 'fe-1',
  listener: 'smtp',
  receivedAtMs: 0,
};
const TIMEOUTS = {
  connectMs: 2000,
  greetingMs: 2000,
  commandMs: 2000,
  dataInitiationMs: 2000,
  dataBlockMs: 2000,
  dataTerminationMs: 2000,
};

let cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  const all = cleanups.reverse();
  cleanups = [];
  for (const cleanup of all) await cleanup();
});

function startAgent() {
  const agent = createDeliveryAgent({
    clock: systemClock,
    log: silentLogger,
    metrics: silentMetrics,
    random: systemRandom,
    dns: (servers) => nodeDns(systemClock, servers),
    hostname: 'mx.test',
    member: 'transport-0',
    readBody: async function* () {
      yield Buffer.from('Subject: out\r\n\r\n.dot\r\né\r\n');
    },
    onDamaged: (id) => {
      throw new Error(`damaged: ${id}`);
    },
    settings: { timeouts: TIMEOUTS },
  });
  cleanups.push(() => agent.close());
  let requestId = 0;
  return (route: DeliveryRoute, ...addresses: string[]) =>
    new Promise<readonly RecipientResult[]>((resolve) => {
      const recipients = addresses.map((address, index) => ({ index, recipient: { address } }));
      const copyId = `C${requestId}` as CopyId;
      agent.start(
        {
          requestId: requestId++,
          copyId,
          deliveryId: copyId,
          contentKey: null,
          epoch: { try: 1, term: 0, owner: 'ME' as Identity },
          mayBeRepeat: false,
          envelope: ENVELOPE,
          sizeBytes: 30,
          route,
          recipients,
          mayBegin: () => true,
        },
        resolve,
      );
    });
}

const smartHost = (port: number): DeliveryRoute => ({
  kind: 'smartHost',
  connector: 'out',
  hosts: [{ host: '127.0.0.1', port }],
  tls: 'Opportunistic',
});

/** smtp-sink with options; null and a reason when it cannot be had. */
async function startSink(...options: string[]): Promise<number | { readonly missing: string }> {
  const port = await freePort();
  const command = await postfixTool('smtp-sink', [...options, `127.0.0.1:${port}`, '100']);
  if ('missing' in command) return command;
  const child: ChildProcess = spawn(command.file, [...command.args], { stdio: 'ignore' });
  cleanups.push(async () => {
    child.kill('SIGKILL');
    await until('smtp-sink to be gone', () => child.exitCode !== null || child.signalCode !== null, {
      deadlineMs: 10_000,
    });
  });
  await until('smtp-sink to listen', () => isListening(port), { deadlineMs: 10_000 });
  return port;
}

describe('Postfix as smart host', () => {
  test('takes the message as it is and delivers it', async (context) => {
    const postfix = await Postfix.start({ role: { kind: 'accept' } });
    if ('missing' in postfix) return context.skip(postfix.missing);
    cleanups.push(() => postfix[Symbol.asyncDispose]());
    const deliver = startAgent();
    const results = await deliver(smartHost(postfix.smtpPort), 'bob@example.net', 'carol@example.net');
    expect(results).toMatchObject([
      { kind: 'relayed', reply: expect.stringMatching(/^250 2\.0\.0 Ok: queued as/), dsnPassedOn: true },
      { kind: 'relayed' },
    ]);
    const [mail = ''] = await until(
      'delivery',
      async () => {
        const all = await postfix.delivered();
        return all.length === 2 ? all : null;
      },
      { deadlineMs: 15_000 },
    );
    expect(mail).toContain('\nX-MailCluster-Delivery: C0\nSubject: out\n');
    expect(Buffer.from(mail, 'latin1').toString()).toMatch(/\n\n\.dot\né\n$/);
  });
});

describe('smtp-sink as next hop', () => {
  const cases: [string, string[], object[]][] = [
    ['4yz to RCPT', ['-r', 'RCPT'], [{ kind: 'deferred', scope: 'recipient' }]],
    ['4yz to MAIL', ['-r', 'MAIL'], [{ kind: 'deferred', scope: 'message' }]],
    ['5yz after the dot', ['-f', '.'], [{ kind: 'failed', reply: { code: 500 } }]],
    ['4yz after the dot', ['-r', '.'], [{ kind: 'deferred', scope: 'message' }]],
    ['drop after the dot', ['-q', '.'], [{ kind: 'unknown' }]],
    ['drop at DATA', ['-q', 'DATA'], [{ kind: 'deferred', scope: 'host' }]],
    ['no ESMTP, and our content is 8-bit', ['-e'], [{ kind: 'failed', reply: { enhanced: '5.6.3' } }]],
    ['no PIPELINING', ['-p'], [{ kind: 'relayed' }]],
  ];
  test.for(cases)('%s', async ([, options, expected], context) => {
    const port = await startSink(...options);
    if (typeof port !== 'number') return context.skip(port.missing);
    expect(await startAgent()(smartHost(port), 'bob@x')).toMatchObject(expected);
  });
});

describe('Postfix as previous hop', () => {
  test('takes mail from smtp-source and passes it to the next server', async (context) => {
    const sink = await startSink();
    if (typeof sink !== 'number') return context.skip(sink.missing);
    const postfix = await Postfix.start({ role: { kind: 'relay', port: sink } });
    if ('missing' in postfix) return context.skip(postfix.missing);
    cleanups.push(() => postfix[Symbol.asyncDispose]());
    const source = await postfixTool('smtp-source', [
      '-m',
      '20',
      '-s',
      '4',
      '-l',
      '4096',
      '-f',
      'a@example.org',
      '-t',
      'b@example.net',
      `127.0.0.1:${postfix.smtpPort}`,
    ]);
    if ('missing' in source) return context.skip(source.missing);
    runTool(source);
    await until('the queue to drain', async () => (await postfix.queued()) === 0, { deadlineMs: 15_000 });
    expect((await postfix.log()).match(/status=sent/g)).toHaveLength(20);
  });
});
