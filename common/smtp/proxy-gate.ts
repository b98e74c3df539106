/**
 * Reads the PROXY header off a connection of a trusted balancer, before TLS and before the greeting. Owns: the socket until the header is
 * there. Promise: what follows the header stays in the socket; calls back once. Fails with what was wrong, leaving the socket to whoever
 * asked; a header that is not there after `DEADLINE_MS` never comes.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../platform/clock.ts';
import { type ProxiedClient, parseProxyHeader } from './proxy-header.ts';

const DEADLINE_MS = 5_000;
const ENDS = ['error', 'end', 'close'] as const;

export type ProxyAnswer =
  | { readonly kind: 'passed'; readonly client: ProxiedClient | null }
  | { readonly kind: 'refused'; readonly problem: string };

export function readProxyHeader(socket: Socket, clock: Clock, done: (answer: ProxyAnswer) => void): void {
  let received: Buffer = Buffer.alloc(0);
  const end = (answer: ProxyAnswer, rest: Buffer = Buffer.alloc(0)): void => {
    timer.cancel();
    socket.off('readable', read);
    for (const event of ENDS) socket.off(event, gone);
    if (rest.length > 0) socket.unshift(rest);
    done(answer);
  };
  const gone = (): void => end({ kind: 'refused', problem: 'gone before its PROXY header' });
  const read = (): void => {
    const chunk = socket.read() as Buffer | null;
    if (chunk === null) return;
    received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
    const found = parseProxyHeader(received);
    if (found.kind === 'more') return;
    if (found.kind === 'bad') return end({ kind: 'refused', problem: found.problem });
    end({ kind: 'passed', client: found.client }, received.subarray(found.bytes));
  };
  const timer = clock.setTimer(DEADLINE_MS, () =>
    end({ kind: 'refused', problem: `no PROXY header within ${DEADLINE_MS / 1000} s` }),
  );
  socket.on('readable', read);
  for (const event of ENDS) socket.on(event, gone);
}
