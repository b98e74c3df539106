/** The client of a resolver that validates: against a name server that lies, is slow or cuts off, and against a real unbound with signed, unsigned and forged zones. */
import { afterEach, describe, expect, test } from 'vitest';
import { type Clock, systemClock } from '../../common/platform/clock.ts';
import { type Logger, silentLogger } from '../../common/platform/log.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { type ValidatingDns, validatingDns } from '../../common/platform/validating-dns.ts';
import { until } from '../house/until.ts';
import { DnsServer, type ZoneEntry } from '../rigs/dns-server.ts';
import { Unbound } from '../rigs/unbound.ts';

const BOUNDS = { tryMs: 300, questionMs: 2_000 };
const TLSA = { usage: 3, selector: 1, matchingType: 1, certificate: Buffer.alloc(32, 7) };

const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
});
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

interface World {
  readonly server: DnsServer;
  readonly dns: ValidatingDns;
  readonly warnings: string[];
  pass(ms: number): void;
}

async function world(zone: Record<string, ZoneEntry>, more: readonly string[] = []): Promise<World> {
  const server = kept(await DnsServer.start(zone));
  let aheadMs = 0;
  const clock: Clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() + aheadMs };
  const warnings: string[] = [];
  const log: Logger = { ...silentLogger, warn: ({ resolver }, text) => warnings.push(`${resolver}: ${text}`) };
  return {
    ...{ server, warnings },
    dns: validatingDns([...more, server.server], { clock, log, random: systemRandom }, BOUNDS),
    pass: (ms) => {
      aheadMs += ms;
    },
  };
}

describe('answers', () => {
  test('are proven when the resolver says so of them, and else not', async () => {
    const { dns } = await world({
      'signed.test': { mx: [[10, 'MX.signed.test']], isSigned: true },
      'plain.test': { mx: [[10, 'mx.plain.test']] },
      'empty.test': { isSigned: true },
      '_25._tcp.mx.signed.test': { tlsa: [TLSA], isSigned: true },
    });
    const records = [{ exchange: 'mx.signed.test', preference: 10 }];
    expect(await dns.mx('Signed.test')).toEqual({ kind: 'records', records, provenNames: ['signed.test'] });
    expect(await dns.mx('plain.test')).toEqual({
      ...{ kind: 'records', records: [{ exchange: 'mx.plain.test', preference: 10 }] },
    });
    expect(await dns.mx('empty.test')).toEqual({ kind: 'noRecords', provenNames: ['empty.test'] });
    expect(await dns.mx('gone.test')).toEqual({ kind: 'noName' });
    expect(await dns.tlsa('_25._tcp.mx.signed.test')).toMatchObject({ records: [TLSA] });
  });

  test('aliases: proven to their end, or where they begin', async () => {
    const { dns } = await world({
      'alias.test': { cname: 'host.test', isSigned: true },
      'host.test': { a: ['203.0.113.1'], isSigned: true },
      'away.test': { cname: 'host.plain.test', isSigned: true },
      'host.plain.test': { a: ['203.0.113.2'], aaaa: ['2001:db8::2'] },
      'unsigned.test': { cname: 'host.test' },
      'circle.test': { cname: 'circle.test' },
    });
    expect(await dns.addresses('alias.test')).toEqual({
      ...{ kind: 'records', records: ['203.0.113.1'], provenNames: ['host.test', 'alias.test'] },
    });
    expect(await dns.addresses('away.test')).toEqual({
      ...{ kind: 'records', records: ['2001:db8::2', '203.0.113.2'], provenNames: ['away.test'] },
    });
    expect(await dns.addresses('unsigned.test')).toEqual({ kind: 'records', records: ['203.0.113.1'] });
  });

  test('what is too long for UDP comes over TCP', async () => {
    const many = Array.from({ length: 200 }, (_, at) => `203.0.113.${at}`);
    const { dns, server } = await world({ 'long.test': { a: many, isLong: true, isSigned: true } });
    expect(await dns.addresses('long.test')).toMatchObject({ records: many, provenNames: ['long.test'] });
    expect(server.asked.filter((one) => one === 'A long.test')).toHaveLength(2);
  });

  test('names that cannot be asked for do not exist', async () => {
    const { dns, server } = await world({});
    for (const name of [`${'a'.repeat(64)}.test`, 'a..test', 'ä.test', `${'a.'.repeat(127)}test`, 'a b.test'])
      expect(await dns.mx(name)).toEqual({ kind: 'noName' });
    expect(server.asked).toEqual([]);
  });
});

