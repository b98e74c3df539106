/**
 * Every parser that reads what strangers, peers or disks hand us, as something that can be fuzzed: bytes in, and only the errors it is meant to throw.
 * Owns: that list, and the inputs to begin with. A parser that is stateful gets the bytes in pieces as well.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { parseJson, parseTopologyDocument } from '../../common/config-parse.ts';
import { PeerProtocolError } from '../../common/peer/fields.ts';
import { encodeFrame, FrameDecoder, type WireFrame } from '../../common/peer/frames.ts';
import { ReplyGuard } from '../../common/platform/redis-replies.ts';
import { parseRedisUrl } from '../../common/redis-url.ts';
import { parseMail, parseRcpt } from '../../common/smtp/address.ts';
import { startAuth } from '../../common/smtp/auth-exchange.ts';
import { isInPolicy, parsePolicy, policyId } from '../../common/smtp/mta-sts.ts';
import { parseProxyHeader } from '../../common/smtp/proxy-header.ts';
import { ReplyParser, ReplySyntaxError } from '../../common/smtp/reply-parser.ts';
import { checkClientFinal, parseScramKeys, readClientFirst, serverFirst } from '../../common/smtp/scram.ts';
import { TrackedFields } from '../../common/smtp/tracked-fields.ts';
import { parseUsers, UsersFileError } from '../../common/smtp/users.ts';
import { CommandLines, commandText, DataScanner } from '../../common/smtp/wire.ts';
import { renderTimeline, timeline } from '../../operator/cli/timeline.ts';
import { renderTree, traceTree } from '../../operator/cli/trace-tree.ts';
import { acceptanceOf } from '../../operator/local/accepted-log.ts';
import { parseRunFile } from '../../operator/local/run-file.ts';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import { TrackedMessageFinder, type TrackingQuestion } from '../../transport/runtime/tracking-find.ts';
import { recordsOf, TrackingLines } from '../../transport/runtime/tracking-lines.ts';
import { HEADER, parseRecord, SALT_BYTES, segmentBlock } from '../../transport/store/record.ts';
import { simTopology } from '../sim/topology.ts';
import { hearAsPeer, SESSION_SEEDS } from './fuzz-peer-session.ts';
import { helloOf, sampleContact, sampleEnd, sampleEnvelope, sampleOpen, sampleResult } from './peer-samples.ts';

export interface FuzzedParser {
  readonly name: string;
  readonly seeds: readonly Buffer[];
  /** For what no stranger sends. */
  readonly maxCpuMs?: number;
  /** Throws what it must not. */
  readonly run: (input: Buffer) => void;
}

const bytes = (...texts: string[]): Buffer[] => texts.map((text) => Buffer.from(text, 'latin1'));

/** In two pieces, cut where the input says. */
const pieces = (input: Buffer): Buffer[] => {
  const cut = input.length === 0 ? 0 : (input[0] ?? 0) % input.length;
  return [Buffer.from(input.subarray(0, cut)), Buffer.from(input.subarray(cut))];
};

function only(allowed: new (...args: never[]) => Error, run: () => void): void {
  try {
    run();
  } catch (error) {
    if (!(error instanceof allowed)) throw error;
  }
}

const KEYS = {
  iterations: 4_096,
  salt: Buffer.alloc(16),
  storedKey: Buffer.alloc(32, 1),
  serverKey: Buffer.alloc(32, 2),
};

/** The rest of the exchange hears the same again, plain and in base64. */
function authDialogue(text: string): void {
  let step = startAuth(text, ['PLAIN', 'LOGIN', 'SCRAM-SHA-256']);
  for (let lines = 0; lines < 4; lines++) {
    if (step.kind === 'keys') step = step.next(KEYS, 'server');
    if (step.kind !== 'challenge') return;
    const isEncoded = lines % 2 === 0;
    step = step.next(isEncoded ? Buffer.from(text).toString('base64') : text);
  }
}

const CLIENT_FIRST = 'n,,n=user,r=rOprNGfwEbeRWgbNEkqO';

function scram(input: Buffer): void {
  const text = input.toString('utf8');
  readClientFirst(text);
  parseScramKeys(text);
  const first = readClientFirst(CLIENT_FIRST);
  if (first === null || first === 'other') throw new Error('the sample is not one');
  checkClientFinal(text, first, serverFirst(first, KEYS, 'server'), KEYS);
}

function commandLines(input: Buffer): void {
  const lines = new CommandLines();
  for (const piece of pieces(input)) {
    lines.push(piece);
    for (let line = lines.next(2_048); line !== null; line = lines.next(2_048)) {
      const text = line.kind === 'line' ? commandText(line.bytes) : null;
      if (text === null) continue;
      const rest = text.slice(text.indexOf(' ') + 1);
      parseMail(rest);
      parseRcpt(rest, true);
      authDialogue(rest);
    }
  }
}

