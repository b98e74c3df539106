/**
 * Plain HTTP for scrapers and probes: `/metrics`, `/livez`, `/readyz`. Owns: one listening socket. Promise: answers GET and HEAD only,
 * changes nothing, keeps no session. `/livez` is 200 as long as the event loop turns; `/readyz` says what `readiness` says.
 * Fails: rejects at start when the port cannot be had; a failing rendering is a 500 with the reason and ends nothing.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { ExportedMetrics } from './prom-metrics.ts';

export type Readiness = { readonly ready: true } | { readonly ready: false; readonly reason: string };

export interface MetricsServer {
  readonly port: number;
  close(): Promise<void>;
}

const PLAIN = 'text/plain; charset=utf-8';

function answer(response: ServerResponse, status: number, contentType: string, body: string): void {
  response.writeHead(status, {
    'content-type': contentType,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
  });
  response.end(body);
}

async function route(
  request: IncomingMessage,
  response: ServerResponse,
  metrics: Pick<ExportedMetrics, 'contentType' | 'render'>,
  readiness: () => Readiness,
): Promise<void> {
  if (request.method !== 'GET' && request.method !== 'HEAD') return answer(response, 405, PLAIN, 'GET or HEAD only\n');
  const path = (request.url ?? '/').split('?', 1)[0];
  if (path === '/livez') return answer(response, 200, PLAIN, 'ok\n');
  if (path === '/readyz') {
    const state = readiness();
    return state.ready ? answer(response, 200, PLAIN, 'ok\n') : answer(response, 503, PLAIN, `${state.reason}\n`);
  }
  if (path === '/metrics') return answer(response, 200, metrics.contentType, await metrics.render());
  answer(response, 404, PLAIN, 'try /metrics, /livez or /readyz\n');
}

export async function startMetricsServer(
  address: { readonly host: string; readonly port: number },
  metrics: Pick<ExportedMetrics, 'contentType' | 'render'>,
  readiness: () => Readiness,
): Promise<MetricsServer> {
  const server = createServer({ keepAliveTimeout: 30_000 }, (request, response) => {
    route(request, response, metrics, readiness).catch((error: unknown) => {
      if (response.headersSent) response.destroy();
      else answer(response, 500, PLAIN, `${error instanceof Error ? error.message : String(error)}\n`);
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(address.port, address.host, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
