/*
 * Intake: acknowledgement, abort and front-end replay. Rules 5, 6, 7 and 8 of protocol.md.
 *
 * One message, up to two tries of one front end: try 1 at member 0, try 2 (the replay) at member 1; member 2 is a candidate only. Every frame may be late, and
 * nothing has to happen: an exchange that never comes is a partition, a suspicion at any time is a false one. Any member may crash, and with it goes what it
 * had not synced; one volume may be lost. Checked: what was answered 250 is delivered or still held (S1), and was held twice at that moment; what was
 * answered 451 is never delivered (S3).
 *
 * Code, in transport/core unless said otherwise:
 *   fe_*          frontend/session.ts: picked, resolved, conclude, accept
 *   fe_sends      intake.ts: intakeEnded, raiseTry            send_end      placing.ts: sendEnd
 *   candidate_end intake.ts: shadowEnded, reparent, refusedByTombstone
 *   result        placing.ts: stored                          give_up       aborting.ts: abortIntake; placing.ts: keepReleased
 *   resolve       intake.ts: resolveAsked; aborting.ts: resolveAnswered; inquiry.ts: everybody, inquiryAnswered
 *   ask_owner     ownership.ts: listReceived, answerFor, stateReceived, abortReceived, promote
 *   contact       claims.ts: claimReceived, heardAbout; demotion.ts: demote
 *   restart       server.ts: recover; tombstones.ts (an abort outlives it)
 *
 * EARLY_TAKEOVER is no bug: takeover while a front end still waits; it must verify too. TRIES, CRASHES, VOLUMES_LOST bound the run.
 * Bug switches, each a wrong variant that must violate an assertion:
 *   ACK_ALONE        250 before a shadow has stored it (rule 8)
 *   ACK_UNSYNCED     250 before the own record is durable
 *   SHADOW_UNSYNCED  the shadow answers "stored" before its record is durable
 *   ANY_EPOCH        "stored" counts although the copy is at another epoch by now, or gone (rule 8)
 *   REFUSE_AT_ONCE   451 as soon as the own abort is durable (rule 6b)
 *   ABORT_UNSYNCED   the abort is not durable when RESOLVE leaves
 *   NEW_DATABASE     a candidate's refusal counts although its volume was exchanged since it was sent the END (rule 6b)
 *   NEW_DATABASE_ASKED  the same for the question of a restarted primary to everybody (rule 6e)
 *   REFUSAL_FORGOTTEN  what a member refused as a candidate is forgotten when its own question finds a holder (rules 6b, 6e)
 *   UNKNOWN_ABORTED  a restarted primary answers "aborted" for a try it does not know, without asking anybody (rule 6e)
 *   ABORT_RELEASED   an abort takes released copies too (rule 6d)
 *   ABORT_ANY_TRY    an abort takes copies of every try (rule 6f)
 *   ANY_TRY_ANSWERS  the refusal of one try is relayed although another may live (rule 7)
 *   LATE_END         an END is stored although its try was aborted here (R8)
 */

#ifndef TRIES
#define TRIES 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef VOLUMES_LOST
#define VOLUMES_LOST 1
#endif

#define SYNCED 255
#define NOBODY 3
#define BIT(m) (1 << (m))
#define ALL 7
/* A placement on a volume that is gone: nobody can answer for it any more. */
#define GONE 8
/* The tombstone stands for a question to everybody (rule 6e). */
#define INQUIRY 16

/* Identity of the queue database of member m: a lost volume comes back as database 3. */
#define ME(m) (wiped == (m) -> 3 : (m))
/* Epochs are ordered as (try, term, owner); 0: no copy. */
#define EPOCH(try, term, owner) ((try) * 16 + (term) * 4 + (owner))
#define TRY(e) ((e) >> 4)
#define TERM(e) (((e) >> 2) & 3)
#define OWNER(e) ((e) & 3)
#define MAX_TERM 1

/* The primary of try t (1, 2). */
#define AT(t) ((t) - 1)
#define PLACED(t) (ep[AT(t)] == EPOCH(t, 0, home[t]))

/* Durable, per member. `was`: the epoch that a power cut leaves, SYNCED when the record is down. */
/* `mine`: the tombstone at the primary of a try is of that try, not of another's it was a candidate of. */
bit mine[3];
byte ep[3], ab[3], owes[3], was[3] = SYNCED;
bit rel[3], fin[3];
byte wiped = NOBODY, crashes = 0, delivered = 0;

