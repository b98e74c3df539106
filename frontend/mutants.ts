/**
 * Known-wrong variants of the front end (protocol.md 5), switched on by the simulator only. In production the set is empty. Owns: the list and what each would
 * cost a user.
 */
export const FRONTEND_MUTANTS = {
  'silence-is-refusal':
    'the client hears 451 about a message that a transport holds: it is refused and delivered all the same',
} as const;

export type FrontendMutant = keyof typeof FRONTEND_MUTANTS;
