/**
 * Three cores side by side, every frame in the hands of the test: sessions are up or cut, frames wait in order per session, a member can restart or lose its disk.
 * Owns: what a runtime would do with the effects of `step()`, nothing else; no time passes unless the test says so.
 */
import type { CopyId, Identity } from '../../common/message.ts';
import type { ControlFrame } from '../../common/peer/messages.ts';
import type { CoreEvent } from '../../transport/core/events.ts';
import type { StoredCopy } from '../../transport/store/database.ts';
import { CoreBench, copyId, DIGEST, type Effect, factsOf, identityOf, OTHER, PEER, SELF } from './core-bench.ts';

export const NAMES = [SELF, PEER, OTHER] as const;

/** Short, so that absence is reached often. */
export const SPAN_MS = 40_000;

interface Flight {
  readonly from: string;
  readonly to: string;
  readonly what: string;
  readonly arrive: () => void;
}

interface Stream {
  readonly from: string;
  readonly to: string;
  readonly id: CopyId;
  readonly attempt: number;
}

const linkOf = (one: string, other: string): string => [one, other].sort().join('|');

export class Trio {
  readonly benches = new Map<string, CoreBench>();
  readonly identities = new Map<string, Identity>();
  readonly up = new Set<string>();
  flights: Flight[] = [];
  /** By receiver and its number. */
  readonly streams = new Map<string, Stream>();
  /** (copy, member) of every delivery that reached the next hop. */
  readonly delivered: { readonly id: CopyId; readonly member: string }[] = [];
  readonly answers = new Map<CopyId, string>();
  readonly intakes = new Map<string, CopyId>();
  deliversMail = true;
  readonly log: string[] = [];
  #wiped = 0;
  #number = 1_000;

  constructor() {
    for (const name of NAMES) this.#make(name, identityOf(name));
    for (const one of NAMES) for (const other of NAMES) if (one < other) this.connect(one, other);
    this.settle();
  }

  bench(name: string): CoreBench {
    const bench = this.benches.get(name);
    if (bench === undefined) throw new Error(`no member ${name}`);
    return bench;
  }

