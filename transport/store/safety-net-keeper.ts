/**
 * What leaves the Safety Nets with its segment: entries that have reached the hold time, and the oldest ones when the Safety Nets hold
 * more than their quota (semantics.md N8). Owns: that order, one at a time; copying out of those segments what is in transit, which
 * never goes. Promise: what is dropped is dropped by one record, so a crash leaves all of it or none. Fails with the disk's error.
 */
import type { Logger } from '../../common/platform/log.ts';
import { extentsOf, segmentsOf } from './body-place.ts';
import { LogBody } from './body-writer.ts';
import type { SafetyNetShed } from './database.ts';
import type { LogAccess } from './log-access.ts';
import type { LogState } from './log-state.ts';
import type { LogWriter } from './log-writer.ts';
import { internalCall, type PreparedWrite, prepareSmall } from './prepared.ts';
import type { Owner } from './safety-net-index.ts';

export interface KeeperOptions {
  readonly state: LogState;
  readonly access: LogAccess;
  readonly writer: LogWriter;
  readonly log: Logger;
  /** Segments may have become free. */
  readonly recycle: () => void;
}

const messagesOf = (owner: Owner): number => owner.primary.messages + owner.shadow.messages;
const bytesOf = (owner: Owner): number => owner.primary.bytes + owner.shadow.bytes;

export class SafetyNetKeeper {
  readonly #options: KeeperOptions;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  expire(beforeMs: number): Promise<number> {
    return this.#inTurn(() => this.#expire(beforeMs));
  }

  shed(maxBytes: number): Promise<SafetyNetShed> {
    return this.#inTurn(() => this.#shed(maxBytes));
  }

  /** From when on the Safety Nets are whole, said for the first time. */
  begin(wallMs: number): void {
    const item = prepareSmall({ kind: 'expire', owners: [], completeSinceMs: Math.floor(wallMs) });
    const ignore = (): void => undefined;
    this.#options.state.net.setCompleteSince(Math.floor(wallMs));
    this.#options.writer.push(internalCall(item, { note: true, resolve: ignore, reject: ignore }));
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  async #expire(beforeMs: number): Promise<number> {
    const { state, writer, log } = this.#options;
    const { net } = state;
    for (const { entry } of net.open.values()) {
      if (entry.finalAtMs >= beforeMs) continue;
      // Once per hold time at most: the entries that follow are younger.
      await writer.seal();
      break;
    }
    const expired = [...net.owners.values()].filter((owner) => owner.maxFinalMs < beforeMs);
    if (expired.length === 0) return 0;
    const messages = expired.reduce((sum, owner) => sum + messagesOf(owner), 0);
    log.info({ segments: expired.length, messages }, 'queue database: Safety Net segments expire');
    await this.#drop(expired, null);
    return messages;
  }

  async #shed(maxBytes: number): Promise<SafetyNetShed> {
    const { state, writer, log } = this.#options;
    const { net } = state;
    const total = (): number => net.counts().primary.bytes + net.counts().shadow.bytes;
    const shed = { messages: 0, bytes: 0, completeSinceMs: net.counts().completeSinceMs };
    if (total() <= maxBytes) return shed;
    const inFooters = [...net.owners.values()].reduce((sum, owner) => sum + bytesOf(owner), 0);
    if (total() - inFooters > maxBytes) await writer.seal();
    const chosen: Owner[] = [];
    let left = total();
    for (const owner of net.owners.values()) {
      if (left <= maxBytes) break;
      left -= bytesOf(owner);
      shed.messages += messagesOf(owner);
      shed.bytes += bytesOf(owner);
      chosen.push(owner);
    }
    if (chosen.length === 0) return shed;
    const youngest = chosen.reduce((most, owner) => Math.max(most, owner.maxFinalMs), 0);
    await this.#drop(chosen, youngest + 1);
    shed.completeSinceMs = net.counts().completeSinceMs;
    log.warn(
      { ...shed, maxBytes },
      'queue database: the Safety Nets are over their quota, the oldest entries are gone',
    );
    return shed;
  }

  async #drop(owners: readonly Owner[], completeSinceMs: number | null): Promise<void> {
    const { state, recycle } = this.#options;
    const touched = new Set(owners.flatMap((owner) => [...owner.refs.keys(), owner.generation]));
    const generations = owners.map((owner) => owner.generation);
    await this.#internal(prepareSmall({ kind: 'expire', owners: generations, completeSinceMs }));
    await this.#copyOut(new Set([...touched].filter((generation) => !state.net.needs(generation))));
    recycle();
  }

  #internal(item: PreparedWrite): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#options.writer.push(internalCall(item, { note: false, resolve, reject }));
    });
  }

  /** Copies in transit leave segments whose Safety Net entries are gone. */
  async #copyOut(generations: Set<number>): Promise<void> {
    const { state, access, writer, log } = this.#options;
    for (const generation of [...generations])
      if (generation === writer.currentGeneration || !state.liveRefs.has(generation)) generations.delete(generation);
    if (generations.size === 0) return;
    const ids = [...state.index.copies].flatMap(([id, { body }]) =>
      segmentsOf(body).some((generation) => generations.has(generation)) ? [id] : [],
    );
    for (const id of ids) {
      // It may have moved, or be gone, since the last one was copied.
      const copy = state.index.copies.get(id);
      if (copy === undefined || !segmentsOf(copy.body).some((generation) => generations.has(generation))) continue;
      // It frees the segment it is copied out of.
      const body = new LogBody(id, writer, { mayUseReserve: true });
      try {
        for (const extent of extentsOf(copy.body)) await body.append(await access.readExtent(extent));
      } catch (error) {
        body.discard();
        log.error({ id, error: String(error) }, 'queue database: a copy cannot be moved, its segment stays');
        continue;
      }
      await this.#internal({ kind: 'relocate', id, from: copy.body, body });
    }
  }
}
