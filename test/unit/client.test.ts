/** The SMTP / LMTP client against a scripted server that is right, wrong, slow or gone at every step (RFC 5321, RFC 2033, RFC 3207). */
import { createServer } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { ClientError, type ClientOptions, connectClient, type OutgoingMessage } from '../../common/smtp/client.ts';
import { type PeerScript, ScriptedPeer } from '../rigs/scripted-peer.ts';
import { testCertificate } from '../rigs/test-certificate.ts';

const FAST = {
  connectMs: 300,
  greetingMs: 300,
  commandMs: 300,
  dataInitiationMs: 300,
  dataBlockMs: 300,
  dataTerminationMs: 300,
};

let peers: ScriptedPeer[] = [];
afterEach(async () => {
  const all = peers;
  peers = [];
  for (const peer of all) await peer[Symbol.asyncDispose]();
});

async function startPeer(script: PeerScript = {}): Promise<ScriptedPeer> {
  const peer = await ScriptedPeer.start(script);
  peers.push(peer);
  return peer;
}

function optionsFor(peer: { port: number }, more: Partial<ClientOptions> = {}): ClientOptions {
  return {
    protocol: 'SMTP',
    host: '127.0.0.1',
    port: peer.port,
    hostname: 'mx1.test',
    tls: 'None',
    timeouts: FAST,
    clock: systemClock,
    ...more,
  };
}

function message(more: Partial<OutgoingMessage> & { text?: string } = {}): OutgoingMessage {
  const { text = 'Subject: hi\r\n\r\nhello\r\n', ...rest } = more;
  return {
    reversePath: 'alice@example.org',
    body: '7BIT',
    smtputf8: false,
    sizeBytes: text.length,
    recipients: [{ address: 'bob@example.org' }],
    content: async function* () {
      yield Buffer.from(text);
    },
    ...rest,
  };
}

const TWO = [{ address: 'bob@example.org' }, { address: 'carol@example.org' }];

describe('a transaction', () => {
  test('with PIPELINING: envelope in one write, content byte for byte, connection reused', async () => {
    const peer = await startPeer({ capabilities: ['PIPELINING', 'SIZE 1000', '8BITMIME', 'DSN', 'SMTPUTF8'] });
    const client = await connectClient(optionsFor(peer));
    const outcome = await client.send(
      message({
        text: 'A: b\r\n\r\n.dot\r\n..\r\n.',
        body: '8BITMIME',
        ret: 'HDRS',
        envid: 'e1',
        recipients: [{ address: 'bob@example.org', notify: 'NEVER', orcpt: 'rfc822;x' }],
      }),
    );
    expect(outcome).toMatchObject({ recipients: [{ kind: 'accepted', reply: { code: 250 } }], dsnPassedOn: true });
    const again = await client.send(message());
    expect(again.recipients).toMatchObject([{ kind: 'accepted' }]);
    expect(peer.connections).toBe(1);
    expect(peer.lines).toEqual([
      'EHLO mx1.test',
      'MAIL FROM:<alice@example.org> SIZE=19 BODY=8BITMIME RET=HDRS ENVID=e1',
      'RCPT TO:<bob@example.org> NOTIFY=NEVER ORCPT=rfc822;x',
      'DATA',
      'MAIL FROM:<alice@example.org> SIZE=22',
      'RCPT TO:<bob@example.org>',
      'DATA',
    ]);
    expect(peer.messages.map(({ wire }) => wire)).toEqual([
      'A: b\r\n\r\n..dot\r\n...\r\n..\r\n',
      'Subject: hi\r\n\r\nhello\r\n',
    ]);
    client.quit();
  });

  test('without PIPELINING: one command at a time, DATA only when somebody was accepted', async () => {
    const peer = await startPeer({
      capabilities: [],
      onCommand: (verb, line) => (verb === 'RCPT' && line.includes('nobody') ? '550 5.1.1 unknown' : null),
    });
    const client = await connectClient(optionsFor(peer));
    const refused = await client.send(message({ recipients: [{ address: 'nobody@example.org' }] }));
    expect(refused.recipients).toMatchObject([
      { kind: 'rejected', stage: 'RCPT', reply: { code: 550, enhanced: '5.1.1' } },
    ]);
    const taken = await client.send(message());
    expect(taken.recipients).toMatchObject([{ kind: 'accepted' }]);
    expect(peer.lines.map((line) => line.split(/[ :]/)[0])).toEqual([
      'EHLO',
      'MAIL',
      'RCPT',
      'RSET',
      'MAIL',
      'RCPT',
      'DATA',
    ]);
  });

  test('HELO when EHLO is unknown', async () => {
    const peer = await startPeer({ onCommand: (verb) => (verb === 'EHLO' ? '502 what' : null) });
    const client = await connectClient(optionsFor(peer));
    expect((await client.send(message())).recipients).toMatchObject([{ kind: 'accepted' }]);
    expect(peer.lines[1]).toBe('HELO mx1.test');
  });

  test('LMTP: one reply for each accepted recipient', async () => {
    const peer = await startPeer({
      protocol: 'LMTP',
      onCommand: (verb, line) => (verb === 'RCPT' && line.includes('nobody') ? '550 5.1.1 unknown' : null),
      onEnd: () => ['250 2.0.0 stored', '452 4.2.2 full'],
    });
    const client = await connectClient(optionsFor(peer, { protocol: 'LMTP' }));
    const outcome = await client.send(
      message({ recipients: [TWO[0], { address: 'nobody@x' }, TWO[1]].flatMap((r) => r ?? []) }),
    );
    expect(outcome.recipients).toMatchObject([
      { kind: 'accepted' },
      { kind: 'rejected', stage: 'RCPT', reply: { code: 550 } },
      { kind: 'rejected', stage: 'END', reply: { code: 452, enhanced: '4.2.2' } },
    ]);
    expect(client.isUsable).toBe(true);
  });

  test('10 MB go through with bounded memory, dots doubled', async () => {
    const peer = await startPeer();
    const client = await connectClient(optionsFor(peer));
    const chunk = Buffer.from('.line\r\n'.repeat(9362));
    let yielded = 0;
    const outcome = await client.send(
      message({
        content: async function* () {
          for (let i = 0; i < 160; i++) {
            yielded += chunk.length;
            yield chunk;
          }
        },
      }),
    );
    expect(outcome.recipients).toMatchObject([{ kind: 'accepted' }]);
    expect(peer.messages[0]?.wire.length).toBe(yielded + 160 * 9362);
  });
});

