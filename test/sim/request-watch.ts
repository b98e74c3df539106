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

/** Databases that a member met while it worked on a request, null once it was looked at; and when it was looked at last. By life of the member. */
interface Met {
  readonly byRequest: Map<string, Set<Identity> | null>;
  lookedAtMs: number;
}

const metBy = new WeakMap<TransportServer, Met>();

export function lookAtRequests(world: World, pods: ReadonlyMap<string, Healthy>): void {
  for (const { pod, server } of pods.values()) {
    const { core } = server;
    const nowMs = server.deps.clock.monotonicMs();
    const seen = metBy.get(server);
    const met = seen ?? { byRequest: new Map<string, Set<Identity> | null>(), lookedAtMs: nowMs };
    metBy.set(server, met);
    const heard = heardSince(server, met.lookedAtMs);
    met.lookedAtMs = nowMs;
    for (const view of resubmitViews({ server: core, nowMs })) {
      const known = met.byRequest.get(view.name);
      if (known === null) continue;
      // An earlier life may have done it.
      if (seen === undefined && view.state === 'Done') {
        met.byRequest.set(view.name, null);
        continue;
      }
      const all = known ?? new Set<Identity>();
      for (const identity of heard) all.add(identity);
      met.byRequest.set(view.name, view.state === 'Done' ? null : all);
      if (view.state === 'Done') checkDone(world, pod, server, view.name, all);
    }
  }
}

/** Those that are there, and those that were there between two looks: a request may come, be answered and be done in less than a second (seed 2354). */
function heardSince({ core }: TransportServer, sinceMs: number): Identity[] {
  const heard = [...core.peers.values()].map(({ identity }) => identity);
  for (const [member, atMs] of core.lastHeardMs) {
    const identity = core.known.get(member);
    if (identity !== undefined && atMs >= sinceMs) heard.push(identity);
  }
  return heard;
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
