/**
 * What members say of themselves, asked again and again beside the reconciles. Owns: per cluster one round at a time, the connections, the latest answers.
 * Promise: a member that hangs, lies or is gone costs its own deadline and nobody else's; an answer is tied to the pod that was asked; a
 * change that a plan can see makes the cluster due. Everybody is asked as long as something is under way; at rest members take turns, and the first answer
 * that is new brings everybody back (docs/decisions/0019-questions-at-rest.md). Nothing is asked of a cluster that was forgotten.
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
  /** Only numbers changed that people are shown. */
  counted(key: string): void;
  /** How many members there are over all clusters: with many, each is asked less often. */
  memberCount(): number;
}

/** Where something is under way: everybody, at most fifty questions a second over all such clusters. */
const BUSY_MS = 1_000;
const MS_PER_BUSY_MEMBER = 20;
/** Everybody is asked once in such a time, at the earliest; rounds come as often. */
const CALM_MS = 5_000;
/** Members without a pod are noticed in rounds. */
const SELDOM_MS = 10_000;
/** Where numbers move: at most fifty questions a second over all clusters. At rest: five, because each is a millisecond and a new connection four (docs/performance.md). */
const MS_PER_MEMBER = { moving: 20, atRest: 200 };
/** Without a new answer for as long a cluster is at rest. */
const AT_REST_AFTER_MS = 60_000;
const DEADLINE_MS = 3_000;
/** With more members than that each question has a connection of its own: kept ones would take more memory than all else (docs/performance.md). */
const MOST_KEPT = 500;
const AT_ONCE = 64;
/** Nothing that relies on answers is done on older ones. */
const FRESH_MS = 10_000;

type Answers = Readonly<Record<string, MemberAnswer>>;

interface Round {
  timer: Timer | null;
  /** When that ends. */
  nextAtMs: number;
  answers: Answers;
  /** Connections are kept as long as the identity under which they were opened. */
  tls: AdminTls | null;
  /** By member. */
  readonly agents: Map<string, Agent>;
  /** Who was asked when, the longest ago first. */
  readonly askedAtMs: Map<string, number>;
  /** Questions at rest that rounds have not asked yet: a round may have less than one. */
  owed: number;
  /** When everybody had last been asked. */
  wholeAtMs: number;
  /** When an answer last was another one than before. */
  movedAtMs: number;
  /** The next round asks everybody: an answer changed, or a plan waits. */
  isWanted: boolean;
  /** How many are asked again and again because something is under way. */
  busy: number;
  /** What members know of each other, once for all who say the same; by the first name in it. */
  readonly identities: Map<string, MemberReport['identities']>;
  asking: Promise<void> | null;
  /** The first round is over. */
  asked: boolean;
  forgotten: boolean;
}

/** What every answer changes by itself and no plan acts upon at once. */
const comparable = (answer: MemberAnswer | undefined): unknown => {
  if (answer?.kind !== 'answered') return { kind: answer?.kind, reason: answer?.reason };
  const { queues: _queues, space: _space, discardsPending: _pending, drain, ...rest } = answer.report;
  return { ...rest, drainState: drain.state, podUid: answer.podUid };
};

/** What the status shows of it. */
const numbers = (answer: MemberAnswer | undefined): unknown =>
  answer?.kind === 'answered' ? [answer.report.queues, answer.report.discardsPending, answer.report.drain] : null;

export class MemberPoll {
  readonly #side: MemberPollSide;
  readonly #rounds = new Map<string, Round>();
  #stopped = false;

  constructor(side: MemberPollSide) {
    this.#side = side;
  }

