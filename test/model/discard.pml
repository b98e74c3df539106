/*
 * Discard and finality. Rules 9, 10 and 11 of protocol.md.
 *
 * One acknowledged message for two recipients, of whom the second may fail and then needs a DSN. Member 0 owns it, member 1 is its shadow. A frame that was
 * ever sent may arrive at any time, in any order, any number of times, or never: `sent` only grows. Each member may suffer a power cut; one volume may be lost
 * or one copy damaged. Checked: every recipient is served, reported by a DSN, or still pending on a readable copy in transit; what is not final
 * has two copies while no volume is lost; nobody serves a recipient of whom
 * it has durably heard that he is final; nobody is served twice without a fault.
 *
 * Code, in transport/core:
 *   serves, fails  delivery.ts: recordResults; reports.ts: forkDsn   dsn_stored   reports.ts: dsnSafe; copy.ts: isAnnounceable
 *   finishes       delivery.ts: finishIfFinal, finalize              tells        ownership.ts: listReceived, tellHolders, answerFor
 *   forgets        tombstones.ts: forgetIfAnswered; ownership.ts: placementAnswered
 *   hears_*        ownership.ts: stateReceived, finalReceived; copy.ts: merge
 *   takes_over     ownership.ts: promote; takeover.ts: identityMet
 *
 * Bug switches:
 *   BY_AGE            a shadow copy is deleted when it is old (rule 10)
 *   UNKNOWN_IS_DONE   "unknown" from the same identity ends the shadow copy (rule 10)
 *   NEW_IS_DONE       so does the ignorance of a new queue database at the owner's place
 *   FORGETS_EARLY     the tombstone is forgotten before every holder has acknowledged (rule 9)
 *   BEFORE_ALL        the first final recipient discards the copy (S1)
 *   BEFORE_SYNC       finality is told before it is durable (rule 9)
 *   DSN_ALONE         a failure is announced while its DSN rests on one volume (rule 11)
 *   STALE_WINS        an older STATE replaces what is known about the recipients (section 11: merge)
 *   ACK_UNSYNCED      the holder acknowledges finality before its record is durable (rule 9)
 */

#define PENDING 0
#define SERVED 1
#define FAILED 2

/* What a member has of the message. */
#define NOTHING 0
#define TRANSIT 1
#define FINAL 2

/* STATE frames of the owner, as bits of `sent`. */
#define STATE_PENDING(first, second) (1 << ((first) * 3 + (second)))
#define STATE_FINAL(second) (1 << (6 + (second)))
#define STATE_UNKNOWN (1 << 9)

/* Member 0. `durable_*`: what a power cut leaves. */
byte owner = TRANSIT, first = PENDING, second = PENDING;
byte durable_first = PENDING, durable_second = PENDING, durable_owner = TRANSIT;
bit dsn, dsn_durable, owes = 1, new_database;
/* Member 1. */
bit shadow = 1, promoted, done, shadow_dsn, done_unsynced;
byte known_first = PENDING, known_second = PENDING;
/* Served by anybody; DSN delivered. */
byte first_served = 0, second_served = 0;
bit dsn_sent, fault, acknowledged, served_known;
bit power_cut, volume_lost;
/* The shadow has known of it, whatever it believes now. */
bit heard_first, heard_second;
short sent = 0;

#ifdef DSN_ALONE
#define DSN_SAFE true
#else
#define DSN_SAFE (shadow_dsn || dsn_sent)
#endif
/* A failure counts for others only once its DSN is safe. */
#define ANNOUNCED(outcome) ((outcome) == FAILED && !DSN_SAFE -> PENDING : (outcome))
#ifdef BEFORE_ALL
#define ALL_FINAL (first != PENDING || second != PENDING)
#else
#define ALL_FINAL (first != PENDING && ANNOUNCED(second) != PENDING)
#endif
#define SYNCED (durable_first == first && durable_second == second && durable_owner == owner && dsn_durable == dsn)
#ifdef BEFORE_SYNC
#define MAY_TELL true
#else
#define MAY_TELL SYNCED
#endif

#define OWNER_LOSES owner = NOTHING; durable_owner = NOTHING; first = PENDING; second = PENDING; durable_first = PENDING; durable_second = PENDING

