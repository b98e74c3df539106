/**
 * What `mailcluster run` looks after while it runs: new orders, members that are being emptied, resubmit requests. Owns: the timer, and the
 * files `resubmits/NAME.json` (resources with status). Promise: an order is seen within half a second; a member is gone only when it said
 * itself, under the document in force, that it is empty. Decides nothing else: it asks, and hands to pure code. A look that fails is said
 * once and repeated.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { ResubmitRequestConfig, TopologyDocument } from '../../common/config.ts';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { Random } from '../../common/platform/random.ts';
import type { Asked } from '../admin-client.ts';
import {
  expiredStatus,
  isOver,
  type MemberWord,
  type ResubmitAnswer,
  type ResubmitResource,
  requestResource,
  resubmitStatus,
} from '../resubmit-status.ts';
import { type Cluster, NoCluster, openCluster } from './cluster.ts';
import type { OrderBook } from './order-book.ts';
import { isIdentity } from './orders.ts';
import { codeOf, readJson, type StatePaths, writeJson } from './state-directory.ts';
import { knownIdentities } from './volumes.ts';

export interface OverseerSide {
  readonly clock: Clock;
  readonly random: Random;
  readonly paths: StatePaths;
  readonly book: OrderBook;
  say(line: string): void;
  /** The one in force. */
  document(): TopologyDocument | null;
  namespace(): string;
  /** Reads the orders and brings them into force. */
  applyOrders(): Promise<void>;
}

const LOOK_MS = 500;
const ASK_MS = 1_000;
/** When every request is over: late holders may still add to it. */
const ASK_SELDOM_MS = 30_000;

interface DrainAnswer {
  readonly identity: string;
  readonly generation: number;
  readonly drain?: { readonly state: string };
}

type ResubmitAnswers = { readonly requests: readonly ResubmitAnswer[] };

export function newOrderId(random: Random): string {
  return random.bytes(8).toString('hex');
}

export async function readResubmit(paths: StatePaths, name: string): Promise<ResubmitResource | null> {
  return (await readJson(join(paths.resubmits, `${name}.json`))) as ResubmitResource | null;
}

export async function resubmitNames(paths: StatePaths): Promise<readonly string[]> {
  const names = await readdir(paths.resubmits).catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return [];
    throw error;
  });
  return names.flatMap((name) => (name.endsWith('.json') && !name.startsWith('.') ? [name.slice(0, -5)] : [])).sort();
}

export class Overseer {
  readonly #side: OverseerSide;
  #timer: Timer | null = null;
  #looking: Promise<void> = Promise.resolve();
  #stopped = false;
  #signature: string | null = null;
  #askedAtMs = Number.NEGATIVE_INFINITY;
  #settled = false;
  #complaint: string | null = null;

  constructor(side: OverseerSide) {
    this.#side = side;
  }

