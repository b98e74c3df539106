/**
 * Certificates and secrets of the processes on one machine. Owns: `DIR/pki` (a private authority, one certificate per process, one for
 * the commands of the operator) and `DIR/secrets` (users files, SMTP certificates), keys and secrets with mode 0600.
 * Promise: what is there and still good for 30 days stays; a secret is written only when it changed. Passwords of clients never reach the disk
 * in clear; those that we have to say (Redis, smart hosts) do. Refuses: a Secret without the keys it needs, with what is missing.
 */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createSecureContext } from 'node:tls';
import type { AddressListFile, LedgerConfig, TlsFiles } from '../../common/config.ts';
import type { Clock } from '../../common/platform/clock.ts';
import type { PeerRole } from '../../common/platform/net.ts';
import { peerOfSubjectAltName } from '../../common/platform/peer-identity.ts';
import type { Random } from '../../common/platform/random.ts';
import { parseRedisUrl, type RedisUrl } from '../../common/redis-url.ts';
import { UsersFileError, usersFileFromSecret } from '../../common/smtp/users.ts';
import { type Authority, createAuthority, issueCertificate, loadAuthority } from '../pki.ts';
import type { MailCluster } from '../resource/generated.ts';
import type { ConfigMap, Secret } from '../resource/parse.ts';
import type { MembershipPlan } from '../topology.ts';
import { codeOf, makeDirectory, StateDirectoryError, type StatePaths, writeDocument } from './state-directory.ts';

const CERTIFICATE_DAYS = 365;
const RENEW_BEFORE_MS = 30 * 86_400_000;

export interface Identified {
  readonly role: PeerRole;
  readonly name: string;
  readonly hosts: readonly string[];
}

