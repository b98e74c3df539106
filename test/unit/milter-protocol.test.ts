/** Packets, the pieces of a message, and the fields that travel with it: whatever comes from a filter or a client, nothing is lost, split or smuggled. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CONTENT_FILTER, detailOf, filterFieldsOf, problemOf, writtenFields } from '../../common/content-filter.ts';
import { prose } from '../../common/peer/fields.ts';
import { ContentSplitter, type Piece } from '../../frontend/milter-content.ts';
import {
  type Answer,
  AnswerReader,
  connection,
  GarbageError,
  header,
  macros,
  negotiation,
} from '../../frontend/milter-protocol.ts';
import { answer, CONTINUE, negotiated, number } from '../rigs/scripted-milter.ts';

const hex = (bytes: Buffer): string => bytes.toString('hex');

describe('commands as bytes', () => {
  test('negotiation: version 6, header fields may be added and nothing else, every step may be left out', () => {
    expect(hex(negotiation())).toBe('0000000d4f0000000600000001001ff7ff');
  });

  test('connection, macros, header field', () => {
    expect(hex(connection('[192.0.2.1]', '192.0.2.1', 258))).toBe(
      `0000001a${Buffer.from('C[192.0.2.1]\0', 'latin1').toString('hex')}340102${Buffer.from('192.0.2.1\0').toString('hex')}`,
    );
    expect(connection('[2001:db8::1]', '2001:db8::1', 25).toString('latin1')).toContain('\x006\0\x192001:db8::1\0');
    expect(macros('M', { i: 'id', '{auth_authen}': null, '{mail_addr}': 'a\0b' }).toString('latin1', 4)).toBe(
      'DMi\0id\0{mail_addr}\0ab\0',
    );
    expect(header('Subject', ' \xe9', false).toString('latin1', 4)).toBe('LSubject\0\xe9\0');
    expect(header('Subject', ' \xe9', true).toString('latin1', 4)).toBe('LSubject\0 \xe9\0');
  });
});

function read(bytes: Buffer, pieceBytes = bytes.length): readonly Answer[] | string {
  const reader = new AnswerReader();
  const answers: Answer[] = [];
  try {
    for (let at = 0; at < bytes.length; at += pieceBytes)
      answers.push(...reader.push(bytes.subarray(at, at + pieceBytes)));
  } catch (error) {
    if (error instanceof GarbageError) return error.message;
    throw error;
  }
  return answers;
}

describe('answers', () => {
  test.each<[string, Buffer, Answer]>([
    ['continue', CONTINUE, { kind: 'continue' }],
    ['progress', answer('p'), { kind: 'progress' }],
    [
      'negotiation with macro lists behind it',
      Buffer.concat([answer('O', number(6), number(1), number(0x400), number(2), 'i\0')]),
      { kind: 'negotiated', version: 6, steps: 0x400 },
    ],
    [
      'added field',
      answer('h', 'X-Spam\0yes\r\n\tof course\0'),
      { kind: 'field', field: { name: 'X-Spam', value: 'yes\n\tof course' }, index: null },
    ],
    [
      'inserted field',
      answer('i', number(1), 'A\0\xe9\0'),
      { kind: 'field', field: { name: 'A', value: '?' }, index: 1 },
    ],
    [
      'changed field',
      answer('m', number(1), 'Subject\0x\0'),
      { kind: 'changed field', field: { name: 'Subject', value: 'x' } },
    ],
    [
      'reply',
      answer('y', '554 5.7.1 100%% spam\0'),
      { kind: 'reply', reply: { code: 554, enhanced: '5.7.1', text: '100% spam' } },
    ],
    [
      'reply of several lines',
      answer('y', '451-4.7.1 Greylisted\r\n451 4.7.1 for 5 min\0'),
      { kind: 'reply', reply: { code: 451, enhanced: '4.7.1', text: 'Greylisted\nfor 5 min' } },
    ],
    [
      'reply without more',
      answer('y', '550\0'),
      { kind: 'reply', reply: { code: 550, enhanced: '5.7.1', text: 'Message refused by the content filter' } },
    ],
    [
      'reply that closes: the connection stays',
      answer('y', '421 4.3.2 Later\0'),
      { kind: 'reply', reply: { code: 451, enhanced: '4.3.2', text: 'Later' } },
    ],
    [
      'reply whose classes differ',
      answer('y', '550 4.7.1 Hm\0'),
      { kind: 'reply', reply: { code: 550, enhanced: '5.7.1', text: 'Hm' } },
    ],
    [
      'reply with control characters',
      answer('y', '550 5.7.1 a\rb\x1b[1m\0'),
      { kind: 'reply', reply: { code: 550, enhanced: '5.7.1', text: 'a?b?[1m' } },
    ],
  ])('%s, whole and byte by byte', (_, bytes, expected) => {
    expect(read(bytes)).toEqual([expected]);
    expect(read(bytes, 1)).toEqual([expected]);
  });

  test.each([
    ['a length of nothing', number(0), 'an answer of 0 bytes'],
    ['a length of gigabytes', Buffer.from('HTTP/1.1 400 Bad Request\r\n'), 'an answer of 1213486160 bytes'],
    ['a code of nobody', answer('z'), 'an answer with code "z"'],
    ['a reply that accepts', answer('y', '250 2.0.0 Ok\0'), 'the reply "250 2.0.0 Ok"'],
    ['a field without a value', answer('h', 'X\0'), 'a header field without name and value'],
    ['a text without an end', answer('h', 'X\0y'), 'a text without an end'],
    ['a short negotiation', answer('O', number(6)), 'a negotiation that is too short'],
  ])('%s is none', (_, bytes, problem) => expect(read(Buffer.concat([bytes, Buffer.alloc(1)]))).toBe(problem));

  test('of any bytes in pieces of any size: the same answers, or garbage, and never more than one packet is kept', () => {
    const parts = fc.oneof(
      fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
      fc.constantFrom(
        CONTINUE,
        negotiated(6, 1, 0),
        answer('h', 'X\0y\0'),
        answer('y', '550 5.7.1 No\0'),
        answer('b', 'x'.repeat(3_000)),
      ),
    );
    fc.assert(
      fc.property(fc.array(parts, { maxLength: 8 }), fc.integer({ min: 1, max: 50 }), (all, pieceBytes) => {
        const bytes = Buffer.concat(all);
        expect(read(bytes, pieceBytes)).toEqual(read(bytes));
        for (const one of read(bytes)) {
          if (typeof one === 'string' || one.kind !== 'reply') continue;
          expect(one.reply.code).toBeGreaterThanOrEqual(400);
          expect(one.reply.text).toMatch(/^[\x20-\x7e\n]+$/);
        }
      }),
      { numRuns: 2_000 },
    );
  });
});

function split(message: Buffer, pieceBytes: number, most = 1_000): readonly Piece[] {
  const splitter = new ContentSplitter(most);
  const pieces: Piece[] = [];
  for (let at = 0; at < message.length; at += pieceBytes)
    pieces.push(...splitter.push(message.subarray(at, at + pieceBytes)));
  return [...pieces, ...splitter.end()];
}

/** As a filter sees it. */
const shown = (pieces: readonly Piece[]): string =>
  pieces
    .map((piece) => {
      if (piece.kind === 'field') return `<${piece.name}:${piece.value}>`;
      return piece.kind === 'body' ? piece.bytes.toString('latin1') : `[${piece.kind}]`;
    })
    .join('');

