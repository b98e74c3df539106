/**
 * Packs directories into an OCI archive, for the images that only the test cluster has (test/cluster/images.sh):
 *   node image/pack.ts OUT.tar REF [--user U] [--env K=V]... [--workdir D] [--entrypoint A]... LAYER_DIRECTORY...
 * One uncompressed layer per directory, later ones on top. OUT.tar appears whole or not at all.
 */
import { renameSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { entriesOf } from './entries.ts';
import { archive, layer } from './oci.ts';
import { hostArchitecture } from './runtime.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    user: { type: 'string', default: '65532:65532' },
    env: { type: 'string', multiple: true, default: [] },
    workdir: { type: 'string', default: '/' },
    entrypoint: { type: 'string', multiple: true, default: [] },
  },
});
const [out, reference, ...directories] = positionals;
if (out === undefined || reference === undefined || directories.length === 0) {
  throw new Error('usage: image/pack.ts OUT.tar REF [options] LAYER_DIRECTORY...');
}
const { digest, bytes } = archive({
  architecture: hostArchitecture(),
  reference,
  layers: directories.map((directory) => layer(entriesOf(directory), { compress: false })),
  config: {
    User: values.user,
    Env: ['PATH=/usr/local/bin:/usr/bin:/bin', ...values.env],
    WorkingDir: values.workdir,
    Entrypoint: values.entrypoint,
  },
});
writeFileSync(`${out}.part`, bytes);
renameSync(`${out}.part`, out);
console.log(`${reference} ${digest}`);
