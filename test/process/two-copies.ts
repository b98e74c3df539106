/**
 * When everything that was promised about copies is true again after a loss: nobody is missing, no message is on one database only, every
 * accepted one that is processed rests in a Primary Safety Net and, on another member, in a Shadow Safety Net, and all who hold it agree
 * whose it is. Computed from the admin API and from the databases themselves.
 */
import type { TransportStatus } from '../../transport/runtime/view.ts';
import { until } from '../house/until.ts';
import type { ClusterView, InspectedCopy } from './cluster-view.ts';
import { type Balance, balance, type Delivered, type LedgerEntry, verdict } from './ledger.ts';

/** Members that have to answer, and what of their answers is not yet as it should be. */
export function unprotectedNow(statuses: readonly TransportStatus[], members: readonly string[]): readonly string[] {
  const silent = members.filter((name) => !statuses.some((status) => status.name === name));
  return [
    ...silent.map((name) => `${name} does not answer`),
    ...statuses.flatMap(({ name, state, unprotected, peers, quarantined }) => [
      ...(state === 'ready' ? [] : [`${name} is ${state}`]),
      ...(unprotected === 0 ? [] : [`${name}: ${unprotected ?? 'unknown'} unprotected`]),
      ...(quarantined === 0 ? [] : [`${name}: ${quarantined} quarantined`]),
      ...peers.flatMap((peer) =>
        peer.connected || !members.includes(peer.member) ? [] : [`${name} has no connection to ${peer.member}`],
      ),
    ]),
  ];
}

/** What is wrong with the rest of these messages: one line each. */
export function restProblems(digests: Iterable<string>, stored: readonly InspectedCopy[]): readonly string[] {
  const byDigest = new Map<string, InspectedCopy[]>();
  for (const copy of stored) byDigest.set(copy.digest, [...(byDigest.get(copy.digest) ?? []), copy]);
  const problems: string[] = [];
  for (const digest of digests) {
    const copies = byDigest.get(digest) ?? [];
    const primary = copies.filter(({ queue }) => queue === 'primarySafetyNet');
    const shadow = copies.filter(({ queue }) => queue === 'shadowSafetyNet');
    const isPair = primary.some((one) => shadow.some((other) => other.member !== one.member && other.id === one.id));
    const shown = copies.map(({ member, id, queue, owner }) => `${member}: ${id} ${queue} of ${owner}`).join(', ');
    if (!isPair) problems.push(`${digest.slice(0, 8)} not in both Safety Nets: ${shown || 'nowhere'}`);
  }
  return problems;
}

/** Copies of one id whose holders name different owners. */
export function disagreements(stored: readonly InspectedCopy[]): readonly string[] {
  const owners = new Map<string, Map<string, string[]>>();
  for (const { id, owner, member, queue } of stored) {
    const of = owners.get(id) ?? new Map<string, string[]>();
    owners.set(id, of.set(owner, [...(of.get(owner) ?? []), `${member} ${queue}`]));
  }
  return [...owners].flatMap(([id, of]) =>
    of.size < 2 ? [] : [`${id}: ${[...of].map(([owner, who]) => `${owner} (${who.join(', ')})`).join(' against ')}`],
  );
}

export const acceptedDigests = (ledger: readonly LedgerEntry[]): readonly string[] =>
  ledger.flatMap(({ answer, message }) => (answer.kind === 'accepted' ? [message.digest] : []));

/** Waits for two copies of everything; answers with the milliseconds it took. `members`: those that have to be there. */
export async function twoCopiesAgain(
  cluster: ClusterView,
  members: readonly string[],
  digests: readonly string[],
  deadlineMs: number,
): Promise<number> {
  const startMs = performance.now();
  let last: readonly string[] = [];
  try {
    await until(
      'two copies of everything',
      async () => {
        last = unprotectedNow(await cluster.statuses(), members);
        if (last.length > 0) return false;
        last = restProblems(digests, await cluster.stored());
        return last.length === 0;
      },
      { deadlineMs, everyMs: 250 },
    );
  } catch (error) {
    throw new Error(`${String(error)}\n${last.length} problems:\n${last.slice(0, 10).join('\n')}`, { cause: error });
  }
  return performance.now() - startMs;
}

/** The line every test of this kind prints. */
export function ledgerLine(title: string, ledger: readonly LedgerEntry[], result: Balance): string {
  const { accepted, refused, unanswered, delivered, lost, unexpected, duplicated, damaged } = result;
  return (
    `${title}: sent ${ledger.length}, answered 250 ${accepted}, refused ${refused}, unanswered ${unanswered}, delivered ${delivered}; ` +
    `lost ${lost.length}, unexpected ${unexpected.length}, visible duplicates ${duplicated.length}, damaged ${damaged.length}: ${verdict(result)}`
  );
}

export interface AtRest {
  readonly line: string;
  readonly result: Balance;
  /** Empty when everything is as it was promised. */
  readonly problems: readonly string[];
}

/**
 * The judgement when everything has come to rest: the ledger, both Safety Nets, one owner for each copy. `read`: what the users have.
 * Agreement comes with the next contact, so it is waited for.
 */
export async function judgedAtRest(
  cluster: ClusterView,
  title: string,
  ledger: readonly LedgerEntry[],
  { read, deadlineMs }: { readonly read: () => Promise<readonly Delivered[]>; readonly deadlineMs: number },
): Promise<AtRest> {
  await cluster.drained(deadlineMs, ledger);
  const digests = acceptedDigests(ledger);
  let stored: readonly InspectedCopy[] = [];
  const open = (): readonly string[] => [...restProblems(digests, stored), ...disagreements(stored)];
  await until(
    'complete Safety Nets and one owner for each copy',
    async () => {
      stored = await cluster.stored();
      return open().length === 0;
    },
    { deadlineMs, everyMs: 500 },
  ).catch(() => undefined);
  const result = balance(ledger, await read(), stored);
  const problems = [
    ...(verdict(result) === 'balanced' ? [] : [verdict(result)]),
    ...result.both.map((id) => `${id} is delivered and in transit`),
    ...open(),
  ];
  const [id] = disagreements(stored).map((one) => one.slice(0, one.indexOf(':')));
  const story = id === undefined ? [] : [`story of ${id}:\n${await cluster.story(id)}`];
  return { line: ledgerLine(title, ledger, result), result, problems: [...problems.slice(0, 20), ...story] };
}
