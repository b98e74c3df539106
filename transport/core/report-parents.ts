/**
 * About which message a report is. A report of this life knows it itself; of those from before a restart, or made by another member, all copies were looked through at the end of each: 5 ms
 * with a hundred thousand. Owns: that every copy in memory is found by the reports it lists. PURE.
 */
import type { CopyId } from '../../common/message.ts';
import type { Copy } from './copy.ts';

type Reporting = Pick<Copy, 'facts' | 'state'>;

export class ReportParents {
  readonly #parents = new Map<CopyId, CopyId>();

  /** By report; undefined: no copy here lists it. */
  get(report: CopyId): CopyId | undefined {
    return this.#parents.get(report);
  }

  /** One more than its state says, or said when it was added. */
  set(report: CopyId, parent: CopyId): void {
    this.#parents.set(report, parent);
  }

  add({ facts, state }: Reporting): void {
    for (const report of state.dsns) this.#parents.set(report, facts.id);
  }

  remove({ state }: Reporting): void {
    for (const report of state.dsns) this.#parents.delete(report);
  }
}
