/**
 * `message export`: one message as a file, byte by byte what the client sent. Owns: that file. Promise: it is whole and its SHA-256 the one that the
 * transport knows, or it is not there; nothing that exists is written over. Exit 1 when no transport could give it.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { reasonOf } from '../admin-client.ts';
import type { MessageDetailAnswer } from './answers.ts';
import { type CommandContext, openMail, parse, text, UsageError, warnUnreachable } from './command.ts';
import { findAllCopies } from './message-copies.ts';
import type { MailSource } from './place.ts';

interface Holder {
  readonly member: string;
  readonly value: MessageDetailAnswer;
}

export async function exportMessage(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, { out: { type: 'string' } }, [1, 1]);
  const id = parsed.positionals[0] ?? '';
  const cluster = await openMail(parsed, context);
  // Where it crossed to it has the same bytes.
  const { answers, unreachable } = await findAllCopies(cluster, id);
  warnUnreachable(context.output, unreachable);
  const { out, err } = context.output;
  if (answers.length === 0) {
    err(`No transport that answered holds ${id}; "${context.place.program} trace ${id}" may know what became of it.\n`);
    return 1;
  }
  const file = text(parsed, 'out') ?? `${id}.eml`;
  await (await create(file)).close();
  for (const holder of answers) {
    const problem = await fetched(cluster, holder, file);
    if (problem === null) {
      const { sizeBytes, digest } = holder.value.facts;
      out(`${file}: ${sizeBytes} bytes, SHA-256 ${digest}, from ${holder.member}.\n`);
      return 0;
    }
    err(`${holder.member}: ${problem}\n`);
  }
  await rm(file);
  return 1;
}

async function create(file: string): Promise<FileHandle> {
  try {
    // Mail is for nobody else on this machine.
    return await open(file, 'wx', 0o600);
  } catch (error) {
    throw new UsageError(
      `--out ${file}: ${reasonOf(error)}; name a file that does not exist yet, in a directory that does`,
    );
  }
}

/** Null: the file is whole. */
async function fetched(cluster: MailSource, holder: Holder, file: string): Promise<string | null> {
  const path = `/v1/messages/${encodeURIComponent(holder.value.facts.id)}/body`;
  const handle = await open(file, 'w');
  const asked = await cluster.download({ name: holder.member }, path, handle.createWriteStream());
  if (asked.kind === 'absent') return 'no longer there';
  if (asked.kind === 'unreachable') return asked.reason;
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex') === holder.value.facts.digest
    ? null
    : 'what it gave is not the message: its SHA-256 is another one';
}
