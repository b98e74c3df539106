/** The URL in the Secret of `redis: External`: what is understood, what is refused and why, and what becomes of it on one machine. */
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemRandom } from '../../common/platform/random.ts';
import { parseRedisUrl } from '../../common/redis-url.ts';
import { SecretStore, type WantedSecrets } from '../../operator/local/credentials.ts';
import { prepareStateDirectory, type StatePaths, statePaths } from '../../operator/local/state-directory.ts';
import type { Secret } from '../../operator/resource/parse.ts';

const PLAIN = { host: 'redis.example.com', port: 6379, tls: false, username: null, password: null };

test.each([
  ['redis://redis.example.com', PLAIN],
  ['redis://redis.example.com/0\n', PLAIN],
  ['rediss://redis.example.com:6380/', { ...PLAIN, port: 6380, tls: true }],
  ['redis://:p%40ss@redis.example.com', { ...PLAIN, password: 'p@ss' }],
  ['redis://mail:x%2Fy@redis.example.com', { ...PLAIN, username: 'mail', password: 'x/y' }],
  ['redis://192.0.2.4:1', { ...PLAIN, host: '192.0.2.4', port: 1 }],
  ['rediss://[2001:db8::1]:6379', { ...PLAIN, host: '2001:db8::1', tls: true }],
])('%s', (url, parsed) => {
  expect(parseRedisUrl(url)).toEqual(parsed);
});

test.each([
  ['', 'not a URL'],
  ['redis.example.com:6379', 'of another kind'],
  ['http://redis.example.com', 'of another kind'],
  ['redis://', 'not a URL|without a host'],
  ['redis://:secret@redis.example.com/3', 'another database than 0'],
  ['redis://:secret@redis.example.com?family=6', 'with options'],
  ['redis://:secret%ZZ@redis.example.com', 'broken %-escape'],
  ['redis://:secret@redis.example.com:99999', 'not a URL'],
])('%s is refused without repeating it', (url, reason) => {
  const refused = parseRedisUrl(url);
  expect(refused).toMatch(new RegExp(reason));
  expect(refused).not.toContain('secret');
});

describe('on one machine', () => {
  let paths: StatePaths;
  beforeEach(async () => {
    paths = statePaths(await mkdtemp(join(tmpdir(), 'mailcluster-redis-url-')));
    await prepareStateDirectory(paths);
  });
  afterEach(() => rm(paths.root, { recursive: true, force: true }));

  const wanted: WantedSecrets = { smtpTls: null, users: [], connectors: [], redisUrl: { name: 'redis', key: 'url' } };
  const secret = (data: Readonly<Record<string, string>>): Secret =>
    ({
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'redis', namespace: 'default' },
      data,
    }) as unknown as Secret;
  const write = (url: string) => new SecretStore(paths, systemRandom).write(wanted, [secret({ url })]);

  test('the password goes to a file of its own, readable for nobody else, the rest to the configuration', async () => {
    const { ledger, changed } = await write('rediss://mail:hush@redis.example.com');
    const passwordFile = join(paths.secrets, 'redis.redis-password');
    expect(ledger).toEqual({ host: 'redis.example.com', port: 6379, tls: true, username: 'mail', passwordFile });
    expect(changed).toBe(true);
    expect(await readFile(passwordFile, 'utf8')).toBe('hush');
    expect((await stat(passwordFile)).mode & 0o777).toBe(0o600);
  });

  test('no password, no file', async () => {
    expect((await write('redis://redis.example.com')).ledger).toMatchObject({ passwordFile: null, username: null });
  });

  test('a missing Secret, key or a wrong URL is said by name', async () => {
    const store = new SecretStore(paths, systemRandom);
    await expect(store.write(wanted, [])).rejects.toThrow('Secret redis is in none of the files');
    await expect(store.write(wanted, [secret({ uri: 'x' })])).rejects.toThrow('Secret redis needs the key url');
    await expect(write('redis://:hush@h/7')).rejects.toThrow(/^Secret redis, url: a URL with another database/);
  });
});
