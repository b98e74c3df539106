/**
 * What goes wrong in a seed and when. Owns: the kinds of fault, which of them a seed draws, and the doses of those that touch processes, disks and the
 * network; each ends by itself before or with the healing phase. What touches volumes, members and mailbox copies is in
 * `cluster-faults.ts`, what was added since in `later-faults.ts`.
 */
import { scheduleClusterFaults } from './cluster-faults.ts';
import { scheduleCrossingFaults } from './crossing-faults.ts';
import { scheduleLaterFaults, scheduleLatestFaults } from './later-faults.ts';
import type { SeededRandom } from './scheduler.ts';
import type { World } from './world.ts';

/** The kinds the message path alone has to stand. */
export const CLASSIC = [
  'killFrontend',
  'killTransport',
  'powerCut',
  'cutAtCommit',
  'killMidBody',
  'vanish',
  'resets',
  'resetPair',
  'lostReply',
  'cutPair',
  'oneWayCut',
  'clog',
  'slowDisk',
  'fullDisk',
  'failedSync',
  'failedWrite',
  'wallJump',
  'storeDown',
  'clientGone',
] as const;

/** The kinds that need takeover, fencing, drain or resubmission. */
export const CLUSTER = [
  /** Volume destroyed; the next life has a new identity. */
  'wipe',
  /** Gone for good by the word of the orchestrator; later again, on an empty volume. */
  'gone',
  /** The orchestrator calls lost what lives. */
  'wrongWord',
  /** Dead, or cut off from all others, for longer than `resubmitTimeSpan`; back with the same volume. */
  'absence',
  /** Two members do not reach each other for longer than `resubmitTimeSpan`; others hear both. */
  'longCut',
  'snapshot',
  'clone',
  'bitFlip',
  'tornSector',
  'truncatedFile',
  'drain',
  'drainCancelled',
  /** The member that is drained dies in between. */
  'drainCrash',
  'scaleUp',
  'failover',
  /** The member with most of the deliveries goes with the failover. */
  'failoverPrimaryGone',
  'failoverTwice',
  'resubmit',
  'resubmitOverlap',
  'resubmitCancelled',
  'resubmitDryRun',
  /** The process stands still for longer than every timeout. */
  'stall',
  'shortStall',
  'lateTopology',
  'noTopology',
] as const;

/** Drawn from a stream of their own (later-faults.ts). */
export const LATER = [
  /** Connections between two members are reset; what is said next may be slow. */
  'resetMembers',
  /** Back with a wall clock that is wrong by days. */
  'wrongClockAtStart',
  /** The volume is destroyed right after something was committed to it. */
  'wipeAtCommit',
  /** The process is killed in the middle of a commit, and the power goes soon after it is back. */
  'dieTwice',
  /** The operator is busy: it looks at drains every few seconds only. */
  'slowOperator',
  /** A request that means one boundary only. */
  'resubmitInBoundary',
  /** A member says what only the owner of a copy may say (semantics.md S14). */
  'lie',
] as const;

/** From a stream of their own again (later-faults.ts). */
export const LATEST = [
  /** The process stands still, for longer than every timeout, in the middle of a commit. */
  'stallAtCommit',
  /** Topology documents reach each member after a time of their own: not in order, and not in the same order. */
  'topologyOrder',
] as const;

/** Only in worlds with site links, and from a stream of their own (crossing-faults.ts). */
export const OF_LINKS = [
  /** What links cost changes; documents reach each member after a time of their own, so that two may send a message in a circle. */
  'linksChange',
  /** A site and the others do not reach each other. */
  'siteCut',
  /** Nothing of a site runs. */
  'siteDown',
] as const;

/** Drawn apart, so that the histories of earlier seeds stay what they are. */
export const OF_MESSAGES = [
  /** Clients send again what they did not hear of, or did. */
  'clientRetry',
  /** A message that ends whoever categorises it. */
  'poison',
] as const;

/** Of real SMTP clients (`smtp-mail.ts`), in worlds that have them; drawn per message, by those clients. */
export const SMTP = [
  /** Reset or closed in the middle of the content. */
  'breaksOff',
  /** Gone without a word in the middle of the content: the connection is half open. */
  'goneInData',
  /** Reset, closed or gone without a word shortly after the final dot. */
  'goneAfterDot',
  /** Pauses, some of them longer than a front end waits. */
  'dawdles',
  /** A bare CR, a bare LF, a NUL byte. */
  'badContent',
  /** A whole message behind the greeting or EHLO, without waiting. */
  'talksTooSoon',
] as const;
export type SmtpFault = (typeof SMTP)[number];

export const FAULTS = [...CLASSIC, ...CLUSTER, ...LATER, ...LATEST, ...OF_LINKS, ...OF_MESSAGES] as const;
export type Fault = (typeof FAULTS)[number] | SmtpFault;

