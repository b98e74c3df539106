/** Little memory must not change what is kept (transport/store/compact.ts, checkpoint-rows.ts, bloom.ts). */
import { describe, expect, test } from 'vitest';
import type { CopyId, Envelope } from '../../common/message.ts';
import { bloomHas, bloomKey, buildBloom } from '../../transport/store/bloom.ts';
import { bodyPlace, commitPlace, extentsOf, segmentsOf } from '../../transport/store/body-place.ts';
import { decodeRows, encodeRows } from '../../transport/store/checkpoint-rows.ts';
import { Compactor, hasRecipients, packedOf, recipientCount, TOGETHER } from '../../transport/store/compact.ts';
import type { CopyFacts, CopyState } from '../../transport/store/database.ts';
import { copyId, delivered, factsOf, OWNER, pending, stateOf } from './samples.ts';

const plain = (facts: CopyFacts): unknown => JSON.parse(JSON.stringify(facts));
const base = factsOf(copyId(1), { digest: () => 'ab'.repeat(32), sizeBytes: 77 }, 3);
const placement = { identity: OWNER, member: 'hub-1', epoch: { try: 2, term: 1, owner: OWNER }, status: 'confirmed' };

function packed(facts: CopyFacts, compactor = new Compactor()): CopyFacts {
  const held = compactor.hold(facts);
  compactor.pack([held]);
  return held;
}

const envelope = (more: Partial<Envelope>): CopyFacts => ({ ...base, envelope: { ...base.envelope, ...more } });
const FACTS: readonly (readonly [string, CopyFacts])[] = [
  ['a plain message', base],
  ['null reverse-path, no recipients', envelope({ reversePath: '', recipients: [] })],
  [
    'members of a list, an expanded alias',
    envelope({
      reportsTo: ['c@d'],
      returnPaths: [{ address: 'owner@b', reportsTo: ['c@d'] }, { address: 'other@b' }],
      recipients: [{ address: 'a@b', returnPath: 0 }, { address: 'c@d' }],
      expanded: [{ address: 'list@b', notify: 'SUCCESS', action: 'delivered' }],
    }),
  ],
  [
    'DSN parameters',
    envelope({
      ret: 'HDRS',
      envid: 'QQ+3D"\\',
      recipients: [{ address: 'a@b', notify: 'NEVER', orcpt: 'rfc822;a@b' }],
    }),
  ],
  [
    'TLS, a user',
    envelope({ client: { ...base.envelope.client, tls: { version: 'TLSv1.3', cipher: 'X' }, user: 'üser"' } }),
  ],
  ['beyond Latin-1', envelope({ reversePath: '用户@例子.广告', smtputf8: true, declaredSizeBytes: 9 })],
  ['a field of a later version', envelope({ later: { deep: [1] } } as Partial<Envelope>)],
  ['a resubmission with an ancestor', { ...base, kind: 'resubmission', ancestor: copyId(9) }],
  [
    'events of the front end, also some that look like what stands for others',
    {
      ...base,
      events: [
        'connect from [192.0.2.1]:4711 to mx, ESMTP client.example.net: MAIL, 1 RCPT',
        'connect from [192.0.2.1]:4711 to mx, ESMTP client.example.net',
        '+',
        '-',
        '+-x',
        '-+x',
        '',
        'end of data, 5 bytes',
      ].map((detail, n) => ({
        event: n === 7 ? 'MESSAGE-ID' : 'FRONTEND',
        atMs: 1_700_000_000_000 + n,
        source: 'fe-0',
        detail,
      })),
    },
  ],
  ['a shadow', { ...base, takenFrom: { identity: OWNER, openCounter: 4, nonce: 'ff' } }],
  [
    'events of several sources, out of order',
    {
      ...base,
      events: [
        { event: 'FRONTEND', atMs: base.envelope.receivedAtMs - 5, source: 'fe-0', detail: '"quoted" \\ \n' },
        { event: 'MESSAGE-ID', atMs: 1, source: 'elsewhere' },
      ],
    },
  ],
];
const STATES: readonly CopyState[] = [
  stateOf('shadow'),
  stateOf('delivery', {
    recipients: [pending('a@b'), delivered('c@d', 'mbx1')],
    placements: [placement as never],
    ageMs: 1.5,
  }),
  stateOf('delivery', {
    recipients: [{ address: 'a@b', outcome: 'pending', reply: '451 later' }],
    unprotected: 'no peer',
    suspended: 3,
    dsns: [copyId(3)],
    finalAtMs: 12,
    attempts: 4,
  }),
];

