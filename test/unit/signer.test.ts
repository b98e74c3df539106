/** The signing endpoint and the pod that asks it: real TLS and keys on loopback; tables at the port of the API server. */
import { X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { SignerConfig, TlsFiles } from '../../common/config.ts';
import { createCertificateRequest, generateKeys, keyToPem } from '../../common/platform/certificate-request.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { peerOfSubjectAltName } from '../../common/platform/peer-identity.ts';
import { type PodCertificate, startPodCertificate } from '../../common/platform/pod-certificate.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { trustOf } from '../../common/trust.ts';
import { type Authority, createAuthority } from '../../operator/pki.ts';
import { signerName } from '../../operator/resources/names.ts';
import { type Signer, type SignerPod, startSigner, type TokenHolder } from '../../operator/signer.ts';
import { until } from '../house/until.ts';

const POD: SignerPod = {
  uid: 'uid-1',
  nodeName: 'n1',
  serviceAccount: 'contoso',
  cluster: 'contoso',
  role: 'transport',
  deletionAtMs: null,
  trusts: null,
  hosts: ['t-0.t.mail.svc'],
};
const HOLDER: TokenHolder = {
  namespace: 'mail',
  serviceAccount: 'contoso',
  podName: 't-0',
  podUid: 'uid-1',
  nodeName: 'n1',
};
const CLUSTER_PATH = '/v1/namespaces/mail/clusters/contoso/certificates';

const PATIENCE = { deadlineMs: 30_000 };

let directory: string;
let authority: Authority;
let signer: Signer | null = null;
let pods: Map<string, SignerPod>;
let tokens: Map<string, TokenHolder>;
let apiServerAway: boolean;
let noted: (readonly string[])[];
let canNote: boolean;
let inUse: () => Promise<boolean>;
const open: PodCertificate[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mailcluster-signer-'));
  authority = await createAuthority('contoso');
  pods = new Map([['t-0', POD]]);
  tokens = new Map([['good', HOLDER]]);
  apiServerAway = false;
  [noted, canNote, inUse] = [[], true, async () => true];
  await writeFile(join(directory, 'ca.crt'), authority.certificatePem);
  await writeFile(join(directory, 'token'), 'good\n');
});

afterEach(async () => {
  for (const one of open.splice(0)) one.close();
  await signer?.close();
  signer = null;
  await rm(directory, { recursive: true });
});

async function startEndpoint(certificateLifetimeMs = 86_400_000, port = 0): Promise<Signer> {
  signer = await startSigner(
    { address: { host: '127.0.0.1', port }, certificateLifetimeMs },
    {
      clock: systemClock,
      random: systemRandom,
      log: silentLogger,
      reviewToken: async (token) => {
        if (apiServerAway) throw new Error('no API server');
        return tokens.get(token) ?? null;
      },
      pod: (_namespace, name) => pods.get(name) ?? null,
      authority: async (namespace, cluster) => (namespace === 'mail' && cluster === 'contoso' ? authority : null),
      noteTrust: async (...word) => {
        noted.push(word);
        return canNote;
      },
    },
  );
  return signer;
}

const files = (): TlsFiles => ({
  caFile: join(directory, 'ca.crt'),
  certificateFile: join(directory, 'own', 'tls.crt'),
  keyFile: join(directory, 'own', 'tls.key'),
});

const config = (port: number): SignerConfig => ({
  url: `https://127.0.0.1:${port}${CLUSTER_PATH}`,
  serverName: signerName('mail', 'contoso'),
  tokenFile: join(directory, 'token'),
});

const expiries: number[] = [];
async function startPod(port: number): Promise<PodCertificate> {
  const side = {
    clock: systemClock,
    random: systemRandom,
    log: silentLogger,
    expires: (at: number) => expiries.push(at),
    reload: () => inUse(),
  };
  const pod = await startPodCertificate('t-0', files(), config(port), side);
  open.push(pod);
  return pod;
}

interface Answer {
  readonly status: number;
  readonly retryAfter: string | undefined;
  readonly body: { readonly certificate?: string; readonly error?: { readonly code: string } };
}

interface Question {
  readonly token?: string | null;
  readonly path?: string;
  readonly body?: string;
  readonly method?: string;
  readonly serverName?: string;
}