async function readIfThere(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** The identity of the commands of this machine's operator. */
export const OPERATOR_NAME = 'mailcluster-cli';

export function everybody(members: MembershipPlan): readonly Identified[] {
  const hosts = ['localhost', '127.0.0.1'];
  return [
    { role: 'operator', name: OPERATOR_NAME, hosts: [] },
    ...members.transports.map(({ name }): Identified => ({ role: 'transport', name, hosts })),
    ...members.frontends.map(
      ({ name }): Identified => ({ role: 'frontend', name, hosts: [...hosts, `${name}.localhost`] }),
    ),
  ];
}

export function tlsFiles(paths: StatePaths, name: string): TlsFiles {
  return {
    caFile: join(paths.pki, 'ca.crt'),
    certificateFile: join(paths.pki, `${name}.crt`),
    keyFile: join(paths.pki, `${name}.key`),
  };
}

export async function openAuthority(paths: StatePaths, cluster: string): Promise<Authority> {
  const files = { certificate: join(paths.pki, 'ca.crt'), key: join(paths.pki, 'ca.key') };
  const [certificatePem, keyPem] = await Promise.all([readIfThere(files.certificate), readIfThere(files.key)]);
  if (certificatePem !== null && keyPem !== null) {
    try {
      return await loadAuthority({ certificatePem, keyPem });
    } catch (error) {
      throw new StateDirectoryError(
        `the certificate authority in ${paths.pki} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
        `restore it, or remove ${paths.pki}: a new one is made at the next start`,
      );
    }
  }
  const authority = await createAuthority(cluster);
  await writeDocument(files.key, authority.keyPem, 0o600);
  await writeDocument(files.certificate, authority.certificatePem);
  return authority;
}

function stillGood(
  certificatePem: string,
  authority: Authority,
  cluster: string,
  who: Identified,
  nowMs: number,
): boolean {
  try {
    const certificate = new X509Certificate(certificatePem);
    const peer = peerOfSubjectAltName(certificate.subjectAltName, cluster);
    if (typeof peer === 'string' || peer.name !== who.name || peer.role !== who.role) return false;
    if (!certificate.verify(new X509Certificate(authority.certificatePem).publicKey)) return false;
    return Date.parse(certificate.validTo) - nowMs > RENEW_BEFORE_MS;
  } catch (error) {
    // Not a certificate any more: a new one replaces it.
    return error === null;
  }
}

/** Writes a certificate for everybody who has none or whose ends soon. Returns how many were written. */
export async function ensureCertificates(
  paths: StatePaths,
  cluster: string,
  authority: Authority,
  everybody: readonly Identified[],
  clock: Clock,
): Promise<number> {
  let written = 0;
  for (const who of everybody) {
    const files = tlsFiles(paths, who.name);
    const [certificate, key] = await Promise.all([readIfThere(files.certificateFile), readIfThere(files.keyFile)]);
    const good = certificate !== null && stillGood(certificate, authority, cluster, who, clock.wallMs());
    if (good && key !== null) continue;
    const pems = await issueCertificate(authority, { cluster, ...who, days: CERTIFICATE_DAYS });
    await writeDocument(files.keyFile, pems.keyPem, 0o600);
    await writeDocument(files.certificateFile, pems.certificatePem);
    written++;
  }
  return written;
}

/** What the resources refer to. */
export interface WantedSecrets {
  readonly smtpTls: string | null;
  readonly users: readonly string[];
  readonly addressLists?: NonNullable<MailCluster['spec']['recipients']>['addressLists'];
  /** With `username` and `password` for smart hosts. */
  readonly connectors: readonly string[];
  /** Secrets and their keys with private keys of DKIM and ARC. */
  readonly dkim?: readonly { readonly name: string; readonly key: string }[];
  /** Secret and key with the URL of a Redis server. */
  readonly redisUrl: { readonly name: string; readonly key: string } | null;
}

export interface SecretFiles {
  readonly smtpTls: { readonly certificateFile: string; readonly keyFile: string } | null;
  /** Users file by the name of the Secret. */
  readonly users: ReadonlyMap<string, string>;
  /** Where front ends find the address lists. */
  readonly addressLists: readonly AddressListFile[];
  /** Where the shared ledger is; its password is in a file. */
  readonly ledger: LedgerConfig | null;
  /** True when a file has other contents than before. */
  readonly changed: boolean;
}

/** Directory of what connectors authenticate with, a directory for each Secret as a pod has it mounted. */
export const CONNECTORS = 'connectors';

export class SecretProblem extends Error {
  readonly code = 'SECRET';
}

/** Passwords of send connectors and keys of DKIM and ARC: Secret, key, value. */
function* forTransports(wanted: WantedSecrets, find: (name: string) => Secret): Generator<[string, string, string]> {
  for (const name of wanted.connectors) for (const [key, value] of basicAuthOf(find(name))) yield [name, key, value];
  for (const { name, key } of wanted.dkim ?? []) {
    const value = find(name).data[key];
    if (value === undefined)
      throw new SecretProblem(`Secret ${name} needs the key ${key} (a private key of DKIM or ARC)`);
    yield [name, key, value];
  }
}

/** Remembers what it wrote, so that unchanged passwords are not hashed and written again. */
export class SecretStore {
  readonly #paths: StatePaths;
  readonly #random: Random;
  readonly #written = new Map<string, string>();

  constructor(paths: StatePaths, random: Random) {
    this.#paths = paths;
    this.#random = random;
  }

  async write(
    wanted: WantedSecrets,
    secrets: readonly Secret[],
    configMaps: readonly ConfigMap[] = [],
  ): Promise<SecretFiles> {
    const find = (name: string): Secret => {
      const secret = secrets.find((one) => one.metadata.name === name);
      if (secret === undefined)
        throw new SecretProblem(`Secret ${name} is in none of the files; add a document with kind: Secret`);
      return secret;
    };
    const texts: { readonly file: string; readonly source: string; readonly text: string }[] = [];
    const put = async (file: string, source: string, text: () => Promise<string>): Promise<void> => {
      if (this.#written.get(file) !== source) texts.push({ file, source, text: await text() });
    };
    let smtpTls: SecretFiles['smtpTls'] = null;
    if (wanted.smtpTls !== null) {
      const { data } = find(wanted.smtpTls);
      const [certificate, key] = [data['tls.crt'], data['tls.key']];
      if (certificate === undefined || key === undefined) {
        throw new SecretProblem(`Secret ${wanted.smtpTls} needs the keys tls.crt and tls.key (PEM)`);
      }
      checkPair(wanted.smtpTls, certificate, key);
      const base = join(this.#paths.secrets, wanted.smtpTls);
      smtpTls = { certificateFile: `${base}.crt`, keyFile: `${base}.key` };
      await put(smtpTls.keyFile, key, async () => key);
      await put(smtpTls.certificateFile, certificate, async () => certificate);
    }
    const users = new Map<string, string>();
    for (const name of new Set(wanted.users)) {
      const passwords = passwordsOf(find(name));
      const file = join(this.#paths.secrets, `${name}.users`);
      await put(file, JSON.stringify(passwords), () => this.#hash(name, passwords));
      users.set(name, file);
    }
    const addressLists: AddressListFile[] = [];
    for (const { name, configMapRef, file } of wanted.addressLists ?? []) {
      const written = join(this.#paths.secrets, `${name}.addresses`);
      addressLists.push({ name, file: file ?? written });
      if (configMapRef === undefined) continue;
      const text = configMaps.find(({ metadata }) => metadata.name === configMapRef.name)?.data[configMapRef.key];
      if (text === undefined)
        throw new SecretProblem(
          `ConfigMap ${configMapRef.name} with the key ${configMapRef.key} is in none of the files`,
        );
      await put(written, text, async () => text);
    }
    let ledger: SecretFiles['ledger'] = null;
    if (wanted.redisUrl !== null) {
      const { password, ...server } = redisServerOf(find(wanted.redisUrl.name), wanted.redisUrl.key);
      const passwordFile =
        password === null ? null : join(this.#paths.secrets, `${wanted.redisUrl.name}.redis-password`);
      if (password !== null && passwordFile !== null) await put(passwordFile, password, async () => password);
      ledger = { ...server, passwordFile };
    }
    for (const [name, key, value] of forTransports(wanted, find))
      await put(join(this.#paths.secrets, CONNECTORS, name, key), value, async () => value);
    // Only now, when all of them are right.
    for (const { file, source, text } of texts) {
      await makeDirectory(dirname(file));
      await writeDocument(file, text, 0o600);
      this.#written.set(file, source);
    }
    return { smtpTls, users, addressLists, ledger, changed: texts.length > 0 };
  }

  async #hash(secret: string, passwords: Readonly<Record<string, string>>): Promise<string> {
    try {
      return await usersFileFromSecret(passwords, this.#random);
    } catch (error) {
      if (error instanceof UsersFileError)
        throw new SecretProblem(`Secret ${secret}: entry ${error.line} of the users: ${error.message}`);
      throw error;
    }
  }
}

function basicAuthOf({ metadata, data }: Secret): readonly (readonly [string, string])[] {
  const { username, password } = data;
  if (username === undefined || password === undefined)
    throw new SecretProblem(`Secret ${metadata.name} needs the keys username and password`);
  return [
    ['username', username],
    ['password', password],
  ];
}

function redisServerOf({ metadata, data }: Secret, key: string): RedisUrl {
  const text = data[key];
  if (text === undefined) throw new SecretProblem(`Secret ${metadata.name} needs the key ${key} (the URL of Redis)`);
  const url = parseRedisUrl(text);
  if (typeof url === 'string') throw new SecretProblem(`Secret ${metadata.name}, ${key}: ${url}`);
  return url;
}

function checkPair(secret: string, certificate: string, key: string): void {
  try {
    createSecureContext({ cert: certificate, key });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new SecretProblem(`Secret ${secret}: tls.crt and tls.key are not a certificate and its key in PEM (${why})`);
  }
}

/** A key `users` with one `user:password` or `user:hash` per line, as in the resource's description; else one key per user. */
export function passwordsOf(secret: Secret): Readonly<Record<string, string>> {
  const { users } = secret.data;
  if (users === undefined) return secret.data;
  const passwords: Record<string, string> = {};
  for (const [index, raw] of users.split(/\r?\n/).entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const colon = line.indexOf(':');
    if (colon < 1)
      throw new SecretProblem(
        `Secret ${secret.metadata.name}, users, line ${index + 1}: expected user:password or user:hash`,
      );
    const user = line.slice(0, colon);
    if (Object.hasOwn(passwords, user)) {
      throw new SecretProblem(`Secret ${secret.metadata.name}, users, line ${index + 1}: this user was given before`);
    }
    passwords[user] = line.slice(colon + 1).trim();
  }
  return passwords;
}
