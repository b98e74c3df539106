/**
 * What strangers send to an alias whose member is elsewhere leaves with a seal of ours, through the whole system: resource, Secret and a real name server to what the next hop gets, also at the
 * second attempt and by who took over when the primary is gone with its disk; dkimpy agrees, also about chains that it has begun.
 */
import { afterEach, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { dkimpy } from '../rigs/dkimpy.ts';
import { DnsServer } from '../rigs/dns-server.ts';
import { ScriptedPeer } from '../rigs/scripted-peer.ts';
import { newSigningKey } from '../rigs/signing-key.ts';
import { type Cluster, mailcluster, startCluster, twoSites } from './harness.ts';
import { SmtpConnection } from './smtp-sender.ts';

const TIMEOUT_MS = 240_000;
const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0).reverse()) await one[Symbol.asyncDispose]();
}, TIMEOUT_MS);
const kept = <T extends AsyncDisposable>(one: T): T => {
  stack.push(one);
  return one;
};

async function send(cluster: Cluster, content: string): Promise<void> {
  const [target] = cluster.targets();
  if (target === undefined) throw new Error('no front end');
  const connection = await SmtpConnection.open(target, 60_000);
  for (const [part, code] of [
    ['MAIL FROM:<ann@sender.example>', 250],
    ['RCPT TO:<out@example.com>', 250],
    ['DATA', 354],
    [`${content}.`, 250],
  ] as const) {
    connection.send(`${part}\r\n`);
    await connection.expect(code, part.slice(0, 20));
  }
  connection.close();
}

const message = (subject: string): string =>
  `From: Ann <ann@sender.example>\r\nTo: out@example.com\r\nSubject: ${subject}\r\n\r\nhello\r\n`;

test(
  'a first set, one that goes on with a chain, one that ends a broken one, one of who took over; files with a broken key are not taken',
  async (context) => {
    const other = await dkimpy();
    if ('missing' in other) return context.skip(other.missing);
    let answer = '250 2.0.0 stored';
    const host = kept(await ScriptedPeer.start({ onEnd: () => [answer] }));
    const [ours, theirs] = [newSigningKey(), newSigningKey()];
    const records = { 'a1._domainkey.example.com': ours.record, 's._domainkey.list.example': theirs.record };
    const dns = kept(
      await DnsServer.start({
        'sender.example': { txt: ['v=spf1 ip4:127.0.0.1 -all'] },
        ...Object.fromEntries(Object.entries(records).map(([name, record]) => [name, { txt: [record] }])),
      }),
    );
    const resources = (directory: string, pem: string): string => {
      const checks = `authservId: mx.example.com, checks: [SPF, DKIM, DMARC, ARC], dnsServers: ["${dns.server}"]`;
      const text = twoSites(directory, {
        ...{ perSite: 1, frontends: 1, listener: `tls: None, authenticationResults: { ${checks} }` },
        spec: [
          `sendConnectors: [{ name: out, addressSpaces: [{ domain: "*" }], smartHosts: [{ host: 127.0.0.1, port: ${host.port} }], tls: None }]`,
          'recipients: { aliases: [{ address: out@example.com, target: bob@away.example }] }',
          'arc: { domain: example.com, selector: a1, secretRef: { name: keys } }',
        ],
        shadowRedundancy: 'resubmitTimeSpan: 10s',
      });
      const data = { 'arc.key': pem };
      const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'keys' }, stringData: data };
      return `${text}---\n${JSON.stringify(secret)}\n`;
    };
    const cluster = kept(await startCluster((directory) => resources(directory, ours.pem)));

    /** Every copy of it that came. */
    const came = (subject: string): readonly Buffer[] =>
      host.messages
        .filter(({ wire }) => wire.includes(`\r\nSubject: ${subject}\r\n`))
        .map(({ wire }) => Buffer.from(wire.replace(/(?<=^|\r\n)\./g, ''), 'latin1'));
    const chains = (subject: string) => Promise.all(came(subject).map((one) => other.verifyChain(one, records)));
    const sendAndLook = async (subject: string, content: string) => {
      await send(cluster, content);
      await until(subject, () => came(subject).length === 1, { deadlineMs: 60_000 });
      return (await chains(subject))[0];
    };
    const set = (instance: number, cv: string) => ({
      ...{ instance, cv, domain: 'example.com', messageIsSigned: true, isSealed: true },
    });

    const first = await sendAndLook('first', message('first'));
    expect(first).toMatchObject({ status: 'pass', sets: [set(1, 'none')] });
    expect(first?.sets[0]?.results.replace(/\s+/g, ' ')).toMatch(
      /^i=1; mx\.example\.com; arc=none smtp\.remote-ip=127\.0\.0\.1; spf=pass .*; dkim=none.*; dmarc=none/,
    );

    const how = { selector: 's', domain: 'list.example', privateKey: theirs.pem, authservId: 'list.example' };
    const listed = async (subject: string): Promise<string> => {
      const results = 'Authentication-Results: list.example; spf=pass smtp.mailfrom=sender.example\r\n';
      return String(await other.seal(Buffer.from(results + message(subject)), how));
    };
    const second = await sendAndLook('second', await listed('second'));
    expect(second).toMatchObject({ status: 'pass', sets: [set(2, 'pass'), { instance: 1, domain: 'list.example' }] });
    expect(second?.sets[0]?.results).toContain('arc=pass (i=1 sealed by list.example)');

    const broken = await sendAndLook('broken', (await listed('broken')).replace('hello', 'hullo'));
    expect(broken).toMatchObject({ status: null, sets: [{ instance: 2, cv: 'fail', domain: 'example.com' }, {}] });

    answer = '451 4.7.1 come back';
    await send(cluster, await listed('orphan'));
    await until('its first attempt', () => came('orphan').length >= 1, { deadlineMs: 30_000 });
    const primary = await until(
      'two copies of it on disk',
      async () => {
        const copies = (await cluster.stored()).filter(({ where }) => where === 'transit');
        return copies.length < 2 ? null : (copies.find(({ queue }) => queue !== 'shadow') ?? null);
      },
      { deadlineMs: 30_000, everyMs: 100 },
    );
    await cluster.destroy(primary.member);
    answer = '250 2.0.0 stored';
    const before = came('orphan').length;
    await until('the one of who took over', () => came('orphan').length > before, { deadlineMs: 90_000 });
    for (const chain of await chains('orphan'))
      expect(chain).toMatchObject({ status: 'pass', sets: [set(2, 'pass'), { instance: 1 }] });
    expect(await cluster.total('mailcluster_arc_seals_total')).toBeGreaterThanOrEqual(1);

    // Files that are wrong are not taken, and said.
    await cluster.change(resources(cluster.directory, 'no key'));
    await until('the refusal', () => cluster.output.includes('arc.key of Secret keys is no private key in PEM'), {
      deadlineMs: 30_000,
    });
    expect((await mailcluster('validate', '-f', cluster.resourceFile)).stderr).toContain('spec.arc.secretRef.key');
  },
  TIMEOUT_MS,
);
