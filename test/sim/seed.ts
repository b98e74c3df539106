/**
 * One seed, one history. Owns: what a seed draws (topology, policies, sizes, which kinds of fault), the phase of faults and the phase of healing in which
 * progress is required; and of its two histories - mail put straight into front ends, or real SMTP clients and the operator's plan - that what only the second
 * draws does not shift what both do. By hand: `node test/sim/run.ts --seed SEED [--mutant NAME] [--edge smtp]` prints its whole trace.
 */
import { createHash } from 'node:crypto';
import type { Server } from '../../transport/core/state.ts';
import type { TransitionCoverage } from '../../transport/core/transitions.ts';
import { transportView } from '../../transport/runtime/transport-view.ts';
import { checkEnd, hasPartner, inOneSite } from './checks.ts';
import { type Dose, NO_DOSE, type Traits } from './doses.ts';
import {
  CLUSTER,
  drawFaults,
  drawOfMessages,
  drawSmtpFaults,
  type Fault,
  type FaultStreams,
  isLong,
  scheduleFaults,
} from './faults.ts';
import { stillForMs } from './incarnation.ts';
import { isAccepted, type Sent } from './mail.ts';
import { SimOperator } from './operator.ts';
import { hand, publish, START_WALL_MS, unfinishedRequests } from './orchestrator.ts';
import { redirectSome } from './redirections.ts';
import { SeededRandom } from './scheduler.ts';
import { scrubbed } from './scrub-checks.ts';
import { suspendSome } from './suspensions.ts';
import { type ShapeOptions, simTopology } from './topology.ts';
import type { Variant } from './variants.ts';
import { watch } from './watch.ts';
import { World } from './world.ts';

export interface SeedOutcome {
  readonly seed: number;
  readonly violations: readonly string[];
  readonly events: number;
  readonly sent: number;
  readonly accepted: number;
  readonly coverage: TransitionCoverage;
  readonly faults: readonly Fault[];
  /** What else happened: takeovers, failovers, resubmissions ... */
  readonly counts: ReadonlyMap<string, number>;
  /** Of the whole trace: two runs of one seed must agree. */
  readonly traceHash: string;
}

export interface SeedOptions {
  readonly mutants?: ReadonlySet<Variant>;
  readonly trace?: (line: string) => void;
  /** Which of the faults, how often, in what kind of world; else all is drawn. */
  readonly dose?: Dose;
  /** No fault budget: two volumes of one message may go, and exactly what had no other holder may be missing. */
  readonly outOfContract?: boolean;
  /**
   * What surrounds the transports is the product's: mail goes in by SMTP, the operator's plan makes the topology documents. Another history of the same seed,
   * with the same draws of everything else.
   */
  readonly smtp?: boolean;
}

/** What a seed is about besides its faults. */
interface Plan extends ShapeOptions {
  readonly expiry: boolean;
  /** Nothing can be delivered for a while after the faults: everything must become protected meanwhile (semantics.md L5). */
  readonly hold: boolean;
  readonly traits: Traits;
}

/** Of two or three sites, most of them boundaries of their own: who is linked with whom, which is a hub, where mail goes out. */
function drawCrossing(
  random: SeededRandom,
): Pick<ShapeOptions, 'sites' | 'dag' | 'hubs' | 'shortCut' | 'connectorSite'> {
  const shapes = [
    [2, 2],
    [2, 2, 2],
    [2, 2, 2],
    [2, 3],
    [3, 2],
    [2, 2, 3],
  ] as const;
  const sites = random.pick(shapes);
  const isLong = sites.length > 2;
  const hubs = isLong && random.chance(0.7) ? [...(random.chance(0.5) ? [0] : []), 1] : [];
  const hasShortCut = isLong && random.chance(0.4);
  const shortCut = random.pick([5, 20, 100]);
  const out = random.pick([null, 0, sites.length - 1, sites.length - 1]);
  return {
    ...{ sites, hubs },
    // In one boundary over two sites only what goes out goes to another member.
    dag: !isLong && random.chance(0.15),
    ...(hasShortCut ? { shortCut } : {}),
    ...(out === null ? {} : { connectorSite: out }),
  };
}

const QUICK_MS = 12_000;
const LONG_MS = 52_000;
/** For standstills that began late, one behind the other. */
const STANDSTILLS_MS = 200_000;

