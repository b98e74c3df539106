/** The PROXY header: what is one, what is none, and what a client may gain by it (nothing, unless a trusted balancer says so). */
import { connect as connectTcp } from 'node:net';
import { connect as connectTls } from 'node:tls';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { networksOf } from '../../common/networks.ts';
import type { Labels, Metrics } from '../../common/platform/metrics.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { MAX_PROXY_HEADER_BYTES, parseProxyHeader } from '../../common/smtp/proxy-header.ts';
import { type EdgeRig, startRig } from '../dialog/edge-rig.ts';
import { until } from '../house/until.ts';
import { testCertificate } from '../rigs/test-certificate.ts';

const v2 = (version: number, family: number, rest: Buffer, length = rest.length): Buffer => {
  const head = Buffer.from('\r\n\r\n\0\r\nQUIT\n\0\0\0\0', 'latin1');
  head[12] = version;
  head[13] = family;
  head.writeUInt16BE(length, 14);
  return Buffer.concat([head, rest]);
};
const v4Addresses = Buffer.from([198, 51, 100, 7, 203, 0, 113, 1, 0x9c, 0xbb, 0, 25]);
const client = { address: '198.51.100.7', port: 40_123 };

describe('a PROXY header', () => {
  it.each([
    ['version 1', Buffer.from('PROXY TCP4 198.51.100.7 203.0.113.1 40123 25\r\n'), client],
    ['IPv6', Buffer.from('PROXY TCP6 2001:db8::7 2001:db8::1 1 25\r\n'), { address: '2001:db8::7', port: 1 }],
    ['unknown to the balancer', Buffer.from('PROXY UNKNOWN\r\n'), null],
    ['unknown, with words', Buffer.from('PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n'), null],
    ['version 2', v2(0x21, 0x11, v4Addresses), client],
    ['with more behind the addresses', v2(0x21, 0x11, Buffer.concat([v4Addresses, Buffer.alloc(99, 7)])), client],
    ['of the balancer itself', v2(0x20, 0x11, v4Addresses), null],
    ['of no family', v2(0x21, 0, Buffer.alloc(0)), null],
  ])('%s: read whole, at any cut', (_what, bytes, expected) => {
    const behind = Buffer.concat([bytes, Buffer.from('EHLO x\r\n')]);
    expect(parseProxyHeader(behind)).toEqual({ kind: 'header', bytes: bytes.length, client: expected });
    for (let cut = 0; cut < bytes.length; cut++)
      expect(parseProxyHeader(bytes.subarray(0, cut)), `${cut}`).toEqual({ kind: 'more' });
  });

  it.each([
    ['a command', 'EHLO client\r\n'],
    ['an unknown family', 'PROXY UDP4 198.51.100.7 203.0.113.1 1 25\r\n'],
    ['an address of the other family', 'PROXY TCP4 2001:db8::7 2001:db8::1 1 25\r\n'],
    ['a host name', 'PROXY TCP4 client.example 203.0.113.1 1 25\r\n'],
    ['a zone', 'PROXY TCP6 fe80::1%eth0 2001:db8::1 1 25\r\n'],
    ['a port that is none', 'PROXY TCP4 198.51.100.7 203.0.113.1 65536 25\r\n'],
    ['too few fields', 'PROXY TCP4 198.51.100.7\r\n'],
    ['two spaces', 'PROXY TCP4  198.51.100.7 203.0.113.1 1 25\r\n'],
    ['a bare line feed', 'PROXY TCP4 198.51.100.7 203.0.113.1 1 25\n\r\n'],
    ['no end within 107 bytes', `PROXY UNKNOWN ${'x'.repeat(93)}`],
    ['an end behind 107 bytes', `PROXY UNKNOWN ${'x'.repeat(92)}\r\n`],
    ['version 3', v2(0x31, 0x11, v4Addresses)],
    ['an unknown command', v2(0x22, 0x11, v4Addresses)],
    ['datagrams', v2(0x21, 0x12, v4Addresses)],
    ['addresses that do not fit', v2(0x21, 0x21, v4Addresses)],
    ['a length nobody needs', v2(0x21, 0x11, Buffer.alloc(0), MAX_PROXY_HEADER_BYTES)],
  ])('refused: %s', (_what, bytes) => expect(parseProxyHeader(Buffer.from(bytes)).kind).toBe('bad'));

  it('of any bytes: an answer, and what is once refused stays refused', () => {
    const start = fc.constantFrom(Buffer.from('PROXY TCP4 '), v2(0x21, 0x11, Buffer.alloc(0), 12), Buffer.alloc(0));
    const bytes = fc.tuple(start, fc.uint8Array({ maxLength: 200 })).map((parts) => Buffer.concat(parts));
    fc.assert(
      fc.property(bytes, fc.nat(220), (all, cut) => {
        const [part, whole] = [parseProxyHeader(all.subarray(0, cut)), parseProxyHeader(all)];
        if (part.kind !== 'more') expect(whole.kind).toBe(part.kind);
        if (whole.kind === 'header') expect(whole.bytes).toBeLessThanOrEqual(all.length);
        if (whole.kind === 'more') expect(all.length).toBeLessThan(MAX_PROXY_HEADER_BYTES);
      }),
      { numRuns: 3_000, seed: 7 },
    );
  });
});

