/**
 * What spans two objects and so cannot be a rule of a CRD (kubernetes.md, first paragraph): `validate` and `run` refuse it here,
 * the operator shows it as a condition. Owns: those checks; of one object only what a rule may not cost (connector-checks.ts). PURE.
 */
import { checkConnectors, noteConnectors } from './connector-checks.ts';
import { checkDkim, keyReferences, noteArc, noteDkim, sayKey } from './dkim-checks.ts';
import type { MailboxDatabase, MailCluster, ResubmitRequest, TransportOrder } from './generated.ts';
import type { ConfigMap, Resource, Secret } from './parse.ts';
import { notePaths } from './path-checks.ts';
import { formatPath, type Path, type Problem } from './problem.ts';
import { durationMs } from './quantity.ts';
import { checkRecipients } from './recipients-check.ts';
import type { Finding } from './structure.ts';

/** Where a problem is: a place in a file, or an object of the API server. */
export interface ProblemPlace {
  problem(finding: Finding, format: (path: Path) => string): Problem;
}

export interface Located<R extends Resource, P extends ProblemPlace = ProblemPlace> {
  readonly resource: R;
  readonly document: P;
}

export interface CrossCheck {
  readonly problems: readonly Problem[];
  readonly notes: readonly Problem[];
}

/** Why a text cannot sign with DKIM or ARC; null: it can. */
export type KeyProblem = (text: string) => string | null;

type Say = (path: Path, problem: string, fix: string) => void;

class Context {
  readonly problems: Problem[] = [];
  readonly notes: Problem[] = [];
  readonly missing: 'error' | 'note';
  readonly keyProblem: KeyProblem;
  readonly #all: readonly Located<Resource>[];

  constructor(all: readonly Located<Resource>[], missing: 'error' | 'note', keyProblem: KeyProblem) {
    this.#all = all;
    this.missing = missing;
    this.keyProblem = keyProblem;
  }

  of<K extends Resource['kind']>(kind: K): readonly Located<Extract<Resource, { kind: K }>>[] {
    return this.#all.filter((entry): entry is Located<Extract<Resource, { kind: K }>> => entry.resource.kind === kind);
  }

  find<K extends Resource['kind']>(kind: K, namespace: string, name: string): Extract<Resource, { kind: K }> | null {
    const found = this.of(kind).find(
      ({ resource: { metadata } }) => metadata.namespace === namespace && metadata.name === name,
    );
    return found?.resource ?? null;
  }

  sayTo(list: Problem[], document: ProblemPlace): Say {
    return (path, problem, fix) => list.push(document.problem({ path, problem, fix }, formatPath));
  }
}

/** `keyProblem`: for who knows the values of Secrets. */
export function crossCheck(
  all: readonly Located<Resource>[],
  missingReferences: 'error' | 'note',
  keyProblem: KeyProblem = () => null,
): CrossCheck {
  const context = new Context(all, missingReferences, keyProblem);
  for (const cluster of context.of('MailCluster')) {
    checkClusterReferences(context, cluster);
    checkAddressLists(context, cluster);
    checkRecipients(cluster.resource, context.sayTo(context.problems, cluster.document));
    noteDomains(context, cluster);
    checkConnectors(cluster.resource, context.sayTo(context.problems, cluster.document));
    noteConnectors(cluster.resource, context.sayTo(context.notes, cluster.document));
    notePaths(cluster.resource, context.sayTo(context.notes, cluster.document));
    checkKeys(context, cluster);
  }
  for (const database of context.of('MailboxDatabase')) checkDatabase(context, database);
  for (const request of context.of('ResubmitRequest')) checkRequest(context, request);
  for (const order of context.of('TransportOrder')) hasCluster(context, order);
  checkClaims(context);
  return { problems: context.problems, notes: context.notes };
}

function checkReference(
  context: Context,
  entry: Located<Resource>,
  kind: 'Secret' | 'ConfigMap',
  reference: { readonly name: string; readonly keys: readonly string[]; readonly path: Path },
): Secret | ConfigMap | null {
  const { namespace } = entry.resource.metadata;
  const { name, keys, path } = reference;
  const found = context.find(kind, namespace, name);
  if (found === null) {
    const say = context.sayTo(context.missing === 'error' ? context.problems : context.notes, entry.document);
    say(
      [...path, 'name'],
      `there is no ${kind} ${name} in namespace ${namespace} in these files`,
      `add a ${kind} document of that name${keys.length === 0 ? '' : ` with the key ${keys.join(' and ')}`}`,
    );
    return null;
  }
  const absent = keys.filter((key) => !Object.hasOwn(found.data, key));
  if (absent.length === 0) return found;
  context.sayTo(context.problems, entry.document)(
    [...path, 'name'],
    `${kind} ${name} has no key ${absent.join(' and ')}`,
    `add ${absent.join(' and ')} to the ${kind}`,
  );
  return null;
}

