/** The held-session machine: a table of histories, and random histories against an oracle of what the transports durably know. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Identity, Reply } from '../../common/message.ts';
import type { ResolvedAnswer, ResultOutcome } from '../../common/peer/messages.ts';
import { heldSession } from '../../frontend/session.ts';
import {
  type HeldAction,
  type HeldEvent,
  type HeldState,
  INITIAL_STATE,
  SESSION_TIMES,
  type TimerName,
} from '../../frontend/session-model.ts';

const NO_TRANSPORT: Reply = { code: 451, enhanced: '4.4.0', text: 'none' };
const LOST: Reply = { code: 451, enhanced: '4.4.0', text: 'lost' };
const ACCEPTED: Reply = { code: 250, enhanced: '2.0.0', text: 'ok' };
const FULL: Reply = { code: 452, enhanced: '4.3.1', text: 'full' };
const TOO_BIG: Reply = { code: 552, enhanced: '5.3.4', text: 'too big' };
const NOT_REDUNDANT: Reply = { code: 451, enhanced: '4.4.0', text: 'not redundant' };
const BARE_LF: Reply = { code: 554, enhanced: '5.6.0', text: 'bare LF' };

const step = heldSession(SESSION_TIMES, { noTransport: NO_TRANSPORT, lost: LOST, accepted: ACCEPTED });
const identityOf = (member: string): Identity => `ID-${member}` as Identity;

/** Words of a history; each is one event. */
const EVENTS: Record<string, HeldEvent> = {
  start: { kind: 'Start' },
  none: { kind: 'NonePicked' },
  overflow: { kind: 'Overflowed' },
  eod: { kind: 'BodyEnded' },
  malformed: { kind: 'BodyRejected', reply: BARE_LF },
  gone: { kind: 'ClientGone', reason: 'reset' },
};

function eventOf(word: string): HeldEvent {
  const known = EVENTS[word];
  if (known !== undefined) return known;
  const [kind = '', a = '', b = ''] = word.split(':');
  const serial = Number(a);
  switch (kind) {
    case 'pick':
      return { kind: 'Picked', member: a, identity: identityOf(a) };
    case 'ok':
      return { kind: 'OpenOk', serial };
    case 'refuse':
      return { kind: 'Refused', serial, refuse: { reply: b === 'other' ? FULL : TOO_BIG, tryOther: b === 'other' } };
    case 'lost':
      return { kind: 'Lost', serial, reason: 'reset' };
    case 'flush':
      return { kind: 'Flushed', serial };
    case 'result':
      return {
        kind: 'Result',
        serial,
        outcome: b as ResultOutcome,
        matches: true,
        reply: b === 'refused' ? NOT_REDUNDANT : null,
      };
    case 'wrong':
      return { kind: 'Result', serial, outcome: b as ResultOutcome, matches: false, reply: null };
    case 'resolved':
      return { kind: 'Resolved', serial, answer: b as ResolvedAnswer, sameIdentity: true, matches: true };
    case 'stranger':
      return { kind: 'Resolved', serial, answer: b as ResolvedAnswer, sameIdentity: false, matches: true };
    case 'timer':
      return { kind: 'TimerFired', timer: a as TimerName };
    default:
      throw new Error(`no such word: ${word}`);
  }
}

function describeAction(action: HeldAction): string {
  switch (action.kind) {
    case 'open':
      return `open ${action.attempt.member} try ${action.attempt.number}`;
    case 'drop':
    case 'end':
      return `${action.kind} ${action.serial}`;
    case 'pump':
      return `${action.replay ? 'replay' : 'pump'} ${action.serial}`;
    case 'resolve':
      return `resolve ${action.attempt.member} through ${action.attempt.number}`;
    case 'refuse':
      return `refuse ${action.reply.code} ${action.reply.text}`;
    case 'answer':
      return action.answer.kind === 'close'
        ? 'close'
        : `answer ${action.answer.reply.code} ${action.answer.reply.text}`;
    case 'pick':
      return `pick -${action.excluded.join(',')}`;
    case 'set-timer':
    case 'clear-timer':
      return '';
    default:
      return action.kind;
  }
}

function actionsOf(history: string): HeldAction[] {
  let state = INITIAL_STATE;
  return history.split(' ').flatMap((word) => {
    const next = step(state, eventOf(word));
    state = next.state;
    return [...next.actions];
  });
}

