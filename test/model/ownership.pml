/*
 * Ownership: takeover, return, demotion, doubt and re-shadowing. Rules 12, 13, 14 and 17 of protocol.md.
 *
 * One acknowledged message on three members: 0 owns it, 1 is its shadow. A member may be down for as long as it likes, one link may be cut and mended, and two
 * volumes may be lost - the second only when every owner counts its copy as protected: that number is exact or this fails. Checked: the message is delivered
 * or held (S2); no two members are each other's shadows (nobody would deliver); it is delivered once unless a link was cut or a volume lost (S8, reconcile
 * before deliver); never two owners at one epoch (S7).
 *
 * Code, in transport/core:
 *   meets       ownership.ts: peerUp, listReceived, stateReceived; claims.ts: heardAbout; demotion.ts: demote; copy.ts: merge
 *   takes_over  takeover.ts: lose, takeOver; presence.ts: isAbsent; ownership.ts: promote; claims.ts: claimReceived, grantReceived (row 32)
 *   confirms    ownership.ts: confirmHolder          reshadow  placing.ts: reshadow, stored
 *   COMES_BACK, BOUND_OVER  doubt.ts: beginDoubt, answered, doubtsTimedOut; presence.ts: isolation, notice
 *   delivers    ownership.ts: settle; delivery.ts    restarts  server.ts: recover
 *
 * Bug switches:
 *   DROPS              a copy is removed, not demoted, when a higher epoch is seen (rule 12)
 *   TERM_ONLY          epochs are compared by their term, the owner breaks no tie
 *   NO_CLAIM           a takeover asks nobody (rule 13)
 *   NO_GRANT_RECORD    a grant is a notice: who grants keeps its old owner (rule 13)
 *   NO_RECONCILE       who comes back delivers without asking (rule 14)
 *   OLD_HOLDERS_COUNT  the placements of the former epoch count as confirmed after a takeover (rule 17)
 *   LOST_HOLDER_COUNTS a holder whose volume is gone goes on counting (rule 17, S8)
 */

#define NOTHING 0
#define COPY 1
#define FINAL 2

#define BIT(m) (1 << (m))
/* A lost volume comes back as a database of its own: identities 0 to 2, then 3 and 4. */
#define EPOCH(term, owner) ((term) * 8 + (owner))
#define TERM(e) ((e) >> 3)
#define OWNER(e) ((e) & 7)
#define MAX_TERM 3
#ifdef TERM_ONLY
#define HIGHER(a, b) (TERM(a) > TERM(b))
#else
#define HIGHER(a, b) ((a) > (b))
#endif

#ifndef CRASHES
#define CRASHES 2
#endif
#ifndef CUTS
#define CUTS 2
#endif
#ifndef LOSSES
#define LOSSES 2
#endif

/* At which member databases 3 and 4 were opened. */
byte heir[2];
byte has[3], epoch[3], confirmed[3], me[3];
bit started;
/* In doubt: these members must answer before it is delivered. */
byte doubt[3];
bit down[3];
byte cut = 0, cuts = 0, crashes = 0, losses = 0, delivered = 0;

/* Links are numbered by the sum of their ends. */
#define LINKED(x, y) ((x) != (y) && !down[x] && !down[y] && cut != (x) + (y))
#define OWNS(x) (has[x] == COPY && OWNER(epoch[x]) == me[x])
#define IS_SHADOW(x) (has[x] == COPY && OWNER(epoch[x]) != me[x])
/* The member of the database that x takes for the owner, as far as it lives; 3: it is gone. */
#define AT(x) (OWNER(epoch[x]) == me[0] -> 0 : (OWNER(epoch[x]) == me[1] -> 1 : (OWNER(epoch[x]) == me[2] -> 2 : 3)))
#define THIRD(x, y) (3 - (x) - (y))

inline clear(x, what) { has[x] = what; epoch[x] = 0; confirmed[x] = 0; doubt[x] = 0 }

