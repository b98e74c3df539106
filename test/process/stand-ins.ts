/**
 * A runner with small stand-in programs instead of transports, front ends and stores, for the tests of the runner itself: they speak the
 * protocol of children (ready, fatal, reload, exit with the channel), bind their ports and do as the file `behave-NAME` in the state
 * directory says. Owns: a temporary directory and the runners started in it; `close` ends them, and every child they left.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseRunFile, type RunFile } from '../../operator/local/run-file.ts';
import { until } from '../house/until.ts';

const CHILD = `
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import { createServer as createHttps } from 'node:https';
import { dirname, join } from 'node:path';
const [configFile] = process.argv.slice(2);
const config = JSON.parse(readFileSync(configFile, 'utf8'));
const state = dirname(config.topologyFile);
const note = (text) => appendFileSync(join(state, 'events'), config.name + ' ' + text + '\\n');
const behaviour = existsSync(join(state, 'behave-' + config.name)) ? readFileSync(join(state, 'behave-' + config.name), 'utf8') : '';
const fatal = (reason) => process.send({ kind: 'fatal', reason, remedy: 'look at the test' }, () => process.exit(70));
process.on('disconnect', () => { if (behaviour !== 'orphan') process.exit(1); });
process.on('message', (message) => note(message.kind + ' ' + JSON.parse(readFileSync(config.topologyFile, 'utf8')).generation));
process.on('SIGTERM', () => { note('SIGTERM'); process.exit(0); });
const listen = ({ host, port }) => new Promise((resolve) => {
  const server = createServer((socket) => socket.on('error', () => socket.destroy()));
  server.on('error', (error) => fatal(error.code));
  server.listen(port, host, () => resolve(server.address().port));
});
/** A queue database: an identity that stays with its directory. */
const identityOf = (directory) => {
  mkdirSync(directory, { recursive: true });
  const file = join(directory, 'identity');
  if (!existsSync(file)) {
    const identity = [...randomBytes(26)].map((byte) => '0123456789ABCDEFGHJKMNPQRSTVWXYZ'[byte % 32]).join('');
    writeFileSync(file, 'mailcluster queue database\\n' + JSON.stringify({ version: 1, identity }) + '\\n');
  }
  return /"identity":"(\\w+)"/.exec(readFileSync(file, 'utf8'))[1];
};
/** Answers with what the test wrote into answer-NAME.json (by path), and with the generation of the document it can read. */
const answer = (path, identity) => {
  const file = join(state, 'answer-' + config.name + '.json');
  const told = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  const { generation } = JSON.parse(readFileSync(config.topologyFile, 'utf8'));
  const usual = { name: config.name, identity, generation, queues: {}, peers: [], unprotected: 0, drain: { state: 'none' }, safetyNet: {} };
  return path === '/v1/status' ? { ...usual, ...told[path] } : told[path];
};
const admin = ({ host, port }, identity) => new Promise((resolve) => {
  const [ca, cert, key] = [config.tls.caFile, config.tls.certificateFile, config.tls.keyFile].map((file) => readFileSync(file));
  const server = createHttps({ ca, cert, key, requestCert: true, minVersion: 'TLSv1.3' }, (request, response) => {
    const body = answer(request.url.split('?')[0], identity);
    response.writeHead(body === undefined ? 404 : 200);
    response.end(JSON.stringify(body ?? {}));
  });
  server.on('error', (error) => fatal(error.code));
  server.listen(port, host, () => resolve(server.address().port));
});
if (behaviour === 'fatal') fatal('told to fail');
else {
  note('started ' + process.pid);
  console.log('a line of ' + config.name);
  if (config.listeners) {
    const listeners = [];
    for (const one of config.listeners) listeners.push({ name: one.name, port: await listen(one) });
    process.send({ kind: 'ready', listeners, metricsPort: await listen(config.metrics) });
  } else {
    const identity = identityOf(config.queueDatabaseDirectory);
    const [peerPort, adminPort, metricsPort] = [await listen(config.listen), await admin(config.admin, identity), await listen(config.metrics)];
    process.send({ kind: 'ready', peerPort, adminPort, metricsPort, identity });
  }
}
`;

const STORE = `
import { createServer } from 'node:net';
const value = (name) => process.argv[process.argv.indexOf(name) + 1];
const [host, port] = value('--listen').split(':');
process.on('disconnect', () => process.exit(1));
createServer().listen(Number(port), host, () => console.log(JSON.stringify({ ready: true, port: Number(port) })));
`;

/** What the tests run: two sites, one DAG of `replicas` in each, `frontends` front ends, one embedded store. */
export function resources(
  options: { readonly seattle?: number; readonly portland?: number; readonly holdTime?: string } = {},
): string {
  return `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: contoso, namespace: mail }
spec:
  sites: [{ name: seattle }, { name: portland }]
  siteLinks: [{ name: sea-pdx, sites: [seattle, portland], cost: 10 }]
  dags:
    - name: dag1
      members:
        - { site: seattle, replicas: ${options.seattle ?? 1} }
        - { site: portland, replicas: ${options.portland ?? 1} }
  frontend:
    replicas: 2
    listeners:
      - { name: smtp, port: 25, tls: StartTls, relayFrom: [127.0.0.0/8] }
      - { name: submission, port: 587, tls: StartTlsRequired, auth: { secretRef: { name: relay-users } } }
  safetyNet: { holdTime: ${options.holdTime ?? '48h'}, unresponsivePrimaryTimeout: 5m }
  acceptedDomains: [{ name: contoso.com }]
  redis: { mode: Managed }
