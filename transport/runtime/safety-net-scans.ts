/**
 * Walks over the Safety Nets for the core, page by page and only as fast as it asks. Owns: how far each scan has come; nothing is held in the database between
 * two pages. Promise: memory is one page; what rested when the scan began and still does is met once; what comes to rest while it runs is not, so that a scan
 * whose entries are changed ends; an entry that cannot be read is counted and passed over (the database reports it).
 */
import type { Logger } from '../../common/platform/log.ts';
import type { QueueDatabase, SafetyNetFilter, SafetyNetPosition, StoredCopy } from '../store/database.ts';

export interface ScanPage {
  readonly scan: number;
  readonly copies: readonly StoredCopy[];
  readonly unreadable: number;
  readonly done: boolean;
}

interface Scan {
  filter: SafetyNetFilter;
  readonly pageSize: number;
  after: SafetyNetPosition | undefined;
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

  /** What was handed over to the database before is met: the end is taken once it has been written. */
  start(scan: number, filter: SafetyNetFilter, pageSize: number): void {
    const found: Scan = { filter, pageSize, after: filter.after, busy: true };
    this.#scans.set(scan, found);
    const begin = (): void => {
      found.filter = { ...filter, through: filter.through ?? this.#database.safetyNetEnd() };
      found.busy = false;
      this.next(scan);
    };
    // A database that failed ends the process; nothing is to be read then.
    this.#database.commit([]).then(begin, (error: unknown) => this.#log.debug({ err: String(error) }, 'no scan'));
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
    this.#scans.delete(scan);
  }

  async #read(scan: number, found: Scan): Promise<void> {
    let unreadable = 0;
    for (;;) {
      const { after } = found;
      const filter = after === undefined ? found.filter : { ...found.filter, after };
      const page = await this.#database.safetyNetCopies(filter, found.pageSize);
      unreadable += page.unreadable;
      if (this.#scans.get(scan) !== found) return;
      found.after = page.next ?? undefined;
      // Many entries that do not match: the database paused to let others in.
      if (page.copies.length === 0 && page.next !== null) continue;
      this.#deliver(scan, found, { scan, copies: page.copies, unreadable, done: page.next === null });
      return;
    }
  }

  #deliver(scan: number, found: Scan, page: ScanPage): void {
    found.busy = false;
    if (page.done) this.#scans.delete(scan);
    this.#onPage(page);
  }
}
