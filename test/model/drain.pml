/*
 * Drain: a member is emptied and its volume deleted. Rules 15 and 16 of protocol.md (with 9: RELEASE, 10: Safety Net, tombstones).
 *
 * Member 0 is drained, 1 and 2 stay. Message 0 is in transit, owned by 0 or by 1 and held by both; message 1 is new: member 1 may want its shadow at 0 whenever
 * its document is old. One entry rests in the Safety Nets of 0 and 1, and member 1 still has to hear from 0 that a message is final. The
 * drain is cancelled and begun again as the orchestrator likes, any member may be away, member 0 may crash. Exchanges are whole steps here (release.pml takes
 * them apart). Checked: nothing is ever on fewer than two volumes, also not when the volume of 0 is deleted; nobody is left to ask 0 what became of a message.
 *
 * Code, in transport/core unless said otherwise:
 *   arrives      intake.ts: shadowOpened, shadowEnded; resting.ts: restOpened; drain.ts: takesNothing
 *   places       placing.ts: reshadow (server.moving)     resigns   drain.ts: handOver, resign, becomeOwner
 *   releases     drain.ts: freeLeaving, raiseForRelease, releaseReceived
 *   rests        rehome.ts                                tells     ownership.ts: stateAcknowledged; tombstones.ts
 *   proves_empty drain.ts: latchIfEmpty                   deletes   the runner or operator: `member drain`
 *
 * Bug switches:
 *   NO_LATCH          a member that was proved empty takes copies again
 *   LATCH_FORGOTTEN   the latch does not outlive a crash
 *   STREAM_IGNORED    it is "empty" while the body of a copy is on its way
 *   RESTING_IGNORED   it is "empty" with entries in its Safety Net
 *   TOMBSTONE_IGNORED it is "empty" while somebody has not acknowledged a finality
 *   RELEASED_FIRST    the leaving holder is let go before another one has the copy
 *   DELETES_RESTING   an entry at rest is dropped before it has been given to somebody else
 *   OLD_REPORT        the volume is deleted on the "empty" of a drain that was cancelled since
 */

#define BIT(m) (1 << (m))
#define COUNT(mask) (((mask) & 1) + (((mask) >> 1) & 1) + ((mask) >> 2))
#ifndef GENERATIONS
#define GENERATIONS 4
#endif

/* Per message. */
byte holders[2], owner[2];
byte resting = 3, away = 0, aways = 0, crashes = 0;
bit unacknowledged = 1, draining, deleted, stream;
/* Generation of the document at member 0, that of its latch, and that of the last "empty" the orchestrator has seen; 0: none. */
byte generation = 1, latch = 0, reported = 0;

#define UP(m) (away != (m) && ((m) != 0 || !deleted))
#ifdef NO_LATCH
#define TAKES_NOTHING false
#else
#define TAKES_NOTHING (latch != 0)
#endif

/* A shadow of the new message at member 0, whatever document its owner and member 0 have read: only the latch refuses it. It is answered 250 when stored. */
#define arrives \
  :: d_step { holders[1] == 0 && !stream && UP(0) && UP(1) && !TAKES_NOTHING -> printf("0: a copy is on its way\n"); stream = 1 } \
  :: d_step { stream && UP(0) && UP(1) -> printf("0: the copy is stored\n"); stream = 0; holders[1] = 3; owner[1] = 1 }

#define places(k, y) \
  :: d_step { holders[k] != 0 && owner[k] != (y) && UP(owner[k]) && UP(y) && !(holders[k] & BIT(y)) -> printf("%d: gets a copy of message %d\n", y, k); \
       holders[k] = holders[k] | BIT(y) }
#define resigns(k, y) \
  :: d_step { draining && owner[k] == 0 && UP(0) && UP(y) && (holders[k] & BIT(y)) && (holders[k] & 1) -> printf("0: resigns message %d for %d\n", k, y); owner[k] = y }
