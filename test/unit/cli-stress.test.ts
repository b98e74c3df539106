/** What a person types in a hurry, and what it must not do: hand over, remove or submit again more than was said. */
import { readdir } from 'node:fs/promises';
import { afterEach, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import type { Command } from '../../operator/cli/command.ts';
import { messageCommand } from '../../operator/cli/messages.ts';
import { json } from '../../operator/cli/output.ts';
import { queueCommand } from '../../operator/cli/queues.ts';
import { AdminWorld, CONTENTS, detail, ID, summary } from './admin-world.ts';
import { run } from './cli-run.ts';

const worlds: AdminWorld[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

const id = (n: number): CopyId => `01J${String(n).padStart(23, '0')}` as CopyId;

/** `a` has two messages in transit, of which `b` has the shadow of the first; a third is only here. */
async function open(): Promise<AdminWorld> {
  const world = await AdminWorld.open();
  worlds.push(world);
  const waiting = [1, 2].map((n) => summary('delivery', id(n)));
  await world.cluster({
    a: { ...CONTENTS.a, messages: waiting },
    b: { ...CONTENTS.b, messages: [summary('shadow', id(1))] },
  });
  return world;
}

const orders = async (world: AdminWorld): Promise<readonly string[]> => {
  const names = await readdir(world.directory);
  return names.includes('orders') ? await readdir(`${world.directory}/orders`) : [];
};

test.each<[string, Command, readonly string[], RegExp]>([
  ['a queue without a name is not every queue', queueCommand, ['redirect', '', '--to', 'b'], /"queue list" names it/],
  [
    'an option that is given twice says two things',
    messageCommand,
    ['remove', '--error', 'timeout', '--error', 'refused', '--yes'],
    /--error: is given twice/,
  ],
  [
    'the second time spelt another way',
    messageCommand,
    ['remove', '--domain=a.example', '--domain', 'contoso.com', '--yes'],
    /--domain: is given twice/,
  ],
  [
    'who is meant twice',
    queueCommand,
    ['redirect', 'db01/sea', '--from', 'a', '--from', 'b', '--to', 'b'],
    /--from: is given twice/,
  ],
  [
    'a shadow goes with its message only',
    messageCommand,
    ['remove', '--queue', 'shadow', '--yes'],
    /--queue: a shadow is a copy of a message/,
  ],
])('%s', async (_, command, args, said) => {
  const world = await open();
  expect(await run(command, world, ...args)).toMatchObject({
    code: 'USAGE',
    out: '',
    err: expect.stringMatching(said),
  });
  expect(await orders(world)).toEqual([]);
});

test('what came from mail does not steer a terminal in JSON either, and is the same for a program', () => {
  const value = { subject: 'a\u009b2J\u202eb\u2066c\u007f', 'k\u0085': ['\u001b[2J', 'ä'] };
  const text = json(value);
  expect(text).toMatch(/^[\n\u0020-\u007eä]*$/);
  expect(JSON.parse(text)).toEqual(value);
});

test('message show: an address that turns the writing round does not', async () => {
  const world = await AdminWorld.open();
  worlds.push(world);
  const known = detail('delivery');
  const envelope = { ...known.facts.envelope, reversePath: 'a\u202eb\u2066@example.org' };
  const details = new Map([[ID, { ...known, facts: { ...known.facts, envelope } }]]);
  await world.cluster({ ...CONTENTS, a: { ...CONTENTS.a, details } });
  const { out } = await run(messageCommand, world, 'show', ID);
  expect(out).toContain('from       <a?b?@example.org>\n');
});
