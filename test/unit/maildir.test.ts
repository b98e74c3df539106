/** The embedded Maildir store through its LMTP port, on a real directory: durability order, duplicate suppression, disk errors, the process. */
import { type ChildProcess, spawn } from 'node:child_process';
import { appendFile, mkdtemp, readdir, readFile, rename, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Clock, systemClock } from '../../common/platform/clock.ts';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeFiles } from '../../common/platform/node-files.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { connectClient, type MailClient, type RecipientOutcome, RFC5321_TIMEOUTS } from '../../common/smtp/client.ts';
import { DeliveryIdReader } from '../../operator/maildir/delivery-id-reader.ts';
import { LmtpServer } from '../../operator/maildir/lmtp-server.ts';
import { MaildirStore, mailboxName } from '../../operator/maildir/maildir.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';

let directory: string;
let cleanups: (() => Promise<unknown> | unknown)[] = [];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mailcluster-maildir-'));
});
afterEach(async () => {
  const all = cleanups.reverse();
  cleanups = [];
  for (const cleanup of all) await cleanup();
  await rm(directory, { recursive: true, force: true });
});

async function connect(port: number): Promise<MailClient> {
  const client = await connectClient({
    protocol: 'LMTP',
    host: '127.0.0.1',
    port,
    hostname: 'mx.test',
    tls: 'None',
    clock: systemClock,
    timeouts: { ...RFC5321_TIMEOUTS, greetingMs: 5000, commandMs: 5000, dataTerminationMs: 5000 },
  });
  cleanups.push(() => client.destroy('test over'));
  return client;
}

async function send(
  client: MailClient,
  id: string | null,
  addresses: readonly string[],
  text = 'hello',
): Promise<readonly RecipientOutcome[]> {
  const field = id === null ? '' : `X-MailCluster-Delivery: ${id}\r\n`;
  const content = Buffer.from(`Received: by x\r\n${field}Subject: s\r\n\r\n${text}\r\n`);
  const { recipients } = await client.send({
    reversePath: 'alice@example.org',
    body: '8BITMIME',
    smtputf8: false,
    sizeBytes: content.length,
    recipients: addresses.map((address) => ({ address })),
    content: async function* () {
      for (let at = 0; at < content.length; at += 50_000) yield content.subarray(at, at + 50_000);
    },
  });
  return recipients;
}

const MONTH_MS = 30 * 86_400_000;

interface Running {
  readonly client: MailClient;
  readonly port: number;
  stop(): Promise<void>;
}

async function start(
  files: Files = nodeFiles,
  clock: Clock = systemClock,
  duplicateWindowMs = 1_000_000,
): Promise<Running> {
  const store = await MaildirStore.open({
    files,
    clock,
    random: systemRandom,
    directory,
    duplicateWindowMs,
  });
  const server = await LmtpServer.start({
    store,
    log: silentLogger,
    hostname: 'store.test',
    host: '127.0.0.1',
    port: 0,
  });
  let running = true;
  const stop = async (): Promise<void> => {
    if (!running) return;
    running = false;
    await server.close();
    await store.close();
  };
  cleanups.push(stop);
  return { client: await connect(server.port), port: server.port, stop };
}

const mails = async (address: string, where = 'new'): Promise<string[]> => {
  const path = join(directory, address, where);
  return await Promise.all((await readdir(path)).map((name) => readFile(join(path, name), 'latin1')));
};