function run(history: string): { state: HeldState; said: string[] } {
  let state = INITIAL_STATE;
  const said: string[] = [];
  for (const word of history.trim().split(/\s+/)) {
    const next = step(state, eventOf(word));
    state = next.state;
    said.push(...next.actions.map(describeAction).filter((text) => text !== ''));
  }
  return { state, said };
}

const A = 'start pick:a ok:1';
const ENDED = `${A} eod flush:1`;
const SILENT = `${ENDED} lost:1`;

describe('held session, one history each', () => {
  const table: [title: string, history: string, end: string[]][] = [
    ['the usual way', `${ENDED} result:1:protected`, ['end 1', 'answer 250 ok', 'release']],
    ['unprotected by policy is a 250 too', `${ENDED} result:1:unprotected`, ['answer 250 ok', 'release']],
    ['nobody there', 'start none', ['refuse 451 none', 'release']],
    ['refused before the 354, another may: next, same try', 'start pick:a refuse:1:other pick:b', ['open b try 1']],
    ['all refuse: the last reply is relayed', 'start pick:a refuse:1:other none', ['refuse 452 full', 'release']],
    ['refused for good before the 354', 'start pick:a refuse:1:no', ['refuse 552 too big', 'release']],
    ['lost before the 354: next', 'start pick:a lost:1 pick:b', ['open b try 1']],
    ['no answer to OPEN: dropped, next', 'start pick:a timer:open pick:b', ['drop 1', 'pick -a', 'open b try 1']],
    ['lost while streaming: replayed as a higher try', `${A} lost:1 pick:b ok:2`, ['open b try 2', 'replay 2']],
    [
      'lost, body no longer whole: drained, then 451',
      `${A} overflow lost:1 eod`,
      ['discard-body', 'answer 451 lost', 'release'],
    ],
    ['lost, nobody else: drained, then 451', `${A} lost:1 none eod`, ['discard-body', 'answer 451 lost', 'release']],
    ['drained body that is malformed', `${A} overflow lost:1 malformed`, ['answer 554 bare LF', 'release']],
    ['malformed: dropped, END is never sent', `${A} malformed`, ['drop 1', 'answer 554 bare LF', 'release']],
    ['malformed while the next try opens', `${A} lost:1 pick:b malformed`, ['drop 2', 'answer 554 bare LF', 'release']],
    ['refused while streaming for good', `${A} refuse:1:no eod`, ['discard-body', 'answer 552 too big', 'release']],
    ['refused while streaming, another may', `${A} refuse:1:other pick:b ok:2`, ['open b try 2', 'replay 2']],
    ['refusal that crossed the END', `${ENDED} refuse:1:no`, ['answer 552 too big', 'release']],
    ['durably refused', `${ENDED} result:1:refused`, ['answer 451 not redundant', 'release']],
    ['transport cannot know', `${ENDED} result:1:silent`, ['close', 'release']],
    ['transport answers as shadow', `${ENDED} result:1:stored`, ['close', 'release']],
    ['250 for another digest or try is not believed', `${ENDED} wrong:1:protected`, ['close', 'release']],
    ['client gone while streaming', `${A} gone`, ['drop 1', 'release']],
    ['client gone after END: nothing dropped, no reply', `${ENDED} gone result:1:protected`, ['end 1', 'release']],
    ['client gone while choosing', 'start gone', ['release']],
    ['lost after END: asked', SILENT, ['end 1', 'resolve a through 1']],
    ['asked: protected', `${SILENT} resolved:1:protected`, ['answer 250 ok', 'release']],
    ['asked: final', `${SILENT} resolved:1:final`, ['answer 250 ok', 'release']],
    [
      'asked: aborted, replayed, the same member again allowed',
      `${SILENT} resolved:1:aborted pick:a`,
      ['pick -', 'open a try 2'],
    ],
    [
      'asked: aborted, not whole: 451',
      `${A} overflow eod flush:1 lost:1 resolved:1:aborted`,
      ['answer 451 lost', 'release'],
    ],
    ['asked: aborted, nobody left: 451', `${SILENT} resolved:1:aborted none`, ['answer 451 lost', 'release']],
    [
      'asked: open: asked again',
      `${SILENT} resolved:1:open timer:again`,
      ['resolve a through 1', 'resolve a through 1'],
    ],
    ['asked: a released copy, perhaps alone, is no 250 but a replay', `${SILENT} resolved:1:owned`, ['pick -a']],
    ['aborted by another volume proves nothing', `${SILENT} stranger:1:aborted none timer:resolve`, ['pick -a']],
    ['protected by another volume proves nothing', `${SILENT} stranger:1:protected`, ['pick -a']],
    [
      'silence: replayed',
      `${SILENT} timer:resolve pick:b ok:2 flush:2 result:2:protected`,
      ['open b try 2', 'replay 2', 'end 2', 'answer 250 ok', 'release'],
    ],
    [
      'replay durably refused, first try unknown: close',
      `${SILENT} timer:resolve pick:b ok:2 flush:2 result:2:refused`,
      ['end 2', 'close', 'release'],
    ],
    [
      'replay refused, first try found aborted meanwhile: 451',
      `${SILENT} timer:resolve pick:b resolved:1:aborted ok:2 flush:2 result:2:refused`,
      ['answer 451 not redundant', 'release'],
    ],
    [
      'only the last try with an END answers',
      `${SILENT} timer:resolve pick:b ok:2 flush:2 resolved:1:protected`,
      ['replay 2', 'end 2'],
    ],
    [
      'first try found protected before the second END',
      `${SILENT} timer:resolve pick:b ok:2 resolved:1:protected`,
      ['drop 2', 'answer 250 ok', 'release'],
    ],
    [
      'not whole: asked for some windows, then closed',
      `${A} overflow eod flush:1 lost:1 ${'timer:resolve '.repeat(5)}`,
      ['resolve a through 1', 'close', 'release'],
    ],
    ['the cap', `${ENDED} timer:cap`, ['end 1', 'close', 'release']],
    [
      'the cap while a replay streams, first unknown',
      `${SILENT} timer:resolve pick:b ok:2 timer:cap`,
      ['drop 2', 'close', 'release'],
    ],
    [
      'the cap while a replay streams, first aborted',
      `${SILENT} resolved:1:aborted pick:b ok:2 timer:cap`,
      ['drop 2', 'answer 451 lost', 'release'],
    ],
    [
      'the cap while the transport takes no more bytes: no END, 451',
      `${A} eod timer:cap`,
      ['drop 1', 'answer 451 lost', 'release'],
    ],
    [
      'the cap while the next try opens, no END: 451',
      `${A} eod lost:1 pick:b timer:cap`,
      ['drop 2', 'answer 451 lost', 'release'],
    ],
    [
      'no 354 in time: refused',
      'start pick:a timer:open pick:b timer:decide',
      ['drop 2', 'refuse 451 none', 'release'],
    ],
    [
      'no 354 in time: the last refusal is relayed',
      'start pick:a refuse:1:other pick:b timer:decide',
      ['drop 2', 'refuse 452 full', 'release'],
    ],
    ['owned on the stream: asked', `${ENDED} result:1:owned`, ['end 1', 'resolve a through 1']],
    ['client gone, then lost: over', `${ENDED} gone lost:1`, ['end 1', 'release']],
    ['late events of an old stream mean nothing', `${A} lost:1 pick:b refuse:1:no lost:1 ok:1 ok:2`, ['replay 2']],
  ];
  for (const [title, history, end] of table)
    it(title, () => {
      const { said } = run(history);
      expect(said.slice(-end.length)).toEqual(end);
    });

  it('a third try is numbered above every try that may have got bytes', () => {
    const { state } = run(`${A} lost:1 pick:b ok:2 lost:2 pick:c lost:3 pick:d`);
    expect(state.tries.map((t) => t.number)).toEqual([1, 2, 3, 3]);
  });

  it('whoever waits has a deadline: before the 354, from the end of data, and only then', () => {
    const armed = (history: string): TimerName[] => {
      const timers = new Set<TimerName>();
      for (const action of actionsOf(history)) {
        if (action.kind === 'set-timer') timers.add(action.timer);
        if (action.kind === 'clear-timer') timers.delete(action.timer);
      }
      return [...timers];
    };
    expect(armed('start pick:a')).toEqual(['decide', 'open']);
    expect(armed(A)).toEqual([]);
    expect(armed(`${A} eod`)).toEqual(['cap']);
    expect(armed(`${A} lost:1 pick:b eod`)).toEqual(['open', 'cap']);
    expect(armed(SILENT)).toEqual(['cap', 'resolve']);
    expect(actionsOf(`${ENDED} lost:1`).filter((a) => a.kind === 'set-timer' && a.timer === 'cap').length).toBe(1);
  });

  it('a 2yz as a refusal is not relayed', () => {
    const odd: HeldEvent = { kind: 'Refused', serial: 1, refuse: { reply: ACCEPTED, tryOther: false } };
    const { state } = run('start pick:a');
    expect(step(state, odd).actions.map(describeAction)).toEqual(['', 'refuse 451 lost', 'release']);
  });
});

