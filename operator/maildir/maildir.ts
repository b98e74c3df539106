/**
 * A directory of Maildirs: `PATH/<address>/{tmp,new,cur}`, one per recipient address, with a table of what each has received.
 * Owns: the directory (exclusively, by a lock), every file below it until it is in `new`.
 * Promises
 * - `commit` says `stored` only when the message, its name and the memory of it survive power loss: sync of the file, of the directory
 *   `new`, then of the duplicate table - in this order, so that a crash between them can double a message and never lose one.
 * - A message with a delivery id goes to a recipient once (protocol.md 23). The file name is made of the key, so that what a crash left
 *   in `new` or `cur` before the table knew of it is recognised as well. Without a delivery id there is no suppression.
 * - What has the same content key as a delivery of the last five days is a client's own retry, and is not stored either (24).
 * Refuses: a second process on the same directory. Fails: rejects with the disk's error; nothing is then in `new` unless a sync failed.
 */
import { createHash } from 'node:crypto';
import { dirname, join } from 'node:path';
import type { Clock } from '../../common/platform/clock.ts';
import type { ExclusiveLock, FileHandle, Files } from '../../common/platform/files.ts';
import type { Random } from '../../common/platform/random.ts';
import { DuplicateTable, hasCode, removeIfThere } from './duplicate-table.ts';

export interface MaildirOptions {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly directory: string;
  /** How long a delivery is remembered; at least Safety Net hold time + message expiration (semantics.md 1.5). */
  readonly duplicateWindowMs: number;
}

/** 30 days. */
export const DEFAULT_DUPLICATE_WINDOW_MS = 30 * 86_400_000;
/** RFC 5321 4.5.4.1: a client gives up after 4 to 5 days. */
const RETRY_WINDOW_MS = 5 * 86_400_000;

const TABLE = 'mailcluster-deliveries';
const SUFFIX = '.mailcluster';
/** Mailboxes kept open; the least recently used one is closed first. */
const MAX_OPEN_MAILBOXES = 1_000;
const MAX_NAME_LENGTH = 200;

interface Mailbox {
  readonly directory: string;
  readonly table: DuplicateTable;
}

interface Entry {
  readonly mailbox: Promise<Mailbox>;
  users: number;
}

export class MaildirStore {
  readonly #options: MaildirOptions;
  readonly #lock: ExclusiveLock;
  /** In order of last use. */
  readonly #open = new Map<string, Entry>();
  /** Deliveries of one key wait for each other. */
  readonly #busyKeys = new Map<string, Promise<unknown>>();
  #counter = 0;

  private constructor(options: MaildirOptions, lock: ExclusiveLock) {
    this.#options = options;
    this.#lock = lock;
  }

  static async open(options: MaildirOptions): Promise<MaildirStore> {
    await makeDirectory(options.files, options.directory);
    const lock = await options.files.lock(join(options.directory, '.lock'));
    if (lock === null) throw new Error(`${options.directory} is in use by another process`);
    return new MaildirStore(options, lock);
  }

  /** A file for one recipient. `head` is written in front of what comes. */
  async begin(recipient: string, head: Buffer): Promise<MaildirDelivery> {
    const name = mailboxName(recipient);
    const entry = this.#enter(name);
    let isOpen = false;
    try {
      const mailbox = await entry.mailbox;
      const temporary = join(
        mailbox.directory,
        'tmp',
        `${this.#options.random.bytes(8).toString('hex')}.${this.#counter++}`,
      );
      const handle = await this.#options.files.open(temporary, 'create');
      isOpen = true;
      const delivery = new MaildirDelivery(this.#options.files, handle, temporary, (file, ids) =>
        this.#place(mailbox, name, file, ids),
      );
      delivery.onEnd = () => this.#leave(name, entry);
      return await delivery.started(head);
    } catch (error) {
      if (!isOpen) this.#leave(name, entry);
      throw error;
    }
  }

