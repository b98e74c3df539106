/**
 * The embedded LMTP-to-Maildir store as a process: stands in for a mailbox server where a MailboxDatabase copy says `maildir:PATH`.
 * Usage: main.ts --maildir PATH [--listen 127.0.0.1:0] [--hostname NAME] [--log-level info]
 * Prints one line `{"ready":true,"port":N}` on stdout; logs go to stderr. Ends on SIGTERM and when its parent is gone (IPC channel or
 * a stdin pipe closes).
 */
import { fstatSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { systemClock } from '../../common/platform/clock.ts';
import { startLifecycle } from '../../common/platform/lifecycle.ts';
import { nodeFiles } from '../../common/platform/node-files.ts';
import { createLogger } from '../../common/platform/pino-logger.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { LmtpServer } from './lmtp-server.ts';
import { DEFAULT_DUPLICATE_WINDOW_MS, MaildirStore } from './maildir.ts';

const USAGE =
  'usage: node operator/maildir/main.ts --maildir PATH [--listen HOST:PORT] [--hostname NAME] [--log-level LEVEL]';

function wrongUsage(problem: string): never {
  process.stderr.write(`${problem}\n${USAGE}\n`);
  process.exit(2);
}

function options() {
  try {
    return parseArgs({
      options: {
        maildir: { type: 'string' },
        listen: { type: 'string', default: '127.0.0.1:0' },
        hostname: { type: 'string', default: 'localhost' },
        'log-level': { type: 'string', default: 'info' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return wrongUsage(error instanceof Error ? error.message : String(error));
  }
}

const values = options();
if (values.help) {
  process.stdout.write(`${USAGE}\n`);
  process.exit(0);
}
const directory = values.maildir ?? wrongUsage('--maildir PATH is required');
const level = (['debug', 'info', 'warn', 'error'] as const).find((one) => one === values['log-level']) ?? 'info';
const logger = createLogger({ fields: { program: 'maildir', name: directory }, level, descriptor: 2 });

let server: LmtpServer | null = null;
let store: MaildirStore | null = null;
const lifecycle = startLifecycle({
  logger,
  graceMs: 5_000,
  stop: async () => {
    await server?.close();
    await store?.close();
  },
});

const input = fstatSync(0);
if (input.isFIFO() || input.isSocket()) process.stdin.on('end', () => process.kill(process.pid, 'SIGTERM')).resume();

try {
  store = await MaildirStore.open({
    files: nodeFiles,
    clock: systemClock,
    random: systemRandom,
    directory: resolve(directory),
    duplicateWindowMs: DEFAULT_DUPLICATE_WINDOW_MS,
  });
  const colon = values.listen.lastIndexOf(':');
  const host = values.listen.slice(0, colon);
  const port = Number(values.listen.slice(colon + 1));
  server = await LmtpServer.start({ store, log: logger, hostname: values.hostname, host, port });
  process.stdout.write(`${JSON.stringify({ ready: true, port: server.port })}\n`);
  lifecycle.ready({ port: server.port });
} catch (error) {
  lifecycle.fatal('the Maildir store cannot start', 'look at the error; free the port or the directory', error);
}
