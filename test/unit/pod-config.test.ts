/** A configuration for all pods of a set becomes that of one pod, and what the operator renders is such a configuration. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { parseFrontendConfig, parseTransportConfig } from '../../common/config-parse.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { passwordIn, podConfig, redisUrlFile } from '../../common/pod-config.ts';
import { hashPassword, verifyPassword } from '../../common/smtp/users.ts';
import { UsersReader } from '../../common/smtp/users-directory.ts';
import { frontendConfig, targetPorts, transportConfig } from '../../operator/resources/configs.ts';
import { deployment, frontendGroups } from '../../operator/resources/frontends.ts';
import { OPERATOR, resourcesOf, TWO_SITES } from './cluster-state.ts';

const POD = { POD_NAME: 'm-0', POD_NAMESPACE: 'mail', POD_UID: 'u', POD_IP: '10.0.0.7', NODE_NAME: 'n1' };
const OWNER = { name: 'contoso', namespace: 'mail', uid: 'cluster-uid' };
const silent = (): void => undefined;

const spec = (text: string) => resourcesOf(TWO_SITES.replace('  redis: { mode: None }\n', text)).cluster;

describe('a pod', () => {
  it('reads the rendered configuration of a transport as its own', () => {
    const rendered = transportConfig(spec(''), OWNER, OPERATOR, 'group');
    const parsed = parseTransportConfig(podConfig(rendered, POD, null, silent));
    expect(parsed).toMatchObject({
      kind: 'ok',
      value: {
        name: 'm-0',
        hostname: 'm-0.group.mail.svc.cluster.local',
        listen: { host: '0.0.0.0', port: 7701 },
        ledger: { host: 'contoso-redis.mail.svc.cluster.local', passwordFile: '/etc/mailcluster/redis/password' },
      },
    });
    expect(JSON.stringify(parsed)).not.toContain('$(');
  });

  it('finds address lists where their ConfigMaps are mounted, and starts without them; nothing is rendered for who has none', () => {
    const lists = '[{ name: people, configMapRef: { name: staff } }, { name: local, file: /srv/local }]';
    const cluster = spec(`  recipients: { addressLists: ${lists} }\n`);
    const rendered = frontendConfig(cluster, OWNER, OPERATOR, 'seattle');
    const addressLists = [
      { name: 'people', file: '/etc/mailcluster/address-lists/people/addresses' },
      { name: 'local', file: '/srv/local' },
    ];
    const parsed = parseFrontendConfig(podConfig(rendered, POD, null, silent));
    expect(parsed).toMatchObject({ kind: 'ok', value: { addressLists } });
    const [group] = frontendGroups(cluster);
    const pods = group === undefined ? '' : JSON.stringify(deployment(cluster, OWNER, OPERATOR, group));
    expect(pods).toContain('"configMap":{"name":"staff","optional":true}');
    expect(pods).toContain('"mountPath":"/etc/mailcluster/address-lists/people"');
    expect(frontendConfig(spec(''), OWNER, OPERATOR, 'seattle')).not.toHaveProperty('addressLists');
  });

  it('reads that of a front end, with ports above 1024 and distinct', () => {
    const listeners = '[{ name: smtp, port: 25 }, { name: high, port: 10025 }, { name: odd, port: 9090 }]';
    const cluster = spec(`  frontend: { listeners: ${listeners} }\n`);
    const parsed = parseFrontendConfig(
      podConfig(frontendConfig(cluster, OWNER, OPERATOR, 'seattle'), POD, null, silent),
    );
    expect(parsed).toMatchObject({ kind: 'ok', value: { name: 'm-0', site: 'seattle' } });
    const ports = [...targetPorts(cluster.spec.frontend.listeners).values(), 9090];
    expect(new Set(ports).size).toBe(ports.length);
    expect(Math.min(...ports)).toBeGreaterThan(1024);
  });

  it('submission ports are for those who authenticate, unless the listener says otherwise; others say nothing', () => {
    const auth = (required = ''): string => `auth: { secretRef: { name: u }${required} }`;
    const listeners = [
      '{ name: smtp, port: 25 }',
      `{ name: mixed, port: 2525, tls: StartTls, ${auth()} }`,
      `{ name: own, port: 2526, tls: StartTls, ${auth(', required: true')} }`,
      `{ name: submission, port: 587, tls: StartTlsRequired, ${auth()} }`,
      `{ name: submissions, port: 465, tls: Implicit, ${auth(', required: false')} }`,
    ];
    const rendered = frontendConfig(
      spec(`  frontend: { listeners: [${listeners.join(', ')}] }\n`),
      OWNER,
      OPERATOR,
      'seattle',
    );
    const closed = rendered.listeners.filter((one) => 'authRequired' in one);
    expect(closed.map(({ name, authRequired }) => [name, authRequired])).toEqual([
      ['own', true],
      ['submission', true],
    ]);
    expect(parseFrontendConfig(podConfig(rendered, POD, null, silent))).toMatchObject({ kind: 'ok' });
  });

  it('listens on all addresses of its family', () => {
    expect(podConfig({ host: '$(ANY_ADDRESS)' }, { ...POD, POD_IP: 'fd00::7' }, null, silent)).toEqual({ host: '::' });
  });

  it('refuses what it does not have', () => {
    expect(() => podConfig({ name: '$(POD_NAME)' }, {}, null, silent)).toThrow(/POD_NAME/);
    expect(() => podConfig({ name: '$(HOME)' }, { HOME: '/root' }, null, silent)).toThrow(/HOME/);
  });

  it('takes the place of a foreign Redis from its URL, and goes without when that is unusable', () => {
    const rendered = transportConfig(
      spec('  redis: { mode: External, urlSecretRef: { name: r } }\n'),
      OWNER,
      OPERATOR,
      'group',
    );
    const file = redisUrlFile(rendered);
    expect(file).toBe('/etc/mailcluster/redis/url');
    const good = podConfig(rendered, POD, 'rediss://mail:s3cret@r.example:6390\n', silent);
    expect(good).toMatchObject({
      ledger: { host: 'r.example', port: 6390, tls: true, username: 'mail', passwordFile: file },
    });
    for (const url of [null, 'http://nothing']) {
      const said: string[] = [];
      expect(podConfig(rendered, POD, url, (problem) => said.push(problem))).toMatchObject({ ledger: null });
      expect(said).toHaveLength(1);
    }
  });

  it('finds the password in a file of either form', () => {
    expect(passwordIn('plain\n')).toBe('plain');
    expect(passwordIn('redis://:s3%20cret@host\n')).toBe('s3 cret');
  });
});

describe('a mounted users Secret', () => {
  const made: string[] = [];
  afterEach(async () => {
    for (const directory of made.splice(0)) await rm(directory, { recursive: true, force: true });
  });

  it('holds a password or a hash per file, or lines in one; what belongs to the mount is left out', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-users-'));
    made.push(directory);
    await mkdir(join(directory, '..data'));
    await writeFile(join(directory, 'scanner'), 'secret one\n');
    await writeFile(join(directory, 'printer'), await hashPassword('two', systemRandom));
    await writeFile(join(directory, 'users'), '# comment\nfax: three\n');
    const reader = new UsersReader(systemRandom);
    const users = await reader.read(directory);
    expect([...users.keys()].sort()).toEqual(['fax', 'printer', 'scanner']);
    expect(await verifyPassword(users, 'scanner', 'secret one')).toBe(true);
    expect(await verifyPassword(users, 'printer', 'two')).toBe(true);
    expect(await verifyPassword(users, 'fax', 'two')).toBe(false);
    expect(await reader.read(directory)).toBe(users);
    await writeFile(join(directory, 'scanner'), 'changed');
    expect(await verifyPassword(await reader.read(directory), 'scanner', 'changed')).toBe(true);
  });
});
