/** The place of `mailcluster`: the cluster that `mailcluster run` keeps on this machine. Owns: its options, and and what is ordered as orders to the runner. */
import { userInfo } from 'node:os';
import { readTopology } from '../../common/config-files.ts';
import { openCluster } from '../local/cluster.ts';
import { readResubmit, resubmitNames } from '../local/overseer.ts';
import { statePaths } from '../local/state-directory.ts';
import { knownIdentities } from '../local/volumes.ts';
import { type CommandContext, type OptionValues, stateOf } from './command.ts';
import { give, giveAll, newId } from './ordering.ts';
import type { MailSource, OrderDesk, Place, ResubmitDesk } from './place.ts';

const stateIn = ({ state }: OptionValues, { environment }: CommandContext): string =>
  stateOf(typeof state === 'string' ? state : undefined, environment);

async function openMembers(values: OptionValues, context: CommandContext): Promise<MailSource> {
  return await openCluster(stateIn(values, context));
}

async function openOrders(values: OptionValues, context: CommandContext): Promise<OrderDesk> {
  const cluster = await openCluster(stateIn(values, context));
  const by = userInfo().username;
  return {
    close: cluster.close,
    give: async (wishes) => {
      const orders = wishes.map((wish) => ({ ...wish, id: newId(), atMs: context.nowMs(), by }));
      return (await giveAll(orders, cluster, context)) ? orders.map(({ id }) => id) : null;
    },
  };
}

async function openResubmits(values: OptionValues, context: CommandContext): Promise<ResubmitDesk> {
  const cluster = await openCluster(stateIn(values, context));
  const paths = statePaths(cluster.run.state);
  const order = () => ({ id: newId(), atMs: context.nowMs() });
  return {
    askAll: cluster.askAll,
    close: cluster.close,
    document: () => readTopology(cluster.run.topologyFile),
    onlySinceMs: async (member) => {
      const known = await knownIdentities(paths, member);
      return known.length > 1 ? null : (known[0]?.sinceMs ?? Number.POSITIVE_INFINITY);
    },
    submit: async ({ metadata, ...resource }) => {
      const { name, namespace } = metadata;
      const named = { ...resource, metadata: { name, namespace, labels: {}, annotations: {} } } as const;
      return await give({ kind: 'resubmit', ...order(), resource: named }, cluster, context);
    },
    cancel: (request) => give({ kind: 'cancel', ...order(), request }, cluster, context),
    find: (name) => readResubmit(paths, name),
    all: async () => {
      const found = await Promise.all((await resubmitNames(paths)).map((name) => readResubmit(paths, name)));
      return found.filter((one) => one !== null);
    },
  };
}

export const LOCAL_PLACE: Place = {
  program: 'mailcluster',
  usage: '[--state DIR]',
  help: `  --state DIR        state directory of "mailcluster run" ($MAILCLUSTER_STATE, else ./.state)
  -o, --output FORM  table (default) or json`,
  options: { state: { type: 'string' } },
  formats: ['table', 'json'],
  openMembers,
  openMail: openMembers,
  openOrders,
  openResubmits,
};
