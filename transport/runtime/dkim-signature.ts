/**
 * The DKIM signature (RFC 6376) of one message, or the set of ARC (RFC 8617) in front of it, made in a thread of its own (`dkim-worker.ts`). Owns: whose signature it is to be, reading
 * the key, the fields that are signed.
 * Promises: memory is one header of `MAX_HEADER_BYTES` and a few chunks; what is wrong with a key is a text that names Secret and key and holds nothing of it. Refuses headers of more than `MAX_HEADER_LINES` or `MAX_HEADER_BYTES`, RSA keys below 1,024 bits (RFC 8301 3.2).
 */
import { readFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { domainToASCII } from 'node:url';
import { createSeal } from 'mailauth/lib/arc/index.js';
import { dkimSign } from 'mailauth/lib/dkim/sign.js';
import { dkimVerify } from 'mailauth/lib/dkim/verify.js';
import type { ChainStatus } from '../../common/authentication-results.ts';
import { dkimKeyProblem } from '../../common/dkim-key.ts';
import { readHeader } from '../../common/header-reader.ts';

export interface SigningKey {
  readonly domain: string;
  readonly selector: string;
  /** For people: where the key is. */
  readonly secret: string;
  readonly key: string;
  readonly file: string;
}

export interface SigningJob {
  /** One for each domain. */
  readonly keys: readonly SigningKey[];
  readonly signedAtMs: number;
}

export interface SealingJob {
  readonly key: SigningKey;
  readonly sealedAtMs: number;
  readonly status: ChainStatus;
  /** Behind the number of the set in ARC-Authentication-Results. */
  readonly results: string;
}

export type Signed =
  /** `field` ends in CRLF. */
  | { readonly kind: 'signed'; readonly field: string }
  /** There is no key for the domain of its author. */
  | { readonly kind: 'not ours' }
  /** The chain takes no other set, or the message can have none. */
  | { readonly kind: 'unsealable'; readonly why: string }
  | { readonly kind: 'unusable'; readonly problem: string };

/** RFC 6376 5.4.1, without those that hops on the way change; those that are not there are not signed. */
const SIGNED_FIELDS =
  'From:Sender:Reply-To:Subject:Date:Message-ID:To:Cc:MIME-Version:Content-Type:Content-Transfer-Encoding:Content-ID:Content-Description:' +
  'In-Reply-To:References:List-Id:List-Help:List-Unsubscribe:List-Unsubscribe-Post:List-Subscribe:List-Post:List-Owner:List-Archive';

/** The library takes a fold apart in a time that goes with its square: 9 s of processor for 40,000 lines, 0.8 for these. */
const MAX_HEADER_LINES = 12_000;
/** Eight times what listeners let a header have unless told otherwise; the library takes half a second for it. A message without an empty line is all header. */
const MAX_HEADER_BYTES = 1024 * 1024;
/** Of From, for the same reason; who stands behind is not looked for. */
const MAX_AUTHORS_LENGTH = 16_384;

interface Head {
  readonly header: string;
  readonly chunks: Buffer[];
  /** What it has too much of for the library; null: nothing. */
  readonly excess: string | null;
}

async function readHead(arriving: AsyncIterator<Buffer>): Promise<Head> {
  const { header, isTooLong, chunks } = await readHeader(arriving, MAX_HEADER_BYTES);
  // Without the CRLF before it and its empty line.
  const lines = header.split('\r\n').length - 3;
  if (isTooLong) return { header, chunks, excess: `more than ${MAX_HEADER_BYTES} bytes` };
  return { header, chunks, excess: lines > MAX_HEADER_LINES ? `${lines} lines: ${MAX_HEADER_LINES} at most` : null };
}

export async function sign({ keys, signedAtMs }: SigningJob, content: AsyncIterable<Buffer>): Promise<Signed> {
  const arriving = content[Symbol.asyncIterator]();
  const { header, chunks, excess } = await readHead(arriving);
  const domains = await authorDomains(header);
  const key = keys.find(({ domain }) => domains.includes(domain));
  if (key === undefined) return { kind: 'not ours' };
  if (excess !== null) return unusable(key, `signs no header of ${excess}`);
  const privateKey = await readKey(key);
  if (typeof privateKey !== 'string') return privateKey;
  const how = { signingDomain: key.domain, selector: key.selector, privateKey };
  const { signatures, errors } = await dkimSign(whole(chunks, arriving), {
    ...{ canonicalization: 'relaxed/relaxed', strict: true, headerList: SIGNED_FIELDS, signTime: new Date(signedAtMs) },
    // Its types want them here, its code reads them there.
    ...how,
    signatureData: [how],
  });
  const [failed] = errors;
  if (failed !== undefined || signatures === '')
    return unusable(key, `cannot sign: ${failed?.err.message ?? 'no signature was made'}`);
  return { kind: 'signed', field: signatures };
}

/** RFC 8617 5.1 2, 4.2.1, and what strict mode calls a set that nobody could accept. Another key would not help. */
const UNSEALABLE = ['EARCCHAINFAILED', 'EINVALIDINSTANCE', 'EINVALIDCV', 'ENOFROM'];

export async function seal(job: SealingJob, content: AsyncIterable<Buffer>): Promise<Signed> {
  const { key, status, results, sealedAtMs } = job;
  const arriving = content[Symbol.asyncIterator]();
  const { chunks, excess } = await readHead(arriving);
  if (excess !== null) return { kind: 'unsealable', why: `header of ${excess}` };
  const privateKey = await readKey(key);
  if (typeof privateKey !== 'string') return privateKey;
  const { headers, errors } = await createSeal(whole(chunks, arriving), {
    strict: true,
    seal: {
      ...{ signingDomain: key.domain, selector: key.selector, privateKey, cv: status, authResults: results },
      // Those of DKIM that came along count for whoever looks at the chain (4.1.2).
      ...{ headerList: `${SIGNED_FIELDS}:DKIM-Signature`, signTime: new Date(sealedAtMs) },
    },
  });
  if (headers.length > 0) return { kind: 'signed', field: `${headers.join('\r\n')}\r\n` };
  const [failed] = errors;
  const why = failed?.err.message ?? 'no set was made';
  return UNSEALABLE.includes(failed?.err.code ?? '')
    ? { kind: 'unsealable', why }
    : unusable(key, `cannot seal: ${why}`);
}

/** What was read for the header, and the rest. */
function whole(chunks: Buffer[], arriving: AsyncIterator<Buffer>): Readable {
  const all = (async function* (): AsyncGenerator<Buffer> {
    yield* chunks.splice(0);
    for (let next = await arriving.next(); next.done !== true; next = await arriving.next()) yield next.value;
  })();
  return Readable.from(all, { objectMode: false });
}

/** Of a message with several From fields nobody can say who is meant (RFC 5322 3.6): it has no author. */
async function authorDomains(header: string): Promise<readonly string[]> {
  const fields = header.match(/(?<=\r\n)from[ \t]*:.*(?:\r\n[ \t].*)*/gi) ?? [];
  const [from] = fields;
  if (from === undefined || fields.length > 1) return [];
  // No signature in it, so nobody is asked about one: the library's reading of the addresses is what is wanted.
  const { headerFrom } = await dkimVerify(Buffer.from(`${from.slice(0, MAX_AUTHORS_LENGTH)}\r\n\r\n`, 'latin1'));
  return headerFrom.map((address) => {
    const domain = address.slice(address.lastIndexOf('@') + 1).toLowerCase();
    return domainToASCII(domain) || domain;
  });
}

/** Read anew for each message: another key in the Secret needs no restart. */
async function readKey(key: SigningKey): Promise<string | Signed> {
  try {
    const text = await readFile(key.file, 'utf8');
    const problem = dkimKeyProblem(text);
    return problem === null ? text : unusable(key, problem);
  } catch (error) {
    const isAbsent = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    return unusable(key, isAbsent ? 'is not there' : 'cannot be read');
  }
}

const unusable = ({ domain, selector, secret, key }: SigningKey, why: string): Signed => ({
  kind: 'unusable',
  problem: `${selector}._domainkey.${domain}: key ${key} of Secret ${secret} ${why}`,
});
