/** Time in the core, on a virtual clock: jitter and probing of retries, delay notice, expiry (semantics.md D5; the schedule itself is in core-findings). */
import { describe, expect, test } from 'vitest';
import { trustedTime } from '../../transport/core/state.ts';
import { CoreBench, PEER } from './core-bench.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
/** crds/mailcluster.yaml, defaults of spec.queues. */
const DEFAULTS = {
  retryIntervalsMs: [1, 1, 1, 1, 5, 5, 5, 5, 5, 5, 10].map((minutes) => minutes * MINUTE),
  mailboxRetryIntervalMs: 5 * MINUTE,
  delayNotificationMs: 4 * HOUR,
  messageExpirationMs: 48 * HOUR,
};
const FAR = 'x@far.example';
const MAILBOX = 'alpha-0@sim.example';
const SENDER = 'alpha-5@sim.example';

/** Minutes between attempts while every answer is 4xx for the message itself (the host is fine). */
function waits(recipient: string, attempts: number, draw = 0.5): number[] {
  const bench = new CoreBench({ queues: DEFAULTS, draw: () => draw });
  bench.join(PEER);
  bench.accept('M1', [recipient]);
  const atMs: number[] = [];
  for (let attempt = 0; attempt < attempts; attempt++) {
    for (let minute = 0; bench.seen('Deliver').length === attempt; minute++) {
      if (minute > 20 * 60) throw new Error(`no attempt ${attempt + 1} within 20 minutes`);
      bench.pass(1_000);
    }
    atMs.push(bench.nowMs);
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'deferred', reply: '450 4.2.0 busy', host: false }]);
  }
  return atMs.slice(1).map((at, index) => (at - (atMs[index] ?? 0)) / MINUTE);
}

/** The look above is once a second. */
const near = (minutes: readonly number[]): unknown[] => minutes.map((value) => expect.closeTo(value, 1));

describe('D5: retries', () => {
  test('jitter of a tenth either way: a thousand messages do not come back in one second', () => {
    expect(waits(MAILBOX, 3, 0)).toEqual(near([4.5, 4.5]));
    expect(waits(MAILBOX, 3, 0.999)).toEqual(near([5.5, 5.5]));
  });

  test('while a host is down one delivery probes, the others wait; they go as soon as it answers', () => {
    const bench = new CoreBench({ queues: DEFAULTS });
    bench.join(PEER);
    bench.accept('M1', [FAR]);
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'deferred', reply: 'connect refused', host: true }]);
    bench.accept('M2', [FAR]);
    bench.pass(2_000);
    expect(bench.seen('Deliver').map(({ facts }) => facts.id)).toEqual(['M1', 'M1']);
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 ok' }]);
    expect(bench.lastSeen('Deliver').facts.id).toBe('M2');
  });
});

describe('D6: MX, a queue for each domain', () => {
  const mx = { port: 25, dnsServers: [], allowNetworks: [], ownNames: [] };
  function byDomain(): CoreBench {
    const bench = new CoreBench({
      queues: DEFAULTS,
      document: (document) => ({
        ...document,
        sendConnectors: document.sendConnectors.map((one) => ({ ...one, smartHosts: [], mx })),
      }),
    });
    bench.join(PEER);
    return bench;
  }
  const queues = (bench: CoreBench): string[] => [...bench.server.hops.values()].map(({ key }) => key);

  test('a dead domain holds up no other; a queue in which nothing waits is forgotten, what is tried later finds it anew', () => {
    const bench = byDomain();
    bench.accept('M1', ['x@dead.example']);
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'deferred', reply: 'connect refused', host: true }]);
    bench.accept('M2', ['x@live.example']);
    expect(bench.lastSeen('Deliver')).toMatchObject({
      facts: { id: 'M2' },
      route: { kind: 'mx', domain: 'live.example' },
    });
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 ok' }]);
    expect(queues(bench).filter((key) => key.endsWith('/live.example'))).toEqual([]);
    bench.pass(5 * MINUTE);
    expect(bench.lastSeen('Deliver')).toMatchObject({ facts: { id: 'M1' }, route: { domain: 'dead.example' } });
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 ok' }]);
    bench.pass(MINUTE);
    expect(queues(bench)).toEqual([]);
  });
});

