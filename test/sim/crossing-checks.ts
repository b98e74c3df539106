/**
 * What must be true of mail that goes from one boundary, or site, to another (semantics.md D3), by the word of the disks. Owns: which copy over there came from
 * which message, and the rules: nothing counts as relayed before it has its two copies over there; there it is kept as if a client had been told 250; one message
 * is one message in each boundary; none comes by a second time; what is resubmitted never crosses.
 */
import type { CopyId } from '../../common/message.ts';
import { CROSSED, deliveryIdOf, passedBoundaries } from '../../transport/core/copy.ts';
import type { CopyState, StoredCopy } from '../../transport/store/database.ts';
import type { Volume } from './durable-view.ts';
import type { World } from './world.ts';

/** A copy that came over a link. */
export interface Arrival {
  readonly id: CopyId;
  /** The message as it was accepted. */
  readonly from: CopyId;
  readonly source: string;
  readonly boundary: string;
  readonly digest: string;
  readonly addresses: readonly string[];
}

export class Crossings {
  readonly #world: World;
  readonly #arrivals = new Map<CopyId, Arrival>();
  /** Of them, those by which somebody holds his own copy for done. */
  readonly #relayed = new Map<CopyId, Arrival>();
  /** Boundaries in which a message was accepted from a client: two, when a front end replayed it and the lower try lived on. */
  readonly #homes = new Map<CopyId, Set<string>>();
  /** By message, boundary and recipient. */
  readonly #ids = new Map<string, CopyId>();

  constructor(world: World) {
    this.#world = world;
    world.view.onCommitted = (volume, stored) => this.#committed(volume, stored);
    world.view.onOutcomes = (volume, before, after) => this.#outcomes(volume, before, after);
  }

  /** The message that a copy came from over a link; itself where it did not. */
  originOf(id: CopyId): CopyId {
    return this.#arrivals.get(id)?.from ?? id;
  }

  isArrival(id: CopyId): boolean {
    return this.#arrivals.has(id);
  }

  /** Every copy by which a recipient of a message was, or is, served: where it was accepted, and where it went from there. */
  stagesOf(id: CopyId, address: string, index: number): readonly { readonly id: CopyId; readonly index: number }[] {
    const found = [{ id, index }];
    for (const { id: other, from, addresses } of this.#arrivals.values()) {
      const at = addresses.indexOf(address);
      if (from === id && at >= 0) found.push({ id: other, index: at });
    }
    return found;
  }

  /** A message, or a report, and what it became over links. */
  idsOf(id: CopyId): readonly CopyId[] {
    return [id, ...[...this.#arrivals.values()].flatMap((one) => (one.from === id ? [one.id] : []))];
  }

  /**
   * Reports there may be about one recipient. What two boundaries accepted, the one of a lower try and the one of its replay, is two messages where it crosses
   * from one to the other; without links both make the same report.
   */
  mostReports(id: CopyId): number {
    const arrived = [...this.#arrivals.values()].some(({ from }) => from === id);
    return arrived ? (this.#homes.get(id)?.size ?? 1) : 1;
  }

  /** Promised over there: like what was answered 250. */
  get relayed(): readonly Arrival[] {
    return [...this.#relayed.values()];
  }

  #committed(volume: Volume, { facts }: StoredCopy): void {
    const passed = passedBoundaries(facts);
    const source = passed.at(-1);
    if (passed.length === 0 && facts.kind === 'message') {
      const homes = this.#homes.get(facts.id) ?? new Set<string>();
      this.#homes.set(facts.id, homes.add(this.#world.boundaryOf(volume.member) ?? ''));
    }
    if (source === undefined || facts.kind === 'resubmission') return;
    const boundary = this.#world.boundaryOf(volume.member) ?? '';
    const addresses = facts.envelope.recipients.map(({ address }) => address);
    const from = deliveryIdOf(facts);
    if (!this.#arrivals.has(facts.id)) this.#world.counted('crossings');
    this.#arrivals.set(facts.id, { id: facts.id, from, source, boundary, digest: facts.digest, addresses });
    if (passed.slice(0, -1).includes(boundary))
      this.#world.violate(`D3: ${facts.id} of ${from} came by ${boundary} again: ${passed.join(', ')}`);
    for (const address of addresses) {
      // To another site of its own boundary it is another message there.
      const key = `${from} ${boundary} ${source === boundary} ${address}`;
      const known = this.#ids.get(key);
      // What was refused there is nothing: it may come again among others.
      const isRefused = known !== undefined && this.#world.view.aborts.has(known) && !this.#world.view.isFinal(known);
      if (known !== undefined && known !== facts.id && !isRefused)
        this.#world.violate(`D3: ${from} for ${address} came to ${boundary} as ${known} and as ${facts.id}`);
      this.#ids.set(key, facts.id);
    }
  }

  #outcomes(volume: Volume, { facts, state }: StoredCopy, after: CopyState): void {
    if (after.epoch.owner !== volume.identity) return;
    for (const [index, recipient] of (after.recipients ?? []).entries()) {
      // Those of which nothing was written yet are missing.
      const { address = '', outcome, connector } = recipient ?? {};
      if (outcome !== 'relayed' || connector !== undefined || state.recipients?.[index]?.outcome === 'relayed')
        continue;
      if (facts.kind === 'resubmission')
        this.#world.violate(`S9: ${volume.member} relayed the resubmission ${facts.id} to another boundary`);
      const from = deliveryIdOf(facts);
      const source = this.#world.boundaryOf(volume.member);
      const safe = [...this.#arrivals.values()].filter(
        // A replay may have been accepted in another boundary, too, and come from there.
        (one) =>
          one.from === from &&
          (one.source === source || one.boundary !== source) &&
          one.addresses.includes(address) &&
          this.#isSafe(one),
      );
      for (const one of safe) this.#relayed.set(one.id, one);
      if (safe.length === 0)
        this.#world.violate(
          `D3: ${volume.member} holds ${facts.id} for relayed to ${address}, and nobody has it as policy wants it over there`,
        );
    }
  }

  get #wanted(): number {
    return this.#world.document.policies.shadowRedundancy.rejectMessageOnShadowFailure ? 2 : 1;
  }

  #isSafe({ id, digest }: Arrival): boolean {
    const { view } = this.#world;
    const held = view.bereft.has(id) ? view.everHeld(id, digest) : view.holders(id, digest).length;
    return view.isFinal(id) || held >= this.#wanted;
  }

  /** S2 over there. */
  checkKept(): void {
    const { view, doomed } = this.#world;
    for (const { id, digest, from } of this.#relayed.values()) {
      if (view.isFinal(id) || doomed.has(id)) continue;
      const copies = view.holders(id, digest).length;
      if (copies < (view.bereft.has(id) ? 1 : this.#wanted))
        this.#world.violate(`S2: ${id}, relayed for ${from}, is not final and rests on ${copies} volumes`);
    }
  }
}

/** Bodies that came over a link are mail, though no client of this boundary sent it. */
export const isArrival = ({ events }: StoredCopy['facts']): boolean => events.some(({ event }) => event === CROSSED);
