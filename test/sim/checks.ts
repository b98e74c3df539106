/**
 * What must be true at the end of a run, once faults have stopped and the system had time (protocol.md section 9). Owns: the arithmetic per recipient:
 * lost, unexpected, duplicated; and that nothing lingers. Violations are lines a person can read.
 */
import type { CopyId } from '../../common/message.ts';
import { DEADLINES } from '../../transport/core/state.ts';
import { transportView } from '../../transport/runtime/transport-view.ts';
import { dsnIdOf } from './durable-view.ts';
import { isAccepted, isRetried } from './mail.ts';
import type { Offer } from './mail-store.ts';
import { partnersOf, unfinishedRequests } from './orchestrator.ts';
import { checkResubmissions } from './resubmission-checks.ts';
import { checkScrubbed } from './scrub-checks.ts';
import type { Sent, World } from './world.ts';

export interface Expectations {
  /** Messages may expire: a report about it is as good as a delivery. */
  readonly expiry: boolean;
}

/** Known to be refused: nobody will ever deliver it. */
const isRefused = (sent: Sent): boolean =>
  sent.answer?.kind === 'refusedEarly' ||
  sent.answer?.kind === 'unfinished' ||
  (sent.answer?.kind === 'reply' && sent.answer.reply.code >= 400);

const failing = (address: string): boolean => address.includes('refused') || address.includes('unknown');

export async function checkEnd(world: World, expectations: Expectations): Promise<readonly string[]> {
  const found: string[] = [];
  const digests = new Set(world.sent.map((sent) => sent.digest));
  for (const sent of world.sent) {
    if (sent.answer === null && sent.life?.alive === true) found.push(`L1: message ${sent.number} was never answered`);
    let delivered = 0;
    for (const [index, recipient] of sent.envelope.recipients.entries()) {
      const { address } = recipient;
      const offers = world.store.offers.filter((offer) => offer.digest === sent.digest && offer.address === address);
      const visible = world.store.seen(address, sent.digest);
      // What expired may have been delivered under another attempt of its client (seed 3320).
      if (visible > 0 && !isReportedExpired(world, sent, index)) delivered += 1;
      if (isAccepted(sent)) checkFate(world, sent, index, offers, expectations, found);
      if (isAccepted(sent)) checkSuccess(world, sent, index, expectations, found);
      if (isRefused(sent) && offers.length > 0 && !isUndone(world) && !isRetried(world, sent))
        found.push(`S3: message ${sent.number} for ${address} was refused and delivered all the same`);
      // Outside nobody knows that it is a retry (protocol.md 24).
      const isKnown = address.endsWith('@sim.example') || !isRetried(world, sent);
      if (visible > 1 && isKnown) found.push(`S8: message ${sent.number} is seen ${visible} times by ${address}`);
    }
    if (isAccepted(sent) && delivered > 0) await checkResting(world, restingOf(sent), found);
  }
  for (const arrival of world.crossings.relayed) {
    const { id, addresses, digest, from } = arrival;
    const isProtected = world.view.everHeld(id, digest) >= 2;
    if (addresses.some((address) => isServedFrom(world, id, address)))
      await checkResting(world, { id, what: `${id} of ${from}`, isProtected }, found);
  }
  checkOwned(world, found);
  checkSpread(world, found);
  for (const offer of world.store.offers)
    if (!digests.has(offer.digest) && !isReport(world, offer.copyId))
      found.push(`S4: ${offer.address} got bytes nobody sent (${offer.copyId})`);
  found.push(...(world.clients?.check() ?? []));
  checkRepeats(world, found);
  checkLingering(world, found);
  checkPromotions(world, found);
  await checkScrubbed(world, found);
  found.push(...checkResubmissions(world), ...unfinishedRequests(world).map((line) => `N6: ${line}`));
  // What is damaged cannot be handed over: the drain waits and says so.
  for (const name of world.counts.has('damages') ? [] : world.draining.keys())
    found.push(`L10: ${name} did not become empty: ${drainOf(world, name)}`);
  return [...new Set([...world.violations, ...found])];
}

