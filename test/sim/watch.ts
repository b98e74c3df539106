/**
 * What must not last (protocol.md section 9: L3, L4, L5, L7, S7). Owns: looking once a second of simulated time at what the disks hold and what the pods
 * know of each other, and how long each thing that is wrong has been so. Only what goes on without a break counts, and nothing while a disk ails.
 */
import { type CopyId, compareEpochs, type Identity, sameEpoch } from '../../common/message.ts';
import { SESSION_TIMES } from '../../frontend/session-model.ts';
import { IN_TRANSIT, isFinal, isSuccess } from '../../transport/core/copy.ts';
import type { TransportServer } from '../../transport/runtime/server.ts';
import type { StoredCopy } from '../../transport/store/database.ts';
import type { Volume } from './durable-view.ts';
import { stillForMs } from './incarnation.ts';
import { isAccepted } from './mail.ts';
import type { Pod } from './pod.ts';
import { lookAtRequests } from './request-watch.ts';
import type { World } from './world.ts';

const EVERY_MS = 1_000;
/** What the watch may be late by, and a round trip on a slow line. */
const SLACK_MS = 4_000;
const HEARTBEAT_MS = 2_000;

interface Healthy {
  readonly pod: Pod;
  readonly server: TransportServer;
}

export function watch(world: World): void {
  let lasting = new Map<string, number>();
  const handedOn = new Set<CopyId>();
  world.view.onPromoting = (id, by, of) => notFinished(world, id, by, of);
  world.onDelivering = (pod, id) => isSole(world, lasting, pod, id);
  world.view.onAcceptedAlone = (id, by) => isInContact(world, id, by);
  world.view.onGivingUp = (id, by) => {
    handedOn.add(id);
    const pod = world.transports.find((one) => one.volume === by);
    if ((pod?.delivering.get(id) ?? 0) > 0)
      world.violate(`rule 15: ${by.member} makes another the owner of ${id} while it delivers it`);
  };
  // Who got it from its owner has nobody to ask (seed 5157 under a dose).
  world.view.onExpiring = (id, by) => {
    if (!handedOn.has(id)) allAsked(world, id, by);
  };
  world.view.onPromotion = (id, by, of) => promoted(world, lasting, id, by, of);
  const look = (): void => {
    const now = world.scheduler.nowMs;
    const next = new Map<string, number>();
    const wrong = (key: string, limitMs: number, line: () => string): void => {
      const sinceMs = lasting.get(key) ?? now;
      next.set(key, sinceMs);
      if (now - sinceMs > limitMs + SLACK_MS) world.violate(line());
    };
    const pods = healthy(world);
    for (const one of pods.values()) lookAtShadows(world, one, pods, wrong);
    for (const one of pods.values()) lookAtProgress(world, one, pods, wrong);
    lookAtOwners(pods, wrong);
    lookAtHolders(pods, wrong);
    lookAtRequests(world, pods);
    lookAtSingles(world, pods, wrong);
    lookAtSilence(world, pods, wrong);
    lookAtFrontends(world, wrong);
    for (const a of pods.values())
      for (const b of pods.values())
        if (a !== b && knowEachOther(a, b))
          wrong(`met ${a.pod.name} ${b.pod.name}`, Number.POSITIVE_INFINITY, () => '');
    lasting = next;
    world.scheduler.schedule(EVERY_MS, look);
  };
  world.scheduler.schedule(EVERY_MS, look);
}

type Wrong = (key: string, limitMs: number, line: () => string) => void;

/** By member; a member with two processes is nobody's measure. */
function healthy(world: World): Map<string, Healthy> {
  const found = new Map<string, Healthy>();
  for (const pod of world.transports) {
    const { server } = pod;
    const isWell =
      pod.incarnation.alive &&
      server?.state === 'ready' &&
      !pod.disk.isAiling &&
      !pod.volume.isDamaged &&
      stillForMs(pod.incarnation, world.scheduler) === 0 &&
      world.twinOf(pod) === undefined;
    if (isWell) found.set(pod.name, { pod, server });
  }
  return found;
}

const knowEachOther = (a: Healthy, b: Healthy): boolean =>
  a.server.core.peers.get(b.pod.name)?.identity === b.pod.volume.identity &&
  b.server.core.peers.get(a.pod.name)?.identity === a.pod.volume.identity;

