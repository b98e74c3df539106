/**
 * The network port of the inner hops: reliable byte streams between authenticated parties. Production puts TLS 1.3 with
 * client certificates behind it (`tls-network.ts`), the simulator its own streams. SMTP and LMTP sockets do not use it.
 */
export type PeerRole = 'transport' | 'frontend' | 'operator';

/** Who the other end proved to be (from its certificate), before any byte of ours is believed. */
export interface PeerName {
  readonly role: PeerRole;
  readonly name: string;
}

export interface ConnectionHandlers {
  /** Bytes in order; the buffer belongs to the receiver. */
  onData(chunk: Buffer): void;
  /** The send buffer fell below the low-water mark after `write` returned false. */
  onDrain(): void;
  /** Exactly once, the last call; `reason` is a constant phrase plus what the other end or the OS said. */
  onClose(reason: string): void;
}

export interface Connection {
  readonly remote: PeerName;
  /** Address of the other end for logs only. */
  readonly remoteAddress: string;
  start(handlers: ConnectionHandlers): void;
  /** Queues bytes; false when the caller should wait for `onDrain`. Buffers must not be changed afterwards. */
  write(buffers: readonly Uint8Array[]): boolean;
  pause(): void;
  resume(): void;
  /** Sends what is queued, then closes. */
  end(): void;
  /** Drops the connection now; `onClose` still runs once. */
  destroy(reason: string): void;
}

export interface Listener {
  readonly port: number;
  close(): Promise<void>;
}

export interface PeerAddress {
  readonly host: string;
  readonly port: number;
}

export interface Network {
  /** Rejects with an Error with `code` when no authenticated connection to `expected` could be made in `timeoutMs`. */
  connect(address: PeerAddress, expected: PeerName, timeoutMs: number): Promise<Connection>;
  listen(address: PeerAddress, onConnection: (connection: Connection) => void): Promise<Listener>;
}
