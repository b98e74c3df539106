/**
 * The mail a seed sends. Owns: the ledger of what was sent and answered, what must be true at that very moment (S1, S3, R4), and one transaction that is
 * handed to the message path of a front end directly; in a world with real SMTP clients it is `smtp-mail.ts` that sends.
 */
import { createHash } from 'node:crypto';
import type { CopyId, Envelope } from '../../common/message.ts';
import type { DataAnswer } from '../../common/smtp/edge-api.ts';
import { allFinal } from '../../transport/core/copy.ts';
import type { Incarnation } from './incarnation.ts';
import type { World } from './world.ts';

export interface Sent {
  readonly number: number;
  /** Its recipients are those the front end accepted. */
  envelope: Envelope;
  readonly digest: string;
  readonly sizeBytes: number;
  id: CopyId | null;
  /** `refusedEarly`: before the end of data; `unfinished`: nobody said no, and the end of data was never sent. Neither may be delivered. */
  answer: DataAnswer | { readonly kind: 'refusedEarly' | 'unfinished' | 'clientGone' } | null;
  answeredAtMs: number | null;
  /** Two databases held it when the 250 was said. */
  isProtected: boolean;
  /** The life of the front end that held the session. */
  life: Incarnation | null;
}

export interface SendOptions {
  readonly from?: string;
  readonly leaveAfterEnd?: boolean;
  /** Awaited once half of the body was given to the front end (and after each later chunk). */
  readonly halfway?: () => Promise<void>;
  readonly ended?: () => void;
  /** The client's own retry of this one: the same bytes, a new attempt. */
  readonly again?: Sent;
  /** Ends whoever categorises it. */
  readonly isPoison?: boolean;
  /** What its front end finds out about who sent it, as it travels. */
  readonly results?: readonly string[];
}

export const isAccepted = (sent: Sent): boolean => sent.answer?.kind === 'reply' && sent.answer.reply.code === 250;

/** Another attempt of the same message by its client. */
export const isRetried = (world: World, sent: Sent): boolean =>
  world.sent.some((other) => other !== sent && other.digest === sent.digest);

export const messageIdOf = (number: number): string => `<${number}@sim>`;

/** Into the ledger, before anything of it is sent. */
export function enter(
  world: World,
  frontend: string,
  recipients: readonly string[],
  body: Buffer,
  from: string | undefined,
): Sent {
  const number = world.sent.length;
  const sent: Sent = {
    number,
    envelope: envelopeOf(number, frontend, recipients, world.asksForReports ? 'SUCCESS,FAILURE' : null, from),
    digest: createHash('sha256').update(body).digest('hex'),
    sizeBytes: body.length,
    id: null,
    answer: null,
    answeredAtMs: null,
    isProtected: false,
    life: world.pod(frontend)?.incarnation ?? null,
  };
  world.sent.push(sent);
  return sent;
}

/** The client has heard what became of it. */
export function answered(world: World, sent: Sent, said: DataAnswer): void {
  sent.answer = said;
  sent.answeredAtMs = world.scheduler.nowMs;
  world.trace(
    `message ${sent.number} answered ${said.kind === 'reply' ? `${said.reply.code} ${said.reply.text}` : 'by closing'}`,
  );
  if (said.kind === 'reply' && said.reply.code === 250) checkAccepted(world, sent, said.reply.text);
  if (said.kind === 'reply' && said.reply.code >= 400) checkRefused(world, sent);
}

/** One SMTP transaction through `frontend`; resolves when the client knows its answer or has gone. */
export async function send(
  world: World,
  frontend: string,
  recipients: readonly string[],
  sizeBytes: number,
  options: SendOptions,
): Promise<Sent> {
  const number = world.sent.length;
  const text = options.again?.number ?? number;
  const body = Buffer.alloc(
    sizeBytes,
    `Subject: ${text}\r\nMessage-ID: ${messageIdOf(text)}\r\n\r\n${'x'.repeat(60)}\r\n`,
  );
  const sent = enter(world, frontend, recipients, body, options.again?.envelope.reversePath ?? options.from);
  const { life } = sent;
  const pod = world.pod(frontend);
  if (options.isPoison === true) world.poison.bodies.add(sent.digest);
  if (pod?.proxy == null || life?.alive !== true) {
    sent.answer = { kind: 'clientGone' };
    return sent;
  }
  let wake: (() => void) | null = null;
  const { results } = options;
  const check =
    results === undefined ? null : { write: () => true, end: async () => results, abandon: () => undefined };
  const decision = await pod.proxy.open(
    sent.envelope,
    () => wake?.(),
    [],
    () => check,
  );
  if (decision.kind === 'refuse') {
    world.trace(`message ${number} refused before the body: ${decision.reply.code} ${decision.reply.text}`);
    sent.answer = { kind: 'refusedEarly' };
    return sent;
  }
  world.trace(`message ${number} for ${recipients.join(' ')}: 354`);
  for (let offset = 0; offset < body.length && life.alive; ) {
    const size = Math.min(body.length - offset, world.random.integer(500, 20_000));
    const more = decision.sink.write(body.subarray(offset, offset + size));
    offset += size;
    await new Promise<void>((resolve) => {
      wake = resolve;
      if (more) world.scheduler.schedule(world.random.integer(0, 3), resolve);
    });
    if (offset >= body.length / 2) await options.halfway?.();
  }
  if (!life.alive) return sent;
  const answer = decision.sink.end({ sizeBytes: body.length, rejected: null });
  world.trace(`message ${number} end of data`);
  options.ended?.();
  if (options.leaveAfterEnd === true) {
    decision.sink.abort('client vanished');
    sent.answer = { kind: 'clientGone' };
    return sent;
  }
  const said = await answer;
  if (!life.alive) return sent;
  answered(world, sent, said);
  return sent;
}