#ifdef RELEASED_FIRST
#define OTHERS_HOLD(k) true
#else
#define OTHERS_HOLD(k) (COUNT(holders[k] & ~1) >= 2)
#endif
#define releases(k) \
  :: d_step { draining && owner[k] != 0 && (holders[k] & 1) && UP(0) && UP(owner[k]) && OTHERS_HOLD(k) -> printf("0: is released from message %d\n", k); \
       holders[k] = holders[k] & ~1 }

#ifdef DELETES_RESTING
#define RESTS_ELSEWHERE true
#else
#define RESTS_ELSEWHERE (COUNT(resting & ~1) >= 2)
#endif
#define rests \
  :: d_step { draining && (resting & 1) && UP(0) && UP(2) && !(resting & BIT(2)) -> printf("0: its entry goes to 2\n"); resting = resting | BIT(2) } \
  :: d_step { draining && (resting & 1) && UP(0) && RESTS_ELSEWHERE -> printf("0: drops its entry\n"); resting = resting & ~1 }
#define tells \
  :: d_step { unacknowledged && UP(0) && UP(1) -> printf("1: acknowledges finality\n"); unacknowledged = 0 }

#ifdef STREAM_IGNORED
#define NO_STREAM true
#else
#define NO_STREAM (!stream)
#endif
#ifdef RESTING_IGNORED
#define NO_ENTRY true
#else
#define NO_ENTRY (!(resting & 1))
#endif
#ifdef TOMBSTONE_IGNORED
#define NO_TOMBSTONE true
#else
#define NO_TOMBSTONE (!unacknowledged)
#endif
#define EMPTY (!(holders[0] & 1) && !(holders[1] & 1) && NO_STREAM && NO_ENTRY && NO_TOMBSTONE)
#define proves_empty \
  :: d_step { draining && latch == 0 && UP(0) && EMPTY -> printf("0: empty, latched in generation %d\n", generation); latch = generation }
#define reports \
  :: d_step { latch != 0 && UP(0) && reported != latch -> printf("0: reports that it is empty\n"); reported = latch }
#ifdef OLD_REPORT
#define PROVED (reported != 0)
#else
#define PROVED (reported == generation)
#endif

#define documents \
  :: d_step { !deleted && generation < GENERATIONS -> generation++; draining = 1 - draining; printf("document %d: draining %d\n", generation, draining); \
       if :: !draining -> latch = 0 :: else fi } \
  :: d_step { !deleted && draining && PROVED -> printf("the volume of 0 is deleted\n"); deleted = 1; stream = 0; \
       holders[0] = holders[0] & ~1; holders[1] = holders[1] & ~1; resting = resting & ~1; assert(!unacknowledged) }

#ifdef LATCH_FORGOTTEN
#define RESTARTED latch = 0
#else
#define RESTARTED skip
#endif
#define faults \
  :: d_step { !deleted && crashes < 1 -> printf("0: crashes\n"); crashes++; stream = 0; RESTARTED } \
  :: d_step { away == 3 && aways < 2 -> printf("1: goes away\n"); away = 1; aways++; stream = 0 } \
  :: d_step { away == 3 && aways < 2 -> printf("2: goes away\n"); away = 2; aways++ } \
  :: d_step { away != 3 -> printf("%d: comes back\n", away); away = 3 }

active proctype cluster() {
  away = 3;
  if
  :: d_step { true -> holders[0] = 3; owner[0] = 0 }
  :: d_step { true -> holders[0] = 3; owner[0] = 1 }
  fi;
  do
  arrives places(0, 2) places(1, 2) resigns(0, 1) resigns(0, 2) releases(0) releases(1) rests tells
  proves_empty reports documents faults
  od
}

#define TWO(mask) ((mask) == 0 || COUNT(mask) >= 2)
active proctype invariants() {
  do
  :: d_step { !TWO(holders[0]) -> assert(TWO(holders[0])) }
  :: d_step { !TWO(holders[1]) -> assert(TWO(holders[1])) }
  :: d_step { COUNT(resting) < 2 -> assert(COUNT(resting) >= 2) }
  od
}
