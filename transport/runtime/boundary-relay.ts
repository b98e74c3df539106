/**
 * The hop to another boundary (semantics.md D3): a message is brought to one of its transports by the intake stream, as a front end would, and has two copies
 * there before it counts as relayed here. Owns: the id and the tries under which it is offered, and who is asked. Promise: as the delivery port
 * (`delivery-api.ts`): one result for each recipient, `relayed` only when two copies are durable over there or policy there took it with one. What nobody answered
 * is asked about (RESOLVE), never guessed. Every offer of one message for the same recipients to one boundary has the same id, whoever makes it, so whatever is
 * offered twice - a retry, a takeover, by way of another stop - is one copy there (protocol.md 7); a later offer is a higher try. Where nobody can be reached at the
 * next stop it waits at the one before (Exchange: queueing at the point of failure).
 */
import type { MemberConfig, TopologyDocument } from '../../common/config.ts';
import type { CopyId, Envelope, Reply } from '../../common/message.ts';
import type { Refuse, Resolved, Result, TrackingEvent } from '../../common/peer/messages.ts';
import type { OutgoingStream, PeerSession } from '../../common/peer/session-api.ts';
import { randomFraction } from '../../common/platform/random.ts';
import { formatReply } from '../../common/smtp/client.ts';
import { PARENT } from '../../common/tracked-events.ts';
import { CROSSED } from '../core/copy.ts';
import type { BoundaryStop, Route } from '../core/events.ts';
import type { CopyFacts } from '../store/database.ts';
import { BodyPump, type BodySource } from './body-pump.ts';
import type { RecipientResult } from './delivery-api.ts';
import type { TransportDeps } from './deps.ts';
import { RelaySessions } from './relay-sessions.ts';

const OPEN_TIMEOUT_MS = 10_000;
/** protocol.md 5: above the cap within which a transport resolves what it is in doubt about (45 s). */
const RESULT_TIMEOUT_MS = 55_000;
const RESOLVE_MS = 5_000;
const MAX_EVENTS = 64;
/** As for a front end (picker.ts): an open stream costs more than a queued message. */
const STREAM_WEIGHT = 8;

export interface RelayRequest {
  readonly facts: CopyFacts;
  readonly deliveryId: CopyId;
  /** Another owner, or another life of this one, may have offered it before. */
  readonly mayBeRepeat: boolean;
  readonly route: Extract<Route, { readonly kind: 'boundary' }>;
  readonly recipients: readonly number[];
  readonly mayBegin: () => boolean;
}

export interface RelayPorts {
  readonly deps: TransportDeps;
  readonly document: () => TopologyDocument;
  /** Elapsed time that all members share more or less, and that restarts do not take back (semantics.md S16). */
  readonly trustedMs: () => number;
  readonly hashId: (text: string) => CopyId;
  readonly bodyOf: (facts: CopyFacts) => BodySource;
  readonly damaged: (id: CopyId, error: unknown) => void;
}

/** What one offer came to. */
type Outcome =
  | { readonly kind: 'relayed'; readonly reply: string }
  | { readonly kind: 'withheld' }
  | { readonly kind: 'tooLarge'; readonly reply: Reply }
  /** Another member may take it. `isAway`: this one cannot be reached. */
  | { readonly kind: 'next'; readonly why: string; readonly isAway?: boolean }
  /** Not here and not now: nobody else is asked. */
  | { readonly kind: 'later'; readonly why: string }
  | { readonly kind: 'unknown'; readonly why: string };

/** What a stream ended with, before anybody was asked. */
type Said =
  | { readonly kind: 'refuse'; readonly refuse: Refuse }
  | { readonly kind: 'result'; readonly result: Result }
  | { readonly kind: 'lost'; readonly why: string; readonly hasEnded: boolean };

interface Offered {
  readonly deliveryId: CopyId;
  /** In order. */
  readonly addresses: readonly string[];
  /** The highest try whose END may have left. */
  through: number;
  /** Who was sent the end of which try, and has not said what became of it. */
  asked: { readonly member: string; readonly through: number } | null;
}

export class BoundaryRelay {
  readonly #ports: RelayPorts;
  readonly #sessions: RelaySessions;
  /** Only of what is on the way: forgotten with its result, or with the process, after which tries begin above. */
  readonly #offered = new Map<CopyId, Offered>();
  readonly #underWay = new Set<Promise<unknown>>();
  #offers = 0;

