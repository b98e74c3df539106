/**
 * An image in an OCI layout, as one tar (OCI image specification 1.1): what `ctr images import`, `docker load` and `skopeo copy oci-archive:` read.
 * Owns: layers, configuration, manifest, index and their digests. Promise: no time, no owner and no order of the machine is in it, so the same
 * content is the same digest, and a layer that two images share is stored once. PURE.
 */
import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { type ArchiveEntry, tar } from '../../common/tar.ts';

export interface Layer {
  /** Of the bytes as they are stored, and before compression. */
  readonly digest: string;
  readonly diffId: string;
  readonly bytes: Buffer;
  readonly mediaType: string;
}

/** What a container starts with; the names are those of the specification. */
export interface ImageConfig {
  readonly User: string;
  readonly Env: readonly string[];
  readonly WorkingDir: string;
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly Labels?: Readonly<Record<string, string>>;
}

export interface Image {
  readonly architecture: 'amd64' | 'arm64';
  readonly layers: readonly Layer[];
  readonly config: ImageConfig;
  /** Under which name nodes have it after an import. */
  readonly reference: string;
}

interface Blob {
  readonly digest: string;
  readonly bytes: Buffer;
  readonly mediaType: string;
}

const ARCHITECTURES: Readonly<Record<string, Image['architecture']>> = { x64: 'amd64', arm64: 'arm64' };
const EPOCH_MS = 0;
const COMPRESSION_LEVEL = 6;

const digestOf = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

const json = (mediaType: string, value: unknown): Blob => {
  const bytes = Buffer.from(JSON.stringify(value));
  return { digest: digestOf(bytes), bytes, mediaType };
};

const descriptor = ({ mediaType, digest, bytes }: Blob): object => ({ mediaType, digest, size: bytes.length });

/** As `process.arch` has it; null: none we make images for. */
export const architectureOf = (arch: string): Image['architecture'] | null => ARCHITECTURES[arch] ?? null;

const byName = (a: ArchiveEntry, b: ArchiveEntry): number => (a.name < b.name ? -1 : 1);

export function layer(entries: readonly ArchiveEntry[], { compress }: { readonly compress: boolean }): Layer {
  const plain = tar(entries.toSorted(byName), EPOCH_MS);
  const bytes = compress ? gzipSync(plain, { level: COMPRESSION_LEVEL }) : plain;
  const mediaType = `application/vnd.oci.image.layer.v1.tar${compress ? '+gzip' : ''}`;
  return { diffId: digestOf(plain), digest: digestOf(bytes), bytes, mediaType };
}

export interface Archive {
  /** Of the manifest: what the image is known by. */
  readonly digest: string;
  readonly bytes: Buffer;
  /** Of all layers as they are stored. */
  readonly layerBytes: number;
}

export function archive({ architecture, layers, config, reference }: Image): Archive {
  const configBlob = json('application/vnd.oci.image.config.v1+json', {
    architecture,
    os: 'linux',
    config,
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    history: layers.map(() => ({ created_by: 'image/' })),
  });
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = json(mediaType, {
    schemaVersion: 2,
    mediaType,
    config: descriptor(configBlob),
    layers: layers.map(descriptor),
  });
  const index = {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.index.v1+json',
    manifests: [
      {
        ...descriptor(manifest),
        platform: { architecture, os: 'linux' },
        annotations: {
          'io.containerd.image.name': reference,
          'org.opencontainers.image.ref.name': reference.slice(reference.lastIndexOf(':') + 1),
        },
      },
    ],
  };
  const blobs = new Map([...layers, configBlob, manifest].map((blob) => [blob.digest.slice('sha256:'.length), blob]));
  const file = (name: string, content: string | Buffer): ArchiveEntry => ({ name, content, mode: 0o644 });
  const bytes = tar(
    [
      file('oci-layout', '{"imageLayoutVersion":"1.0.0"}'),
      file('index.json', JSON.stringify(index)),
      ...[...blobs].sort(([a], [b]) => (a < b ? -1 : 1)).map(([hex, blob]) => file(`blobs/sha256/${hex}`, blob.bytes)),
    ],
    EPOCH_MS,
  );
  return { digest: manifest.digest, bytes, layerBytes: layers.reduce((sum, one) => sum + one.bytes.length, 0) };
}
