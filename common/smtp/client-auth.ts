/**
 * How our client authenticates (RFC 4954, RFC 4616). Owns: which mechanism is used, its exchange. Promise: a password leaves only through TLS, and
 * only when the server offers PLAIN or LOGIN there; nothing of it is in an error. Fails: `ClientError` with the code AUTH, which is about the connection, not the message.
 */
import { type ClientConnection, ClientError } from './client-connection.ts';
import { formatReply, type ServerReply } from './reply-parser.ts';

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

export interface AuthSession {
  readonly connection: ClientConnection;
  readonly secured: boolean;
  /** Parameters of the keyword AUTH after EHLO, or null when it is not offered. */
  readonly offered: string | null;
  readonly timeoutMs: number;
}

const base64 = (text: string): string => Buffer.from(text, 'utf8').toString('base64');

/** Resolves when the server said 235; rejects with a `ClientError`. */
export async function authenticate(session: AuthSession, { username, password }: Credentials): Promise<void> {
  const { secured, offered } = session;
  if (!secured) throw new ClientError('TLS', 'the password is not sent: the session is not encrypted');
  if (offered === null) throw new ClientError('AUTH', 'authentication is configured and AUTH is not offered');
  const mechanisms = offered.toUpperCase().split(/\s+/);
  if (mechanisms.includes('PLAIN')) {
    await say(session, `AUTH PLAIN ${base64(`\0${username}\0${password}`)}`, 235);
  } else if (mechanisms.includes('LOGIN')) {
    await say(session, 'AUTH LOGIN', 334);
    await say(session, base64(username), 334);
    await say(session, base64(password), 235);
  } else throw new ClientError('AUTH', `AUTH is offered without PLAIN and LOGIN: ${offered}`);
}

async function say({ connection, timeoutMs }: AuthSession, line: string, wanted: number): Promise<ServerReply> {
  connection.write(`${line}\r\n`);
  const answer = await connection.expect(timeoutMs);
  if (answer instanceof ClientError) throw answer;
  if (answer.code !== wanted) throw new ClientError('AUTH', `authentication refused: ${formatReply(answer)}`, answer);
  return answer;
}