/* The front end: 1 = 250, 2 = 451, 3 = closed without a reply. */
byte tries = 0, said = 0;
bit aborted[3];
/* Per try: the RESULT on its way to the front end, the primary's search
   (1 placing, 2 aborting), frames to and from candidates. */
bit ok[3], began_released[3];
byte home[3], search[3], asked[3], end_out[3], stored[3];

inline promote(y) {
  ep[y] = EPOCH(TRY(ep[y]), TERM(ep[y]) + 1, ME(y));
  rel[y] = 1
}
#define MAY_PROMOTE(y) (TERM(ep[y]) < MAX_TERM)

#define HELD(m) ((ep[m] != 0 && (was[m] == SYNCED || was[m] != 0)) || fin[m])
#define HOLDERS (HELD(0) + HELD(1) + HELD(2))
inline accept(t) {
  said = 1;
  assert(wiped != NOBODY || HOLDERS >= 2 || delivered > 0)
}

#ifdef ABORT_ANY_TRY
#define ABORTS(e, p) true
#else
#define ABORTS(e, p) (TRY(e) <= ab[p] && OWNER(e) == ME(p))
#endif
#ifdef ABORT_RELEASED
#define INTAKE(m) true
#else
#define INTAKE(m) (!rel[m])
#endif
#ifdef LATE_END
#define TOMBSTONE_REFUSES(y, t) false
#else
#define TOMBSTONE_REFUSES(y, t) (ab[y] >= (t) && !began_released[t])
#endif
#ifdef ANY_TRY_ANSWERS
#define ALL_ABORTED (aborted[1] || aborted[2])
#else
#define ALL_ABORTED (aborted[1] && (tries < 2 || aborted[2]))
#endif
#ifdef ACK_UNSYNCED
#define OWN_SYNCED(m) true
#else
#define OWN_SYNCED(m) (was[m] == SYNCED)
#endif

/* --- front end -------------------------------------------------------------------------------------------------- */

/* END of try t reaches its primary; what comes of it may never be heard of. */
#define fe_sends(t) \
  :: d_step { said == 0 && (t) <= TRIES && tries == (t) - 1 && was[AT(t)] == SYNCED -> printf("front end: END of try %d to member %d\n", t, AT(t)); \
       tries = t; home[t] = ME(AT(t)); \
       if \
       :: ab[AT(t)] >= (t) -> aborted[t] = 1 \
       :: fin[AT(t)] || (ep[AT(t)] != 0 && (OWNER(ep[AT(t)]) == ME(AT(t)) || TRY(ep[AT(t)]) >= (t))) -> skip \
       :: else -> was[AT(t)] = ep[AT(t)]; began_released[t] = (ep[AT(t)] != 0 && rel[AT(t)]); rel[AT(t)] = began_released[t]; \
            ep[AT(t)] = EPOCH(t, 0, home[t]); search[t] = 1; BEGUN(t) \
       fi }
#ifdef ACK_ALONE
#define BEGUN(t) was[AT(t)] = SYNCED; rel[AT(t)] = 1; ok[t] = 1
#else
#define BEGUN(t) skip
#endif

#define fe_hears(t) \
  :: d_step { said == 0 && tries == (t) && ok[t] -> printf("front end: 250 (try %d)\n", t); accept(t) }

#define fe_refuses \
  :: d_step { said == 0 && tries > 0 && ALL_ABORTED -> printf("front end: 451\n"); said = 2 }

/* RESOLVE to the primary of a try, and its answer; worth something from the same database only. */
#define fe_resolves(t) \
  :: d_step { said == 0 && tries >= (t) && home[t] == ME(AT(t)) && was[AT(t)] == SYNCED && !aborted[t] -> \
       printf("front end: RESOLVE try %d to member %d\n", t, AT(t)); \
       if \
       :: fin[AT(t)] -> if :: t == tries -> accept(t) :: else fi \
       :: ep[AT(t)] == 0 && ab[AT(t)] >= (t) && search[t] == 0 && owes[AT(t)] == 0 && mine[t] -> aborted[t] = 1 \
       :: ep[AT(t)] == 0 && !fin[AT(t)] && search[t] == 0 && !(ab[AT(t)] >= (t) && mine[t]) -> UNKNOWN(t) \
       :: else \
       fi }