describe('compact copies', () => {
  test.each(FACTS)('%s: held, then packed in place: equal all the time', (_, facts) => {
    const compactor = new Compactor();
    const held = compactor.hold(facts);
    expect(compactor.hold(held)).toBe(held);
    expect({ ...held }).toEqual(facts);
    expect(held.envelope).toBe(facts.envelope);
    compactor.pack([held]);
    expect(held.envelope).not.toBe(facts.envelope);
    expect({ ...held }).toEqual(facts);
    expect(plain(held)).toEqual(plain(facts));
  });

  test.each(FACTS)('%s: its recipients, and nobody else', (_, facts) => {
    const addresses = facts.envelope.recipients.map(({ address }) => address);
    const quoted = { ...facts, envelope: { ...facts.envelope, reversePath: `x,["a@b"],"${addresses.join()}` } };
    for (const one of [facts, packed(facts), quoted, packed(quoted)]) {
      expect(hasRecipients(one, addresses)).toBe(true);
      expect(hasRecipients(one, [...addresses, 'more@example.org'])).toBe(false);
      expect(hasRecipients(one, addresses.slice(1))).toBe(addresses.length === 0);
      expect(hasRecipients(one, ['other@example.org'])).toBe(false);
    }
  });

  test.each(FACTS)('%s: equal, also spread and as JSON', (_, facts) => {
    const compactor = new Compactor();
    const one = packed(facts, compactor);
    expect({ ...one }).toEqual(facts);
    expect(plain(one)).toEqual(plain(facts));
    expect(one).toEqual(facts);
    expect(packed(one, compactor)).toBe(one);
    expect({ ...one, id: copyId(5) }).toEqual({ ...facts, id: copyId(5) });
    // Another one in between: nothing of it is mixed up.
    const other = packed({ ...base, envelope: { ...base.envelope, listener: 'other' } }, compactor);
    expect(other.envelope.listener).toBe('other');
    expect(one.envelope).toEqual(facts.envelope);
    expect(one.events).toEqual(facts.events);
  });

  test('many are packed together: each says what it said, also when some are packed once more and others are gone', () => {
    const compactor = new Compactor();
    const all = Array.from({ length: 150 }, (_, n) => {
      const [, facts] = FACTS[n % FACTS.length] as (typeof FACTS)[number];
      return { ...facts, id: copyId(n), digest: String(n).padStart(64, '0'), acceptedAtMs: 1_700_000_000_000 + n };
    });
    const held = all.map((facts) => compactor.hold(facts));
    const same = (): void => {
      for (const [n, facts] of held.entries()) {
        expect({ ...facts }).toEqual(all[n]);
        expect(recipientCount(facts)).toBe(all[n]?.envelope.recipients.length);
      }
    };
    compactor.pack(held);
    expect(new Set(held.map((facts) => packedOf(facts)?.block)).size).toBe(Math.ceil(150 / TOGETHER));
    same();
    compactor.pack(held.filter((_, n) => n % 5 === 0));
    same();
    held.reverse();
    all.reverse();
    same();
  });

  test('a checkpoint leaves no block alive for a few, and full ones as they are', () => {
    const compactor = new Compactor();
    const copies = Array.from({ length: 4 * TOGETHER }, (_, n) => ({
      facts: compactor.hold({ ...base, id: copyId(n), sizeBytes: n }),
      state: stateOf('delivery'),
      body: bodyPlace([3, n, 7], []),
    }));
    compactor.pack(copies.map(({ facts }) => facts));
    const blocks = () => copies.map(({ facts }) => packedOf(facts)?.block);
    const before = blocks();
    // Of the first two only every fourth is left.
    const left = copies.filter((_, n) => n >= 2 * TOGETHER || n % 4 === 0);
    const rows = encodeRows(left, compactor);
    expect(rows.blocks.length).toBe(3);
    expect(blocks().slice(2 * TOGETHER)).toEqual(before.slice(2 * TOGETHER));
    expect(packedOf(copies[0]?.facts as CopyFacts)?.block).not.toBe(before[0]);
    const found = [...decodeRows(JSON.parse(JSON.stringify(rows)), new Compactor())];
    expect(found.map(({ facts }) => plain(facts))).toEqual(left.map(({ facts }) => plain(facts)));
  });

  test('states are equal, what they share is held once', () => {
    const compactor = new Compactor();
    for (const state of STATES) {
      const [one, two] = [1, 2].map(() => compactor.state(structuredClone(state)));
      expect(one).toEqual(state);
      expect(one?.epoch).toBe(two?.epoch);
      expect(one?.placements).toBe(two?.placements);
    }
    const from = { identity: OWNER, openCounter: 4, nonce: 'ff' };
    const taken = [1, 2].map(() => compactor.hold({ ...base, takenFrom: { ...from } }).takenFrom);
    expect(taken[0]).toBe(taken[1]);
  });

  test('rows of a checkpoint say the same, from packed and from plain copies', () => {
    const compactor = new Compactor();
    const body = bodyPlace(
      [3, 4096, 700],
      [
        [3, 8192, 262_144, 0xffff_ffff],
        [4, 64, 5, 1],
      ],
    );
    const copies = FACTS.flatMap(([, facts]) => STATES.map((state) => ({ facts, state, body })));
    for (const given of [copies, copies.map((copy) => ({ ...copy, facts: packed(copy.facts, compactor) }))]) {
      const rows = JSON.parse(JSON.stringify(encodeRows(given, compactor)));
      const found = [...decodeRows(rows, new Compactor())];
      expect(found.map((copy) => [plain(copy.facts), copy.state, copy.body])).toEqual(
        copies.map((copy) => [plain(copy.facts), copy.state, copy.body]),
      );
    }
  });

  test('places of bodies', () => {
    const body = bodyPlace(
      [3, 4096, 700],
      [
        [3, 8192, 262_144, 0xffff_fffe],
        [4, 64, 5, 1],
      ],
    );
    expect(commitPlace(body)).toEqual([3, 4096, 700]);
    expect(extentsOf(body)).toEqual([
      [3, 8192, 262_144, 0xffff_fffe],
      [4, 64, 5, 1],
    ]);
    expect(segmentsOf(body)).toEqual([3, 4]);
    expect(segmentsOf(bodyPlace([7, 1, 2], []))).toEqual([7]);
  });
});

describe('filters', () => {
  test('never deny what is in them, and rarely claim what is not', () => {
    const ids = Array.from({ length: 13_000 }, (_, n) => copyId(n));
    const bloom = buildBloom(ids);
    expect(bloom.bits.length / ids.length).toBeLessThan(3.01);
    for (const id of ids) expect(bloomHas(bloom, bloomKey(id))).toBe(true);
    let wrong = 0;
    const asked = 200_000;
    for (let n = 0; n < asked; n++) if (bloomHas(bloom, bloomKey(copyId(1_000_000 + n * 7)))) wrong += 1;
    // 1,000 segments together: one unneeded look into a footer for 10 new ids at the very most.
    expect(wrong / asked).toBeLessThan(1e-4);
    expect(bloomHas(buildBloom([]), bloomKey('x' as CopyId))).toBe(false);
  });
});
