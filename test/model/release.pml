/*
 * Release, resignation, re-shadowing and takeover with frames that are late, lost, repeated and out of order. Rules 9 (RELEASE), 13, 15 and 17 of protocol.md.
 *
 * One acknowledged message on three members: 0 owns it, 1 is its shadow, 2 has nothing. Two frames may be under way at once; either may stay there for
 * ever while the other one carries everything else, so any one frame may be as late as it likes. Shadows may suspect their owner at any time. Each run has one
 * power cut and one lost volume at most. Checked whenever a holder honours a RELEASE: two durable copies are left (one when a volume is lost), and always: one.
 *
 * Code, in transport/core:
 *   tells, arrives STATE  ownership.ts: listReceived, tellHolders, stateReceived, announceHeld; claims.ts: claimReceived
 *   arrives HOLDS         ownership.ts: stateAcknowledged, listReceived, heldLate, confirmHolder; claims.ts: grantReceived; placing.ts: stored
 *   copies                placing.ts: reshadow; intake.ts: shadowEnded
 *   takes_over            takeover.ts: takeOver; ownership.ts: promote
 *   raises, releases, arrives RELEASE   drain.ts: freeLeaving, raiseForRelease, sendReleases, releaseReceived
 *   resigns               drain.ts: resign, resignReceived, becomeOwner
 *
 * Bug switches:
 *   SAME_EPOCH         RELEASE within one epoch: the term is not raised first (rule 9)
 *   ANY_EPOCH          a holder honours a RELEASE whatever epoch it names
 *   NONE_CONFIRMED     RELEASE leaves before another holder is confirmed at the raised epoch
 *   OLD_CONFIRMATION   "I hold it" counts at whatever epoch it was said (rules 8, 17)
 *   HOLDS_UNSYNCED     "I hold it" is said before the record is durable
 *   RESIGN_UNCONFIRMED the owner resigns in favour of a member that has not confirmed its copy (rule 15)
 *   RESIGN_DELETES     the owner deletes its own copy with the resignation instead of becoming a shadow
 */

#define STATE 1
#define HOLDS 2
#define PLACE 3
#define RELEASE 4

#define BIT(m) (1 << (m))
#define EPOCH(term, owner) ((term) * 4 + (owner))
#define TERM(e) ((e) >> 2)
#define OWNER(e) ((e) & 3)
#ifndef MAX_TERM
#define MAX_TERM 2
#endif
#define FRAME(kind, from, to, e) (((kind) << 8) | ((from) << 6) | ((to) << 4) | (e))
#define SYNCED 255
#define UNSTORED 254

#ifndef CUTS
#define CUTS 1
#endif
#ifndef LOSSES
#define LOSSES 1
#endif
#ifndef RELEASES
#define RELEASES 1
#endif
#ifndef RESIGNS
#define RESIGNS 1
#endif

bit has[3], lost[3];
byte epoch[3], confirmed[3];
/* What a power cut leaves of an unsynced record: its epoch before, UNSTORED, or SYNCED. */
byte was[3] = SYNCED;
/* The epoch before it was raised for a RELEASE, plus one. */
byte before[3];
byte cuts = 0, losses = 0, releases = 0, resigns = 0;
short f0 = 0, f1 = 0;

hidden short frame;
hidden byte from, to, e;

#define OWNS(x) (has[x] && OWNER(epoch[x]) == (x))
#define DURABLE(x) (has[x] && was[x] != UNSTORED)
#define COPIES (DURABLE(0) + DURABLE(1) + DURABLE(2))

inline send(kind, a, b, at) {
  if
  :: f1 == 0 && !lost[b] -> f1 = FRAME(kind, a, b, at); if :: f1 > f0 -> frame = f0; f0 = f1; f1 = frame :: else fi
  :: else
  fi;
  frame = 0
}

inline set_epoch(x, at) { epoch[x] = at; confirmed[x] = 0; before[x] = 0 }
inline forget(x) { has[x] = 0; epoch[x] = 0; confirmed[x] = 0; before[x] = 0; was[x] = SYNCED }

#ifdef HOLDS_UNSYNCED
#define RECORD(x, left) if :: was[x] == SYNCED -> was[x] = left :: else fi
#else
#define RECORD(x, left) skip
#endif
#ifdef OLD_CONFIRMATION
#define CONFIRMS(x, at) true
#else
#define CONFIRMS(x, at) (epoch[x] == (at))
#endif
#ifdef ANY_EPOCH
#define HONOURS(x, at) true
#else
#define HONOURS(x, at) (epoch[x] == (at))
#endif

inline arrive() {
  from = (frame >> 6) & 3; to = (frame >> 4) & 3; e = frame & 15;
  printf("%d hears %d from %d, epoch %d.%d\n", to, frame >> 8, from, TERM(e), OWNER(e));
  if
  :: (frame >> 8) == STATE && has[to] ->
       if :: e > epoch[to] -> RECORD(to, epoch[to]); set_epoch(to, e) :: else fi;
       send(HOLDS, to, from, epoch[to])
  :: (frame >> 8) == PLACE ->
       if
       :: !has[to] -> RECORD(to, UNSTORED); has[to] = 1; set_epoch(to, e)
       :: has[to] && e > epoch[to] -> RECORD(to, epoch[to]); set_epoch(to, e)
       :: else
       fi;
       send(HOLDS, to, from, epoch[to])
  :: (frame >> 8) == HOLDS && has[to] ->
       if
       :: OWNS(to) && !lost[from] && CONFIRMS(to, e) && e <= epoch[to] -> confirmed[to] = confirmed[to] | BIT(from)
       :: e > epoch[to] -> set_epoch(to, e)
       :: else -> send(STATE, to, from, epoch[to])
       fi
  :: (frame >> 8) == RELEASE && has[to] && !OWNS(to) && HONOURS(to, e) ->
       forget(to);
       assert(COPIES >= 2 - losses);
       assert(COPIES >= 1)
  :: else
  fi;
  frame = 0; from = 0; to = 0; e = 0
}

