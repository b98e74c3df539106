/**
 * One SMTP session that sends message after message and waits for each reply: what a sender feels. Owns: one connection. Resolves to milliseconds from the
 * end of data to its answer, one for each message. Rejects at the first reply that is not the one expected.
 */
import { connect } from 'node:net';

/** A line of `smtp-source` is as long. */
const LINE = `${'X'.repeat(76)}\r\n`;
const HEADER = 'From: <a@example.org>\r\nTo: <bench@example.com>\r\nSubject: sequence\r\n\r\n';

export async function sequenceMs(port: number, bytes: number, messages: number): Promise<readonly number[]> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  let text = '';
  let wake: (() => void) | null = null;
  let failure: Error | null = null;
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    text += chunk;
    wake?.();
  });
  socket.on('error', (error) => {
    failure = error;
    wake?.();
  });
  socket.on('close', () => {
    failure ??= new Error('closed by the other end');
    wake?.();
  });
  /** The last line of a reply (RFC 5321 4.2.1), however many lines it has. */
  const reply = async (code: string): Promise<void> => {
    for (;;) {
      const found = /^(\d{3}) [^\n]*\n/m.exec(text);
      if (found !== null) {
        text = text.slice(found.index + found[0].length);
        if (found[1] !== code) throw new Error(`expected ${code}: ${found[0].trim()}`);
        return;
      }
      if (failure !== null) throw failure;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  const say = async (line: string, code: string): Promise<void> => {
    socket.write(line);
    await reply(code);
  };
  try {
    await reply('220');
    await say('EHLO bench.example.org\r\n', '250');
    const body = HEADER + LINE.repeat(Math.ceil((bytes - HEADER.length) / LINE.length));
    const times: number[] = [];
    for (let sent = 0; sent < messages; sent += 1) {
      await say('MAIL FROM:<a@example.org>\r\n', '250');
      await say('RCPT TO:<bench@example.com>\r\n', '250');
      await say('DATA\r\n', '354');
      socket.write(body);
      const endMs = performance.now();
      await say('.\r\n', '250');
      times.push(performance.now() - endMs);
    }
    await say('QUIT\r\n', '221');
    return times;
  } finally {
    socket.destroy();
  }
}
