/** The wire against a slow and obvious reference, under every way of cutting the bytes into chunks. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CommandLines, commandText, type DataLimits, DataScanner } from '../../common/smtp/wire.ts';

const LIMITS: DataLimits = {
  maxMessageBytes: 1_000_000,
  maxHeaderBytes: 100_000,
  maxDataLineBytes: 65_536,
  maxReceivedHops: 50,
};

interface Outcome {
  readonly content: string | null;
  readonly sizeBytes: number;
  readonly rejected: string | null;
  readonly rest: string | null;
}

/** Cuts at the given offsets. */
function cut(bytes: Buffer, offsets: readonly number[]): Buffer[] {
  const sorted = [...new Set(offsets)].filter((at) => at > 0 && at < bytes.length).sort((a, b) => a - b);
  const edges = [0, ...sorted, bytes.length];
  return edges.slice(1).map((to, i) => Buffer.from(bytes.subarray(edges[i], to)));
}

function scan(chunks: readonly Buffer[], limits: DataLimits = LIMITS): Outcome {
  const scanner = new DataScanner(limits);
  let content = '';
  let rest: string | null = null;
  for (const chunk of chunks) {
    if (rest !== null) {
      rest += chunk.toString('latin1');
      continue;
    }
    const scanned = scanner.scan(chunk);
    content += scanned.content?.toString('latin1') ?? '';
    rest = scanned.rest?.toString('latin1') ?? null;
  }
  const rejected = scanner.rejected?.text ?? null;
  return { content: rejected === null ? content : null, sizeBytes: scanner.sizeBytes, rejected, rest };
}

/** What RFC 5321 4.5.2 says, on the whole text at once. */
function reference(text: string): Outcome {
  const end = text.startsWith('.\r\n') ? 0 : text.indexOf('\r\n.\r\n') === -1 ? -1 : text.indexOf('\r\n.\r\n') + 2;
  if (end === -1) throw new Error('the reference wants a whole message');
  const wire = text.slice(0, end);
  const lines = wire === '' ? [] : wire.slice(0, -2).split('\r\n');
  const content = lines.map((line) => `${line.startsWith('.') ? line.slice(1) : line}\r\n`).join('');
  const inside = lines.join('');
  const fault = inside.includes('\0')
    ? 'NUL byte'
    : inside.includes('\r')
      ? 'bare CR'
      : inside.includes('\n')
        ? 'bare LF'
        : null;
  return {
    content: fault === null ? content : null,
    sizeBytes: fault === null ? content.length : -1,
    rejected: fault === null ? null : `Message contains a ${fault}`,
    rest: text.slice(end + 3),
  };
}

const MALFORMED = [
  '\n.\n',
  '\r.\r',
  '\n.\r\n',
  '\r\n.\n',
  '\r.\r\n',
  '\r\n.\r',
  '\r\n\0.\r\n',
  '\r\n.\0\r\n',
  '\r\r\n.\r\r\n',
  '\n\r.\n\r',
  '\r\n.\r\r\n',
  '\r\n. \r\n',
  '\r\n..\r\n',
  '\r\n\r.\r\n',
  '\r\n.\n\r\n',
  '\n.\n\r\n',
  '\n\n.\n\n',
];

