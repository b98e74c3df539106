/** Tracking files over the simulated disk: search, rotation, bounds, restarts, and a disk that fails. */
import { expect, test } from 'vitest';
import type { LogFields, Logger } from '../../common/platform/log.ts';
import { silentLogger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { openTracking, type TrackingFiles, type TrackingFilesOptions } from '../../transport/runtime/tracking.ts';
import type { TrackingRecord } from '../../transport/runtime/tracking-api.ts';
import type { TrackingQuestion } from '../../transport/runtime/tracking-find.ts';
import { SimDisk } from '../sim/disk.ts';
import { Scheduler } from '../sim/scheduler.ts';

const DIRECTORY = '/queue/tracking';

class World {
  readonly scheduler = new Scheduler(1);
  readonly disk = new SimDisk(this.scheduler);
  readonly warnings: string[] = [];
  dropped = 0;
  life = { alive: true };

  readonly logger: Logger = {
    ...silentLogger,
    warn: (_fields: LogFields, message) => {
      this.warnings.push(message);
    },
  };
  readonly metrics: Metrics = {
    increment: (name, _labels, by = 1) => {
      if (name === 'tracking_dropped_total') this.dropped += by;
    },
    set: () => undefined,
    observe: () => undefined,
  };

  /** Runs simulated time until the promise settles. */
  async settle<T>(promise: Promise<T>): Promise<T> {
    let done = false;
    const marked = promise.finally(() => {
      done = true;
    });
    // An event to begin with: what was asked just now may not have reached the scheduler yet.
    this.scheduler.schedule(0, () => undefined);
    await this.scheduler.run(() => done, this.scheduler.nowMs + 60_000);
    expect(done).toBe(true);
    return await marked;
  }

  open(options: Partial<TrackingFilesOptions> = {}): Promise<TrackingFiles> {
    const { logger, metrics } = this;
    const files = this.disk.files(this.life);
    return this.settle(
      openTracking({ directory: DIRECTORY, files, clock: this.scheduler.clock(), logger, metrics, ...options }),
    );
  }

  names(): string[] {
    return this.disk
      .entries()
      .map((entry) => entry.path.slice(DIRECTORY.length + 1))
      .sort();
  }
}

const record = (attemptId: string, more: Partial<TrackingRecord> = {}): TrackingRecord => ({
  atMs: 1_000,
  event: 'RECEIVE',
  source: 'transport-a',
  attemptId,
  ...more,
});

test('a record is found while it is only buffered, and after it reached the disk', async () => {
  const world = new World();
  const tracking = await world.open();
  tracking.record(record('A1'));
  tracking.record(record('B2'));
  expect(await world.settle(tracking.search(['A1']))).toEqual([record('A1')]);
  expect(world.names()).toEqual([]);
  await world.settle(tracking.flush());
  expect(world.names()).toEqual(['tracking-000001.jsonl']);
  expect(await world.settle(tracking.search(['A1']))).toEqual([record('A1')]);
  expect(await world.settle(tracking.search(['nobody']))).toEqual([]);
});

test('the buffer reaches the disk by itself, and no sync is ever asked for', async () => {
  const world = new World();
  const tracking = await world.open();
  tracking.record(record('A1'));
  expect(await world.scheduler.run(() => world.names().length === 1, 10_000)).toBe(true);
  await world.settle(tracking.close());
  expect(world.disk.counts.syncs).toBe(0);
});

test('a search never shows a record twice while its batch is on the way to the disk', async () => {
  const world = new World();
  const tracking = await world.open();
  tracking.record(record('A1'));
  const flushed = tracking.flush();
  const searches = [tracking.search(['A1'])];
  let done = false;
  void flushed.then(() => {
    done = true;
  });
  for (let step = 0; !done && step < 50; step++) {
    await world.scheduler.run(() => false, world.scheduler.nowMs + 0.05);
    searches.push(tracking.search(['A1']));
  }
  expect(done).toBe(true);
  for (const found of await world.settle(Promise.all(searches))) expect(found).toHaveLength(1);
});

test('a Message-ID finds every record of its attempts, sorted by time', async () => {
  const world = new World();
  const tracking = await world.open();
  const messageId = '<4711 "quoted\\"@example.org>';
  tracking.record(record('A1', { atMs: 30, event: 'DELIVER' }));
  tracking.record(record('A1', { atMs: 10, messageId }));
  tracking.record(record('B2', { atMs: 20, messageId }));
  tracking.record(record('C3', { atMs: 25, detail: messageId }));
  await world.settle(tracking.flush());
  tracking.record(record('B2', { atMs: 40, event: 'DELIVER' }));
  const found = await world.settle(tracking.search([messageId]));
  expect(found.map((one) => [one.atMs, one.attemptId])).toEqual([
    [10, 'A1'],
    [20, 'B2'],
    [30, 'A1'],
    [40, 'B2'],
  ]);
});

test('what was made of a message is found by its id: hops, reports and resubmissions, and what they tell later', async () => {
  const world = new World();
  const tracking = await world.open();
  tracking.record(record('ROOT'));
  tracking.record(record('HOP', { root: 'ROOT', parent: 'ROOT' }));
  tracking.record(record('DSN', { event: 'DSN', parent: 'HOP' }));
  tracking.record(record('HOP', { event: 'HADISCARD' }));
  tracking.record(record('OTHER'));
  const ids = async (...names: readonly string[]) =>
    (await world.settle(tracking.search(names))).map(({ attemptId, event }) => `${attemptId} ${event}`);
  expect(await ids('ROOT')).toEqual(['ROOT RECEIVE', 'HOP RECEIVE', 'HOP HADISCARD']);
  expect(await ids('HOP')).toEqual(['HOP RECEIVE', 'DSN DSN', 'HOP HADISCARD']);
  expect(await ids('DSN', 'OTHER')).toEqual(['DSN DSN', 'OTHER RECEIVE']);
  // Many names at once are looked for in another way.
  const many = Array.from({ length: 20 }, (_, n) => `NOBODY-${n}`);
  expect(await ids(...many, 'ROOT')).toEqual(await ids('ROOT'));
  expect(await ids(...many, 'HOP', 'OTHER')).toHaveLength(4);
  expect(await ids(...many)).toEqual([]);
});

const ANYTHING: TrackingQuestion = {
  ...{
    sender: null,
    recipient: null,
    domain: null,
    messageId: null,
    subjectHash: null,
    event: null,
    fromMs: null,
    toMs: null,
  },
};

test('the newest messages that match, each once, over files and buffer, and that there are older ones', async () => {
  const world = new World();
  const tracking = await world.open({ fileBytes: 2_000 });
  for (let n = 0; n < 50; n++) {
    const from = n % 2 === 0 ? 'Even@Example.org' : 'odd@example.org';
    tracking.record(record(`M${n}`, { atMs: n, from, recipients: [`r${n % 5}@example.net`] }));
    if (n % 10 === 0) await world.settle(tracking.flush());
  }
  // A later word about an early one brings it to the front; what is of no message is none.
  tracking.record(
    record('M0', { atMs: 100, from: 'even@example.org', recipients: ['r0@example.net'], event: 'DEFER' }),
  );
  tracking.record(record('ORDER', { atMs: 101, event: 'QUEUE' }));
  expect(world.names().length).toBeGreaterThan(2);
  const find = async (question: Partial<TrackingQuestion>, limit = 3) => {
    const { messages, more } = await world.settle(tracking.find({ ...ANYTHING, ...question }, limit));
    return [messages.map(({ id }) => id), more];
  };
  expect(await find({})).toEqual([['M0', 'M49', 'M48'], true]);
  expect(await find({ sender: 'even@example.ORG' })).toEqual([['M0', 'M48', 'M46'], true]);
  expect(await find({ recipient: 'r3@example.net', toMs: 30 })).toEqual([['M28', 'M23', 'M18'], true]);
  expect(await find({ recipient: 'r3@example.net', fromMs: 20, toMs: 30 })).toEqual([['M28', 'M23'], false]);
  expect(await find({ domain: 'Example.NET', event: 'defer' })).toEqual([['M0'], false]);
  expect(await find({ sender: '' })).toEqual([[], false]);
});

test('questions wait for each other, eight of them; who comes then is told to come again', async () => {
  const world = new World();
  const tracking = await world.open();
  tracking.record(record('A1', { from: 'a@b' }));
  const asked = Array.from({ length: 9 }, () => tracking.find(ANYTHING, 1));
  const answers = await world.settle(Promise.allSettled(asked));
  expect(answers.map(({ status }) => status)).toEqual([...Array(8).fill('fulfilled'), 'rejected']);
  expect(answers[8]).toMatchObject({ reason: { code: 'BUSY' } });
  expect((await world.settle(tracking.find(ANYTHING, 1))).messages).toHaveLength(1);
});

test('a message with ten thousand recipients is told with some of them, and addresses need no care', async () => {
  const world = new World();
  const tracking = await world.open();
  const odd = '"a \\"b\\" c"@exämple.org';
  const recipients = [odd, ...Array.from({ length: 9_999 }, (_, n) => `r${n}@example.net`)];
  tracking.record(record('BIG', { from: odd, recipients, subjectHash: '0123456789abcdef' }));
  tracking.record(record('BIG', { atMs: 2_000, event: 'HADISCARD', from: odd, recipients }));
  const question = { ...ANYTHING, sender: odd, recipient: odd.toUpperCase() };
  const { messages, more } = await world.settle(tracking.find(question, 10));
  expect(more).toBe(false);
  expect(messages).toEqual([
    {
      ...{ id: 'BIG', root: null, messageId: null, subjectHash: '0123456789abcdef', from: odd, firstMs: 1_000 },
      ...{ recipients: recipients.slice(0, 20), recipientCount: 10_000 },
      last: { atMs: 1_000, event: 'RECEIVE', source: 'transport-a' },
    },
  ]);
});

test('outcomes: what was final, and which recipients, of many messages in one reading', async () => {
  const world = new World();
  const tracking = await world.open();
  tracking.record(record('WHOLE', { event: 'DELIVER', recipients: ['a@x', 'b@x'] }));
  tracking.record(record('WHOLE', { event: 'SAFETYNET' }));
  tracking.record(record('HELD', { event: 'HADISCARD' }));
  tracking.record(
    record('PART', { event: 'SEND', recipients: ['a@x'], history: [{ atMs: 1, event: 'DEFER', source: 's' }] }),
  );
  tracking.record(record('PART', { event: 'FAIL', recipients: ['a@x', 'c@x'] }));
  tracking.record(record('NEW'));
  tracking.record(record('GIVENUP', { event: 'ABORT' }));
  await world.settle(tracking.flush());
  tracking.record(record('NOBODY', { detail: '"attemptId":"WHOLE"' }));
  const ids = new Set(['WHOLE', 'HELD', 'PART', 'NEW', 'GIVENUP', 'ELSE']);
  expect(await world.settle(tracking.outcomes(ids))).toEqual([
    { id: 'WHOLE', final: true, recipients: ['a@x', 'b@x'] },
    { id: 'HELD', final: true, recipients: [] },
    { id: 'PART', final: false, recipients: ['a@x', 'c@x'] },
  ]);
});

test('files rotate by size and the oldest go when the total is reached', async () => {
  const world = new World();
  const tracking = await world.open({ retention: { maxAgeMs: 3_600_000, maxBytes: 3_000 } });
  for (let n = 0; n < 100; n++) {
    tracking.record(record(`ATTEMPT-${n}`));
    await world.settle(tracking.flush());
  }
  const sizes = world.disk.entries().map((entry) => entry.sizeBytes);
  expect(Math.max(...sizes)).toBeLessThanOrEqual(1_000);
  expect(sizes.length).toBeGreaterThan(2);
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(3_000);
  expect(world.names()).not.toContain('tracking-000001.jsonl');
  expect(await world.settle(tracking.search(['ATTEMPT-99']))).toHaveLength(1);
  expect(await world.settle(tracking.search(['ATTEMPT-0']))).toEqual([]);
});

test('a new process begins a new file, reads the old ones, and steps over half a line', async () => {
  const world = new World();
  const first = await world.open();
  first.record(record('OLD'));
  await world.settle(first.flush());
  world.life.alive = false;
  world.life = { alive: true };
  const torn = await world.settle(world.disk.files(world.life).open(`${DIRECTORY}/tracking-000001.jsonl`, 'write'));
  const size = await world.settle(torn.sizeBytes());
  await world.settle(torn.writev([Buffer.from('{"atMs":1,"event":"RECEIVE","attemptId":"OLD"')], size));

  const second = await world.open();
  second.record(record('NEW'));
  await world.settle(second.flush());
  expect(world.names()).toEqual(['tracking-000001.jsonl', 'tracking-000002.jsonl']);
  expect(await world.settle(second.search(['OLD']))).toEqual([record('OLD')]);
  expect(await world.settle(second.search(['NEW']))).toEqual([record('NEW')]);
});

test('a damaged line is stepped over, whatever it became; the others are found, and outcomes as well', async () => {
  const world = new World();
  const whole = JSON.stringify(record('A1', { event: 'DELIVER', recipients: ['a@x', 'b@x'] }));
  const damaged = [
    '"atMs":null',
    '"atMs":9e99',
    '"recipients":7',
    '"recipients":[{}]',
    '"history":null',
    '"history":{"a":1}',
    '"history":[null]',
    '"history":[{"atMs":1,"event":2,"source":"x"}]',
    '"messageId":{}',
    '"event":["DELIVER"]',
    '"source":null',
    '"detail":[1]',
  ].map((field) => whole.replace('}', `,${field}}`));
  const handle = await world.settle(
    (async () => {
      const files = world.disk.files(world.life);
      await files.makeDirectory(DIRECTORY);
      return await files.open(`${DIRECTORY}/tracking-000001.jsonl`, 'create');
    })(),
  );
  const lines = [...damaged, '{"attemptId":"A1"', 'null', '"A1"', '\u0000A1', whole, ''];
  await world.settle(handle.writev([Buffer.from(lines.join('\n'))], 0));
  const tracking = await world.open();
  expect(await world.settle(tracking.search(['A1']))).toEqual([JSON.parse(whole)]);
  expect(await world.settle(tracking.outcomes(new Set(['A1'])))).toEqual([
    { id: 'A1', final: false, recipients: ['a@x', 'b@x'] },
  ]);
});

test('lines longer than one read are found whole', async () => {
  const world = new World();
  const tracking = await world.open();
  const big = record('BIG', { detail: 'ü'.repeat(300_000) });
  for (const one of [record('A1'), big, record('A1', { atMs: 2_000 })]) {
    tracking.record(one);
    await world.settle(tracking.flush());
  }
  expect(await world.settle(tracking.search(['BIG']))).toEqual([big]);
  expect(await world.settle(tracking.search(['A1']))).toHaveLength(2);
});

test('a full disk drops records, counts them, says so once, and recovers', async () => {
  const world = new World();
  const tracking = await world.open();
  tracking.record(record('BEFORE'));
  await world.settle(tracking.flush());
  world.disk.setFull(true);
  for (const [name, atMs] of [
    ['LOST-1', 2_000],
    ['LOST-2', 3_000],
  ] as const) {
    tracking.record(record(name, { atMs }));
    await world.settle(tracking.flush());
  }
  expect(world.dropped).toBe(2);
  expect(world.warnings).toEqual(['tracking records dropped']);
  // Whoever asks for what happened then is told.
  expect(await world.settle(tracking.gaps())).toEqual({ beforeMs: null, dropped: { fromMs: 2_000, toMs: 3_000 } });
  world.disk.setFull(false);
  tracking.record(record('AFTER'));
  await world.settle(tracking.flush());
  expect(await world.settle(tracking.search(['AFTER']))).toHaveLength(1);
  expect(await world.settle(tracking.search(['BEFORE']))).toHaveLength(1);
  expect(await world.settle(tracking.search(['LOST-1']))).toEqual([]);
});

test('a disk that stands still costs bounded memory', async () => {
  const world = new World();
  const tracking = await world.open({ bufferBytes: 1_000 });
  for (let n = 0; n < 100; n++) tracking.record(record(`ATTEMPT-${n}`));
  expect(world.dropped).toBeGreaterThan(80);
  expect((await world.settle(tracking.gaps())).dropped).toEqual({ fromMs: 1_000, toMs: 1_000 });
  expect((await world.settle(tracking.search(['ATTEMPT-0']))).length).toBe(1);
  expect(await world.settle(tracking.search(['ATTEMPT-99']))).toEqual([]);
});

test('close writes what is buffered; later records are ignored', async () => {
  const world = new World();
  const tracking = await world.open();
  tracking.record(record('A1'));
  await world.settle(tracking.close());
  tracking.record(record('A1', { atMs: 2 }));
  const again = await world.open();
  expect(await world.settle(again.search(['A1']))).toEqual([record('A1')]);
});

test('a message to ten thousand that is put off for days is an answer of bounded size, with each end in it', async () => {
  const world = new World();
  const tracking = await world.open();
  const recipients = Array.from({ length: 10_000 }, (_, n) => `recipient-${n}@department.example.org`);
  tracking.record(record('M1', { recipients }));
  for (let n = 0; n < 60; n += 1) {
    tracking.record(record('M1', { event: 'DEFER', atMs: 2_000 + n, recipients, detail: '451 later' }));
    await world.settle(tracking.flush());
  }
  tracking.record(record('M1', { event: 'DELIVER', atMs: 9_000, recipients: recipients.slice(-1) }));
  await world.settle(tracking.flush());
  const found = await world.settle(tracking.search(['M1']));
  expect(found).toHaveLength(62);
  expect(found[0]?.recipients).toHaveLength(10_000);
  expect(found.at(-1)).toMatchObject({ event: 'DELIVER', recipients: recipients.slice(-1) });
  expect(JSON.stringify(found).length).toBeLessThan(10 << 20);
});
