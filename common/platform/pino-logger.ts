/**
 * The log port over pino; the only import of it. One JSON line per event: `time` (ISO), `level` (word), the fields, `msg`.
 * Owns: what waits for the output descriptor. Promise: a line never blocks the event loop; lines keep their order, batched into one write
 * per turn; `flush` resolves when what was logged has been written. The buffer is bounded: beyond it lines are dropped and counted in a
 * line of their own. Fails: a closed output (EPIPE) silences the logger, it never ends the program.
 * Errors in the fields `error` and `err` become `{type, message, code, stack}`. Secrets are never passed in; `password` is redacted anyway.
 */
import { write } from 'node:fs';
import { type Logger as PinoLogger, pino, stdSerializers, stdTimeFunctions } from 'pino';
import type { LogFields, Logger } from './log.ts';

export interface LoggerOptions {
  /** On every line: `name` of the member, `program`. */
  readonly fields: LogFields;
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  /** 1 stdout, 2 stderr. */
  readonly descriptor: 1 | 2;
}

export interface FlushableLogger extends Logger {
  /** For the last moments of a process; never rejects. */
  flush(): Promise<void>;
}

const MAX_WAITING_BYTES = 16 << 20;
/** A full pipe of somebody who reads slowly. */
const AGAIN_MS = 10;

class BatchedOutput {
  readonly #descriptor: number;
  #waiting: string[] = [];
  #waitingBytes = 0;
  #dropped = 0;
  #writing = false;
  #broken = false;
  #flushed: (() => void)[] = [];

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  write(line: string): void {
    if (this.#broken) return;
    if (this.#waitingBytes + line.length > MAX_WAITING_BYTES) {
      this.#dropped++;
      return;
    }
    this.#waiting.push(line);
    this.#waitingBytes += line.length;
    if (this.#writing) return;
    this.#writing = true;
    setImmediate(() => this.#writeBatch());
  }

  flush(): Promise<void> {
    if (!this.#writing || this.#broken) return Promise.resolve();
    return new Promise((resolve) => this.#flushed.push(resolve));
  }

  #writeBatch(): void {
    if (this.#dropped > 0) {
      this.#waiting.push(`${JSON.stringify({ level: 'warn', dropped: this.#dropped, msg: 'log lines dropped' })}\n`);
      this.#dropped = 0;
    }
    const batch = Buffer.from(this.#waiting.join(''));
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#writeRest(batch);
  }

  #writeRest(rest: Buffer): void {
    write(this.#descriptor, rest, (error, written) => {
      if (error?.code === 'EAGAIN') setTimeout(() => this.#writeRest(rest), AGAIN_MS);
      else if (error !== null) this.#break();
      else if (written < rest.length) this.#writeRest(rest.subarray(written));
      else if (this.#waiting.length > 0) this.#writeBatch();
      else this.#idle();
    });
  }

  #break(): void {
    this.#broken = true;
    this.#waiting = [];
    this.#idle();
  }

  #idle(): void {
    this.#writing = false;
    for (const resolve of this.#flushed.splice(0)) resolve();
  }
}

function wrap(logger: PinoLogger): Logger {
  return {
    debug: (fields, message) => logger.debug(fields, message),
    info: (fields, message) => logger.info(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    error: (fields, message) => logger.error(fields, message),
    child: (fields) => wrap(logger.child(redacted({ ...fields }))),
  };
}

const CENSOR = '[redacted]';
const holdsPassword = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, 'password');

/** `password` and `*.password` censored. (pino's own `redact` copies every line's fields: 4 % of the CPU of a front end.) */
function redacted(fields: Record<string, unknown>): Record<string, unknown> {
  let copy: Record<string, unknown> | null = null;
  for (const key in fields) {
    const value = fields[key];
    if (key === 'password') copy = { ...(copy ?? fields), password: CENSOR };
    else if (holdsPassword(value)) copy = { ...(copy ?? fields), [key]: { ...value, password: CENSOR } };
  }
  return copy ?? fields;
}

export function createLogger(options: LoggerOptions): FlushableLogger {
  const output = new BatchedOutput(options.descriptor);
  const logger = pino(
    {
      level: options.level,
      base: { ...options.fields },
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: redacted },
      serializers: { error: stdSerializers.err, err: stdSerializers.err },
    },
    output,
  );
  return { ...wrap(logger), flush: () => output.flush() };
}
