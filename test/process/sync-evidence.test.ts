/** Two synced copies before the 250, as the kernel saw it: strace on the front end and on both transports. Needs root and strace. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { SmtpConnection } from '../../examples/demo/smtp-connection.ts';
import { type Cluster, type InspectedDatabase, mailcluster, startCluster, twoSites } from './harness.ts';
import { makeMessage } from './ledger.ts';
import { sendMessage } from './smtp-sender.ts';
import { judge, Strace, type SystemCall, type Traces } from './sync-trace.ts';

async function attached(cluster: Cluster): Promise<ReadonlyMap<string, Strace> | string> {
  const { transports, frontends } = await cluster.runFile();
  const traces = new Map<string, Strace>();
  for (const { name, pid } of [...transports, ...frontends]) {
    if (pid === null) return `${name} is not running`;
    const trace = await Strace.attach(pid, join(cluster.directory, `${name}.strace`));
    if (typeof trace === 'string') {
      for (const one of traces.values()) await one[Symbol.asyncDispose]();
      return trace;
    }
    traces.set(name, trace);
  }
  return traces;
}

/** The same traces with some calls of a transport changed or (null) left out. */
function doctored(traces: Traces, member: string, change: (call: SystemCall) => SystemCall | null): Traces {
  const transports = new Map(
    [...traces.transports].map(([name, one]) =>
      name === member ? [name, { ...one, calls: one.calls.flatMap((call) => change(call) ?? []) }] : [name, one],
    ),
  );
  return { ...traces, transports };
}

test('both transports have synced the message when the front end says 250', async (context) => {
  if (process.getuid?.() !== 0) return context.skip('sync evidence: strace -p needs root');
  await using cluster = await startCluster((directory) => twoSites(directory, { perSite: 1, frontends: 1 }));
  const tracers = await attached(cluster);
  if (typeof tracers === 'string') return context.skip(`sync evidence: ${tracers} (package strace)`);
  const message = makeMessage('EVIDENCE', 'bob@example.com', 2_000);
  const [target] = cluster.targets();
  if (target === undefined) throw new Error('no listener');
  const connection = await SmtpConnection.open(target);
  const { answer } = await sendMessage(connection, message);
  connection.close();
  const calls = new Map<string, readonly SystemCall[]>();
  for (const [name, tracer] of tracers) calls.set(name, await tracer.detach());
  if (answer.kind !== 'accepted') throw new Error(`not accepted: ${JSON.stringify(answer)}`);
  const id = /queued as (\w+)/.exec(answer.text)?.[1] ?? '';

  const { transports, frontends } = await cluster.runFile();
  const traces: Traces = {
    frontend: calls.get(frontends[0]?.name ?? '') ?? [],
    transports: new Map(
      transports.map((one) => [one.name, { calls: calls.get(one.name) ?? [], directory: one.queueDatabaseDirectory }]),
    ),
  };
  const mark = 'X-Ledger-Id: EVIDENCE';
  const evidence = judge(traces, mark, id);
  if (typeof evidence === 'string') throw new Error(evidence);
  expect(evidence.synced).toHaveLength(2);
  const ms = (at: number): string => ((at - evidence.endReadAt) * 1_000).toFixed(2);
  console.log(
    `sync evidence, ms after the end of data: ${evidence.synced.map((one) => `${one.member} synced at ${ms(one.syncedAt)}`).join(', ')}, 250 at ${ms(evidence.repliedAt)}`,
  );

  // The files that were synced hold the message, and the queue databases they belong to know it.
  for (const { member, file } of evidence.synced) {
    expect((await readFile(file)).includes(message.content), file).toBe(true);
    const directory = transports.find(({ name }) => name === member)?.queueDatabaseDirectory ?? '';
    const shown = await mailcluster('store', 'inspect', directory, '-o', 'json');
    expect(shown.code).toBe(0);
    const { copies, safetyNet } = JSON.parse(shown.stdout) as InspectedDatabase;
    expect([...copies, ...safetyNet].map((copy) => [copy.id, copy.digest])).toEqual([[id, message.digest]]);
  }

  // The same judgement refuses the same traces when one sync is missing, failed, came too late, or was of another file.
  for (const { member } of evidence.synced) {
    const late = (call: SystemCall): SystemCall => ({ ...call, endedAt: evidence.repliedAt + 0.001 });
    const changes: readonly ((call: SystemCall) => SystemCall | null)[] = [
      () => null,
      (call) => ({ ...call, result: -1 }),
      late,
      (call) => ({ ...call, args: '9</elsewhere>' }),
    ];
    for (const change of changes) {
      const changed = doctored(traces, member, (call) => (call.name === 'fdatasync' ? change(call) : call));
      expect(judge(changed, mark, id)).toBe(`${member} synced nothing between the end of data and the 250`);
    }
  }
  expect(judge(traces, 'X-Ledger-Id: ANOTHER', id)).toMatch(/did not write the message/);
  expect(judge(traces, mark, 'ANOTHER')).toBe('the front end wrote no 250');
}, 120_000);
