/** Statements of the ledger: who is believed about what, and every way not to be. */
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { type Clock, systemClock } from '../../common/platform/clock.ts';
import { createAuthority } from '../../operator/pki.ts';
import { MAX_STATEMENT_BYTES, type StatementIdentity, Statements } from '../../transport/runtime/ledger-statement.ts';
import { CLUSTER, entry, key, LedgerCluster } from './ledger-rig.ts';

const DAY_MS = 86_400_000;
const clockAt = (offsetMs: number): Clock => ({ ...systemClock, wallMs: () => Date.now() + offsetMs });

let cluster: LedgerCluster;
let reader: Statements;
beforeAll(async () => {
  cluster = await LedgerCluster.create();
  reader = new Statements(CLUSTER, systemClock, await cluster.identity('reader'));
});

async function wordOf(identity: StatementIdentity, ofCluster = CLUSTER): Promise<Buffer> {
  return new Statements(ofCluster, systemClock, identity).write(entry('A'));
}

describe('not believed', () => {
  test('another authority, also one with the same name', async () => {
    const authority = await createAuthority(CLUSTER);
    const word = await wordOf(await cluster.identity('t0', { authority }));
    expect(reader.read(key('A'), word)).toMatch(/not of the authority/);
  });

  test('a certificate that signs itself, the one of the authority', async () => {
    const word = JSON.parse((await wordOf(await cluster.identity('t0'))).toString());
    const ca = cluster.authority.certificatePem.replace(/-----[^-]+-----|\s/g, '');
    expect(reader.read(key('A'), Buffer.from(JSON.stringify({ ...word, certificate: ca })))).toMatch(/authority/);
  });

  test.each(['frontend', 'operator'] as const)('a %s of the cluster', async (role) => {
    expect(reader.read(key('A'), await wordOf(await cluster.identity('x', { role })))).toBe(`written by a ${role}`);
  });

  test('a transport of another cluster under the same authority', async () => {
    const word = await wordOf(await cluster.identity('t0', { cluster: 'other' }), 'other');
    expect(reader.read(key('A'), word)).toMatch(/of cluster other/);
  });

  test('a certificate that has expired, or that begins tomorrow', async () => {
    const old = await cluster.identity('t0', { clock: clockAt(-5 * DAY_MS) });
    expect(reader.read(key('A'), await wordOf(old))).toBe('the certificate is not valid now');
    const early = await cluster.identity('t0', { clock: clockAt(DAY_MS) });
    expect(reader.read(key('A'), await wordOf(early))).toBe('the certificate is not valid now');
    // Remembered certificates are looked at again: what was good at the first reading is not for ever.
    let nowMs = Date.now();
    const later = new Statements(CLUSTER, { ...systemClock, wallMs: () => nowMs }, await cluster.identity('reader'));
    const word = await wordOf(await cluster.identity('t0'));
    expect(later.read(key('A'), word)).toMatchObject({ kind: 'relayed' });
    nowMs += 2 * DAY_MS;
    expect(later.read(key('A'), word)).toBe('the certificate is not valid now');
  });

  test('a true statement with one field changed, any of them', async () => {
    const word = JSON.parse((await wordOf(await cluster.identity('t0'))).toString());
    const changes: readonly (readonly [string, unknown])[] = [
      ['writer', 't1'],
      ['copy', 'B'],
      ['recipient', 'eve@example.net'],
      ['epoch', { ...word.epoch, try: 2 }],
      ['epoch', { ...word.epoch, term: 1 }],
      ['epoch', { ...word.epoch, owner: 'X' }],
      ['epoch', { ...word.epoch, term: -1 }],
      ['epoch', null],
      ['reply', '250 2.0.0 other'],
      ['reply', 250],
      ['reply', 'x'.repeat(601)],
      ['dsnPassedOn', true],
      ['dsnPassedOn', 'yes'],
      ['v', 2],
      ['signature', ''],
      ['signature', word.signature.slice(4)],
      ['certificate', ''],
      ['certificate', `AAAA${word.certificate}`],
    ];
    for (const [field, value] of changes) {
      const changed = Buffer.from(JSON.stringify({ ...word, [field]: value }));
      expect([field, reader.read(key(field === 'copy' ? 'B' : 'A'), changed)]).toEqual([field, expect.any(String)]);
    }
    // Somebody who asks about what the forger wrote gets no further.
    const forged = Buffer.from(JSON.stringify({ ...word, copy: 'B' }));
    expect(reader.read(key('B'), forged)).toBe('wrong signature');
    expect(reader.read(key('A'), Buffer.from(JSON.stringify(word)))).toMatchObject({ kind: 'relayed' });
  });

  test("another member's certificate beside one's own signature", async () => {
    const [mine, theirs] = [await cluster.identity('t0'), await cluster.identity('t1')];
    const [word, other] = (await Promise.all([wordOf(mine), wordOf(theirs)])).map((one) => JSON.parse(one.toString()));
    const mixed = Buffer.from(JSON.stringify({ ...word, certificate: other.certificate }));
    expect(reader.read(key('A'), mixed)).toBe('signed by another than it says');
    const renamed = Buffer.from(JSON.stringify({ ...word, certificate: other.certificate, writer: 't1' }));
    expect(reader.read(key('A'), renamed)).toBe('wrong signature');
  });

  test('any bytes, and any damage to a true statement', async () => {
    const word = await wordOf(await cluster.identity('t0'));
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2_000 }), (bytes) => {
        expect(reader.read(key('A'), Buffer.from(bytes))).toEqual(expect.any(String));
      }),
      { numRuns: 200 },
    );
    fc.assert(
      fc.property(fc.nat(word.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const damaged = Buffer.from(word);
        damaged[at] = (damaged[at] ?? 0) ^ flip;
        const read = reader.read(key('A'), damaged);
        // Base64 and JSON have more than one spelling of the same thing; what is believed is never something else.
        if (typeof read !== 'string') expect(read).toEqual(reader.read(key('A'), word));
      }),
      { numRuns: 500 },
    );
    expect(reader.read(key('A'), Buffer.alloc(MAX_STATEMENT_BYTES, '['))).toBe('too long');
    expect(reader.read(key('A'), Buffer.from('['.repeat(8_000)))).toMatch(/^not a statement/);
  });
});

