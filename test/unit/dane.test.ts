/** DANE (RFC 6698, 7671, 7672): which records can be used, and what they say of chains of our own making; OpenSSL, which knows DANE as well, must say the same over a real handshake. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createServer } from 'node:tls';
import { beforeAll, describe, expect, test } from 'vitest';
import { daneVerdict, type TlsaRecord, usableRecords } from '../../common/smtp/dane.ts';
import { type ChainCertificate, certificate } from '../rigs/certificate-chain.ts';

const HOUR_MS = 3_600_000;
const BASE = 'mx.far.test';
const NAMES = [BASE, 'far.test'];
const SERVER = '1.3.6.1.5.5.7.3.1';

const digest = (matchingType: number, bytes: Buffer): Buffer =>
  matchingType === 0
    ? bytes
    : createHash(matchingType === 1 ? 'sha256' : 'sha512')
        .update(bytes)
        .digest();

function tlsa(usage: number, selector: number, matchingType: number, of: ChainCertificate): TlsaRecord {
  return { usage, selector, matchingType, certificate: digest(matchingType, selector === 0 ? of.der : of.spki) };
}

describe('which records can be used', () => {
  const bytes = (length: number): Buffer => Buffer.alloc(length, 7);
  const record = (usage: number, selector: number, matchingType: number, length: number): TlsaRecord => ({
    ...{ usage, selector, matchingType, certificate: bytes(length) },
  });

  test.each([
    ['PKIX-TA', record(0, 0, 1, 32)],
    ['PKIX-EE', record(1, 1, 1, 32)],
    ['a usage that nobody knows', record(4, 1, 1, 32)],
    ['a private usage', record(255, 1, 1, 32)],
    ['a selector that nobody knows', record(3, 2, 1, 32)],
    ['a matching type that nobody knows', record(3, 1, 3, 32)],
    ['a digest that is too short', record(3, 1, 1, 31)],
    ['a digest of the other length', record(3, 1, 1, 64)],
    ['a digest that is too long', record(2, 0, 2, 65)],
    ['nothing', record(3, 1, 1, 0)],
    ['what is no certificate', record(2, 0, 0, 100)],
    ['what is no key', record(3, 1, 0, 100)],
  ])('%s cannot', (_title, one) => expect(usableRecords([one])).toEqual([]));

  test('of two digests for one thing the stronger counts; another usage or selector is another thing', () => {
    const [weak, strong, other, anchor] = [
      record(3, 1, 1, 32),
      record(3, 1, 2, 64),
      record(3, 0, 1, 32),
      record(2, 1, 1, 32),
    ];
    expect(usableRecords([weak, strong, other, anchor])).toEqual([strong, other, anchor]);
    // One that cannot be used makes nothing weaker.
    expect(usableRecords([weak, record(3, 1, 2, 32)])).toEqual([weak]);
  });
});

interface Chains {
  readonly root: ChainCertificate;
  readonly middle: ChainCertificate;
  readonly own: ChainCertificate;
  readonly stranger: ChainCertificate;
}
let chains: Chains;

beforeAll(async () => {
  const root = await certificate({ subject: 'Root' });
  const middle = await certificate({ subject: 'Middle', issuer: root, pathLength: 0 });
  const own = await certificate({ subject: 'own', issuer: middle, names: [BASE], usedFor: [SERVER] });
  chains = { root, middle, own, stranger: await certificate({ subject: 'Stranger' }) };
});

const ours = async (chain: readonly ChainCertificate[], record: TlsaRecord, names = NAMES): Promise<string> => {
  const said = await daneVerdict(
    { base: BASE, names, records: [record] },
    chain.map(({ der }) => der),
    Date.now(),
  );
  return 'by' in said ? 'good' : said.problem;
};

/** What OpenSSL says of the same record; in a real handshake. */
async function openSsl(chain: readonly ChainCertificate[], record: TlsaRecord): Promise<string> {
  const server = createServer({ cert: chain.map(({ pem }) => pem).join(''), key: chain[0]?.key ?? '' }, (socket) => {
    socket.on('error', () => undefined).end();
  });
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' ? address?.port : 0;
  const { usage, selector, matchingType, certificate: bytes } = record;
  const said = await new Promise<string>((resolve) => {
    const child = execFile(
      'openssl',
      [
        ...[
          's_client',
          '-connect',
          `127.0.0.1:${port}`,
          '-servername',
          BASE,
          '-dane_tlsa_domain',
          BASE,
          '-brief',
          '-dane_ee_no_namechecks',
        ],
        ...['-dane_tlsa_rrdata', `${usage} ${selector} ${matchingType} ${bytes.toString('hex')}`],
      ],
      { timeout: 30_000 },
      (_error, stdout, stderr) => resolve(`${stdout}${stderr}`),
    );
    child.stdin?.end();
  });
  await new Promise<void>((resolve) => server.close(() => resolve()));
  if (/^Verification: OK$/m.test(said)) return 'good';
  return /Verification error: (.*)/.exec(said)?.[1] ?? said;
}

