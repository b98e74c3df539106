/** `mailcluster run` with real processes: stand-in programs, real signals, real files (test/process/stand-ins.ts). */
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { FrontendConfig, TopologyDocument, TransportConfig } from '../../common/config.ts';
import { parseUsers, verifyPassword } from '../../common/smtp/users.ts';
import { until } from '../house/until.ts';
import { alive, type RunnerProcess, resources, StandIns } from '../process/stand-ins.ts';

const TIMEOUT_MS = 60_000;
const open: StandIns[] = [];
const servers: Server[] = [];

afterEach(async () => {
  for (const server of servers.splice(0)) server.close();
  for (const one of open.splice(0)) await one.close();
});

async function standIns(text?: string): Promise<StandIns> {
  const made = await StandIns.open(text);
  open.push(made);
  return made;
}

async function readJson<T>(path: string): Promise<T> {
  return JSON.parse(await readFile(path, 'utf8')) as T;
}

async function stopped(runner: RunnerProcess, pids: readonly (number | null)[]): Promise<void> {
  for (const pid of pids) {
    await until(`process ${pid} is gone`, () => pid === null || !alive(pid), { deadlineMs: 10_000 });
  }
  expect(await runner.exited).not.toBe(undefined);
}

function listenOn(port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      servers.push(server);
      resolve(server);
    });
  });
}

test(
  'starts everything, tells where it is, and stops everything on SIGTERM',
  async () => {
    const world = await standIns();
    const runner = world.run();
    const run = await world.ready(runner, 'run.json');
    expect(run).toMatchObject({
      version: 1,
      cluster: 'contoso',
      generation: 1,
      state: world.state,
      pid: runner.process.pid,
    });
    expect(run.transports.map(({ dag, site }) => [dag, site])).toEqual([
      ['dag1', 'seattle'],
      ['dag1', 'portland'],
    ]);
    expect(run.frontends.map(({ site }) => site)).toEqual(['seattle', 'portland']);
    expect(run.listeners.map(({ name, host }) => `${name} ${host}`)).toEqual([
      'smtp 127.0.0.1',
      'submission 127.0.0.1',
      'smtp 127.0.0.1',
      'submission 127.0.0.1',
    ]);
    expect(new Set(run.listeners.map(({ port }) => port)).size).toBe(4);
    expect(run.stores).toMatchObject([{ database: 'db01', copy: 'sea', maildir: join(world.state, 'mail/db01') }]);
    const pids = [...run.transports, ...run.frontends, ...run.stores].map(({ pid }) => pid);
    for (const pid of pids) expect(pid !== null && alive(pid)).toBe(true);

    const [transport] = run.transports;
    const config = await readJson<TransportConfig>(join(world.state, 'config', `${transport?.name}.json`));
    expect(config.queueDatabaseDirectory).toBe(transport?.queueDatabaseDirectory);
    expect(transport?.adminUrl).toBe(`https://127.0.0.1:${config.admin.port}`);
    const topology = await readJson<TopologyDocument>(run.topologyFile);
    expect(topology.members.find(({ name }) => name === transport?.name)?.address.port).toBe(config.listen.port);
    expect(topology.databases[0]?.copies[0]?.lmtp.port).toBe(run.stores[0]?.port);
    expect((await stat(config.tls.keyFile)).mode & 0o777).toBe(0o600);
    expect(await readFile(join(world.state, 'logs', `${transport?.name}.log`), 'utf8')).toContain('a line of');

    const frontend = await readJson<FrontendConfig>(join(world.state, 'config', `${run.frontends[0]?.name}.json`));
    const usersFile = frontend.listeners.find(({ name }) => name === 'submission')?.usersFile ?? '';
    expect(frontend.listeners.find(({ name }) => name === 'smtp')?.usersFile).toBe(null);
    const users = await readFile(usersFile, 'utf8');
    expect(users).not.toContain('a secret nobody may read');
    expect((await stat(usersFile)).mode & 0o777).toBe(0o600);
    expect(await verifyPassword(parseUsers(users), 'printer', 'a secret nobody may read')).toBe(true);
    expect(runner.output().match(/redis: Managed is treated as None/g)).toHaveLength(1);

    runner.process.kill('SIGTERM');
    expect(await runner.exited).toBe(0);
    await stopped(runner, pids);
    await expect(stat(join(world.state, 'run.json'))).rejects.toThrow('ENOENT');
    const ends = (await world.events())
      .filter((line) => line.endsWith('SIGTERM'))
      .map((line) => line.includes('frontend'));
    expect(ends).toEqual([true, true, false, false]);
  },
  TIMEOUT_MS,
);