describe('what is no answer of a name server is temporary', () => {
  const signed: Record<string, ZoneEntry> = { 'a.test': { a: ['203.0.113.1'], isSigned: true } };

  test.each<[string, (server: DnsServer) => void, RegExp]>([
    [
      'SERVFAIL',
      ({ zone }) => (zone['a.test'] = 'SERVFAIL'),
      /^AAAA of a\.test: SERVFAIL, so a validator says also of/,
    ],
    ['silence', ({ zone }) => (zone['a.test'] = 'silent'), /no answer/],
    [
      'rubbish',
      (server) => (server.distort = () => [Buffer.from('rubbish')]),
      /no answer, but \d packets that are none/,
    ],
    ['half an answer', (server) => (server.distort = (reply) => [reply.subarray(0, 20)]), /packets that are none/],
    ['another id', (server) => (server.distort = (reply) => [changed(reply, 0, 1)]), /packets that are none/],
    ['another name', (server) => (server.distort = (reply) => [changed(reply, 13, 1)]), /packets that are none/],
    ['REFUSED', (server) => (server.distort = (reply) => [changed(reply, 3, 5)]), /response code 5/],
    ['cut off, and silence over TCP', cutOff, /no answer over TCP/],
  ])('%s', async (_title, spoil, reason) => {
    const { dns, server } = await world({ ...signed });
    spoil(server);
    expect(await dns.addresses('a.test')).toEqual({ kind: 'temporary', reason: expect.stringMatching(reason) });
    // And it is not remembered.
    server.distort = (reply) => [reply];
    server.zone['a.test'] = signed['a.test'] ?? 'silent';
    expect(await dns.addresses('a.test')).toMatchObject({ records: ['203.0.113.1'] });
  });

  function cutOff(server: DnsServer): void {
    server.zone['a.test'] = { a: ['203.0.113.1'], isLong: true };
    server.isSilentOverTcp = true;
  }

  test('a forged answer before the true one changes nothing', async () => {
    const { dns, server } = await world({ ...signed });
    server.distort = (reply) => [Buffer.from('x'), changed(reply, 0, 1), changed(reply, 13, 1), reply];
    expect(await dns.addresses('a.test')).toMatchObject({ records: ['203.0.113.1'], provenNames: ['a.test'] });
  });

  test('a server that cannot be', async () => {
    const dns = validatingDns(['127.0.0.1:99999'], { clock: systemClock, log: silentLogger, random: systemRandom });
    expect(await dns.mx('a.test')).toEqual({ kind: 'temporary', reason: expect.stringContaining('99999') });
  });

  test('a true answer with any one byte changed ends the question, and no process', async () => {
    const { dns, server } = await world({ 'a.test': { mx: [[10, 'mx.a.test']], txt: ['x'], isSigned: true } });
    for (let at = 2; at < 60; at++) {
      server.distort = (reply) => [changed(reply, at % reply.length, 0xff), reply];
      expect((await dns.mx('a.test')).kind).toMatch(/^(records|noRecords|noName|temporary)$/);
    }
  });

  test.each<[string, (reply: Buffer) => Buffer]>([
    ['who neither recurses nor knows the zone', (reply) => changed(reply, 3, 0x80)],
    ['who names other servers', referral],
  ])('%s: no word about what there is; the next server is asked', async (_title, lame) => {
    const { dns, server } = await world({ 'empty.test': { isSigned: true }, ...signed });
    const { dns: both } = await world({ 'empty.test': { isSigned: true } }, [server.server]);
    server.distort = (reply) => [lame(reply)];
    expect(await dns.mx('empty.test')).toEqual({
      ...{ kind: 'temporary', reason: expect.stringMatching(/^MX of empty\.test: it names other servers, or none/) },
    });
    expect(await both.mx('empty.test')).toEqual({ kind: 'noRecords', provenNames: ['empty.test'] });
  });

  /** The same with an authority `. NS a.` */
  function referral(reply: Buffer): Buffer {
    const head = Buffer.from(reply);
    head.writeUInt16BE(1, 8);
    return Buffer.concat([head, Buffer.from([0, 0, 2, 0, 1, 0, 0, 14, 16, 0, 3, 1, 97, 0])]);
  }

  test('addresses that are none are left out; nothing but those is no answer', async () => {
    const { dns, server } = await world({ 'two.test': { a: ['203.0.113.1', '203.0.113.2'] }, ...signed });
    server.distort = (reply) => [reply[7] === 0 ? reply : shortened(reply)];
    expect(await dns.addresses('two.test')).toMatchObject({ records: ['203.0.113.1'] });
    expect(await dns.addresses('a.test')).toEqual({
      ...{ kind: 'temporary', reason: expect.stringContaining('an answer that cannot be read') },
    });
  });

  /** The address in the last record has two bytes. */
  function shortened(reply: Buffer): Buffer {
    const cut = Buffer.from(reply.subarray(0, -2));
    cut.writeUInt16BE(2, cut.length - 4);
    return cut;
  }

  test('an answer that was cut off inside a record comes over TCP', async () => {
    const { dns, server } = await world({ 'a.test': { a: ['203.0.113.1'], isLong: true, isSigned: true } });
    server.distort = (reply) => [Buffer.concat([changed(reply, 7, 3), Buffer.from([0xc0, 12, 0, 1, 0])])];
    expect(await dns.addresses('a.test')).toMatchObject({ records: ['203.0.113.1'], provenNames: ['a.test'] });
  });

  test('what one server finds to be forged no other one is asked for', async () => {
    const { server } = await world({ 'far.test': 'SERVFAIL' });
    const { dns, server: other } = await world({ 'far.test': { mx: [[10, 'mx.forged.test']] } }, [server.server]);
    expect(await dns.mx('far.test')).toEqual({
      ...{ kind: 'temporary', reason: expect.stringMatching(/^MX of far\.test: SERVFAIL/) },
    });
    expect([server.asked, other.asked]).toEqual([['MX far.test'], []]);
  });

  test('of many servers each gets its turn in time, and who answered is asked first from then on', async () => {
    const dead = kept(await DnsServer.start({ 'a.test': 'silent', 'b.test': 'silent' }));
    const good = kept(await DnsServer.start({ 'a.test': { txt: ['x'] }, 'b.test': { txt: ['y'] } }));
    const servers = [...Array.from({ length: 4 }, () => dead.server), good.server];
    const ports = { clock: systemClock, log: silentLogger, random: systemRandom };
    const dns = validatingDns(servers, ports, { tryMs: 2_000, questionMs: 4_000 });
    expect(await dns.txt('a.test')).toMatchObject({ records: ['x'] });
    expect(dead.asked).toHaveLength(4);
    expect(await dns.txt('b.test')).toMatchObject({ records: ['y'] });
    expect(dead.asked).toHaveLength(4);
  });

  test('nobody is asked any more when the time of a question is over', async () => {
    const dead = kept(await DnsServer.start({ 'a.test': 'silent' }));
    let nowMs = 0;
    const due: (() => void)[] = [];
    const clock: Clock = {
      ...systemClock,
      monotonicMs: () => nowMs,
      // A try that ends late, and a question that never does.
      setTimer: (ms, run) => {
        if (ms < 1_000) due.push(run);
        return { cancel: () => undefined };
      },
    };
    const ports = { clock, log: silentLogger, random: systemRandom };
    const answer = validatingDns([dead.server], ports, { tryMs: 300, questionMs: 1_000 }).txt('a.test');
    await expect.poll(() => dead.asked.length).toBe(1);
    nowMs = 1_001;
    due.shift()?.();
    expect(await answer).toMatchObject({ kind: 'temporary', reason: expect.stringContaining('no answer') });
    expect(dead.asked).toHaveLength(1);
  });

  test('another server is asked when one is dead', async () => {
    const { dns } = await world({ ...signed }, ['127.0.0.9:9']);
    expect(await dns.addresses('a.test')).toMatchObject({ records: ['203.0.113.1'] });
  });
});