function drainOf(world: World, name: string): string {
  const server = world.transports.find((pod) => pod.name === name)?.server;
  return server == null ? 'it does not run' : JSON.stringify(transportView(server).status().drain);
}

/**
 * A volume put back or cloned delivers what was aborted after it was copied, until a member that knows better is reached (protocol.md 1); damage may take the
 * record of an abort itself.
 */
const isUndone = (world: World): boolean =>
  world.counts.has('clones') || world.counts.has('restored') || world.counts.has('damages');

/** A report, wherever it was made. */
const isReport = ({ view, crossings }: World, id: CopyId): boolean => view.dsns.has(crossings.originOf(id));

type Said = 'failed' | 'success';

/** Reports that there may be about a recipient: of the boundary in which the message was accepted, and of those it went to. */
function reportIdsOf(world: World, { id, envelope }: Sent, index: number, said: Said): readonly CopyId[] {
  const address = envelope.recipients[index]?.address ?? '';
  const stages = id === null ? [] : world.crossings.stagesOf(id, address, index);
  return stages.map((stage) => dsnIdOf(stage.id, stage.index, said));
}

/** How often its sender was told so of this recipient, for whatever reason. */
function reportsOf(world: World, sent: Sent, index: number, said: Said = 'failed'): number {
  const dsns = reportIdsOf(world, sent, index, said);
  return world.store.offers.filter(
    ({ visible, copyId, address }) =>
      visible && dsns.includes(world.crossings.originOf(copyId)) && address === sent.envelope.reversePath,
  ).length;
}

/** Its last copy was destroyed out of contract, or a person removed it. */
const isGivenUp = (world: World, id: CopyId): boolean => world.doomed.has(id) || world.poison.removed.has(id);

/** The report itself expired, wherever it was. */
const isReportExpired = ({ crossings, view }: World, dsn: CopyId): boolean =>
  crossings.idsOf(dsn).some((id) => view.expired.has(`${id}/0`));

/** It expired, and its sender heard so, or the report about it expired as well: nobody is told about a report (RFC 5321 4.5.5). */
function isReportedExpired(world: World, sent: Sent, index: number): boolean {
  const { id, envelope } = sent;
  const address = envelope.recipients[index]?.address ?? '';
  const stages = id === null ? [] : world.crossings.stagesOf(id, address, index);
  if (!stages.some((stage) => world.view.expired.has(`${stage.id}/${stage.index}`))) return false;
  return (
    reportsOf(world, sent, index) > 0 ||
    reportIdsOf(world, sent, index, 'failed').some((dsn) => isReportExpired(world, dsn))
  );
}

/** The report is gone with its last copy, or as old mail is. */
const isDoomedReport = (world: World, sent: Sent, index: number, said: Said, { expiry }: Expectations): boolean =>
  reportIdsOf(world, sent, index, said).some(
    (report) =>
      world.crossings.idsOf(report).some((one) => world.doomed.has(one)) || (expiry && isReportExpired(world, report)),
  );

/** RFC 3461 5.2: who asked for it hears of each success, once. */
function checkSuccess(world: World, sent: Sent, index: number, expectations: Expectations, found: string[]): void {
  const { id, envelope } = sent;
  const { address = '', notify } = envelope.recipients[index] ?? {};
  if (id === null || notify === undefined || isUndone(world)) return;
  if (world.crossings.stagesOf(id, address, index).some((one) => isGivenUp(world, one.id))) return;
  const reports = reportsOf(world, sent, index, 'success');
  const what = `message ${sent.number} ${id} for ${address}: its sender was told ${reports} times of success`;
  if (failing(address) ? reports > 0 : reports > world.crossings.mostReports(id)) found.push(`DSN: ${what}`);
  if (failing(address) || world.store.seen(address, sent.digest) === 0 || isReportedExpired(world, sent, index)) return;
  if (reports === 0 && !isDoomedReport(world, sent, index, 'success', expectations)) found.push(`DSN: ${what}`);
}