const KINDS: readonly Fault[] = [...FAULTS, ...SMTP];
const GROUPS: ReadonlyMap<string, readonly Fault[]> = new Map<string, readonly Fault[]>([
  ['classic', CLASSIC],
  ['cluster', CLUSTER],
  ['later', LATER],
  ['latest', LATEST],
  ['links', OF_LINKS],
  ['smtp', SMTP],
]);

/** Kinds that need more time than a quick seed has. */
const LONG: readonly Fault[] = ['absence', 'longCut', 'stall', 'stallAtCommit'];
export const isLong = (enabled: ReadonlySet<Fault>): boolean => LONG.some((fault) => enabled.has(fault));

/** Which kinds a run may use, from the command line. */
export interface Selection {
  readonly only: ReadonlySet<Fault> | null;
  readonly without: ReadonlySet<Fault>;
}

export const EVERYTHING: Selection = { only: null, without: new Set() };

/** `classic`, `cluster`, `later`, `latest`, `links` and `smtp` stand for their kinds. */
export function kindsOf(text: string): ReadonlySet<Fault> {
  const found = new Set<Fault>();
  for (const word of text.split(',').filter((part) => part !== '')) {
    const group = GROUPS.get(word) ?? KINDS.filter((fault) => fault === word);
    if (group.length === 0) throw new Error(`no fault ${word}; there are ${[...GROUPS.keys(), ...KINDS].join(', ')}`);
    for (const fault of group) found.add(fault);
  }
  return found;
}

/** The streams of a seed from which its faults are drawn and planned. */
export interface FaultStreams {
  readonly random: SeededRandom;
  readonly later: SeededRandom;
  readonly latest: SeededRandom;
  /** Null: no site links. */
  readonly links: SeededRandom | null;
}

/** Several kinds at once, each in a part of the seeds; a tenth of the seeds has none. Kinds named by `only` are in every seed. */
export const drawFaults = (
  { random, later, latest, links }: FaultStreams,
  selection: Selection,
): ReadonlySet<Fault> => {
  const share = random.chance(0.1) ? 0 : random.chance(0.3) ? 0.12 : 0.3;
  const clusterShare = share === 0 ? 0 : random.pick([0, 0.08, 0.16, 0.16]);
  const isClassic = new Set<Fault>(CLASSIC);
  const drawn: Fault[] = [...CLASSIC, ...CLUSTER].filter((fault) =>
    random.chance(isClassic.has(fault) ? share : isRare(fault) ? clusterShare / 3 : clusterShare),
  );
  drawn.push(...LATER.filter(() => later.chance(share === 0 ? 0 : LATER_SHARE)));
  drawn.push(...LATEST.filter(() => latest.chance(share === 0 ? 0 : LATEST_SHARE)));
  if (links !== null) drawn.push(...OF_LINKS.filter(() => links.chance(share === 0 ? 0 : 0.3)));
  const wanted = selection.only === null ? drawn : [...selection.only];
  return new Set(wanted.filter((fault) => !selection.without.has(fault)));
};

/** What real clients do wrong, apart from the draws of everything else; a quarter of the seeds has only good ones. */
export function drawSmtpFaults(random: SeededRandom, selection: Selection): readonly SmtpFault[] {
  const share = random.chance(0.25) ? 0 : 0.35;
  const drawn = SMTP.filter(() => random.chance(share));
  const { only, without } = selection;
  return (only === null ? drawn : SMTP.filter((fault) => only.has(fault))).filter((fault) => !without.has(fault));
}

export const drawOfMessages = (random: SeededRandom, selection: Selection): ReadonlySet<Fault> => {
  if (selection.only !== null) return new Set();
  return new Set(OF_MESSAGES.filter((fault) => random.chance(0.2) && !selection.without.has(fault)));
};

const isLater = new Set<Fault>(LATER);
const isLatest = new Set<Fault>(LATEST);
const isOfLinks = new Set<Fault>(OF_LINKS);
const LATER_SHARE = 0.04;
const LATEST_SHARE = 0.02;

/** Long histories cost as much as five others. */
const isRare = (fault: Fault): boolean => LONG.includes(fault);

/** Doses are planned with this. */
export interface Doses {
  readonly world: World;
  readonly random: SeededRandom;
  readonly enabled: ReadonlySet<Fault>;
  /** Faults happen before this time after the start. */
  readonly phaseMs: number;
  readonly done: Fault[];
  at(fault: Fault, count: number, act: () => void): void;
  later(delayMs: number, act: () => void): void;
  transport(): string;
}

