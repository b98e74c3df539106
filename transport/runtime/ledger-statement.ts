/**
 * What a transport says in the shared ledger, so that any other transport of the cluster can believe it without believing who kept it: copy,
 * recipient, epoch, the next hop's reply, signed with the key of the writer's certificate, the certificate beside it. Owns: the form of an entry,
 * whom to believe. Refuses: everything that was not written by a transport of this cluster, with a certificate of the cluster's authority that is
 * valid now, about exactly the copy and recipient that were asked for. Fails by saying why (`string`), never by an exception.
 */
import { createPrivateKey, type KeyObject, sign, verify, X509Certificate } from 'node:crypto';
import type { Identity } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import { peerOfSubjectAltName } from '../../common/platform/peer-identity.ts';
import type { LedgerEntry, LedgerKey, RelayedBefore } from './ledger.ts';

/** Longer entries are none of ours: certificate about 900, signature 100, the rest bounded below. */
export const MAX_STATEMENT_BYTES = 8_192;
const MAX_REPLY_LENGTH = 600;
const VERSION = 1;
/** No signature of anything else can begin like this. */
const PURPOSE = 'mailcluster/ledger/relayed/1';
/** Certificates in use: one for each transport, twice that while they are renewed. */
const MAX_REMEMBERED = 256;

/** PEM texts as in the files of a pod. */
export interface StatementIdentity {
  /** One or more authorities. */
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
}

interface Fields {
  readonly v: number;
  readonly writer: string;
  readonly copy: string;
  readonly recipient: string;
  readonly epoch: { readonly try: number; readonly term: number; readonly owner: string };
  readonly reply: string;
  readonly dsnPassedOn: boolean;
  readonly certificate: string;
  readonly signature: string;
}

interface Writer {
  readonly name: string;
  readonly key: KeyObject;
  readonly validFromMs: number;
  readonly validToMs: number;
}

interface Own {
  readonly name: string;
  readonly certificate: string;
  readonly key: KeyObject;
}

export class Statements {
  readonly #cluster: string;
  readonly #clock: Clock;
  #authorities: readonly X509Certificate[] = [];
  #own: Own;
  /** By the text of the certificate; good ones only. */
  readonly #writers = new Map<string, Writer>();

  /** Throws when the identity is not what it should be. */
  constructor(cluster: string, clock: Clock, identity: StatementIdentity) {
    this.#cluster = cluster;
    this.#clock = clock;
    this.#own = this.#adopt(identity);
  }

  /** New files; throws, and keeps the former, when they do not fit. */
  renew(identity: StatementIdentity): void {
    this.#own = this.#adopt(identity);
    this.#writers.clear();
  }

