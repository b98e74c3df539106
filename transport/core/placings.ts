/**
 * The searches for a shadow under way, by copy. Owns: what each member has to do for us because of them (protocol.md 6a), kept as they change: a search is
 * begun for every message, and counting over all of them each time cost a twentieth of a transport.
 */
import type { CopyId } from '../../common/message.ts';
import type { Attempt, Placing } from './state.ts';

interface Burden {
  /** Streams without an answer. */
  readonly open: Set<Attempt>;
  /** ENDs without one, oldest first. */
  readonly ends: Set<Attempt>;
}

type Change = Partial<Pick<Attempt, 'status' | 'endSentAtMs' | 'inDoubt'>>;

export class Placings extends Map<CopyId, Placing> {
  readonly #burdens = new Map<string, Burden>();

  override set(id: CopyId, placing: Placing): this {
    this.#forget(this.get(id));
    for (const attempt of placing.attempts) this.#note(attempt);
    return super.set(id, placing);
  }

  override delete(id: CopyId): boolean {
    this.#forget(this.get(id));
    return super.delete(id);
  }

  /** One more member is tried. */
  begin(placing: Placing, attempt: Attempt): void {
    placing.attempts.push(attempt);
    if (this.get(placing.id) === placing) this.#note(attempt);
  }

  change(placing: Placing, attempt: Attempt, change: Change): void {
    Object.assign(attempt, change);
    if (this.get(placing.id) === placing) this.#note(attempt);
  }

  /** Streams to the member that it has not answered. */
  openAt(member: string): number {
    return this.#burdens.get(member)?.open.size ?? 0;
  }

  /** When the oldest END that the member has not answered was sent; null when there is none. */
  oldestEndAt(member: string): number | null {
    for (const { endSentAtMs } of this.#burdens.get(member)?.ends ?? []) return endSentAtMs;
    return null;
  }

  #note(attempt: Attempt): void {
    const { member, status, endSentAtMs, inDoubt } = attempt;
    let burden = this.#burdens.get(member);
    if (burden === undefined) {
      burden = { open: new Set(), ends: new Set() };
      this.#burdens.set(member, burden);
    }
    if (status === 'failed' || status === 'stored') burden.open.delete(attempt);
    else burden.open.add(attempt);
    if (endSentAtMs !== null && (status === 'sentEnd' || inDoubt)) burden.ends.add(attempt);
    else burden.ends.delete(attempt);
  }

  #forget(placing: Placing | undefined): void {
    for (const attempt of placing?.attempts ?? []) {
      const burden = this.#burdens.get(attempt.member);
      burden?.open.delete(attempt);
      burden?.ends.delete(attempt);
    }
  }
}
