/** A mailbox database fails over on real kubelets, with real Dovecot for both copies: what a user sees over IMAP afterwards is everything, once. */
import { afterAll, expect, it } from 'vitest';
import { until } from '../../house/until.ts';
import { ledgerIdOf } from '../../process/ledger.ts';
import { DOVECOT_PASSWORD, Dovecot } from '../../rigs/dovecot.ts';
import { readInbox } from '../../rigs/imap-reader.ts';
import { MailOnNodes } from '../mail-on-nodes.ts';
import { LONG, nodeCluster } from '../node-cluster.ts';
import { since } from '../own-mail.ts';

const open = nodeCluster();
const TIMEOUT_MS = 900_000;
const USERS = Array.from({ length: 5 }, (_, at) => `user${at}@contoso.com`);
const started: AsyncDisposable[] = [];
afterAll(async () => {
  for (const one of started.reverse()) await one[Symbol.asyncDispose]();
}, LONG.deadlineMs);

/** How often each message is in the mailboxes, as their users see them. */
async function seen({ imapPort: port }: Dovecot): Promise<ReadonlyMap<string, number>> {
  const mails = await Promise.all(USERS.map((user) => readInbox({ port, user, password: DOVECOT_PASSWORD })));
  const found = new Map<string, number>();
  for (const mail of mails.flat()) {
    const id = ledgerIdOf(Buffer.from(mail, 'latin1')) ?? 'not sent by us';
    found.set(id, (found.get(id) ?? 0) + 1);
  }
  return found;
}

/** All that was accepted is there, once, and nothing else. */
async function allOnceIn(dovecot: Dovecot, mail: MailOnNodes): Promise<void> {
  const accepted = mail.ledger.filter(({ answer }) => answer.kind === 'accepted').map(({ message }) => message.id);
  await until(
    'every accepted message to be seen once',
    async () => {
      const found = await seen(dovecot);
      const missing = accepted.filter((id) => !found.has(id));
      const twice = [...found].filter(([, times]) => times > 1);
      if (missing.length > 0 || twice.length > 0 || found.has('not sent by us'))
        throw new Error(
          `${missing.length} missing (${missing.slice(0, 3)}), ${twice.length} twice (${twice.slice(0, 3)})`,
        );
      return true;
    },
    LONG,
  );
}

it(
  'K8: the mailbox server of seattle is gone, kubectl patch mbdb activates the other copy, under load: over IMAP everything is there, once, the window before the failover too',
  async (context) => {
    const cluster = await open(context);
    const [sea, pdx] = [await Dovecot.start(cluster.hostAddress), await Dovecot.start(cluster.hostAddress)];
    if ('missing' in sea) return context.skip(sea.missing);
    if ('missing' in pdx) return context.skip(pdx.missing);
    started.push(sea, pdx);
    await cluster.operator();
    const mail = await MailOnNodes.prepare(cluster);
    started.push({ [Symbol.asyncDispose]: () => mail.close() });
    await mail.apply({}, { sea: sea.lmtpPort, pdx: pdx.lmtpPort });
    await mail.settled();
    await mail.somewhereToGo(4);
    await mail.send(60, 'before the failover');
    await allOnceIn(sea, mail);
    const load = await mail.load({ perSecond: 10 });
    await load.goesOn(40, LONG.deadlineMs);
    await sea.kill();
    const startMs = performance.now();
    const patch = JSON.stringify({ spec: { activeCopy: 'pdx' } });
    await cluster.kubectl('patch', 'mbdb', 'db01', '-n', mail.namespace, '--type=merge', '-p', patch);
    await load.goesOn(40, LONG.deadlineMs);
    mail.add(await load.stop(), 'mailbox failover');
    await allOnceIn(pdx, mail);
    console.log(`kubectl patch mbdb to everything in the other copy: ${since(startMs)}`);
    await until(
      'the ResubmitRequest to be completed',
      async () => {
        const [request] = await mail.list('resubmitrequests');
        if (request?.status?.state !== 'Completed') throw new Error(JSON.stringify(request?.status));
        console.log(`resubmitted: ${JSON.stringify(request.status.counts)}`);
        return true;
      },
      LONG,
    );
    expect((await mail.condition('Ready', { status: 'True' })).status).toBe('True');
  },
  TIMEOUT_MS,
);