  constructor(ports: RelayPorts) {
    this.#ports = ports;
    this.#sessions = new RelaySessions(ports.deps, ports.document);
  }

  start(request: RelayRequest, done: (results: readonly RecipientResult[]) => void): void {
    const part = async (recipients: readonly number[]): Promise<readonly RecipientResult[]> => {
      const outcome = await this.#relay({ ...request, recipients });
      return recipients.map((index) => resultOf(index, outcome));
    };
    const work = Promise.all(this.#partsOf(request).map(part))
      .then((results) => done(results.flat().sort((a, b) => a.index - b.index)))
      .finally(() => this.#underWay.delete(work));
    this.#underWay.add(work);
  }

  async stop(): Promise<void> {
    this.#sessions.stop();
    await Promise.allSettled(this.#underWay);
  }

  /** Who was offered together and is unanswered stays together, under that id: with others it would be another message over there, and both might be delivered. */
  #partsOf({ facts, deliveryId, recipients }: RelayRequest): readonly (readonly number[])[] {
    let rest = recipients;
    const parts: (readonly number[])[] = [];
    const isOf = (index: number, addresses: readonly string[]): boolean =>
      addresses.includes(facts.envelope.recipients[index]?.address ?? '');
    for (const one of this.#offered.values()) {
      if (one.asked === null || one.deliveryId !== deliveryId) continue;
      const part = rest.filter((index) => isOf(index, one.addresses));
      if (part.length === 0 || part.length !== one.addresses.length) continue;
      parts.push(part);
      rest = rest.filter((index) => !part.includes(index));
    }
    return rest.length === 0 ? parts : [...parts, rest];
  }

  async #relay(request: RelayRequest): Promise<Outcome> {
    const { route } = request;
    let outcome = await this.#toStop(request, route);
    for (const stop of route.before) {
      if (outcome.kind !== 'next' || outcome.isAway !== true) break;
      const instead = await this.#toStop(request, stop);
      // Why it does not go on is said of where it should go.
      if (instead.kind !== 'next' || instead.isAway !== true) outcome = instead;
    }
    return outcome;
  }

  async #toStop(request: RelayRequest, stop: BoundaryStop): Promise<Outcome> {
    const { facts, deliveryId } = request;
    const { boundary, site } = stop;
    const addresses = request.recipients.map((index) => facts.envelope.recipients[index]?.address ?? '').sort();
    // Within one boundary it has this id already where it comes from.
    const goal = boundary === this.#boundary() ? `${boundary}/${site}` : boundary;
    const id = this.#ports.hashId(`${deliveryId}/to ${goal}/${addresses.join(',')}${this.#variation()}`);
    const offered = this.#offered.get(id) ?? { deliveryId, addresses, through: 0, asked: null };
    this.#offered.set(id, offered);
    const outcome = (await this.#resolved(id, offered)) ?? (await this.#offerInTurn(request, stop, id, offered));
    if (outcome.kind === 'relayed' || outcome.kind === 'tooLarge' || offered.through === 0) this.#offered.delete(id);
    return outcome;
  }

  #boundary(): string {
    const { deps, document } = this.#ports;
    return document().members.find(({ name }) => name === deps.name)?.boundary ?? '';
  }

  /** Of a known-wrong variant: each offer is another message. */
  #variation(): string {
    if (this.#ports.deps.mutants?.has('crossing-id-of-each-offer') !== true) return '';
    this.#offers += 1;
    return `/${this.#offers}`;
  }

