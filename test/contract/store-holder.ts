/** A process that opens a queue database, commits as fast as it can and says what was confirmed; for the kill tests. */
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeFiles } from '../../common/platform/node-files.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { bodyOf, commitOf, copyId, moveOf, stateOf } from './samples.ts';

const [directory = '', first = '0', count = '0'] = process.argv.slice(2);
const store = await openSegmentLog({
  directory,
  files: nodeFiles,
  clock: systemClock,
  random: systemRandom,
  log: silentLogger,
  segmentBytes: 256 * 1024,
  reserveBytes: 512 * 1024,
  onFatal: (reason) => {
    throw reason;
  },
  member: 'hub-0',
});
process.stdout.write(`open ${store.chain.length}\n`);
const from = Number(first);
for (let n = from; n < from + Number(count); n++) {
  await store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 2000), stateOf('delivery'))]);
  if (n % 3 === 0) await store.commit([moveOf(copyId(n), 'primary', 'mbx1', n)]);
  process.stdout.write(`done ${n}\n`);
}
process.stdout.write('idle\n');
// Holds the database until it is killed.
setInterval(() => undefined, 60_000);