#ifdef UNKNOWN_ABORTED
#define UNKNOWN(t) if :: ab[AT(t)] < (t) -> ab[AT(t)] = t :: else fi; mine[t] = 1; aborted[t] = 1
#else
#define UNKNOWN(t) if :: ab[AT(t)] < (t) -> ab[AT(t)] = t :: else fi; mine[t] = 1; owes[AT(t)] = (ALL & ~BIT(AT(t))) | INQUIRY | LOST_LATELY(t)
#endif
/* A volume exchanged while a front end may still wait: what was on it can no longer be asked, its successor's "aborted" says nothing. */
#ifdef NEW_DATABASE_ASKED
#define LOST_LATELY(t) 0
#else
#define LOST_LATELY(t) (wiped != NOBODY && wiped != AT(t) -> GONE : 0)
#endif

/* --- primary ---------------------------------------------------------------------------------------------------- */

#define syncs(m) \
  :: d_step { was[m] != SYNCED -> printf("member %d: synced\n", m); was[m] = SYNCED }

#define send_end(t, y) \
  :: d_step { AT(t) != (y) && search[t] == 1 && PLACED(t) && !(asked[t] & BIT(y)) -> \
       printf("member %d: END of try %d to candidate %d\n", AT(t), t, y); \
       asked[t] = asked[t] | BIT(y); end_out[t] = end_out[t] | BIT(y) }

#ifdef ANY_EPOCH
#define IS_ANSWER(t) true
#else
#define IS_ANSWER(t) (search[t] == 1 && PLACED(t))
#endif
#define result(t, y) \
  :: d_step { (stored[t] & BIT(y)) && OWN_SYNCED(AT(t)) -> printf("member %d: candidate %d stored try %d\n", AT(t), y, t); \
       stored[t] = stored[t] & ~BIT(y); \
       if \
       :: IS_ANSWER(t) -> rel[AT(t)] = 1; search[t] = 0; ok[t] = 1 \
       :: else \
       fi }

#define give_up(t) \
  :: d_step { search[t] == 1 && PLACED(t) -> printf("member %d: no shadow for try %d\n", AT(t), t); \
       if \
       :: INTAKE(AT(t)) -> if :: ab[AT(t)] < (t) -> ab[AT(t)] = t :: else fi; mine[t] = 1; owes[AT(t)] = asked[t]; search[t] = 2; \
            ABORT_RECORD(t); ep[AT(t)] = 0; rel[AT(t)] = 0; refused_by_all(AT(t)) \
       :: else -> search[t] = 0 \
       fi }
#ifdef ABORT_UNSYNCED
#define ABORT_RECORD(t) if :: was[AT(t)] == SYNCED -> was[AT(t)] = ep[AT(t)] :: else fi
#else
#define ABORT_RECORD(t) was[AT(t)] = SYNCED
#endif

#ifdef REFUSE_AT_ONCE
#define REFUSED_BY_ALL(m) true
#else
#define REFUSED_BY_ALL(m) (owes[m] == 0)
#endif
/* Whoever becomes another's shadow looks for none of its own. */
inline search_ends(m) { if :: m < 2 && search[m + 1] == 1 -> search[m + 1] = 0 :: else fi }

/* 451 may be said for a try once everybody who was sent its END has refused. */
inline refused_by_all(m) {
  if
  :: m < 2 && search[m + 1] == 2 && REFUSED_BY_ALL(m) -> search[m + 1] = 0; aborted[m + 1] = 1
  :: else
  fi
}

/* --- candidates and shadows ------------------------------------------------------------------------------------- */

#define candidate_end(t, y) \
  :: d_step { (end_out[t] & BIT(y)) && was[y] == SYNCED -> printf("member %d: END of try %d arrives\n", y, t); \
       end_out[t] = end_out[t] & ~BIT(y); \
       if \
       :: fin[y] || TOMBSTONE_REFUSES(y, t) -> asked[t] = asked[t] & ~BIT(y) \
       :: !fin[y] && !TOMBSTONE_REFUSES(y, t) && (ep[y] == 0 || ep[y] <= EPOCH(t, 0, home[t])) -> \
            if :: ep[y] == 0 -> rel[y] = began_released[t]; SHADOW_RECORD(y) :: else -> rel[y] = rel[y] | began_released[t]; search_ends(y) fi; \
            ep[y] = EPOCH(t, 0, home[t]); stored[t] = stored[t] | BIT(y) \
       :: else -> asked[t] = asked[t] & ~BIT(y) \
       fi }