function drawPlan(random: SeededRandom, traits: Traits, ofLinks: SeededRandom | null): Plan {
  const sites = random.pick([[2], [1, 1], [2, 1], [2, 2], [1, 1, 1], [3]]);
  const drawn = random.chance(0.06);
  const expiry = traits.expiry ?? drawn;
  const plan: Plan = {
    sites,
    dag: sites.some((count) => count < 2) || random.chance(0.7),
    frontends: random.integer(1, 2),
    policies: {
      preference: random.pick(['PreferRemote', 'PreferRemote', 'LocalOnly', 'RemoteOnly']),
      rejectMessageOnShadowFailure: random.chance(0.85),
      // Else only the orchestrator's word or a new identity makes anybody take over.
      resubmitTimeSpanMs: random.chance(0.3) ? 20_000 : 900_000,
    },
    // Longer than a history, and looked at often: only a clock that lies can expire anything.
    holdTimeMs: expiry ? 1_000_000 : 400_000,
    withoutConnector: !expiry && random.chance(0.12),
    expiry,
    hold: !expiry && random.chance(0.06),
    ...(expiry ? { messageExpirationMs: 25_000, delayNotificationMs: 12_000 } : {}),
    traits,
  };
  const crossing = ofLinks === null ? null : drawCrossing(ofLinks);
  return {
    ...plan,
    sites: traits.sites ?? plan.sites,
    dag: traits.dag ?? (traits.sites === undefined ? plan.dag : true),
    frontends: traits.frontends ?? plan.frontends,
    // Who is alone in the site with the only way out takes nothing under LocalOnly (seed 12127 with links: it waited before it for ever, as it should).
    policies: {
      ...plan.policies,
      ...traits.policies,
      ...(crossing?.dag === true ? ({ preference: 'PreferRemote' } as const) : {}),
    },
    ...crossing,
  };
}

function recipientsOf(random: SeededRandom, failing: boolean): string[] {
  const kinds = ['alpha', 'beta', 'relay', 'refused', 'unknown'];
  return Array.from({ length: random.integer(1, 3) }, (_, index) => {
    const kind = random.chance(failing ? 0.2 : 0.75) ? random.pick(kinds.slice(0, 2)) : random.pick(kinds);
    switch (kind) {
      case 'relay':
        return `friend-${index}@elsewhere.example`;
      case 'refused':
        return `refused-${index}@elsewhere.example`;
      case 'unknown':
        return `unknown-${index}@sim.example`;
      default:
        return `${kind}-${random.integer(0, 7)}@sim.example`;
    }
  }).filter((address, index, all) => all.indexOf(address) === index);
}

const drawSize = (random: SeededRandom, big: boolean): number =>
  random.chance(big ? 0.5 : 0.8)
    ? random.integer(200, 6_000)
    : big && random.chance(0.7)
      ? random.integer(270_000, 400_000)
      : random.integer(20_000, 90_000);

export async function runSeed(seed: number, options: SeedOptions = {}): Promise<SeedOutcome> {
  const random = new SeededRandom(seed ^ 0x5eed);
  const dose = options.dose ?? NO_DOSE;
  const { selection, traits } = dose;
  const links = traits.crossing === true ? new SeededRandom(seed ^ 0x1a7e575) : null;
  const streams = {
    ...{ random, links },
    ...{ later: new SeededRandom(seed ^ 0x1a7e5), latest: new SeededRandom(seed ^ 0x1a7e57) },
  };
  const plan = drawPlan(random, traits, links);
  const ofMessages = drawOfMessages(new SeededRandom(seed ^ 0x1a7e), selection);
  const drawn = new Set([...drawFaults(streams, selection), ...ofMessages]);
  // What expires is another story.
  const enabled =
    plan.expiry && selection.only === null ? new Set([...drawn].filter((fault) => !isCluster.has(fault))) : drawn;
  const smtpFaults = options.smtp === true ? drawSmtpFaults(new SeededRandom(seed ^ 0x0fa7), selection) : null;
  const history: string[] = [];
  const maker = options.smtp === true ? new SimOperator(plan) : null;
  const world = new World({
    seed,
    ...(maker === null ? { document: simTopology(plan) } : { document: maker.first(START_WALL_MS), maker }),
    ...(options.mutants === undefined ? {} : { mutants: options.mutants }),
    resetChance: enabled.has('resets') ? 0.002 : 0,
    outOfContract: options.outOfContract ?? false,
    ...(smtpFaults === null ? {} : { smtp: { faults: smtpFaults } }),
    trace: (line) => {
      history.push(line);
      options.trace?.(line);
    },
  });
  world.asksForReports = traits.reports === true && options.smtp !== true;
  world.trace(
    `seed ${seed}: sites ${plan.sites.join('+')}, ${plan.dag ? 'one DAG' : 'no DAG'}${linksInWords(plan)}, ${JSON.stringify(plan.policies)}${plan.expiry ? ', expiry' : ''}${plan.hold ? ', hold' : ''}, faults ${[...enabled].join(', ') || 'none'}${smtpFaults === null ? '' : `, SMTP with ${smtpFaults.join(', ') || 'good clients'}`}`,
  );
  const faults = await live(world, streams, plan, enabled, dose.times);
  const violations = await checkEnd(world, { expiry: plan.expiry });
  return {
    seed,
    violations,
    events: world.scheduler.eventCount,
    sent: world.sent.length,
    accepted: world.sent.filter(isAccepted).length,
    coverage: world.coverage,
    faults: [...faults, ...(world.clients?.done ?? [])],
    counts: countsOf(world),
    traceHash: createHash('sha256').update(history.join('')).digest('hex'),
  };
}