/** What really happened to each try, beside what the machine was told. */
interface Truth {
  ended: boolean;
  /** Nobody will ever deliver it, durably. */
  dead: boolean;
  protected: boolean;
  dropped: boolean;
}

interface World {
  state: HeldState;
  truth: Map<number, Truth>;
  timers: Set<TimerName>;
  asked: Set<number>;
  answers: string[];
  released: boolean;
  picks: number;
  clientEnded: boolean;
  gone: boolean;
}

function newWorld(): World {
  return {
    state: INITIAL_STATE,
    truth: new Map(),
    timers: new Set(),
    asked: new Set(),
    answers: [],
    released: false,
    picks: 0,
    clientEnded: false,
    gone: false,
  };
}

function truthOf(world: World, serial: number): Truth {
  const truth = world.truth.get(serial);
  if (truth === undefined) throw new Error(`no try ${serial}`);
  return truth;
}

function apply(world: World, event: HeldEvent): void {
  const { state, actions } = step(world.state, event);
  world.state = state;
  for (const action of actions) {
    expect(world.released, 'nothing after release').toBe(false);
    if (action.kind === 'open')
      world.truth.set(action.attempt.serial, { ended: false, dead: false, protected: false, dropped: false });
    else if (action.kind === 'drop') {
      expect(truthOf(world, action.serial).ended, 'a try is never cancelled after its END').toBe(false);
      truthOf(world, action.serial).dropped = true;
    } else if (action.kind === 'end') truthOf(world, action.serial).ended = true;
    else if (action.kind === 'pick') world.picks += 1;
    else if (action.kind === 'resolve') world.asked.add(action.attempt.serial);
    else if (action.kind === 'set-timer') world.timers.add(action.timer);
    else if (action.kind === 'clear-timer') world.timers.delete(action.timer);
    else if (action.kind === 'refuse') answer(world, action.reply);
    else if (action.kind === 'answer') answer(world, action.answer.kind === 'reply' ? action.answer.reply : null);
    else if (action.kind === 'release') {
      world.released = true;
      world.timers.clear();
    }
  }
}