#ifdef SHADOW_UNSYNCED
#define SHADOW_RECORD(y) was[y] = 0
#else
#define SHADOW_RECORD(y) skip
#endif

/* RESOLVE of an abort at p to y, and its answer. */
#define resolve(p, y) \
  :: d_step { (p) != (y) && (owes[p] & BIT(y)) && RECORDS_DOWN(p, y) -> printf("member %d: RESOLVE through %d to %d\n", p, ab[p], y); \
       if \
       :: ep[y] != 0 && ABORTS(ep[y], p) && INTAKE(y) -> ep[y] = 0; rel[y] = 0; refuse(p, y) \
       :: ep[y] == 0 && !fin[y] -> refuse(p, y) \
       :: else -> \
            if :: ep[y] != 0 && OWNER(ep[y]) == ME(p) && TRY(ep[y]) <= ab[p] && rel[y] && MAY_PROMOTE(y) -> promote(y) :: else fi; \
            if :: owes[p] & INQUIRY -> owes[p] = 0; mine[(p) + 1] = 0; HELD_THERE(p) :: else fi \
       fi }
/* Somebody has it: nothing was aborted here. What was refused here as somebody's candidate stays refused. */
#ifdef REFUSAL_FORGOTTEN
#define HELD_THERE(p) ab[p] = 0
#else
#define HELD_THERE(p) skip
#endif
#ifdef ABORT_UNSYNCED
#define RECORDS_DOWN(p, y) true
#else
#define RECORDS_DOWN(p, y) (was[p] == SYNCED && was[y] == SYNCED)
#endif
inline refuse(p, y) {
  if :: ab[y] < ab[p] -> ab[y] = ab[p] :: else fi;
  owes[p] = owes[p] & ~BIT(y);
  if :: owes[p] == INQUIRY -> owes[p] = 0 :: else fi;
  refused_by_all(p)
}

/* y lists its copy to the member x that it knows as the owner; x answers. */
#define ask_owner(y, x) \
  :: d_step { (x) != (y) && ep[y] != 0 && (OWNER(ep[y]) == (x) || (OWNER(ep[y]) == 3 && wiped == (x))) && was[x] == SYNCED && was[y] == SYNCED -> \
       printf("member %d: asks its owner %d\n", y, x); \
       if \
       :: OWNER(ep[y]) != ME(x) -> if :: MAY_PROMOTE(y) -> promote(y) :: else fi \
       :: OWNER(ep[y]) == ME(x) && fin[x] -> fin[y] = 1; ep[y] = 0; rel[y] = 0 \
       :: OWNER(ep[y]) == ME(x) && !fin[x] && (ep[x] == 0 || ep[x] < ep[y]) -> \
            if \
            :: ep[x] == 0 && ab[x] >= TRY(ep[y]) && !rel[y] -> ep[y] = 0 \
            :: else -> if :: MAY_PROMOTE(y) -> promote(y) :: else fi \
            fi \
       :: OWNER(ep[y]) == ME(x) && !fin[x] && ep[x] >= ep[y] && rel[x] -> ep[y] = ep[x]; rel[y] = 1 \
       :: else \
       fi }

/* A shadow takes its owner for lost, rightly or not. The reply bound is below the shortest takeover (rule 5), but nothing here needs that: EARLY_TAKEOVER. */
#ifdef EARLY_TAKEOVER
#define MAY_SUSPECT true
#else
#define MAY_SUSPECT (said != 0)
#endif
#define suspects(y) \
  :: d_step { MAY_SUSPECT && ep[y] != 0 && OWNER(ep[y]) != ME(y) && MAY_PROMOTE(y) && was[y] == SYNCED -> printf("member %d: takes over\n", y); promote(y) }

/* A released owner x tells y: a lower copy becomes its shadow, and gets a copy when it has none; finality ends both. */
#define contact(x, y) \
  :: d_step { (x) != (y) && ep[x] != 0 && rel[x] && OWNER(ep[x]) == ME(x) && was[x] == SYNCED && was[y] == SYNCED && !fin[y] && ep[y] < ep[x] -> \
       printf("member %d: becomes shadow of %d\n", y, x); search_ends(y); ep[y] = ep[x]; rel[y] = 1 } \
  :: d_step { (x) != (y) && ep[x] != 0 && fin[y] && was[x] == SYNCED -> printf("member %d: hears from %d that it is final\n", x, y); \
       fin[x] = 1; ep[x] = 0; rel[x] = 0 }