function changed(reply: Buffer, at: number, mask: number): Buffer {
  const copy = Buffer.from(reply);
  copy[at] = (copy[at] ?? 0) ^ mask;
  return copy;
}

describe('what is remembered', () => {
  test('as long as the TTL says, an hour at most; who asks at the same time asks once', async () => {
    const { dns, server, pass } = await world({
      'a.test': { txt: ['one'], ttl: 60, isSigned: true },
      'long.test': { txt: ['one'], ttl: 1_000_000, isSigned: true },
      'plain.test': { txt: ['one'], ttl: 1_000_000 },
    });
    await dns.txt('plain.test');
    server.zone['plain.test'] = { txt: ['two'] };
    server.asked.length = 0;
    await Promise.all([dns.txt('a.test'), dns.txt('A.test'), dns.txt('long.test')]);
    server.zone['a.test'] = { txt: ['two'], ttl: 60 };
    server.zone['long.test'] = { txt: ['two'], isSigned: true };
    pass(59_000);
    expect(await dns.txt('a.test')).toEqual({ kind: 'records', records: ['one'], provenNames: ['a.test'] });
    expect(server.asked).toHaveLength(2);
    pass(1_001);
    expect(await dns.txt('a.test')).toEqual({ kind: 'records', records: ['two'] });
    expect(await dns.txt('long.test')).toMatchObject({ records: ['one'] });
    // What nobody validated five minutes at most.
    expect(await dns.txt('plain.test')).toMatchObject({ records: ['one'] });
    pass(240_001);
    expect(await dns.txt('plain.test')).toMatchObject({ records: ['two'] });
    expect(await dns.txt('long.test')).toMatchObject({ records: ['one'] });
    pass(3_600_000);
    expect(await dns.txt('long.test')).toMatchObject({ records: ['two'] });
  });

  test('no more than strangers may fill our memory with', async () => {
    const mx = (length: number) => Array.from({ length }, (_, at) => [at, `mx${at}.test`] as const);
    const tlsa = [TLSA, { ...TLSA, usage: 2 }];
    const all = { ttl: 600, isSigned: true };
    const { dns, server } = await world({
      'many.test': { mx: mx(101), ...all },
      'enough.test': { mx: mx(100), ...all },
      'large.test': { txt: ['x'.repeat(4_097)], ...all },
      'fits.test': { txt: ['x'.repeat(4_096)], ...all },
      '_25._tcp.mx.test': { tlsa, ...all },
    });
    for (let turn = 0; turn < 2; turn++) {
      expect(await dns.mx('many.test')).toMatchObject({ records: { length: 101 } });
      expect(await dns.mx('enough.test')).toMatchObject({ records: { length: 100 } });
      expect(await dns.txt('large.test')).toMatchObject({ kind: 'records' });
      expect(await dns.txt('fits.test')).toMatchObject({ kind: 'records' });
    }
    const times = (what: string): number => server.asked.filter((one) => one === what).length;
    expect(['MX many.test', 'MX enough.test', 'TXT large.test', 'TXT fits.test'].map(times)).toEqual([2, 1, 2, 1]);
    // Nor does a record hold the packet it came in.
    const answer = await dns.tlsa('_25._tcp.mx.test');
    const held = answer.kind === 'records' ? answer.records.map((one) => one.certificate.buffer.byteLength) : [];
    expect(held).toEqual([32, 32]);
  });
});

