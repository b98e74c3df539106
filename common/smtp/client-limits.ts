/**
 * How much one client network or user may do (semantics.md section 9), over all front ends of the cluster. Share one between the listeners of a pod. Owns:
 * the counts. Promise: a client network is an IPv4 address or an IPv6 /64 (`clientNetwork`); nothing waits for the shared memory. A message counts when it is begun,
 * a failed AUTH for the network and - tighter - for the user within it, so that one forgotten device does not lock out a whole office.
 */
import type { FrontendLimits } from '../config.ts';
import { clientNetwork } from '../networks.ts';
import type { Clock, Timer } from '../platform/clock.ts';
import { type SharedSums, SharedTally } from './shared-tally.ts';

const MINUTE_MS = 60_000;
const LEVEL_SLOT_MS = 30_000;
const AUTH_WINDOW_MS = 10 * MINUTE_MS;
/** Failures of a network for each that one user may have. */
const USERS_IN_NETWORK = 5;

export type ClientLimit = 'maxConnectionsPerClient' | 'maxConnectionRatePerClient';

export class ClientLimits {
  readonly #connections: SharedTally;
  readonly #begun: SharedTally;
  readonly #failures: SharedTally;
  readonly #messages: SharedTally;
  readonly #clock: Clock;
  #timer: Timer | null = null;

  constructor(clock: Clock, shared: SharedSums | null) {
    this.#clock = clock;
    const side = { clock, shared };
    this.#connections = new SharedTally({ ...side, name: 'connections', kind: 'level', slotMs: LEVEL_SLOT_MS });
    this.#begun = new SharedTally({ ...side, name: 'begun', kind: 'rate', slotMs: MINUTE_MS });
    this.#failures = new SharedTally({ ...side, name: 'failures', kind: 'rate', slotMs: AUTH_WINDOW_MS });
    this.#messages = new SharedTally({ ...side, name: 'messages', kind: 'rate', slotMs: 60 * MINUTE_MS });
  }

  start(): void {
    this.#timer = this.#clock.setTimer(LEVEL_SLOT_MS / 2, () => {
      this.#connections.refresh();
      this.start();
    });
  }

  stop(): void {
    this.#timer?.cancel();
  }

  /** Null: it may come in. */
  refuses(
    address: string,
    limits: Pick<FrontendLimits, 'maxConnectionsPerClient' | 'maxConnectionRatePerClient'>,
  ): ClientLimit | null {
    const network = clientNetwork(address);
    if (this.#connections.reached(network, limits.maxConnectionsPerClient)) return 'maxConnectionsPerClient';
    return this.#begun.reached(network, limits.maxConnectionRatePerClient) ? 'maxConnectionRatePerClient' : null;
  }

  cameIn(address: string): void {
    const network = clientNetwork(address);
    this.#connections.change(network, 1);
    this.#begun.change(network, 1);
  }

  left(address: string): void {
    this.#connections.change(clientNetwork(address), -1);
  }

  /** So many AUTH of this network, or of this user from there, have failed that the next is not looked at. */
  mayNotAuthenticate(address: string, user: string, limits: Pick<FrontendLimits, 'maxAuthFailures'>): boolean {
    const network = clientNetwork(address);
    const { maxAuthFailures: limit } = limits;
    return (
      this.#failures.reached(`${network} ${user}`, limit) || this.#failures.reached(network, limit * USERS_IN_NETWORK)
    );
  }

  authFailed(address: string, user: string): void {
    const network = clientNetwork(address);
    this.#failures.change(network, 1);
    this.#failures.change(`${network} ${user}`, 1);
  }

  maySendNoMore(user: string, limits: Pick<FrontendLimits, 'maxMessageRatePerUser'>): boolean {
    return this.#messages.reached(user, limits.maxMessageRatePerUser);
  }

  messageBegun(user: string): void {
    this.#messages.change(user, 1);
  }
}
