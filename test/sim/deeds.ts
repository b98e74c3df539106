/**
 * What an orchestrator decides, whoever makes the topology document of it. Owns: the kinds of decision, and the document as it is made by hand (simple, and
 * the same since the first seeds); `operator.ts` lets the operator's own plan make it from resources.
 */
import type {
  MailboxDatabaseConfig,
  MemberConfig,
  MessageOrder,
  ResubmitRequestConfig,
  RetiredIdentity,
  SendConnectorConfig,
  TopologyDocument,
} from '../../common/config.ts';
import { linksOf } from './topology.ts';

/** What a resubmit request of a person says. */
export type RequestFields = Partial<
  Pick<
    ResubmitRequestConfig,
    'boundary' | 'database' | 'sender' | 'recipient' | 'messageId' | 'fromMs' | 'toMs' | 'dryRun'
  >
>;

export type Deed =
  | { readonly kind: 'state'; readonly member: string; readonly state: MemberConfig['state'] }
  | { readonly kind: 'retire'; readonly identity: RetiredIdentity }
  /** One member more beside this one. */
  | { readonly kind: 'add'; readonly beside: MemberConfig }
  /** This copy of a mailbox database becomes the active one. */
  | { readonly kind: 'activate'; readonly database: string; readonly copy: string }
  | { readonly kind: 'request'; readonly name: string; readonly fields: RequestFields }
  | { readonly kind: 'cancel'; readonly request: string }
  /** About messages that were put aside as poison. */
  | { readonly kind: 'order'; readonly orders: NonNullable<TopologyDocument['messageOrders']> }
  /** About delivery queues. */
  | { readonly kind: 'queues'; readonly orders: NonNullable<TopologyDocument['queueOrders']> }
  /** What the last link of the chain costs, and the short cut. */
  | { readonly kind: 'links'; readonly cost: number; readonly shortCut: number }
  | { readonly kind: 'connect'; readonly connectors: readonly SendConnectorConfig[] };

/** Makes the next document; null when there is nothing to change. */
export interface DocumentMaker {
  next(document: TopologyDocument, deeds: readonly Deed[], nowMs: number): TopologyDocument | null;
}

const REQUEST_LIFE_MS = 3_600_000;

export const HAND_MADE: DocumentMaker = {
  next: (document, deeds, nowMs) => {
    let made = document;
    for (const deed of deeds) made = { ...made, ...changed(made, deed, nowMs) };
    return { ...made, generation: document.generation + 1 };
  },
};

function changed(document: TopologyDocument, deed: Deed, nowMs: number): Partial<TopologyDocument> {
  switch (deed.kind) {
    case 'state':
      return {
        members: document.members.map((one) => (one.name === deed.member ? { ...one, state: deed.state } : one)),
      };
    case 'retire':
      return { retired: [...document.retired, deed.identity] };
    case 'add': {
      const name = `t-x-${document.members.length}`;
      const fresh = { ...deed.beside, name, address: { host: name, port: 4000 }, state: 'active' } as const;
      return { members: [...document.members, fresh] };
    }
    case 'activate':
      return activated(document, deed.database, deed.copy, nowMs);
    case 'request':
      return {
        resubmitRequests: [...document.resubmitRequests, request({ ...deed.fields, name: deed.name }, nowMs)],
      };
    case 'cancel':
      return {
        resubmitRequests: document.resubmitRequests.map((one) =>
          one.name === deed.request ? { ...one, cancelled: true } : one,
        ),
      };
    case 'order':
      return { messageOrders: besides(document.messageOrders ?? [], deed.orders) };
    case 'queues':
      return { queueOrders: deed.orders };
    case 'links':
      return { siteLinks: linksOf(document.sites, deed.shortCut, deed.cost) };
    default:
      return { sendConnectors: deed.connectors };
  }
}

/** One order stands for each message: the last; those about others stay. */
export const besides = (before: readonly MessageOrder[], orders: readonly MessageOrder[]): readonly MessageOrder[] => {
  const about = new Set(orders.map(({ message }) => message));
  return [...before.filter(({ message }) => !about.has(message)), ...orders];
};

/** Activation and request come in one generation (protocol.md 19, 20). */
function activated(document: TopologyDocument, name: string, copy: string, nowMs: number): Partial<TopologyDocument> {
  const database = document.databases.find((one) => one.name === name);
  const next = database?.copies.find((one) => one.name === copy);
  if (database === undefined || next === undefined) throw new Error(`no copy ${copy} of ${name}`);
  const fields = {
    name: `failover-${name}-${database.activation + 1}`,
    database: name,
    fromMs: nowMs - database.lossWindowMs - next.replayLagMs,
    lostActivation: database.activation,
  };
  const moved: MailboxDatabaseConfig = { ...database, activeCopy: copy, activation: database.activation + 1 };
  return {
    databases: document.databases.map((one) => (one.name === name ? moved : one)),
    resubmitRequests: [...document.resubmitRequests, request(fields, nowMs)],
  };
}

const request = (
  fields: Partial<ResubmitRequestConfig> & { readonly name: string },
  nowMs: number,
): ResubmitRequestConfig => ({
  boundary: null,
  database: null,
  sender: null,
  recipient: null,
  messageId: null,
  fromMs: 0,
  toMs: null,
  lostActivation: null,
  createdAtMs: nowMs,
  expiresAtMs: nowMs + REQUEST_LIFE_MS,
  dryRun: false,
  cancelled: false,
  ...fields,
});