describe('believed', () => {
  test('a transport of the cluster, after the renewal of its certificate and while the authority changes', async () => {
    const before = await cluster.identity('t0');
    const word = await wordOf(before);
    const next = await LedgerCluster.create();
    const reading = new Statements(CLUSTER, systemClock, await cluster.identity('reader'));
    const both = `${cluster.authority.certificatePem}\n${next.authority.certificatePem}`;
    const newWord = await wordOf(await next.identity('t0'));
    expect(reading.read(key('A'), newWord)).toMatch(/authority/);
    reading.renew({ ...(await next.identity('reader')), ca: both });
    expect(reading.read(key('A'), newWord)).toMatchObject({ kind: 'relayed', writer: 't0' });
    expect(reading.read(key('A'), word)).toMatchObject({ kind: 'relayed', writer: 't0' });
    reading.renew(await next.identity('reader'));
    expect(reading.read(key('A'), word)).toMatch(/authority/);
  });

  test('a long reply, cut', async () => {
    const writer = new Statements(CLUSTER, systemClock, await cluster.identity('t0'));
    const word = await writer.write(entry('A', 'bob@example.net', { reply: 'é'.repeat(5_000) }));
    expect(word.length).toBeLessThan(MAX_STATEMENT_BYTES);
    expect(reader.read(key('A'), word)).toMatchObject({ reply: 'é'.repeat(600) });
  });

  test('the longest recipient a client may give us', async () => {
    const recipient = `${'"'.repeat(64)}@${'é'.repeat(255)}`;
    const writer = new Statements(CLUSTER, systemClock, await cluster.identity('t0'));
    const word = await writer.write(entry('A', recipient, { reply: '"'.repeat(600) }));
    expect(reader.read(key('A', recipient), word)).toMatchObject({ kind: 'relayed' });
  });
});

test('an identity that does not fit together is refused, the former stays in use', async () => {
  const [one, other] = [await cluster.identity('t0'), await cluster.identity('t1')];
  expect(() => new Statements(CLUSTER, systemClock, { ...one, key: other.key })).toThrow('not a pair');
  expect(() => new Statements('elsewhere', systemClock, one)).toThrow('of cluster mail');
  const statements = new Statements(CLUSTER, systemClock, one);
  expect(() => statements.renew({ ...other, ca: 'no PEM' })).toThrow('no certificate of an authority');
  expect(() => statements.renew({ ...other, key: 'no PEM' })).toThrow();
  expect(reader.read(key('A'), await statements.write(entry('A')))).toMatchObject({ writer: 't0' });
});
