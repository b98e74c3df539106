/**
 * `run.json`: what `mailcluster run` says about itself (docs/run-json.md). Owns: the format and its parser. Written whole when everything
 * is ready and whenever it changes; the commands of the CLI, `make demo` and the tests read it.
 */
export interface RunListener {
  readonly name: string;
  readonly host: string;
  readonly port: number;
  readonly frontend: string;
}

export interface RunFrontend {
  readonly name: string;
  readonly site: string;
  /** Null while the process is down and about to be started again. */
  readonly pid: number | null;
  readonly metricsUrl: string;
}

export interface RunTransport {
  readonly name: string;
  readonly dag: string | null;
  readonly site: string;
  readonly pid: number | null;
  readonly queueDatabaseDirectory: string;
  readonly adminUrl: string;
  readonly metricsUrl: string;
}

/** An embedded LMTP-to-Maildir store. */
export interface RunStore {
  readonly name: string;
  readonly database: string;
  readonly copy: string;
  readonly pid: number | null;
  readonly host: string;
  readonly port: number;
  readonly maildir: string;
}

export interface RunFile {
  readonly version: 1;
  readonly cluster: string;
  /** The runner itself. */
  readonly pid: number;
  readonly state: string;
  readonly generation: number;
  readonly topologyFile: string;
  /** Identity for the admin APIs (role operator). */
  readonly operatorTls: { readonly caFile: string; readonly certificateFile: string; readonly keyFile: string };
  readonly listeners: readonly RunListener[];
  readonly frontends: readonly RunFrontend[];
  readonly transports: readonly RunTransport[];
  readonly stores: readonly RunStore[];
}

/** A string says why it is not a run.json of ours. */
export function parseRunFile(value: unknown): RunFile | string {
  if (typeof value !== 'object' || value === null) return 'not an object';
  const file = value as Partial<Record<keyof RunFile, unknown>>;
  if (file.version !== 1) return `version ${JSON.stringify(file.version)}, expected 1`;
  for (const list of ['listeners', 'frontends', 'transports', 'stores'] as const) {
    if (!Array.isArray(file[list])) return `${list}: not a list`;
  }
  for (const text of ['cluster', 'state', 'topologyFile'] as const) {
    if (typeof file[text] !== 'string') return `${text}: not a string`;
  }
  if (typeof file.operatorTls !== 'object' || file.operatorTls === null) return 'operatorTls: missing';
  return value as RunFile;
}
