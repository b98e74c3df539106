/**
 * Directed histories: which faults, how often, in what kind of world. Owns: the dose of each known-wrong variant that random seeds would hardly ever catch, and
 * how a dose is said on the command line, so that a history is named by seed and dose alone. A dose only selects: every fault in it is drawn by random
 * seeds as well, and the unchanged code has to be clean under the same seed and dose (run.ts).
 */
import type { PoliciesConfig } from '../../common/config.ts';
import { EVERYTHING, type Fault, kindsOf, type Selection } from './faults.ts';
import type { Variant } from './variants.ts';

/** What a dose may settle of that which a seed draws. */
export interface Traits {
  /** Members per site. */
  readonly sites?: readonly number[];
  /** One boundary, or each site its own. */
  readonly dag?: boolean;
  readonly frontends?: number;
  readonly messages?: number;
  /** No store takes anything before the faults are over. */
  readonly held?: boolean;
  /** Half of the recipients do not exist. */
  readonly failing?: boolean;
  readonly expiry?: boolean;
  /** Like the kinds that need it: fifty seconds of faults. */
  readonly long?: boolean;
  readonly policies?: Partial<PoliciesConfig['shadowRedundancy']>;
  /** Site links, hubs and several boundaries: mail crosses. What there is of them is drawn from a stream of its own; no seed draws this by itself. */
  readonly crossing?: boolean;
  /** A person suspends and resumes messages; no seed draws this. */
  readonly suspends?: boolean;
  /** Every sender asks for reports of success; no seed draws this. */
  readonly reports?: boolean;
  /** A person redirects messages to other members; no seed draws this. */
  readonly redirects?: boolean;
}

export interface Dose {
  readonly selection: Selection;
  /** How often as many of each fault. */
  readonly times: number;
  readonly traits: Traits;
}

export const NO_DOSE: Dose = { selection: EVERYTHING, times: 1, traits: {} };

interface Directed {
  readonly only: readonly Fault[];
  readonly times?: number;
  readonly traits?: Traits;
}

/** A partner that is slow to say that it was lost, and nobody delivers meanwhile. */
const QUICK_SPAN = { resubmitTimeSpanMs: 20_000 } as const;