describe('the store', () => {
  test('keeps a message for each recipient, byte for byte behind its own two fields', async () => {
    const { client } = await start();
    const text = `.dots\r\n..\r\n${'x'.repeat(200_000)}\r\né`;
    expect(await send(client, 'M1', ['Bob@example.com', 'carol@example.com'], text)).toMatchObject([
      { kind: 'accepted', reply: { enhanced: '2.0.0' } },
      { kind: 'accepted' },
    ]);
    const body = `Received: by x\r\nX-MailCluster-Delivery: M1\r\nSubject: s\r\n\r\n${Buffer.from(text).toString('latin1')}\r\n`;
    expect(await mails('bob@example.com')).toEqual([
      `Return-Path: <alice@example.org>\r\nDelivered-To: Bob@example.com\r\n${body}`,
    ]);
    expect(await mails('carol@example.com')).toHaveLength(1);
    expect(await readdir(join(directory, 'bob@example.com/tmp'))).toEqual([]);
    expect((await readdir(join(directory, 'bob@example.com'))).sort()).toEqual([
      'cur',
      'mailcluster-deliveries',
      'new',
      'tmp',
    ]);
  });

  test('delivers a message to a recipient once, however often and at once it comes', async () => {
    const { client, stop } = await start();
    await send(client, 'M1', ['bob@x', 'BOB@x']);
    await send(client, 'M1', ['bob@x', 'carol@x']);
    await send(client, 'M2', ['bob@x']);
    expect(await mails('bob@x')).toHaveLength(2);
    expect(await mails('carol@x')).toHaveLength(1);
    await stop();
    const again = await start();
    expect(await send(again.client, 'M1', ['bob@x'])).toMatchObject([
      { kind: 'accepted', reply: { text: expect.stringContaining('duplicate') } },
    ]);
    expect(await mails('bob@x')).toHaveLength(2);
  });

  test('a client’s own retry: another id, the same content key; at once, after a restart, for five days', async () => {
    let now = Date.now();
    const clock: Clock = { ...systemClock, wallMs: () => now };
    const attempt = (id: string, key: string): string => `${id}\r\nX-MailCluster-Content: ${key}`;
    const first = await start(nodeFiles, clock, MONTH_MS);
    const second = await connect(first.port);
    await Promise.all([
      send(first.client, attempt('M1', 'K'), ['bob@x', 'carol@x']),
      send(second, attempt('M2', 'K'), ['BOB@x', 'carol@x']),
    ]);
    await send(first.client, attempt('M3', 'OTHER'), ['bob@x']);
    await send(first.client, 'M4', ['bob@x']);
    expect(await mails('bob@x')).toHaveLength(3);
    expect(await mails('carol@x')).toHaveLength(1);
    await first.stop();
    now += 4 * 86_400_000;
    const again = await start(nodeFiles, clock, MONTH_MS);
    expect(await send(again.client, attempt('M5', 'K'), ['bob@x'])).toMatchObject([
      { kind: 'accepted', reply: { text: expect.stringContaining('duplicate') } },
    ]);
    now += 2 * 86_400_000;
    await send(again.client, attempt('M6', 'K'), ['bob@x']);
    expect(await mails('bob@x')).toHaveLength(4);
  });

  test('without a delivery id nothing is suppressed', async () => {
    const { client } = await start();
    for (let i = 0; i < 2; i++) await send(client, null, ['bob@x']);
    expect(await mails('bob@x')).toHaveLength(2);
  });

  test('remembers also when the mail was read, deleted, or the table was lost in a crash', async () => {
    const first = await start();
    for (const id of ['M1', 'M2', 'M3']) await send(first.client, id, ['bob@x']);
    await first.stop();
    const box = join(directory, 'bob@x');
    const [one = '', two = '', three = ''] = await readdir(join(box, 'new'));
    await rename(join(box, 'new', one), join(box, 'cur', `${one}:2,S`));
    await rm(join(box, 'new', two));
    const second = await start();
    for (const id of ['M1', 'M2', 'M3']) await send(second.client, id, ['bob@x']);
    expect([...(await readdir(join(box, 'new'))), ...(await readdir(join(box, 'cur')))]).toEqual([three, `${one}:2,S`]);
    await second.stop();
    // As after a crash between the mail and its line in the table.
    await truncate(join(box, 'mailcluster-deliveries'), 0);
    const third = await start();
    for (const id of ['M1', 'M2', 'M3']) await send(third.client, id, ['bob@x']);
    expect(await readdir(join(box, 'cur'))).toHaveLength(1);
    expect(await readdir(join(box, 'new'))).toHaveLength(2);
  });

  test('a torn table line and leftovers in tmp do no harm', async () => {
    const first = await start();
    await send(first.client, 'M1', ['bob@x']);
    await first.stop();
    const box = join(directory, 'bob@x');
    await appendFile(join(box, 'mailcluster-deliveries'), '0123456789abc');
    await appendFile(join(box, 'tmp/left.1'), 'half a mail');
    const second = await start();
    await send(second.client, 'M2', ['bob@x']);
    await second.stop();
    await rm(join(box, 'new'), { recursive: true });
    const third = await start();
    for (const id of ['M1', 'M2', 'M3']) await send(third.client, id, ['bob@x']);
    expect(await mails('bob@x')).toHaveLength(1);
    expect(await readdir(join(box, 'tmp'))).toEqual([]);
  });

  test('forgets what is older than the window', async () => {
    let nowMs = 10_000_000;
    const clock: Clock = { ...systemClock, wallMs: () => nowMs };
    const first = await start(nodeFiles, clock);
    await send(first.client, 'M1', ['bob@x']);
    await first.stop();
    await rm(join(directory, 'bob@x/new'), { recursive: true });
    nowMs += 900_000;
    const second = await start(nodeFiles, clock);
    await send(second.client, 'M1', ['bob@x']);
    expect(await mails('bob@x')).toHaveLength(0);
    await second.stop();
    nowMs += 200_000;
    const third = await start(nodeFiles, clock);
    await send(third.client, 'M1', ['bob@x']);
    expect(await mails('bob@x')).toHaveLength(1);
  });

  test('refuses a second process on its directory', async () => {
    await start();
    await expect(start()).rejects.toThrow(/in use/);
  });

  test('a full or broken disk is a transient failure of that recipient, and leaves nothing behind', async () => {
    const { client } = await start(failingFor('full@x', 'ENOSPC', 'writev', failingFor('sick@x', 'EIO', 'datasync')));
    expect(await send(client, 'M1', ['full@x', 'bob@x', 'sick@x'], 'x'.repeat(100_000))).toMatchObject([
      { kind: 'rejected', reply: { code: 452, enhanced: '4.3.1' } },
      { kind: 'accepted' },
      { kind: 'rejected', reply: { code: 451, enhanced: '4.3.0' } },
    ]);
    for (const address of ['full@x', 'sick@x']) {
      expect(await mails(address)).toEqual([]);
      expect(await mails(address, 'tmp')).toEqual([]);
    }
    expect(await mails('bob@x')).toHaveLength(1);
  });

  test('syncs the file, then the directory, then the table, before it answers', async () => {
    const log: string[] = [];
    const { client } = await start(recording(log));
    await send(client, 'M1', ['bob@x']);
    log.length = 0;
    await send(client, 'M2', ['bob@x']);
    expect(log).toEqual(['sync tmp', 'rename', 'sync new/', 'sync table']);
  });
});

