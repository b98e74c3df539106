/**
 * The admin API of a transport of a former version, as far as `trace` asks it: of several ids in one question it answers the first, and it says nothing of what it does not have.
 * Owns: one listening socket; `close` ends it. The questions that it got are in `ids`.
 */
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { TrackingSearch } from '../../transport/runtime/tracking.ts';

interface Pems {
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
}

interface Life {
  /** Gets what it was asked for. */
  readonly ids: string[];
  /** Afterwards it hangs up. */
  readonly answers: number;
}

export async function startFormerAdmin({ ca, certificate: cert, key }: Pems, tracking: TrackingSearch, life: Life) {
  const server = createServer({ ca, cert, key, requestCert: true, rejectUnauthorized: true }, (request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'https://admin');
    const id = searchParams.get('id');
    const answer = async () => {
      const isTrace = pathname === '/v1/trace' && id !== null;
      if (isTrace && life.ids.push(id) > life.answers) return void response.destroy();
      response.writeHead(isTrace ? 200 : 404, { 'content-type': 'application/json' });
      const error = { code: 'NO_SUCH_PATH', message: `nothing at ${pathname}` };
      response.end(JSON.stringify(isTrace ? { records: await tracking.search([id]) } : { error }));
    };
    answer().catch((error: unknown) => response.destroy(error instanceof Error ? error : undefined));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: async () =>
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
