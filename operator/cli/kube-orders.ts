/**
 * Orders about queues and messages on Kubernetes: a TransportOrder for each (docs/decisions/0034-orders-on-kubernetes.md). Owns: those objects
 * and the wait for what the operator says of them. Promise: `by` is who the API server says it is; with the rights of who types; an order
 * that was not answered is named, and how to take it back. Fails: `NoCluster`.
 */
import { SELF_SUBJECT_REVIEW, TRANSPORT_ORDER } from '../kube/kinds.ts';
import { apiVersionOf, type KubeObject } from '../kube/kube-object.ts';
import type { TransportOrderSpec, TransportOrderStatus } from '../resource/generated.ts';
import type { CommandContext, OptionValues } from './command.ts';
import { advice, chosen, findCluster, type KubeAccess, must, openKube } from './kube-access.ts';
import { newId } from './ordering.ts';
import type { OrderDesk, Wish } from './place.ts';

const LOOK_MS = 250;
const PATIENCE_MS = 30_000;
/** Two hundred removals shall not take two hundred round trips. */
const AT_ONCE = 8;

interface StoredOrder extends KubeObject {
  readonly spec: TransportOrderSpec;
  readonly status?: TransportOrderStatus;
}

interface Review extends KubeObject {
  readonly status?: { readonly userInfo?: { readonly username?: string } };
}

const ACTIONS = { suspend: 'Suspend', resume: 'Resume', retry: 'Retry' } as const;
const MESSAGE_ACTIONS = {
  suspend: 'Suspend',
  resume: 'Resume',
  remove: 'Remove',
  removeWithNdr: 'RemoveWithNdr',
  redirect: 'Redirect',
} as const;

function aboutOf(wish: Wish): Pick<TransportOrderSpec, 'queue' | 'message'> {
  if (wish.kind === 'queue') return { queue: { name: wish.queue, action: ACTIONS[wish.action] } };
  const { message: id, action, from, to } = wish;
  const where = from === undefined || to === undefined ? {} : { from, to };
  return { message: { id, action: MESSAGE_ACTIONS[action], ...where } };
}

class KubeOrders {
  readonly #access: KubeAccess;
  readonly #cluster: string;
  readonly #context: CommandContext;

  constructor(access: KubeAccess, cluster: string, context: CommandContext) {
    this.#access = access;
    this.#cluster = cluster;
    this.#context = context;
  }

  async give(wishes: readonly Wish[]): Promise<readonly string[] | null> {
    const by = await this.#me();
    const made: StoredOrder[] = [];
    for (let at = 0; at < wishes.length; at += AT_ONCE) {
      const asked = await Promise.all(wishes.slice(at, at + AT_ONCE).map((wish) => this.#create(wish, by)));
      made.push(...asked.filter((one) => typeof one !== 'string'));
      const [why] = asked.filter((one) => typeof one === 'string');
      if (why === undefined) continue;
      const rest = made.length === 0 ? '' : ` (${made.length} of ${wishes.length} orders were given before, and stand)`;
      this.#context.output.err(`Refused: ${why}${rest}.\n`);
      return null;
    }
    return (await this.#answered(made)) ? made.map(({ metadata }) => metadata.uid ?? '') : null;
  }

  /** By whatever way it was proved: token, certificate, impersonation. */
  async #me(): Promise<string> {
    const { api, timeoutMs } = this.#access;
    const review = { apiVersion: apiVersionOf(SELF_SUBJECT_REVIEW), kind: 'SelfSubjectReview', metadata: { name: '' } };
    const { status } = must(
      await api.create<Review>(SELF_SUBJECT_REVIEW, review, { deadlineMs: timeoutMs }),
      this.#access,
    );
    return status?.userInfo?.username ?? '';
  }

  /** A text: why not. */
  async #create(wish: Wish, by: string): Promise<StoredOrder | string> {
    const { api, namespace, timeoutMs } = this.#access;
    const order: StoredOrder = {
      apiVersion: apiVersionOf(TRANSPORT_ORDER),
      kind: TRANSPORT_ORDER.kind,
      metadata: { name: `${wish.kind}-${wish.action.toLowerCase()}-${newId()}`, namespace },
      spec: { clusterRef: { name: this.#cluster }, by, ...aboutOf(wish) },
    };
    const created = await api.create<StoredOrder>(TRANSPORT_ORDER, order, { deadlineMs: timeoutMs });
    if (created.ok) return created.value;
    if (created.failure.kind === 'forbidden')
      return `${created.failure.message}; ask for the role mailcluster-postmaster (docs/cli.md has the roles)`;
    if (created.failure.kind === 'notFound')
      return 'the API server knows no transportorders.mailcluster.dev: the CRDs there are of an older version; upgrade the operator first';
    return advice(created.failure, this.#access);
  }

  async #answered(orders: readonly StoredOrder[]): Promise<boolean> {
    const { err } = this.#context.output;
    let isFine = true;
    let waitedMs = 0;
    for (const order of orders) {
      let status = await this.#statusOf(order);
      while (status?.state === undefined && waitedMs < PATIENCE_MS) {
        await this.#context.pause(LOOK_MS);
        waitedMs += LOOK_MS;
        status = await this.#statusOf(order);
      }
      if (status?.state === 'InForce') continue;
      isFine = false;
      if (status?.state === undefined) {
        const { name, namespace } = order.metadata;
        err(
          `The operator has not answered in ${PATIENCE_MS / 1_000} s: look whether it runs, and whether the MailCluster is paused. The order is kept as TransportOrder ${name} and comes into force as soon as the operator sees it; "kubectl delete transportorder ${name} -n ${namespace}" takes it back.\n`,
        );
        return false;
      }
      err(`${status.state}: ${status.message ?? ''}.\n`);
    }
    return isFine;
  }

  async #statusOf({ metadata: { name } }: StoredOrder): Promise<TransportOrderStatus | undefined> {
    const { api, namespace, timeoutMs } = this.#access;
    const calls = { deadlineMs: timeoutMs, retries: 1 };
    return must(await api.get<StoredOrder>(TRANSPORT_ORDER, { namespace, name }, calls), this.#access).status;
  }
}

export async function openKubeOrders(values: OptionValues, context: CommandContext): Promise<OrderDesk> {
  const access = await openKube(values, context);
  const cluster = await findCluster(access, chosen(values));
  const orders = new KubeOrders(access, cluster.metadata.name, context);
  return { give: (wishes) => orders.give(wishes), close: access.close };
}
