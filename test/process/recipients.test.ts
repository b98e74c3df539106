/**
 * Aliases, groups, mailing lists, plus-addressing and a list of 100,000 addresses through the real programs: who is refused, who gets what from whom, what is
 * reported, and that a message goes to those it was resolved to although the group has changed and both transports were killed.
 */
import { writeFileSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { type Cluster, startCluster, twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const TIMEOUT_MS = 240_000;
const PEOPLE = 100_000;
const MEMBERS = 10_000;

let cluster: Cluster;
let store: ScriptedPeer;
let relay: ScriptedPeer;
let isHolding = false;

const person = (at: number): string => `person${at}@example.com`;
const people = (more: readonly string[] = []): string =>
  [...Array.from({ length: PEOPLE }, (_, at) => person(at)), ...more, ''].join('\n');

function resources(directory: string, team: readonly string[]): string {
  const list = (name: string): string => `{ name: ${name}, file: ${join(directory, `${name}.txt`)} }`;
  return twoSites(directory, {
    ...{ perSite: 1, frontends: 1, lmtp: `127.0.0.1:${store.port}` },
    spec: [
      `sendConnectors: [{ name: out, addressSpaces: [{ domain: "*" }], smartHosts: [{ host: 127.0.0.1, port: ${relay.port} }] }]`,
      'recipients:',
      '  plusAddressing: true',
      '  aliases: [{ address: boss@example.com, target: person7@example.com }, { address: out@example.com, target: far@foreign.example }]',
      '  groups:',
      '    - { address: sales@example.com, members: [person1@example.com, boss@example.com, partner@foreign.example] }',
      '    - { address: news@example.com, members: [reader@foreign.example, person2@example.com], envelopeSender: boss@example.com }',
      '    - { address: everybody@example.com, membersFrom: members, envelopeSender: boss@example.com }',
      '    - { address: nobody-knows@example.com, membersFrom: late }',
      `    - { address: team@example.com, members: [${team.join(', ')}] }`,
      `  addressLists: [${['people', 'members', 'late'].map(list).join(', ')}]`,
      '  knownRecipients: [{ domain: example.com, addressLists: [people] }]',
    ],
  });
}

beforeAll(async () => {
  const capabilities = ['PIPELINING', 'DSN', 'ENHANCEDSTATUSCODES'];
  store = await ScriptedPeer.start({
    protocol: 'LMTP',
    capabilities,
    onCommand: (verb, line) => (verb === 'RCPT' && isHolding && line.includes('<old') ? '450 4.2.0 not now' : null),
  });
  relay = await ScriptedPeer.start({
    capabilities,
    onCommand: (verb, line) => (verb === 'RCPT' && line.includes('<reader@') ? '550 5.1.1 gone' : null),
  });
  cluster = await startCluster((directory) => {
    writeFileSync(join(directory, 'people.txt'), people(['# the directors', 'Old1@example.com', 'old2@example.com']));
    writeFileSync(
      join(directory, 'members.txt'),
      Array.from({ length: MEMBERS }, (_, at) => `${person(at)}\n`).join(''),
    );
    return resources(directory, ['old1@example.com', 'old2@example.com']);
  });
}, TIMEOUT_MS);
afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await store?.[Symbol.asyncDispose]();
  await relay?.[Symbol.asyncDispose]();
}, TIMEOUT_MS);

async function session(): Promise<SmtpConnection> {
  const [target] = cluster.targets();
  if (target === undefined) throw new Error('no front end');
  return await SmtpConnection.open(target, 60_000);
}

async function said(recipient: string): Promise<string> {
  const connection = await session();
  connection.send('MAIL FROM:<sender@foreign.example>\r\n');
  await connection.expect(250, 'MAIL');
  connection.send(`RCPT TO:<${recipient}>\r\n`);
  const reply = await connection.reply();
  connection.close();
  return typeof reply === 'string' ? reply : `${reply.code} ${reply.text}`;
}