/** The real disk, except that one operation on files of one mailbox fails. */
function failingFor(mailbox: string, code: string, operation: 'writev' | 'datasync', inner: Files = nodeFiles): Files {
  return {
    ...inner,
    open: async (path, mode) => {
      const handle = await inner.open(path, mode);
      if (!path.includes(`/${mailbox}/tmp/`)) return handle;
      const fail = (): Promise<never> => Promise.reject(Object.assign(new Error(code), { code }));
      return { ...handle, [operation]: fail };
    },
  };
}

function recording(log: string[]): Files {
  const kind = (path: string): string => (path.includes('/bob@x/tmp/') ? 'tmp' : 'table');
  return {
    ...nodeFiles,
    open: async (path, mode): Promise<FileHandle> => {
      const handle = await nodeFiles.open(path, mode);
      return {
        ...handle,
        datasync: async () => {
          await handle.datasync();
          log.push(`sync ${kind(path)}`);
        },
      };
    },
    rename: async (from, to) => {
      await nodeFiles.rename(from, to);
      log.push('rename');
    },
    syncDirectory: async (path) => {
      await nodeFiles.syncDirectory(path);
      log.push(`sync ${path.split('/').at(-1)}/`);
    },
  };
}

describe('names and ids', () => {
  test.each([
    ['Bob.Smith+x@Example.COM', 'bob.smith+x@example.com'.replace('+', '%2B')],
    ['../../etc@x', '%2E.%2F..%2Fetc@x'],
    ['"a b"@x', '%22a%20b%22@x'],
    ['.', '%2E'],
    ['é@x', '%C3%A9@x'],
  ])('%s', (address, name) => {
    expect(mailboxName(address)).toBe(name);
    expect(decodeURIComponent(name)).toBe(address.toLowerCase());
  });

  test('long addresses stay apart and fit a file name', () => {
    const long = 'é'.repeat(100);
    expect(mailboxName(`${long}a@x`)).not.toBe(mailboxName(`${long}b@x`));
    expect(mailboxName(`${long}a@x`).length).toBeLessThan(256);
  });

  test.each([
    ['X-MailCluster-Delivery: abc\r\n\r\n', 'abc'],
    ['A: b\r\nx-mailcluster-delivery:abc \r\nC: d\r\n\r\nbody', 'abc'],
    ['A: b\r\n\r\nX-MailCluster-Delivery: abc\r\n', null],
    ['\r\nX-MailCluster-Delivery: abc\r\n\r\n', null],
    ['Subject: X-MailCluster-Delivery: abc\r\n\r\n', null],
    [`A: ${'x'.repeat(65_500)}\r\nX-MailCluster-Delivery: abcdef\r\n\r\n`, null],
    ['X-MailCluster-Delivery: abc', 'abc'],
  ])('delivery id in %j', (content, id) => {
    for (const step of [1, 13, 100_000]) {
      if (content.length > 1000 && step === 1) continue;
      const reader = new DeliveryIdReader();
      for (let at = 0; at < content.length; at += step) reader.push(Buffer.from(content.slice(at, at + step)));
      expect(reader.id).toBe(id);
    }
  });
});

