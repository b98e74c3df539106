/**
 * What `common/smtp/server.ts` relies on inside smtp-server 3.21.6, which is pinned exactly. When the library moves, this suite says
 * which of our assumptions moved with it: read the adapter again, then change the version here.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { SMTPServer } from 'smtp-server';
import { SMTPConnection } from 'smtp-server/lib/smtp-connection.js';
import { SMTPStream } from 'smtp-server/lib/smtp-stream.js';
import { afterEach, describe, expect, it } from 'vitest';
import { testCertificate } from '../rigs/test-certificate.ts';

/** Writes down in which order the library calls what the adapter overrides. */
class Probe extends SMTPConnection {
  static log: string[] = [];
  override init(): void {
    Probe.log.push('init');
    this._setListeners(() => Probe.log.push('listening'));
  }
  override _createParser(): SMTPStream {
    Probe.log.push('createParser');
    return new ProbeParser();
  }
  override _armTimeout(socket?: Socket): void {
    Probe.log.push(socket === undefined ? 'armTimeout' : 'armTimeout tls');
  }
  override send(code: number): void {
    Probe.log.push(`send ${code}`);
  }
  override _onClose(): void {
    Probe.log.push('onClose');
    super._onClose();
  }
}

class ProbeParser extends SMTPStream {
  override _write(chunk: Buffer, _encoding: BufferEncoding | 'buffer', next: () => void): void {
    Probe.log.push(`write ${chunk.toString('latin1')} closed=${this.isClosed} length=${this.writableLength}`);
    next();
  }
}

class ProbeServer extends SMTPServer {
  readonly #first = Promise.withResolvers<Probe>();
  readonly accepted = this.#first.promise;
  override connect(socket: Socket): void {
    const probe = new Probe(this, socket);
    this.connections.add(probe);
    probe.on('error', () => Probe.log.push('error'));
    probe.init();
    this.#first.resolve(probe);
  }
}

const open: (ProbeServer | Socket)[] = [];

async function start(options: ConstructorParameters<typeof SMTPServer>[0] = {}): Promise<ProbeServer> {
  Probe.log = [];
  const server = new ProbeServer({ logger: false, ...options });
  server.on('error', () => Probe.log.push('server error'));
  server.listen({ host: '127.0.0.1', port: 0 });
  await once(server.server, 'listening');
  open.push(server);
  return server;
}

function portOf(server: ProbeServer): number {
  const address = server.server.address();
  if (address === null || typeof address === 'string') throw new Error('not listening on a port');
  return address.port;
}

function dial(server: ProbeServer): Socket {
  const socket = connect({ host: '127.0.0.1', port: portOf(server) });
  socket.on('error', () => undefined);
  open.push(socket);
  return socket;
}

afterEach(() => {
  for (const one of open.splice(0)) {
    if ('destroy' in one) one.destroy();
    else {
      for (const connection of one.connections) connection._socket.destroy();
      one.server.close();
    }
  }
});

