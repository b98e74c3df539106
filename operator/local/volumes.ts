/**
 * The queue directories of the members as the runner sees them: whose database lies in one, and which were set aside. Owns: the record of
 * identities (`identities/NAME.json`) and the renaming of a directory whose database is retired to `queue.<why>-<n>`. Promise: nothing is
 * deleted, and a database that is not retired is never moved; each step can be repeated after a crash.
 */
import { open, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { RetiredIdentity } from '../../common/config.ts';
import type { Identity } from '../../common/message.ts';
import { isIdentity } from './orders.ts';
import { codeOf, readJson, type StatePaths, syncDirectory, writeDurably } from './state-directory.ts';

/** Beside what the store writes (transport/store/identity-file.ts): two blocks, each with the header as a line of JSON. */
const HEADER_BYTES = 8_192;
const HEADER = /"identity":"([0-9A-HJKMNP-TV-Z]{26})"/;
/** Why a directory was set aside; also written by the transport when it is fenced (transport/fence.ts). */
const MARK = 'fenced.json';
const ASIDE = /^queue\.(fenced|lost|drained)-(\d+)$/;

export interface KnownIdentity {
  readonly identity: Identity;
  /** When the runner first heard it. */
  readonly sinceMs: number;
}

export interface SetAside {
  readonly member: string;
  readonly directory: string;
  readonly reason: 'fenced' | 'lost' | 'drained';
  readonly identity: string | null;
  readonly why: string;
  /** ISO 8601, or null. */
  readonly at: string | null;
}

/** Of the database in a directory; null when there is none, or its header cannot be read. */
export async function identityIn(directory: string): Promise<Identity | null> {
  try {
    const file = await open(join(directory, 'identity'), 'r');
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(HEADER_BYTES), 0, HEADER_BYTES, 0);
      const found = HEADER.exec(buffer.toString('latin1', 0, bytesRead))?.[1];
      return isIdentity(found) ? found : null;
    } finally {
      await file.close();
    }
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return null;
    throw error;
  }
}

/** Oldest first. */
export async function knownIdentities(paths: StatePaths, member: string): Promise<readonly KnownIdentity[]> {
  const found = (await readJson(paths.identities(member))) as { readonly known?: unknown } | null;
  if (!Array.isArray(found?.known)) return [];
  return found.known.filter(
    (one: unknown): one is KnownIdentity =>
      typeof one === 'object' && one !== null && 'identity' in one && isIdentity(one.identity) && 'sinceMs' in one,
  );
}

export async function recordIdentity(
  paths: StatePaths,
  member: string,
  identity: Identity,
  nowMs: number,
): Promise<void> {
  const known = await knownIdentities(paths, member);
  if (known.at(-1)?.identity === identity) return;
  const others = known.filter((one) => one.identity !== identity);
  await writeDurably(paths.identities(member), { member, known: [...others, { identity, sinceMs: nowMs }] });
}

/** Before a start of the member. Where its directory is now, or null when it stays where it is. */
export async function setAsideRetired(
  paths: StatePaths,
  member: string,
  retired: readonly RetiredIdentity[],
  nowMs: number,
): Promise<string | null> {
  const directory = paths.queue(member);
  const names = await namesIn(directory);
  if (names.length === 0) return null;
  // A header that cannot be read: then it is the database the member was last known by.
  const identity = (await identityIn(directory)) ?? (await knownIdentities(paths, member)).at(-1)?.identity;
  const entry = retired.find((one) => one.identity === identity);
  if (entry === undefined) return null;
  const why =
    entry.reason === 'lost'
      ? 'somebody said that it is lost: its shadow copies took over, it may hold messages that were delivered since'
      : 'it was drained: it held nothing that others do not hold';
  const mark = { why, identity: entry.identity, at: new Date(nowMs).toISOString() };
  // A disk that takes no byte more still lets a directory be renamed; then the reason is in its name only.
  await writeFile(join(directory, MARK), `${JSON.stringify(mark, null, 2)}\n`).catch((error: unknown) => codeOf(error));
  const parent = dirname(directory);
  const numbers = (await namesIn(parent)).map((name) => Number(ASIDE.exec(name)?.[2] ?? 0));
  const aside = join(parent, `${basename(directory)}.${entry.reason}-${Math.max(0, ...numbers) + 1}`);
  await rename(directory, aside);
  await syncDirectory(parent);
  return aside;
}

async function namesIn(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw error;
  }
}

export async function setAside(queueDirectory: string, member: string): Promise<readonly SetAside[]> {
  const parent = dirname(queueDirectory);
  const found: SetAside[] = [];
  for (const name of await namesIn(parent)) {
    const reason = ASIDE.exec(name)?.[1];
    if (reason !== 'fenced' && reason !== 'lost' && reason !== 'drained') continue;
    const directory = join(parent, name);
    const mark = await readMark(join(directory, MARK));
    found.push({ member, directory, reason, ...mark });
  }
  return found;
}

async function readMark(path: string): Promise<Pick<SetAside, 'identity' | 'why' | 'at'>> {
  try {
    const mark = JSON.parse(await readFile(path, 'utf8')) as Readonly<Record<string, unknown>>;
    const text = (field: string): string | null => (typeof mark[field] === 'string' ? mark[field] : null);
    return { identity: text('identity'), why: text('why') ?? 'not said', at: text('at') };
  } catch (error) {
    const why = codeOf(error) === 'ENOENT' ? 'not said' : `${path} cannot be read`;
    return { identity: null, why, at: null };
  }
}
