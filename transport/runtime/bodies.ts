/**
 * Bodies in motion: streams from front ends and owners into the queue database, and from there to candidates. Owns: the numbers the core knows
 * streams by, the writer behind each, credit towards the sender (it depends on the local disk only, protocol.md 28), and the pumps.
 */
import type { CopyId } from '../../common/message.ts';
import type { End, Refuse, Result } from '../../common/peer/messages.ts';
import type { IncomingStream, PeerSession } from '../../common/peer/session-api.ts';
import { reply } from '../../common/smtp/replies.ts';
import type { CoreEvent, EarlyEffect } from '../core/events.ts';
import type { BodyWriter, QueueDatabase } from '../store/database.ts';
import { BodyPump, type BodySource } from './body-pump.ts';

/** Credit per stream: what a sender may have under way while our disk is busy. */
const CREDIT_BYTES = 262_144;
const MAX_SOURCES = 1_000;

interface Inbound {
  readonly id: CopyId;
  /** Null for a body we make ourselves (a DSN). */
  readonly stream: IncomingStream | null;
  readonly kind: 'intake' | 'shadow';
  writer: BodyWriter | null;
  /** `waiting`: its END was heard, and what is left of it waits for room. `ended`: the core decides about it. */
  stage: 'open' | 'waiting' | 'ended';
}

interface Candidate {
  readonly pump: BodyPump;
  readonly drop: (reason: string) => void;
}

export interface BodiesHandlers {
  event(event: CoreEvent): void;
  maxMessageBytes(): number;
  /** A stored body could not be read: its copy is damaged. */
  damaged(id: CopyId, error: unknown): void;
}

/** Nothing of it was handed to the log as a copy: a plain refusal, also of who has sent its END (protocol.md 5). */
function turnAway({ id, stream, stage }: Inbound, refuse: Refuse): void {
  if (stream === null || stream.closed) return;
  if (stage !== 'waiting') return stream.refuse(refuse);
  stream.result({ id, epoch: stream.open.epoch, outcome: 'refused', digest: null, reply: refuse.reply });
}

export class Bodies {
  readonly #database: QueueDatabase;
  readonly #handlers: BodiesHandlers;
  readonly #inbound = new Map<number, Inbound>();
  /** Writer of a body that candidates may still be fed from. */
  readonly #live = new Map<CopyId, BodyWriter>();
  /** Reports made here: their COMMIT may not be readable yet when the candidate is ready for them. */
  readonly #own = new Map<CopyId, BodyWriter>();
  readonly #candidates = new Map<CopyId, Map<number, Candidate>>();
  readonly #sources = new Map<string, string>();
  #next = 0;

  constructor(database: QueueDatabase, handlers: BodiesHandlers) {
    this.#database = database;
    this.#handlers = handlers;
  }

  /** Bytes of bodies on their way in that no commit has named yet. */
  get openBytes(): number {
    let bytes = 0;
    for (const { writer } of this.#inbound.values()) bytes += writer?.sizeBytes ?? 0;
    return bytes;
  }

  get openIntakes(): number {
    let count = 0;
    for (const inbound of this.#inbound.values()) if (inbound.kind === 'intake') count += 1;
    return count;
  }

  /** Gives an incoming stream its number; the core answers with AcceptStream or RefuseStream. */
  register(stream: IncomingStream): number {
    this.#next += 1;
    this.#inbound.set(this.#next, {
      id: stream.open.id,
      stream,
      kind: stream.open.kind === 'intake' ? 'intake' : 'shadow',
      writer: null,
      stage: 'open',
    });
    return this.#next;
  }

