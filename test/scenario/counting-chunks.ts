/** A network that counts the CHUNK frames its owner writes, as they were cut: the network makes other pieces of them. */
import { encodeChunkHeader } from '../../common/peer/frames.ts';
import type { Network } from '../../common/platform/net.ts';

export function countingChunks(network: Network, sent: { chunks: number }): Network {
  return {
    listen: (address, onConnection) => network.listen(address, onConnection),
    connect: async (address, expected, timeoutMs) => {
      const connection = await network.connect(address, expected, timeoutMs);
      const write = connection.write.bind(connection);
      connection.write = (buffers) => {
        sent.chunks += buffers.filter((buffer) => isChunkHeader(buffer)).length;
        return write(buffers);
      };
      return connection;
    },
  };
}

/** Its payload follows as a buffer of its own. */
const isChunkHeader = (buffer: Uint8Array): boolean =>
  buffer.length === CHUNK_HEADER.length && buffer[4] === CHUNK_HEADER[4];
const CHUNK_HEADER = encodeChunkHeader(1, 1);
