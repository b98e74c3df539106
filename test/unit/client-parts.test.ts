/** The parsers and encoders of the SMTP client: replies in every cut and malformation, dot stuffing against our own data scanner. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DotStuffer } from '../../common/smtp/dot-stuffer.ts';
import { ReplyParser, type ServerReply } from '../../common/smtp/reply-parser.ts';
import { DataScanner } from '../../common/smtp/wire.ts';

function parse(...chunks: (string | Buffer)[]): ServerReply[] {
  const parser = new ReplyParser({ maxLineBytes: 512, maxLines: 4 });
  const replies: ServerReply[] = [];
  for (const chunk of chunks) parser.push(Buffer.from(chunk), (reply) => replies.push(reply));
  return replies;
}

describe('ReplyParser', () => {
  test('reads single and multi-line replies with enhanced codes, cut anywhere', () => {
    const text = '250-2.1.5 one\r\n250 2.1.5 two\r\n550 no such user\r\n250\r\n';
    const whole = parse(text);
    expect(whole.map(({ code, enhanced, text: words }) => [code, enhanced, words])).toEqual([
      [250, '2.1.5', 'one two'],
      [550, '5.0.0', 'no such user'],
      [250, '2.0.0', ''],
    ]);
    for (let at = 1; at < text.length; at++) expect(parse(text.slice(0, at), text.slice(at))).toEqual(whole);
  });

  test('an enhanced code of another class is text', () => {
    expect(parse('451 5.1.1 odd\r\n')).toMatchObject([{ code: 451, enhanced: '4.0.0', text: '5.1.1 odd' }]);
  });

  test('control characters do not get through', () => {
    expect(parse('250 a\u0000b\u001b[1m\r\n')).toMatchObject([{ text: 'a?b?[1m' }]);
  });

  test.each([
    ['words', 'hello there\r\n'],
    ['a code out of range', '950 x\r\n'],
    ['1yz', '150 x\r\n'],
    ['no separator', '2500 x\r\n'],
    ['bare LF', '250 ok\n'],
    ['codes that differ', '250-a\r\n251 b\r\n'],
    ['too many lines', '250-a\r\n250-a\r\n250-a\r\n250-a\r\n250 a\r\n'],
    ['a long line', `250 ${'a'.repeat(600)}\r\n`],
    ['a long line without an end', `250 ${'a'.repeat(600)}`],
    ['an empty line', '\r\n'],
  ])('refuses %s', (_, bytes) => {
    expect(() => parse(bytes)).toThrow(/reply/);
  });

  test('hands out what was complete before the offence', () => {
    const replies: ServerReply[] = [];
    const parser = new ReplyParser();
    expect(() => parser.push(Buffer.from('250 ok\r\nrubbish\r\n'), (reply) => replies.push(reply))).toThrow();
    expect(replies).toMatchObject([{ code: 250 }]);
  });
});

function stuff(chunks: readonly Buffer[]): Buffer {
  const stuffer = new DotStuffer();
  return Buffer.concat([...chunks.map((chunk) => stuffer.push(chunk)), stuffer.end()]);
}

describe('DotStuffer', () => {
  test.each([
    ['.a\r\n', '..a\r\n.\r\n'],
    ['a\r\n.\r\n..\r\n', 'a\r\n..\r\n...\r\n.\r\n'],
    ['a.b\r\n', 'a.b\r\n.\r\n'],
    ['no end', 'no end\r\n.\r\n'],
    ['', '.\r\n'],
    ['a\n.\nb\r\n', 'a\n..\nb\r\n.\r\n'],
  ])('%j', (content, wire) => {
    expect(stuff([Buffer.from(content)]).toString()).toBe(wire);
    const bytes = [...Buffer.from(content)].map((byte) => Buffer.from([byte]));
    expect(stuff(bytes).toString()).toBe(wire);
  });

  test('what our own edge reads of it is the content again, however it is cut', () => {
    const line = fc
      .array(fc.constantFrom('.', 'a', ' ', 'é', ':'), { maxLength: 6 })
      .map((letters) => letters.join(''));
    const limits = { maxMessageBytes: 1e6, maxHeaderBytes: 1e6, maxDataLineBytes: 1e4, maxReceivedHops: 100 };
    fc.assert(
      fc.property(fc.array(line, { maxLength: 12 }), fc.integer({ min: 1, max: 7 }), (lines, step) => {
        const content = Buffer.from(lines.map((one) => `${one}\r\n`).join(''));
        const chunks: Buffer[] = [];
        for (let at = 0; at < content.length; at += step) chunks.push(Buffer.from(content.subarray(at, at + step)));
        const scanner = new DataScanner(limits);
        const { content: read, rest } = scanner.scan(stuff(chunks));
        expect(scanner.rejected).toBeNull();
        expect(rest).toHaveLength(0);
        expect((read ?? Buffer.alloc(0)).toString()).toBe(content.toString());
      }),
    );
  });
});