function linksInWords({ hubs, shortCut, connectorSite }: ShapeOptions): string {
  if (hubs === undefined) return '';
  const [short, out] = [shortCut ?? 'no', connectorSite ?? 'anywhere'];
  return `, links with hubs [${hubs.join(', ')}], ${short} short cut, out from ${out}`;
}

const isCluster = new Set<Fault>(CLUSTER);

/** From the first start to the last word. */
async function live(
  world: World,
  streams: FaultStreams,
  plan: Plan,
  enabled: ReadonlySet<Fault>,
  times: number,
): Promise<Fault[]> {
  const { scheduler } = world;
  const { random } = streams;
  const { traits } = plan;
  const phaseMs = traits.long === true || isLong(enabled) ? LONG_MS : QUICK_MS;
  if (enabled.has('resets') || enabled.has('poison')) world.calm = false;
  world.startAll();
  await scheduler.run(() => everybodyKnows(world), 20_000);
  const start = scheduler.nowMs;
  sendMail(world, random, enabled, phaseMs, traits);
  if (plan.withoutConnector === true)
    scheduler.schedule(random.integer(2_000, 9_000), () => {
      const connectors = simTopology({ ...plan, withoutConnector: false }).sendConnectors;
      publish(world, [{ kind: 'connect', connectors }]);
    });
  if (plan.expiry) world.store.down.add('alpha');
  world.store.isHeld = traits.held === true;
  const faults = scheduleFaults(world, streams, enabled, phaseMs, times);
  const suspensions =
    traits.suspends === true ? suspendSome(world, new SeededRandom(streams.latest.integer(0, 1e9)), phaseMs) : null;
  if (traits.redirects === true) redirectSome(world, new SeededRandom(streams.latest.integer(0, 1e9)), phaseMs);
  for (let at = 500; at < phaseMs; at += 500) scheduler.schedule(at, () => world.checkKept());
  watch(world);
  await scheduler.run(() => false, start + phaseMs);
  // A process goes on with what waited for it, and only then with what comes: a standstill is not cut short.
  await scheduler.run(() => !someoneStandsStill(world), scheduler.nowMs + STANDSTILLS_MS);
  heal(world);
  suspensions?.end();
  world.clients?.quit();
  if (plan.expiry) {
    world.store.down.add('alpha');
    await scheduler.run(() => false, start + 30_000);
    world.store.down.clear();
  }
  if (plan.hold) await holdDeliveries(world);
  await settle(world);
  await scrubbed(world);
  if (plan.expiry || plan.hold) await forget(world);
  return faults;
}

