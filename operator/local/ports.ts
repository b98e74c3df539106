/**
 * Loopback ports of the children. Owns: `ports.json`, which port belongs to which purpose (`transport/NAME/peer`, ...).
 * Promise: a purpose keeps its port over restarts of child and runner as long as it is free; new ones are taken below the range the
 * kernel uses for outgoing connections, so that no connection of somebody takes the port of a child that is restarting.
 * Fails: an Error with code NOPORT when nothing free was found.
 */
import { createServer } from 'node:net';
import { type Random, randomFraction } from '../../common/platform/random.ts';
import { codeOf } from './state-directory.ts';

export const LOOPBACK = '127.0.0.1';
const LOWEST = 20_000;
/** Linux: net.ipv4.ip_local_port_range begins at 32768 unless changed. */
const HIGHEST = 32_000;
const ATTEMPTS = 200;

export type PortTable = Readonly<Record<string, number>>;

/** Null when the port can be listened on now, else the code of the refusal (EADDRINUSE, EACCES ...). */
export function portProblem(host: string, port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error) => resolve(codeOf(error) ?? error.message));
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(null)));
  });
}

export class Ports {
  readonly #random: Random;
  #table: Map<string, number>;

  constructor(table: PortTable, random: Random) {
    this.#table = new Map(Object.entries(table));
    this.#random = random;
  }

  /** The port of a purpose: the remembered one, or a new one. It was free a moment ago only if it is new. */
  async of(purpose: string): Promise<number> {
    return this.#table.get(purpose) ?? (await this.renew(purpose));
  }

  /** Another port for a purpose whose port somebody else took. */
  async renew(purpose: string): Promise<number> {
    const taken = new Set(this.#table.values());
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const port = LOWEST + Math.floor(randomFraction(this.#random) * (HIGHEST - LOWEST));
      if (taken.has(port) || (await portProblem(LOOPBACK, port)) !== null) continue;
      this.#table.set(purpose, port);
      return port;
    }
    throw Object.assign(new Error(`no free port between ${LOWEST} and ${HIGHEST} for ${purpose}`), { code: 'NOPORT' });
  }

  /** Of these purposes, those whose port somebody else listens on now. */
  async taken(purposes: readonly string[]): Promise<readonly string[]> {
    const problems = await Promise.all(
      purposes.map(async (purpose) => {
        const port = this.#table.get(purpose);
        return port !== undefined && (await portProblem(LOOPBACK, port)) !== null ? purpose : null;
      }),
    );
    return problems.filter((purpose) => purpose !== null);
  }

  table(): PortTable {
    return Object.fromEntries([...this.#table].sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}

/** Entries of an earlier run; anything else in the file is ignored. */
export function parsePortTable(value: unknown): PortTable {
  if (typeof value !== 'object' || value === null) return {};
  const entries = Object.entries(value as Record<string, unknown>);
  return Object.fromEntries(
    entries.filter(
      (entry): entry is [string, number] =>
        Number.isInteger(entry[1]) && Number(entry[1]) > 0 && Number(entry[1]) < 65_536,
    ),
  );
}

/** Null, or what a person can do about an address that cannot be listened on. */
export async function listenProblem(
  what: string,
  address: { readonly host: string; readonly port: number },
): Promise<string | null> {
  const code = await portProblem(address.host, address.port);
  const where = `${what}: ${address.host}:${address.port}`;
  switch (code) {
    case null:
      return null;
    case 'EADDRINUSE':
      return `${where} is in use by another program; stop it, or choose another port`;
    case 'EACCES':
      return `${where}: this user may not listen there; choose a port above 1023`;
    default:
      return `${where} cannot be listened on (${code}); choose another address`;
  }
}

/** Of listeners whose address somebody gave us, the first that cannot be bound. */
export async function busyListener(
  bindings: readonly {
    readonly listener: string;
    readonly fixed: { readonly host: string; readonly port: number } | null;
  }[],
): Promise<string | null> {
  for (const { listener, fixed } of bindings) {
    const busy = fixed === null ? null : await listenProblem(`listener ${listener}`, fixed);
    if (busy !== null) return `${busy} with --listen`;
  }
  return null;
}
