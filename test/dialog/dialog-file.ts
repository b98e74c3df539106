/**
 * SMTP conversations as text files (`test/dialog/*.smtp`): the language and its parser.
 *
 *   # comment
 *   @title what this shows                  @tls None|StartTls|StartTlsRequired|Implicit     @users bob:secret
 *   @proxyFrom 127.0.0.0/8                  load balancers that say whose connection it is
 *   @limit maxErrors 3                      @hops 3           @split  (run again for every byte at which a send can be cut in two)
 *   @policy                                 the real front end decides about senders, recipients and AUTH (`policy-rig.ts`)
 *   @relayFrom 127.0.0.0/8                  with it: clients that may relay         @authRequired  all others must authenticate
 *   C: text        send the text and CRLF; C lines without anything between them leave in one write
 *   C> text        the same without CRLF    escapes everywhere: \r \n \0 \t \\ \xHH and {1000*x} for a run
 *   S: pattern     the next reply line; * stands for anything
 *   S+ code        a whole multi-line reply with this code; `has WORDS` and `lacks WORDS` then look at its lines
 *   closed         the server closed the connection and said nothing more
 *   starttls       handshake (after the 220); `connect NAME` opens another connection, `use NAME` goes back (the first is `main`)
 *   advance 60000  time passes at the server     drop  the client vanishes     shutdown  graceful close of the edge
 *   drain          the handler's sink takes more     release  a handler that holds DATA goes on
 *   pressed disk   with @policy: the transports have no room for want of that     pressed nothing  they have
 *   = path JSON    what the handlers got: `messages`, `closed`, or a path into the last message, e.g. `recipients.0.orcpt`
 */
export type Step =
  | { readonly kind: 'send'; readonly bytes: Buffer }
  | { readonly kind: 'reply'; readonly pattern: string }
  | { readonly kind: 'multi'; readonly code: string }
  | { readonly kind: 'has' | 'lacks'; readonly words: string }
  | { readonly kind: 'connect' | 'use'; readonly name: string }
  | { readonly kind: 'advance'; readonly ms: number }
  | { readonly kind: 'pressed'; readonly resource: string | null }
  | { readonly kind: 'expect'; readonly path: string; readonly value: unknown }
  | { readonly kind: 'closed' | 'starttls' | 'drop' | 'shutdown' | 'drain' | 'release' };

export interface NumberedStep {
  readonly line: number;
  readonly step: Step;
}

export interface Dialog {
  readonly title: string;
  readonly tls: 'None' | 'StartTls' | 'StartTlsRequired' | 'Implicit';
  readonly users: ReadonlyMap<string, string> | null;
  readonly authRequired: boolean;
  readonly limits: Readonly<Record<string, number>>;
  readonly hops: number;
  readonly proxyFrom: string | null;
  readonly policy: boolean;
  readonly relayFrom: readonly string[];
  readonly split: boolean;
  readonly steps: readonly NumberedStep[];
}

const ESCAPES: Readonly<Record<string, string>> = { r: '\r', n: '\n', '0': '\0', t: '\t', '\\': '\\' };

function bytesOf(text: string): Buffer {
  const runs = text.replace(/\{(\d+)\*(.+?)\}/g, (_, count: string, what: string) => what.repeat(Number(count)));
  const parts = runs.split(/(\\x[0-9A-Fa-f]{2}|\\[rn0t\\])/);
  return Buffer.concat(
    parts.map((part) => {
      if (part.startsWith('\\x')) return Buffer.from([Number.parseInt(part.slice(2), 16)]);
      const escaped = part.length === 2 && part.startsWith('\\') ? ESCAPES[part[1] ?? ''] : undefined;
      return Buffer.from(escaped ?? part, 'utf8');
    }),
  );
}

const TLS = ['None', 'StartTls', 'StartTlsRequired', 'Implicit'] as const;

export function parseDialog(text: string): Dialog {
  const steps: NumberedStep[] = [];
  const limits: Record<string, number> = {};
  let dialog: Omit<Dialog, 'steps' | 'limits'> = {
    title: '',
    tls: 'None',
    users: null,
    authRequired: false,
    hops: 50,
    proxyFrom: null,
    policy: false,
    relayFrom: [],
    split: false,
  };
  for (const [index, raw] of text.split('\n').entries()) {
    const line = index + 1;
    if (raw.trim() === '' || raw.startsWith('#')) continue;
    const [word = ''] = raw.split(' ', 1);
    const rest = raw.slice(word.length + 1);
    if (word === '@title') dialog = { ...dialog, title: rest };
    else if (word === '@hops') dialog = { ...dialog, hops: Number(rest) };
    else if (word === '@proxyFrom') dialog = { ...dialog, proxyFrom: rest };
    else if (word === '@policy') dialog = { ...dialog, policy: true };
    else if (word === '@relayFrom') dialog = { ...dialog, relayFrom: rest.split(' ') };
    else if (word === '@authRequired') dialog = { ...dialog, authRequired: true };
    else if (word === '@split') dialog = { ...dialog, split: true };
    else if (word === '@tls') dialog = { ...dialog, tls: TLS.find((tls) => tls === rest) ?? fail(line, raw) };
    else if (word === '@users') {
      dialog = { ...dialog, users: new Map(rest.split(' ').map((pair) => pair.split(':', 2) as [string, string])) };
    } else if (word === '@limit') {
      const [name = '', value] = rest.split(' ');
      limits[name] = Number(value);
    } else addStep(steps, line, parseStep(word, rest) ?? fail(line, raw));
  }
  return { ...dialog, limits, steps };
}

function fail(line: number, raw: string): never {
  throw new Error(`line ${line}: not understood: ${raw}`);
}

/** Sends that follow each other become one. */
function addStep(steps: NumberedStep[], line: number, step: Step): void {
  const last = steps.at(-1);
  if (step.kind === 'send' && last?.step.kind === 'send') {
    steps[steps.length - 1] = {
      line: last.line,
      step: { kind: 'send', bytes: Buffer.concat([last.step.bytes, step.bytes]) },
    };
  } else steps.push({ line, step });
}

function parseStep(word: string, rest: string): Step | null {
  switch (word) {
    case 'C:':
      return { kind: 'send', bytes: Buffer.concat([bytesOf(rest), Buffer.from('\r\n')]) };
    case 'C>':
      return { kind: 'send', bytes: bytesOf(rest) };
    case 'S:':
      return { kind: 'reply', pattern: rest };
    case 'S+':
      return { kind: 'multi', code: rest };
    case 'has':
    case 'lacks':
      return { kind: word, words: rest };
    case 'connect':
    case 'use':
      return { kind: word, name: rest };
    case 'pressed':
      return { kind: 'pressed', resource: rest === 'nothing' ? null : rest };
    case 'advance':
      return { kind: 'advance', ms: Number(rest) };
    case '=': {
      const space = rest.indexOf(' ');
      return { kind: 'expect', path: rest.slice(0, space), value: JSON.parse(rest.slice(space + 1)) as unknown };
    }
    case 'closed':
    case 'starttls':
    case 'drop':
    case 'shutdown':
    case 'drain':
    case 'release':
      return { kind: word };
    default:
      return null;
  }
}
