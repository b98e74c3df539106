/**
 * What the demo puts on the terminal, 100 columns wide at most. Owns: the one line that is written over while something goes on (only on a
 * terminal; elsewhere some of its states become lines of their own). Colours and symbols only where the terminal can show them.
 */
import { styleText } from 'node:util';

export const WIDTH = 100;
const INDENT = '     ';
const BAR = 30;

type Style = Parameters<typeof styleText>[0];

export interface Symbols {
  readonly good: string;
  readonly bad: string;
  readonly kill: string;
  readonly full: string;
  readonly empty: string;
  readonly rule: string;
  readonly dot: string;
}

const UNICODE: Symbols = { good: '✓', bad: '✗', kill: '⚡', full: '█', empty: '░', rule: '─', dot: '·' };
const ASCII: Symbols = { good: '+', bad: 'x', kill: '!', full: '#', empty: '.', rule: '-', dot: '-' };

export interface Terminal {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export class Screen {
  readonly symbols: Symbols;
  readonly #out: Terminal;
  readonly #live: boolean;
  #progress: string | null = null;
  #milestone = 0;
  #steps = 0;

  constructor(out: Terminal, environment: Readonly<Record<string, string | undefined>>) {
    const locale = environment.LC_ALL || environment.LC_CTYPE || environment.LANG || '';
    // Without a terminal the reader is a file or a log, and those take UTF-8.
    this.symbols = out.isTTY !== true || /utf-?8/i.test(locale) ? UNICODE : ASCII;
    this.#out = out;
    this.#live = out.isTTY === true && environment.TERM !== 'dumb';
  }

  /** Plain where colours are not wanted (NO_COLOR) or not possible. */
  paint(style: Style, text: string): string {
    return this.#live ? styleText(style, text, { stream: process.stdout }) : text;
  }

  line(text = ''): void {
    if (this.#live && this.#progress !== null) this.#out.write('\r\u001b[2K');
    this.#out.write(`${text}\n`);
    if (this.#live && this.#progress !== null) this.#out.write(this.#progress);
  }

  title(name: string, words: readonly string[]): void {
    const rule = this.symbols.rule.repeat(WIDTH - 2);
    this.line();
    this.line(`  ${this.paint('bold', name)}`);
    this.line(`  ${this.paint('dim', rule)}`);
    for (const one of words) this.line(`  ${one}`);
  }

  step(name: string, ...words: readonly string[]): void {
    this.#steps += 1;
    this.line();
    this.line(`  ${this.paint(['bold', 'cyan'], `${this.#steps}. ${name}`)}`);
    for (const one of words) this.text(one);
  }

  text(words: string): void {
    for (const line of wrap(words, WIDTH - INDENT.length)) this.line(`${INDENT}${line}`);
  }

  /** A command as a person would type it. */
  command(words: string): void {
    this.line(`${INDENT}${this.paint('dim', `$ ${words}`)}`);
  }

  good(words: string): void {
    this.line(`${INDENT}${this.paint('green', this.symbols.good)} ${words}`);
  }

  bad(words: string): void {
    this.line(`${INDENT}${this.paint('red', this.symbols.bad)} ${words}`);
  }

  kill(words: string): void {
    this.line(`${INDENT}${this.paint('yellow', this.symbols.kill)} ${words}`);
  }

  rows(rows: readonly (readonly string[])[], options: { readonly right?: readonly number[] } = {}): void {
    const [head = [], ...rest] = align(rows, options.right ?? []);
    this.line(`${INDENT}${this.paint('dim', head.join('  ').trimEnd())}`);
    const last = head.length - 1;
    const before = head.slice(0, last).reduce((sum, cell) => sum + cell.length + 2, 0);
    for (const row of rest) {
      const whole = row.join('  ').trimEnd();
      if (whole.length <= WIDTH - INDENT.length) {
        this.line(`${INDENT}${whole}`);
        continue;
      }
      // What does not fit goes on under its own column.
      const [first = '', ...more] = wrap((row[last] ?? '').trim(), WIDTH - INDENT.length - before);
      this.line(`${INDENT}${[...row.slice(0, last), first].join('  ').trimEnd()}`);
      for (const one of more) this.line(`${INDENT}${' '.repeat(before)}${one}`);
    }
  }

  /** One line that is written over; without a terminal a line at every fifth of a long way. */
  progress(done: number, of: number, words: string): void {
    if (this.#live) {
      const filled = of === 0 ? BAR : Math.round((BAR * done) / of);
      const bar = `${this.symbols.full.repeat(filled)}${this.symbols.empty.repeat(BAR - filled)}`;
      const room = Math.min(WIDTH, this.#out.columns ?? WIDTH) - INDENT.length - BAR - 3;
      this.#progress = `${INDENT}${this.paint('cyan', bar)} ${words.slice(0, Math.max(0, room))}`;
      this.#out.write(`\r\u001b[2K${this.#progress}`);
      return;
    }
    const milestone = of < 10 ? 0 : Math.floor((5 * done) / of);
    if (milestone <= this.#milestone) return;
    this.#milestone = milestone;
    this.#out.write(`${INDENT}${words}\n`);
  }

  /** Takes the progress line away; what it came to is said by the next line. */
  endProgress(): void {
    if (this.#live && this.#progress !== null) this.#out.write('\r\u001b[2K');
    this.#progress = null;
    this.#milestone = 0;
  }
}

export function align(rows: readonly (readonly string[])[], right: readonly number[]): readonly (readonly string[])[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows.map((row) =>
    row.map((cell, column) =>
      right.includes(column) ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
    ),
  );
}

export function wrap(words: string, width: number): readonly string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of words.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
