/** How a program of ours finds its configuration: one argument, a JSON file. `--help` on stdout and exit 0; anything wrong in one line on stderr and exit 2. */
import process from 'node:process';
import { describeError } from './lifecycle.ts';

export async function configFromArguments<T>(program: string, read: (file: string) => Promise<T>): Promise<T> {
  const usage = `usage: node ${program} CONFIG`;
  const [file, more] = process.argv.slice(2);
  if (file === '--help') {
    process.stdout.write(`${usage}\n`);
    process.exit(0);
  }
  try {
    if (file === undefined || file.startsWith('-') || more !== undefined) throw new Error(usage);
    return await read(file);
  } catch (error) {
    process.stderr.write(`${describeError(error)}\n`);
    process.exit(2);
  }
}
