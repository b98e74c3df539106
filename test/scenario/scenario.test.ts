/** Runs every `*.txt` of this folder as one scenario (script.ts); a failing one prints its whole trace. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Script } from './script.ts';

const files = readdirSync(import.meta.dirname)
  .filter((name) => name.endsWith('.txt'))
  .sort();

describe('scenarios', () => {
  it('are there', () => expect(files.length).toBeGreaterThanOrEqual(8));
  it.each(files)('%s', async (name) => {
    const script = new Script();
    try {
      await script.run(readFileSync(join(import.meta.dirname, name), 'utf8'));
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${script.lines.join('\n')}`);
    }
  });

  it('an expectation that is not met fails', async () => {
    const text = 'cluster sites=1+1\nsend m f-0 alpha-1@sim.example 1000\nexpect m answered 451\n';
    await expect(new Script().run(text)).rejects.toThrow('line 3: expect m answered 451: found 250, wanted 451');
  });
});
