/**
 * Kinds of fault that came later. Owns: their doses. They are drawn and planned from a random stream of their own, so that a seed that draws none of them is the
 * history that it was before they existed.
 */
import type { ControlFrame } from '../../common/peer/messages.ts';
import { sharedState } from '../../transport/core/copy.ts';
import type { StoredCopy } from '../../transport/store/database.ts';
import type { Doses } from './faults.ts';
import { resubmit, wallOf } from './orchestrator.ts';
import type { Pod } from './pod.ts';
import { keptFromLosing, wipe } from './volumes.ts';
import type { World } from './world.ts';

export function scheduleLaterFaults(doses: Doses): void {
  const { world, random, at, later } = doses;
  const somebody = (): Pod => random.pick(world.transports);
  const two = (): readonly [Pod, Pod] | null => {
    const [a, b] = [somebody(), somebody()];
    return a.name === b.name ? null : [a, b];
  };
  at('resetMembers', 3, () => {
    const pair = two();
    if (pair === null) return;
    const [a, b] = pair;
    world.troubled([a.name, b.name], 1_000);
    // What is said next may take its time: what each lists to the other arrives late.
    if (random.chance(0.5)) {
      world.network.clog(a.name, b.name, random.integer(50, 2_000));
      later(random.integer(500, 4_000), () => world.network.restore(a.name, b.name));
    }
    world.resetConnections(a.name, b.name);
  });
  at('wrongClockAtStart', 1, () => {
    const pod = somebody();
    world.kill(pod.key, random.chance(0.5) ? 'process' : 'power');
    pod.clockErrorMs += random.pick([30, 400, -1]) * 86_400_000;
    later(random.integer(100, 4_000), () => world.boot(pod.key));
  });
  at('wipeAtCommit', 2, () => {
    const pod = somebody();
    world.onNextCommit(pod.key, () =>
      later(random.integer(1, 60), () => {
        if (world.twinOf(pod) !== undefined || pod.isGone || keptFromLosing(world, pod.volume) !== null) return;
        wipe(world, pod, random.chance(0.3));
        later(random.integer(50, 1_500), () => world.boot(pod.key));
      }),
    );
  });
  at('resubmitInBoundary', 1, () => {
    const { boundary } = random.pick(world.document.members);
    const sender = world.sent.length > 0 ? random.pick(world.sent).envelope.reversePath : 'nobody@elsewhere.example';
    resubmit(world, { boundary, sender, fromMs: wallOf(world) - random.integer(2_000, 30_000) });
  });
  at('slowOperator', 1, () => {
    world.operatorDelayMs = random.integer(2_000, 6_000);
  });
  at('dieTwice', 2, () => {
    const pod = somebody();
    // What it had handed to the disk when it was killed is read back, and the power goes before anything else is flushed (protocol.md 27).
    world.onNextCommit(pod.key, () => {
      world.disk(pod.key)?.setSlow(random.integer(1, 40));
      later(random.next() * 8, () => {
        world.kill(pod.key, 'process');
        world.disk(pod.key)?.setSlow(1);
        later(random.integer(20, 400), () => {
          world.boot(pod.key);
          later(random.integer(1, 300), () => {
            world.kill(pod.key, 'power');
            later(random.integer(100, 2_000), () => world.boot(pod.key));
          });
        });
      });
    });
  });
  at('lie', 3, () => lie(doses, 20));
}

export function scheduleLatestFaults({ world, random, at, later }: Doses): void {
  at('stallAtCommit', 2, () => {
    const { key } = random.pick(world.transports);
    // What was decided with the commit waits for the disk, and the process for longer than the disk.
    world.onNextCommit(key, () => {
      world.disk(key)?.setSlow(random.integer(100, 8_000));
      later(random.next() * 5, () => world.stall(key, random.integer(31_000, 38_000)));
      later(random.integer(200, 40_000), () => world.disk(key)?.setSlow(1));
    });
  });
  at('topologyOrder', 1, () => {
    world.documentDelayMs = random.integer(1_000, 8_000);
  });
}

/**
 * A member, under its own name, says of a copy of another's what only the owner may say, or its owner repeats a RELEASE of long ago (semantics.md S14, protocol.md
 * 9). Nobody may believe it.
 */
