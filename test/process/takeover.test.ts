/**
 * SIGKILL and an emptied queue directory, for any transport, under load, again and again (semantics.md S5, S8, section 10): as soon as
 * everything is on two databases again the next one goes. At the end the ledger balances. MAILCLUSTER_ROUNDS=n for more rounds
 * (`make soak-process`), MAILCLUSTER_SEED=n to repeat one.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { signal } from './cluster-view.ts';
import { type DirectCluster, startDirect } from './direct-cluster.ts';
import { twoSites } from './harness.ts';
import type { Delivered, LedgerEntry } from './ledger.ts';
import { Choices, Load, seedOf } from './seeded-load.ts';
import { acceptedDigests, judgedAtRest, twoCopiesAgain } from './two-copies.ts';

const ROUNDS = Number(process.env.MAILCLUSTER_ROUNDS ?? 4);
const SEED = seedOf(process.env);
/** Rounds of one cluster: what rests in its Safety Nets grows, and every round reads it. */
const BATCH = 10;
const BATCHES = Array.from({ length: Math.ceil(ROUNDS / BATCH) }, (_, at) => ({
  seed: SEED + at,
  rounds: Math.min(BATCH, ROUNDS - at * BATCH),
}));
/** semantics.md L3 to L5: takeover and re-protection within a minute. */
const PROTECTED_MS = 60_000;
/** Of the resources below: silence alone counts after that. */
const SPAN_MS = 12_000;
const DRAIN_MS = 120_000;

let cluster: DirectCluster;

beforeEach(async () => {
  const span = `resubmitTimeSpan: ${SPAN_MS / 1_000}s`;
  cluster = await startDirect((directory) => twoSites(directory, { perSite: [2, 1], shadowRedundancy: span }));
}, 120_000);

afterEach(async () => await cluster?.[Symbol.asyncDispose](), 120_000);

interface Round {
  readonly victim: string;
  /** `replaced`: back at once with an empty volume. `away`: not back before the others have taken over because of its silence. */
  readonly how: 'replaced' | 'away';
  /** The store stands still: what is accepted stays in transit until the victim is dead. */
  readonly queued: boolean;
  readonly messages: number;
  readonly turns: number;
}

/** Every fourth one stays away: it takes longest. */
function choose(choices: Choices, at: number): Round {
  const how = at % 4 === 3 ? 'away' : 'replaced';
  return {
    victim: choices.of(cluster.transports).name,
    how,
    queued: how === 'away' || choices.below(2) === 0,
    messages: 10 + choices.below(60),
    turns: choices.below(300),
  };
}

const describe = ({ victim, how, queued, messages, turns }: Round): string =>
  `${victim} ${how}, ${queued ? 'queued' : 'flowing'}, after ${messages} messages and ${turns} turns`;

async function storePid(): Promise<number> {
  const [store] = (await cluster.runFile()).stores;
  if (store?.pid == null) throw new Error('no store');
  return store.pid;
}

/** Everybody left knows that this queue database will not come back, and has taken over what it held. */
async function takenOver(identity: string, others: readonly string[]): Promise<void> {
  await until(
    `the takeover from ${identity}`,
    async () => {
      const statuses = await cluster.statuses();
      return others.every((name) =>
        statuses.some((one) => one.name === name && one.lost.some((lost) => lost.identity === identity)),
      );
    },
    { deadlineMs: PROTECTED_MS, everyMs: 100 },
  );
}

async function shadowedFor(identity: string): Promise<number> {
  return (await cluster.stored()).filter((copy) => copy.where === 'transit' && copy.owner === identity).length;
}

async function noneShadowedFor(identity: string): Promise<void> {
  await until(`no copy in transit to belong to ${identity}`, async () => (await shadowedFor(identity)) === 0, {
    deadlineMs: SPAN_MS + PROTECTED_MS,
    everyMs: 250,
  });
}

async function lose(
  round: Round,
  ledger: readonly LedgerEntry[],
): Promise<{ readonly said: string; readonly held: number }> {
  const { victim, how, queued, turns } = round;
  const store = await storePid();
  const others = cluster.transports.map(({ name }) => name).filter((name) => name !== victim);
  const identity = (await cluster.statuses()).find(({ name }) => name === victim)?.identity ?? '';
  for (let turn = 0; turn < turns; turn += 1) await nextTurn();
  await cluster.kill(victim);
  await cluster.destroyVolume(victim);
  const startMs = performance.now();
  const promised = acceptedDigests(ledger);
  const held = await shadowedFor(identity);
  if (queued) signal(store, 'SIGCONT');
  if (how === 'away') await noneShadowedFor(identity);
  const awayMs = performance.now() - startMs;
  // Its silence alone: not before the whole span (semantics.md S5), counted from the last heartbeat.
  if (how === 'away' && held > 0) expect(awayMs).toBeGreaterThan(SPAN_MS - 3_000);
  await cluster.launch(victim);
  await takenOver(identity, others);
  const takenMs = performance.now() - startMs;
  await twoCopiesAgain(cluster, [...others, victim], promised, PROTECTED_MS);
  const seconds = (ms: number): string => (ms / 1_000).toFixed(1);
  const all = performance.now() - startMs;
  const said = `${describe(round)}: ${held} to take over; away ${seconds(awayMs)} s, taken over ${seconds(takenMs)} s, two copies ${seconds(all)} s`;
  return { said, held };
}

test.each(BATCHES)(
  '$rounds times a transport and its disk destroyed under load: nothing lost, nothing twice',
  async ({ seed, rounds }) => {
    const choices = new Choices(seed);
    const load = new Load(cluster);
    const said: string[] = [`seed ${seed}`];
    let held = 0;
    try {
      for (let at = 0; at < rounds; at += 1) {
        const round = choose(choices, at);
        said.push(describe(round));
        await load.moreAccepted(10);
        if (round.queued) signal(await storePid(), 'SIGSTOP');
        await load.more(round.messages);
        const lost = await lose(round, load.ledger);
        said[said.length - 1] = lost.said;
        held += lost.held;
      }
      await load.moreAccepted(20);
    } catch (error) {
      throw new Error(`${String(error)}\n${said.join('\n')}\n${await cluster.lastWords()}`, { cause: error });
    } finally {
      signal(await storePid(), 'SIGCONT');
      await load.stop();
    }
    const { ledger } = load;
    const read = (): Promise<readonly Delivered[]> => cluster.delivered();
    const title = `takeover, ${rounds} rounds`;
    const { line, result, problems } = await judgedAtRest(cluster, title, ledger, { read, deadlineMs: DRAIN_MS });
    console.log(`${said.join('\n')}\n${line}`);
    expect(problems, [...said, ...problems].join('\n')).toEqual([]);
    // The test must not pass because nothing got through, nor because nothing was lost.
    expect(result.accepted, said.join('\n')).toBeGreaterThan(ledger.length / 2);
    if (rounds >= 4) expect(held, said.join('\n')).toBeGreaterThan(0);
  },
  240_000 + BATCH * (SPAN_MS + 2 * PROTECTED_MS),
);