describe('what the server cannot take is refused here', () => {
  const cases: [string, string[], Partial<OutgoingMessage> & { text?: string }, object][] = [
    ['size', ['SIZE 10'], {}, { code: 552, enhanced: '5.3.4' }],
    ['8-bit content', [], { body: '8BITMIME', text: 'A: b\r\n\r\né\r\n' }, { code: 554, enhanced: '5.6.3' }],
    ['UTF-8 header', ['8BITMIME'], { smtputf8: true, text: 'A: é\r\n\r\nx\r\n' }, { code: 554, enhanced: '5.6.9' }],
    ['UTF-8 sender', ['8BITMIME'], { smtputf8: true, reversePath: 'é@x' }, { code: 550, enhanced: '5.6.7' }],
    ['UTF-8 recipient', [], { smtputf8: true, recipients: [{ address: 'é@x' }] }, { code: 553, enhanced: '5.6.7' }],
    ['CRLF in the sender', [], { reversePath: 'a@x>\r\nRCPT TO:<b@x' }, { code: 553, enhanced: '5.1.7' }],
    ['CRLF in a recipient', [], { recipients: [{ address: 'a@x>\r\nDATA' }] }, { code: 553, enhanced: '5.1.3' }],
  ];
  test.each(cases)('%s', async (_, capabilities, more, reply) => {
    const peer = await startPeer({ capabilities: ['PIPELINING', ...capabilities] });
    const client = await connectClient(optionsFor(peer));
    expect((await client.send(message(more))).recipients).toMatchObject([{ kind: 'rejected', stage: 'LOCAL', reply }]);
    expect(peer.lines).toEqual(['EHLO mx1.test']);
    expect(client.isUsable).toBe(true);
  });

  test('extensions that are declared and not needed do not stop a message', async () => {
    const peer = await startPeer({ capabilities: [] });
    const client = await connectClient(optionsFor(peer));
    const outcome = await client.send(message({ body: '8BITMIME', smtputf8: true }));
    expect(outcome.recipients).toMatchObject([{ kind: 'accepted' }]);
    expect(peer.lines).toContain('MAIL FROM:<alice@example.org>');
  });

  test('one UTF-8 recipient does not stop the others; parameters that could split a command are left out', async () => {
    const peer = await startPeer({ capabilities: ['PIPELINING', 'DSN', '8BITMIME'] });
    const client = await connectClient(optionsFor(peer));
    const recipients = [{ address: 'é@x' }, { address: 'bob@x', orcpt: 'rfc822;a\r\nDATA', notify: 'FAILURE' }];
    const outcome = await client.send(message({ smtputf8: true, recipients, envid: 'a b' }));
    expect(outcome.recipients).toMatchObject([{ kind: 'rejected' }, { kind: 'accepted' }]);
    expect(peer.lines.slice(1, 3)).toEqual(['MAIL FROM:<alice@example.org>', 'RCPT TO:<bob@x> NOTIFY=FAILURE']);
  });
});