#ifdef DROPS
#define DEMOTED(x, y) clear(x, NOTHING)
#else
#define DEMOTED(x, y) epoch[x] = epoch[y]; confirmed[x] = 0; doubt[x] = 0
#endif
/* x learns what y says of the message. */
inline learn(x, y) {
  if
  :: has[x] == COPY && has[y] == FINAL -> clear(x, FINAL)
  :: has[x] == COPY && has[y] == COPY && HIGHER(epoch[y], epoch[x]) -> DEMOTED(x, y)
  :: else
  fi
}

/* A holder at exactly the owner's epoch (rule 8). */
inline confirm(x, y) {
  if :: OWNS(x) && has[y] == COPY && epoch[y] == epoch[x] -> confirmed[x] = confirmed[x] | BIT(y) :: else fi;
  if :: OWNS(y) && has[x] == COPY && epoch[y] == epoch[x] -> confirmed[y] = confirmed[y] | BIT(x) :: else fi
}

#define meets(x, y) \
  :: d_step { LINKED(x, y) && (has[x] == COPY || has[y] == COPY) -> printf("%d and %d tell each other\n", x, y); \
       learn(x, y); learn(y, x); confirm(x, y); \
       doubt[x] = doubt[x] & ~BIT(y); doubt[y] = doubt[y] & ~BIT(x) }

/* CLAIM at the raised epoch to z: it grants and re-parents, or answers with what it knows better. */
#ifdef NO_CLAIM
#define ASK(x, z) skip
#define CLAIM(x, z) skip
#else
#define ASK(x, z) if :: LINKED(x, z) -> learn(x, z) :: else fi
#ifdef NO_GRANT_RECORD
#define CLAIM(x, z) if :: LINKED(x, z) && has[z] == COPY -> confirmed[x] = confirmed[x] | BIT(z) :: else fi
#else
#define CLAIM(x, z) if :: LINKED(x, z) && has[z] == COPY -> learn(z, x); confirm(x, z) :: else fi
#endif
#endif
#ifdef OLD_HOLDERS_COUNT
#define NEW_PLACEMENTS(x) BIT(AT(x))
#else
#define NEW_PLACEMENTS(x) 0
#endif

/* The owner, member y, is absent, runs on another database, or says that it never had it. */
#define takes_over(x, y) \
  :: d_step { !down[x] && IS_SHADOW(x) && TERM(epoch[x]) < MAX_TERM && LOST(x, y) -> printf("%d takes over\n", x); \
       ASK(x, THIRD(x, y)); \
       if \
       :: IS_SHADOW(x) && LOST(x, y) -> \
            confirmed[x] = NEW_PLACEMENTS(x); epoch[x] = EPOCH(TERM(epoch[x]) + 1, me[x]); \
            CLAIM(x, THIRD(x, y)) \
       :: else \
       fi }
#define LOST(x, y) ((AT(x) == (y) && (!LINKED(x, y) || has[y] == NOTHING)) || (AT(x) == 3 && WAS_AT(x, y)))
/* Databases 3 and 4 are the successors, of which the member is remembered. */
#define WAS_AT(x, y) (OWNER(epoch[x]) == (y) || (OWNER(epoch[x]) >= 3 && heir[OWNER(epoch[x]) - 3] == (y)))

#define reshadow(x, y) \
  :: d_step { LINKED(x, y) && OWNS(x) && has[y] == NOTHING && crashes + cuts + losses > 0 -> printf("%d gets a shadow at %d\n", x, y); \
       has[y] = COPY; epoch[y] = epoch[x]; confirm(x, y) }

#define delivers(x) \
  :: d_step { !down[x] && OWNS(x) && (doubt[x] == 0 || BOUND_OVER(x)) && delivered < 4 -> printf("%d delivers\n", x); \
       clear(x, FINAL); delivered++ }
