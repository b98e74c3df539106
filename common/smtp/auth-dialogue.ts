/**
 * One AUTH command from its first line to its end: takes the steps of `auth-exchange.ts` and asks the handlers. Owns: where the exchange stands. Promise: a handler
 * that fails is 454, and nobody is authenticated; what comes of it is counted once.
 */
import type { Reply } from '../message.ts';
import { type AuthStep, startAuth } from './auth-exchange.ts';
import type { EdgeHandlers, EdgeSession } from './edge-api.ts';
import { reply } from './replies.ts';
import type { Tally } from './tally.ts';

export class AuthDialogue {
  readonly #session: EdgeSession;
  readonly #handlers: EdgeHandlers;
  readonly #tally: Tally;
  #next: ((line: string) => AuthStep) | null;
  /** Who the client has proved to be. */
  user: string | null = null;

  constructor(session: EdgeSession, handlers: EdgeHandlers, tally: Tally) {
    this.#session = session;
    this.#handlers = handlers;
    this.#tally = tally;
    this.#next = (text) => startAuth(text, handlers.mechanisms(session.listener));
  }

  /** The client has to say more. */
  get isOpen(): boolean {
    return this.#next !== null;
  }

  /** What follows AUTH, later each line of the client; the reply it gets. */
  async hear(line: string): Promise<Reply> {
    const next = this.#next;
    this.#next = null;
    if (next === null) return reply('authMalformed');
    try {
      return await this.#take(next(line));
    } catch (error) {
      this.#tally.failed('AUTH', error);
      this.#tally.authenticated('error');
      return reply('authUnavailable');
    }
  }

  async #take(step: AuthStep): Promise<Reply> {
    switch (step.kind) {
      case 'challenge':
        this.#next = step.next;
        return step.reply;
      case 'refuse':
        return step.reply;
      case 'keys': {
        const start = this.#handlers.onScram(this.#session, step.user);
        return 'code' in start ? this.#refused(start) : await this.#take(step.next(start.keys, start.nonce));
      }
      case 'proof':
        this.#handlers.onScramEnd(this.#session, step.user, step.right);
        return this.#judged(step.user, step.right);
      case 'credentials': {
        const right = await this.#handlers.onAuth(this.#session, step.user, step.password);
        return typeof right === 'object' ? this.#refused(right) : this.#judged(step.user, right);
      }
    }
  }

  #refused(said: Reply): Reply {
    this.#tally.authenticated('refused');
    return said;
  }

  #judged(user: string, right: boolean): Reply {
    this.#tally.authenticated(right ? 'success' : 'failure');
    if (right) this.user = user;
    return reply(right ? 'authenticated' : 'authFailed');
  }
}
