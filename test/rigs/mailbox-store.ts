/** A mailbox store with a Maildir, the embedded one, as a process of its own on this machine. Owns: that process; mail stays when it ends. */
import { connect } from 'node:net';
import { join } from 'node:path';
import { Daemon } from '../cluster/daemon.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';

const START = { deadlineMs: 60_000, everyMs: 50 };

export interface MailboxStorePlace {
  /** Of its directory under `maildirs`. */
  readonly name: string;
  readonly maildirs: string;
  readonly host: string;
  readonly port: number;
  /** For NODE_COMPILE_CACHE. */
  readonly compileCache: string;
}

export class MailboxStore {
  readonly #daemon: Daemon;
  readonly #place: MailboxStorePlace;

  constructor(place: MailboxStorePlace) {
    const { name, maildirs: directory, host, port, compileCache } = place;
    this.#place = place;
    this.#daemon = new Daemon({
      name: `store ${name}`,
      file: process.execPath,
      args: [
        join(ROOT, 'operator/maildir/main.ts'),
        ...['--maildir', join(directory, name), '--listen', `${host}:${port}`],
      ],
      ...{ directory, logFile: join(directory, `${name}.log`) },
      environment: { NODE_COMPILE_CACHE: compileCache },
    });
  }

  async start(): Promise<void> {
    this.#daemon.start();
    await until('the store to listen', () => answers(this.#place.host, this.#place.port), START);
  }

  stop = (): Promise<void> => this.#daemon.stop();
}

function answers(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, host);
    const say = (isThere: boolean): void => {
      socket.destroy();
      resolve(isThere);
    };
    socket.once('connect', () => say(true)).once('error', () => say(false));
  });
}
