/**
 * Known-wrong variants of the queue database (protocol.md section 8), switched on by the simulator only (transport/core/mutants.ts). In production the set is
 * empty. Owns: the list and what each would cost a user.
 */
export const STORE_MUTANTS = {
  'recovery-trusts-page-cache':
    'what a killed process had written is promised anew and gone after the power cut that follows',
  'sync-error-ignored': 'a disk that reports a failed flush goes on taking mail that it does not keep',
  'checkpoint-without-tombstones': 'after a restart a shadow is told "unknown" about what was delivered or refused',
  'damage-cuts-tail':
    'a flipped bit in the log cuts away everything that was written after it: acknowledged mail is left with one copy, and nobody is told',
  'no-reserve': 'a transport whose disk is full cannot start, deliver or hand over: its mail waits for more space',
  'identity-reused': 'an empty volume counts as the one that was lost: nobody takes its messages over',
} as const;

export type StoreMutant = keyof typeof STORE_MUTANTS;
export const NO_MUTANTS: ReadonlySet<StoreMutant> = new Set();
