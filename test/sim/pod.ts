/** A simulated pod: a name with a role, a volume, and the lives it has had. Owns: what belongs to one place, and its clock. */
import type { TopologyDocument } from '../../common/config.ts';
import type { CopyId } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import type { PeerRole } from '../../common/platform/net.ts';
import type { MessageProxy } from '../../frontend/proxy.ts';
import type { TransportServer } from '../../transport/runtime/server.ts';
import type { QueueDatabase } from '../../transport/store/database.ts';
import type { SimDisk } from './disk.ts';
import type { Volume } from './durable-view.ts';
import { deliverTo, type Incarnation } from './incarnation.ts';
import type { Scheduler, SeededRandom } from './scheduler.ts';
import type { SmtpFront } from './smtp-front.ts';

/** Of the queue databases; the reserve is at least two of these. */
export const SEGMENT_BYTES = 131_072;

export interface Pod {
  /** Unique; a second process under one name has a mark behind it. */
  readonly key: string;
  readonly name: string;
  readonly role: PeerRole;
  readonly bornMs: number;
  disk: SimDisk;
  volume: Volume;
  /** Volumes that were refused and set aside, never deleted. */
  readonly setAside: { readonly disk: SimDisk; readonly why: string }[];
  incarnation: Incarnation;
  server: TransportServer | null;
  database: QueueDatabase | null;
  proxy: MessageProxy | null;
  /** What real SMTP clients connect to, in worlds that have them. */
  smtp: SmtpFront | null;
  lives: number;
  /** What was in a risky step (protocol.md 18). */
  mark: string | null;
  jumpWall: ((deltaMs: number) => void) | null;
  /** By how much its wall clock is wrong when it starts. */
  clockErrorMs: number;
  /** Called when a commit is handed to the engine; for deaths at the worst moment. */
  onCommit: (() => void) | null;
  /** The topology document as it lies before this pod. */
  document: TopologyDocument;
  /** Newer documents do not reach it. */
  isOutOfReach: boolean;
  /** Nobody shall start it: scaled away, lost until the orchestrator says otherwise, or a process that was one too many. */
  isGone: boolean;
  /** Nobody starts it for now. */
  isOff: boolean;
  /** When it came back from being away, and what it had then: that may have been taken over (protocol.md 14). */
  doubts: {
    readonly sinceMs: number;
    readonly ids: ReadonlySet<CopyId>;
    readonly isStandstill: boolean;
    /** When the standstill began: a member that was born later was given nothing by this one. */
    readonly fromMs?: number;
    /** Of a standstill: when it last knew of one. */
    readonly awakeBeforeMs?: number;
  }[];
  /** Deliveries under way in this life, by copy. */
  readonly delivering: Map<CopyId, number>;
  /** Since when it is down, as the excuse of what others did meanwhile. */
  down: Trouble | null;
}

/** A stretch of time in which something between or on transports was wrong: the excuse of a repeated offer. */
export interface Trouble {
  readonly who: readonly string[];
  readonly fromMs: number;
  untilMs: number;
}

/** A clock that dies, and stands still, with its incarnation. */
export function podClock(scheduler: Scheduler, random: SeededRandom, pod: Pod): Clock {
  const clock = scheduler.clock(random.integer(-500, 500), 1 + (random.next() - 0.5) / 500);
  const { incarnation } = pod;
  clock.jumpWall(pod.clockErrorMs);
  pod.jumpWall = (deltaMs) => clock.jumpWall(deltaMs);
  return {
    monotonicMs: () => clock.monotonicMs(),
    wallMs: () => clock.wallMs(),
    setTimer: (delayMs, callback) => clock.setTimer(delayMs, () => deliverTo(incarnation, scheduler, callback)),
  };
}