describe('faulty servers', () => {
  const cases: [string, PeerScript, object[]][] = [
    [
      'MAIL refused',
      { onCommand: (verb) => (verb === 'MAIL' ? '451 4.3.0 later' : null) },
      [
        { kind: 'rejected', stage: 'MAIL' },
        { kind: 'rejected', stage: 'MAIL' },
      ],
    ],
    [
      'DATA refused',
      { onCommand: (verb) => (verb === 'DATA' ? '554 5.7.1 no' : null) },
      [
        { kind: 'rejected', stage: 'DATA' },
        { kind: 'rejected', stage: 'DATA' },
      ],
    ],
    [
      'drop at MAIL',
      { onCommand: (verb) => (verb === 'MAIL' ? 'drop' : null) },
      [{ kind: 'broken' }, { kind: 'broken' }],
    ],
    [
      'hang at DATA',
      { onCommand: (verb) => (verb === 'DATA' ? 'hang' : null) },
      [{ kind: 'broken', error: { code: 'TIMEOUT' } }, { kind: 'broken' }],
    ],
    [
      'garbage at RCPT',
      { onCommand: (verb) => (verb === 'RCPT' ? { raw: 'HTTP/1.1 400 Bad Request\r\n' } : null) },
      [{ kind: 'broken', error: { code: 'GARBAGE' } }, { kind: 'broken' }],
    ],
    [
      '3yz at MAIL',
      { onCommand: (verb) => (verb === 'MAIL' ? '354 go' : null) },
      [{ kind: 'broken', error: { code: 'GARBAGE' } }, { kind: 'broken' }],
    ],
    [
      '2yz at DATA',
      { onCommand: (verb) => (verb === 'DATA' ? '250 fine' : null) },
      [{ kind: 'broken', error: { code: 'GARBAGE' } }, { kind: 'broken' }],
    ],
    [
      '354 for nobody',
      { onCommand: (verb) => (verb === 'RCPT' ? '550 5.1.1 no' : verb === 'DATA' ? '354 go' : null) },
      [{ kind: 'rejected' }, { kind: 'rejected' }],
    ],
    [
      'drop after the dot',
      { onEnd: () => ['drop'] },
      [{ kind: 'unknown', error: { code: 'CLOSED' } }, { kind: 'unknown' }],
    ],
    [
      'hang after the dot',
      { onEnd: () => ['hang'] },
      [{ kind: 'unknown', error: { code: 'TIMEOUT' } }, { kind: 'unknown' }],
    ],
    [
      'garbage after the dot',
      { onEnd: () => [{ raw: 'ok!\r\n' }] },
      [{ kind: 'unknown', error: { code: 'GARBAGE' } }, { kind: 'unknown' }],
    ],
    [
      'half a reply after the dot',
      { onEnd: () => [{ raw: '250 sto', thenDrop: true }] },
      [{ kind: 'unknown', error: { code: 'CLOSED' } }, { kind: 'unknown' }],
    ],
    [
      '3yz after the dot',
      { onEnd: () => ['354 more'] },
      [{ kind: 'unknown', error: { code: 'GARBAGE' } }, { kind: 'unknown' }],
    ],
    [
      '5yz after the dot',
      { onEnd: () => ['554 5.6.0 no'] },
      [
        { kind: 'rejected', stage: 'END' },
        { kind: 'rejected', stage: 'END' },
      ],
    ],
    [
      'one recipient, then dead',
      { onCommand: (verb, _, session) => (verb === 'RCPT' && session.rcpts.length === 2 ? 'drop' : null) },
      [{ kind: 'broken' }, { kind: 'broken' }],
    ],
  ];
  test.each(cases)('%s', async (_, script, expected) => {
    const peer = await startPeer(script);
    const client = await connectClient(optionsFor(peer));
    const { recipients } = await client.send(message({ recipients: TWO }));
    expect(recipients).toMatchObject(expected);
    expect(recipients).toHaveLength(2);
    client.destroy('test over');
  });

  test('LMTP: a store that answers for one recipient and dies', async () => {
    const peer = await startPeer({ protocol: 'LMTP', onEnd: () => [{ raw: '250 2.0.0 stored\r\n', thenDrop: true }] });
    const client = await connectClient(optionsFor(peer, { protocol: 'LMTP' }));
    const { recipients } = await client.send(message({ recipients: TWO }));
    expect(recipients).toMatchObject([{ kind: 'accepted' }, { kind: 'unknown' }]);
    expect(client.isUsable).toBe(false);
  });

  test('552 to RCPT: too many recipients is transient, a full mailbox is not', async () => {
    const peer = await startPeer({
      onCommand: (verb, line) => (verb !== 'RCPT' ? null : line.includes('bob') ? '552 too many' : '552 5.2.2 full'),
    });
    const client = await connectClient(optionsFor(peer));
    const { recipients } = await client.send(message({ recipients: TWO }));
    expect(recipients).toMatchObject([
      { reply: { code: 452, enhanced: '4.5.3' } },
      { reply: { code: 552, enhanced: '5.2.2' } },
    ]);
  });

  test('a refusal in the middle of the content counts, and the rest is not sent', async () => {
    const peer = await startPeer({
      onContent: (bytes) => (bytes > 100_000 && bytes < 200_000 ? '552 5.3.4 too big' : null),
    });
    const client = await connectClient(optionsFor(peer));
    let chunks = 0;
    const { recipients } = await client.send(
      message({
        content: async function* () {
          for (; chunks < 4000; chunks++) yield Buffer.from(`${'x'.repeat(65_534)}\r\n`);
        },
      }),
    );
    expect(recipients).toMatchObject([{ kind: 'rejected', stage: 'DATA', reply: { code: 552 } }]);
    expect(chunks).toBeLessThan(4000);
    expect(client.isUsable).toBe(false);
  });

  test('a server that stops reading runs into the block time-out; nothing was accepted', async () => {
    const server = createServer((socket) => {
      socket.write('220 x\r\n250 x\r\n250 x\r\n250 x\r\n354 x\r\n'.slice(0, 7));
      const answers = ['250 x\r\n', '250 x\r\n', '250 x\r\n', '354 x\r\n'];
      socket.on('error', () => socket.destroy());
      socket.on('data', () => {
        const answer = answers.shift();
        if (answer !== undefined) socket.write(answer);
        if (answers.length === 0) socket.pause();
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    const port = address !== null && typeof address === 'object' ? address.port : 0;
    const client = await connectClient(optionsFor({ port }));
    const { recipients } = await client.send(
      message({
        content: async function* () {
          for (let i = 0; i < 1000; i++) yield Buffer.alloc(65_536, 'x');
        },
      }),
    );
    expect(recipients).toMatchObject([{ kind: 'broken', error: { code: 'TIMEOUT' } }]);
    server.close();
  });

  test('content that cannot be read is never finished with a dot', async () => {
    const peer = await startPeer();
    const client = await connectClient(optionsFor(peer));
    const outcome = await client.send(
      message({
        content: async function* () {
          yield Buffer.from('A: b\r\n\r\nhalf');
          throw Object.assign(new Error('checksum'), { code: 'DAMAGED' });
        },
      }),
    );
    expect(outcome.contentError).toMatchObject({ code: 'DAMAGED' });
    expect(outcome.recipients).toMatchObject([{ kind: 'broken' }]);
    expect(client.isUsable).toBe(false);
    expect(peer.messages).toEqual([]);
  });

  test('a connection that died while idle is not usable', async () => {
    const peer = await startPeer();
    const client = await connectClient(optionsFor(peer));
    const closed = new Promise<void>((resolve) => client.onClosed(resolve));
    peer.dropAll();
    await closed;
    expect(client.isUsable).toBe(false);
    expect(await client.send(message())).toMatchObject({ serverSpoke: false, recipients: [{ kind: 'broken' }] });
  });
});

describe('no session', () => {
  const cases: [string, PeerScript, string][] = [
    ['4yz greeting', { onConnect: () => '421 4.3.2 busy' }, 'REFUSED'],
    ['5yz greeting', { onConnect: () => '554 5.7.1 no' }, 'REFUSED'],
    ['no greeting', { onConnect: () => 'hang' }, 'TIMEOUT'],
    ['garbage greeting', { onConnect: () => ({ raw: 'SSH-2.0-x\r\n' }) }, 'GARBAGE'],
    ['drop before the greeting', { onConnect: () => 'drop' }, 'CLOSED'],
    ['EHLO refused', { onCommand: (verb) => (verb === 'EHLO' ? '550 5.7.1 go away' : null) }, 'REFUSED'],
    ['hang at EHLO', { onCommand: (verb) => (verb === 'EHLO' ? 'hang' : null) }, 'TIMEOUT'],
    [
      'endless EHLO reply',
      { onCommand: (verb) => (verb === 'EHLO' ? { raw: '250-x\r\n'.repeat(1000) } : null) },
      'GARBAGE',
    ],
  ];
  test.each(cases)('%s', async (_, script, code) => {
    const peer = await startPeer(script);
    await expect(connectClient(optionsFor(peer))).rejects.toMatchObject({ name: 'ClientError', code });
  });

  test('connection refused', async () => {
    const peer = await ScriptedPeer.start();
    const { port } = peer;
    await peer[Symbol.asyncDispose]();
    const failure = await connectClient(optionsFor({ port })).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(ClientError);
    expect(failure).toMatchObject({ code: 'CONNECT', message: expect.stringContaining('ECONNREFUSED') });
  });
});

describe('TLS', () => {
  const WITH_TLS = ['PIPELINING', 'STARTTLS'];
  test('opportunistic: an unverifiable certificate is used; EHLO is said again', async () => {
    const peer = await startPeer({ capabilities: WITH_TLS, tls: await testCertificate('elsewhere.test') });
    const client = await connectClient(optionsFor(peer, { tls: 'Opportunistic' }));
    expect(client.secured).toBe(true);
    expect((await client.send(message())).recipients).toMatchObject([{ kind: 'accepted' }]);
    expect(peer.lines.slice(0, 3)).toEqual(['EHLO mx1.test', 'STARTTLS', 'EHLO mx1.test']);
  });

  test('required: a good certificate passes, a foreign authority or a wrong name does not', async () => {
    const good = await testCertificate('127.0.0.1');
    const wrongName = await testCertificate('elsewhere.test');
    const peer = await startPeer({ capabilities: WITH_TLS, tls: good });
    const client = await connectClient(optionsFor(peer, { tls: 'Required', ca: good.ca }));
    expect(client.secured).toBe(true);
    client.quit();
    await expect(connectClient(optionsFor(peer, { tls: 'Required' }))).rejects.toMatchObject({ code: 'TLS' });
    const other = await startPeer({ capabilities: WITH_TLS, tls: wrongName });
    const named = connectClient(optionsFor(other, { tls: 'Required', ca: wrongName.ca }));
    await expect(named).rejects.toMatchObject({ code: 'TLS', message: expect.stringContaining('127.0.0.1') });
  });

  test('required and not offered', async () => {
    const peer = await startPeer();
    await expect(connectClient(optionsFor(peer, { tls: 'Required' }))).rejects.toMatchObject({ code: 'TLS' });
  });

  test('opportunistic: a broken handshake is followed by a session in the clear', async () => {
    const peer = await startPeer({
      capabilities: WITH_TLS,
      onCommand: (verb, _, session) =>
        verb === 'STARTTLS' && session.connection === 0 ? { raw: '220 go\r\n', thenDrop: true } : null,
    });
    const client = await connectClient(optionsFor(peer, { tls: 'Opportunistic' }));
    expect(client.secured).toBe(false);
    expect(peer.connections).toBe(2);
  });

  test('bytes behind the answer to STARTTLS end the session (response injection)', async () => {
    const peer = await startPeer({
      capabilities: WITH_TLS,
      onCommand: (verb) => (verb === 'STARTTLS' ? { raw: '220 go\r\n250-evil\r\n250' } : null),
    });
    await expect(connectClient(optionsFor(peer, { tls: 'Required' }))).rejects.toMatchObject({ code: 'GARBAGE' });
  });
});
