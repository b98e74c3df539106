/**
 * Questions to the domain name system as libraries ask them: name and type in, records out, an error with the code of c-ares. Owns: how many are under way, and that one message asks
 * each question once. Promise: at the deadline of a message everything it still asks fails with ETIMEOUT, whatever name servers do. What is temporary: `mail-dns.ts`.
 */
import { Resolver } from 'node:dns/promises';

export type Ask = (name: string, type: string) => Promise<string[] | string[][]>;

export class DnsError extends Error {
  readonly code: string;
  constructor(code: string, question: string) {
    super(`${question}: ${code}`);
    this.code = code;
  }
}

/** Other codes are the word of a name server, or say that there can be no such name. */
export const isTemporary = (error: unknown): boolean =>
  !(error instanceof Error && 'code' in error && ['ENODATA', 'ENOTFOUND', 'EBADNAME'].includes(String(error.code)));

const MAX_QUESTIONS = 1_000;
const LEAST_TRY_MS = 250;

/** Name servers like `192.0.2.53` or `[2001:db8::53]:5353`; none: those of the machine. */
export class DnsQuestions {
  readonly #resolver: Resolver;
  #underWay = 0;

  /** `withinMs`: about as long as somebody waits for an answer; a server that is silent is asked twice. */
  constructor(servers: readonly string[], withinMs: number) {
    this.#resolver = new Resolver({ timeout: Math.max(LEAST_TRY_MS, Math.floor(withinMs / 3)), tries: 2 });
    if (servers.length > 0) this.#resolver.setServers(servers);
  }

  /** For one message; `deadline` resolves when nobody waits any more. */
  until(deadline: Promise<void>): Ask {
    const asked = new Map<string, ReturnType<Ask>>();
    let isOver = false;
    void deadline.then(() => {
      isOver = true;
    });
    return (name, type) => {
      const question = `${type} of ${name}`;
      const known = asked.get(question);
      if (known !== undefined) return known;
      if (isOver) return Promise.reject(new DnsError('ETIMEOUT', question));
      const answer = Promise.race([
        this.#ask(name, type, question),
        deadline.then(() => Promise.reject(new DnsError('ETIMEOUT', question))),
      ]);
      asked.set(question, answer);
      // Whoever asked hears of it; whoever asks next may have more luck, as long as there is time.
      answer.catch((error: unknown) => {
        if (isTemporary(error)) asked.delete(question);
      });
      return answer;
    };
  }

  async #ask(name: string, type: string, question: string): ReturnType<Ask> {
    if (this.#underWay >= MAX_QUESTIONS) throw new DnsError('ETIMEOUT', question);
    this.#underWay++;
    try {
      // The shape is by type; whoever asks for a type knows it.
      return (await this.#resolver.resolve(name, type)) as string[] | string[][];
    } finally {
      this.#underWay--;
    }
  }
}
