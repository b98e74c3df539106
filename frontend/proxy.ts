/**
 * Streams each message to one transport and holds the client's session until both copies are durable (semantics.md R1, R2, R9;
 * protocol.md 5-7). Owns: the connections to the transports, the replay budget, the messages in flight. Usable without an SMTP
 * library: the simulator drives `open` directly. Keeps nothing on disk: it can be killed at any time.
 */

import type { FrontendLimits, TopologyDocument } from '../common/config.ts';
import type { AttemptId, Envelope } from '../common/message.ts';
import { lackedByAll } from '../common/peer/lacking.ts';
import type { TrackingEvent } from '../common/peer/messages.ts';
import type { Clock } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import type { Network } from '../common/platform/net.ts';
import { type Random, randomFraction } from '../common/platform/random.ts';
import type { DataDecision } from '../common/smtp/edge-api.ts';
import { reply } from '../common/smtp/replies.ts';
import { ReplayBudget } from './body-buffer.ts';
import type { FilteredMessage } from './content-filters.ts';
import { HeldMessage } from './held-message.ts';
import { newAttemptId } from './ids.ts';
import type { FrontendMutant } from './mutants.ts';
import { TransportPeers } from './peers.ts';
import { Directory, isUsable, pickTransport } from './picker.ts';
import type { ReceiptCheck } from './receipt-checks.ts';
import { heldSession } from './session.ts';
import { SESSION_TIMES, type SessionTimes } from './session-model.ts';

export interface ProxyDeps {
  readonly name: string;
  readonly site: string;
  /** Unique per process incarnation. */
  readonly uid: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly limits: Pick<FrontendLimits, 'replayBufferBytes' | 'totalReplayBufferBytes'>;
  readonly times?: SessionTimes;
  readonly mutants?: ReadonlySet<FrontendMutant>;
}

export class MessageProxy {
  readonly #deps: ProxyDeps;
  readonly #peers: TransportPeers;
  readonly #budget: ReplayBudget;
  #directory: Directory;
  #inFlight = 0;

  constructor(deps: ProxyDeps, topology: TopologyDocument) {
    this.#deps = deps;
    this.#peers = new TransportPeers(deps, topology);
    this.#budget = new ReplayBudget(deps.limits.totalReplayBufferBytes);
    this.#directory = new Directory(topology);
  }

  start(): void {
    this.#peers.start();
  }

  /** Closes the connections to the transports; messages in flight end as if their transport were lost. */
  stop(reason: string): void {
    this.#peers.stop(reason);
  }

  setTopology(topology: TopologyDocument): void {
    this.#directory = new Directory(topology);
    this.#peers.setTopology(topology);
  }

  /**
   * The onData half of `EdgeHandlers`: resolves before the 354. `history`: what this front end saw of the client, for tracking; `check`: begins to find out more about it; `filter`: begins to
   * ask whether to take it.
   */
  open(
    envelope: Envelope,
    drain: () => void,
    history: readonly TrackingEvent[] = [],
    check: (drain: () => void) => ReceiptCheck | null = () => null,
    filter: (id: AttemptId, drain: () => void) => FilteredMessage | null = () => null,
  ): Promise<DataDecision> {
    const { clock, random, log, metrics, limits } = this.#deps;
    const id = newAttemptId(clock, random);
    this.#inFlight += 1;
    const message = new HeldMessage(
      {
        frontend: this.#deps.name,
        clock,
        log,
        metrics,
        peers: this.#peers,
        budget: this.#budget,
        replayBufferBytes: limits.replayBufferBytes,
        step: heldSession(
          this.#deps.times ?? SESSION_TIMES,
          {
            noTransport: reply('noTransport'),
            get lost() {
              return reply('transportLost', { id });
            },
            get accepted() {
              return reply('accepted', { id });
            },
          },
          this.#deps.mutants,
        ),
        choose: (excluded) =>
          pickTransport(envelope.recipients, this.#peers.candidates(), excluded, this.#deps.site, this.#directory, () =>
            randomFraction(random),
          ),
        onReleased: () => {
          this.#inFlight -= 1;
        },
        check,
        filter,
      },
      id,
      envelope,
      drain,
      history,
    );
    return message.open();
  }

  /** Transports that would be chosen from now. */
  get available(): number {
    return this.#peers.candidates().filter(isUsable).length;
  }

  /** There are transports, and each of them refuses strangers for want of this (semantics.md R10: from Medium on). Null: send on. */
  get pressedBy(): string | null {
    const active = this.#peers.candidates().filter((c) => c.member.state === 'active');
    return lackedByAll(active.map(({ load }) => load));
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get replayBufferBytes(): number {
    return this.#budget.usedBytes;
  }

  problems(): readonly { readonly member: string; readonly problem: string }[] {
    return this.#peers.problems();
  }
}
