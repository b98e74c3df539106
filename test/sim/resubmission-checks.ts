/**
 * What may be resubmitted and what not (protocol.md section 6, semantics.md S9). Owns: that every resubmission was asked for, by somebody who wanted it done,
 * stays in its boundary, and reports nothing.
 */
import type { ResubmitRequestConfig } from '../../common/config.ts';
import type { CopyId } from '../../common/message.ts';
import { databaseOf } from '../../transport/core/routing.ts';
import { dsnIdOf } from './durable-view.ts';
import { messageIdOf } from './mail.ts';
import type { World } from './world.ts';

export function checkResubmissions(world: World): string[] {
  const found: string[] = [];
  for (const [id, { stored, member }] of world.view.resubmissions) {
    const { envelope, ancestor } = stored.facts;
    const number = world.sent.findIndex((sent) => sent.digest === stored.facts.digest);
    for (const [index, { address }] of envelope.recipients.entries()) {
      if (!world.document.resubmitRequests.some((request) => isMeant(world, request, number, address, member)))
        found.push(`S9: ${member} resubmitted ${ancestor} to ${address} although nobody asked for it`);
      for (const kind of ['failed', 'delayed'] as const)
        if (world.view.dsns.has(dsnIdOf(id, index, kind)))
          found.push(`S9: a report (${kind}) was made about the resubmission ${id}`);
    }
    if (ancestor !== null && !homesOf(world, ancestor).has(world.boundaryOf(member) ?? ''))
      found.push(`S9: ${member} resubmitted ${ancestor}, which was never in its boundary`);
  }
  return found;
}

function isMeant(
  world: World,
  request: ResubmitRequestConfig,
  number: number,
  address: string,
  member: string,
): boolean {
  if (request.dryRun || (request.boundary !== null && request.boundary !== world.boundaryOf(member))) return false;
  if (request.database !== null) return databaseOf(world.document, address)?.name === request.database;
  if (request.recipient !== null) return request.recipient === address;
  if (request.sender !== null) return world.sent[number]?.envelope.reversePath === request.sender;
  return request.messageId === messageIdOf(number);
}

/** Boundaries in which a copy ever was. */
function homesOf(world: World, id: CopyId): Set<string> {
  const homes = new Set<string>();
  for (const volume of world.view.volumes)
    if ([...volume.resting.keys(), ...volume.live.keys()].some((one) => world.crossings.originOf(one) === id))
      homes.add(world.boundaryOf(volume.member) ?? '');
  return homes;
}