async function send(recipients: readonly string[], sender = 'sender@foreign.example', more = ''): Promise<void> {
  const connection = await session();
  for (const [part, code] of [
    [`MAIL FROM:<${sender}>${more}`, 250],
    ...recipients.map((one) => [`RCPT TO:${one}`, 250] as const),
    ['DATA', 354],
    ['Subject: hello\r\n\r\nhello\r\n.', 250],
  ] as const) {
    connection.send(`${part}\r\n`);
    await connection.expect(code, part);
  }
  connection.close();
}

/** `FROM TO` of what came for this recipient. */
const came = (peer: ScriptedPeer, recipient: string): readonly string[] =>
  peer.messages.flatMap(({ mail, rcpts }) =>
    rcpts.filter((one) => one.includes(`<${recipient}>`)).map((one) => `${mail} ${one}`),
  );
const arrived = (peer: ScriptedPeer, recipient: string) =>
  until(recipient, () => came(peer, recipient).length > 0, { deadlineMs: 30_000 });

test(
  'who is in no list is refused, who is in one that was never read is put off, plus-addresses and postmaster exist',
  async () => {
    expect(await said(person(PEOPLE - 1))).toMatch(/^250 /);
    expect(await said('PERSON3+shop@example.com')).toMatch(/^250 /);
    expect(await said('postmaster@example.com')).toMatch(/^250 /);
    expect(await said(person(PEOPLE))).toMatch(/^550 5\.1\.1 /);
    expect(await said('nobody-knows@example.com')).toMatch(/^451 4\.3\.0 Address list late/);
    await writeFile(join(cluster.directory, 'late.txt'), 'person5@example.com\n');
    await until('the late list', async () => (await said('nobody-knows@example.com')).startsWith('250 '), {
      deadlineMs: 20_000,
    });
  },
  TIMEOUT_MS,
);

test(
  'rubbish in a list leaves the former in force; a new list takes its place',
  async () => {
    const file = join(cluster.directory, 'people.txt');
    const replace = async (text: string): Promise<void> => {
      await writeFile(`${file}.new`, text);
      await rename(`${file}.new`, file);
    };
    await replace('this is no address\n');
    const { frontends } = await cluster.runFile();
    const rejected = async (): Promise<number> => {
      const page = await (await fetch(frontends[0]?.metricsUrl ?? '')).text();
      return Number(/^mailcluster_address_list_rejected_total(?:\{.*\})? (\d+)$/m.exec(page)?.[1] ?? 0);
    };
    const before = await rejected();
    await replace('this is no address\n');
    await until('the refusal', async () => (await rejected()) > before, { deadlineMs: 20_000 });
    expect(await said(person(9))).toMatch(/^250 /);
    await replace(people(['old1@example.com', 'old2@example.com', 'newcomer@example.com']));
    await until('the newcomer', async () => (await said('newcomer@example.com')).startsWith('250 '), {
      deadlineMs: 20_000,
    });
  },
  TIMEOUT_MS,
);

test(
  'an alias keeps sender and parameters; a group drops SUCCESS and is reported as expanded; members elsewhere are relayed',
  async () => {
    await send(['<boss@example.com> NOTIFY=FAILURE,DELAY', '<out@example.com>']);
    await arrived(relay, 'far@foreign.example');
    await arrived(store, person(7));
    expect(came(store, person(7))).toEqual([
      expect.stringMatching(
        /^MAIL FROM:<sender@foreign\.example>.* RCPT TO:<person7@example\.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;boss@example\.com$/,
      ),
    ]);
    store.messages.length = 0;
    await send(
      ['<sales@example.com> NOTIFY=SUCCESS,FAILURE', '<person1@example.com>'],
      'person4@example.com',
      ' ENVID=e1',
    );
    await arrived(relay, 'partner@foreign.example');
    await arrived(store, person(4));
    expect(came(relay, 'partner@foreign.example')[0]).toMatch(
      /^MAIL FROM:<person4@example\.com>.*ENVID=e1.* RCPT TO:<partner@foreign\.example> NOTIFY=FAILURE ORCPT=rfc822;sales@example\.com$/,
    );
    // Named and a member: once, with what was asked for him.
    expect(came(store, person(1))).toEqual([expect.stringMatching(/RCPT TO:<person1@example\.com>$/)]);
    const report = store.messages.find(({ rcpts }) => rcpts.some((one) => one.includes(`<${person(4)}>`)))?.wire ?? '';
    expect(report).toMatch(/^Action: expanded$/m);
    expect(report).toMatch(/^Final-Recipient: rfc822; sales@example\.com$/m);
    expect(report).toMatch(/^Original-Envelope-Id: e1$/m);
  },
  TIMEOUT_MS,
);

