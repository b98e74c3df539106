/**
 * What must be true at the end of a run, once faults have stopped and the system had time (protocol.md section 9). Owns: the arithmetic per recipient:
 * lost, unexpected, duplicated; and that nothing lingers. Violations are lines a person can read.
 */
import type { CopyId } from '../../common/message.ts';
import type { Sent, World } from './world.ts';

/** Known to be refused: nobody will ever deliver it. */
const isRefused = (sent: Sent): boolean =>
  sent.answer?.kind === 'refusedEarly' || (sent.answer?.kind === 'reply' && sent.answer.reply.code >= 400);
const isAccepted = (sent: Sent): boolean => sent.answer?.kind === 'reply' && sent.answer.reply.code === 250;

const failing = (address: string): boolean => address.includes('refused') || address.includes('unknown');

export async function checkEnd(world: World): Promise<readonly string[]> {
  const found = [...world.violations];
  const digests = new Map(world.sent.map((sent) => [sent.digest, sent]));
  for (const sent of world.sent) {
    for (const recipient of sent.envelope.recipients) {
      const offers = world.store.offers.filter((offer) => offer.digest === sent.digest && offer.address === recipient.address);
      const visible = offers.filter((offer) => offer.visible).length;
      if (isAccepted(sent) && !failing(recipient.address) && visible === 0) found.push(`lost: message ${sent.number} ${sent.id ?? ''} for ${recipient.address} was answered 250 and never delivered`);
      if (isRefused(sent) && visible > 0) found.push(`S3: message ${sent.number} for ${recipient.address} was refused and delivered all the same`);
      if (visible > 1) found.push(`S8: message ${sent.number} is seen ${visible} times by ${recipient.address}`);
    }
    if (isAccepted(sent)) checkFailures(world, sent, found);
    if (isAccepted(sent)) await checkResting(world, sent, found);
  }
  for (const offer of world.store.offers) if (!digests.has(offer.digest) && !isDsn(world, offer.copyId)) found.push(`S4: ${offer.address} got bytes nobody sent (${offer.copyId})`);
  checkRepeats(world, found);
  checkLingering(world, found);
  return found;
}

const isDsn = (world: World, id: CopyId): boolean => world.dsns.has(id);

/** Whoever sent a message that failed for a recipient hears of it, exactly once. */
function checkFailures(world: World, sent: Sent, found: string[]): void {
  const failed = sent.envelope.recipients.filter((recipient) => failing(recipient.address)).length;
  if (failed === 0 || sent.envelope.reversePath === '') return;
  const reports = world.store.offers.filter((offer) => offer.visible && offer.address === sent.envelope.reversePath).length;
  if (reports !== failed) found.push(`DSN: message ${sent.number} failed for ${failed} recipients, its sender saw ${reports} reports`);
}

/** D8, S4, N1: what succeeded rests in Primary and Shadow Safety Net, by the word of the databases. */
async function checkResting(world: World, sent: Sent, found: string[]): Promise<void> {
  if (sent.id === null || sent.envelope.recipients.every((recipient) => failing(recipient.address))) return;
  const resting: string[] = [];
  for (const pod of world.transports) {
    const stored = await world.scheduler.await(pod.database?.lookup(sent.id) ?? Promise.resolve(null));
    if (stored !== null) resting.push(stored.state.queue);
  }
  if (!resting.includes('primarySafetyNet')) found.push(`N1: message ${sent.number} ${sent.id} is in no Primary Safety Net`);
  if (sent.isProtected && !resting.includes('shadowSafetyNet')) found.push(`S4: message ${sent.number} ${sent.id} is in no Shadow Safety Net`);
}

/** S8: a repeated offer needs an excuse: a reply lost, a death of who had delivered, or doubt that nobody could answer. */
function checkRepeats(world: World, found: string[]): void {
  if (world.cuts > 0) return;
  const first = new Map<string, (typeof world.store.offers)[number]>();
  for (const offer of world.store.offers) {
    const key = `${offer.deliveryId} ${offer.address}`;
    const earlier = first.get(key);
    first.set(key, offer);
    if (earlier === undefined || earlier.replyLost) continue;
    const died = world.deaths.some((death) => death.atMs >= earlier.atMs - 5_000 && death.atMs <= offer.atMs);
    if (!died) found.push(`S8: ${offer.copyId} was offered to ${offer.address} by ${earlier.by} and again by ${offer.by} without an excuse`);
  }
}

/** L2, L7: nothing lingers in transit or as a shadow once everything has had time. */
function checkLingering(world: World, found: string[]): void {
  for (const pod of world.transports) {
    for (const copy of pod.server?.core.copies.values() ?? []) {
      const refused = world.aborts.has(copy.facts.id) && !world.finals.has(copy.facts.id);
      found.push(`${refused ? 'R8' : 'L2'}: ${copy.facts.id} lingers in ${copy.state.queue} of ${pod.name} (${copy.state.standing}, owner ${copy.state.epoch.owner === pod.server?.core.me ? 'self' : copy.state.epoch.owner})`);
    }
  }
}
