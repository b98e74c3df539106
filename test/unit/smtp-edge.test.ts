/** The adapter where a dialog cannot look: writes, pauses, early bytes, certificates, limits that change, metrics, ends. */
import { connect, Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import type { Labels, Metrics } from '../../common/platform/metrics.ts';
import { ClientLimits } from '../../common/smtp/client-limits.ts';
import { ConnectionLedger } from '../../common/smtp/connection-ledger.ts';
import { reply } from '../../common/smtp/replies.ts';
import { MAX_ENVELOPE_BYTES } from '../../common/smtp/transaction.ts';
import { type EdgeRig, LIMITS, type RigOptions, startRig } from '../dialog/edge-rig.ts';
import { LineClient, turn } from '../dialog/line-client.ts';
import { until } from '../house/until.ts';
import { testCertificate } from '../rigs/test-certificate.ts';

const open: EdgeRig[] = [];
const clients: LineClient[] = [];

async function rig(options: RigOptions = {}): Promise<EdgeRig> {
  const started = await startRig(options);
  open.push(started);
  return started;
}

async function dial({ edge }: EdgeRig, tls = false): Promise<LineClient> {
  const client = await LineClient.connect(edge.port, tls);
  clients.push(client);
  return client;
}

async function greeted(started: EdgeRig): Promise<LineClient> {
  const client = await dial(started);
  await client.reply();
  client.send('EHLO client\r\n');
  await client.reply();
  return client;
}

async function inData(started: EdgeRig, from = 'a@example.org'): Promise<LineClient> {
  const client = await greeted(started);
  client.send(`MAIL FROM:<${from}>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n`);
  for (let i = 0; i < 3; i++) await client.reply();
  return client;
}

const eventually = (what: string, met: () => boolean): Promise<boolean> =>
  until(what, met, { deadlineMs: 5_000, everyMs: 2 });

afterEach(async () => {
  for (const client of clients.splice(0)) client.drop();
  for (const { edge } of open.splice(0)) await edge.close(false);
});

describe('bytes', () => {
  it('all replies of a pipelined group leave in one write', async () => {
    const started = await rig();
    const client = await greeted(started);
    const writes = vi.spyOn(Socket.prototype, 'write');
    client.send('MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@example.net>\r\nDATA\r\n');
    for (let i = 0; i < 4; i++) await client.reply();
    const said = writes.mock.calls.map(([bytes]) => String(bytes)).filter((bytes) => /^\d/.test(bytes));
    writes.mockRestore();
    expect(said).toHaveLength(1);
    expect(said[0]).toMatch(/^250 2\.1\.0 .*\r\n250 2\.1\.5 .*\r\n250 2\.1\.5 .*\r\n354 .*\r\n$/);
  });

  it('a client that speaks before the greeting gets 554', async () => {
    const started = await rig();
    const socket = connect({ host: '127.0.0.1', port: started.edge.port });
    let said = '';
    socket.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    socket.write('EHLO eager\r\n');
    await eventually('the refusal', () => said.endsWith('\r\n'));
    expect(said).toBe('554 5.5.1 You spoke before the greeting\r\n');
    expect(started.recorder.connected).toBe(0);
    socket.destroy();
  });

  it('a full sink stops reading from the client, and drain goes on', async () => {
    const started = await rig({
      limits: { maxMessageBytes: 50_000_000, maxDataLineBytes: 50_000_000, maxHeaderBytes: 50_000_000 },
    });
    const client = await inData(started, 'slow@example.org');
    const size = 20_000_000;
    client.send(Buffer.alloc(size, 'x'));
    await eventually('a full sink', () => started.recorder.full === 1);
    for (let i = 0; i < 20; i++) await turn();
    const message = started.recorder.messages[0];
    expect(message?.writes).toBe(1);
    client.send('\r\n.\r\n');
    while (message?.end === null) {
      started.recorder.drain();
      await turn();
    }
    expect(message?.content.length).toBe(size + 2);
    expect((await client.reply())[0]).toContain('250 2.0.0');
  });

  it('drain may come before write returns', async () => {
    const started = await rig();
    const { recorder } = started;
    const original = recorder.onData.bind(recorder);
    recorder.onData = async (session, envelope, drain) => {
      const decision = await original(session, envelope, drain);
      const { write } = decision.kind === 'accept' ? decision.sink : { write: () => true };
      const sink = {
        write: (chunk: Buffer) => {
          write(chunk);
          drain();
          return false;
        },
        end: async () => ({ kind: 'reply', reply: reply('ok') }) as const,
        abort: () => undefined,
      };
      return { kind: 'accept', sink } as never;
    };
    const client = await inData(started);
    client.send('x\r\n.\r\n');
    expect((await client.reply())[0]).toBe('250 2.0.0 OK');
  });

  it('a client that does not read its replies is not read either', async () => {
    let helped = 0;
    const metrics: Metrics = { increment: () => helped++, set: () => undefined, observe: () => undefined };
    const started = await rig({ metrics, limits: { maxJunkCommands: 100_000_000 } });
    const client = await greeted(started);
    client.pause();
    const commands = Buffer.from('HELP\r\n'.repeat(10_000));
    for (let i = 0; i < 60; i++) client.send(commands);
    let before = -1;
    while (helped > before) {
      before = helped;
      for (let i = 0; i < 50; i++) await turn();
    }
    expect(helped).toBeGreaterThan(100);
    expect(helped).toBeLessThan(300_000);
    started.clock.advance(60_000);
    await eventually('the end of the session', () => started.edge.connections === 0);
  });
});

describe('handlers', () => {
  it('may refuse a connection instead of the greeting', async () => {
    const started = await rig();
    started.recorder.refuseConnections = { code: 554, enhanced: '5.7.1', text: 'Not you' };
    const client = await dial(started);
    expect(await client.reply()).toEqual(['554 5.7.1 Not you']);
    expect(await client.closed()).toBe('');
    await eventually('onClose', () => started.recorder.closed === 1);
  });

  it('that answer 421 close the session', async () => {
    const started = await rig();
    started.recorder.onMailFrom = async () => reply('shuttingDown');
    const client = await greeted(started);
    client.send('MAIL FROM:<a@example.org>\r\n');
    expect((await client.reply())[0]).toMatch(/^421 4\.3\.2/);
    expect(await client.closed()).toBe('');
  });

  it('keep a message whose client vanished after the end of data', async () => {
    const started = await rig();
    const client = await inData(started);
    client.send('x\r\n.\r\n');
    client.drop();
    await eventually('the end', () => started.recorder.messages[0]?.end !== undefined && started.recorder.closed === 1);
    expect(started.recorder.messages[0]?.aborted).toBeNull();
  });

  it('hear that a client is gone that waits for the answer, once, and not of one that has heard it', async () => {
    const started = await rig();
    const client = await greeted(started);
    const send = async (from: string): Promise<void> => {
      for (const line of [`MAIL FROM:<${from}>`, 'RCPT TO:<b@example.net>', 'DATA']) {
        client.send(`${line}\r\n`);
        await client.reply();
      }
      client.send('x\r\n.\r\n');
    };
    await send('a@example.org');
    expect((await client.reply())[0]).toMatch(/^250 /);
    await send('judged@example.org');
    const [heard, unheard] = started.recorder.messages;
    await eventually('the end', () => started.recorder.holding === 1);
    client.drop();
    await eventually('that it is gone', () => unheard?.gone.length === 1);
    started.recorder.release();
    await eventually('the end of the session', () => started.edge.connections === 0 && started.recorder.closed === 1);
    expect([heard?.gone, unheard?.gone, unheard?.aborted]).toEqual([[], ['connection closed by the client'], null]);
  });

  it('never see a password in plain text sessions, and see AUTH once', async () => {
    const tls = await testCertificate('mx.example.net');
    const started = await rig({ users: new Map([['bob', 'secret']]), tls, listener: { tls: 'StartTls' } });
    const client = await greeted(started);
    client.send(`AUTH PLAIN ${Buffer.from('\0bob\0secret').toString('base64')}\r\n`);
    expect((await client.reply())[0]).toMatch(/^538/);
    expect(started.recorder.auth).toEqual([]);
  });
});

describe('running edge', () => {
  it('shows a new certificate to sessions that start TLS from now on', async () => {
    const [first, second] = [await testCertificate('first.example'), await testCertificate('second.example')];
    const started = await rig({ tls: first, listener: { tls: 'Implicit' } });
    const seen = (): Promise<string | undefined> =>
      new Promise((resolve, reject) => {
        const socket = connectTls({ host: '127.0.0.1', port: started.edge.port, rejectUnauthorized: false }, () => {
          resolve(socket.getPeerCertificate().subjectaltname);
          socket.destroy();
        });
        socket.on('error', reject);
      });
    expect(await seen()).toBe('DNS:first.example');
    started.edge.setTls(second);
    expect(await seen()).toBe('DNS:second.example');
  });

  it('offers STARTTLS once a certificate arrives', async () => {
    const started = await rig({ listener: { tls: 'StartTls' } });
    const client = await dial(started);
    await client.reply();
    client.send('EHLO client\r\n');
    expect(await client.reply()).not.toContain('250-STARTTLS');
    started.edge.setTls(await testCertificate('mx.example.net'));
    client.send('EHLO client\r\n');
    expect(await client.reply()).toContain('250-STARTTLS');
    client.send('STARTTLS\r\n');
    await client.reply();
    await client.startTls();
    client.send('EHLO client\r\n');
    expect((await client.reply())[0]).toBe('250-mx.example.net greets client');
  });

  it('refuses to start without the certificate it needs, and with a port that is taken', async () => {
    await expect(rig({ listener: { tls: 'Implicit' } })).rejects.toMatchObject({ code: 'EDGE_TLS' });
    await expect(rig({ listener: { tls: 'StartTlsRequired' } })).rejects.toMatchObject({ code: 'EDGE_TLS' });
    const started = await rig();
    await expect(rig({ listener: { port: started.edge.port } })).rejects.toMatchObject({ code: 'EADDRINUSE' });
  });

  it('applies new limits to the next command', async () => {
    const started = await rig();
    const client = await greeted(started);
    started.edge.setLimits({ ...LIMITS, maxMessageBytes: 10 });
    client.send('MAIL FROM:<a@example.org> SIZE=11\r\n');
    expect((await client.reply())[0]).toMatch(/^552 5\.3\.4/);
  });

  it('takes recipients as long as their addresses fit an envelope: then 452, and the others get the message', async () => {
    const started = await rig({ limits: { maxRecipients: 10_000 } });
    const client = await greeted(started);
    client.send('MAIL FROM:<a@example.org>\r\n');
    await client.reply();
    const label = 'd'.repeat(60);
    const fits = Math.floor(MAX_ENVELOPE_BYTES / JSON.stringify({ address: `0000@${label}.${label}.${label}` }).length);
    for (let at = 0; at < fits + 3; at += 100) {
      const group = Array.from({ length: Math.min(100, fits + 3 - at) }, (_, nth) => String(at + nth).padStart(4, '0'));
      client.send(group.map((one) => `RCPT TO:<${one}@${label}.${label}.${label}>\r\n`).join(''));
      for (const one of group) {
        const [said = ''] = await client.reply();
        expect(said).toMatch(Number(one) < fits ? /^250 2\.1\.5 / : /^452 4\.5\.3 .* 1048576 bytes/);
      }
    }
    client.send('DATA\r\n');
    await client.reply();
    client.send('.\r\n');
    expect((await client.reply())[0]).toMatch(/^250 /);
    expect(started.recorder.messages[0]?.envelope.recipients).toHaveLength(fits);
  });

  it('counts connections over all listeners that share a ledger', async () => {
    const ledger = new ConnectionLedger(new ClientLimits(systemClock, null));
    const limits = { maxConnections: 1 };
    const [first, second] = [await rig({ ledger, limits }), await rig({ ledger, limits })];
    const client = await greeted(first);
    const other = await dial(second);
    expect((await other.reply())[0]).toMatch(/^421 4\.3\.2/);
    expect(await other.closed()).toBe('');
    client.drop();
    await eventually('a free place', () => ledger.total === 0);
    expect((await (await dial(second)).reply())[0]).toMatch(/^220/);
  });

  it('drops everything at once on close(false), handshakes too', async () => {
    const tls = await testCertificate('mx.example.net');
    const plain = await rig();
    const client = await inData(plain);
    client.send('half a message\r\n');
    await eventually('the first bytes', () => plain.recorder.messages[0]?.writes === 1);
    await plain.edge.close(false);
    expect(plain.recorder.messages[0]?.aborted).toBe('connection closed by the client');
    expect(plain.edge.connections).toBe(0);
    const implicit = await rig({ tls, listener: { tls: 'Implicit' } });
    const socket = connect({ host: '127.0.0.1', port: implicit.edge.port });
    socket.on('error', () => undefined);
    let closed = false;
    socket.on('close', () => {
      closed = true;
    });
    await turn();
    await implicit.edge.close(false);
    await eventually('the end of the handshake', () => closed);
  });

  it('counts what it does', async () => {
    const counted: string[] = [];
    const note = (name: string, labels: Labels = {}): number =>
      counted.push(`${name} ${Object.values(labels).join(' ')}`);
    const metrics: Metrics = {
      increment: note,
      set: (name, value) => note(`${name}=${value}`),
      observe: () => undefined,
    };
    const started = await rig({ metrics, limits: { maxErrors: 1, maxRecipients: 1 } });
    const client = await greeted(started);
    client.send(
      'MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@example.net>\r\nBOGUS\r\nBOGUS\r\n',
    );
    await client.closed();
    client.drop();
    await eventually('no connection', () => started.edge.connections === 0);
    expect(counted).toEqual([
      'smtp_connections_total smtp',
      'smtp_connections=1 ',
      'smtp_commands_total EHLO 250',
      'smtp_commands_total MAIL 250',
      'smtp_commands_total RCPT 250',
      'smtp_limits_total maxRecipients',
      'smtp_commands_total RCPT 452',
      'smtp_commands_total OTHER 500',
      'smtp_limits_total maxErrors',
      'smtp_sessions_rejected_total tooManyErrors',
      'smtp_commands_total OTHER 421',
      'smtp_connections=0 ',
    ]);
  });
});
