/** The seat of a mail filter, with filters that say everything there is to say, and those that are gone, hang, crash or talk nonsense. Real sockets; nothing is left open. */
import { createServer } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ContentFilterConfig } from '../../common/config.ts';
import type { ClientInfo, Envelope } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { type LogFields, silentLogger } from '../../common/platform/log.ts';
import type { Labels, Metrics } from '../../common/platform/metrics.ts';
import { createMetrics } from '../../common/platform/prom-metrics.ts';
import { ContentFilters, type FilteredMessage, type FilterVerdict } from '../../frontend/content-filters.ts';
import { until } from '../house/until.ts';
import { answer, negotiated, number, type Said, type Script, ScriptedMilter } from '../rigs/scripted-milter.ts';
import { SeededRandom } from '../sim/scheduler.ts';

const MESSAGE = Buffer.from('From: Ann <ann@example.com>\r\nSubject: hello\r\n\tworld\r\n\r\nHello.\r\n.\r\nBye.\r\n');
const REFUSED = { code: 550, enhanced: '5.7.1', text: 'Message refused by the content filter' };
const DEFERRED = { code: 451, enhanced: '4.7.1', text: 'Message deferred by the content filter, try again later' };
const UNAVAILABLE = { code: 451, enhanced: '4.7.1', text: 'Content filter not available, try again later' };

let milter: ScriptedMilter;
let filters: ContentFilters;
let counted: string[];
let warned: LogFields[];
beforeEach(async () => {
  milter = await ScriptedMilter.start();
  counted = [];
  warned = [];
});
afterEach(async () => {
  filters.close();
  await until('every connection to be gone', async () => milter.open === 0, { deadlineMs: 5_000 });
  await milter[Symbol.asyncDispose]();
});

const metrics: Metrics = {
  increment: (_, labels: Labels = {}, by = 1) => {
    if (by > 0) counted.push(`${labels.result ?? labels.reason}`);
  },
  set: () => undefined,
  observe: () => undefined,
};
const log = { ...silentLogger, warn: (fields: LogFields) => void warned.push(fields) };

function seat(settings: Partial<ContentFilterConfig> = {}, counter = metrics): ContentFilters {
  const contentFilter = {
    host: '127.0.0.1',
    port: milter.port,
    timeoutMs: 5_000,
    failurePolicy: 'Defer' as const,
    ...settings,
  };
  const plain = { host: '', port: 0, tls: 'None' as const, relayFrom: [], usersFile: null };
  const listeners = [
    { ...plain, name: 'smtp', contentFilter },
    { ...plain, name: 'bare' },
  ];
  filters = new ContentFilters({
    clock: systemClock,
    log,
    metrics: counter,
    listeners,
    hostname: 'fe-1.mx.example.org',
  });
  return filters;
}

function from(client: Partial<ClientInfo> = {}): Envelope {
  const info = {
    address: '::ffff:192.0.2.1',
    port: 2_525,
    helo: 'client.example',
    protocol: 'ESMTP',
    tls: null,
    user: null,
  };
  return {
    ...{
      reversePath: 'ann@example.com',
      recipients: [{ address: 'bob@example.org', notify: 'NEVER' }, { address: 'cy@example.org' }],
    },
    ...{ body: '8BITMIME', smtputf8: false, declaredSizeBytes: 77, client: { ...info, ...client } },
    ...{ frontend: 'fe', listener: 'smtp', receivedAtMs: 0 },
  };
}

function begun(envelope = from(), drain = (): void => undefined): FilteredMessage {
  const found = filters.begin(envelope, '01ATTEMPT', drain);
  if (found === null) throw new Error('nobody is asked');
  return found;
}

async function ask(message = MESSAGE, pieceBytes = 20, envelope = from()): Promise<FilterVerdict> {
  const asked = begun(envelope);
  for (let at = 0; at < message.length; at += pieceBytes) asked.write(message.subarray(at, at + pieceBytes));
  return asked.end();
}