test(
  'a killed child comes back on its same directory, ports and name',
  async () => {
    const world = await standIns();
    const runner = world.run();
    const before = await world.ready(runner, 'run.json');
    const [victim] = before.transports;
    if (victim?.pid == null) throw new Error('no transport');
    const mail = join(victim.queueDatabaseDirectory, 'segment-1');
    await writeFile(mail, 'the only copy');
    process.kill(victim.pid, 'SIGKILL');
    const after = await world.ready(runner, 'a new pid', (run) => {
      const pid = run.transports[0]?.pid ?? null;
      return pid !== null && pid !== victim.pid;
    });
    expect({ ...after.transports[0], pid: null }).toEqual({ ...victim, pid: null });
    expect(after.transports[1]).toEqual(before.transports[1]);
    expect(after.generation).toBe(1);
    expect(await readFile(mail, 'utf8')).toBe('the only copy');
    expect(runner.output()).toContain(`transport ${victim.name} died: killed by SIGKILL; starting it again in 0.2 s`);
  },
  TIMEOUT_MS,
);

test(
  'children end with a runner that is killed, and the next runner finds everything as it was',
  async () => {
    const world = await standIns();
    const first = world.run();
    const before = await world.ready(first, 'run.json');
    const pids = [...before.transports, ...before.frontends, ...before.stores].map(({ pid }) => pid);
    first.process.kill('SIGKILL');
    await stopped(first, pids);

    const second = world.run();
    const after = await world.ready(second, 'run.json of the second runner');
    const stable = (run: typeof before): unknown => ({
      listeners: run.listeners,
      generation: run.generation,
      urls: run.transports.map(({ name, adminUrl, metricsUrl }) => ({ name, adminUrl, metricsUrl })),
    });
    expect(stable(after)).toEqual(stable(before));
  },
  TIMEOUT_MS,
);

test(
  'a second runner on the same directory is refused and disturbs nothing',
  async () => {
    const world = await standIns();
    const first = world.run();
    await world.ready(first, 'run.json');
    const before = await readFile(join(world.state, 'run.json'), 'utf8');
    const second = world.run();
    expect(await second.exited).toBe(2);
    expect(second.output()).toContain('is in use by another "mailcluster run"');
    expect(await readFile(join(world.state, 'run.json'), 'utf8')).toBe(before);
  },
  TIMEOUT_MS,
);

test(
  'SIGHUP applies policies and added members; a removal or a mistake changes nothing',
  async () => {
    const world = await standIns();
    const runner = world.run();
    const before = await world.ready(runner, 'run.json');
    await writeFile(world.file, resources({ holdTime: '24h', seattle: 2 }));
    runner.process.kill('SIGHUP');
    const grown = await world.ready(
      runner,
      'three transports',
      (run) => run.generation === 2 && run.transports.length === 3 && run.transports.every(({ pid }) => pid !== null),
    );
    expect(grown.transports.filter((one) => before.transports.some((old) => old.pid === one.pid))).toHaveLength(2);
    const topology = await readJson<TopologyDocument>(grown.topologyFile);
    expect(topology.policies.safetyNet.holdTimeMs).toBe(86_400_000);
    await until(
      'the others were told',
      async () => (await world.events()).filter((line) => line.endsWith('reload 2')).length === 4,
      { deadlineMs: 5_000 },
    );

    await writeFile(world.file, resources({ holdTime: '12h', seattle: 1 }));
    runner.process.kill('SIGHUP');
    await world.said(runner, /nothing changed\nrefused: member contoso-dag1-seattle-[0-9a-f]{6}-1 .*would be removed/);
    await writeFile(world.file, resources({ holdTime: 'never' }));
    runner.process.kill('SIGHUP');
    await world.said(runner, /spec\.safetyNet\.holdTime/);
    expect(await world.runFile()).toEqual(grown);
    expect(await readJson<TopologyDocument>(grown.topologyFile)).toEqual(topology);

    runner.process.kill('SIGTERM');
    expect(await runner.exited).toBe(0);
    await writeFile(world.file, resources());
    const again = world.run();
    expect(await again.exited).toBe(2);
    expect(again.output()).toContain('would be removed');
  },
  TIMEOUT_MS,
);

test(
  '--watch reads a replaced file without a signal',
  async () => {
    const world = await standIns();
    const runner = world.run('--watch');
    await world.ready(runner, 'run.json');
    await world.said(runner, 'is ready:');
    await writeFile(world.file, resources({ holdTime: '24h' }));
    await world.ready(runner, 'generation 2', (run) => run.generation === 2);
  },
  TIMEOUT_MS,
);

