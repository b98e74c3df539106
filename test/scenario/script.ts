/**
 * Several servers as a text: one line, one act or one expectation, over a simulated cluster with the real code (test/sim/world.ts). Owns: the words of the
 * language (README: the files themselves) and who is meant by `primary(m)`, `shadow(m)`, `other(m)`. An expectation waits, with a deadline in simulated time;
 * a failure carries the whole trace. At the end every invariant of the simulator must hold.
 */
import type { QueueOrder } from '../../common/config.ts';
import type { CopyId } from '../../common/message.ts';
import { isSuspended } from '../../transport/core/copy.ts';
import { checkEnd } from '../sim/checks.ts';
import { dsnIdOf } from '../sim/durable-view.ts';
import { publish } from '../sim/orchestrator.ts';
import { scrubbed } from '../sim/scrub-checks.ts';
import { everybodyKnows, heal, settle } from '../sim/seed.ts';
import { simTopology } from '../sim/topology.ts';
import { watch } from '../sim/watch.ts';
import { type Sent, World } from '../sim/world.ts';
import { ClusterActs } from './cluster-acts.ts';

const PATIENCE_MS = 70_000;
/** What a front end finds out about a message that is sent `authenticated`. */
const RESULTS = [
  'mx.sim.example; spf=pass smtp.mailfrom=sim.example; dmarc=pass header.from=sim.example',
  'mx2.sim.example',
];

interface Mail {
  readonly number: number;
  readonly frontend: string;
  /** Lets a held body go on. */
  release: () => void;
}

export class Script {
  readonly lines: string[] = [];
  #world: World | null = null;
  readonly #mails = new Map<string, Mail>();
  readonly #acts = new ClusterActs();
  /** Who was meant by a word at the time of `let`. */
  readonly #names = new Map<string, string>();

