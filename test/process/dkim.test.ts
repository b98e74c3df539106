/** What users send out is signed, through the whole system: resource and Secret to what the next hop gets, also at the second attempt and by who took over; dkimpy agrees. */
import { afterEach, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { dkimpy } from '../rigs/dkimpy.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { newSigningKey } from '../rigs/signing-key.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const TIMEOUT_MS = 180_000;
const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
}, TIMEOUT_MS);
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

async function send(cluster: Cluster, subject: string, body: string): Promise<void> {
  const [target] = cluster.targets();
  if (target === undefined) throw new Error('no front end');
  const connection = await SmtpConnection.open(target, 60_000);
  for (const [part, code] of [
    ['MAIL FROM:<ann@example.com>', 250],
    ['RCPT TO:<bob@far.example>', 250],
    ['DATA', 354],
    [`From: Ann <ann@example.com>\r\nTo: bob@far.example\r\nSubject: ${subject}\r\n\r\n${body}\r\n.`, 250],
  ] as const) {
    connection.send(`${part}\r\n`);
    await connection.expect(code, part.slice(0, 20));
  }
  connection.close();
}

test(
  'a large one, one that is tried twice, one of a transport that died; another selector without a restart; files with a broken key are not taken',
  async (context) => {
    const verifier = await dkimpy();
    if ('missing' in verifier) return context.skip(verifier.missing);
    let answer = '250 2.0.0 stored';
    const host = kept(await ScriptedPeer.start({ onEnd: () => [answer] }));
    const [first, second] = [newSigningKey(), newSigningKey()];
    const records = { 's1._domainkey.example.com': first.record, 's2._domainkey.example.com': second.record };
    const resources = (directory: string, keys: string, two: string): string => {
      const data = { 's1.key': first.pem, 's2.key': two };
      const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'dkim' }, stringData: data };
      const text = twoSites(directory, {
        ...{ perSite: 1, frontends: 1, listener: 'tls: None, relayFrom: [127.0.0.0/8]' },
        spec: [
          `sendConnectors: [{ name: out, addressSpaces: [{ domain: "*" }], smartHosts: [{ host: 127.0.0.1, port: ${host.port} }], tls: None }]`,
          `dkim: { keys: [${keys}] }`,
        ],
        shadowRedundancy: 'resubmitTimeSpan: 10s',
      });
      return `${text}---\n${JSON.stringify(secret)}\n`;
    };
    const key = (selector: string, more = ''): string =>
      `{ domain: example.com, selector: ${selector}, secretRef: { name: dkim, key: ${selector}.key }${more} }`;
    const cluster = kept(await startCluster((directory) => resources(directory, key('s1'), second.pem)));

    /** Every copy of it that came, and who signed it. */
    const came = (subject: string): readonly string[] =>
      host.messages.map(({ wire }) => wire).filter((wire) => wire.includes(`\r\nSubject: ${subject}\r\n`));
    const signedBy = async (subject: string): Promise<readonly unknown[]> => {
      const wires = came(subject).map((wire) => Buffer.from(wire.replace(/(?<=^|\r\n)\./g, ''), 'latin1'));
      return (await Promise.all(wires.map((wire) => verifier.verify(wire, records)))).flat();
    };
    const by = (selector: string): unknown => ({ domain: 'example.com', selector, good: true });

    await send(cluster, 'large', `${'..a line \t of text'.repeat(4)}\r\n`.repeat(40_000));
    await until('the large one', () => came('large').length === 1, { deadlineMs: 60_000 });
    expect(await signedBy('large')).toEqual([by('s1')]);

    answer = '451 4.7.1 come back';
    await send(cluster, 'later', 'hello');
    await until('its first attempt', () => came('later').length >= 1, { deadlineMs: 30_000 });
    // Whoever has it dies; the other one, or the same when it is back, sends it. What the first attempt was signed with is nowhere but in what was sent.
    const { transports } = await cluster.runFile();
    for (const { name } of transports.slice(0, 1)) await cluster.kill(name);
    answer = '250 2.0.0 stored';
    const before = came('later').length;
    await until('the one that is good', () => came('later').length > before, { deadlineMs: 60_000 });
    const verdicts = await signedBy('later');
    expect(verdicts.length).toBeGreaterThan(1);
    for (const one of verdicts) expect(one).toEqual(by('s1'));

    const rotated = `${key('s1')}, ${key('s2', ', signsFrom: "2020-01-01T00:00:00Z"')}`;
    const ownPids = async (): Promise<unknown> => (await cluster.runFile()).transports.map(({ pid }) => pid);
    await until('both transports', async () => !JSON.stringify(await ownPids()).includes('null'), {
      deadlineMs: 30_000,
    });
    await cluster.change(resources(cluster.directory, rotated, second.pem));
    let round = 0;
    await until(
      'the other selector',
      async () => {
        const subject = `rotated ${round++}`;
        await send(cluster, subject, 'hello');
        await until(subject, () => came(subject).length === 1, { deadlineMs: 30_000 });
        return JSON.stringify(await signedBy(subject)) === JSON.stringify([by('s2')]);
      },
      { deadlineMs: 60_000 },
    );

    // Files that are wrong are not taken, and said.
    await cluster.change(resources(cluster.directory, rotated, 'no key'));
    await until('the refusal', () => cluster.output.includes('s2.key of Secret dkim is no private key in PEM'), {
      deadlineMs: 30_000,
    });
    expect((await mailcluster('validate', '-f', cluster.resourceFile)).stderr).toContain(
      'spec.dkim.keys[1].secretRef.key',
    );
    // The counts of who was killed died with it; these are of the attempt after that and of the rotation.
    expect(await cluster.total('mailcluster_dkim_signatures_total')).toBeGreaterThanOrEqual(2);
  },
  TIMEOUT_MS,
);