async function ask(port: number, question: Question = {}): Promise<Answer> {
  const body =
    question.body ?? (await createCertificateRequest(await keyToPem((await generateKeys()).privateKey), 'x'));
  const { token = 'good', path = CLUSTER_PATH, method = 'POST', serverName = signerName('mail', 'contoso') } = question;
  return new Promise((resolve, reject) => {
    const sent = httpsRequest({
      host: '127.0.0.1',
      port,
      path,
      method,
      agent: false,
      ca: authority.certificatePem,
      servername: serverName,
      headers: token === null ? {} : { authorization: `Bearer ${token}` },
    });
    sent.once('error', reject);
    sent.once('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          retryAfter: response.headers['retry-after'],
          body: JSON.parse(text) as Answer['body'],
        }),
      );
    });
    sent.end(method === 'POST' ? body : undefined);
  });
}

test('a pod makes its key, gets a certificate that names it, and keeps the key over a restart', async () => {
  const { port } = await startEndpoint();
  await startPod(port);
  const key = await readFile(files().keyFile, 'utf8');
  const certificate = new X509Certificate(await readFile(files().certificateFile, 'utf8'));
  expect(peerOfSubjectAltName(certificate.subjectAltName, 'contoso')).toEqual({ role: 'transport', name: 't-0' });
  expect(certificate.subjectAltName).toContain('DNS:t-0.t.mail.svc');
  expect(certificate.verify(new X509Certificate(authority.certificatePem).publicKey)).toBe(true);
  expect(expiries.at(-1)).toBe(certificate.validToDate.getTime());
  open.splice(0)[0]?.close();
  await startPod(port);
  expect(await readFile(files().keyFile, 'utf8')).toBe(key);
});

test('renewed before its end, without a restart', async () => {
  const { port } = await startEndpoint(4_000);
  await startPod(port);
  const first = await readFile(files().certificateFile, 'utf8');
  await until('another certificate', async () => (await readFile(files().certificateFile, 'utf8')) !== first, PATIENCE);
  const second = new X509Certificate(await readFile(files().certificateFile, 'utf8'));
  expect(second.validToDate.getTime()).toBeGreaterThan(new X509Certificate(first).validToDate.getTime());
});

test('another authority: a certificate of it at once, with the same key, not after two thirds of a life', async () => {
  const { port } = await startEndpoint();
  await startPod(port);
  const [first, key] = await Promise.all([files().certificateFile, files().keyFile].map((file) => readFile(file)));
  const former = authority.certificatePem;
  authority = await createAuthority('contoso');
  await writeFile(files().caFile, authority.certificatePem + former);
  const now = async (): Promise<X509Certificate> => new X509Certificate(await readFile(files().certificateFile));
  const isOfIt = async (): Promise<boolean> =>
    (await now()).verify(new X509Certificate(authority.certificatePem).publicKey);
  await until('a certificate of the other authority', isOfIt, PATIENCE);
  expect(await readFile(files().keyFile)).toEqual(key);
  expect(await readFile(files().certificateFile)).not.toEqual(first);
  // The former one goes: asked for once more, and it works without it.
  const second = await now();
  await writeFile(files().caFile, authority.certificatePem);
  await until('a third certificate', async () => (await now()).serialNumber !== second.serialNumber, PATIENCE);
  expect(await isOfIt()).toBe(true);
});

test('says which authorities it trusts, after they are in use; a word that could not be noted is said again', async () => {
  const { port } = await startEndpoint();
  await startPod(port);
  const word = (ca: string) => ['mail', 't-0', 'uid-1', trustOf(ca)];
  expect(noted).toEqual([word(authority.certificatePem)]);
  const both = authority.certificatePem + (await createAuthority('contoso')).certificatePem;
  let looks = 0;
  inUse = async () => {
    looks += 1;
    return looks > 1;
  };
  await writeFile(files().caFile, both);
  await until('it was tried to use them', () => looks > 0, PATIENCE);
  expect(noted).toHaveLength(1);
  await until('it says so', () => noted.length === 2, PATIENCE);
  expect([noted.at(-1), looks > 1]).toEqual([word(both), true]);
  // Nothing new is not noted again.
  pods.set('t-0', { ...POD, trusts: trustOf(both) });
  open.splice(0)[0]?.close();
  await startPod(port);
  expect(noted).toHaveLength(2);
  pods.set('t-0', POD);
  canNote = false;
  open.splice(0)[0]?.close();
  await startPod(port);
  await until('it says so once more', () => noted.length >= 4, PATIENCE);
});

test('K9: a restart while the endpoint is away goes on with the certificate that is still good', async () => {
  const { port } = await startEndpoint();
  await startPod(port);
  open.splice(0)[0]?.close();
  await signer?.close();
  signer = null;
  await startPod(port);
  expect(await readFile(files().certificateFile, 'utf8')).toContain('BEGIN CERTIFICATE');
});

