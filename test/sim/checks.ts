/**
 * What must be true at the end of a run, once faults have stopped and the system had time (protocol.md section 9). Owns: the arithmetic per recipient:
 * lost, unexpected, duplicated; and that nothing lingers. Violations are lines a person can read.
 */
import { dsnIdOf } from './durable-view.ts';
import type { Offer } from './mail-store.ts';
import type { Sent, World } from './world.ts';

export interface Expectations {
  /** Messages may expire: a report about it is as good as a delivery. */
  readonly expiry: boolean;
}

/** Known to be refused: nobody will ever deliver it. */
const isRefused = (sent: Sent): boolean =>
  sent.answer?.kind === 'refusedEarly' || (sent.answer?.kind === 'reply' && sent.answer.reply.code >= 400);
const isAccepted = (sent: Sent): boolean => sent.answer?.kind === 'reply' && sent.answer.reply.code === 250;

const failing = (address: string): boolean => address.includes('refused') || address.includes('unknown');

export async function checkEnd(world: World, expectations: Expectations): Promise<readonly string[]> {
  const found = [...world.violations];
  const digests = new Set(world.sent.map((sent) => sent.digest));
  for (const sent of world.sent) {
    if (sent.answer === null && sent.life?.alive === true) found.push(`L1: message ${sent.number} was never answered`);
    let delivered = 0;
    for (const [index, recipient] of sent.envelope.recipients.entries()) {
      const offers = world.store.offers.filter(
        (offer) => offer.digest === sent.digest && offer.address === recipient.address,
      );
      const visible = offers.filter((offer) => offer.visible).length;
      if (visible > 0) delivered += 1;
      if (isAccepted(sent)) checkFate(world, sent, index, offers, expectations, found);
      if (isRefused(sent) && visible > 0)
        found.push(`S3: message ${sent.number} for ${recipient.address} was refused and delivered all the same`);
      if (visible > 1) found.push(`S8: message ${sent.number} is seen ${visible} times by ${recipient.address}`);
    }
    if (isAccepted(sent) && delivered > 0) await checkResting(world, sent, found);
  }
  for (const offer of world.store.offers)
    if (!digests.has(offer.digest) && !world.view.dsns.has(offer.copyId))
      found.push(`S4: ${offer.address} got bytes nobody sent (${offer.copyId})`);
  checkRepeats(world, found);
  checkLingering(world, found);
  return found;
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
  if (id === null) return;
  const reports = (kind: string): number =>
    world.store.offers.filter(
      (offer) =>
        offer.visible && offer.copyId === dsnIdOf(id, index, kind) && offer.address === sent.envelope.reversePath,
    ).length;
  const failed = reports('failed');
  const expired = reports('expired');
  const what = `message ${sent.number} ${id} for ${address}`;
  if (failing(address) ? failed + expired !== 1 : failed > 0)
    found.push(`DSN: ${what}: its sender saw ${failed} reports of failure and ${expired} of expiry`);
  if (expired > 0 && !expectations.expiry) found.push(`S16: ${what} expired`);
  if (expired > 1) found.push(`DSN: ${what}: expiry was reported ${expired} times`);
  if (!failing(address) && offers.length === 0 && expired === 0)
    found.push(`lost: ${what} was answered 250 and neither delivered nor reported`);
}

/** D8, S4, N1: what succeeded rests in Primary and Shadow Safety Net, by the word of the databases. */
async function checkResting(world: World, sent: Sent, found: string[]): Promise<void> {
  if (sent.id === null) return;
  const resting: string[] = [];
  for (const pod of world.transports) {
    const stored = await world.scheduler.await(pod.database?.lookup(sent.id) ?? Promise.resolve(null));
    if (stored !== null) resting.push(stored.state.queue);
  }
  if (!resting.includes('primarySafetyNet'))
    found.push(`N1: message ${sent.number} ${sent.id} is in no Primary Safety Net`);
  if (sent.isProtected && !resting.includes('shadowSafetyNet'))
    found.push(`S4: message ${sent.number} ${sent.id} is in no Shadow Safety Net`);
}

const boundaryOf = (world: World, member: string): string | undefined =>
  world.document.members.find((entry) => entry.name === member)?.boundary;

/**
 * S8: a repeated offer needs an excuse: the reply was lost; or who delivered died or could not be asked. Two owners that can reach each other never both
 * deliver (protocol.md 7, 13).
 */
function checkRepeats(world: World, found: string[]): void {
  const first = new Map<string, Offer>();
  for (const offer of world.store.offers) {
    const key = `${offer.deliveryId} ${offer.address}`;
    const earlier = first.get(key);
    first.set(key, offer);
    if (earlier === undefined || earlier.replyLost) continue;
    // A replay into another boundary starts anew there; a report may have two makers, of which one died.
    if (boundaryOf(world, earlier.by) !== boundaryOf(world, offer.by)) continue;
    const isReport = world.view.dsns.has(offer.copyId);
    const excused = world.troubles.some(
      (trouble) =>
        (trouble.who.includes(earlier.by) || (isReport && trouble.who.includes(offer.by))) &&
        trouble.fromMs <= offer.atMs &&
        trouble.untilMs >= earlier.atMs &&
        (trouble.who.length === 1 || trouble.who.includes(offer.by)),
    );
    if (!excused)
      found.push(
        `S8: ${offer.copyId} was offered to ${offer.address} by ${earlier.by} and again by ${offer.by} without an excuse`,
      );
  }
}

/** L2, L7, R8: nothing lingers in transit or as a shadow once everything has had time; L8: nor does a tombstone that nobody will ask for. */
function checkLingering(world: World, found: string[]): void {
  for (const pod of world.transports) {
    const core = pod.server?.core;
    if (core === undefined) {
      found.push(`L2: ${pod.name} did not come back`);
      continue;
    }
    for (const copy of core.copies.values()) {
      const refused = world.view.aborts.has(copy.facts.id) && !world.view.finals.has(copy.facts.id);
      found.push(
        `${refused ? 'R8' : 'L2'}: ${copy.facts.id} lingers in ${copy.state.queue} of ${pod.name} (${copy.state.standing}, owner ${copy.state.epoch.owner === core.me ? 'self' : copy.state.epoch.owner})`,
      );
    }
  }
}
