/**
 * Faults of volumes, members and mailbox copies: what takeover, fencing, drain and resubmission are for. Owns: their doses. What would break the contract
 * (two volumes of one message) waits for a better moment and is skipped when none comes (`volumes.ts`).
 */
import type { RequestFields } from './deeds.ts';
import type { Doses, Fault } from './faults.ts';
import { messageIdOf } from './mail.ts';
import {
  cancelDrain,
  cancelRequest,
  drain,
  failOver,
  hand,
  resubmit,
  sayLost,
  scaleUp,
  wallOf,
} from './orchestrator.ts';
import type { Pod } from './pod.ts';
import { clone, damage, keptFromLosing, restore, snapshot, wipe } from './volumes.ts';
import type { World } from './world.ts';

export function scheduleClusterFaults(doses: Doses): void {
  scheduleLosses(doses);
  scheduleCopies(doses);
  scheduleDamage(doses);
  scheduleAbsences(doses);
  scheduleMembership(doses);
  scheduleFailovers(doses);
  scheduleRequests(doses);
}

const somebody = ({ world, random }: Doses): Pod => random.pick(world.transports);

/** Acts once the budget allows it; a skipped one is counted. */
function withinBudget(doses: Doses, fault: Fault, pod: Pod, act: () => void, tries = 12): void {
  const { world } = doses;
  if (pod.isGone || world.twinOf(pod) !== undefined) return world.counted(`${fault} skipped`);
  const why = world.isOutOfContract ? null : keptFromLosing(world, pod.volume);
  if (why === null) return act();
  if (tries === 0 || world.isHealing) {
    world.trace(`no ${fault} of ${pod.key}: ${why}`);
    return world.counted(`${fault} skipped`);
  }
  doses.later(250, () => withinBudget(doses, fault, pod, act, tries - 1));
}

function scheduleLosses(doses: Doses): void {
  const { world, random, at, later } = doses;
  const count = world.isOutOfContract ? 2 : 1;
  at('wipe', random.integer(count, 2), () => {
    const pod = somebody(doses);
    withinBudget(doses, 'wipe', pod, () => {
      wipe(world, pod, random.chance(0.3));
      later(random.integer(100, 4_000), () => world.boot(pod.key));
    });
  });
  at('gone', count, () => {
    const pod = somebody(doses);
    withinBudget(doses, 'gone', pod, () => {
      const { identity } = pod.volume;
      wipe(world, pod, random.chance(0.5));
      pod.isOff = true;
      later(random.integer(0, 2_000), () => sayLost(world, pod.name, identity));
      later(random.integer(3_000, 20_000), () => {
        pod.isOff = false;
        world.boot(pod.key);
      });
    });
  });
  at('wrongWord', 1, () => {
    const pod = somebody(doses);
    if (!pod.incarnation.alive || pod.volume.identity === null) return;
    world.troubled([pod.name], 60_000);
    sayLost(world, pod.name, pod.volume.identity);
  });
}

function scheduleCopies(doses: Doses): void {
  const { world, random, at, later } = doses;
  at('snapshot', 1, () => {
    const pod = somebody(doses);
    if (world.twinOf(pod) !== undefined || pod.isGone) return;
    const taken = snapshot(world, pod);
    const { volume } = pod;
    later(random.integer(100, 6_000), () => {
      if (pod.volume !== volume) return;
      withinBudget(doses, 'snapshot', pod, () => {
        if (pod.volume !== volume) return;
        restore(world, pod, taken);
        later(random.integer(100, 2_000), () => world.boot(pod.key));
      });
    });
  });
  at('clone', 1, () => {
    const pod = somebody(doses);
    withinBudget(doses, 'clone', pod, () => {
      if (!pod.incarnation.alive || pod.database === null) return;
      const twin = clone(world, pod);
      world.troubled([pod.name], 60_000);
      if (random.chance(0.4)) {
        const others = world.transports.filter((other) => other.name !== pod.name);
        const other = others.length > 0 ? random.pick(others).name : null;
        if (other !== null) {
          world.network.cut(pod.name, other);
          later(random.integer(500, 6_000), () => world.network.heal(pod.name, other));
        }
      }
      world.boot(twin.key);
      // The orchestrator wants one process per member: the first one is ended in the end, whoever is right.
      later(random.integer(3_000, 14_000), () => world.endTwins(pod.name));
    });
  });
}

