/*
 * A mailbox database fails over to a copy that lacks the last deliveries, while the message is anywhere between intake and Safety Net. Rule 19 of protocol.md
 * (and 20: an open delivery; 21: what no live primary covers).
 *
 * One acknowledged message: its first recipient has a mailbox, its second is slow. Member 0 owns it, member 1 is its shadow and may take over, also wrongly.
 * The database fails over once, from activation 1 to 2, and the new copy has nothing. Each member learns of it when its document arrives, in any order and
 * at any time. One volume may be lost, and what member 0 once said may arrive late. Checked: when everybody who lives has handled the request, the mailbox holds it.
 *
 * Code, in transport/core:
 *   learns_document  resubmission.ts: requestsChanged, reopenTransit, reopened; resubmit-match.ts: isLostActivation
 *   opens, returns   delivery.ts: startDelivery, recordResults; resubmit-walk.ts: isDeliveryOpen
 *   hears_progress   ownership.ts: stateReceived; copy.ts: mergeRecipient (the finality of the highest activation)
 *   takes_over       ownership.ts: promote; takeover.ts: takeOver
 *   meets            claims.ts: heardAbout; demotion.ts: demote; resubmission.ts: cameToRest
 *   walks            resubmit-walk.ts: pageArrived, answerer, coverageHeard, lookAgain; resubmission.ts: isCovered
 *
 * Bug switches:
 *   REST_ONLY        only copies at rest are resubmitted, what is in transit keeps its finality
 *   NO_ACTIVATION    finality is merged without its activation: what was said before the failover is believed after it
 *   NOT_AT_PROMOTION the request is not looked at when a copy is taken over
 *   OPEN_DELIVERY    a delivery that was open to the old copy is final all the same (rule 20)
 *   FINAL_ELSEWHERE  "final" of another member ends a copy in transit, and the request does not look at it where it rests then
 *   PART_CLOSED      what a primary covered stays closed when that primary is lost afterwards (rule 21)
 *   LEDGER           a ledger of (copy, recipient) without the activation suppresses the second delivery (rule 23)
 */

#define NOTHING 0
#define TRANSIT 1
#define SHADOW 2
#define REST 3
#define SHADOW_REST 4

/* Per member: where the copy is, the activation it knows, that under which the first recipient became final (0: pending), the open delivery's. */
byte place[2], knows[2] = 1, first[2], open[2];
bit second[2], handled[2], lost[2];
/* An entry of Shadow Safety Net that this member itself owned last. */
bit own_entry;
byte said = 0, in_mailbox = 0;
bit failed_over, took_over, ledger;

#define OTHER(m) (1 - (m))
#define LOST_FINALITY(m) (knows[m] == 2 && first[m] == 1)
inline reopen(m) { if :: LOST_FINALITY(m) -> first[m] = 0 :: else fi }

#ifdef LEDGER
#define SUPPRESSED ledger
#else
#define SUPPRESSED false
#endif
#ifdef OPEN_DELIVERY
#define JUDGE(m) skip
#else
#define JUDGE(m) reopen(m)
#endif
#define delivers(m) \
  :: d_step { place[m] == TRANSIT && first[m] == 0 && open[m] == 0 -> printf("%d: delivery under activation %d\n", m, knows[m]); open[m] = knows[m] } \
  :: d_step { place[m] == TRANSIT && open[m] != 0 && !(open[m] == 2 && !failed_over) -> printf("%d: delivery returns\n", m); \
       if :: !SUPPRESSED && open[m] == (failed_over -> 2 : 1) -> in_mailbox = 1 :: else fi; ledger = 1; \
       first[m] = open[m]; open[m] = 0; JUDGE(m) } \
  :: d_step { place[m] == TRANSIT && !second[m] -> printf("%d: the second is final\n", m); second[m] = 1 } \
  :: d_step { place[m] == TRANSIT && first[m] != 0 && second[m] && open[m] == 0 -> printf("%d: all final\n", m); place[m] = REST }

#ifdef REST_ONLY
#define REOPENS(m) skip
#else
#define REOPENS(m) if :: place[m] == TRANSIT -> reopen(m) :: else fi
#endif
#define learns_document(m) \
  :: d_step { failed_over && knows[m] == 1 && !lost[m] -> printf("%d: learns of the failover\n", m); knows[m] = 2; REOPENS(m) }

/* What member 0 says of the first recipient; said once, it may arrive for ever. */
#define says_progress \
  :: d_step { place[0] == TRANSIT && first[0] > said -> printf("0: says that the first is final\n"); said = first[0] }
#ifdef NO_ACTIVATION
#define NEWER(m, activation) (first[m] == 0 && (activation) != 0)
#define HEARD(m) skip
#else
#define NEWER(m, activation) ((activation) > first[m])
#define HEARD(m) if :: place[m] == TRANSIT -> reopen(m) :: else fi
#endif
#define hears_progress \
  :: d_step { (place[1] == SHADOW || place[1] == TRANSIT) && said != 0 && NEWER(1, said) -> printf("1: hears progress\n"); first[1] = said; HEARD(1) }