/** Promise 2: each recipient of a message answered 250 is delivered, or its sender hears exactly once that it is not. */
function checkFate(
  world: World,
  sent: Sent,
  index: number,
  offers: readonly Offer[],
  expectations: Expectations,
  found: string[],
): void {
  const { id } = sent;
  const address = sent.envelope.recipients[index]?.address ?? '';
  if (id === null || world.crossings.stagesOf(id, address, index).some((one) => isGivenUp(world, one.id))) return;
  const reports = reportsOf(world, sent, index);
  const isExpired = isReportedExpired(world, sent, index);
  const what = `message ${sent.number} ${id} for ${address}`;
  const isReportDoomed = isDoomedReport(world, sent, index, 'failed', expectations);
  const most = world.crossings.mostReports(id);
  const isWrong = failing(address) ? reports < 1 || reports > most : reports > 0 && !isExpired;
  if (!isReportDoomed && isWrong) found.push(`DSN: ${what}: its sender was told ${reports} times that it failed`);
  if (isExpired && !expectations.expiry) found.push(`S16: ${what} expired`);
  if (isExpired && reports > most) found.push(`DSN: ${what}: expiry was reported ${reports} times`);
  if (failing(address) || isExpired || world.store.seen(address, sent.digest) > 0) return;
  if (offers.length === 0) found.push(`lost: ${what} was answered 250 and neither delivered nor reported`);
  else if (isBeyondRequest(world, address, offers))
    found.push(`N3: ${what} was delivered from another boundary, where the request of the failover does not go`);
  else if (!world.isOutOfContract && !world.poison.notBroughtBack.has(id))
    found.push(`S10: ${what} was delivered, and the surviving copy of its database does not have it`);
}

/**
 * The operator addresses the request of a failover to the boundary of the database alone (N3), and a transport of another boundary that got the message
 * delivers it itself as long as there is no relay between boundaries (D3). Known to be open, and only where the operator made the request.
 */
function isBeyondRequest(world: World, address: string, offers: readonly Offer[]): boolean {
  const database = world.document.databases.find((one) => one.addresses.includes(address));
  const isConfined = world.document.resubmitRequests.some(
    (one) => one.lostActivation !== null && one.database === database?.name && one.boundary === database?.boundary,
  );
  return isConfined && offers.every((offer) => world.boundaryOf(offer.by) !== database?.boundary);
}

interface Resting {
  readonly id: CopyId | null;
  readonly what: string;
  readonly isProtected: boolean;
}

const restingOf = ({ id, number, isProtected }: Sent): Resting => ({
  id,
  what: `message ${number} ${id}`,
  isProtected,
});

/** A store or a relay has it from this copy. */
const isServedFrom = ({ store }: World, id: CopyId, address: string): boolean =>
  store.offers.some((offer) => offer.copyId === id && offer.address === address && !offer.replyLost);

/** D8, S4, N1: what succeeded rests in Primary and Shadow Safety Net, by the word of the databases. */
async function checkResting(world: World, { id, what, isProtected }: Resting, found: string[]): Promise<void> {
  // What a person removed may have been delivered under another attempt of its client.
  if (id === null || world.doomed.has(id) || world.poison.removed.has(id)) return;
  const resting = new Set<string>();
  for (const pod of world.transports) {
    const queue = await world.scheduler.await(restingQueue(pod.database?.lookup(id)));
    if (queue !== null) resting.add(queue);
  }
  // Damage that recovery met may have taken the last trace of a copy at rest; what is still listed is looked at by `checkScrubbed`.
  // Which of two incarnations of one database had it, nobody can tell (semantics.md S9).
  if (resting.has('damaged') || world.counts.has('damages') || world.counts.has('clones')) return;
  // What a restored volume had received within the last second nobody had seen of it (protocol.md 1): at rest it is not missed.
  if (world.counts.has('restored')) return;
  if (!resting.has('primarySafetyNet')) found.push(`N1: ${what} is in no Primary Safety Net`);
  if (isProtected && hasPartner(world, id) && !resting.has('shadowSafetyNet'))
    found.push(`S4: ${what} is in no Shadow Safety Net`);
}

