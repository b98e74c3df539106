/**
 * Where the commands find their cluster: the port between what is asked and how it gets there. Two forms: the processes of `mailcluster run`
 * (`local-place.ts`), and pods behind an API server with the rights of who asks (`kube-place.ts`). Owns: the port and its words. Promise:
 * a member that does not answer is a value, never an exception. Fails: `NoCluster` (`local/cluster.ts`) with the fix in one line.
 */
import type { Writable } from 'node:stream';
import type { ParseArgsOptionsConfig } from 'node:util';
import type { MessageOrder, QueueOrder, TopologyDocument } from '../../common/config.ts';
import type { Asked } from '../admin-client.ts';
import type { ResubmitResource } from '../resubmit-status.ts';
import type { CommandContext, OptionValues } from './command.ts';

export interface MemberName {
  readonly name: string;
  readonly dag: string | null;
  readonly site: string;
}

/** The transports of a cluster and their admin APIs. */
export interface Members {
  readonly members: readonly MemberName[];
  ask<T>(member: Pick<MemberName, 'name'>, path: string): Promise<Asked<T>>;
  /** Everybody at the same time, in the order of `members`. */
  askAll<T>(path: string): Promise<readonly Asked<T>[]>;
  close(): void;
}

/** Requests to deliver again, as objects; made by whoever runs the cluster, never here. */
export interface ResubmitDesk extends Pick<Members, 'askAll' | 'close'> {
  document(): Promise<TopologyDocument>;
  /** Since when the first queue database of a member is known; null: not known, or it had others. */
  onlySinceMs(member: string): Promise<number | null>;
  /** False: it was refused, and why was said. */
  submit(resource: Omit<ResubmitResource, 'status'>): Promise<boolean>;
  cancel(name: string): Promise<boolean>;
  find(name: string): Promise<ResubmitResource | null>;
  all(): Promise<readonly ResubmitResource[]>;
}

/** What a person wants of a message or a delivery queue; who and when is known where it is given. */
export type Wish =
  | ({ readonly kind: 'message' } & Pick<MessageOrder, 'message' | 'action' | 'from' | 'to'>)
  | ({ readonly kind: 'queue' } & Pick<QueueOrder, 'queue' | 'action'>);

/** Carried out by whoever runs the cluster, never here. */
export interface OrderDesk extends Pick<Members, 'close'> {
  /** All are given before the first answer is awaited. Their ids, each in force; null: one is not, and why was said. */
  give(wishes: readonly Wish[]): Promise<readonly string[] | null>;
}

/** Members that give out mail itself, to who may have it. */
export interface MailSource extends Members {
  /** Bytes of a path, for example of a body, into `to`, which is ended: how many. */
  download(member: Pick<MemberName, 'name'>, path: string, to: Writable): Promise<Asked<number>>;
}

export interface Place {
  /** As it is typed. */
  readonly program: string;
  /** In a usage line, and what it means. */
  readonly usage: string;
  readonly help: string;
  readonly options: ParseArgsOptionsConfig;
  readonly formats: readonly string[];
  openMembers(values: OptionValues, context: CommandContext): Promise<Members>;
  openMail(values: OptionValues, context: CommandContext): Promise<MailSource>;
  openOrders(values: OptionValues, context: CommandContext): Promise<OrderDesk>;
  openResubmits(values: OptionValues, context: CommandContext): Promise<ResubmitDesk>;
}
