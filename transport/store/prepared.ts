/**
 * A `commit` or `note` call waiting for its group. Owns: turning its writes into JSON when it is handed over (so that the work spreads
 * over time) and an upper bound of the room they need, so that a call never has to be taken back out of a group.
 */
import type { CopyId } from '../../common/message.ts';
import type { BodyPlace } from './body-place.ts';
import type { LogBody } from './body-writer.ts';
import { plainFacts } from './compact.ts';
import type { CopyFacts, CopyState, Write } from './database.ts';
import type { Kill, LogRecord } from './log-record.ts';
import { smallJson, stateJson } from './log-record.ts';
import { HEADER } from './record.ts';
import type { RestingCopy } from './resting-copy.ts';

export type PreparedWrite =
  | {
      readonly kind: 'commit';
      readonly facts: CopyFacts;
      readonly state: CopyState;
      readonly body: LogBody;
      readonly factsJson: string;
      readonly stateJson: string;
    }
  | { readonly kind: 'state'; readonly record: Extract<LogRecord, { kind: 'state' }>; readonly json: string }
  | { readonly kind: 'move' | 'recall'; readonly id: CopyId; readonly state: CopyState; readonly stateJson: string }
  | { readonly kind: 'remove'; readonly id: CopyId }
  | { readonly kind: 'small'; readonly record: Parameters<typeof smallJson>[0]; readonly json: string }
  /** A body copied out of a segment that is to be recycled; void when the copy has changed its place meanwhile. */
  | { readonly kind: 'relocate'; readonly id: CopyId; readonly from: BodyPlace; readonly body: LogBody };

export interface Call {
  readonly kind: 'call';
  readonly writes: readonly Write[];
  readonly prepared: readonly PreparedWrite[];
  /** Upper bound of header and JSON of all records, without extents of bodies and facts of recalled copies. */
  readonly bytes: number;
  /** Bound of the footer lines its moves add. */
  readonly moves: number;
  readonly moveBytes: number;
  readonly note: boolean;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  /** Found on disk before the call was encoded; null when nothing had to be looked for. */
  found: Found | null;
}

export interface Found {
  readonly kills: Map<CopyId, Kill | null>;
  readonly resting: Map<CopyId, RestingCopy>;
}

export interface Settle {
  readonly note: boolean;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Header, ids, places; a MOVE carries a digest and an ancestor as well. */
const FIXED = HEADER + 512;

export function prepareCall(writes: readonly Write[], settle: Settle): Call {
  const prepared: PreparedWrite[] = [];
  let bytes = 0;
  let moves = 0;
  let moveBytes = 0;
  for (const write of writes) {
    const item = prepareWrite(write);
    prepared.push(item);
    bytes += FIXED + jsonBytes(item);
    if (write.kind === 'move') {
      moves += 1;
      moveBytes += 200 + databasesBytes(write.state);
    }
  }
  const { note, resolve, reject } = settle;
  return { kind: 'call', writes, prepared, bytes, moves, moveBytes, note, resolve, reject, found: null };
}

/** Calls the database makes itself. */
export function internalCall(item: PreparedWrite, settle: Settle): Call {
  const bytes = FIXED + jsonBytes(item);
  const shared = { writes: [], moves: 0, moveBytes: 0, found: null };
  return { kind: 'call', prepared: [item], bytes, ...shared, ...settle };
}

export function prepareSmall(record: Parameters<typeof smallJson>[0]): PreparedWrite {
  return { kind: 'small', record, json: smallJson(record) };
}

function prepareWrite(write: Write): PreparedWrite {
  switch (write.kind) {
    case 'commit':
      return {
        kind: 'commit',
        facts: write.facts,
        state: write.state,
        body: write.body as LogBody,
        factsJson: JSON.stringify(plainFacts(write.facts)),
        stateJson: JSON.stringify(write.state),
      };
    case 'state': {
      const { id, state, outcomes } = write;
      return { kind: 'state', record: { kind: 'state', id, state, outcomes }, json: stateJson(id, state, outcomes) };
    }
    case 'move':
    case 'recall':
      return { kind: write.kind, id: write.id, state: write.state, stateJson: JSON.stringify(write.state) };
    case 'remove':
      return { kind: 'remove', id: write.id };
    default:
      return prepareSmall(write);
  }
}

function jsonBytes(item: PreparedWrite): number {
  switch (item.kind) {
    case 'commit':
      return Buffer.byteLength(item.factsJson) + Buffer.byteLength(item.stateJson);
    case 'state':
    case 'small':
      return Buffer.byteLength(item.json);
    case 'move':
    case 'recall':
      return Buffer.byteLength(item.stateJson);
    default:
      return 0;
  }
}

function databasesBytes(state: CopyState): number {
  let bytes = 0;
  const names = new Set<string>();
  for (const recipient of state.recipients ?? []) {
    if (recipient.database === undefined || names.has(recipient.database)) continue;
    names.add(recipient.database);
    bytes += Buffer.byteLength(JSON.stringify(recipient.database)) + 1;
  }
  return bytes;
}
