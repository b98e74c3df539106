/** What a transport is built from: the ports and its place in the cluster. Production and the simulator fill it differently, nothing else differs. */
import type { TopologyDocument } from '../../common/config.ts';
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import type { Network } from '../../common/platform/net.ts';
import type { Random } from '../../common/platform/random.ts';
import type { Mutant } from '../core/mutants.ts';
import type { RiskOptions } from '../core/poison.ts';
import type { TransitionCoverage } from '../core/transitions.ts';
import type { QueueDatabase } from '../store/database.ts';
import type { DeliveryAgent } from './delivery-api.ts';
import type { Tracking } from './tracking-api.ts';

export interface TransportDeps {
  /** Part of the memory it may have that is used, 0 to 1; absent: nobody looks. */
  readonly memoryUse?: () => number;
  readonly name: string;
  /** In DSNs and trace headers. */
  readonly hostname: string;
  readonly listen: { readonly host: string; readonly port: number };
  /** Unique per process incarnation (HELLO). */
  readonly uid: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly database: QueueDatabase;
  readonly delivery: DeliveryAgent;
  readonly tracking: Tracking;
  readonly document: TopologyDocument;
  /** Marks that survive the death of the process, and what they said when this one started (protocol.md 18). */
  readonly risk?: RiskOptions;
  /** Simulator only. */
  readonly mutants?: ReadonlySet<Mutant>;
  readonly coverage?: TransitionCoverage;
  /** How frames of one tick are gathered; the simulator passes nothing. */
  readonly keepAliveMs?: number;
  readonly deadAfterMs?: number;
  /** A broken invariant or a lost disk: the process must end. */
  readonly onFatal: (reason: Error) => void;
}