  async close(): Promise<void> {
    for (const { mailbox } of this.#open.values()) await (await mailbox).table.close();
    this.#open.clear();
    await this.#lock.release();
  }

  async #place(
    mailbox: Mailbox,
    name: string,
    file: { readonly handle: FileHandle; readonly path: string },
    { deliveryId, contentKey }: Ids,
  ): Promise<'stored' | 'duplicate'> {
    const { files, clock, random } = this.#options;
    if (deliveryId === null) {
      const unique = `${Math.trunc(clock.wallMs() / 1000)}.R${random.bytes(12).toString('hex')}${SUFFIX}`;
      await moveIn(files, mailbox, file, unique);
      return 'stored';
    }
    const key = keyOf(deliveryId, name);
    const second = contentKey === null ? null : keyOf(`content ${contentKey}`, name);
    const place = (): Promise<'stored' | 'duplicate'> =>
      this.#oneAtATime(`${name} ${key}`, async () => {
        if (mailbox.table.has(key)) return 'duplicate';
        if (second !== null && mailbox.table.has(second, clock.wallMs() - RETRY_WINDOW_MS)) return 'duplicate';
        await moveIn(files, mailbox, file, `${key}${SUFFIX}`);
        await mailbox.table.add(second === null ? [key] : [key, second], clock.wallMs());
        return 'stored';
      });
    // Outer key first, always: nobody waits in a circle.
    return second === null ? place() : this.#oneAtATime(`${name} ${second}`, place);
  }

  async #oneAtATime<T>(key: string, run: () => Promise<T>): Promise<T> {
    const before = this.#busyKeys.get(key);
    const mine = Promise.allSettled([before]).then(run);
    this.#busyKeys.set(key, mine);
    try {
      return await mine;
    } finally {
      if (this.#busyKeys.get(key) === mine) this.#busyKeys.delete(key);
    }
  }

  #enter(name: string): Entry {
    const known = this.#open.get(name);
    const entry = known ?? { mailbox: this.#openMailbox(name), users: 0 };
    entry.users++;
    this.#open.delete(name);
    this.#open.set(name, entry);
    return entry;
  }

  #leave(name: string, entry: Entry): void {
    entry.users--;
    if (entry.users > 0) return;
    // One that failed to open is tried afresh the next time.
    entry.mailbox.catch(() => this.#open.delete(name));
    if (this.#open.size <= MAX_OPEN_MAILBOXES) return;
    for (const [other, { users, mailbox }] of this.#open) {
      if (users > 0) continue;
      this.#open.delete(other);
      void mailbox.then(({ table }) => table.close());
      return;
    }
  }

  async #openMailbox(name: string): Promise<Mailbox> {
    const { files, clock, duplicateWindowMs } = this.#options;
    const directory = join(this.#options.directory, name);
    for (const part of ['tmp', 'new', 'cur']) await makeDirectory(files, join(directory, part)); // and `directory`
    // Nobody else writes here: what is in `tmp` was never answered 250.
    for (const left of await files.list(join(directory, 'tmp')))
      await removeIfThere(files, join(directory, 'tmp', left));
    const there = [...(await files.list(join(directory, 'new'))), ...(await files.list(join(directory, 'cur')))];
    const keys = there.flatMap((file) => /^([0-9a-f]{32})\.mailcluster/.exec(file)?.[1] ?? []);
    const oldestMs = clock.wallMs() - duplicateWindowMs;
    return { directory, table: await DuplicateTable.open(files, directory, join(directory, TABLE), oldestMs, keys) };
  }
}

type Place = (
  file: { readonly handle: FileHandle; readonly path: string },
  ids: Ids,
) => Promise<'stored' | 'duplicate'>;

interface Ids {
  readonly deliveryId: string | null;
  readonly contentKey: string | null;
}

/** One message on its way to one mailbox: `write`s, then `commit` or `abort`. */
export class MaildirDelivery {
  readonly #files: Files;
  readonly #handle: FileHandle;
  readonly #path: string;
  readonly #place: Place;
  #sizeBytes = 0;
  onEnd: () => void = () => undefined;

  constructor(files: Files, handle: FileHandle, path: string, place: Place) {
    this.#files = files;
    this.#handle = handle;
    this.#path = path;
    this.#place = place;
  }

  /** Itself with `head` written, or nothing of it left. */
  async started(head: Buffer): Promise<this> {
    try {
      await this.write(head);
      return this;
    } catch (error) {
      await this.abort();
      throw error;
    }
  }

  async write(chunk: Buffer): Promise<void> {
    const position = this.#sizeBytes;
    this.#sizeBytes += chunk.length;
    await this.#handle.writev([chunk], position);
  }

  async commit(deliveryId: string | null, contentKey: string | null = null): Promise<'stored' | 'duplicate'> {
    let isPlaced = false;
    try {
      const result = await this.#place({ handle: this.#handle, path: this.#path }, { deliveryId, contentKey });
      isPlaced = result === 'stored';
      return result;
    } finally {
      await this.#end(isPlaced);
    }
  }

  abort(): Promise<void> {
    return this.#end(false);
  }

  async #end(isPlaced: boolean): Promise<void> {
    try {
      await this.#handle.close();
      if (!isPlaced) await removeIfThere(this.#files, this.#path);
    } finally {
      this.onEnd();
    }
  }
}

async function moveIn(
  files: Files,
  mailbox: Mailbox,
  file: { readonly handle: FileHandle; readonly path: string },
  name: string,
): Promise<void> {
  await file.handle.datasync();
  await files.rename(file.path, join(mailbox.directory, 'new', name));
  await files.syncDirectory(join(mailbox.directory, 'new'));
}

/** Makes the directory and those above it, durably; what exists is fine. */
async function makeDirectory(files: Files, path: string): Promise<void> {
  try {
    await files.list(path);
    return;
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
  await makeDirectory(files, dirname(path));
  await files.makeDirectory(path);
  await files.syncDirectory(dirname(path));
}

/** 128 bits suffice: nobody gains by making two of his own messages collide. */
function keyOf(deliveryId: string, mailbox: string): string {
  return createHash('sha256').update(`${deliveryId}\n${mailbox}`).digest('hex').slice(0, 32);
}

/**
 * The address as a file name, readable and reversible by percent-decoding: lower case (local parts compare case-insensitively by
 * default, architecture.md section 8), `/` and everything unusual escaped, never hidden, never `.` or `..`.
 */
export function mailboxName(address: string): string {
  const escaped = encodeURIComponent(address.toLowerCase().toWellFormed())
    .replaceAll('%40', '@')
    .replace(/^\.|[!'()*~]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);
  if (escaped.length <= MAX_NAME_LENGTH) return escaped === '' ? '%' : escaped;
  const digest = createHash('sha256').update(escaped).digest('hex').slice(0, 32);
  return `${escaped.slice(0, MAX_NAME_LENGTH - 40).replace(/%.?$/, '')}~${digest}`;
}
