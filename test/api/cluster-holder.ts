/** A process that starts a control plane, says which processes that is, and holds it until it is killed; for `api-server.test.ts`. */
import { startApiServer } from '../cluster/api-server.ts';

const cluster = await startApiServer({ controllers: false });
process.stdout.write(
  `${JSON.stringify({ directory: cluster.directory, pids: [cluster.etcd.pid, cluster.apiServer.pid] })}\n`,
);
setInterval(() => undefined, 60_000);
