/** Three cores, frames delivered in any order, sessions cut, restarts, one lost disk, a drain: what was accepted is delivered, and nothing waits for ever. */
import { describe, expect, test } from 'vitest';
import { OTHER, PEER, SELF } from './core-bench.ts';
import { NAMES, Trio } from './core-trio.ts';

function random(seed: number): (count: number) => number {
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  return (count) => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return count === 0 ? 0 : state % count;
  };
}

const nameAt = (at: number): string => NAMES[at] ?? SELF;

function setDraining(trio: Trio, member: string | null): void {
  const { document } = trio.bench(SELF).server;
  const next = {
    ...document,
    generation: document.generation + 1,
    members: document.members.map((one) => ({
      ...one,
      state: one.name === member ? ('draining' as const) : ('active' as const),
    })),
  };
  for (const name of NAMES) trio.bench(name).event({ kind: 'TopologyChanged', document: next });
  trio.pump();
}

/** A wrong word of the orchestrator: the member lives. */
function retire(trio: Trio, member: string): void {
  const { document } = trio.bench(SELF).server;
  const { identity } = trio.bench(member);
  const retired = [...document.retired, { member, identity, uid: null, reason: 'lost' as const }];
  const next = { ...document, generation: document.generation + 1, retired };
  for (const name of NAMES) trio.bench(name).event({ kind: 'TopologyChanged', document: next });
  trio.pump();
}

/** The invariants once everybody is connected and quiet again. */
function check(trio: Trio, seed: number): void {
  for (const name of NAMES) setHealed(trio, name);
  trio.deliversMail = true;
  trio.settle();
  for (let round = 0; round < 40; round++) {
    trio.pass(5_000);
    trio.settle();
  }
  const delivered = new Set(trio.delivered.map(({ id }) => id));
  const missing = [...trio.answers].filter(([id, outcome]) => outcome === 'protected' && !delivered.has(id));
  const left = NAMES.flatMap((name) =>
    [...trio.bench(name).server.copies.values()].map(
      ({ facts, state }) =>
        `${name} ${facts.id} ${state.queue} ${JSON.stringify(state.epoch)} ${JSON.stringify(state.placements)}`,
    ),
  );
  const tail = trio.log.slice(-60).join('\n');
  expect(missing, `seed ${seed}: lost\n${tail}`).toEqual([]);
  expect(left, `seed ${seed}: left over\n${tail}`).toEqual([]);
  expect(leftovers(trio), `seed ${seed}: not cleaned up\n${tail}`).toEqual([]);
  const alone = [...delivered].filter((id) => NAMES.filter((name) => trio.bench(name).resting.has(id)).length < 2);
  expect(alone, `seed ${seed}: rests alone\n${tail}`).toEqual([]);
}

/** What should be empty by now. */
function leftovers(trio: Trio): string[] {
  const found: string[] = [];
  for (const name of NAMES) {
    const { server } = trio.bench(name);
    for (const { id, placements } of server.tombstones.values())
      found.push(`${name} tombstone ${id} ${JSON.stringify(placements)}`);
    for (const [member, ids] of server.unasked)
      if (ids.size > 0) found.push(`${name} unasked ${member} ${[...ids.keys()].join()}`);
    for (const set of [
      'single',
      'moving',
      'shadowless',
      'doubtful',
      'takingOver',
      'away',
      'composing',
      'heldEnds',
    ] as const)
      if (server[set].size > 0) found.push(`${name} ${set} ${[...server[set]].join()}`);
    for (const map of [
      'placings',
      'intakes',
      'intakeOf',
      'incoming',
      'guarded',
      'resolveWaiters',
      'deliveries',
    ] as const)
      if (server[map].size > 0) found.push(`${name} ${map} ${[...server[map].keys()].join()}`);
    for (const [owner, ids] of server.held)
      if (ids.size > 0) found.push(`${name} held of ${owner}: ${[...ids].join()}`);
    const { rehoming } = server;
    if (!rehoming.done || rehoming.waiting.length > 0 || rehoming.sending.size > 0 || rehoming.turnedAway.size > 0)
      found.push(
        `${name} rehoming ${JSON.stringify([rehoming.done, rehoming.waiting.length, [...rehoming.sending.keys()]])}`,
      );
    for (const other of NAMES)
      if (server.placings.openAt(other) > 0 || server.placings.oldestEndAt(other) !== null)
        found.push(`${name} takes ${other} to owe it an answer`);
    if (server.reshadowing !== 0) found.push(`${name} reshadowing ${server.reshadowing}`);
  }
  return found;
}

