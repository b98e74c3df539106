/** What only real TLS can show: who is refused and why, certificates that change while connections live, the peer protocol over it. */
import { connect as connectPlain } from 'node:net';
import * as tls from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import type { Connection, Listener, PeerName } from '../../common/platform/net.ts';
import { peerOfSubjectAltName, peerUri } from '../../common/platform/peer-identity.ts';
import { openTlsNetwork, type TlsNetwork } from '../../common/platform/tls-network.ts';
import { createAuthority, issueCertificate, loadAuthority } from '../../operator/pki.ts';
import { until } from '../house/until.ts';
import { helloOf, sampleOpen, sampleResult } from '../unit/peer-samples.ts';
import { ACCEPTOR, DIALLER, hear, Pki } from './network-rigs.ts';
import { RecordedSession, recordedStream } from './peer-rig.ts';

let pki: Pki;
let accepting: TlsNetwork;
let listener: Listener;
let accepted: Connection[];

beforeEach(async () => {
  pki = await Pki.create();
  accepting = await pki.member(ACCEPTOR);
  accepted = [];
  listener = await accepting.listen({ host: '127.0.0.1', port: 0 }, (connection) => accepted.push(connection));
});
afterEach(async () => {
  for (const connection of accepted) connection.destroy('the test is over');
  await pki.close();
});

const patience = { deadlineMs: 8_000, everyMs: 5 };
const dial = (network: TlsNetwork, expected: PeerName = ACCEPTOR): Promise<Connection> =>
  network.connect({ host: '127.0.0.1', port: listener.port }, expected, 5_000);

