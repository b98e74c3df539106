/**
 * `mailcluster store inspect|verify|export DIR`: looks into a queue database without its server. Writes nothing in DIR and takes no
 * lock; on a live database it shows the durable prefix. Exit code: 0 all is well, 1 damage or no such copy, 2 wrong usage or unreadable.
 */
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { CopyId } from '../common/message.ts';
import { nodeFiles } from '../common/platform/node-files.ts';
import { ReadOnlyDatabase, type ShownCopy } from './store/read-only.ts';

const HELP = `Usage:
mailcluster store inspect DIR [-o table|json]   what the queue database holds (its durable part)
mailcluster store verify DIR [-o table|json]    reads every byte; exit code 1 and a list when something is damaged
mailcluster store export DIR ID                 the message as received, to standard output
mailcluster store export DIR --all OUT          every message into the directory OUT, one file each (ID.eml)

Nothing is ever written to DIR and no lock is taken: it is safe while the transport runs.

Examples:
  mailcluster store inspect state/hub-0/queue -o json
  mailcluster store verify state/hub-0/queue
  mailcluster store export state/hub-0/queue 01J8ZQ3V5N0000000000000001 > message.eml`;

export type Raw = (bytes: Buffer) => Promise<void>;

const toStandardOutput: Raw = async (bytes) => {
  if (!process.stdout.write(bytes)) await once(process.stdout, 'drain');
};

/** A live database moves on while it is read; a segment that was recycled meanwhile looks damaged. */
const ATTEMPTS = 4;

async function withDatabase<T>(directory: string, use: (database: ReadOnlyDatabase) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      const database = await ReadOnlyDatabase.open(nodeFiles, directory);
      try {
        return await use(database);
      } finally {
        await database.close();
      }
    } catch (error) {
      const { code } = error as { code?: string };
      if (attempt === ATTEMPTS || (code !== 'DAMAGED' && code !== 'ENOENT')) throw error;
    }
  }
}

export async function storeCommand(
  args: readonly string[],
  out: (line: string) => void,
  raw: Raw = toStandardOutput,
): Promise<number> {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        output: { type: 'string', short: 'o' },
        all: { type: 'string' },
        help: { type: 'boolean', short: 'h' },
      },
    });
    const [verb, directory, id] = positionals;
    if (values.help === true) {
      out(HELP);
      return 0;
    }
    if (verb === undefined) {
      process.stderr.write(HELP);
      return 2;
    }
    if (directory === undefined) throw new Error(`store ${verb} needs the directory of a queue database`);
    if (verb === 'inspect') return await inspect(directory, values.output === 'json', out);
    if (verb === 'verify') return await verify(directory, values.output === 'json', out);
    if (verb === 'export' && values.all !== undefined) return await exportAll(directory, values.all, out);
    if (verb === 'export' && id !== undefined) return await exportOne(directory, id as CopyId, out, raw);
    throw new Error(verb === 'export' ? 'store export needs an ID or --all OUT' : `unknown command: store ${verb}`);
  } catch (error) {
    out(`error: ${error instanceof Error ? error.message : String(error)}`);
    return 2;
  }
}

function shown({ where, facts, state }: ShownCopy): Record<string, unknown> {
  return {
    id: facts.id,
    where,
    queue: state.queue,
    kind: facts.kind,
    ancestor: facts.ancestor,
    epoch: state.epoch,
    owner: state.epoch.owner,
    standing: state.standing,
    abortedThrough: state.abortedThrough,
    sizeBytes: facts.sizeBytes,
    digest: facts.digest,
    from: facts.envelope.reversePath,
    to: facts.envelope.recipients.map((recipient) => recipient.address),
    recipients: state.recipients,
    placements: state.placements,
    acceptedAtMs: facts.acceptedAtMs,
    finalAtMs: state.finalAtMs,
    unprotected: state.unprotected,
    suspended: state.suspended,
  };
}

async function inspect(directory: string, json: boolean, out: (line: string) => void): Promise<number> {
  const view = await withDatabase(directory, async (database) => {
    const { loaded, identity } = database;
    const { index, net } = loaded.state;
    const all: ShownCopy[] = [];
    for await (const copy of database.copies()) all.push(copy);
    return {
      directory,
      identity: identity.identity,
      member: identity.member,
      chain: identity.chain,
      syncedSequence: loaded.syncedThrough,
      /** Written, but not known to be synced when this was read. */
      unconfirmedRecords: loaded.tail.length,
      copies: all.filter((copy) => copy.where === 'transit').map(shown),
      safetyNet: all.filter((copy) => copy.where === 'safetyNet').map(shown),
      safetyNetCounts: net.counts(),
      tombstones: [...index.tombstones.values()],
      seen: [...index.seen.values()],
      facts: Object.fromEntries(index.facts),
      quarantined: loaded.quarantined,
    };
  });
  if (json) out(JSON.stringify(view, null, 2));
  else for (const line of table(view)) out(line);
  return view.quarantined.length > 0 ? 1 : 0;
}

