/**
 * The Debian programs that nodes run (containerd and what it needs), unpacked into the cache of `test/rigs/packages.ts` and installed
 * nowhere: prints the directory they are in, `/` when they are installed. Exits 3 with what is missing.
 */
import { ensurePackages } from '../rigs/packages.ts';
import { NODE_PACKAGES } from './node-packages.ts';

const found = await ensurePackages(NODE_PACKAGES);
if ('missing' in found) {
  console.error(found.missing);
  process.exitCode = 3;
} else {
  console.log(found.root);
}