function sendMail(
  world: World,
  random: SeededRandom,
  enabled: ReadonlySet<Fault>,
  phaseMs: number,
  traits: Traits,
): void {
  const { scheduler } = world;
  const drawn = random.integer(3, 10);
  const messages = traits.messages ?? drawn;
  for (let number = 0; number < messages; number++) {
    const frontend = random.pick(world.frontends).name;
    const recipients = recipientsOf(random, traits.failing === true);
    const size = drawSize(random, enabled.has('slowDisk') && number < 4);
    const leave = enabled.has('clientGone') && random.chance(0.2);
    const loseReply = enabled.has('lostReply') && random.chance(0.3);
    const dieHalfway = enabled.has('killMidBody') && random.chance(0.15);
    const untilMs = random.chance(0.6) ? 6_000 : phaseMs - 6_000;
    scheduler.schedule(random.integer(0, untilMs), () => {
      const halfway = async (): Promise<void> => {
        if (dieHalfway) dieFor(world, random, random.chance(0.5) ? frontend : random.pick(world.transports).key);
      };
      const ended = (): void => {
        if (loseReply) scheduler.schedule(random.next() * 6, () => loseReplies(world, frontend));
      };
      world
        .send(frontend, recipients, size, {
          leaveAfterEnd: leave,
          halfway,
          ended,
          isPoison: enabled.has('poison') && number === 1,
        })
        .then((sent) => retry(world, sent, enabled))
        .catch((error: unknown) => scheduler.fail(error));
    });
  }
}

/** RFC 5321 4.5.4.1: who did not get a final answer sends again; who sends again after a 250 had lost it on the way. */
async function retry(world: World, sent: Sent, enabled: ReadonlySet<Fault>): Promise<void> {
  if (!enabled.has('clientRetry') || world.isHealing) return;
  const random = new SeededRandom(world.sent.length ^ (sent.number * 7919));
  if (sent.answer?.kind === 'reply' && sent.answer.reply.code >= 500) return;
  if (isAccepted(sent) && random.chance(0.5)) return;
  world.scheduler.schedule(random.integer(1, 4_000), () => {
    if (world.isHealing) return;
    world.counted('client retries');
    const to = sent.envelope.recipients.map(({ address }) => address);
    world
      .send(random.pick(world.frontends).name, to, sent.sizeBytes, { again: sent })
      .catch((error: unknown) => world.scheduler.fail(error));
  });
}

/** For the totals of a run. */
function countsOf(world: World): ReadonlyMap<string, number> {
  const counts = new Map(world.counts);
  counts.set('takeovers', world.view.promotions.length);
  counts.set('resubmissions', world.view.resubmissions.size);
  counts.set('doomed', world.doomed.size);
  counts.set('offers', world.store.offers.length);
  counts.set('repeated offers', world.store.offers.filter((offer) => !offer.visible).length);
  return counts;
}

const HOLD_MS = 66_000;

/** L5 and the gauge: after a minute with a member to be had everything has two copies, and the transports know. */
async function holdDeliveries(world: World): Promise<void> {
  for (const place of ['alpha', 'beta', 'internet']) world.store.down.add(place);
  await world.scheduler.run(() => false, world.scheduler.nowMs + HOLD_MS);
  for (const sent of world.sent) {
    const { id } = sent;
    if (id === null || !isAccepted(sent) || world.view.isFinal(id) || world.doomed.has(id)) continue;
    const holders = world.view.holders(id, sent.digest);
    if (holders.length < 2 && hasPartner(world, id))
      world.violate(
        `L5: message ${sent.number} ${id} rests on ${holders.map((holder) => holder.member).join(' ')} alone a minute after the faults`,
      );
  }
  for (const pod of world.transports) {
    const unprotected = pod.server === null ? null : transportView(pod.server).status().unprotected;
    const single = [...pod.volume.live].filter(
      ([id, stored]) => stored.state.epoch.owner === pod.volume.identity && world.view.holders(id).length < 2,
    ).length;
    if (unprotected !== single && pod.server !== null)
      world.violate(
        `gauge: ${pod.name} calls ${unprotected} messages unprotected, by the word of the disks it is ${single}`,
      );
  }
  world.store.down.clear();
}

/**
 * Long after the last word nobody can ask any more: tombstones go. One is guarded for two minutes, and so is what an answer makes that was asked for again when the first of
 * them went (seed 293 under a dose).
 */
async function forget(world: World): Promise<void> {
  const isLeft = (): boolean => world.transports.some(({ server }) => (server?.core.tombstones.size ?? 0) > 0);
  for (let round = 0; round === 0 || (round < 3 && isLeft()); round++)
    await world.scheduler.run(() => false, world.scheduler.nowMs + 140_000);
  for (const pod of world.transports)
    for (const tombstone of pod.server?.core.tombstones.values() ?? [])
      world.violate(
        `L8: ${pod.name} still keeps a tombstone (${tombstone.kind}) of ${tombstone.id} for ${tombstone.placements.map((placement) => placement.member).join(' ')}`,
      );
}