interface View {
  readonly identity: string;
  readonly member: string;
  readonly chain: readonly { readonly openCounter: number }[];
  readonly syncedSequence: number;
  readonly unconfirmedRecords: number;
  readonly copies: readonly Record<string, unknown>[];
  readonly safetyNet: readonly Record<string, unknown>[];
  readonly tombstones: readonly { readonly id: string; readonly kind: string }[];
  readonly quarantined: readonly { readonly id: string | null; readonly reason: string }[];
}

function* table(view: View): Iterable<string> {
  const opened = view.chain[view.chain.length - 1]?.openCounter ?? 0;
  yield `member ${view.member}  identity ${view.identity}  opened ${opened} times  synced through ${view.syncedSequence}`;
  yield `${view.copies.length} in transit or shadow, ${view.safetyNet.length} in Safety Net, ${view.tombstones.length} tombstones, ${view.quarantined.length} damaged, ${view.unconfirmedRecords} records not yet confirmed`;
  if (view.copies.length + view.safetyNet.length > 0)
    yield `${'ID'.padEnd(28)}${'QUEUE'.padEnd(18)}${'STANDING'.padEnd(10)}${'BYTES'.padStart(10)}  FROM -> TO`;
  for (const copy of [...view.copies, ...view.safetyNet])
    yield `${String(copy.id).padEnd(28)}${String(copy.queue).padEnd(18)}${String(copy.standing).padEnd(10)}${String(copy.sizeBytes).padStart(10)}  <${copy.from}> -> ${(copy.to as readonly string[]).join(', ')}`;
  for (const { id, kind } of view.tombstones) yield `${id.padEnd(28)}tombstone (${kind})`;
  for (const { id, reason } of view.quarantined) yield `${(id ?? '(unknown)').padEnd(28)}damaged: ${reason}`;
}

async function verify(directory: string, json: boolean, out: (line: string) => void): Promise<number> {
  const run = (): Promise<{ damage: Awaited<ReturnType<ReadOnlyDatabase['verify']>>; copies: number }> =>
    withDatabase(directory, async (database) => {
      const { index, net } = database.loaded.state;
      const counts = net.counts();
      const copies = index.copies.size + counts.primary.messages + counts.shadow.messages;
      return { damage: await database.verify(), copies };
    });
  let found = await run();
  // On a live database damage that is not there the second time was a segment being recycled.
  for (let attempt = 1; attempt < ATTEMPTS && found.damage.length > 0; attempt++) found = await run();
  if (json) out(JSON.stringify(found, null, 2));
  else {
    for (const { id, segment, offset, reason } of found.damage)
      out(`damaged: ${id ?? '(unknown copy)'} in ${segment} at ${offset}: ${reason}`);
    out(`${found.copies} copies verified, ${found.damage.length} damaged`);
  }
  return found.damage.length > 0 ? 1 : 0;
}

async function exportOne(directory: string, id: CopyId, out: (line: string) => void, raw: Raw): Promise<number> {
  try {
    const parts = await withDatabase(directory, async (database) => {
      const bytes: Buffer[] = [];
      for await (const part of database.body(id)) bytes.push(part);
      return bytes;
    });
    for (const part of parts) await raw(part);
    return 0;
  } catch (error) {
    if ((error as { code?: string }).code !== 'NOTFOUND' && (error as { code?: string }).code !== 'DAMAGED')
      throw error;
    out(`error: ${(error as Error).message}`);
    return 1;
  }
}

async function exportAll(directory: string, target: string, out: (line: string) => void): Promise<number> {
  await mkdir(target, { recursive: true });
  return withDatabase(directory, async (database) => {
    let written = 0;
    let failed = 0;
    for await (const { facts } of database.copies()) {
      try {
        const bytes: Buffer[] = [];
        for await (const part of database.body(facts.id)) bytes.push(part);
        await writeFile(join(target, `${facts.id}.eml`), Buffer.concat(bytes));
        written += 1;
      } catch (error) {
        if ((error as { code?: string }).code !== 'DAMAGED') throw error;
        out(`damaged: ${facts.id}: ${(error as Error).message}`);
        failed += 1;
      }
    }
    out(`${written} messages written to ${target}, ${failed} damaged`);
    return failed > 0 ? 1 : 0;
  });
}

if (import.meta.main) process.exitCode = await storeCommand(process.argv.slice(2), (line) => console.log(line));
