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

async function read<T>(file: string, parse: (value: unknown) => Parsed<T>): Promise<T> {
  const parsed = parseJson(parse, await readFile(file, 'utf8'));
  if (parsed.kind === 'error') throw new ConfigurationError(file, parsed.path, parsed.problem);
  return parsed.value;
}

export const readTopology = (file: string): Promise<TopologyDocument> => read(file, parseTopologyDocument);
export const readFrontendConfig = (file: string): Promise<FrontendConfig> => read(file, parseFrontendConfig);
export const readTransportConfig = (file: string): Promise<TransportConfig> => read(file, parseTransportConfig);
