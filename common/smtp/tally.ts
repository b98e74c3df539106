/**
 * What is counted about one SMTP session: errors and junk commands held against the client, and the metrics and log lines of what it
 * was told. Owns: those counters. Promise: an accepted message forgives what came before, so that a relay may use one session for
 * ever (semantics.md section 9: messages per connection unlimited).
 */
import type { Reply } from '../message.ts';
import { InvariantError } from '../platform/assert.ts';
import type { ConversationPort, ConversationSetting } from './conversation-port.ts';
import { reply } from './replies.ts';
import type { DataFault } from './wire.ts';

/** Why the edge ended a session; label of smtp_sessions_rejected_total. */
export type CutOff =
  | 'idleTimeout'
  | 'dataTimeout'
  | 'dataTooSlow'
  | 'tooManyErrors'
  | 'tooManyJunkCommands'
  | 'tooManyConnections'
  | 'tooManyClientConnections'
  | 'connectingTooOften'
  | 'notHttp'
  | 'earlyTalker'
  | 'unauthorisedPipelining'
  | 'refusedByPolicy'
  | 'handlerFailed';

const LIMIT_OF_FAULT: Readonly<Partial<Record<DataFault, string>>> = {
  messageTooBig: 'maxMessageBytes',
  headerTooBig: 'maxHeaderBytes',
  dataLineTooLong: 'maxDataLineBytes',
  tooManyHops: 'maxReceivedHops',
};

export class Tally {
  /** The command being answered; label of smtp_commands_total. */
  verb = 'OTHER';
  readonly #id: string;
  readonly #port: ConversationPort;
  readonly #current: () => ConversationSetting;
  #errors = 0;
  #junk = 0;

  constructor(id: string, port: ConversationPort, current: () => ConversationSetting) {
    this.#id = id;
    this.#port = port;
    this.#current = current;
  }

  say(said: Reply): void {
    const { metrics, commandLabels } = this.#current();
    const key = `${this.verb} ${said.code}`;
    let labels = commandLabels.get(key);
    if (labels === undefined) {
      labels = { verb: this.verb, code: String(said.code) };
      commandLabels.set(key, labels);
    }
    metrics.increment('smtp_commands_total', labels);
    this.#port.say(said);
  }

  /** Counts one more error. */
  tooManyErrors(): boolean {
    if (++this.#errors <= this.#current().limits.maxErrors) return false;
    this.limit('maxErrors');
    return true;
  }

  /** Counts one more command that moved no message. */
  tooMuchJunk(): boolean {
    if (++this.#junk <= this.#current().limits.maxJunkCommands) return false;
    this.limit('maxJunkCommands');
    return true;
  }

  forgive(): void {
    this.#errors = 0;
    this.#junk = 0;
  }

  authenticated(result: 'success' | 'failure' | 'error' | 'refused'): void {
    const { log, metrics } = this.#current();
    metrics.increment('smtp_auth_total', { result });
    if (result === 'failure')
      log.info({ session: this.#id, client: this.#port.remoteAddress }, 'smtp authentication failed');
  }

  limit(limit: string): void {
    this.#current().metrics.increment('smtp_limits_total', { limit });
  }

  fault(fault: DataFault): void {
    this.limit(LIMIT_OF_FAULT[fault] ?? fault);
  }

  cutOff(reason: CutOff): void {
    this.#current().metrics.increment('smtp_sessions_rejected_total', { reason });
    this.#current().log.info({ session: this.#id, client: this.#port.remoteAddress, reason }, 'smtp session cut off');
  }

  /** A handler failed: the reply for it. A broken invariant goes on up and ends the process. */
  failed(what: string, error: unknown): Reply {
    if (error instanceof InvariantError) throw error;
    this.#current().log.error({ session: this.#id, what, err: error }, 'smtp handler failed');
    return reply('localError');
  }
}
