/**
 * Walks over the Safety Nets for the core, page by page and only as fast as it asks. Owns: one iterator per scan. Promise: memory is one page; an entry that
 * cannot be read is counted, logged and passed over. What comes to rest while a scan runs may or may not be seen by it.
 */
import type { Logger } from '../../common/platform/log.ts';
import type { QueueDatabase, SafetyNetEntry, SafetyNetFilter, StoredCopy } from '../store/database.ts';

export interface ScanPage {
  readonly scan: number;
  readonly copies: readonly StoredCopy[];
  readonly unreadable: number;
  readonly done: boolean;
}

interface Scan {
  readonly entries: AsyncIterator<SafetyNetEntry>;
  readonly pageSize: number;
  busy: boolean;
}

export class SafetyNetScans {
  readonly #database: QueueDatabase;
  readonly #log: Logger;
  readonly #onPage: (page: ScanPage) => void;
  readonly #scans = new Map<number, Scan>();

  constructor(database: QueueDatabase, log: Logger, onPage: (page: ScanPage) => void) {
    this.#database = database;
    this.#log = log;
    this.#onPage = onPage;
  }

  start(scan: number, filter: SafetyNetFilter, pageSize: number): void {
    const entries = this.#database.safetyNet(filter)[Symbol.asyncIterator]();
    this.#scans.set(scan, { entries, pageSize, busy: false });
    this.next(scan);
  }

  next(scan: number): void {
    const found = this.#scans.get(scan);
    if (found === undefined || found.busy) return;
    found.busy = true;
    this.#read(scan, found).catch((error: unknown) => {
      this.#log.error({ scan, err: String(error) }, 'Safety Net scan failed');
      this.#deliver(scan, found, { scan, copies: [], unreadable: 1, done: true });
    });
  }

  end(scan: number): void {
    const found = this.#scans.get(scan);
    this.#scans.delete(scan);
    found?.entries.return?.().catch((error: unknown) => this.#log.debug({ scan, err: String(error) }, 'scan ended'));
  }

  async #read(scan: number, { entries, pageSize }: Scan): Promise<void> {
    const copies: StoredCopy[] = [];
    let unreadable = 0;
    let done = false;
    while (copies.length < pageSize) {
      const next = await entries.next();
      if (next.done === true) {
        done = true;
        break;
      }
      try {
        const stored = await this.#database.lookup(next.value.id);
        if (stored?.damaged !== undefined) unreadable += 1;
        // Null: it left the Safety Net since its entry was read.
        else if (stored !== null) copies.push(stored);
      } catch (error) {
        unreadable += 1;
        this.#log.error({ attemptId: next.value.id, err: String(error) }, 'Safety Net entry unreadable');
      }
    }
    const found = this.#scans.get(scan);
    if (found !== undefined) this.#deliver(scan, found, { scan, copies, unreadable, done });
  }

  #deliver(scan: number, found: Scan, page: ScanPage): void {
    found.busy = false;
    if (page.done) this.#scans.delete(scan);
    this.#onPage(page);
  }
}
