/** What pods are told to trust, from the Secret of an authority: real keys and certificates, as people and as issuers make them. */
import { X509Certificate as NodeCertificate, webcrypto } from 'node:crypto';
import type { X509Certificate } from '@peculiar/x509';
import { expect, it } from 'vitest';
import { generateKeys, keyToPem, SIGNING, x509 } from '../../common/platform/certificate-request.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { certificatesIn } from '../../common/trust.ts';
import { Authorities } from '../../operator/authorities.ts';
import { CONFIG_MAP, SECRET } from '../../operator/kube/kinds.ts';
import { createAuthority, issueCertificate, loadAuthority } from '../../operator/pki.ts';
import type { Watched } from '../../operator/world.ts';

interface Made {
  readonly certificate: X509Certificate;
  readonly keys: webcrypto.CryptoKeyPair;
  readonly certificatePem: string;
  readonly keyPem: string;
}

const DAY_MS = 86_400_000;
const MAIL = 'MailCluster contoso';

/** As an issuer does: it names keys in its own way (RFC 7093, not RFC 5280's SHA-1). */
async function issued(name: string, issuer: Made | null, keyIdentifier: string, known?: Made): Promise<Made> {
  const lib = await x509();
  const keys = known?.keys ?? (await generateKeys());
  const certificate = await lib.X509CertificateGenerator.create(
    {
      ...{ subject: `CN=${name}`, issuer: issuer?.certificate.subject ?? `CN=${name}` },
      ...{ notBefore: new Date(Date.now() - DAY_MS), notAfter: new Date(Date.now() + 365 * DAY_MS) },
      ...{ publicKey: keys.publicKey, signingKey: (issuer?.keys ?? keys).privateKey, signingAlgorithm: SIGNING },
      extensions: [
        new lib.BasicConstraintsExtension(true, undefined, true),
        new lib.KeyUsagesExtension(lib.KeyUsageFlags.keyCertSign | lib.KeyUsageFlags.digitalSignature, true),
        new lib.SubjectKeyIdentifierExtension(keyIdentifier),
      ],
    },
    webcrypto,
  );
  return {
    certificate,
    keys,
    certificatePem: `${certificate.toString('pem')}\n`,
    keyPem: await keyToPem(keys.privateKey),
  };
}

/** The Secret of an authority, what pods trust already, and what comes of both. */
async function trustedFor(data: Readonly<Record<string, string>>, trusted?: string): Promise<readonly string[]> {
  const encoded = Object.entries(data).map(([key, text]) => [key, Buffer.from(text).toString('base64')]);
  const metadata = { namespace: 'mail', name: 'any', uid: 'u', resourceVersion: '1' };
  const objects = new Map<unknown, Watched>([
    [SECRET, { apiVersion: 'v1', kind: 'Secret', metadata, data: Object.fromEntries(encoded) }],
  ]);
  if (trusted !== undefined)
    objects.set(CONFIG_MAP, { apiVersion: 'v1', kind: 'ConfigMap', metadata, data: { 'ca.crt': trusted } });
  const world = { get: (kind: unknown) => objects.get(kind) };
  const side = { world, clock: systemClock, random: systemRandom };
  const found = await new Authorities(side).view('mail', 'contoso');
  if (found.kind !== 'present') throw new Error(JSON.stringify(found));
  return certificatesIn(found.view.trustPem);
}

const member = { cluster: 'contoso', role: 'transport', name: 't-0', hosts: [], days: 1 } as const;

/** By OpenSSL: names, key identifiers, usages, signature. */
function vouches(rootPem: string, leafPem: string): boolean {
  const [root, leaf] = [new NodeCertificate(rootPem), new NodeCertificate(leafPem)];
  return leaf.checkIssued(root) && leaf.verify(root.publicKey);
}

it('an authority of its own is what pods trust; another one beside it, too', async () => {
  const [own, next] = [await createAuthority('contoso'), await createAuthority('contoso')];
  const secret = { 'tls.crt': own.certificatePem, 'tls.key': own.keyPem };
  expect(await trustedFor(secret)).toEqual([own.certificatePem.trim()]);
  expect(await trustedFor({ ...secret, 'ca.crt': next.certificatePem })).toEqual([
    own.certificatePem.trim(),
    next.certificatePem.trim(),
  ]);
});

