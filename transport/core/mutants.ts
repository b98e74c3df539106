/**
 * Known-wrong variants of the protocol, switched on by the simulator only, each of which must be caught (architecture.md section 4). In
 * production the set is empty. Owns: the list and what each would cost a user.
 */
export const MUTANTS = {
  'ack-before-shadow': 'a message answered 250 exists once; losing that disk loses it',
  'ack-before-own-sync': 'a power cut after the 250 loses the copy of the primary',
  'shadow-confirms-before-sync': 'a power cut at the shadow after the 250 leaves one copy',
  'discard-before-all-recipients': 'a primary lost between two recipients loses the second one',
  'discard-before-sync': 'the shadow gives its copy up for a finality that a power cut undoes',
  'late-shadow-resurrects': 'a message refused with 451 stays on a shadow and is delivered later',
  'abort-not-durable': 'after a restart a refused message is delivered',
  'unknown-is-done': 'a shadow deletes the only copy left when the primary has lost its memory of it',
  'shadow-outside-boundary': 'mail leaves its legal or network boundary',
  'local-before-remote': 'a site loss takes both copies although the other site was reachable',
  'restart-forgets-candidates':
    'a primary that lost its copy says "aborted" while a shadow holds it: refused and delivered all the same',
  'recovered-intake-dropped': 'a message that was answered 250 just before a crash is gone after it',
  'claim-ignored': 'the owner of a lower try delivers as well, the store sees it twice from two owners',
  'safety-net-skipped': 'after delivery nothing is kept: a failed-over mailbox database cannot be refilled',
  'wall-clock-expiry': 'a wall-clock jump empties the Safety Net',
  'dsn-unprotected': 'a failure notice is lost with one disk: mail vanishes silently',
  'delivers-before-protected': 'a message that is refused with 451 was delivered already',
} as const;

export type Mutant = keyof typeof MUTANTS;