describe('a message in pieces', () => {
  test.each([
    ['folded fields', 'A: 1\r\nB : 2\r\n\t3\r\n  4\r\n\r\nbody\r\n', '<A: 1><B: 2\n\t3\n  4>[end of header]body\r\n'],
    ['no body', 'A: 1\r\n', '<A: 1>[end of header]'],
    ['no header', '\r\nbody', '[end of header]body'],
    ['nothing', '', '[end of header]'],
    ['a last field without its end', 'A: 1', '<A: 1>[end of header]'],
    ['a line that is no field', 'A: 1\r\nno field\r\nB: 2\r\n', '<A: 1>[end of header]no field\r\nB: 2\r\n'],
    ['a first line that goes on with nothing', ' x: 1\r\nB: 2\r\n', '[end of header] x: 1\r\nB: 2\r\n'],
    ['a field that is empty', 'A:\r\n\r\n', '<A:>[end of header]'],
  ])('%s, in pieces of any size', (_, message, expected) => {
    for (const size of [1, 2, 3, 7, 1_000]) expect(shown(split(Buffer.from(message, 'latin1'), size))).toBe(expected);
  });

  test('a field that does not fit is the last that is told, and one that just fits is told', () => {
    for (const size of [1, 50, 10_000]) {
      expect(shown(split(Buffer.from(`A: 1\r\nB: ${'x'.repeat(2_000)}\r\nC: 3\r\n\r\nbody`), size))).toBe(
        '<A: 1>[too big]',
      );
      const just = 'x'.repeat(995);
      expect(shown(split(Buffer.from(`A:${just}\r\nB:${just}\r\n\r\n${'y'.repeat(3_000)}`), size))).toBe(
        `<A:${just}><B:${just}>[end of header]${'y'.repeat(3_000)}`,
      );
      expect(shown(split(Buffer.from(`A: 1\r\n${' y\r\n'.repeat(400)}\r\n`), size))).toBe('[too big]');
    }
  });

  test.each([
    ['behind no header', ''],
    ['behind fields', 'A: 1\r\nB: 2\r\n 3\r\n'],
  ])('a line that cannot be a field is body, however long it is: %s', (_, fields) => {
    const told = fields === '' ? '' : '<A: 1><B: 2\n 3>';
    for (const start of ['x'.repeat(2_100), 'two words: ', ': ', fields === '' ? ' ' : '\x80'])
      for (const size of [1, 50, 999, 1_000, 1_001, 10_000]) {
        const body = `${start}${'y'.repeat(2_000)}\r\nC: 3\r\n`;
        const pieces = split(Buffer.from(fields + body, 'latin1'), size);
        expect(shown(pieces)).toBe(`${told}[end of header]${body}`);
      }
  });

  test('put together again they are the message', () => {
    const line = fc.constantFrom('A: 1', 'Bc:', ' folded', '\tfolded', 'no field', '', 'x:\x00\xff', '.', ': nameless');
    fc.assert(
      fc.property(fc.array(line, { maxLength: 12 }), fc.integer({ min: 1, max: 20 }), (lines, size) => {
        const message = lines.map((one) => `${one}\r\n`).join('');
        const pieces = split(Buffer.from(message, 'latin1'), size);
        const head = pieces.map((piece) => (piece.kind === 'field' ? `${piece.name}:${piece.value}\n` : '')).join('');
        const body = pieces.map((piece) => (piece.kind === 'body' ? piece.bytes.toString('latin1') : '')).join('');
        const written = head.replaceAll('\n', '\r\n');
        expect(pieces.filter(({ kind }) => kind === 'end of header')).toHaveLength(1);
        // Only the blank line behind the header is not told.
        expect([written + body, `${written}\r\n${body}`]).toContain(message);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('fields that travel', () => {
  const event = (detail: string) => ({ event: CONTENT_FILTER, atMs: 1, source: 'fe', detail });

  test('come out as they went in, every space of them', () => {
    const field = { name: 'DKIM-Signature', value: ' v=1; a=rsa-sha256;\n\th=From:To;\n  b=abc\n\t =' };
    expect(detailOf(field)).toBe(
      '["DKIM-Signature"," v=1; a=rsa-sha256;\\n\\u0009h=From:To;\\n  b=abc\\n\\u0009 ="]'.replaceAll('\\u0009', '\\t'),
    );
    const [found] = filterFieldsOf([
      event(prose(detailOf(field), 'detail')),
      { ...event('["X"," y"]'), event: 'FRONTEND' },
    ]);
    expect(found).toEqual(field);
    expect(writtenFields([field])).toBe('DKIM-Signature: v=1; a=rsa-sha256;\r\n\th=From:To;\r\n  b=abc\r\n\t =\r\n');
  });

  test.each([
    ['a line of its own', { name: 'X', value: ' a\nSubject: forged' }],
    ['the end of the header', { name: 'X', value: ' a\n\nbody' }],
    ['a blank folded line', { name: 'X', value: ' a\n \n b' }],
    ['a bare CR', { name: 'X', value: ' a\rb' }],
    ['NUL', { name: 'X', value: ' a\0b' }],
    ['a colon in its name', { name: 'X:Y', value: ' a' }],
    ['a name of nothing', { name: '', value: ' a' }],
    ['a line end in its name', { name: 'X\r\nY', value: ' a' }],
    ['our own field', { name: 'x-mailcluster-Delivery', value: ' a' }],
    ['a line that is too long', { name: 'X', value: ` ${'a'.repeat(999)}` }],
    ['more than a detail holds', { name: 'X', value: ` a\n ${'\n b'.repeat(2_000)}`.replace('\n \n', '\n') }],
  ])('%s is refused, from a filter and from a peer', (_, field) => {
    expect(problemOf(field)).not.toBeNull();
    expect(filterFieldsOf([event(JSON.stringify([field.name, field.value]))])).toEqual([]);
  });

  test('whatever a peer sends as a detail is no field, or one', () => {
    const detail = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.json(),
      fc.tuple(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' })).map((pair) => JSON.stringify(pair)),
      fc
        .tuple(fc.constantFrom('X', 'X-Y'), fc.array(fc.constantFrom('\n', ' ', '\t', 'a', '\r', ':', '\0')))
        .map(([name, value]) => JSON.stringify([name, value.join('')])),
    );
    fc.assert(
      fc.property(detail, (said) => {
        const text = writtenFields(filterFieldsOf([event(said)]));
        if (text === '') return;
        const lines = text.split('\r\n');
        expect(lines.pop()).toBe('');
        expect(lines[0]).toMatch(/^[\x21-\x39\x3b-\x7e]+:[\t\x20-\x7e]*$/);
        for (const line of lines.slice(1)) expect(line).toMatch(/^[\t ]+[^\t ][\t\x20-\x7e]*$/);
      }),
      { numRuns: 1_000 },
    );
  });
});
