/**
 * What members say of themselves, asked again and again beside the reconciles. Owns: per cluster one round at a time, the connections, the latest answers.
 * Promise: a member that hangs, lies or is gone costs its own deadline and nobody else's; an answer is tied to the pod that was asked; a
 * change that a plan can see makes the cluster due. Nothing is asked of a cluster that was forgotten.
 */
import type { Agent } from 'node:https';
import { isDeepStrictEqual } from 'node:util';
import type { Clock, Timer } from '../common/platform/clock.ts';
import { type AdminTls, type Asked, askMember, MemberAgent } from './admin-client.ts';
import type { MemberAnswer, MemberReport } from './gathered.ts';
import { readReport } from './member-report.ts';
import { PORT } from './resources/names.ts';

/** Whom to ask: a pod with an address. */
export interface MemberPod {
  readonly name: string;
  readonly uid: string;
  readonly address: string;
}

export interface PollTarget {
  readonly pods: readonly MemberPod[];
  /** Members that should be there and have no pod with an address, with the reason. */
  readonly absent: readonly { readonly name: string; readonly reason: string }[];
  readonly wantsResubmits: boolean;
  readonly tls: AdminTls | null;
  /** Something is under way: ask often. */
  readonly isBusy: boolean;
}

export interface MemberPollSide {
  readonly clock: Clock;
  /** Whom to ask now; null: the cluster is gone. */
  target(key: string): Promise<PollTarget | null>;
  /** The answers of a cluster changed in a way that may matter. */
  changed(key: string): void;
  /** How many members there are over all clusters: with many, each is asked less often. */
  memberCount(): number;
}

const BUSY_MS = 1_000;
const CALM_MS = 5_000;
/** At most a hundred questions a second over all clusters. */
const MS_PER_MEMBER = 10;
const DEADLINE_MS = 3_000;
/** With more members than that each question has a connection of its own: kept ones would take more memory than all else (docs/performance.md). */
const MOST_KEPT = 500;
const AT_ONCE = 64;

interface Round {
  timer: Timer | null;
  answers: Readonly<Record<string, MemberAnswer>>;
  /** Connections are kept as long as the identity under which they were opened. */
  tls: AdminTls | null;
  /** By member. */
  readonly agents: Map<string, Agent>;
  asking: Promise<void> | null;
  /** The first round is over. */
  asked: boolean;
  forgotten: boolean;
}

/** What every answer changes by itself and no plan acts upon at once. */
const comparable = (answer: MemberAnswer): unknown => {
  if (answer.kind !== 'answered') return { kind: answer.kind, reason: answer.reason };
  const { queues: _queues, space: _space, discardsPending: _pending, drain, ...rest } = answer.report;
  return { ...rest, drainState: drain.state, podUid: answer.podUid };
};

export class MemberPoll {
  readonly #side: MemberPollSide;
  readonly #rounds = new Map<string, Round>();
  #stopped = false;

  constructor(side: MemberPollSide) {
    this.#side = side;
  }

  answers(key: string): Readonly<Record<string, MemberAnswer>> {
    return this.#rounds.get(key)?.answers ?? {};
  }

  /** Everybody was asked once, or had the time to answer. */
  hasAsked(key: string): boolean {
    return this.#rounds.get(key)?.asked ?? false;
  }