it('of an authority below an issuer pods trust one root of its key, which OpenSSL takes for what it signs and for nothing that its issuer signs', async () => {
  const root = await issued('Company', null, 'aa01');
  const issuer = await issued('Issuer', root, 'aa02');
  const authority = await issued(MAIL, issuer, 'aa03');
  const { keyPem } = authority;
  const secret = { 'tls.crt': authority.certificatePem + issuer.certificatePem, 'tls.key': keyPem };
  const trusted = await trustedFor({ ...secret, 'ca.crt': root.certificatePem });
  expect(trusted).toHaveLength(1);
  const [trust = ''] = trusted;
  const signed = await issueCertificate(await loadAuthority({ ...authority, keyPem }), member);
  const foreign = await issueCertificate(await loadAuthority(issuer), member);
  expect([trust, signed.certificatePem, foreign.certificatePem].map((pem) => vouches(trust, pem))).toEqual([
    true,
    true,
    false,
  ]);
});

it('it stays the same when the authority is renewed, also with another identifier of its key, and for another operator', async () => {
  const issuer = await issued('Issuer', null, 'aa02');
  const authority = await issued(MAIL, issuer, 'aa03');
  const renewed = await issued(MAIL, issuer, 'aa04', authority);
  const secret = ({ certificatePem, keyPem }: Made) => ({
    ...{ 'tls.crt': certificatePem, 'tls.key': keyPem, 'ca.crt': issuer.certificatePem },
  });
  const [first = ''] = await trustedFor(secret(authority));
  expect(await trustedFor(secret(renewed), first)).toEqual([first]);
  // Another key: nothing of the former one is kept.
  const other = await issued(MAIL, issuer, 'aa05');
  const [second = ''] = await trustedFor(secret(other), first);
  const signed = await issueCertificate(await loadAuthority(other), member);
  expect([vouches(second, signed.certificatePem), vouches(first, signed.certificatePem)]).toEqual([true, false]);
});

it('an authority of its own put under an issuer with the same key changes nothing for pods', async () => {
  const own = await createAuthority('contoso');
  const issuer = await issued('Issuer', null, 'aa02');
  const publicKey = await own.certificate.publicKey.export(webcrypto);
  const keys = { publicKey, privateKey: own.key };
  const under = await issued(MAIL, issuer, 'aa03', { ...issuer, keys });
  const { certificatePem } = under;
  // Ten years are longer than what any issuer gives.
  expect(
    await trustedFor(
      { 'tls.crt': certificatePem, 'tls.key': own.keyPem, 'ca.crt': issuer.certificatePem },
      own.certificatePem,
    ),
  ).toEqual([own.certificatePem.trim()]);
});

it('a root whose own name of its key is not ours is trusted through one that is', async () => {
  const root = await issued(MAIL, null, 'aa06');
  const [trust = '', ...others] = await trustedFor({ 'tls.crt': root.certificatePem, 'tls.key': root.keyPem });
  expect(others).toEqual([]);
  expect(trust).not.toBe(root.certificatePem.trim());
  const signed = await issueCertificate(await loadAuthority(root), member);
  expect([root.certificatePem, trust].map((pem) => vouches(pem, signed.certificatePem))).toEqual([false, true]);
});

it('when such a one is replaced, what it has signed is trusted as before', async () => {
  const former = await issued(MAIL, null, 'aa06');
  const [trust = ''] = await trustedFor({ 'tls.crt': former.certificatePem, 'tls.key': former.keyPem });
  const next = await createAuthority('contoso');
  const secret = { 'tls.crt': next.certificatePem, 'tls.key': next.keyPem, 'ca.crt': former.certificatePem };
  const bundle = `${trust}\n${next.certificatePem}`;
  expect(await trustedFor(secret, bundle)).toEqual([next.certificatePem.trim(), trust]);
});
