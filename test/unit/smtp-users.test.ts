/** The users Secret: format, hashing, verifying. */
import { describe, expect, it } from 'vitest';
import { systemRandom } from '../../common/platform/random.ts';
import { deriveScramKeys, formatScramKeys } from '../../common/smtp/scram.ts';
import {
  hashPassword,
  isPasswordHash,
  parseUsers,
  scramKeysOf,
  serveScram,
  UsersFileError,
  usersFileFromSecret,
  verifyPassword,
} from '../../common/smtp/users.ts';

/** RFC 7914 section 12: P "pleaseletmein", S "SodiumChloride", N 16384, r 8, p 1. */
const RFC_HASH = Buffer.from('7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2', 'hex');
const rfcLine = `$scrypt$ln=14,r=8,p=1$${Buffer.from('SodiumChlorideXX').toString('base64').replace(/=+$/, '')}`;

describe('users', () => {
  it('a hash verifies its password and no other, and no two hashes are equal', async () => {
    const hash = await hashPassword('sécret pass', systemRandom);
    expect(hash).toMatch(/^SCRAM-SHA-256\$100000:[\w+/]{22}==\$[\w+/]{43}=:[\w+/]{43}=$/);
    expect(await hashPassword('sécret pass', systemRandom)).not.toBe(hash);
    const users = parseUsers(`bob:${hash}\n`);
    expect(await verifyPassword(users, 'bob', 'sécret pass')).toBe(true);
    expect(await verifyPassword(users, 'bob', 'secret pass')).toBe(false);
    expect(await verifyPassword(users, 'bob', '')).toBe(false);
    expect(await verifyPassword(users, 'Bob', 'sécret pass')).toBe(false);
    expect(await verifyPassword(users, 'nobody', 'sécret pass')).toBe(false);
  });

  it('is scrypt as others compute it', async () => {
    const { scryptSync } = await import('node:crypto');
    expect(scryptSync('pleaseletmein', 'SodiumChloride', 32, { N: 16384, r: 8, p: 1 })).toEqual(RFC_HASH);
    const hash = scryptSync('pleaseletmein', 'SodiumChlorideXX', 32, { N: 16384, r: 8, p: 1 });
    const users = parseUsers(`bob: ${rfcLine}$${hash.toString('base64').replace(/=+$/, '')}`);
    expect(await verifyPassword(users, 'bob', 'pleaseletmein')).toBe(true);
  });

  it('SCRAM keys are those of RFC 7677, and serve a password as well', async () => {
    const salt = Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64');
    const keys = await deriveScramKeys('pencil', salt, 4_096);
    const line = formatScramKeys(keys);
    expect(line).toBe(
      'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=',
    );
    const users = parseUsers(`user:${line}`);
    expect(scramKeysOf(users, 'user')).toEqual(keys);
    expect(await verifyPassword(users, 'user', 'pencil')).toBe(true);
    expect(await verifyPassword(users, 'user', 'pen cil')).toBe(false);
    // RFC 4013: what looks the same is the same.
    expect(await deriveScramKeys('a\u00a0\u2168\u00ad', salt, 4_096)).toEqual(
      await deriveScramKeys('a IX', salt, 4_096),
    );
  });

  it('SCRAM is offered when it serves everybody; who is nobody has keys as well, the same each time, that no password fits', async () => {
    const [bob, alice] = [await hashPassword('one', systemRandom), await hashPassword('two', systemRandom)];
    const users = parseUsers(`bob:${bob}\nalice:${alice}`);
    const old = `$scrypt$ln=15,r=8,p=1$${'A'.repeat(22)}$${'A'.repeat(22)}`;
    expect([users, parseUsers(`bob:${bob}\ncarl:${old}`), parseUsers('')].map(serveScram)).toEqual([
      true,
      false,
      false,
    ]);
    const [known, nobody, again] = ['bob', 'eve', 'eve'].map((user) => scramKeysOf(users, user));
    expect([nobody?.iterations, nobody?.salt.length]).toEqual([known?.iterations, known?.salt.length]);
    expect(nobody).toEqual(again);
    expect(scramKeysOf(parseUsers(`bob:${bob}`), 'eve')).not.toEqual(nobody);
    expect(await verifyPassword(users, 'eve', 'one')).toBe(false);
  });

  it('comments and blank lines are allowed', async () => {
    const hash = await hashPassword('x', systemRandom);
    expect([...parseUsers(`# people\n\n  a@example.org: ${hash}\r\nb:${hash}`).keys()]).toEqual(['a@example.org', 'b']);
    expect(parseUsers('').size).toBe(0);
  });

  it.each([
    ['bob', 1],
    [':x', 1],
    ['bob:plain', 1],
    ['bob:$scrypt$ln=30,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA', 1],
    ['bob:$scrypt$ln=15,r=8,p=1$short$AAAAAAAAAAAAAAAAAAAAAA', 1],
    [
      'bob:SCRAM-SHA-256$4095:c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=',
      1,
    ],
    ['bob:SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0$AAAA:AAAA', 1],
    ['# ok\nbo b:$scrypt$ln=15,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA', 2],
  ])('%j is refused with its line and without its content', (text, line) => {
    const refused = (): unknown => parseUsers(text);
    expect(refused).toThrow(UsersFileError);
    expect(refused).toThrow(`line ${line}:`);
    expect(refused).not.toThrow('plain');
  });

  it('a user given twice is refused', async () => {
    const hash = await hashPassword('x', systemRandom);
    expect(() => parseUsers(`bob:${hash}\nbob:${hash}`)).toThrow('line 2: this user was given before');
  });

  it('the file of a Secret hashes plain passwords and keeps hashes', async () => {
    const hash = await hashPassword('kept', systemRandom);
    const file = await usersFileFromSecret({ bob: 'plain', alice: hash }, systemRandom);
    expect(file).not.toContain('plain');
    expect(file).toContain(`alice:${hash}\n`);
    const users = parseUsers(file);
    expect(await verifyPassword(users, 'bob', 'plain')).toBe(true);
    expect(await verifyPassword(users, 'alice', 'kept')).toBe(true);
    await expect(usersFileFromSecret({ 'a:b': 'x' }, systemRandom)).rejects.toThrow(UsersFileError);
    await expect(usersFileFromSecret({ bob: '' }, systemRandom)).rejects.toThrow(UsersFileError);
    expect(isPasswordHash('$scrypt$nonsense')).toBe(false);
  });
});