test('the first start waits for the endpoint, for the API server, and for the pod to be seen', async () => {
  const { port } = await startEndpoint();
  await signer?.close();
  signer = null;
  apiServerAway = true;
  pods.clear();
  let usable = false;
  const started = startPod(port).then(() => {
    usable = true;
  });
  await startEndpoint(86_400_000, port);
  expect(await ask(port)).toMatchObject({ status: 503, retryAfter: '2', body: { error: { code: 'NO_REVIEW' } } });
  apiServerAway = false;
  expect(await ask(port)).toMatchObject({ status: 503, body: { error: { code: 'POD_NOT_SEEN' } } });
  expect(usable).toBe(false);
  pods.set('t-0', POD);
  await started;
});

test('a key that cannot be read is replaced; an authority that nobody knows is not believed', async () => {
  const { port } = await startEndpoint();
  await startPod(port);
  open.splice(0)[0]?.close();
  await writeFile(files().keyFile, 'rubbish');
  await startPod(port);
  expect(await readFile(files().keyFile, 'utf8')).toContain('PRIVATE KEY');
  open.splice(0)[0]?.close();
  const before = await readFile(files().certificateFile, 'utf8');
  await writeFile(files().caFile, (await createAuthority('contoso')).certificatePem);
  let usable = false;
  void startPod(port).then(() => {
    usable = true;
  });
  await expect(ask(port)).resolves.toMatchObject({ status: 200 });
  expect(usable).toBe(false);
  expect(await readFile(files().certificateFile, 'utf8')).toBe(before);
  await writeFile(files().caFile, authority.certificatePem);
  await until('the authority is back', () => usable, PATIENCE);
});

type Refusal = readonly [what: string, question: Question, status: number, code: string, prepare?: () => void];
const refusals: readonly Refusal[] = [
  ['no token', { token: null }, 401, 'NO_TOKEN'],
  ['a token for another audience', { token: 'foreign' }, 401, 'BAD_TOKEN'],
  ['no POST', { method: 'GET' }, 405, 'POST_ONLY'],
  ['another path', { path: '/v1/x' }, 404, 'NO_SUCH_PATH'],
  ['not a request', { body: 'hello' }, 400, 'CERTIFICATE_REQUEST'],
  ['a request that is too large', { body: 'x'.repeat(20_000) }, 413, 'TOO_LARGE'],
  ['another namespace', { path: CLUSTER_PATH.replace('mail', 'other') }, 403, 'NOT_YOURS'],
  ['another cluster', { path: CLUSTER_PATH.replace('contoso', 'fabrikam') }, 403, 'NOT_YOURS'],
  ['an earlier pod of the name', {}, 503, 'POD_NOT_SEEN', () => pods.set('t-0', { ...POD, uid: 'uid-2' })],
  ['a pod without a role', {}, 403, 'NOT_YOURS', () => pods.set('t-0', { ...POD, role: null })],
  ['another account', {}, 403, 'NOT_YOURS', () => pods.set('t-0', { ...POD, serviceAccount: 'default' })],
  ['another node', {}, 403, 'NOT_YOURS', () => pods.set('t-0', { ...POD, nodeName: 'n2' })],
  ['a pod past its end', {}, 403, 'NOT_YOURS', () => pods.set('t-0', { ...POD, deletionAtMs: Date.now() - 61_000 })],
];

test.each(refusals.map((one) => ({ what: one[0], one })))('refused: $what', async ({ one }) => {
  const [, question, status, code, prepare] = one;
  const { port } = await startEndpoint();
  prepare?.();
  expect(await ask(port, question)).toMatchObject({ status, body: { error: { code } } });
});

test('a pod that is ending still gets one for a minute', async () => {
  const { port } = await startEndpoint();
  pods.set('t-0', { ...POD, deletionAtMs: Date.now() - 5_000 });
  expect(await ask(port)).toMatchObject({ status: 200 });
});

test('what the request asks to be called counts for nothing, and a signature of another key is noticed', async () => {
  const { port } = await startEndpoint();
  const key = await keyToPem((await generateKeys()).privateKey);
  const { body } = await ask(port, { body: await createCertificateRequest(key, 'operator') });
  expect(new X509Certificate(body.certificate ?? '').subjectAltName).toContain('mailcluster://contoso/transport/t-0');
  const pem = await createCertificateRequest(key, 'x');
  const der = Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ''), 'base64');
  der[der.length - 3] = (der[der.length - 3] ?? 0) ^ 1;
  const forged = `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`;
  expect(await ask(port, { body: forged })).toMatchObject({ status: 400 });
});

test('a name that no cluster has gets no certificate to look at', async () => {
  const { port } = await startEndpoint();
  await expect(ask(port, { serverName: signerName('mail', 'fabrikam') })).rejects.toThrow();
  await expect(ask(port, { serverName: 'localhost' })).rejects.toThrow();
});
