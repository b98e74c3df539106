/**
 * SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 9989) and ARC (RFC 8617) of one message, in a thread of its own (`authentication-worker.ts`). Owns: what the library is asked, and which of its words go
 * into a field. Promises: memory is one header of `MAX_HEADER_BYTES` and a few chunks; DNS that does not answer makes `temperror` and nothing else; no message takes the thread for long.
 */
import { isIPv6 } from 'node:net';
import { Readable } from 'node:stream';
import { domainToASCII } from 'node:url';
import type { DKIMResult, DKIMVerifyResult } from 'mailauth';
import { arc } from 'mailauth/lib/arc/index.js';
import { dkimVerify } from 'mailauth/lib/dkim/verify.js';
import { evaluateDmarc } from 'mailauth/lib/dmarc/index.js';
import { spf } from 'mailauth/lib/spf/index.js';
import type { Check } from '../common/authentication-results.ts';
import type { AuthenticationResultsConfig } from '../common/config.ts';
import { readHeader } from '../common/header-reader.ts';
import type { Clock, Timer } from '../common/platform/clock.ts';
import { type Ask, type DnsQuestions, isTemporary } from '../common/platform/dns-questions.ts';

export interface AuthenticationJob {
  readonly settings: AuthenticationResultsConfig;
  readonly address: string;
  readonly helo: string;
  readonly reversePath: string;
}

export interface Finding {
  readonly check: Check;
  /** Keyword of RFC 8601 2.7. */
  readonly result: string;
  /** `resinfo` of RFC 8601 2.2, printable ASCII on one line. */
  readonly text: string;
}

/** Everybody may write signatures, and each is a hash over the body and a question to somebody's name server. */
const MAX_SIGNATURES = 10;
const SIGNATURE = /(?<=\r\n)dkim-signature(?=[ \t\r\n]*:)/gi;
const FROM = /(?<=\r\n)from[ \t]*:.*(?:\r\n[ \t].*)*/i;

/** The library's time grows with the square of these: within the size limit of a header it would be ten seconds, in which nobody else's message is looked at. */
const MAX_HEADER_LINES = 4_000;
/** What listeners let a header have unless told otherwise, and its empty line: for so much the library's time is known. A message without an empty line is all header. */
export const MAX_HEADER_BYTES = 128 * 1024 + 2;
const MAX_AUTHORS_LENGTH = 16_384;
/** With whatever the library takes for a part of the field. */
const AUTHORS = /(?<=\r\n)from[ \t\r\n]*:[\s\S]*?(?=\r\n[!-9;-~]+[ \t\r\n]*:|$)/gi;

/** Of what is said about a chain: it is kept whatever else has to go. */
const MAX_COMMENT = 200;

/** Of the time that a message may wait; the rest is for computing and for the way back. */
const DNS_SHARE = 0.8;

type Content = AsyncIterable<Buffer>;

/** Others are content with the envelope. */
export const readsContent = (checks: readonly Check[]): boolean => checks.includes('DKIM') || checks.includes('ARC');

export async function authenticate(
  job: AuthenticationJob,
  content: Content,
  clock: Clock,
  dns: DnsQuestions,
): Promise<readonly Finding[]> {
  const { checks, timeoutMs } = job.settings;
  const deadline = Promise.withResolvers<void>();
  const ask = dns.until(deadline.promise);
  let timer: Timer | null = null;
  // A client sends as slowly as it likes; from the end on it waits for us.
  const ended = (): void => {
    timer ??= clock.setTimer(timeoutMs * DNS_SHARE, () => deadline.resolve());
  };
  try {
    const [sender, signed] = await Promise.all([
      checks.includes('SPF') ? checkSpf(job, ask) : null,
      readsContent(checks) ? checkContent(job, content, ask, ended) : null,
    ]);
    const found = [signed?.chain ?? [], sender?.finding ?? [], signed?.signatures ?? []].flat();
    const findings = found.filter(({ check }) => checks.includes(check));
    if (!checks.includes('DMARC') || sender === null || signed === null) return findings;
    return [...findings, await checkDmarc(sender, signed, ask)];
  } finally {
    (timer as Timer | null)?.cancel();
    deadline.resolve();
  }
}

interface SenderFound {
  readonly finding: Finding;
  readonly domain: string;
}