---
apiVersion: mailcluster.dev/v1alpha1
kind: MailboxDatabase
metadata: { name: db01, namespace: mail }
spec:
  clusterRef: { name: contoso }
  dag: dag1
  recipients: { domains: [contoso.com] }
  copies: [{ name: sea, site: seattle, lmtp: "maildir:mail/db01" }]
  activeCopy: sea
---
apiVersion: v1
kind: Secret
metadata: { name: relay-users, namespace: mail }
stringData:
  users: "printer:a secret nobody may read"
`;
}

export interface RunnerProcess {
  readonly process: ChildProcess;
  output(): string;
  /** Resolves with the exit code; null when it was killed. */
  readonly exited: Promise<number | null>;
}

/** True while the process exists and is no zombie. */
export function alive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || (error as NodeJS.ErrnoException).code === 'ESRCH')
      return false;
    throw error;
  }
}

export class StandIns {
  readonly directory: string;
  readonly state: string;
  readonly file: string;
  readonly #runners: RunnerProcess[] = [];

  private constructor(directory: string) {
    this.directory = directory;
    this.state = join(directory, 'state');
    this.file = join(directory, 'cluster.yaml');
  }

  static async open(text = resources()): Promise<StandIns> {
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-runner-'));
    const made = new StandIns(directory);
    const command = new URL('../../operator/cli/run.ts', import.meta.url).href;
    const place = new URL('../../operator/cli/local-place.ts', import.meta.url).href;
    await writeFile(made.file, text);
    await writeFile(join(directory, 'child.mjs'), CHILD);
    await writeFile(join(directory, 'store.mjs'), STORE);
    await writeFile(
      join(directory, 'run.mjs'),
      `import { runCommandWith } from ${JSON.stringify(command)};
import { LOCAL_PLACE } from ${JSON.stringify(place)};
const child = ${JSON.stringify(join(directory, 'child.mjs'))};
const command = runCommandWith({ transport: child, frontend: child, store: ${JSON.stringify(join(directory, 'store.mjs'))} });
const write = (stream) => (text) => stream.write(text);
process.exitCode = await command.run(process.argv.slice(2), {
  output: { out: write(process.stdout), err: write(process.stderr) }, environment: process.env, nowMs: () => Date.now(),
  place: LOCAL_PLACE, atEnd: () => undefined,
}).catch((error) => { console.error(error.message); return 2; });
`,
    );
    return made;
  }

  run(...more: readonly string[]): RunnerProcess {
    const args = [join(this.directory, 'run.mjs'), '-f', this.file, '--state', this.state, ...more];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const collect = (chunk: Buffer): void => {
      output += chunk.toString('utf8');
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    const exited = new Promise<number | null>((resolve) => child.once('close', (code) => resolve(code)));
    const runner = { process: child, output: () => output, exited };
    this.#runners.push(runner);
    return runner;
  }

  async runFile(): Promise<RunFile | null> {
    const run = parseRunFile(JSON.parse(await readFile(join(this.state, 'run.json'), 'utf8')));
    if (typeof run === 'string') throw new Error(run);
    return run;
  }

  /** Waits for a run.json that satisfies. Fails at once when the runner ended. */
  async ready(
    runner: RunnerProcess,
    what: string,
    satisfies: (run: RunFile) => boolean = () => true,
  ): Promise<RunFile> {
    return await this.#waitFor(runner, what, async () => {
      const run = await this.runFile();
      return run !== null && run.pid === runner.process.pid && satisfies(run) ? run : null;
    });
  }

  async #waitFor<T>(runner: RunnerProcess, what: string, look: () => Promise<T | null>): Promise<T> {
    const ended = 'the runner ended';
    try {
      const found = await until<T | typeof ended>(
        what,
        async () => (runner.process.exitCode === null ? await look() : ended),
        {
          deadlineMs: 20_000,
        },
      );
      if (found === ended) throw new Error(`${ended} while waiting for: ${what}`);
      return found;
    } catch (error) {
      throw new Error(
        `${error instanceof Error ? error.message : String(error)}\n--- output of the runner:\n${runner.output()}`,
      );
    }
  }

  async said(runner: RunnerProcess, what: string | RegExp): Promise<string> {
    return await this.#waitFor(runner, `the runner says ${what}`, async () => {
      const output = runner.output();
      return (typeof what === 'string' ? output.includes(what) : what.test(output)) ? output : null;
    });
  }

  async events(): Promise<readonly string[]> {
    return (await readFile(join(this.state, 'events'), 'utf8')).trim().split('\n');
  }

  async behave(name: string, how: string): Promise<void> {
    await mkdir(this.state, { recursive: true });
    await writeFile(join(this.state, `behave-${name}`), how);
  }

  /** What a transport says under a path of its admin API from now on. */
  async answers(name: string, told: Readonly<Record<string, unknown>>): Promise<void> {
    const file = join(this.state, `answer-${name}.json`);
    await writeFile(`${file}.new`, JSON.stringify(told));
    await rename(`${file}.new`, file);
  }

  async close(): Promise<void> {
    for (const { process: child, exited } of this.#runners) {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
      await exited;
    }
    // Children a failed test left behind: they wrote their pid down.
    const events = (await readdir(this.directory)).includes('state') ? await this.events().catch(() => []) : [];
    for (const pid of events.flatMap((line) => / started (\d+)$/.exec(line)?.[1] ?? [])) {
      if (alive(Number(pid))) process.kill(Number(pid), 'SIGKILL');
    }
    await rm(this.directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}
