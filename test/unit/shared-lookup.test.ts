/** Names of hosts that many connections are made to: one question at a time, whatever comes of it. */
import type { LookupAddress } from 'node:dns';
import { expect, test } from 'vitest';
import { type AskAddresses, SharedLookup } from '../../common/platform/shared-lookup.ts';
import { Scheduler } from '../sim/scheduler.ts';

type Told = Parameters<AskAddresses>[1];
const V4: LookupAddress = { address: '192.0.2.1', family: 4 };
const V6: LookupAddress = { address: '2001:db8::1', family: 6 };

function seat() {
  const scheduler = new Scheduler(1);
  const asked: Told[] = [];
  const shared = new SharedLookup(scheduler.clock(), (_name, told) => asked.push(told));
  const find = (options: { all?: boolean; family?: number } = {}): Promise<unknown> =>
    new Promise((resolve) =>
      shared.lookup('filter.example', options as { all: false }, (error, address) =>
        resolve(error === null ? address : error.code),
      ),
    );
  return { scheduler, asked, find };
}

test('a thousand at once are one question, each is told what it wants to know', async () => {
  const { asked, find } = seat();
  const all = Array.from({ length: 1_000 }, (_, at) => find(at === 0 ? { all: true } : at === 1 ? { family: 6 } : {}));
  expect(asked).toHaveLength(1);
  asked[0]?.(null, [V4, V6]);
  const [first, second, ...others] = await Promise.all(all);
  expect(first).toEqual([V4, V6]);
  expect(second).toBe(V6.address);
  expect(new Set(others)).toEqual(new Set([V4.address]));
  expect(await find()).toBe(V4.address);
  expect(asked).toHaveLength(1);
});

test('asked again after half a minute; what was found is used while nothing newer can be learnt', async () => {
  const { scheduler, asked, find } = seat();
  const failed = find();
  asked[0]?.(Object.assign(new Error('no'), { code: 'EAI_AGAIN' }), []);
  expect(await failed).toBe('EAI_AGAIN');
  const found = find();
  asked[1]?.(null, [V4]);
  expect(await found).toBe(V4.address);
  scheduler.schedule(30_001, () => undefined);
  await scheduler.run(() => false, scheduler.nowMs + 30_001);
  const stale = find();
  expect(asked).toHaveLength(3);
  asked[2]?.(Object.assign(new Error('no'), { code: 'EAI_AGAIN' }), []);
  expect(await stale).toBe(V4.address);
});
