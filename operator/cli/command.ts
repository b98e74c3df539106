/**
 * What every command of `mailcluster` shares: options, help, exit codes. Owns the words. Exit codes: 0 fine, 1 a problem was found or
 * nothing was found, 2 the command line (or a file it names) is wrong.
 */
import { type ParseArgsOptionsConfig, parseArgs } from 'node:util';
import type { Asked } from '../admin-client.ts';
import { isDateTime, parseDuration } from '../resource/quantity.ts';
import type { Format, Output } from './output.ts';
import type { MailSource, MemberName, Members, OrderDesk, Place, ResubmitDesk } from './place.ts';

export interface CommandContext {
  readonly output: Output;
  readonly environment: Readonly<Record<string, string | undefined>>;
  nowMs(): number;
  /** For commands that wait for something; nothing else waits. */
  pause(ms: number): Promise<void>;
  /** Aborted by the first Ctrl-C from now on, which then does not end the process; the second one does. */
  interruption(): AbortSignal;
  readonly place: Place;
  /** For connections that would keep the process. */
  atEnd(close: () => void): void;
}

export type OptionValues = Readonly<Record<string, string | boolean | readonly string[] | undefined>>;

export interface Command {
  /** One line for `mailcluster help`. */
  readonly summary: string;
  /** Usage, options and examples. */
  readonly help: string;
  run(args: readonly string[], context: CommandContext): Promise<number>;
}

export class UsageError extends Error {
  readonly code = 'USAGE';
}

export interface CommonOptions {
  /** Of `mailcluster run`; without meaning elsewhere. */
  readonly state: string;
  readonly format: Format;
  readonly isWide: boolean;
}

export interface Parsed {
  readonly values: OptionValues;
  readonly positionals: readonly string[];
  readonly common: CommonOptions;
}

/** Where a help text is about the place: filled in by `helpOf`. */
export const COMMON_HELP = '<options of the place>';
const USAGE = '[--state DIR]';

/** Help texts are written in the words of `mailcluster run`; elsewhere they get those of that place. */
export function helpOf({ help }: Pick<Command, 'help'>, { program, usage, help: options }: Place): string {
  return help
    .replaceAll(COMMON_HELP, options)
    .replaceAll(USAGE, usage)
    .replaceAll(/(?<=^Usage: |^ +|")mailcluster (?=[a-z])/gm, `${program} `);
}

export const stateOf = (value: string | undefined, environment: CommandContext['environment']): string =>
  value ?? environment.MAILCLUSTER_STATE ?? './.state';

/** Of two values the last would count, and a filter match more than both of them say. Flags, and what may be repeated, are no matter. */
function givenTwice({ tokens = [], values }: ReturnType<typeof parseArgs>): string | null {
  const seen = new Set<string>();
  for (const token of tokens) {
    if (token.kind !== 'option' || typeof values[token.name] !== 'string') continue;
    if (seen.has(token.name)) return token.name;
    seen.add(token.name);
  }
  return null;
}

/** Throws UsageError for anything the command does not know. `words`: how many positionals at least and at most. */
export function parse(
  args: readonly string[],
  context: CommandContext,
  options: ParseArgsOptionsConfig,
  words: readonly [number, number],
): Parsed {
  let parsed: ReturnType<typeof parseArgs>;
  try {
    parsed = parseArgs({
      args: [...args],
      options: { ...context.place.options, output: { type: 'string', short: 'o' }, ...options },
      allowPositionals: true,
      strict: true,
      tokens: true,
    });
  } catch (error) {
    if (error instanceof TypeError) throw new UsageError(error.message);
    throw error;
  }
  const { positionals } = parsed;
  const twice = givenTwice(parsed);
  if (twice !== null) throw new UsageError(`--${twice}: is given twice; say it once`);
  const values = parsed.values as Parsed['values'];
  if (positionals.length < words[0]) throw new UsageError('an argument is missing');
  if (positionals.length > words[1]) throw new UsageError(`unexpected argument ${positionals[words[1]] ?? ''}`);
  const output = values.output ?? 'table';
  const { formats } = context.place;
  if (!formats.some((one) => one === output))
    throw new UsageError(`--output: ${formats.slice(0, -1).join(', ')} or ${formats.at(-1)}, not ${String(output)}`);
  const common = { format: output === 'json' ? 'json' : 'table', isWide: output === 'wide' } as const;
  const state = typeof values.state === 'string' ? values.state : undefined;
  return { values, positionals, common: { ...common, state: stateOf(state, context.environment) } };
}

/** A question that no member can be asked is the fault of who asks, once, and of no member. */
function answered<T>(asked: Asked<T>): Asked<T> {
  if (asked.kind !== 'unreachable' || asked.badQuestion === undefined) return asked;
  throw new UsageError(`the transports refuse the question: ${asked.badQuestion}`);
}

const askingAll = ({ askAll }: Pick<Members, 'askAll'>): Pick<Members, 'askAll'> => ({
  askAll: async <T>(path: string) => (await askAll<T>(path)).map(answered),
});

const asking = (members: Members): Pick<Members, 'ask' | 'askAll'> => ({
  ...askingAll(members),
  ask: async <T>(member: Pick<MemberName, 'name'>, path: string) => answered(await members.ask<T>(member, path)),
});

export async function openMembers({ values }: Parsed, context: CommandContext): Promise<Members> {
  const members = await context.place.openMembers(values, context);
  context.atEnd(members.close);
  return { ...members, ...asking(members) };
}

export async function openMail({ values }: Parsed, context: CommandContext): Promise<MailSource> {
  const source = await context.place.openMail(values, context);
  context.atEnd(source.close);
  return { ...source, ...asking(source) };
}

export async function openOrders({ values }: Parsed, context: CommandContext): Promise<OrderDesk> {
  const desk = await context.place.openOrders(values, context);
  context.atEnd(desk.close);
  return desk;
}

export async function openResubmits({ values }: Parsed, context: CommandContext): Promise<ResubmitDesk> {
  const desk = await context.place.openResubmits(values, context);
  context.atEnd(desk.close);
  return { ...desk, ...askingAll(desk) };
}

export function text(parsed: Parsed, name: string): string | null {
  const value = parsed.values[name];
  return typeof value === 'string' ? value : null;
}

const TIME = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d+)?)?(Z| ?UTC|[+-]\d\d:\d\d)?)?$/i;

