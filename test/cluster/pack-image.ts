/**
 * Packs directories into an OCI image archive that `ctr images import` reads:
 *   node pack-image.ts OUT.tar REF [--user U] [--env K=V]... [--workdir D] [--entrypoint A]... LAYER_DIRECTORY...
 * One uncompressed layer per directory, later ones on top. Same input, same bytes: entries are sorted, owned by root and dated at the
 * epoch, so a layer that two images share has one digest and is stored once. OUT.tar appears whole or not at all.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    user: { type: 'string', default: '65532:65532' },
    env: { type: 'string', multiple: true, default: [] },
    workdir: { type: 'string', default: '/' },
    entrypoint: { type: 'string', multiple: true, default: [] },
  },
});
const [out, reference, ...layerDirectories] = positionals;
if (out === undefined || reference === undefined || layerDirectories.length === 0) {
  throw new Error('usage: pack-image.ts OUT.tar REF [options] LAYER_DIRECTORY...');
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

const work = mkdtempSync(join(dirname(out), '.image-'));
const blobs = join(work, 'blobs/sha256');
mkdirSync(blobs, { recursive: true });

/** Files the content under its digest. */
function blob(mediaType: string, bytes: Buffer): Descriptor {
  const hex = createHash('sha256').update(bytes).digest('hex');
  writeFileSync(join(blobs, hex), bytes);
  return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
}

const json = (mediaType: string, value: unknown): Descriptor => blob(mediaType, Buffer.from(JSON.stringify(value)));
const tar = (...args: readonly string[]): Buffer => execFileSync('tar', args, { stdio: ['ignore', 'pipe', 'inherit'] });

try {
  const layers = layerDirectories.map((directory) => {
    const file = join(work, 'layer');
    tar('--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '-C', directory, '-cf', file, '.');
    const layer = blob('application/vnd.oci.image.layer.v1.tar', readFileSync(file));
    rmSync(file);
    return layer;
  });
  const config = json('application/vnd.oci.image.config.v1+json', {
    architecture: ARCHITECTURES[process.arch],
    os: 'linux',
    config: {
      User: values.user,
      Env: ['PATH=/usr/local/bin:/usr/bin:/bin', ...values.env],
      WorkingDir: values.workdir,
      Entrypoint: values.entrypoint,
    },
    rootfs: { type: 'layers', diff_ids: layers.map(({ digest }) => digest) },
  });
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = json(mediaType, { schemaVersion: 2, mediaType, config, layers });
  const named = { ...manifest, annotations: { 'io.containerd.image.name': reference } };
  writeFileSync(join(work, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(join(work, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [named] }));
  rmSync(`${out}.part`, { force: true });
  tar('-C', work, '-cf', `${out}.part`, 'oci-layout', 'index.json', 'blobs');
  renameSync(`${out}.part`, out);
  console.log(`${reference} ${manifest.digest}`);
} finally {
  rmSync(work, { recursive: true });
}