const DIRECTED: Partial<Record<Variant, Directed>> = {
  'owner-at-rest-unasked': {
    only: ['drain', 'drainCancelled', 'wipe', 'killTransport', 'wipeAtCommit'],
    times: 2,
    traits: { sites: [3] },
  },
  'success-unawaited': { only: ['killTransport', 'powerCut'], traits: { reports: true } },
  'report-id-per-kind': {
    only: ['stall', 'slowDisk', 'storeDown'],
    times: 2,
    traits: { sites: [3], failing: true, expiry: true, policies: QUICK_SPAN },
  },
  'new-clock-believed': {
    only: ['wrongClockAtStart', 'wipe', 'wallJump', 'failoverPrimaryGone', 'drain'],
    times: 2,
  },
  'promotion-keeps-lost-finality': {
    only: ['failover', 'wipe', 'storeDown'],
    times: 3,
    traits: { sites: [3], messages: 40 },
  },
  'asks-only-who-is-there': {
    only: ['cutAtCommit', 'resetMembers', 'powerCut', 'cutPair'],
    times: 3,
    traits: { sites: [2, 2], messages: 25 },
  },
  'tombstone-forgotten': {
    only: ['cutPair', 'vanish', 'killTransport', 'storeDown'],
    times: 4,
    traits: { sites: [3], failing: true, messages: 40 },
  },
  'gone-overrules-the-living': { only: ['wrongWord', 'storeDown', 'slowDisk'], times: 2, traits: { held: true } },
  'absence-by-own-ears': { only: ['longCut'], times: 3, traits: { sites: [3], held: true, policies: QUICK_SPAN } },
  'silent-holder-counts': {
    only: ['absence'],
    times: 3,
    traits: { sites: [3], held: true, messages: 8, policies: { resubmitTimeSpanMs: 900_000 } },
  },
  'one-site-suffices': {
    only: ['wipe', 'killTransport', 'powerCut'],
    times: 2,
    traits: { sites: [2, 2], messages: 20 },
  },
  'removed-member-awaited': {
    only: ['wipe', 'drain', 'killTransport', 'dieTwice', 'powerCut', 'failover'],
    times: 2,
    traits: { sites: [2, 2], messages: 20 },
  },
  'written-not-awaited': {
    only: ['failover', 'drain', 'wipe', 'resubmit'],
    times: 2,
    traits: { sites: [2, 2], messages: 30 },
  },
  'waiting-delivery-begins': { only: ['stall', 'storeDown'], times: 4, traits: { messages: 30 } },
  'standstill-unnoticed': { only: ['stall', 'storeDown'], times: 2 },
  'promoted-without-claim': {
    only: ['lostReply', 'resetPair', 'gone', 'wipe', 'slowDisk'],
    times: 4,
    traits: { sites: [4], messages: 40 },
  },
  'unasked-forgotten': {
    only: ['absence', 'killTransport', 'powerCut'],
    times: 2,
    traits: { sites: [3], expiry: true, policies: { resubmitTimeSpanMs: 900_000 } },
  },
  'release-within-one-epoch': {
    only: ['drainCancelled', 'resetMembers', 'clog', 'scaleUp'],
    times: 4,
    traits: { sites: [2, 2], held: true, messages: 20 },
  },
  'release-before-confirmed': {
    only: ['drain', 'slowDisk', 'clog', 'resetMembers'],
    times: 2,
    traits: { sites: [2, 2], held: true, messages: 20 },
  },
  'release-of-any-epoch': { only: ['lie'], times: 10, traits: { sites: [2, 2], held: true, messages: 20 } },
  'anybody-places': { only: ['lie'], times: 6, traits: { sites: [2, 2], held: true } },
  'final-from-anybody': { only: ['lie'], times: 6, traits: { sites: [2, 2], held: true } },
  'release-from-anybody': { only: ['lie'], times: 6, traits: { sites: [2, 2], held: true } },
  'resign-from-anybody': { only: ['lie'], times: 6, traits: { sites: [2, 2], held: true } },
  'claims-for-others': { only: ['lie'], times: 6, traits: { sites: [2, 2], held: true } },
  'expires-unanswered': {
    only: ['absence', 'killTransport', 'powerCut'],
    times: 2,
    traits: { sites: [3], expiry: true, policies: { resubmitTimeSpanMs: 900_000 } },
  },
  'snapshot-unfenced': { only: ['snapshot'] },
  'partner-counts-as-successor': {
    only: ['drain'],
    times: 2,
    traits: { sites: [2, 2], messages: 20 },
  },
  'released-before-placed': { only: ['drain'], traits: { sites: [2, 2], messages: 20 } },
  'abort-of-released': {
    only: ['lostReply', 'resetPair', 'slowDisk', 'cutAtCommit'],
    times: 2,
    traits: { sites: [3], messages: 20 },
  },
  'abort-kills-higher-try': {
    only: ['lostReply', 'resetPair', 'slowDisk', 'clog', 'cutPair'],
    times: 3,
    traits: { sites: [2, 2], messages: 25 },
  },
  'other-bytes-protect': {
    only: ['cutAtCommit', 'slowDisk'],
    times: 6,
    traits: { sites: [3], failing: true, messages: 40 },
  },
  'drained-takes-more': {
    only: ['drain', 'noTopology', 'slowOperator'],
    times: 3,
    traits: { sites: [3], long: true, messages: 100 },
  },
  'downtime-without-witness': {
    only: ['wrongClockAtStart'],
    times: 4,
    traits: { long: true, messages: 20 },
  },
  'covered-unseen': {
    only: ['bitFlip', 'tornSector', 'truncatedFile', 'failover', 'failoverTwice'],
    times: 2,
    traits: { messages: 30 },
  },
  'shadow-never-covers': { only: ['failoverPrimaryGone'] },
  'absent-primary-skipped': {
    only: ['failoverPrimaryGone', 'failover', 'absence'],
    times: 1,
    traits: { messages: 20 },
  },
  'resubmits-across-boundary': { only: ['resubmitInBoundary'], times: 4, traits: { sites: [2, 2], dag: false } },
  'window-too-short': { only: ['failover'], times: 2, traits: { messages: 20 } },
  'replay-not-asked': {
    only: ['lostReply', 'cutPair', 'clog'],
    times: 3,
    traits: { sites: [2, 2], messages: 25 },
  },
  'resigns-too-early': { only: ['drain'], traits: { sites: [2, 2], messages: 30 } },
  'accepts-alone-unseen': {
    only: ['absence'],
    times: 2,
    traits: { sites: [2], messages: 40, policies: { rejectMessageOnShadowFailure: false } },
  },
  'key-of-each-copy': { only: ['failover', 'resubmit'] },
  'report-id-per-maker': { only: ['wipe'], traits: { failing: true } },
  'recovery-trusts-page-cache': { only: ['dieTwice'], times: 4, traits: { messages: 30 } },
  'sync-error-ignored': { only: ['failedSync', 'powerCut'], times: 4, traits: { messages: 30 } },
  'checkpoint-without-tombstones': {
    only: ['killTransport', 'powerCut', 'cutPair'],
    times: 3,
    traits: { failing: true, messages: 40 },
  },
  'damage-cuts-tail': { only: ['bitFlip', 'tornSector', 'killTransport'], times: 3, traits: { messages: 30 } },
  'no-reserve': { only: ['fullDisk', 'killTransport'], times: 3, traits: { messages: 30 } },
  'crossing-unconfirmed': {
    only: ['slowDisk', 'clog', 'cutPair', 'killTransport'],
    traits: { crossing: true, messages: 20 },
  },
  'crossing-id-of-each-offer': {
    only: ['siteCut', 'clog', 'cutPair', 'killTransport', 'slowDisk'],
    times: 2,
    traits: { crossing: true, messages: 20 },
  },
  'circle-unseen': { only: ['linksChange', 'storeDown'], times: 3, traits: { crossing: true, messages: 30 } },
  'redirect-moves': { only: ['killTransport', 'wipe'], traits: { redirects: true, held: true } },
  'suspended-in-turn': { only: ['storeDown', 'dawdles', 'slowDisk'], traits: { suspends: true, messages: 40 } },
  'identity-reused': { only: ['wipe', 'gone'], times: 2 },
};

