/** The contract of the ledger: in memory, and over a real Redis between two transports. */
import { describe, expect, test } from 'vitest';
import { MemoryLedger } from '../../transport/runtime/ledger.ts';
import { RealRedis } from '../rigs/redis.ts';
import { ledgerContract } from './ledger.ts';
import { ask, entry, LedgerCluster } from './ledger-rig.ts';

ledgerContract('memory', async () => {
  const ledger = new MemoryLedger('transport-0');
  return { writer: ledger, reader: ledger, writerName: 'transport-0', dispose: () => ledger.close() };
});

ledgerContract('redis-server', async () => {
  const redis = await RealRedis.start();
  if ('missing' in redis) return redis.missing;
  const cluster = await LedgerCluster.create();
  return {
    writer: await cluster.connected('transport-0', redis.port),
    reader: await cluster.connected('transport-1', redis.port),
    writerName: 'transport-0',
    dispose: async () => {
      await cluster.close();
      await redis[Symbol.asyncDispose]();
    },
  };
});

describe('the memory of a transport', () => {
  test('is bounded; what was relayed last stays', async () => {
    const ledger = new MemoryLedger('t', 100);
    ledger.record(Array.from({ length: 250 }, (_, at) => entry(`C${at}`)));
    ledger.record([entry('C150')]);
    ledger.record([entry('D')]);
    expect(await ask(ledger, 'C149')).toBe('absent');
    expect(await ask(ledger, 'C151')).toBe('absent');
    expect([await ask(ledger, 'C152'), await ask(ledger, 'C150'), await ask(ledger, 'D')]).toEqual([
      'relayed',
      'relayed',
      'relayed',
    ]);
  });
});