test(
  'a peer port taken meanwhile is replaced and a new topology goes to everybody',
  async () => {
    const world = await standIns();
    const runner = world.run();
    const before = await world.ready(runner, 'run.json');
    const [victim] = before.transports;
    if (victim?.pid == null) throw new Error('no transport');
    const config = await readJson<TransportConfig>(join(world.state, 'config', `${victim.name}.json`));
    process.kill(victim.pid, 'SIGKILL');
    await until('the port of the dead child is ours', () => listenOn(config.listen.port), {
      deadlineMs: 5_000,
      everyMs: 1,
    });
    const after = await world.ready(
      runner,
      'generation 2',
      (run) => run.generation === 2 && run.transports[0]?.pid != null,
    );
    const topology = await readJson<TopologyDocument>(after.topologyFile);
    expect(topology.members.find(({ name }) => name === victim.name)?.address.port).not.toBe(config.listen.port);
    await until('the others were told', async () => (await world.events()).some((line) => line.endsWith('reload 2')), {
      deadlineMs: 5_000,
    });
  },
  TIMEOUT_MS,
);

test(
  '--listen binds a listener of each front end in turn; a taken port is an error before anything starts',
  async () => {
    const world = await standIns();
    const taken = (await listenOn(0)).address();
    if (taken === null || typeof taken === 'string') throw new Error('no port');
    const refused = world.run('--listen', `smtp=127.0.0.1:${taken.port}`);
    expect(await refused.exited).toBe(2);
    expect(refused.output()).toContain(`listener smtp: 127.0.0.1:${taken.port} is in use by another program`);
    await expect(stat(join(world.state, 'events'))).rejects.toThrow('ENOENT');
    await new Promise((resolve) => servers.splice(0)[0]?.close(resolve));

    const runner = world.run('--listen', `smtp=127.0.0.1:${taken.port}`);
    const run = await world.ready(runner, 'run.json');
    const smtp = run.listeners.filter(({ name }) => name === 'smtp').map(({ port }) => port);
    expect(smtp[0]).toBe(taken.port);
    expect(smtp[1]).not.toBe(taken.port);
  },
  TIMEOUT_MS,
);

test(
  'bad input: exit code 2, what is wrong and what to do, nothing started',
  async () => {
    const world = await standIns();
    const cases: readonly (readonly [text: string | null, args: readonly string[], said: RegExp])[] = [
      [null, ['--listen', 'pop3=127.0.0.1:1110'], /there is no such listener; there are smtp, submission/],
      [null, ['--listen', 'smtp'], /expected NAME=HOST:PORT/],
      [null, ['-f', '/nowhere.yaml'], /nowhere\.yaml.*\n.*no such file/],
      [
        resources().replace('holdTime: 48h', 'holdTime: soon'),
        [],
        /cluster\.yaml:\d+: MailCluster\/contoso {2}spec\.safetyNet\.holdTime\n {2}wrong: .*\n {2}right: /,
      ],
      [
        resources().replace(/---\napiVersion: v1\nkind: Secret[\s\S]*/, ''),
        [],
        /Secret.*relay-users|relay-users.*Secret/,
      ],
      [
        resources().replace('printer:a secret', 'no colon'),
        [],
        /Secret relay-users, users, line 1: expected user:password/,
      ],
      [resources() + resources().replaceAll('contoso', 'fabrikam'), [], /several MailClusters|defined twice/],
    ];
    for (const [text, args, said] of cases) {
      await writeFile(world.file, text ?? resources());
      const runner = world.run(...args);
      expect([await runner.exited, runner.output()]).toEqual([2, expect.stringMatching(said)]);
      await expect(stat(join(world.state, 'events'))).rejects.toThrow('ENOENT');
    }
  },
  TIMEOUT_MS,
);

test(
  'a state directory that cannot be used is named',
  async () => {
    const world = await standIns();
    await writeFile(world.state, 'a file in the way');
    const runner = world.run();
    expect(await runner.exited).toBe(2);
    expect(runner.output()).toMatch(
      /the state directory .*state cannot be used: (EEXIST|ENOTDIR); give --state a directory/,
    );
  },
  TIMEOUT_MS,
);

test(
  'a child that does not come up ends the start with its reason, and nothing is left',
  async () => {
    const world = await standIns();
    await mkdir(world.state);
    const first = world.run();
    const run = await world.ready(first, 'run.json');
    first.process.kill('SIGTERM');
    await first.exited;
    await world.behave(run.frontends[0]?.name ?? '', 'fatal');
    const second = world.run();
    expect(await second.exited).toBe(1);
    expect(second.output()).toContain(
      `frontend ${run.frontends[0]?.name} does not come up: exited with code 70: told to fail (look at the test)`,
    );
    const pids = (await world.events()).flatMap((line) => / started (\d+)$/.exec(line)?.[1] ?? []).map(Number);
    expect(pids.length).toBeGreaterThan(4);
    await stopped(second, pids);
  },
  TIMEOUT_MS,
);
