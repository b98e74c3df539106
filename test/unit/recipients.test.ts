/** Recipients that stand for others: who is behind an address, what becomes of RFC 3461's parameters, loops, lists of addresses in little memory. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type {
  ExpansionConfig,
  MailboxDatabaseConfig,
  RecipientsConfig,
  TopologyDocument,
} from '../../common/config.ts';
import { parseTopologyDocument } from '../../common/config-parse.ts';
import type { Envelope } from '../../common/message.ts';
import { encodeFrame, FrameDecoder, type WireFrame } from '../../common/peer/frames.ts';
import { expansionLoop, MAX_EXPANDED_RECIPIENTS, NO_RECIPIENTS } from '../../common/recipients-parse.ts';
import { AddressList, MAX_ADDRESSES } from '../../frontend/address-list.ts';
import { AddressLists } from '../../frontend/address-lists.ts';
import { expandEnvelope } from '../../frontend/expansion.ts';
import { RecipientPolicy } from '../../frontend/policy.ts';
import type { Expansion } from '../../frontend/recipients.ts';
import { composeDsn, type ReportKind } from '../../transport/core/dsn.ts';
import { envelopeFor } from '../../transport/core/return-path.ts';
import { resolveRecipient } from '../../transport/core/routing.ts';
import { simTopology } from '../sim/topology.ts';
import { sampleEnvelope, sampleId, sampleOpen } from './peer-samples.ts';

const base = simTopology({ sites: [1], dag: true, frontends: 1 });
const [alpha, beta] = base.databases as [MailboxDatabaseConfig, MailboxDatabaseConfig];
const ORIGIN = { site: 'site-0', sizeBytes: 1_000 };
const none = { membersFrom: null, envelopeSender: null };
const group = (address: string, members: readonly string[], more: Partial<ExpansionConfig> = {}): ExpansionConfig => ({
  ...{ address, members, ...none },
  ...more,
});
const listOf = (...addresses: readonly string[]): AddressList => {
  const list = AddressList.parse(Buffer.from(addresses.join('\n')));
  if (typeof list === 'string') throw new Error(list);
  return list;
};

function documentWith(recipients: Partial<RecipientsConfig>): TopologyDocument {
  return {
    ...base,
    acceptedDomains: [
      { name: 'own.example', type: 'Authoritative' },
      { name: 'listed.example', type: 'Authoritative' },
      { name: 'branch.example', type: 'InternalRelay' },
    ],
    databases: [
      { ...alpha, domains: ['listed.example'], addresses: ['alice@own.example', 'bob@own.example', 'a+b@own.example'] },
      { ...beta, domains: [], addresses: [] },
    ],
    recipients: { ...NO_RECIPIENTS, ...recipients },
  };
}

const STRANGER = { user: null };
const policyOf = (recipients: Partial<RecipientsConfig>, lists: Readonly<Record<string, AddressList>> = {}) =>
  new RecipientPolicy(documentWith(recipients), new Map(Object.entries(lists)));

/** Members, `known`, or the enhanced code of the refusal. */
function outcome(policy: RecipientPolicy, address: string): string {
  const resolved = policy.resolve(address, STRANGER, false);
  if (resolved === null) return 'known';
  return 'code' in resolved ? resolved.enhanced : resolved.members.map((one) => one.address).join(' ');
}