#define hears_final \
  :: d_step { place[0] == REST && place[1] == SHADOW -> printf("1: hears finality\n"); if :: first[0] > first[1] -> first[1] = first[0] :: else fi; place[1] = SHADOW_REST }

#ifdef NOT_AT_PROMOTION
#define PROMOTED(m) skip
#else
#define PROMOTED(m) reopen(m)
#endif
/* Rightly or not; a lost owner's copy is taken over for certain. */
#define takes_over \
  :: d_step { place[1] == SHADOW && (lost[0] || !took_over) -> printf("1: takes over\n"); took_over = 1; place[1] = TRANSIT; PROMOTED(1) } \
  :: d_step { place[0] == SHADOW && lost[1] -> printf("0: takes over\n"); place[0] = TRANSIT; PROMOTED(0) }

/* Both have it, member 1 with the higher epoch. */
#ifdef FINAL_ELSEWHERE
#define ARRIVES(m) skip
#else
#define ARRIVES(m) handled[m] = 0
#endif
#define meets \
  :: d_step { took_over && place[0] == TRANSIT && place[1] == TRANSIT && open[0] == 0 -> printf("0: becomes shadow of 1\n"); \
       place[0] = SHADOW; if :: NEWER(1, first[0]) -> first[1] = first[0]; HEARD(1) :: else fi } \
  :: d_step { took_over && place[0] == SHADOW && place[1] == REST -> printf("0: hears finality\n"); \
       if :: first[1] > first[0] -> first[0] = first[1] :: else fi; place[0] = SHADOW_REST } \
  :: d_step { took_over && place[0] == TRANSIT && place[1] == REST && open[0] == 0 -> printf("0: hears from 1 that it is final\n"); \
       if :: first[1] > first[0] -> first[0] = first[1] :: else fi; place[0] = SHADOW_REST; ARRIVES(0) } \
  :: d_step { took_over && place[1] == TRANSIT && place[0] == REST && open[1] == 0 -> printf("1: hears from 0 that it is final\n"); \
       if :: first[0] > first[1] -> first[1] = first[0] :: else fi; place[1] = SHADOW_REST; own_entry = 1; ARRIVES(1) }

/* What rests: the primary resubmits; a holder asks its primary, and resubmits what is not covered. */
#define walks(m) \
  :: d_step { knows[m] == 2 && !lost[m] && !handled[m] && place[m] == REST -> printf("%d: resubmits\n", m); \
       if :: first[m] == 1 -> in_mailbox = 1 :: else fi; handled[m] = 1 } \
  :: d_step { knows[m] == 2 && !handled[m] && place[m] == SHADOW_REST && (IS_OWN(m) || lost[OTHER(m)]) -> printf("%d: resubmits for the owner\n", m); \
       if :: first[m] == 1 -> in_mailbox = 1 :: else fi; handled[m] = 1 } \
  :: d_step { knows[m] == 2 && !handled[m] && place[m] == SHADOW_REST && !IS_OWN(m) && knows[OTHER(m)] == 2 && place[OTHER(m)] != NOTHING -> \
       printf("%d: is covered by its owner\n", m); handled[m] = 1 } \
  :: d_step { knows[m] == 2 && !lost[m] && !handled[m] && IN_MOTION(m) -> printf("%d: finds nothing at rest\n", m); handled[m] = 1 }
#define IS_OWN(m) ((m) == 1 && own_entry)
/* A copy that is not at rest when the walk passes. */
#define IN_MOTION(m) (place[m] == TRANSIT || place[m] == SHADOW)

/* Its owner is lost after the walk: entries of that owner are looked at again. */
#ifdef PART_CLOSED
#define ORPHANED(m) skip
#else
#define ORPHANED(m) if :: place[m] == SHADOW_REST && !IS_OWN(m) -> handled[m] = 0 :: else fi
#endif
#define loses_volume(m) \
  :: d_step { !lost[0] && !lost[1] && place[m] != NOTHING -> printf("%d: volume lost\n", m); lost[m] = 1; place[m] = NOTHING; open[m] = 0; \
       first[m] = 0; second[m] = 0; handled[m] = 1; ORPHANED(OTHER(m)) }

active proctype cluster() {
  d_step { place[0] = TRANSIT; place[1] = SHADOW }
  do
  delivers(0) delivers(1) learns_document(0) learns_document(1) says_progress hears_progress hears_final takes_over meets
  walks(0) walks(1) loses_volume(0) loses_volume(1)
  :: d_step { !failed_over -> printf("the database fails over\n"); failed_over = 1; in_mailbox = 0 }
  od
}

/* Nobody has anything left to do. */
#define DONE(m) (lost[m] || (knows[m] == 2 && handled[m] && (place[m] == REST || place[m] == SHADOW_REST)))
#define COMPLETE (failed_over && DONE(0) && DONE(1))

active proctype invariants() {
  do
  :: d_step { COMPLETE && !in_mailbox -> assert(in_mailbox) }
  od
}