const told = (): Promise<unknown> =>
  until('it to be told', async () => milter.commands.endsWith('Q'), { deadlineMs: 5_000 });

/** This in place of what is usual for these commands. */
const says =
  (commands: string, said: Said): Script =>
  ({ command }) =>
    commands.includes(command) ? said : null;

const accepted = (...fields: readonly (readonly [string, string])[]): FilterVerdict => ({
  kind: 'accept',
  fields: fields.map(([name, value]) => ({ name, value })),
  note: null,
});

describe('what the filter hears', () => {
  test('the envelope, every field, the body, with the macros that filters ask for', async () => {
    seat();
    expect(await ask()).toEqual(accepted());
    await told();
    expect(milter.commands.replaceAll('D', '')).toMatch(/^OCHMRRTLLNB+EQ$/);
    expect(milter.texts('M')).toEqual([['<ann@example.com>', 'SIZE=77', 'BODY=8BITMIME']]);
    expect(milter.texts('R')).toEqual([['<bob@example.org>', 'NOTIFY=NEVER'], ['<cy@example.org>']]);
    expect(milter.texts('L')).toEqual([
      ['From', ' Ann <ann@example.com>'],
      ['Subject', ' hello\n\tworld'],
    ]);
    expect(milter.body.toString()).toBe('Hello.\r\n.\r\nBye.\r\n');
    expect(milter.macros('C')).toMatchObject({
      j: 'fe-1.mx.example.org',
      '{daemon_name}': 'smtp',
      '{client_addr}': '192.0.2.1',
      '{client_name}': '[192.0.2.1]',
    });
    expect(milter.macros('M')).toEqual({ i: '01ATTEMPT', '{mail_addr}': 'ann@example.com' });
    expect(milter.macros('R')).toMatchObject({ '{rcpt_addr}': 'cy@example.org' });
    expect(milter.macros('E')).toEqual({ i: '01ATTEMPT' });
    expect(counted).toEqual(['accepted']);
  });

  test('a user over TLS, a null sender, a name that is not ASCII', async () => {
    seat();
    const tls = { version: 'TLSv1.3', cipher: 'TLS_AES_256_GCM_SHA384' };
    const envelope = { ...from({ address: '2001:db8::1', helo: 'müller.example', tls, user: 'bob' }), reversePath: '' };
    await ask(MESSAGE, 1_000, envelope);
    expect(milter.macros('H')).toEqual({ '{tls_version}': tls.version, '{cipher}': tls.cipher });
    expect(milter.macros('M')).toMatchObject({ '{auth_authen}': 'bob', '{auth_type}': 'SASL', '{mail_addr}': '' });
    expect(milter.texts('M')[0]?.[0]).toBe('<>');
    expect(milter.heard.find(({ command }) => command === 'H')?.data.toString('utf8')).toBe('müller.example\0');
    expect(milter.heard.find(({ command }) => command === 'C')?.data.toString('latin1')).toBe(
      '[2001:db8::1]\x006\x09\xdd2001:db8::1\0',
    );
  });

  test('what it does not want is not said, what it does not answer is not waited for, SKIP ends the body', async () => {
    seat();
    milter.script = says('O', negotiated(6, 1, 0x1 | 0x2 | 0x40 | 0x200 | 0x80 | 0x8000));
    const quiet = milter.script;
    milter.script = (heard, count) =>
      'LR'.includes(heard.command) ? 'silence' : heard.command === 'B' ? answer('s') : quiet(heard, count);
    expect(await ask(Buffer.concat([MESSAGE, Buffer.alloc(300_000, 'x\r\n')]), 30_000)).toEqual(accepted());
    await told();
    expect(milter.commands.replaceAll('D', '')).toMatch(/^OMRRLLBEQ$/);
    // Without SMFIP_HDR_LEADSPC.
    expect(milter.texts('L')[0]).toEqual(['From', 'Ann <ann@example.com>']);
  });

  test('an older filter, version 2, is not told of DATA', async () => {
    seat();
    milter.script = says('O', negotiated(2, 1, 0));
    expect(await ask()).toEqual(accepted());
    expect(milter.commands).not.toContain('T');
  });

  test('what is counted is there from 0 on, for each listener with a filter and no other', async () => {
    const exported = createMetrics({});
    seat({}, exported);
    const lines = async (): Promise<readonly string[]> =>
      (await exported.render()).split('\n').filter((line) => /^mailcluster_content_filter_\w+_total\{/.test(line));
    const before = await lines();
    expect(before).toHaveLength(11);
    expect(before.filter((line) => !/\{listener="smtp",(result|reason)="\w+"\} 0$/.test(line))).toEqual([]);
    milter.script = says('O', 'close');
    await ask();
    expect((await lines()).filter((line) => !before.includes(line))).toEqual([
      expect.stringContaining('messages_total{listener="smtp",result="failedDeferred"} 1'),
      expect.stringContaining('failures_total{listener="smtp",reason="unsupported"} 1'),
    ]);
  });

  test('nobody is asked about mail of other listeners', () => {
    expect(seat().begin({ ...from(), listener: 'bare' }, 'x', () => undefined)).toBeNull();
    expect(milter.opened).toBe(0);
  });
});

describe('what it says', () => {
  const verdicts: readonly (readonly [string, Said, FilterVerdict, string])[] = [
    ['reject', answer('r'), { kind: 'refuse', reply: REFUSED }, 'rejected'],
    ['tempfail', answer('t'), { kind: 'refuse', reply: DEFERRED }, 'deferred'],
    ['discard', answer('d'), { kind: 'refuse', reply: REFUSED }, 'discarded'],
    [
      'its own 5yz',
      answer('y', '554 5.7.7 Eicar found\0'),
      { kind: 'refuse', reply: { code: 554, enhanced: '5.7.7', text: 'Eicar found' } },
      'rejected',
    ],
    [
      'its own 4yz',
      answer('y', '450 4.2.0 Greylisted\0'),
      { kind: 'refuse', reply: { code: 450, enhanced: '4.2.0', text: 'Greylisted' } },
      'deferred',
    ],
    ['accept', answer('a'), accepted(), 'accepted'],
  ];
  test.each(verdicts)('%s, to each command that it may say it to', async (_, said, expected, result) => {
    seat();
    for (const command of 'CHMRTLNBE') {
      milter.script = says(command, said);
      milter.heard.length = 0;
      expect(await ask(), command).toEqual(expected);
      await told();
      expect(milter.commands.replaceAll('D', ''), command).toMatch(command === 'E' ? /[^A]Q$/ : /AQ$/);
    }
    expect(counted).toEqual(Array.from({ length: 9 }, () => result));
    expect(warned).toEqual([]);
  });

  test('fields it adds go above the message: inserted ones at their place, the others below', async () => {
    seat();
    const all = [
      answer('h', 'X-Last', '\0', ' 1\0'),
      answer('i', number(1), 'X-Sig\0 a;\r\n\tb\0'),
      answer('i', number(0), 'X-Top\0\0'),
      answer('p'),
      answer('i', number(2), 'X-Second\0 2\0'),
      answer('c'),
    ];
    milter.script = says('E', Buffer.concat(all));
    expect(await ask()).toEqual(accepted(['X-Top', ''], ['X-Second', ' 2'], ['X-Sig', ' a;\n\tb'], ['X-Last', ' 1']));
    milter.script = ({ command }) =>
      command === 'O'
        ? negotiated(6, 1, 0)
        : command === 'E'
          ? Buffer.concat([answer('h', 'X\0y\0'), answer('a')])
          : null;
    expect(await ask()).toEqual(accepted(['X', ' y']));
    // Of a message that is refused nothing is kept.
    milter.script = says('E', Buffer.concat([answer('h', 'X\0y\0'), answer('r')]));
    expect(await ask()).toEqual({ kind: 'refuse', reply: REFUSED });
  });

  test('a field that it changes, and that is not there, is added; one that it removes is nothing: so rspamd marks spam', async () => {
    seat();
    const all = [answer('m', number(1), 'X-Spam\0\0'), answer('m', number(1), 'X-Spam\0Yes\0'), answer('a')];
    milter.script = ({ command }) =>
      command === 'O' ? negotiated(6, 0x3f, 0) : command === 'E' ? Buffer.concat(all) : null;
    expect(await ask()).toEqual(accepted(['X-Spam', ' Yes']));
  });

  test('a mark goes above a field of the same name that the sender wrote: he cannot keep it away', async () => {
    seat({ failurePolicy: 'Accept' });
    milter.script = ({ command }) =>
      command === 'E' ? Buffer.concat([answer('m', number(1), 'X-Spam\0Yes\0'), answer('a')]) : null;
    expect(await ask(Buffer.from('X-Spam: no\r\nSubject: s\r\n\r\nbody\r\n'))).toEqual(accepted(['X-Spam', 'Yes']));
    const names = Array.from({ length: 2_500 }, (_, at) => `X-${at}: y\r\n`).join('');
    expect(await ask(Buffer.from(`${names}\r\nbody\r\n`), 4_000)).toEqual(accepted(['X-Spam', 'Yes']));
  });

  test('progress begins the time anew', async () => {
    seat({ timeoutMs: 1_000 });
    const sent: NodeJS.Timeout[] = [];
    milter.script = ({ command }) => (command === 'E' ? 'silence' : null);
    const verdict = ask();
    await until('the end', async () => milter.commands.includes('E'), { deadlineMs: 5_000 });
    for (const atMs of [600, 1_200, 1_800]) sent.push(setTimeout(() => milter.say(answer('p')), atMs));
    sent.push(setTimeout(() => milter.say(answer('c')), 2_400));
    expect(await verdict).toEqual(accepted());
  });

  test('a filter that asks for more at negotiation, and does not use it, is no worse', async () => {
    seat();
    milter.script = says('O', negotiated(6, 0x1ff, 0));
    expect(await ask()).toEqual(accepted());
  });
});

const field = (name: string, value: string): Buffer => answer('h', `${name}\0${value}\0`);
const many = (count: number, value: string): Buffer =>
  Buffer.concat(Array.from({ length: count }, () => field('X', value)));

describe('no usable answer', () => {
  const failures: readonly (readonly [string, Script, string, RegExp])[] = [
    ['hangs at negotiation', says('O', 'silence'), 'timeout', /no answer in 1 s/],
    ['hangs at the end', says('E', 'silence'), 'timeout', /no answer in 1 s/],
    ['hangs in the body', says('B', 'silence'), 'timeout', /no answer in 1 s/],
    [
      'hangs up at negotiation: it needs more',
      says('O', 'close'),
      'unsupported',
      /may add header fields and nothing else/,
    ],
    ['hangs up at HELO', says('H', 'close'), 'closed', /closed the connection/],
    ['crashes in the body', says('B', 'reset'), 'closed', /ECONNRESET|closed|EPIPE/],
    ['crashes at the end', says('E', 'reset'), 'closed', /ECONNRESET|closed/],
    [
      'is a web server',
      says('O', Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')),
      'garbage',
      /an answer of 1213486160 bytes/,
    ],
    ['speaks another version', says('O', negotiated(7, 1, 0)), 'unsupported', /version 7/],
    ['does not negotiate', says('O', answer('c')), 'garbage', /continue in place of its negotiation/],
    ['skips what cannot be skipped', says('M', answer('s')), 'garbage', /skip in place of/],
    ['adds fields too early', says('M', field('X', 'y')), 'garbage', /field in place of/],
    ['replaces the body', says('E', answer('b', 'other')), 'unsupported', /replace the body/],
    ['changes a field', says('E', answer('m', number(1), 'SUBJECT\0x\0')), 'unsupported', /change or remove/],
    ['removes a field', says('E', answer('m', number(1), 'from\0\0')), 'unsupported', /change or remove/],
    [
      'changes what it has added',
      says('E', Buffer.concat([answer('h', 'X\0y\0'), answer('m', number(1), 'x\0z\0')])),
      'unsupported',
      /change or remove/,
    ],
    ['adds a recipient', says('E', answer('+', '<x@y>\0')), 'unsupported', /add a recipient/],
    ['puts it into quarantine', says('E', answer('q', 'why\0')), 'unsupported', /quarantine/],
    ['shuts down', says('E', answer('4')), 'closed', /cannot go on/],
    ['smuggles a field', says('E', field('X', ' y\nSubject: z')), 'unsupported', /does not go on/],
    ['adds our own field', says('E', field('X-MailCluster-Delivery', 'y')), 'unsupported', /one of our own/],
    ['adds too many fields', says('E', many(30, 'y')), 'unsupported', /more than 24 header fields/],
    [
      'adds fields that are too long',
      says('E', many(10, `y\n ${'z'.repeat(900)}\n ${'z'.repeat(900)}`)),
      'unsupported',
      /16384 characters in all/,
    ],
    ['never stops adding', says('E', Buffer.concat([many(20_000, 'y')])), 'unsupported', /more than 24/],
  ];
  test.each(failures)(
    'a filter that %s: 451, or accepted, as the listener says',
    async (_, script, reason, problem) => {
      milter.script = script;
      seat({ timeoutMs: 1_000 });
      const beganMs = performance.now();
      expect(await ask()).toEqual({ kind: 'refuse', reply: UNAVAILABLE });
      expect(counted).toEqual([reason, 'failedDeferred']);
      expect(warned).toHaveLength(1);
      expect(warned[0]).toMatchObject({
        listener: 'smtp',
        filter: `127.0.0.1:${milter.port}`,
        reason,
        failurePolicy: 'Defer',
        failedSinceLastLine: 0,
      });
      expect(warned[0]?.problem).toMatch(problem);
      expect(warned[0]?.remedy).toMatch(/contentFilter|its own log/);
      seat({ timeoutMs: 1_000, failurePolicy: 'Accept' });
      expect(await ask()).toMatchObject({ kind: 'accept', fields: [], note: expect.stringMatching(problem) });
      expect(counted.slice(2)).toEqual([reason, 'failedAccepted']);
      // 1 s each, and what the machine takes for the rest.
      expect(performance.now() - beganMs).toBeLessThan(10_000);
    },
  );

  test('nobody there', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    await new Promise((resolve) => server.close(resolve));
    seat({ port });
    expect(await ask()).toEqual({ kind: 'refuse', reply: UNAVAILABLE });
    expect(counted).toEqual(['connect', 'failedDeferred']);
    seat({ host: 'no-such-host.invalid' });
    expect(await ask()).toEqual({ kind: 'refuse', reply: UNAVAILABLE });
    expect(warned.at(-1)).toMatchObject({ reason: 'connect' });
  });

  test('is one line of the log in ten seconds, however much mail there is', async () => {
    milter.script = says('O', 'close');
    seat();
    for (let round = 0; round < 5; round++) await ask();
    expect(warned).toHaveLength(1);
    expect(counted.filter((one) => one === 'unsupported')).toHaveLength(5);
  });

  test('a field that is too long to be told is no way past it, with Accept neither', async () => {
    seat({ failurePolicy: 'Accept' });
    const verdict = await ask(Buffer.from(`A: 1\r\nX: ${'y'.repeat(70_000)}\r\n\r\nbody\r\n`), 8_000);
    expect(verdict).toMatchObject({ kind: 'refuse', reply: { code: 552, enhanced: '5.3.4' } });
  });

  test('whatever it sends, whenever: there is a verdict, and nothing is added that is no field', async () => {
    const random = new SeededRandom(Number(process.env.FUZZ_SEED ?? 1));
    const parts = [
      answer('c'),
      answer('a'),
      answer('p'),
      answer('r'),
      field('X', 'y'),
      field('X', 'y\nZ: 1'),
      answer('y', '550 5.7.1 No\0'),
      answer('y', '%\0'),
      answer('h', 'x'),
      negotiated(6, 1, 0),
      Buffer.from([0, 0, 0, 1]),
      Buffer.from([0xff]),
    ];
    const rounds = Number(process.env.FUZZ_ROUNDS ?? 150);
    seat({ timeoutMs: 300 });
    for (let round = 0; round < rounds; round++) {
      const strangeAt = random.integer(0, 16);
      const said = Buffer.concat(Array.from({ length: random.integer(1, 4) }, () => random.pick(parts)));
      const strange: Said = random.pick(['close', 'reset', said, said, said]);
      milter.script = (_, count) => (count === strangeAt ? strange : null);
      const verdict = await ask(MESSAGE, random.integer(1, 80));
      if (verdict.kind === 'refuse') expect(verdict.reply.code).toBeGreaterThanOrEqual(400);
      else for (const one of verdict.fields) expect(one).toEqual({ name: 'X', value: expect.stringMatching(/^ ?y$/) });
    }
    expect(counted.length).toBeGreaterThanOrEqual(rounds);
  }, 120_000);
});

describe('memory and what is left', () => {
  test('a filter that does not read makes the client wait, then counts as failed; the rest of the body is nobody’s', async () => {
    let drained = 0;
    milter.script = ({ command }) => (command === 'B' ? 'silence' : null);
    seat({ timeoutMs: 1_000 });
    const asked = begun(from(), () => drained++);
    asked.write(Buffer.from('A: 1\r\n\r\n'));
    let sent = 0;
    while (asked.write(Buffer.alloc(16_384, 'x')) && sent < 100) sent++;
    expect(sent).toBeLessThan(20);
    expect(drained).toBe(0);
    await until('the client to go on', async () => drained > 0, { deadlineMs: 5_000 });
    for (let more = 0; more < 1_000; more++) expect(asked.write(Buffer.alloc(16_384))).toBe(true);
    expect(await asked.end()).toEqual({ kind: 'refuse', reply: UNAVAILABLE });
    expect(warned[0]).toMatchObject({ reason: 'timeout' });
  });

  test('a large body goes through a filter that takes its time, in order and whole', async () => {
    seat();
    let resume: (() => void) | null = null;
    const asked = begun(from(), () => resume?.());
    asked.write(Buffer.from('A: 1\r\n\r\n'));
    const sent: Buffer[] = [];
    let waits = 0;
    for (let at = 0; at < 500; at++) {
      const chunk = Buffer.alloc(20_000, `${at} `);
      sent.push(chunk);
      const drained = new Promise<void>((resolve) => {
        resume = resolve;
      });
      if (asked.write(chunk)) continue;
      waits++;
      await drained;
    }
    expect(await asked.end()).toEqual(accepted());
    expect(waits).toBeGreaterThan(10);
    expect(milter.body.equals(Buffer.concat(sent))).toBe(true);
    expect(Math.max(...milter.heard.map(({ data }) => data.length))).toBeLessThanOrEqual(65_535);
  }, 30_000);

  test.each(['O', 'M', 'B', 'E'])(
    'a client that is gone while it thinks about %s: it is told, and the connection is closed',
    async (command) => {
      milter.script = says(command, 'silence');
      seat({ timeoutMs: 60_000 });
      const asked = begun();
      asked.write(MESSAGE);
      if (command === 'E') void asked.end();
      await until(command, async () => milter.commands.includes(command), { deadlineMs: 5_000 });
      asked.abandon();
      await until('the end', async () => milter.commands.endsWith('AQ') && milter.open === 0, { deadlineMs: 5_000 });
      expect(warned).toEqual([]);
    },
  );

  test('one that reads nothing is left all the same', async () => {
    milter.isDeaf = true;
    seat({ timeoutMs: 300 });
    expect(await ask()).toEqual({ kind: 'refuse', reply: UNAVAILABLE });
    const asked = begun();
    await until('a second connection', async () => milter.opened === 2, { deadlineMs: 5_000 });
    filters.close();
    expect(await asked.end()).toEqual({ kind: 'refuse', reply: UNAVAILABLE });
    milter.hear();
  });
});