/** Every transport has heard every other of its boundary and every front end has a place to go. */
export const everybodyKnows = (world: World): boolean =>
  world.transports.every((pod) => {
    const core = pod.server?.core;
    return (
      pod.server?.state === 'ready' && core?.boundary.every((member) => core.peers.get(member.name)?.listed === true)
    );
  }) && world.frontends.every((pod) => (pod.proxy?.available ?? 0) === world.document.members.length);

/** The front end loses its transports after END: a higher try has to find out (semantics.md R9). */
function loseReplies(world: World, frontend: string): void {
  world.calm = false;
  for (const pod of world.transports) world.resetConnections(frontend, pod.name);
}

function dieFor(world: World, random: SeededRandom, key: string): void {
  if (!world.isAlive(key)) return;
  world.calm = false;
  world.kill(key, 'process');
  world.scheduler.schedule(random.integer(100, 4_000), () => world.boot(key));
}

export function heal(world: World): void {
  world.trace('faults end');
  world.isHealing = true;
  world.network.healAll();
  world.network.options.resetChance = 0;
  world.store.moody = false;
  world.operatorDelayMs = 500;
  world.documentDelayMs = 0;
  world.store.isHeld = false;
  world.store.down.clear();
  for (const pod of world.transports) world.endTwins(pod.name);
  for (const pod of world.pods) {
    pod.onCommit = null;
    pod.isOff = false;
    pod.isOutOfReach = false;
    pod.disk.setSlow(1);
    pod.disk.setFull(false);
    pod.disk.failSyncs(0);
    pod.disk.failWrites(0);
    hand(world, pod);
    world.boot(pod.key);
  }
  world.poison.mend(world);
}

/** Progress is required: every session answered, every queue empty, every drain and request done, within a bound of simulated time. */
export async function settle(world: World): Promise<void> {
  const { scheduler } = world;
  const quiet = (): boolean =>
    world.transports.every(
      (pod) => pod.server !== null && pod.server.core.placings.size === 0 && pod.server.core.copies.size === 0,
    ) && world.transports.every((pod) => isAtHome(pod.server?.core));
  const idle = (): boolean =>
    world.sent.every((sent) => sent.answer !== null || sent.life?.alive !== true) &&
    world.clients?.isQuiet !== false &&
    quiet();
  const done = (): boolean =>
    idle() &&
    world.view.isQuiet &&
    world.draining.size === 0 &&
    isWhole(world) &&
    unfinishedRequests(world).length === 0;
  // Every event would ask: what takes long is looked at only when the quick part holds, and not more often than ten times a second.
  let lookedAtMs = Number.NEGATIVE_INFINITY;
  const doneNow = (): boolean => {
    if (scheduler.nowMs - lookedAtMs < 100) return false;
    lookedAtMs = scheduler.nowMs;
    return done();
  };
  for (let round = 0; round < 3; round++) {
    const isDone = await scheduler.run(doneNow, scheduler.nowMs + 200_000);
    // What became idle in memory still has to become durable, and a tick of the Safety Net's clock must have passed.
    await scheduler.run(() => false, scheduler.nowMs + 2_000);
    // Somebody may have been fenced meanwhile, and starts again.
    if (!isDone || done()) return;
  }
}

/** A dead process stands for nothing. */
const someoneStandsStill = (world: World): boolean =>
  world.pods.some(({ incarnation }) => incarnation.alive && stillForMs(incarnation, world.scheduler) > 0);

/** Nothing at rest here is still looking for another home: it would come to rest anew, and requests would look at it again. */
const isAtHome = (core: Server | undefined): boolean =>
  core === undefined ||
  (core.rehoming.waiting.length === 0 && core.rehoming.sending.size === 0 && core.rehoming.scan === null);

/** Both Safety Nets have what was delivered, by the word of the disks. */
function isWhole(world: World): boolean {
  return world.sent.every((sent) => {
    const { id } = sent;
    if (id === null || !isAccepted(sent) || world.doomed.has(id)) return true;
    const queues = new Set(world.view.holders(id).map((holder) => holder.stored.state.queue));
    const succeeded = world.view
      .holders(id)
      .some((holder) =>
        holder.stored.state.recipients?.some((one) => one.outcome === 'delivered' || one.outcome === 'relayed'),
      );
    if (!succeeded) return true;
    if (inOneSite(world, id) !== null) return false;
    return (
      queues.has('primarySafetyNet') && (!sent.isProtected || queues.has('shadowSafetyNet') || !hasPartner(world, id))
    );
  });
}