async function checkSpf({ settings, address, helo, reversePath }: AuthenticationJob, ask: Ask): Promise<SenderFound> {
  const { authservId, timeoutMs } = settings;
  const found = await spf({
    ...{ sender: withAsciiDomain(reversePath), ip: address, helo, mta: authservId },
    ...{ resolver: ask, strict: true, maxElapsedTime: timeoutMs * DNS_SHARE },
  });
  return { finding: finding('SPF', found.status.result, found.info), domain: found.domain };
}

interface SignedFound {
  readonly signatures: readonly Finding[];
  readonly chain: Finding | null;
  readonly verified: DKIMVerifyResult | null;
}

async function checkContent(
  job: AuthenticationJob,
  content: Content,
  ask: Ask,
  ended: () => void,
): Promise<SignedFound> {
  const { settings, reversePath } = job;
  const arriving = content[Symbol.asyncIterator]();
  const { header, isTooLong, chunks } = await readHeader(arriving, MAX_HEADER_BYTES);
  const problem = isTooLong ? `header of more than ${MAX_HEADER_BYTES} bytes, not looked at` : tooLarge(header);
  if (problem !== null) return unreadable(problem);
  if (settings.checks.includes('DMARC')) void askAhead(header, reversePath, ask);
  const signatures = header.match(SIGNATURE)?.length ?? 0;
  const tooMany = signatures > MAX_SIGNATURES;
  const whole = (async function* (): AsyncGenerator<Buffer> {
    if (tooMany) {
      yield Buffer.from(withFewerSignatures(header), 'latin1');
      yield Buffer.concat(chunks).subarray(header.length - BEFORE_HEADER);
    } else yield* chunks;
    chunks.length = 0;
    for (let next = await arriving.next(); next.done !== true; next = await arriving.next()) yield next.value;
    ended();
  })();
  const verified = await verify(Readable.from(whole, { objectMode: false }), ask);
  if (typeof verified === 'string') return unreadable(verified);
  const findings = verified.results.map(({ status, info }) => finding('DKIM', status.result, info));
  if (!tooMany) return { signatures: findings, chain: await checkArc(job, verified, ask), verified };
  findings.push(finding('DKIM', 'policy', `dkim=policy (${signatures} signatures, ${MAX_SIGNATURES} looked at)`));
  // A chain usually signs the signatures, and not all are there any more.
  const chain = finding('ARC', 'policy', `arc=policy (${signatures} DKIM signatures, not looked at)`);
  return { signatures: findings, chain, verified };
}

/**
 * RFC 8617 5.2. What a name server did not answer is not known. The RFC knows no word for that and makes it a failure (5.2.1), which the next set would state for good.
 * Sealers write what they like about SPF and DKIM: who wants that finds it in the chain, and whom to believe by the domain of the last seal.
 */
async function checkArc({ settings, address }: AuthenticationJob, verified: DKIMVerifyResult, ask: Ask) {
  if (!settings.checks.includes('ARC') || verified.arc === undefined) return null;
  const last = verified.arc.lastEntry;
  let isOpen = last?.messageSignature?.status.result === 'temperror';
  const resolver: Ask = (name, type) =>
    ask(name, type).catch((error: unknown) => {
      isOpen ||= isTemporary(error);
      throw error;
    });
  const { status } = await arc({ ...verified.arc, chain: verified.arc.chain || [] }, { resolver, strict: true });
  const result = status.result === 'fail' && isOpen ? 'temperror' : status.result;
  const sealer = String(last?.['arc-seal']?.parsed?.d?.value ?? '');
  const comment = (result === 'pass' ? `i=${last?.i} sealed by ${sealer}` : (status.comment ?? ''))
    .replace(/[^\x20-\x7e]|[()\\]/g, '_')
    .slice(0, MAX_COMMENT);
  const shown = comment === '' ? '' : ` (${comment})`;
  const from = isIPv6(address) ? `"${address}"` : address;
  return finding('ARC', result, `arc=${result}${shown} smtp.remote-ip=${from}`);
}

/** RFC 8601 2.7.1: neutral is what could not be processed. Of a chain nobody knows then. */
const unreadable = (problem: string): SignedFound => ({
  signatures: [finding('DKIM', 'neutral', `dkim=neutral (${problem})`)],
  chain: finding('ARC', 'policy', `arc=policy (${problem})`),
  verified: null,
});