describe('the end of data', () => {
  it.each(MALFORMED)('%j is none, wherever the bytes are cut', (fake) => {
    for (const head of ['', 'A: b\r\n\r\n', 'A: b\r\n\r\ntext']) {
      const text = `${head}${fake}MAIL FROM:<evil@example.org>\r\n.\r\nQUIT\r\n`;
      const bytes = Buffer.from(text, 'latin1');
      const expected = { ...reference(text), sizeBytes: scan([Buffer.from(bytes)]).sizeBytes };
      expect(expected.rest).toBe('QUIT\r\n');
      for (let a = 1; a < bytes.length; a++) {
        expect(scan(cut(bytes, [a]))).toEqual(expected);
        expect(scan(cut(bytes, [a, a + 1, a + 2]))).toEqual(expected);
      }
      expect(scan([...bytes].map((byte) => Buffer.from([byte])))).toEqual(expected);
    }
  });

  it('is found as the reference finds it, for any mixture of the dangerous bytes', () => {
    const token = fc.constantFrom(
      '\r\n',
      '\r\n',
      '\r\n.',
      '\r\n..',
      '.',
      '\r',
      '\n',
      '\0',
      'a',
      ' ',
      ':',
      'Received:',
      '\x80',
    );
    const property = fc.property(
      fc.array(token, { maxLength: 30 }),
      fc.array(fc.nat(80), { maxLength: 6 }),
      (tokens, cuts) => {
        const text = `${tokens.join('')}\r\n.\r\nNEXT`;
        const expected = reference(text);
        const got = scan(cut(Buffer.from(text, 'latin1'), cuts));
        expect({ ...got, sizeBytes: expected.sizeBytes === -1 ? -1 : got.sizeBytes }).toEqual(expected);
        expect(got.sizeBytes).toBe(scan([Buffer.from(text, 'latin1')]).sizeBytes);
      },
    );
    fc.assert(property, { numRuns: 3_000, seed: 5321 });
  });

  it('what comes out is what went in: stuffing and scanning cancel out', () => {
    const octet = fc
      .integer({ min: 1, max: 255 })
      .filter((byte) => byte !== 10 && byte !== 13)
      .map((byte) => String.fromCharCode(byte));
    const line = fc.array(fc.oneof(fc.constant('.'), octet), { maxLength: 90 }).map((octets) => octets.join(''));
    const property = fc.property(
      fc.array(line, { maxLength: 40 }),
      fc.array(fc.nat(2_000), { maxLength: 8 }),
      (lines, cuts) => {
        const content = lines.map((text) => `${text}\r\n`).join('');
        const wire = Buffer.from(`${content.replace(/^\./, '..').replaceAll('\r\n.', '\r\n..')}.\r\n`, 'latin1');
        const expected = { content, sizeBytes: content.length, rejected: null, rest: '' };
        expect(scan(cut(wire, cuts))).toEqual(expected);
        // An odd start in memory: the word-wise search has to find its footing.
        const shifted = Buffer.concat([Buffer.from('xyz'), wire]).subarray(3);
        expect(scan([shifted])).toEqual(expected);
      },
    );
    fc.assert(property, { numRuns: 1_000, seed: 452 });
  });
});

describe('limits of the content', () => {
  const everyCut = (text: string, limits: DataLimits): Set<string> => {
    const bytes = Buffer.from(text);
    const outcomes = new Set<string>();
    for (let at = 1; at < bytes.length; at++) outcomes.add(JSON.stringify(scan(cut(bytes, [at]), limits)));
    return outcomes;
  };

  it.each([
    [
      'size',
      { maxMessageBytes: 20 },
      'A: b\r\n\r\n..345678901\r\n.\r\n',
      'A: b\r\n\r\n..3456789012\r\n.\r\n',
      'Message too big',
    ],
    [
      'header',
      { maxHeaderBytes: 12 },
      'A: b\r\nC: d\r\n\r\n.\r\n',
      'A: b\r\nC: dd\r\n\r\n.\r\n',
      'Message header too big',
    ],
    [
      'header without end',
      { maxHeaderBytes: 12 },
      'A: b\r\nC: d\r\n.\r\n',
      'A: b\r\nC: dd\r\n.\r\n',
      'Message header too big',
    ],
    ['line', { maxDataLineBytes: 8 }, '..23456\r\n.\r\n', '..234567\r\n.\r\n', 'Message has a line'],
    ['hops', { maxReceivedHops: 1 }, 'Received: a\r\n.\r\n', 'Received: a\r\nreceived\t:b\r\n.\r\n', 'Too many hops'],
  ])('%s: at the limit and one over, the same for every cut', (_name, limit, good, bad, text) => {
    const limits = { ...LIMITS, ...limit };
    const passed = everyCut(good, limits);
    expect(passed.size).toBe(1);
    expect([...passed][0]).toContain('"rejected":null');
    const refused = everyCut(bad, limits);
    expect(refused.size).toBe(1);
    expect([...refused][0]).toContain(`"rejected":"${text}`);
  });

  it.each([
    ['Received: 1\r\n Received: folded\r\nX: y\r\n\r\nReceived: body\r\n', 1],
    ['Received-SPF: x\r\nXReceived: y\r\nReceive: z\r\nReceivedd: q\r\n', 0],
    ['no field here\r\nReceived: body\r\n', 0],
    [' Received: no field above\r\nReceived: body\r\n', 0],
    [': nameless\r\nReceived: body\r\n', 0],
    ['RECEIVED: 1\r\nReceived : 2\r\nreceived:3\r\n', 3],
    ['Re\x80ceived: x\r\nReceived: body\r\n', 0],
  ])('%j has %i hops', (content, hops) => {
    const wire = Buffer.from(`${content}.\r\n`, 'latin1');
    expect(scan([Buffer.from(wire)], { ...LIMITS, maxReceivedHops: hops }).rejected).toBeNull();
    if (hops > 0) expect(scan([wire], { ...LIMITS, maxReceivedHops: hops - 1 }).rejected).toContain('hops');
  });

  it('lines are measured each for itself, however many chunks there are', () => {
    const lines = Buffer.from('ten octets\r\n'.repeat(2_000));
    const chunks = cut(
      Buffer.concat([lines, Buffer.from('.\r\n')]),
      Array.from({ length: 3_000 }, (_, i) => i * 7),
    );
    const outcome = scan(chunks, { ...LIMITS, maxDataLineBytes: 12 });
    expect(outcome).toMatchObject({ rejected: null, sizeBytes: lines.length, rest: '' });
  });

  it('stops passing content on once it is disqualified', () => {
    const scanner = new DataScanner(LIMITS);
    expect(scanner.scan(Buffer.from('A: b\r\nbare\rcr'))).toEqual({ content: null, rest: null });
    expect(scanner.scan(Buffer.from('more\r\n'))).toEqual({ content: null, rest: null });
    expect(scanner.fault).toBe('bareCr');
  });
});