function checkClusterReferences(context: Context, entry: Located<MailCluster>): void {
  const { frontend, redis, sendConnectors } = entry.resource.spec;
  const tls: Path = ['spec', 'frontend', 'tlsSecretRef'];
  if (frontend.tlsSecretRef) {
    checkReference(context, entry, 'Secret', {
      name: frontend.tlsSecretRef.name,
      keys: ['tls.crt', 'tls.key'],
      path: tls,
    });
  }
  for (const [index, listener] of frontend.listeners.entries()) {
    if (listener.auth === undefined) continue;
    const path: Path = ['spec', 'frontend', 'listeners', index, 'auth', 'secretRef'];
    const secret = checkReference(context, entry, 'Secret', {
      name: listener.auth.secretRef.name,
      keys: [],
      path,
    });
    if (secret !== null) checkUsers(context, entry, secret, [...path, 'name']);
  }
  for (const [index, { auth }] of sendConnectors.entries()) {
    if (auth === undefined) continue;
    const path: Path = ['spec', 'sendConnectors', index, 'auth', 'secretRef'];
    checkReference(context, entry, 'Secret', { name: auth.secretRef.name, keys: ['username', 'password'], path });
  }
  if (redis.urlSecretRef) {
    const { name, key } = redis.urlSecretRef;
    checkReference(context, entry, 'Secret', { name, keys: [key], path: ['spec', 'redis', 'urlSecretRef'] });
  }
}

function checkKeys(context: Context, entry: Located<MailCluster>): void {
  const say = context.sayTo(context.problems, entry.document);
  const note = context.sayTo(context.notes, entry.document);
  checkDkim(entry.resource, say);
  noteDkim(entry.resource, note);
  noteArc(entry.resource, note);
  for (const { path, secretRef } of keyReferences(entry.resource)) {
    const { name, key } = secretRef;
    const secret = checkReference(context, entry, 'Secret', { name, keys: [key], path });
    const problem = secret === null ? null : context.keyProblem(secret.data[key] ?? '');
    if (problem !== null) sayKey(path, name, key, problem, say);
  }
}

/** Only of files: what is in a ConfigMap of the API server the front ends say, who read it again when it changes. */
function checkAddressLists(context: Context, entry: Located<MailCluster>): void {
  if (context.missing === 'note') return;
  for (const [index, { configMapRef }] of (entry.resource.spec.recipients?.addressLists ?? []).entries()) {
    if (configMapRef === undefined) continue;
    const { name, key } = configMapRef;
    const path: Path = ['spec', 'recipients', 'addressLists', index, 'configMapRef'];
    const map = checkReference(context, entry, 'ConfigMap', { name, keys: [key], path });
    checkAddresses(context, entry, map, key, path);
  }
}

function checkAddresses(
  context: Context,
  entry: Located<Resource>,
  map: Secret | ConfigMap | null,
  key: string,
  path: Path,
): void {
  const bad = contentLines(map?.data[key] ?? '').find((line) => !/^[^@\s]+@[^@\s]+$/.test(line));
  if (bad !== undefined)
    context.sayTo(context.problems, entry.document)(
      path,
      `ConfigMap ${map?.metadata.name} holds ${JSON.stringify(bad)}, which is not an address`,
      'write one address per line',
    );
}

