/**
 * The log port; pino stands behind it in `pino-logger.ts` and nowhere else. A log line is a constant message plus fields; every line
 * of a message's life carries `attemptId` (observability.md, "Logs").
 */
export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
  /** A logger for one subsystem or connection; `fields` go on each of its lines. */
  child(fields: LogFields): Logger;
}

const nothing = (): void => undefined;

/** Swallows everything; for tests and for tools that print their own output. */
export const silentLogger: Logger = {
  debug: nothing,
  info: nothing,
  warn: nothing,
  error: nothing,
  child: () => silentLogger,
};
