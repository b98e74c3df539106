/**
 * The words that the parsers of our documents are made of (`config-parse.ts`, `config-connectors.ts`). Owns: what each word takes, and the path of what does not
 * match. Promise: a value holds known fields only; the first mismatch ends the parse, as a `Mismatch`. PURE.
 */
import { isIP } from 'node:net';

export class Mismatch extends Error {
  readonly path: string;
  constructor(path: string, problem: string) {
    super(problem);
    this.path = path;
  }
}

export type Parse<T> = (value: unknown, path: string) => T;
export type Fields<T> = { readonly [K in keyof T]-?: Parse<T[K]> };

export const show = (value: unknown): string => (JSON.stringify(value) ?? String(value)).slice(0, 60);

export function object<T extends object>(fields: Fields<T>): Parse<T> {
  return (value, path) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new Mismatch(path, `expected an object, found ${show(value)}`);
    }
    const source: Readonly<Record<string, unknown>> = Object.fromEntries(Object.entries(value));
    const entries = Object.entries<Parse<unknown>>(fields).map(([name, parse]) => {
      const inner = path === '' ? name : `${path}.${name}`;
      if (!Object.hasOwn(source, name)) throw new Mismatch(inner, 'is missing');
      return [name, parse(source[name], inner)] as const;
    });
    // `Fields<T>` has a parser for every field of T, each of its type.
    return Object.fromEntries(entries.filter(([, found]) => found !== undefined)) as T;
  };
}

/** Fields that older documents do not have read as this. */
export function withDefaults<T>(parse: Parse<T>, defaults: Readonly<Record<string, unknown>>): Parse<T> {
  return (value, path) =>
    parse(
      typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...defaults, ...value } : value,
      path,
    );
}

export function list<T>(item: Parse<T>, least = 0): Parse<readonly T[]> {
  return (value, path) => {
    if (!Array.isArray(value)) throw new Mismatch(path, `expected a list, found ${show(value)}`);
    if (value.length < least) throw new Mismatch(path, `needs at least ${least}, has ${value.length}`);
    return value.map((entry, index) => item(entry, `${path}[${index}]`));
  };
}

/** A list of named things; a name counts once. */
export function named<T extends { readonly name: string }>(item: Parse<T>, least = 0): Parse<readonly T[]> {
  const parse = list(item, least);
  return (value, path) => {
    const entries = parse(value, path);
    for (const [index, entry] of entries.entries()) {
      const first = entries.findIndex((other) => other.name === entry.name);
      if (first !== index)
        throw new Mismatch(`${path}[${index}].name`, `${show(entry.name)} is the name of entry ${first} too`);
    }
    return entries;
  };
}

export function nullable<T>(parse: Parse<T>): Parse<T | null> {
  return (value, path) => (value === null ? null : parse(value, path));
}

/** Absent is `undefined`; with `withDefaults`. */
export function optional<T>(parse: Parse<T>): Parse<T> {
  return (value, path) => (value === undefined ? (undefined as T) : parse(value, path));
}

export const text: Parse<string> = (value, path) => {
  if (typeof value !== 'string' || value === '') throw new Mismatch(path, `expected text, found ${show(value)}`);
  return value;
};

export const lowerCase: Parse<string> = (value, path) => {
  const found = text(value, path);
  if (found !== found.toLowerCase()) throw new Mismatch(path, `expected lower case, found ${show(value)}`);
  return found;
};

export const flag: Parse<boolean> = (value, path) => {
  if (typeof value !== 'boolean') throw new Mismatch(path, `expected true or false, found ${show(value)}`);
  return value;
};

export function integer(least: number, most = Number.MAX_SAFE_INTEGER): Parse<number> {
  return (value, path) => {
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least || value > most) {
      const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
      throw new Mismatch(path, `expected a whole number ${range}, found ${show(value)}`);
    }
    return value;
  };
}

export function oneOf<const T extends string>(...choices: readonly T[]): Parse<T> {
  return (value, path) => {
    const found = choices.find((choice) => choice === value);
    if (found === undefined) throw new Mismatch(path, `expected one of ${choices.join(', ')}, found ${show(value)}`);
    return found;
  };
}

export const count = integer(0);
export const positive = integer(1);
export const milliseconds = count;
export const port = integer(0, 65535);
export const endpoint = object<{ readonly host: string; readonly port: number }>({ host: text, port });

export const boundary: Parse<string> = (value, path) => {
  const found = text(value, path);
  if (!/^(dag|site)\/[^/]+$/.test(found))
    throw new Mismatch(path, `expected dag/NAME or site/NAME, found ${show(value)}`);
  return found;
};

export const network: Parse<string> = (value, path) => {
  const found = text(value, path);
  const [, address = '', prefix = ''] = /^([^/]+)\/([0-9]{1,3})$/.exec(found) ?? [];
  const version = isIP(address);
  if (version === 0 || Number(prefix) > (version === 4 ? 32 : 128)) {
    throw new Mismatch(path, `expected ADDRESS/PREFIX, found ${show(value)}`);
  }
  return found;
};
