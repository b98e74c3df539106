/** What the operator sees of a Secret of people: whether certificate and key belong together, and never a value. */
import { expect, it } from 'vitest';
import { tlsProblem } from '../../operator/secret-view.ts';
import { testCertificate } from '../rigs/test-certificate.ts';

const base64 = (text: string): string => Buffer.from(text).toString('base64');

it('says which of certificate and key cannot be used, and nothing when there is nothing to say', async () => {
  const [one, another] = await Promise.all([testCertificate('a.example'), testCertificate('b.example')]);
  const problem = (crt: string, key: string): string | null =>
    tlsProblem({ 'tls.crt': base64(crt), 'tls.key': base64(key) });
  expect(problem(one.cert, one.key)).toBeNull();
  expect(problem(`${one.cert}\n${one.ca}`, one.key)).toBeNull();
  expect(problem('certificate', one.key)).toBe('tls.crt is no certificate in PEM');
  expect(problem('', one.key)).toBe('tls.crt is no certificate in PEM');
  expect(problem(one.cert, 'key')).toBe('tls.key is no private key in PEM');
  expect(problem(one.cert, another.key)).toBe('tls.key is not the key of tls.crt');
  expect(tlsProblem({ scanner: base64('password') })).toBeNull();
  expect(tlsProblem(undefined)).toBeNull();
});