/** L3, L4: the shadows of an owner that will not come back find one. L7: the shadow of what is final hears of it. */
function lookAtShadows(world: World, one: Healthy, pods: Map<string, Healthy>, wrong: Wrong): void {
  const { pod, server } = one;
  const { core } = server;
  for (const [id, stored] of pod.volume.live) {
    if (stored.state.queue !== 'shadow') continue;
    const { owner } = stored.state.epoch;
    const member = world.view.memberOf(owner);
    const peer = member === undefined ? undefined : core.peers.get(member);
    const key = `${pod.key} ${id}`;
    if (peer !== undefined && peer.identity !== owner)
      wrong(
        `L4 ${key}`,
        10_000,
        () => `L4: ${pod.name} meets ${member} on a new queue database and still waits for the owner of ${id}`,
      );
    const isRetired = core.document.retired.some((entry) => entry.identity === owner && entry.reason === 'lost');
    if (isRetired && peer?.identity !== owner)
      wrong(
        `L3 ${key}`,
        60_000,
        () => `L3: ${pod.name} was told that ${member} is lost and still waits for the owner of ${id}`,
      );
    const ownerPod = member === undefined ? undefined : pods.get(member);
    if (ownerPod?.pod.volume.identity === owner && knowEachOther(one, ownerPod) && isDone(ownerPod.pod, id))
      wrong(`L7 ${key}`, 10_000, () => `L7: ${id} is final at ${member} and still a shadow at ${pod.name}`);
  }
}

/** Semantics.md S6: the shadow of a copy that was served in part knows to whom, so that a takeover does not serve them again. */
function lookAtProgress(world: World, one: Healthy, pods: Map<string, Healthy>, wrong: Wrong): void {
  for (const [id, { state }] of one.pod.volume.live) {
    const owner = pods.get(world.view.memberOf(state.epoch.owner) ?? '');
    const theirs = owner?.pod.volume.live.get(id)?.state;
    if (state.queue !== 'shadow' || owner === undefined || theirs?.epoch.owner !== owner.pod.volume.identity) continue;
    if (!sameEpoch(theirs.epoch, state.epoch) || !knowEachOther(one, owner)) continue;
    // Between them lies a cut that neither has noticed yet: nothing can be told (seed 2499).
    const { network } = world;
    if (network.isCut(owner.pod.name, one.pod.name) || network.isCut(one.pod.name, owner.pod.name)) continue;
    const mine = one.server.core.copies.get(id)?.state.recipients ?? null;
    for (const [index, recipient] of (theirs.recipients ?? []).entries()) {
      const known = mine?.[index];
      if (isSuccess(recipient) && (known === undefined || !isFinal(known)))
        wrong(
          `S6 ${one.pod.key} ${id} ${index}`,
          HEARTBEAT_MS,
          () => `S6: ${one.pod.name} does not know that ${owner.pod.name} has served ${recipient.address} in ${id}`,
        );
    }
  }
}

const isDone = (owner: Pod, id: CopyId): boolean =>
  owner.volume.resting.has(id) || owner.volume.tombstones.get(id)?.kind === 'final';

/** S7: two owners that reach each other become one. */
function lookAtOwners(pods: Map<string, Healthy>, wrong: Wrong): void {
  const owners = new Map<CopyId, { readonly one: Healthy; readonly stored: StoredCopy }>();
  for (const one of pods.values())
    for (const [id, stored] of one.pod.volume.live) {
      if (!IN_TRANSIT.has(stored.state.queue) || stored.state.epoch.owner !== one.pod.volume.identity) continue;
      const other = owners.get(id);
      owners.set(id, { one, stored });
      if (other === undefined || other.stored.facts.digest !== stored.facts.digest || !knowEachOther(one, other.one))
        continue;
      const names = [one.pod.name, other.one.pod.name];
      wrong(`S7 ${id} ${names.join()}`, 15_000, () => `S7: ${names.join(' and ')} both own ${id} and know each other`);
    }
}

/** L5: what rests on one volume finds a second once there is a member to take it. */
function lookAtSingles(world: World, pods: Map<string, Healthy>, wrong: Wrong): void {
  const accepted = world.sent
    .filter(isAccepted)
    .flatMap(({ number, id, digest }) => (id === null ? [] : [{ id, digest, what: `message ${number} ${id}` }]));
  const arrived = world.crossings.relayed.map(({ id, digest, from }) => ({ id, digest, what: `${id} of ${from}` }));
  for (const { id, digest, what } of [...accepted, ...arrived]) {
    if (world.view.isFinal(id)) continue;
    const holders = world.view.holders(id, digest);
    const holder = pods.get(holders[0]?.member ?? '');
    if (holders.length !== 1 || holder === undefined) continue;
    const isPossible = holder.server.core.boundary.some((member) => {
      const other = pods.get(member.name);
      return member.state === 'active' && other !== undefined && knowEachOther(holder, other);
    });
    if (isPossible) wrong(`L5 ${id}`, 60_000, () => `L5: ${what} rests on ${holder.pod.name} alone for a minute`);
  }
}

