/**
 * Resubmission from Safety Net (protocol.md section 6; Exchange: Add-ResubmitRequest). Owns: which finality is none after a mailbox failover, and per request
 * what this member submits again, from its own Safety Net and for primaries that cannot.
 */
import type { CopyId, RecipientState } from '../../common/message.ts';
import type { Cover, Covered } from '../../common/peer/messages.ts';
import type { ResubmitView } from '../runtime/view.ts';
import type { StoredCopy } from '../store/database.ts';
import type { StoredCopies } from './events.ts';
import type { Turn } from './state.ts';

/** What is under way; volatile but for the facts `resubmit/<name>` of finished requests. */
export interface Resubmissions {
  readonly byName: Map<string, unknown>;
}

/** `facts`: what the queue database recovered. */
export function newResubmissions(_facts: ReadonlyMap<string, unknown>): Resubmissions {
  return { byName: new Map() };
}

/** At start and after every change of the document: new, cancelled and expired requests; copies in transit are reopened (row 19). */
export function requestsChanged(_turn: Turn): void {}

/** Every second. */
export function resubmissionTick(_turn: Turn): void {}

/** Finality under a lost activation is none (protocol.md 19). Same array when nothing changes. */
export function reopened(_turn: Turn, recipients: readonly RecipientState[]): readonly RecipientState[] {
  return recipients;
}

/** True when the scan was one of ours. */
export function resubmissionPage(
  _turn: Turn,
  _scan: number,
  _copies: readonly StoredCopy[],
  _unreadable: number,
  _done: boolean,
): boolean {
  return false;
}

export interface CopiedBody {
  readonly stream: number;
  readonly id: CopyId;
  readonly digest: string;
  readonly sizeBytes: number;
}

export function bodyCopied(_turn: Turn, _body: CopiedBody): void {}

export function bodyNotCopied(_turn: Turn, _id: CopyId, _reason: 'atRest' | 'unreadable'): void {}

export function coverReceived(_turn: Turn, _member: string, _cover: Cover, _stored: StoredCopies): void {}

export function coveredReceived(_turn: Turn, _member: string, _covered: Covered): void {}

export function resubmitViews(_turn: Pick<Turn, 'server' | 'nowMs'>): readonly ResubmitView[] {
  return [];
}