function data(input: Buffer): void {
  const limits = { maxMessageBytes: 1_000, maxHeaderBytes: 300, maxDataLineBytes: 200, maxReceivedHops: 3 };
  const scanner = new DataScanner(limits);
  const tracked = new TrackedFields();
  for (let rest: Buffer | null = input; rest !== null && rest.length > 0; ) {
    const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = pieces(rest);
    for (const piece of [first, second]) {
      const { content, rest: behind } = scanner.scan(piece);
      if (content !== null) tracked.push(content);
      if (behind !== null) return void tracked.subjectHash;
    }
    rest = null;
  }
}

function frames(input: Buffer): void {
  const decoder = new FrameDecoder();
  only(PeerProtocolError, () => {
    for (const piece of pieces(input)) {
      decoder.push(piece);
      while (decoder.next() !== null);
    }
  });
}

const SALT = Buffer.alloc(SALT_BYTES, 7);

/** The checksum is made right: damage it would have caught does not get further. */
function record(input: Buffer): void {
  const source = Buffer.concat([input, Buffer.alloc(Math.max(0, HEADER - input.length))]);
  SALT.copy(source, 0);
  source.writeUInt32LE(0, 24);
  const metaLength = Math.min(source.readUInt32LE(40), source.length - HEADER);
  source.writeUInt32LE(crc32(source.subarray(20, HEADER + metaLength)), 16);
  parseRecord(source, 0, SALT, null);
  parseRecord(source, 1, SALT, 1, 4_096);
}

const ASKED: TrackingQuestion = {
  ...{
    sender: null,
    recipient: 'c@d',
    domain: 'd',
    messageId: null,
    subjectHash: null,
    event: null,
    fromMs: 0,
    toMs: 2e12,
  },
};

/** As `trace` shows it, and `message lost` looks for it. */
function tracking(input: Buffer): void {
  const lines = new TrackingLines();
  const records = pieces(input).flatMap((piece) => [...lines.push(piece)].flatMap((line) => [...recordsOf(line)]));
  renderTimeline(timeline([records], []));
  renderTree(traceTree(records));
  const finder = new TrackedMessageFinder(ASKED, 2);
  for (const line of input.toString('utf8').split('\n')) finder.take(line);
  if (finder.answer.messages.length > 2) throw new Error('more than was asked for');
  for (const line of input.toString('utf8').split('\n')) {
    const found = acceptanceOf(line);
    if (typeof found === 'object' && found !== null) new Date(found.atMs).toISOString();
  }
}

const TRACKED = {
  ...{ atMs: 1_700_000_000_000, event: 'DELIVER', source: 't-0', attemptId: '01J00000000000000000000001', peer: 't-1' },
  ...{
    messageId: '<a@b>',
    subjectHash: '0123456789abcdef',
    root: '01J0',
    parent: '01J1',
    from: 'a@b',
    recipients: ['c@d'],
    detail: '250 2.0.0 ok',
  },
  history: [{ atMs: 1, event: 'FRONTEND', source: 'f-0', detail: 'x' }],
};
const ACCEPTED = {
  ...{ time: '2026-01-02T03:03:05.000Z', name: 'front-0', attemptId: '01J00000000000000000000001' },
  ...{ from: 'a@b', recipients: 2, msg: 'message accepted' },
};

const READER = createReader();
const RESOURCES = ['two-site-dag.yaml', 'mx.yaml', 'recipients.yaml'].map((name) =>
  readFileSync(join(import.meta.dirname, '../../examples', name)),
);

const wire = (...sent: WireFrame[]): Buffer => Buffer.concat(sent.flatMap((frame) => encodeFrame(frame)));

