/** The Message-ID is found wherever the stream is cut, and only in the header. */
import { describe, expect, it } from 'vitest';
import { MessageIdFinder } from '../../common/smtp/message-id.ts';

const find = (chunks: readonly string[]): string | null => {
  const finder = new MessageIdFinder();
  for (const chunk of chunks) finder.push(Buffer.from(chunk));
  return finder.messageId;
};

describe('MessageIdFinder', () => {
  const message = 'Subject: x\r\nmessage-id:\r\n <a.b@c>\r\nTo: y\r\n\r\nMessage-ID: <body@c>\r\n';

  it('finds the folded field at every cut', () => {
    for (let cut = 0; cut <= message.length; cut++)
      expect(find([message.slice(0, cut), message.slice(cut)])).toBe('<a.b@c>');
  });

  it('does not look into the body', () => {
    expect(find(['Subject: x\r\n\r\nMessage-ID: <body@c>\r\n'])).toBeNull();
  });

  it('takes the first field and gives up after 16 KiB', () => {
    expect(find(['Message-ID: <1@c>\r\nMessage-ID: <2@c>\r\n\r\n'])).toBe('<1@c>');
    expect(find([`X: ${'y'.repeat(20_000)}\r\nMessage-ID: <late@c>\r\n\r\n`])).toBeNull();
  });
});