describe('whether it validates', () => {
  test('is seen at the root, asked for once in ten minutes, and said when it does not', async () => {
    const { dns, server, pass, warnings } = await world({ '.': { ns: ['ns.test'] } });
    expect([await dns.validates(), await dns.validates()]).toEqual([false, false]);
    const warning = expect.stringMatching(`^${server.server}: mx.dnsServers do not validate DNSSEC`);
    expect([server.asked, warnings]).toEqual([['NS .'], [warning]]);
    server.zone['.'] = { ns: ['ns.test'], isSigned: true };
    pass(600_001);
    expect(await dns.validates()).toBe(true);
  });

  test('who does not is told of until he is found to validate, which is asked anew when that was long ago', async () => {
    const { server: good } = await world({ '.': { ns: ['ns.test'], isSigned: true } });
    const { dns, server, pass } = await world({ '.': { ns: ['ns.test'] } }, [good.server]);
    expect(dns.notValidating()).toEqual([]);
    await dns.validates();
    expect([dns.notValidating(), dns.notValidating()]).toEqual([[server.server], [server.server]]);
    expect(server.asked).toEqual(['NS .']);
    server.zone['.'] = { ns: ['ns.test'], isSigned: true };
    pass(600_001);
    expect(dns.notValidating()).toEqual([server.server]);
    await until('it to be asked anew', () => dns.notValidating().length === 0, { deadlineMs: 5_000 });
    expect(server.asked).toEqual(['NS .', 'NS .']);
  });

  test('what is remembered of the root, whatever its TTL, is no sign of it', async () => {
    const { dns, server, pass } = await world({ '.': { ns: ['ns.test'], isSigned: true, ttl: 518_400 } });
    expect(await dns.validates()).toBe(true);
    server.zone['.'] = { ns: ['ns.test'], ttl: 518_400 };
    pass(600_001);
    expect(await dns.validates()).toBe(false);
  });

  test('is asked of each server: one that does not is named, one that is silent says nothing', async () => {
    const zone: Record<string, ZoneEntry> = { '.': { ns: ['ns.test'], isSigned: true } };
    const { server: good } = await world(zone);
    const { dns, server, warnings } = await world({ '.': { ns: ['ns.test'] } }, [good.server]);
    expect(await dns.validates()).toBe(false);
    expect([good.asked, server.asked]).toEqual([['NS .'], ['NS .']]);
    expect(warnings).toEqual([expect.stringMatching(`^${server.server}: `)]);
    expect(await (await world({ '.': 'silent' }, [good.server])).dns.validates()).toBe(true);
  });

  test('is known from any answer that is proven; silence says nothing', async () => {
    const { dns, server } = await world({ 'a.test': { a: ['203.0.113.1'], isSigned: true }, '.': 'silent' });
    expect(await dns.validates()).toBeNull();
    await dns.addresses('a.test');
    server.asked.length = 0;
    expect(await dns.validates()).toBe(true);
    expect(server.asked).toEqual([]);
  });
});

