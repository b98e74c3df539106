/**
 * `orders/` of the state directory. Owns: its files; the command writes orders, the runner reads them, removes what may not be and answers in
 * `orders/answers/`. Promise: an order is there whole and survives power loss, or is not there; a file that is no order is left alone and
 * named once. Fails as the disk does.
 */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { ResubmitRequest } from '../resource/generated.ts';
import { createReader } from '../resource/load.ts';
import { parseDocument, type Reader } from '../resource/parse.ts';
import { readYaml } from '../resource/source-document.ts';
import { type Order, orderFile, parseOrder } from './orders.ts';
import { codeOf, makeDirectory, readJson, removeDocument, type StatePaths, writeDurably } from './state-directory.ts';

export interface OrderAnswer {
  readonly id: string;
  readonly ok: boolean;
  readonly text: string;
}

const isDocument = (name: string): boolean => name.endsWith('.json') && !name.startsWith('.');

export class OrderBook {
  readonly #paths: StatePaths;
  readonly #say: (line: string) => void;
  readonly #complained = new Set<string>();
  #reader: Reader | null = null;

  constructor(paths: StatePaths, say: (line: string) => void) {
    this.#paths = paths;
    this.#say = say;
  }

  /** Another text whenever the files are others than before. */
  async signature(): Promise<string> {
    const stats = await Promise.all(
      (await this.#names()).map(async (name) => {
        try {
          const { mtimeMs, size, ino } = await stat(join(this.#paths.orders, name));
          return `${name} ${mtimeMs} ${size} ${ino}`;
        } catch (error) {
          if (codeOf(error) === 'ENOENT') return `${name} gone`;
          throw error;
        }
      }),
    );
    return stats.join('\n');
  }

  async read(): Promise<readonly Order[]> {
    const orders: Order[] = [];
    for (const name of await this.#names()) {
      const order = await this.#readOne(name);
      if (typeof order === 'object') orders.push(order);
      else if (!this.#complained.has(name)) {
        this.#complained.add(name);
        this.#say(`${join(this.#paths.orders, name)} is no order and not used: ${order}`);
      }
    }
    return orders;
  }

  async write(order: Order): Promise<void> {
    await makeDirectory(this.#paths.orders);
    await writeDurably(join(this.#paths.orders, orderFile(order)), order);
  }

  /** Only if it is still that order: a later one may have taken its place. */
  async remove(order: Order): Promise<void> {
    const found = await this.#readOne(orderFile(order));
    if (typeof found === 'object' && found.id === order.id)
      await removeDocument(join(this.#paths.orders, orderFile(order)));
  }

  async answer(answer: OrderAnswer): Promise<void> {
    await makeDirectory(this.#paths.answers);
    await writeDurably(this.#answerFile(answer.id), answer);
  }

  /** Null: there is none yet. */
  async answerTo(id: string): Promise<OrderAnswer | null> {
    return (await readJson(this.#answerFile(id))) as OrderAnswer | null;
  }

  async forgetAnswer(id: string): Promise<void> {
    await removeDocument(this.#answerFile(id));
  }

  #answerFile(id: string): string {
    return join(this.#paths.answers, `${id}.json`);
  }

  async #names(): Promise<readonly string[]> {
    try {
      return (await readdir(this.#paths.orders)).filter(isDocument).sort();
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return [];
      throw error;
    }
  }

  async #readOne(name: string): Promise<Order | string> {
    try {
      const order = parseOrder(await readJson(join(this.#paths.orders, name)), (value) => this.#readResource(value));
      return typeof order === 'object' && orderFile(order) !== name ? `it is ${orderFile(order)}` : order;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  #readResource(value: unknown): ResubmitRequest | string {
    this.#reader ??= createReader();
    const { documents, problems } = readYaml({ file: 'order', text: JSON.stringify(value ?? null) });
    const [document] = documents;
    if (document === undefined) return problems[0]?.problem ?? 'there is no resource in it';
    const parsed = parseDocument(document, this.#reader);
    if (parsed.kind === 'invalid') return parsed.findings.map(({ problem }) => problem).join('; ');
    return parsed.kind === 'resource' && parsed.resource.kind === 'ResubmitRequest'
      ? parsed.resource
      : 'it is not a ResubmitRequest';
  }
}
