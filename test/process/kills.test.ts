/**
 * SIGKILL for every program of the system under load, at many moments of a message's life, and the ledger at the end: nothing answered
 * 250 is missing, nothing is there twice, nothing is there that was refused, every byte is as sent. MAILCLUSTER_KILLS=n for more kills.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SmtpConnection } from '../../examples/demo/smtp-connection.ts';
import { until } from '../house/until.ts';
import { type Cluster, inspected, signal, startCluster, twoSites } from './harness.ts';
import { balance, type LedgerEntry, makeMessage, type TestMessage, verdict } from './ledger.ts';
import { type Moments, sendAll, sendMessage } from './smtp-sender.ts';

const KILLS = Number(process.env.MAILCLUSTER_KILLS ?? 25);
const SESSIONS = 4;
const DRAIN_MS = 120_000;

/** `everything`: all transports, front ends, stores and the runner in one go, as a power cut would. */
type Victim = 'frontend' | 'primary' | 'shadow' | 'store' | 'runner' | 'both copies' | 'everything';
/**
 * Of one message that is watched: while its body arrives; after its end was sent, some turns of the event loop later; once it was
 * answered 250 (its delivery goes on then). `load`: no message in particular.
 */
type Moment = 'body' | 'end' | 'accepted' | 'load';
interface KillPoint {
  readonly victim: Victim;
  readonly moment: Moment;
  readonly turns: number;
}

const VICTIMS: readonly Victim[] = ['primary', 'frontend', 'shadow', 'store', 'runner'];
const MOMENTS: readonly Moment[] = ['end', 'body', 'accepted', 'load'];
const EXTREMES: readonly (readonly [Victim, Moment])[] = [
  ['both copies', 'end'],
  ['everything', 'end'],
  ['both copies', 'body'],
  ['everything', 'accepted'],
  ['both copies', 'accepted'],
];
/** From before the transport has read the end to after the answer, on a fast and on a slow machine. */
const TURNS: readonly number[] = [0, 3, 10, 30, 60, 100, 200, 400];

/** The first 20 are every victim at every moment, then the extremes; more begin again with other delays. */
function* killPoints(count: number): Generator<KillPoint> {
  const usual = MOMENTS.flatMap((moment, row) =>
    VICTIMS.map((_, column) => [VICTIMS[(row + column) % VICTIMS.length] ?? 'primary', moment] as const),
  );
  const round = [...usual, ...EXTREMES];
  for (let at = 0; at < count; at += 1) {
    const [victim, moment] = round[at % round.length] ?? ['runner', 'load'];
    yield { victim, moment, turns: TURNS[(at + Math.floor(at / round.length)) % TURNS.length] ?? 0 };
  }
}

let cluster: Cluster;
let names: {
  readonly east: string;
  readonly west: readonly string[];
  readonly eastFrontend: string;
  readonly westFrontend: string;
};

beforeAll(async () => {
  // One transport in the east: a message that enters there has it as primary, one that enters in the west as shadow.
  cluster = await startCluster((directory) => twoSites(directory, { perSite: [1, 2] }));
  const { transports, frontends } = await cluster.runFile();
  const [east = ''] = transports.filter(({ site }) => site === 'east').map(({ name }) => name);
  const west = transports.filter(({ site }) => site === 'west').map(({ name }) => name);
  const at = (site: string): string => frontends.find((one) => one.site === site)?.name ?? '';
  names = { east, west, eastFrontend: at('east'), westFrontend: at('west') };
}, 120_000);

afterAll(async () => await cluster?.[Symbol.asyncDispose](), 120_000);

/** Many small messages, some large ones, from many senders to many boxes; never the same twice. */
class Mail {
  sent = 0;
  stopped = false;

  make(sizeBytes: number): TestMessage {
    this.sent += 1;
    return makeMessage(`m${this.sent}`, `user${this.sent % 17}@example.com`, sizeBytes);
  }