function lie(doses: Doses, tries: number): void {
  const { world, random, later } = doses;
  const kind = random.pick(['final', 'release', 'abort', 'resign', 'claim', 'place', 'oldRelease'] as const);
  const found = world.transports.flatMap((hearer) =>
    [...hearer.volume.live.values()]
      .filter((stored) => stored.state.queue === 'shadow')
      .flatMap((stored) =>
        connectedTo(world, hearer)
          .filter((pod) => (pod.volume.identity === stored.state.epoch.owner) === (kind === 'oldRelease'))
          .map((liar) => ({ hearer, stored, liar })),
      ),
  );
  if (found.length === 0) {
    if (tries > 0) later(100, () => lie(doses, tries - 1));
    return;
  }
  const { hearer, stored, liar } = random.pick(found);
  world.counted('lies');
  if (kind === 'place') return placeWhatIsNotOwned(world, hearer, liar, stored);
  world.trace(`${liar.name} lies to ${hearer.name} about ${stored.facts.id}: ${kind}`);
  liar.server?.peers.send(hearer.name, frameOf(kind, hearer, stored));
}

const connectedTo = (world: World, hearer: Pod): Pod[] =>
  world.transports.filter(
    (pod) =>
      pod !== hearer &&
      pod.server?.state === 'ready' &&
      pod.server.core.peers.has(hearer.name) &&
      hearer.server?.core.peers.get(pod.name)?.identity === pod.volume.identity,
  );

function frameOf(
  kind: 'final' | 'release' | 'abort' | 'resign' | 'claim' | 'oldRelease',
  hearer: Pod,
  { facts, state }: StoredCopy,
): ControlFrame {
  const { id, envelope } = facts;
  const shared = sharedState(facts, state);
  const recipients = envelope.recipients.map(({ address }) => ({ address, outcome: 'relayed' as const }));
  const higher = { ...state.epoch, term: state.epoch.term + 3 };
  switch (kind) {
    case 'final':
      return { kind: 'STATE', state: { id, verdict: 'final', state: { ...shared, recipients, final: true } } };
    case 'release':
      return { kind: 'RELEASE', release: { id, epoch: state.epoch } };
    case 'oldRelease': {
      // Of an epoch that is not the holder's own: long past, or, where there was none before, of one that it has not heard of.
      const term = state.epoch.term > 0 ? state.epoch.term - 1 : 1;
      return { kind: 'RELEASE', release: { id, epoch: { ...state.epoch, term } } };
    }
    case 'abort':
      return { kind: 'RESOLVE', resolve: { id, through: state.epoch.try, deadlineMs: 1_000 } };
    case 'resign':
      return {
        kind: 'RESIGN',
        resign: { id, state: { ...shared, epoch: { ...higher, owner: hearer.volume.identity ?? state.epoch.owner } } },
      };
    case 'claim':
      // For a third one, or for the owner as it stands.
      return { kind: 'CLAIM', claim: { items: [{ id, epoch: higher }] } };
  }
}

/** A member that holds a copy as a shadow sends it on as if it were its own to place, under an epoch that the owner never wrote. */
function placeWhatIsNotOwned(world: World, liar: Pod, target: Pod, { facts, state }: StoredCopy): void {
  const { server } = liar;
  const session = server?.peers.member(target.name) ?? null;
  if (server == null || session === null || target.volume.live.has(facts.id)) return;
  world.trace(`${liar.name} places ${facts.id} on ${target.name} although it is not its own`);
  const [id, attempt] = [facts.id, 1_000_000_000 + Math.floor(world.scheduler.nowMs)];
  server.bodies.openCandidate(session, {
    kind: 'OpenCandidate',
    id,
    attempt,
    member: target.name,
    purpose: 'copy',
    envelope: facts.envelope,
    state: { ...sharedState(facts, state), epoch: { ...state.epoch, term: state.epoch.term + 3 } },
  });
  const { digest, sizeBytes, events } = facts;
  world.scheduler.schedule(20, () => server.bodies.endCandidate(id, attempt, { digest, sizeBytes, events }));
}