describe('a chain of three, and its records', () => {
  const every = (usage: number) =>
    [0, 1].flatMap((selector) => [0, 1, 2].map((type) => [usage, selector, type] as const));

  test.each(every(3))('%i %i %i of its own certificate proves it, that of another does not', async (...numbers) => {
    const { own, middle, root, stranger } = chains;
    const chain = [own, middle, root];
    expect(await ours(chain, tlsa(...numbers, own))).toBe('good');
    expect(await openSsl(chain, tlsa(...numbers, own))).toBe('good');
    const bad =
      /^the certificate of mx\.far\.test is none that its TLSA 3 \d \d means; SHA-256 of its key [0-9a-f]{64}$/;
    for (const other of [middle, stranger]) expect(await ours(chain, tlsa(...numbers, other))).toMatch(bad);
    expect(await openSsl(chain, tlsa(...numbers, stranger))).not.toBe('good');
  });

  test.each(every(2))('%i %i %i of an authority above proves it, that of another does not', async (...numbers) => {
    const { own, middle, root, stranger } = chains;
    const chain = [own, middle, root];
    for (const anchor of [middle, root]) {
      expect(await ours(chain, tlsa(...numbers, anchor))).toBe('good');
      expect(await openSsl(chain, tlsa(...numbers, anchor))).toBe('good');
    }
    expect(await ours(chain, tlsa(...numbers, stranger))).not.toBe('good');
    expect(await openSsl(chain, tlsa(...numbers, stranger))).not.toBe('good');
    // Its own certificate is no authority.
    expect(await ours(chain, tlsa(...numbers, own))).not.toBe('good');
  });

  test.each([
    ['a digest of a root that was not sent', 1, 'issuer', 'bad'],
    ['the root itself, that was not sent', 0, 'issuer', 'good'],
  ] as const)('%s', async (_title, matchingType, _who, expected) => {
    const { own, middle, root } = chains;
    for (const selector of [0, 1]) {
      const said = await ours([own, middle], tlsa(2, selector, matchingType, root));
      expect(said === 'good' ? 'good' : 'bad').toBe(expected);
      const theirs = await openSsl([own, middle], tlsa(2, selector, matchingType, root));
      expect(theirs === 'good' ? 'good' : 'bad').toBe(expected);
    }
  });

  test('any of the names will do for an authority, none is asked of DANE-EE', async () => {
    const { middle, root } = chains;
    const domain = await certificate({ subject: 'd', issuer: middle, names: ['far.test'] });
    const wild = await certificate({ subject: 'w', issuer: middle, names: ['*.far.test'] });
    const other = await certificate({ subject: 'o', issuer: middle, names: ['near.test'] });
    for (const one of [domain, wild]) expect(await ours([one, middle, root], tlsa(2, 0, 1, root))).toBe('good');
    expect(await ours([other, middle, root], tlsa(2, 0, 1, root))).toBe(
      'the certificate is for DNS:near.test, none of mx.far.test, far.test',
    );
    expect(await openSsl([other, middle, root], tlsa(2, 0, 1, root))).not.toBe('good');
    expect(await ours([other, middle, root], tlsa(3, 0, 1, other))).toBe('good');
    expect(await openSsl([other, middle, root], tlsa(3, 0, 1, other))).toBe('good');
  });

  test('what was sent in any order is put in order; the same twice is no circle', async () => {
    const { own, middle, root, stranger } = chains;
    expect(await ours([own, root, stranger, middle, middle], tlsa(2, 1, 1, root))).toBe('good');
    expect(await ours([own, stranger, stranger], tlsa(2, 1, 1, stranger))).toMatch(/was not issued by the authority/);
  });

  test('a certificate without subject is good or bad as any other', async () => {
    const { middle, root } = chains;
    const chain = (own: ChainCertificate): readonly ChainCertificate[] => [own, middle, root];
    const nameless = await certificate({ subject: '', issuer: middle, names: [BASE] });
    expect(await ours(chain(nameless), tlsa(2, 0, 1, root))).toBe('good');
    expect(await openSsl(chain(nameless), tlsa(2, 0, 1, root))).toBe('good');
    const old = await certificate({ subject: '', issuer: middle, names: [BASE], notAfterMs: Date.now() - 1_000 });
    expect(await ours(chain(old), tlsa(2, 0, 1, root))).toMatch(/^the certificate of nobody has expired/);
    const none = await certificate({ subject: '', issuer: middle, names: [] });
    expect(await ours(chain(none), tlsa(2, 0, 1, root))).toMatch(/^the certificate is for .*none of mx\.far\.test/);
  });

  test.each([
    ['certificate policies', '2.5.29.32'],
    ['authority information access', '1.3.6.1.5.5.7.1.1'],
    ['alternative names of its issuer', '2.5.29.18'],
  ])('an authority of which the %s cannot be read is no way to an anchor', async (_title, type) => {
    const extra = { type, content: Buffer.from([5, 0]) };
    const root = await certificate({ subject: 'Odd', extra });
    const own = await certificate({ subject: 'own', issuer: root, names: [BASE] });
    for (const matchingType of [0, 1])
      expect(await ours([own, root], tlsa(2, 0, matchingType, root))).toBe(
        'the certificate of CN=Odd is one that cannot be read',
      );
    expect(await ours([own, root], tlsa(3, 1, 1, own))).toBe('good');
  });

  test('rubbish in place of certificates is no proof', async () => {
    const proof = { base: BASE, names: NAMES, records: [tlsa(3, 1, 1, chains.own)] };
    for (const chain of [[], [Buffer.from('x')], [chains.own.der, Buffer.from('x')]])
      expect(await daneVerdict(proof, chain, Date.now())).toEqual({
        problem: 'mx.far.test shows no certificate that can be read',
      });
  });
});

