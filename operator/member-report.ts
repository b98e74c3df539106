/**
 * What a transport answered, before anybody believes it: the parts of `/v1/status` and `/v1/resubmit` (transport/runtime/view.ts) that the plan reads. Owns:
 * their check. Promise: a report whose every field has its type and range, or one line that says what is wrong. PURE.
 */
import type { MemberReport } from './gathered.ts';
import type { ResubmitAnswer } from './resubmit-status.ts';

class Nonsense extends Error {}

type Plain = Readonly<Record<string, unknown>>;

function plain(value: unknown, what: string): Plain {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Nonsense(`${what} is no object`);
  return value as Plain;
}

function text(value: unknown, what: string): string {
  if (typeof value !== 'string' || value === '' || value.length > 1_000) throw new Nonsense(`${what} is no text`);
  return value;
}

function count(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw new Nonsense(`${what} is no count`);
  return value;
}

function oneOf<const T extends string>(value: unknown, choices: readonly T[], what: string): T {
  const found = choices.find((one) => one === value);
  if (found === undefined) throw new Nonsense(`${what} is none of ${choices.join(', ')}`);
  return found;
}

function list<T>(value: unknown, item: (one: unknown, what: string) => T, what: string): readonly T[] {
  if (!Array.isArray(value) || value.length > 10_000) throw new Nonsense(`${what} is no list`);
  return value.map((one, index) => item(one, `${what}[${index}]`));
}

const nullable = <T>(value: unknown, read: (one: unknown, what: string) => T, what: string): T | null =>
  value === null || value === undefined ? null : read(value, what);

const QUEUES = [
  'submission',
  'delivery',
  'unreachable',
  'poison',
  'shadow',
  'primarySafetyNet',
  'shadowSafetyNet',
] as const;

function queues(value: unknown): MemberReport['queues'] {
  const all = plain(value, 'queues');
  const entries = QUEUES.map((name) => {
    const queue = plain(all[name], `queues.${name}`);
    return [
      name,
      {
        messages: count(queue.messages, `queues.${name}.messages`),
        bytes: count(queue.bytes, `queues.${name}.bytes`),
        oldestMs: nullable(queue.oldestMs, count, `queues.${name}.oldestMs`),
      },
    ] as const;
  });
  return Object.fromEntries(entries) as unknown as MemberReport['queues'];
}

function drain(value: unknown): MemberReport['drain'] {
  const found = plain(value, 'drain');
  return {
    state: oneOf(found.state, ['none', 'draining', 'empty'], 'drain.state'),
    copies: count(found.copies, 'drain.copies'),
    safetyNet: count(found.safetyNet, 'drain.safetyNet'),
    tombstones: count(found.tombstones, 'drain.tombstones'),
    waitingFor: list(found.waitingFor, text, 'drain.waitingFor'),
  };
}

interface Peer {
  readonly member: string;
  readonly identity: string | null;
  readonly connected: boolean;
}

function peer(value: unknown, what: string): Peer {
  const found = plain(value, what);
  return {
    member: text(found.member, `${what}.member`),
    identity: nullable(found.identity, text, `${what}.identity`),
    connected: found.connected === true,
  };
}

const resolvers = (value: unknown, what: string): readonly string[] => list(value, text, what);

function resubmit(value: unknown, what: string): ResubmitAnswer {
  const found = plain(value, what);
  text(found.name, `${what}.name`);
  oneOf(found.state, ['Pending', 'Running', 'Paused', 'Done', 'Cancelled'], `${what}.state`);
  const counts = [
    'selected',
    'resubmitted',
    'byPrimary',
    'byShadow',
    'present',
    'covered',
    'failed',
    'completeSinceMs',
  ];
  for (const name of counts) count(found[name], `${what}.${name}`);
  list(found.waitingFor, text, `${what}.waitingFor`);
  list(found.errors, text, `${what}.errors`);
  return found as unknown as ResubmitAnswer;
}

export interface RawAnswers {
  readonly status: unknown;
  /** Null: not asked. */
  readonly resubmit: unknown;
  readonly certificateNotAfterMs: number | null;
  readonly certificateFormer: boolean;
}

/** A string says why `member` cannot have answered this. */
export function readReport(member: string, raw: RawAnswers): MemberReport | string {
  try {
    const status = plain(raw.status, 'the answer');
    if (text(status.name, 'name') !== member) return `it says it is ${String(status.name)}`;
    const space = plain(status.space, 'space');
    const identity = text(status.identity, 'identity');
    const peers = list(status.peers, peer, 'peers');
    const known = peers.flatMap((one) => (one.identity === null ? [] : [[one.member, one.identity] as const]));
    return {
      identity,
      state: oneOf(status.state, ['recovering', 'ready', 'stopping'], 'state'),
      generation: count(status.generation, 'generation'),
      unprotected: nullable(status.unprotected, count, 'unprotected'),
      drain: drain(status.drain),
      backPressure: oneOf(status.backPressure, ['Normal', 'Medium', 'High'], 'backPressure'),
      pressedBy: status.pressedBy === undefined || status.pressedBy === '' ? '' : text(status.pressedBy, 'pressedBy'),
      queues: queues(status.queues),
      discardsPending: count(status.discardsPending, 'discardsPending'),
      space: {
        liveBytes: count(space.liveBytes, 'space.liveBytes'),
        freeBytes: count(space.freeBytes, 'space.freeBytes'),
      },
      identities: Object.fromEntries([...known, [member, identity] as const].sort(([a], [b]) => (a < b ? -1 : 1))),
      unvalidatedResolvers: nullable(status.unvalidatedResolvers, resolvers, 'unvalidatedResolvers') ?? [],
      unheard: peers.flatMap((one) => (one.connected ? [] : one.member)).sort(),
      resubmits:
        raw.resubmit === null ? [] : list(plain(raw.resubmit, 'resubmit').requests, resubmit, 'resubmit.requests'),
      certificateNotAfterMs: raw.certificateNotAfterMs,
      certificateFormer: raw.certificateFormer,
    };
  } catch (error) {
    if (error instanceof Nonsense) return error.message;
    throw error;
  }
}
