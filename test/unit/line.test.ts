/** Who waits for a turn (transport/core/line.ts). */
import { expect, test } from 'vitest';
import { Line } from '../../transport/core/line.ts';

const drained = (line: Line<string>): string[] => {
  const taken: string[] = [];
  for (let next = line.take(); next !== undefined; next = line.take()) taken.push(next);
  return taken;
};

test('Line: in order, each once, also who comes while it is taken from or after it was empty', () => {
  const line = new Line<string>();
  expect(line.take()).toBeUndefined();
  for (const name of ['a', 'b', 'c', 'b']) line.add(name);
  expect(line.size).toBe(3);
  expect(line.take()).toBe('a');
  line.add('a');
  line.add('d');
  line.delete('c');
  expect([...line]).toEqual(['b', 'a', 'd']);
  expect(drained(line)).toEqual(['b', 'a', 'd']);
  line.add('a');
  expect(drained(line)).toEqual(['a']);
  expect(line.size).toBe(0);
});

test('Line: who gave up its turn and asked again stands at the end', () => {
  const line = new Line<string>();
  for (const name of ['a', 'b', 'c']) line.add(name);
  line.delete('a');
  line.add('a');
  expect(drained(line)).toEqual(['b', 'c', 'a']);
});
