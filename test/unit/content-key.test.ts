/** The key by which a store knows a client's own retry (transport/core/content-key.ts), and deliveries of one message in turn (transport/runtime/delivery-turns.ts). */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { CopyId, Identity } from '../../common/message.ts';
import { contentKeyOf } from '../../transport/core/content-key.ts';
import type { Route } from '../../transport/core/events.ts';
import type { DeliveryRequest } from '../../transport/runtime/delivery-api.ts';
import { DeliveryTurns } from '../../transport/runtime/delivery-turns.ts';
import { envelopeFor, factsOf } from './core-bench.ts';

const hashId = (text: string): CopyId => createHash('sha256').update(text).digest('hex').slice(0, 26) as CopyId;
const events = [{ event: 'MESSAGE-ID', atMs: 1, source: 'f-0', detail: '<1@far.example>' }] as const;
const first = factsOf('M1', { events });

describe('content key', () => {
  const databases = (hides: boolean): Parameters<typeof contentKeyOf>[2]['databases'] => [
    {
      name: 'db01',
      boundary: 'site/a',
      domains: [],
      addresses: [],
      caseSensitiveLocalParts: false,
      copies: [{ name: 'c1', site: 'a', lmtp: { host: 'h', port: 24 }, replayLagMs: 0 }],
      activeCopy: 'c1',
      activation: 1,
      lossWindowMs: 0,
      hidesClientRetries: hides,
    },
  ];
  const route: Route = { kind: 'mailbox', database: 'db01', copy: 'c1', activation: 1, host: 'h', port: 24 };
  const keyOf = (facts: typeof first, hides = true, where: Route = route): string | null =>
    contentKeyOf(facts, where, { databases: databases(hides) }, hashId);

  test('is the same for a retry and for a resubmission, under every id', () => {
    const key = keyOf(first);
    expect(key).not.toBeNull();
    expect(keyOf({ ...first, id: 'M2' as CopyId, acceptedAtMs: 5 })).toBe(key);
    expect(keyOf({ ...first, id: 'R1' as CopyId, ancestor: first.id, kind: 'resubmission' })).toBe(key);
  });

  test('differs with the sender and with every byte', () => {
    expect(keyOf({ ...first, envelope: envelopeFor(['x@far.example'], 'other@far.example') })).not.toBe(keyOf(first));
    expect(keyOf({ ...first, digest: 'e'.repeat(64) })).not.toBe(keyOf(first));
  });

  test('there is none without a Message-ID, for a report, for a relay, and where both are to be shown', () => {
    expect(keyOf({ ...first, events: [] })).toBeNull();
    expect(keyOf({ ...first, kind: 'dsn' })).toBeNull();
    expect(keyOf(first, true, { kind: 'smartHost', connector: 'out', hosts: [], tls: 'None' })).toBeNull();
    expect(keyOf(first, false)).toBeNull();
  });
});

describe('turns', () => {
  const request = (
    requestId: number,
    deliveryId: string,
    contentKey: string | null,
    to: readonly string[],
  ): DeliveryRequest => ({
    requestId,
    copyId: `C${requestId}` as CopyId,
    deliveryId,
    contentKey,
    epoch: { try: 1, term: 0, owner: 'ME' as Identity },
    mayBeRepeat: false,
    envelope: envelopeFor(to),
    sizeBytes: 1,
    route: { kind: 'mailbox', database: 'db01', copy: 'c1', host: 'h', port: 24 },
    recipients: to.map((address, index) => ({ index, recipient: { address } })),
    mayBegin: () => true,
  });

  test('one message to one recipient at a time, by id and by content; others do not wait; nobody waits in a circle', async () => {
    const turns = new DeliveryTurns();
    const log: string[] = [];
    const gates = new Map<string, () => void>();
    const run = (name: string, one: DeliveryRequest): Promise<void> =>
      turns.run(one, async () => {
        log.push(`begin ${name}`);
        await new Promise<void>((resolve) => gates.set(name, resolve));
        log.push(`end ${name}`);
      });
    const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
    const all = [
      run('a', request(1, 'M1', 'K', ['x@a', 'y@a'])),
      run('b', request(2, 'M1', null, ['Y@a', 'z@a'])),
      run('c', request(3, 'M2', 'K', ['z@a', 'x@a'])),
      run('d', request(4, 'M3', null, ['x@a'])),
    ];
    await settled();
    expect(log).toEqual(['begin a', 'begin d']);
    gates.get('a')?.();
    await settled();
    expect(log).toEqual(['begin a', 'begin d', 'end a', 'begin b', 'begin c']);
    for (const open of gates.values()) open();
    await Promise.all(all);
    expect(log).toHaveLength(8);
  });

  test('one that fails does not hold up the next', async () => {
    const turns = new DeliveryTurns();
    const bad = turns.run(request(1, 'M1', null, ['x@a']), () => Promise.reject(new Error('no')));
    const good = turns.run(request(2, 'M1', null, ['x@a']), async () => 'yes');
    await expect(bad).rejects.toThrow('no');
    await expect(good).resolves.toBe('yes');
  });
});
