/** Every `*.smtp` file of this folder, against the real edge on a real socket. The language is described in `dialog-file.ts`. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { REPLIES } from '../../common/smtp/replies.ts';
import { type TestCertificate, testCertificate } from '../rigs/test-certificate.ts';
import { parseDialog } from './dialog-file.ts';
import { runDialog, sentBytes } from './dialog-runner.ts';

/** Replies that no dialog of one edge alone can bring about, and the test that shows them. */
const ELSEWHERE = {
  envelopeTooBig: 'test/unit/smtp-edge.test.ts',
  filterDeferred: 'test/unit/content-filters.test.ts',
  filterFieldTooBig: 'test/unit/content-filters.test.ts',
  filterRejected: 'test/unit/content-filters.test.ts',
  filterUnavailable: 'test/unit/content-filters.test.ts',
  noTransport: 'test/scenario/frontend-proxy.test.ts',
  transportLost: 'test/scenario/frontend-proxy.test.ts',
};

const folder = import.meta.dirname;
const files = readdirSync(folder).filter((name) => name.endsWith('.smtp'));

describe('dialogs', () => {
  let tls: TestCertificate;
  beforeAll(async () => {
    tls = await testCertificate('mx.example.net');
  });

  it('are there', () => expect(files.length).toBeGreaterThanOrEqual(25));

  const heard = new Set<string>();
  describe.each(files)('%s', (file) => {
    const dialog = parseDialog(readFileSync(join(folder, file), 'utf8'));
    it(dialog.title, () => runDialog(dialog, tls, null, (line) => heard.add(line)));
    if (dialog.split) {
      it(`the same with the sends cut at each of ${sentBytes(dialog)} bytes`, async () => {
        for (let at = 1; at < sentBytes(dialog); at++) await runDialog(dialog, tls, at);
      }, 60_000);
    }
  });

  it('every reply of the table is said in one of them, or by name elsewhere', () => {
    const silent = Object.entries(REPLIES).filter(([, { code, enhanced, text }]) => {
      const words = text.replace(/[.*+?^$()|[\]\\]/g, '\\$&').replace(/\{\w+\}/g, '.*');
      const line = new RegExp(`^${code}[- ]${enhanced === '' ? '' : `${enhanced} `}${words}$`);
      return ![...heard].some((one) => line.test(one));
    });
    expect(silent.map(([name]) => name).sort()).toEqual(Object.keys(ELSEWHERE).sort());
  });

  it('can fail', async () => {
    const wrong = parseDialog('S: 220 *\nC: NOOP\nS: 500 *\n');
    await expect(runDialog(wrong, tls, null)).rejects.toThrow('line 3: expected "500 *", got "250 2.0.0 OK"');
    const unread = parseDialog('S: 220 *\nC: NOOP\nC: QUIT\nS: 250 *\nclosed\n');
    await expect(runDialog(unread, tls, null)).rejects.toThrow('expected the end of the connection');
    const record = parseDialog('S: 220 *\n= messages 1\n');
    await expect(runDialog(record, tls, null)).rejects.toThrow('it is 0');
  });
});
