/** What every ledger must do (transport/runtime/ledger.ts). */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Identity } from '../../common/message.ts';
import type { Ledger, LedgerEntry } from '../../transport/runtime/ledger.ts';
import { until } from '../house/until.ts';
import { ask, entry, key } from './ledger-rig.ts';

export interface LedgerBench {
  /** Where things are recorded. */
  readonly writer: Ledger;
  /** Where they are asked for: the same, or another transport's. */
  readonly reader: Ledger;
  readonly writerName: string;
  dispose(): Promise<void>;
}

/** `make` answers with a string when it cannot: the tests are then skipped, and counted as skipped. */
export function ledgerContract(name: string, make: () => Promise<LedgerBench | string>): void {
  describe(`ledger: ${name}`, () => {
    let bench: LedgerBench | string;
    beforeEach(async () => {
      bench = await make();
    });
    afterEach(async () => {
      if (typeof bench !== 'string') await bench.dispose();
    });

    const on = (what: string, body: (bench: LedgerBench) => Promise<void>): void => {
      test(what, async (context) => {
        if (typeof bench === 'string') return context.skip(bench);
        await body(bench);
      });
    };
    const recorded = async ({ writer, reader }: LedgerBench, entries: readonly LedgerEntry[]): Promise<void> => {
      writer.record(entries);
      const arrived = async (): Promise<boolean> =>
        (await reader.known(entries)).every(({ kind }) => kind === 'relayed');
      await until('entries to arrive', arrived, { deadlineMs: 5_000, everyMs: 5 });
    };

    on('knows nothing at first', async ({ reader }) => {
      expect(await reader.known([key('A'), key('B')])).toEqual([{ kind: 'absent' }, { kind: 'absent' }]);
      expect(await reader.known([])).toEqual([]);
    });

    on('says what was relayed, by whom, with which reply', async (of) => {
      const epoch = { try: 2, term: 3, owner: 'SOMEBODY' as Identity };
      const one = entry('A', 'bob@example.net', { epoch, reply: '250 2.0.0 "queued" as 1/é', dsnPassedOn: true });
      await recorded(of, [one]);
      const { reply, dsnPassedOn } = one;
      expect(await of.reader.known([key('A')])).toEqual([
        { kind: 'relayed', reply, dsnPassedOn, epoch, writer: of.writerName },
      ]);
    });

    on('answers in order, each key for itself', async (of) => {
      await recorded(of, [entry('A', 'b@x'), entry('C', 'd@x')]);
      const answers = await of.reader.known([key('C', 'b@x'), key('C', 'd@x'), key('A', 'd@x'), key('A', 'b@x')]);
      expect(answers.map(({ kind }) => kind)).toEqual(['absent', 'relayed', 'absent', 'relayed']);
    });

    on('does not confuse copies, recipients, or their spelling', async (of) => {
      await recorded(of, [entry('A', 'Bob@example.net'), entry('A', 'é@x'), entry('A', '"a b"@x')]);
      for (const [copy, recipient] of [
        ['A', 'bob@example.net'],
        ['A', 'Bob@example.ne'],
        ['A B', 'ob@example.net'],
        ['A', 'e@x'],
        ['B', 'é@x'],
        ['A "a', 'b"@x'],
      ] as const)
        expect([recipient, await ask(of.reader, copy, recipient)]).toEqual([recipient, 'absent']);
    });

    on('keeps the word of the latest relay', async (of) => {
      await recorded(of, [entry('A', 'b@x', { reply: '250 first' })]);
      of.writer.record([entry('A', 'b@x', { reply: '250 second' })]);
      const latest = async (): Promise<boolean> =>
        (await of.reader.known([key('A', 'b@x')])).some((one) => one.kind === 'relayed' && one.reply === '250 second');
      await until('the second word', latest, { deadlineMs: 5_000, everyMs: 5 });
    });

    on('takes many at once', async (of) => {
      const entries = Array.from({ length: 300 }, (_, at) => entry(`M${at}`, `r${at}@x`));
      await recorded(of, entries);
      const answers = await of.reader.known([...entries, key('M0', 'r1@x')]);
      expect(answers.filter(({ kind }) => kind === 'relayed')).toHaveLength(300);
      expect(answers.at(-1)?.kind).toBe('absent');
    });

    on('writes what was recorded before it closes, and nothing after', async ({ writer, reader }) => {
      writer.record([entry('A')]);
      await writer.close();
      writer.record([entry('B')]);
      if (writer === reader) return;
      expect(await ask(reader, 'A')).toBe('relayed');
      expect(await ask(reader, 'B')).toBe('absent');
    });
  });
}