  #make(name: string, identity: Identity): void {
    const nowMs = this.benches.get(name)?.nowMs;
    const document = [...this.benches.values()][0]?.server.document;
    const bench = new CoreBench({
      members: 3,
      powerCuts: true,
      shape: { policies: { resubmitTimeSpanMs: SPAN_MS } },
      name,
      identity,
      ...(document === undefined ? {} : { document: () => document }),
    });
    if (nowMs !== undefined) bench.nowMs = nowMs;
    this.identities.set(name, identity);
    this.benches.set(name, bench);
    this.pump();
  }

  connect(one: string, other: string): void {
    if (this.up.has(linkOf(one, other))) return;
    this.log.push(`connect ${one} ${other}`);
    this.up.add(linkOf(one, other));
    for (const [me, you] of [
      [one, other],
      [other, one],
    ] as const) {
      const identity = this.bench(you).identity;
      this.bench(me).index.applySmall({
        kind: 'seen',
        seen: { member: you, identity, openCounter: 1, nonce: 'n', syncedSequence: 0 },
      });
      this.bench(me).up(you, identity);
    }
    this.pump();
    this.hear();
  }

  cut(one: string, other: string): void {
    if (!this.up.delete(linkOf(one, other))) return;
    this.log.push(`cut ${one} ${other}`);
    const isOf = (flight: { readonly from: string; readonly to: string }): boolean =>
      linkOf(flight.from, flight.to) === linkOf(one, other);
    this.flights = this.flights.filter((flight) => !isOf(flight));
    for (const [key, stream] of [...this.streams]) {
      if (!isOf(stream)) continue;
      this.streams.delete(key);
      const number = Number(key.slice(key.indexOf('/') + 1));
      this.#event(stream.to, { kind: 'ShadowLost', stream: number });
      this.#event(stream.from, { kind: 'CandidateLost', id: stream.id, attempt: stream.attempt });
    }
    this.#event(one, { kind: 'PeerDown', member: other });
    this.#event(other, { kind: 'PeerDown', member: one });
  }

  isolate(name: string): void {
    for (const other of NAMES) if (other !== name) this.cut(name, other);
  }

  restart(name: string): void {
    this.isolate(name);
    this.log.push(`restart ${name}`);
    const { document } = this.bench(name).server;
    this.bench(name).restart();
    if (document.generation > 1) this.bench(name).event({ kind: 'TopologyChanged', document });
    this.pump();
  }

  wipe(name: string): void {
    this.isolate(name);
    this.#wiped += 1;
    this.log.push(`wipe ${name}`);
    this.#make(name, `${identityOf(name)}${this.#wiped}` as Identity);
  }

  /** CONTACT of everybody to everybody who hears it. */
  hear(): void {
    for (const me of NAMES) {
      const hears = NAMES.filter((you) => you !== me && this.up.has(linkOf(me, you)));
      for (const you of hears) this.bench(you).contact(me, {}, hears);
    }
    this.pump();
  }

  pass(spanMs: number): void {
    for (let left = spanMs; left > 0; left -= 1_000) {
      for (const name of NAMES) this.bench(name).pass(Math.min(left, 1_000));
      this.pump();
      this.hear();
    }
  }

  #event(name: string, event: CoreEvent): void {
    this.bench(name).event(event);
    this.pump();
  }

  /** One frame of the given link arrives, or of the first that has one. */
  step(choose: (count: number) => number = () => 0): boolean {
    const heads = this.flights.filter(
      (flight, at) => this.flights.findIndex((one) => one.from === flight.from && one.to === flight.to) === at,
    );
    const head = heads[choose(heads.length)];
    if (head === undefined) return false;
    this.flights.splice(this.flights.indexOf(head), 1);
    this.log.push(head.what);
    head.arrive();
    this.pump();
    return true;
  }

  settle(most = 10_000): void {
    for (let left = most; left > 0 && this.step(); left--);
    if (this.flights.length > 0) throw new Error(`frames without end: ${this.log.slice(-6).join(', ')}`);
  }

  accept(name: string, id: string): void {
    const stream = this.bench(name).open(id, ['x@far.example']);
    this.intakes.set(`${name}/${stream}`, copyId(id));
    this.pump();
    this.bench(name).end(stream);
    this.pump();
  }

  pump(): void {
    for (let more = true; more; ) {
      more = false;
      for (const [name, bench] of this.benches) {
        const { effects } = bench;
        if (effects.length === 0) continue;
        bench.effects = [];
        more = true;
        for (const effect of effects) this.#effect(name, bench, effect);
      }
    }
  }

  #stored(bench: CoreBench, ids: readonly CopyId[]): ReadonlyMap<CopyId, StoredCopy> {
    return new Map(
      ids.flatMap((id) => {
        const state = bench.resting.get(id);
        return state === undefined ? [] : [[id, { facts: factsOf(id), state }] as const];
      }),
    );
  }

  #send(from: string, to: string, what: string, arrive: () => void): void {
    if (this.up.has(linkOf(from, to))) this.flights.push({ from, to, what: `${from} -> ${to} ${what}`, arrive });
  }

  #effect(name: string, bench: CoreBench, effect: Effect): void {
    switch (effect.kind) {
      case 'Send':
        return this.#send(name, effect.to, effect.frame.kind, () => this.#control(name, effect.to, effect.frame));
      case 'OpenCandidate':
        return this.#openCandidate(name, effect);
      case 'AcceptStream':
      case 'RefuseStream':
        return this.#answerOpen(name, effect);
      case 'EndCandidate':
        return this.#overStream(name, effect, 'END', (to, stream) =>
          this.bench(to).event({ kind: 'ShadowEnded', stream, digest: DIGEST, sizeBytes: 10, events: [] }),
        );
      case 'DropCandidate':
        return this.#overStream(name, effect, 'DROP', (to, stream) =>
          this.bench(to).event({ kind: 'ShadowLost', stream }),
        );
      case 'AnswerStream': {
        const intake = this.intakes.get(`${name}/${effect.stream}`);
        if (intake !== undefined) return void this.answers.set(intake, effect.result.outcome);
        const stream = this.streams.get(`${name}/${effect.stream}`);
        if (stream === undefined) return;
        this.streams.delete(`${name}/${effect.stream}`);
        const { id, attempt, from } = stream;
        return this.#send(name, from, `RESULT ${effect.result.outcome}`, () =>
          this.bench(from).event({ kind: 'CandidateResult', member: name, id, attempt, result: effect.result }),
        );
      }
      case 'ScanSafetyNet':
        return void bench.event({
          kind: 'SafetyNetPage',
          scan: effect.scan,
          copies: [...this.#stored(bench, [...bench.resting.keys()]).values()],
          unreadable: 0,
          done: true,
        });
      case 'ChangeResting':
        if (bench.resting.has(effect.id)) bench.resting.set(effect.id, effect.state);
        return void bench.event({ kind: 'RestingChanged', id: effect.id });
      case 'Deliver': {
        const { requestId, recipients, facts } = effect;
        if (this.deliversMail) this.delivered.push({ id: facts.id, member: name });
        const result = this.deliversMail
          ? { kind: 'relayed' as const, reply: '250' }
          : { kind: 'deferred' as const, reply: '451', host: false };
        return void bench.event({
          kind: 'DeliveryDone',
          requestId,
          results: recipients.map((index) => ({ index, ...result })),
        });
      }
      default:
        return;
    }
  }

  #openCandidate(name: string, effect: Extract<Effect, { readonly kind: 'OpenCandidate' }>): void {
    const { id, attempt, member, purpose, envelope, state } = effect;
    if (!this.up.has(linkOf(name, member))) return void this.bench(name).event({ kind: 'CandidateLost', id, attempt });
    this.#number += 1;
    const stream = this.#number;
    this.streams.set(`${member}/${stream}`, { from: name, to: member, id, attempt });
    this.#send(name, member, `OPEN ${purpose} ${id}`, () => {
      const to = this.bench(member);
      const identity = this.bench(name).identity;
      const stored = this.#stored(to, [id]).get(id) ?? null;
      to.event({
        kind: 'ShadowOpened',
        purpose,
        stream,
        member: name,
        identity,
        openCounter: 1,
        nonce: 'n',
        id,
        envelope,
        state,
        stored,
      });
    });
  }

  #answerOpen(name: string, effect: Extract<Effect, { readonly kind: 'AcceptStream' | 'RefuseStream' }>): void {
    const stream = this.streams.get(`${name}/${effect.stream}`);
    if (stream === undefined) return;
    const { id, attempt, from } = stream;
    if (effect.kind === 'AcceptStream')
      return this.#send(name, from, 'OPEN-OK', () => this.bench(from).event({ kind: 'CandidateOpened', id, attempt }));
    this.streams.delete(`${name}/${effect.stream}`);
    const held = effect.refuse.held === true;
    this.#send(name, from, 'REFUSE', () =>
      this.bench(from).event({ kind: 'CandidateRefused', member: name, id, attempt, held }),
    );
  }

  #overStream(
    name: string,
    { id, attempt }: { readonly id: CopyId; readonly attempt: number },
    what: string,
    arrive: (to: string, stream: number) => void,
  ): void {
    for (const [key, stream] of this.streams)
      if (stream.from === name && stream.id === id && stream.attempt === attempt)
        this.#send(name, stream.to, what, () => arrive(stream.to, Number(key.slice(key.indexOf('/') + 1))));
  }

  #control(from: string, to: string, frame: ControlFrame): void {
    const bench = this.bench(to);
    const member = from;
    switch (frame.kind) {
      case 'RESOLVE': {
        const stored = this.#stored(bench, [frame.resolve.id]).get(frame.resolve.id) ?? null;
        return void bench.event({ kind: 'ResolveAsked', from, role: 'transport', resolve: frame.resolve, stored });
      }
      case 'RESOLVED':
        return void bench.event({ kind: 'ResolveAnswered', member, resolved: frame.resolved });
      case 'LIST': {
        const stored = this.#stored(
          bench,
          frame.list.items.map(({ id }) => id),
        );
        return void bench.event({ kind: 'ListReceived', member, list: frame.list, stored });
      }
      case 'STATE':
        return void bench.event({ kind: 'StateReceived', member, state: frame.state });
      case 'STATE-ACK':
        return void bench.event({ kind: 'StateAcknowledged', member, ack: frame.ack });
      case 'CLAIM': {
        const stored = this.#stored(
          bench,
          frame.claim.items.map(({ id }) => id),
        );
        return void bench.event({ kind: 'ClaimReceived', member, claim: frame.claim, stored });
      }
      case 'GRANT':
        return void bench.event({ kind: 'GrantReceived', member, grant: frame.grant });
      case 'RESIGN':
        return void bench.event({ kind: 'ResignReceived', member, resign: frame.resign });
      case 'RELEASE': {
        const stored = this.#stored(bench, [frame.release.id]).get(frame.release.id) ?? null;
        return void bench.event({ kind: 'ReleaseReceived', member, release: frame.release, stored });
      }
      case 'COVER': {
        const stored = this.#stored(bench, frame.cover.ids);
        return void bench.event({ kind: 'CoverReceived', member, cover: frame.cover, stored });
      }
      case 'COVERED':
        return void bench.event({ kind: 'CoveredReceived', member, covered: frame.covered });
      case 'RELEASE-ACK':
        return void bench.event({ kind: 'ReleaseAcked', member, released: frame.released });
      default:
        return;
    }
  }
}
