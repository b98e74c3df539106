/**
 * Turns queued calls and bodies into records of the group being built and applies them to the state in the same breath, so that what is
 * in memory is always exactly what the log says up to the last record built. Owns: that order; the checks that refuse a call.
 */

import type { CopyId } from '../../common/message.ts';
import { commitPlace } from './body-place.ts';
import type { LogBody } from './body-writer.ts';
import { notFound } from './live-index.ts';
import type { LogAccess } from './log-access.ts';
import { briefOf, commitJson, type Kill, type LogRecord, moveJson, removeJson } from './log-record.ts';
import type { LogState } from './log-state.ts';
import type { Call, PreparedWrite } from './prepared.ts';
import { type GroupBuilder, HEADER } from './record.ts';

/** Longest part of a body in one record: what a reader must hold in memory to verify it. */
const EXTENT_BYTES = 256 * 1024;
const EXTENT_JSON = 48;
/** A group closes when it has this many bytes. A share of the segment: what is not yet synced is written anew into one (log-recovery.ts). */
export const groupBytes = (segmentBytes: number): number => Math.min(8 << 20, segmentBytes / 8);
/** Below this a part is not worth a record of its own at the end of a segment. */
export const SMALL_PART = 4096;

/** Adds what fits of the pending bytes of a body: all of it, a part, or nothing. */
export function encodeChunks(
  builder: GroupBuilder,
  state: LogState,
  body: LogBody,
  room: number,
  mostBytes: number,
): 'all' | 'part' | 'nothing' {
  let left = room;
  const before = builder.count;
  while (body.pendingBytes > 0) {
    const bytes = Math.min(body.pendingBytes, EXTENT_BYTES, mostBytes, left - HEADER);
    if (bytes < Math.min(body.pendingBytes, SMALL_PART) || builder.length > mostBytes)
      return builder.count > before ? 'part' : 'nothing';
    const place = builder.add('chunk', '', body.take(bytes));
    body.placed([place[0], place[1] + place[2], bytes, builder.lastBodyCrc]);
    if (!body.pinned.has(place[0])) {
      body.pinned.add(place[0]);
      state.pin(place[0]);
    }
    left -= HEADER + bytes;
  }
  return 'all';
}

/** Upper bound of the records of a call. */
export function callBound(state: LogState, call: Call): number {
  let bytes = call.bytes;
  for (const write of call.prepared) if (write.kind === 'commit') bytes += write.body.parts * EXTENT_JSON;
  for (const write of call.prepared)
    if (write.kind === 'relocate') bytes += write.body.parts * EXTENT_JSON + relocatedBytes(state, write.id);
  if (call.found === null) return bytes;
  for (const kill of call.found.kills.values()) bytes += kill === null ? 0 : 16 * kill.refs.length;
  for (const copy of call.found.resting.values())
    bytes += Buffer.byteLength(JSON.stringify(copy.facts)) + copy.extents.length * EXTENT_JSON;
  return bytes;
}

function relocatedBytes(state: LogState, id: CopyId): number {
  const live = state.index.copies.get(id);
  if (live === undefined) return 0;
  return Buffer.byteLength(JSON.stringify(live.facts)) + Buffer.byteLength(JSON.stringify(live.state));
}

/** Whether the disk must be asked about an id first. */
export function unresolved(call: Call, state: LogState, access: LogAccess): boolean {
  const { index, net } = state;
  for (const write of call.prepared) {
    if (write.kind !== 'commit' && write.kind !== 'remove' && write.kind !== 'recall') continue;
    const id = write.kind === 'commit' ? write.facts.id : write.id;
    if (index.copies.has(id) || call.found?.kills.has(id) === true) continue;
    if (write.kind === 'recall') return true;
    if (!net.open.has(id) && net.owners.size > 0 && access.needsDisk(id)) return true;
  }
  return false;
}

/** Checks the call, then writes and applies all of it. A refused call is rejected and leaves no trace. */
export function encodeCall(builder: GroupBuilder, state: LogState, call: Call): void {
  try {
    const rests = (id: CopyId): boolean => state.net.open.has(id) || (call.found?.kills.get(id) ?? null) !== null;
    state.index.check(call.writes, rests);
    for (const write of call.prepared)
      if (write.kind === 'recall' && call.found?.resting.has(write.id) !== true) throw notFound(write.id);
  } catch (error) {
    call.reject(error);
    return;
  }
  for (const write of call.prepared) encodeWrite(builder, state, call, write);
}

function encodeWrite(builder: GroupBuilder, state: LogState, call: Call, write: PreparedWrite): void {
  switch (write.kind) {
    case 'commit': {
      const { facts, body } = write;
      const extents = body.extents();
      const kill = killOf(state, call, facts.id);
      const place = builder.add('commit', commitJson(facts.id, extents, kill, write.factsJson, write.stateJson));
      state.apply({ kind: 'commit', facts, state: write.state, extents, kill }, place);
      body.committed();
      return;
    }
    case 'state':
      state.apply(write.record, builder.add('state', write.json));
      return;
    case 'move': {
      const live = state.index.copies.get(write.id);
      if (live === undefined) return;
      const commitAt = commitPlace(live.body);
      const brief = briefOf(live.facts);
      const place = builder.add('move', moveJson(write.id, commitAt, brief, write.stateJson));
      state.apply({ kind: 'move', id: write.id, state: write.state, commitAt, brief }, place);
      return;
    }
    case 'recall': {
      const copy = call.found?.resting.get(write.id);
      if (copy === undefined) return;
      const { facts, extents } = copy;
      const kill = killOf(state, call, write.id);
      const json = commitJson(write.id, extents, kill, JSON.stringify(facts), write.stateJson);
      state.apply({ kind: 'recall', facts, state: write.state, extents, kill }, builder.add('recall', json));
      return;
    }
    case 'remove': {
      const record: LogRecord = { kind: 'remove', id: write.id, kill: killOf(state, call, write.id) };
      state.apply(record, builder.add('remove', removeJson(write.id, record.kill)));
      return;
    }
    case 'small':
      state.apply(write.record, builder.add(write.record.kind, write.json));
      return;
    case 'relocate':
      encodeRelocation(builder, state, write);
  }
}

/** The copy's COMMIT once more, naming the new place of its body; nothing when the copy is not what was copied. */
function encodeRelocation(
  builder: GroupBuilder,
  state: LogState,
  write: Extract<PreparedWrite, { kind: 'relocate' }>,
): void {
  const live = state.index.copies.get(write.id);
  if (live === undefined || live.body !== write.from) {
    write.body.discard();
    return;
  }
  const { facts, state: now } = live;
  const extents = write.body.extents();
  const json = commitJson(write.id, extents, null, JSON.stringify(facts), JSON.stringify(now));
  state.apply({ kind: 'commit', facts, state: now, extents, kill: null }, builder.add('commit', json));
  write.body.committed();
}

function killOf(state: LogState, call: Call, id: CopyId): Kill | null {
  if (state.index.copies.has(id)) return null;
  return state.net.openKill(id) ?? call.found?.kills.get(id) ?? null;
}