/** RFC 3339, shorter where that says all, with a blank as tables show it; UTC where no zone is named. Or milliseconds since 1970, which no seconds pass for. */
function timeOf(value: string): number | null {
  if (/^\d{12,13}$/.test(value)) return Number(value);
  const [, day, minute = '00:00', second = ':00', zone = 'Z'] = TIME.exec(value) ?? [];
  const whole = `${day}T${minute}${second}${/^( ?UTC|Z)$/i.test(zone) ? 'Z' : zone}`;
  return day !== undefined && isDateTime(whole) ? Date.parse(whole) : null;
}

/** As milliseconds. */
export function timeOption(parsed: Parsed, name: string, or = ''): number | null {
  const value = text(parsed, name);
  if (value === null) return null;
  const ms = timeOf(value);
  if (ms === null)
    throw new UsageError(
      `--${name}: a time like 2026-01-31T12:00:00Z (UTC where no zone is named), milliseconds since 1970${or}, not ${value}`,
    );
  return ms;
}

/** A time, or how long ago it was. */
export function momentOption(parsed: Parsed, name: string, nowMs: number): number | null {
  const ago = parseAge(text(parsed, name) ?? '');
  return ago === null ? timeOption(parsed, name, ', or how long ago like 30m, 2h or 7d') : nowMs - ago;
}

/** A duration as resources have it, with days in front. */
export const parseAge = (value: string): number | null =>
  parseDuration(value.replace(/^\d+d/, (days) => `${Number.parseInt(days, 10) * 24}h`));

export function query(parameters: Readonly<Record<string, string | number | null>>): string {
  const set = Object.entries(parameters).filter((entry): entry is [string, string | number] => entry[1] !== null);
  return set.length === 0
    ? ''
    : `?${new URLSearchParams(Object.fromEntries(set.map(([name, value]) => [name, String(value)]))).toString()}`;
}

export function wholeNumber(parsed: Parsed, name: string, fallback: number, most: number): number {
  const value = text(parsed, name);
  if (value === null) return fallback;
  const number = Number(value);
  if (!Number.isInteger(number) || number < 1 || number > most) {
    throw new UsageError(`--${name}: a number from 1 to ${most}, not ${value}`);
  }
  return number;
}

/** Names members that did not answer; the command goes on with the others. */
export function warnUnreachable(
  output: Output,
  unreachable: readonly { readonly member: string; readonly reason: string }[],
): void {
  for (const one of unreachable) output.err(`${one.member} is unreachable: ${one.reason}\n`);
}
