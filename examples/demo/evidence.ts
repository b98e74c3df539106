/**
 * Reads what the verdict is made of: the queue databases through the offline tool `mailcluster store`, the mailboxes as the files they
 * are. No program of the cluster is asked. Owns nothing; writes only the exported bodies, below the directory it is given.
 */
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunTransport } from '../../operator/local/run-file.ts';
import type { DatabaseCopy, MailboxFile } from './audit.ts';
import { cli } from './cluster.ts';
import { sha256 } from './letters.ts';

interface InspectDocument {
  readonly identity: string;
  readonly copies: readonly InspectedCopy[];
  readonly safetyNet: readonly InspectedCopy[];
}

interface InspectedCopy {
  readonly id: string;
  readonly queue: string;
  readonly kind: 'message' | 'dsn' | 'resubmission';
  readonly ancestor: string | null;
  readonly owner: string;
  readonly digest: string;
}

export interface DatabaseReading {
  readonly member: string;
  readonly site: string;
  readonly identity: string;
  readonly copies: readonly DatabaseCopy[];
}

/** What one database says it holds: `digest` is what was noted, not what the bytes are. On a live one the durable part. */
export async function inspect(
  { name, site }: Pick<RunTransport, 'name' | 'site'>,
  directory: string,
): Promise<DatabaseReading> {
  // A disk that was replaced and not used yet.
  if (!existsSync(join(directory, 'identity'))) return { member: name, site, identity: '', copies: [] };
  const { stdout } = await cli(['store', 'inspect', directory, '-o', 'json']);
  const { identity, copies, safetyNet } = JSON.parse(stdout) as InspectDocument;
  const all = [...copies, ...safetyNet].map(({ id, queue, kind, ancestor, owner, digest }): DatabaseCopy => {
    return { member: name, site, id, queue, kind, ancestor, owner, digest };
  });
  return { member: name, site, identity, copies: all };
}

export const inspectAll = (transports: readonly RunTransport[]): Promise<readonly DatabaseReading[]> =>
  Promise.all(transports.map((one) => inspect(one, one.queueDatabaseDirectory)));

/** As `inspect`, with the digest of the bytes that can be read. After the stop, so that nobody alive can mend what is not on disk. */
export async function exportAll(
  transports: readonly RunTransport[],
  out: string,
  onRead: (done: number, of: number) => void,
): Promise<readonly DatabaseReading[]> {
  let done = 0;
  return await Promise.all(
    transports.map(async (transport) => {
      const reading = await inspect(transport, transport.queueDatabaseDirectory);
      const bodies = join(out, transport.name);
      // Exit code 1 is damage: the body it hit is then missing below, and the audit says whose.
      if (reading.copies.length > 0) await cli(['store', 'export', transport.queueDatabaseDirectory, '--all', bodies]);
      const copies: DatabaseCopy[] = [];
      for (const copy of reading.copies)
        copies.push({ ...copy, digest: await digestOf(join(bodies, `${copy.id}.eml`)) });
      done += 1;
      onRead(done, transports.length);
      return { ...reading, copies };
    }),
  );
}

/** Every message in the mailboxes of one copy of a database. */
export async function readMailboxes(maildir: string): Promise<readonly MailboxFile[]> {
  const found: MailboxFile[] = [];
  const entries = await readdir(maildir, { recursive: true, withFileTypes: true });
  for (const entry of entries) {
    const [mailbox, folder] = entry.parentPath.split('/').slice(-2);
    if (!entry.isFile() || mailbox === undefined || (folder !== 'new' && folder !== 'cur')) continue;
    const bytes = await readFile(join(entry.parentPath, entry.name));
    // The store writes %XX for what a file name cannot hold.
    found.push({ mailbox: decodeURIComponent(mailbox), file: entry.name, bytes });
  }
  return found;
}

async function digestOf(path: string): Promise<string | null> {
  try {
    return sha256(await readFile(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