/** What rests where is not known for certain. */
const isUncertain = ({ counts }: World): boolean => ['damages', 'clones', 'restored'].some((what) => counts.has(what));

/** N1, N4: what a resubmission made rests like any message: somebody who is there answers for it. Bytes alone are not enough, a failover would look for its owner. */
function checkOwned(world: World, found: string[]): void {
  if (isUncertain(world)) return;
  for (const id of world.view.resubmissions.keys()) {
    const holders = world.view.holders(id);
    if (holders.length === 0 || world.doomed.has(id)) continue;
    if (holders.every(({ stored }) => stored.state.queue === 'shadowSafetyNet'))
      found.push(`N1: ${id} rests with ${holders.map(({ member }) => member).join(', ')}, and nobody owns it`);
  }
}

/** Promise 1 of semantics.md at rest: whatever was lost, and whoever was away when it was accepted. */
function checkSpread(world: World, found: string[]): void {
  for (const { id, number } of world.sent.filter(isAccepted)) {
    const holders = id === null ? null : inOneSite(world, id);
    if (holders !== null) found.push(`R4: message ${number} ${id} rests in one site only: ${holders.join(', ')}`);
  }
}

/** Who has both copies of it in one site although somebody of another could hold one; null: all is as it should be, or nobody can tell. */
export function inOneSite(world: World, id: CopyId): readonly string[] | null {
  if (isUncertain(world) || world.document.policies.shadowRedundancy.preference === 'LocalOnly') return null;
  const members = world.view.holders(id).map(({ member }) => member);
  const owner = world.view.holders(id).find(({ stored }) => stored.state.queue === 'primarySafetyNet')?.member;
  if (owner === undefined || members.length < 2) return null;
  const siteOf = (name: string) => world.document.members.find((member) => member.name === name)?.site;
  const isThere = members.some((name) => siteOf(name) !== siteOf(owner));
  return !isThere && partnersOf(world, owner).some(({ site }) => site !== siteOf(owner)) ? members : null;
}

/** Somebody beside its primary holder can hold it, as the policies say. */
export function hasPartner(world: World, id: CopyId): boolean {
  const holders = world.view.holders(id);
  const holder = holders.find((one) => one.stored.state.queue !== 'shadowSafetyNet') ?? holders[0];
  return partnersOf(world, holder?.member ?? '').length > 0;
}

async function restingQueue(lookup: Promise<{ readonly state: { readonly queue: string } } | null> | undefined) {
  try {
    return (await lookup)?.state.queue ?? null;
  } catch (error) {
    if ((error as { code?: string }).code === 'DAMAGED') return 'damaged';
    throw error;
  }
}

/**
 * S8: a repeated offer needs an excuse: the reply was lost; it is a resubmission, a replay that waited in vain, or the copy it went to was lost by a failover; it was taken over; or who
 * delivered died, was fenced or could not be asked. Two owners that can reach each other never both deliver (protocol.md 7, 13).
 */