function answer(world: World, said: Reply | null): void {
  world.answers.push(said === null ? 'close' : String(said.code));
  if (said === null) return;
  const ended = [...world.truth.values()].filter((t) => t.ended);
  if (said.code === 250) expect(ended.at(-1)?.protected, '250 only when the last try is protected').toBe(true);
  else for (const truth of ended) expect(truth.dead, 'a 4yz/5yz only when every try that got END is dead').toBe(true);
}

/** Everything that can happen now in the world; the transport's durable truth changes with what it says. */
function possible(world: World): (() => void)[] {
  const { state } = world;
  const last = state.tries.at(-1);
  const can: (() => void)[] = [];
  const tell: Tell = (event, change) => {
    const happen = (): void => {
      change?.();
      apply(world, event);
    };
    // What usually happens comes up more often, so that histories get far.
    const weight = USUAL.has(event.kind) ? 8 : 1;
    for (let i = 0; i < weight; i++) can.push(happen);
  };
  if (state.phase === 'choosing') {
    const free = ['a', 'b', 'c'].filter((m) => !state.excluded.includes(m));
    for (const member of free) tell({ kind: 'Picked', member, identity: identityOf(member) });
    tell({ kind: 'NonePicked' });
    return can;
  }
  if (state.continued && !world.clientEnded) {
    tell({ kind: 'BodyEnded' }, () => {
      world.clientEnded = true;
    });
    tell({ kind: 'BodyRejected', reply: BARE_LF }, () => {
      world.clientEnded = true;
    });
    tell({ kind: 'ClientGone', reason: 'reset' }, () => {
      world.gone = true;
    });
    if (state.phase === 'streaming') tell({ kind: 'Overflowed' });
  }
  if (state.bodyEnded && !world.gone)
    tell({ kind: 'ClientGone', reason: 'reset' }, () => {
      world.gone = true;
    });
  for (const timer of world.timers)
    tell({ kind: 'TimerFired', timer }, () => {
      world.timers.delete(timer);
    });
  if (last !== undefined) streamEvents(world, last.serial, last.fate, tell);
  for (const serial of world.asked) resolveEvents(world, serial, tell);
  return can;
}

