/**
 * What became of a message and of what was made of it, as a tree: the hops to other boundaries (semantics.md D3), reports about it, resubmissions. Pure. Owns: what
 * hangs where, and what each recipient came to. Promise: every message of the events stands in it once; what hangs on one that nobody recorded hangs on its name.
 */
import type { TraceAnswer } from './answers.ts';
import { printable } from './output.ts';

export interface RecipientEnd {
  readonly address: string;
  /** Null: nothing yet. */
  readonly event: string | null;
  readonly peer: string | null;
  readonly detail: string | null;
}

export interface TraceNode {
  readonly id: string;
  readonly kind: 'message' | 'hop' | 'report' | 'resubmission' | 'unrecorded';
  /** Who received or made it. */
  readonly by: string | null;
  readonly from: string | null;
  readonly recipients: readonly RecipientEnd[];
  readonly children: readonly TraceNode[];
}

/** What a store, a relay or time said is the last word; then what a person did about those it was not said of; then what only holds them up. */
const FINAL: ReadonlySet<string> = new Set(['DELIVER', 'SEND', 'DUPLICATEDELIVER', 'FAIL', 'EXPIRE']);
const HELD: ReadonlySet<string> = new Set(['SUSPEND', 'POISON']);
const WAITS: ReadonlySet<string> = new Set(['DEFER', ...HELD]);
/** Of what was suspended, and of what was poison. */
const LET_GO: ReadonlySet<string> = new Set(['RESUME', 'RESUBMIT']);
const BIRTHS = ['RECEIVE', 'DSN', 'RESUBMIT', 'HARECEIVE'] as const;

interface Growing {
  readonly events: TraceAnswer[];
  parent: string | null;
}

/** Roots in the order of their first events; `events` is sorted by time. */
export function traceTree(events: readonly TraceAnswer[]): readonly TraceNode[] {
  const found = new Map<string, Growing>();
  for (const event of events) {
    const known = found.get(event.attemptId) ?? { events: [], parent: null };
    known.events.push(event);
    // What it was made of itself says more than what it all began with.
    known.parent = event.parent ?? known.parent;
    found.set(event.attemptId, known);
  }
  for (const [id, node] of found)
    node.parent ??= node.events.find(({ root }) => root !== undefined && root !== id)?.root ?? null;
  for (const { parent } of [...found.values()])
    if (parent !== null && !found.has(parent)) found.set(parent, { events: [], parent: null });
  const childrenOf = Map.groupBy(found.keys(), (id) => found.get(id)?.parent ?? null);
  const placed = new Set<string>();
  const grow = (id: string): TraceNode => {
    placed.add(id);
    return nodeOf(id, found.get(id)?.events ?? [], all(childrenOf.get(id) ?? []));
  };
  const all = (ids: Iterable<string>): readonly TraceNode[] =>
    [...ids].flatMap((id) => (placed.has(id) ? [] : [grow(id)]));
  // Records that say they come of each other have no root.
  return [...all(childrenOf.get(null) ?? []), ...all(found.keys())];
}

function nodeOf(id: string, events: readonly TraceAnswer[], children: readonly TraceNode[]): TraceNode {
  const birth = BIRTHS.flatMap((wanted) => events.find(({ event }) => event === wanted) ?? [])[0];
  return {
    id,
    kind: events.length === 0 ? 'unrecorded' : kindOf(events, birth),
    by: birth?.source ?? null,
    from: birth?.from ?? null,
    recipients: endsOf(events, birth),
    children,
  };
}

function kindOf(events: readonly TraceAnswer[], birth: TraceAnswer | undefined): TraceNode['kind'] {
  if (events.some(({ event }) => event === 'DSN')) return 'report';
  // Out of poison the message itself is submitted again, and comes of no other.
  if (events.some(({ event, parent }) => event === 'RESUBMIT' && parent !== undefined)) return 'resubmission';
  return birth?.parent === undefined && birth?.root === undefined ? 'message' : 'hop';
}

const NOTHING = { event: null, peer: null, detail: null };

function overrules(event: string, known: string | null): boolean {
  if (FINAL.has(event)) return true;
  const isOpen = known === null || WAITS.has(known);
  return isOpen && (event === 'REMOVE' || WAITS.has(event));
}

function endsOf(events: readonly TraceAnswer[], birth: TraceAnswer | undefined): readonly RecipientEnd[] {
  const ends = new Map<string, RecipientEnd>(
    (birth?.recipients ?? []).map((address) => [address, { address, ...NOTHING }]),
  );
  for (const { event, recipients = [], peer, detail } of events)
    for (const address of recipients) {
      const known = ends.get(address)?.event ?? null;
      if (LET_GO.has(event) && HELD.has(known ?? '')) ends.set(address, { address, ...NOTHING });
      if (overrules(event, known)) ends.set(address, { address, event, peer: peer ?? null, detail: detail ?? null });
    }
  return [...ends.values()];
}

const MOST_LINES = 10;
const WORDS: Readonly<Record<string, string>> = {
  DELIVER: 'delivered',
  SEND: 'relayed',
  DUPLICATEDELIVER: 'relayed before, not again',
  FAIL: 'failed',
  EXPIRE: 'expired',
  DEFER: 'deferred',
  REMOVE: 'removed',
  SUSPEND: 'held back',
  POISON: 'held back as poison',
};

/** A line for each message, and one for each of its recipients. */
export function renderTree(roots: readonly TraceNode[]): string {
  const lines = roots.flatMap((root) => linesOf(root, '', ''));
  return lines.map((line) => `${printable(line).trimEnd()}\n`).join('');
}

function linesOf(node: TraceNode, first: string, rest: string): readonly string[] {
  const { recipients, children } = node;
  const bar = children.length > 0 ? '│' : ' ';
  const width = Math.max(...recipients.slice(0, MOST_LINES).map(({ address }) => address.length), 0);
  const ends = recipients.slice(0, MOST_LINES).map((one) => `${rest}${bar}    ${endOf(one, width)}`);
  const left = recipients.length - MOST_LINES;
  return [
    `${first}${node.id}  ${titleOf(node)}`,
    ...ends,
    ...(left > 0 ? [`${rest}${bar}    and ${left} more`] : []),
    ...children.flatMap((child, index) => {
      const isLast = index === children.length - 1;
      return linesOf(child, `${rest}${isLast ? '└─ ' : '├─ '}`, `${rest}${isLast ? '   ' : '│  '}`);
    }),
  ];
}

function titleOf({ kind, by, from }: TraceNode): string {
  const whose = from === null ? '' : ` from <${from}>`;
  switch (kind) {
    case 'message':
      return `received by ${by ?? 'nobody who answered'}${whose}`;
    case 'hop':
      return `hop, received by ${by ?? 'nobody who answered'}`;
    case 'report':
      return `report, made by ${by ?? 'nobody who answered'}`;
    case 'resubmission':
      return `resubmission, made by ${by ?? 'nobody who answered'}`;
    case 'unrecorded':
      return 'not recorded any more by anybody who answered';
  }
}

function endOf({ address, event, peer, detail }: RecipientEnd, width: number): string {
  if (event === null) return `${address.padEnd(width)}  no outcome yet`;
  const boundary = /^boundary:(.*)$/.exec(peer ?? '')?.[1];
  const where = event === 'SEND' && boundary !== undefined ? `to ${boundary}` : `at ${peer}`;
  const why = event === 'DELIVER' || event === 'SEND' || detail === null ? '' : `: ${detail}`;
  return `${address.padEnd(width)}  ${WORDS[event] ?? event}${peer === null ? '' : ` ${where}`}${why}`;
}
