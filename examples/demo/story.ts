/**
 * What the acts of the demo have in common: the stage, killing and coming back, sending a batch of letters, and waiting until the queues
 * are empty and everything is on two databases again. Promise: a wait that is in vain is said and not hidden; the audit says what it means.
 */
import type { Check, Sent } from './audit.ts';
import { pairProblem } from './audit.ts';
import { type DemoCluster, DemoFailure, type Waiting, waitFor } from './cluster.ts';
import { inspectAll } from './evidence.ts';
import { type Letter, writeLetter } from './letters.ts';
import { sendLetters } from './post.ts';
import { align, type Screen, wrap } from './screen.ts';
import { duration } from './timeline.ts';

export const SESSIONS = 8;
const DOMAIN = 'contoso.com';
/** Generous: a slow machine is no failure. */
export const DEADLINE = {
  startMs: 120_000,
  returnMs: 120_000,
  emptyMs: 180_000,
  drainMs: 240_000,
  stopMs: 90_000,
} as const;
/** Between two looks: each is a process or four of their own, and the machine has better things to do. */
export const LOOK = { commandMs: 400, databasesMs: 1_000 } as const;
const MOST_SHOWN = 6;

export interface Demo {
  readonly screen: Screen;
  readonly cluster: DemoCluster;
  readonly count: number;
  /** Ctrl-C: the story ends here. */
  readonly stop: AbortSignal;
  /** Everything that was sent, of all acts. */
  readonly sent: Sent[];
  /** Every program that was killed. */
  readonly kills: Kill[];
}

export interface Kill {
  readonly what: string;
  readonly name: string;
  readonly atMs: number;
  /** How long it took to be back, or why it never came. */
  readonly back: Promise<{ readonly ms: number } | { readonly problem: string }>;
}

/** A promise of how a program comes back that was killed just now. */
export function noteKill({ screen, cluster, kills }: Demo, what: string, name: string, pid: number): Kill {
  const startMs = performance.now();
  const back = waitFor(`${name} to come back`, DEADLINE.returnMs, () => cluster.returned(name, pid)).then(
    (newPid) => {
      const ms = performance.now() - startMs;
      screen.good(`${name} is back as pid ${newPid} after ${duration(ms)}, thanks to the runner`);
      return { ms };
    },
    (error: Error) => ({ problem: error.message }),
  );
  const kill = { what, name, atMs: startMs, back };
  kills.push(kill);
  return kill;
}

export const lettersFrom = (first: number, count: number): readonly Letter[] =>
  Array.from({ length: count }, (_, i) => writeLetter(first + i, DOMAIN));

/** Sends `letters`; `at(n)` is called when so many of them are answered or cut off. */
export async function sendBatch(
  demo: Demo,
  letters: readonly Letter[],
  at: (done: number) => void = () => undefined,
): Promise<readonly Sent[]> {
  const { screen, cluster, stop } = demo;
  const startMs = performance.now();
  let accepted = 0;
  const sent = await sendLetters({
    letters,
    sessions: SESSIONS,
    targets: () => cluster.targets(),
    stop,
    onSent: ({ answer }, done) => {
      if (answer.kind === 'accepted') accepted += 1;
      screen.progress(done, letters.length, `${done} of ${letters.length} sent, ${accepted} answered 250`);
      at(done);
    },
  });
  demo.sent.push(...sent);
  stop.throwIfAborted();
  screen.endProgress();
  screen.good(`${sent.length} sent, ${accepted} answered 250, in ${duration(performance.now() - startMs)}`);
  return sent;
}

export function tellAnswers(screen: Screen, sent: readonly Sent[]): void {
  const groups = Map.groupBy(sent, ({ answer }) =>
    answer.kind === 'accepted'
      ? '250 2.0.0 queued: the cluster is responsible now'
      : answer.kind === 'refused'
        ? `${answer.code} ${answer.text}`
        : answer.endSent
          ? 'no answer after the last byte: may be there or not (indeterminate)'
          : 'connection lost before the last byte: must not be there',
  );
  const rows = [...groups].sort(([, a], [, b]) => b.length - a.length);
  for (const [words, group] of rows) screen.line(`     ${String(group.length).padStart(6)}  ${words}`.slice(0, 100));
}

/** Null: a transport did not answer at the end. */
export async function untilEmpty({ screen, cluster }: Demo): Promise<Waiting | null> {
  const startMs = performance.now();
  let most = 0;
  let last: Waiting | null = null;
  const isOver = async (): Promise<boolean | null> => {
    const now = await cluster.waiting();
    last = now;
    if (now === null) return null;
    const left = now.queued + now.shadow;
    most = Math.max(most, left);
    if (left === 0 && now.problems.length === 0) return true;
    screen.progress(most - left, most, `${now.queued} in queues, ${now.shadow} shadow copies not yet told`);
    return null;
  };
  const over = await waitFor('the queues to be empty', DEADLINE.emptyMs, isOver, LOOK.commandMs).catch(
    (error: Error) => error,
  );
  screen.endProgress();
  if (over === true)
    screen.good(`no queue holds anything, no shadow waits (after ${duration(performance.now() - startMs)})`);
  // Not the end: the audit says what that means.
  else screen.bad(over instanceof Error ? over.message : 'never');
  return last;
}

/** Until every message that was answered 250 is in a Primary and a Shadow Safety Net, in two sites; read from the databases. */
export async function untilPaired({ screen, cluster, sent }: Demo): Promise<void> {
  const startMs = performance.now();
  const ids = sent.flatMap(({ answer }) => (answer.kind === 'accepted' ? [answer.id] : []));
  let alone = ids.length;
  const isOver = async (): Promise<boolean | null> => {
    const readings = await inspectAll(cluster.runFile().transports);
    const copies = Map.groupBy(
      readings.flatMap((one) => one.copies),
      (one) => one.id,
    );
    alone = ids.filter((id) => pairProblem(copies.get(id) ?? []) !== null).length;
    if (alone === 0) return true;
    screen.progress(ids.length - alone, ids.length, `${alone} of ${ids.length} have one copy only as yet`);
    return null;
  };
  const over = await waitFor('two copies of everything', DEADLINE.emptyMs, isOver, LOOK.databasesMs).catch(
    (error: Error) => error,
  );
  screen.endProgress();
  const after = duration(performance.now() - startMs);
  if (over === true)
    screen.good(`each of the ${ids.length} messages is on two databases in two sites (after ${after})`);
  else screen.bad(`${over instanceof Error ? over.message : 'never'}: ${alone} are not`);
}

export function tellChecks(screen: Screen, checks: readonly Check[]): void {
  const rows = align(
    checks.map((check) => [check.title, check.finding]),
    [],
  );
  checks.forEach((check, i) => {
    const [title = '', finding = ''] = rows[i] ?? [];
    const words = `${title}  ${screen.paint('dim', finding.trimEnd())}`;
    if (check.against.length === 0) screen.good(words);
    else screen.bad(words);
    for (const one of check.against.slice(0, MOST_SHOWN))
      for (const line of wrap(one, 90)) screen.line(`         ${screen.paint('red', line)}`);
    const more = check.against.length - MOST_SHOWN;
    if (more > 0) screen.line(`         and ${more} more`);
  });
}

export function mustFind<T>(found: T | undefined, what: string): T {
  if (found === undefined) throw new DemoFailure(`there is no ${what}`);
  return found;
}