test(
  'a mailing list sends as its owner, who hears of what cannot be delivered; the sender hears that the list has it',
  async () => {
    store.messages.length = 0;
    await send(['<news@example.com> NOTIFY=SUCCESS'], 'person4@example.com', ' RET=FULL ENVID=secret');
    await arrived(store, person(2));
    expect(came(store, person(2))).toEqual([expect.stringMatching(/^MAIL FROM:<boss@example\.com>(?!.*secret)/)]);
    // The owner is an alias: the report goes to whom it meant.
    await arrived(store, person(7));
    await arrived(store, person(4));
    const wireTo = (recipient: string) =>
      store.messages.find(({ rcpts }) => rcpts.some((one) => one.includes(`<${recipient}>`)))?.wire ?? '';
    expect(wireTo(person(7))).toMatch(/^To: <boss@example\.com>$/m);
    expect(wireTo(person(7))).toMatch(/^Final-Recipient: rfc822; reader@foreign\.example$/m);
    expect(wireTo(person(7))).not.toMatch(/secret/);
    expect(wireTo(person(4))).toMatch(/^Action: delivered$/m);
  },
  TIMEOUT_MS,
);

test(
  `${MEMBERS} members each get it once`,
  async () => {
    store.messages.length = 0;
    await send(['<everybody@example.com>']);
    const got = (): string[] => store.messages.flatMap(({ rcpts }) => rcpts);
    await until('all members', () => got().length >= MEMBERS, { deadlineMs: 120_000, everyMs: 500 });
    expect(new Set(got()).size).toBe(MEMBERS);
    expect(got()).toHaveLength(MEMBERS);
  },
  TIMEOUT_MS,
);

test(
  'what was resolved is delivered, although the group is another by now and both transports were killed',
  async () => {
    isHolding = true;
    await send(['<team@example.com>']);
    await cluster.change(resources(cluster.directory, ['newcomer@example.com']));
    await until(
      'the new group',
      async () => {
        await send(['<team@example.com>']);
        return came(store, 'newcomer@example.com').length > 0;
      },
      { deadlineMs: 60_000, everyMs: 1_000 },
    );
    const before = came(store, 'newcomer@example.com').length;
    for (const { name } of await cluster.statuses()) {
      const old = await cluster.kill(name);
      await cluster.restarted(name, old);
      await cluster.connected();
    }
    isHolding = false;
    await arrived(store, 'old1@example.com');
    await arrived(store, 'old2@example.com');
    await cluster.drained(60_000, []);
    expect(came(store, 'old1@example.com').length).toBeGreaterThan(0);
    // A repeat to a store that suppresses none is allowed after a kill; another recipient is not.
    expect(
      new Set(
        store.messages
          .filter(({ rcpts }) => rcpts.some((one) => one.includes('<old')))
          .flatMap(({ rcpts }) => rcpts.map((one) => /<(.*?)>/.exec(one)?.[1])),
      ),
    ).toEqual(new Set(['old1@example.com', 'old2@example.com']));
    expect(before).toBeGreaterThan(0);
  },
  TIMEOUT_MS,
);