/** How long what is met by both is taken for known to both. */
const KNOWN_MS = 5_000;

/**
 * protocol.md 3, 4: nobody takes over what its owner holds and is there for - whatever the orchestrator says of a database that speaks to who takes over, and
 * however long the silence when another member hears it.
 */
function promoted(world: World, met: ReadonlyMap<string, number>, id: CopyId, by: string, of: Identity): void {
  const { nowMs } = world.scheduler;
  const owner = world.view.attached().find((volume) => volume.identity === of && !volume.isContested);
  const held = owner?.live.get(id);
  // It may have said itself that it does not know the copy, or have resigned.
  // Who hears of a new owner before that one does is told that it is none.
  const isHandedOver = world.draining.size > 0 || world.view.redirected.has(id);
  if (owner === undefined || held === undefined || held.state.epoch.owner !== of || isHandedOver) return;
  const isMet = (a: string, b: string): boolean =>
    nowMs - (met.get(`met ${a} ${b}`) ?? Number.POSITIVE_INFINITY) > KNOWN_MS && nowKnow(world, a, b);
  if (isMet(by, owner.member))
    return world.violate(`rule 4: ${by} took ${id} over from ${owner.member}, whom it meets`);
  if (world.document.retired.some((entry) => entry.identity === of)) return;
  const witness = world.transports.find((pod) => isMet(by, pod.name) && isMet(pod.name, owner.member));
  if (witness !== undefined)
    world.violate(`rule 3: ${by} took ${id} over from ${owner.member}, whom ${witness.name} hears`);
}

/** Rule 9: what its owner has finished nobody takes over who hears that owner: it would have been told. */
function notFinished(world: World, id: CopyId, by: Volume, of: Identity): void {
  const owner = world.view.attached().find((volume) => volume.identity === of);
  const doubtful = [by, owner].some((volume) => volume === undefined || volume.isContested || volume.isDamaged);
  // Who leaves has given what it finished to others, and need not know of it any more: they answer the claim (seed 351).
  const isLeaving = owner !== undefined && world.draining.has(owner.member);
  // The word that hands it over may arrive late, when the former owner has taken it back (seed 591): the claim is answered.
  const isHandedOver = isLeaving || world.view.redirected.has(id);
  if (owner === undefined || doubtful || isHandedOver || world.view.finals.get(id)?.has(of) !== true) return;
  const pod = world.transports.find((one) => one.volume === by);
  const peer = pod?.server?.core.peers.get(owner.member);
  if (peer?.identity === of && !owner.live.has(id))
    world.violate(`rule 9: ${by.member} takes ${id} over from ${owner.member}, which has finished it and is heard`);
}

/** Rule 13: who takes over asks everybody it reaches first, so that of two who do so only one delivers. */
function isSole(world: World, met: ReadonlyMap<string, number>, pod: Pod, id: CopyId): void {
  const { nowMs } = world.scheduler;
  if (!world.view.promotions.some((one) => one.id === id && one.by === pod.name)) return;
  for (const volume of world.view.attached()) {
    const state = volume.live.get(id)?.state;
    if (volume === pod.volume || state === undefined || state.standing !== 'released') continue;
    const isOwner = IN_TRANSIT.has(state.queue) && state.epoch.owner === volume.identity;
    // It was made there a moment ago, and asks as well: it will hear.
    const theirs = world.transports.find((one) => one.volume === volume)?.server?.core.copies.get(id);
    const mine = pod.server?.core.copies.get(id);
    const asks = theirs?.doubt != null && mine !== undefined && compareEpochs(theirs.state.epoch, mine.state.epoch) < 0;
    if (asks) continue;
    const isMet = nowMs - (met.get(`met ${pod.name} ${volume.member}`) ?? Number.POSITIVE_INFINITY) > KNOWN_MS;
    const isSlow = world.troubles.some(
      ({ who, fromMs, untilMs }) =>
        who.includes(pod.name) && who.includes(volume.member) && fromMs <= nowMs && untilMs >= nowMs,
    );
    if (isOwner && isMet && !isSlow && nowKnow(world, pod.name, volume.member))
      world.violate(`rule 13: ${pod.name} delivers ${id}, which ${volume.member} owns too, and they meet`);
  }
}

