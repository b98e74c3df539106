/** A model of what a sequence of calls means, and a generator of random workloads; for the crash tests. */

import type { CopyId } from '../../common/message.ts';
import type { CopyState, QueueDatabase, Write } from '../../transport/store/database.ts';
import { inSafetyNet } from '../../transport/store/live-index.ts';
import type { SeededRandom } from '../sim/scheduler.ts';
import { bodyOf, collect, copyId, delivered, factsOf, pending, readAll, stateOf, tombstoneOf } from './samples.ts';

interface Held {
  readonly sizeBytes: number;
  readonly state: CopyState;
}

export class StoreModel {
  readonly live = new Map<CopyId, Held>();
  readonly resting = new Map<CopyId, Held>();
  readonly tombstones = new Map<CopyId, number>();
  readonly facts = new Map<string, unknown>();

  apply(writes: readonly Write[]): void {
    for (const write of writes) this.#one(write);
  }

  #one(write: Write): void {
    switch (write.kind) {
      case 'commit':
        this.resting.delete(write.facts.id);
        this.live.set(write.facts.id, { sizeBytes: write.facts.sizeBytes, state: write.state });
        return;
      case 'state': {
        const held = this.live.get(write.id);
        if (held === undefined) return;
        const recipients = write.outcomes === undefined ? write.state.recipients : [...(held.state.recipients ?? [])];
        for (const [index, outcome] of write.outcomes ?? [])
          if (recipients !== null) (recipients as unknown[])[index] = outcome;
        this.live.set(write.id, { sizeBytes: held.sizeBytes, state: { ...write.state, recipients } });
        return;
      }
      case 'move':
      case 'recall': {
        const [from, to] = write.kind === 'move' ? [this.live, this.resting] : [this.resting, this.live];
        const held = from.get(write.id);
        from.delete(write.id);
        if (held !== undefined) to.set(write.id, { sizeBytes: held.sizeBytes, state: write.state });
        return;
      }
      case 'remove':
        this.live.delete(write.id);
        this.resting.delete(write.id);
        return;
      case 'tombstone':
        this.tombstones.set(write.tombstone.id, write.tombstone.abortedThrough);
        return;
      case 'forget':
        this.tombstones.delete(write.id);
        return;
      case 'fact':
        if (write.value === null) this.facts.delete(write.key);
        else this.facts.set(write.key, write.value);
        return;
      default:
    }
  }

  /** Everything in one comparable text. */
  picture(): string {
    const held = (map: Map<CopyId, Held>): unknown =>
      [...map]
        .map(([id, copy]) => [id, copy.sizeBytes, copy.state])
        .sort((a, b) => (String(a[0]) < String(b[0]) ? -1 : 1));
    return JSON.stringify([held(this.live), held(this.resting), [...this.tombstones].sort(), [...this.facts].sort()]);
  }
}

/** The same of an open store, read through its interface; bodies are compared with what they must be. */
export async function pictureOf(store: QueueDatabase): Promise<string> {
  const model = new StoreModel();
  for (const { facts, state } of store.recovered.copies) {
    await checkBody(store, facts.id, facts.sizeBytes);
    model.live.set(facts.id, { sizeBytes: facts.sizeBytes, state });
  }
  let messages = 0;
  let bytes = 0;
  for (const entry of await collect(store.safetyNet({}))) {
    const copy = await store.lookup(entry.id);
    if (copy === null || !inSafetyNet(copy.state.queue)) throw new Error(`${entry.id} is listed but not found`);
    await checkBody(store, entry.id, copy.facts.sizeBytes);
    if (model.resting.has(entry.id)) throw new Error(`${entry.id} is listed twice`);
    model.resting.set(entry.id, { sizeBytes: copy.facts.sizeBytes, state: copy.state });
    messages += 1;
    bytes += entry.sizeBytes;
  }
  const counts = store.safetyNetCounts();
  if (
    counts.primary.messages + counts.shadow.messages !== messages ||
    counts.primary.bytes + counts.shadow.bytes !== bytes
  )
    throw new Error(`counted ${JSON.stringify(counts)}, listed ${messages} with ${bytes} bytes`);
  for (const tombstone of store.recovered.tombstones) model.tombstones.set(tombstone.id, tombstone.abortedThrough);
  for (const [key, value] of store.recovered.facts) model.facts.set(key, value);
  return model.picture();
}

async function checkBody(store: QueueDatabase, id: CopyId, sizeBytes: number): Promise<void> {
  const bytes = await readAll(store, id);
  if (!bytes.equals(bodyOf(id, sizeBytes))) throw new Error(`the body of ${id} is not what was written`);
}

/** Random calls that are legal after all earlier ones. */
export class Workload {
  readonly model: StoreModel;
  readonly #random: SeededRandom;
  readonly #maxBody: number;
  #next: number;