function scheduleDamage(doses: Doses): void {
  const { world, random, at, later } = doses;
  const hit = (fault: Fault, how: 'bit' | 'sector' | 'tail'): void =>
    at(fault, 1, () => {
      const pod = somebody(doses);
      withinBudget(doses, fault, pod, () => {
        const files = random.chance(0.9) ? /seg|log/ : /./;
        if (random.chance(0.5)) return damage(world, pod, how, files);
        world.kill(pod.key, 'process');
        damage(world, pod, how, files);
        later(random.integer(100, 3_000), () => world.boot(pod.key));
      });
    });
  hit('bitFlip', 'bit');
  hit('tornSector', 'sector');
  hit('truncatedFile', 'tail');
}

function scheduleAbsences(doses: Doses): void {
  const { world, random, at, later, phaseMs } = doses;
  at('absence', 1, () => {
    const pod = somebody(doses);
    const forMs = random.integer(22_000, Math.max(23_000, phaseMs - 12_000));
    const store = random.pick(['alpha', 'beta', 'internet', null]);
    if (store !== null) {
      world.store.down.add(store);
      later(random.integer(5_000, 30_000), () => world.store.down.delete(store));
    }
    if (random.chance(0.4)) {
      world.kill(pod.key, random.chance(0.5) ? 'power' : 'process', random.chance(0.5));
      pod.isOff = true;
      return later(forMs, () => {
        pod.isOff = false;
        world.boot(pod.key);
      });
    }
    world.trace(`${pod.name} is cut off from all members`);
    const withFrontends = random.chance(0.5);
    const others = [...world.transports, ...(withFrontends ? world.frontends : [])].filter((other) => other !== pod);
    for (const other of others) {
      world.troubled([pod.name, other.name], forMs + 10_000);
      world.network.cut(pod.name, other.name);
    }
    later(forMs, () => {
      for (const other of others) world.network.heal(pod.name, other.name);
    });
  });
  at('longCut', 1, () => {
    const [a, b] = [somebody(doses).name, somebody(doses).name];
    const forMs = random.integer(22_000, 38_000);
    if (a === b) return;
    world.trace(`network cut ${a} both ${b}`);
    world.troubled([a, b], forMs);
    world.network.cut(a, b);
    const place = random.pick(['alpha', 'beta', null]);
    if (place !== null) world.store.down.add(place);
    later(random.integer(22_000, 36_000), () => world.store.down.delete(place ?? ''));
    later(forMs, () => world.network.heal(a, b));
  });
  at('stall', 1, () => world.stall(doses.transport(), random.integer(31_000, 38_000)));
  at('shortStall', 2, () => world.stall(doses.transport(), random.integer(3_000, 14_000)));
}