/** Three heartbeats (protocol.md 2). */
const CONTACT_MS = 3 * HEARTBEAT_MS;

/** Rule 2: one disk may do by policy, but not on a member that has heard nobody of its boundary for a while. */
function isInContact(world: World, id: CopyId, by: Volume): void {
  const server = world.transports.find((one) => one.volume === by)?.server;
  if (server == null || server.core.boundary.length === 0) return;
  const heardMs = Math.max(0, ...server.core.boundary.map(({ name }) => server.core.lastHeardMs.get(name) ?? 0));
  if (server.deps.clock.monotonicMs() - heardMs > CONTACT_MS + 100)
    world.violate(`rule 2: ${by.member} accepts ${id} alone and cut off`);
}

/** Rule 14: a message is not given up while a member that may have delivered it could still be asked. */
function allAsked(world: World, id: CopyId, by: Volume): void {
  const pod = world.transports.find((one) => one.volume === by);
  const core = pod?.server?.core;
  const doubt = pod?.doubts.findLast((one) => one.ids.has(id) && !one.isStandstill);
  if (pod === undefined || core === undefined || doubt === undefined) return;
  const spanMs = core.document.policies.shadowRedundancy.resubmitTimeSpanMs;
  if (world.scheduler.nowMs - doubt.sinceMs >= spanMs) return;
  for (const { name, state } of core.boundary) {
    const other = world.pod(name);
    if (state !== 'active' || other === undefined || other.bornMs >= doubt.sinceMs || core.listedOnce.has(name))
      continue;
    // A new queue database knows nothing, and the old one is lost.
    if (other.volume.identity === null || other.volume.identity !== core.known.get(name)) continue;
    world.violate(`rule 14: ${pod.name} gives ${id} up without having asked ${name} since it is back`);
  }
}

/** Rules 8 and 9: whoever is counted as a holder and can be asked holds it. */
function lookAtHolders(pods: Map<string, Healthy>, wrong: Wrong): void {
  for (const one of pods.values())
    for (const [id, { state }] of one.pod.volume.live) {
      if (state.epoch.owner !== one.pod.volume.identity || !IN_TRANSIT.has(state.queue)) continue;
      for (const { member, identity, status } of state.placements) {
        const other = pods.get(member);
        if (status !== 'confirmed' || other?.pod.volume.identity !== identity || !knowEachOther(one, other)) continue;
        const { live, resting } = other.pod.volume;
        if (!live.has(id) && !resting.has(id))
          wrong(
            `holder ${one.pod.key} ${member} ${id}`,
            0,
            () => `rule 9: ${one.pod.name} counts on ${member} for ${id}, which does not hold it any more`,
          );
      }
    }
}

/** L1: what a front end holds for clients that are gone it holds no longer than it would have let them wait (semantics.md R7). */
function lookAtFrontends(world: World, wrong: Wrong): void {
  if (world.clients === null) return;
  for (const { key, lives, smtp, proxy } of world.frontends)
    if (smtp?.connections === 0 && proxy !== null && proxy.inFlight > 0)
      wrong(
        `L1 ${key} ${lives}`,
        SESSION_TIMES.capMs,
        () => `L1: ${key} holds ${proxy.inFlight} messages of clients that have been gone for a minute`,
      );
}

function nowKnow(world: World, a: string, b: string): boolean {
  const pods = healthy(world);
  const [one, other] = [pods.get(a), pods.get(b)];
  return one !== undefined && other !== undefined && knowEachOther(one, other);
}

/** protocol.md 14, S8: a holder nobody has heard for half a minute is no second copy: the owner knows, and looks for another. */
function lookAtSilence(world: World, pods: Map<string, Healthy>, wrong: Wrong): void {
  for (const one of pods.values())
    for (const [id, stored] of one.pod.volume.live) {
      const { core } = one.server;
      const isMine = stored.state.epoch.owner === one.pod.volume.identity && stored.state.standing === 'released';
      if (!isMine || !IN_TRANSIT.has(stored.state.queue) || core.single.has(id) || core.placings.has(id)) continue;
      const isHeard = world.view.holders(id).some((holder) => core.peers.has(holder.member));
      if (!isHeard)
        wrong(`silence ${one.pod.key} ${id}`, 32_000, () => `S8: ${one.pod.name} counts on a silent holder for ${id}`);
    }
}