function tooLarge(header: string): string | null {
  const lines = header.split('\r\n').length;
  if (lines > MAX_HEADER_LINES) return `header of ${lines} lines, not looked at`;
  const authors = (header.match(AUTHORS) ?? []).reduce((sum, { length }) => sum + length, 0);
  return authors > MAX_AUTHORS_LENGTH ? `From of ${authors} characters, not looked at` : null;
}

/** Anybody may write what the library does not expect: that is no result for SPF. */
async function verify(message: Readable, ask: Ask): Promise<DKIMVerifyResult | string> {
  try {
    return await dkimVerify(message, { resolver: ask, strict: true });
  } catch {
    return 'the message could not be read';
  }
}

/**
 * What DMARC will want to know, while the body comes and others are asked: a domain that does not answer for SPF or a key must not use up the time of its policy. Only the answers count,
 * and `ask` keeps them; a From field that is read in another way here than later costs a question.
 */
async function askAhead(header: string, reversePath: string, ask: Ask): Promise<void> {
  const [field] = FROM.exec(header) ?? [];
  if (field === undefined) return;
  try {
    const { headerFrom, fromFields } = await dkimVerify(Buffer.from(`${field}\r\n\r\n`, 'latin1'));
    const spfDomains = [withAsciiDomain(reversePath).slice(reversePath.lastIndexOf('@') + 1)];
    await evaluateDmarc({ headerFrom, fromFields, spfDomains, resolver: ask, strict: true });
  } catch {
    // It will be asked again, by whom it concerns.
  }
}

/** What `readHeader` puts before it. */
const BEFORE_HEADER = 2;

/** Those behind the first are no signatures any more; nobody but the verifier sees this. */
function withFewerSignatures(header: string): string {
  let count = 0;
  const fewer = header.replace(SIGNATURE, (name) => (++count > MAX_SIGNATURES ? 'X-Excess-Signature' : name));
  return fewer.slice(BEFORE_HEADER);
}

async function checkDmarc(
  { finding: sender, domain }: SenderFound,
  { verified }: SignedFound,
  ask: Ask,
): Promise<Finding> {
  if (verified === null) return finding('DMARC', 'permerror', 'dmarc=permerror');
  const { headerFrom, fromFields } = verified;
  /** With those identifiers that have one of these results. */
  const evaluate = (counts: readonly string[]) =>
    evaluateDmarc({
      ...{ headerFrom, fromFields, resolver: ask, strict: true },
      spfDomains: counts.includes(sender.result) ? [domain] : [],
      dkimDomains: verified.results.flatMap((one) => identifierOf(one, counts)),
    });
  const { response, reason } = await evaluate(['pass']);
  if (response === false)
    return finding('DMARC', 'permerror', `dmarc=permerror (${(reason ?? '').replaceAll('-', ' ')})`);
  if (response.status.result !== 'fail') return finding('DMARC', response.status.result, response.info);
  // It fails only if it does so whatever the name server would have said. Somebody else's identifier does not count: it could not align.
  const atBest = await evaluate(['pass', 'temperror']);
  const isOpen = atBest.response !== false && atBest.response.status.result !== 'fail';
  return isOpen
    ? finding('DMARC', 'temperror', response.info.replace(/^dmarc=fail/, 'dmarc=temperror'))
    : finding('DMARC', 'fail', response.info);
}

function identifierOf({ signingDomain, status }: DKIMResult, counts: readonly string[]) {
  if (signingDomain === undefined || !counts.includes(status.result)) return [];
  return [{ domain: signingDomain, ...(status.underSized === undefined ? {} : { underSized: status.underSized }) }];
}

/** RFC 8616 4. */
function withAsciiDomain(address: string): string {
  const at = address.lastIndexOf('@') + 1;
  return address.slice(0, at) + (domainToASCII(address.slice(at)) || address.slice(at));
}

/** What the library has made printable may still be UTF-8, and the field goes to servers without SMTPUTF8 as well. */
const finding = (check: Check, result: string, info: string): Finding => ({
  check,
  result,
  text: info.replace(/[^\x20-\x7e]/g, '_'),
});
