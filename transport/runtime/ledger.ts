/**
 * The ledger of what went out to external recipients (protocol.md 23, semantics.md D9): asked before a copy that may have been sent before is sent
 * again, told after every relay. The port, and the memory every transport has of its own relays.
 *
 * Promises of a ledger
 * - `known` answers each key in order, never rejects, and answers within a bounded time: who cannot find out says `unknown`.
 * - `relayed` only with the word of a transport of this cluster that the next hop took exactly this copy for exactly this recipient.
 *   Losing entries, at any time and all of them, costs a repeated offer and nothing else.
 * - `record` returns at once and never throws; what cannot be written is lost and counted.
 */
import type { CopyId, Epoch } from '../../common/message.ts';

export interface LedgerKey {
  /** The copy itself, not its ancestor: who asks for a resubmission wants the message again. A promoted or replayed copy keeps its id. */
  readonly copy: CopyId;
  /** As in the envelope, byte by byte. */
  readonly recipient: string;
}

export interface LedgerEntry extends LedgerKey {
  readonly epoch: Epoch;
  /** Of the next hop, `code enhanced text`. */
  readonly reply: string;
  /** The next hop owes the sender the success DSN (RFC 3461 5.2.1). */
  readonly dsnPassedOn: boolean;
}

export interface RelayedBefore {
  readonly kind: 'relayed';
  readonly reply: string;
  readonly dsnPassedOn: boolean;
  readonly epoch: Epoch;
  /** Name of the transport that relayed it. */
  readonly writer: string;
}

export type LedgerAnswer = RelayedBefore | { readonly kind: 'absent' } | { readonly kind: 'unknown' };

export interface Ledger {
  known(keys: readonly LedgerKey[]): Promise<readonly LedgerAnswer[]>;
  record(entries: readonly LedgerEntry[]): void;
  /** Waits a bounded time for what is being written. Afterwards `known` says what it still knows, `record` forgets. */
  close(): Promise<void>;
}

/** About 10 MB at most; takeovers that come back to a transport which relayed the copy itself are young. */
const DEFAULT_ENTRIES = 20_000;

/** What this process relayed, the latest of it. */
export class MemoryLedger implements Ledger {
  readonly #member: string;
  readonly #maxEntries: number;
  readonly #entries = new Map<string, RelayedBefore>();

  constructor(member: string, maxEntries = DEFAULT_ENTRIES) {
    this.#member = member;
    this.#maxEntries = maxEntries;
  }

  known(keys: readonly LedgerKey[]): Promise<readonly LedgerAnswer[]> {
    return Promise.resolve(keys.map((key) => this.find(key) ?? { kind: 'absent' }));
  }

  find(key: LedgerKey): RelayedBefore | null {
    return this.#entries.get(nameOf(key)) ?? null;
  }

  record(entries: readonly LedgerEntry[]): void {
    for (const entry of entries) {
      const { reply, dsnPassedOn, epoch } = entry;
      const name = nameOf(entry);
      this.#entries.delete(name);
      this.#entries.set(name, { kind: 'relayed', reply, dsnPassedOn, epoch, writer: this.#member });
    }
    for (const name of this.#entries.keys()) {
      if (this.#entries.size <= this.#maxEntries) break;
      this.#entries.delete(name);
    }
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** One text for each key: the length says where the id ends. */
export const nameOf = ({ copy, recipient }: LedgerKey): string => `${copy.length} ${copy}${recipient}`;