describe('who is behind an address', () => {
  const policy = policyOf(
    {
      plusAddressing: true,
      expansions: [
        group('sales@own.example', ['Alice@own.example', 'inner@own.example', 'far@foreign.example']),
        group('inner@own.example', ['bob@own.example', 'alice@OWN.example']),
        group('all@own.example', [], { membersFrom: 'people', envelopeSender: 'sales@own.example' }),
        group('unread@own.example', ['alice@own.example'], { membersFrom: 'late' }),
      ],
      catchAll: [{ domain: 'own.example', target: 'inner@own.example' }],
      knownRecipients: [
        { domain: 'listed.example', addressLists: ['people'] },
        { domain: 'branch.example', addressLists: ['people', 'late'] },
      ],
    },
    { people: listOf('carol@listed.example', 'dave@branch.example') },
  );

  it.each([
    ['SALES@own.example', 'Alice@own.example bob@own.example far@foreign.example'],
    ['sales+x@own.example', 'Alice@own.example bob@own.example far@foreign.example'],
    ['all@own.example', 'carol@listed.example dave@branch.example'],
    ['alice@own.example', 'known'],
    ['alice+any+thing@own.example', 'known'],
    ['a+b@own.example', 'known'],
    ['"alice+x"@own.example', 'bob@own.example alice@OWN.example'],
    ['typo@own.example', 'bob@own.example alice@OWN.example'],
    ['Carol@LISTED.example', 'known'],
    ['carol+tag@listed.example', 'known'],
    ['erin@listed.example', '5.1.1'],
    ['postmaster@listed.example', 'known'],
    ['postmaster', 'known'],
    ['dave@branch.example', 'known'],
    // Of which lists not all were ever read: nobody is refused for good.
    ['erin@branch.example', '4.3.0'],
    ['unread@own.example', '4.3.0'],
    ['victim@foreign.example', '5.7.1'],
  ])('%s: %s', (address, expected) => expect(outcome(policy, address)).toBe(expected));

  it('without any of it, addresses are what they are, also with a plus', () => {
    const plain = new RecipientPolicy({ ...documentWith({}), recipients: undefined } as unknown as TopologyDocument);
    expect(outcome(plain, 'alice@own.example')).toBe('known');
    expect(outcome(plain, 'alice+x@own.example')).toBe('5.1.1');
    expect(outcome(plain, 'any@listed.example')).toBe('known');
  });

  it('a transport routes a plus-address to the database of its mailbox, and only where that is asked for', () => {
    const plus = documentWith({ plusAddressing: true });
    expect(resolveRecipient(plus, 'alice+x@own.example', ORIGIN)).toMatchObject({
      kind: 'route',
      route: { database: alpha.name },
    });
    expect(resolveRecipient(documentWith({}), 'alice+x@own.example', ORIGIN).kind).toBe('unknown');
  });

  it('reports about a list go to its owner, about an alias to who is meant', () => {
    expect(policy.recipients.reportsTo('inner@own.example')).toEqual(['bob@own.example', 'alice@OWN.example']);
    expect(policy.recipients.reportsTo('all@own.example')).toEqual([
      ...['Alice@own.example', 'bob@own.example', 'far@foreign.example'],
    ]);
    expect(policy.recipients.reportsTo('alice@own.example')).toBeUndefined();
    expect(policy.recipients.reportsTo('')).toBeUndefined();
  });

  it('a list whose envelope sender is a plus-address of itself is its own owner: nobody is asked for ever', () => {
    const { recipients } = policyOf({
      plusAddressing: true,
      expansions: [group('staff@own.example', ['alice@own.example'], { envelopeSender: 'staff+bounces@own.example' })],
    });
    expect(recipients.reportsTo('staff@own.example')).toEqual(['staff+bounces@own.example']);
  });
});

describe('loops', () => {
  const expansions = [
    group('a@own.example', ['b@own.example', 'alice@own.example']),
    group('b@own.example', ['A@own.example', 'bob@own.example']),
    group('self@own.example', ['self@own.example']),
  ];

  it('are found with the way they take, over owners too', () => {
    expect(expansionLoop(expansions)).toEqual(['a@own.example', 'b@own.example', 'a@own.example']);
    expect(expansionLoop(expansions.slice(2))).toEqual(['self@own.example', 'self@own.example']);
    const owner = group('l@own.example', ['x@foreign.example'], { envelopeSender: 'L@own.example' });
    expect(expansionLoop([owner])).toEqual(['l@own.example', 'l@own.example']);
    expect(
      expansionLoop([group('a@own.example', ['b@own.example']), group('b@own.example', ['x@y.example'])]),
    ).toBeNull();
  });

  it('lose nobody when they are there all the same, and a group with nobody in it is put off', () => {
    const policy = policyOf({ expansions });
    expect(outcome(policy, 'a@own.example')).toBe('bob@own.example alice@own.example');
    expect(outcome(policy, 'b@own.example')).toBe('alice@own.example bob@own.example');
    expect(outcome(policy, 'self@own.example')).toBe('4.3.5');
    expect(policy.recipients.problems()).toEqual([
      'group a@own.example: contains itself; that is left out',
      'group b@own.example: contains itself; that is left out',
      `group self@own.example: has no member, or more than ${MAX_EXPANDED_RECIPIENTS}`,
    ]);
  });

  it('a group of more members than a message can have is put off, not cut', () => {
    const many = Array.from({ length: MAX_EXPANDED_RECIPIENTS + 1 }, (_, at) => `m${at}@foreign.example`);
    const expansion = [group('many@own.example', [], { membersFrom: 'many' })];
    expect(outcome(policyOf({ expansions: expansion }, { many: listOf(...many) }), 'many@own.example')).toBe('4.3.5');
    const fits = policyOf({ expansions: expansion }, { many: listOf(...many.slice(1)) });
    expect(outcome(fits, 'many@own.example').split(' ')).toHaveLength(MAX_EXPANDED_RECIPIENTS);
  });
});