describe('what is wrong with a path, and DANE-EE does not mind', () => {
  const past = Date.now() - HOUR_MS / 2;
  const future = Date.now() + HOUR_MS / 2;

  test.each<[string, { root?: object; middle?: object; own?: object }, RegExp, 'openssl agrees' | 'we are stricter']>([
    ['an expired certificate', { own: { notAfterMs: past } }, /own has expired on/, 'openssl agrees'],
    ['one that is not valid yet', { own: { notBeforeMs: future } }, /own is not valid before/, 'openssl agrees'],
    ['an expired authority', { middle: { notAfterMs: past } }, /Middle has expired on/, 'openssl agrees'],
    ['an expired anchor', { root: { notAfterMs: past } }, /Root has expired on/, 'openssl agrees'],
    [
      'a certificate for mail clients',
      { own: { usedFor: ['1.3.6.1.5.5.7.3.4'] } },
      /not for servers/,
      'openssl agrees',
    ],
    ['an authority that is none', { middle: { names: ['x.test'] } }, /not that of an authority/, 'openssl agrees'],
    ['an authority that may not sign', { middle: { mayNotSign: true } }, /was not issued by/, 'openssl agrees'],
    ['a path that is too long', { root: { pathLength: 0 } }, /Root allows no such long path/, 'openssl agrees'],
    ['names the authority may not sign', { middle: { onlyBelow: 'near.test' } }, /2\.5\.29\.30/, 'openssl agrees'],
    [
      'names that it may, which we do not look at',
      { middle: { onlyBelow: 'far.test' } },
      /2\.5\.29\.30/,
      'we are stricter',
    ],
  ])('%s', async (_title, change, expected, judge) => {
    const root = await certificate({ subject: 'Root', ...change.root });
    const middle = await certificate({ subject: 'Middle', issuer: root, ...change.middle });
    const own = await certificate({ subject: 'own', issuer: middle, names: [BASE], ...change.own });
    const chain = [own, middle, root];
    expect(await ours(chain, tlsa(2, 0, 1, root))).toMatch(expected);
    expect((await openSsl(chain, tlsa(2, 0, 1, root))) === 'good').toBe(judge === 'we are stricter');
    expect(await ours(chain, tlsa(3, 1, 1, own))).toBe('good');
    expect(await openSsl(chain, tlsa(3, 1, 1, own))).toBe('good');
  });
});