  /** Rejects only for a broken key. */
  async write(entry: LedgerEntry): Promise<Buffer> {
    const { copy, recipient, dsnPassedOn } = entry;
    const { name: writer, certificate, key } = this.#own;
    const { try: attempt, term, owner } = entry.epoch;
    const reply = entry.reply.slice(0, MAX_REPLY_LENGTH);
    const fields = { v: VERSION, writer, copy, recipient, epoch: { try: attempt, term, owner }, reply, dsnPassedOn };
    // Not on this thread: a signature takes longer than everything else here.
    const signature = await new Promise<Buffer>((resolve, reject) => {
      sign(digestFor(key), signed(this.#cluster, fields), key, (error, bytes) =>
        error === null ? resolve(bytes) : reject(error),
      );
    });
    return Buffer.from(JSON.stringify({ ...fields, certificate, signature: signature.toString('base64') }));
  }

  /** What the entry proves about the key, or why it proves nothing. */
  read(key: LedgerKey, bytes: Buffer): RelayedBefore | string {
    const fields = parse(bytes);
    if (typeof fields === 'string') return fields;
    if (fields.copy !== key.copy || fields.recipient !== key.recipient) return 'about another copy or recipient';
    const writer = this.#writerOf(fields.certificate);
    if (typeof writer === 'string') return writer;
    const nowMs = this.#clock.wallMs();
    if (nowMs < writer.validFromMs || nowMs > writer.validToMs) return 'the certificate is not valid now';
    if (writer.name !== fields.writer) return 'signed by another than it says';
    const signature = Buffer.from(fields.signature, 'base64');
    if (!verify(digestFor(writer.key), signed(this.#cluster, fields), writer.key, signature)) return 'wrong signature';
    const { try: attempt, term, owner } = fields.epoch;
    return {
      kind: 'relayed',
      reply: fields.reply,
      dsnPassedOn: fields.dsnPassedOn,
      epoch: { try: attempt, term, owner: owner as Identity },
      writer: writer.name,
    };
  }

  #adopt(identity: StatementIdentity): Own {
    const authorities = certificatesIn(identity.ca);
    const leaf = new X509Certificate(identity.certificate);
    const key = createPrivateKey(identity.key);
    if (!leaf.checkPrivateKey(key)) throw new Error('key and certificate are not a pair');
    const peer = peerOfSubjectAltName(leaf.subjectAltName, this.#cluster);
    if (typeof peer === 'string') throw new Error(peer);
    this.#authorities = authorities;
    return { name: peer.name, certificate: leaf.raw.toString('base64'), key };
  }

  #writerOf(text: string): Writer | string {
    const remembered = this.#writers.get(text);
    if (remembered !== undefined) return remembered;
    let certificate: X509Certificate;
    try {
      certificate = new X509Certificate(Buffer.from(text, 'base64'));
      const { ca, subjectAltName, publicKey: key, validFrom, validTo } = certificate;
      const issued = this.#authorities.some((one) => certificate.checkIssued(one) && certificate.verify(one.publicKey));
      if (!issued || ca) return 'the certificate is not of the authority of this cluster';
      const peer = peerOfSubjectAltName(subjectAltName, this.#cluster);
      if (typeof peer === 'string') return peer;
      if (peer.role !== 'transport') return `written by a ${peer.role}`;
      const writer = { name: peer.name, key, validFromMs: Date.parse(validFrom), validToMs: Date.parse(validTo) };
      this.#remember(text, writer);
      return writer;
    } catch (error) {
      return `not a certificate: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  #remember(text: string, writer: Writer): void {
    this.#writers.set(text, writer);
    for (const oldest of this.#writers.keys()) {
      if (this.#writers.size <= MAX_REMEMBERED) break;
      this.#writers.delete(oldest);
    }
  }
}

/** Ed25519 hashes by itself. */
const digestFor = (key: KeyObject): 'sha256' | null =>
  key.asymmetricKeyType === 'ed25519' || key.asymmetricKeyType === 'ed448' ? null : 'sha256';

/** Two different statements never have the same text. */
function signed(cluster: string, fields: Omit<Fields, 'certificate' | 'signature'>): Buffer {
  const { v, writer, copy, recipient, epoch, reply, dsnPassedOn } = fields;
  const { try: attempt, term, owner } = epoch;
  return Buffer.from(
    JSON.stringify([PURPOSE, cluster, v, writer, copy, recipient, attempt, term, owner, reply, dsnPassedOn]),
  );
}

function parse(bytes: Buffer): Fields | string {
  if (bytes.length >= MAX_STATEMENT_BYTES) return 'too long';
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    return `not a statement: ${error instanceof Error ? error.name : String(error)}`;
  }
  return isFields(value) ? value : 'not a statement';
}

const isText = (value: unknown): value is string => typeof value === 'string';
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;
const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null;

function isFields(value: unknown): value is Fields {
  if (!isObject(value) || value.v !== VERSION) return false;
  const { writer, copy, recipient, epoch, reply, dsnPassedOn, certificate, signature } = value;
  if (![writer, copy, recipient, reply, certificate, signature].every(isText)) return false;
  if (typeof dsnPassedOn !== 'boolean' || String(reply).length > MAX_REPLY_LENGTH) return false;
  return isObject(epoch) && isCount(epoch.try) && isCount(epoch.term) && isText(epoch.owner);
}

function certificatesIn(pem: string): readonly X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0) throw new Error('no certificate of an authority');
  return blocks.map((block) => new X509Certificate(block));
}