function scheduleMembership(doses: Doses): void {
  const { world, random, at, later } = doses;
  const begin = (fault: Fault, then: (pod: Pod) => void): void =>
    at(fault, 1, () => {
      const pod = somebody(doses);
      if (drain(world, pod)) then(pod);
      else world.counted(`${fault} skipped`);
    });
  begin('drain', () => undefined);
  begin('drainCrash', (pod) =>
    later(random.integer(20, 4_000), () => {
      world.kill(pod.key, random.chance(0.5) ? 'power' : 'process');
      later(random.integer(100, 3_000), () => world.boot(pod.key));
    }),
  );
  begin('drainCancelled', (pod) => later(random.integer(100, 5_000), () => cancelDrain(world, pod.name)));
  at('scaleUp', 1, () => later(random.integer(0, 6_000), () => scaleUp(world, somebody(doses).name)));
  const outOfReach = (fault: Fault, forMs: () => number | null): void =>
    at(fault, 1, () => {
      const pod = random.pick(world.pods.filter((one) => !one.isGone));
      world.trace(`no topology documents reach ${pod.key}`);
      pod.isOutOfReach = true;
      world.troubled([pod.name], 30_000);
      const ms = forMs();
      if (ms === null) return;
      later(ms, () => {
        pod.isOutOfReach = false;
        hand(world, pod);
      });
    });
  outOfReach('lateTopology', () => random.integer(1_000, 9_000));
  outOfReach('noTopology', () => null);
}

/** Less than what `lossWindow` and `replayLag` together cover, clocks that differ by a second included. */
const drawLag = ({ random }: Doses): number => random.pick([0, random.integer(0, 2_000), random.integer(0, 12_000)]);

function scheduleFailovers(doses: Doses): void {
  const { world, random, at, later } = doses;
  const database = (): string => random.pick(['alpha', 'beta']);
  at('failover', 1, () => failOver(world, database(), drawLag(doses)));
  at('failoverTwice', 1, () => {
    const name = database();
    failOver(world, name, drawLag(doses));
    later(random.integer(200, 8_000), () => failOver(world, name, drawLag(doses)));
  });
  at('failoverPrimaryGone', 1, () => {
    const name = database();
    const pod = mostDeliveries(world) ?? somebody(doses);
    withinBudget(doses, 'failoverPrimaryGone', pod, () => {
      const { identity } = pod.volume;
      wipe(world, pod, random.chance(0.5));
      pod.isOff = true;
      if (random.chance(0.5)) later(random.integer(0, 5_000), () => sayLost(world, pod.name, identity));
      failOver(world, name, drawLag(doses));
      later(random.integer(2_000, 40_000), () => {
        pod.isOff = false;
        world.boot(pod.key);
      });
    });
  });
}

function mostDeliveries(world: World): Pod | undefined {
  const primaries = (pod: Pod): number =>
    [...pod.volume.resting.values()].filter((stored) => stored.state.queue === 'primarySafetyNet').length;
  return [...world.transports].sort((a, b) => primaries(b) - primaries(a))[0];
}

function scheduleRequests(doses: Doses): void {
  const { world, random, at, later } = doses;
  const draw = (): RequestFields => {
    const sent = world.sent.length > 0 ? random.pick(world.sent) : null;
    const recipient = sent === null ? 'alpha-1@sim.example' : random.pick(sent.envelope.recipients).address;
    const window = {
      fromMs: wallOf(world) - random.integer(2_000, 30_000),
      toMs: random.chance(0.5) ? null : wallOf(world) + random.integer(-1_000, 5_000),
    };
    return random.pick<RequestFields>([
      { ...window, database: random.pick(['alpha', 'beta']) },
      { ...window, recipient },
      { ...window, sender: sent?.envelope.reversePath ?? 'nobody@elsewhere.example' },
      { ...window, messageId: messageIdOf(sent?.number ?? 0) },
    ]);
  };
  at('resubmit', 1, () => resubmit(world, draw()));
  at('resubmitOverlap', 1, () => {
    const fields = draw();
    resubmit(world, fields);
    resubmit(world, fields);
    later(random.integer(0, 4_000), () =>
      resubmit(world, { ...fields, fromMs: (fields.fromMs ?? 0) - random.integer(0, 10_000), toMs: null }),
    );
  });
  at('resubmitCancelled', 1, () => {
    const name = resubmit(world, draw());
    later(random.integer(0, 3_000), () => cancelRequest(world, name));
  });
  at('resubmitDryRun', 1, () => resubmit(world, { ...draw(), dryRun: true }));
}
