/**
 * One policy of MTA-STS over HTTPS (RFC 8461 3.3). Owns: the request. Promise: the certificate is proven for the name, no redirect is followed, no more than
 * 64 KiB are read, and it ends within a bound; it goes to the address that was judged, not to where a second look at DNS says. Fails: a value with the reason.
 */
import { request } from 'node:https';
import type { Clock } from './clock.ts';

export interface PolicySource {
  readonly address: string;
  readonly port: number;
  /** `mta-sts.` and the domain: in the certificate and in `Host`. */
  readonly host: string;
  /** PEM; the system's authorities when absent. */
  readonly ca?: string;
}

export type Fetched = { readonly text: string } | { readonly problem: string };

const MOST_BYTES = 64 << 10;

export function fetchPolicy(source: PolicySource, timeoutMs: number, clock: Clock): Promise<Fetched> {
  const { promise, resolve } = Promise.withResolvers<Fetched>();
  const { address, port, host, ca } = source;
  const asked = request({
    ...{ host: address, port, servername: host, method: 'GET', path: '/.well-known/mta-sts.txt' },
    ...{ headers: { host, accept: 'text/plain' }, agent: false, minVersion: 'TLSv1.2' },
    ...(ca === undefined ? {} : { ca }),
  });
  const settle = (answer: Fetched): void => {
    timer.cancel();
    resolve(answer);
    asked.destroy();
  };
  const timer = clock.setTimer(timeoutMs, () => settle({ problem: `no answer in ${timeoutMs / 1000} s` }));
  asked.on('error', (error) => settle({ problem: error.message }));
  asked.on('response', (response) => {
    const type = response.headers['content-type'] ?? '';
    if (response.statusCode !== 200) return settle({ problem: `HTTP status ${response.statusCode}` });
    if (!/^text\/plain\s*(;|$)/i.test(type)) return settle({ problem: 'it is not text/plain' });
    const chunks: Buffer[] = [];
    let bytes = 0;
    response.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes > MOST_BYTES) settle({ problem: 'it is longer than 64 KiB' });
    });
    response.on('end', () => settle({ text: Buffer.concat(chunks).toString('utf8') }));
    response.on('error', (error) => settle({ problem: error.message }));
  });
  asked.end();
  return promise;
}