/* The wait ends when only members are left that cannot be reached: loss is worse than a duplicate. */
#define BOUND_OVER(x) (!UNHEARD(x, 0) && !UNHEARD(x, 1) && !UNHEARD(x, 2))
#define UNHEARD(x, y) ((doubt[x] & BIT(y)) && LINKED(x, y))

#define crashes_and_returns(x) \
  :: d_step { !down[x] && crashes < CRASHES && has[x] == COPY -> printf("%d goes down\n", x); down[x] = 1; crashes++ } \
  :: d_step { down[x] -> printf("%d comes back\n", x); down[x] = 0; COMES_BACK(x) }
#ifdef NO_RECONCILE
#define COMES_BACK(x) skip
#else
#define COMES_BACK(x) if :: OWNS(x) -> doubt[x] = 7 & ~BIT(x) :: else fi
#endif

/* Nobody counts its copy as single, so another volume may go. */
#define PROTECTED ((OWNS(0) || OWNS(1) || OWNS(2)) && (!OWNS(0) || confirmed[0]) && (!OWNS(1) || confirmed[1]) && (!OWNS(2) || confirmed[2]))
#define loses_volume(x) \
  :: d_step { has[x] != NOTHING && losses < LOSSES && (losses == 0 || PROTECTED) -> printf("%d loses its volume\n", x); \
       clear(x, NOTHING); down[x] = 0; heir[losses] = x; me[x] = 3 + losses; losses++; \
       NO_LONGER(0, x); NO_LONGER(1, x); NO_LONGER(2, x) }
#ifdef LOST_HOLDER_COUNTS
#define NO_LONGER(x, y) skip
#else
#define NO_LONGER(x, y) confirmed[x] = confirmed[x] & ~BIT(y)
#endif

#define EACH(action) action(0) action(1) action(2)
#define EACH_PAIR(action) action(0, 1) action(0, 2) action(1, 0) action(1, 2) action(2, 0) action(2, 1)

active proctype cluster() {
  d_step { me[0] = 0; me[1] = 1; me[2] = 2; has[0] = COPY; has[1] = COPY; confirmed[0] = BIT(1); started = 1 }
  do
  meets(0, 1) meets(0, 2) meets(1, 2)
  EACH_PAIR(takes_over) EACH_PAIR(reshadow) EACH(delivers)
  EACH(crashes_and_returns) EACH(loses_volume)
  :: d_step { cut == 0 && cuts < CUTS -> printf("link 0-1 cut\n"); cut = 1; cuts++ }
  :: d_step { cut == 0 && cuts < CUTS -> printf("link 0-2 cut\n"); cut = 2; cuts++ }
  :: d_step { cut == 0 && cuts < CUTS -> printf("link 1-2 cut\n"); cut = 3; cuts++ }
  :: d_step { cut != 0 -> printf("link mended\n"); cut = 0 }
  od
}

#define KEPT (delivered > 0 || has[0] == COPY || has[1] == COPY || has[2] == COPY)
#define IN_CIRCLE(x, y) (IS_SHADOW(x) && IS_SHADOW(y) && OWNER(epoch[x]) == me[y] && OWNER(epoch[y]) == me[x])
#define CIRCLE (IN_CIRCLE(0, 1) || IN_CIRCLE(0, 2) || IN_CIRCLE(1, 2))
#define ONCE (cuts > 0 || losses > 0 || delivered <= 1)
/* Two owners of one term that have heard each other: neither would ever yield. */
#define STAND_OFF(x, y) (OWNS(x) && OWNS(y) && !HIGHER(epoch[x], epoch[y]) && !HIGHER(epoch[y], epoch[x]))

active proctype invariants() {
  do
  :: d_step { started && !KEPT -> assert(KEPT) }
  :: d_step { CIRCLE -> assert(!CIRCLE) }
  :: d_step { !ONCE -> assert(ONCE) }
  :: d_step { STAND_OFF(0, 1) || STAND_OFF(0, 2) || STAND_OFF(1, 2) -> assert(false) }
  od
}
