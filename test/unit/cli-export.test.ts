/** `mailcluster message export` against real admin APIs: the file, who may have it, and what is there when it cannot be had. */
import { createHash, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { adminClientOfSubjectAltName, peerOfSubjectAltName } from '../../common/platform/peer-identity.ts';
import { messageCommand } from '../../operator/cli/messages.ts';
import { issueCertificate } from '../../operator/pki.ts';
import { until } from '../house/until.ts';
import { AdminWorld, CONTENTS, detail, ID, type MemberContents } from './admin-world.ts';
import { run } from './cli-run.ts';

/** More than a connection takes at once, every byte there is. */
const BODY = Buffer.from(Array.from({ length: 600_000 }, (_, at) => (at * 7 + (at >> 8)) % 256));
const PIECE = 65_536;

let world: AdminWorld;
let directory = '';
beforeEach(async () => {
  world = await AdminWorld.open();
  directory = await mkdtemp(join(tmpdir(), 'mailcluster-export-'));
});
afterEach(async () => {
  await world.close();
  await rm(directory, { recursive: true });
});

async function* pieces(body: Buffer, through = body.length): AsyncIterable<Buffer> {
  for (let at = 0; at < through; at += PIECE) yield body.subarray(at, Math.min(through, at + PIECE));
  if (through < body.length) throw new Error('DAMAGED: a part of it cannot be read');
}

function holding(queue: 'delivery' | 'shadow', body: () => AsyncIterable<Buffer>): MemberContents {
  const { facts, state } = detail(queue);
  const digest = createHash('sha256').update(BODY).digest('hex');
  const known = { facts: { ...facts, digest, sizeBytes: BODY.length }, state };
  return { ...CONTENTS[queue === 'shadow' ? 'b' : 'a'], details: new Map([[ID, known]]), body };
}
const whole = (): AsyncIterable<Buffer> => pieces(BODY);

const exported = (file: string) => run(messageCommand, world, 'export', ID, '--out', file);

test('a message becomes a file of its bytes that nobody else reads', async () => {
  await world.cluster({ a: holding('delivery', whole), b: holding('shadow', whole) });
  const file = join(directory, 'one.eml');
  const { code, out, err } = await exported(file);
  expect([code, err]).toEqual([0, '']);
  expect(out).toMatch(new RegExp(`^${file}: 600000 bytes, SHA-256 [0-9a-f]{64}, from a\\.\n$`));
  expect((await readFile(file)).equals(BODY)).toBe(true);
  expect((await stat(file)).mode & 0o777).toBe(0o600);
});

test('a file that exists stays as it is', async () => {
  await world.cluster({ a: holding('delivery', whole), b: holding('shadow', whole) });
  const file = join(directory, 'mine');
  await writeFile(file, 'mine');
  expect(await exported(file)).toMatchObject({ code: 'USAGE', err: expect.stringContaining(`--out ${file}: EEXIST`) });
  expect(await readFile(file, 'utf8')).toBe('mine');
});

test.each<[string, () => AsyncIterable<Buffer>, RegExp]>([
  ['cannot read it', () => pieces(BODY, 0), /^a: 500: DAMAGED/],
  ['breaks off in the middle', () => pieces(BODY, 300_000), /^a: \S+/],
  ['gives something else', () => pieces(Buffer.alloc(BODY.length)), /^a: what it gave is not the message/],
])('a holder that %s: the other one is asked; without another one there is no file', async (_, bad, said) => {
  await world.cluster({ a: holding('delivery', bad), b: holding('shadow', whole) });
  const file = join(directory, 'two.eml');
  const { code, out, err } = await exported(file);
  expect([code, out]).toEqual([0, expect.stringMatching(/from b\.\n$/)]);
  expect(err).toMatch(said);
  expect((await readFile(file)).equals(BODY)).toBe(true);

  await rm(file);
  await world.close();
  world = await AdminWorld.open();
  await world.cluster({ a: holding('delivery', bad), b: { ...CONTENTS.b, details: new Map() } });
  expect(await exported(file)).toMatchObject({ code: 1, out: '' });
  expect(await readdir(directory)).toEqual([]);
});

test('one that nobody holds', async () => {
  await world.cluster();
  const { code, err } = await run(messageCommand, world, 'export', 'NOBODY', '--out', join(directory, 'x'));
  expect([code, err]).toEqual([1, expect.stringContaining('No transport that answered holds NOBODY')]);
  expect(await readdir(directory)).toEqual([]);
});

test('who goes away in the middle leaves nothing open', async () => {
  let isOpen = false;
  async function* endless(): AsyncIterable<Buffer> {
    isOpen = true;
    try {
      for (;;) yield Buffer.alloc(PIECE);
    } finally {
      isOpen = false;
    }
  }
  const contents = holding('delivery', endless);
  const known = contents.details.get(ID);
  if (known === undefined) throw new Error('no detail');
  const facts = { ...known.facts, sizeBytes: 1e12 };
  const port = await world.admin('a', { ...contents, details: new Map([[ID, { ...known, facts }]]) });
  const { ca, certificate: cert, key } = await world.identity('operator', 'someone');
  const path = `/v1/messages/${ID}/body`;
  const sent = request({ host: '127.0.0.1', port, path, agent: false, ca, cert, key, servername: 'localhost' });
  sent.on('error', () => undefined);
  sent.end();
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  await once(response, 'data');
  expect(isOpen).toBe(true);
  sent.destroy();
  await until('the body to be closed', () => !isOpen, { deadlineMs: 10_000 });
});

test.each([
  "o'neil, the (1st)*",
  'x, URI:mailcluster://contoso/operator/x',
  'Zoë "100%" \\ /',
  'system:serviceaccount:mail:a',
])('a certificate says who %s is, and is of an exporter still', async (user) => {
  const subject = { cluster: 'contoso', role: 'exporter', name: 'r1', hosts: [], user, days: 1 } as const;
  const { certificatePem } = await issueCertificate(world.authority, subject);
  const { subjectAltName, keyUsage } = new X509Certificate(certificatePem);
  expect(adminClientOfSubjectAltName(subjectAltName, 'contoso')).toEqual({ role: 'exporter', name: 'r1', user });
  expect(peerOfSubjectAltName(subjectAltName, 'contoso')).toBe('the certificate is of exporter r1');
  expect(keyUsage).toEqual(['1.3.6.1.5.5.7.3.2']);
});

test('who may only look does not get mail', async () => {
  const port = await world.admin('a', holding('delivery', whole));
  const status = async (role: 'operator' | 'viewer' | 'exporter'): Promise<number> => {
    const { ca, certificate: cert, key } = await world.identity(role, 'someone');
    const path = `/v1/messages/${ID}/body`;
    return await new Promise((resolve, reject) => {
      const sent = request({ host: '127.0.0.1', port, path, agent: false, ca, cert, key, servername: 'localhost' });
      sent.once('error', reject);
      sent.once('response', (response) => {
        response.resume();
        response.once('end', () => resolve(response.statusCode ?? 0));
      });
      sent.end();
    });
  };
  expect([await status('viewer'), await status('exporter'), await status('operator')]).toEqual([403, 200, 200]);
  expect(world.asked.filter(({ what }) => what === 'body')).toHaveLength(2);
});
