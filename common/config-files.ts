/** Reads the documents of a program from files. Fails with one line: file, path in the document, what is wrong. */
import { readFile } from 'node:fs/promises';
import type { FrontendConfig, TopologyDocument, TransportConfig } from './config.ts';
import {
  type Parsed,
  parseFrontendConfig,
  parseJson,
  parseTopologyDocument,
  parseTransportConfig,
} from './config-parse.ts';

export class ConfigurationError extends Error {
  readonly code = 'CONFIGURATION';
  constructor(file: string, path: string, problem: string) {
    super(`${file}: ${path === '' ? '' : `${path}: `}${problem}`);
    this.name = 'ConfigurationError';
  }
}

/** What is done to a document before it is parsed: a pod fills in what it alone knows. */
export type Prepare = (value: unknown) => Promise<unknown>;

async function read<T>(file: string, parse: (value: unknown) => Parsed<T>, prepare?: Prepare): Promise<T> {
  const json = parseJson<unknown>((value) => ({ kind: 'ok', value }), await readFile(file, 'utf8'));
  const parsed = json.kind === 'error' ? json : parse(prepare === undefined ? json.value : await prepare(json.value));
  if (parsed.kind === 'error') throw new ConfigurationError(file, parsed.path, parsed.problem);
  return parsed.value;
}

export const readTopology = (file: string): Promise<TopologyDocument> => read(file, parseTopologyDocument);
export const readFrontendConfig = (file: string, prepare?: Prepare): Promise<FrontendConfig> =>
  read(file, parseFrontendConfig, prepare);
export const readTransportConfig = (file: string, prepare?: Prepare): Promise<TransportConfig> =>
  read(file, parseTransportConfig, prepare);