describe('a connection of a load balancer', () => {
  const rigs: EdgeRig[] = [];
  afterEach(async () => {
    for (const { edge } of rigs.splice(0)) await edge.close(false);
  });
  const rejected: (string | undefined)[] = [];
  const metrics: Metrics = {
    ...silentMetrics,
    increment: (name: string, labels?: Labels) => {
      if (name === 'smtp_sessions_rejected_total') rejected.push(labels?.reason as string | undefined);
    },
  };

  it('has its header before TLS from the first byte, in one packet with the handshake or not', async () => {
    const rig = await startRig({
      listener: { tls: 'Implicit' },
      tls: await testCertificate('mx.example.net'),
      proxyFrom: networksOf('proxyFrom', ['127.0.0.1']),
      metrics,
    });
    rigs.push(rig);
    const seen: string[] = [];
    rig.recorder.onConnect = function onConnect(session?: { client: { address: string } }) {
      seen.push(session?.client.address ?? '');
      return null;
    } as typeof rig.recorder.onConnect;
    const raw = connectTcp({ host: '127.0.0.1', port: rig.edge.port });
    raw.write('PROXY TCP4 198.51.100.7 203.0.113.1 40123 465\r\n');
    const socket = connectTls({ socket: raw, rejectUnauthorized: false });
    const greeting = new Promise<string>((resolve) => socket.once('data', (chunk) => resolve(chunk.toString())));
    expect(await greeting).toMatch(/^220 /);
    expect(seen).toEqual(['198.51.100.7']);
    socket.destroy();
    const without = connectTls({ host: '127.0.0.1', port: rig.edge.port, rejectUnauthorized: false });
    without.on('error', () => without.destroy());
    await until('the one without header to be dropped', () => rejected.includes('badProxyHeader'), {
      deadlineMs: 5_000,
    });
    expect(seen).toHaveLength(1);
  });

  it('that ends, resets or waits in its header leaves nothing behind; the edge closes at once', async () => {
    const rig = await startRig({ proxyFrom: networksOf('proxyFrom', ['127.0.0.1']), metrics });
    rigs.push(rig);
    const before = rejected.length;
    const ended = connectTcp({ host: '127.0.0.1', port: rig.edge.port });
    ended.end('PROXY TCP4 ');
    const reset = connectTcp({ host: '127.0.0.1', port: rig.edge.port });
    reset.write('PROXY TCP4 ', () => reset.resetAndDestroy());
    await until('both to be counted', () => rejected.length === before + 2, { deadlineMs: 5_000 });
    const waiting = connectTcp({ host: '127.0.0.1', port: rig.edge.port });
    const closed = new Promise<void>((resolve) => waiting.once('close', () => resolve()));
    waiting.on('error', () => waiting.destroy());
    waiting.resume();
    await new Promise<void>((resolve) => waiting.write('PROXY ', () => resolve()));
    await rig.edge.close(true);
    await closed;
    expect(rig.edge.connections).toBe(0);
  });
});