#define delivers(m) \
  :: d_step { ep[m] != 0 && OWNER(ep[m]) == ME(m) && rel[m] && was[m] == SYNCED -> printf("member %d: delivers\n", m); \
       fin[m] = 1; ep[m] = 0; rel[m] = 0; delivered = 1 }

/* --- faults ----------------------------------------------------------------------------------------------------- */

#define connections_end(m) \
  end_out[1] = end_out[1] & ~BIT(m); end_out[2] = end_out[2] & ~BIT(m); \
  if \
  :: (m) < 2 -> search[(m) + 1] = 0; asked[(m) + 1] = 0; stored[(m) + 1] = 0; ok[(m) + 1] = 0 \
  :: else \
  fi

/* Power cut and restart: what was not synced is gone; an own copy in intake counts as accepted (S10). */
#define restart(m) \
  :: d_step { crashes < CRASHES && (ep[m] != 0 || ab[m] != 0) && FAULT_ALLOWED(m) -> printf("member %d: power cut\n", m); crashes++; connections_end(m); \
       if \
       :: was[m] != SYNCED -> \
            if :: ep[m] == 0 -> ab[m] = 0; owes[m] = 0; if :: (m) < 2 -> mine[(m) + 1] = 0 :: else fi :: else fi; \
            ep[m] = was[m]; was[m] = SYNCED; if :: ep[m] == 0 -> rel[m] = 0 :: else fi \
       :: else \
       fi; \
       if :: ep[m] != 0 && OWNER(ep[m]) == ME(m) -> rel[m] = 1 :: else fi }

#ifdef NEW_DATABASE
#define LOST_PLACEMENTS(m) skip
#else
#define LOST_PLACEMENTS(m) \
  if :: owes[0] & BIT(m) -> owes[0] = owes[0] | GONE :: else fi; \
  if :: owes[1] & BIT(m) -> owes[1] = owes[1] | GONE :: else fi; \
  if :: asked[1] & BIT(m) -> asked[1] = asked[1] | GONE :: else fi; \
  if :: asked[2] & BIT(m) -> asked[2] = asked[2] | GONE :: else fi
#endif
#define loses_volume(m) \
  :: d_step { VOLUMES_LOST && wiped == NOBODY && (ep[m] != 0 || ab[m] != 0 || fin[m]) && FAULT_ALLOWED(m) -> printf("member %d: loses its volume\n", m); \
       LOST_PLACEMENTS(m); connections_end(m); wiped = m; \
       ep[m] = 0; ab[m] = 0; owes[m] = 0; was[m] = SYNCED; rel[m] = 0; fin[m] = 0; if :: (m) < 2 -> mine[(m) + 1] = 0 :: else fi }

#ifndef FAULT_ALLOWED
#define FAULT_ALLOWED(m) true
#endif

#define EACH(action) action(0) action(1) action(2)
#define EACH_PAIR(action) action(0, 1) action(0, 2) action(1, 0) action(1, 2) action(2, 0) action(2, 1)
#define EACH_TRY(action) action(1) action(2)
#define EACH_CANDIDATE(action) action(1, 1) action(1, 2) action(2, 0) action(2, 2)

active proctype cluster() {
  do
  EACH_TRY(fe_sends) EACH_TRY(fe_hears) fe_refuses EACH_TRY(fe_resolves)
  EACH(syncs) EACH_CANDIDATE(send_end) EACH_CANDIDATE(result) EACH_TRY(give_up)
  EACH_CANDIDATE(candidate_end) resolve(0, 1) resolve(0, 2) resolve(1, 0) resolve(1, 2)
  EACH_PAIR(ask_owner) EACH(suspects) EACH_PAIR(contact) EACH(delivers)
  EACH(restart) EACH(loses_volume)
  od
}

#define OK_250 (said != 1 || delivered || ep[0] || ep[1] || ep[2])
#define OK_451 (said != 2 || !delivered)
active proctype invariants() {
  do
  :: d_step { !OK_250 -> assert(OK_250) }
  :: d_step { !OK_451 -> assert(OK_451) }
  od
}