describe('a maze', () => {
  /** Its own certificate, and others of one name: half of them lead on, half of them do not, and each must be looked at. */
  async function maze(): Promise<{ readonly chain: readonly ChainCertificate[]; readonly walls: ChainCertificate[] }> {
    const [first, wall] = [
      await certificate({ subject: 'A', curve: 'P-521' }),
      await certificate({ subject: 'A', curve: 'P-521' }),
    ];
    const many = (of: ChainCertificate, length: number): Promise<ChainCertificate[]> =>
      Promise.all(Array.from({ length }, () => certificate({ subject: 'A', keysOf: of, issuer: of })));
    const [ways, walls] = [await many(first, 10), await many(wall, 110)];
    const own = await certificate({ subject: 'own', issuer: first, names: [BASE] });
    return { chain: [own, ...walls.slice(0, 5), ...ways, ...walls.slice(5, 10)], walls };
  }

  test('takes less than a second, is refused, and holds up nobody', { timeout: 60_000 }, async () => {
    const { chain, walls } = await maze();
    const [wall] = walls;
    if (wall === undefined) throw new Error('no wall');
    const spki = createHash('sha256').update(wall.spki).digest();
    const records = [
      ...walls.slice(10, 108).map((one) => tlsa(2, 0, 0, one)),
      { usage: 2, selector: 1, matchingType: 1, certificate: spki },
      { usage: 2, selector: 1, matchingType: 0, certificate: wall.spki },
    ];
    const before = process.cpuUsage();
    const usable = usableRecords(records);
    const said = await daneVerdict(
      { base: BASE, names: NAMES, records: usable },
      chain.map(({ der }) => der),
      Date.now(),
    );
    const { user, system } = process.cpuUsage(before);
    expect(usable).toHaveLength(100);
    expect(said).toEqual({ problem: 'mx.far.test sends more, or larger, certificates than are looked at' });
    expect((user + system) / 1_000).toBeLessThan(1_000);
  });

  test('authorities that are larger than any are refused unread', async () => {
    const extra = { type: '1.2.3.4', content: Buffer.alloc(25_000) };
    const root = await certificate({ subject: 'Large', extra });
    const middle = await certificate({ subject: 'Next', issuer: root, extra });
    const own = await certificate({ subject: 'own', issuer: middle, names: [BASE] });
    expect(await ours([own, middle, root], tlsa(2, 0, 1, root))).toMatch(/sends more, or larger, certificates/);
  });

  test('records that mean nothing of it cost little', { timeout: 60_000 }, async () => {
    const { chain } = await maze();
    const records = Array.from({ length: 100 }, (_, at) => ({
      ...{ usage: 2, selector: 1, matchingType: 1, certificate: Buffer.alloc(32, at) },
    }));
    const before = process.cpuUsage();
    const said = await daneVerdict(
      { base: BASE, names: NAMES, records },
      chain.map(({ der }) => der),
      Date.now(),
    );
    const { user, system } = process.cpuUsage(before);
    expect(said).toMatchObject({ problem: expect.stringMatching(/none that its TLSA 2 1 1 means/) });
    expect((user + system) / 1_000).toBeLessThan(250);
  });

  test('with an exit: ten certificates above are looked at, and no more', { timeout: 60_000 }, async () => {
    const chain: ChainCertificate[] = [await certificate({ subject: '0' })];
    for (let at = 1; at <= 11; at++) {
      const issuer = chain[0];
      if (issuer === undefined) throw new Error('no issuer');
      chain.unshift(await certificate({ subject: `${at}`, issuer, ...(at === 11 ? { names: [BASE] } : {}) }));
    }
    const [root, next] = [chain[11], chain[10]];
    if (root === undefined || next === undefined) throw new Error('no root');
    expect(await ours(chain, tlsa(2, 0, 1, next))).toBe('good');
    expect(await ours(chain, tlsa(2, 0, 1, root))).toMatch(/none that its TLSA 2 0 1 means/);
  });
});
