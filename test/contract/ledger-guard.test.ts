/** The guard between Redis and the client library: honest replies pass however they are cut, everything else ends it, nothing is kept. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MAX_BULK_BYTES, ReplyGuard } from '../../common/platform/redis-replies.ts';
import { bulk } from '../rigs/redis.ts';

const text = fc.string({ maxLength: 60 }).map((one) => one.replaceAll(/[\r\n]/g, ' '));
const reply = fc.oneof(
  text.map((one) => Buffer.from(`+${one}\r\n`)),
  text.map((one) => Buffer.from(`-${one}\r\n`)),
  fc.integer().map((one) => Buffer.from(`:${one}\r\n`)),
  fc.constant(Buffer.from('$-1\r\n')),
  fc.uint8Array({ maxLength: 3_000 }).map((one) => bulk(Buffer.from(one))),
  fc.constantFrom(0, MAX_BULK_BYTES).map((length) => bulk(Buffer.alloc(length, '\r\n*>'))),
);

function pass(bytes: Buffer, cuts: readonly number[]): string | null {
  const guard = new ReplyGuard();
  const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  let from = 0;
  for (const to of [...places, bytes.length]) {
    const problem = guard.problemWith(bytes.subarray(from, to));
    if (problem !== null) return problem;
    from = to;
  }
  return null;
}

const cuts = fc.array(fc.nat(), { maxLength: 20 });

describe('reply guard', () => {
  test('lets through what was asked for, however it is cut', () => {
    fc.assert(
      fc.property(fc.array(reply, { maxLength: 12 }), cuts, (replies, at) => {
        expect(pass(Buffer.concat(replies), at)).toBeNull();
      }),
    );
  });

  test('stops at the first other byte behind any honest replies, however it is cut', () => {
    const wrong = fc.constantFrom(
      '*0\r\n',
      '>1\r\n',
      '%1\r\n',
      '_\r\n',
      '$99999\r\n',
      '$\r\n',
      ':x\r\n',
      ':\r\n',
      '+a\nb',
      '+a\rb',
      'x',
    );
    fc.assert(
      fc.property(fc.array(reply, { maxLength: 6 }), wrong, cuts, (replies, bad, at) => {
        expect(pass(Buffer.concat([...replies, Buffer.from(bad)]), at)).toEqual(expect.any(String));
      }),
    );
  });

  test('no bytes make it throw', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), cuts, (bytes, at) => {
        pass(Buffer.from(bytes), at);
      }),
    );
  });
});
