/** Messages that end the process (transport/core/poison.ts), the mark that finds them (transport/runtime/risk-marks.ts, common/platform/mark-file.ts). */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import { openMarkFile } from '../../common/platform/mark-file.ts';
import { lostMessages } from '../../transport/core/damage.ts';
import type { Marked } from '../../transport/core/poison.ts';
import { markedBy, readMark } from '../../transport/runtime/risk-marks.ts';
import { A, B, CoreBench, copyId, epochOf, factsOf, PEER, sharedOf, stateOf, WALL_MS } from './core-bench.ts';

const ROOT = join(import.meta.dirname, '../..');
const ID = (n: number): CopyId => `01J${String(n).padStart(23, '0')}` as CopyId;

/** Dies, as the process would, when `deadly` is marked. */
class Deadly extends Error {}
function deadly(ids: readonly string[], isMended: () => boolean) {
  let text: string | null = null;
  const life = (): { readonly marked: Marked } & Pick<ReturnType<typeof markedBy>, 'marks'> =>
    markedBy({
      found: text,
      write: (next) => {
        text = next;
        if (!isMended() && ids.some((id) => next.includes(id))) throw new Deadly();
      },
    });
  return { life };
}

const held = (n: number, more: Parameters<typeof stateOf>[0] = {}) => ({
  facts: factsOf(ID(n), { acceptedAtMs: WALL_MS }),
  state: stateOf(more),
});

describe('poison', () => {
  function live(ids: readonly string[], copies: number): { bench: CoreBench; deaths: number; mend: () => void } {
    let isMended = false;
    const { life } = deadly(ids, () => isMended);
    const bench = new CoreBench({ members: 2, queues: { messageExpirationMs: 600_000, delayNotificationMs: 300_000 } });
    for (let n = 0; n < copies; n++) bench.index.put({ ...held(n), body: null });
    let deaths = 0;
    for (let lives = 0; lives < 10; lives++) {
      bench.risk = { risk: life() };
      try {
        bench.restart();
        bench.join(PEER);
        bench.pass(6_000);
        for (const { id } of bench.seen('EnterRisk')) bench.event({ kind: 'RiskEntered', id });
        for (let more = 0; more < copies; more++)
          for (const { id } of bench.seen('EnterRisk')) bench.event({ kind: 'RiskEntered', id });
        const mend = (): void => {
          isMended = true;
        };
        return { bench, deaths, mend };
      } catch (error) {
        if (!(error instanceof Deadly)) throw error;
        deaths += 1;
      }
    }
    throw new Error('it went on dying');
  }

  test('one death unawares, two alone: it is put aside, everything else is delivered, and it does not expire', () => {
    const { bench, deaths } = live([ID(1)], 4);
    expect(deaths).toBe(3);
    expect([0, 1, 2, 3].map((n) => bench.copy(ID(n)).queue)).toEqual(['delivery', 'poison', 'delivery', 'delivery']);
    expect(bench.seen('Track').filter(({ event }) => event === 'POISON')).toHaveLength(1);
    bench.pass(700_000);
    expect(bench.copy(ID(1)).queue).toBe('poison');
    // And not after another restart either.
    bench.restart();
    bench.join(PEER);
    bench.pass(6_000);
    expect(bench.copy(ID(1)).queue).toBe('poison');
    expect(lostMessages(bench.server, bench.nowMs)).toEqual([]);
  });

  test('an order resumes it, once: what comes to be poison again waits for another', () => {
    const { bench, mend } = live([ID(1)], 2);
    const order = (id: string, action: 'resume' | 'remove'): void =>
      bench.topology((document) => ({ ...document, messageOrders: [{ id, message: ID(1), action, by: 'ann' }] }));
    order('o1', 'resume');
    bench.pass(1_100);
    // It is durable that the order is carried out before the message goes on.
    expect(bench.index.facts.get('messageOrders')).toEqual(['o1']);
    expect(bench.copy(ID(1)).queue).toBe('submission');
    mend();
    bench.event({ kind: 'RiskEntered', id: bench.lastSeen('EnterRisk').id });
    expect(bench.copy(ID(1))).toMatchObject({ queue: 'delivery', crashCount: 0 });
    expect(bench.seen('Track').map(({ detail }) => detail)).toContain('resume by ann, order o1');
    const copy = bench.server.copies.get(ID(1));
    if (copy === undefined) throw new Error('gone');
    bench.index.setState(ID(1), { ...copy.state, crashCount: 2 }, undefined);
    bench.restart();
    bench.topology((document) => ({
      ...document,
      messageOrders: [{ id: 'o1', message: ID(1), action: 'resume', by: 'ann' }],
    }));
    bench.join(PEER);
    bench.pass(8_000);
    expect(bench.copy(ID(1)).queue).toBe('poison');
    order('o2', 'remove');
    bench.pass(1_100);
    expect(bench.server.copies.has(ID(1))).toBe(false);
    expect(bench.server.tombstones.get(ID(1))?.recipients).toMatchObject([{ outcome: 'removed' }]);
    // Nobody is told by mail.
    expect(bench.seen('ComposeDsn')).toEqual([]);
  });

  test('an order to remove waits while a store has the message', () => {
    const bench = new CoreBench({ members: 2 });
    bench.index.put({ ...held(1), body: null });
    bench.restart();
    bench.join(PEER);
    bench.pass(6_000);
    const { requestId } = bench.lastSeen('Deliver');
    bench.topology((document) => ({
      ...document,
      messageOrders: [{ id: 'o', message: ID(1), action: 'remove', by: 'a' }],
    }));
    bench.pass(1_100);
    expect(bench.server.copies.has(ID(1))).toBe(true);
    bench.event({
      kind: 'DeliveryDone',
      requestId,
      results: [{ index: 0, kind: 'deferred', reply: '450 4.2.0 no', host: false }],
    });
    bench.pass(1_100);
    expect(bench.server.copies.has(ID(1))).toBe(false);
  });

  test('the deaths travel: who takes over a suspect lets it go alone, who takes over poison puts it aside at once', () => {
    for (const [crashes, queue] of [
      [1, 'submission'],
      [2, 'poison'],
    ] as const) {
      const bench = new CoreBench({ members: 2 });
      bench.join(PEER);
      bench.streamEnded(bench.streamOpened(PEER, 'shadow', sharedOf('M1', { epoch: epochOf(B) })));
      expect(bench.copy('M1').crashCount).toBe(0);
      bench.state(PEER, 'pending', sharedOf('M1', { epoch: epochOf(B), crashes }));
      expect(bench.copy('M1').crashCount).toBe(crashes);
      bench.event({
        kind: 'StateReceived',
        member: PEER,
        state: { id: copyId('M1'), verdict: 'unknown', state: null },
      });
      bench.pass(6_000);
      expect(bench.copy('M1')).toMatchObject({ queue, epoch: { owner: A } });
      expect(bench.seen('EnterRisk').map(({ id }) => id)).toEqual(crashes === 1 ? [copyId('M1')] : []);
    }
  });
});