  constructor(random: SeededRandom, model: StoreModel, firstId: number, maxBody: number) {
    this.#random = random;
    this.model = model;
    this.#next = firstId;
    this.#maxBody = maxBody;
  }

  get nextId(): number {
    return this.#next;
  }

  /** One call; already applied to the model. */
  call(store: QueueDatabase): readonly Write[] {
    const writes: Write[] = [];
    const count = this.#random.chance(0.3) ? this.#random.integer(2, 5) : 1;
    const touched = new Set<CopyId>();
    if (this.#random.chance(0.15)) {
      writes.push(...this.#pair(store, touched));
      this.model.apply(writes);
    }
    for (let i = 0; i < count; i++) {
      const write = this.#write(store, touched);
      writes.push(write);
      this.model.apply([write]);
    }
    return writes;
  }

  #pick(map: Map<CopyId, Held>, touched: ReadonlySet<CopyId>): CopyId | null {
    const ids = [...map.keys()].filter((id) => !touched.has(id));
    return ids.length === 0 ? null : this.#random.pick(ids);
  }

  /** Two writes of one copy in one call: a change of role at rest, or a copy that arrives final. */
  #pair(store: QueueDatabase, touched: Set<CopyId>): Write[] {
    const random = this.#random;
    const resting = this.#pick(this.model.resting, touched);
    const out: Extract<Write, { kind: 'commit' | 'recall' }> =
      resting === null || random.chance(0.3)
        ? this.#commit(store, resting !== null && random.chance(0.3) ? resting : copyId(this.#next++))
        : { kind: 'recall', id: resting, state: this.#state('submission') };
    const id = out.kind === 'commit' ? out.facts.id : out.id;
    touched.add(id);
    return [out, this.#move(id)];
  }

  #move(id: CopyId): Extract<Write, { kind: 'move' }> {
    const random = this.#random;
    const queue = random.chance(0.5) ? 'primarySafetyNet' : 'shadowSafetyNet';
    const recipients = [delivered('user0@example.org', random.pick(['mbx1', 'mbx2', 'mbx3']))];
    return { kind: 'move', id, state: stateOf(queue, { recipients, finalAtMs: random.integer(1, 9999) }) };
  }

  #write(store: QueueDatabase, touched: Set<CopyId>): Write {
    const random = this.#random;
    const live = this.#pick(this.model.live, touched);
    const resting = this.#pick(this.model.resting, touched);
    const choice = random.integer(0, 11);
    const use = (id: CopyId): CopyId => {
      touched.add(id);
      return id;
    };
    if (choice <= 3 || live === null) return this.#commit(store, use(copyId(this.#next++)));
    if (choice === 4) return { kind: 'state', id: live, state: this.#state('delivery') };
    if (choice === 5) {
      const held = this.model.live.get(live)?.state.recipients ?? null;
      if (held === null) return { kind: 'state', id: live, state: this.#state('delivery') };
      return {
        kind: 'state',
        id: live,
        state: this.#state('delivery'),
        outcomes: [[0, delivered('x@example.org', 'mbx9')]],
      };
    }
    if (choice <= 7) return this.#move(use(live));
    if (choice === 8 && resting !== null) return { kind: 'recall', id: use(resting), state: this.#state('submission') };
    if (choice === 9) return { kind: 'remove', id: use(random.chance(0.5) && resting !== null ? resting : live) };
    if (choice === 10)
      return { kind: 'tombstone', tombstone: tombstoneOf(copyId(random.integer(0, 20)), random.integer(1, 9)) };
    if (random.chance(0.5)) return { kind: 'forget', id: copyId(random.integer(0, 20)) };
    return { kind: 'fact', key: `k${random.integer(0, 4)}`, value: random.chance(0.2) ? null : random.integer(0, 99) };
  }

  #state(queue: 'submission' | 'delivery'): CopyState {
    const recipients = this.#random.chance(0.5) ? [pending('a@example.org'), pending('b@example.org')] : null;
    return stateOf(queue, { ageMs: this.#random.integer(0, 1e6), recipients });
  }

  #commit(store: QueueDatabase, id: CopyId): Extract<Write, { kind: 'commit' }> {
    const size = this.#random.chance(0.1) ? this.#random.integer(0, this.#maxBody) : this.#random.integer(0, 3000);
    const bytes = bodyOf(id, size);
    const body = store.beginBody(id);
    const piece = this.#random.pick([700, 5000, 100_000]);
    for (let at = 0; at < size; at += piece) void body.append(bytes.subarray(at, at + piece));
    return { kind: 'commit', facts: factsOf(id, body), state: this.#state('submission'), body };
  }
}
