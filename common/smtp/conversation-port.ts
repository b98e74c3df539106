/** What one SMTP conversation needs from the connection below it and from the listener it belongs to. Types only. */
import type { FrontendLimits, ListenerConfig } from '../config.ts';
import type { Reply } from '../message.ts';
import type { Clock } from '../platform/clock.ts';
import type { Logger } from '../platform/log.ts';
import type { Labels, Metrics } from '../platform/metrics.ts';
import type { EdgeHandlers } from './edge-api.ts';

/** The connection below. */
export interface ConversationPort {
  readonly remoteAddress: string;
  readonly remotePort: number;
  /** True while bytes have arrived that `consume` was not given yet. */
  readonly moreInput: boolean;
  /** Queues one reply; all replies of a tick leave in one write. */
  say(said: Reply): void;
  /** Null while the client reads its replies; else resolves once it has caught up or is gone. */
  outputDrained(): Promise<void> | null;
  /** Sends what is queued, then closes. */
  close(): void;
  /** Closes without sending anything more. */
  destroy(): void;
  /** Sends what is queued, then starts the TLS handshake; `tlsStarted` follows. */
  startTls(): void;
}

/** What all sessions of one listener share. */
export interface ConversationSetting {
  readonly listener: ListenerConfig;
  readonly frontend: string;
  readonly hostname: string;
  readonly limits: FrontendLimits;
  readonly maxReceivedHops: number;
  readonly tlsAvailable: boolean;
  /** How long a client may be silent between commands, as things are now. */
  readonly idleTimeoutMs: () => number;
  readonly handlers: EdgeHandlers;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Labels of smtp_commands_total by `verb code`, so that counting allocates nothing. */
  readonly commandLabels: Map<string, Labels>;
}
