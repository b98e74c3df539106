/**
 * What the records of the segment log say. Owns: the JSON of each kind, both directions. The same record objects are applied by the
 * running database and by recovery, so that replay cannot mean something else than the original write did.
 */
import type { CopyId, CopyKind } from '../../common/message.ts';
import type { CopyFacts, CopyState, Seen, Tombstone } from './database.ts';
import type { Outcomes } from './live-index.ts';
import type { Extent, Place, RecordKind } from './record.ts';

/**
 * A Safety Net entry that ends: where it is listed (`owner`: generation of the segment whose footer lists it, 0 while it is in
 * no footer), where its MOVE record lies, and what its end gives back.
 */
export interface Kill {
  readonly owner: number;
  readonly at: Place;
  readonly role: 'primary' | 'shadow';
  readonly sizeBytes: number;
  readonly refs: readonly number[];
}

export type LogRecord =
  | {
      readonly kind: 'commit' | 'recall';
      readonly facts: CopyFacts;
      readonly state: CopyState;
      readonly extents: readonly Extent[];
      readonly kill: Kill | null;
    }
  | { readonly kind: 'state'; readonly id: CopyId; readonly state: CopyState; readonly outcomes: Outcomes | undefined }
  | {
      readonly kind: 'move';
      readonly id: CopyId;
      readonly state: CopyState;
      readonly commitAt: Place;
      /** Null in records of programs that did not write it yet. */
      readonly brief: Brief | null;
    }
  | { readonly kind: 'remove'; readonly id: CopyId; readonly kill: Kill | null }
  | { readonly kind: 'tombstone'; readonly tombstone: Tombstone }
  | { readonly kind: 'forget'; readonly id: CopyId }
  | { readonly kind: 'seen'; readonly seen: Seen }
  | { readonly kind: 'fact'; readonly key: string; readonly value: unknown }
  | {
      readonly kind: 'expire';
      readonly owners: readonly number[];
      /** Null when they had reached the hold time. */
      readonly completeSinceMs: number | null;
    };

/**
 * What a peer or a front end may ask about a copy at rest, kept beside its last state: the answer must not depend on the COMMIT record,
 * which is older and elsewhere.
 */
export interface Brief {
  readonly ancestor: CopyId | null;
  readonly kind: CopyKind;
  readonly digest: string;
  readonly sizeBytes: number;
}

export const briefOf = ({ ancestor, kind, digest, sizeBytes }: CopyFacts): Brief => ({
  ancestor,
  kind,
  digest,
  sizeBytes,
});

const killJson = (kill: Kill | null): string =>
  kill === null ? 'null' : JSON.stringify([kill.owner, kill.at, kill.role, kill.sizeBytes, kill.refs]);

type KillRow = readonly [number, Place, 'primary' | 'shadow', number, readonly number[]];

const readKill = (row: KillRow | null): Kill | null =>
  row === null ? null : { owner: row[0], at: row[1], role: row[2], sizeBytes: row[3], refs: row[4] };

/** The id stands first, so that it can be read from a record whose end is damaged. */
export function commitJson(
  id: CopyId,
  extents: readonly Extent[],
  kill: Kill | null,
  factsJson: string,
  stateJson: string,
): string {
  let list = '';
  for (const extent of extents)
    list += `${list === '' ? '' : ','}[${extent[0]},${extent[1]},${extent[2]},${extent[3]}]`;
  return `{"i":"${id}","x":[${list}],"k":${killJson(kill)},"f":${factsJson},"s":${stateJson}}`;
}

export const moveJson = (id: CopyId, commitAt: Place, brief: Brief | null, stateJson: string): string =>
  `{"i":"${id}","a":[${commitAt[0]},${commitAt[1]},${commitAt[2]}],"b":${JSON.stringify(brief)},"s":${stateJson}}`;

export const removeJson = (id: CopyId, kill: Kill | null): string => `{"i":"${id}","k":${killJson(kill)}}`;

/** A state write; with outcomes the recipients stay out of it. */
export function stateJson(id: CopyId, state: CopyState, outcomes: Outcomes | undefined): string {
  if (outcomes === undefined) return `{"i":"${id}","s":${JSON.stringify(state)}}`;
  return `{"i":"${id}","s":${JSON.stringify({ ...state, recipients: null })},"o":${JSON.stringify(outcomes)}}`;
}

interface Row {
  readonly i: CopyId;
  readonly s: CopyState;
  readonly o?: Outcomes;
  readonly f: CopyFacts;
  readonly x: readonly Extent[];
  readonly k: KillRow | null;
  readonly a: Place;
  readonly b?: Brief;
  readonly t: Tombstone;
  readonly n: Seen;
  readonly y: string;
  readonly v: unknown;
  readonly g: readonly number[];
  readonly h?: number | null;
}

/** Null for kinds that change no state (chunks, footers, headers). */
export function decodeRecord(kind: RecordKind, meta: Buffer): LogRecord | null {
  if (kind === 'chunk' || kind === 'footer' || kind === 'group' || kind === 'segment') return null;
  const row = JSON.parse(meta.toString()) as Row;
  switch (kind) {
    case 'commit':
    case 'recall':
      return { kind, facts: row.f, state: row.s, extents: row.x, kill: readKill(row.k) };
    case 'state':
      return { kind, id: row.i, state: row.s, outcomes: row.o };
    case 'move':
      return { kind, id: row.i, state: row.s, commitAt: row.a, brief: row.b ?? null };
    case 'remove':
      return { kind, id: row.i, kill: readKill(row.k) };
    case 'tombstone':
      return { kind, tombstone: row.t };
    case 'forget':
      return { kind, id: row.i };
    case 'seen':
      return { kind, seen: row.n };
    case 'fact':
      return { kind, key: row.y, value: row.v };
    case 'expire':
      return { kind, owners: row.g, completeSinceMs: row.h ?? null };
  }
}

/** JSON of the small kinds. */
export function smallJson(
  record: Extract<LogRecord, { kind: 'tombstone' | 'forget' | 'seen' | 'fact' | 'expire' }>,
): string {
  switch (record.kind) {
    case 'tombstone':
      return `{"i":"${record.tombstone.id}","t":${JSON.stringify(record.tombstone)}}`;
    case 'forget':
      return `{"i":"${record.id}"}`;
    case 'seen':
      return JSON.stringify({ n: record.seen });
    case 'fact':
      return JSON.stringify({ y: record.key, v: record.value });
    case 'expire':
      return JSON.stringify({ g: record.owners, h: record.completeSinceMs });
  }
}

/** Best effort on damaged bytes: the copy a record was about. */
export function guessId(bytes: Buffer): CopyId | null {
  const match = /"i(?:d)?":"([0-9A-Za-z_-]{1,64})"/.exec(bytes.toString('latin1'));
  return match === null ? null : (match[1] as CopyId);
}
