/**
 * Known-wrong variants of the protocol, switched on by the simulator only, each of which must be caught (architecture.md section 4). In
 * production the set is empty. Owns: the list and what each would cost a user.
 */
import { STORE_MUTANTS } from '../store/mutants.ts';

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
  'new-identity-ignored': 'a primary comes back with an empty disk and its mail waits for ever on the shadow',
  'lost-holder-kept': 'after the disk of a shadow is lost its messages stay on one copy and count as two',
  'absence-at-once': 'every short restart makes two owners and a second delivery',
  'reconcile-skipped': 'a primary that comes back delivers everything its shadows already delivered',
  'promotion-keeps-epoch':
    'the former primary and the promoted shadow own the message under one epoch and neither yields',
  'promoted-not-reshadowed': 'a message taken over rests on one disk until it is delivered',
  'safety-net-not-rehomed': 'after a lost disk a mailbox failover finds half of its mail in no Safety Net',
  'resign-not-durable': 'a power cut during a drain leaves two owners under one epoch',
  'older-incarnation-accepted':
    'a member restored from an old copy goes on with it: what came after is forgotten by its owner',
  'refusal-without-tombstone': 'a refused message arrives late at a shadow and is delivered all the same',
  'any-answer-protects': 'a member that holds something else counts as the second copy',
  'discard-deletes': 'Shadow Safety Net stays empty: a lost primary cannot be resubmitted for',
  'lower-claim-granted': 'an owner that was succeeded takes its messages back and both deliver',
  'grant-not-durable': 'a power cut takes back what was granted: two owners deliver',
  'demoted-while-delivering': 'what a delivery under way achieved is forgotten and done again by the next owner',
  'demotion-drops': 'a former primary throws its copy away although the new owner has no other',
  'shadows-dropped-at-restart': 'a restarted shadow has forgotten what it held: the second copy is gone',
  'shadow-expires-by-age': 'the only copy left is deleted because it is old',
  'shadow-at-rest-orphaned': 'what a lost primary had delivered rests on one disk for ever',
  'lost-delivery-is-final': 'a message delivered to the copy of the database that was given up is gone with it',
  'arrivals-unwalked': 'what came to rest here during a failover is forgotten by it',
  'dsn-from-resubmission': 'the sender of a message delivered days ago hears that it failed',
  'ancestor-forgotten': 'after a mailbox failover every message of the window is there twice',
  'deaths-uncounted': 'one message that ends the process ends it again and again, and no mail flows',
  'retry-shown': 'a client that lost our reply sends again, and the user has the message twice',
  'damage-at-rest-ignored':
    'a bad sector takes the copy at rest, and nobody notices before the mailbox failover that needs it',
  'empty-while-resting': 'a drained member is removed with the last Safety Net copies on it',
  'gone-overrules-the-living': 'a wrong word of the orchestrator makes two owners of every message of a living member',
  'absence-by-own-ears': 'a cut between two members makes a living primary look lost',
  'standstill-unnoticed': 'a process that stood still delivers what others took over meanwhile',
  'release-within-one-epoch': 'a late confirmation makes a drained copy count as the second one',
  'release-before-confirmed': 'a drain leaves messages on one disk for a moment, and that disk dies',
  'expires-unanswered':
    'the sender hears that a message expired which another member delivered while this one was cut off',
  'snapshot-unfenced': 'a restored volume delivers again what it had delivered after the snapshot',
  'final-from-anybody': 'a shadow is given up by the word of a member that does not own it',
  'shadow-never-covers': 'a mailbox failover after the loss of a transport brings back only half of the mail',
  'absent-primary-skipped': 'what a primary that was away had delivered is not resubmitted',
  'window-too-short': 'a failover brings back less than what the mailbox copy had lost',
  'released-before-placed': 'a drain leaves the Safety Net on one disk before another copy exists',
  'release-from-anybody': 'any member can have the second copy of any message deleted',
  'resign-from-anybody': 'any member can make a shadow deliver what its living owner delivers',
  'claims-for-others': 'any member can give a copy to an owner that does not know of it',
  'key-of-each-copy': 'the store cannot tell what it has already: a resubmission is seen twice',
  'report-id-per-maker': 'two transports report one failure and the sender hears it twice, or not at all',
  'one-site-suffices':
    'the other site has lost its copy, and days later the one site that has both is lost with its mailboxes: nothing is left to resubmit',
  'removed-member-awaited':
    'a transport that was away while another lost its disk and left the cluster waits for that one: mail rests for hours',
  'written-not-awaited':
    'a copy in transit takes the place of what is just coming to rest: who answered for it has nothing any more, and a failover finds half of the mail',
  'waiting-delivery-begins':
    'what waited for a connection while the process stood still is delivered although others took it over',
  'success-unawaited':
    'a sender who asked to hear of success does not: the message came to rest before its report was there',
  'report-id-per-kind': 'the sender hears twice about one recipient: that it failed, and that it expired',
  'unasked-forgotten': 'an owner that was cut off is never told that it was succeeded: two owners for ever',
  'promoted-without-claim': 'two shadows of one message both deliver it',
  'anybody-places':
    'a member makes another member the shadow of what it does not own, and a real second copy is missing',
  'partner-counts-as-successor': 'a drained copy is given up although only its partner has it: one copy is left',
  'downtime-without-witness': 'after a restart with a wrong clock the Safety Net has expired',
  'new-clock-believed': 'a member that lost its disk and its clock makes the others empty their Safety Nets',
  'owner-at-rest-unasked': 'what a drain had handed to a transport that is lost rests on one disk, and nobody knows',
  'resigns-too-early': 'a drain hands over what it is delivering: the next owner delivers it again',
  'accepts-alone-unseen': 'a member cut off from everybody goes on accepting mail on one disk',
  'resubmits-across-boundary': 'a failover in one DAG delivers the mail of another one again',
  'release-of-any-epoch': 'an old RELEASE deletes the copy that is the second one by now',
  'tombstone-forgotten':
    'a shadow that was away is told "unknown" about a message that was delivered, and delivers it again',
  'asks-only-who-is-there': '451 is said while a member that was away for a moment holds the message',
  'abort-of-released': 'a message that was answered 250 is aborted by a later try of the same message',
  'abort-kills-higher-try': 'the abort of a first try takes the copy of the second, which was answered 250',
  'covered-unseen': 'a primary answers for copies it does not have: nobody resubmits them',
  'replay-not-asked': 'two tries of one message are delivered by two owners that never asked each other',
  'drained-takes-more': 'a member that was proved empty holds new mail when it is removed',
  'silent-holder-counts': 'a shadow nobody has heard for an hour counts as the second copy',
  'progress-ignored': 'after a takeover recipients that were served already are served again',
  'other-bytes-protect': 'another body under the same id counts as the second copy',
  'promotion-keeps-lost-finality': 'a takeover believes in a delivery that the failed-over mailbox does not have',
  'crossing-unconfirmed':
    'a message counts as relayed before the other boundary has it twice: what is lost there is lost',
  'crossing-id-of-each-offer':
    'each offer to another boundary is a message of its own there: relays outside get all of them',
  'circle-unseen':
    'two documents send a message in a circle, and where it comes by again it counts as done: it is gone',
  'redirect-moves': 'a message that a person redirects is on one copy less than before, at last on none',
  'suspended-in-turn': 'what a person holds back is delivered all the same when it was waiting for its turn',
  ...STORE_MUTANTS,
} as const;

export type Mutant = keyof typeof MUTANTS;