describe('the process', () => {
  async function launch(): Promise<{ child: ChildProcess; port: number }> {
    const entry = join(ROOT, 'operator/maildir/main.ts');
    const child = spawn(process.execPath, [entry, '--maildir', directory], { stdio: ['pipe', 'pipe', 'ignore'] });
    cleanups.push(async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGKILL');
      await until('the store to be gone', () => child.signalCode !== null, { deadlineMs: 10_000 });
    });
    if (child.stdout === null) throw new Error('no stdout');
    for await (const line of createInterface({ input: child.stdout })) {
      const facts: { ready?: boolean; port?: number } = JSON.parse(line);
      expect(facts).toMatchObject({ ready: true, port: expect.any(Number) });
      return { child, port: facts.port ?? 0 };
    }
    throw new Error('the store said nothing');
  }
  const exit = (child: ChildProcess) =>
    until('exit', () => (child.exitCode === null ? null : { code: child.exitCode }), { deadlineMs: 10_000 });

  test('serves, survives SIGKILL with what it answered, ends on SIGTERM', async () => {
    const first = await launch();
    const client = await connect(first.port);
    for (let i = 0; i < 5; i++) expect(await send(client, `M${i}`, ['bob@x'])).toMatchObject([{ kind: 'accepted' }]);
    first.child.kill('SIGKILL');
    await until('death', () => first.child.signalCode !== null, { deadlineMs: 10_000 });
    const second = await launch();
    const again = await connect(second.port);
    for (let i = 0; i < 6; i++) expect(await send(again, `M${i}`, ['bob@x'])).toMatchObject([{ kind: 'accepted' }]);
    expect(await mails('bob@x')).toHaveLength(6);
    second.child.kill('SIGTERM');
    expect(await exit(second.child)).toEqual({ code: 0 });
  });

  test('ends when its parent is gone', async () => {
    const { child } = await launch();
    child.stdin?.end();
    expect(await exit(child)).toEqual({ code: 0 });
  });
});
