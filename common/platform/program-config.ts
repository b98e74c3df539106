/**
 * How a program of ours finds its configuration: one argument, a JSON file; with `--pod` before it, one that a whole set of pods shares
 * (common/pod-config.ts). `--help` on stdout and exit 0; anything wrong in one line on stderr and exit 2.
 */
import { readFile } from 'node:fs/promises';
import process from 'node:process';
import { podConfig, redisUrlFile } from '../pod-config.ts';
import { describeError } from './lifecycle.ts';

async function prepareForPod(value: unknown): Promise<unknown> {
  const say = (problem: string): void => void process.stderr.write(`${problem}\n`);
  const file = redisUrlFile(value);
  // A Secret that is not there yet is said by podConfig.
  const url = file === null ? null : await readFile(file, 'utf8').catch(() => null);
  return podConfig(value, process.env, url, say);
}

export async function configFromArguments<T>(
  program: string,
  read: (file: string, prepare?: (value: unknown) => Promise<unknown>) => Promise<T>,
): Promise<T> {
  const usage = `usage: node ${program} [--pod] CONFIG`;
  const isPod = process.argv[2] === '--pod';
  const [file, more] = process.argv.slice(isPod ? 3 : 2);
  if (file === '--help') {
    process.stdout.write(`${usage}\n`);
    process.exit(0);
  }
  try {
    if (file === undefined || file.startsWith('-') || more !== undefined) throw new Error(usage);
    return await (isPod ? read(file, prepareForPod) : read(file));
  } catch (error) {
    process.stderr.write(`${describeError(error)}\n`);
    process.exit(2);
  }
}
