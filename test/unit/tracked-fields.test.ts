/** Message-ID and the hash of Subject are found wherever the stream is cut, and only in the header; one subject has one hash however it is written. */
import { describe, expect, it } from 'vitest';
import { subjectHash } from '../../common/smtp/subject-hash.ts';
import { TrackedFields } from '../../common/smtp/tracked-fields.ts';

function find(chunks: readonly (string | Buffer)[]): { readonly id: string | null; readonly subject: string | null } {
  const fields = new TrackedFields();
  for (const chunk of chunks) fields.push(Buffer.from(chunk));
  return { id: fields.messageId, subject: fields.subjectHash };
}

describe('TrackedFields', () => {
  const message =
    'From: x\r\nsubject: Quarterly\r\n report\r\nmessage-id:\r\n <a.b@c>\r\nTo: y\r\n\r\nMessage-ID: <body@c>\r\n';

  it('finds folded fields at every cut', () => {
    for (let cut = 0; cut <= message.length; cut++)
      expect(find([message.slice(0, cut), message.slice(cut)])).toEqual({
        id: '<a.b@c>',
        subject: subjectHash('Quarterly report'),
      });
  });

  it('does not look into the body', () => {
    expect(find(['From: x\r\n\r\nMessage-ID: <body@c>\r\nSubject: body\r\n'])).toEqual({ id: null, subject: null });
  });

  it('takes the first field and gives up after 16 KiB', () => {
    expect(find(['Message-ID: <1@c>\r\nMessage-ID: <2@c>\r\nSubject: 1\r\nSubject: 2\r\n\r\n'])).toEqual({
      id: '<1@c>',
      subject: subjectHash('1'),
    });
    const late = `X: ${'y'.repeat(20_000)}\r\nMessage-ID: <late@c>\r\nSubject: late\r\n\r\n`;
    expect(find([late])).toEqual({ id: null, subject: null });
  });

  it('reads what is obsolete, and UTF-8; without a header there is none', () => {
    expect(find(['Message-ID : <a@b>\r\nSubject\t: x\r\n\r\n'])).toEqual({ id: '<a@b>', subject: subjectHash('x') });
    expect(find(['Message-ID: <jürg@b>\r\n\r\n']).id).toBe('<jürg@b>');
    expect(find(['\r\nMessage-ID: <body@c>\r\nSubject: body\r\n\r\n'])).toEqual({ id: null, subject: null });
  });

  it('says nothing of a subject that does not end where it stopped reading', () => {
    const long = `Subject: begun${'\r\n and more of it'.repeat(2_000)}\r\n\r\n`;
    expect(find([long]).subject).toBeNull();
    expect(find(['Subject:\r\n\r\n']).subject).toBeNull();
    expect(find(['Subject: whole\r\n']).subject).toBe(subjectHash('whole'));
  });
});

describe('subjectHash', () => {
  const hash = subjectHash('Jürgens Bericht');

  it.each([
    ['folded', 'Jürgens\r\n Bericht'],
    ['more space, another case', '  JÜRGENS \t bericht '],
    ['composed otherwise', 'Ju\u0308rgens Bericht'],
    ['encoded, quoted', '=?utf-8?Q?J=C3=BCrgens_Bericht?='],
    ['encoded, base64', '=?UTF-8?B?SsO8cmdlbnMgQmVyaWNodA==?='],
    ['encoded in another charset', '=?iso-8859-1?Q?J=FCrgens?= Bericht'],
    ['in two words of which space between does not count', '=?utf-8?Q?J=C3=BC?=\r\n =?utf-8?Q?rgens_Bericht?='],
    ['with a language (RFC 2231)', '=?utf-8*de?Q?J=C3=BCrgens_Bericht?='],
  ])('is the same: %s', (_, text) => expect(subjectHash(text)).toBe(hash));

  it('has no case where a letter has none', () => {
    expect(subjectHash('Grüße aus der Straße')).toBe(subjectHash('GRÜSSE AUS DER STRASSE'));
  });

  it('is of another text another one, of none null', () => {
    expect(hash).toMatch(/^[0-9a-f]{16}$/);
    expect(subjectHash('Jurgens Bericht')).not.toBe(hash);
    for (const empty of ['', ' \t', '\r\n ']) expect(subjectHash(empty)).toBeNull();
  });

  it('comes of raw UTF-8 in the header as well', () => {
    expect(find([Buffer.from('Subject: Jürgens Bericht\r\n\r\n', 'utf8')]).subject).toBe(hash);
  });

  it('takes no longer than the text, whatever it is', () => {
    for (const text of ['=?utf-8?Q?', '=?a?b?', '=?utf-8?B?AA?= ', ' \t', '=?'].map((one) => one.repeat(50_000))) {
      const started = performance.now();
      subjectHash(text);
      expect(performance.now() - started).toBeLessThan(1_000);
    }
  });
});