describe('command lines', () => {
  function read(chunks: readonly Buffer[], maxBytes: number): string[] {
    const lines = new CommandLines();
    const out: string[] = [];
    for (const chunk of chunks) {
      lines.push(chunk);
      for (let line = lines.next(maxBytes); line !== null; line = lines.next(maxBytes)) {
        out.push(line.kind === 'line' ? line.bytes.toString('latin1') : '<too long>');
      }
    }
    return [...out, `rest:${lines.takeRest().toString('latin1')}`];
  }

  it('end at CRLF only, for every cut; over-long ones are dropped up to their true end', () => {
    const text = 'NOOP\r\na\nb\r\nc\rd\r\n\r\r\n0123456\r\n01234567\r\n0123456789012345678901\r\r\r\nQUIT\r\nhalf';
    const expected = ['NOOP', 'a\nb', 'c\rd', '\r', '0123456', '<too long>', '<too long>', 'QUIT', 'rest:half'];
    const bytes = Buffer.from(text, 'latin1');
    for (let a = 0; a < bytes.length; a++) {
      for (const more of [[], [a + 1], [a + 1, a + 2], [a + 3]]) {
        expect(read(cut(bytes, [a, ...more]), 9)).toEqual(expected);
      }
    }
    expect(
      read(
        [...bytes].map((byte) => Buffer.from([byte])),
        9,
      ),
    ).toEqual(expected);
  });

  it('hold no more than one line in memory', () => {
    const lines = new CommandLines();
    for (let i = 0; i < 1_000; i++) {
      lines.push(Buffer.alloc(1_000, 'x'));
      expect(lines.next(100)).toBeNull();
      expect(lines.bufferedBytes).toBeLessThanOrEqual(1);
    }
  });

  it.each([
    [Buffer.from('NOOP'), 'NOOP'],
    [Buffer.from('MAIL FROM:<ö@example.org>'), 'MAIL FROM:<ö@example.org>'],
    [Buffer.from('NO\tOP'), null],
    [Buffer.from('NO\nOP'), null],
    [Buffer.from('NO\x7fOP'), null],
    [Buffer.from([0x4e, 0xff]), null],
    [Buffer.from([0xc0, 0xaf]), null],
  ])('%s reads as %j', (bytes, text) => expect(commandText(bytes)).toBe(text));
});
