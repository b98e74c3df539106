/**
 * Loaded before a program of ours that plays a pod (`node --import`): what a machine of Kubernetes would be to it at the ports network and disk. Names of the
 * cluster (`*.svc.*`) resolve by the file POD_HOSTS, as cluster DNS would answer; every other name as ever. POD_DISK names a file with the
 * number of bytes that are free on its volume; while it is not there the real file system answers. The program itself is the real one.
 */
import dns from 'node:dns';
import { readFileSync } from 'node:fs';
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

type Answer = (error: Error | null, address?: unknown, family?: number) => void;

function textOf(file: string | undefined): string | null {
  try {
    return file === undefined ? null : readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

const realLookup = dns.lookup as unknown as (name: string, options: unknown, answer?: Answer) => void;

function lookup(name: string, options: unknown, answer?: Answer): void {
  if (!/\.svc(\.|$)/.test(name)) return realLookup(name, options, answer);
  const reply = (typeof options === 'function' ? options : answer) as Answer;
  const address = (JSON.parse(textOf(process.env.POD_HOSTS) ?? '{}') as Record<string, string>)[name];
  process.nextTick(() => {
    if (address === undefined) {
      reply(Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), { code: 'ENOTFOUND', hostname: name }));
    } else if ((options as { readonly all?: boolean }).all === true) reply(null, [{ address, family: 4 }]);
    else reply(null, address, 4);
  });
}

const realStatfs = fs.statfs as (path: string) => Promise<{ bavail: number; bsize: number }>;

async function statfs(path: string): Promise<unknown> {
  const [real, free] = [await realStatfs(path), textOf(process.env.POD_DISK)];
  return free === null ? real : Object.assign(real, { bavail: Math.floor(Number(free) / real.bsize) });
}

Object.assign(dns, { lookup });
Object.assign(fs, { statfs });
syncBuiltinESMExports();