export const FUZZED_PARSERS: readonly FuzzedParser[] = [
  {
    name: 'command-line',
    seeds: bytes(
      'MAIL FROM:<a@example.org> SIZE=100 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x+2B\r\n',
      'RCPT TO:<@a,@b:"quo\\"ted"@[IPv6:2001:db8::1]> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b\r\n',
      'AUTH PLAIN AGJvYgBzZWNyZXQ=\r\nAUTH SCRAM-SHA-256 biwsbj11c2VyLHI9ck9wck5HZndFYmVSV2diTkVrcU8=\r\nEHLO [192.0.2.1]\r\n',
      'NOOP\rRSET\nDATA\r\n\r\n',
    ),
    // 64 KiB of empty lines are 32,000 commands, each looked at three times here: 35 ms on an idle core.
    maxCpuMs: 200,
    run: commandLines,
  },
  {
    name: 'address',
    seeds: bytes(
      'FROM:<>',
      'TO:<postmaster>',
      'TO:<"a b"@xn--bcher-kva.example>',
      'TO:<j\xc3\xb6rg@b\xc3\xbccher.example>',
    ),
    run: (input) => {
      const text = input.toString('utf8');
      parseMail(` ${text}`);
      parseRcpt(` ${text}`, true);
      parseRcpt(` ${text}`, false);
    },
  },
  {
    name: 'content',
    seeds: bytes(
      'Received: x\r\nMessage-ID: <a@b>\r\nSubject: =?utf-8?Q?J=C3=BC?=\r\n =?utf-8?B?cg==?= x\r\n\r\n..dot\r\n.\r\nQUIT\r\n',
      'a\n.\r\n\r.\r\n\0\r\n.\r\n',
      `${'Received: by x\r\n'.repeat(5)}\r\n.\r\n`,
    ),
    run: data,
  },
  {
    name: 'proxy-header',
    seeds: [
      ...bytes('PROXY TCP4 198.51.100.7 203.0.113.1 40123 25\r\n', 'PROXY UNKNOWN\r\n'),
      Buffer.from('0d0a0d0a000d0a515549540a2111000cc6336407cb7100019cbb0019', 'hex'),
    ],
    run: (input) => void parseProxyHeader(input),
  },
  {
    name: 'peer-frames',
    seeds: [
      wire({ kind: 'PING' }, { kind: 'HELLO', hello: helloOf('transport', 't-0') }),
      wire({ kind: 'OPEN', stream: 1, open: { ...sampleOpen, envelope: sampleEnvelope } as typeof sampleOpen }),
      wire(
        { kind: 'CHUNK', stream: 1, bytes: Buffer.from('body') },
        { kind: 'END', stream: 1, end: sampleEnd(4) },
        { kind: 'RESULT', stream: 1, result: sampleResult },
        { kind: 'CONTACT', contact: sampleContact },
      ),
    ],
    run: frames,
  },
  {
    name: 'peer-session',
    seeds: SESSION_SEEDS.map((frames) => wire(...frames)),
    run: (input) => {
      for (const dialled of [true, false]) hearAsPeer(pieces(input), dialled);
    },
  },
  {
    name: 'lmtp-replies',
    seeds: bytes('250-2.1.5 a\r\n250 2.1.5 b\r\n', '220 x LMTP\r\n550-5.1.1 no\r\n550 5.1.1 one\r\n', '354\r\n'),
    run: (input) => {
      const parser = new ReplyParser();
      only(ReplySyntaxError, () => {
        for (const piece of pieces(input)) parser.push(piece, () => undefined);
      });
    },
  },
  {
    name: 'store-records',
    seeds: [segmentBlock(SALT, { version: 1, generation: 3, previous: null, syncedThrough: 9 }), Buffer.alloc(256, 1)],
    run: record,
  },
  {
    name: 'tracking',
    seeds: bytes(`${JSON.stringify(TRACKED)}\n${JSON.stringify(TRACKED)}\n`, `${JSON.stringify(ACCEPTED)}\n`),
    maxCpuMs: 500,
    run: tracking,
  },
  {
    name: 'topology',
    seeds: [Buffer.from(JSON.stringify(simTopology({ sites: [2, 1], dag: true, frontends: 1 })))],
    run: (input) => void parseJson(parseTopologyDocument, input.toString('utf8')),
  },
  {
    name: 'resources',
    seeds: RESOURCES,
    maxCpuMs: 2_000,
    run: (input) => void parseResources([{ file: 'fuzzed.yaml', text: input.toString('utf8') }], READER),
  },
  {
    name: 'run-file',
    seeds: bytes(
      '{"version":1,"cluster":"c","state":"s","topologyFile":"t","operatorTls":{},"listeners":[],"frontends":[],"transports":[],"stores":[]}',
    ),
    run: (input) => only(SyntaxError, () => void parseRunFile(JSON.parse(input.toString('utf8')))),
  },
  {
    name: 'users-file',
    seeds: bytes('# users\nbob:$scrypt$ln=15,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2g\n'),
    run: (input) => only(UsersFileError, () => void parseUsers(input.toString('utf8'))),
  },
  {
    name: 'scram',
    seeds: bytes(
      CLIENT_FIRST,
      'y,a=x=2Cy,n=x=2Cy,r=abc,ext=1',
      `c=biws,r=rOprNGfwEbeRWgbNEkqOserver,p=${'A'.repeat(43)}=`,
      `SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0$${'A'.repeat(43)}=:${'B'.repeat(43)}=`,
    ),
    run: scram,
  },
  {
    name: 'redis',
    seeds: bytes('+PONG\r\n:42\r\n$3\r\nabc\r\n-ERR no\r\n', 'rediss://user:p%40ss@[::1]:6379/0', '*1\r\n$-1\r\n'),
    run: (input) => {
      const guard = new ReplyGuard();
      for (const piece of pieces(input)) if (guard.problemWith(piece) !== null) break;
      parseRedisUrl(input.toString('latin1'));
    },
  },
  {
    name: 'mta-sts',
    seeds: bytes(
      'version: STSv1\r\nmode: enforce\r\nmx: *.a.test\r\nmx: b.test\r\nmax_age: 86400\r\n',
      'v=STSv1; id=2026a;',
    ),
    run: (input) => {
      const text = input.toString('utf8');
      policyId([text]);
      const policy = parsePolicy(text);
      if ('mx' in policy) isInPolicy(policy, text);
    },
  },
];
