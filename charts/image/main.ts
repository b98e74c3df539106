/**
 * `make image`: the image of MailCluster as an OCI archive, without a daemon, a registry or a network. Owns: which layers it has, and that the archive
 * appears whole or not at all. `--tree DIR` writes what the Dockerfile puts on a base instead: everything but Node and its libraries.
 *   node charts/image/main.ts [--out FILE] [--reference NAME:TAG]
 *   node charts/image/main.ts --tree DIR
 */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { VERSION } from '../../common/platform/build-info.ts';
import { IMAGE_CONFIG, packageEntries, programEntries, systemEntries } from './contents.ts';
import { complete, written } from './entries.ts';
import { archive, layer } from './oci.ts';
import { hostArchitecture, runtimeEntries } from './runtime.ts';

const ROOT = join(import.meta.dirname, '../..');
const OUT = join(ROOT, '.state/image', `mailcluster-${VERSION}.tar`);

const { values } = parseArgs({
  options: {
    out: { type: 'string', default: OUT },
    reference: { type: 'string', default: `localhost/mailcluster:${VERSION}` },
    tree: { type: 'string' },
  },
});

const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

function image(out: string, reference: string): void {
  const compress = true;
  const architecture = hostArchitecture();
  const layers = [
    layer(complete([...systemEntries(), ...runtimeEntries()]), { compress }),
    layer(complete(packageEntries()), { compress }),
    layer(complete(programEntries()), { compress }),
  ];
  const { digest, bytes, layerBytes } = archive({ architecture, layers, config: IMAGE_CONFIG, reference });
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(`${out}.part`, bytes);
  renameSync(`${out}.part`, out);
  const sizes = layers.map((one) => mebibytes(one.bytes.length)).join(', ');
  console.log(`${reference} linux/${architecture} ${digest}`);
  console.log(`${relative('', out)}: ${mebibytes(layerBytes)} compressed (Node, packages, programs: ${sizes})`);
}

try {
  if (values.tree === undefined) image(values.out, values.reference);
  else written([...systemEntries(), ...packageEntries(), ...programEntries()], values.tree);
} catch (error) {
  console.error(`image: ${(error as Error).message}`);
  process.exitCode = 1;
}