  get world(): World {
    if (this.#world === null) throw new Error('the first act must be `cluster`');
    return this.#world;
  }

  async run(text: string): Promise<void> {
    for (const [index, raw] of text.split('\n').entries()) {
      const line = raw.replace(/#.*/, '').trim();
      if (line === '') continue;
      this.lines.push(`          -- ${line}`);
      try {
        await this.#act(line.split(/\s+/));
      } catch (error) {
        throw new Error(`line ${index + 1}: ${line}: ${(error as Error).message}`);
      }
    }
    heal(this.world);
    await settle(this.world);
    await scrubbed(this.world);
    const violations = await checkEnd(this.world, { expiry: false });
    if (violations.length > 0) throw new Error(violations.join('\n'));
  }

  async #act(words: readonly string[]): Promise<void> {
    const [verb = '', ...rest] = words;
    const world = verb === 'cluster' ? null : this.world;
    const [first = '', second = ''] = rest;
    switch (verb) {
      case 'cluster':
        return this.#cluster(rest);
      case 'send':
        return this.#send(rest);
      case 'again': {
        // again NAME FRONTEND OF: the client of OF sends the same bytes once more, as a new attempt
        const of = this.#sent(rest[2] ?? '');
        const to = of.envelope.recipients.map(({ address }) => address);
        this.#mails.set(first, { number: this.world.sent.length, frontend: second, release: () => undefined });
        void this.world.send(second, to, of.sizeBytes, { again: of });
        return;
      }
      case 'wait':
        await world?.scheduler.run(() => false, world.scheduler.nowMs + Number(first));
        return;
      case 'go':
        return this.#mail(first).release();
      case 'kill':
        this.world.calm = false;
        return world?.kill(this.#who(first), second === 'power' ? 'power' : 'process', second === 'silent');
      case 'start':
        return world?.boot(this.#who(first));
      case 'cut':
      case 'heal': {
        const [a, b] = [this.#who(first), this.#who(second)];
        world?.troubled([a, b], PATIENCE_MS);
        return verb === 'cut' ? world?.network.cut(a, b) : world?.network.heal(a, b);
      }
      case 'reset':
        return world?.resetConnections(this.#who(first), this.#who(second));
      case 'slow':
        return world?.disk(this.#who(first))?.setSlow(Number(second));
      case 'down':
        world?.store.down.add(first);
        return;
      case 'up':
        world?.store.down.delete(first);
        return;
      case 'order':
        // order suspend|resume|remove NAME: the program is mended, a person decides
        return world?.poison.order(world, first as 'suspend' | 'resume' | 'remove', this.#id(second) as CopyId);
      case 'redirect':
        // redirect NAME FROM TO
        return this.#redirect(this.#id(first) as CopyId, this.#who(second), this.#who(rest[2] ?? ''));
      case 'queue':
        // queue suspend|resume|retry NEXTHOP
        return this.#orderQueue(first as QueueOrder['action'], second);
      case 'let':
        this.#names.set(first, this.#who(second));
        return;
      case 'expect':
        return this.#expect(rest);
      default:
        if (world === null || !this.#acts.act(world, verb, (word) => this.#who(word), rest))
          throw new Error(`unknown act ${verb}`);
    }
  }

  #redirect(message: CopyId, from: string, to: string): void {
    const order = { id: `redirect-${message}-${to}`, message, action: 'redirect', from, to, by: 'sim' } as const;
    publish(this.world, [{ kind: 'order', orders: [order] }]);
  }

  #orderQueue(action: QueueOrder['action'], queue: string): void {
    publish(this.world, [{ kind: 'queues', orders: [{ id: `${action}-${queue}`, queue, action, by: 'sim' }] }]);
  }

  async #cluster(words: readonly string[]): Promise<void> {
    const options = new Map(words.map((word) => word.split('=') as [string, string]));
    const preference = (options.get('preference') ?? 'PreferRemote') as 'PreferRemote' | 'RemoteOnly' | 'LocalOnly';
    const document = simTopology({
      sites: (options.get('sites') ?? '1+1').split('+').map(Number),
      dag: options.get('dag') !== 'no',
      frontends: Number(options.get('frontends') ?? 1),
      ...(options.has('hubs') ? { hubs: (options.get('hubs') ?? '').split('+').filter(Boolean).map(Number) } : {}),
      ...(options.has('hold') ? { holdTimeMs: Number(options.get('hold')) } : {}),
      policies: {
        preference,
        rejectMessageOnShadowFailure: options.get('reject') !== 'no',
        resubmitTimeSpanMs: Number(options.get('span') ?? 900_000),
      },
    });
    const world = new World({
      seed: Number(options.get('seed') ?? 1),
      document,
      trace: (line) => this.lines.push(line),
    });
    this.#world = world;
    world.store.moody = false;
    world.startAll();
    watch(world);
    await this.#until('the cluster to be up', () => everybodyKnows(world));
  }

  /** send NAME FRONTEND ADDRESS[,ADDRESS] BYTES [held] [leaves] [poison] [authenticated] */
  async #send(words: readonly string[]): Promise<void> {
    const [name = '', frontend = '', to = '', bytes = '', ...flags] = words;
    const { world } = this;
    const number = world.sent.length;
    let release = (): void => undefined;
    let isHalf = false;
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const halfway = flags.includes('held')
      ? async (): Promise<void> => {
          isHalf = true;
          await gate;
        }
      : async (): Promise<void> => undefined;
    this.#mails.set(name, { number, frontend, release });
    world
      .send(frontend, to.split(','), Number(bytes), {
        halfway,
        leaveAfterEnd: flags.includes('leaves'),
        isPoison: flags.includes('poison'),
        ...(flags.includes('authenticated') ? { results: RESULTS } : {}),
      })
      .catch((error: unknown) => world.scheduler.fail(error));
    if (flags.includes('held'))
      await this.#until('half of the body', () => isHalf || world.sent[number]?.answer !== null);
  }

  #mail(name: string): Mail {
    const mail = this.#mails.get(name);
    if (mail === undefined) throw new Error(`no message ${name}`);
    return mail;
  }

  #sent(name: string): Sent {
    const sent = this.world.sent[this.#mail(name).number];
    if (sent === undefined) throw new Error(`message ${name} was not sent`);
    return sent;
  }

  /** The attempt id: from the reply, or from whoever has it. */
  #id(name: string): string | null {
    const sent = this.#sent(name);
    if (sent.id !== null) return sent.id;
    for (const disk of this.world.view.attached())
      for (const stored of [...disk.live.values(), ...disk.resting.values()])
        if (stored.facts.digest === sent.digest) return stored.facts.id;
    for (const pod of this.world.transports)
      for (const intake of pod.server?.core.intakes.values() ?? [])
        if (intake.envelope.reversePath === sent.envelope.reversePath) return intake.id;
    return null;
  }

  #who(word: string): string {
    const match = /^(primary|shadow|other)\((\w+)\)$/.exec(word);
    if (match === null) return this.#names.get(word) ?? word;
    const [, role = '', name = ''] = match;
    const id = this.#id(name);
    const pods = this.world.transports;
    const owner =
      pods.find((pod) =>
        [...(pod.server?.core.copies.values() ?? [])].some(
          (copy) => copy.facts.id === id && copy.state.epoch.owner === pod.server?.core.me,
        ),
      ) ??
      pods.find((pod) => [...(pod.server?.core.intakes.values() ?? [])].some((intake) => intake.id === id)) ??
      pods.find((pod) =>
        [...this.world.view.attached()].some(
          (disk) =>
            disk.member === pod.name &&
            [...disk.resting.values()].some(
              (stored) => stored.facts.id === id && stored.state.queue === 'primarySafetyNet',
            ),
        ),
      );
    const placing = [...(owner?.server?.core.placings.values() ?? [])].find((entry) => entry.id === id);
    const holder =
      placing?.attempts.at(-1)?.member ?? pods.find((pod) => pod !== owner && this.#holds(pod.name, id))?.name;
    const found =
      role === 'primary'
        ? owner?.name
        : role === 'shadow'
          ? holder
          : pods.find((pod) => pod !== owner && pod.name !== holder)?.name;
    if (found === undefined) throw new Error(`nobody is the ${role} of ${name}`);
    return found;
  }

  #holds(member: string, id: string | null): boolean {
    for (const disk of this.world.view.attached())
      if (disk.member === member)
        for (const stored of [...disk.live.values(), ...disk.resting.values()]) if (stored.facts.id === id) return true;
    return false;
  }

  // --- expectations --------------------------------------------------------------------------------------------------

  async #expect(words: readonly string[]): Promise<void> {
    const [name = '', what = '', ...rest] = words;
    const { world } = this;
    const [first = '', second = ''] = rest;
    if (!this.#mails.has(name)) return this.#expectOfMember(this.#who(name), what);
    const sent = this.#sent(name);
    switch (what) {
      case 'answered':
        await this.#until(`an answer to ${name}`, () => sent.answer !== null);
        return this.#same(
          sent.answer?.kind === 'reply' ? String(sent.answer.reply.code) : (sent.answer?.kind ?? 'nothing'),
          first,
        );
      case 'unanswered':
        return this.#same(String(sent.answer === null), 'true');
      case 'seen': {
        // expect m seen ADDRESS TIMES
        const seen = (): number => world.store.seen(first, sent.digest);
        await this.#until(`${first} to see ${name}`, () => seen() >= Number(second));
        return this.#same(String(seen()), second);
      }
      case 'offered': {
        const offered = world.store.offers.filter(
          (offer) => offer.digest === sent.digest && offer.address === first,
        ).length;
        return this.#same(String(offered), second);
      }
      case 'rests': {
        // expect m rests QUEUE TIMES
        const resting = (): number =>
          [...world.view.attached()]
            .flatMap((disk) => [...disk.resting.values()])
            .filter(
              ({ facts, state }) => facts.kind === 'message' && facts.digest === sent.digest && state.queue === first,
            ).length;
        await this.#until(`${name} in ${first}`, () => resting() >= Number(second));
        return this.#same(String(resting()), second);
      }
      case 'authenticated': {
        // expect m authenticated TIMES: so many were offered with what its front end had found out, and none without
        const offered = world.store.offers.filter((offer) => offer.digest === sent.digest);
        const without = offered.filter(({ results }) => JSON.stringify(results) !== JSON.stringify(RESULTS));
        return this.#same(`${offered.length} ${without.length}`, `${first} 0`);
      }
      case 'copies':
        return this.#same(String(world.view.liveAnywhere(sent.digest).length), first);
      case 'protected': {
        await this.#until(`two copies of ${name}`, () => world.view.liveAnywhere(sent.digest).length >= 2);
        return;
      }
      case 'report': {
        const dsn = dsnIdOf((this.#id(name) ?? '') as Parameters<typeof dsnIdOf>[0], Number(first), 'failed');
        const reports = (): number =>
          world.store.offers.filter((offer) => offer.visible && offer.copyId === dsn).length;
        await this.#until(`a report about ${name}`, () => reports() >= Number(second));
        return this.#same(String(reports()), second);
      }
      case 'shadow-knows': {
        const shadow = this.#who(`shadow(${name})`);
        const knows = (): boolean => {
          const copy = [
            ...(world.transports.find((pod) => pod.name === shadow)?.server?.core.copies.values() ?? []),
          ].find((entry) => entry.facts.digest === sent.digest);
          return (
            copy?.state.queue === 'shadow' &&
            copy.state.recipients?.some(
              (recipient) => recipient.address === first && recipient.outcome === 'delivered',
            ) === true
          );
        };
        return this.#until(`the shadow of ${name} to know about ${first}`, knows);
      }
      default:
        return this.#expectOfCluster(name, what, first);
    }
  }

  async #expectOfCluster(name: string, what: string, first: string): Promise<void> {
    const { world } = this;
    const owners = (): string[] =>
      world.view
        .liveAnywhere(this.#sent(name).digest)
        .filter(({ stored }) => stored.state.queue !== 'shadow')
        .map(({ member }) => member);
    switch (what) {
      case 'owned':
        // expect m owned WHO: one owner, and it is this one
        await this.#until(`an owner of ${name}`, () => owners().length === 1);
        return this.#same(owners().join(' '), this.#names.get(first) ?? first);
      case 'moved': {
        // expect m moved WHO: it comes to be owned by this one alone
        const who = this.#names.get(first) ?? first;
        return this.#until(`${name} to be owned by ${who}`, () => owners().join(' ') === who);
      }
      case 'owners':
        await this.#until(`${first} owners of ${name}`, () => owners().length === Number(first));
        return;
      case 'poison': {
        // Once is enough: who holds it may be called its owner before it has looked.
        const { digest } = this.#sent(name);
        return this.#until(`${name} in poison`, () =>
          world.view.liveAnywhere(digest).some(({ stored }) => stored.state.queue === 'poison'),
        );
      }
      case 'suspended': {
        // expect m suspended TIMES: so many durable copies say so
        const { digest } = this.#sent(name);
        return this.#until(`${first} suspended copies of ${name}`, () => {
          const copies = world.view.liveAnywhere(digest).filter(({ stored }) => isSuspended(stored.state));
          return copies.length === Number(first);
        });
      }
      case 'taken-over':
        return this.#until(`${name} to be taken over`, () =>
          world.view.promotions.some((promotion) => promotion.id === this.#id(name)),
        );
      case 'not-taken-over':
        return this.#same(String(world.view.promotions.filter((one) => one.id === this.#id(name)).length), '0');
      case 'resubmitted': {
        const digest = this.#sent(name).digest;
        const made = (): number =>
          [...world.view.resubmissions.values()].filter(({ stored }) => stored.facts.digest === digest).length;
        await this.#until(`${name} to be resubmitted`, () => made() >= Number(first));
        return this.#same(String(made()), first);
      }
      default:
        return this.#expectOfMember(this.#names.get(name) ?? name, what);
    }
  }

  async #expectOfMember(member: string, what: string): Promise<void> {
    const pods = this.world.pods.filter((pod) => pod.name === member);
    switch (what) {
      case 'fenced':
        return this.#until(`${member} to be fenced`, () => pods.some((pod) => pod.setAside.length > 0));
      case 'mended':
        // Damaged by an act before, found and fetched again since.
        return this.#until(`what is damaged on ${member} to be fetched again`, () =>
          pods.some((pod) => pod.server?.core.damaged.size === 0 && this.#acts.isMended(this.world, pod.name)),
        );
      case 'left':
        return this.#until(`${member} to leave`, () => pods.every((pod) => pod.isGone));
      case 'up':
        return this.#until(`${member} to be up`, () => pods.some((pod) => pod.server?.state === 'ready'));
      default:
        throw new Error(`unknown expectation ${what} of ${member}`);
    }
  }

  #same(found: string, wanted: string): void {
    if (found !== wanted) throw new Error(`found ${found}, wanted ${wanted}`);
  }

  async #until(what: string, condition: () => boolean): Promise<void> {
    const { scheduler } = this.world;
    if (!(await scheduler.run(condition, scheduler.nowMs + PATIENCE_MS)))
      throw new Error(`waited ${PATIENCE_MS} ms in vain for ${what}`);
  }
}
