/**
 * Messages to mailboxes in several boundaries, as a process test sends and finds them: one message for many recipients through the front end, in which mailboxes
 * it came to be, and in which sites its copies are. Reads a cluster through what `ClusterView` reads; owns nothing.
 */
import { expect } from 'vitest';
import { doubledDots, SmtpConnection } from '../../examples/demo/smtp-connection.ts';
import { until } from '../house/until.ts';
import type { ClusterView } from './cluster-view.ts';
import { ledgerIdOf, makeMessage, type TestMessage } from './ledger.ts';

const ARRIVES_MS = 120_000;

export interface Sent extends TestMessage {
  /** The id in the 250 reply. */
  readonly accepted: string;
}

/** Who is told when it cannot be delivered, and how large it is. */
export interface Kind {
  readonly from?: string;
  readonly sizeBytes?: number;
}

/** A report has the header of what it is about inside. */
const isReport = (bytes: Buffer): boolean => bytes.includes('multipart/report; report-type=delivery-status');

const isWaiting = (queue: string): boolean => queue === 'submission' || queue === 'delivery';

/** `view`: of a cluster that is there when they are called. */
export function crossings(view: () => ClusterView) {
  const mailsOf = async ({ id }: TestMessage) =>
    (await view().delivered()).filter(({ bytes }) => ledgerIdOf(bytes) === id);

  /** Each mailbox that has it, as often as it has it. */
  const found = async (message: TestMessage): Promise<readonly string[]> => {
    const mails = await mailsOf(message);
    return mails.flatMap(({ mailbox, bytes }) => (isReport(bytes) ? [] : mailbox)).sort();
  };

  /** Every report about it, and whose mailbox it is in. */
  const reports = async (message: TestMessage): Promise<readonly { readonly to: string; readonly text: string }[]> => {
    const mails = (await mailsOf(message)).filter(({ bytes }) => isReport(bytes));
    return mails.map(({ mailbox, bytes }) => ({ to: mailbox, text: bytes.toString('utf8').replaceAll('\r\n', '\n') }));
  };

  const arrived = async (message: TestMessage, mailboxes: readonly string[]): Promise<void> => {
    const wanted = [...mailboxes].sort().join();
    const isThere = async (): Promise<boolean> => (await found(message)).join() === wanted;
    await until(`${message.id} to be in ${wanted}`, isThere, { deadlineMs: ARRIVES_MS, everyMs: 200 });
  };

  /** Until its copies are there and nowhere else: `site queue` for each; what waits is written as categorized when there is time. */
  const isAt = async ({ id, digest }: TestMessage, places: readonly string[]): Promise<void> => {
    const wanted = [...places].sort();
    let last: readonly string[] = [];
    const isThere = async (): Promise<boolean> => {
      const copies = (await view().stored()).filter((copy) => copy.digest === digest);
      last = copies.map(({ site, queue }) => `${site} ${isWaiting(queue) ? 'waiting' : queue}`).sort();
      return last.join() === wanted.join();
    };
    await until(`${id} to be at its places`, isThere, { deadlineMs: ARRIVES_MS, everyMs: 250 }).catch(() =>
      expect(last).toEqual(wanted),
    );
  };

  /** One message for all of them; answers when it was answered 250. */
  const send = async (id: string, recipients: readonly string[], kind: Kind = {}): Promise<Sent> => {
    const message = makeMessage(id, recipients.join(', '), kind.sizeBytes ?? 3_000, kind.from);
    const [target] = view().targets();
    if (target === undefined) throw new Error('no listener');
    const connection = await SmtpConnection.open(target);
    for (const command of [`MAIL FROM:<${message.from}>`, ...recipients.map((one) => `RCPT TO:<${one}>`)]) {
      connection.send(`${command}\r\n`);
      await connection.expect(250, command);
    }
    connection.send('DATA\r\n');
    await connection.expect(354, 'DATA');
    connection.send(doubledDots(message.content));
    connection.send('.\r\n');
    const said = await connection.reply();
    if (typeof said === 'string' || said.code !== 250) throw new Error(`end of data: ${JSON.stringify(said)}`);
    connection.send('QUIT\r\n');
    await connection.expect(221, 'QUIT');
    return { ...message, accepted: /[0-9A-HJKMNP-TV-Z]{26}/.exec(said.text)?.[0] ?? '' };
  };

  return { send, found, reports, arrived, isAt };
}

/** In both Safety Nets of each. */
export const atRest = (sites: readonly string[]): readonly string[] =>
  sites.flatMap((site) => [`${site} primarySafetyNet`, `${site} shadowSafetyNet`]);

/** In transit, whole and twice. */
export const waitsIn = (site: string): readonly string[] => [`${site} waiting`, `${site} shadow`];