  start(): void {
    this.#timer = this.#side.clock.setTimer(LOOK_MS, () => {
      this.#looking = this.#look().then(() => {
        if (!this.#stopped) this.start();
      });
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#looking;
  }

  async #look(): Promise<void> {
    try {
      const signature = await this.#side.book.signature();
      if (signature !== this.#signature) {
        this.#signature = signature;
        await this.#side.applyOrders();
      }
      await this.#ask();
      this.#complaint = null;
    } catch (error) {
      // The next look tries again; run.json is away for a moment while the runner starts or stops.
      if (error instanceof NoCluster) return;
      const complaint = error instanceof Error ? error.message : String(error);
      if (complaint !== this.#complaint) this.#side.say(`members and requests could not be looked after: ${complaint}`);
      this.#complaint = complaint;
    }
  }

  async #ask(): Promise<void> {
    const { clock, paths } = this.#side;
    const document = this.#side.document();
    if (document === null || this.#stopped) return;
    const draining = document.members.filter(({ state }) => state === 'draining');
    const requests = document.resubmitRequests;
    if (requests.some(({ expiresAtMs }) => expiresAtMs <= clock.wallMs())) await this.#side.applyOrders();
    if (draining.length === 0 && requests.length === 0 && this.#settled) return;
    const everyMs = this.#settled && draining.length === 0 ? ASK_SELDOM_MS : ASK_MS;
    const fresh = await this.#hasNewRequests(requests);
    if (!fresh && clock.monotonicMs() - this.#askedAtMs < everyMs) return;
    this.#askedAtMs = clock.monotonicMs();
    const cluster = await openCluster(paths.root);
    for (const { name } of draining) await this.#drained(cluster, document, name);
    this.#settled = await this.#followRequests(cluster, document);
  }

  async #hasNewRequests(requests: readonly ResubmitRequestConfig[]): Promise<boolean> {
    for (const { name } of requests) if ((await readResubmit(this.#side.paths, name)) === null) return true;
    return false;
  }

  /** protocol.md 16: empty is a durable latch of the member; what it says about an older document does not count. */
  async #drained(cluster: Cluster, document: TopologyDocument, member: string): Promise<void> {
    const { clock, random, book } = this.#side;
    const transport = cluster.run.transports.find(({ name }) => name === member);
    if (transport === undefined) return;
    const asked = await cluster.ask<DrainAnswer>(transport, '/v1/status');
    if (asked.kind !== 'answer') return;
    const { identity, generation, drain } = asked.value;
    if (drain?.state !== 'empty' || generation < document.generation || !isIdentity(identity)) return;
    const order = (await book.read()).find((one) => one.kind === 'member' && one.member === member);
    if (order?.kind !== 'member' || order.state !== 'draining') return;
    const atMs = clock.wallMs();
    await book.write({ kind: 'gone', id: newOrderId(random), atMs, member, order: order.id, identity });
    this.#side.say(`transport ${member} is empty; it ends now and is gone`);
    await this.#side.applyOrders();
  }

  /** True when nothing is left to happen. */
  async #followRequests(cluster: Cluster, document: TopologyDocument): Promise<boolean> {
    const { paths, clock } = this.#side;
    const { resubmitRequests: requests } = document;
    await this.#closeExpired(requests);
    if (requests.length === 0) return true;
    const asked = await cluster.askAll<ResubmitAnswers>('/v1/resubmit');
    let settled = true;
    for (const request of requests) {
      const words = await this.#words(document, request, asked);
      const former = await readResubmit(paths, request.name);
      const status = resubmitStatus(request, words, former?.status ?? null, clock.wallMs());
      settled &&= isOver(status);
      await this.#write(former, requestResource(request, this.#of(document), status));
    }
    return settled;
  }

  async #words(
    document: TopologyDocument,
    request: ResubmitRequestConfig,
    asked: readonly Asked<ResubmitAnswers>[],
  ): Promise<readonly MemberWord[]> {
    const members = document.members.filter(
      ({ state, boundary }) => state !== 'gone' && (request.boundary === null || boundary === request.boundary),
    );
    return await Promise.all(
      members.map(async ({ name, boundary }): Promise<MemberWord> => {
        const known = await knownIdentities(this.#side.paths, name);
        const last = known.at(-1) ?? null;
        const lost = document.retired.some(({ identity, reason }) => reason === 'lost' && identity === last?.identity);
        const answer = answerOf(
          asked.find((one) => one.member === name),
          request.name,
        );
        const firstSinceMs = known.length === 1 ? (last?.sinceMs ?? null) : null;
        return { name, boundary, identity: last?.identity ?? null, answer, lost, firstSinceMs };
      }),
    );
  }

  /** Requests that left the document before they were over, also while no runner was there. */
  async #closeExpired(requests: readonly ResubmitRequestConfig[]): Promise<void> {
    const { paths, clock } = this.#side;
    for (const name of await resubmitNames(paths)) {
      if (requests.some((one) => one.name === name)) continue;
      const former = await readResubmit(paths, name);
      if (former === null || isOver(former.status)) continue;
      await this.#write(former, { ...former, status: expiredStatus(former.status, clock.wallMs()) });
    }
  }

  #of(document: TopologyDocument): { readonly cluster: string; readonly namespace: string } {
    return { cluster: document.cluster, namespace: this.#side.namespace() };
  }

  async #write(former: ResubmitResource | null, next: ResubmitResource): Promise<void> {
    const { name } = next.metadata;
    if (isDeepStrictEqual(former, next)) return;
    await writeJson(join(this.#side.paths.resubmits, `${name}.json`), next);
    const { state, message, counts } = next.status;
    if (former?.status.state === state) return;
    const what = message === undefined ? '' : `: ${message}`;
    this.#side.say(`resubmit request ${name}: ${state}, ${counts?.resubmitted ?? 0} resubmitted${what}`);
  }
}

function answerOf(asked: Asked<ResubmitAnswers> | undefined, request: string): MemberWord['answer'] {
  if (asked === undefined) return 'it is not running';
  if (asked.kind === 'unreachable') return asked.reason;
  if (asked.kind === 'absent') return null;
  return asked.value.requests.find((one) => one.name === request) ?? null;
}