describe('the mark', () => {
  test('says who is in, and alone only when nobody else is', async () => {
    const lines: string[] = [];
    const { marks } = markedBy({ found: null, write: (text) => lines.push(text) });
    marks.begin(ID(1), true);
    marks.begin(ID(2), false);
    marks.begin(ID(2), false);
    marks.end(ID(2));
    marks.end(ID(1));
    await null;
    marks.end(ID(2));
    await null;
    expect(lines.map(readMark)).toEqual([
      { ids: [ID(1)], alone: true },
      { ids: [ID(1), ID(2)], alone: false },
      { ids: [ID(1), ID(2)], alone: false },
      { ids: [ID(2)], alone: false },
      { ids: [], alone: false },
    ]);
  });

  test('of one after the other the end is written once, at the end of the tick; of one alone at once', async () => {
    const lines: string[] = [];
    const { marks } = markedBy({ found: null, write: (text) => lines.push(text) });
    for (const n of [1, 2, 3]) {
      marks.begin(ID(n), false);
      marks.end(ID(n));
    }
    expect(lines.map(readMark)).toEqual([1, 2, 3].map((n) => ({ ids: [ID(n)], alone: false })));
    await null;
    expect(lines.slice(3)).toEqual(['none\n']);
    marks.begin(ID(4), true);
    marks.end(ID(4));
    expect(lines.slice(4).map(readMark)).toEqual([
      { ids: [ID(4)], alone: true },
      { ids: [], alone: false },
    ]);
  });

  test.each([null, '', 'alone', 'alone x\n', `alone ${ID(1)}`, `alone ${ID(1)} ${ID(2).slice(1)}\n`])(
    '%j marks nobody',
    (text) => {
      expect(readMark(text)).toEqual({ ids: [], alone: false });
    },
  );

  test('is there after SIGKILL in the very next instruction, and shrinks again', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'mc-mark-'));
    try {
      const path = join(directory, 'mark');
      const program = join(directory, 'dies.ts');
      await writeFile(
        program,
        `import { openMarkFile } from ${JSON.stringify(join(ROOT, 'common/platform/mark-file.ts'))};
         const file = openMarkFile(${JSON.stringify(path)});
         file.write('alone ${ID(1)}\\n');
         process.kill(process.pid, 'SIGKILL');
         file.write('none\\n');`,
      );
      const child = spawn(process.execPath, [program], { stdio: 'ignore' });
      const [, signal] = await once(child, 'exit');
      expect(signal).toBe('SIGKILL');
      const file = openMarkFile(path);
      expect(readMark(file.found)).toEqual({ ids: [ID(1)], alone: true });
      const many = `with others ${Array.from({ length: 300 }, (_, n) => ID(n)).join(' ')}\n`;
      for (const text of ['none\n', many, `alone ${ID(2)}\n`, 'none\n']) {
        file.write(text);
        const again = openMarkFile(path);
        expect(again.found).toBe(text);
        again.close();
      }
      file.close();
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
});