  /** A body made here, already complete. */
  async registerOwn(
    id: CopyId,
    body: Buffer,
  ): Promise<{ readonly number: number; readonly digest: string; readonly sizeBytes: number }> {
    const writer = this.#database.beginBody(id, { mayUseReserve: true });
    await writer.append(body);
    this.#next += 1;
    this.#inbound.set(this.#next, { id, stream: null, kind: 'intake', writer, stage: 'ended' });
    this.#own.set(id, writer);
    return { number: this.#next, digest: writer.digest(), sizeBytes: writer.sizeBytes };
  }

  /** The body of another copy here, written again under a new id; waits while there is no room. Rejects when it cannot be read. */
  async copyOwn(
    id: CopyId,
    from: CopyId,
  ): Promise<{ readonly number: number; readonly digest: string; readonly sizeBytes: number }> {
    const writer = this.#database.beginBody(id);
    try {
      for await (const chunk of this.#database.readBody(from)) await writer.append(chunk);
    } catch (error) {
      writer.discard();
      throw error;
    }
    this.#next += 1;
    this.#inbound.set(this.#next, { id, stream: null, kind: 'intake', writer, stage: 'ended' });
    this.#own.set(id, writer);
    return { number: this.#next, digest: writer.digest(), sizeBytes: writer.sizeBytes };
  }

  writerOf(number: number): BodyWriter {
    const writer = this.#inbound.get(number)?.writer;
    if (writer === null || writer === undefined) throw new Error(`stream ${number} has no body`);
    return writer;
  }

  accept(number: number): void {
    const inbound = this.#inbound.get(number);
    if (inbound?.stream === null || inbound === undefined) return;
    const { id, stream, kind } = inbound;
    const refuse = (why: Refuse): void => {
      lost();
      turnAway(inbound, why);
    };
    const onNoRoom = (): void => {
      if (inbound.writer !== null && inbound.stage !== 'ended')
        refuse({ reply: reply('backPressure', { resource: 'disk' }), tryOther: true });
    };
    const writer = this.#database.beginBody(id, { onNoRoom });
    inbound.writer = writer;
    if (kind === 'intake') this.#live.set(id, writer);
    const maxMessageBytes = this.#handlers.maxMessageBytes();
    const lost = (): void =>
      this.#handlers.event(
        kind === 'intake' ? { kind: 'IntakeLost', stream: number } : { kind: 'ShadowLost', stream: number },
      );
    stream.accept(
      { credit: CREDIT_BYTES, maxMessageBytes },
      {
        onChunk: (bytes) => {
          if (inbound.writer === null) return;
          if (writer.sizeBytes + bytes.length > maxMessageBytes) {
            refuse({ reply: reply('messageTooBig', { limit: maxMessageBytes }), tryOther: false });
            return;
          }
          void writer.append(bytes).then(() => {
            if (!stream.closed) stream.grant(bytes.length);
          });
          for (const candidate of this.#candidates.get(id)?.values() ?? []) candidate.pump.offer(bytes);
        },
        onEnd: (end) => this.#ended(number, inbound, end, lost),
        onDrop: lost,
        onLost: lost,
      },
    );
  }

  #ended(number: number, inbound: Inbound, end: End, lost: () => void): void {
    const { writer, stream } = inbound;
    if (writer === null || stream === null) return;
    const room = writer.untilRoom();
    inbound.stage = room === null ? 'ended' : 'waiting';
    if (room !== null) return void room.then(() => this.#ended(number, inbound, end, lost));
    const digest = writer.digest();
    if (digest !== end.digest || writer.sizeBytes !== end.sizeBytes) {
      // No final record was ever handed to the log: a plain refusal (protocol.md 5).
      lost();
      stream.result({
        id: inbound.id,
        epoch: stream.open.epoch,
        outcome: 'refused',
        digest,
        reply: reply('localError'),
      });
      return;
    }
    this.#handlers.event({
      kind: inbound.kind === 'intake' ? 'IntakeEnded' : 'ShadowEnded',
      stream: number,
      digest,
      sizeBytes: end.sizeBytes,
      events: end.events.map((event) => ({ ...event, source: this.#known(event.source) })),
    });
  }

  /** One string for each name: decoded anew with every event of every message they would fill the memory. */
  #known(source: string): string {
    const known = this.#sources.get(source);
    if (known !== undefined) return known;
    if (this.#sources.size >= MAX_SOURCES) this.#sources.clear();
    this.#sources.set(source, source);
    return source;
  }

  refuse(number: number, refuse: Refuse): void {
    const inbound = this.#inbound.get(number);
    if (inbound !== undefined) turnAway(inbound, refuse);
    this.#inbound.delete(number);
  }

  answer(number: number, result: Result): void {
    const inbound = this.#inbound.get(number);
    if (inbound?.stream !== null && inbound !== undefined && !inbound.stream.closed) inbound.stream.result(result);
    this.#inbound.delete(number);
  }

  discard(number: number): void {
    const inbound = this.#inbound.get(number);
    if (inbound === undefined) return;
    // A refused second stream of the same id must not take the body of the first.
    if (inbound.writer !== null && this.#live.get(inbound.id) === inbound.writer) this.#live.delete(inbound.id);
    inbound.writer?.discard();
    inbound.writer = null;
    if (inbound.stream === null || inbound.stream.closed) this.#inbound.delete(number);
  }

  /** Forgets what only a search for a shadow needed. */
  settled(isPlacing: (id: CopyId) => boolean): void {
    for (const id of this.#live.keys()) if (!isPlacing(id)) this.#live.delete(id);
    for (const id of this.#own.keys()) if (!isPlacing(id)) this.#own.delete(id);
    for (const [number, inbound] of this.#inbound)
      if ((inbound.stream === null || inbound.stream.closed) && !isPlacing(inbound.id)) this.#inbound.delete(number);
    for (const [id, candidates] of this.#candidates) {
      if (isPlacing(id)) continue;
      for (const candidate of candidates.values()) if (!candidate.pump.ended) candidate.drop('search over');
      this.#candidates.delete(id);
    }
  }

  openCandidate(session: PeerSession | null, effect: Extract<EarlyEffect, { readonly kind: 'OpenCandidate' }>): void {
    const { id, attempt } = effect;
    if (session === null) {
      this.#handlers.event({ kind: 'CandidateLost', id, attempt });
      return;
    }
    const source = effect.purpose === 'shadow' ? this.#live.get(id) : this.#own.get(id);
    const from: BodySource = source ?? storedBody(this.#database, id, effect.state.sizeBytes);
    // A body that was given up says nothing about that of a later try of the same message: its place may be free by now (seed 184 under a dose).
    const isOfNow = (): boolean =>
      source === undefined || source === this.#live.get(id) || source === this.#own.get(id);
    const stream = session.openStream(
      { id, epoch: effect.state.epoch, kind: effect.purpose, envelope: effect.envelope, state: effect.state },
      {
        onOpenOk: () => {
          pump.pump();
          this.#handlers.event({ kind: 'CandidateOpened', id, attempt });
        },
        onCredit: () => pump.pump(),
        onRefuse: (refuse) => {
          this.#forget(id, attempt);
          const held = refuse.held === true;
          const heldOtherwise = refuse.heldOtherwise === true;
          const { member } = effect;
          const refusal = refuse.reply;
          this.#handlers.event({ kind: 'CandidateRefused', member, id, attempt, held, heldOtherwise, refusal });
        },
        onResult: (result) => {
          this.#forget(id, attempt);
          this.#handlers.event({ kind: 'CandidateResult', member: effect.member, id, attempt, result });
        },
        onLost: () => {
          this.#forget(id, attempt);
          this.#handlers.event({ kind: 'CandidateLost', id, attempt });
        },
      },
    );
    const pump = new BodyPump(stream, from, (error) => {
      // END waits behind the body, so it has not left: the candidate cannot hold the copy.
      stream.drop('body unreadable');
      this.#forget(id, attempt);
      this.#handlers.event({ kind: 'CandidateRefused', member: effect.member, id, attempt, held: false });
      if (isOfNow()) this.#handlers.damaged(id, error);
    });
    const candidates = this.#candidates.get(id) ?? new Map<number, Candidate>();
    candidates.set(attempt, { pump, drop: (reason) => stream.drop(reason) });
    this.#candidates.set(id, candidates);
  }

  #forget(id: CopyId, attempt: number): void {
    const candidates = this.#candidates.get(id);
    candidates?.get(attempt)?.pump.stop();
    candidates?.delete(attempt);
    if (candidates?.size === 0) this.#candidates.delete(id);
  }

  endCandidate(id: CopyId, attempt: number, end: End): void {
    this.#candidates.get(id)?.get(attempt)?.pump.end(end);
  }

  /** After END nothing can be taken back: whoever is given up then may still answer (seed 5194 under a dose). */
  dropCandidate(id: CopyId, attempt: number, reason: string): void {
    const candidate = this.#candidates.get(id)?.get(attempt);
    if (candidate?.pump.ended === false) candidate.drop(reason);
    this.#forget(id, attempt);
  }
}

/** A body in the log, to be read once from its beginning. */
export function storedBody(database: QueueDatabase, id: CopyId, sizeBytes: number): BodySource {
  const iterator = database.readBody(id)[Symbol.asyncIterator]();
  let rest: Buffer = Buffer.alloc(0);
  return {
    sizeBytes,
    read: async (_offset, maxBytes) => {
      if (rest.length === 0) {
        const next = await iterator.next();
        rest = next.done === true ? Buffer.alloc(0) : next.value;
      }
      const bytes = rest.subarray(0, maxBytes);
      rest = rest.subarray(bytes.length);
      return bytes;
    },
  };
}