export function scheduleFaults(
  world: World,
  { random, later: laterRandom, latest, links }: FaultStreams,
  enabled: ReadonlySet<Fault>,
  phaseMs: number,
  times = 1,
): Fault[] {
  const done: Fault[] = [];
  const doses: Doses = {
    world,
    random,
    enabled,
    phaseMs,
    done,
    at: (fault, count, act) => {
      if (!enabled.has(fault)) return;
      const ofLinks = isOfLinks.has(fault) ? links : null;
      const stream = isLater.has(fault) ? laterRandom : isLatest.has(fault) ? latest : (ofLinks ?? random);
      for (let i = 0; i < count * times; i++)
        world.scheduler.schedule(stream.integer(50, isLong(new Set([fault])) ? 9_000 : phaseMs - 3_000), () => {
          done.push(fault);
          world.calm = false;
          act();
        });
    },
    // Healing puts everything right by itself.
    later: (delayMs, act) =>
      void world.scheduler.schedule(delayMs, () => {
        if (!world.isHealing) act();
      }),
    transport: () => random.pick(world.transports).key,
  };
  scheduleClassicFaults(doses);
  scheduleClusterFaults(doses);
  scheduleLaterFaults({ ...doses, random: laterRandom });
  scheduleLatestFaults({ ...doses, random: latest });
  if (links !== null) scheduleCrossingFaults({ ...doses, random: links });
  return done;
}

function scheduleClassicFaults(doses: Doses): void {
  const { world, random, at, later, transport } = doses;
  const frontend = (): string => random.pick(world.frontends).name;
  const anyone = (): string => random.pick([...world.transports, ...world.frontends]).name;
  const die = (key: string, how: 'process' | 'power', silent = false): void => {
    world.kill(key, how, silent);
    later(random.integer(100, 4_000), () => world.boot(key));
  };
  at('killFrontend', 1, () => die(frontend(), 'process'));
  at('killTransport', random.integer(1, 3), () => die(transport(), 'process'));
  at('powerCut', random.integer(1, 2), () => die(transport(), 'power'));
  at('cutAtCommit', random.integer(1, 3), () => {
    const name = transport();
    world.onNextCommit(name, () => {
      // On a disk that takes its time others hear of a body before it is durable here.
      const slow = random.chance(0.6) ? 20 : 1;
      world.disk(name)?.setSlow(slow);
      later(random.next() * (slow > 1 ? 8 : 1.2), () => {
        die(name, 'power');
        world.disk(name)?.setSlow(1);
      });
    });
  });
  at('vanish', 1, () => die(transport(), 'power', true));
  at('resetPair', 3, () => world.resetConnections(frontend(), random.pick(world.transports).name));
  at('cutPair', random.integer(1, 2), () => cut(doses, anyone(), 'both'));
  at('oneWayCut', random.integer(1, 2), () => cut(doses, anyone(), 'a-to-b'));
  at('clog', 2, () => {
    const [a, b] = [anyone(), random.pick(world.transports).name];
    if (a === b) return;
    const forMs = random.integer(500, 5_000);
    world.trace(`network between ${a} and ${b} is slow`);
    world.troubled([a, b], forMs);
    world.network.clog(a, b, random.integer(50, 3_000));
    later(forMs, () => world.network.restore(a, b));
  });
  at('wallJump', 2, () => world.jumpWall(transport(), random.pick([30, -1, 400]) * 86_400_000));
  at('storeDown', 1, () => {
    const place = random.pick(['alpha', 'beta', 'internet']);
    if (world.store.down.has(place)) return;
    world.store.down.add(place);
    later(random.integer(500, 4_000), () => world.store.down.delete(place));
  });
  scheduleDiskFaults(doses);
}

function scheduleDiskFaults({ world, random, at, later, transport }: Doses): void {
  at('slowDisk', 1, () => {
    const name = transport();
    const forMs = random.integer(500, 6_000);
    world.trace(`disk of ${name} is slow`);
    // What was handed over while it was slow is written long after.
    world.troubled([world.pod(name)?.name ?? name], forMs + 30_000);
    world.disk(name)?.setSlow(random.chance(0.3) ? 40_000 : random.integer(100, 8_000));
    later(forMs, () => world.disk(name)?.setSlow(1));
  });
  at('fullDisk', 1, () => {
    const name = transport();
    world.trace(`disk of ${name} is full`);
    const { volume } = world.pod(name) ?? {};
    if (volume !== undefined) volume.hadWhenFull ??= new Set([...volume.live.keys(), ...volume.resting.keys()]);
    world.disk(name)?.setFull(true);
    later(random.integer(500, 5_000), () => world.disk(name)?.setFull(false));
  });
  at('failedSync', 1, () => world.disk(transport())?.failSyncs(random.integer(1, 10)));
  at('failedWrite', 1, () => world.disk(transport())?.failWrites(random.integer(1, 10)));
}

function cut({ world, random }: Doses, a: string, direction: 'both' | 'a-to-b'): void {
  const b = random.pick(world.transports).name;
  if (a === b) return;
  const forMs = random.integer(500, 12_000);
  world.troubled([a, b], forMs);
  world.trace(`network cut ${a} ${direction} ${b}`);
  world.network.cut(a, b, direction);
  world.scheduler.schedule(forMs, () => world.network.heal(a, b, direction));
}
