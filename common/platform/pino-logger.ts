/**
 * The log port over pino; the only import of it. One JSON line per event: `time` (ISO), `level` (word), the fields, `msg`.
 * Owns: the output descriptor's buffer. Promise: a line never blocks the event loop; lines keep their order; `flush` writes out what is
 * buffered before the process ends. Fails: a closed output (EPIPE) silences the logger, it never ends the program.
 * Errors in the fields `error` and `err` become `{type, message, code, stack}`. Secrets are never passed in; `password` is redacted anyway.
 */
import { destination, type Logger as PinoLogger, pino, stdSerializers, stdTimeFunctions } from 'pino';
import type { LogFields, Logger } from './log.ts';

export interface LoggerOptions {
  /** On every line: `name` of the member, `program`. */
  readonly fields: LogFields;
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  /** 1 stdout, 2 stderr. */
  readonly descriptor: 1 | 2;
}

export interface FlushableLogger extends Logger {
  /** Synchronous; for the last moments of a process. */
  flush(): void;
}

function wrap(logger: PinoLogger): Logger {
  return {
    debug: (fields, message) => logger.debug(fields, message),
    info: (fields, message) => logger.info(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    error: (fields, message) => logger.error(fields, message),
    child: (fields) => wrap(logger.child(fields)),
  };
}

export function createLogger(options: LoggerOptions): FlushableLogger {
  const output = destination({ dest: options.descriptor, sync: false });
  let broken = false;
  output.on('error', () => {
    broken = true;
  });
  const logger = pino(
    {
      level: options.level,
      base: { ...options.fields },
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: stdSerializers.err, err: stdSerializers.err },
      redact: { paths: ['password', '*.password'], censor: '[redacted]' },
    },
    output,
  );
  return {
    ...wrap(logger),
    flush: () => {
      if (broken) return;
      try {
        output.flushSync();
      } catch (error) {
        // The output vanished between the check and the write: nobody is left to tell.
        broken = error !== undefined;
      }
    },
  };
}