  *load(): Generator<TestMessage> {
    const sizes = [1_000, 4_000, 2_000, 75_000, 1_500, 8_000, 30_000, 2_500, 300_000, 4_000];
    while (!this.stopped) yield this.make(sizes[this.sent % sizes.length] ?? 1_000);
  }
}

async function pidsOf(victim: Victim, frontend: string): Promise<readonly number[]> {
  const { transports, stores, frontends, pid } = await cluster.runFile();
  const named = (wanted: readonly string[]): readonly number[] =>
    [...transports, ...frontends].flatMap((one) => (wanted.includes(one.name) && one.pid !== null ? [one.pid] : []));
  switch (victim) {
    case 'frontend':
      return named([frontend]);
    case 'primary':
    case 'shadow':
      return named([names.east]);
    case 'both copies':
      return named([names.east, ...names.west]);
    case 'store':
      return stores.flatMap((one) => one.pid ?? []);
    case 'runner':
      return [pid];
    case 'everything':
      return [pid, ...[...transports, ...frontends, ...stores].flatMap((one) => one.pid ?? [])];
  }
}

async function listening(frontend: string): Promise<SmtpConnection> {
  return await until(
    `a connection to ${frontend}`,
    async () => {
      const { listeners } = await cluster.runFile();
      const target = listeners.find((one) => one.frontend === frontend);
      return target === undefined ? null : await SmtpConnection.open(target);
    },
    { deadlineMs: 60_000, everyMs: 100 },
  );
}

/** Everything runs again, by pid in run.json; a runner that was killed is started again on the same directory. */
async function recovered(victim: Victim, killed: readonly number[]): Promise<void> {
  if (victim === 'runner' || victim === 'everything') {
    await cluster.killRunner();
    await cluster.start();
  }
  await until(
    `everything to run again after the death of ${victim}`,
    async () => {
      const { transports, frontends, stores } = await cluster.runFile();
      return [...transports, ...frontends, ...stores].every(({ pid }) => pid !== null && !killed.includes(pid));
    },
    { deadlineMs: 60_000, everyMs: 50 },
  );
}

async function afterTurns(turns: number): Promise<void> {
  for (let turn = 0; turn < turns; turn += 1) await nextTurn();
}

async function killAt({ victim, moment, turns }: KillPoint, mail: Mail): Promise<LedgerEntry | null> {
  const frontend = victim === 'shadow' ? names.westFrontend : names.eastFrontend;
  const connection = moment === 'load' ? null : await listening(frontend);
  const pids = await pidsOf(victim, frontend);
  if (pids.length === 0) throw new Error(`nobody to kill: ${victim}`);
  const kill = (): void => {
    for (const pid of pids) signal(pid, 'SIGKILL');
  };
  let entry: LedgerEntry | null = null;
  if (connection === null) kill();
  else {
    let killing: Promise<void> = Promise.resolve();
    const killLater = (): void => {
      killing = afterTurns(turns).then(kill);
    };
    const moments: Readonly<Record<Moment, Moments>> = {
      body: { afterBytes: 400_000, until: async () => kill() },
      end: { endSent: killLater },
      accepted: {},
      load: {},
    };
    entry = await sendMessage(connection, mail.make(moment === 'body' ? 700_000 : 20_000), moments[moment]);
    await killing;
    if (moment === 'accepted') kill();
    connection.close();
  }
  await recovered(victim, pids);
  return entry;
}

const identities = async (): Promise<Readonly<Record<string, string>>> => {
  const { transports } = await cluster.runFile();
  const all = transports.map(
    async (one) => [one.name, (await inspected(one.queueDatabaseDirectory)).identity] as const,
  );
  return Object.fromEntries(await Promise.all(all));
};

/** More kills, more time. */
const DEADLINE_MS = 180_000 + DRAIN_MS + KILLS * 10_000;