  /** Asks from now on, and soon. */
  follow(key: string): void {
    if (this.#stopped) return;
    const known = this.#rounds.get(key);
    if (known !== undefined) return;
    const round: Round = {
      timer: null,
      answers: {},
      tls: null,
      agents: new Map(),
      asking: null,
      asked: false,
      forgotten: false,
    };
    this.#rounds.set(key, round);
    this.#later(key, round, 0);
  }

  forget(key: string): void {
    const round = this.#rounds.get(key);
    if (round === undefined) return;
    round.forgotten = true;
    round.timer?.cancel();
    destroyAgents(round);
    this.#rounds.delete(key);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    const rounds = [...this.#rounds.values()];
    for (const key of [...this.#rounds.keys()]) this.forget(key);
    await Promise.all(rounds.map((one) => one.asking));
  }

  #later(key: string, round: Round, delayMs: number): void {
    if (round.forgotten || this.#stopped) return;
    round.timer = this.#side.clock.setTimer(delayMs, () => {
      round.asking = this.#ask(key, round).then((nextMs) => {
        round.asking = null;
        if (nextMs !== null) this.#later(key, round, nextMs);
      });
    });
  }

  async #ask(key: string, round: Round): Promise<number | null> {
    const target = await this.#side.target(key);
    if (target === null || round.forgotten) {
      this.forget(key);
      return null;
    }
    const calmMs = Math.max(CALM_MS, this.#side.memberCount() * MS_PER_MEMBER);
    const before = round.answers;
    const answers = await this.#askAll(round, target);
    if (round.forgotten) return null;
    round.answers = answers;
    round.asked = true;
    const view = (all: Readonly<Record<string, MemberAnswer>>): unknown =>
      Object.fromEntries(Object.entries(all).map(([name, one]) => [name, comparable(one)]));
    if (!isDeepStrictEqual(view(before), view(answers))) this.#side.changed(key);
    return target.isBusy ? BUSY_MS : calmMs;
  }

  async #askAll(round: Round, target: PollTarget): Promise<Readonly<Record<string, MemberAnswer>>> {
    const { tls } = target;
    keepAgents(round, tls, new Set(target.pods.map(({ name }) => name)));
    const entries: (readonly [string, MemberAnswer])[] = target.absent.map(({ name, reason }) => [
      name,
      this.#silent(round, name, 'unreachable', reason),
    ]);
    for (let from = 0; from < target.pods.length; from += AT_ONCE) {
      const some = target.pods.slice(from, from + AT_ONCE);
      entries.push(
        ...(await Promise.all(
          some.map(async (pod) => {
            const silence = 'there is no authority to ask under yet';
            if (tls === null) return [pod.name, this.#silent(round, pod.name, 'unreachable', silence)] as const;
            return [pod.name, await this.#askPod(round, pod, target.wantsResubmits, tls)] as const;
          }),
        )),
      );
    }
    return Object.fromEntries(entries);
  }

  async #askPod(round: Round, pod: MemberPod, resubmits: boolean, tls: AdminTls): Promise<MemberAnswer> {
    const agent = this.#side.memberCount() <= MOST_KEPT ? agentFor(round, tls, pod.name) : null;
    const options = { deadlineMs: DEADLINE_MS, ...(agent === null ? {} : { agent }) };
    const host = pod.address.includes(':') ? `[${pod.address}]` : pod.address;
    const ask = (path: string): Promise<Asked<unknown>> =>
      askMember<unknown>(`https://${host}:${PORT.admin}`, path, tls, pod.name, options);
    const [status, requests] = await Promise.all([ask('/v1/status'), resubmits ? ask('/v1/resubmit') : null]);
    if (status.kind === 'unreachable') return this.#silent(round, pod.name, 'unreachable', status.reason);
    if (status.kind === 'absent') return this.#silent(round, pod.name, 'nonsense', 'it has no /v1/status');
    const report: MemberReport | string = readReport(pod.name, {
      status: status.value,
      resubmit: requests?.kind === 'answer' ? requests.value : null,
      certificateNotAfterMs: status.certificateNotAfterMs,
      certificateFormer: status.certificateFormer,
    });
    // A kept connection goes on showing what it began with.
    if (status.certificateFormer) forgetAgent(round, pod.name);
    if (typeof report === 'string') return this.#silent(round, pod.name, 'nonsense', report);
    return { kind: 'answered', podUid: pod.uid, report };
  }

  #silent(round: Round, name: string, kind: 'unreachable' | 'nonsense', reason: string): MemberAnswer {
    const before = round.answers[name];
    const sinceMs = before !== undefined && before.kind !== 'answered' ? before.sinceMs : this.#side.clock.wallMs();
    return { kind, reason, sinceMs };
  }
}

function destroyAgents({ agents }: Round): void {
  for (const agent of agents.values()) agent.destroy();
  agents.clear();
}

/** Only those of members that are there, under the identity of now. */
function keepAgents(round: Round, tls: AdminTls | null, members: ReadonlySet<string>): void {
  if (round.tls !== tls) destroyAgents(round);
  round.tls = tls;
  for (const name of round.agents.keys()) {
    if (!members.has(name)) forgetAgent(round, name);
  }
}

function forgetAgent({ agents }: Round, name: string): void {
  agents.get(name)?.destroy();
  agents.delete(name);
}

function agentFor({ agents }: Round, tls: AdminTls, member: string): Agent {
  const agent = agents.get(member) ?? new MemberAgent(tls, member);
  agents.set(member, agent);
  return agent;
}
