/**
 * What the id of the 250 reply steers once a message has crossed to another boundary under another id (semantics.md D3): over real admin APIs, and the orders as
 * files. No runner answers them here; `test/process/boundaries.test.ts` has one.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import { messageCommand } from '../../operator/cli/messages.ts';
import { AdminWorld, CONTENTS, detail, ID, type MemberContents, summary } from './admin-world.ts';
import { type Result, run } from './cli-run.ts';

const FAR = '01JFAR00000000000000000000' as CopyId;
const NOBODY = '01JN0B0DY00000000000000000' as CopyId;

const worlds: AdminWorld[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

async function open(contents: Partial<Record<'a' | 'b', MemberContents>> = {}): Promise<AdminWorld> {
  const world = await AdminWorld.open();
  worlds.push(world);
  await world.cluster({ ...CONTENTS, ...contents });
  return world;
}

const message = (world: AdminWorld, ...args: readonly string[]): Promise<Result> => run(messageCommand, world, ...args);

/** Orders by the message that they are about. */
async function orders(world: AdminWorld): Promise<Readonly<Record<string, object>>> {
  const names = (await readdir(world.directory)).includes('orders')
    ? await readdir(join(world.directory, 'orders'))
    : [];
  const read = names
    .filter((name) => name.endsWith('.json'))
    .map(async (name) => JSON.parse(await readFile(join(world.directory, 'orders', name), 'utf8')));
  return Object.fromEntries((await Promise.all(read)).map((order) => [order.message, order]));
}

/** Delivered where it was accepted, in transit where it crossed to; something was resubmitted of it as well. */
const crossed = (): Partial<Record<'a' | 'b', MemberContents>> => {
  const { facts, state } = detail('delivery');
  const far = { facts: { ...facts, id: FAR }, state };
  const messages = [
    { ...summary('delivery', FAR), crossedFrom: ID },
    summary('delivery', '01JOTHER000000000000000000' as CopyId),
  ];
  return {
    a: { ...CONTENTS.a, messages: [], details: new Map() },
    b: { ...CONTENTS.b, messages, details: new Map([[FAR, far]]), known: [{ id: FAR, where: 'transit' }] },
  };
};

test.each([
  ['suspend', [], { action: 'suspend' }],
  ['resume', [], { action: 'resume' }],
  ['remove', ['--with-ndr'], { action: 'removeWithNdr' }],
  ['redirect', ['--to', 'a'], { action: 'redirect', from: 'b', to: 'a' }],
] as const)('%s of a message that crossed is ordered for the id that it has there', async (what, words, order) => {
  const world = await open(crossed());
  expect((await message(world, what, ID, ...words)).code).toBe(1);
  expect(await orders(world)).toEqual({ [FAR]: expect.objectContaining({ kind: 'message', message: FAR, ...order }) });
});

test('in both boundaries at once: one order each, and none needs --yes', async () => {
  const far = { ...summary('delivery', FAR), crossedFrom: ID };
  for (const words of [['suspend'], ['remove']] as const) {
    const world = await open({ b: { ...CONTENTS.b, messages: [far] } });
    await message(world, words[0], ID);
    expect(Object.keys(await orders(world)).sort()).toEqual([ID, FAR].sort());
  }
});

test.each(['suspend', 'resume', 'remove'])('%s of an id that nobody has orders nothing, and says so', async (what) => {
  const world = await open();
  const said = await message(world, what, NOBODY);
  expect(said).toMatchObject({ code: 1, out: '', err: expect.stringContaining('no order was given') });
  expect(await orders(world)).toEqual({});
  // Who did not answer may have it: the order waits for it, and nobody is told that it was done.
  await world.stopAdmin('b');
  const away = await message(world, what, NOBODY);
  expect(away).toMatchObject({ code: 1, err: expect.stringContaining('b is unreachable') });
  expect(Object.keys(await orders(world))).toEqual([NOBODY]);
});

test('show and export find it under its other id', async () => {
  const world = await open(crossed());
  const shown = await message(world, 'show', ID);
  expect(shown).toMatchObject({ code: 0, err: '' });
  expect(shown.out).toContain(`Copy on b: delivery\n  id         ${FAR}, as which it crossed to this boundary\n`);
  await message(world, 'export', ID, '--out', join(world.directory, 'one.eml'));
  expect(world.asked).toContainEqual({ what: 'body', arguments: [FAR] });
  expect((await message(world, 'show', NOBODY)).code).toBe(1);
});