#define arrives(slot) \
  :: d_step { slot != 0 -> frame = slot; slot = 0; sort(); arrive() } \
  :: d_step { slot != 0 -> frame = slot; arrive() } \
  :: d_step { slot != 0 -> printf("a frame is lost\n"); slot = 0; sort() }
inline sort() { if :: f0 == 0 && f1 != 0 -> f0 = f1; f1 = 0 :: else fi }

#define tells(x, y) \
  :: d_step { f1 == 0 && OWNS(x) && !lost[y] -> printf("%d tells %d its epoch\n", x, y); send(STATE, x, y, epoch[x]) } \
  :: d_step { f1 == 0 && has[x] && OWNER(epoch[x]) == (y) && !lost[y] -> printf("%d lists its copy to %d\n", x, y); send(HOLDS, x, y, epoch[x]) } \
  :: d_step { f1 == 0 && OWNS(x) && !lost[y] && !(confirmed[x] & BIT(y)) -> printf("%d places a copy at %d\n", x, y); send(PLACE, x, y, epoch[x]) }

#define takes_over(x) \
  :: d_step { has[x] && !OWNS(x) && TERM(epoch[x]) < MAX_TERM -> printf("%d takes over\n", x); set_epoch(x, EPOCH(TERM(epoch[x]) + 1, x)) }

/* For a RELEASE the owner first raises its term. */
#define raises(x) \
  :: d_step { OWNS(x) && TERM(epoch[x]) < MAX_TERM && releases < RELEASES -> printf("%d raises its term\n", x); \
       frame = epoch[x] + 1; set_epoch(x, EPOCH(TERM(epoch[x]) + 1, x)); before[x] = frame; frame = 0 }
#ifdef SAME_EPOCH
#define OLD_EPOCH(x) (epoch[x] + 1)
#else
#define OLD_EPOCH(x) before[x]
#endif
#ifdef NONE_CONFIRMED
#define ANOTHER_STAYS(x, y) true
#else
#define ANOTHER_STAYS(x, y) ((confirmed[x] & ~BIT(y)) != 0)
#endif
#define releases(x, y) \
  :: d_step { f1 == 0 && OWNS(x) && !lost[y] && OLD_EPOCH(x) != 0 && releases < RELEASES && ANOTHER_STAYS(x, y) -> printf("%d releases %d\n", x, y); \
       releases++; confirmed[x] = confirmed[x] & ~BIT(y); send(RELEASE, x, y, OLD_EPOCH(x) - 1) }

#ifdef RESIGN_UNCONFIRMED
#define MAY_RESIGN(x, y) true
#else
#define MAY_RESIGN(x, y) ((confirmed[x] & BIT(y)) != 0)
#endif
#ifdef RESIGN_DELETES
#define AFTER_RESIGN(x) forget(x); assert(COPIES >= 2 - losses)
#else
#define AFTER_RESIGN(x) skip
#endif
#define resigns(x, y) \
  :: d_step { OWNS(x) && !lost[y] && resigns < RESIGNS && TERM(epoch[x]) < MAX_TERM && MAY_RESIGN(x, y) -> printf("%d resigns for %d\n", x, y); \
       resigns++; set_epoch(x, EPOCH(TERM(epoch[x]) + 1, y)); send(STATE, x, y, epoch[x]); AFTER_RESIGN(x); \
       if :: !has[y] -> assert(has[y]) :: else fi }

#define faults(x) \
  :: d_step { was[x] != SYNCED -> printf("%d synced\n", x); was[x] = SYNCED } \
  :: d_step { was[x] != SYNCED && cuts < CUTS -> printf("%d: power cut\n", x); cuts++; \
       if :: was[x] == UNSTORED -> forget(x) :: else -> frame = was[x]; was[x] = SYNCED; set_epoch(x, frame); frame = 0 fi } \
  :: d_step { losses < LOSSES && has[x] -> printf("%d: volume lost\n", x); losses++; lost[x] = 1; forget(x); \
       confirmed[0] = confirmed[0] & ~BIT(x); confirmed[1] = confirmed[1] & ~BIT(x); confirmed[2] = confirmed[2] & ~BIT(x) }

#define EACH(action) action(0) action(1) action(2)
#define EACH_PAIR(action) action(0, 1) action(0, 2) action(1, 0) action(1, 2) action(2, 0) action(2, 1)

active proctype cluster() {
  d_step { has[0] = 1; has[1] = 1; confirmed[0] = BIT(1) }
  do
  arrives(f0) arrives(f1)
  EACH_PAIR(tells) EACH(takes_over) EACH(raises) EACH_PAIR(releases) EACH_PAIR(resigns) EACH(faults)
  od
}