describe('RFC 3461 5.2.7', () => {
  const policy = policyOf({
    expansions: [
      group('one@own.example', ['alice@own.example']),
      group('two@own.example', ['alice@own.example', 'bob@own.example']),
      group('list@own.example', ['alice@own.example', 'far@foreign.example'], { envelopeSender: 'one@own.example' }),
    ],
  });

  function expanded(recipients: Envelope['recipients'], reversePath = 'sender@foreign.example'): Envelope {
    const found = new Map<string, Expansion>();
    for (const { address } of recipients) {
      const resolved = policy.resolve(address, STRANGER, true);
      if (resolved !== null && !('code' in resolved)) found.set(address, resolved);
    }
    return expandEnvelope({ ...sampleEnvelope, reversePath, recipients }, found, policy.recipients);
  }

  it('5.2.7.2: an alias of one passes everything on', () => {
    const { recipients, expanded: reports } = expanded([
      { address: 'one@own.example', notify: 'SUCCESS,DELAY', orcpt: 'rfc822;who@x.example' },
    ]);
    expect(recipients).toEqual([
      { address: 'alice@own.example', notify: 'SUCCESS,DELAY', orcpt: 'rfc822;who@x.example' },
    ]);
    expect(reports).toBeUndefined();
  });

  it('5.2.7.3 c: an alias of several passes all on but SUCCESS, which it answers itself', () => {
    const two = { address: 'two@own.example', notify: 'success,FAILURE' };
    const envelope = expanded([two]);
    const orcpt = 'rfc822;two@own.example';
    expect(envelope.recipients).toEqual([
      { address: 'alice@own.example', notify: 'FAILURE', orcpt },
      { address: 'bob@own.example', notify: 'FAILURE', orcpt },
    ]);
    expect(envelope.expanded).toEqual([{ ...two, action: 'expanded' }]);
    expect(expanded([{ address: 'two@own.example', notify: 'SUCCESS' }]).recipients[0]?.notify).toBe('NEVER');
    expect(expanded([{ address: 'two@own.example' }]).recipients[0]?.notify).toBeUndefined();
    expect(expanded([two], '').expanded).toBeUndefined();
  });

  it('5.2.7.1: what goes to a list is the owner’s, and nothing of the original’s parameters goes on', () => {
    const list = { address: 'list@own.example', notify: 'SUCCESS', orcpt: 'rfc822;x@y.example' };
    const envelope: Envelope = { ...expanded([list]), ret: 'FULL', envid: 'secret' };
    expect(envelope.recipients).toEqual([
      { address: 'alice@own.example', returnPath: 0 },
      { address: 'far@foreign.example', returnPath: 0 },
    ]);
    expect(envelope.returnPaths).toEqual([{ address: 'one@own.example', reportsTo: ['alice@own.example'] }]);
    expect(envelope.expanded).toEqual([{ ...list, action: 'delivered' }]);
    const forMember = envelopeFor(envelope, envelope.recipients[0]);
    expect(forMember).toMatchObject({ reversePath: 'one@own.example', reportsTo: ['alice@own.example'] });
    expect(forMember.ret ?? forMember.envid).toBeUndefined();
    expect(envelopeFor(envelope, { address: 'bob@own.example' })).toBe(envelope);
    // What has no sender gets none.
    expect(expanded([list], '').recipients[0]).toEqual({ address: 'alice@own.example' });
  });

  it('who is named and a member gets it once, with what was asked for him', () => {
    const { recipients } = expanded([
      ...[{ address: 'two@own.example' }, { address: 'ALICE@own.example', notify: 'NEVER' }],
      { address: 'list@own.example' },
    ]);
    expect(recipients.map(({ address, notify }) => [address, notify])).toEqual([
      ['bob@own.example', undefined],
      ['ALICE@own.example', 'NEVER'],
      ['far@foreign.example', undefined],
    ]);
  });

  it('the same document and lists give the same envelope', () => {
    const recipients = [{ address: 'two@own.example' }, { address: 'list@own.example' }];
    expect(JSON.stringify(expanded(recipients))).toBe(JSON.stringify(expanded(recipients)));
  });
});