  /** An earlier end is unanswered: asked about first. Null: it is to be offered. */
  async #resolved(id: CopyId, offered: Offered): Promise<Outcome | null> {
    const { asked } = offered;
    const member = this.#ports.document().members.find(({ name }) => name === asked?.member);
    if (asked === null || member === undefined) return null;
    const resolve = { id, through: asked.through, deadlineMs: RESOLVE_MS };
    const told = await this.#sessions.with(member, async (reached) =>
      typeof reached === 'string' ? null : this.#sessions.resolve(reached, resolve),
    );
    // Who cannot be asked may have it: a higher try finds it there, or supersedes it (protocol.md 7).
    return told === null ? null : this.#answered(told, member.name, offered);
  }

  /** Null: nobody has it (`asked` is forgotten then), or that is not decided. Only what has its copies over there counts (simulator seed 1019 with links). */
  #answered({ answer }: Resolved, member: string, offered: Offered): Outcome | null {
    switch (answer) {
      case 'protected':
      case 'unprotected':
      case 'owned':
      case 'final':
        return { kind: 'relayed', reply: `250 2.0.0 ${answer} at ${member}` };
      case 'stored':
        // Alone it is not two copies yet; its owner or its successor will say.
        return { kind: 'later', why: `451 4.4.0 ${member} holds it as a shadow` };
      case 'aborted':
        offered.asked = null;
        return null;
      case 'open':
      case 'unknown':
        return null;
    }
  }

  async #offerInTurn(request: RelayRequest, stop: BoundaryStop, id: CopyId, offered: Offered): Promise<Outcome> {
    let why = `451 4.4.1 ${stop.boundary} has no transport that can be asked`;
    // What somebody may have taken is for that boundary to sort out, not for another.
    let isAway = offered.asked === null;
    for (const member of this.#inTurn(stop)) {
      const outcome = await this.#sessions.with(member, async (reached): Promise<Outcome> => {
        if (typeof reached === 'string')
          return { kind: 'next', why: `451 4.4.1 ${member.name}: ${reached}`, isAway: true };
        if (!request.mayBegin()) return { kind: 'withheld' };
        return this.#offer(reached, request, id, offered);
      });
      if (outcome.kind !== 'next') return outcome;
      why = outcome.why;
      isAway &&= outcome.isAway === true;
    }
    return { kind: 'next', why, isAway };
  }

  /** Those of the site first, of equals who has least to do, by what it last said (picker.ts). */
  #inTurn({ site, members: names }: BoundaryStop): readonly MemberConfig[] {
    const { members } = this.#ports.document();
    const able = names.flatMap((name) => members.find((one) => one.name === name && one.state === 'active') ?? []);
    const first = Math.floor(randomFraction(this.#ports.deps.random) * able.length);
    const rank = (member: MemberConfig): number => {
      const { load } = this.#sessions.loadOf(member.name);
      const tired = load === null ? 0 : !load.accepting || load.backPressure === 'High' ? 4 : 0;
      return (member.site === site ? 0 : 2) + tired + (load?.backPressure === 'Medium' ? 4 : 0);
    };
    const weight = ({ name }: MemberConfig): number => {
      const { load, users } = this.#sessions.loadOf(name);
      return (load?.queued ?? 0) + STREAM_WEIGHT * Math.max(load?.intake ?? 0, users);
    };
    return [...able.slice(first), ...able.slice(0, first)].sort((a, b) => rank(a) - rank(b) || weight(a) - weight(b));
  }

  async #offer(session: PeerSession, request: RelayRequest, id: CopyId, offered: Offered): Promise<Outcome> {
    const { name } = session.remote;
    const through = this.#nextTry(request, offered);
    const said = await this.#send(session, request, id, through, () => {
      offered.through = through;
      offered.asked = { member: name, through };
    });
    if (said.kind === 'refuse' || (said.kind === 'lost' && !said.hasEnded)) offered.asked = null;
    if (said.kind === 'refuse') offered.through = Math.max(offered.through, said.refuse.abortedThrough ?? 0);
    if (said.kind === 'refuse') return refusedBy(name, said.refuse);
    if (said.kind === 'lost' && !said.hasEnded) return { kind: 'next', why: `451 4.4.2 ${name}: ${said.why}` };
    if (this.#ports.deps.mutants?.has('crossing-unconfirmed') === true)
      return { kind: 'relayed', reply: `250 2.0.0 sent to ${name}` };
    if (said.kind === 'result') {
      const { outcome, reply } = said.result;
      if (outcome === 'protected' || outcome === 'unprotected')
        return { kind: 'relayed', reply: `250 2.0.0 ${outcome} at ${name}` };
      if (outcome === 'refused') {
        offered.asked = null;
        return { kind: 'later', why: reply === null ? `451 4.3.0 refused by ${name}` : formatReply(reply) };
      }
    }
    const told = session.closed ? null : await this.#sessions.resolve(session, { id, through, deadlineMs: RESOLVE_MS });
    const answer = told === null ? null : this.#answered(told, name, offered);
    return answer ?? { kind: 'unknown', why: `${name} did not say what became of it` };
  }

  /**
   * It has to grow over retries, restarts and takeovers without a write of its own: time does. A clock that is behind costs time, nothing else - what is refused
   * for a try too low says for which. Who cannot have been offered it before offers the first: nobody over there need be asked about it.
   */
  #nextTry({ mayBeRepeat }: RelayRequest, { through }: Offered): number {
    return through === 0 && !mayBeRepeat ? 1 : Math.max(through + 1, this.#ports.trustedMs());
  }

  /** One stream, from OPEN to whatever ends it. `ends` runs right before END may leave. */
  async #send(
    session: PeerSession,
    request: RelayRequest,
    id: CopyId,
    through: number,
    ends: () => void,
  ): Promise<Said> {
    const { clock } = this.#ports.deps;
    const { promise, resolve } = Promise.withResolvers<Said>();
    const { facts } = request;
    const owner = session.hello.database?.identity;
    if (owner === undefined || session.closed) return { kind: 'lost', why: 'connection gone', hasEnded: false };
    let pump: BodyPump | null = null;
    let stream: OutgoingStream | null = null;
    const late = (why: string): void => {
      const hasEnded = pump?.ended === true;
      if (!hasEnded) stream?.drop(why);
      resolve({ kind: 'lost', why, hasEnded });
    };
    let timer = clock.setTimer(OPEN_TIMEOUT_MS, () => late('no answer to OPEN'));
    const envelope = envelopeOf(facts.envelope, request.recipients);
    stream = session.openStream(
      { id, epoch: { try: through, term: 0, owner }, kind: 'intake', envelope, state: null },
      {
        onOpenOk: () => {
          timer.cancel();
          timer = clock.setTimer(RESULT_TIMEOUT_MS, () => late('no answer in time'));
          if (stream === null) return;
          pump = new BodyPump(stream, this.#ports.bodyOf(facts), (error) => {
            this.#ports.damaged(facts.id, error);
            late('body unreadable');
          });
          ends();
          pump.end({ sizeBytes: facts.sizeBytes, digest: facts.digest, events: this.#eventsOf(request) });
        },
        onCredit: () => pump?.pump(),
        onRefuse: (refuse) => resolve({ kind: 'refuse', refuse }),
        onResult: (result) => resolve({ kind: 'result', result }),
        onLost: (why) => resolve({ kind: 'lost', why, hasEnded: pump?.ended === true }),
      },
    );
    const said = await promise;
    timer.cancel();
    (pump as BodyPump | null)?.stop();
    return said;
  }

  /** Where it was goes along: a circle is seen by it, and people see of what it was made. */
  #eventsOf({ facts: { id, events }, deliveryId }: RelayRequest): readonly TrackingEvent[] {
    const { deps } = this.#ports;
    const source = this.#boundary();
    const atMs = deps.clock.wallMs();
    const crossed = events.filter(({ event }) => event === CROSSED);
    const others = events.filter(({ event }) => event !== CROSSED && event !== PARENT).slice(-MAX_EVENTS);
    const parent = { event: PARENT, atMs, source, detail: id };
    return [...others, ...crossed, { event: CROSSED, atMs, source, detail: deliveryId }, parent];
  }
}