/** S3: a refusal after the 354 means that no disk holds a copy that somebody would still deliver. */
function checkRefused(world: World, sent: Sent): void {
  if (isRetried(world, sent)) return;
  // The second of two incarnations has recovered what the first one still decides about.
  for (const { member, stored, volume } of world.view.liveAnywhere(sent.digest))
    if (!volume.isContested)
      world.violate(
        `S3: message ${sent.number} ${stored.facts.id} was refused while ${member} durably held it in ${stored.state.queue}`,
      );
}

/** S1: 250 means two durable copies on two identities (or an accept that policy allows alone), inside one boundary, sites as preferred (R4). */
function checkAccepted(world: World, sent: Sent, text: string): void {
  const id = /[0-9A-HJKMNP-TV-Z]{26}/.exec(text)?.[0] as CopyId | undefined;
  if (id === undefined) return world.violate(`250 without an id for message ${sent.number}`);
  sent.id = id;
  const holders = world.view.holders(id, sent.digest);
  const names = holders.map((holder) => holder.member);
  // One of the two volumes may be destroyed while the answer is on its way.
  const held = world.view.bereft.has(id) ? world.view.everHeld(id, sent.digest) : holders.length;
  // The copy of an earlier try, undecided yet, is no protection of one that was accepted alone.
  sent.isProtected = held >= 2 && holders.every(({ stored }) => stored.state.unprotected === null);
  const { shadowRedundancy } = world.document.policies;
  // Every recipient is served, or has a report that is safe (protocol.md 11): nothing of the copy is needed any more, though it may be in doubt and not yet at rest.
  const isDone = holders.some(({ stored }) => allFinal(stored.state.recipients));
  if (held < (shadowRedundancy.rejectMessageOnShadowFailure ? 2 : 1) && !isDone && !world.view.isFinal(id))
    world.violate(
      `S1: message ${sent.number} ${id} answered 250 with ${holders.length} durable copies (${names.join(', ')})`,
    );
  for (const { member, stored } of holders)
    if (world.boundaryOf(member) !== world.boundaryOf(world.view.memberOf(stored.state.epoch.owner) ?? ''))
      world.violate(`boundary: ${member} holds message ${sent.number} ${id} of an owner in another boundary`);
  world.checkKept();
  const [first] = holders;
  if (world.calm && first !== undefined && holders.length >= 2)
    checkSites(world, sent, names, world.view.memberOf(first.stored.state.epoch.owner));
}

function checkSites(world: World, sent: Sent, names: readonly string[], owner: string | undefined): void {
  const { members, policies } = world.document;
  const { preference } = policies.shadowRedundancy;
  const mine = members.filter((member) => names.includes(member.name));
  const boundaries = new Set(mine.map((member) => member.boundary));
  const sites = new Set(mine.map((member) => member.site)).size;
  const reach = new Set(members.filter((member) => boundaries.has(member.boundary)).map((member) => member.site)).size;
  if (preference !== 'LocalOnly' && reach > 1 && sites === 1)
    world.violate(`R4: message ${sent.number} ${sent.id} has both copies in one site without any fault`);
  // Where the primary is alone in its site, anybody is better than nobody once it was accepted with one copy.
  const site = mine.find((member) => member.name === owner)?.site;
  const isAlone =
    !policies.shadowRedundancy.rejectMessageOnShadowFailure &&
    members.filter((member) => member.site === site && boundaries.has(member.boundary)).length === 1;
  if ((preference === 'LocalOnly' || reach === 1) && sites > 1 && !isAlone)
    world.violate(`R4: message ${sent.number} ${sent.id} left its site although LocalOnly`);
}

const envelopeOf = (
  number: number,
  frontend: string,
  recipients: readonly string[],
  notify: string | null,
  from?: string,
): Envelope => ({
  reversePath: from ?? `sender-${number}@elsewhere.example`,
  recipients: recipients.map((address) => ({ address, ...(notify === null ? {} : { notify }) })),
  body: '8BITMIME',
  smtputf8: false,
  declaredSizeBytes: null,
  client: { address: '127.0.0.1', port: 1, helo: 'sim', protocol: 'ESMTP', tls: null, user: null },
  frontend,
  listener: 'smtp',
  receivedAtMs: 0,
});