const USUAL = new Set<HeldEvent['kind']>(['Picked', 'OpenOk', 'BodyEnded', 'Flushed', 'Lost']);

type Tell = (event: HeldEvent, change?: () => void) => void;

function streamEvents(world: World, serial: number, fate: string, tell: Tell): void {
  const truth = truthOf(world, serial);
  if (fate === 'opening') tell({ kind: 'OpenOk', serial });
  if (fate === 'open' && world.state.bodyEnded) tell({ kind: 'Flushed', serial });
  if (fate === 'opening' || fate === 'open' || fate === 'ended') {
    tell({ kind: 'Lost', serial, reason: 'reset' });
    for (const tryOther of [true, false])
      if (!truth.protected)
        tell({ kind: 'Refused', serial, refuse: { reply: tryOther ? FULL : TOO_BIG, tryOther } }, () => {
          truth.dead = true;
        });
  }
  if (fate !== 'ended') return;
  const outcomes: ResultOutcome[] = ['protected', 'unprotected', 'refused', 'owned', 'silent', 'stored'];
  for (const outcome of outcomes)
    tell({ kind: 'Result', serial, outcome, matches: true, reply: null }, () => {
      if (outcome === 'protected' || outcome === 'unprotected') truth.protected = true;
      if (outcome === 'refused') truth.dead = true;
    });
  tell({ kind: 'Result', serial, outcome: 'protected', matches: false, reply: null });
}

function resolveEvents(world: World, serial: number, tell: Tell): void {
  const truth = truthOf(world, serial);
  const answers: ResolvedAnswer[] = [
    'aborted',
    'protected',
    'unprotected',
    'stored',
    'owned',
    'final',
    'open',
    'unknown',
  ];
  for (const reply of answers)
    for (const sameIdentity of [true, false]) {
      // A volume never contradicts what it durably said.
      if (sameIdentity && reply === 'aborted' && truth.protected) continue;
      if (sameIdentity && ['protected', 'unprotected', 'final'].includes(reply) && truth.dead) continue;
      tell({ kind: 'Resolved', serial, answer: reply, sameIdentity, matches: true }, () => {
        if (!sameIdentity) return;
        if (reply === 'aborted') truth.dead = true;
        if (reply === 'protected' || reply === 'unprotected' || reply === 'final') truth.protected = true;
      });
    }
}

describe('held session, random histories', () => {
  it('never lies, answers exactly once, always ends', () => {
    const seen = new Map<string, number>();
    fc.assert(
      fc.property(fc.array(fc.nat(99_999), { minLength: 4, maxLength: 40 }), (choices) => {
        const world = newWorld();
        apply(world, { kind: 'Start' });
        for (const choice of choices) {
          if (world.released) break;
          const can = possible(world);
          can[choice % can.length]?.();
        }
        finish(world, (choices[0] ?? 0) % 2 === 0);
        expect(world.answers.length, 'exactly one answer, none for a client that is gone').toBe(world.gone ? 0 : 1);
        const key = world.answers[0] ?? 'gone';
        seen.set(key, (seen.get(key) ?? 0) + 1);
      }),
      { numRuns: 5_000 },
    );
    for (const outcome of ['250', '451', '452', '552', '554', 'close', 'gone'])
      expect(seen.get(outcome) ?? 0, `histories that end in ${outcome}`).toBeGreaterThan(20);
  });
});

/** From here on nothing but time passes and the client ends its body; a transport may take the rest of it or stall. */
function finish(world: World, flushes: boolean): void {
  for (let i = 0; i < 200 && !world.released; i++) {
    const last = world.state.tries.at(-1);
    const timer = (['open', 'decide', 'again', 'resolve', 'cap'] as const).find((name) => world.timers.has(name));
    if (world.state.phase === 'choosing') apply(world, { kind: 'NonePicked' });
    else if (world.state.continued && !world.clientEnded && !world.gone) {
      world.clientEnded = true;
      apply(world, { kind: 'BodyEnded' });
    } else if (flushes && last?.fate === 'open' && world.state.bodyEnded)
      apply(world, { kind: 'Flushed', serial: last.serial });
    else if (timer !== undefined) {
      world.timers.delete(timer);
      apply(world, { kind: 'TimerFired', timer });
    } else break;
  }
  expect(world.released, `stuck in ${world.state.phase}`).toBe(true);
}