describe('D5: delay notice and expiry', () => {
  function waiting(from = SENDER, notify?: string) {
    const bench = new CoreBench({ shape: { withoutConnector: true }, queues: DEFAULTS });
    bench.join(PEER);
    bench.accept('M1', [{ address: FAR, ...(notify === undefined ? {} : { notify }) }], { from });
    return bench;
  }
  const reports = (bench: CoreBench): string[] => bench.seen('ComposeDsn').map(({ dsn }) => dsn);

  test('delay notice once after 4 h, expiry after 2 d; the copy stays until its report is safe', () => {
    const bench = waiting();
    bench.pass(4 * HOUR - 1_000);
    expect(reports(bench)).toEqual([]);
    bench.pass(2_000);
    expect(reports(bench)).toEqual(['delayed']);
    bench.pass(44 * HOUR - 2_000);
    expect(reports(bench)).toEqual(['delayed']);
    bench.pass(2_000);
    expect(reports(bench)).toEqual(['delayed', 'expired']);
    expect(bench.stored('M1')?.recipients).toMatchObject([{ outcome: 'expired' }]);
    expect(bench.sent('STATE').filter(({ frame }) => frame.state.verdict === 'final')).toEqual([]);
  });

  test.each<[string, string, string | undefined, readonly string[]]>([
    ['<> is never answered', '', undefined, []],
    ['NOTIFY=NEVER', SENDER, 'NEVER', []],
    ['NOTIFY=FAILURE: no delay notice', SENDER, 'FAILURE', ['expired']],
    ['NOTIFY=DELAY: no failure report', SENDER, 'DELAY', ['delayed']],
  ])('%s', (_, from, notify, expected) => {
    const bench = waiting(from, notify);
    bench.pass(48 * HOUR + 1_000);
    expect(reports(bench)).toEqual(expected);
    expect(bench.stored('M1') === null).toBe(!expected.includes('expired'));
  });

  test('a wall clock that jumps by years moves nothing (S16)', () => {
    const bench = waiting();
    bench.pass(HOUR);
    bench.wallOffsetMs = 10 * 365 * 24 * HOUR;
    bench.pass(HOUR);
    expect(reports(bench)).toEqual([]);
    expect(bench.copy('M1').queue).toBe('unreachable');
  });
});

describe('S16: time spent down', () => {
  const aDay = 86_400_000;

  test('counts as far as a member has seen it pass, not as far as a clock that was wrong before says (seed 2993)', () => {
    const bench = new CoreBench();
    // Wrong while it runs, right again after the restart: a day seems to have passed.
    bench.wallOffsetMs = -aDay;
    bench.pass(31_000);
    bench.wallOffsetMs = 0;
    bench.restart(2_000);
    const before = bench.server.trusted.baseMs;
    expect(bench.server.trusted.unwitnessedMs).toBeGreaterThan(aDay);
    bench.up(PEER);
    const load = { queued: 0, intake: 0, backPressure: 'Normal', accepting: true } as const;
    const contact = { syncedSequence: 0, trustedMs: before + 2_500, generation: 1, hears: [], load };
    bench.event({ kind: 'PeerContact', member: PEER, contact });
    expect(bench.server.trusted.baseMs - before).toBeGreaterThan(0);
    expect(bench.server.trusted.baseMs - before).toBeLessThanOrEqual(2_500);
    expect(bench.server.trusted.unwitnessedMs).toBe(0);
  });

  const loadOf = { queued: 0, intake: 0, backPressure: 'Normal', accepting: true } as const;
  const hear = (bench: CoreBench, member: string, aheadMs: number, timeUnknown = false): void => {
    const trustedMs = trustedTime(bench.server, bench.nowMs) + aheadMs;
    const contact = { syncedSequence: 0, trustedMs, generation: 1, hears: [], load: loadOf };
    bench.up(member);
    bench.event({ kind: 'PeerContact', member, contact: timeUnknown ? { ...contact, timeUnknown } : contact });
  };
  const timeOf = (bench: CoreBench): number => trustedTime(bench.server, bench.nowMs);
  const wiped = (bench: CoreBench): boolean => bench.seen('ExpireSafetyNet').length > 0;

  test('is not counted by the word of a new queue database, whose clock may be as wrong as ours (seed 60051)', () => {
    const bench = new CoreBench({ members: 3 });
    hear(bench, PEER, 0);
    bench.wallOffsetMs = 400 * aDay;
    bench.restart(2_000);
    const before = timeOf(bench);
    hear(bench, 't-0-2', 400 * aDay, true);
    expect(timeOf(bench)).toBe(before);
    hear(bench, PEER, 2_000);
    expect(timeOf(bench)).toBe(before + 2_000);
  });

  test.each([400 * aDay, -aDay])(
    'a new queue database that is off by %s ms takes the time of a member that knows it',
    (off) => {
      const bench = new CoreBench({ members: 3 });
      bench.wallOffsetMs = off;
      const truth = timeOf(bench);
      hear(bench, 't-0-2', 5, true);
      bench.pass(600_000);
      expect(wiped(bench)).toBe(false);
      expect(bench.server.trusted.isNew).toBe(true);
      hear(bench, PEER, -off);
      expect(timeOf(bench)).toBe(truth + 600_000 - off);
      bench.pass(600_000);
      expect(wiped(bench)).toBe(true);
    },
  );

  test('queue databases that are all new begin together, at the earliest of their times', () => {
    const bench = new CoreBench({ members: 3 });
    const truth = timeOf(bench);
    hear(bench, PEER, -7_000, true);
    hear(bench, PEER, -3, true);
    expect(bench.server.trusted.isNew).toBe(true);
    hear(bench, 't-0-2', aDay, true);
    expect(bench.server.trusted.isNew).toBe(false);
    expect(timeOf(bench)).toBe(truth - 7_000);
  });

  test('the only member of a boundary has nobody to ask', () => {
    expect(new CoreBench({ members: 1 }).server.trusted.isNew).toBe(false);
  });
});
