/**
 * When a resubmit request may be called done (protocol.md 21, 22). Owns: that no member says so while an entry of its Shadow Safety Net which the request means
 * belongs to a primary that it has not met since, and nobody has made the copy.
 */
import type { Identity } from '../../common/message.ts';
import { resubmitViews } from '../../transport/core/resubmission.ts';
import { selectedOf } from '../../transport/core/resubmit-match.ts';
import type { TransportServer } from '../../transport/runtime/server.ts';
import type { Pod } from './pod.ts';
import type { World } from './world.ts';

interface Healthy {
  readonly pod: Pod;
  readonly server: TransportServer;
}

/** Databases that a member met while it worked on a request; null once it was looked at. By life of the member. */
const metBy = new WeakMap<TransportServer, Map<string, Set<Identity> | null>>();

export function lookAtRequests(world: World, pods: ReadonlyMap<string, Healthy>): void {
  for (const { pod, server } of pods.values()) {
    const { core } = server;
    const seen = metBy.get(server);
    const met = seen ?? new Map<string, Set<Identity> | null>();
    metBy.set(server, met);
    for (const view of resubmitViews({ server: core, nowMs: server.deps.clock.monotonicMs() })) {
      const known = met.get(view.name);
      if (known === null) continue;
      // An earlier life may have done it.
      if (seen === undefined && view.state === 'Done') {
        met.set(view.name, null);
        continue;
      }
      const all = known ?? new Set<Identity>();
      for (const peer of core.peers.values()) all.add(peer.identity);
      met.set(view.name, view.state === 'Done' ? null : all);
      if (view.state === 'Done') checkDone(world, pod, server, view.name, all);
    }
  }
}

function checkDone(world: World, pod: Pod, { core }: TransportServer, name: string, met: ReadonlySet<Identity>): void {
  const request = core.document.resubmitRequests.find((one) => one.name === name);
  if (request === undefined || request.dryRun || request.cancelled) return;
  for (const stored of pod.volume.resting.values()) {
    const { queue, epoch } = stored.state;
    if (queue !== 'shadowSafetyNet' || epoch.owner === core.me || met.has(epoch.owner)) continue;
    const missing = selectedOf(core, request, stored).filter(
      ({ id }) => !world.view.resubmissions.has(id) && !core.copies.has(id),
    );
    if (missing.length > 0)
      world.violate(
        `rule 22: ${pod.name} calls ${name} done without ${stored.facts.id}, whose primary ${world.view.memberOf(epoch.owner)} it has not met since`,
      );
  }
}