/** Lines of a list in a Secret or ConfigMap; empty lines and `#` comments are left out. */
export function contentLines(text: string): readonly string[] {
  return text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

/** Keys are user names, values passwords or their hashes (common/smtp/users.ts). */
function checkUsers(context: Context, entry: Located<MailCluster>, secret: Secret | ConfigMap, path: Path): void {
  const say = context.sayTo(context.problems, entry.document);
  const users = Object.entries(secret.data);
  const { name } = secret.metadata;
  if (users.length === 0) say(path, `Secret ${name} holds no user`, 'add user: password lines to its stringData');
  for (const [user, password] of users) {
    if (/[\s:]/.test(user))
      say(
        path,
        `Secret ${name} holds ${JSON.stringify(user)}, which is no user name`,
        'use names without blanks and colons',
      );
    if (password === '')
      say(
        path,
        `Secret ${name} holds an empty password for ${user}`,
        'give the user a password, or its hash as `mailcluster password` makes it',
      );
  }
}

function checkDatabase(context: Context, entry: Located<MailboxDatabase>): void {
  const { metadata, spec } = entry.resource;
  const say = context.sayTo(context.problems, entry.document);
  const cluster = context.find('MailCluster', metadata.namespace, spec.clusterRef.name);
  if (spec.recipients.addressesFrom) {
    const { name, key } = spec.recipients.addressesFrom.configMapRef;
    const path: Path = ['spec', 'recipients', 'addressesFrom', 'configMapRef'];
    const map = checkReference(context, entry, 'ConfigMap', { name, keys: [key], path });
    checkAddresses(context, entry, map, key, path);
  }
  if (cluster === null) {
    missingCluster(say, metadata.namespace, spec.clusterRef.name);
    return;
  }
  checkPlaces(context, entry, cluster);
  checkDomains(context, entry, cluster);
  const holdMs = durationMs(cluster.spec.safetyNet.holdTime);
  for (const [index, copy] of spec.copies.entries()) {
    // semantics.md N7: what a lagged copy may lack after a failover must still be in Safety Net.
    if (durationMs(copy.replayLag) + durationMs(spec.failover.lossWindow) <= holdMs) continue;
    const problem = `replayLag ${copy.replayLag} + failover.lossWindow ${spec.failover.lossWindow} is more than safetyNet.holdTime ${cluster.spec.safetyNet.holdTime} of MailCluster ${cluster.metadata.name}`;
    say(
      ['spec', 'copies', index, 'replayLag'],
      problem,
      'raise safetyNet.holdTime to at least their sum, or lower one of them',
    );
  }
}

function missingCluster(say: Say, namespace: string, name: string): void {
  const problem = `there is no MailCluster ${name} in namespace ${namespace} in these files`;
  say(
    ['spec', 'clusterRef', 'name'],
    problem,
    'correct the name or the namespace, or add the file which holds the MailCluster',
  );
}

function checkPlaces(context: Context, entry: Located<MailboxDatabase>, cluster: MailCluster): void {
  const { spec } = entry.resource;
  const say = context.sayTo(context.problems, entry.document);
  const dag = cluster.spec.dags.find((candidate) => candidate.name === spec.dag);
  const among = (names: readonly string[]): string =>
    names.length === 0 ? 'there is none' : `it has ${names.join(', ')}`;
  if (spec.dag !== undefined && dag === undefined) {
    const names = cluster.spec.dags.map((candidate) => candidate.name);
    say(
      ['spec', 'dag'],
      `MailCluster ${cluster.metadata.name} has no dag ${spec.dag}`,
      `name a dag of the cluster; ${among(names)}`,
    );
  }
  const standalone = cluster.spec.standalone.map((member) => member.site);
  if (spec.site !== undefined && !standalone.includes(spec.site)) {
    say(
      ['spec', 'site'],
      `MailCluster ${cluster.metadata.name} has no standalone site ${spec.site}`,
      `name a site of spec.standalone of the cluster; ${among(standalone)}`,
    );
  }
  const sites = cluster.spec.sites.map((site) => site.name);
  const near = dag === undefined ? [spec.site] : dag.members.map((member) => member.site);
  for (const [index, copy] of spec.copies.entries()) {
    const path: Path = ['spec', 'copies', index, 'site'];
    if (!sites.includes(copy.site)) {
      say(
        path,
        `MailCluster ${cluster.metadata.name} has no site ${copy.site}`,
        `name a site of the cluster; ${among(sites)}`,
      );
    } else if (!near.includes(copy.site)) {
      const note = context.sayTo(context.notes, entry.document);
      note(
        path,
        `the boundary of this database has no transport in site ${copy.site}`,
        'mail for this copy crosses sites; add members there if that is not wanted',
      );
    }
  }
}

/** A domain that is not accepted would be refused as relaying before anybody looks for the database. */
function checkDomains(context: Context, entry: Located<MailboxDatabase>, cluster: MailCluster): void {
  const say = context.sayTo(context.problems, entry.document);
  const { domains = [], addresses = [] } = entry.resource.spec.recipients;
  const check = (domain: string, path: Path): void => {
    const accepted = cluster.spec.acceptedDomains.find((candidate) => candidate.name === domain);
    if (accepted === undefined) {
      say(
        path,
        `${domain} is not an accepted domain of MailCluster ${cluster.metadata.name}`,
        `add { name: ${domain} } to spec.acceptedDomains of the cluster`,
      );
    } else if (accepted.type === 'ExternalRelay') {
      say(
        path,
        `${domain} is an ExternalRelay domain of MailCluster ${cluster.metadata.name}, whose mail all leaves the cluster`,
        'make its type Authoritative or InternalRelay',
      );
    }
  };
  for (const [index, domain] of domains.entries()) check(domain, ['spec', 'recipients', 'domains', index]);
  for (const [index, address] of addresses.entries()) {
    check(address.slice(address.lastIndexOf('@') + 1).toLowerCase(), ['spec', 'recipients', 'addresses', index]);
  }
}

/** architecture.md section 8: recipients of two databases are refused; an address beats a domain. */
function checkClaims(context: Context): void {
  const claims = new Map<string, string>();
  for (const { resource, document } of context.of('MailboxDatabase')) {
    const { metadata, spec } = resource;
    const say = context.sayTo(context.problems, document);
    const claim = (what: string, path: Path): void => {
      const key = `${metadata.namespace}/${spec.clusterRef.name} ${comparable(what, spec.recipients.localParts)}`;
      const owner = claims.get(key);
      if (owner === undefined) claims.set(key, metadata.name);
      else if (owner === metadata.name) say(path, `${what} is listed twice`, 'remove one of them');
      else say(path, `${what} belongs to MailboxDatabase ${owner} already`, 'remove it from one of the two');
    };
    const { domains = [], addresses = [] } = spec.recipients;
    for (const [index, domain] of domains.entries()) claim(domain, ['spec', 'recipients', 'domains', index]);
    for (const [index, address] of addresses.entries()) claim(address, ['spec', 'recipients', 'addresses', index]);
    for (const address of configuredAddresses(
      resource,
      context.of('ConfigMap').map((entry) => entry.resource),
    )) {
      claim(address, ['spec', 'recipients', 'addressesFrom']);
    }
  }
}

/** An address or domain as it is compared and written into the topology document. */
export function comparable(recipient: string, localParts: 'CaseInsensitive' | 'CaseSensitive'): string {
  const at = recipient.lastIndexOf('@') + 1;
  const local = recipient.slice(0, at);
  return (localParts === 'CaseSensitive' ? local : local.toLowerCase()) + recipient.slice(at).toLowerCase();
}

/** Addresses of `addressesFrom`; empty when the ConfigMap is not there (reported elsewhere). */
export function configuredAddresses(database: MailboxDatabase, configMaps: readonly ConfigMap[]): readonly string[] {
  const reference = database.spec.recipients.addressesFrom?.configMapRef;
  const { namespace } = database.metadata;
  const found = configMaps.find(
    ({ metadata }) => metadata.namespace === namespace && metadata.name === reference?.name,
  );
  return reference === undefined ? [] : contentLines(found?.data[reference.key] ?? '');
}

/** False: it refers to a MailCluster that is not there. */
function hasCluster(context: Context, entry: Located<ResubmitRequest | TransportOrder>): boolean {
  const { metadata, spec } = entry.resource;
  if (context.find('MailCluster', metadata.namespace, spec.clusterRef.name) !== null) return true;
  missingCluster(context.sayTo(context.problems, entry.document), metadata.namespace, spec.clusterRef.name);
  return false;
}

function checkRequest(context: Context, entry: Located<ResubmitRequest>): void {
  const { metadata, spec } = entry.resource;
  const say = context.sayTo(context.problems, entry.document);
  if (!hasCluster(context, entry) || spec.selector.database === undefined) return;
  const database = context.find('MailboxDatabase', metadata.namespace, spec.selector.database);
  if (database?.spec.clusterRef.name === spec.clusterRef.name) return;
  say(
    ['spec', 'selector', 'database'],
    `MailCluster ${spec.clusterRef.name} has no MailboxDatabase ${spec.selector.database} in these files`,
    'correct the name or add the file which holds it',
  );
}

function noteDomains(context: Context, entry: Located<MailCluster>): void {
  const { metadata, spec } = entry.resource;
  const note = context.sayTo(context.notes, entry.document);
  const databases = context.of('MailboxDatabase').map((located) => located.resource);
  const own = databases.filter(
    (database) => database.metadata.namespace === metadata.namespace && database.spec.clusterRef.name === metadata.name,
  );
  for (const [index, domain] of spec.acceptedDomains.entries()) {
    if (domain.type !== 'Authoritative') continue;
    const held = own.some(({ spec: { recipients } }) => {
      const listed = (recipients.addresses ?? []).some((address) => address.toLowerCase().endsWith(`@${domain.name}`));
      return listed || recipients.domains?.includes(domain.name) || recipients.addressesFrom !== undefined;
    });
    if (!held)
      note(
        ['spec', 'acceptedDomains', index],
        `no MailboxDatabase in these files holds ${domain.name}`,
        'every recipient there is unknown (550 5.1.1) until one does',
      );
  }
}