function checkRepeats(world: World, found: string[]): void {
  const first = new Map<string, Offer>();
  const excuses = new Map<string, number>();
  for (const offer of world.store.offers) {
    const key = `${offer.deliveryId} ${offer.address}`;
    const earlier = first.get(key);
    first.set(key, offer);
    if (earlier === undefined || earlier.replyLost) continue;
    if (offer.place !== earlier.place || world.view.resubmissions.has(offer.copyId)) continue;
    // A replay into another boundary starts anew there; a report may have two makers, of which one died.
    if (world.boundaryOf(earlier.by) !== world.boundaryOf(offer.by)) continue;
    // From there it may come over a link to where the lower try was delivered. That it comes by once only, and as one message, crossing-checks.ts looks at.
    if (world.crossings.isArrival(offer.copyId) !== world.crossings.isArrival(earlier.copyId)) continue;
    const isOfReport = isReport(world, offer.copyId);
    const excused = world.troubles.some(
      (trouble) =>
        (trouble.who.includes(earlier.by) || (isOfReport && trouble.who.includes(offer.by))) &&
        trouble.fromMs <= offer.atMs &&
        trouble.untilMs >= earlier.atMs &&
        (trouble.who.length === 1 || trouble.who.includes(offer.by)),
    );
    // A replay whose owner waited as long as it may for a delivery that the owner of a lower try had open (protocol.md 14; `replays` in section 9's S8): then loss is
    // worse than a duplicate. Before that it has to wait (known-wrong variant `claim-ignored`).
    const replayed = world.replays.some(
      (replay) =>
        replay.id === offer.copyId &&
        earlier.by !== offer.by &&
        [earlier, offer].some((one) => one.by === replay.by && one.atMs >= replay.atMs + DEADLINES.doubtMs),
    );
    if (replayed) continue;
    // A takeover: the former owner may have been in the middle of it.
    const used = excuses.get(key) ?? 0;
    const takeovers = world.view.promotions.filter((one) => one.id === offer.copyId).length;
    if (!excused) excuses.set(key, used + 1);
    if (!excused && used >= takeovers)
      found.push(
        `S8: ${offer.copyId} was offered to ${offer.address} by ${earlier.by} and again by ${offer.by} without an excuse`,
      );
  }
}

/** S16, protocol.md 3, 4: nobody takes over from a member that was well all the time. */
function checkPromotions(world: World, found: string[]): void {
  for (const { id, by, of } of world.view.promotions) {
    const member = world.view.memberOf(of) ?? '';
    const hadTrouble = world.troubles.some((trouble) => trouble.who.includes(member));
    // A drained member hands its own over, any one what a person redirects; what its owner gave up for one try is claimed by who was told that another one was accepted.
    const { aborts, redirected } = world.view;
    if (!hadTrouble && !world.counts.has('drains') && !redirected.has(id) && !aborts.has(id))
      found.push(`S16: ${by} took ${id} over from ${member}, which was well all the time`);
  }
}

/** L2, L7, R8: nothing lingers in transit or as a shadow once everything has had time; L8: nor does a tombstone that nobody will ask for. */
function checkLingering(world: World, found: string[]): void {
  for (const pod of world.transports) {
    const core = pod.server?.core;
    if (core === undefined) {
      found.push(`L2: ${pod.key} did not come back`);
      continue;
    }
    for (const copy of core.copies.values()) {
      // Nobody has its bytes: it is listed as lost (row 40). What was answered 250 is looked at by `checkFate`.
      if (core.damaged.has(copy.facts.id)) continue;
      const refused = world.view.aborts.has(copy.facts.id) && !world.view.finals.has(copy.facts.id);
      found.push(
        `${refused ? 'R8' : 'L2'}: ${copy.facts.id} lingers in ${copy.state.queue} of ${pod.key} (${copy.state.standing}, owner ${copy.state.epoch.owner === core.me ? 'self' : copy.state.epoch.owner})`,
      );
    }
  }
  checkChains(world, found);
}

/** S6: whoever is there is what the others last saw of it, or what came after. */
function checkChains(world: World, found: string[]): void {
  for (const pod of world.transports)
    for (const observer of world.transports) {
      const seen = observer.volume.seen.get(pod.name);
      if (seen === undefined || pod.database === null || seen.identity !== pod.database.identity) continue;
      const entry = pod.database.chain.find((open) => open.openCounter === seen.openCounter);
      if (entry?.nonce !== seen.nonce || pod.database.syncedSequence < seen.syncedSequence)
        found.push(`S6: ${observer.name} has seen another life of ${pod.name} than the one that is there`);
    }
}
