/**
 * Invariants are assertions that stay on in production: a broken one ends the process, because a peer holds a copy of
 * everything and a wrong decision does not (architecture.md sentence 5).
 */
export class InvariantError extends Error {
  readonly code = 'INVARIANT';
  readonly facts: Readonly<Record<string, unknown>>;
  constructor(message: string, facts: Readonly<Record<string, unknown>> = {}) {
    super(`${message} ${JSON.stringify(facts)}`);
    this.name = 'InvariantError';
    this.facts = facts;
  }
}

export function assert(
  condition: unknown,
  message: string,
  facts?: Readonly<Record<string, unknown>>,
): asserts condition {
  if (!condition) throw new InvariantError(message, facts);
}

/** Marks a switch over a union as complete; reaching it is a broken invariant. */
export function unreachable(value: never, message: string): never {
  throw new InvariantError(message, { value });
}
