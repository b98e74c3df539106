/** Reads a mailbox as its user sees it (RFC 3501): just enough IMAP to fetch every message of INBOX. */
import { connect } from 'node:net';

export interface ImapAccount {
  readonly port: number;
  readonly user: string;
  readonly password: string;
}

/** The messages of INBOX, byte for byte, oldest first. */
export async function readInbox({ port, user, password }: ImapAccount): Promise<readonly string[]> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true });
  const input = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  let seen = '';
  const readUntil = async (pattern: RegExp): Promise<string> => {
    for (;;) {
      const match = pattern.exec(seen);
      if (match !== null) {
        const text = seen.slice(0, match.index + match[0].length);
        seen = seen.slice(text.length);
        return text;
      }
      const { value, done } = await input.next();
      if (done === true) throw new Error(`IMAP connection closed: ${seen.slice(-200)}`);
      seen += value.toString('latin1');
    }
  };
  const command = async (tag: string, text: string): Promise<string> => {
    socket.write(`${tag} ${text}\r\n`);
    const answer = await readUntil(new RegExp(`(?:^|\\r\\n)${tag} (OK|NO|BAD).*\\r\\n`));
    if (!answer.includes(`${tag} OK`)) throw new Error(`IMAP: ${answer}`);
    return answer;
  };
  try {
    await readUntil(/^\* OK.*\r\n/);
    await command('a1', `LOGIN "${user}" "${password}"`);
    const selected = await command('a2', 'SELECT INBOX');
    if (/\* 0 EXISTS/.test(selected)) return [];
    return literals(await command('a3', 'FETCH 1:* BODY.PEEK[]'));
  } finally {
    socket.destroy();
  }
}

function literals(answer: string): string[] {
  const found: string[] = [];
  let at = 0;
  for (;;) {
    const match = /BODY\[\] \{(\d+)\}\r\n/.exec(answer.slice(at));
    if (match === null) return found;
    const from = at + match.index + match[0].length;
    at = from + Number(match[1]);
    found.push(answer.slice(from, at));
  }
}