describe('address lists', () => {
  let directory = '';
  afterEach(async () => {
    if (directory !== '') await rm(directory, { recursive: true });
    directory = '';
  });

  it('100,000 addresses take their own length and two megabytes, and every one is found', () => {
    const all = Array.from({ length: 100_000 }, (_, at) => `Person.${at}@dept${at % 100}.contoso.example`);
    const list = listOf('# directors', '', ...all, '  person.7@dept7.contoso.example \r');
    expect(list.size).toBe(100_001);
    expect(list.sizeBytes).toBeLessThan(all.join('\n').length + 2_500_000);
    expect(all.every((one) => list.has(one.toUpperCase()))).toBe(true);
    expect([list.has('person.7@dept8.contoso.example'), list.has(''), list.has('é@x.example')]).toEqual([
      false,
      false,
      false,
    ]);
    expect([...list].slice(0, 2)).toEqual(all.slice(0, 2));
  });

  it.each([
    ['a@x.example\nnobody\n', /^line 2: "nobody" is not an address/],
    ['a@b@c.example', /^line 1/],
    ['<a@x.example>', /^line 1/],
    ['é@x.example', /^line 1/],
    [`${'a'.repeat(250)}@x.example`, /^line 1/],
    ['a@x.example\n'.repeat(MAX_ADDRESSES + 1), /^has more than/],
  ])('%.20s is refused with its line', (text, problem) =>
    expect(AddressList.parse(Buffer.from(text))).toMatch(problem),
  );

  it('keep what was last read of a file, and are missing until then', async () => {
    directory = await mkdtemp(join(tmpdir(), 'mailcluster-lists-'));
    const file = join(directory, 'people');
    const lists = new AddressLists([{ name: 'people', file }]);
    expect((await lists.read()).problems).toMatchObject([{ list: 'people', inForce: false }]);
    expect(lists.missing).toBe(1);
    await writeFile(file, 'alice@own.example\n');
    expect(await lists.read()).toEqual({ changed: true, problems: [] });
    const former = lists.all.get('people');
    expect(await lists.read()).toEqual({ changed: false, problems: [] });
    await writeFile(file, 'rubbish\n');
    expect(await lists.read()).toMatchObject({ changed: false, problems: [{ inForce: true }] });
    expect([lists.all.get('people'), lists.missing]).toEqual([former, 0]);
  });
});

it('documents of programs without recipients read as before, and a mismatch names its place', () => {
  const { recipients: _, ...older } = documentWith({});
  const read = parseTopologyDocument(older);
  expect(read.kind === 'ok' && 'recipients' in read.value).toBe(false);
  const wrong = { ...older, recipients: { ...NO_RECIPIENTS, expansions: [group('a@x.example', ['b'])] } };
  expect(parseTopologyDocument(wrong)).toMatchObject({ kind: 'error', path: 'recipients.expansions[0].members[0]' });
});

describe('the envelope of an expansion', () => {
  const envelope: Envelope = {
    ...sampleEnvelope,
    reportsTo: ['alice@own.example'],
    returnPaths: [{ address: 'owner@own.example', reportsTo: ['bob@own.example', 'far@foreign.example'] }],
    recipients: [{ address: 'alice@own.example' }, { address: 'far@foreign.example', returnPath: 0 }],
    expanded: [{ address: 'list@own.example', notify: 'SUCCESS', action: 'delivered' }],
  };
  const through = (one: Envelope) => {
    const decoder = new FrameDecoder();
    for (const bytes of encodeFrame({ kind: 'OPEN', stream: 1, open: { ...sampleOpen, envelope: one } } as WireFrame))
      decoder.push(bytes);
    return decoder.next();
  };

  it('is carried whole between pods; a member of no list is refused', () => {
    expect(through(envelope)).toMatchObject({ open: { envelope } });
    const wrong = { ...envelope, recipients: [{ address: 'a@b.example', returnPath: 1 }] };
    expect(() => through(wrong)).toThrow('returnPath');
  });

  it('reports go to whom the sender, or the owner of the list, stood for', () => {
    const report = (one: Envelope, recipient: Envelope['recipients'][number], kind: ReportKind) =>
      composeDsn({
        ...{ id: sampleId, originalId: sampleId, original: envelopeFor(one, recipient), hostname: 'h.example' },
        ...{ member: 'm', nowMs: 0, originalHeader: Buffer.from('Subject: x\r\n\r\n'), originalContent: null },
        recipients: [
          { recipient, report: kind, reply: null, remoteHost: null, lastAttemptMs: null, willRetryUntilMs: null },
        ],
      });
    const to = (dsn: ReturnType<typeof report>) => dsn?.envelope.recipients.map(({ address }) => address);
    const [direct = { address: '' }, member = { address: '' }] = envelope.recipients;
    expect(to(report(envelope, direct, 'failed'))).toEqual(['alice@own.example']);
    expect(to(report(envelope, member, 'failed'))).toEqual(['bob@own.example', 'far@foreign.example']);
    const [list = { address: '' }] = envelope.expanded ?? [];
    expect(`${report(envelope, list, 'delivered')?.body}`).toMatch(/^Action: delivered\r$/m);
    expect(`${report(envelope, list, 'expanded')?.body}`).toMatch(/^Action: expanded\r\nStatus: 2\.0\.0\r$/m);
  });
});