  answers(key: string): Answers {
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
      nextAtMs: 0,
      answers: {},
      tls: null,
      agents: new Map(),
      askedAtMs: new Map(),
      owed: 0,
      movedAtMs: this.#side.clock.monotonicMs(),
      isWanted: true,
      busy: 0,
      wholeAtMs: Number.NEGATIVE_INFINITY,
      identities: new Map(),
      asking: null,
      asked: false,
      forgotten: false,
    };
    this.#rounds.set(key, round);
    this.#later(key, round, 0);
  }

  /** What members say of themselves is not older than it may be for a plan to act upon it. */
  isFresh(key: string): boolean {
    const round = this.#rounds.get(key);
    if (round === undefined) return false;
    const isSilent = Object.values(round.answers).every(({ kind }) => kind !== 'answered');
    return isSilent || this.#side.clock.monotonicMs() - round.wholeAtMs <= FRESH_MS;
  }

  /** At once; the cluster is due when that is done. */
  askEverybody(key: string): void {
    const round = this.#rounds.get(key);
    if (round === undefined) return;
    round.isWanted = true;
    this.#later(key, round, 0);
  }

  /** Something is under way, whatever was planned for the next round. */
  hasten(key: string): void {
    const round = this.#rounds.get(key);
    if (round === undefined) return;
    const delayMs = this.#busyMs();
    if (round.nextAtMs > this.#side.clock.monotonicMs() + delayMs) this.#later(key, round, delayMs);
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
    round.timer?.cancel();
    round.nextAtMs = this.#side.clock.monotonicMs() + delayMs;
    // The one that asks now sees to it.
    if (round.asking !== null) return;
    round.timer = this.#side.clock.setTimer(delayMs, () => {
      round.nextAtMs = Number.POSITIVE_INFINITY;
      round.asking = this.#ask(key, round).then((nextMs) => {
        round.asking = null;
        if (nextMs === null) return;
        const askedForMs = round.nextAtMs - this.#side.clock.monotonicMs();
        this.#later(key, round, Math.max(0, Math.min(nextMs, askedForMs)));
      });
    });
  }

  async #ask(key: string, round: Round): Promise<number | null> {
    const target = await this.#side.target(key);
    if (target === null || round.forgotten) {
      this.forget(key);
      return null;
    }
    const isForPlan = round.isWanted;
    const pace = this.#pace(round, target);
    const before = round.answers;
    const answers = await this.#askSome(round, target, pace.questions);
    if (round.forgotten) return null;
    round.answers = answers;
    round.asked = true;
    this.#judge(key, round, before, isForPlan);
    return round.isWanted ? Math.min(BUSY_MS, pace.nextMs) : pace.nextMs;
  }

  /** How many a round asks at rest, and when the next one is. */
  #pace(round: Round, { pods, isBusy }: PollTarget): { readonly questions: number; readonly nextMs: number } {
    round.busy = isBusy ? pods.length : 0;
    if (isBusy) return { questions: pods.length, nextMs: this.#busyMs() };
    const isMoving = this.#side.clock.monotonicMs() - round.movedAtMs < AT_REST_AFTER_MS;
    const eachMs = Math.max(CALM_MS, this.#side.memberCount() * MS_PER_MEMBER[isMoving ? 'moving' : 'atRest']);
    const nextMs = Math.min(SELDOM_MS, Math.max(CALM_MS, eachMs / Math.max(1, pods.length)));
    return { questions: (pods.length * nextMs) / eachMs, nextMs };
  }

  #busyMs(): number {
    const busy = [...this.#rounds.values()].reduce((sum, one) => sum + one.busy, 0);
    return Math.max(BUSY_MS, busy * MS_PER_BUSY_MEMBER);
  }

  #judge(key: string, round: Round, before: Answers, isForPlan: boolean): void {
    const names = new Set([...Object.keys(before), ...Object.keys(round.answers)]);
    const differs = (view: (one: MemberAnswer | undefined) => unknown): boolean =>
      [...names].some((name) => {
        const [was, is] = [before[name], round.answers[name]];
        return was !== is && !isDeepStrictEqual(view(was), view(is));
      });
    const isChanged = differs(comparable);
    const isCounted = differs(numbers);
    if (isChanged || isCounted) round.movedAtMs = this.#side.clock.monotonicMs();
    // One more after a change, not one for every change of those that were asked for it.
    round.isWanted ||= isChanged && !isForPlan;
    if (isChanged || isForPlan) this.#side.changed(key);
    else if (isCounted) this.#side.counted(key);
  }

  /** Everybody, or those whose turn it is and those of whom nothing is known. */
  #turn(round: Round, { pods, isBusy, tls }: PollTarget, questions: number): readonly MemberPod[] {
    if (isBusy || round.isWanted || tls?.ca !== round.tls?.ca) return pods;
    const isKnown = ({ name, uid }: MemberPod): boolean => {
      const answer = round.answers[name];
      return answer?.kind === 'answered' && answer.podUid === uid;
    };
    round.owed = Math.min(pods.length, round.owed + questions);
    const turns = Math.floor(round.owed);
    round.owed -= turns;
    const lastAsked = ({ name }: MemberPod): number => round.askedAtMs.get(name) ?? Number.NEGATIVE_INFINITY;
    const known = pods.filter(isKnown).sort((a, b) => lastAsked(a) - lastAsked(b));
    return [...pods.filter((pod) => !isKnown(pod)), ...known.slice(0, turns)];
  }

  async #askSome(round: Round, target: PollTarget, questions: number): Promise<Answers> {
    const { tls, pods } = target;
    const some = this.#turn(round, target, questions);
    round.isWanted = false;
    keepMembers(round, tls, new Set(pods.map(({ name }) => name)));
    const keeps = this.#keeps(round, target);
    if (!keeps) destroyAgents(round);
    const answers: Record<string, MemberAnswer> = {};
    for (const { name } of pods) if (round.answers[name] !== undefined) answers[name] = round.answers[name];
    for (const { name, reason } of target.absent) answers[name] = this.#silent(round, name, 'unreachable', reason);
    for (let from = 0; from < some.length; from += AT_ONCE) {
      const batch = some.slice(from, from + AT_ONCE);
      const found = await Promise.all(batch.map((pod) => this.#askPod(round, pod, target, keeps)));
      for (const [at, { name }] of batch.entries()) answers[name] = found[at] as MemberAnswer;
    }
    if (some.length === pods.length) round.wholeAtMs = this.#side.clock.monotonicMs();
    return answers;
  }

  /** Of many clusters those in which something is under way. */
  #keeps(round: Round, { pods, isBusy }: PollTarget): boolean {
    if (this.#side.memberCount() <= MOST_KEPT) return true;
    const others = [...this.#rounds.values()].filter((one) => one !== round);
    return isBusy && others.reduce((sum, { agents }) => sum + agents.size, pods.length) <= MOST_KEPT;
  }

  async #askPod(round: Round, pod: MemberPod, target: PollTarget, keeps: boolean): Promise<MemberAnswer> {
    const { tls, wantsResubmits: resubmits } = target;
    if (tls === null) return this.#silent(round, pod.name, 'unreachable', 'there is no authority to ask under yet');
    round.askedAtMs.set(pod.name, this.#side.clock.monotonicMs());
    const agent = keeps ? agentFor(round, tls, pod.name) : null;
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
    return { kind: 'answered', podUid: pod.uid, report: { ...report, identities: shared(round, report.identities) } };
  }

  #silent(round: Round, name: string, kind: 'unreachable' | 'nonsense', reason: string): MemberAnswer {
    const before = round.answers[name];
    if (before === undefined || before.kind === 'answered') return { kind, reason, sinceMs: this.#side.clock.wallMs() };
    return before.kind === kind && before.reason === reason ? before : { kind, reason, sinceMs: before.sinceMs };
  }
}

/** Fifty members that know each other say the same, and it is kept once. */
function shared(round: Round, identities: MemberReport['identities']): MemberReport['identities'] {
  const [[first] = ['']] = Object.entries(identities);
  const known = round.identities.get(first);
  if (known !== undefined && isDeepStrictEqual(known, identities)) return known;
  round.identities.set(first, identities);
  return identities;
}

function destroyAgents({ agents }: Round): void {
  for (const agent of agents.values()) agent.destroy();
  agents.clear();
}

/** Only connections to members that are there, under the identity of now. */
function keepMembers(round: Round, tls: AdminTls | null, members: ReadonlySet<string>): void {
  if (round.tls !== tls) destroyAgents(round);
  round.tls = tls;
  for (const name of round.agents.keys()) {
    if (!members.has(name)) forgetAgent(round, name);
  }
  for (const one of [round.askedAtMs, round.identities])
    for (const name of one.keys()) if (!members.has(name)) one.delete(name);
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
