/**
 * The state directory of `mailcluster run` and the only place where the runner touches the disk. Owns: the layout
 *   ports.json topology.json run.json lock   config/NAME.json   pki/   secrets/   logs/NAME.log
 *   transports/NAME/queue   frontends/NAME   stores/   cache/
 *   orders/   orders/answers/ID.json   identities/NAME.json   resubmits/NAME.json
 * Promise: documents are replaced whole (temporary name + rename), readers see the old or the new one; secrets are 0600. It creates
 * directories and never empties one. Fails: `StateDirectoryError` with what to do, when the directory cannot be used.
 */
import { mkdirSync, openSync, renameSync, statSync } from 'node:fs';
import { access, constants, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';

export class StateDirectoryError extends Error {
  readonly code = 'STATE_DIRECTORY';
  readonly fix: string;
  constructor(message: string, fix: string) {
    super(message);
    this.name = 'StateDirectoryError';
    this.fix = fix;
  }
}

/** A log grows over the restarts of its child; beyond this it is put aside as `.1` at the next start. */
const LOG_KEEP_BYTES = 32 << 20;

export function codeOf(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null;
}

export interface StatePaths {
  readonly root: string;
  readonly run: string;
  readonly topology: string;
  readonly ports: string;
  readonly lock: string;
  readonly pki: string;
  readonly secrets: string;
  readonly stores: string;
  /** Decisions of people, one file each (orders.ts). */
  readonly orders: string;
  /** What the runner said to them. */
  readonly answers: string;
  readonly resubmits: string;
  /** Compiled code of the programs, for fast starts; may be removed at any time. */
  readonly cache: string;
  config(name: string): string;
  log(name: string): string;
  queue(transport: string): string;
  frontend(name: string): string;
  /** Queue databases a member had so far. */
  identities(transport: string): string;
}

export function statePaths(directory: string): StatePaths {
  const root = resolve(directory);
  return {
    root,
    run: join(root, 'run.json'),
    topology: join(root, 'topology.json'),
    ports: join(root, 'ports.json'),
    lock: join(root, 'lock'),
    pki: join(root, 'pki'),
    secrets: join(root, 'secrets'),
    stores: join(root, 'stores'),
    orders: join(root, 'orders'),
    answers: join(root, 'orders', 'answers'),
    resubmits: join(root, 'resubmits'),
    cache: join(root, 'cache'),
    config: (name) => join(root, 'config', `${name}.json`),
    log: (name) => join(root, 'logs', `${name}.log`),
    queue: (transport) => join(root, 'transports', transport, 'queue'),
    frontend: (name) => join(root, 'frontends', name),
    identities: (transport) => join(root, 'identities', `${transport}.json`),
  };
}

export async function prepareStateDirectory(paths: StatePaths): Promise<void> {
  try {
    const plain = ['config', 'pki', 'secrets', 'logs', 'stores', 'transports', 'frontends', 'identities'];
    for (const one of [...plain.map((name) => join(paths.root, name)), paths.answers, paths.resubmits]) {
      await mkdir(one, { recursive: true, mode: 0o700 });
    }
    await access(paths.root, constants.W_OK | constants.X_OK);
    const probe = join(paths.root, `.probe-${process.pid}`);
    await writeFile(probe, '');
    await rm(probe);
  } catch (error) {
    throw new StateDirectoryError(
      `the state directory ${paths.root} cannot be used: ${codeOf(error) ?? String(error)}`,
      'give --state a directory on a disk with room that you may write to',
    );
  }
}

export async function makeDirectory(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
}

export async function writeDocument(path: string, text: string, mode = 0o644): Promise<void> {
  const temporary = join(dirname(path), `.${process.pid}.${path.slice(dirname(path).length + 1)}.tmp`);
  await writeFile(temporary, text, { mode });
  await rename(temporary, path);
}

/** For decisions: there after a power loss too. */
export async function writeDurably(path: string, value: unknown): Promise<void> {
  const directory = dirname(path);
  const temporary = join(directory, `.${process.pid}.${basename(path)}.tmp`);
  const file = await open(temporary, 'w', 0o644);
  try {
    await file.writeFile(`${JSON.stringify(value, null, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  await syncDirectory(directory);
}

export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

export async function writeJson(path: string, value: unknown, mode = 0o644): Promise<void> {
  await writeDocument(path, `${JSON.stringify(value, null, 2)}\n`, mode);
}

/** Null when there is none. A document that is not JSON is an error that names it. */
export async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    throw error;
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new StateDirectoryError(`${path} is not JSON: ${error.message}`, 'restore it, or move it aside');
  }
}

export async function removeDocument(path: string): Promise<void> {
  await rm(path, { force: true });
}

/** Opens the log of a child for appending. Synchronous: it is opened right before the process is made. */
export function openLog(path: string): number {
  mkdirSync(dirname(path), { recursive: true });
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size > LOG_KEEP_BYTES) renameSync(path, `${path}.1`);
  return openSync(path, 'a', 0o640);
}