/** What a dialler that may be refused after the handshake finally hears. */
async function fate(network: TlsNetwork): Promise<string> {
  try {
    const heard = hear(await dial(network));
    await until('the end', () => heard.closes.length > 0, patience);
    return heard.closes[0] ?? '';
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const dayAgo = { clock: { ...systemClock, wallMs: () => Date.now() - 5 * 86_400_000 } };

describe('refused at the accepting side', () => {
  const cases: readonly (readonly [string, () => Promise<TlsNetwork>, string])[] = [
    [
      'a certificate of another authority',
      async () => {
        await pki.write('x', await pki.issue(DIALLER, await createAuthority('mail')));
        return pki.network('x');
      },
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
    ],
    [
      'an expired certificate',
      async () => {
        const request = { cluster: 'mail', ...DIALLER, hosts: [], days: 1 };
        await pki.write('x', await issueCertificate(pki.authority, request, dayAgo));
        return pki.network('x');
      },
      'CERT_HAS_EXPIRED',
    ],
    [
      'a certificate of another cluster under the same authority',
      async () => {
        await pki.write('x', await pki.issue(DIALLER, pki.authority, 'other'));
        return pki.network('x');
      },
      'the certificate is of cluster other',
    ],
  ];
  test.each(cases)('%s', async (_name, network, reason) => {
    expect(await fate(await network())).toBe('closed by the other end');
    expect(pki.warnings.map((fields) => fields.problem)).toEqual([reason]);
    expect(accepted).toEqual([]);
  });

  const rawTls = (options: tls.ConnectionOptions): Promise<string> =>
    new Promise((resolve) => {
      const socket = tls.connect({
        host: '127.0.0.1',
        port: listener.port,
        ca: pki.authority.certificatePem,
        checkServerIdentity: () => undefined,
        ALPNProtocols: ['mailcluster/1'],
        ...options,
      });
      let told = 'closed';
      socket.on('error', (error: NodeJS.ErrnoException) => {
        told = error.code ?? error.message;
      });
      socket.on('close', () => resolve(told));
      socket.resume();
    });

  test('no certificate', async () => {
    expect(await rawTls({})).toContain('CERTIFICATE_REQUIRED');
    expect(accepted).toEqual([]);
  });

  test('TLS 1.2', async () => {
    const pems = await pki.issue(DIALLER);
    expect(await rawTls({ cert: pems.certificatePem, key: pems.keyPem, maxVersion: 'TLSv1.2' })).toContain('PROTOCOL');
    expect(accepted).toEqual([]);
  });

  test('another application protocol, or none', async () => {
    const pems = await pki.issue(DIALLER);
    const own = { cert: pems.certificatePem, key: pems.keyPem };
    expect(await rawTls({ ...own, ALPNProtocols: ['h2'] })).toContain('NO_APPLICATION_PROTOCOL');
    expect(await rawTls({ ...own, ALPNProtocols: [] })).toBe('closed');
    expect(accepted).toEqual([]);
  });

  test('a certificate of the authority that names nobody', async () => {
    const { certificatePem, keyPem } = pki.authority;
    expect(await rawTls({ cert: certificatePem, key: keyPem })).toMatch(/closed|ALERT/);
    expect(accepted).toEqual([]);
  });

  test('plain text gets no answer and does no harm', async () => {
    const closed = new Promise<void>((resolve) => {
      const socket = connectPlain(listener.port, '127.0.0.1', () => socket.write('EHLO x\r\n\r\n'));
      socket.on('error', () => resolve());
      socket.on('close', () => resolve());
      socket.resume();
    });
    await closed;
    const near = await dial(await pki.member(DIALLER));
    await until('the next connection', () => accepted.length === 1, patience);
    near.destroy('done');
  });
});

describe('refused at the dialling side', () => {
  test.each([
    ['an expired certificate', 'CERT_HAS_EXPIRED'],
    ['another authority', 'SELF_SIGNED_CERT_IN_CHAIN'],
    ['another cluster', 'ERR_PEER_IDENTITY'],
    ['another role', 'ERR_PEER_IDENTITY'],
  ])('%s', async (what, code) => {
    const dialling = await pki.member(DIALLER);
    const other = await createAuthority('mail');
    const authority = what === 'another authority' ? other : pki.authority;
    const pems = await issueCertificate(
      authority,
      {
        cluster: what === 'another cluster' ? 'other' : 'mail',
        role: what === 'another role' ? 'frontend' : ACCEPTOR.role,
        name: ACCEPTOR.name,
        hosts: ['127.0.0.1'],
        days: 1,
      },
      what === 'an expired certificate' ? dayAgo : {},
    );
    // Node refuses to send a self-made chain it was not given: the authority rides along.
    const chain = what === 'another authority' ? pems.certificatePem + other.certificatePem : pems.certificatePem;
    await pki.write(ACCEPTOR.name, { ...pems, certificatePem: chain });
    expect(await accepting.reload()).toBe(true);
    await expect(dial(dialling)).rejects.toMatchObject({ code });
  });
});

describe('certificates that change', () => {
  const serialSeen = async (dialling: TlsNetwork): Promise<number> => {
    const before = accepted.length;
    const near = await dial(dialling);
    await until('accepted', () => accepted.length > before, patience);
    near.destroy('seen');
    return accepted.length;
  };

  test('a new authority, certificate and key are taken from the files while connections live on', async () => {
    const dialling = await pki.member(DIALLER);
    const near = await dial(dialling);
    const atNear = hear(near);
    await until('accepted', () => accepted.length === 1, patience);
    const far = accepted[0] as Connection;
    const atFar = hear(far);

    const next = await createAuthority('mail');
    await pki.write(ACCEPTOR.name, await pki.issue(ACCEPTOR, next), next.certificatePem);
    await pki.write(DIALLER.name, await pki.issue(DIALLER, next), next.certificatePem);
    // Found by watching the files; nobody calls reload. Who has only the old authority no longer believes the acceptor.
    await pki.write('old', await pki.issue(DIALLER));
    const old = await pki.network('old');
    const codes: string[] = [];
    await until(
      'the old authority is no longer believed',
      async () => {
        const code = await dial(old).then(
          (connection) => connection.destroy('not yet'),
          (error: NodeJS.ErrnoException) => error.code ?? 'none',
        );
        if (code !== undefined) codes.push(code);
        return code !== undefined;
      },
      patience,
    );
    expect(codes).toEqual(['SELF_SIGNED_CERT_IN_CHAIN']);
    const count = accepted.length;
    await until('the dialler has its new files too', async () => (await serialSeen(dialling)) > count, patience);

    near.write([Buffer.from('still')]);
    far.write([Buffer.from('here')]);
    await until('the old connection works', () => atFar.length === 5 && atNear.length === 4, patience);
    expect([atNear.closes, atFar.closes]).toEqual([[], []]);
    near.destroy('done');
  });

  test('files that do not fit together leave the working ones in use', async () => {
    const dialling = await pki.member(DIALLER);
    const [one, two] = [await pki.issue(ACCEPTOR), await pki.issue(ACCEPTOR)];
    await pki.write(ACCEPTOR.name, { certificatePem: one.certificatePem, keyPem: two.keyPem });
    expect(await accepting.reload()).toBe(false);
    expect(await serialSeen(dialling)).toBe(1);
    await pki.write(ACCEPTOR.name, { certificatePem: 'rubbish', keyPem: '' });
    expect(await accepting.reload()).toBe(false);
    expect(await serialSeen(dialling)).toBe(2);
    await pki.write(ACCEPTOR.name, two);
    expect(await accepting.reload()).toBe(true);
    expect(await serialSeen(dialling)).toBe(3);
  });

  test('opening with unusable files fails', async () => {
    await pki.write('bad', { certificatePem: 'rubbish', keyPem: 'rubbish' });
    await expect(pki.network('bad')).rejects.toThrow();
    const files = { ...pki.files('bad'), caFile: `${pki.directory}/absent` };
    const opening = openTlsNetwork({ files, cluster: 'mail', clock: systemClock, log: silentLogger });
    await expect(opening).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('the authority', () => {
  test('kept as PEM and loaded again it issues certificates that are believed', async () => {
    const { certificatePem, keyPem } = pki.authority;
    const loaded = await loadAuthority({ certificatePem, keyPem });
    await pki.write('later', await pki.issue(DIALLER, loaded));
    const near = await dial(await pki.network('later'));
    await until('accepted', () => accepted.length === 1, patience);
    near.destroy('done');
  });

  test('names that could confuse a certificate are refused', () => {
    expect(() => peerUri('mail', { role: 'transport', name: 'a/b' })).toThrow('cannot stand');
    expect(() => peerUri('mail', { role: 'transport', name: 'a, URI:x' })).toThrow('cannot stand');
    expect(() => peerUri('', { role: 'transport', name: 'a' })).toThrow('cannot stand');
  });

  test.each([
    ['DNS:x, URI:mailcluster://mail/transport/t-0', { role: 'transport', name: 't-0' }],
    [undefined, 'the certificate names no member of a cluster'],
    ['DNS:t-0', 'the certificate names no member of a cluster'],
    ['URI:mailcluster://other/transport/t-0', 'the certificate is of cluster other'],
    ['URI:mailcluster://mail/transport/a, URI:mailcluster://mail/transport/b', 'the certificate names several members'],
    ['URI:mailcluster://mail/admin/a', 'the certificate names URI:mailcluster://mail/admin/a'],
    ['URI:mailcluster://mail/viewer/alice', 'the certificate is of viewer alice'],
    ['URI:mailcluster://mail/exporter/alice', 'the certificate is of exporter alice'],
    ['DNS:"x, URI:mailcluster://mail/transport/a"', 'the certificate names URI:mailcluster://mail/transport/a"'],
  ])('%s', (text, expected) => {
    expect(peerOfSubjectAltName(text, 'mail')).toEqual(expected);
  });
});

test('the peer protocol over TLS: a message there, its result back, closed with a reason', async () => {
  const near = await dial(await pki.member(DIALLER));
  await until('accepted', () => accepted.length === 1, patience);
  const [front, back] = [new RecordedSession(), new RecordedSession()];
  const common = {
    check: () => ({ kind: 'accept' }) as const,
    clock: systemClock,
    log: silentLogger,
    keepAliveMs: 1_000,
    deadAfterMs: 3_000,
    handshakeTimeoutMs: 3_000,
    maxIncomingStreams: 10,
  };
  let received = 0;
  back.onStream = (stream) =>
    stream.accept(
      { credit: 1_000_000, maxMessageBytes: 1_000_000 },
      {
        onChunk: (bytes) => {
          received += bytes.length;
        },
        onEnd: () => stream.result(sampleResult),
        onDrop: () => undefined,
        onLost: () => undefined,
      },
    );
  back.run({
    ...common,
    connection: accepted[0] as Connection,
    dialled: false,
    hello: () => helloOf('transport', 'back-0'),
  });
  front.run({ ...common, connection: near, dialled: true, hello: () => helloOf('frontend', 'front-0') });
  await until('ready', () => front.session !== null && back.session !== null, patience);
  const handlers = recordedStream();
  const out = front.ready.openStream(sampleOpen, handlers);
  await until('accepted', () => handlers.calls.length === 1, patience);
  out.chunk(Buffer.alloc(900_000, 3));
  out.end({ sizeBytes: 900_000, digest: 'b'.repeat(64), events: [] });
  await until('the result', () => handlers.calls.length === 2, patience);
  expect(handlers.calls).toEqual(['ok 1000000', 'result protected']);
  expect(received).toBe(900_000);
  front.ready.close('thank you');
  await until('both closed', () => front.closes.length > 0 && back.closes.length > 0, patience);
  expect(back.reason).toBe('closed by the peer: thank you');
});
