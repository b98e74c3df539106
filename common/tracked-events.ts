/**
 * Names of what travels with a copy among its events and is no event of its life: by what message tracking finds it (semantics.md D10). Details: the Message-ID
 * with its brackets; a hash of its subject (`smtp/subject-hash.ts`); the copy it was made of, in another boundary or in this one (semantics.md D3).
 */
export const MESSAGE_ID = 'MESSAGE-ID';
export const SUBJECT_HASH = 'SUBJECT-HASH';
export const PARENT = 'PARENT';
