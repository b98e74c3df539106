/** What the tests of losses share: choices from a printed seed, and mail that keeps flowing while something happens to the cluster. */
import { randomInt } from 'node:crypto';
import { until } from '../house/until.ts';
import { SeededRandom } from '../sim/scheduler.ts';
import type { ClusterView } from './cluster-view.ts';
import { type LedgerEntry, makeMessage, type TestMessage } from './ledger.ts';
import { sendAll } from './smtp-sender.ts';

/** MAILCLUSTER_SEED=n repeats the choices of an earlier run. */
export const seedOf = (environment: NodeJS.ProcessEnv): number =>
  environment.MAILCLUSTER_SEED === undefined ? randomInt(2 ** 31) : Number(environment.MAILCLUSTER_SEED);

export class Choices {
  readonly #random: SeededRandom;

  constructor(seed: number) {
    this.#random = new SeededRandom(seed);
  }

  /** From 0 to `count` - 1. */
  below(count: number): number {
    return this.#random.bytes(4).readUInt32BE(0) % count;
  }

  of<T>(values: readonly T[]): T {
    const chosen = values[this.below(values.length)];
    if (chosen === undefined) throw new Error('nothing to choose from');
    return chosen;
  }
}

const SIZES = [1_000, 4_000, 2_000, 40_000, 1_500, 8_000, 20_000, 2_500, 150_000, 4_000] as const;

/** Messages each second; the databases stay small enough to be read again and again. */
const PACE = 40;

/** Messages from several sessions at a time until it is stopped; every one has an entry in the ledger. */
export class Load {
  readonly ledger: LedgerEntry[] = [];
  readonly #name: string;
  readonly #users: readonly string[];
  #made = 0;
  #nextAtMs = performance.now();
  #stopped = false;
  readonly #done: Promise<unknown>;
  #failed: unknown = null;

  constructor(
    cluster: Pick<ClusterView, 'targets' | 'somewhereToGo'>,
    options: { readonly name?: string; readonly sessions?: number; readonly users?: readonly string[] } = {},
  ) {
    const { name = 'm', sessions = 3 } = options;
    this.#name = name;
    this.#users = options.users ?? Array.from({ length: 11 }, (_, at) => `user${at}@example.com`);
    this.#done = sendAll({
      targets: () => cluster.targets(),
      messages: this.#messages(),
      sessions,
      patienceMs: 60_000,
      afterRefusal: () => cluster.somewhereToGo(5_000),
      before: () => this.#pause(),
      onEntry: (entry) => this.ledger.push(entry),
    }).catch((error: unknown) => {
      this.#failed = error;
    });
  }

  async #pause(): Promise<void> {
    const atMs = Math.max(this.#nextAtMs, performance.now());
    this.#nextAtMs = atMs + 1_000 / PACE;
    await until('the next message', () => this.#stopped || performance.now() >= atMs, {
      deadlineMs: 60_000,
      everyMs: 5,
    });
  }

  *#messages(): Generator<TestMessage> {
    while (!this.#stopped) {
      this.#made += 1;
      const user = this.#users[this.#made % this.#users.length] ?? 'nobody@example.com';
      yield makeMessage(`${this.#name}${this.#made}`, user, SIZES[this.#made % SIZES.length] ?? 1_000);
    }
  }

  /** Waits for that many more entries. */
  async more(count: number, deadlineMs = 60_000): Promise<void> {
    const goal = this.ledger.length + count;
    await until(
      `${count} more messages`,
      () => {
        if (this.#failed !== null) throw this.#failed;
        return this.ledger.length >= goal;
      },
      { deadlineMs, everyMs: 5 },
    );
  }

  /** Waits for that many more that were answered 250. */
  async moreAccepted(count: number, deadlineMs = 60_000): Promise<void> {
    const accepted = (): number => this.ledger.filter(({ answer }) => answer.kind === 'accepted').length;
    const goal = accepted() + count;
    await until(`${count} more messages answered 250`, () => accepted() >= goal, { deadlineMs, everyMs: 10 });
  }

  /** Every message that was begun has its entry when this resolves. */
  async stop(): Promise<readonly LedgerEntry[]> {
    this.#stopped = true;
    await this.#done;
    if (this.#failed !== null) throw this.#failed;
    return this.ledger;
  }
}