test(
  `${KILLS} kills under load: nothing lost, nothing twice, nothing changed`,
  async () => {
    const startMs = performance.now();
    const before = await identities();
    const mail = new Mail();
    const ledger: LedgerEntry[] = [];
    const watched: string[] = [];
    const load = sendAll({
      targets: () => cluster.targets(),
      messages: mail.load(),
      sessions: SESSIONS,
      patienceMs: 90_000,
      afterRefusal: () => cluster.somewhereToGo(10_000),
      onEntry: (entry) => ledger.push(entry),
    });
    try {
      for (const point of killPoints(KILLS)) {
        const goal = ledger.length + 5;
        await until('messages to flow', () => ledger.length >= goal, { deadlineMs: 60_000 });
        const entry = await killAt(point, mail);
        if (entry !== null) ledger.push(entry);
        const answer =
          entry === null ? '-' : entry.answer.kind === 'none' ? `none: ${entry.answer.reason}` : entry.answer.text;
        watched.push(`${point.victim} at ${point.moment}: ${answer}`);
      }
      const goal = ledger.length + 20;
      await until('messages to flow after the last kill', () => ledger.length >= goal, { deadlineMs: 60_000 });
    } catch (error) {
      throw new Error(`${String(error)}\n${watched.join('\n')}\n--- the runner said:\n${cluster.output}`);
    } finally {
      mail.stopped = true;
      await load;
    }
    const killsMs = performance.now() - startMs;
    const stored = await cluster.drained(DRAIN_MS, ledger);
    const result = balance(ledger, await cluster.delivered(), stored);
    const { accepted, refused, unanswered, delivered, lost, duplicated, unexpected, damaged } = result;
    console.log(
      `kills: ${KILLS} in ${(killsMs / 1000).toFixed(0)} s, drained in ${((performance.now() - startMs - killsMs) / 1000).toFixed(0)} s; ` +
        `sent ${ledger.length}, answered 250 ${accepted}, refused ${refused}, unanswered ${unanswered}, delivered ${delivered}; ` +
        `lost ${lost.length}, duplicates ${duplicated.length}, unexpected ${unexpected.length}, damaged ${damaged.length}`,
    );
    expect([verdict(result), result.both], watched.join('\n')).toEqual(['balanced', []]);
    // The test must not pass because nothing got through.
    expect(accepted, watched.join('\n')).toBeGreaterThan((ledger.length * 2) / 3);
    expect(delivered).toBeGreaterThanOrEqual(accepted);
    expect(await identities()).toEqual(before);
  },
  DEADLINE_MS,
);

test(
  'a killed runner takes its children along; the next one finds databases and mail as they were',
  async () => {
    const before = await identities();
    const opened = async (): Promise<readonly number[]> => {
      const { transports } = await cluster.runFile();
      const chains = transports.map(async (one) => (await inspected(one.queueDatabaseDirectory)).chain);
      return (await Promise.all(chains)).map((chain) => chain.at(-1)?.openCounter ?? 0);
    };
    const counters = await opened();
    const earlier = (await cluster.delivered()).length;
    // The store is stopped: what is accepted now is still on its way when the runner dies.
    const [store] = (await cluster.runFile()).stores;
    if (store?.pid == null) throw new Error('no store');
    process.kill(store.pid, 'SIGSTOP');
    const messages = Array.from({ length: 12 }, (_, at) =>
      makeMessage(`last${at}`, 'last@example.com', 3_000 + at * 9_000),
    );
    const ledger = await sendAll({ targets: () => cluster.targets(), messages, sessions: 3 });
    expect(ledger.map(({ answer }) => answer.kind)).toEqual(messages.map(() => 'accepted'));
    process.kill(cluster.runnerPid, 'SIGKILL');
    process.kill(store.pid, 'SIGCONT');
    expect(await cluster.killRunner()).toBe(6);
    await cluster.start();
    await cluster.drained(DRAIN_MS, ledger);
    const mine = (await cluster.delivered()).filter(({ mailbox }) => mailbox === 'last@example.com');
    expect(verdict(balance(ledger, mine, []))).toBe('balanced');
    expect((await cluster.delivered()).length).toBe(earlier + messages.length);
    expect(await identities()).toEqual(before);
    expect(await opened()).toEqual(counters.map((counter) => counter + 1));
  },
  DRAIN_MS + 120_000,
);
