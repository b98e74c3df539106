/**
 * Sends messages to a MailCluster of the test cluster and prints what became of each: node send.ts HOST:PORT COUNT RECIPIENT. Exits 1 when one was not
 * accepted; ids of messages are `PID-NUMBER`, the prefix is printed first.
 */
import process from 'node:process';
import { makeMessage } from '../process/ledger.ts';
import { sendAll } from '../process/smtp-sender.ts';

const BYTES = 4_000;
const SESSIONS = 4;

const [place = '', count = '1', recipient = 'ann@contoso.com'] = process.argv.slice(2);
const [, host = '', port = ''] = /^(.+):(\d+)$/.exec(place) ?? [];
const ids = Array.from({ length: Number(count) }, (_, index) => `${process.pid}-${index}`);
console.log(`${process.pid}-`);
const ledger = await sendAll({
  targets: () => [{ host, port: Number(port) }],
  messages: ids.map((id) => makeMessage(id, recipient, BYTES)),
  sessions: Math.min(SESSIONS, ids.length),
});
const refused = ledger.filter(({ answer }) => answer.kind !== 'accepted');
for (const { message, answer } of refused) console.log(`${message.id}: ${JSON.stringify(answer)}`);
console.log(`${ledger.length - refused.length} of ${ids.length} accepted`);
process.exitCode = refused.length === 0 ? 0 : 1;
