/**
 * The mark of protocol.md 18: which copies are in a risky step now, in a file that survives the death of the process. Owns: its text. Promise: it is there when
 * `begin` returns; `alone` stands there only while nothing else is marked, and is gone when `end` returns. Who was not alone may stand there until the end of the
 * turn of the event loop: a death from something else meanwhile makes one suspect more, which goes alone once, and every copy costs one write instead of two.
 * A text that cannot be read marks nobody: a power cut may have torn it, and no process died of a message then.
 */
import type { CopyId } from '../../common/message.ts';
import type { MarkFile } from '../../common/platform/mark-file.ts';
import type { Marked, RiskMarks, RiskOptions } from '../core/poison.ts';

const NOBODY: Marked = { ids: [], alone: false };

export function readMark(text: string | null): Marked {
  const match = /^(alone|with others|none)((?: [0-9A-HJKMNP-TV-Z]{26})*)\n$/.exec(text ?? '');
  if (match === null) return NOBODY;
  const ids = (match[2] ?? '').split(' ').filter((word) => word !== '') as CopyId[];
  return { ids, alone: match[1] === 'alone' && ids.length === 1 };
}

/** `later`: when the end of what was not alone is written at the latest. */
export function markedBy(
  file: Pick<MarkFile, 'found' | 'write'>,
  later: (write: () => void) => void = queueMicrotask,
): RiskOptions {
  const inside = new Map<CopyId, number>();
  let isAlone = false;
  let isStale = false;
  const write = (alone: boolean): void => {
    const ids = [...inside.keys()];
    isAlone = alone && ids.length === 1;
    isStale = false;
    file.write(`${[ids.length === 0 ? 'none' : isAlone ? 'alone' : 'with others', ...ids].join(' ')}\n`);
  };
  const writeLater = (): void => {
    if (isStale) return;
    isStale = true;
    later(() => {
      if (isStale) write(false);
    });
  };
  const marks: RiskMarks = {
    begin: (id, alone) => {
      inside.set(id, (inside.get(id) ?? 0) + 1);
      write(alone);
    },
    end: (id) => {
      const left = (inside.get(id) ?? 1) - 1;
      if (left > 0) return void inside.set(id, left);
      inside.delete(id);
      if (isAlone) write(false);
      else writeLater();
    },
  };
  return { marks, marked: readMark(file.found) };
}