export function doseOf(mutant: Variant | null): Dose {
  const directed = mutant === null ? undefined : DIRECTED[mutant];
  if (directed === undefined) return NO_DOSE;
  return {
    selection: { only: new Set(directed.only), without: new Set() },
    times: directed.times ?? 1,
    traits: directed.traits ?? {},
  };
}

/** The words of the command line that make this dose. */
export function flagsOf({ selection, times, traits }: Dose): string {
  const kinds = (name: string, faults: ReadonlySet<Fault> | null): string =>
    faults === null || (faults.size === 0 && name === 'without') ? '' : ` --${name} '${[...faults].join(',')}'`;
  return [
    kinds('only', selection.only),
    kinds('without', selection.without),
    times === 1 ? '' : ` --times ${times}`,
    Object.keys(traits).length === 0 ? '' : ` --traits '${JSON.stringify(traits)}'`,
  ].join('');
}

/** What the command line says, where it says anything; else `fallback`. */
export function doseFrom(text: (name: string) => string | null, fallback: Dose): Dose {
  const [only, without, times, traits] = [text('only'), text('without'), text('times'), text('traits')];
  return {
    selection: {
      only: only === null ? fallback.selection.only : kindsOf(only),
      without: without === null ? fallback.selection.without : kindsOf(without),
    },
    times: times === null ? fallback.times : Number(times),
    traits: traits === null ? fallback.traits : (JSON.parse(traits) as Traits),
  };
}
