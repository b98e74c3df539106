/** The sessions of one member of two (`Peers`) on the simulated network, as the tests of them start it. */
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { Peers } from '../../transport/runtime/peers.ts';
import type { QueueDatabase } from '../../transport/store/database.ts';
import { MemoryDisk, openMemoryStore } from '../../transport/store/memory.ts';
import type { SimNetwork } from '../sim/net.ts';
import type { Scheduler } from '../sim/scheduler.ts';
import { simTopology } from '../sim/topology.ts';

type Parts = ConstructorParameters<typeof Peers>;

export async function simPeers(
  {
    scheduler,
    network,
    member,
  }: { readonly scheduler: Scheduler; readonly network: SimNetwork; readonly member: string },
  heard: Partial<Parts[1]>,
  more: Partial<Parts[0]> = {},
): Promise<Peers> {
  const clock = scheduler.clock();
  const opened = (): Promise<QueueDatabase> =>
    openMemoryStore({ disk: new MemoryDisk(), clock, random: scheduler.random, member });
  return new Peers(
    {
      name: member,
      hostname: member,
      listen: { host: member, port: 4_000 },
      uid: 'uid',
      clock,
      random: scheduler.random,
      network: network.host({ role: 'transport', name: member }, { alive: true }),
      log: silentLogger,
      metrics: silentMetrics,
      database: more.database ?? (await opened()),
      delivery: { start: () => undefined, close: () => Promise.resolve() },
      tracking: { record: () => undefined },
      document: simTopology({ sites: [2], dag: true, frontends: 1 }),
      onFatal: (reason) => scheduler.fail(reason),
      ...more,
    },
    {
      onMember: () => undefined,
      onMemberGone: () => undefined,
      onControl: () => undefined,
      onStream: () => undefined,
      contact: () => ({
        syncedSequence: 0,
        trustedMs: clock.monotonicMs(),
        generation: 1,
        load: { queued: 0, intake: 0, backPressure: 'Normal', accepting: true },
      }),
      onSeen: () => undefined,
      ...heard,
    },
  );
}