describe('smtp-server', () => {
  it('is the version that was read', () => {
    const manifest = JSON.parse(
      readFileSync(new URL('../../node_modules/smtp-server/package.json', import.meta.url), 'utf8'),
    ) as { version: string };
    const ours = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      dependencies: Record<string, string>;
    };
    expect(manifest.version).toBe('3.21.6');
    expect(ours.dependencies['smtp-server']).toBe('3.21.6');
  });

  it('has every member the adapter overrides or calls', () => {
    for (const name of [
      'init',
      '_createParser',
      '_armTimeout',
      'send',
      '_onClose',
      'close',
      'upgrade',
      '_setListeners',
    ]) {
      expect(typeof Reflect.get(SMTPConnection.prototype, name), name).toBe('function');
    }
    expect(typeof SMTPServer.prototype.connect).toBe('function');
    for (const name of ['updateSecureContext', '_expectsProxyHeader', '_handleProxy'])
      expect(typeof Reflect.get(SMTPServer.prototype, name), name).toBe('function');
    expect(typeof SMTPStream.prototype._write).toBe('function');
    expect(SMTPConnection.prototype._armTimeout.length).toBe(0); // one optional parameter, the socket
  });

  it('creates the parser in the constructor, arms timeouts through _armTimeout, pipes the socket, says nothing by itself', async () => {
    const server = await start();
    const socket = dial(server);
    const probe = await server.accepted;
    expect(Probe.log).toEqual(['createParser', 'init', 'armTimeout', 'listening']);
    expect(server._pendingSockets.size).toBe(0);
    expect(probe._socket.timeout ?? 0).toBe(0);
    socket.write('hello');
    await until(() => Probe.log.some((entry) => entry.startsWith('write')));
    // The chunk being written counts as buffered: `moreInput` subtracts it.
    expect(Probe.log.at(-1)).toBe('write hello closed=false length=5');
    socket.destroy();
    await until(() => Probe.log.includes('onClose'));
    expect(Probe.log.filter((entry) => entry.startsWith('send'))).toEqual([]);
    expect(probe._parser).toBe(false);
  });

  it('close() ends our side, takes the parser off and gives the client a moment', async () => {
    const server = await start();
    const socket = dial(server);
    const probe = await server.accepted;
    const parser = probe._parser;
    probe._socket.write('bye');
    probe.close();
    expect(probe._closing).toBe(true);
    expect(parser !== false && parser.isClosed).toBe(true);
    expect(server.connections.has(probe)).toBe(false);
    const said: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => said.push(chunk));
    await once(socket, 'end');
    expect(Buffer.concat(said).toString()).toBe('bye');
  });

  it('upgrade() retires the parser, hands the TLS socket to _armTimeout, sets _upgrading until the handshake is done', async () => {
    const tls = await testCertificate('127.0.0.1');
    const server = await start({ key: tls.key, cert: tls.cert });
    const socket = dial(server);
    const probe = await server.accepted;
    const parser = probe._parser;
    Probe.log = [];
    const secured = new Promise<void>((resolve) => {
      probe.upgrade(
        () => undefined,
        () => resolve(),
      );
    });
    expect(probe._upgrading).toBe(true);
    expect(parser !== false && parser.isClosed).toBe(true);
    expect(probe._parser).not.toBe(parser);
    expect(Probe.log).toEqual(['createParser', 'armTimeout tls']);
    const client = connectTls({ socket, rejectUnauthorized: false });
    client.on('error', () => undefined);
    await secured;
    expect(probe._upgrading).toBe(false);
    expect('getProtocol' in probe._socket).toBe(true);
    client.write('inside');
    await until(() => Probe.log.some((entry) => entry.includes('inside')));
    expect(Probe.log.filter((entry) => entry.startsWith('send'))).toEqual([]);
  });

  it('takes a new certificate for the handshakes that follow', async () => {
    const [first, second] = [await testCertificate('first.example'), await testCertificate('second.example')];
    const server = await start({ secure: true, key: first.key, cert: first.cert });
    const nameSeen = async (): Promise<string | undefined> => {
      const client = connectTls({ host: '127.0.0.1', port: portOf(server), rejectUnauthorized: false });
      open.push(client);
      await once(client, 'secureConnect');
      return client.getPeerCertificate().subjectaltname;
    };
    expect(await nameSeen()).toBe('DNS:first.example');
    server.updateSecureContext({ key: second.key, cert: second.cert });
    expect(await nameSeen()).toBe('DNS:second.example');
  });

  it('implicit TLS: connect() gets the TLS socket after the handshake, pending ones are listed topmost', async () => {
    const tls = await testCertificate('127.0.0.1');
    const server = await start({ secure: true, key: tls.key, cert: tls.cert });
    const silent = dial(server);
    await once(silent, 'connect');
    await until(() => [...server._pendingSockets.values()].some((socket) => 'getProtocol' in socket));
    const client = connectTls({ host: '127.0.0.1', port: portOf(server), rejectUnauthorized: false });
    open.push(client);
    const probe = await server.accepted;
    expect(probe.secure).toBe(true);
    expect('getProtocol' in probe._socket).toBe(true);
    for (const socket of server._pendingSockets.values()) socket.destroy();
    await once(silent, 'close');
  });
});

/** Polls on turns of the event loop, with a deadline. */
async function until(met: () => boolean): Promise<void> {
  const deadline = performance.now() + 5_000;
  while (!met()) {
    if (performance.now() > deadline) throw new Error(`waited 5 s in vain; log: ${Probe.log.join(', ')}`);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}
