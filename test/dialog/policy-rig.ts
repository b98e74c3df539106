/**
 * The real front end's word on senders, recipients and AUTH in a dialog; what is accepted goes to the recorder. Owns: one topology with everything that decides about an address:
 *   example.net   ours: a mailbox for everybody; `staff@` is a group of bob@ and far@foreign.example, `unread@` one whose members come from a list that nobody has read, `empty@` has
 *                 no usable member, `big@` and `more@` have 6,000 each
 *   listed.test   ours: only bob@ exists, and any bob+detail@            lists.test    ours: who exists is in a list that nobody has read
 *   partner.test  somebody else's, whom we relay to for everybody         everything else is foreign
 */
import type { MailboxDatabaseConfig, TopologyDocument } from '../../common/config.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { ClientLimits } from '../../common/smtp/client-limits.ts';
import type { EdgeHandlers } from '../../common/smtp/edge-api.ts';
import { hashPassword, parseUsers } from '../../common/smtp/users.ts';
import { FrontendEdge } from '../../frontend/edge.ts';
import { simTopology } from '../sim/topology.ts';
import type { Dialog } from './dialog-file.ts';
import { LIMITS, ManualClock, type Recorder } from './edge-rig.ts';

const group = (address: string, members: readonly string[], membersFrom: string | null = null) => ({
  ...{ address, members, membersFrom, envelopeSender: null },
});
const crowd = (name: string): readonly string[] =>
  Array.from({ length: 6_000 }, (_, at) => `${name}${at}@foreign.example`);

function topology(): TopologyDocument {
  const base = simTopology({ sites: [1], dag: true, frontends: 1 });
  const [first] = base.databases as [MailboxDatabaseConfig];
  return {
    ...base,
    acceptedDomains: [
      { name: 'example.net', type: 'Authoritative' },
      { name: 'listed.test', type: 'Authoritative' },
      { name: 'lists.test', type: 'Authoritative' },
      { name: 'partner.test', type: 'ExternalRelay' },
    ],
    databases: [{ ...first, domains: ['example.net', 'lists.test'], addresses: ['bob@listed.test'] }],
    recipients: {
      plusAddressing: true,
      expansions: [
        group('staff@example.net', ['bob@example.net', 'far@foreign.example']),
        group('unread@example.net', [], 'people'),
        group('empty@example.net', ['empty@example.net']),
        group('big@example.net', crowd('a')),
        group('more@example.net', crowd('b')),
      ],
      catchAll: [],
      knownRecipients: [{ domain: 'lists.test', addressLists: ['people'] }],
    },
  };
}

export class PolicyRig {
  /** What the transports lack, or null. */
  pressedBy: string | null = null;
  readonly edgeOptions: { readonly handlers: EdgeHandlers };
  #recorder: Recorder | null = null;

  private constructor(dialog: Dialog, usersFile: string) {
    const rig = this;
    const clock = new ManualClock();
    const name = 'smtp';
    const edge = new FrontendEdge(
      {
        ...{ name: 'fe-1', clock, random: systemRandom, log: silentLogger, metrics: silentMetrics },
        listeners: [
          {
            ...{ name, host: '127.0.0.1', port: 0, tls: dialog.tls, usersFile: null },
            ...{ relayFrom: dialog.relayFrom, authRequired: dialog.authRequired },
          },
        ],
        clients: new ClientLimits(clock, null),
        limits: { ...LIMITS, ...dialog.limits },
        proxy: {
          get pressedBy() {
            return rig.pressedBy;
          },
          open: (envelope, drain) => rig.#received(envelope, drain),
        },
      },
      topology(),
    );
    if (usersFile !== '') edge.setUsers(name, parseUsers(usersFile));
    this.edgeOptions = { handlers: edge };
  }

  static async start(dialog: Dialog): Promise<PolicyRig> {
    let usersFile = '';
    for (const [user, password] of dialog.users ?? [])
      usersFile += `${user}:${await hashPassword(password, systemRandom)}\n`;
    return new PolicyRig(dialog, usersFile);
  }

  connectTo(recorder: Recorder): void {
    this.#recorder = recorder;
  }

  #received(...[envelope, drain]: Parameters<Recorder['receive']>): ReturnType<Recorder['receive']> {
    if (this.#recorder === null) throw new Error('nobody records');
    return this.#recorder.receive(envelope, drain);
  }
}
