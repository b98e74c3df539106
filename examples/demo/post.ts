/**
 * Sends the letters of the demo over both front ends, several sessions at a time, and writes down what it is told. Promise: one entry per
 * letter, whatever happens to the other end; no letter is sent twice - a real client would, after 4yz or no answer, and then nobody
 * could tell a duplicate of ours from one of theirs.
 */
import type { Answer, Sent } from './audit.ts';
import type { Letter } from './letters.ts';
import { doubledDots, type Reply, SmtpConnection, type Target } from './smtp-connection.ts';

export interface FrontendTarget extends Target {
  readonly frontend: string;
}

export interface Round {
  readonly letters: readonly Letter[];
  readonly sessions: number;
  /** Asked before every new connection. */
  readonly targets: () => readonly FrontendTarget[];
  /** Nothing is sent any more once it is aborted. */
  readonly stop: AbortSignal;
  readonly onSent: (sent: Sent, done: number) => void;
}

interface Open {
  readonly connection: SmtpConnection;
  readonly frontend: string;
  left: number;
}

/** Then the client hangs up and connects again, so that a front end that came back gets mail again. */
const LETTERS_PER_CONNECTION = 10;
const TIMEOUT_MS = 120_000;

export async function sendLetters({ letters, sessions, targets, stop, onSent }: Round): Promise<readonly Sent[]> {
  const left = [...letters];
  const ledger: Sent[] = [];
  let turn = 0;
  const next = (): Letter | undefined => (stop.aborted ? undefined : left.shift());
  const session = async (): Promise<void> => {
    let open: Open | null = null;
    for (let letter = next(); letter !== undefined; letter = next()) {
      if (open === null || open.left === 0 || open.connection.ended !== null) {
        if (open !== null) await hangUp(open);
        open = await connectSomewhere(targets(), turn++);
      }
      const sent: Sent = open === null ? unreachable(letter) : await sendLetter(open, letter);
      ledger.push(sent);
      if (!stop.aborted) onSent(sent, ledger.length);
    }
    if (open !== null) await hangUp(open);
  };
  await Promise.all(Array.from({ length: sessions }, session));
  return ledger;
}

const unreachable = (letter: Letter): Sent => ({
  letter,
  recipients: [],
  refusedRecipients: [],
  answer: { kind: 'none', endSent: false, reason: 'no front end could be reached' },
  frontend: null,
  startedAtMs: performance.now(),
  endedAtMs: performance.now(),
});

/** Like a client that knows two MX hosts: the next one when one does not answer. */
async function connectSomewhere(targets: readonly FrontendTarget[], first: number): Promise<Open | null> {
  for (let i = 0; i < targets.length; i += 1) {
    const target = targets[(first + i) % targets.length];
    if (target === undefined) continue;
    const connection = await SmtpConnection.open(target, TIMEOUT_MS, 'demo.example.org').then(
      (opened) => opened,
      () => null,
    );
    if (connection !== null) return { connection, frontend: target.frontend, left: LETTERS_PER_CONNECTION };
  }
  return null;
}

async function hangUp({ connection }: Open): Promise<void> {
  if (connection.ended !== null) return;
  connection.send('QUIT\r\n');
  await connection.reply();
  connection.close();
}

async function sendLetter(open: Open, letter: Letter): Promise<Sent> {
  const { connection, frontend } = open;
  open.left -= 1;
  const recipients: string[] = [];
  const refusedRecipients: string[] = [];
  const startedAtMs = performance.now();
  const entry = (answer: Answer): Sent => {
    return { letter, recipients, refusedRecipients, answer, frontend, startedAtMs, endedAtMs: performance.now() };
  };
  const ask = async (command: string): Promise<Reply | string> => {
    connection.send(`${command}\r\n`);
    return await connection.reply();
  };
  const giveUp = async (reply: Reply): Promise<Sent> => {
    await ask('RSET');
    return entry({ kind: 'refused', ...reply });
  };
  const mail = await ask(`MAIL FROM:<${letter.from}> SIZE=${letter.content.length} BODY=8BITMIME`);
  if (typeof mail === 'string') return entry(cutOff(false, mail));
  if (mail.code >= 400) return await giveUp(mail);
  for (const address of letter.recipients) {
    const reply = await ask(`RCPT TO:<${address}>`);
    if (typeof reply === 'string') return entry(cutOff(false, reply));
    (reply.code < 400 ? recipients : refusedRecipients).push(address);
  }
  const data = await ask('DATA');
  if (typeof data === 'string') return entry(cutOff(false, data));
  if (data.code >= 400) return await giveUp(data);
  connection.send(doubledDots(letter.content));
  if (connection.ended !== null) return entry(cutOff(false, connection.ended));
  const end = await ask('.');
  if (typeof end === 'string') return entry(cutOff(true, end));
  if (end.code >= 400) return entry({ kind: 'refused', ...end });
  // The reply names the id by which the message can be searched for.
  return entry({ kind: 'accepted', id: /queued as (\w+)/.exec(end.text)?.[1] ?? end.text });
}

const cutOff = (endSent: boolean, reason: string): Answer => ({ kind: 'none', endSent, reason });