active proctype cluster() {
  do
  /* --- owner */
  :: d_step { owner == TRANSIT && first == PENDING && !promoted -> printf("owner: serves the first\n"); first = SERVED; first_served++ }
  :: d_step { owner == TRANSIT && second == PENDING && !promoted -> printf("owner: serves the second\n"); second = SERVED; second_served++ }
  :: d_step { owner == TRANSIT && second == PENDING && !promoted -> printf("owner: the second fails\n"); second = FAILED; dsn = 1 }
  :: d_step { owner != NOTHING && !SYNCED -> printf("owner: synced\n");
       durable_first = first; durable_second = second; durable_owner = owner; dsn_durable = dsn }
  :: d_step { dsn && dsn_durable && !shadow_dsn && !volume_lost -> printf("shadow: stores the DSN\n"); shadow_dsn = 1 }
  :: d_step { (dsn_durable || shadow_dsn) && !dsn_sent -> printf("the DSN is delivered\n"); dsn_sent = 1 }
  :: d_step { owner == TRANSIT && ALL_FINAL -> printf("owner: all final\n"); owner = FINAL }
  :: d_step { owner == TRANSIT && MAY_TELL && !(sent & STATE_PENDING(first, ANNOUNCED(second))) -> printf("owner: tells progress\n");
       sent = sent | STATE_PENDING(first, ANNOUNCED(second)) }
  :: d_step { owner == FINAL && MAY_TELL && !(sent & STATE_FINAL(second)) -> printf("owner: tells finality\n"); sent = sent | STATE_FINAL(second) }
  /* Asked by a holder about a copy it knows nothing of. */
  :: d_step { owner == NOTHING && shadow && !done && !(sent & STATE_UNKNOWN) -> printf("owner: says unknown\n"); sent = sent | STATE_UNKNOWN }
#ifdef FORGETS_EARLY
  :: d_step { owner == FINAL && SYNCED -> printf("owner: forgets\n"); owner = NOTHING; durable_owner = NOTHING }
#else
  :: d_step { owner == FINAL && SYNCED && !owes -> printf("owner: forgets\n"); owner = NOTHING; durable_owner = NOTHING }
#endif
  :: d_step { acknowledged && owes -> printf("owner: hears the acknowledgement\n"); owes = 0 }

  /* --- shadow */
#define hears_progress(one, two) \
  :: d_step { shadow && !promoted && (sent & STATE_PENDING(one, two)) && LEARNS(one, two) -> printf("shadow: hears progress %d %d\n", one, two); LEARN(one, two) }
#ifdef STALE_WINS
#define LEARNS(one, two) (known_first != (one) || known_second != (two))
#define LEARN(one, two) \
  heard_first = heard_first | (known_first != PENDING); heard_second = heard_second | (known_second != PENDING); known_first = one; known_second = two
#else
#define LEARNS(one, two) ((known_first == PENDING && (one) != PENDING) || (known_second == PENDING && (two) != PENDING))
#define LEARN(one, two) \
  if :: known_first == PENDING -> known_first = one :: else fi; if :: known_second == PENDING -> known_second = two :: else fi
#endif
  hears_progress(PENDING, PENDING) hears_progress(SERVED, PENDING) hears_progress(PENDING, SERVED) hears_progress(SERVED, SERVED)
  hears_progress(PENDING, FAILED) hears_progress(SERVED, FAILED)
#define hears_final(two) \
  :: d_step { shadow && !promoted && (sent & STATE_FINAL(two)) -> printf("shadow: hears finality\n"); shadow = 0; done = 1; HOLDER_RECORD }
#ifdef ACK_UNSYNCED
#define HOLDER_RECORD done_unsynced = 1; acknowledged = 1
#else
#define HOLDER_RECORD acknowledged = 1
#endif
  hears_final(PENDING) hears_final(SERVED) hears_final(FAILED)
  :: d_step { done_unsynced -> printf("shadow: synced\n"); done_unsynced = 0 }
  :: d_step { shadow && !promoted && (sent & STATE_UNKNOWN) && !new_database -> printf("shadow: hears unknown\n");
#ifdef UNKNOWN_IS_DONE
       shadow = 0; done = 1 }
#else
       promoted = 1 }
#endif
  :: d_step { shadow && !promoted && new_database -> printf("shadow: meets a new database\n");
#ifdef NEW_IS_DONE
       shadow = 0; done = 1 }
#else
       promoted = 1 }
#endif
#ifdef BY_AGE
  :: d_step { shadow && !promoted -> printf("shadow: too old\n"); shadow = 0 }
#endif
  :: d_step { promoted && shadow && known_first == PENDING -> printf("new owner: serves the first\n");
       served_known = served_known | heard_first; first_served++; known_first = SERVED }
  :: d_step { promoted && shadow && known_second == PENDING -> printf("new owner: serves the second\n");
       served_known = served_known | heard_second; second_served++; known_second = SERVED }
  :: d_step { promoted && shadow && known_second == PENDING -> printf("new owner: the second fails\n"); known_second = FAILED; shadow_dsn = 1 }

  /* --- faults */
  :: d_step { !power_cut && owner != NOTHING && !SYNCED -> printf("owner: power cut\n"); power_cut = 1; fault = 1;
       first = durable_first; second = durable_second; owner = durable_owner; dsn = dsn_durable }
  :: d_step { !power_cut && done_unsynced -> printf("shadow: power cut\n"); power_cut = 1; done_unsynced = 0; done = 0; shadow = 1 }
  :: d_step { !volume_lost -> printf("owner: loses its volume\n"); volume_lost = 1; fault = 1; new_database = 1; OWNER_LOSES; dsn = 0; dsn_durable = 0 }
  :: d_step { !volume_lost && owner == TRANSIT && SYNCED -> printf("owner: the copy is damaged\n"); volume_lost = 1; fault = 1; OWNER_LOSES }
  :: d_step { !volume_lost -> printf("shadow: loses its volume\n"); volume_lost = 1; shadow = 0; promoted = 0; shadow_dsn = 0; done_unsynced = 0;
       acknowledged = 1 /* its identity is retired */ }
  od
}

#define ON_OWNER(durable_outcome) (durable_owner == TRANSIT && (durable_outcome) == PENDING)
#define ON_SHADOW(outcome) (shadow && (outcome) == PENDING)
#define FIRST_OK (first_served > 0 || ON_OWNER(durable_first) || ON_SHADOW(known_first))
#define SECOND_OK (second_served > 0 || dsn_sent || dsn_durable || shadow_dsn || ON_OWNER(durable_second) || ON_SHADOW(known_second))
#define ONCE (fault || (first_served <= 1 && second_served <= 1))

/* What is not durably final at its owner has its second copy. */
#define TWO_COPIES (volume_lost || durable_owner != TRANSIT || shadow)

active proctype invariants() {
  do
  :: d_step { !TWO_COPIES -> assert(TWO_COPIES) }
  :: d_step { !FIRST_OK -> assert(FIRST_OK) }
  :: d_step { !SECOND_OK -> assert(SECOND_OK) }
  :: d_step { !ONCE -> assert(ONCE) }
  :: d_step { served_known -> assert(!served_known) }
  od
}
