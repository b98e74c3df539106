/**
 * The mark of protocol.md 18: which copies are in a risky step now, in a file that survives the death of the process. Owns: its text. Promise: `alone` stands there
 * only while nothing else is marked. A text that cannot be read marks nobody: a power cut may have torn it, and no process died of a message then.
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

export function markedBy(file: Pick<MarkFile, 'found' | 'write'>): RiskOptions {
  const inside = new Map<CopyId, number>();
  const write = (alone: boolean): void => {
    const ids = [...inside.keys()];
    const how = ids.length === 0 ? 'none' : alone && ids.length === 1 ? 'alone' : 'with others';
    file.write(`${[how, ...ids].join(' ')}\n`);
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
      write(false);
    },
  };
  return { marks, marked: readMark(file.found) };
}
