/**
 * To whom a drained Safety Net entry goes (protocol.md 16). Owns: that it comes to a member that did not have it, so that there are two afterwards as before, and
 * that one which nobody else takes is not waited for for ever: a partner that has it becomes its owner.
 */
import type { CopyId } from '../../common/message.ts';
import type { StoredCopy } from '../store/database.ts';
import { mayReceive } from './placing.ts';
import { type Server, type Turn, wrong } from './state.ts';

/** Tries after which nobody takes an entry, or its bytes cannot be read here any more. */
const STUCK_TRIES = 20;

const isStuck = (server: Server, id: CopyId): boolean => (server.rehoming.tries.get(id) ?? 0) >= STUCK_TRIES;

const othersThan = (server: Server, partners: ReadonlySet<string>): boolean =>
  server.boundary.some(({ name, state }) => state === 'active' && !partners.has(name));

const partnersOf = ({ state }: StoredCopy): ReadonlySet<string> =>
  new Set(state.placements.map((placement) => placement.member));

/** Who is not asked: those that have it, as long as anybody else is there; once it is stuck everybody else. */
export function noSuccessors(turn: Turn, id: CopyId, partners: ReadonlySet<string>): readonly string[] {
  const { server } = turn;
  if (!othersThan(server, partners)) return [];
  const isPartnerThere = server.boundary.some(({ name }) => partners.has(name) && mayReceive(turn, name));
  const fromPartners = isPartnerThere && isStuck(server, id);
  return server.boundary.flatMap(({ name }) => (partners.has(name) === fromPartners ? [] : [name]));
}

/** It has it and answers for it from now on; this one goes when that owner has found another home (`askOwner`). */
export function isLeftToPartner({ server }: Turn, copy: StoredCopy & { readonly member: string }): boolean {
  const partners = partnersOf(copy);
  return isStuck(server, copy.facts.id) && partners.has(copy.member) && othersThan(server, partners);
}

/** A drained copy is gone from here only after it has come to a member that did not have it, unless all that stay have it. */
export const isKnownHolder = (turn: Turn, copy: StoredCopy & { readonly member: string }): boolean =>
  wrong(turn, 'partner-counts-as-successor') || partnersOf(copy).has(copy.member);