/** Only of who goes this way; reports about lists were made where the message came in. */
function envelopeOf({ expanded: _, ...envelope }: Envelope, recipients: readonly number[]): Envelope {
  return { ...envelope, recipients: recipients.flatMap((index) => envelope.recipients[index] ?? []) };
}

function refusedBy(name: string, { reply, tryOther }: Refuse): Outcome {
  if (reply.code >= 500 && reply.enhanced === '5.3.4') return { kind: 'tooLarge', reply };
  const why = `${formatReply(reply)} (${name})`;
  return tryOther ? { kind: 'next', why } : { kind: 'later', why };
}

function resultOf(index: number, outcome: Outcome): RecipientResult {
  switch (outcome.kind) {
    case 'relayed':
      // The envelope went along, so whoever delivers owes the report of success (RFC 3461 5.2.1).
      return { index, kind: 'relayed', reply: outcome.reply, dsnPassedOn: true };
    case 'withheld':
      return { index, kind: 'withheld' };
    case 'tooLarge':
      return { index, kind: 'failed', reply: outcome.reply };
    case 'unknown':
      return { index, kind: 'unknown', reason: outcome.why };
    case 'next':
      return { index, kind: 'deferred', reply: outcome.why, scope: 'host' };
    case 'later':
      return { index, kind: 'deferred', reply: outcome.why, scope: 'message' };
  }
}