function setHealed(trio: Trio, name: string): void {
  for (const other of NAMES) if (other !== name) trio.connect(name, other);
}

function run(
  seed: number,
  faults: { readonly wipe: boolean; readonly drain: boolean; readonly words?: boolean },
): void {
  const trio = new Trio();
  const draw = random(seed);
  let accepted = 0;
  let wiped = !faults.wipe;
  trio.deliversMail = draw(2) === 0;
  for (let at = 0; at < 60; at++) {
    const one = nameAt(draw(3));
    const other = nameAt(draw(3));
    const dice = draw(30);
    if (dice < 14) for (let left = draw(6); left >= 0; left--) trio.step(draw);
    else if (dice < 18) {
      accepted += 1;
      trio.accept(one, `M${accepted}`);
    } else if (dice < 20 && one !== other) trio.cut(one, other);
    else if (dice === 22 && faults.words) retire(trio, one);
    else if (dice < 23 && one !== other) trio.connect(one, other);
    else if (dice === 23) trio.restart(one);
    else if (dice === 24 && !wiped) {
      // Single faults only: everything must be on two databases first.
      setHealed(trio, SELF);
      setHealed(trio, PEER);
      trio.settle();
      trio.pass(20_000);
      trio.settle();
      wiped = true;
      trio.wipe(one);
    } else if (dice === 25) trio.pass(1_000 * (1 + draw(8)));
    else if (dice === 26) trio.deliversMail = draw(2) === 0;
    else if (dice === 27 && faults.drain) setDraining(trio, draw(2) === 0 ? one : null);
    else if (dice === 28) trio.pass(35_000);
    else if (dice === 29) {
      trio.pass(30_000);
      trio.bench(one).event({ kind: 'OutsideReached' });
      trio.pass(15_000);
    }
  }
  setDraining(trio, null);
  check(trio, seed);
}

describe('three cores', () => {
  test('rules 9, 12, 13: cuts and restarts', () => {
    for (let seed = 1; seed <= 60; seed++) run(seed, { wipe: false, drain: false });
  });

  test('rules 10, 13, 17, L4: one disk is lost', () => {
    for (let seed = 1_001; seed <= 1_060; seed++) run(seed, { wipe: true, drain: false });
  });

  test('rule 4: members that live are said to be lost', () => {
    for (let seed = 3_001; seed <= 3_060; seed++) run(seed, { wipe: false, drain: false, words: true });
  });

  test('rules 15, 16: drains begun and cancelled', () => {
    for (let seed = 2_001; seed <= 2_060; seed++) run(seed, { wipe: false, drain: true });
  });

  test('rules 9, 15, 16: a drain ends empty', () => {
    const trio = new Trio();
    trio.deliversMail = false;
    for (const [at, name] of [SELF, PEER, OTHER, SELF, PEER].entries()) trio.accept(name, `M${at}`);
    trio.settle();
    setDraining(trio, SELF);
    for (let round = 0; round < 30; round++) {
      trio.pass(1_000);
      trio.settle();
    }
    expect(trio.bench(SELF).server.latch).not.toBeNull();
    expect(trio.bench(SELF).server.copies.size).toBe(0);
    for (const name of [PEER, OTHER]) expect(trio.bench(name).server.single.size).toBe(0);
    setDraining(trio, null);
    check(trio, 0);
  });
});
