/**
 * The address lists of a front end and their files. Owns: what was last read of each. Promise: a file that cannot be used leaves the former
 * list in force and is told; a list that was never read is missing, so that nobody is refused for good because of it. A file that did not
 * change is not taken apart again. Memory is bounded by the limits of `address-list.ts`.
 */
import { open } from 'node:fs/promises';
import type { AddressListFile } from '../common/config.ts';
import { describeError } from '../common/platform/lifecycle.ts';
import { AddressList, MAX_LIST_BYTES } from './address-list.ts';

export interface ListProblem {
  readonly list: string;
  readonly file: string;
  readonly reason: string;
  /** Whether a former one is in force. */
  readonly inForce: boolean;
}

export class AddressLists {
  readonly #files: readonly AddressListFile[];
  #lists: ReadonlyMap<string, AddressList> = new Map();

  constructor(files: readonly AddressListFile[]) {
    this.#files = files;
  }

  get all(): ReadonlyMap<string, AddressList> {
    return this.#lists;
  }

  get files(): readonly string[] {
    return this.#files.map(({ file }) => file);
  }

  /** Never read so far. */
  get missing(): number {
    return this.#files.length - this.#lists.size;
  }

  /** Reads all files; `changed` when a list is another than before. */
  async read(): Promise<{ readonly changed: boolean; readonly problems: readonly ListProblem[] }> {
    const lists = new Map(this.#lists);
    const problems: ListProblem[] = [];
    let changed = false;
    for (const { name, file } of this.#files) {
      const former = lists.get(name);
      const found = await readList(file, former);
      if (typeof found === 'string') problems.push({ list: name, file, reason: found, inForce: former !== undefined });
      else if (found !== former) {
        lists.set(name, found);
        changed = true;
      }
    }
    if (changed) this.#lists = lists;
    return { changed, problems };
  }
}

async function readList(path: string, former: AddressList | undefined): Promise<AddressList | string> {
  try {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      if (size > MAX_LIST_BYTES) return `has ${size} bytes, the limit is ${MAX_LIST_BYTES}`;
      const bytes = await file.readFile();
      return former?.isOf(bytes) === true ? former : AddressList.parse(bytes);
    } finally {
      await file.close();
    }
  } catch (error) {
    return describeError(error);
  }
}
