/**
 * Whole sessions of the SMTP and LMTP client with a server that answers anything: no throw, no wait without end, and whatever it makes of it is true to the
 * bytes. Nothing counts as accepted without a 2yz behind the final dot, and nothing as broken (nobody has it, it is sent again) when that dot was sent.
 * More of it: FUZZ_SECONDS=120 FUZZ_SEED=7 vitest run test/unit/fuzz-client.test.ts
 */
import type { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import {
  ClientError,
  connectClient,
  type OutgoingMessage,
  RFC5321_TIMEOUTS,
  type SendOutcome,
} from '../../common/smtp/client.ts';
import { Scheduler, SeededRandom } from '../sim/scheduler.ts';
import { SimSocket } from '../sim/sim-socket.ts';

const SECONDS = Number(process.env.FUZZ_SECONDS ?? 1);
const SEED = Number(process.env.FUZZ_SEED ?? 1);
const FEWEST = 200;
/** More than all timeouts of a transaction together. */
const LONGEST_MS = 4 * 3_600_000;

type Protocol = 'SMTP' | 'LMTP';

const CODES =
  '000 099 200 211 220 221 250 251 252 299 300 334 354 399 400 421 450 451 452 500 503 550 552 554 599 600 999 2 25 2500 abc'.split(
    ' ',
  );
const TEXTS = [
  '',
  ' ',
  ' ok',
  ' 2.0.0 ok',
  ' 5.1.1 no such user',
  ' 4.7.1 greylisted',
  '-more',
  ' \0\xff',
  '\tx',
  ` ${'x'.repeat(9_000)}`,
];

/** What the server says in place of the right reply. */
function altered(right: string, random: SeededRandom): string | 'close' {
  const code = (): string => random.pick(CODES);
  const line = (): string => `${code()}${random.pick(TEXTS)}\r\n`;
  switch (random.integer(0, 9)) {
    case 0:
      return line();
    case 1:
      return `${code()}-first\r\n${line()}`;
    case 2:
      return right + line();
    case 3:
      return line() + right;
    case 4:
      return '';
    case 5:
      return 'close';
    case 6:
      return right.slice(0, random.integer(0, right.length));
    case 7: {
      const bytes = Buffer.from(right, 'latin1');
      const at = random.integer(0, bytes.length - 1);
      bytes[at] = (bytes[at] ?? 0) ^ (1 << random.integer(0, 7));
      return bytes.toString('latin1');
    }
    case 8:
      return right.replaceAll('\r\n', random.pick(['\n', '\r', '\r\r\n', '\n\r']));
    default:
      return right.replace(/^\d{3}/gm, code());
  }
}

/** Speaks well, but for one reply in `rarity`. Owns: what it said, as bytes. */
class WrongServer {
  said = '';
  /** What was said before DATA was answered is no answer to what came behind it. */
  saidBeforeData = 0;
  /** The whole session: a line may have begun with what was left of an earlier one. */
  everSaid = '';
  readonly #socket: SimSocket;
  readonly #protocol: Protocol;
  readonly #random: SeededRandom;
  readonly #rarity: number;
  #rest = '';
  #recipients = 0;
  #isContent = false;

  constructor(socket: SimSocket, protocol: Protocol, random: SeededRandom) {
    this.#socket = socket;
    this.#protocol = protocol;
    this.#random = random;
    this.#rarity = random.pick([3, 8, 20]);
    socket.on('data', (chunk: Buffer) => this.#hear(chunk.toString('latin1')));
    socket.on('end', () => socket.end());
    socket.on('error', () => undefined);
  }

  greet(): void {
    this.#say('220 mx.test ESMTP\r\n');
  }

  #hear(text: string): void {
    this.#rest += text;
    for (;;) {
      const end = this.#isContent ? '\r\n.\r\n' : '\r\n';
      const at = this.#rest.indexOf(end);
      if (at < 0) {
        if (this.#isContent && this.#random.chance(0.05)) this.#say('451 4.3.0 enough\r\n');
        return;
      }
      const line = this.#rest.slice(0, at);
      this.#rest = this.#rest.slice(at + end.length);
      if (this.#isContent) this.#contentEnded();
      else this.#command(line.slice(0, 4).toUpperCase());
    }
  }

  #contentEnded(): void {
    this.#isContent = false;
    const replies = this.#protocol === 'LMTP' ? this.#recipients : 1;
    for (let reply = 0; reply < replies; reply += 1)
      this.#say(this.#random.chance(0.8) ? '250 2.0.0 ok\r\n' : '550 5.2.2 mailbox full\r\n');
  }

  #command(verb: string): void {
    if (verb === 'EHLO' || verb === 'LHLO') {
      const offered = ['PIPELINING', 'SIZE 100000', '8BITMIME', 'DSN', 'ENHANCEDSTATUSCODES'].filter(() =>
        this.#random.chance(0.7),
      );
      return this.#say(
        ['mx.test', ...offered].map((word, at) => `250${at === offered.length ? ' ' : '-'}${word}\r\n`).join(''),
      );
    }
    if (verb === 'MAIL') this.#recipients = 0;
    if (verb === 'RCPT') {
      if (this.#random.chance(0.3)) return this.#say('550 5.1.1 no such user\r\n');
      this.#recipients += 1;
    }
    if (verb === 'DATA') {
      this.saidBeforeData = this.said.length;
      if (this.#recipients === 0) return this.#say('554 5.5.1 no valid recipients\r\n');
      this.#isContent = true;
      return this.#say('354 go ahead\r\n');
    }
    if (verb === 'QUIT') return this.#say('221 2.0.0 bye\r\n');
    this.#say('250 2.0.0 ok\r\n');
  }

  #say(right: string): void {
    const text = this.#random.chance(1 / this.#rarity) ? altered(right, this.#random) : right;
    if (text === 'close') return void (this.#random.chance(0.5) ? this.#socket.end() : this.#socket.destroy());
    this.said += text;
    this.everSaid += text;
    if (!this.#socket.destroyed && text !== '') this.#socket.write(Buffer.from(text, 'latin1'));
  }
}

const CONTENT = ['Subject: x\r\n\r\n.\r\n..\r\n', 'text\r\n', `${'long '.repeat(4_000)}\r\n`];

const message = (random: SeededRandom): OutgoingMessage => ({
  reversePath: random.pick(['', 'a@example.org']),
  body: random.pick(['7BIT', '8BITMIME']),
  smtputf8: false,
  sizeBytes: 30_000,
  recipients: Array.from({ length: random.integer(1, 4) }, (_, at) => ({ address: `r${at}@example.com` })),
  content: async function* () {
    for (const piece of CONTENT) yield Buffer.from(piece);
  },
});

/** What is wrong with what the client says of a transaction in which it wrote this and the server said that. */
function problems(
  protocol: Protocol,
  sent: OutgoingMessage,
  outcome: SendOutcome,
  written: string,
  { said, saidBeforeData, everSaid }: WrongServer,
): readonly string[] {
  const found: string[] = [];
  const { recipients } = outcome;
  if (recipients.length !== sent.recipients.length) found.push(`${recipients.length} outcomes`);
  const dotSent = written.includes('\r\n.\r\n');
  const count = (kind: string): number => recipients.filter((one) => one.kind === kind).length;
  const positive = said.slice(saidBeforeData).match(/^2\d\d(?: |\r?$)/gm)?.length ?? 0;
  if (count('broken') > 0 && dotSent) found.push('broken, although the dot was sent');
  if (count('accepted') > 0 && !dotSent) found.push('accepted without a dot');
  const needed = protocol === 'LMTP' ? count('accepted') : Math.min(1, count('accepted'));
  if (needed > positive) found.push(`${count('accepted')} accepted, ${positive} replies were positive`);
  if (recipients.some((one) => one.kind === 'rejected' && one.stage !== 'LOCAL') && !/[45]\d\d/.test(everSaid))
    found.push('rejected without a negative reply');
  return found;
}

async function session(protocol: Protocol, seed: number): Promise<string | null> {
  const scheduler = new Scheduler(seed);
  const random = new SeededRandom(seed ^ 0x5eed);
  const wire = { scheduler, random: random.fork() };
  const [ours, theirs] = [0, 1].map(() => new SimSocket(wire, { alive: true }, { address: '10.0.0.1', port: 25 })) as [
    SimSocket,
    SimSocket,
  ];
  const server = new WrongServer(theirs, protocol, random.fork());
  const wrote = { text: '' };
  const write = ours.write.bind(ours);
  ours.write = ((chunk: Buffer | string, ...rest: never[]) => {
    wrote.text += Buffer.from(chunk).toString('latin1');
    return write(chunk, ...rest);
  }) as typeof ours.write;
  ours.join(theirs);
  scheduler.schedule(1, () => {
    ours.emit('connect');
    server.greet();
  });
  const timesOut = async <T>(what: string, promise: Promise<T>): Promise<T> => {
    let isOver = false;
    const end = (): void => {
      isOver = true;
    };
    promise.then(end, end);
    if (!(await scheduler.run(() => isOver, scheduler.nowMs + LONGEST_MS))) throw new Error(`${what} never ends`);
    return await promise;
  };
  const options = {
    ...({
      protocol,
      host: 'mx.test',
      port: 25,
      hostname: 'mx1.test',
      tls: 'None',
      timeouts: RFC5321_TIMEOUTS,
    } as const),
    ...{ clock: scheduler.clock(), dial: () => ours as unknown as Socket },
  };
  const client = await timesOut('connecting', connectClient(options)).catch((error: unknown) => {
    if (error instanceof ClientError) return null;
    throw error;
  });
  // What came with the answer to EHLO, and is none to what follows.
  await scheduler.run(() => false, scheduler.nowMs + 5_000);
  for (let sent = 0; client?.isUsable === true && sent < 3; sent += 1) {
    [wrote.text, server.said, server.saidBeforeData] = ['', '', 0];
    const one = message(random);
    const outcome = await timesOut('a transaction', client.send(one));
    // What was under way arrives.
    await scheduler.run(() => false, scheduler.nowMs + 5_000);
    const found = problems(protocol, one, outcome, wrote.text, server);
    if (found.length > 0)
      return `${found.join('; ')}: wrote ${JSON.stringify(wrote.text.slice(-300))}, said ${JSON.stringify(server.said.slice(-600))}`;
  }
  client?.quit();
  return null;
}

describe.each(['SMTP', 'LMTP'] as const)('an %s client', (protocol) => {
  it(
    'makes nothing untrue of what a server says, whatever it says',
    async () => {
      const end = performance.now() + SECONDS * 1_000;
      let tried = 0;
      for (; tried < FEWEST || performance.now() < end; tried += 1) {
        const problem = await session(protocol, SEED * 1_000_003 + tried);
        expect(problem === null ? null : `FUZZ_SEED=${SEED}, session ${tried}: ${problem}`).toBe(null);
      }
      if (SECONDS > 1) console.log(`${protocol}: ${tried} sessions`);
    },
    SECONDS * 1_000 + 60_000,
  );
});