test('a real validator: signed is proven, also that there is nothing; unsigned is not; forged is in doubt', async (context) => {
  const unbound = await Unbound.start({
    signed: [
      'far.test. 1 IN MX 10 mx.far.test.',
      'mx.far.test. 1 IN A 203.0.113.1',
      'alias.test. 1 IN CNAME mx.far.test.',
    ],
    unsigned: { 'plain.test.': ['plain.test. 1 IN MX 10 mx.plain.test.'] },
    forged: { 'forged.test.': ['forged.test. 1 IN MX 10 mx.forged.test.'] },
  });
  if ('missing' in unbound) return context.skip(unbound.missing);
  kept(unbound);
  const ports = { clock: systemClock, log: silentLogger, random: systemRandom };
  const dns = validatingDns([unbound.server], ports);
  expect(await dns.validates()).toBe(true);
  expect(await dns.mx('far.test')).toMatchObject({ kind: 'records', provenNames: ['far.test'] });
  expect(await dns.addresses('alias.test')).toMatchObject({
    ...{ records: ['203.0.113.1'], provenNames: ['mx.far.test', 'alias.test'] },
  });
  expect(await dns.tlsa('_25._tcp.mx.far.test')).toMatchObject({ kind: 'noName' });
  expect(await dns.txt('far.test')).toEqual({ kind: 'noRecords', provenNames: ['far.test'] });
  expect(await dns.mx('plain.test')).toEqual({
    ...{ kind: 'records', records: [{ exchange: 'mx.plain.test', preference: 10 }] },
  });
  expect(await dns.mx('forged.test')).toEqual({
    ...{ kind: 'temporary', reason: expect.stringMatching(/^MX of forged\.test: SERVFAIL/) },
  });
});
